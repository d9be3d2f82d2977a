"""An event: something that happened or was reported about one entity, normalized. The log carries events as columns; this is one of them in the hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from services.kernel.ids import digest, event_id

Value: TypeAlias = str | int  # an attribute: a text, or a number in micro-units


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The amounts are what a report row for [interval_start, interval_end) read at `as_of`; `row` are the native ids and breakdown that name the row."""

    interval_start: int
    interval_end: int
    as_of: int
    row: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Without a snapshot the amounts are deltas. Instants are microseconds UTC, amounts micro-units by measure name."""

    id: str  # the sender's own, unique within (workspace, source)
    source: str
    path: str  # platform/account[/campaign[/ad_group[/creative]]]
    kind: str
    occurred_at: int
    amounts: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    at: str = field(default="", compare=False)  # where it stood in its delivery, a JSON Pointer

    @property
    def key(self) -> bytes:
        """The 16 bytes the event is deduplicated by."""
        return event_id(self.source, self.id)

    @property
    def row_key(self) -> bytes:
        """The 16 bytes under which a snapshot replaces its predecessor; zeros for deltas."""
        s = self.snapshot
        if s is None:
            return bytes(16)
        return bytes.fromhex(digest("row", self.source, *s.row, str(s.interval_start), str(s.interval_end)))
