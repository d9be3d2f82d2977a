"""Evidence sums: per row and slot, all amounts whose origin is at or after the row's start of [since change]; dense, amended as facts arrive."""

from __future__ import annotations

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.window import Sums

NEVER = np.iinfo(np.int64).min


class Since:
    """`start[row]` is the later of `born` (when the rules' anchors took effect) and the row's last change, microseconds of engine time."""

    def __init__(self, born: int) -> None:
        self.born, self.latest = born, born
        self.start: I64 = np.full(64, born, np.int64)
        self._sums = Sums()

    @property
    def sums(self) -> I64:
        return self._sums.table

    def room(self, rows: int, slots: int) -> None:
        if rows > len(self.start):
            self.start = np.concatenate([self.start, np.full(max(rows, 2 * len(self.start)) - len(self.start), self.born, np.int64)])
        self._sums.room(rows, slots)

    def add(self, row: I64, slot: I64, origin: I64, amount: I64, lineage: I64) -> None:
        """Adds the amounts at every level at which they are evidence; `lineage` is (rows, levels) of all rows."""
        above = lineage[row]
        inside = above >= 0
        if self.latest > int(origin.min()):
            inside &= origin[:, None] >= self.start[above]
        flat = above * self.sums.shape[1] + slot[:, None]
        if inside.all():
            np.add.at(self.sums.reshape(-1), flat.reshape(-1), np.broadcast_to(amount[:, None], flat.shape).reshape(-1))
        else:
            np.add.at(self.sums.reshape(-1), flat[inside], np.broadcast_to(amount[:, None], flat.shape)[inside])

    def restart(self, row: int, changed: int) -> bool:
        """The line between baseline and evidence is now at the later of birth and change; whether it moved, so that the sums must be counted anew."""
        start = max(self.born, changed)
        self.latest = max(self.latest, start)
        if start == self.start[row]:
            return False
        self.start[row] = start
        return True
