"""Amounts one by one, where somebody reads [since change]: so that a change may move the line between baseline and evidence.

An amount belongs to the evidence of a row from `start` on when its origin is at or after `start`: the origin of a delta is its occurred_at, of a
snapshot row the begin of its interval, because a row that began before the change describes the old world too. Kept are the amounts of the entities
that were reported; those of an ancestor are those of all below it. What lies before every line is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.keys import Bools

ROW, SLOT, ORIGIN, LANDING, AMOUNT = range(5)
LOOSE = 1 << 14  # amounts kept unsorted before they are merged


@dataclass(frozen=True, slots=True)
class Past:
    """Amounts of one row and slot: landing instants and micro-units."""

    landing: I64
    amount: I64


class History:
    """`needed` says of (row, origin) columns which may still be asked for."""

    def __init__(self, needed: Callable[[I64, I64], Bools]) -> None:
        self.needed = needed
        self.sorted: I64 = np.zeros((5, 0), np.int64)  # by row, in log order within one
        self.loose: list[I64] = []
        self._waiting = 0

    def put(self, row: I64, slot: I64, origin: I64, landing: I64, amount: I64) -> None:
        self.loose.append(np.stack([row, slot, origin, landing, amount]))
        self._waiting += len(row)
        if self._waiting > max(LOOSE, self.sorted.shape[1] // 2):
            self._merge()

    def _merge(self) -> None:
        if not self.loose:
            return
        table = np.concatenate([self.sorted, *self.loose], axis=1)
        table = table[:, self.needed(table[ROW], table[ORIGIN])]
        self.sorted = table[:, np.argsort(table[ROW], kind="stable")]
        self.loose, self._waiting = [], 0

    def every(self) -> I64:
        """The whole table, (5, amounts)."""
        self._merge()
        return self.sorted

    def below(self, rows: I64) -> I64:
        """The table of these rows' own amounts, (5, amounts)."""
        self._merge()
        first, last = (np.searchsorted(self.sorted[ROW], rows, side=side) for side in ("left", "right"))
        held = np.flatnonzero(last > first)
        if not len(held):
            return np.zeros((5, 0), np.int64)
        return np.concatenate([self.sorted[:, first[i] : last[i]] for i in held.tolist()], axis=1)

    def since(self, rows: I64, slot: int, start: int) -> Past:
        """What the rows report of one slot from `start` on."""
        table = self.below(rows)
        keep = (table[SLOT] == slot) & (table[ORIGIN] >= start)
        return Past(table[LANDING, keep], table[AMOUNT, keep])

    def totals(self, rows: I64, slots: int, start: int) -> I64:
        """The sums of what the rows report from `start` on, one a slot."""
        table = self.below(rows)
        table = table[:, table[ORIGIN] >= start]
        sums = np.zeros(slots, np.int64)
        np.add.at(sums, table[SLOT], table[AMOUNT])
        return sums
