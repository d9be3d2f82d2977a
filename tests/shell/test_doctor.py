"""`trimtab doctor`: every fault is planted, and the line that it must name is the only one that changes."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.adapters.clock import instant
from services.adapters.log.codec import EVENTS
from services.adapters.log.keeper import Keeper, Policy
from services.doctor import FAIL, OK, WARN, Line, examine
from services.kernel.record import Tick
from services.rules_engine.checkpoint import Checkpoints
from tests.shell.commanded import Up, run, up_with_a_platform

ROOT = Path(__file__).parents[2]
HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in good order, with decisions, a ledger and a checkpoint."""
    folder = tmp_path_factory.mktemp("doctor")
    with up_with_a_platform(folder) as (trimtab, _):
        trimtab.apply(folder)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "impressions": 50_000, "clicks": 900})
        trimtab.decisions(1, status="verified")
        running(trimtab)
        assert trimtab.stop()[0] == 0
    return folder / "data"


def running(trimtab: Up) -> None:
    said = trimtab.ok("doctor")
    assert f"process {trimtab.process.pid} uses the folder" in said.out
    assert [line.split()[0] for line in said.lines] == ["ok"] * len(said.lines)
    assert "server        ready" in said.out


@pytest.fixture
def data(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "data")
    return tmp_path / "data"


def examined(data: Path) -> list[Line]:
    return list(examine({"TRIMTAB_DATA": str(data)}))


def faults(data: Path) -> list[tuple[str, str, str]]:
    return [(line.level, line.name, line.text) for line in examined(data) if line.level != OK]


def sql(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def tampered(data: Path, statement: str) -> None:
    """As somebody would who may write to the file."""
    with closing(sqlite3.connect(data / "trimtab.db")) as file:
        triggers = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    sql(data / "trimtab.db", *(f"DROP TRIGGER {name}" for name in triggers), statement)


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)


def test_a_folder_in_good_order_is_ok_on_every_line(data: Path) -> None:
    assert faults(data) == []
    said = run("doctor", data=str(data))
    assert said.code == 0
    assert {line.split()[1] for line in said.lines} == {
        "settings", "folder", "space", "lock", "secrets", "trimtab.db", "decisions.db", "events.db", "schema", "clock", "log", "archive", "decisions",
        "checkpoints", "ledger",
    }  # fmt: skip


def records(data: Path) -> int:
    with closing(sqlite3.connect(data / "events.db")) as file:
        return int(file.execute("SELECT count(*) FROM records").fetchone()[0])


