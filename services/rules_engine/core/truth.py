"""Truth of a condition, three-valued and exact: false, true, or unknown, and unknown never acts.

Columns are compared as floats where the two sides are clearly apart, and again as exact fractions where they are close, so the answer is always the
exact one. x / 0 with x > 0 lies above every threshold; 0 / 0, a negative sum, a sum past 2^62 and a sum over mixed currencies are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core.program import (
    And,
    Arithmetic,
    AttributeRef,
    Compare,
    Condition,
    Expression,
    Measure,
    Metric,
    MetricRef,
    Not,
    Number,
    Or,
    TargetRef,
    Text,
)

FALSE, TRUE, UNKNOWN = 0, 1, 2
WORDS = ("false", "true", "unknown")
LARGEST_SUM = 1 << 62
MICRO = 1_000_000
CLOSE = 1e-9
Truth = NDArray[np.int8]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Infinite:
    """Above every number, as x / 0 is for x > 0, or with sign -1 below every number, as what is left after taking that away."""

    sign: int = 1


INFINITE: Final = Infinite()
Exact = Fraction | Infinite | str | None  # None is unknown


class View(Protocol):
    """What a condition may read at one boundary."""

    def sums(self, measure: Measure, window: int, rows: I64) -> tuple[I64, Bools]:
        """(sum in micro-units, unknown) of each row."""
        ...

    def sum_of(self, measure: Measure, window: int, row: int) -> tuple[int, bool]:
        """The same of one row."""
        ...

    def target(self, asked: TargetRef, row: int) -> int | None:
        """Micro-units of the deepest valid target, or None where there is none or it has another unit."""
        ...

    def attribute(self, name: str, row: int) -> str | int | None: ...

    def targets(self, asked: TargetRef, rows: I64) -> tuple[I64, Bools]:
        """(micro-units, unknown) of each row."""
        ...

    def attributes_of(self, name: str, rows: I64, text: str | None) -> tuple[I64, Bools]:
        """(micro-units, unknown) of each row, or with a text (1 where it is the value, unknown)."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """Values as floats, where they are unknown, and how far they may at most be from the exact ones (infinity: only exact arithmetic will do)."""

    value: Floats
    unknown: Bools
    slack: Floats

    def at(self, index: I64) -> Column:
        return Column(self.value[index], self.unknown[index], self.slack[index])


class Judge:
    """Evaluates one program's conditions on rows of one view."""

    def __init__(self, metrics: tuple[Metric, ...], view: View) -> None:
        self.metrics, self.view = metrics, view
        self._metrics: dict[tuple[int, int], tuple[I64, Column]] = {}

    def truth(self, condition: Condition | None, rows: I64, absent: int = TRUE) -> Truth:
        """FALSE, TRUE or UNKNOWN of each row; `absent` where there is no condition."""
        match condition:
            case None:
                return np.full(len(rows), absent, np.int8)
            case Compare():
                return self._compare(condition, rows)
            case Not(term):
                return NEGATED[self.truth(term, rows)]
            case And(terms):
                return both([self.truth(t, rows) for t in terms])
            case Or(terms):
                return NEGATED[both([NEGATED[self.truth(t, rows)] for t in terms])]

    def _compare(self, compare: Compare, rows: I64) -> Truth:
        words = self._words(compare, rows)
        if words is not None:
            return words
        left, right = self.column(compare.left, rows), self.column(compare.right, rows)
        if left is None or right is None:
            return np.array([self.exactly(compare, r) for r in rows.tolist()], np.int8)
        with np.errstate(invalid="ignore"):
            result = OPERATORS[compare.op](left.value, right.value).astype(np.int8)
            clear = np.abs(left.value - right.value) > left.slack + right.slack
        unknown = left.unknown | right.unknown
        for i in np.flatnonzero(~clear & ~unknown).tolist():
            result[i] = self.exactly(compare, int(rows[i]))
        result[unknown] = UNKNOWN
        return result

    def _words(self, compare: Compare, rows: I64) -> Truth | None:
        """An attribute compared with a text, or None where this is no such comparison."""
        match compare:
            case Compare("=" | "!=" as op, AttributeRef(name), Text(text)) | Compare("=" | "!=" as op, Text(text), AttributeRef(name)):
                is_it, unknown = self.view.attributes_of(name, rows, text)
                return np.where(unknown, UNKNOWN, is_it if op == "=" else 1 - is_it).astype(np.int8)
        return None

    def column(self, e: Expression, rows: I64) -> Column | None:
        """The expression on every row, or None where it is a text."""
        n = len(rows)
        match e:
            case Number(a, b):
                return Column(np.full(n, a / b), np.zeros(n, np.bool_), np.full(n, abs(a / b) * CLOSE))
            case MetricRef(index, window):
                return self._metric(index, window, rows)
            case TargetRef():
                return micro_column(*self.view.targets(e, rows))
            case AttributeRef(name, unit) if unit != "text":
                return micro_column(*self.view.attributes_of(name, rows, None))
            case Arithmetic(op, left, right):
                first, second = self.column(left, rows), self.column(right, rows)
                return None if first is None or second is None else combined(op, first, second)
        return None

    def _metric(self, index: int, window: int, rows: I64) -> Column:
        known = self._metrics.get((index, window))
        if known is not None and known[0] is rows:
            return known[1]
        metric = self.metrics[index]
        numerator, unknown = self.view.sums(metric.numerator, window, rows)
        if metric.denominator is None:
            value: Floats = np.asarray(numerator * (metric.factor / MICRO), np.float64)
        else:
            denominator, u = self.view.sums(metric.denominator, window, rows)
            with np.errstate(divide="ignore", invalid="ignore"):
                value = metric.factor * (numerator.astype(np.float64) / denominator.astype(np.float64))
            unknown = unknown | u | ((numerator == 0) & (denominator == 0))
        column = Column(value, unknown, near(value))
        self._metrics[index, window] = rows, column
        return column

    def exactly(self, compare: Compare, row: int) -> int:
        """The truth of a comparison for one row, in exact arithmetic."""
        if isinstance(compare.left, MetricRef) and isinstance(compare.right, Number):
            return self.ratio(compare.op, compare.left, compare.right, row)[2]
        a, b = self.value(compare.left, row), self.value(compare.right, row)
        if a is None or b is None:
            return UNKNOWN
        if isinstance(a, str) or isinstance(b, str):
            return UNKNOWN if type(a) is not type(b) else int((a == b) == (compare.op == "="))
        if isinstance(a, Infinite) or isinstance(b, Infinite):
            return UNKNOWN if a == b else int(EXACT[compare.op](*(Fraction(x.sign if isinstance(x, Infinite) else 0) for x in (a, b))))
        return int(EXACT[compare.op](a, b))

    def value(self, e: Expression, row: int) -> Exact:
        """The exact value of an expression in natural units."""
        match e:
            case Number(n, d):
                return Fraction(n, d)
            case Text(value):
                return value
            case MetricRef(index, window):
                above, below = self.totals(self.metrics[index], window, row)
                return None if above is None or below is None else over(Fraction(above * self.metrics[index].factor), Fraction(below))
            case TargetRef():
                amount = self.view.target(e, row)
                return None if amount is None else Fraction(amount, MICRO)
            case AttributeRef(name):
                known = self.view.attribute(name, row)
                return Fraction(known, MICRO) if isinstance(known, int) else known
            case Arithmetic(op, left, right):
                return arithmetic(op, self.value(left, row), self.value(right, row))

    def ratio(self, op: str, ref: MetricRef, number: Number, row: int) -> tuple[int, int, int]:
        """(numerator, denominator, truth) of a metric against a number: of a plain amount 10^6 is below, and 0 stands for what is unknown."""
        metric = self.metrics[ref.metric]
        above, below = self.totals(metric, ref.window, row)
        if above is None or below is None:
            return (above or 0) * metric.factor, below or 0, UNKNOWN
        above *= metric.factor
        return above, below, against(op, above, below, number)

    def totals(self, metric: Metric, window: int, row: int) -> tuple[int | None, int | None]:
        """(numerator, denominator) in micro-units; a plain amount has 10^6 below; None is unknown."""
        n, unknown = self.view.sum_of(metric.numerator, window, row)
        if metric.denominator is None:
            return (None if unknown else n), MICRO
        d, u = self.view.sum_of(metric.denominator, window, row)
        return (None if unknown else n), (None if u else d)


