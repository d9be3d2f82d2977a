"""What the log carries: every fact that the engine may know enters as one of these records, in order.

    EventBatch   events, amounts and attributes of one workspace, in columns
    Activation   a rule version (or its retirement) with its full text, metrics, conversions, lag table, coefficients
    Ready        all state an activation needs has been rebuilt: it takes effect at the next boundary
    Target       a number an account sets for itself
    Tick         empty: time moves when nothing else does
    Outcome      what is known of an action's effect, or how a decision's wait ended
    Change       somebody changed an entity at the platform
    Skip         a poisoned record's durable, ordered absolution
    Clock        the first record of a simulated log
    Poisoned     what a log hands over in place of bytes that it cannot read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

I64: TypeAlias = NDArray[np.int64]
U32: TypeAlias = NDArray[np.uint32]


@dataclass(slots=True, eq=False)  # not frozen, which would make it several times as dear: it is made for every record read
class EventBatch:
    """The events of one workspace in three tables; dictionaries first, then columns that index them.

    Instants are microseconds since the epoch, UTC. `as_of` 0 means the event carries deltas; above 0 its amounts are a snapshot of
    [interval_start, interval_end) keyed by `row_id`. Amounts are micro-units. An event never spans records.
    """

    workspace: str
    paths: Sequence[str]  # entity paths: platform/account[/campaign[/ad_group[/creative]]]
    sources: tuple[str, ...]
    kinds: tuple[str, ...]
    measures: tuple[str, ...]  # impressions | clicks | spend@EUR | conversions:purchase:7d_click | revenue:purchase:7d_click@EUR | leads
    names: tuple[str, ...]  # attribute names: status, daily_budget, label, objective, name, learning_phase
    texts: tuple[str, ...]  # attribute texts
    event_id: I64  # (events, 2): 128-bit blake2b of (source, event id)
    entity: U32
    source: U32
    kind: U32
    occurred_at: I64
    interval_start: I64
    interval_end: I64
    as_of: I64
    row_id: I64  # (events, 2): 128-bit hash of (source, native id, breakdown, interval); zeros for deltas
    amount_event: U32
    amount_measure: U32
    amount: I64
    attribute_event: U32
    attribute_name: U32
    attribute_text: U32  # index into texts + 1; 0 means the value is attribute_number
    attribute_number: I64  # micro-units
    path_key: I64 = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # (paths, 2): 128-bit hash of each path, or none


@dataclass(frozen=True, slots=True)
class Activation:
    workspace: str
    rule_id: str
    version: str  # content hash, hex
    state: str  # shadow | active | retired
    program: str  # canonical JSON: rule text, metrics, conversions, lag table, coefficients, panes, interval, zone, semantics
    by: str = ""
    horizon: int = 7 * 86_400_000_000  # of deduplication, by occurred_at, microseconds; the partition's first activation decides
    ahead: int = 3_600_000_000  # how far ahead of its stamp an event may be dated, likewise


@dataclass(frozen=True, slots=True)
class Ready:
    workspace: str
    version: str


@dataclass(frozen=True, slots=True)
class Target:
    workspace: str
    name: str  # cpa, ctr
    path: str  # "" for the account's default
    amount: int  # micro-units of `unit`
    unit: str  # EUR, ratio
    valid_from: int = 0
    valid_until: int = 0  # 0: open
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class Outcome:
    workspace: str
    decision_id: str
    status: str  # verified | failed | unknown | held | rejected | expired | cancelled | approved
    path: str = ""  # the entity changed, where one was
    action: str = ""
    reason: str = ""
    by: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    workspace: str
    path: str
    what: str  # status | daily_budget | bid | targeting
    before: str
    after: str
    occurred_at: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    offset: int
    reason: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Clock:
    simulated: bool
    start: int
    speed: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Never appended: the record's bytes are on the log, and this build cannot read them."""

    why: str


Record: TypeAlias = EventBatch | Activation | Ready | Target | Tick | Outcome | Change | Skip | Clock | Poisoned


T_co = TypeVar("T_co", covariant=True)


@dataclass(slots=True)  # not frozen, for the same reason
class Stamped(Generic[T_co]):
    """A record as the log holds it: `stamp` is the append time in microseconds, `offset` its place in the partition."""

    offset: int
    stamp: int
    record: T_co = field(repr=False)
