"""The letter of the engine: each test is one of its sentences."""

from __future__ import annotations

import pytest

from services.kernel.errors import RejectedInput
from services.kernel.record import Poisoned
from services.rules_engine.core.partition import Partition, demand_of
from tests.core.world import DAY, GROUP, GUARDS, HOUR, MINUTE, SECOND, START, World, asked, batch, ctr_below, pause_rule

S = SECOND / HOUR


def weak(world: World, ad: str = "a", **attributes: str) -> World:
    return world.report(ad, 1000, 5, status="active", **attributes)


def test_a_rule_fires_at_the_first_boundary_after_what_makes_it_true() -> None:
    world = weak(World().activate(pause_rule()).at(1)).at(2).tick()
    assert world.told() == [(1 + S, "a", "fired", ())]


def test_a_record_on_the_boundary_belongs_to_the_next_one() -> None:
    world = World().activate(pause_rule()).at(1)
    world.now += SECOND // 2
    assert weak(world).at(2).tick().told() == [(1 + S, "a", "fired", ())]


def test_of_events_that_are_fed_together_each_moves_time_and_is_seen_by_the_boundaries_after_it() -> None:
    """Nothing stands between them that would say where a boundary is; one is stamped back, and is as late as the one before it."""
    world = World().activate(pause_rule()).at(1)
    begin, end = len(world.records), 1 + 20 * S
    for hours, ad in ((1, "a"), (1 + 10 * S, "b"), (1 + 5 * S, "c"), (end, "d")):
        weak(world.at(hours), ad)
    partition = world.partition()
    partition.step(world.records[:begin])
    decisions = partition.step(world.records[begin:-1])
    assert round((partition.now - START) / HOUR, 6) == round(1 + 10 * S, 6)
    decisions += partition.step(world.records[-1:])
    told = [(round((d.now - START) / SECOND), d.path.rpartition("/")[2], d.kind) for d in decisions]
    assert told == [(3601, "a", "fired"), (3611, "b", "fired"), (3611, "c", "fired")]


def test_ticks_only_move_time() -> None:
    quiet = weak(World().activate(pause_rule()).at(1)).at(3).tick().decisions()
    noisy = World().activate(pause_rule()).at(0.5).tick().tick().at(1)
    weak(noisy)
    for i in range(20):
        noisy.at(1 + i / 10).tick()
    noisy.at(3).tick()
    assert [(d.id, d.readings) for d in noisy.decisions()] == [(d.id, d.readings) for d in quiet]


def test_for_needs_when_true_at_every_boundary() -> None:
    world = weak(World().activate(pause_rule(hold=2 * HOUR)).at(1)).at(2).report("a", 1000, 1000).at(2.5)
    world.report("a", 500_000, 0).at(9).tick()
    assert world.told() == [(4.5 + S, "a", "fired", ())]


def test_a_window_forgets_what_left_it() -> None:
    rule = pause_rule(when=ctr_below(8000, DAY))
    world = weak(World().activate(rule).at(1)).at(50).tick()
    decisions = world.decisions()
    assert [(d.kind, (d.now - START) / HOUR) for d in decisions] == [("fired", 1 + S)]
    world = weak(World().activate(rule).at(1)).at(1.1).outcome(decisions[0].id, "held").at(50).tick()
    assert [(d.kind, round((d.now - START) / HOUR, 2)) for d in world.decisions()] == [("fired", 1.0), ("fired", 1.1)]


def test_what_fired_waits_and_never_fires_twice_for_one_cause() -> None:
    world = weak(World().activate(pause_rule()).at(1))
    [first] = world.at(1.2).tick().decisions()
    world.at(1.2).outcome(first.id, "rejected").at(5).tick()
    assert world.told() == [(1 + S, "a", "fired", ())]
    world.report("a", 10_000, 10_000).at(6).report("a", 10_000_000, 0).at(7).tick()
    assert [t[2] for t in world.told()] == ["fired", "cleared", "fired"]


