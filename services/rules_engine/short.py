"""What one guard said, or what one comparison came to, in a line for a list: units as people write them, no micro-units."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

from services.kernel.decision import Reading, Verdict
from services.rules_engine.core.claims import MILLION
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.program import Arithmetic, AttributeRef, Condition, Expression, Measure, Metric, MetricRef, Program, TargetRef
from services.rules_engine.core.truth import UNKNOWN, Judge, comparisons
from services.rules_engine.told import ago, money, number, percent, ratio

Figures = dict[str, int | str]


def refusal(verdict: Verdict, program: Program, guards: dict[str, Guard]) -> str:
    """Why the guard refused; a guard that is not known here is told by its own template."""
    figures = dict(verdict.figures)
    told = WORDS.get((verdict.guard, verdict.refusal))
    if told is not None:
        return f"{verdict.guard}: {told(figures, program)}"
    known = guards.get(verdict.guard)
    template = known.refusals.get(verdict.refusal, "") if known is not None else ""
    return f"{verdict.guard}: {template.format_map(figures) or verdict.refusal}"


def whole(figures: Figures, name: str) -> int:
    value = figures.get(name, 0)
    return value if isinstance(value, int) else 0


def evidence(figures: Figures, program: Program) -> str:
    return f"not proven, evidence {ratio(whole(figures, 'evidence'))}; {exp(whole(figures, 'needed') / MILLION):.0f} needed"


def sample(figures: Figures, program: Program) -> str:
    """Which minimum fell short is told by its least amount."""
    least = whole(figures, "least")
    short = next((m for m in program.minimums if m.least == least), program.minimums[0])
    of = program.metrics[short.metric].numerator
    return f"{amount(of, whole(figures, 'counted'))} of {amount(of, least)} counted"


def amount(measure: Measure, micros: int) -> str:
    """1,594 impressions; 1 click; 0 purchases; 12.50 EUR."""
    if currency := measure.name.partition("@")[2]:
        return money(micros / MILLION, currency)
    one = noun(measure).removesuffix("s")
    return f"{number(micros / MILLION)} {one if micros == MILLION else one + 's'}"


WORDS: dict[tuple[str, str], Callable[[Figures, Program], str]] = {
    ("confidence", "not_proven"): evidence,
    ("confidence", "not_measured"): lambda f, p: "nothing yet that evidence could be measured on",
    ("sample", "too_small"): sample,
    ("sample", "unknown"): lambda f, p: "what was counted is unknown",
    ("min_runtime", "too_young"): lambda f, p: f"runs for {ago(max(0, whole(f, 'running')))}, {ago(whole(f, 'at_least'))} asked for",
    ("cooldown", "recently_changed"): lambda f, p: f"changed {ago(max(0, whole(f, 'ago')))} before, {ago(whole(f, 'for'))} asked for",
    ("fresh", "stale"): lambda f, p: f"nothing from {f.get('source')} for {ago(whole(f, 'age'))}, {ago(whole(f, 'within'))} allowed",
    ("fresh", "never_heard"): lambda f, p: f"nothing was ever heard from {f.get('source')}",
    ("keep_active", "last_survivors"): lambda f, p: (
        f"{whole(f, 'others') or 'no'} other{'s' if whole(f, 'others') != 1 else ''} of its {f.get('per')} would stay on, {whole(f, 'at_least')} asked for"
    ),
    ("status", "does_not_fit"): lambda f, p: f"its status is {f.get('status')}",
    ("outranked", "outranked"): lambda f, p: "another object went first at the same moment",
    ("proposal", "nothing_to_move"): lambda f, p: "there is no budget that may be moved",
}


def reading(r: Reading, program: Program) -> str:
    """ctr[since change] < 0.8%: 1.20 % (18 of 1,500)."""
    metric = next((m for m in program.metrics if m.name == r.metric), None)
    return f"{r.text}: {value(r, metric)}" if metric is not None else f"{r.text}: {r.truth}"


def value(r: Reading, metric: Metric) -> str:
    if metric.denominator is None:
        return amount(metric.numerator, r.numerator // metric.factor)
    n, d = r.numerator // metric.factor, r.denominator
    counted = f"{amount(metric.numerator, n)}, {amount(metric.denominator, d)}"
    if d == 0:
        return f"{'nothing counted' if n == 0 else 'without end'} ({counted})"
    rate = metric.factor * n / d
    return f"{percent(rate) if metric.unit == 'ratio' else money(rate, metric.unit)} ({counted})"


def unknowns(condition: Condition | None, judge: Judge, row: int) -> list[str]:
    """Why a condition has no answer for a row, one text a cause."""
    unanswered = [c for c in comparisons(condition) if judge.exactly(c, row) == UNKNOWN]
    return list(dict.fromkeys(text for c in unanswered for side in (c.left, c.right) for text in missing(side, judge, row)))


def missing(e: Expression, judge: Judge, row: int) -> list[str]:
    match e:
        case TargetRef() if judge.value(e, row) is None:
            return [f"no target {e.name} is set for it"]
        case AttributeRef() if judge.value(e, row) is None:
            return [f"its {e.name} is not known"]
        case MetricRef(index, window):
            return [text] if (text := uncounted(judge.metrics[index], window, judge, row)) else []
        case Arithmetic(_, left, right):
            return missing(left, judge, row) + missing(right, judge, row)
    return []


def uncounted(metric: Metric, window: int, judge: Judge, row: int) -> str:
    n, d = judge.totals(metric, window, row)
    if n is None or d is None:
        return f"its {metric.name} cannot be known: corrections below zero, or mixed currencies"
    if metric.denominator is None or n or d:
        return ""
    return f"no {noun(metric.denominator)} and no {noun(metric.numerator)} counted{f' in the last {ago(window)}' if window else ''}"


def noun(measure: Measure) -> str:
    name = measure.name.partition("@")[0]
    return name.partition(":")[2].partition(":")[0] or name
