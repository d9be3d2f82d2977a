"""The letter, sentence by sentence, where no other test says it: the numbers are those of docs/semantics.md."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.actions.core.letter import action_of
from services.actions.core.policy import Circumstances, why_asked
from services.kernel.errors import RejectedInput
from services.kernel.record import Activation, Change, Clock, Ready, Skip
from services.rules_engine.core.evidence import default_coefficients, proportion_log_e, threshold_micro_nats
from services.rules_engine.core.lifecycle import TERMINAL
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.core.program import (
    Action,
    And,
    Approval,
    Arithmetic,
    AttributeRef,
    Compare,
    Lag,
    Metric,
    MetricRef,
    Not,
    Number,
    Or,
    Pair,
    Program,
    TargetRef,
    Text,
)
from services.rules_engine.core.state import dump, joined, load
from services.rules_engine.core.truth import Judge
from services.rules_engine.core.view import View
from services.rules_engine.core.workspace import Workspace
from services.rules_engine.language.zone import offsets
from tests.core.world import (
    CTR,
    DAY,
    GROUP,
    GUARDS,
    HOUR,
    META,
    MINUTE,
    SECOND,
    SHOWN,
    SPEND,
    START,
    Measure,
    World,
    asked,
    batch,
    ctr_below,
    minimum,
    pause_rule,
)

S = SECOND / HOUR
SOLD = Measure(META, "conversions:purchase:7d_click")
CPA = Metric("cpa(purchases)", 1, "EUR", SPEND, SOLD, 1, "rate")
SPENT = Metric("spend", 1, "EUR", SPEND, None, 1, "")
ANY = Compare(">=", MetricRef(1, 0, "impressions"), Number(0, 1, "count", "0"), "impressions >= 0")  # true of whatever exists
PAUSED = Compare("=", AttributeRef("status", "text"), Text("paused"), 'status = "paused"')


def weak(world: World, ad: str = "a", **attributes: str | int) -> World:
    return world.report(ad, 1000, 5, **{"status": "active", **attributes})


def event(path: str, at: int, name: str = "", amounts: dict[str, int] | None = None, **other: Any) -> dict[str, Any]:
    """Amounts in whole units."""
    micros = {m: n * 1_000_000 for m, n in (amounts or {}).items()}
    return {"id": name or f"{path} {at}", "path": path, "at": at, "amounts": micros, **other}


def row(ad: str, interval: tuple[int, int], as_of: int, **amounts: int) -> dict[str, Any]:
    name = f"{ad} {interval} {as_of}"
    return event(f"{GROUP}/{ad}", as_of, name, amounts, interval=interval, as_of=as_of, row=f"{ad} {interval}")


def against(left: Any, op: str, number: int | tuple[int, int], unit: str = "count") -> Compare:
    n, d = number if isinstance(number, tuple) else (number, 1)
    return Compare(op, left, Number(n, d, unit, f"{n}/{d}"), f"... {op} {n}/{d}")


DEAR = against(MetricRef(0, 0, "ctr"), "<", (8, 1000), "ratio")
GOOD = against(MetricRef(0, 0, "ctr"), ">", (5, 100), "ratio")


def kinds(world: World) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(d.path.rpartition("/")[2], d.kind, d.refusals) for d in world.decisions()]


def state_of(world: World) -> Workspace:
    state = world.partition()
    state.step(world.records)
    return state.workspaces[world.workspace]


# -- 1. time ---------------------------------------------------------------------------------------------------------


def test_a_rule_judges_only_objects_of_its_own_platform() -> None:
    """1.3"""
    world = World().activate(pause_rule(where=None, when=ANY)).at(1)
    world.put(batch(*(event(f"{platform}/act/cmp/grp/a", world.now, source=platform) for platform in ("google_ads", "meta_ads"))))
    assert [d.path for d in world.at(2).tick().decisions()] == [f"{GROUP}/a"]


def test_a_workspace_keeps_the_interval_of_its_first_activation() -> None:
    """1.2"""
    world = World().activate(pause_rule()).activate(pause_rule(rule="coarse", interval=HOUR)).at(1)
    first, *others = weak(world).at(5).tick().decisions()
    assert (first.now, first.boundary) == (START + HOUR + SECOND, first.now // SECOND)
    assert {d.now - d.boundary * SECOND for d in others} == {0}


def test_the_horizons_of_the_first_activation_hold_for_good() -> None:
    """They travel with the record, so that no deployment changes what counts."""
    world, rule = World(), pause_rule()
    for at, program, horizon, ahead in ((0, rule, DAY, MINUTE), (1, replace(rule, priority=1), 7 * DAY, HOUR)):
        world.at(at).put(Activation("acme", program.rule, program.version, "active", program.to_json(), horizon=horizon, ahead=ahead))
    path = f"{GROUP}/a"
    for name, at in (("kept", -DAY), ("late", -DAY - 1), ("soon", MINUTE), ("ahead", MINUTE + 1)):
        world.at(2).put(batch({"id": name, "path": path, "at": START + 2 * HOUR + at, "amounts": {"clicks": 1}}))
    counts = state_of(world).facts.counts
    assert (counts["accepted"], counts["late"], counts["ahead"]) == (2, 1, 1)


def test_a_rule_that_asks_for_other_semantics_is_refused_by_a_build_that_does_not_know_them() -> None:
    other = replace(pause_rule(), semantics=4)
    with pytest.raises(RejectedInput, match="semantics 4; this build knows 1, 2, 3"):
        World().activate(other).decisions()


def test_a_simulated_clock_is_said_in_every_decision() -> None:
    """1.9: declared in the log's first record, and known after a restart, too."""
    for simulated in (True, False):
        world = World().put(Clock(simulated, START)).activate(pause_rule(guards=(asked("min_runtime", at_least=2 * HOUR),))).at(1)
        weak(world).at(4).report("a", 0, 1000).at(5).tick()
        state = world.partition()
        before = state.step(world.records[:-1])
        plain, pieces = dump(state)
        after = load(json.loads(json.dumps(plain)), joined(pieces), GUARDS).step(world.records[-1:])
        assert [(d.kind, d.simulated) for d in (*before, *after)] == [("refused", simulated), ("fired", simulated), ("cleared", simulated)]


def test_a_skipped_record_moves_time_and_says_nothing_to_engine_successor_and_replay() -> None:
    """10, poison: the skip record stands behind the record that it names."""
    world = World().activate(pause_rule()).at(1)
    weak(world).at(2).put(Skip(world.records[-1].offset, "poisoned")).at(3).tick()
    state = Partition(GUARDS, demand_of(world.records), skips_of(world.records))
    assert state.step(world.records) == []
    assert (state.now, state.offset) == (START + 3 * HOUR, len(world.records))


# -- 2. amounts ------------------------------------------------------------------------------------------------------


def test_an_event_that_was_set_aside_has_not_taken_its_id() -> None:
    """2.2: dated ahead when it first came, delivered again once its time had come."""
    world = World().activate(pause_rule(where=None)).at(1)
    ahead = event(f"{GROUP}/a", START + 4 * HOUR, "e1", {"impressions": 1000})
    assert world.put(batch(ahead)).at(2).tick().decisions() == []
    assert kinds(world.at(4).put(batch(ahead)).at(5).tick()) == [("a", "fired", ())]


def test_an_event_with_attributes_only_is_never_late() -> None:
    """2.3"""
    world = World().activate(pause_rule()).at(1).report("a", 1000, 0)
    world.put(batch(event(f"{GROUP}/a", world.now - 400 * DAY, "old", attributes={"status": "active"})))
    assert kinds(world.at(2).tick()) == [("a", "fired", ())]
    late = event(f"{GROUP}/a", START - 400 * DAY, "older", {"clicks": 1}, attributes={"status": "active"})
    assert World().activate(pause_rule()).at(1).report("a", 1000, 0).put(batch(late)).at(2).tick().decisions() == []


def test_a_row_of_an_open_interval_lands_when_it_comes_and_of_a_closed_one_at_its_end() -> None:
    """2.7"""
    rule = pause_rule(where=None, when=against(MetricRef(1, HOUR, "impressions"), ">", 0), panes=((HOUR, MINUTE),))
    open_row = World().activate(rule).at(5).put(batch(row("a", (START, START + DAY), START + 5 * HOUR, impressions=7))).at(8).tick()
    closed = World().activate(rule).at(5).put(batch(row("a", (START - DAY, START), START + 5 * HOUR, impressions=7))).at(8).tick()
    just = World().activate(rule).at(5).put(batch(row("a", (START, START + 5 * HOUR), START + 5 * HOUR, impressions=7))).at(8).tick()
    told = [[(d.kind, round((d.now - START) / HOUR, 2)) for d in w.decisions()] for w in (open_row, closed, just)]
    assert told == [[("fired", 5.0), ("cleared", 6.02)], [], [("fired", 5.0), ("cleared", 6.0)]]


