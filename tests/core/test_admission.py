"""Guards are all asked and all recorded; candidates are admitted one by one."""

from __future__ import annotations

from dataclasses import replace

from services.kernel.decision import Decision
from tests.core.world import CTR, DAY, HOUR, MINUTE, SECOND, START, Program, World, asked, minimum, pause_rule

S = SECOND / HOUR
CAREFUL = (
    asked("confidence", level=950_000, effect=100_000),
    asked("cooldown", **{"after": "any change", "for": DAY}),
    asked("fresh", within=3 * HOUR),
    asked("keep_active", at_least=2, per="ad_group"),
    asked("min_runtime", at_least=DAY),
    asked("sample"),
    asked("status"),
)


def careful(**other: object) -> Program:
    return pause_rule(**{"guards": CAREFUL, "minimums": minimum(3000), "hold": 2 * HOUR, **other})


def series(world: World, hours: int, ads: str = "a", impressions: int = 400, clicks: int = 2, start: int = 0) -> World:
    for hour in range(start, hours + 1, 2):
        world.at(hour)
        for ad in ads:
            world.report(ad, impressions, clicks, status="active")
    return world


def siblings(world: World) -> World:
    for ad in "xyz":
        world.report(ad, 0, 0, status="active")
    return world


def kinds(decisions: list[Decision]) -> list[tuple[float, str, tuple[str, ...]]]:
    return [(round((d.now - START) / HOUR, 1), d.kind, d.refusals) for d in decisions]


def test_a_weak_creative_goes_only_once_it_is_proven_weak() -> None:
    decisions = series(siblings(World().activate(careful())), 60).decisions()
    assert kinds(decisions) == [
        (4.0, "refused", ("confidence", "min_runtime", "sample")),
        (16.0, "refused", ("confidence", "min_runtime")),
        (24.0, "refused", ("confidence",)),
        (56.0, "fired", ()),
    ]
    assert [v.guard for v in decisions[0].verdicts] == [a.guard for a in CAREFUL]
    assert decisions[-1].evidence is not None and decisions[-1].evidence >= 2_995_732


def test_what_someone_switched_on_by_hand_is_left_alone() -> None:
    world = series(siblings(World().activate(careful())), 60)
    fired = world.decisions()[-1]
    world.records = [r for r in world.records if r.stamp <= START + 56 * HOUR]
    world.at(56.1).outcome(fired.id, "verified", "a", action="status", value="paused").at(61).report("a", 0, 0, status="active").change("a")
    after = [d for d in series(world, 74, start=62).decisions() if d.now > START + 57 * HOUR]
    assert after and all(d.kind == "refused" and "cooldown" in d.refusals for d in after)


def test_five_weak_creatives_do_not_all_see_four_others_live() -> None:
    guards = (asked("keep_active", at_least=3, per="ad_group"),)
    world = World().activate(pause_rule(guards=guards)).at(1)
    for ad in "abcde":
        world.report(ad, 1000, 1, status="active")
    decisions = world.at(1.1).tick().decisions()
    assert [(d.path[-1], d.kind, d.refusals) for d in decisions if d.now == START + HOUR + SECOND] == [
        ("a", "fired", ()),
        ("b", "fired", ()),
        ("c", "refused", ("outranked",)),
        ("d", "refused", ("outranked",)),
        ("e", "refused", ("outranked",)),
    ]
    assert [(d.path[-1], d.refusals) for d in decisions if d.now == START + HOUR + 2 * SECOND] == [(ad, ("keep_active",)) for ad in "cde"]


def test_the_strongest_evidence_is_admitted_first() -> None:
    guards = (asked("confidence", level=900_000), asked("keep_active", at_least=1, per="ad_group"))
    world = World().activate(pause_rule(guards=guards)).at(1).report("a", 100_000, 600, status="active").report("b", 100_000, 100, status="active")
    decisions = world.at(1.1).tick().decisions()
    assert [(d.path[-1], d.kind) for d in decisions][:2] == [("b", "fired"), ("a", "refused")]


def test_freshness_refuses_after_its_time_and_equal_passes() -> None:
    world = World().activate(pause_rule(guards=(asked("fresh", within=HOUR), asked("min_runtime", at_least=2 * HOUR)))).at(1)
    world.report("a", 1000, 1, status="active").at(5).tick()
    assert kinds(world.decisions()) == [(1.0, "refused", ("min_runtime",)), (2.0, "refused", ("fresh", "min_runtime")), (3.0, "refused", ("fresh",))]
    decisions = world.decisions()
    assert decisions[1].now == START + 2 * HOUR + SECOND
    assert decisions[2].now == START + 3 * HOUR


def test_a_guard_that_turns_with_time_alone_needs_no_record() -> None:
    world = World().activate(pause_rule(guards=(asked("cooldown", **{"for": 6 * HOUR}),))).at(1).change("a").at(2)
    world.report("a", 1000, 1, status="active").at(20).tick()
    assert kinds(world.decisions()) == [(2.0, "refused", ("cooldown",)), (7.0, "fired", ())]
    assert world.decisions()[1].now == START + 7 * HOUR


def test_an_unmeasured_claim_is_refused_and_never_acts() -> None:
    rule = pause_rule(guards=(asked("confidence", level=950_000),), metrics=(replace(CTR, family=""),))
    assert [d.refusals for d in World().activate(rule).at(1).report("a", 10**6, 0, status="active").at(2).tick().decisions()] == [("confidence",)]


def test_a_deadline_is_the_boundary_plus_the_approval_plus_the_validity() -> None:
    approve = replace(pause_rule().approve, always=True, within=4 * HOUR)
    world = World().activate(pause_rule(approve=approve)).at(1).report("a", 1000, 1, status="active").at(9).tick()
    state = world.partition()
    state.step(world.records[:-1])
    state.step([replace(world.records[-1], stamp=START + HOUR + SECOND)])
    [flight] = state.workspaces["acme"].flights.values()
    assert flight.deadline == START + HOUR + SECOND + 4 * HOUR + 15 * MINUTE
