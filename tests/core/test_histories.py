"""Stored histories: what was decided once on these logs is what today's code decides, whatever the hash seed, the time zone and the pages."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tests.histories as histories
from services.adapters.log.codec import DECISIONS, EVENTS
from services.kernel.record import Activation, EventBatch, Outcome, Record
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.core.program import KNOWN, Program
from tests.core.world import GUARDS
from tests.histories import Differs, History, names, read, renew, untold

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


def test_the_histories_are_those_that_were_renewed_last() -> None:
    """Neither edited by hand nor recorded anew since."""
    assert histories.about()["files"] == {name: histories.digest(name) for name in names()}
    assert histories.about()["newest_adr"] <= histories.newest_adr()


TOLD = f"STATE {state.STATE}: the stored histories decide otherwise"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two histories of the state before, under docs and tests of their own, with ADRs up to 0098."""
    made, adrs = tmp_path / "tests/histories", tmp_path / "docs/adr"
    made.mkdir(parents=True)
    adrs.mkdir(parents=True)
    for path in histories.files("demo") + histories.files("account-21"):
        (made / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(histories, "FOLDER", made)
    monkeypatch.setattr(histories, "ABOUT", made / "histories.json")
    monkeypatch.setattr(histories, "ADRS", adrs)
    (adrs / "0098-before.md").write_text(TOLD)
    noted()
    return made


def noted(kept: int = state.STATE - 1, adr: str = "") -> None:
    """The manifest says so, and that the files are as they are."""
    files = {name: histories.digest(name) for name in names()}
    histories.ABOUT.write_text(json.dumps({"state": kept, "adr": adr, "newest_adr": "0098", "files": files}))


def otherwise(name: str) -> None:
    """It was decided otherwise than today's code does."""
    histories.put(histories.files(name)[1], "decisions", [(i, 0, data) for i, data in enumerate(altered(read(name)).decided)])


def add(adr: str, text: str = TOLD) -> None:
    (histories.ADRS / f"{adr}-why.md").write_text(text)


@pytest.mark.parametrize(
    ("kept", "adr", "said"),
    [
        (state.STATE, "0099", "STATE is . and was . already"),
        (state.STATE + 1, "0099", "STATE is . and was . already"),
        (state.STATE - 1, "", "no ADR is named"),
        (state.STATE - 1, "0100", "there is no ADR 0100"),
        (state.STATE - 1, "*", r"there is no ADR \*"),
        (state.STATE - 1, "0098", "ADR 0098 was there before this change"),
        (state.STATE - 1, "0097", "ADR 0097 was there before this change"),
        (state.STATE - 1, "0101", "ADR 0101 does not speak of the histories"),
        (state.STATE - 1, "0102", "ADR 0102 does not speak of the histories"),
    ],
)
def test_only_a_new_state_and_a_new_record_that_speaks_of_it_tell_a_change(folder: Path, kept: int, adr: str, said: str) -> None:
    for number, text in (("0097", TOLD), ("0099", TOLD), ("0101", f"STATE {state.STATE}"), ("0102", f"histories, STATE {state.STATE}0")):
        add(number, text)
    noted(kept)
    assert re.match(said, untold(adr, histories.about()))
    noted()
    assert untold("0099", histories.about()) == ""


def test_histories_that_would_change_stay_where_that_is_not_told(folder: Path) -> None:
    otherwise("demo")
    noted()
    was = [(folder / name).read_bytes() for name in ("demo.decisions", "histories.json")]
    with pytest.raises(Differs, match="demo would change: ADR 0098 was there before this change"):
        renew("0098", {}, said=lambda _: None)
    assert [(folder / name).read_bytes() for name in ("demo.decisions", "histories.json")] == was


def test_histories_are_renewed_with_a_new_state_and_a_new_record_once(folder: Path) -> None:
    good = histories.files("demo")[1].read_bytes()
    otherwise("demo")
    noted()
    add("0099")
    told: list[str] = []
    renew("0099", {}, said=told.append)
    assert len(told) == 1 and told[0].startswith("demo: ")
    assert histories.files("demo")[1].read_bytes() == good
    now = {name: histories.digest(name) for name in ("account-21", "demo")}
    assert histories.about() == {"state": state.STATE, "adr": "0099", "newest_adr": "0099", "files": now}
    otherwise("account-21")
    noted(adr="0099")
    with pytest.raises(Differs, match="account-21 would change: ADR 0099 was there before"):
        renew("0099", {}, said=lambda _: None)


def test_a_history_that_was_never_there_is_recorded_and_the_others_stay(folder: Path) -> None:
    source = read("account-21").records
    for path in histories.files("account-21"):
        path.unlink()
    noted()
    before = [path.read_bytes() for path in histories.files("demo")]
    renew("", {"account-21": lambda: [(s.stamp, s.record) for s in source]}, said=lambda _: None)
    assert [path.read_bytes() for path in histories.files("demo")] == before
    read("account-21").check(random.Random(1))
    assert len(read("account-21").records) == len(source)
    assert histories.about()["files"] == {name: histories.digest(name) for name in ("account-21", "demo")}


def test_a_history_that_was_removed_or_edited_is_no_new_one(folder: Path) -> None:
    """Else a change of what is decided would be told nowhere."""
    source = read("account-21").records
    for path in histories.files("account-21"):
        path.unlink()
    with pytest.raises(Differs, match="account-21 would change: no ADR is named"):
        renew("", {"account-21": lambda: [(s.stamp, s.record) for s in source]}, said=lambda _: None)
    with pytest.raises(Differs, match="account-21 is in histories.json and its files are gone"):
        renew("", {}, said=lambda _: None)
    noted()
    shorter = read("demo").records[:-1]
    histories.put(histories.files("demo")[0], "events", [(s.offset, s.stamp, EVENTS.encode(s.record)) for s in shorter])
    with pytest.raises(Differs, match="demo would change"):
        renew("", {}, said=lambda _: None)


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