def test_a_restated_row_lands_on_the_ancestors_it_was_first_folded_with() -> None:
    """2.7: re-parented, an entity takes its new amounts to the new ancestors; history stays."""
    rule = pause_rule(where=None, depth=3, when=against(MetricRef(1, DAY, "impressions"), ">=", 9))
    day = (START, START + DAY)
    first, moved = row("a", day, START + HOUR, impressions=7), row("a", day, START + 2 * HOUR, impressions=9)
    world = World().activate(rule).at(1).put(batch(first)).at(2).put(batch(moved | {"path": "meta_ads/act/cmp/other/a"})).at(3)
    world.put(batch(event("meta_ads/act/cmp/other/a", world.now, "new", {"impressions": 10}))).at(4).tick()
    told = [(d.path, d.kind, d.readings[0].numerator, (d.now - START) / HOUR) for d in world.decisions()]
    assert told == [(GROUP, "fired", 9_000_000, 2 + S), ("meta_ads/act/cmp/other", "fired", 10_000_000, 3 + S)]


def test_each_measure_of_a_row_has_a_last_value_of_its_own() -> None:
    """2.6"""
    rule = pause_rule(where=None, when=ctr_below(8000, DAY))
    world = World().activate(rule).at(1).put(batch(row("a", (START, START + DAY), START + HOUR, impressions=1000, clicks=9)))
    world.at(2).put(batch(row("a", (START, START + DAY), START + 2 * HOUR, impressions=2000, clicks=10)))
    [fired] = world.at(3).tick().decisions()
    assert (fired.readings[0].numerator, fired.readings[0].denominator) == (10_000_000, 2_000_000_000)


def test_a_row_may_be_restated_however_old_its_interval_is() -> None:
    """2.3: only events with deltas are ever late."""
    rule = pause_rule(where=None, when=against(MetricRef(1, 30 * DAY, "impressions"), ">", 0), panes=((30 * DAY, 6 * HOUR),))
    old = row("a", (START - 20 * DAY, START - 19 * DAY), START + HOUR, impressions=7) | {"at": START - 20 * DAY}
    assert kinds(World().activate(rule).at(1).put(batch(old)).at(2).tick()) == [("a", "fired", ())]


def test_the_value_of_an_outcome_is_a_number_only_where_it_is_whole_digits() -> None:
    """2.10: what no platform should send must not stop a partition."""
    world = World().activate(pause_rule()).at(1).report("a")
    for value in ("-5", "--5", "²", "", "1.5", "٣"):
        world.outcome("0" * 32, "verified", "a", action=f"x{value}", value=value)
    facts = state_of(world.at(2).tick()).facts
    said = {name: facts.attribute(name, facts.entities.row[f"{GROUP}/a"]) for name in facts.attributes.columns if name.startswith("x")}
    assert said == {"x-5": -5, "x--5": "--5", "x²": "²", "x": "", "x1.5": "1.5", "x٣": "٣"}


def test_an_entity_exists_from_a_descendants_first_event() -> None:
    """2.11"""
    campaign = pause_rule(depth=2, where=None, when=ANY)
    world = World().activate(campaign).at(1).report("a").at(2).tick()
    assert [(d.path, d.now) for d in world.decisions()] == [("meta_ads/act/cmp", START + HOUR + SECOND)]
    named = World().activate(campaign).at(1).change("a").outcome("0" * 32, "verified", "a", action="status", value="active").at(2).tick()
    assert named.decisions() == []


# -- 3. windows and since change -------------------------------------------------------------------------------------


def test_the_sum_over_a_window_without_rows_is_nothing_not_unknown() -> None:
    """3.3"""
    rule = pause_rule(when=against(MetricRef(1, HOUR, "impressions"), "<", 1), panes=((HOUR, MINUTE),))
    world = World().activate(rule).at(1).report("a", 5, status="active").at(4).tick()
    assert [(d.kind, d.now) for d in world.decisions()] == [("fired", START + 2 * HOUR + MINUTE)]


def test_a_pane_leaves_with_its_end_not_with_each_amount() -> None:
    """3.1: floor((now - w) / pane) * pane <= t."""
    rule = pause_rule(where=None, when=against(MetricRef(1, DAY, "impressions"), "<", 1), panes=((DAY, 5 * MINUTE),))
    world = World().activate(rule)
    world.now += 7 * MINUTE
    world.report("a", 5).at(30).tick()
    assert [d.now for d in world.decisions()] == [START + DAY + 10 * MINUTE]


YOUNG = (asked("min_runtime", at_least=400 * DAY),)


@pytest.mark.parametrize(("minute", "counts"), [(4, False), (5, True), (9, True)])
def test_a_pane_belongs_whole_until_all_of_it_has_left(minute: int, counts: bool) -> None:
    """3.1: what lands late in it counts, and leaves with it."""
    rule = pause_rule(where=None, when=against(MetricRef(1, DAY, "impressions"), ">", 0), panes=((DAY, 5 * MINUTE),), guards=YOUNG)
    world = World().activate(rule).at(24 + 8 / 60).put(batch(event(f"{GROUP}/a", START + minute * MINUTE, "e", {"impressions": 1})))
    told = [(d.kind, d.now - START - DAY) for d in world.at(30).tick().decisions()]
    assert told == [("refused", 8 * MINUTE + SECOND), ("cleared", 10 * MINUTE)] * counts


def test_a_row_whose_interval_began_before_the_change_belongs_to_the_baseline() -> None:
    """3.7"""
    rule = pause_rule(where=None, when=against(MetricRef(1, 0, "impressions"), ">", 0))
    world = World().activate(rule).at(2).change("a").at(3).put(batch(row("a", (START + HOUR, START + 4 * HOUR), START + 3 * HOUR, impressions=9)))
    assert world.at(4).tick().decisions() == []
    world.put(batch(row("b", (START + 2 * HOUR, START + 5 * HOUR), START + 4 * HOUR, impressions=9)))
    assert kinds(world.at(5).tick()) == [("b", "fired", ())]


def test_a_change_of_one_entity_starts_no_other_anew() -> None:
    """3.6: only for the entity that it names, not its ancestors, descendants or siblings."""
    world = weak(weak(World().activate(pause_rule(guards=(asked("cooldown", **{"for": DAY}),))).at(1).change("x"), "a"), "b")
    assert kinds(world.at(2).tick()) == [("a", "fired", ()), ("b", "fired", ())]


NEVER_YET = ctr_below(1000)
WITH_ANOTHER = (replace(CTR, version=2), SHOWN)


@pytest.mark.parametrize(
    ("other", "is_kept"),
    [
        ({}, True), ({"guards": (asked("min_runtime", at_least=0),)}, True), ({"action": Action("notify")}, True), ({"priority": 1}, True),
        ({"where": None}, False), ({"unless": PAUSED}, False), ({"metrics": WITH_ANOTHER}, False), ({"rule": "other"}, False),
    ],
    ids=["threshold", "guards", "action", "priority", "where", "except", "metrics", "rule"],
)  # fmt: skip
def test_scope_metrics_and_name_are_what_evidence_belongs_to(other: dict[str, Any], is_kept: bool) -> None:
    """3.5"""
    world = weak(World().activate(pause_rule(when=NEVER_YET)).at(1)).at(2).activate(pause_rule(**other)).at(2.1).tick()
    assert [d.kind for d in world.decisions()] == ["fired"] * is_kept


def test_another_level_is_another_scope() -> None:
    """3.5"""
    world = weak(World().activate(pause_rule(where=None, when=NEVER_YET)).at(1)).at(2).activate(pause_rule(where=None, depth=3)).at(2.1).tick()
    assert world.decisions() == []


@pytest.mark.parametrize(("pair", "is_kept"), [(Pair(3, (), GOOD), True), (Pair(2, (), GOOD), False), (Pair(3, ("name",), GOOD), False)])
def test_which_objects_are_paired_is_part_of_the_scope(pair: Pair, is_kept: bool) -> None:
    """3.5"""
    world = two(World().activate(pairs(when=NEVER_YET)), name="x").at(2).activate(pairs(pair=pair)).at(2.01).tick()
    assert [d.kind for d in world.decisions()] == ["fired"] * is_kept


def test_a_change_from_before_the_rule_leaves_the_start_where_it_is() -> None:
    """3.5: the later of the two."""
    world = World().activate(pause_rule(rule="older", when=NEVER_YET)).at(1.5).report("a", 1000, 100, status="active").at(2).activate(pause_rule())
    assert weak(world.at(3).change("a", ago=2)).at(3.1).tick().told() == [(3 + S, "a", "fired", ())]


def test_a_change_earlier_than_the_last_one_known_is_ignored() -> None:
    """3.6"""
    world = World().activate(pause_rule()).at(2.5).report("a", 1000, 100, status="active").at(3).change("a").at(3.2).change("a", ago=1)
    assert weak(world.at(3.5)).at(3.6).tick().told() == [(3.5 + S, "a", "fired", ())]


