"""What the rules of one evidence line may read at one boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.demand import DAY, day_of, spend_of
from services.rules_engine.core.history import Past
from services.rules_engine.core.program import Measure, TargetRef
from services.rules_engine.core.running import Running
from services.rules_engine.core.truth import LARGEST_SUM, Bools

if TYPE_CHECKING:
    from services.rules_engine.core.workspace import Workspace


class View:
    """What the rules of one evidence line may read at one boundary: columns are gathered once for all of them."""

    def __init__(self, workspace: Workspace, rule: Running, now: int) -> None:
        self.workspace, self.now, self.facts = workspace, now, workspace.facts
        self.since, self.panes, self.program = rule.since, dict([*rule.program.panes, day_of(rule.program)]), rule.program
        self._sums: dict[tuple[Measure, int], list[tuple[I64, I64, Bools]]] = {}  # of the few columns of rows that are asked again and again

    def sums(self, measure: Measure, window: int, rows: I64) -> tuple[I64, Bools]:
        held = self._sums.get((measure, window), [])
        for of, sums, unknown in held:
            if of is rows:
                return sums, unknown
        table = self._table(window)
        sums = self._column(table, self.facts.slot.get((measure.source, measure.name)), rows)
        unknown = (sums < 0) | (sums > LARGEST_SUM)
        if "@" in measure.name:
            for other in self._other_currencies(measure):
                unknown = unknown | (self._column(table, other, rows) != 0)
        if len(rows) > 1:
            self._sums[measure, window] = [*held[-7:], (rows, sums, unknown)]
        return sums, unknown

    def sum_of(self, measure: Measure, window: int, row: int) -> tuple[int, bool]:
        table, slots = self._table(window), self.facts.slot
        total = _entry(table, row, slots.get((measure.source, measure.name)))
        unknown = total < 0 or total > LARGEST_SUM
        if "@" in measure.name:
            unknown = unknown or any(_entry(table, row, other) for other in self._other_currencies(measure))
        return total, unknown

    def _table(self, window: int) -> I64:
        return self.since.sums if window == 0 else self.facts.windows.windows[window, self.panes[window]].sums.table

    @staticmethod
    def _column(table: I64, slot: int | None, rows: I64) -> I64:
        if slot is None or slot >= table.shape[1]:
            return np.zeros(len(rows), np.int64)
        if len(rows) and int(rows.max()) < len(table):
            column: I64 = table[rows, slot]
            return column
        out = np.zeros(len(rows), np.int64)
        inside = rows < len(table)
        out[inside] = table[rows[inside], slot]
        return out

    def _other_currencies(self, measure: Measure) -> list[int]:
        return self.workspace.other_currencies(measure.source, measure.name)

    def target(self, asked: TargetRef, row: int) -> int | None:
        amount, unknown = self.targets(asked, np.array([row], np.int64))
        return None if unknown[0] else int(amount[0])

    def targets(self, asked: TargetRef, rows: I64) -> tuple[I64, Bools]:
        """The deepest valid target on each row's lineage wins, then the later record; of another unit it is unknown."""
        return self.workspace.targets_of(asked, rows, self.now)

    def attribute(self, name: str, row: int) -> str | int | None:
        return self.facts.attribute(name, row)

    def attributes_of(self, name: str, rows: I64, text: str | None) -> tuple[I64, Bools]:
        seen, word, number = self.facts.attributes.take(name, rows)
        if text is None:
            return number, ~seen | (word != 0)
        return (word == self.facts.attributes.vocabulary.get(text, -1)).astype(np.int64), ~seen | (word == 0)

    def past(self, measure: Measure, row: int) -> Past:
        return self.facts.past(measure.source, measure.name, row, int(self.since.start[row]))

    def spend_per_day(self, row: int) -> tuple[int, bool]:
        """(what the object spent over [24h], micro-units of the account's currency; whether that is unknown)."""
        return self.sum_of(spend_of(self.program), DAY, row)


def _entry(table: I64, row: int, slot: int | None) -> int:
    return 0 if slot is None or slot >= table.shape[1] or row >= len(table) else table.item(row, slot)
