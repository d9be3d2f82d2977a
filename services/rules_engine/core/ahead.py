"""What the sums over windows will be at each boundary within a run of events, worked out for many boundaries at once.

Such a sum depends on what landed and on time alone, so it is known as soon as the run has been read:

                           boundary  k     k+1    k+2
    contributions to a row           +5     .     -2      what is folded before the boundary, less what leaves the window by it
    running total                    12     .     10      from what the table holds; where something contributes, there is a pair (row, boundary)

Each boundary shows its pairs in the tables, and whoever looks at it finds there what folding event by event would have left. What else an event says (that
its entity exists, freshness, attributes, evidence) is folded when its boundary comes. Readings of totals are not looked ahead at: what they change depends
on what was said before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.arrivals import Arrivals
from services.rules_engine.core.window import SLOT, SLOT_BITS, Windows

if TYPE_CHECKING:
    from services.rules_engine.core.facts import Facts

FEWEST, MOST = 3, 256  # boundaries worked out at once
MOST_EVENTS = 1 << 14
LARGEST = 1 << 22  # rows times boundaries

@dataclass(frozen=True, slots=True)
class Foreseen:
    """One of the boundaries that were worked out together."""

    ahead: Ahead
    at: int

    def show(self) -> None:
        self.ahead.show(self.at)

    @property
    def rows(self) -> I64:
        return self.ahead.rows(self.at)


class Foresight:
    """Of one run, whose records were stamped at or after the last boundary."""

    def __init__(self, facts: Facts, arrivals: Arrivals, interval: int) -> None:
        self.facts, self.arrivals = facts, arrivals
        events = arrivals.first_event
        some = (events[1:] > events[:-1]).nonzero()[0]  # records with events
        boundary = arrivals.events.stamp[events[some]] // interval + 1
        ends = (boundary[1:] != boundary[:-1]).nonzero()[0]  # the boundary of the last ones may be brought about by no record of this run
        self._instants = boundary[ends] * interval
        self._records = np.concatenate([some[:1], some[ends + 1]])
        self._first = events[self._records].tolist()
        self._place = {first: i for i, first in enumerate(self._first)}
        self._ahead: Ahead | None = None
        self._from = self._until = 0  # the boundaries that it tells of

    def of(self, begin: int, end: int) -> Foreseen | None:
        """What is known of the boundary before which the records from the first up to the last are folded, all of them and no others."""
        first, last = self.arrivals.first_event[[begin, end]].tolist()
        at = self._place.get(first, len(self._instants))
        if at == len(self._instants) or self._first[at + 1] != last:
            return None
        if at >= self._until:
            self._from, self._until = at, self._end(at)
            records, instants = self._records[at : self._until + 1], self._instants[at : self._until]
            self._ahead = looked_ahead(self.facts, self.arrivals, records, instants) if len(instants) >= FEWEST else None
        return None if self._ahead is None else Foreseen(self._ahead, at - self._from)

    def _end(self, at: int) -> int:
        end = min(at + MOST, len(self._instants))
        while end > at + 1 and self._first[end] - self._first[at] > MOST_EVENTS:
            end = at + (end - at) // 2
        return end


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
        """Of these of all rows, by level; `touched` are columns of rows with their boundaries."""
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


class Landed:
    """The accepted amounts of these records that somebody reads, by boundary and landing."""

    def __init__(self, arrivals: Arrivals, records: I64) -> None:
        edges = arrivals.first_amount[records]
        some = slice(int(edges[0]), int(edges[-1]))
        of, slot, amount = (column[some] for column in (arrivals.amounts.event, arrivals.amounts.slot, arrivals.amounts.amount))
        turn = np.arange(len(edges) - 1).repeat(np.diff(edges))
        counts = (slot >= 0) & arrivals.accepted[of]
        if not counts.all():
            of, slot, amount, turn = of[counts], slot[counts], amount[counts], turn[counts]
        landing = np.minimum(arrivals.events.occurred_at[of], arrivals.events.stamp[of])
        cell = arrivals.events.row[of] << SLOT_BITS | slot
        if (landing[1:] < landing[:-1]).any():
            order = np.lexsort((landing, turn))
            cell, amount, turn, landing = cell[order], amount[order], turn[order], landing[order]
        self.cell, self.amount, self.turn, self.landing = cell, amount, turn, landing

    def by_pane(self, width: int, boundaries: int) -> list[list[tuple[int, slice]]]:
        """Of each boundary (pane, the amounts that landed in it)."""
        pane = self.landing // width
        found: list[list[tuple[int, slice]]] = [[] for _ in range(boundaries)]
        changes = (pane[1:] != pane[:-1]) | (self.turn[1:] != self.turn[:-1])
        starts = [0, *(changes.nonzero()[0] + 1).tolist(), len(pane)] if len(pane) else []
        for start, stop in pairwise(starts):
            found[self.turn.item(start)].append((pane.item(start), slice(start, stop)))
        return found


class Ahead:
    """What each of some boundaries shows in the tables of sums, which are (slots, pairs) of each window."""

    def __init__(self, windows: Windows, instants: I64, pairs: Pairs, sums: dict[tuple[int, int], I64], landed: Landed, rows: int) -> None:
        self.pairs, self.sums = pairs, sums
        self._windows, self._landed, self._rows = windows, landed, rows
        self._row = pairs.row[pairs.order]
        self._first = [dict(zip(windows.windows, first, strict=True)) for first in zip(*(w.oldest(instants).tolist() for w in windows.windows.values()))]
        self._panes = {width: landed.by_pane(width, len(instants)) for width in windows.panes}
        self._shown = {key: table.take(pairs.order, axis=1) for key, table in sums.items()}
        widths = {key: windows.windows[key].sums.table.shape[1] for key in sums}
        flat = {width: self._row * width + np.arange(len(next(iter(sums.values()))))[:, None] for width in {*widths.values()}}
        self._flat = {key: flat[width] for key, width in widths.items()}

    def rows(self, at: int) -> I64:
        """The rows whose facts may have changed at a boundary, by level."""
        return self._row[self.pairs.edges[at] : self.pairs.edges[at + 1]]

    def show(self, at: int) -> None:
        """Time comes to the boundary: what is folded before it is in the windows, what has left is not."""
        some = slice(self.pairs.edges[at], self.pairs.edges[at + 1])
        cell, amount = self._landed.cell, self._landed.amount
        landed = {width: [(pane, (cell[part], amount[part])) for pane, part in parts[at]] for width, parts in self._panes.items()}
        self._windows.show(self._first[at], {key: (flat[:, some], self._shown[key][:, some]) for key, flat in self._flat.items()}, landed, self._rows)


def looked_ahead(facts: Facts, arrivals: Arrivals, records: I64, instants: I64) -> Ahead | None:
    """Of the records from records[i] up to records[i + 1], which are folded before the boundary at instants[i]; None where it would take too much memory."""
    windows, lineage, rows, slots = facts.windows, facts.entities.lineage[:, facts.levels], len(facts.entities), len(facts.slot)
    windows.room(rows, slots)
    first, last = arrivals.first_event[records[[0, -1]]].tolist()
    accepted = arrivals.accepted[first:last]
    heard = lineage[arrivals.events.row[first:last][accepted]], np.arange(len(instants)).repeat(np.diff(arrivals.first_event[records]))[accepted]
    landed = Landed(arrivals, records)
    came = Moved(lineage[landed.cell >> SLOT_BITS], landed.turn, landed.cell & SLOT, landed.amount)
    touched, moves = [heard], {}
    for key, window in windows.windows.items():
        oldest = (instants - window.width) // window.panes.width
        out = oldest.searchsorted(landed.landing // window.panes.width, side="right")  # the boundary at which each amount is out of the window
        within = out > landed.turn
        gone = [(window.panes.seal(p, rows), int(oldest.searchsorted(p, side="right"))) for p in window.panes.between(window.first, int(oldest[-1]))]
        own = (within & (out < len(instants))).nonzero()[0]
        cell = np.concatenate([landed.cell[own], *(c for (c, _), _ in gone)])
        turn = np.concatenate([out[own], np.repeat(np.array([at for _, at in gone], np.int64), [len(c) for (c, _), _ in gone])])
        left = Moved(lineage[cell >> SLOT_BITS], turn, cell & SLOT, np.concatenate([landed.amount[own], *(a for (_, a), _ in gone)]))
        touched.append((left.above, left.turn))
        moves[key] = None if within.all() else within.nonzero()[0], left
    used = np.zeros(rows + 1, np.bool_)
    for above, _ in touched:
        used[above] = True
    row = used[:rows].nonzero()[0]
    if (len(row) + 1) * len(instants) > LARGEST:
        return None
    pairs = Pairs(row[facts.entities.depth[row].argsort(kind="stable")], rows, len(instants), touched)
    every, sums = pairs.moved(came, slots), {}
    for key, (within, left) in moves.items():
        moving = every if within is None else pairs.moved(came.part(within), slots)
        sums[key] = pairs.totals(moving - pairs.moved(left, slots), windows.windows[key].sums.table)
    return Ahead(windows, instants, pairs, sums, landed, rows)
