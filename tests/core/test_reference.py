"""The engine decides what the reference evaluator decides: the same decisions with the same readings, refusals, evidence and actions."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest

from services.kernel.record import Stamped, Tick
from tests.core.world import World, pause_rule
from tests.reference.compare import FEEDS, compare, difference, disagreement, in_one_piece
from tests.reference.evaluator import evaluate
from tests.reference.generate import Log, generate

SMOKE = range(80)
LONG = range(100_000, 100_240)
SHORT = 1200  # boundaries

written = cache(generate)


def chunks(seeds: range, size: int) -> list[range]:
    return [seeds[i : i + size] for i in range(0, len(seeds), size)]


@pytest.mark.parametrize("seeds", chunks(SMOKE, 10), ids=str)
def test_engine_and_reference_decide_the_same(seeds: range) -> None:
    for seed in seeds:
        assert (found := disagreement(written(seed), seed)) is None, found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", chunks(LONG, 40), ids=str)
def test_engine_and_reference_decide_the_same_over_many_logs(seeds: range) -> None:
    for seed in seeds:
        assert (found := compare(seed, 70)) is None, found


def short(log: Log) -> Log:
    """As much of it as passes `SHORT` boundaries, and the boundaries after it up to there."""
    end = log.records[0].stamp + SHORT * log.interval
    records = [s for s in log.records if s.stamp < end]
    return Log(log.interval, (*records, Stamped(len(log.records), end, Tick())))


@pytest.mark.parametrize("seeds", chunks(SMOKE[::4], 5), ids=str)
def test_judging_literally_every_boundary_decides_the_same(seeds: range) -> None:
    """A boundary is skipped, by either, only where provably nothing can differ."""
    for seed in seeds:
        log = short(written(seed))
        every = evaluate(log.records, log.interval, skip=False)
        assert difference(every, evaluate(log.records, log.interval)) is None
        assert difference(every, in_one_piece(log.records, random.Random(seed))) is None


OFTEN = {
    5: ("fired in active", "fired in shadow", "refused in active", "refused in shadow", "cleared in active", "cleared in shadow"),
    3: (
        *(f"refused by {name}" for name in ("confidence", "cooldown", "fresh", "keep_active", "min_runtime", "sample", "status", "outranked", "proposal")),
        *(f"fired: {kind}" for kind in ("pause", "resume", "notify", "set_budget", "shift_budget")),
        *(f"pair {kind}" for kind in ("fired", "refused", "cleared")),
        "fired on evidence",
        "ended: deadline",
        "ended: deadline of an escalation",
        "ended: after its cause",
        *(f"ended late: {status}" for status in ("verified", "held", "expired", "cancelled", "after its cause")),
        "off while waiting",
        *(f"reading {truth}" for truth in ("true", "false", "unknown")),
        *(f"row: {what}" for what in ("new", "restated", "restated elsewhere", "outdated", "open", "closed")),
        *(f"set aside: {why}" for why in ("ahead", "huge", "late")),
        "duplicate",
        "accepted again after the horizon",
        *(f"unknown: {why}" for why in ("currencies", "negative", "past 2^62")),
        *(f"spend a day {what}" for what in ("unknown: currencies", "unknown: negative", "taken for a number")),
        "fired: spend a day unknown, asks above",
        *(f"version: {what}" for what in ("new", "replaces", "moves", "stands already", "retired")),
    ),
    1: tuple(f"ended: {status}" for status in ("verified", "failed", "unknown", "held", "rejected", "expired", "cancelled")),
}


def test_the_logs_hold_everything_that_the_semantics_speak_of() -> None:
    met: Counter[str] = Counter()
    for seed in SMOKE:
        met.update(written(seed).met)
    print(*(f"{count:7} {what}" for what, count in sorted(met.items())), sep="\n")
    assert {what: met[what] for least, many in OFTEN.items() for what in many if met[what] < least} == {}


def test_a_difference_is_found_and_told_in_words() -> None:
    """The comparison itself can fail: an engine that forgets one record is caught, and the log it is told on is small."""
    world = World().activate(pause_rule()).at(1).report("b", 1000, 100, status="active").report("a", 1000, 5, status="active").at(2).tick()
    log = Log(1_000_000, tuple(world.records))
    told = difference(evaluate(log.records), in_one_piece([s for s in log.records if s.offset != 3], random.Random(0)))
    assert told is not None
    assert [d.kind for d in told.reference] == ["fired"]
    assert told.engine == ()


def test_the_engine_says_the_same_however_it_is_fed() -> None:
    for seed in SMOKE[:6]:
        log = written(seed)
        said = [feed(log.records, random.Random(seed)) for feed in FEEDS]
        assert said[1:] == said[:-1]
