"""One contract for every log: ordered, dense, durable before it is acknowledged; many events a record."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.adapters.clock import ManualClock
from services.adapters.codec.columns import same
from services.adapters.log.codec import EVENTS, partition_of
from services.adapters.log.lock import FolderLock
from services.adapters.log.memory import MemoryLog
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.writer import EventWriter
from services.kernel.columns import batch, merge, split
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.event import Event
from services.kernel.ports import Log
from services.kernel.record import EventBatch, Poisoned, Ready, Record, Tick
from tests.contracts.test_proto import batches

ROOT = Path(__file__).parents[2]
Make = Callable[..., Log[Record]]


@pytest.fixture(params=["memory", "sqlite"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """A log of one kind; `kafka` is to be the third."""
    made: list[Log[Record]] = []

    def one(clock: ManualClock | None = None, partitions: int = 1) -> Log[Record]:
        clock = clock or ManualClock(1)
        log = MemoryLog(EVENTS, clock, partitions) if request.param == "memory" else SqliteLog(tmp_path / f"{len(made)}.db", EVENTS, clock, partitions)
        made.append(log)
        return log

    yield one
    for log in made:
        await log.close()


def events(*ids: str, workspace: str = "acme") -> EventBatch:
    return batch(workspace, [Event(i, "meta_ads", f"meta_ads/act/{i}", "click", 5, {"clicks": 1}, {"status": i}) for i in ids])


async def test_records_come_back_in_order_with_dense_offsets_and_the_clocks_stamps(make: Make) -> None:
    clock = ManualClock(100)
    log = make(clock)
    assert await log.append([("a", Ready("a", "1")), ("b", Ready("b", "2"))]) == [(0, 0), (0, 1)]
    clock.advance(5)
    await log.append([("a", Tick())])
    assert [(s.offset, s.stamp, s.record) for s in await log.read(0, 0)] == [(0, 100, Ready("a", "1")), (1, 100, Ready("b", "2")), (2, 105, Tick())]
    assert [s.offset for s in await log.read(0, 1, 1)] == [1]
    assert await log.read(0, 3) == []


async def test_a_key_keeps_to_its_partition(make: Make) -> None:
    log = make(partitions=3)
    names = [f"w{i}" for i in range(20)]
    places = await log.append([(n, Ready(n, "v")) for n in names for _ in range(2)])
    assert [p for p, _ in places] == [partition_of(n, 3) for n in names for _ in range(2)]
    kept = [s.record for p in range(3) for s in await log.read(p, 0)]
    assert sorted(r.workspace for r in kept) == sorted(names * 2)
    assert len({p for p, _ in places}) == 3


async def test_followers_see_what_was_there_and_what_comes(make: Make) -> None:
    log = make()
    await log.append([("a", Ready("a", "0"))])
    seen: list[str] = []

    async def follow() -> None:
        async for page in log.follow(0, 0):
            seen.extend(s.record.version for s in page)

    task = asyncio.create_task(follow())
    for i in range(1, 5):
        await log.append([("a", Ready("a", str(i)))])
    await log.close()
    await asyncio.wait_for(task, 10)
    assert seen == [str(i) for i in range(5)]


async def test_appends_at_one_time_are_each_whole_and_in_turn(make: Make) -> None:
    log = make()
    places = await asyncio.gather(*(log.append([("a", Ready("a", f"{i}-{j}")) for j in range(3)]) for i in range(50)))
    kept = [s.record.version for s in await log.read(0, 0)]
    assert len(kept) == 150
    for i, place in enumerate(places):
        assert [kept[offset] for _, offset in place] == [f"{i}-{j}" for j in range(3)]


async def test_a_closed_log_acknowledges_nothing(make: Make) -> None:
    log = make()
    await log.close()
    with pytest.raises(Unavailable):
        await log.append([("a", Tick())])


async def test_many_requests_become_few_records(make: Make) -> None:
    log = make()
    writer = EventWriter(log)
    await asyncio.gather(*(writer.append(events(f"e{i}")) for i in range(300)))
    kept = [s.record for s in await log.read(0, 0)]
    assert len(kept) <= 3
    assert sum(len(b.event_id) for b in kept) == 300


async def test_a_large_delivery_is_split_between_events(make: Make) -> None:
    log = make()
    whole = events(*(f"e{i}" for i in range(2500)))
    await EventWriter(log).append(whole)
    kept = [s.record for s in await log.read(0, 0)]
    assert [len(b.event_id) for b in kept] == [1000, 1000, 500]
    assert same(merge(kept), whole)


async def test_a_sender_that_gives_up_loses_nobody_elses_events(make: Make) -> None:
    log = make()
    writer = EventWriter(log, linger_ms=5)
    gone, stays = asyncio.create_task(writer.append(events("gone"))), asyncio.create_task(writer.append(events("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert sum(len(s.record.event_id) for s in await log.read(0, 0)) == 2


async def test_workspaces_are_never_mixed_in_a_record(make: Make) -> None:
    log = make()
    writer = EventWriter(log)
    await asyncio.gather(*(writer.append(events(f"e{i}", workspace=f"w{i % 2}")) for i in range(10)))
    kept = [s.record for s in await log.read(0, 0)]
    assert sorted((b.workspace, len(b.event_id)) for b in kept) == [("w0", 5), ("w1", 5)]


@given(st.lists(batches(), min_size=1, max_size=4), st.integers(1, 5))
def test_what_is_merged_or_split_says_the_same(parts: list[EventBatch], most: int) -> None:
    whole = merge([merge(parts), *parts])
    assert len(whole.event_id) == 2 * sum(len(p.event_id) for p in parts)
    pieces = list(split(whole, most))
    assert all(len(p.event_id) <= most for p in pieces)
    assert said(merge(pieces)) == said(whole) == [one for _ in range(2) for p in parts for one in said(p)]


def said(b: EventBatch) -> list[tuple[object, ...]]:
    """The batch as a list of events in words, whatever the dictionaries look like."""
    out: list[tuple[object, ...]] = []
    for i in range(len(b.event_id)):
        amounts = [(b.measures[b.amount_measure[j]], int(b.amount[j])) for j in range(len(b.amount)) if b.amount_event[j] == i]
        told = [
            (b.names[b.attribute_name[j]], b.texts[b.attribute_text[j] - 1] if b.attribute_text[j] else None, int(b.attribute_number[j]))
            for j in range(len(b.attribute_event))
            if b.attribute_event[j] == i
        ]
        plain = (b.paths[b.entity[i]], b.sources[b.source[i]], b.kinds[b.kind[i]], int(b.occurred_at[i]), int(b.as_of[i]))
        out.append((*b.event_id[i].tolist(), *b.row_id[i].tolist(), *plain, int(b.interval_start[i]), int(b.interval_end[i]), amounts, told))
    return out


@pytest.mark.parametrize("damaged", [b"", b"\xff\xff\xff", EVENTS.encode(events("e"))[:-3]], ids=["empty", "nothing of ours", "cut short"])
async def test_a_record_that_cannot_be_read_hides_none_of_the_others(make: Make, damaged: bytes) -> None:
    log = make()
    assert isinstance(log, MemoryLog | SqliteLog)
    await log.append([("a", Ready("a", "1"))])
    log.codec = replace(EVENTS, encode=lambda _: damaged)
    await log.append([("a", Tick())])
    log.codec = EVENTS
    await log.append([("a", Ready("a", "2"))])
    before, poisoned, after = await log.read(0, 0)
    assert (before.record, after.record) == (Ready("a", "1"), Ready("a", "2"))
    assert isinstance(poisoned.record, Poisoned) and poisoned.record.why
    assert [s.offset for s in await log.read(0, 1, 1)] == [1]


# -- SQLite alone ---------------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_after_reopening(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1))
    await log.append([("a", Ready("a", "1"))])
    await log.close()
    again = SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(2))
    assert await again.append([("a", Ready("a", "2"))]) == [(0, 1)]
    assert [(s.stamp, s.record.version) for s in await again.read(0, 0)] == [(1, "1"), (2, "2")]
    await again.close()


async def test_a_full_disk_acknowledges_nothing_and_the_next_append_works(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1))
    (pages,) = log._writer.execute("PRAGMA page_count").fetchone()
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = [("a", Ready("a", "x" * 100_000))]
    with pytest.raises(Unavailable, match="full"):
        await log.append(big)
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert await log.append(big) == [(0, 0)]
    assert len(await log.read(0, 0)) == 1
    await log.close()


async def test_a_failure_reaches_every_waiting_sender(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1))
    log._writer.execute("PRAGMA query_only = 1")
    writer = EventWriter(log)
    answers = await asyncio.gather(*(writer.append(events(f"e{i}")) for i in range(5)), return_exceptions=True)
    assert [type(a) for a in answers] == [Unavailable] * 5
    log._writer.execute("PRAGMA query_only = 0")
    await writer.append(events("later"))
    assert len(await log.read(0, 0)) == 1
    await log.close()


async def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(Misconfigured, match="restore it from a backup"):
        SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1))


async def test_a_log_of_another_kind_is_refused(tmp_path: Path) -> None:
    await SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1)).close()
    with pytest.raises(Misconfigured, match="another version or setting"):
        SqliteLog(tmp_path / "log.db", EVENTS, ManualClock(1), partitions=2)


def test_a_second_process_is_told_who_owns_the_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(Misconfigured, match=f"process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


CHILD = """
import asyncio, sys
from pathlib import Path
from services.adapters.clock import SystemClock
from services.adapters.log.codec import EVENTS
from services.adapters.log.sqlite import SqliteLog
from services.kernel.record import Ready

async def main():
    log = SqliteLog(Path(sys.argv[1]), EVENTS, SystemClock())
    n = 0
    while True:
        group = [log.append([("a", Ready("a", str(n + i)))]) for i in range(7)]
        for places in await asyncio.gather(*group):
            print(places[0][1], flush=True)
        n += 7

asyncio.run(main())
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    path, most = tmp_path / "log.db", 0
    for round_ in range(4):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(20 + 13 * round_)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1] if line]
        child.wait(10)
        child.stdout.close()
        most = max(acknowledged)
        assert acknowledged == sorted(acknowledged)
        with sqlite3.connect(path) as kept:
            offsets = [n for (n,) in kept.execute("SELECT number FROM records ORDER BY number")]
        kept.close()
        assert offsets == list(range(len(offsets)))
        assert offsets[-1] >= most