def text_of(data: Path, file: str) -> int:
    """Where in a log's file the bytes of its newest record lie."""
    with closing(sqlite3.connect(data / file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (blob,) = database.execute("SELECT data FROM records WHERE length(data) > 60 ORDER BY number DESC LIMIT 1").fetchone()
    return (data / file).read_bytes().find(blob[:60]) + 40


PLANTED: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "a secret that others may read": (lambda d: (d / "secret").chmod(0o644), FAIL, "secrets", "others may read"),
    "a secret that is gone": (lambda d: (d / "secret").unlink(), FAIL, "secrets", "is gone"),
    "a folder that others may write into": (lambda d: d.chmod(0o777), WARN, "folder", "others may write"),
    "a restore that was not finished": (lambda d: (d / "restoring").write_text("x"), FAIL, "folder", "was not finished"),
    "a byte of a record turned": (lambda d: flip(d / "events.db", text_of(d, "events.db")), FAIL, "events.db", "checksum of record"),
    "a byte of a decision turned": (lambda d: flip(d / "decisions.db", text_of(d, "decisions.db")), FAIL, "decisions.db", "checksum of record"),
    "a journal that is not written ahead": (lambda d: sql(d / "events.db", "PRAGMA journal_mode = DELETE"), WARN, "events.db", "journal mode delete"),
    "a schema of a newer build": (lambda d: sql(d / "trimtab.db", "UPDATE alembic_version SET version_num = '9999_later'"), FAIL, "schema", "newer build"),
    "a schema of an older build": (lambda d: sql(d / "trimtab.db", "UPDATE alembic_version SET version_num = '0002_rules'"), WARN, "schema", "0002_rules"),
    "records missing in the middle": (lambda d: sql(d / "events.db", "DELETE FROM records WHERE number = 2"), FAIL, "log", "1 records between 0 and"),
    "a ledger entry changed": (
        lambda d: tampered(d, "UPDATE ledger SET body = '{}' WHERE sequence = 2"), FAIL, "ledger", "main: broken at entry 2"
    ),
    "a ledger's end cut off": (
        lambda d: tampered(d, "DELETE FROM ledger WHERE sequence = (SELECT max(sequence) FROM ledger)"), FAIL, "ledger", "its head says"
    ),
    "decisions taken in that the log does not hold": (
        lambda d: sql(d / "decisions.db", "DELETE FROM records WHERE number = (SELECT max(number) FROM records)"), WARN, "decisions", "older"
    ),
    "a damaged checkpoint": (lambda d: flip(newest(d), -5), WARN, "checkpoints", "does not agree"),
    "a log that lost its last records": (
        lambda d: sql(d / "events.db", f"DELETE FROM records WHERE number >= {records(d) - 2}"), FAIL, "checkpoints", "has lost records"
    ),
    "a log that was recreated": (lambda d: sql(d / "events.db", "UPDATE records SET stamp = stamp - 1"), FAIL, "checkpoints", "not taken of this log"),
}  # fmt: skip


def archived(data: Path, prune: bool = True) -> list[Path]:
    """The log's segments, a record or two each, are in the archive, and but for the last alone there; returns their files."""
    now = time.time_ns() // 1000 + HOUR
    keeper = Keeper(data / "events.db", data / "archive", Policy(size=1, age=1, live=0))
    steps = [*keeper.seal(now), *keeper.store(), *(keeper.prune(now, Checkpoints(data / "checkpoints").floor) if prune else ())]
    assert not prune or any(s.what == "pruned" and not s.stays for s in steps)
    return sorted((data / "archive").glob("*.segment"))


ARCHIVED: dict[str, tuple[Callable[[Path], object], bool, str, str, str]] = {
    "a byte of a segment turned": (lambda f: flip(f, 60), True, FAIL, "archive", "its hash does not agree; records"),
    "a byte of a segment turned whose records live": (lambda f: flip(f, 60), False, WARN, "archive", "its hash does not agree"),
    "a file that is gone in the middle": (lambda f: f.unlink(), True, FAIL, "archive", "its file is not there; records"),
    "an entry altered": (
        lambda f: sql(f.parents[1] / "events.db", "UPDATE segments SET newest = newest + 1 WHERE first = 2"), True, FAIL, "archive", "its entry was altered"
    ),
    "an entry gone": (lambda f: sql(f.parents[1] / "events.db", "DELETE FROM segments WHERE first = 2"), True, FAIL, "archive", "does not follow"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ARCHIVED))
def test_a_fault_planted_in_the_archive_is_named_with_what_to_do(data: Path, kind: str) -> None:
    plant, prune, level, name, text = ARCHIVED[kind]
    plant(archived(data, prune)[1])
    lines = [line for line in examined(data) if line.level != OK]
    assert [(x.level, x.name) for x in lines if x.name == "archive"] == [(level, name)]
    [line] = [x for x in lines if x.name == "archive"]
    assert text in line.text
    assert line.mend
    assert {x.name for x in lines} <= {"archive", "log"}  # what lies before a hole cannot be replayed from


def test_how_far_back_decisions_can_be_replayed_is_said(data: Path) -> None:
    files = archived(data)
    assert faults(data) == []
    [line] = [x.text for x in examined(data) if x.name == "log"]
    assert "and in the archive 0 to" in line and line.endswith("all of it can be replayed")
    assert [x.text for x in examined(data) if x.name == "archive"][0].startswith(f"{len(files)} segments")
    files[0].unlink()
    assert [(level, name) for level, name, _ in faults(data)] == [(WARN, "log"), (WARN, "archive")]
    assert "and in the archive from 1 on, back to " in faults(data)[0][2]
    assert ": its beginning is gone, and what was decided after " in faults(data)[0][2]
    for kept in Checkpoints(data / "checkpoints").every(0):
        kept.path.unlink()
    assert (FAIL, "checkpoints") in [(level, name) for level, name, _ in faults(data)]


def test_segments_that_wait_for_the_archive_are_named(data: Path) -> None:
    list(Keeper(data / "events.db", data / "archive", Policy(size=1, age=1)).seal(time.time_ns() // 1000 + HOUR))
    [(level, name, text)] = faults(data)
    assert (level, name) == (WARN, "archive")
    assert text.startswith("records 0 to")


def newest(data: Path) -> Path:
    return Checkpoints(data / "checkpoints").every(0)[0].path


@pytest.mark.parametrize("kind", list(PLANTED))
def test_a_planted_fault_is_named_with_what_to_do(data: Path, kind: str) -> None:
    plant, level, name, text = PLANTED[kind]
    plant(data)
    [line, *others] = [line for line in examined(data) if line.level != OK]
    assert (line.level, line.name) == (level, name)
    assert text in line.text
    assert line.mend
    assert others == []
    assert run("doctor", data=str(data)).code == (1 if level == FAIL else 0)


def test_a_file_that_is_no_database_any_more_is_named_and_the_rest_is_told(data: Path) -> None:
    (data / "trimtab.db").write_bytes(b"not a database at all" * 500)
    found = {name: (level, text) for level, name, text in faults(data)}
    assert found["trimtab.db"] == (FAIL, "damaged: file is not a database")
    assert set(found) == {"trimtab.db", "schema", "decisions", "ledger"}
    assert any(line.name == "log" and line.level == OK for line in examined(data))


def test_a_record_stamped_ahead_of_this_machines_clock_is_named(data: Path) -> None:
    ahead = time.time_ns() // 1000 + HOUR
    with closing(sqlite3.connect(data / "events.db", isolation_level=None)) as file:
        file.execute("INSERT INTO records VALUES (0, ?, ?, ?, NULL)", (records(data), ahead, EVENTS.encode(Tick())))
    [(level, name, text)] = faults(data)
    assert (level, name) == (FAIL, "clock")
    assert "s ahead of this machine's clock" in text


def test_a_log_without_its_beginning_is_a_warning_with_a_checkpoint_and_a_failure_without(data: Path) -> None:
    offset = Checkpoints(data / "checkpoints").every(0)[0].offset
    sql(data / "events.db", f"DELETE FROM records WHERE number < {offset - 1}")
    [(level, name, text)] = faults(data)
    assert (level, name) == (WARN, "log")
    assert "its beginning is gone" in text
    for kept in Checkpoints(data / "checkpoints").every(0):
        kept.path.unlink()
    assert [(level, name) for level, name, _ in faults(data)] == [(WARN, "log"), (FAIL, "checkpoints")]
    assert faults(data)[0][2].endswith(f"no valid checkpoint is of record {offset - 1} or a later one: nothing can be replayed or explained")


def of(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def test_what_the_doctor_says_can_be_replayed_is_replayed_and_what_was_before_is_refused_in_one_line(tmp_path: Path) -> None:
    """Decided, stopped (which leaves a checkpoint), decided again; then the files of what was pruned are gone."""
    fired = []
    for number, ad in enumerate(("a1", "a2"), 1):
        with up_with_a_platform(tmp_path) as (trimtab, _):
            if number == 1:
                trimtab.apply(tmp_path)
            trimtab.report({"ad": ad, "impressions": 50_000, "clicks": 100})
            fired += [d for d in trimtab.decisions(number, kind="fired") if d["path"].endswith(ad)]
            assert trimtab.stop()[0] == 0
    data = tmp_path / "data"
    for path in archived(data):
        path.unlink()
    [(level, name, text)] = [f for f in faults(data) if f[1] == "log"]
    oldest = Checkpoints(data / "checkpoints").every(0)[-1]
    assert oldest.header is not None
    assert datetime.fromisoformat(fired[0]["at"]) <= of(oldest.header.engine_time) < datetime.fromisoformat(fired[1]["at"])
    said = f"what was decided after {instant(oldest.header.engine_time)} can be replayed and explained, from record {oldest.offset} on, by {oldest.path.name}"
    assert level == WARN and said in text
    before, after = (d["id"] for d in fired)
    with up_with_a_platform(tmp_path) as (trimtab, _):
        line, why = trimtab.ok("replay", after).lines
        assert why == f"not from record 0: the log begins at record {oldest.offset - 1}: what stood before it is gone"
        assert re.search(rf"^{after}: identical, .*, from the checkpoint at record {oldest.offset}, after \d+ records$", line)
        refused = trimtab.run("replay", before).refused()
        assert refused.startswith(f"the log begins at record {oldest.offset - 1}: what stood before it is gone; and no valid checkpoint")
        assert len(refused.splitlines()) == 1
        assert trimtab.ok("explain", after).out.startswith("Paused ")
        assert trimtab.run("explain", before).refused() == refused
        assert f"It fired last with decision {before[:8]}, which cannot be told from its own time any more" in trimtab.ok("explain", "a1").out


def test_settings_that_are_wrong_and_a_folder_that_is_none_of_ours_end_the_examination(tmp_path: Path) -> None:
    [line] = examine({"TRIMTAB_DTA": "x"})
    assert (line.level, line.name) == (FAIL, "settings")
    assert "did you mean TRIMTAB_DATA" in line.text
    assert [(level, name) for level, name, _ in faults(tmp_path)] == [(FAIL, "folder")]
    assert run("doctor", data=str(tmp_path)).code == 1


def test_a_process_that_holds_the_folder_and_does_not_answer_is_named(data: Path) -> None:
    from services.adapters.log.lock import FolderLock

    lock = FolderLock(data)
    try:
        assert (OK, "lock", f"process {os.getpid()} uses the folder") in [(x.level, x.name, x.text) for x in examined(data)]
        assert [(level, name) for level, name, _ in faults(data)] == [(WARN, "server")]
        (data / "url").write_text("http://127.0.0.1:1")
        assert [(level, name) for level, name, _ in faults(data)] == [(FAIL, "server")]
    finally:
        lock.release()


def test_checkpoints_are_listed_and_verified_from_the_folder_alone(data: Path) -> None:
    [line] = run("checkpoint", "list", data=str(data)).lines
    assert f"record {records(data):>12}" in line
    assert "decisions" in line and "build" in line
    assert run("checkpoint", "verify", data=str(data)) == run("checkpoint", "verify", data=str(data))
    assert run("checkpoint", "verify", data=str(data)).code == 0
    flip(newest(data), -1)
    said = run("checkpoint", "verify", data=str(data))
    assert said.code == 1
    assert "DAMAGED: its hash does not agree" in said.out


def test_a_folder_is_examined_without_kafkas_client(data: Path) -> None:
    script = "import sys; from services.doctor import examine; print(len(list(examine({'TRIMTAB_DATA': sys.argv[1]}))), 'aiokafka' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script, str(data)], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) > 10 and said[1] == "False"
