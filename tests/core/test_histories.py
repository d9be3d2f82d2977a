"""Stored histories: what was decided once on these logs is what today's code decides, whatever the hash seed, the time zone and the pages."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tests.histories as histories
from services.adapters.log.codec import DECISIONS
from services.kernel.record import Activation, EventBatch, Outcome, Record
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.core.program import KNOWN, Program
from tests.core.world import GUARDS
from tests.histories import Differs, History, names, read, renew

ROOT = Path(__file__).parents[2]
ZONES = ("UTC", "America/St_Johns", "Asia/Kathmandu")
EVERY = [(seed, zone) for seed in range(8) for zone in ZONES]
OFTEN = [(0, "UTC"), (3, "America/St_Johns"), (5, "Asia/Kathmandu"), (7, "UTC")]


def replayed(hash_seed: int, zone: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "TZ": zone}
    seed = str(hash_seed * len(ZONES) + ZONES.index(zone))
    done = subprocess.run(
        [sys.executable, "-m", "tests.histories", "check", seed], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("hash_seed", "zone"), OFTEN)
def test_what_was_decided_is_decided_again_byte_for_byte(hash_seed: int, zone: str) -> None:
    total = sum(len(read(name).decided) for name in names())
    assert total > 400
    assert replayed(hash_seed, zone) == f"{total} decisions, the same\n"


@pytest.mark.slow
@pytest.mark.parametrize(("hash_seed", "zone"), [x for x in EVERY if x not in OFTEN])
def test_what_was_decided_is_decided_again_under_every_hash_seed_and_time_zone(hash_seed: int, zone: str) -> None:
    assert replayed(hash_seed, zone).endswith("the same\n")


def test_the_histories_were_checked_with_this_state() -> None:
    """Else what changes later could pass for what this state changed."""
    assert histories.about()["state"] == state.STATE, f"STATE is {state.STATE}: run `make histories`, which notes it where no decision changed"


def altered(history: History) -> History:
    """One decision has another figure of evidence."""
    number = next(i for i, data in enumerate(history.decided) if DECISIONS.decode(data).evidence is not None)
    decision = DECISIONS.decode(history.decided[number])
    other = DECISIONS.encode(replace(decision, evidence=(decision.evidence or 0) + 1))
    return replace(history, decided=(*history.decided[:number], other, *history.decided[number + 1 :]))


def test_a_decision_that_is_another_one_is_named_with_what_to_do() -> None:
    with pytest.raises(Differs, match=r"(?s)history demo, decision \d+ of \d+:.*was Decision.*is  Decision.*ADR.*STATE.*make histories"):
        altered(read("demo")).check(random.Random(1))
    missing = replace(read("demo"), decided=read("demo").decided[:-1])
    with pytest.raises(Differs, match="was none"):
        missing.check(random.Random(1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two histories under docs and tests of their own, one of which was decided otherwise."""
    made = tmp_path / "tests/histories"
    made.mkdir(parents=True)
    (tmp_path / "docs/adr").mkdir(parents=True)
    for path in histories.files("demo") + histories.files("account-21"):
        (made / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(histories, "FOLDER", made)
    monkeypatch.setattr(histories, "ABOUT", made / "histories.json")
    (made / "histories.json").write_text(json.dumps({"state": state.STATE, "adr": ""}))
    return made


def test_histories_are_renewed_only_with_a_new_state_and_a_record_that_tells_it(folder: Path) -> None:
    good = histories.files("demo")[1].read_bytes()
    histories.put(histories.files("demo")[1], "decisions", [(i, 0, data) for i, data in enumerate(altered(read("demo")).decided)])
    for kept, adr in ((state.STATE, "0099"), (state.STATE - 1, ""), (state.STATE - 1, "0098")):
        histories.ABOUT.write_text(json.dumps({"state": kept, "adr": ""}))
        (folder.parents[1] / "docs/adr/0099-why.md").write_text("why")
        with pytest.raises(Differs, match="demo would change"):
            renew(adr, {}, said=lambda _: None)
        assert histories.files("demo")[1].read_bytes() != good
    histories.ABOUT.write_text(json.dumps({"state": state.STATE - 1, "adr": ""}))
    told: list[str] = []
    renew("0099", {}, said=told.append)
    assert len(told) == 1 and told[0].startswith("demo: ")
    assert histories.files("demo")[1].read_bytes() == good
    assert histories.about() == {"state": state.STATE, "adr": "0099"}


def test_a_history_that_is_not_there_is_recorded_and_the_others_stay(folder: Path) -> None:
    source = read("account-21").records
    for path in histories.files("account-21"):
        path.unlink()
    before = [path.read_bytes() for path in histories.files("demo")]
    renew("", {"account-21": lambda: [(s.stamp, s.record) for s in source]}, said=lambda _: None)
    assert [path.read_bytes() for path in histories.files("demo")] == before
    read("account-21").check(random.Random(1))
    assert len(read("account-21").records) == len(source)


# -- what they hold -------------------------------------------------------------------------------------------------------


def kinds(record: Record) -> set[str]:
    met = {f"record {type(record).__name__}"}
    match record:
        case Outcome():
            met.add(f"outcome {record.status}")
        case Activation():
            met |= {f"activation {record.state}"} | ({f"semantics {Program.from_json(record.program).semantics}"} if record.program else set())
        case EventBatch():
            met |= {f"row {'of a report' if as_of else 'of deltas'}" for as_of in record.as_of.tolist()}
    return met


def test_the_histories_hold_the_whole_language_and_are_small() -> None:
    met: set[str] = set()
    for name in names():
        history = read(name)
        for stamped in history.records:
            met |= kinds(stamped.record)
        for decision in map(DECISIONS.decode, history.decided):
            met |= {f"{decision.kind} in {decision.mode}", *(f"refused by {g}" for g in decision.refusals), *(f"reading {r.truth}" for r in decision.readings)}
            met |= {f"pair {decision.kind}"} if "|" in decision.path else set()
            action = json.loads(decision.action) if decision.action else {}
            met |= {f"does {action['do']}"} if action else set()
            met |= {"spend a day unknown, asks above"} if action and action["spend_per_day"] is None and action["approve"]["above"] >= 0 else set()
        partition = Partition(GUARDS, demand_of(history.records), skips_of(history.records))
        partition.step(history.records)
        for workspace in partition.workspaces.values():
            met |= {f"events {what}" for what, count in workspace.facts.counts.items() if count}
    expected = {
        *(f"refused by {guard}" for guard in (*GUARDS, "outranked", "proposal")),
        *(f"outcome {status}" for status in ("verified", "failed", "unknown", "held", "rejected", "expired", "cancelled", "approved")),
        *(f"semantics {number}" for number in KNOWN),
        *(f"activation {name}" for name in ("active", "shadow", "retired")),
        *(f"record {name}" for name in ("EventBatch", "Activation", "Ready", "Target", "Tick", "Outcome", "Change", "Skip", "Clock")),
        *(f"{kind} in {mode}" for kind in ("fired", "refused", "cleared") for mode in ("active", "shadow")),
        *(f"reading {truth}" for truth in ("true", "false", "unknown")),
        *(f"pair {kind}" for kind in ("fired", "refused", "cleared")),
        *(f"does {name}" for name in ("pause", "resume", "notify", "set_budget", "shift_budget")),
        *(f"events {what}" for what in ("accepted", "duplicate", "conflicting", "late", "huge", "ahead", "outdated")),
        "row of a report",
        "row of deltas",
        "spend a day unknown, asks above",
    }
    assert expected - met == set()
    assert sum(path.stat().st_size for path in histories.FOLDER.iterdir() if path.is_file()) < 2_000_000