def near(value: Floats) -> Floats:
    """How far a value that took one or two roundings may be from the exact one, generously."""
    return np.where(np.isfinite(value), np.abs(value) * CLOSE, 0.0)


def combined(op: str, a: Column, b: Column) -> Column:
    """Arithmetic on columns with its slack; what is not a number is unknown, as in exact arithmetic."""
    x, y = a.value, b.value
    size_x, size_y = (np.where(np.isinf(v), 0.0, np.abs(v)) for v in (x, y))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        match op:
            case "+":
                value, slack = x + y, a.slack + b.slack
            case "-":
                value, slack = x - y, a.slack + b.slack
            case "*":
                value, slack = x * y, size_x * b.slack + size_y * a.slack + a.slack * b.slack
            case _:
                value = x / np.where(y == 0, 0.0, y)  # a negative zero is a zero
                slack = np.where(size_y > b.slack, (a.slack + size_x * b.slack / np.where(size_y > 0, size_y, 1.0)) / np.maximum(size_y - b.slack, 1e-300), 0.0)
        blurred = [(size <= c.slack) & (c.slack > 0) for size, c in ((size_x, a), (size_y, b))]  # its sign is not certain
        slack = np.where((blurred[1] if op == "/" else False) | ((blurred[0] | blurred[1]) & ~np.isfinite(value)), np.inf, slack + near(value))
    nothing = np.isnan(value) if op != "/" else np.isnan(value) | ((y == 0) & ~(x > 0))
    return Column(value, a.unknown | b.unknown | (nothing & np.isfinite(slack)), np.where(np.isnan(slack), np.inf, slack))


