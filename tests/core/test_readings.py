"""What a decision shows is what exact fractions say, whichever way it is worked out."""

from __future__ import annotations

import operator
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from services.rules_engine.core.program import Number
from services.rules_engine.core.readings import nanos
from services.rules_engine.core.truth import UNKNOWN, against

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne}


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**30))
@example(1, 2 * 10**9)
@example(3, 2 * 10**9)
@example(-3, 2 * 10**9)
def test_a_threshold_in_nano_units_is_rounded_as_a_fraction_is(a: int, b: int) -> None:
    assert nanos(Number(a, b, "ratio", "")) == round(Fraction(a, b) * 1_000_000_000)


@given(st.sampled_from(sorted(OPERATORS)), st.integers(0, 1 << 62), st.integers(1, 1 << 62), st.integers(-(10**12), 10**12), st.integers(1, 10**12))
@example("<", 1 << 61, 1 << 62, 1, 2)
@example("<=", (1 << 61) + 1, 1 << 62, 1, 2)
def test_a_quotient_is_compared_with_a_number_as_a_fraction_is(op: str, above: int, below: int, a: int, b: int) -> None:
    assert against(op, above, below, Number(a, b, "ratio", "")) == OPERATORS[op](Fraction(above, below), Fraction(a, b))


def test_what_is_divided_by_nothing_lies_above_every_number_and_nothing_by_nothing_is_unknown() -> None:
    huge = Number(10**30, 1, "ratio", "")
    assert [against(op, 1, 0, huge) for op in ("<", "<=", "=", ">", ">=", "!=")] == [0, 0, 0, 1, 1, 1]
    assert against(">", 0, 0, Number(-1, 1, "ratio", "")) == UNKNOWN
