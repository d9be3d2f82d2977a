from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Record(_message.Message):
    __slots__ = ("batch", "activation", "ready", "target", "tick", "outcome", "change", "skip", "clock")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    batch: EventBatch
    activation: Activation
    ready: Ready
    target: Target
    tick: Tick
    outcome: Outcome
    change: Change
    skip: Skip
    clock: Clock
    def __init__(self, batch: _Optional[_Union[EventBatch, _Mapping]] = ..., activation: _Optional[_Union[Activation, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., tick: _Optional[_Union[Tick, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., skip: _Optional[_Union[Skip, _Mapping]] = ..., clock: _Optional[_Union[Clock, _Mapping]] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("workspace", "event_id", "entity", "source", "kind", "occurred_at", "interval_start", "interval_end", "as_of", "row_id", "amount_event", "amount_measure", "amount", "attribute_event", "attribute_name", "attribute_text", "attribute_number", "path_key", "tail", "sources", "kinds", "measures", "names", "texts", "paths", "deliveries")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_START_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_END_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ROW_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_EVENT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MEASURE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_EVENT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    PATH_KEY_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    event_id: _containers.RepeatedScalarFieldContainer[int]
    entity: _containers.RepeatedScalarFieldContainer[int]
    source: _containers.RepeatedScalarFieldContainer[int]
    kind: _containers.RepeatedScalarFieldContainer[int]
    occurred_at: _containers.RepeatedScalarFieldContainer[int]
    interval_start: _containers.RepeatedScalarFieldContainer[int]
    interval_end: _containers.RepeatedScalarFieldContainer[int]
    as_of: _containers.RepeatedScalarFieldContainer[int]
    row_id: _containers.RepeatedScalarFieldContainer[int]
    amount_event: _containers.RepeatedScalarFieldContainer[int]
    amount_measure: _containers.RepeatedScalarFieldContainer[int]
    amount: _containers.RepeatedScalarFieldContainer[int]
    attribute_event: _containers.RepeatedScalarFieldContainer[int]
    attribute_name: _containers.RepeatedScalarFieldContainer[int]
    attribute_text: _containers.RepeatedScalarFieldContainer[int]
    attribute_number: _containers.RepeatedScalarFieldContainer[int]
    path_key: _containers.RepeatedScalarFieldContainer[int]
    tail: int
    sources: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    measures: _containers.RepeatedScalarFieldContainer[str]
    names: _containers.RepeatedScalarFieldContainer[str]
    texts: _containers.RepeatedScalarFieldContainer[str]
    paths: _containers.RepeatedScalarFieldContainer[str]
    deliveries: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, workspace: _Optional[str] = ..., event_id: _Optional[_Iterable[int]] = ..., entity: _Optional[_Iterable[int]] = ..., source: _Optional[_Iterable[int]] = ..., kind: _Optional[_Iterable[int]] = ..., occurred_at: _Optional[_Iterable[int]] = ..., interval_start: _Optional[_Iterable[int]] = ..., interval_end: _Optional[_Iterable[int]] = ..., as_of: _Optional[_Iterable[int]] = ..., row_id: _Optional[_Iterable[int]] = ..., amount_event: _Optional[_Iterable[int]] = ..., amount_measure: _Optional[_Iterable[int]] = ..., amount: _Optional[_Iterable[int]] = ..., attribute_event: _Optional[_Iterable[int]] = ..., attribute_name: _Optional[_Iterable[int]] = ..., attribute_text: _Optional[_Iterable[int]] = ..., attribute_number: _Optional[_Iterable[int]] = ..., path_key: _Optional[_Iterable[int]] = ..., tail: _Optional[int] = ..., sources: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ..., measures: _Optional[_Iterable[str]] = ..., names: _Optional[_Iterable[str]] = ..., texts: _Optional[_Iterable[str]] = ..., paths: _Optional[_Iterable[str]] = ..., deliveries: _Optional[_Iterable[str]] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("workspace", "rule_id", "version", "state", "program", "by", "horizon", "ahead")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    rule_id: str
    version: str
    state: str
    program: str
    by: str
    horizon: int
    ahead: int
    def __init__(self, workspace: _Optional[str] = ..., rule_id: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., program: _Optional[str] = ..., by: _Optional[str] = ..., horizon: _Optional[int] = ..., ahead: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("workspace", "version")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    version: str
    def __init__(self, workspace: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("workspace", "name", "path", "amount", "unit", "valid_from", "valid_until", "owner")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    VALID_FROM_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    name: str
    path: str
    amount: int
    unit: str
    valid_from: int
    valid_until: int
    owner: str
    def __init__(self, workspace: _Optional[str] = ..., name: _Optional[str] = ..., path: _Optional[str] = ..., amount: _Optional[int] = ..., unit: _Optional[str] = ..., valid_from: _Optional[int] = ..., valid_until: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class Tick(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("workspace", "decision_id", "status", "path", "action", "reason", "by", "value")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    decision_id: str
    status: str
    path: str
    action: str
    reason: str
    by: str
    value: str
    def __init__(self, workspace: _Optional[str] = ..., decision_id: _Optional[str] = ..., status: _Optional[str] = ..., path: _Optional[str] = ..., action: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("workspace", "path", "what", "before", "after", "occurred_at", "by")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    path: str
    what: str
    before: str
    after: str
    occurred_at: int
    by: str
    def __init__(self, workspace: _Optional[str] = ..., path: _Optional[str] = ..., what: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ..., occurred_at: _Optional[int] = ..., by: _Optional[str] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("offset", "reason", "by")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    offset: int
    reason: str
    by: str
    def __init__(self, offset: _Optional[int] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class Clock(_message.Message):
    __slots__ = ("simulated", "start", "speed", "note")
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    simulated: bool
    start: int
    speed: int
    note: str
    def __init__(self, simulated: _Optional[bool] = ..., start: _Optional[int] = ..., speed: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...
