"""What a disk, a clock or a second process may do: one clear line each, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from services.adapters.clock import SystemClock
from services.adapters.disk import SMALL, require_whole
from services.adapters.log.codec import EVENTS
from services.adapters.log.sqlite import SqliteLog
from services.kernel.errors import Misconfigured
from services.kernel.record import Tick
from tests.e2e.running import signed
from tests.parts import lacks
from tests.shell.commanded import Up, run, until, up, up_with_a_platform

HOUR = 3_600_000_000


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, gone with the block."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        lacks("mount", f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def sent(trimtab: Up, count: int = 1) -> int:
    """One delivery of so many rows about a2, a thousand impressions each; its status."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entity = {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": "a2"}
    rows = [
        {"id": f"{time.monotonic_ns()}-{i}", "entity": entity, "occurred_at": now, "currency": "EUR", "impressions": 1000, "clicks": 50} for i in range(count)
    ]
    body = httpx2.Request("POST", "http://x", json={"type": "report", "account": "demo", "sent_at": now, "rows": rows}).content
    return trimtab.http.post("/v1/webhooks/sandbox", content=body, headers=signed(body, f"m{time.monotonic_ns()}")).status_code


def accepted(trimtab: Up) -> int:
    return int(trimtab.get("/v1/engine")["events"].get("accepted", 0))


def is_counted(trimtab: Up, least: int) -> bool:
    """Every event acknowledged has come to the engine."""
    return bool(until(lambda: accepted(trimtab) >= least))


def ready(trimtab: Up) -> tuple[int, str]:
    answer = httpx2.get(f"{trimtab.url}/readyz", trust_env=False)
    return answer.status_code, answer.json()["why"]


