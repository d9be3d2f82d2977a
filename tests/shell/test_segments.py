"""Segments of a log are sealed, archived and pruned; whatever happens meanwhile, every record can be read, and is what was written."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from services.adapters.clock import ManualClock
from services.adapters.log.archive import Archive, Registered, registered, unlinked
from services.adapters.log.codec import EVENTS
from services.adapters.log.keeper import DAY, HOUR, Keeper, Policy, Step
from services.adapters.log.segment import Content, Damaged, SegmentFile, write
from services.adapters.log.sqlite import SqliteLog
from services.kernel.errors import Unavailable, Unreadable
from services.kernel.record import Ready, Record, Stamped

POLICY = Policy(size=2_000, age=DAY, live=3 * DAY)
ROOT = Path(__file__).parents[2]
START = 1_767_225_600_000_000
STEPS = (
    "log.sealing", "log.sealed", "archive.begun", "archive.written", "archive.flushed", "archive.read", "archive.renamed", "archive.registered",
    "log.pruning", "log.deleted", "log.pruned",
)  # fmt: skip


class Crash(Exception):
    """The process is gone."""


class House:
    """A log of ten days, twelve records each, and its archive."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.archive, self.clock = folder, folder / "archive", ManualClock(START)
        self.path = folder / "events.db"
        self.log: SqliteLog[Record] = SqliteLog(self.path, EVENTS, self.clock, archive=self.archive)

    async def fill(self, days: int = 10, size: int = 100) -> None:
        for i in range(days * 12):
            await self.log.append([("a", Ready("a", f"{i:0{size}}"))])
            self.clock.advance(2 * HOUR)

    def keeper(self, policy: Policy = POLICY, reached: Callable[[str], None] = lambda _: None) -> Keeper:
        return Keeper(self.path, self.archive, policy, reached=reached)

    def keep(self, floor: int = 10**9, policy: Policy = POLICY) -> list[Step]:
        return list(self.keeper(policy).run(self.clock.now(), lambda: floor))

    async def all(self, limit: int = 1000) -> list[Stamped[Record]]:
        found: list[Stamped[Record]] = []
        while page := await self.log.read(0, found[-1].offset + 1 if found else 0, limit):
            found += page
        return found

    @property
    def live(self) -> list[int]:
        with closing(sqlite3.connect(self.path)) as file:
            return [n for (n,) in file.execute("SELECT number FROM records ORDER BY number")]

    @property
    def segments(self) -> list[Registered]:
        with closing(sqlite3.connect(self.path)) as file:
            return registered(file)

    @property
    def files(self) -> list[Path]:
        return sorted(self.archive.glob("*.segment"))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.log.close()


async def test_what_is_pruned_is_read_from_the_archive_as_if_it_were_still_there(house: House) -> None:
    await house.fill()
    before = await house.all()
    steps = house.keep()
    assert house.live[0] > 70  # about three days stay
    for limit in (1, 7, 1000):
        assert await house.all(limit) == before
    for offset in (0, 5, house.live[0] - 1, house.live[0], 119):
        assert (await house.log.read(0, offset, 1))[0].record == before[offset].record
    assert [s.what for s in steps].count("sealed") == len(house.segments) == len(house.files)
    assert [s.segment.last for s in steps if s.what == "pruned"][-1] == house.live[0] - 1
    await house.log.close()
    house.log = SqliteLog(house.path, EVENTS, house.clock, archive=house.archive)
    assert await house.log.append([("a", Ready("a", "next"))]) == [(0, 120)]


async def test_segments_end_with_a_day_or_when_they_are_large_and_follow_one_another(house: House) -> None:
    await house.fill(3)
    keep = Policy(size=10**9, age=DAY, live=100 * DAY)
    assert [(s.segment.first, s.segment.last) for s in house.keep(policy=keep) if s.what == "sealed"] == [(0, 11), (12, 23), (24, 35)]
    assert house.keep(policy=keep) == []
    house.clock.advance(HOUR)
    await house.fill(1)
    small = Policy(size=500, age=DAY, live=100 * DAY)
    steps = [s.segment for s in house.keep(policy=small)]
    assert all(s.size <= 500 for s in steps)
    assert [s.segment.first for s in house.segments] == [0, *(s.segment.last + 1 for s in house.segments[:-1])]
    assert unlinked(house.segments) == []


async def test_the_open_segment_stays_open_and_everything_young_stays_live(house: House) -> None:
    await house.fill(1)
    house.clock._now -= HOUR
    assert house.keep(policy=Policy(10**9, DAY, DAY)) == []
    house.clock.advance(HOUR)
    assert [s.what for s in house.keep(policy=Policy(10**9, DAY, DAY))] == ["sealed", "archived"]
    assert len(house.live) == 12


async def test_a_log_all_of_whose_records_were_pruned_goes_on_where_it_ended(house: House) -> None:
    await house.fill(1)
    house.clock.advance(30 * DAY)
    house.keep()
    assert house.live == []
    assert [s.offset for s in await house.all()] == list(range(12))
    await house.log.close()
    house.log = SqliteLog(house.path, EVENTS, house.clock, archive=house.archive)
    assert await house.log.append([("a", Ready("a", "next"))]) == [(0, 12)]
    assert [s.offset for s in await house.all()] == list(range(13))


