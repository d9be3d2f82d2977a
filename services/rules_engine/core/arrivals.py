"""What a run of records says, as columns: the tables of several batches as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kernel.page import Run
from services.kernel.record import I64
from services.rules_engine.core.keys import Bools


@dataclass(frozen=True, slots=True)
class Events:
    """The first table of several batches as one: rows instead of paths, sources of the workspace instead of the batch's."""

    stamp: I64
    row: I64
    source: I64
    occurred_at: I64
    as_of: I64
    ids: I64

    def part(self, some: slice) -> Events:
        return Events(self.stamp[some], self.row[some], self.source[some], self.occurred_at[some], self.as_of[some], self.ids[some])


@dataclass(frozen=True, slots=True)
class Amounts:
    """The second table, by event; the slot is -1 of measures that nobody reads."""

    event: I64
    slot: I64
    amount: I64


@dataclass(frozen=True, slots=True)
class Descriptions:
    """The third table of one batch, in order of its events."""

    event: I64
    name: NDArray[np.uint32]  # index into names
    text: I64  # index into the vocabulary, 0 for a number
    number: I64
    names: Sequence[str]


@dataclass(frozen=True)
class Arrivals:
    """What a run of records says, as columns. Which events count is settled; nothing of it is folded yet."""

    run: Run
    events: Events
    amounts: Amounts
    accepted: Bools
    descriptions: list[Descriptions]
    first_event: I64  # of each record, and one more
    first_amount: I64

    @property
    def records(self) -> int:
        return len(self.first_event) - 1

    @cached_property
    def intervals(self) -> tuple[I64, I64, I64]:
        """(start, end, row's id) of the events that are report rows."""
        start, end, row = (joined([getattr(b, name) for b in self.run.batches]) for name in ("interval_start", "interval_end", "row_id"))
        return start, end, row


def begins(counts: Sequence[int], times: Sequence[int]) -> I64 | int:
    """Where the stretch of each batch begins among those of all, as many times as asked for it."""
    return 0 if len(counts) == 1 else np.repeat(np.cumsum([0, *counts[:-1]]), times)


def joined(parts: Sequence[Any]) -> I64:
    """Columns as one, of 64-bit integers."""
    out: I64 = np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])
    return out.astype(np.int64, copy=False)