def test_held_does_not_spend_the_cause() -> None:
    world = weak(World().activate(pause_rule()).at(1))
    [first] = world.at(1.2).tick().decisions()
    world.at(1.2).outcome(first.id, "held").at(1.3).tick()
    assert world.told() == [(1 + S, "a", "fired", ()), (1.2 + S, "a", "fired", ())]


def test_a_deadline_counts_as_unknown() -> None:
    world = weak(World().activate(pause_rule()).at(1)).at(5).tick()
    assert [t[2] for t in world.told()] == ["fired"]
    state = world.partition()
    state.step(world.records)
    assert not state.workspaces["acme"].flights


def test_an_unknown_truth_never_acts_and_keeps_what_is_on() -> None:
    rule = pause_rule(when=ctr_below(8000, DAY))
    assert World().activate(rule).report("a", 0, 0, status="active").at(2).tick().told() == []


def test_unknown_keeps_a_rule_on() -> None:
    rule = pause_rule(when=ctr_below(8000, DAY), guards=(asked("min_runtime", at_least=7 * DAY),))
    world = weak(World().activate(rule).at(1)).at(40).tick()  # since 25 h the window is empty
    assert world.told() == [(1 + S, "a", "refused", ("min_runtime",))]


def test_a_status_never_seen_is_unknown() -> None:
    assert World().activate(pause_rule()).at(1).report("a", 1000, 0).at(2).tick().told() == []


def test_a_verified_outcome_is_a_change_from_its_stamp_and_sets_the_attribute() -> None:
    world = weak(World().activate(pause_rule()).at(1))
    [first] = world.at(1.2).tick().decisions()
    world.at(1.5).outcome(first.id, "verified", "a", action="status", value="paused", by="pause-weak").at(2).tick()
    assert world.told() == [(1 + S, "a", "fired", ()), (1.5 + S, "a", "cleared", ())]
    state = world.partition()
    state.step(world.records)
    workspace = state.workspaces["acme"]
    assert workspace.facts.attribute("status", workspace.facts.entities.row["meta_ads/act/cmp/grp/a"]) == "paused"


def test_amounts_from_before_a_change_belong_to_the_baseline() -> None:
    rule = pause_rule()
    world = World().activate(rule).at(1).report("a", 1000, 100, status="active").at(2).change("a").at(3)
    weak(world).at(4).tick()
    assert world.told() == [(3 + S, "a", "fired", ())]
    [d] = world.decisions()
    assert (d.readings[0].numerator, d.readings[0].denominator) == (5_000_000, 1000_000_000)


def test_a_change_dated_back_moves_the_line_back() -> None:
    world = World().activate(pause_rule()).at(1).report("a", 1000, 100, status="active").at(3).report("a", 1000, 5).at(4).change("a", ago=2).at(5).tick()
    assert world.told() == [(4 + S, "a", "fired", ())]


def test_a_threshold_edited_keeps_the_evidence_and_another_scope_restarts_it() -> None:
    first = pause_rule(when=ctr_below(1000))
    edited, elsewhere = pause_rule(when=ctr_below(8000)), pause_rule(when=ctr_below(8000), where=None)
    world = weak(World().activate(first).at(1))
    assert weak(world).at(2).activate(edited).at(3).tick().told() == [(2 + S, "a", "fired", ())]
    world = weak(World().activate(first).at(1)).at(2).activate(elsewhere).at(3).tick()
    assert world.told() == []


def test_a_retired_rule_says_nothing_more() -> None:
    rule = pause_rule()
    world = World().activate(rule).at(1).activate(rule, "retired").at(2)
    assert weak(world).at(3).tick().told() == []


def test_a_shadow_rule_fires_in_shadow_once_a_cause() -> None:
    world = World().activate(pause_rule(), "shadow").at(1)
    weak(world).at(1.5).report("a", 10, 0).at(3).tick()
    assert [(d.kind, d.mode) for d in world.decisions()] == [("fired", "shadow")]


