"""The rules on the objects of one platform, side by side, and what is known of each (object, rule).

A cell is (object, rule): row * width + seat, the seat being the rule's place in the panel; both are of one level. The sieve says in which cells a
condition may hold. A cell that has a life is remembered:

    SETTLED   alive, condition true        looked at when the condition is no longer true, or `clear` is
    BETWEEN   alive, condition not true    looked at whenever its object's facts changed

Beside it stand the cells that ask their guards (`asking`, with the refusals last told) and those that wait for `for` to pass (`pending`). All of it is
derived from the lives of the rules; it is no state of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core.glance import MOST_NUMBERS, Glance
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.shape import Shape
from services.rules_engine.core.sieve import Sieve, Sight, Spots
from services.rules_engine.core.truth import Bools

if TYPE_CHECKING:
    from services.rules_engine.core.ahead import Ahead
    from services.rules_engine.core.workspace import Workspace

NOTHING, SETTLED, BETWEEN = 0, 1, 2
NOT_TOLD, ASK_ANYWAY = -1, -2  # in place of a mask of refusals
NO_CELLS: I64 = np.zeros(0, np.int64)


class Panel:
    def __init__(self, rules: list[Running], before: Panel | None = None) -> None:
        self.rules = rules
        self.platform = rules[0].program.platform
        self.width = len(rules)
        self.new: Bools = np.ones(self.width, np.bool_)  # judged for every object at the next boundary
        self.asking: dict[int, int] = {}  # cell -> the mask of refusals last told
        self.pending: dict[int, int] = {}  # cell -> when `for` will have passed
        self.turn = 0  # the next instant at which a guard may answer differently, 0 for none
        self._cells: I64 = NO_CELLS  # alive, ascending
        self._kinds: NDArray[np.int8] = np.zeros(0, np.int8)
        self._moved: dict[int, int] = {}  # cell -> its kind, not yet entered above
        self.glanced: Glance | None = None  # at the boundaries within a run that were worked out last
        self._asked: list[tuple[Shape, I64, I64, I64]] | None = None  # those that ask, shape by shape
        self.sieve = Sieve(rules)
        stood = {} if before is None else {r: r.seat for r in before.rules}
        for seat, rule in enumerate(rules):
            rule.panel, rule.seat = self, seat
            if before is not None and rule in stood:
                self._take_over(before, stood[rule], rule)
            else:
                self._take_in(rule)

    def _take_in(self, rule: Running) -> None:
        """What its lives say; whether their conditions hold is known once every object has been judged."""
        for subject, life in rule.lives.items():
            due = life.since + rule.program.hold if life.since >= 0 and not life.on else -1
            self.enter(subject, rule.seat, life.on and not life.flight and not life.spent, due)

    def _take_over(self, before: Panel, seat: int, rule: Running) -> None:
        """A rule that stays keeps what is known of its cells."""
        self.new[rule.seat] = before.new[seat]
        rows = np.array([s[0] for s in rule.lives], np.int64)
        for row, kind in zip(rows.tolist(), before.kind_of(rows * before.width + seat).tolist(), strict=True):
            was, cell = row * before.width + seat, row * self.width + rule.seat
            self._moved[cell] = kind
            if was in before.asking:
                self.asking[cell] = before.asking[was]
            if was in before.pending:
                self.pending[cell] = before.pending[was]

    # -- cells -------------------------------------------------------------------------------------------------------

    def glance(self, ahead: Ahead, workspace: Workspace) -> Glance | None:
        """Where its rules may hold at boundaries that were worked out together; None where they read something else than these sums, or too many."""
        if self.sieve.reads_changes or len(self.sieve.quantities) * ahead.pairs.count > MOST_NUMBERS:
            return None
        if self.glanced is None or self.glanced.ahead is not ahead:
            self.glanced = Glance(self, ahead, workspace)
        return self.glanced if self.glanced.is_small else None

    def without_life(self, sight: Sight, candidates: Iterable[Spots], only: Bools | None = None) -> Iterator[Spots]:
        """Those of the cells that have no life, in pieces; of some rules only, where that is said."""
        for at, seat in candidates:
            if not len(at):
                continue
            keep = self.kind_of(sight.rows[at] * self.width + seat) == NOTHING
            if only is not None:
                keep &= only[seat]
            if not keep.all():
                at, seat = at[keep], seat[keep]
            if len(at):
                yield at, seat

    def alive(self, rows: I64) -> tuple[I64, I64, NDArray[np.int8]]:
        """(index into rows, seat, kind) of every cell with a life."""
        self._enter_moved()
        if not len(self._cells):
            return NO_CELLS, NO_CELLS, self._kinds
        if len(self._cells) < 4 * len(rows):
            row, order = self._cells // self.width, rows.argsort()
            at = order[np.minimum(rows[order].searchsorted(row), len(rows) - 1)]
            some = (rows[at] == row).nonzero()[0]
            at = at[some]
        else:
            first = np.searchsorted(self._cells, rows * self.width)
            times = np.searchsorted(self._cells, (rows + 1) * self.width) - first
            at = np.repeat(np.arange(len(rows)), times)
            some = np.arange(len(at)) + np.repeat(first - (np.cumsum(times) - times), times)
        return at, self._cells[some] - rows[at] * self.width, self._kinds[some]

    def kind_of(self, cells: I64) -> NDArray[np.int8]:
        self._enter_moved()
        if not len(self._cells):
            return np.zeros(len(cells), np.int8)
        at = np.minimum(np.searchsorted(self._cells, cells), len(self._cells) - 1)
        kinds: NDArray[np.int8] = np.where(self._cells[at] == cells, self._kinds[at], np.int8(NOTHING))
        return kinds

    def is_settled(self, row: int, seat: int) -> bool:
        cell = row * self.width + seat
        known = self._moved.get(cell)
        if known is None:
            at = int(self._cells.searchsorted(cell))
            known = self._kinds.item(at) if at < len(self._cells) and self._cells.item(at) == cell else NOTHING
        return known == SETTLED

    def _enter_moved(self) -> None:
        if not self._moved:
            return
        cells, kinds = np.array([*self._moved], np.int64), np.array([*self._moved.values()], np.int8)
        self._moved = {}
        at = self._cells.searchsorted(cells)
        inside = (at < len(self._cells)).nonzero()[0]
        inside = inside[self._cells[at[inside]] == cells[inside]]
        known, to = at[inside], kinds[inside]
        self._kinds[known] = to
        fresh = kinds != NOTHING
        fresh[inside] = False
        if fresh.any() or (to == NOTHING).any():
            stays = np.ones(len(self._cells), np.bool_)
            stays[known[to == NOTHING]] = False
            cells, kinds = np.concatenate([self._cells[stays], cells[fresh]]), np.concatenate([self._kinds[stays], kinds[fresh]])
            order = cells.argsort(kind="stable")
            self._cells, self._kinds = cells[order], kinds[order]

    def enter(self, subject: Subject, seat: int, asks: bool, due: int, settled: bool = False) -> None:
        """A life is there; unless it is known to be settled, it is looked at again as soon as its object's facts change."""
        cell = subject[0] * self.width + seat
        self._moved[cell] = SETTLED if settled else BETWEEN
        self.ask(cell, asks)
        if due >= 0:
            self.pending[cell] = due
        elif self.pending:
            self.pending.pop(cell, None)

    def leave(self, subject: Subject, seat: int) -> None:
        cell = subject[0] * self.width + seat
        self._moved[cell] = NOTHING
        self.ask(cell, False)
        self.pending.pop(cell, None)

    def ask(self, cell: int, asks: bool, mask: int = NOT_TOLD) -> None:
        if asks:
            if cell not in self.asking:
                self.asking[cell] = mask
                self._asked = None
        elif cell in self.asking:
            del self.asking[cell]
            self._asked = None

    def told(self, cell: int, mask: int) -> None:
        """These refusals have been told."""
        if cell in self.asking and self.asking[cell] != mask:
            self.asking[cell] = mask
            self._asked = None

    def asked(self) -> list[tuple[Shape, I64, I64, I64]]:
        """(shape, row, rule's place in it, mask last told) of the cells that ask, shape by shape."""
        if self._asked is None:
            cells = np.array(sorted(self.asking), np.int64)
            masks = np.array([self.asking[c] for c in cells.tolist()], np.int64)
            row, seat = np.divmod(cells, self.width)
            shapes = self.sieve.shape[seat]
            order = shapes.argsort(kind="stable")
            edges = [0, *(np.diff(shapes[order]).nonzero()[0] + 1).tolist(), len(order)] if len(order) else []
            some = [order[start:stop] for start, stop in pairwise(edges)]
            self._asked = [(self.sieve.shapes[shapes.item(s.item(0))], row[s], self.sieve.place[seat[s]], masks[s]) for s in some]
        return self._asked
