"""Batch boundaries, restarts, duplicates, ticks, hash seeds and time zones change not a single decision."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kernel.decision import Decision
from services.kernel.record import Clock, Record, Stamped, Tick
from services.rules_engine.core.partition import Partition, demand_of
from tests.core.world import DAY, GROUP, GUARDS, HOUR, MINUTE, START, World, asked, batch, ctr_below, pause_rule

ADS = ("a", "b", "c")


def history(seed: int, workspace: str = "acme", rounds: int = 40) -> list[Stamped[Record]]:
    """A log with duplicates, late, restated, redelivered and out-of-order events, ticks, activations, edits, outcomes, changes, gaps."""
    rng = random.Random(f"{seed} {workspace}")
    world, hours, sent = World(workspace), 0.0, []
    rules = [
        pause_rule(),
        pause_rule(rule="windowed", when=ctr_below(9000, DAY), hold=HOUR, priority=-1),
        pause_rule(rule="edited", when=ctr_below(5000), clear=None),
    ]
    world.activate(rules[0])
    for _ in range(rounds):
        hours += rng.choice([0.0, 0.001, 0.1, 0.5, 2.0, 30.0 if rng.random() < 0.1 else 1.0])
        world.at(hours)
        kind = rng.choice(["report"] * 6 + ["again", "snapshot", "snapshot", "tick", "activate", "outcome", "outcome", "change"])
        ad = rng.choice(ADS)
        if kind == "report":
            at = world.now - rng.choice([0, 0, MINUTE, 3 * HOUR, 8 * DAY])
            event = {
                "id": f"e{len(world.records)}",
                "path": f"{GROUP}/{ad}",
                "at": at,
                "amounts": {"impressions": rng.choice([0, 500, 3000]) * 10**6, "clicks": rng.choice([0, 2, 40]) * 10**6},
                "attributes": {"status": rng.choice(["active", "active", "active", "paused"])},
            }
            sent.append(event)
            world.put(batch(event, workspace=workspace))
        elif kind == "again" and sent:
            world.put(batch(*rng.sample(sent, min(3, len(sent))), workspace=workspace))
        elif kind == "snapshot":
            day = world.now // DAY * DAY - rng.choice([0, DAY])
            row = {"id": f"s{len(world.records)}", "path": f"{GROUP}/{ad}", "at": world.now, "interval": (day, day + DAY), "row": f"{ad}{day}"}
            world.put(batch({**row, "as_of": world.now - rng.choice([0, HOUR]), "amounts": {"impressions": rng.randint(0, 9) * 10**9}}, workspace=workspace))
        elif kind == "tick":
            world.tick()
        elif kind == "activate":
            world.activate(rng.choice(rules), rng.choice(["active", "active", "shadow", "retired"]))
        elif kind == "change":
            world.change(ad, ago=rng.choice([0, 1]))
        elif kind == "outcome":
            fired = [d for d in world.decisions() if d.kind == "fired"]
            if fired:
                d = rng.choice(fired[-2:])
                status = rng.choice(["verified", "rejected", "failed", "unknown", "held", "expired", "approved"])
                world.outcome(d.id, status, d.path.rpartition("/")[2] if status == "verified" else "", action="status", value="paused")
    return world.at(hours + 40).tick().records


def run(records: list[Stamped[Record]], cuts: list[int] | None = None, state: Partition | None = None) -> list[Decision]:
    state = state or Partition(GUARDS, demand_of(records))
    out: list[Decision] = []
    for start, end in zip([0, *(cuts or [])], [*(cuts or []), len(records)], strict=True):
        out += state.step(records[start:end])
    return out


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=25, deadline=None)
def test_no_split_into_batches_changes_a_decision(seed: int, data: st.DataObject) -> None:
    records = history(seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=8)))
    assert run(records, cuts) == run(records)


@given(st.integers(0, 10**6), st.integers(0, 39))
@settings(max_examples=25, deadline=None)
def test_a_restart_from_the_state_at_any_offset_repeats_what_would_have_come(seed: int, offset: int) -> None:
    records = history(seed)
    state = Partition(GUARDS, demand_of(records))
    before = state.step(records[:offset])
    restored = copy.deepcopy(state)
    assert restored.digest() == state.digest()
    after = restored.step(records[offset:])
    assert before + after == run(records)
    assert state.step(records[offset:]) == after
    assert restored.digest() == state.digest()


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_extra_ticks_change_no_decision(seed: int) -> None:
    records, rng = history(seed), random.Random(seed)
    ticked: list[Stamped[Record]] = []
    for now, after in zip(records, [*records[1:], None], strict=True):
        ticked.append(now)
        if after is not None and after.stamp > now.stamp:
            ticked += [Stamped(0, s, Tick()) for s in sorted(rng.randint(now.stamp, after.stamp) for _ in range(3))]
    assert run(ticked) == run(records)


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_a_wider_demand_and_the_order_of_workspaces_change_no_decision(seed: int) -> None:
    """Whether workspaces share a partition or not, each decides the same."""
    one, two = history(seed, "one"), history(seed + 1, "two")
    end = max(r[-1].stamp for r in (one, two))
    apart = [run([*r, Stamped(0, end, Tick())]) for r in (one, two)]
    together = run(sorted([*one, *two], key=lambda s: s.stamp) + [Stamped(0, end, Tick())])
    assert [[d for d in together if d.workspace == w] for w in ("one", "two")] == apart


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_judging_every_boundary_says_the_same_as_skipping_the_no_ops(seed: int) -> None:
    """A boundary is skipped only where provably nothing can differ."""
    records = [replace(s, record=s.record) for s in history(seed, rounds=15)]
    last = next((i for i, s in enumerate(records) if s.stamp > START + 6 * HOUR), len(records))
    records = [*records[:last], Stamped(0, START + 6 * HOUR, Tick())]
    skipping, eager = Partition(GUARDS, demand_of(records)), Partition(GUARDS, demand_of(records))
    out = []
    for stamped in records:
        while (w := eager.workspaces.get("acme")) and w.interval and (w.judged + 600) * w.interval <= stamped.stamp:
            w.fresh = True
            out += eager.step([Stamped(0, (w.judged + 600) * w.interval, Tick())])
        out += eager.step([stamped])
    assert out == skipping.step(records)


SCRIPT = "import sys; from tests.core.test_determinism import fingerprint; print(fingerprint(int(sys.argv[1])))"


def crowd() -> list[Stamped[Record]]:
    """Nine creatives that become weak at one boundary, of which two may go."""
    world = World().activate(pause_rule(guards=(asked("keep_active", at_least=7, per="ad_group"),))).at(1)
    for ad in "ihgfedcba":
        world.report(ad, 1000, 1, status="active")
    return world.at(1.1).tick().records


def fingerprint(seed: int) -> str:
    said: list[str] = []
    for records in (history(seed), crowd()):
        state = Partition(GUARDS, demand_of(records))
        said += [d.id + repr(d) for d in state.step(records)]
        said.append(state.digest())
    return "\n".join(said)


@pytest.mark.parametrize(("hash_seed", "zone"), [("0", "UTC"), ("1", "Asia/Tokyo"), ("4711", "America/St_Johns")])
def test_hash_seeds_and_time_zones_of_the_host_change_nothing(hash_seed: str, zone: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone}
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", SCRIPT, "7"], env=environment, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == fingerprint(7)


def test_a_declared_simulation_shows_in_every_decision() -> None:
    records = history(3)
    simulated = [Stamped(0, records[0].stamp, Clock(True, START)), *records]
    assert run(simulated) and all(d.simulated for d in run(simulated))
    assert not any(d.simulated for d in run(records))


def test_the_generator_reaches_every_kind_of_decision() -> None:
    kinds = {(d.kind, d.mode) for seed in range(12) for d in run(history(seed))}
    assert kinds >= {("fired", "active"), ("fired", "shadow"), ("refused", "active"), ("cleared", "active")}
