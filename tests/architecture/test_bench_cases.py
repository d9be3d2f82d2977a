"""`make bench` measures what its page says, and what it measures is what it says: every source, every goal."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from benchmarks import engine, ingest, kafka, latency, rivals
from benchmarks.account import ALL_GUARDS, rules
from benchmarks.engine import CASES, Case
from benchmarks.figure import Figure
from benchmarks.load import apart
from benchmarks.rivals import __main__ as contestants
from benchmarks.rivals import bare
from benchmarks.rivals.plain import Event
from benchmarks.shapes import BATCHES, count
from benchmarks.stages import watched
from services.adapters.codec.each import SCHEMA

NOW = 1_772_366_400_000_000


def test_every_source_of_ingest_is_measured() -> None:
    assert {ingest.SENDERS[name].source for name, _, _ in ingest.CASES} == set(ingest.SOURCES)
    assert {name for name, _, _ in ingest.CASES} == set(ingest.SENDERS)


@pytest.mark.parametrize("name", list(ingest.SENDERS))
def test_every_event_that_is_counted_is_read_by_the_source_and_by_the_bare_endpoint(name: str) -> None:
    for delivery in ingest.deliveries(name, 20, 3, NOW):
        assert ingest.read_alone(delivery) == count(msgspec.json.decode(delivery.body, type=BATCHES[name])) == 20


def test_the_load_keeps_off_the_server_s_core_and_may_use_it_again_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with apart() as core:
        within = os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == before
    assert (core, within) == (-1, before) if len(before) < 2 else {core} | within == before and core not in within


def test_every_case_of_the_engine_holds_as_many_ids_as_the_page_says_and_has_a_name_of_its_own() -> None:
    assert {case.held for case in CASES} == {20_000_000}
    assert str(Case(held=0)) == f"{Case()} held=0"
    assert len({str(case) for case in CASES}) == len({str(case.small) for case in CASES}) == len(CASES)


def test_a_boundary_at_a_time_stands_beside_a_hundred_at_once_and_each_says_which_it_is() -> None:
    sparse = [case for case in CASES if case.tick == 100]
    assert [(case.at_once, case.goal) for case in sparse] == [(100, 150_000), (1, None)]
    assert [str(case).partition("entities=1255 ")[2] for case in sparse] == ["100 boundaries at once", "one boundary at a time"]


def test_fewer_decisions_than_one_in_a_thousand_events_are_a_goal_missed() -> None:
    for case in CASES:
        assert [engine.decided(case, n).reached for n in (case.events // 1_000 - 1, case.events // 1_000)] == [False, True]


@pytest.mark.parametrize("case", [case for case in CASES if case.per_record == 1], ids=str)
def test_thresholds_lie_where_one_event_in_a_thousand_brings_about_a_decision(case: Case) -> None:
    _, decisions = engine.run(replace(case, per_record=1_000, held=0))
    assert engine.decided(case, len(decisions)).reached


def test_guards_off_is_no_guard_at_all() -> None:
    on, off = (rules(20, 1, guards=guards) for guards in (ALL_GUARDS, ()))
    assert {len(rule.guards) for rule in off} == {0}
    assert {len(rule.guards) for rule in on} == {5}
    assert [rule.when for rule in on] == [rule.when for rule in off]


def test_a_stage_is_told_without_those_that_it_calls_and_nothing_is_watched_afterwards() -> None:
    ticks = iter((1.0, 2.0, 4.0, 8.0))  # outer from 1 to 8, inner from 2 to 4
    work = SimpleNamespace(inner=lambda: "done", outer=lambda: work.inner())
    before = dict(vars(work))
    with watched([("inner", work, "inner"), ("outer", work, "outer")], ticks.__next__) as spent:
        assert work.outer() == "done"
    assert spent == {"inner": 2.0, "outer": 5.0}
    assert vars(work) == before


# -- the comparison of two trees leaves no case out ------------------------------------------------------------------------


def test_small_sizes_have_every_case_of_ingest_and_of_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def note(*case: object, **_: object) -> Iterator[Figure]:
        asked.append(case[:3])
        return iter(())

    monkeypatch.setattr(ingest, "against_bare", note)
    monkeypatch.setattr(ingest, "stages", lambda rounds: iter(()))
    monkeypatch.setattr(latency, "measure", note)
    assert list(ingest.figures(quick=True)) == list(latency.figures(quick=True)) == []
    assert asked == [*ingest.CASES, *latency.CASES]


def test_small_sizes_have_every_case_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run", lambda case, *_: (1.0, []))
    monkeypatch.setattr(engine, "bare", lambda _: 1.0)
    monkeypatch.setattr(engine, "known_ids", lambda _: SimpleNamespace(ids=()))
    monkeypatch.setattr(engine, "memory", lambda *_: iter(()))
    told = {figure.case for figure in engine.figures(quick=True)}
    assert {str(case.small) for case in CASES} <= told


def test_small_sizes_have_every_part_on_kafka_and_every_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(kafka.PARTS) == {*kafka.ON_A_BROKER, "actions", "restore", "latency", "restarts"}
    begun: list[str] = []

    def process(name: str, *_: object) -> SimpleNamespace:
        begun.append(name)
        return SimpleNamespace(skipped="not here", stop=lambda: None)

    monkeypatch.setattr(rivals, "Process", process)
    monkeypatch.setattr(rivals, "_speeds", lambda *_: iter(()))
    list(rivals.figures(quick=True))
    assert begun[: -1] == [*rivals.ENGINES, *(rival.name for rival in rivals.RIVALS)]


# -- decisions alike -----------------------------------------------------------------------------------------------------


def test_what_the_loop_over_published_events_parses_is_what_the_product_publishes() -> None:
    [said] = bare.as_published([Event(bytes(16), "meta_ads/a", NOW, 0, 2_500_000)])
    fields = [f.name for f in msgspec.structs.fields(bare.Published)]
    assert set(msgspec.json.decode(said)) == set(fields) == set(SCHEMA["required"])
    parsed = msgspec.json.decode(said, type=bare.Published)
    assert (parsed.entity, parsed.occurred_at.timestamp() * 1e6, list(parsed.amounts.values())) == ("meta_ads/a", NOW, [2.5])


def test_the_same_rule_and_entity_an_event_later_is_not_the_same_decision() -> None:
    one, later = frozenset({("r", "e", 5)}), frozenset({("r", "e", 6)})
    assert (rivals.shared(one, one), rivals.shared(one, later)) == (1.0, 0.0)


def test_where_nothing_held_nothing_was_compared() -> None:
    assert rivals.shared(frozenset(), frozenset()) == 0.0


def test_every_rival_that_judges_is_compared_with_its_instants_and_every_kind_on_what_is_timed() -> None:
    judging = [rival for rival in rivals.RIVALS if not rival.name.startswith("bare") and "around" not in rival.name]
    assert all(rival.checked for rival in judging)
    assert {rival.name for rival in judging if not rival.streamed} == {"bytewax sliding", "quixstreams sliding"}  # a few hundred events a second
    assert {rival.name for rival in judging if rival.is_asked} == {"per event", "datalogic", "zen"}


@pytest.mark.timeout(120)
def test_the_per_event_engine_decides_as_the_engine_at_the_same_instants() -> None:
    log = contestants.Log(contestants.CHECKED, contestants.CHECKED_CREATIVES, 300, contestants.FOLD)
    ours, theirs = (contestants.firsts(contestants.CONTESTANTS[name](size).check(log), log.apart) for name, size in (("engine 100", 1), ("per event", 2)))
    assert len(ours) > 100
    assert ours == theirs


def test_the_stages_of_the_engine_are_those_of_what_is_timed_and_of_no_more() -> None:
    seconds = itertools.count()
    took, _, spent = engine.timed(Case(events=20_000, held=0), None, lambda: float(next(seconds)), engine.STAGES)
    assert all(spent.values())
    assert sum(spent.values()) < took