def sql(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(statement, values)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The data folder of a Trimtab that acknowledged ten events and was stopped."""
    with up(tmp_path / "data") as trimtab:
        assert [sent(trimtab) for _ in range(10)] == [202] * 10
        assert trimtab.stop()[0] == 0
    return tmp_path / "data"


# -- a full disk ----------------------------------------------------------------------------------------------------------


def fill(folder: Path) -> Path:
    """The disk has no room left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_on_a_full_disk_nothing_is_acknowledged_and_with_room_again_everything_goes_on_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk, up_with_a_platform(disk) as (trimtab, platform):
        trimtab.apply(tmp_path)
        known = accepted(trimtab)
        good = sum(sent(trimtab) == 202 for _ in range(5))
        assert good == 5
        ballast = fill(disk)
        statuses = [sent(trimtab, 200) for _ in range(40)]
        assert set(statuses[-5:]) == {503}
        good += 200 * statuses.count(202)
        assert httpx2.get(f"{trimtab.url}/livez", trust_env=False).status_code == 200
        ballast.unlink()
        until(lambda: sent(trimtab) == 202)
        assert is_counted(trimtab, known + good + 1)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        [fired] = trimtab.decisions(1, status="verified")
        assert fired["path"].endswith("a1")
        assert [change["path"][-2:] for change in platform.applied()] == ["a1"]
        assert trimtab.get("/v1/audit/verify")["verified"] is True
        assert ready(trimtab) == (200, "")
        assert "Traceback" not in trimtab.log.read_text()


def test_decisions_wait_for_room_and_are_said_once(tmp_path: Path) -> None:
    """The log has the events, the disk has no room for what follows from them."""
    with small_disk(tmp_path / "disk", 24) as disk, up_with_a_platform(disk) as (trimtab, platform):
        trimtab.apply(tmp_path)
        until(lambda: trimtab.get("/v1/engine")["rules"])
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        ballast = fill(disk)
        until(lambda: sent(trimtab, 200) == 503)
        ballast.unlink()
        [fired] = trimtab.decisions(1, status="verified")
        assert [change["path"][-2:] for change in platform.applied()] == ["a1"]
        assert ready(trimtab) == (200, "")
        assert trimtab.get(f"/v1/decisions/{fired['id']}/replay")["identical"] is True


def test_a_start_on_a_full_disk_names_the_space_in_one_line_and_with_room_again_nothing_is_lost(stopped: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        shutil.copytree(stopped, disk / "data")
        ballast = fill(disk)
        for folder in (disk / "data", disk / "new"):
            said = run("up", data=str(folder), port="0").refused()
            assert re.fullmatch(rf"the disk of {folder} is full \(\d KB free\): make room and start again; nothing that was acknowledged is lost \(.+\)", said)
        ballast.unlink()
        with up(disk / "data") as trimtab:
            assert is_counted(trimtab, 10)


# -- a folder that cannot be written --------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_one_clear_line_and_is_used_when_it_can(stopped: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        shutil.copytree(stopped, disk / "data")
        remounted(disk, "ro")
        said = run("up", data=str(disk / "data"), port="0").refused()
        assert "cannot be used: Read-only file system" in said
        examined = run("doctor", data=str(disk / "data"))
        assert examined.code == 1
        assert any(line.startswith("FAIL  folder        not writable") for line in examined.lines)
        remounted(disk, "rw")
        with up(disk / "data") as trimtab:
            assert is_counted(trimtab, 10)


# -- torn and turned bytes ------------------------------------------------------------------------------------------------


def killed(data: Path, events: int) -> list[int]:
    """A Trimtab that acknowledged so many events one by one, and was killed; the size of the log's WAL after each."""
    wal, sizes = data / "events.db-wal", []
    with up(data) as trimtab:
        for _ in range(events):
            assert sent(trimtab) == 202
            sizes.append(wal.stat().st_size)
        assert trimtab.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    return sizes


@pytest.mark.parametrize("torn", [24, 2000])
def test_a_write_that_was_torn_before_it_was_acknowledged_takes_nothing_with_it(tmp_path: Path, torn: int) -> None:
    data = tmp_path / "data"
    killed(data, 10)
    whole = (data / "events.db-wal").read_bytes()
    (data / "events.db-wal").write_bytes(whole + whole[32 : 32 + torn])  # the begin of another frame, of an older one at that
    with up(data) as trimtab:
        assert is_counted(trimtab, 10)
        assert ready(trimtab) == (200, "")


def test_a_disk_that_lost_the_last_write_after_all_loses_that_one_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sizes = killed(data, 10)
    assert sizes[-1] > sizes[-2], sizes
    os.truncate(data / "events.db-wal", (sizes[-1] + sizes[-2]) // 2)
    with up(data) as trimtab:
        assert is_counted(trimtab, 9)
        assert accepted(trimtab) == 9


def keyed(trimtab: Up, name: str) -> None:
    """Something that only trimtab.db knows is acknowledged."""
    trimtab.ok("key", name)


def names(trimtab: Up) -> list[str]:
    return [key["name"] for key in trimtab.get("/v1/keys")["keys"] if key["name"].startswith("shop")]


def killed_with_keys(data: Path, many: int) -> list[int]:
    """As `killed`, of trimtab.db: so many keys were made one by one."""
    wal, sizes = data / "trimtab.db-wal", []
    with up(data) as trimtab:
        for number in range(many):
            keyed(trimtab, f"shop{number}")
            sizes.append(wal.stat().st_size)
        assert trimtab.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    return sizes


def test_a_write_of_the_database_that_was_torn_takes_nothing_with_it_and_one_that_the_disk_lost_itself_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sizes = killed_with_keys(data, 4)
    assert sizes[-1] > sizes[-2], sizes
    shutil.copytree(data, tmp_path / "lost")
    with (data / "trimtab.db-wal").open("r+b") as wal:
        again = wal.read()[32:2032]
        wal.write(again)  # the begin of another frame, of an older one at that
    with up(data) as trimtab:
        assert names(trimtab) == ["shop0", "shop1", "shop2", "shop3"]
        assert ready(trimtab) == (200, "")
    os.truncate(tmp_path / "lost" / "trimtab.db-wal", (sizes[-1] + sizes[-2]) // 2)
    with up(tmp_path / "lost") as trimtab:
        assert names(trimtab) == ["shop0", "shop1", "shop2"]
        assert ready(trimtab) == (200, "")
        assert trimtab.get("/v1/audit/verify")["verified"] is True


def roots(file: Path) -> dict[str, range]:
    """Where the first page of every table and index of a database lies."""
    with closing(sqlite3.connect(file)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        return {name: range((page - 1) * size, page * size) for name, page in database.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 1")}


@pytest.mark.parametrize("name", ["events.db", "decisions.db", "trimtab.db"])
def test_a_file_whose_pages_turned_is_named_in_one_line_and_starts_when_restored(stopped: Path, name: str) -> None:
    file = stopped / name
    whole = file.read_bytes()
    pages = roots(file)
    table = {"events.db": "segments", "decisions.db": "records", "trimtab.db": "kill_switches"}[name]  # none is read before somebody asks
    for place in (range(20, 100), range(16), pages[table]):
        damaged = bytearray(whole)
        for i in place:
            damaged[i] ^= 0xFF
        file.write_bytes(damaged)
        said = run("up", data=str(stopped), port="0").refused()
        assert name in said
        assert "restore it from a backup" in said
        assert len(said.splitlines()) == 1
    examined = run("doctor", data=str(stopped))
    assert examined.code == 1
    assert any(line.startswith(f"FAIL  {name}") for line in examined.lines)
    file.write_bytes(whole)
    with up(stopped) as trimtab:
        assert is_counted(trimtab, 10)


def test_a_record_whose_bytes_turned_is_not_folded_as_something_else(stopped: Path) -> None:
    for checkpoint in (stopped / "checkpoints").iterdir():
        checkpoint.unlink()
    with closing(sqlite3.connect(stopped / "events.db")) as file:
        (blob,) = file.execute("SELECT data FROM records WHERE number = 4").fetchone()
    whole = (stopped / "events.db").read_bytes()
    at = whole.find(blob[-40:]) + 20
    (stopped / "events.db").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    said = run("up", data=str(stopped), port="0").refused()
    assert re.search(r"record \d+ of .*events\.db is damaged", said)
    assert "its checksum does not agree; restore it from a backup" in said
    (stopped / "events.db").write_bytes(whole)
    with up(stopped) as trimtab:
        assert is_counted(trimtab, 10)


@pytest.mark.parametrize("small", [SMALL, 0], ids=["read whole", "too large for that"])
def test_the_first_page_of_any_table_or_index_that_turned_keeps_a_start_from_beginning(stopped: Path, small: int) -> None:
    found, tried = [], []
    for name in ("events.db", "decisions.db", "trimtab.db"):
        whole = (stopped / name).read_bytes()
        require_whole(stopped / name, small)
        for of, place in roots(stopped / name).items():
            tried.append(of)
            (stopped / name).write_bytes(whole[: place.start] + bytes(b ^ 0xFF for b in whole[place.start : place.stop]) + whole[place.stop :])
            with pytest.raises(Misconfigured, match=rf"{name} is damaged: .*; `trimtab doctor` looks .*; restore it from a backup"):
                require_whole(stopped / name, small)
            found.append(of)
        (stopped / name).write_bytes(whole)
    assert found == tried and {"records", "segments", "attempts", "outbox", "parked", "kill_switches"} <= set(found)


async def test_a_log_that_cannot_count_its_segments_is_one_clear_line(stopped: Path) -> None:
    whole, place = (stopped / "events.db").read_bytes(), roots(stopped / "events.db")["segments"]
    (stopped / "events.db").write_bytes(whole[: place.start] + b"?" * len(place) + whole[place.stop :])
    with pytest.raises(Misconfigured, match=r"the log .*events\.db cannot be opened: .*malformed; if it is damaged, restore it from a backup"):
        SqliteLog(stopped / "events.db", EVENTS, SystemClock())


# -- a wrong clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covered", [False, True], ids=["by the log", "by the log and a checkpoint"])
def test_a_clock_that_is_behind_the_log_is_one_clear_line(stopped: Path, covered: bool) -> None:
    if not covered:
        shutil.rmtree(stopped / "checkpoints")
    ahead = time.time_ns() // 1000 + HOUR
    with closing(sqlite3.connect(stopped / "events.db")) as file:
        (end,) = file.execute("SELECT max(number) + 1 FROM records").fetchone()
    sql(stopped / "events.db", "INSERT INTO records VALUES (0, ?, ?, ?, NULL)", end, ahead, EVENTS.encode(Tick()))
    said = run("up", data=str(stopped), port="0").refused()
    assert "ahead of this machine's clock: check both clocks" in said.splitlines()[-1]
    sql(stopped / "events.db", "DELETE FROM records WHERE number = ?", end)
    with up(stopped) as trimtab:
        assert is_counted(trimtab, 10)


def test_a_start_long_after_the_newest_record_says_that_the_clock_may_be_ahead(stopped: Path) -> None:
    with up(stopped) as trimtab:
        assert "time leaps" not in trimtab.log.read_text()
        assert trimtab.stop()[0] == 0
    shutil.rmtree(stopped / "checkpoints")
    sql(stopped / "events.db", "UPDATE records SET stamp = stamp - ?", 60 * HOUR)
    [line] = [line for line in run("doctor", data=str(stopped)).lines if line.split()[1] == "clock"]
    assert line.startswith("warn") and "nothing was recorded for 2.5 days, or this machine's clock is ahead by as much" in line
    with up(stopped) as trimtab:
        [line] = [line for line in trimtab.log.read_text().splitlines() if "time leaps" in line]
        assert "days=2.5" in line and "this machine's clock is ahead" in line


# -- two processes --------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_uses_the_folder_and_the_first_goes_on(tmp_path: Path) -> None:
    with up(tmp_path / "data") as trimtab:
        assert sent(trimtab) == 202
        said = run("up", data=str(tmp_path / "data"), port="0").refused()
        assert said.startswith(f"another Trimtab (process {trimtab.process.pid}) uses")
        assert sent(trimtab) == 202
        assert is_counted(trimtab, 2)


# -- a poisoned record ----------------------------------------------------------------------------------------------------


def test_a_poisoned_record_stops_a_start_in_the_open_and_is_skipped_from_the_command_line(stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "events.db")) as file:
        (end,) = file.execute("SELECT max(number) + 1 FROM records").fetchone()
    sql(stopped / "events.db", "INSERT INTO records VALUES (0, ?, ?, ?, NULL)", end, time.time_ns() // 1000, b"\xff\xff\xff")
    with up(stopped) as trimtab:
        status, why = ready(trimtab)
        assert status == 503
        assert why.startswith(f"poisoned: record {end} cannot be folded")
        assert f"STOPPED: poisoned: record {end}" in trimtab.ok("status").out
        assert sent(trimtab) == 202  # what is durable is acknowledged
        assert "only the record that it cannot fold" in trimtab.run("partition", "skip", end + 1, "--reason", "a guess").refused()
        assert trimtab.ok("partition", "skip", end, "--reason", "half a record of a broken sender").out.startswith(f"record {end} is skipped; the engine runs")
        assert ready(trimtab) == (200, "")
        assert is_counted(trimtab, 11)
        assert trimtab.stop()[0] == 0
    with up(stopped) as trimtab:
        assert ready(trimtab) == (200, "")
        assert is_counted(trimtab, 11)