def test_one_object_has_one_decision_in_flight() -> None:
    world = World().activate(pause_rule(rule="b")).activate(pause_rule(rule="a", priority=1)).at(1)
    weak(world).at(2).tick()
    assert [(d.rule_id, d.kind, d.refusals) for d in world.decisions()][:2] == [("b", "fired", ()), ("a", "refused", ("outranked",))]


def test_a_decision_is_valid_for_a_while_from_its_boundary() -> None:
    [d] = weak(World().activate(pause_rule()).at(1)).at(2).tick().decisions()
    assert d.valid_until == d.now + 15 * MINUTE
    assert d.now == d.boundary * SECOND


def test_other_workspaces_are_another_world() -> None:
    world = World().activate(pause_rule()).at(1)
    world.workspace = "other"
    assert weak(world).at(2).tick().told() == []


def test_time_that_steps_back_is_read_as_the_largest_so_far() -> None:
    world = World().activate(pause_rule()).at(2).tick().at(1)
    weak(world).at(3).tick()
    assert world.told() == [(2 + S, "a", "fired", ())]


def test_no_sender_can_push_the_clock() -> None:
    world = World().activate(pause_rule()).at(1)
    ahead = {"id": "1", "path": f"{GROUP}/a", "at": world.now + 50 * MINUTE, "amounts": {"impressions": 10**9}, "attributes": {"status": "active"}}
    assert world.put(batch(ahead)).at(1.1).tick().told() == [(1 + S, "a", "fired", ())]


def test_what_was_done_is_not_done_again_for_the_same_cause() -> None:
    world = weak(World().activate(pause_rule(when=ctr_below(8000, DAY))).at(1))
    [first] = world.at(1.2).tick().decisions()
    assert world.at(1.2).outcome(first.id, "verified").at(5).tick().told() == [(1 + S, "a", "fired", ())]


def test_evidence_past_what_a_float_can_hold_is_exact() -> None:
    world = World().activate(pause_rule(when=ctr_below(2_000_000))).at(1)
    for i, clicks in enumerate((1 << 53, 1)):
        event = {"id": f"{i}", "path": f"{GROUP}/a", "at": world.now, "amounts": {"impressions": 1 << 53, "clicks": clicks}, "attributes": {"status": "active"}}
        world.put(batch(event))
    [fired] = world.at(1.1).tick().decisions()
    assert (fired.readings[0].numerator, fired.readings[0].denominator) == ((1 << 53) + 1, 1 << 54)


@pytest.mark.parametrize("first", [False, True], ids=["behind the latest", "behind another that is stamped back"])
def test_a_record_stamped_back_is_as_late_as_the_latest_before_it(first: bool) -> None:
    """Its event belongs to the evidence since the change at 1.5 h, though the machine that stamped it stands at 1 h."""
    world = World().activate(pause_rule()).at(1.5).change("a").at(2).tick().at(1)
    if first:
        world.target("unread", 1)
    event = {"id": "1", "path": f"{GROUP}/a", "at": START + 108 * MINUTE, "amounts": {"impressions": 10**9}, "attributes": {"status": "active"}}
    assert world.put(batch(event)).at(3).tick().told() == [(2 + S, "a", "fired", ())]


def test_events_behind_a_poisoned_record_count_once_it_is_passed_over() -> None:
    """They may have been read together with those before it, but not accepted: they come again."""
    w = weak(weak(World().activate(pause_rule()).at(1)).put(Poisoned("cannot be read")), "b").at(1.1).tick()
    partition, place = w.partition(), next(s.offset for s in w.records if isinstance(s.record, Poisoned))
    with pytest.raises(RejectedInput):
        partition.step(w.records)
    assert partition.offset == place
    partition.skipped = frozenset({place})
    decisions = partition.step(w.records[place:])
    assert [d.path.rpartition("/")[2] for d in decisions] == ["a", "b"]
    whole = Partition(GUARDS, demand_of(w.records), frozenset({place}))
    assert whole.step(w.records) == decisions and whole.digest() == partition.digest()
