from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decision(_message.Message):
    __slots__ = ("id", "workspace", "rule_id", "version", "path", "boundary", "now", "kind", "mode", "action", "readings", "verdicts", "evidence", "valid_until", "simulated")
    ID_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    workspace: str
    rule_id: str
    version: str
    path: str
    boundary: int
    now: int
    kind: str
    mode: str
    action: str
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    evidence: int
    valid_until: int
    simulated: bool
    def __init__(self, id: _Optional[str] = ..., workspace: _Optional[str] = ..., rule_id: _Optional[str] = ..., version: _Optional[str] = ..., path: _Optional[str] = ..., boundary: _Optional[int] = ..., now: _Optional[int] = ..., kind: _Optional[str] = ..., mode: _Optional[str] = ..., action: _Optional[str] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., evidence: _Optional[int] = ..., valid_until: _Optional[int] = ..., simulated: _Optional[bool] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("text", "metric", "window", "numerator", "denominator", "threshold", "truth")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    NUMERATOR_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    text: str
    metric: str
    window: str
    numerator: str
    denominator: str
    threshold: str
    truth: str
    def __init__(self, text: _Optional[str] = ..., metric: _Optional[str] = ..., window: _Optional[str] = ..., numerator: _Optional[str] = ..., denominator: _Optional[str] = ..., threshold: _Optional[str] = ..., truth: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("guard", "refusal", "figures")
    GUARD_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    guard: str
    refusal: str
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    def __init__(self, guard: _Optional[str] = ..., refusal: _Optional[str] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "number", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: str
    text: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
