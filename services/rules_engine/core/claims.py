"""What a condition claims about a true rate, and how strongly the totals since the last change speak for it.

`ctr < 0.8%` claims that a proportion is low; `cpa > 30 EUR` that sales per euro are low. Under `effect: 10%` the claim is tested ten percent further out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core import evidence
from services.rules_engine.core.history import Past
from services.rules_engine.core.program import And, Compare, Condition, Expression, Measure, Metric, MetricRef, Not, Or, Program
from services.rules_engine.core.truth import Judge, inside

MILLION = 1_000_000
DAY = 86_400_000_000
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Claim:
    """The metric lies below (or above) a threshold; `side` is that of the rate of events: a high cost is a low rate."""

    metric: Metric
    below: bool
    threshold: Expression
    side: str  # low | high
    lagged: bool  # spend counts only as far as its conversions could have arrived


@dataclass(frozen=True, slots=True)
class Strength:
    """log E in micro-nats with the totals it was computed from, integers sorted by name."""

    log_e: int
    claim: Claim
    totals: tuple[tuple[str, int | str], ...]


class Source(Protocol):
    """Where a claim finds one row's amounts since its start."""

    def past(self, measure: Measure, row: int) -> Past: ...


def arrived(age: int, points: tuple[tuple[int, int], ...]) -> Fraction:
    """The share of credit that has arrived at an age: linear between the points of the lag table, 0 at age 0, all of it after the last."""
    x0, y0 = 0, 0
    for x, y in points:
        if age < x:
            return Fraction(y0 * (x - x0) + (y - y0) * (age - x0), MILLION * (x - x0))
        x0, y0 = x, y
    return Fraction(1)


def claims_of(program: Program, condition: Condition, negated: bool = False) -> tuple[Claim, ...]:
    """The claims of a condition; `not` is pushed inwards."""
    match condition:
        case Not(term):
            return claims_of(program, term, not negated)
        case And(terms) | Or(terms):
            return tuple(c for t in terms for c in claims_of(program, t, negated))
        case Compare(op, left, right):
            if op not in OPPOSITE:
                return ()
            op = OPPOSITE[op] if negated else op
            if isinstance(right, MetricRef) and not inside(left):
                left, right, op = right, left, MIRRORED[op]
            if not isinstance(left, MetricRef) or left.window != 0 or inside(right):
                return ()
            return _claim(program, program.metrics[left.metric], op[0] == "<", right)


def _claim(program: Program, metric: Metric, below: bool, threshold: Expression) -> tuple[Claim, ...]:
    if metric.family == "proportion":
        return (Claim(metric, below, threshold, "low" if below else "high", False),)
    if metric.family == "rate":
        lagged = not below and program.lag is not None and metric.name.endswith(f"({program.lag.of})")
        return (Claim(metric, below, threshold, "high" if below else "low", lagged),)
    return ()


