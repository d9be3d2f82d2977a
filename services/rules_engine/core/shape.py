"""Rules of one shape: the same but for their numbers, so that one broadcast of rows x thresholds says what they are, and their guards are asked in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core.program import And, Compare, Condition, Not, Number, Or
from services.rules_engine.core.running import Running
from services.rules_engine.core.truth import MIRRORED_OPERATORS, NEGATED, OPERATORS, UNKNOWN, Column, Floats, Judge, Truth

KLEENE_AND = np.array([0, 0, 0, 0, 1, 2, 0, 2, 2], np.int8)  # [3 * a + b]

Node: TypeAlias = "Leaf | Plain | Joined | Negated"


@dataclass(frozen=True, slots=True)
class Leaf:
    """An expression against a number of each rule's own; `compares` are the rules' comparisons, for exact arithmetic."""

    op: str
    expression: Any
    compares: tuple[Compare, ...]
    thresholds: Floats  # one a rule
    ascending: Floats
    order: I64


@dataclass(frozen=True, slots=True)
class Plain:
    """A comparison that all rules have in common."""

    compare: Compare


@dataclass(frozen=True, slots=True)
class Joined:
    terms: tuple[Node, ...]
    any: bool


@dataclass(frozen=True, slots=True)
class Negated:
    term: Node


def skeleton(c: Condition | None) -> Any:
    """The condition without the numbers that rules of one shape may differ in."""
    match c:
        case Compare(op, left, Number(unit=unit)) if not isinstance(left, Number):
            return "number right", op, left, unit
        case Compare(op, Number(unit=unit), right):
            return "number left", op, right, unit
        case Compare(op, left, right):
            return "compare", op, left, right
        case Not(term):
            return "not", skeleton(term)
        case And(terms):
            return "and", tuple(skeleton(t) for t in terms)
        case Or(terms):
            return "or", tuple(skeleton(t) for t in terms)
    return None


def node(conditions: Sequence[Condition]) -> Node:
    """One tree for conditions of one skeleton."""
    match conditions[0]:
        case Compare(op, left, Number()) if not isinstance(left, Number):
            return _leaf(op, left, conditions, right=True)
        case Compare(op, Number(), right):
            return _leaf(MIRRORED_OPERATORS[op], right, conditions, right=False)
        case Compare():
            return Plain(conditions[0])
        case Not():
            return Negated(node([c.term for c in conditions if isinstance(c, Not)]))
        case And(terms) | Or(terms):
            joined = [c.terms for c in conditions if isinstance(c, And | Or)]
            return Joined(tuple(node([t[i] for t in joined]) for i in range(len(terms))), isinstance(conditions[0], Or))


def _leaf(op: str, expression: Any, conditions: Sequence[Condition], right: bool) -> Leaf:
    compares = tuple(c for c in conditions if isinstance(c, Compare))
    numbers = [c.right if right else c.left for c in compares]
    thresholds = np.array([n.numerator / n.denominator for n in numbers if isinstance(n, Number)], np.float64)
    order = np.argsort(thresholds, kind="stable")
    return Leaf(op, expression, compares, thresholds, thresholds[order], order)


def shape_of(rule: Running) -> Any:
    """What rules of one shape have in common."""
    p = rule.program
    minimums = tuple(m.metric for m in p.minimums)
    guards = tuple(a.guard for a in p.guards)
    return (
        p.depth, p.where, p.unless, skeleton(p.when), skeleton(p.clear), p.metrics, minimums, guards, rule.since.born, p.panes, rule.sample_window,
        rule.sources, p.platform, p.action.kind, p.lag, p.coefficients, p.offsets,
    )  # fmt: skip


class Shape:
    def __init__(self, rules: list[Running]) -> None:
        self.rules = rules
        self.program = rules[0].program
        self.since = rules[0].since
        self.width = len(rules)
        self.when = node([r.program.when for r in rules])
        clears = [r.program.clear for r in rules if r.program.clear is not None]
        self.clear = node(clears) if clears else None
        self.least: list[I64] = [np.array([r.program.minimums[i].least for r in rules], np.int64) for i in range(len(self.program.minimums))]
        self.needed: I64 = np.array([r.weighers[0].needed for r in rules], np.int64)
        self._parameters: dict[tuple[str, str, int], I64] = {}
        self._words: dict[tuple[str, str], NDArray[np.str_]] = {}
        self._tested: Floats | None = None
        for place, rule in enumerate(rules):
            rule.shape, rule.place = self, place

    def parameter(self, guard: str, name: str, otherwise: int) -> I64:
        """A guard's setting, one a rule."""
        key = guard, name, otherwise
        known = self._parameters.get(key)
        if known is None:
            asked = [next(a for a in r.program.guards if a.guard == guard) for r in self.rules]
            known = self._parameters[key] = np.array([a.integer(name, otherwise) for a in asked], np.int64)
        return known

    def words(self, guard: str, name: str, otherwise: str) -> NDArray[np.str_]:
        """The same of a setting that is a word."""
        key = guard, name
        if key not in self._words:
            asked = [next(a for a in r.program.guards if a.guard == guard) for r in self.rules]
            self._words[key] = np.array([str(a.get(name, otherwise)) for a in asked])
        return self._words[key]

    def tested(self, judge: Judge) -> Floats:
        """The number that evidence is weighed against, with its margin, one a rule; 0 where there is none."""
        if self._tested is None:
            values = [r.weighers[0].tested(r.weighers[0].claims[0], judge, 0) for r in self.rules]
            self._tested = np.array([0.0 if v is None else float(v) for v in values])
        return self._tested

    # -- truth -------------------------------------------------------------------------------------------------------

    def truth(self, tree: Node, judge: Judge, rows: I64) -> Truth:
        """(rows, rules) or, where all rules agree, (rows, 1)."""
        match tree:
            case Leaf(_, expression):
                column = judge.column(expression, rows)
                assert column is not None  # a text is compared with a text
                return self._leaf(tree, column, judge, rows)
            case Plain(compare):
                return judge.truth(compare, rows)[:, None]
            case Negated(term):
                return NEGATED[self.truth(term, judge, rows)]
            case Joined(terms, is_any):
                truths = [NEGATED[self.truth(t, judge, rows)] if is_any else self.truth(t, judge, rows) for t in terms]
                result = truths[0]
                for truth in truths[1:]:
                    result = KLEENE_AND[result * np.int8(3) + truth]
                return NEGATED[result] if is_any else result

    def _leaf(self, leaf: Leaf, column: Column, judge: Judge, rows: I64) -> Truth:
        value = column.value
        with np.errstate(invalid="ignore"):
            truth = OPERATORS[leaf.op](value[:, None], leaf.thresholds).view(np.int8)
            first = np.searchsorted(leaf.ascending, value - column.slack)
            last = np.searchsorted(leaf.ascending, value + column.slack, side="right")
        blurred = np.isinf(column.slack)
        first[blurred], last[blurred] = 0, len(leaf.order)
        close = last > first
        if close.any():
            for i in np.flatnonzero(close & ~column.unknown).tolist():
                for place in leaf.order[first[i] : last[i]].tolist():
                    truth[i, place] = judge.exactly(leaf.compares[place], int(rows[i]))
        if column.unknown.any():
            truth[column.unknown] = UNKNOWN
        return truth