async def test_nothing_that_a_checkpoint_needs_is_pruned(house: House) -> None:
    await house.fill()
    *_, last = house.keep(floor=40)
    assert "every one must find the log from record 40 on" in last.stays
    ends = [r.segment.last for r in house.segments]
    assert house.live[0] == max(e for e in ends if e < 40) + 1


async def test_without_a_valid_checkpoint_nothing_is_pruned(house: House) -> None:
    await house.fill()
    *_, last = house.keep(floor=0)
    assert "no valid checkpoint" in last.stays
    assert house.live[0] == 0


async def test_segments_are_pruned_only_from_the_archive(house: House) -> None:
    await house.fill()
    list(house.keeper().seal(house.clock.now()))
    [step] = house.keeper().prune(house.clock.now(), lambda: 10**9)
    assert step.stays == "it is not archived yet"
    assert len(house.live) == 120


async def test_a_checkpoint_is_looked_for_only_when_there_is_anything_to_prune(house: House) -> None:
    await house.fill(2)

    def never() -> int:
        raise AssertionError

    assert {s.what for s in house.keeper().run(house.clock.now(), never)} == {"sealed", "archived"}


# -- crashes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hit", [1, 3])
@pytest.mark.parametrize("step", STEPS)
async def test_ended_at_any_step_nothing_is_lost_and_the_next_run_goes_on(house: House, step: str, hit: int) -> None:
    await house.fill()
    before, hits = await house.all(), 0

    def reached(name: str) -> None:
        nonlocal hits
        hits += name == step
        if hits == hit:
            raise Crash

    with pytest.raises(Crash):
        list(house.keeper(reached=reached).run(house.clock.now(), lambda: 10**9))
    assert await house.all() == before
    archive = Archive(house.archive)
    for r in house.segments:
        assert r.segment.first >= house.live[0] or archive.fault(r) is None
    house.keep()
    assert await house.all() == before
    assert house.live[0] > 70
    assert [archive.fault(r) for r in house.segments] == [None] * len(house.segments)
    assert unlinked(house.segments) == []
    assert not list(house.archive.glob("*.begun"))


KILLED = """
import os, signal, sys
from pathlib import Path
from services.adapters.log.keeper import DAY, Keeper, Policy

def reached(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
keeper = Keeper(folder / "events.db", folder / "archive", Policy(size=2_000, age=DAY, live=3 * DAY), reached=reached)
list(keeper.run(int(sys.argv[3]), lambda: 10**9))
"""


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("archive.")] + ["log.deleted"])
async def test_killed_at_any_step_nothing_is_lost_and_the_next_run_goes_on(house: House, step: str) -> None:
    await house.fill()
    before = await house.all()
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, str(house.folder), step, str(house.clock.now())], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert await house.all() == before
    house.keep()
    assert await house.all() == before
    assert house.live[0] > 70
    assert not list(house.archive.glob("*.begun"))


async def test_records_are_read_whole_while_they_are_pruned(house: House) -> None:
    await house.fill()
    before, begun = await house.all(), set()
    keeper = Keeper(house.path, house.archive, POLICY, paused=lambda: time.sleep(0.005))
    work = asyncio.create_task(asyncio.to_thread(lambda: list(keeper.run(house.clock.now(), lambda: 10**9))))
    while not work.done():
        begun.add(house.live[0])
        assert await house.all(limit=17) == before
        await house.log.append([("a", Ready("a", "more"))])
        before = await house.all()
    await work
    assert house.live[0] > 70
    assert len(begun) > 1


# -- what goes wrong ------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_one_clear_line_and_nothing_is_pruned(house: House) -> None:
    await house.fill()

    def reached(name: str) -> None:
        if name == "archive.written":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Unavailable, match="cannot be archived in .*No space left on device; nothing is pruned until they are"):
        list(house.keeper(reached=reached).run(house.clock.now(), lambda: 10**9))
    assert len(house.live) == 120
    assert house.files == [] and not list(house.archive.glob("*.begun"))
    house.keep()
    assert house.live[0] > 70


async def test_a_folder_that_cannot_be_used_is_one_clear_line(house: House) -> None:
    await house.fill(2)
    house.archive.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="choose another folder with TRIMTAB_ARCHIVE"):
        house.keep()


def damage(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if place >= 0 else -1] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, -1])
async def test_a_damaged_file_is_never_read_from_and_is_named(house: House, place: float) -> None:
    await house.fill()
    house.keep()
    damage(house.files[1], place)
    second = house.segments[1].segment
    assert (await house.log.read(0, 0, 1))[0].offset == 0
    with pytest.raises(Unreadable, match=house.files[1].name) as raised:
        await house.all()
    assert raised.value.beyond == second.last + 1
    assert (await house.log.read(0, second.last + 1, 1))[0].offset == second.last + 1


async def test_a_file_put_in_the_place_of_another_is_never_read_from(house: House) -> None:
    await house.fill()
    house.keep()
    house.files[1].write_bytes(house.files[2].read_bytes())
    with pytest.raises(Unreadable, match="it is not the file that was registered"):
        await house.all()