@pytest.mark.parametrize("first", ["amount", "change"])
def test_an_amount_of_the_instant_of_a_change_is_evidence(first: str) -> None:
    """3.7: at or after the start."""
    rule = pause_rule(where=None, metrics=(CPA, SHOWN), when=against(MetricRef(0, 0, "cpa"), ">", 30, "EUR"), guards=(asked("confidence", level=950_000),))
    world, amount = World().activate(rule).at(2), batch(event(f"{GROUP}/a", START + 2 * HOUR, "e", {"spend@EUR": 500}))
    world = world.put(amount).change("a") if first == "amount" else world.change("a").at(2.05).change("b").put(amount)
    [d] = world.at(2.1).tick().decisions()
    assert (d.readings[0].numerator, dict(d.verdicts[0].figures)["matured"]) == (500_000_000, 500_000_000)


def test_a_row_of_an_interval_yet_to_begin_is_evidence_of_a_rule_activated_before_it() -> None:
    """3.7"""
    rule = pause_rule(where=None, when=against(MetricRef(1, 0, "impressions"), ">", 0))
    world = World().activate(pause_rule(rule="older", when=NEVER_YET)).at(1).put(batch(row("a", (START + 4 * HOUR, START + 8 * HOUR), START, impressions=7)))
    assert world.at(2).activate(rule).at(2.1).tick().told() == [(2 + S, "a", "fired", ())]


def test_a_change_of_an_ad_group_is_none_of_its_creatives_and_theirs_none_of_it() -> None:
    """3.6; of the group, all that its creatives say from then on is evidence."""
    cooled = {"where": None, "guards": (asked("cooldown", **{"for": DAY}),)}
    of_group = Change("acme", GROUP, "targeting", "", "", START + 2 * HOUR, "tom")
    kept = World().activate(pause_rule(**cooled)).at(1).report("a", 1000, 100).report("b").at(2).put(of_group).at(3)
    assert kept.report("a", 1000, 5).report("b", 1000, 5).at(3.1).tick().told() == [(3 + S, "b", "fired", ())]
    group = World().activate(pause_rule(depth=3, **cooled)).at(1).report("a", 1000, 100).at(2).change("a").at(3).report("a", 1000, 5)
    assert group.at(3.1).tick().decisions() == []
    group = World().activate(pause_rule(depth=3, where=None)).at(1).report("a", 1000, 100).at(2.5).report("a", 1000, 5).at(3).put(of_group)
    assert group.at(3.1).tick().told() == [(3 + S, "grp", "fired", ())]


def test_a_change_counts_from_what_it_says_and_never_from_later_than_its_stamp() -> None:
    """3.6"""
    world = World().activate(pause_rule(guards=(asked("cooldown", **{"for": HOUR}),))).at(1).change("a", ago=-2).at(1.5)
    assert weak(world).at(3).tick().told() == [(1.5 + S, "a", "refused", ("cooldown",)), (2.0, "a", "fired", ())]


@pytest.mark.parametrize("status", [status for status in TERMINAL if status != "verified"])
def test_only_a_verified_outcome_of_ours_is_a_change(status: str) -> None:
    """3.6"""
    world = World().activate(pause_rule(guards=(asked("cooldown", **{"for": DAY}),))).at(1).report("a", 1000, 5, status="active")
    assert world.outcome("0" * 32, status, "a", action="status", value="paused").at(1.1).tick().told() == [(1 + S, "a", "fired", ())]


# -- 4. truth --------------------------------------------------------------------------------------------------------

BELOW_TARGET = Compare("<", MetricRef(0, 0, "ctr"), TargetRef("ctr", "ratio", "target(ctr)"), "ctr < target(ctr)")


def test_a_target_that_begins_or_ends_turns_the_truth_without_a_record() -> None:
    """4.4"""
    world = World().activate(pause_rule(when=BELOW_TARGET)).at(1).report("a", 1000, 5, status="active").at(2)
    world.target("ctr", 1000, unit="ratio").target("ctr", 8000, GROUP, "ratio", START + 5 * HOUR, START + 7 * HOUR).at(9).tick()
    assert [(d.kind, (d.now - START) / HOUR) for d in world.decisions()] == [("fired", 5.0), ("cleared", 7.0)]


def test_a_target_that_begins_as_another_rule_takes_effect_turns_the_truth_all_the_same() -> None:
    """4.4"""
    world = World().activate(pause_rule(when=BELOW_TARGET)).target("ctr", 8000, unit="ratio", valid_from=START + 2 * HOUR).at(1)
    weak(world).at(2)
    world.now -= 1
    world.activate(pause_rule(rule="other", where=PAUSED)).at(3).tick()
    assert [(d.rule_id, (d.now - START) / HOUR) for d in world.decisions()] == [("pause-weak", 2.0)]


def test_the_deepest_target_counts_and_of_two_there_the_later_record() -> None:
    """4.4"""
    world = World().activate(pause_rule(when=BELOW_TARGET)).target("ctr", 8000, GROUP, "ratio").target("ctr", 9000, "meta_ads/act", "ratio")
    world.target("ctr", 7000, GROUP, "ratio").target("ctr", 2000, "", "ratio").at(1)
    [d] = weak(world).at(2).tick().decisions()
    assert d.readings[0].threshold == 7_000_000


def test_a_later_target_counts_while_it_is_valid_and_the_one_before_it_again_once_it_is_not() -> None:
    """4.4"""
    world = weak(World().activate(pause_rule(when=BELOW_TARGET)).target("ctr", 8000, unit="ratio").target("ctr", 1000, "", "ratio", 0, START + 5 * HOUR).at(1))
    assert [(d.kind, (d.now - START) / HOUR) for d in world.at(6).tick().decisions()] == [("fired", 5.0)]


def test_a_target_in_another_unit_is_unknown() -> None:
    """4.4: units are never mixed up."""
    world = World().activate(pause_rule(when=BELOW_TARGET)).target("ctr", 8000, "", "EUR").at(1)
    assert weak(world).at(2).tick().decisions() == []


def test_a_sum_beside_one_in_another_currency_is_unknown() -> None:
    """4.3"""
    rule = pause_rule(where=None, metrics=(SPENT, SHOWN), when=against(MetricRef(0, 0, "spend"), ">", 1, "EUR"))
    world = World().activate(rule).at(1).put(batch(event(f"{GROUP}/a", START, "e", {"spend@EUR": 5, "spend@USD": 1}, as_of=0) | {"at": START + HOUR}))
    assert world.at(2).tick().decisions() == []
    world.put(batch(event(f"{GROUP}/a", START + 2 * HOUR, "f", {"spend@USD": -1})))
    assert kinds(world.at(3).tick()) == [("a", "fired", ())]


def test_what_is_not_known_of_a_sum_is_unknown_in_a_condition() -> None:
    """4.3"""
    known: list[list[dict[str, int]]] = [[{"spend@EUR": 500}], [{"spend@EUR": 9_000_000_000}] * 512]
    for op, euros in (("!=", 12345), ("<", 10**13)):
        rule = pause_rule(where=None, metrics=(SPENT, SHOWN), when=against(MetricRef(0, 0, "spend"), op, euros, "EUR"))
        for amounts in (*UNKNOWN_SPEND.values(), *known):
            assert [d.kind for d in spent(World().activate(rule), amounts).decisions()] == ["fired"] * (amounts in known)


def test_spend_without_a_sale_is_a_stop_loss_case_on_either_side_of_a_difference() -> None:
    """4.2"""
    cost = MetricRef(0, 0, "cpa")
    left = Arithmetic("-", Number(100, 1, "EUR", "100"), cost)
    for when in (against(cost, ">", 30, "EUR"), against(left, "<", 0, "EUR"), Not(against(left, ">=", 0, "EUR"))):
        world = World().activate(pause_rule(where=None, metrics=(CPA, SHOWN), when=when)).at(1).report("a", spend=500).report("b").at(2).tick()
        assert kinds(world) == [("a", "fired", ())]


def test_except_excludes_only_where_it_is_true() -> None:
    """4.7"""
    labelled = Compare("=", AttributeRef("label", "text"), Text("keep"), 'label = "keep"')
    world = World().activate(pause_rule(unless=labelled)).at(1)
    weak(weak(weak(world, "a"), "b", label="keep"), "c", label="go")
    assert kinds(world.at(2).tick()) == [("a", "fired", ()), ("c", "fired", ())]


def test_an_attribute_never_seen_or_of_another_kind_is_unknown() -> None:
    """4.5: not 0, and not another text."""
    cheap = Compare("<", AttributeRef("daily_budget", "EUR"), Number(10, 1, "EUR", "10 EUR"), "daily_budget < 10 EUR")
    other = Compare("!=", AttributeRef("label", "text"), Text("keep"), 'label != "keep"')
    for when in (cheap, Not(replace(cheap, op=">=")), other, Not(replace(other, op="="))):
        world = World().activate(pause_rule(where=None, when=when)).at(1).report("unseen").report("odd", daily_budget="5", label=5_000_000)
        assert kinds(world.report("so", daily_budget=5_000_000, label="go").at(1.1).tick()) == [("so", "fired", ())]


