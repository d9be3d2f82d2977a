"""Every amount since the first activation that reads [since change], so that a change may move the line between baseline and evidence.

An amount belongs to the evidence of a row from `start` on when its origin is at or after `start`: the origin of a delta is its occurred_at, of a
snapshot row the begin of its interval, because a row that began before the change describes the old world too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.kernel.record import I64


@dataclass(frozen=True, slots=True)
class Past:
    """Amounts of one row and slot: landing instants and micro-units, in log order."""

    landing: I64
    amount: I64


class History:
    def __init__(self) -> None:
        self.parts: dict[int, list[I64]] = {}  # row -> [(n, 4): slot, origin, landing, amount]

    def put(self, row: I64, slot: I64, origin: I64, landing: I64, amount: I64) -> None:
        table = np.stack([slot, origin, landing, amount], axis=1)
        order = np.argsort(row, kind="stable")
        rows, at = np.unique(row[order], return_index=True)
        for r, part in zip(rows.tolist(), np.split(table[order], at[1:]), strict=True):
            self.parts.setdefault(r, []).append(part)

    def _rows(self, row: int) -> I64:
        parts = self.parts.get(row)
        if not parts:
            return np.zeros((0, 4), np.int64)
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    def since(self, row: int, slot: int, start: int) -> Past:
        table = self._rows(row)
        keep = (table[:, 0] == slot) & (table[:, 1] >= start)
        return Past(table[keep, 2], table[keep, 3])

    def totals(self, row: int, slots: int, start: int) -> I64:
        """The sums of a row's evidence from `start` on, one a slot."""
        table = self._rows(row)
        table = table[table[:, 1] >= start]
        sums = np.zeros(slots, np.int64)
        np.add.at(sums, table[:, 0], table[:, 3])
        return sums
