"""Evidence sums: per row and slot, all amounts whose origin is at or after the row's start of [since change]; dense, amended as facts arrive."""

from __future__ import annotations

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.history import History

NEVER = np.iinfo(np.int64).min


class Since:
    """`start[row]` is the later of `born` (when the rule's anchor took effect) and the row's last change, microseconds of engine time."""

    def __init__(self, born: int, history: History, changed: dict[int, int], rows: int, slots: int) -> None:
        self.born = born
        self.start: I64 = np.full(max(rows, 64), born, np.int64)
        self.sums: I64 = np.zeros((max(rows, 64), max(slots, 8)), np.int64)
        for row in range(rows):
            self.restart(row, changed.get(row, NEVER), history)

    def room(self, rows: int, slots: int) -> None:
        r, s = self.sums.shape
        if rows > r or slots > s:
            wider = np.zeros((max(r, 1 << (rows - 1).bit_length()), max(s, 1 << (slots - 1).bit_length())), np.int64)
            wider[:r, :s] = self.sums
            self.start = np.concatenate([self.start, np.full(len(wider) - r, self.born, np.int64)])
            self.sums = wider

    def add(self, row: I64, slot: I64, origin: I64, amount: I64) -> None:
        inside = origin >= self.start[row]
        np.add.at(self.sums, (row[inside], slot[inside]), amount[inside])

    def restart(self, row: int, changed: int, history: History) -> None:
        """The line between baseline and evidence is now at the later of birth and change; the sums are recounted from the history."""
        self.start[row] = max(self.born, changed)
        self.sums[row] = history.totals(row, self.sums.shape[1], int(self.start[row]))
