"""Truth has three values, is exact, and never depends on how many rows are asked at once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rules_engine.core.program import And, Arithmetic, AttributeRef, Compare, Measure, Metric, MetricRef, Not, Number, Or, TargetRef, Text
from services.rules_engine.core.truth import FALSE, TRUE, UNKNOWN, Judge

CLICKS, IMPRESSIONS, SPEND = (Measure("meta_ads", m) for m in ("clicks", "impressions", "spend@EUR"))
CTR = Metric("ctr", 1, "ratio", CLICKS, IMPRESSIONS, 1, "proportion")
CPC = Metric("cpc", 1, "EUR", SPEND, CLICKS, 1, "rate")
SPENT = Metric("spend", 1, "EUR", SPEND, None, 1, "")
METRICS = (CTR, CPC, SPENT)
MICRO = 1_000_000


class Given:
    """A view over literal rows: {measure: sum in micro-units}."""

    def __init__(self, *rows: dict, target: int | None = None, attributes: dict | None = None) -> None:
        self.rows, self._target, self.attributes = rows, target, attributes or {}

    def sums(self, measure, window, rows):
        sums = np.array([self.rows[r].get(measure, 0) for r in rows.tolist()], np.int64)
        return sums, (sums < 0) | (sums > 1 << 62)

    def sum_of(self, measure, window, row):
        sums, unknown = self.sums(measure, window, np.array([row]))
        return int(sums[0]), bool(unknown[0])

    def target(self, name, row):
        return self._target

    def targets(self, name, rows):
        return np.full(len(rows), self._target or 0, np.int64), np.full(len(rows), self._target is None)

    def attribute(self, name, row):
        return self.attributes.get(name)

    def attributes_of(self, name, rows, text):
        value = self.attributes.get(name)
        known = isinstance(value, int if text is None else str)
        return np.full(len(rows), (value if text is None else int(value == text)) if known else 0, np.int64), np.full(len(rows), not known)


def ref(i: int) -> MetricRef:
    return MetricRef(i, 0, METRICS[i].name)


def compare(left, op, right) -> Compare:
    return Compare(op, left, right, "")


def truth(condition, view: Given) -> list[int]:
    return Judge(METRICS, view).truth(condition, np.arange(len(view.rows))).tolist()


WEAK = compare(ref(0), "<", Number(8, 1000, "ratio", "0.8%"))


@pytest.mark.parametrize(
    ("clicks", "impressions", "expected"),
    [(7, 1000, TRUE), (8, 1000, FALSE), (0, 1000, TRUE), (0, 0, UNKNOWN), (1, 0, FALSE), (-1, 1000, UNKNOWN), (1, (1 << 62) + 1, UNKNOWN)],
)
def test_a_rate_below_its_threshold(clicks: int, impressions: int, expected: int) -> None:
    assert truth(WEAK, Given({CLICKS: clicks, IMPRESSIONS: impressions})) == [expected]


def test_spend_without_a_click_lies_above_every_threshold_and_nothing_over_nothing_is_unknown() -> None:
    dear = compare(ref(1), ">", Number(10**9, 1, "EUR", ""))
    assert truth(dear, Given({SPEND: 1}, {}, {SPEND: 5, CLICKS: 1})) == [TRUE, UNKNOWN, FALSE]


def test_a_target_that_is_not_set_is_unknown() -> None:
    above = compare(ref(1), ">", TargetRef("cpc", "EUR", ""))
    rows = {SPEND: 2 * MICRO, CLICKS: MICRO}
    assert truth(above, Given(rows, target=None)) == [UNKNOWN]
    assert truth(above, Given(rows, target=2 * MICRO - 1)) == [TRUE]
    assert truth(above, Given(rows, target=2 * MICRO)) == [FALSE]


@pytest.mark.parametrize(("status", "expected"), [("active", TRUE), ("paused", FALSE), (None, UNKNOWN), (7, UNKNOWN)])
def test_an_attribute_never_seen_is_unknown(status: object, expected: int) -> None:
    assert truth(compare(AttributeRef("status", "text"), "=", Text("active")), Given({}, attributes={"status": status})) == [expected]


def test_exact_arithmetic_keeps_what_is_unknown_unknown() -> None:
    judge = Judge(METRICS, Given({}))
    assert judge.exactly(compare(AttributeRef("status", "text"), "=", Text("active")), 0) == UNKNOWN
    assert judge.exactly(compare(ref(1), ">", TargetRef("cpc", "EUR", "")), 0) == UNKNOWN


def leaf(value: int) -> Compare:
    """A comparison that is false, true or unknown."""
    return compare(Number(0, 1, "count", ""), "<", [Number(0, 1, "count", ""), Number(1, 1, "count", ""), TargetRef("none", "count", "")][value])


@pytest.mark.parametrize("a", [FALSE, TRUE, UNKNOWN])
@pytest.mark.parametrize("b", [FALSE, TRUE, UNKNOWN])
def test_and_or_not_are_those_of_kleene(a: int, b: int) -> None:
    rank = {FALSE: 0, UNKNOWN: 1, TRUE: 2}
    low, high = sorted((a, b), key=rank.__getitem__)
    view = Given({})
    assert truth(And((leaf(a), leaf(b))), view) == [low]
    assert truth(Or((leaf(a), leaf(b))), view) == [high]
    assert truth(Not(leaf(a)), view) == [{FALSE: TRUE, TRUE: FALSE, UNKNOWN: UNKNOWN}[a]]


def test_arithmetic_with_infinity_is_unknown_where_it_means_nothing() -> None:
    judge = Judge(METRICS, Given({SPEND: 5}))
    infinite, two = ref(1), Number(2, 1, "count", "")
    assert judge.value(Arithmetic("-", infinite, infinite), 0) is None
    assert judge.value(Arithmetic("/", two, infinite), 0) == 0
    assert judge.value(Arithmetic("*", infinite, Number(0, 1, "count", "")), 0) is None
    assert judge.exactly(compare(Arithmetic("+", infinite, two), ">", Number(10**30, 1, "", "")), 0) == TRUE


near = st.integers(0, 1 << 53)


@given(near, st.integers(1, 1 << 53), st.sampled_from(["<", "<=", ">", ">=", "=", "!="]), st.integers(-2, 2))
def test_columns_say_what_exact_fractions_say_even_next_to_equality(clicks: int, impressions: int, op: str, nudge: int) -> None:
    threshold = Fraction(clicks, impressions) + Fraction(nudge, 10**30)
    condition = compare(ref(0), op, Number(threshold.numerator, threshold.denominator, "ratio", ""))
    sign = (nudge < 0) - (nudge > 0)  # the metric minus the threshold
    expected = {"<": sign < 0, "<=": sign <= 0, ">": sign > 0, ">=": sign >= 0, "=": sign == 0, "!=": sign != 0}[op]
    assert truth(condition, Given({CLICKS: clicks, IMPRESSIONS: impressions})) == [int(expected)]


@given(st.lists(st.tuples(near, near), min_size=1, max_size=20))
def test_many_rows_at_once_are_as_one_by_one(rows: list[tuple[int, int]]) -> None:
    view = Given(*({CLICKS: c, IMPRESSIONS: i, SPEND: c ^ i} for c, i in rows))
    condition = Or((WEAK, And((Not(WEAK), compare(Arithmetic("+", ref(1), ref(2)), ">", Number(3, 1, "EUR", ""))))))
    judge = Judge(METRICS, view)
    assert truth(condition, view) == [int(judge.truth(condition, np.array([r]))[0]) for r in range(len(rows))]
