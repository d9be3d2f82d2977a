"""Many event batches of one workspace as one: a reader of small records makes it, and the engine folds it without having looked at each of them.

    record   |   0   |  1  |      2      | ...
    events   | 0 1 2 | 3 4 | 5 6 7 8 9 10|        first_event[i] is where those of record i begin; likewise of the other tables
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np

from services.kernel.record import I64, EventBatch

EVENT_COLUMNS = ("event_id", "source", "kind", "occurred_at", "interval_start", "interval_end", "as_of", "row_id")
AMOUNT_COLUMNS = ("amount_measure", "amount")
ATTRIBUTE_COLUMNS = ("attribute_name", "attribute_text", "attribute_number")


class Chained(Sequence[str]):
    """The paths of records [begin, end), each read when one of its own is asked for."""

    __slots__ = ("read", "first", "begin", "end", "_last")

    def __init__(self, read: Callable[[int], Sequence[str]], first: I64, begin: int, end: int) -> None:
        self.read, self.first, self.begin, self.end = read, first, begin, end
        self._last: tuple[int, Sequence[str]] | None = None

    def _of(self, record: int) -> Sequence[str]:
        if self._last is None or self._last[0] != record:
            self._last = record, self.read(record)
        return self._last[1]

    def __len__(self) -> int:
        return int(self.first[self.end] - self.first[self.begin])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = int(self.first[self.begin]) + (index if index >= 0 else len(self) + index)
        record = int(np.searchsorted(self.first, at, side="right")) - 1
        if not self.begin <= record < self.end:
            raise IndexError(index)
        return self._of(record)[at - int(self.first[record])]

    def __iter__(self) -> Iterator[str]:
        for record in range(self.begin, self.end):
            yield from self.read(record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """`batch` is all of them as one; `read` gives the paths of one record."""

    batch: EventBatch
    read: Callable[[int], Sequence[str]]
    first_event: I64  # one more than there are records
    first_amount: I64
    first_attribute: I64
    first_path: I64

    def between(self, begin: int, end: int) -> EventBatch:
        """Records [begin, end) as one batch."""
        b = self.batch
        if begin == 0 and end == len(self.first_event) - 1:
            return b
        e, a, t, p = (slice(int(first[begin]), int(first[end])) for first in (self.first_event, self.first_amount, self.first_attribute, self.first_path))
        columns: dict[str, Any] = {name: getattr(b, name)[e] for name in EVENT_COLUMNS}
        columns |= {name: getattr(b, name)[a] for name in AMOUNT_COLUMNS} | {name: getattr(b, name)[t] for name in ATTRIBUTE_COLUMNS}
        columns["entity"] = b.entity[e] - np.uint32(p.start)
        columns["amount_event"], columns["attribute_event"] = b.amount_event[a] - np.uint32(e.start), b.attribute_event[t] - np.uint32(e.start)
        columns["path_key"] = b.path_key[p]
        paths = Chained(self.read, self.first_path, begin, end)
        return EventBatch(b.workspace, paths, b.sources, b.kinds, b.measures, b.names, b.texts, **columns)


class Part(EventBatch):
    """One record of many that were read together: a batch like any other, made when somebody looks into it."""

    __slots__ = ("page", "index")

    page: Page
    index: int

    def __init__(self, workspace: str, page: Page, index: int) -> None:
        self.workspace, self.page, self.index = workspace, page, index

    def __getattr__(self, name: str) -> Any:
        if name not in COLUMN_NAMES:
            raise AttributeError(name)
        made = self.page.between(self.index, self.index + 1)
        for column in COLUMN_NAMES:
            setattr(self, column, getattr(made, column))
        return getattr(self, name)


COLUMN_NAMES = frozenset(f.name for f in fields(EventBatch)) - {"workspace"}


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one workspace, one after the other. Neighbours that were read together are one batch, and have a stamp an event."""

    stamps: list[int | I64]
    batches: list[EventBatch]
    events: I64  # of each record
    amounts: I64  # of each record


def coalesced(batches: Sequence[tuple[int, EventBatch]]) -> Run:
    """The records with their stamps as one run."""
    stamps: list[int | I64] = []
    out: list[EventBatch] = []
    events: list[Any] = []
    amounts: list[Any] = []
    at, n = 0, len(batches)
    while at < n:
        batch = batches[at][1]
        end = at + 1
        if isinstance(batch, Part):
            whole, index = batch.page, batch.index
            while end < n and isinstance(other := batches[end][1], Part) and other.page is whole and other.index == index + end - at:
                end += 1
        if end - at > 1:
            sizes = np.diff(whole.first_event[index : index + end - at + 1])
            events.append(sizes)
            amounts.append(np.diff(whole.first_amount[index : index + end - at + 1]))
            stamps.append(np.repeat(np.fromiter((s for s, _ in batches[at:end]), np.int64, end - at), sizes))
            out.append(whole.between(index, index + end - at))
        else:
            stamps.append(batches[at][0])
            out.append(batch)
            events.append([len(batch.event_id)])
            amounts.append([len(batch.amount)])
        at = end
    return Run(stamps, out, np.concatenate(events), np.concatenate(amounts))
