"""A state that was written down and read again decides what it would have decided, from wherever in the log that was done."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kernel.decision import Decision
from services.kernel.record import Clock, Record, Stamped
from services.rules_engine.core import state
from services.rules_engine.core.attributes import Attributes, Column
from services.rules_engine.core.entities import Entities
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.history import History
from services.rules_engine.core.keys import Keys
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.core.running import Running
from services.rules_engine.core.seen import Seen, Table
from services.rules_engine.core.snapshots import Snapshots
from services.rules_engine.core.sums import Since
from services.rules_engine.core.window import Panes, Sums, Window, Windows
from services.rules_engine.core.workspace import Changed, Flight, Workspace
from tests.core.test_determinism import history
from tests.core.test_letter import pairs, two
from tests.core.world import DAY, GUARDS, World, asked, ctr_below, pause_rule
from tests.reference.generate import generate

# What a state is made of: what is written down, and what is made anew. A field that is neither would be lost at a restart.
KEPT: dict[type[Any], tuple[str, str]] = {
    Partition: ("demand skipped workspaces now offset simulated", "guards _soon"),
    Workspace: (
        "name simulated facts targets changed ours activated effective born rules flights deadlines held interval judged fresh turn",
        "guards changed_at ours_at lapsed shapes panels pairs _arrivals _taken _folded _goals _goals_until _currencies _lapsed_most _foresight _foreseen",
    ),
    Facts: (
        "demand entities windows sinces history seen slot snapshots attributes sources newest counts latest",
        "levels dirty horizon ahead _demanded _slots _words",
    ),
    Entities: ("path keys lineage first_event", "row depth word"),
    Windows: ("panes windows", "depths _turn"),
    Panes: ("width parts", "order"),
    Window: ("width panes sums first", ""),
    Sums: ("table", ""),
    Since: ("born latest start _sums", ""),
    History: ("sorted loose", "needed _waiting"),
    Seen: ("period tables", "horizon"),
    Table: ("ids body", ""),
    Keys: ("count key", "table _before _moved fullest"),
    Snapshots: ("keys ids kept", ""),
    Attributes: ("columns words", "vocabulary"),
    Column: ("when text number", ""),
    Running: ("program version mode since lives text", "comparisons weighers sources sample_window measured counts_siblings shape place panel seat"),
    Life: ("since on spent flight outlived emitted missed wake", ""),
    Flight: ("rule subject paths deadline", ""),
    Changed: ("when by ours", ""),
}
written = cache(generate)


def again(partition: Partition) -> Partition:
    """The same partition after a restart."""
    plain, pieces = state.dump(partition)
    return state.load(json.loads(json.dumps(plain)), state.joined(pieces), GUARDS)


def fresh(records: Sequence[Stamped[Record]]) -> Partition:
    return Partition(GUARDS, demand_of(records), skips_of(records))


def restarted(records: Sequence[Stamped[Record]], cuts: Sequence[int]) -> tuple[list[Decision], str]:
    partition, out = fresh(records), []
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        out += partition.step(records[start:end])
        before = partition.digest()
        partition = again(partition)
        assert partition.digest() == before
        assert partition.due() == again(partition).due()
    return out, partition.digest()


def uninterrupted(records: Sequence[Stamped[Record]]) -> tuple[list[Decision], str]:
    partition = fresh(records)
    return partition.step(records), partition.digest()


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=25, deadline=None)
def test_restarts_at_any_offsets_change_neither_a_decision_nor_the_state(seed: int, data: st.DataObject) -> None:
    records = history(seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), min_size=1, max_size=4)))
    assert restarted(records, cuts) == uninterrupted(records)


@pytest.mark.parametrize("seed", range(20))
def test_restarts_within_any_log_change_neither_a_decision_nor_the_state(seed: int) -> None:
    """Pairs, targets, skips, retired rules with decisions in flight, restated rows: all that the reference's logs hold."""
    records, rng = written(seed).records, random.Random(seed)
    cuts = sorted(rng.randrange(len(records) + 1) for _ in range(12))
    assert restarted(records, cuts) == uninterrupted(records)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(i, i + 20) for i in range(1000, 1100, 20)], ids=str)
def test_a_restart_after_every_record_changes_neither_a_decision_nor_the_state(seeds: range) -> None:
    for seed in seeds:
        records = generate(seed, 50).records
        assert restarted(records, range(1, len(records))) == uninterrupted(records), seed