# -- 5. the life of a rule on an object ------------------------------------------------------------------------------


def test_waiting_for_starts_anew_when_the_scope_is_left() -> None:
    """5.1"""
    world = weak(World().activate(pause_rule(hold=2 * HOUR)).at(1)).at(2).report("a", status="paused").at(2.5).report("a", status="active").at(9).tick()
    assert world.told() == [(4.5 + S, "a", "fired", ())]


def test_once_on_a_rule_stays_on_until_clear_is_true() -> None:
    """5.2"""
    rule = pause_rule(clear=replace(ctr_below(0), op=">", right=Number(2, 100, "ratio", "2%")))
    world = weak(World().activate(rule, "shadow").at(1)).at(2).report("a", 0, 10).at(3).report("a", 1000, 0).at(4).report("a", 0, 100).at(5).tick()
    assert [(d.kind, (d.now - START) / HOUR) for d in world.decisions()] == [("fired", 1 + S), ("fired", 3 + S), ("cleared", 4 + S)]


def test_a_rule_whose_condition_and_clear_are_both_true_comes_on_and_clears_by_turns() -> None:
    """5.1 and 5.2: judged at every boundary, however few facts come."""
    rule = pause_rule(clear=against(MetricRef(1, 0, "impressions"), ">", 0), guards=(asked("min_runtime", at_least=DAY),), hold=2 * SECOND)
    world = weak(World().activate(rule).at(1))
    world.now += 8 * SECOND
    told = [(d.kind, (d.now - START - HOUR) // SECOND) for d in world.tick().decisions()]
    assert told == [("refused", 3), ("cleared", 4), ("refused", 7), ("cleared", 8)]


def test_nothing_is_said_while_a_decision_waits_not_even_that_it_cleared() -> None:
    """5.4: it turns off when it does; what clears afterwards had told nobody anything."""
    world = weak(World().activate(pause_rule(approve=Approval(True, -1, "lead", 4 * HOUR, ""))).at(1)).at(2).report("a", 0, 100).at(3)
    [fired] = world.tick().decisions()
    world.outcome(fired.id, "rejected").at(4).tick()
    assert world.decisions() == [fired]
    assert weak(world.at(5).change("a"), "a").at(6).tick().decisions()[1:][0].kind == "fired"


@pytest.mark.parametrize(
    ("status", "fires"),
    [("verified", 1), ("rejected", 1), ("failed", 1), ("unknown", 1), ("held", 2), ("expired", 2), ("cancelled", 2), ("approved", 1)],
)
def test_what_spends_a_cause_and_what_does_not(status: str, fires: int) -> None:
    """5.6: an approval is no end at all."""
    world = weak(World().activate(pause_rule()).at(1))
    [fired] = world.at(1.1).tick().decisions()
    world.outcome(fired.id, status).at(1.2).tick()
    assert [d.kind for d in world.decisions()] == ["fired"] * fires


def lapsed(**changes: Any) -> tuple[World, str]:
    """A world in which a decision fired at 1.1 h and its deadline has passed unanswered, and its id."""
    world = weak(World().activate(pause_rule(**changes)).at(1))
    [fired] = world.at(1.1).tick().decisions()
    assert world.at(3).tick().decisions() == [fired]
    return world, fired.id


@pytest.mark.parametrize(
    ("status", "fires"),
    [("verified", 1), ("rejected", 1), ("failed", 1), ("unknown", 1), ("held", 2), ("expired", 2), ("cancelled", 2), ("approved", 1)],
)
def test_a_late_word_that_a_decision_was_not_carried_out_gives_its_cause_back(status: str, fires: int) -> None:
    """5.6: the deadline had spent it, as if the end were unknown."""
    world, fired = lapsed()
    world.at(3.1).outcome(fired, status).at(3.2).tick()
    decisions = world.decisions()
    assert [d.kind for d in decisions] == ["fired"] * fires
    assert [d.now for d in decisions[1:]] == [START + round(3.1 * HOUR) + SECOND] * (fires - 1)


def test_of_several_late_words_the_first_counts() -> None:
    world, fired = lapsed()
    world.at(3.1).outcome(fired, "unknown").at(3.2).outcome(fired, "held").at(3.3).tick()
    assert len(world.decisions()) == 1
    world, fired = lapsed()
    world.at(3.1).outcome(fired, "held").at(3.2).tick()
    _, again = world.decisions()
    world.outcome(again.id, "verified").at(3.3).outcome(fired, "held").at(3.4).tick()
    assert len(world.decisions()) == 2


def test_a_late_word_gives_back_nothing_of_another_cause() -> None:
    rule = {"when": ctr_below(8000, DAY)}
    world, fired = lapsed(**rule)
    world.report("a", 0, 100_000).at(4).report("a", 10**8, 0).at(4.1)
    _, cleared, second = world.tick().decisions()
    assert (cleared.kind, second.kind) == ("cleared", "fired")
    world.outcome(fired, "held").at(4.15).tick()
    assert len(world.decisions()) == 3  # the second is still waited for
    world.outcome(second.id, "verified").at(4.2).outcome(fired, "held").at(6).tick()
    assert len(world.decisions()) == 3


def test_a_late_word_about_an_old_cause_ends_no_wait_for_another() -> None:
    """A rule that stays on between two causes, because it clears later than its condition ends."""
    world, fired = lapsed(when=ctr_below(8000, DAY), clear=ctr_below(0, DAY))
    _, second = world.report("a", 0, 100_000).at(4).report("a", 10**8, 0).at(4.1).tick().decisions()
    assert second.kind == "fired"
    world.outcome(fired, "held").at(4.15).tick()
    assert len(world.decisions()) == 2
    world.outcome(second.id, "held").at(4.2).tick()
    assert len(world.decisions()) == 3


def test_a_rule_of_the_first_semantics_keeps_its_causes_spent() -> None:
    """1.10: new semantics take effect by a record, never by a deployment."""
    world, fired = lapsed(semantics=1)
    world.at(3.1).outcome(fired, "held").at(3.2).tick()
    assert len(world.decisions()) == 1


def test_a_late_word_gives_the_cause_back_after_a_restart_too() -> None:
    world, fired = lapsed()
    state = world.partition()
    state.step(world.records)
    plain, pieces = dump(state)
    restored = load(json.loads(json.dumps(plain)), joined(pieces), GUARDS)
    assert restored.digest() == state.digest()
    before = len(world.records)
    world.at(3.1).outcome(fired, "held").at(3.2).tick()
    [again] = restored.step(world.records[before:])
    assert (again.kind, again.id != fired) == ("fired", True)


def test_decisions_that_lapsed_are_forgotten_with_their_causes() -> None:
    """Memory holds those whose cause lasts, not all that ever lapsed."""
    world, fired = lapsed(when=ctr_below(8000, DAY))
    state = world.partition()
    state.step(world.records)
    workspace = state.workspaces["acme"]
    assert set(workspace.lapsed) == {fired}
    workspace._lapsed_most = 1
    before = len(world.records)
    world.report("a", 0, 100_000).at(4).report("a", 10**8, 0).at(8).tick()
    _, second = state.step(world.records[before:])
    assert set(workspace.lapsed) == {second.id}


def test_a_spent_cause_stays_spent_though_the_object_leaves_the_scope_and_comes_back() -> None:
    """5.6: what someone switched on by hand stays on until new evidence."""
    rule = pause_rule(when=ctr_below(8000, DAY))
    world = weak(World().activate(rule).at(1))
    [fired] = world.at(1.1).tick().decisions()
    world.outcome(fired.id, "verified", "a", action="status", value="paused").at(3).report("a", status="active").change("a").at(4)
    assert [d.kind for d in world.tick().decisions()] == ["fired", "cleared"]
    world.report("a", 0, 1000).at(5).report("a", 10**6, 0).at(6).tick()
    assert [d.kind for d in world.decisions()] == ["fired", "cleared", "fired"]


def test_an_unknown_truth_ends_a_cause() -> None:
    """5.6: a stretch of boundaries at which `when` is true; 5.2: the rule stays on in between."""
    world = weak(World().activate(pause_rule(when=ctr_below(8000, DAY))).at(1))
    [fired] = world.at(1.1).tick().decisions()
    world.outcome(fired.id, "rejected").at(30).report("a", 1000, 5).at(31).tick()  # since 25 h the window is empty
    assert world.told() == [(1 + S, "a", "fired", ()), (30 + S, "a", "fired", ())]


def test_how_a_decision_ends_spends_nothing_of_the_next_cause() -> None:
    """5.6"""
    world = weak(World().activate(pause_rule(approve=Approval(True, -1, "lead", 4 * HOUR, ""))).at(1)).at(2).report("a", 0, 100).at(3)
    world.report("a", 10**6, 0)
    [fired] = world.at(3.5).tick().decisions()
    world.outcome(fired.id, "rejected").at(4).tick()
    assert [(d.kind, (d.now - START) / HOUR) for d in world.decisions()] == [("fired", 1 + S), ("fired", 3.5 + S)]


@pytest.mark.parametrize(
    ("approve", "within"),
    [
        (Approval(False, -1, "", 4 * HOUR, ""), 0),
        (Approval(True, -1, "lead", 4 * HOUR, ""), 4 * HOUR),
        (Approval(False, 100, "lead", 4 * HOUR, ""), 4 * HOUR),
    ],
    ids=["nobody is asked", "always", "above an amount"],
)
def test_an_object_is_held_until_the_deadline_to_the_boundary(approve: Approval, within: int) -> None:
    """5.5: where the rule may ask people, they have their time as well."""
    world = World().activate(pause_rule(approve=approve, priority=-1)).activate(pause_rule(rule="other")).at(1)
    first, refused, second = weak(world).at(9).tick().decisions()
    assert [(d.rule_id, d.kind) for d in (first, refused, second)] == [("pause-weak", "fired"), ("other", "refused"), ("other", "fired")]
    assert second.now - first.now == within + 15 * MINUTE


def test_what_fires_in_shadow_holds_nothing() -> None:
    """5.7"""
    world = weak(World().activate(pause_rule(rule="a", priority=-1), "shadow").activate(pause_rule(rule="b")).at(1)).at(2).tick()
    assert [(d.rule_id, d.mode, d.kind) for d in world.decisions()] == [("a", "shadow", "fired"), ("b", "active", "fired")]


def test_a_pair_fires_in_shadow_once_a_cause() -> None:
    """5.7"""
    assert [d.kind for d in two(World().activate(pairs(), "shadow")).at(1.01).tick().decisions()] == ["fired"]


def test_activating_what_stands_already_changes_nothing() -> None:
    """5.8: it does not fire a second time for its cause."""
    rule = pause_rule()
    world = weak(World().activate(rule).at(1))
    [fired] = world.at(1.1).tick().decisions()
    world.outcome(fired.id, "rejected").at(2).activate(rule).at(3).tick()
    assert world.decisions() == [fired]


def test_a_version_has_one_state_and_a_shadow_stands_beside_another_active_version() -> None:
    """5.8"""
    rule, edited = pause_rule(), pause_rule(when=ctr_below(9000))
    world = World().activate(rule).activate(edited, "shadow").at(1)
    weak(world).at(2).activate(rule, "shadow").at(3)
    weak(world, "b").at(4).tick()
    assert sorted((d.path[-1], d.version == rule.version, d.mode) for d in world.decisions() if d.kind == "fired") == [
        ("a", False, "shadow"),
        ("a", True, "active"),
        ("a", True, "shadow"),  # told anew in its new state
        ("b", True, "shadow"),
    ]


def test_of_two_activations_that_wait_the_later_counts() -> None:
    """5.8: the earlier one's ready record, coming last, does not bring it back."""
    first, second = pause_rule(when=ctr_below(1)), pause_rule()
    world = World()
    for program in (first, second):
        world.put(Activation("acme", program.rule, program.version, "active", program.to_json()))
    world.put(Ready("acme", second.version)).put(Ready("acme", first.version)).at(1)
    assert [d.version for d in weak(world).at(2).tick().decisions()] == [second.version]


def test_a_rule_takes_effect_after_its_ready_record() -> None:
    """5.8"""
    rule = pause_rule()
    world = World().put(Activation("acme", rule.rule, rule.version, "active", rule.to_json())).at(1)
    weak(world).at(3).put(Ready("acme", rule.version)).at(4)
    assert weak(world).at(5).tick().told() == [(4 + S, "a", "fired", ())]


def test_what_is_retired_before_it_is_ready_never_takes_effect_and_a_ready_record_is_of_its_version_alone() -> None:
    """5.8"""
    rule, other = pause_rule(), pause_rule(rule="other")
    world = World()
    for program in (rule, other):
        world.put(Activation("acme", program.rule, program.version, "active", program.to_json()))
    world.activate(rule, "retired").put(Ready("acme", rule.version)).at(1)
    assert weak(world).at(2).tick().decisions() == []


def test_retiring_a_version_leaves_the_others_at_work() -> None:
    """5.8"""
    rule, edited = pause_rule(), pause_rule(when=ctr_below(9000))
    world = World().activate(rule).activate(edited).activate(rule, "retired").at(1)
    assert [d.version for d in weak(world).at(2).tick().decisions()] == [edited.version]


def test_what_an_old_version_has_in_flight_keeps_its_objects() -> None:
    """5.8"""
    world = weak(World().activate(pause_rule()).at(1)).at(1.1).activate(pause_rule(when=ctr_below(9000))).at(1.15).tick()
    assert [(d.kind, d.refusals) for d in world.decisions()] == [("fired", ()), ("refused", ("outranked",))]


# -- 6. guards and admission -----------------------------------------------------------------------------------------


GO = Compare("=", AttributeRef("label", "text"), Text("go"), 'label = "go"')


@pytest.mark.parametrize(("windows", "counted"), [((HOUR,), 5), ((HOUR, DAY), 45), ((HOUR, 0), 345)])
def test_the_sample_is_counted_over_the_window_that_the_condition_reads(windows: tuple[int, ...], counted: int) -> None:
    """6.1: since the change if any comparison reads it, else the widest."""
    when = And(tuple(ctr_below(8000, w) for w in windows))
    rule = pause_rule(where=GO, when=when, panes=((HOUR, MINUTE), (DAY, 5 * MINUTE)), guards=(asked("sample"),), minimums=minimum(10**6))
    world = World().activate(rule).at(1).report("a", 300).at(20).report("a", 40).at(30).report("a", 5, label="go")
    [refused] = world.at(30.1).tick().decisions()
    assert dict(refused.verdicts[0].figures)["counted"] == counted * 1_000_000


def test_freshness_asks_the_source_that_was_silent_longest_in_the_objects_account() -> None:
    """6.2: a report's as_of is news too."""
    sold = replace(CPA, denominator=Measure("web", "conversions:purchase:7d_click"))
    rule = pause_rule(where=None, metrics=(sold, SHOWN), when=against(MetricRef(0, 0, "cpa"), ">", 1, "EUR"), guards=(asked("fresh", within=HOUR),))
    world = World().activate(rule).at(1).report("a", spend=5).at(2).tick()
    elsewhere = event("meta_ads/act2/cmp/grp/a", START + 2 * HOUR, "w1", {"leads": 1}, source="web")
    assert [(d.refusals, dict(d.verdicts[0].figures)["source"]) for d in world.put(batch(elsewhere)).at(2.1).tick().decisions()] == [(("fresh",), "web")]
    world.put(batch(event(f"{GROUP}/b", START + HOUR, "w2", {"leads": 0}, source="web", as_of=START + 3 * HOUR, row="r", interval=(START, START + DAY))))
    world.at(3).report("b").at(3.5).tick()
    assert kinds(world)[1:] == [("a", "fired", ())]


SET_ASIDE = {"amounts": {"clicks": (1 << 53) + 1}}


@pytest.mark.parametrize(
    "more",
    [
        {"at": START + 12 * MINUTE},
        {"at": START + 12 * MINUTE, "as_of": START + 30 * MINUTE, "row": "r", "interval": (START, START + DAY)},
        {"at": START + 100 * MINUTE, **SET_ASIDE},
        {"at": START + 100 * MINUTE, "path": "meta_ads/act2/cmp/grp/a"},
        {"at": START + 100 * MINUTE, "source": "web"},
    ],
    ids=["older", "a report of before", "set aside", "of another account", "of another source"],
)
def test_news_is_the_newest_of_what_was_accepted_from_a_source_in_the_account(more: dict[str, Any]) -> None:
    """6.2"""
    guards = (asked("fresh", within=HOUR), asked("min_runtime", at_least=DAY))
    world = weak(World().activate(pause_rule(guards=guards)).at(1)).at(1.9).put(batch({"id": "more", "path": f"{GROUP}/b", **more})).at(3).tick()
    assert world.told() == [(1 + S, "a", "refused", ("min_runtime",)), (2 + S, "a", "refused", ("fresh", "min_runtime"))]


@pytest.mark.parametrize("more", [{"at": START + 100 * MINUTE}, {"at": START + HOUR, "as_of": START + 9 * HOUR, "row": "r", "interval": (START, START + DAY)}])
def test_nothing_is_news_from_later_than_its_stamp(more: dict[str, Any]) -> None:
    """6.2"""
    guards = (asked("fresh", within=HOUR), asked("min_runtime", at_least=DAY))
    world = weak(World().activate(pause_rule(guards=guards)).at(1)).put(batch({"id": "more", "path": f"{GROUP}/b", **more})).at(3).tick()
    assert world.told() == [(1 + S, "a", "refused", ("min_runtime",)), (2 + S, "a", "refused", ("fresh", "min_runtime"))]


def test_what_was_stale_and_is_as_old_as_it_may_be_passes() -> None:
    """6.2: equal passes, at that one boundary."""
    old = event(f"{GROUP}/a", START + HOUR, "e", {"impressions": 1000}, attributes={"status": "active"})
    world = World().activate(pause_rule(guards=(asked("fresh", within=HOUR),))).at(3).put(batch(old)).at(3.5)
    world.put(batch(event(f"{GROUP}/b", START + 150 * MINUTE + SECOND, "f"))).at(4).tick()
    assert world.told() == [(3 + S, "a", "refused", ("fresh",)), (3.5 + S, "a", "fired", ())]


def test_own_changes_alone_count_where_the_cooldown_says_so() -> None:
    """6.3"""
    rule = pause_rule(when=ctr_below(8000, DAY), guards=(asked("cooldown", **{"after": "own change", "for": 6 * HOUR}),))
    by_hand = weak(World().activate(rule).at(1).change("a"))
    assert kinds(by_hand.at(2).tick()) == [("a", "fired", ())]
    ours = weak(World().activate(rule).at(1).outcome("0" * 32, "verified", "a"))
    assert [(d.kind, (d.now - START) / HOUR) for d in ours.at(9).tick().decisions()] == [("refused", 1 + S), ("fired", 7.0)]


def test_run_time_runs_from_the_stamp_of_the_first_accepted_event() -> None:
    """6.3: not from what it says of itself."""
    rule = pause_rule(where=None, guards=(asked("min_runtime", at_least=2 * HOUR),))
    world = World().activate(rule).at(1).put(batch(event(f"{GROUP}/a", START + MINUTE, "e", {"impressions": 1000}))).at(9).tick()
    assert [(d.kind, (d.now - START) / HOUR) for d in world.decisions()] == [("refused", 1 + S), ("fired", 3.0)]


def test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave() -> None:
    """6.4"""
    rule = pause_rule(where=None, guards=(asked("keep_active", at_least=1, per="ad_group"),))
    for other in ({}, {"status": "paused"}, {"status": 7_000_000}):
        world = weak(World().activate(rule).at(1)).report("b", 1000, 100, **other)
        assert kinds(world.at(2).tick()) == [("a", "refused", ("keep_active",))]
    unseen = weak(World().activate(rule).at(1).outcome("0" * 32, "verified", "b", action="status", value="active"))
    assert kinds(unseen.at(2).tick()) == [("a", "refused", ("keep_active",))]
    for path in (GROUP, "meta_ads/act/cmp/other/b"):
        elsewhere = weak(World().activate(rule).at(1)).put(batch(event(path, START + HOUR, attributes={"status": "active"})))
        assert kinds(elsewhere.at(2).tick()) == [("a", "refused", ("keep_active",))]
    pausing = weak(weak(World().activate(rule).at(1), "a"), "b")
    assert kinds(pausing.at(1.01).tick())[:2] == [("a", "fired", ()), ("b", "refused", ("outranked",))]


def test_a_guard_that_refused_agrees_as_soon_as_it_may() -> None:
    """6.1 and 6.4: equal is enough, of what was refused before, too."""
    sample = {"guards": (asked("sample"),), "minimums": minimum(1001)}
    survivor = {"guards": (asked("keep_active", at_least=1, per="ad_group"),)}
    status = {"where": None, "guards": (asked("status"),)}
    for rule, before, ad, now in (
        (sample, "active", "a", {"impressions": 1}),
        (survivor, "active", "b", {"impressions": 1000, "clicks": 100, "status": "active"}),
        (status, "paused", "a", {"status": "active"}),
    ):
        world = World().activate(pause_rule(**rule)).at(1).report("a", 1000, 5, status=before).at(2).report(ad, **now)
        assert world.at(2.1).tick().told() == [(1 + S, "a", "refused", (rule["guards"][0].guard,)), (2 + S, "a", "fired", ())]


def test_confidence_asks_for_a_tested_threshold_above_nothing() -> None:
    """6.5: a margin of everything leaves nothing to test, and stops no partition."""
    for when, metrics in ((ctr_below(8000), (CTR, SHOWN)), (against(MetricRef(0, 0, "cpa"), "<", 30, "EUR"), (CPA, SHOWN))):
        rule = pause_rule(when=when, metrics=metrics, guards=(asked("confidence", level=950_000, effect=1_000_000),))
        sold = event(f"{GROUP}/a", START + HOUR, "s", {SOLD.name: 5})
        world = World().activate(rule).at(1).put(batch(sold)).report("a", 1000, 0, 10, status="active").at(2).tick()
        assert [(d.refusals, d.evidence) for d in world.decisions()] == [(("confidence",), None)]


def test_evidence_equal_to_what_is_needed_is_enough() -> None:
    """6.5: both rounded to micro-nats, compared with >=."""
    n, level = next((n, level) for n in range(900, 3000) if (level := level_needing(log_e_of(n))))
    for more, kind in ((0, "fired"), (1, "refused")):
        rule = pause_rule(guards=(asked("confidence", level=level),))
        [d] = World().activate(rule).at(1).report("a", n - more, 0, status="active").at(1.01).tick().decisions()
        assert d.kind == kind
    assert d.evidence is not None and d.evidence < threshold_micro_nats(1_000_000 - level) == log_e_of(n)


def log_e_of(n: int) -> int:
    """That fewer than 0.8 % of impressions are clicked, after n without a click."""
    low = dict(default_coefficients())["low"]
    return int(proportion_log_e(np.array([float(n)]), np.array([0.0]), np.array([0.008]), "low", low)[0])


def level_needing(log_e: int) -> int:
    """The level, in parts per million, that needs exactly this much; 0 where none does."""
    alpha = round(1_000_000 / math.exp(log_e / 1e6))
    return next((1_000_000 - a for a in (alpha - 1, alpha, alpha + 1) if threshold_micro_nats(a) == log_e), 0)


def test_evidence_is_the_smallest_over_the_comparisons_and_not_is_pushed_into_them() -> None:
    """6.5"""
    loose, strict = ctr_below(50_000), ctr_below(8000)
    above = replace(strict, op=">=")
    found = {}
    for name, when in {"loose": loose, "strict": strict, "both": And((loose, strict)), "negated": Not(above), "mirrored": mirrored(strict)}.items():
        [d] = World().activate(pause_rule(when=when)).at(1).report("a", 1000, 0, status="active").at(2).tick().decisions()
        found[name] = d.evidence
    assert found["loose"] > found["strict"] == found["both"] == found["negated"] == found["mirrored"] > 0


def mirrored(c: Compare) -> Compare:
    return Compare({"<": ">"}[c.op], c.right, c.left, c.text)


def test_spend_counts_against_a_cost_only_as_far_as_its_sales_could_have_come() -> None:
    """6.5: and in full for the claim of a low cost, which a late sale could only help."""
    lag = Lag("purchases", ((2 * HOUR, 500_000), (4 * HOUR, 1_000_000)))
    matured = {}
    for op in (">", "<"):
        when = against(MetricRef(0, 0, "cpa"), op, 30, "EUR")
        rule = pause_rule(where=GO, metrics=(CPA, SHOWN), when=when, lag=lag)
        world = World().activate(rule, "shadow").at(1).report("a", spend=80)
        world.put(batch(event(f"{GROUP}/a", START + HOUR, "s", {SOLD.name: 1 if op == ">" else 10})))
        [running] = (w := state_of(world.at(2).report("a", label="go").at(2).tick())).rules.values()
        strength = strength_of(w, running)
        matured[op] = dict(strength.totals)["matured"]
    assert matured == {">": 80_000_000 * (HOUR - 0) // (4 * HOUR), "<": 80_000_000}


def strength_of(workspace: Workspace, running: Any, now: int = START + 2 * HOUR) -> Any:
    """Of creative a, by default one hour after its spend."""
    view = View(workspace, running, now)
    strength = running.weighers[0].weigh(Judge(running.program.metrics, view), view, workspace.facts.entities.row[f"{GROUP}/a"], now)
    assert strength is not None
    return strength


def test_days_of_spend_are_those_of_the_rules_zone() -> None:
    """6.5 and 1.10: by the offsets that travelled with the rule, whatever the host knows."""
    when = against(MetricRef(0, 0, "cpa"), ">", 1, "EUR")
    phis = []
    for zone in ("UTC", "Europe/Berlin"):
        rule = pause_rule(where=None, metrics=(CPA, SHOWN), when=when, zone=zone, offsets=() if zone == "UTC" else offsets(zone))
        world = World().activate(rule).at(20).report("a", spend=50).at(23.5).report("a", spend=50).at(24.5).tick()
        running = next(iter((w := state_of(world)).rules.values()))
        phis.append(dict(strength_of(w, running).totals)["phi_micro"])
    assert phis == [1_000_000 + 40_000 * 100, 1_000_000 + 40_000 * 50]


def test_of_equal_candidates_paths_go_by_their_bytes_whatever_rule_they_are_of() -> None:
    """6.6: the first takes the last place that could be spared."""
    guards = (asked("keep_active", at_least=1, per="ad_group"),)
    for first, second in (("B", "a"), ("a", "b")):
        world = World().at(0)
        for rule, ad in (("y", first), ("x", second)):
            world.activate(pause_rule(rule=rule, guards=guards, where=Compare("=", AttributeRef("label", "text"), Text(ad), f'label = "{ad}"')))
        weak(weak(world.at(1), second, label=second), first, label=first)
        assert kinds(world.at(1.01).tick())[:2] == [(first, "fired", ()), (second, "refused", ("outranked",))]


def test_whose_budget_is_changed_stays_on() -> None:
    """6.4: only what pauses an object takes it from those that survive, at this boundary and at later ones."""
    budget = pause_rule(rule="budget", priority=-1, where=Not(GO), action=Action("set_budget", (("amount", 1_000_000),)))
    world = World().activate(budget).activate(pause_rule(where=GO, guards=(asked("keep_active", at_least=1, per="ad_group"),))).at(1)
    together = weak(weak(world, "a", label="go"), "b", label="stay")
    assert kinds(together.at(1.01).tick()) == [("b", "fired", ()), ("a", "fired", ())]
    world.records = [r for r in world.records if r.stamp < START + HOUR]
    weak(world.at(1), "b", label="stay")
    assert kinds(weak(world.at(1.01), "a", label="go").at(1.02).tick()) == [("b", "fired", ()), ("a", "fired", ())]


def test_evidence_that_grows_to_what_is_needed_is_enough() -> None:
    """6.5: of what was refused before, too."""
    n, level = next((n, level) for n in range(900, 3000) if (level := level_needing(log_e_of(n))))
    world = World().activate(pause_rule(guards=(asked("confidence", level=level),))).at(1).report("a", n - 1, 0, status="active")
    assert world.at(2).report("a", 1).at(2.01).tick().told() == [(1 + S, "a", "refused", ("confidence",)), (2 + S, "a", "fired", ())]


def test_a_comparison_that_cannot_be_weighed_leaves_the_others_unproven() -> None:
    """6.5: the smallest of all of them, and it is not known."""
    above_nothing = against(MetricRef(0, 0, "ctr"), ">", 0, "ratio")
    for when in (And((ctr_below(8000), above_nothing)), And((above_nothing, ctr_below(8000)))):
        world = World().activate(pause_rule(when=when, guards=(asked("confidence", level=900_000),))).at(1).report("a", 10**6, 5, status="active")
        assert [(d.refusals, d.evidence) for d in world.at(1.01).tick().decisions()] == [(("confidence",), None)]


@pytest.mark.parametrize(("day", "apart"), [(0, True), (19, False)], ids=["in summer", "once it has ended"])
def test_days_are_those_of_the_offset_of_their_own_instant(day: int, apart: bool) -> None:
    """1.10: at 22:30 UTC it is the next day in Berlin until 27 October."""
    when = against(MetricRef(0, 0, "cpa"), ">", 1, "EUR")
    rule = pause_rule(where=None, metrics=(CPA, SHOWN), when=when, guards=(asked("confidence", level=950_000),), offsets=offsets("Europe/Berlin"))
    world = World().activate(rule, "shadow").at(24 * day + 20).report("a", spend=50).at(24 * day + 22.5).report("a", spend=50).tick()
    [running] = (w := state_of(world)).rules.values()
    assert dict(strength_of(w, running, world.now).totals)["phi_micro"] == 1_000_000 + 40_000 * (50 if apart else 100)


def test_of_several_candidates_priority_comes_first_then_evidence_then_path_then_rule() -> None:
    """6.6: all for one object, so the first of them alone may act."""
    base = pause_rule()
    strong, without = pause_rule(rule="strong", when=ctr_below(50_000)), pause_rule(rule="a-none", where=None, when=ANY)
    urgent = pause_rule(rule="z-urgent", where=None, when=ANY, priority=-1)
    alike = pause_rule(rule="b")
    for rules, first in (((base, strong, without), "strong"), ((base, without), "pause-weak"), ((strong, urgent), "z-urgent"), ((base, alike), "b")):
        world = World()
        for rule in rules:
            world.activate(rule)
        world.at(1).report("a", 1000, 1, status="active").at(1.01).tick()
        assert {d.rule_id: d.kind for d in world.decisions()} == {r.rule: "fired" if r.rule == first else "refused" for r in rules}


# -- pairs -----------------------------------------------------------------------------------------------------------

def pairs(**other: Any) -> Program:
    shift = Action("shift_budget", (("floor", 0), ("share", 150_000), ("to_at_most", 1_000_000)))
    pair = other.pop("pair", Pair(3, (), GOOD))
    return pause_rule(**{"when": DEAR, "pair": pair, "action": shift, **other})


def two(world: World, **other: str | int) -> World:
    world.at(1).report("weak", 1000, 1, status="active", daily_budget=50_010_000, **other)
    return world.report("good", 1000, 100, status="active", daily_budget=20_000_000, **other)


def test_a_pair_rule_judges_every_ordered_pair_and_holds_both() -> None:
    """6.8 and 7.2: cut to whole cents, the sum is conserved."""
    world = two(World().activate(pairs()).activate(pause_rule(where=None, when=ANY, rule="z"))).at(1.01).tick()
    fired, *others = world.decisions()
    assert (fired.path, fired.kind) == (f"{GROUP}/weak|{GROUP}/good", "fired")
    assert [(d.path, d.refusals) for d in others] == [(f"{GROUP}/good", ("outranked",)), (f"{GROUP}/weak", ("outranked",))]
    steps = json.loads(fired.action)["steps"]
    assert [(s["path"][-4:], s["observed"], s["desired"]) for s in steps] == [("weak", 50_010_000, 42_510_000), ("good", 20_000_000, 27_500_000)]
    assert [r.truth for r in fired.readings] == ["true", "true"]


def test_every_ordered_pair_of_different_objects_below_one_ancestor_is_judged() -> None:
    """6.8: whichever of them was heard of first."""
    world = two(World().activate(pairs(when=ANY, pair=Pair(3, (), ANY)), "shadow"))
    world.put(batch(event("meta_ads/act/cmp/other/a", world.now, attributes={"status": "active", "daily_budget": 20_000_000})))
    assert sorted(d.path for d in world.at(1.01).tick().decisions()) == [f"{GROUP}/good|{GROUP}/weak", f"{GROUP}/weak|{GROUP}/good"]


def test_the_evidence_of_a_pair_is_the_smaller() -> None:
    """6.8 and 6.5; where that of one cannot be weighed there is none."""
    for weak_clicks, good_clicks in ((1, 200), (7, 60), (1, 55)):
        found = []
        for rule in (pairs(), pause_rule(when=DEAR), pause_rule(when=GOOD)):
            world = World().activate(rule, "shadow").at(1).report("weak", 3000, weak_clicks, status="active", daily_budget=50_000_000)
            [d] = world.report("good", 1000, good_clicks, status="active", daily_budget=20_000_000).at(1.01).tick().decisions()
            found.append(d.evidence)
        assert found[0] == min(found[1:]) and found[1] != found[2]
    for rule in (pairs(when=And((DEAR, replace(DEAR, op=">", right=Number(0, 1, "ratio", "0"))))), pairs(pair=Pair(3, (), Or((GOOD, ANY))), when=DEAR)):
        [d] = two(World().activate(rule, "shadow")).at(1.01).tick().decisions()
        assert (d.evidence is None) == (rule.when != DEAR)


def test_a_pair_waits_for_its_time_and_clears_when_either_condition_ends() -> None:
    """5.1, 5.2 and 6.8"""
    for ad in ("weak", "good"):
        world = two(World().activate(pairs(hold=2 * SECOND, guards=(asked("min_runtime", at_least=DAY),)))).at(2)
        world.report(ad, *((0, 1000) if ad == "weak" else (10**6, 0))).at(2.01).tick()
        assert [(d.kind, round((d.now - START - HOUR) / SECOND)) for d in world.decisions()] == [("refused", 3), ("cleared", 3601)]


@pytest.mark.parametrize("ad", ["weak", "good"])
def test_of_a_pair_both_are_in_scope(ad: str) -> None:
    """4.7"""
    labelled = Compare("=", AttributeRef("label", "text"), Text("keep"), 'label = "keep"')
    for rule, labels, fires in (({"where": GO}, {ad: "go"}, 0), ({"where": GO}, {"weak": "go", "good": "go"}, 1), ({"unless": labelled}, {ad: "keep"}, 0)):
        world = two(World().activate(pairs(**rule)))
        for name, label in labels.items():
            world.report(name, label=label)
        assert [d.kind for d in world.at(1.01).tick().decisions()] == ["fired"] * fires
    assert [d.kind for d in two(World().activate(pairs(unless=labelled))).at(1.01).tick().decisions()] == ["fired"]


def test_a_pair_one_of_which_is_held_is_outranked() -> None:
    """6.7: one decision in flight on an object, whatever the rule."""
    for ad in ("weak", "good"):
        budget = pause_rule(rule="z", priority=-1, where=Compare("=", AttributeRef("name", "text"), Text(ad), f'name = "{ad}"'), when=ANY)
        world = two(World().activate(pairs()).activate(budget)).report(ad, name=ad).at(1.01).tick()
        assert [(d.path.rpartition("/")[2], d.kind, d.refusals) for d in world.decisions()][:2] == [(ad, "fired", ()), ("good", "refused", ("outranked",))]


def test_every_guard_is_asked_of_both_sides_of_a_pair() -> None:
    """6.8"""
    for ad in ("weak", "good"):
        world = two(World().activate(pairs(guards=(asked("cooldown", **{"for": DAY}),)))).change("weak" if ad == "weak" else "good", ago=1)
        assert [d.refusals for d in world.at(1.01).tick().decisions()] == [("cooldown",)]


def test_a_pair_shares_what_same_names_and_unknown_is_not_shared() -> None:
    """6.8"""
    rule = pairs(pair=Pair(3, ("label",), GOOD))
    assert two(World().activate(rule)).at(1.01).tick().decisions() == []
    assert [d.kind for d in two(World().activate(rule), label="x").at(1.01).tick().decisions()] == ["fired"]
    other = two(World().activate(rule), label="x").report("good", 0, 0, label="y")
    assert other.at(1.01).tick().decisions() == []


def test_where_nothing_can_be_moved_the_decision_is_refused() -> None:
    """7.2"""
    world = World().activate(pairs()).at(1).report("weak", 1000, 1, status="active").report("good", 1000, 100, status="active").at(1.01).tick()
    assert [(d.kind, d.refusals) for d in world.decisions()] == [("refused", ("proposal",))]


# -- 7. decisions ----------------------------------------------------------------------------------------------------


ASKED_ABOVE_100 = Approval(False, 100 * 1_000_000, "lead", HOUR, "leave as is")
UNKNOWN_SPEND = {
    "another currency alone": [{"spend@USD": 500}],
    "mixed currencies": [{"spend@EUR": 10, "spend@USD": 500}],
    "negative after a correction": [{"spend@EUR": 100}, {"spend@EUR": -500}],
    "past 2^62": [{"spend@EUR": 9_000_000_000}] * 513,
}


def spent(world: World, amounts: list[dict[str, int]]) -> World:
    """A weak ad spends this today."""
    weak(world.at(1))
    return world.put(batch(*(event(f"{GROUP}/a", world.now, f"spent {i}", said) for i, said in enumerate(amounts)))).at(2).tick()


def proposed(world: World) -> dict[str, Any]:
    """By rule, what its decisions that fired say the object spends a day."""
    return {d.rule_id: json.loads(d.action)["spend_per_day"] for d in world.decisions() if d.kind == "fired"}


def asked_because(world: World) -> str:
    """What policy answers to the one decision that fired; "" where it is carried out without asking."""
    [fired] = world.decisions()
    return why_asked(action_of(fired.action), fired.evidence, Circumstances(fired.now))


@pytest.mark.parametrize("amounts", UNKNOWN_SPEND.values(), ids=UNKNOWN_SPEND)
def test_money_that_is_not_known_is_never_moved_without_asking_where_an_amount_asks(amounts: list[dict[str, int]]) -> None:
    """4.3 and 7.2: what an object spends a day is a sum like any other."""
    world = spent(World().activate(pause_rule(approve=ASKED_ABOVE_100)), amounts)
    assert proposed(world) == {"pause-weak": None}
    assert asked_because(world) == "amount_unknown"


@pytest.mark.parametrize(("euros", "because"), [(0, ""), (100, ""), (500, "above_amount")])
def test_money_that_is_known_asks_above_its_amount_alone(euros: int, because: str) -> None:
    """4.3: money of another source, or of another currency that was taken back, is not among it."""
    world = World().activate(pause_rule(approve=ASKED_ABOVE_100)).at(1)
    world.put(batch(event(f"{GROUP}/a", world.now, "w", {"spend@USD": 1}, source="web")))
    spent(world, [{"spend@EUR": euros, "spend@USD": 5}, {"spend@USD": -5}])
    assert proposed(world) == {"pause-weak": euros * 1_000_000}
    assert asked_because(world) == because


@pytest.mark.parametrize(("panes", "leaves"), [(((DAY, 5 * MINUTE),), 25 + 1 / 12), (((DAY, HOUR),), 26), ((), 25 + 1 / 12)])
def test_money_a_day_is_that_of_the_window_of_a_day(panes: tuple[tuple[int, int], ...], leaves: float) -> None:
    """7.2: in the rule's own panes, of 5 min where it reads no day."""
    for hours, expected in ((leaves - S, None), (leaves, 0)):
        world = World().activate(pause_rule(approve=ASKED_ABOVE_100, panes=panes)).at(1)
        world.put(batch(event(f"{GROUP}/a", world.now, "e", {"spend@USD": 500})))
        assert proposed(weak(world.at(hours - S)).at(hours).tick()) == {"pause-weak": expected}


@pytest.mark.parametrize(("good", "expected"), [({"spend@EUR": 7}, 9_000_000), ({"spend@EUR": 7, "spend@USD": 1}, None)])
def test_of_two_objects_money_is_not_known_where_that_of_one_is_not(good: dict[str, int], expected: int | None) -> None:
    """7.2; otherwise the larger counts."""
    world = two(World().activate(pairs(approve=ASKED_ABOVE_100)))
    world.put(batch(event(f"{GROUP}/weak", world.now, "w", {"spend@EUR": 9}), event(f"{GROUP}/good", world.now, "g", good)))
    assert proposed(world.at(2).tick()) == {"pause-weak": expected}


@pytest.mark.parametrize("first", [-1, 1])
@pytest.mark.parametrize("amounts", [UNKNOWN_SPEND[name] for name in UNKNOWN_SPEND if name != "past 2^62"])
def test_a_rule_of_earlier_semantics_takes_an_unknown_spend_for_its_sum(amounts: list[dict[str, int]], first: int) -> None:
    """1.10: also beside one of version 3, before or after it, that reads the same sums at the same boundary."""
    world = World()
    for number in (1, 2, 3):
        rule = pause_rule(rule=f"version {number}", semantics=number, approve=ASKED_ABOVE_100, priority=first * number)
        world.activate(rule, "shadow")  # where nothing is held, so that each of them fires
    total = sum(said.get("spend@EUR", 0) for said in amounts) * 1_000_000
    assert proposed(spent(world, amounts)) == {"version 1": total, "version 2": total, "version 3": None}


def test_a_version_hashes_what_the_program_says_and_neither_its_text_nor_its_targets() -> None:
    """7.1"""
    base = pause_rule()
    assert replace(base, source="# a comment").version == base.version
    for other in (
        {"when": ctr_below(8001)}, {"metrics": (replace(CTR, version=2), SHOWN)}, {"lag": Lag("purchases", ((HOUR, 1),))}, {"coefficients": (("low", (0.1,)),)},
        {"valid_for": MINUTE}, {"zone": "UTC"}, {"guards": (asked("fresh", within=HOUR),)}, {"interval": MINUTE}, {"semantics": 1}, {"semantics": 2},
    ):  # fmt: skip
        assert replace(base, **other).version != base.version
    [before] = weak(World().activate(base).at(1)).at(2).tick().decisions()
    [after] = weak(World().activate(base).target("ctr", 1, unit="ratio").at(1)).at(2).tick().decisions()
    assert before.id == after.id


def test_the_id_of_a_decision_is_that_of_workspace_version_path_and_boundary() -> None:
    """7.1"""
    [d] = weak(World().activate(pause_rule()).at(1)).at(2).tick().decisions()
    assert replace(d, kind="refused", readings=(), evidence=None, action="").id == d.id
    assert len({d.id, *(replace(d, **{name: f"x{getattr(d, name)}"}).id for name in ("workspace", "version", "path")), replace(d, boundary=1).id}) == 5


def test_a_decision_not_fired_is_valid_for_nothing() -> None:
    """7.3"""
    rule = pause_rule(guards=(asked("min_runtime", at_least=DAY),))
    [refused] = weak(World().activate(rule).at(1)).at(2).tick().decisions()
    assert (refused.kind, refused.valid_until, refused.action) == ("refused", 0, "")
