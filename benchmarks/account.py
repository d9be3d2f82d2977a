"""A generated account for benchmarks: seeded events of a heavy-tailed set of creatives as encoded log records, and rules in mixed shapes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from services.adapters.codec.record import encode
from services.kernel.columns import keys_of
from services.kernel.record import EventBatch
from services.rules_engine.core.evidence import default_coefficients
from services.rules_engine.core.program import (
    Action,
    And,
    Approval,
    Arithmetic,
    Asked,
    Compare,
    Condition,
    Measure,
    Metric,
    MetricRef,
    Minimum,
    Number,
    Program,
)

MINUTE, HOUR = 60_000_000, 3_600_000_000
DAY = 24 * HOUR
START = 1_760_000_400_000_000 // DAY * DAY
WINDOWS = ((HOUR, MINUTE), (DAY, HOUR), (7 * DAY, HOUR))
MEASURES = ("impressions", "clicks", "conversions:purchase", "spend@EUR")
SHARES = (0.8, 0.12, 0.03, 0.05)
SPAN = 36 * HOUR  # of the whole run, in engine time


def paths(creatives: int) -> list[str]:
    return [f"meta_ads/act_{c // 200:04d}/cmp_{c // 20:05d}/ads_{c // 5:06d}/crv_{c:07d}" for c in range(creatives)]


def quality(creatives: int) -> np.ndarray:
    """How many of its clicks a creative keeps: most nearly all, a few next to none."""
    return np.random.default_rng(11).beta(6, 0.6, creatives)


def _batch(path: list[str], creative: np.ndarray, ids: np.ndarray, at: np.ndarray, of: np.ndarray, measure: np.ndarray, amount: np.ndarray) -> EventBatch:
    used, index = np.unique(creative, return_inverse=True)
    n = len(creative)
    zero, small = np.zeros(n, np.int64), np.zeros(n, np.uint32)
    none, little = np.zeros(0, np.int64), np.zeros(0, np.uint32)
    return EventBatch(
        "acme", tuple(path[c] for c in used), ("meta_ads",), ("report",), MEASURES, (), (), ids, index.astype(np.uint32), small, small, at, zero, zero, zero,
        np.zeros((n, 2), np.int64), of.astype(np.uint32), measure.astype(np.uint32), amount, little, little, little, none,
        keys_of([path[c] for c in used]),
    )  # fmt: skip


def span(events: int) -> int:
    """Engine time between two events, microseconds."""
    return SPAN // events


def deltas(events: int, per_record: int, creatives: int, seed: int = 5, each: bool = False) -> Iterator[tuple[int, bytes]]:
    """(stamp, encoded record): one amount an event; with `each` the first events are one of every creative."""
    rng = np.random.default_rng(seed)
    path = paths(creatives)
    weight = rng.pareto(1.6, creatives) + 1
    creative = rng.choice(creatives, events, p=weight / weight.sum())
    if each:
        creative[:creatives] = rng.permutation(creatives)
    measure = rng.choice(4, events, p=SHARES)
    measure = np.where((measure == 1) & (rng.random(events) > quality(creatives)[creative]), 0, measure)
    amount = np.where(measure == 3, rng.integers(16, 640, events) * 15_625, 1_000_000).astype(np.int64)
    at = START + np.arange(events, dtype=np.int64) * span(events)
    ids = rng.integers(-(2**63), 2**63, (events, 2), dtype=np.int64)
    for i in range(0, events, per_record):
        s = slice(i, i + per_record)
        n = len(creative[s])
        batch = _batch(path, creative[s], ids[s], at[s], np.arange(n), measure[s], amount[s])
        yield int(at[s][-1]), encode(batch)


def everyone(creatives: int, at: int) -> Iterator[tuple[int, bytes]]:
    """(stamp, encoded record): some cents spent on every creative at that instant, so that all of them are live."""
    rng = np.random.default_rng(7)
    path = paths(creatives)
    for i in range(0, creatives, 1_000):
        creative = np.arange(i, min(creatives, i + 1_000))
        n = len(creative)
        ids = rng.integers(-(2**63), 2**63, (n, 2), dtype=np.int64)
        yield at, encode(_batch(path, creative, ids, np.full(n, at), np.arange(n), np.full(n, 3), np.full(n, 15_625)))


def reports(events: int, per_record: int, creatives: int, seed: int = 5) -> Iterator[tuple[int, bytes]]:
    """(stamp, encoded record): report rows with four amounts each, restated as the day goes on."""
    rng = np.random.default_rng(seed)
    path = paths(creatives)
    creative = np.arange(events) % creatives
    at = START + np.arange(events, dtype=np.int64) * span(events)
    ids = rng.integers(-(2**63), 2**63, (events, 2), dtype=np.int64)
    day = at // DAY
    grown = (at - day * DAY) / DAY
    full = rng.integers(2_000, 90_000, creatives)
    shown = (full[creative] * grown).astype(np.int64)
    clicks = (shown * 0.15 * quality(creatives)[creative]).astype(np.int64)
    amounts = np.stack([shown, clicks, clicks // 4, (shown * 0.315).astype(np.int64)], axis=1) * 1_000_000
    key = rng.integers(-(2**63), 2**63, (creatives, 2), dtype=np.int64)
    for i in range(0, events, per_record):
        s = slice(i, i + per_record)
        n = len(creative[s])
        b = _batch(path, creative[s], ids[s], at[s], np.repeat(np.arange(n), 4), np.tile(np.arange(4), n), amounts[s].reshape(-1).copy())
        row = key[creative[s]].copy()
        row[:, 0] ^= day[s]
        yield int(at[s][-1]), encode(replace(b, interval_start=day[s] * DAY, interval_end=(day[s] + 1) * DAY, as_of=at[s].copy(), row_id=row))


IMPRESSIONS, CLICKS, SALES, SPEND = (Measure("meta_ads", m) for m in MEASURES)
METRICS = (
    Metric("ctr", 1, "ratio", CLICKS, IMPRESSIONS, 1, "proportion"),
    Metric("cvr(purchases)", 1, "ratio", SALES, CLICKS, 1, "proportion"),
    Metric("cpc", 1, "EUR", SPEND, CLICKS, 1, "rate"),
    Metric("cpa(purchases)", 1, "EUR", SPEND, SALES, 1, "rate"),
)
PLAIN = {
    m.name: Metric(name, 1, unit, m, None, 1, "")
    for m, name, unit in ((IMPRESSIONS, "impressions", "count"), (CLICKS, "clicks", "count"), (SPEND, "spend", "EUR"))
}
SAMPLE_OF = {"ctr": "impressions", "cvr(purchases)": "clicks", "cpc": "spend@EUR", "cpa(purchases)": "spend@EUR"}
USUAL = {"ctr": 0.15, "cvr(purchases)": 0.25, "cpc": 2.1, "cpa(purchases)": 8.4}  # of this account


def number(value: float, unit: str) -> Number:
    return Number(round(value * 1_000_000), 1_000_000, unit, f"{value:.6f}")


USUAL_GUARDS = (Asked("sample", ()), Asked("status", ()))
ALL_GUARDS = (
    *USUAL_GUARDS, Asked("cooldown", (("after", "any change"), ("for", 6 * HOUR))), Asked("fresh", (("within", 3 * HOUR),)),
    Asked("min_runtime", (("at_least", HOUR),)),
)  # fmt: skip


def rules(count: int, interval: int, seed: int = 3, guards: Sequence[Asked] = USUAL_GUARDS, far: float = 0.9) -> list[Program]:
    """Ratio against threshold with a minimum sample, in mixed shapes; every tenth with three clauses and arithmetic. Thresholds lie in the tail.

    `interval` between boundaries is microseconds of engine time; the less `far` thresholds lie, the more rules fire. The minimum sample is a clause of the
    condition, and asked about by the guard `sample` as well; without any guards nothing but the condition holds a rule back. The language refuses to write
    such a rule, the engine judges it like any other.
    """
    rnd = random.Random(seed)
    tail = far * count**0.17  # the more rules there are, the rarer what they look for, so that decisions stay about as many
    made = []
    for i in range(count):
        depth, (window, _) = rnd.choice((1, 2, 3, 4)), rnd.choice(WINDOWS)
        metric = rnd.choice(METRICS)
        shown = PLAIN[SAMPLE_OF[metric.name]]
        usual = USUAL[metric.name]
        off = rnd.uniform(1, 2) * tail if metric.unit == "EUR" else rnd.uniform(0.5, 1) / tail
        least = rnd.choice((100, 200, 500, 1_000)) * 1_000_000
        op = ">" if metric.unit == "EUR" else "<"
        compare = Compare(op, MetricRef(0, window, metric.name), number(usual * off, metric.unit), f"{metric.name} {op} {usual * off:.6f}")
        enough = Compare(">=", MetricRef(1, window, shown.name), number(least / 1e6, shown.unit), f"{shown.name} >= {least / 1e6}")
        when: Condition = And((compare, enough))
        if i % 10 == 9:
            spent = Arithmetic("*", MetricRef(1, window, shown.name), number(2, "ratio"))
            more = Compare(">", spent, number(least / 500_000, shown.unit), f"{shown.name} * 2 > {least / 500_000}")
            less = Compare("<", MetricRef(1, window, shown.name), number(1e9, shown.unit), f"{shown.name} < 1000000000")
            when = And((compare, more, less))
        made.append(
            Program(
                rule=f"rule-{i:05d}", owner="jana@acme.example", objective="", platform="meta_ads", currency="EUR", zone="UTC", depth=depth, where=None,
                unless=None, when=when, clear=None, pair=None, hold=0, metrics=(metric, shown), minimums=(Minimum(1, least, f"{least} {shown.name}"),),
                guards=tuple(sorted(guards, key=lambda a: a.guard)), lag=None, action=Action("notify"), approve=Approval(False, -1, "", 0, ""), risk="low",
                priority=0, valid_for=15 * MINUTE, panes=WINDOWS, interval=interval, coefficients=default_coefficients(),
            )
        )  # fmt: skip
    return made
