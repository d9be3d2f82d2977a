"""Boundaries within a run of events are worked out together, and each is judged as if it had been folded to event by event."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.kernel.decision import Decision
from services.kernel.page import coalesced
from services.kernel.record import EventBatch, Record, Stamped
from services.rules_engine.core.ahead import BUSY, LARGEST, MOST, MOST_EVENTS, Foresight
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import And, Arithmetic, Compare, Measure, MetricRef, Number, Or, Program
from tests.core.world import ACTIVE, CTR, DAY, GUARDS, HOUR, MINUTE, SHOWN, START, World, asked, batch, ctr_below, minimum, pause_rule
from tests.reference.compare import difference, with_restarts
from tests.reference.evaluator import evaluate

PLATFORMS = ("google_ads", "meta_ads")
WINDOW, PANE = HOUR, 5 * MINUTE
MILLION = 1_000_000
GOOGLE = replace(SHOWN, numerator=Measure("google_ads", "impressions"))


def windowed(rule: str, when: Any, **other: Any) -> Program:
    fields = {"when": when, "where": None, "panes": ((HOUR, PANE), (DAY, PANE)), "interval": MINUTE, "valid_for": 15 * MINUTE}
    return pause_rule(rule=rule, **(fields | other))


def shown(op: str, count: int, window: int = WINDOW) -> Compare:
    return Compare(op, MetricRef(1, window, "impressions"), Number(count, 1, "count", str(count)), f"impressions {op} {count}")


def rules() -> list[Program]:
    """With a sieve, without one, alive for a while, on three levels, of two platforms, one that reads [since change] and one that switches siblings off."""
    twice = Compare(">", Arithmetic("/", MetricRef(1, WINDOW, ""), MetricRef(1, DAY, "")), Number(1, 2, "ratio", "0.5"), "half of the day in an hour")
    return [
        windowed("low", And((ctr_below(20_000, WINDOW), shown(">=", 40)))),
        windowed("low-day", And((ctr_below(25_000, DAY), shown(">=", 60, DAY))), minimums=minimum(80), guards=(asked("sample"),)),
        windowed("campaign", shown(">", 150), depth=2, clear=shown("<", 100), hold=2 * MINUTE),
        windowed("either", Or((shown("<", 3, DAY), ctr_below(5_000, DAY))), depth=3),
        windowed("burst", twice, depth=2, clear=shown("<", 5)),
        windowed("siblings", shown(">", 60), guards=(asked("keep_active", at_least=1, per="ad_group"),)),
        windowed("google", shown(">", 50), platform="google_ads", metrics=(CTR, GOOGLE), depth=2),
    ]


def told(rng: random.Random, now: int, n: int) -> Record:
    """A record of events about few creatives, some late, some told before, some too old, some without amounts."""
    events = []
    for i in range(rng.randint(1, 6)):
        again = rng.random() < 0.05 and n > 3
        platform, group = rng.choice(PLATFORMS), rng.randint(0, 2)
        path = f"{platform}/act/cmp{group}" + ("" if rng.random() < 0.1 else f"/grp{group}/ad{rng.randint(0, 3)}")
        at = now - rng.choice((0, 0, 0, 30, 600, 3_500, 7_300, 90_000)) * 1_000_000
        amounts = {"impressions": rng.randint(0, 40) * MILLION, "clicks": rng.choice((0, 0, 1, -1)) * MILLION, rng.choice(("spend@EUR", "spend@USD")): MILLION}
        event = {"id": f"{n - 2 if again else n}:{i}", "path": path, "at": at, "amounts": {} if rng.random() < 0.1 else amounts, "source": platform}
        events.append(event | {"attributes": {"status": rng.choice(("active", "paused"))}} if rng.random() < 0.2 else event)
    return batch(*events)


def say(world: World, rng: random.Random, programs: Sequence[Program]) -> None:
    """What ends a run: an outcome, a change by hand, an edit, a target, a report row, a record without events."""
    match rng.choice(("outcome", "outcome", "change", "edit", "target", "row", "nothing")):
        case "outcome" if fired := [d for d in world.decisions() if d.kind == "fired"]:
            world.outcome(rng.choice(fired[-3:]).id, rng.choice(("verified", "failed", "held")))
        case "change":
            world.change("ad1")
        case "edit":
            world.activate(rng.choice(programs), rng.choice(("active", "retired")))
        case "target":
            world.target("cpa", 5 * MILLION, valid_until=world.now + HOUR)
        case "row":
            row = {"id": f"r{len(world.records)}", "path": "meta_ads/act/cmp0/grp0/ad0", "at": world.now, "row": "r", "interval": (START, START + DAY)}
            world.put(batch(row | {"as_of": world.now, "amounts": {"impressions": rng.randint(0, 99) * MILLION}}))
        case _:
            world.put(batch())


def log(seed: int, programs: Sequence[Program], records: int = 120) -> list[Stamped[Record]]:
    """Boundaries a minute apart, one or several records before each, now and then a gap, in which windows go on rolling, and a word of another kind."""
    rng, world, hours = random.Random(seed), World(), 0.0
    for program in programs:
        world.activate(program)
    for n in range(records):
        hours += rng.choice((0.0, 0.002, 1 / 60, 1 / 60, 2 / 60, 0.5 if rng.random() < 0.1 else 1 / 60))
        world.at(hours).put(told(rng, world.now, n))
        if rng.random() < 0.05:
            world.tick()
        if rng.random() < 0.05:
            say(world, rng, programs)
    return world.at(hours + 30).tick().records


def at_once(records: Sequence[Stamped[Record]]) -> tuple[list[Decision], str]:
    partition = Partition(GUARDS, demand_of(records))
    return partition.step(records), partition.digest()


def one_by_one(records: Sequence[Stamped[Record]]) -> tuple[list[Decision], str]:
    """Of a run of one record no boundary lies within."""
    partition = Partition(GUARDS, demand_of(records))
    return [d for r in records for d in partition.step([r])], partition.digest()


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(i, marks=pytest.mark.slow) for i in range(20, 200))])
def test_what_is_worked_out_together_is_what_event_by_event_comes_to(seed: int) -> None:
    """Of all the rules, and of some."""
    every = rules()
    records = log(seed, random.Random(seed).sample(every, len(every) if seed % 2 else seed % len(every) + 1))
    assert at_once(records) == one_by_one(records)


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(i, marks=pytest.mark.slow) for i in range(10, 60))])
def test_what_is_worked_out_together_is_what_the_reference_evaluator_decides(seed: int) -> None:
    records = log(seed, rules(), 60)
    assert difference(evaluate(records, MINUTE), at_once(records)[0]) is None


@pytest.mark.parametrize("seed", range(6))
def test_wherever_a_log_is_cut_and_taken_up_again_it_comes_to_the_same(seed: int) -> None:
    records = log(seed, rules())
    assert difference(at_once(records)[0], with_restarts(records, random.Random(seed))) is None


def test_a_log_of_all_these_rules_brings_about_every_kind_of_decision() -> None:
    """What the property above compares is worth comparing."""
    decided = [(d.rule_id, d.kind) for seed in range(5) for d in at_once(log(seed, rules()))[0]]
    assert {rule for rule, _ in decided} == {p.rule for p in rules()}
    assert {kind for _, kind in decided} == {"fired", "refused", "cleared"}


@pytest.mark.parametrize("since", [ctr_below(50_000), Or((ctr_below(50_000), shown(">", 50)))], ids=["sieve", "no sieve"])
def test_rules_that_read_since_a_change_stand_beside(since: Any) -> None:
    programs = [*rules()[:3], windowed("since", since, guards=(asked("confidence", level=900_000),), minimums=())]
    for seed in range(6):
        records = log(seed, programs)
        assert at_once(records) == one_by_one(records)


def test_before_time_has_passed_the_width_of_a_window_nothing_leaves_it() -> None:
    """Engine time begins with 1970: an amount that landed before the first pane does not count, however the log is cut."""
    world = World().activate(windowed("shown", shown(">", 1)))
    records = [Stamped(i, 10 * MINUTE, s.record) for i, s in enumerate(world.records)]
    for n in range(1, 9):
        now = (10 + n) * MINUTE
        event = {"id": f"{n}", "path": "meta_ads/act/cmp/grp/a", "at": now - 25 * MINUTE, "amounts": {"impressions": MILLION}}
        records.append(Stamped(len(records), now, batch(event)))
    assert at_once(records) == one_by_one(records)


def test_a_record_without_events_lies_between_a_boundarys_last_ones_and_another_workspaces_boundary() -> None:
    world, other = World(), World("other")
    world.activate(windowed("shown", shown(">", 1))), other.activate(windowed("other", shown(">", 1), interval=7_000_000))
    for n in range(30):
        at = (70 + 60 * n) / 3600
        world.at(at).report("a", impressions=1), other.at(at + 10 / 3600).report("b", impressions=1), world.at(at + 30 / 3600).put(batch())
    both = sorted([*world.records, *other.at(2).tick().records], key=lambda s: s.stamp)
    records = [Stamped(i, s.stamp, s.record) for i, s in enumerate(both)]
    assert at_once(records) == one_by_one(records)


def test_two_workspaces_whose_boundaries_differ_are_worked_out_apart() -> None:
    """A record of one brings time to a boundary of the other in the midst of what comes before its own next one."""
    for seed in range(6):
        first, second = log(seed, rules()[:3]), []
        for stamped in log(seed + 100, [windowed("other", shown(">", 30), interval=7 * MINUTE)]):
            if (record := stamped.record) and hasattr(record, "workspace"):
                object.__setattr__(record, "workspace", "other")
            second.append(stamped)
        both = sorted([*first, *second], key=lambda s: s.stamp)
        records = [Stamped(i, s.stamp, s.record) for i, s in enumerate(both)]
        assert at_once(records) == one_by_one(records)
        assert {d.workspace for d in at_once(records)[0]} == {"acme", "other"}


def test_what_comes_on_and_clears_by_turns_does_so_within_a_run() -> None:
    """At a boundary that nothing new lies before, and at one of which something else was foreseen."""
    world = World().activate(windowed("turns", shown(">", 5), clear=shown(">", 1), guards=(asked("min_runtime", at_least=2 * HOUR),)))
    for n in range(12):
        world.at(n / 60).report("a" if n == 2 else "b", impressions=9 if n == 2 else 1)
    records = world.tick().records
    decisions, _ = at_once(records)
    assert (decisions, _) == one_by_one(records)
    assert [d.kind for d in decisions if d.path.endswith("/a")][:3] == ["refused", "cleared", "refused"]


def test_a_sieve_that_lets_nearly_everything_through_is_asked_boundary_by_boundary() -> None:
    """Five hundred rules that hold of everything, and look at nothing but what is known to be active."""
    world = World()
    for i in range(500):
        world.activate(windowed(f"r{i:03d}", shown(">=", 0), where=ACTIVE))
    for n in range(60):
        world.at(n / 60).put(batch(*[{"id": f"{n}:{i}", "path": f"meta_ads/act/c/g/ad{i}", "at": world.now} for i in range(40)]))
        if n == 50:
            world.report("ad39", impressions=1, status="active")
    records = world.at(1.1).tick().records
    decisions, digest = at_once(records)
    assert (decisions, digest) == one_by_one(records)
    assert len({d.rule_id for d in decisions}) == 500


def busy(boundaries: int, each: int, entities: int, first: int = 0) -> list[Stamped[Record]]:
    """So many events in each boundary; before these a first boundary of some more."""
    world = World().activate(windowed("shown", shown(">", 3))).activate(windowed("level", shown(">", 40), depth=2))
    for n, size in enumerate([first, *[each] * boundaries]):
        world.at(n / 60)
        events = [{"id": f"{n}:{i}", "path": f"meta_ads/act/c{i % 5}/g{i % 9}/ad{(n * each + i) % entities}", "at": world.now} for i in range(size)]
        world.put(batch(*[e | {"amounts": {"impressions": MILLION}} for e in events]))
    return world.at(boundaries / 60 + 2).tick().records


@pytest.mark.parametrize(
    ("boundaries", "each", "entities", "first", "together"),
    [
        (MOST + 50, 2, 11, 1, MOST),
        (10, MOST_EVENTS // 5, 50, 1, 4),
        (5, BUSY + 1, 20, 1, 0),
        (MOST + 5, 1, LARGEST // MOST, LARGEST // MOST + 1, MOST // 2),
    ],
    ids=["many boundaries", "many events", "more in each than is worth it", "quiet after busy"],
)
def test_no_more_is_worked_out_at_once_than_is_worth_it_and_it_comes_to_the_same(boundaries: int, each: int, entities: int, first: int, together: int) -> None:
    records = busy(boundaries, each, entities, first)
    assert at_once(records) == one_by_one(records)
    partition, rest = Partition(GUARDS, demand_of(records)), records[6:]
    partition.step(records[:6])  # the activations have taken effect
    workspace = partition.workspaces["acme"]
    run = [(s.stamp, s.record) for s in rest if isinstance(s.record, EventBatch)]
    found = Foresight(workspace.facts, workspace.facts.read(coalesced(run)), MINUTE).of(0, 1)
    assert (0 if found is None else len(found.ahead.pairs.edges) - 1) == together