def test_two_workspaces_and_a_simulated_clock_come_back() -> None:
    records = sorted([*history(1, "one"), *history(2, "two")], key=lambda s: s.stamp)
    records = [Stamped(0, records[0].stamp, Clock(True, records[0].stamp)), *records]
    assert restarted(records, [1, len(records) // 2]) == uninterrupted(records)


def test_what_was_dumped_stays_as_it_was_while_the_partition_goes_on() -> None:
    """It is written while the engine works."""
    for seed in range(12):
        records = written(seed).records
        partition = fresh(records)
        partition.step(records[: len(records) // 2])
        plain, pieces = state.dump(partition)
        before, text = state.joined(pieces), json.dumps(plain)
        partition.step(records[len(records) // 2 :])
        after = state.joined(pieces)
        assert json.dumps(plain) == text
        assert [name for name in before if not np.array_equal(before[name], after[name])] == []


def left_while_waiting() -> list[Stamped[Record]]:
    """A rule is replaced while a decision of it is waited for; a pair rule will ask again when a cooldown has passed."""
    world = World().activate(pause_rule()).activate(pairs(rule="shift", guards=(asked("cooldown", **{"for": DAY}),)))
    world = two(world).change("good", ago=1).at(1.01).tick().activate(pause_rule(when=ctr_below(9000))).at(1.02).tick()
    [fired] = [d for d in world.decisions() if d.kind == "fired"]
    return world.outcome(fired.id, "verified", "weak", action="status", value="paused").at(1.03).tick().records


def test_what_was_read_is_written_as_it_was() -> None:
    for records in (left_while_waiting(), *(written(seed).records for seed in range(6))):
        partition, step = fresh(records), -(-len(records) // 6)
        for i in range(0, len(records), step):
            partition.step(records[i : i + step])
            other = again(partition)
            (plain, pieces), (plain_again, pieces_again) = state.dump(partition), state.dump(other)
            assert plain == plain_again
            before, after = state.joined(pieces), state.joined(pieces_again)
            assert set(before) == set(after)
            assert [n for n in before if "/panes." not in n and not np.array_equal(before[n], after[n])] == []  # a pane's parts are summed meanwhile
            for mine, theirs in zip(partition.workspaces.values(), other.workspaces.values(), strict=True):
                for name in ("changed_at", "ours_at"):
                    assert np.trim_zeros(getattr(mine, name), "b").tolist() == np.trim_zeros(getattr(theirs, name), "b").tolist()


def test_a_rule_that_left_while_a_decision_of_it_is_waited_for_is_remembered() -> None:
    records = left_while_waiting()
    partition = fresh(records)
    partition.step(records[:-2])
    [workspace] = partition.workspaces.values()
    [flight] = workspace.flights.values()
    assert flight.rule not in workspace.rules.values()
    assert any(life.wake for rule in workspace.pairs for life in rule.lives.values())
    assert restarted(records, [len(records) - 2]) == uninterrupted(records)


def test_a_partition_that_was_read_shares_nothing_with_the_one_that_was_written() -> None:
    records = history(5)
    partition = fresh(records)
    partition.step(records[:20])
    digest, other = partition.digest(), again(partition)
    other.step(records[20:])
    assert partition.digest() == digest


def parts(value: Any) -> list[Any]:
    """Every object of ours inside a value, itself among them."""
    match value:
        case dict():
            return [p for v in value.values() for p in parts(v)]
        case list() | tuple():
            return [p for v in value for p in parts(v)]
    if type(value) not in KEPT:
        return []
    kept, made = (set(names.split()) for names in KEPT[type(value)])
    there = set(getattr(type(value), "__slots__", ())) or set(vars(value)) | {"shape", "place", "panel", "seat"} & made
    assert there == kept | made, f"{type(value).__name__}: a new field is written down by state.py (and counts STATE up), or named here as made anew"
    return [value, *(p for name in sorted(kept) for p in parts(getattr(value, name)))]


def test_every_field_of_the_state_is_written_down_or_made_anew() -> None:
    met = set()
    for seed in range(12):
        records = written(seed).records
        partition = fresh(records)
        for i in range(0, len(records), 10):
            partition.step(records[i : i + 10])
            met |= {type(p) for p in parts(partition)}
    assert met == set(KEPT)
