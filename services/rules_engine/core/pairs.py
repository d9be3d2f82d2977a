"""(row, boundary) wherever a sum over windows may change within a run, and what the sums are there.

           boundaries  0 1 2 3
    campaign 1         a . b .      a pair is a place in this grid where something moves; they are numbered row by row, rows by level,
    creative 7         . . c d      and listed boundary by boundary as well: a, b c, d
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.kernel.record import I64


@dataclass(frozen=True, slots=True)
class Moved:
    """Amounts that a window counts from a boundary on, or no more: `turn` is the boundary, `above` the rows that it is counted for, -1 for none."""

    above: I64  # (amounts, levels)
    turn: I64
    slot: I64
    amount: I64

    def part(self, some: I64) -> Moved:
        return Moved(self.above[some], self.turn[some], self.slot[some], self.amount[some])


class Pairs:
    """(row, boundary) wherever a sum may change, numbered by level, row and boundary."""

    def __init__(self, row: I64, rows: int, boundaries: int, touched: list[tuple[I64, I64]]) -> None:
        """`row` are those that something moves of, by level, `rows` how many there are at all; `touched` are columns of rows with their boundaries."""
        self._boundaries = boundaries
        self._line = np.full(rows + 1, len(row), np.int64)  # that of no row is one more, which is dropped
        self._line[row] = np.arange(len(row))
        grid = np.zeros((len(row) + 1) * boundaries, np.bool_)
        for above, turn in touched:
            grid[self._keys(above, turn)] = True
        grid[len(row) * boundaries :] = False
        there = grid.nonzero()[0]
        self.count = len(there)
        self._number = grid.cumsum() - 1
        self._number[len(row) * boundaries :] = self.count
        line = there // boundaries
        self.row = row[line]
        self._begin = np.diff(line, prepend=-1).nonzero()[0]  # of each row
        square = grid[: len(row) * boundaries].reshape(-1, boundaries).T
        self.order: I64 = self._number[: len(row) * boundaries].reshape(-1, boundaries).T[square]  # by boundary, of each by level and row
        self.edges: list[int] = [0, *square.sum(axis=1).cumsum().tolist()]  # of the boundaries, in this order

    def _keys(self, above: I64, turn: I64) -> I64:
        keys: I64 = self._line[above] * self._boundaries + turn[:, None]
        return keys

    def moved(self, moved: Moved, slots: int) -> I64:
        """(slots, pairs and one more): what moves at each boundary."""
        sums = np.zeros((slots, self.count + 1), np.int64)
        index = self._number[self._keys(moved.above, moved.turn)] + moved.slot[:, None] * (self.count + 1)
        np.add.at(sums.reshape(-1), index.reshape(-1), moved.amount.repeat(moved.above.shape[1]))
        return sums

    def totals(self, moving: I64, table: I64) -> I64:
        """(slots, pairs): what the table holds, and what has moved until then."""
        held = table[self.row[self._begin], : len(moving)].T
        total = moving[:, :-1].cumsum(axis=1)
        before = held - total[:, self._begin] + moving[:, self._begin]
        total += before.repeat(np.diff(self._begin, append=self.count), axis=1)
        return total
