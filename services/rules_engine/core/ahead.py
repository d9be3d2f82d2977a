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
from services.rules_engine.core.pairs import Moved, Pairs
from services.rules_engine.core.window import SLOT, SLOT_BITS, Window

if TYPE_CHECKING:
    from services.rules_engine.core.facts import Facts

FEWEST, MOST = 3, 256  # boundaries worked out at once
MOST_EVENTS = 1 << 14  # of them: what is worked out of more does not stay in the cache
BUSY = 1 << 12  # amounts that come or leave a boundary, from which on each is worked out as fast by itself
LARGEST = 1 << 22  # rows times boundaries, and numbers of which totals are made: tens of megabytes


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One of the boundaries that were worked out together."""

    ahead: Ahead
    at: int
    instant: int

    def show(self) -> None:
        self.ahead.show(self.at)

    @property
    def rows(self) -> I64:
        return self.ahead.rows(self.at)


class Foresight:
    """What is known beforehand of the boundaries within a run of records that come after the last boundary."""

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
        self._from = self._until = 0  # the boundaries that it was worked out for

    def of(self, begin: int, end: int) -> Foreseen | None:
        """Of the boundary before which these records are folded, all of them and no others; None where nothing is known."""
        first, last = self.arrivals.first_event[[begin, end]].tolist()
        at = self._place.get(first, len(self._instants))
        if at == len(self._instants) or self._first[at + 1] != last:
            return None
        if at >= self._until:
            self._work_out(at)
        return None if self._ahead is None else Foreseen(self._ahead, at - self._from, int(self._instants[at]))

    def _work_out(self, at: int) -> None:
        """As many boundaries as fit, from this one on; many that are quiet may follow others that were not."""
        end = min(at + MOST, len(self._instants))
        while not (fits := self._fits(at, end)) and end - at > FEWEST:
            end = max(at + FEWEST, at + (end - at) // 2)
        self._from, self._until = at, end
        self._ahead = worked_out(self.facts, self.arrivals, self._records[at : end + 1], self._instants[at:end]) if fits else None

    def _fits(self, at: int, end: int) -> bool:
        if end - at < FEWEST:
            return False
        windows, levels = self.facts.windows.windows.values(), len(self.facts.levels)
        events, amounts = (int(first[self._records[end]] - first[self._records[at]]) for first in (self.arrivals.first_event, self.arrivals.first_amount))
        moved = amounts + sum(w.panes.held(w.first, int(w.oldest(self._instants[end - 1]))) for w in windows)
        rows = min(len(self.facts.entities), (events + moved) * levels)
        numbers = (events + moved) * levels * len(self.facts.slot) * len(windows)
        return events <= MOST_EVENTS and moved <= BUSY * (end - at) and rows * (end - at) <= LARGEST and numbers <= LARGEST


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
    """What each of some boundaries shows in the tables of sums."""

    def __init__(self, facts: Facts, instants: I64, landed: Landed, pairs: Pairs, sums: dict[tuple[int, int], I64]) -> None:
        """`sums` are (slots, pairs) of each window."""
        self.pairs, self.sums = pairs, sums
        self._windows, self._rows, self._landed = facts.windows, len(facts.entities), landed
        windows = facts.windows.windows
        oldest = np.array([w.firsts(instants) for w in windows.values()]).T.tolist()
        self._first = [dict(zip(windows, of, strict=True)) for of in oldest]  # of each boundary
        self._panes = {width: landed.by_pane(width, len(instants)) for width in facts.windows.panes}
        self._row = pairs.row[pairs.order]
        slots = np.arange(len(facts.slot))[:, None]
        flat = {w.sums.table.shape[1]: self._row * w.sums.table.shape[1] + slots for w in windows.values()}
        self._shown = [(key, flat[windows[key].sums.table.shape[1]], table.take(pairs.order, axis=1)) for key, table in sums.items()]

    def rows(self, at: int) -> I64:
        """The rows whose sums or freshness may have changed at a boundary, by level."""
        return self._row[self.pairs.edges[at] : self.pairs.edges[at + 1]]

    def show(self, at: int) -> None:
        """Time comes to the boundary: what is folded before it is in the windows, what has left them is not."""
        some = slice(self.pairs.edges[at], self.pairs.edges[at + 1])
        cell, amount = self._landed.cell, self._landed.amount
        landed = {width: [(pane, (cell[part], amount[part])) for pane, part in parts[at]] for width, parts in self._panes.items()}
        self._windows.show(self._first[at], {key: (flat[:, some], table[:, some]) for key, flat, table in self._shown}, landed, self._rows)


def worked_out(facts: Facts, arrivals: Arrivals, records: I64, instants: I64) -> Ahead:
    """Of the records from records[i] up to records[i + 1], which are folded before the boundary at instants[i]."""
    windows, lineage, rows, slots = facts.windows, facts.entities.lineage[:, facts.levels], len(facts.entities), len(facts.slot)
    windows.room(rows, slots)
    events = arrivals.first_event[records]
    accepted = arrivals.accepted[events[0] : events[-1]]
    heard = lineage[arrivals.events.row[events[0] : events[-1]][accepted]], np.arange(len(instants)).repeat(np.diff(events))[accepted]
    landed = Landed(arrivals, records)
    moves = {key: _moves(window, landed, lineage, instants, rows) for key, window in windows.windows.items()}
    touched = [heard, *((left.above, left.turn) for _, left in moves.values())]
    used = np.zeros(rows + 1, np.bool_)  # the last is spare: what has no ancestor at a level marks it
    for above, _ in touched:
        used[above] = True
    row = used[:rows].nonzero()[0]
    pairs = Pairs(row[facts.entities.depth[row].argsort(kind="stable")], rows, len(instants), touched)
    came = Moved(lineage[landed.cell >> SLOT_BITS], landed.turn, landed.cell & SLOT, landed.amount)
    every, sums = pairs.moved(came, slots), {}
    for key, (within, left) in moves.items():
        moving = every if within is None else pairs.moved(came.part(within), slots)
        sums[key] = pairs.totals(moving - pairs.moved(left, slots), windows.windows[key].sums.table)
    return Ahead(facts, instants, landed, pairs, sums)


def _moves(window: Window, landed: Landed, lineage: I64, instants: I64, rows: int) -> tuple[I64 | None, Moved]:
    """(which of what landed counts, None for all of it; what leaves the window, of that and of what was there before)."""
    oldest = window.firsts(instants)
    out = oldest.searchsorted(landed.landing // window.panes.width, side="right")  # the boundary at which each amount has left
    within = out > landed.turn
    panes = window.panes.between(window.first, int(oldest[-1]))
    parts = [window.panes.seal(p, rows) for p in panes]
    by = oldest.searchsorted(np.array(panes, np.int64), side="right").repeat([len(cell) for cell, _ in parts])
    own = (within & (out < len(instants))).nonzero()[0]
    cell = np.concatenate([landed.cell[own], *(cell for cell, _ in parts)])
    left = Moved(lineage[cell >> SLOT_BITS], np.concatenate([out[own], by]), cell & SLOT, np.concatenate([landed.amount[own], *(a for _, a in parts)]))
    return None if within.all() else within.nonzero()[0], left
