"""What a decision shows of its rule's condition: every comparison with its totals, its threshold and its truth."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from services.kernel.decision import Reading
from services.rules_engine.core.program import Compare, MetricRef, Number, Program
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.truth import WORDS, Judge, inside


def readings_of(rule: Running, judge: Judge, subject: Subject) -> tuple[Reading, ...]:
    """One a comparison, in the order written; of a pair those of `from` first."""
    return tuple([_reading(rule.program, judge, c, row) for compares, row in zip(rule.comparisons, subject, strict=True) for c in compares])


def _reading(program: Program, judge: Judge, compare: Compare, row: int) -> Reading:
    ref, number = compare.left, compare.right
    if isinstance(ref, MetricRef) and isinstance(number, Number):
        metric = program.metrics[ref.metric]
        n, d, truth = judge.ratio(compare.op, ref, number, row)
        d = 0 if metric.denominator is None else d
        return Reading(compare.text, metric.name, window_text(ref.window), n, d, nanos(number), WORDS[truth])
    return _reckoned(program, judge, compare, row)


def _reckoned(program: Program, judge: Judge, compare: Compare, row: int) -> Reading:
    """Of a comparison that reckons, or whose other side is no number."""
    truth = WORDS[judge.exactly(compare, row)]
    refs = inside(compare.left) + inside(compare.right)
    other = judge.value(compare.right if inside(compare.left) else compare.left, row)
    threshold = round(other * 1_000_000_000) if isinstance(other, Fraction) else 0
    if not refs:
        return Reading(compare.text, "", "", 0, 0, threshold, truth)
    metric = program.metrics[refs[0].metric]
    n, d = judge.totals(metric, refs[0].window, row)
    below = 0 if metric.denominator is None else (d or 0)
    return Reading(compare.text, metric.name, window_text(refs[0].window), (n or 0) * metric.factor, below, threshold, truth)


def nanos(number: Number) -> int:
    """In nano-units, of two that are as near the even one."""
    whole, rest = divmod(number.numerator * 1_000_000_000, number.denominator)
    return whole + (2 * rest > number.denominator or (2 * rest == number.denominator and whole & 1 == 1))


@lru_cache(1024)
def window_text(width: int) -> str:
    """since change, 24h, 7d, 90m."""
    if width == 0:
        return "since change"
    for unit, letter in ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m")):
        if width % unit == 0 and (letter != "d" or width > unit):
            return f"{width // unit}{letter}"
    return f"{width // 1_000_000}s"