class Weigher:
    """Weighs a program's claims for one row at one instant, or along a column of instants."""

    def __init__(self, program: Program, claims: tuple[Claim, ...]) -> None:
        self.program, self.claims = program, claims
        confidence = next((a for a in program.guards if a.guard == "confidence"), None)
        self.effect = Fraction(confidence.integer("effect") if confidence else 0, MILLION)
        self.needed = evidence.threshold_micro_nats(MILLION - (confidence.integer("level", 950_000) if confidence else 950_000))
        self.coefficients = dict(program.coefficients)
        default = self.coefficients.get("dispersion", (0.2,))[0]
        self.cv = confidence.integer("dispersion", -1) / MILLION if confidence and confidence.integer("dispersion", -1) >= 0 else default
        starts = [s for s, _ in program.offsets]
        self.zone_start, self.zone_offset = np.array(starts, np.int64), np.array([o for _, o in program.offsets], np.int64)

    def tested(self, claim: Claim, judge: Judge, row: int) -> Fraction | None:
        """The threshold with its margin, or None where either is unknown or not positive."""
        threshold = judge.value(claim.threshold, row)
        if not isinstance(threshold, Fraction) or threshold <= 0:
            return None
        tested = threshold * (1 - self.effect if claim.below else 1 + self.effect)
        return tested if tested > 0 else None

    def weigh(self, judge: Judge, source: Source, row: int, now: int) -> Strength | None:
        """The weakest of the claims for one row, or None where one of them cannot be measured."""
        return self.weigh_all(judge, source, [row], now)[row]

    def weigh_all(self, judge: Judge, source: Source, rows: list[int], now: int) -> dict[int, Strength | None]:
        """The same for many rows: each claim is one column of log E."""
        weakest: dict[int, Strength | None] = {}
        for i, claim in enumerate(self.claims):
            strengths = self._column(claim, judge, source, rows, now)
            for row in rows:
                strength, before = strengths.get(row), weakest.get(row)
                if i == 0 or (before is not None and (strength is None or strength.log_e < before.log_e)):
                    weakest[row] = strength
        return weakest

    def _column(self, claim: Claim, judge: Judge, source: Source, rows: list[int], now: int) -> dict[int, Strength]:
        """Those rows that can be measured."""
        known: list[tuple[int, list[tuple[str, int | str]]]] = []
        figures: list[tuple[float, float, float]] = []
        for row in rows:
            tested, (n, d) = self.tested(claim, judge, row), judge.totals(claim.metric, 0, row)
            if tested is None or n is None or d is None:
                continue
            named: list[tuple[str, int | str]] = [("side", claim.side), ("tested_nano", round(tested * 1_000_000_000)), ("numerator", n), ("denominator", d)]
            if claim.metric.family == "proportion":
                if n > d or not 0 < tested < 1:
                    continue
                figures.append((d / MILLION, n / MILLION, float(tested)))
            else:
                days = self._daily(claim, source.past(claim.metric.numerator, row), now)
                m = float(sum(days) / MILLION / tested)
                if m < 0:
                    continue
                phi = evidence.dispersion([float(Fraction(micro) / MILLION / tested) for micro in days], self.cv)
                figures.append((d / MILLION, m, phi))
                named += [("matured", int(sum(days))), ("phi_micro", round(phi * MILLION)), ("cv_micro", round(self.cv * MILLION))]
            known.append((row, named))
        if not known:
            return {}
        first, second, third = (np.array(column) for column in zip(*figures, strict=True))
        if claim.metric.family == "proportion":
            log_e = evidence.proportion_log_e(first, second, third, claim.side, self.coefficients[claim.side])
        else:
            log_e = evidence.rate_log_e(first, second, third, claim.side, self.coefficients[claim.side])
        return {row: Strength(e, claim, tuple(sorted(named))) for (row, named), e in zip(known, log_e.tolist(), strict=True)}

    def _proportion(self, claim: Claim, n: float, k: float, p0: float) -> int:
        grid = self.coefficients[claim.side]
        return int(evidence.proportion_log_e(np.array([n]), np.array([k]), np.array([p0]), claim.side, grid)[0])

    def _rate(self, claim: Claim, events: float, m: Floats, phi: Floats) -> I64:
        log_e: I64 = evidence.rate_log_e(np.full(len(m), events), m, phi, claim.side, self.coefficients[claim.side])
        return log_e

    def _daily(self, claim: Claim, spent: Past, now: int) -> list[Fraction]:
        """Matured micro-units by local calendar day of landing, oldest first."""
        days: dict[int, Fraction] = defaultdict(Fraction)
        points = self.program.lag.points if claim.lagged and self.program.lag else ()
        for day, landing, amount in zip(self.local_day(spent.landing).tolist(), spent.landing.tolist(), spent.amount.tolist(), strict=True):
            days[day] += amount * arrived(now - landing, points) if points else amount
        return [days[d] for d in sorted(days)]

    def local_day(self, landing: I64) -> I64:
        if not len(self.zone_start):
            return np.asarray(landing // DAY, np.int64)
        at = np.maximum(np.searchsorted(self.zone_start, landing, side="right") - 1, 0)
        return np.asarray((landing + self.zone_offset[at]) // DAY, np.int64)

    @property
    def ages(self) -> bool:
        """Whether evidence moves with time alone."""
        return any(c.lagged for c in self.claims)

    def curve(self, judge: Judge, source: Source, row: int, instants: I64) -> I64:
        """About log E at each instant, for finding where it may cross; what is decided is decided by `weigh`."""
        lowest = np.full(len(instants), np.iinfo(np.int64).max)
        for claim in self.claims:
            if not claim.lagged:
                continue
            tested, (_, d) = self.tested(claim, judge, row), judge.totals(claim.metric, 0, row)
            if tested is None or d is None or self.program.lag is None:
                continue
            spent = source.past(claim.metric.numerator, row)
            xs = np.array([0.0] + [float(x) for x, _ in self.program.lag.points])
            ys = np.array([0.0] + [y / MILLION for _, y in self.program.lag.points])
            credit = np.interp((instants[:, None] - spent.landing[None, :]).astype(np.float64), xs, ys, right=1.0) * (spent.amount / (MILLION * float(tested)))
            days, index = np.unique(self.local_day(spent.landing), return_inverse=True)
            daily = np.zeros((len(instants), len(days)))
            for i, column in enumerate(index.reshape(-1).tolist()):
                daily[:, column] += credit[:, i]
            m = daily.sum(axis=1)
            phi = 1 + self.cv * self.cv * (daily * daily).sum(axis=1) / np.where(m > 0, m, 1)
            m = np.maximum(m, 0)
            lowest = np.minimum(lowest, self._rate(claim, d / MILLION, m, phi))
        return lowest
