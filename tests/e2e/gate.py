"""The archive's tests run through the engine: reports in random order, pauses carried out at once, scored by what happened in the end."""

from __future__ import annotations

from services.demo.sample import Experiment, order
from services.demo.score import Score, plain_rule, score
from services.kernel.columns import batches
from services.kernel.event import Event
from services.kernel.record import Outcome, Record, Stamped, Target, Tick
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Compare, MetricRef, Program, TargetRef
from tests.core.world import CTR, DAY, GUARDS, HOUR, META, SHOWN, START, World, asked, minimum, pause_rule

ROUNDS = 48


def rule() -> Program:
    """Pause a creative whose click-through rate is proven below its test's own rate."""
    below = Compare("<", MetricRef(0, 0, "ctr"), TargetRef("ctr", "ratio", "target(ctr)"), "ctr[since change] < target(ctr)")
    guards = (asked("confidence", level=950_000, effect=0), asked("min_runtime", at_least=0), asked("sample"), asked("status"))
    return pause_rule(when=below, guards=guards, minimums=minimum(100), metrics=(CTR, SHOWN), panes=((DAY, HOUR),))


def path(test: Experiment, arm: str) -> str:
    return f"{META}/act/upworthy/{test.name}/{arm}"


def run(tests: list[Experiment], seed: int) -> tuple[Score, Score]:
    """(guarded, plain)."""
    drawn = {arm.name: order(arm, ROUNDS, seed) for test in tests for arm in test.arms}
    world = World().activate(rule())
    records: list[Stamped[Record]] = [*world.records]
    records += [Stamped(0, START, Target("acme", "ctr", f"{META}/act/upworthy/{t.name}", t.target, "ratio")) for t in tests]
    known = [Event(f"k{a.name}", META, path(t, a.name), "entity", START, {}, {"status": "active"}) for t in tests for a in t.arms]
    records += [Stamped(0, START, b) for b in batches("acme", known)]
    engine = Partition(GUARDS, demand_of(records))
    engine.step(records)
    paused: dict[str, int] = {}
    for i in range(ROUNDS):
        now = START + (i + 1) * HOUR
        reports = []
        for test in tests:
            for arm in test.arms:
                views, clicks = drawn[arm.name][i]
                if arm.name not in paused and views:
                    amounts = {"impressions": views * 10**6, "clicks": clicks * 10**6}
                    reports.append(Event(f"{arm.name}-{i}", META, path(test, arm.name), "report", now, amounts))
        log: list[Stamped[Record]] = [Stamped(0, now, b) for b in batches("acme", reports)]
        for d in engine.step([*log, Stamped(0, now + 2_000_000, Tick())]):
            if d.kind == "fired":
                paused[d.path.rpartition("/")[2]] = i + 1
                done = Outcome("acme", d.id, "verified", d.path, "status", "", d.rule_id, "paused")
                engine.step([Stamped(0, now + 3_000_000, done)])
    return score(tests, drawn, paused), score(tests, drawn, plain_rule(tests, drawn))