async def test_a_file_damaged_while_its_records_live_is_not_pruned_and_is_written_again(house: House) -> None:
    await house.fill()
    list(house.keeper().seal(house.clock.now()))
    list(house.keeper().store())
    before = await house.all()
    damage(house.files[0])
    with pytest.raises(Unreadable, match="does not hold: its hash does not agree; nothing of it is pruned"):
        house.keep()
    assert len(house.live) == 120
    assert [s.segment.first for s in house.keeper().mend()] == [0]
    house.files[1].unlink()
    assert [s.segment.first for s in house.keeper().store()] == [house.segments[1].segment.first]
    house.keep()
    assert house.live[0] > 70
    assert await house.all() == before


async def test_a_file_that_reads_back_otherwise_is_not_registered(house: House) -> None:
    """The disk acknowledged what it did not write."""
    await house.fill()

    def reached(name: str) -> None:
        if name == "archive.flushed":
            [begun] = house.archive.glob("*.begun")
            damage(begun)

    with pytest.raises(Unavailable, match="its hash does not agree; nothing is pruned until they are"):
        list(house.keeper(reached=reached).run(house.clock.now(), lambda: 10**9))
    assert not any(r.file for r in house.segments)
    assert len(house.live) == 120


async def test_records_that_changed_since_they_were_sealed_are_not_archived(house: House) -> None:
    await house.fill()
    list(house.keeper().seal(house.clock.now()))
    with closing(sqlite3.connect(house.path, isolation_level=None)) as file:
        file.execute("UPDATE records SET stamp = stamp + 1 WHERE number = 3")
    with pytest.raises(Unavailable, match="are not those that were sealed"):
        house.keep()
    assert house.files == []


async def test_a_record_whose_checksum_does_not_agree_is_not_sealed(house: House) -> None:
    await house.fill()
    with closing(sqlite3.connect(house.path, isolation_level=None)) as file:
        file.execute("UPDATE records SET data = x'00' WHERE number = 3")
    with pytest.raises(Unreadable, match="record 3 of .* is damaged"):
        house.keep()
    assert house.segments == []


TAMPERED = ("UPDATE segments SET newest = newest - 1 WHERE first = 0", "DELETE FROM segments WHERE first = (SELECT first FROM segments LIMIT 1 OFFSET 1)")


@pytest.mark.parametrize("statement", TAMPERED)
async def test_an_entry_that_was_altered_or_taken_out_breaks_the_chain(house: House, statement: str) -> None:
    await house.fill()
    house.keep()
    with closing(sqlite3.connect(house.path, isolation_level=None)) as file:
        file.execute(statement)
    assert len(unlinked(house.segments)) == 1


async def test_where_files_are_gone_the_log_begins_after_the_last_of_them(house: House) -> None:
    await house.fill()
    house.keep()
    house.files[0].unlink()
    second = house.segments[1].segment.first
    assert [s.offset for s in await house.log.read(0, 0, 3)] == [second, second + 1, second + 2]
    house.files[2].unlink()
    assert (await house.log.read(0, 0, 1))[0].offset == house.segments[4].segment.first
    await house.log.close()
    house.log = SqliteLog(house.path, EVENTS, house.clock)
    assert (await house.log.read(0, 0, 1))[0].offset == house.live[0]


async def test_two_do_not_keep_the_same_archive_up_at_once(house: House) -> None:
    await house.fill()
    running = house.keeper().run(house.clock.now(), lambda: 10**9)
    next(running)
    with pytest.raises(Unavailable, match="kept up by another"):
        house.keep()
    running.close()
    assert house.keep()


# -- the file -------------------------------------------------------------------------------------------------------------


def test_any_bit_that_turned_in_a_segment_is_noticed(tmp_path: Path) -> None:
    rows = [(i, 100 + i, bytes([i]) * i) for i in range(7)]
    content = Content()
    content.add(rows)
    segment, path = content.segment("events", 0, ""), tmp_path / "x.segment"
    with path.open("wb") as file:
        write(file, segment, [rows[:3], rows[3:]])
    assert SegmentFile(path).verify() == segment
    assert SegmentFile(path).read(2, 10) == rows[2:3]
    assert SegmentFile(path).read(3, 10) == rows[3:]
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            SegmentFile(path)
    for length in (0, 10, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            SegmentFile(path)


def test_what_a_segment_says_does_not_depend_on_how_it_was_paged() -> None:
    rows = [(5 + i, 1000 - i, b"x" * (i * 37 % 11)) for i in range(50)]
    said = set()
    for step in (1, 7, 50):
        content = Content()
        for i in range(0, 50, step):
            content.add(rows[i : i + step])
        said.add(content.segment("events", 0, "before"))
    [segment] = said
    assert (segment.first, segment.last, segment.oldest, segment.newest) == (5, 54, 951, 1000)
    other = Content()
    other.add([*rows[:-1], (54, 951, b"y" * 4)])
    assert other.hexdigest() != segment.content
    with pytest.raises(Damaged, match="missing"):
        content.add([(60, 1, b"")])