def both(terms: list[Truth]) -> Truth:
    """Kleene's and: one false decides, else any unknown makes it unknown."""
    table = np.stack(terms)
    return np.where((table == FALSE).any(axis=0), FALSE, np.where((table == UNKNOWN).any(axis=0), UNKNOWN, TRUE)).astype(np.int8)


def micro_column(micros: I64, unknown: Bools) -> Column:
    value = micros / MICRO
    return Column(value, unknown, near(value))


def over(a: Fraction, b: Fraction) -> Exact:
    if b == 0:
        return INFINITE if a > 0 else None
    return a / b


def against(op: str, above: int, below: int, number: Number) -> int:
    """The truth of `above / below op number`, of integers of which only `above` may be below 0, as exact arithmetic has it."""
    if below:
        return int(EXACT[op](above * number.denominator, number.numerator * below))
    return int(EXACT[op](1, 0)) if above > 0 else UNKNOWN


def arithmetic(op: str, a: Exact, b: Exact) -> Exact:
    """Exact, with infinity where it is meant and unknown where it is not: inf - inf, 0 * inf, inf / inf, text."""
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return None
    if isinstance(a, Infinite) or isinstance(b, Infinite):
        return infinite_arithmetic(op, a, b)
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _:
            return over(a, b)


def infinite_arithmetic(op: str, a: Fraction | Infinite, b: Fraction | Infinite) -> Exact:
    """Of two, one of them at least infinite."""
    x, y = (v.sign if isinstance(v, Infinite) else (v > 0) - (v < 0) for v in (a, b))
    match op:
        case "+" | "-":
            ends = {v.sign * w for v, w in ((a, 1), (b, 1 if op == "+" else -1)) if isinstance(v, Infinite)}
            return Infinite(ends.pop()) if len(ends) == 1 else None
        case "*":
            return Infinite(x * y) if x * y else None
    if not isinstance(a, Infinite):
        return Fraction(0)
    if isinstance(b, Infinite):
        return None
    if y == 0:
        return INFINITE if x > 0 else None
    return Infinite(x * y)


NEGATED = np.array([TRUE, FALSE, UNKNOWN], np.int8)
OPERATORS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal, "!=": np.not_equal}
MIRRORED_OPERATORS = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
EXACT = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def comparisons(condition: Condition | None) -> list[Compare]:
    """Every comparison, in the order written."""
    match condition:
        case None:
            return []
        case Compare():
            return [condition]
        case Not(term):
            return comparisons(term)
        case And(terms) | Or(terms):
            return [c for t in terms for c in comparisons(t)]


def references(condition: Condition | None) -> list[MetricRef]:
    """Every metric that a condition reads, in the order written."""
    return [r for c in comparisons(condition) for side in (c.left, c.right) for r in inside(side)]


def inside(e: Expression) -> list[MetricRef]:
    match e:
        case MetricRef():
            return [e]
        case Arithmetic(_, left, right):
            return inside(left) + inside(right)
    return []
