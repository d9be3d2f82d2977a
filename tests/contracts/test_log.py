"""One contract for every log, in memory, in a file, archived, on Kafka: ordered, dense, durable before it is acknowledged; many events a record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock
from services.adapters.codec.columns import same
from services.adapters.log.codec import EVENTS, partition_of
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.keeper import Keeper, Policy
from services.adapters.log.lock import FolderLock
from services.adapters.log.memory import MemoryLog
from services.adapters.log.segment import Row
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.writer import EventWriter
from services.kernel.columns import Rows, Words, batch, cut, join, merge, numbered, rows, split
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.event import Event
from services.kernel.ports import Log
from services.kernel.record import EventBatch, Poisoned, Ready, Record, Tick
from tests.brokers import on_kafka
from tests.contracts.test_proto import batches

ROOT = Path(__file__).parents[2]
Make = Callable[..., Awaitable[Log[Record]]]


class Archived(SqliteLog[Record]):
    """What it has acknowledged is in the archive alone."""

    async def append(self, records: Sequence[tuple[str, Record]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        places = await super().append(records, partition)
        for number in range(self.partitions) if self.archive is not None else ():
            keeper = Keeper(self.path, self.archive.folder, Policy(size=2_000, age=0, live=0), number)
            assert not any(step.stays for step in keeper.run(self.clock.now() + 1, lambda: 10**9))
        live = {(p, n) for p, n in self._writer.execute("SELECT partition, number FROM records")}
        assert self.archive is None or not live & set(places)
        return places


@pytest.fixture(params=["memory", "sqlite", "archived", "kafka"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """A log of one kind."""
    made: list[Log[Record]] = []
    brokers: Brokers | None = request.getfixturevalue("kafka") if request.param == "kafka" else None

    async def one(clock: ManualClock | None = None, partitions: int = 1) -> Log[Record]:
        clock = clock or ManualClock(1)
        log: Log[Record]
        path = tmp_path / f"{len(made)}.db"
        if brokers is not None:
            log = await on_kafka(brokers, EVENTS, partitions=partitions)
        elif request.param == "memory":
            log = MemoryLog(EVENTS, clock, partitions)
        else:
            log = (SqliteLog if request.param == "sqlite" else Archived)(path, EVENTS, clock, partitions, archive=path.with_suffix(".archive"))
        made.append(log)
        return log

    yield one
    for log in made:
        await log.close()


def events(*ids: str, workspace: str = "acme") -> EventBatch:
    return batch(workspace, [Event(i, "meta_ads", f"meta_ads/act/{i}", "click", 5, {"clicks": 1}, {"status": i}) for i in ids])


async def test_records_come_back_in_order_with_dense_offsets_and_the_logs_stamps(make: Make) -> None:
    clock = ManualClock(100)
    log = await make(clock)
    assert await log.append([("a", Ready("a", "1")), ("b", Ready("b", "2"))]) == [(0, 0), (0, 1)]
    clock.advance(5)
    await log.append([("a", Tick())])
    kept = await log.read(0, 0)
    assert [(s.offset, s.record) for s in kept] == [(0, Ready("a", "1")), (1, Ready("b", "2")), (2, Tick())]
    if not isinstance(log, KafkaLog):
        assert [s.stamp for s in kept] == [100, 100, 105]
    assert [s.offset for s in await log.read(0, 1, 1)] == [1]
    assert await log.read(0, 3) == []


async def test_a_key_keeps_to_its_partition(make: Make) -> None:
    log = await make(partitions=3)
    names = [f"w{i}" for i in range(20)]
    places = await log.append([(n, Ready(n, "v")) for n in names for _ in range(2)])
    assert [p for p, _ in places] == [partition_of(n, 3) for n in names for _ in range(2)]
    kept = [s.record for p in range(3) for s in await log.read(p, 0)]
    assert sorted(r.workspace for r in kept) == sorted(names * 2)
    assert len({p for p, _ in places}) == 3


async def test_a_record_of_no_workspace_goes_where_it_is_sent(make: Make) -> None:
    log = await make(partitions=3)
    assert [await log.append([("", Tick())], number) for number in (2, 0, 2)] == [[(2, 0)], [(0, 0)], [(2, 1)]]
    assert [len(await log.read(number, 0)) for number in range(3)] == [1, 0, 2]


async def test_reading_begins_anywhere_and_pages_join_up(make: Make) -> None:
    log = await make(partitions=2)
    await log.append([("", Ready("a", str(i))) for i in range(25)], 0)
    await log.append([("", Ready("b", str(i))) for i in range(3)], 1)
    pages = [await log.read(0, at, 10) for at in (20, 0, 10, 24, 25, 30)]
    assert [[int(s.record.version) for s in page] for page in pages] == [[*range(20, 25)], [*range(10)], [*range(10, 20)], [24], [], []]
    both = await asyncio.gather(*(log.read(number, at, 2) for number in (0, 1) for at in (0, 1, 2)))
    assert [[s.offset for s in page] for page in both] == [[0, 1], [1, 2], [2, 3], [0, 1], [1, 2], [2]]


async def test_followers_see_what_was_there_and_what_comes(make: Make) -> None:
    log = await make()
    await log.append([("a", Ready("a", "0"))])
    seen: list[str] = []
    all_of_it = asyncio.Event()

    async def follow() -> None:
        async for page in log.follow(0, 0):
            seen.extend(s.record.version for s in page)
            if len(seen) >= 5:
                all_of_it.set()

    task = asyncio.create_task(follow())
    for i in range(1, 5):
        await log.append([("a", Ready("a", str(i)))])
    await asyncio.wait_for(all_of_it.wait(), 10)
    await log.close()
    await asyncio.wait_for(task, 10)
    assert seen == [str(i) for i in range(5)]


async def test_appends_at_one_time_are_each_whole_and_in_turn(make: Make) -> None:
    log = await make()
    places = await asyncio.gather(*(log.append([("a", Ready("a", f"{i}-{j}")) for j in range(3)]) for i in range(50)))
    kept = [s.record.version for s in await log.read(0, 0)]
    assert len(kept) == 150
    for i, place in enumerate(places):
        assert [kept[offset] for _, offset in place] == [f"{i}-{j}" for j in range(3)]


async def test_a_closed_log_acknowledges_nothing(make: Make) -> None:
    log = await make()
    await log.close()
    with pytest.raises(Unavailable):
        await log.append([("a", Tick())])


async def test_a_closed_log_never_says_that_nothing_is_there(make: Make) -> None:
    """Whoever believed it would take what is there for lost."""
    log = await make()
    await log.append([("a", Ready("a", "1"))])
    await log.close()
    try:
        told = [s.record.version for s in await log.read(0, 0)]
    except Unavailable as error:
        assert error.reason == "log_closed"
    else:
        assert told == ["1"]
    assert all([page async for page in log.follow(0, 0)])  # it ends


async def test_many_requests_become_few_records(make: Make) -> None:
    log = await make()
    writer = EventWriter(log)
    await asyncio.gather(*(writer.append(events(f"e{i}")) for i in range(300)))
    kept = [s.record for s in await log.read(0, 0)]
    assert len(kept) <= 3
    assert sum(len(b.event_id) for b in kept) == 300


async def test_a_large_delivery_is_split_between_events(make: Make) -> None:
    log = await make()
    whole = events(*(f"e{i}" for i in range(2500)))
    await EventWriter(log).append(whole)
    kept = [s.record for s in await log.read(0, 0)]
    assert [len(b.event_id) for b in kept] == [1000, 1000, 500]
    assert same(merge(kept), whole)


async def test_a_sender_that_gives_up_loses_nobody_elses_events(make: Make) -> None:
    log = await make()
    writer = EventWriter(log, linger_ms=5)
    gone, stays = asyncio.create_task(writer.append(events("gone"))), asyncio.create_task(writer.append(events("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert sum(len(s.record.event_id) for s in await log.read(0, 0)) == 2


async def test_workspaces_are_never_mixed_in_a_record(make: Make) -> None:
    log = await make()
    writer = EventWriter(log)
    await asyncio.gather(*(writer.append(events(f"e{i}", workspace=f"w{i % 2}")) for i in range(10)))
    kept = [s.record for s in await log.read(0, 0)]
    assert sorted((b.workspace, len(b.event_id)) for b in kept) == [("w0", 5), ("w1", 5)]


async def test_rows_that_fill_a_record_and_rows_that_do_not_are_all_kept_in_records_of_the_usual_size(make: Make) -> None:
    log = await make()
    writer, sizes = EventWriter(log), (3, 501, 1, 2500, 700, 499, 40)
    made = [[Event(f"{i}-{j}", "web", f"meta_ads/{j % 7}", "click", j, {"clicks": 1_000_000}) for j in range(n)] for i, n in enumerate(sizes)]
    await asyncio.gather(*(writer.append_rows("acme", rows(part)) for part in made))
    kept = [s.record for s in await log.read(0, 0)]
    assert all(len(b.event_id) <= 1000 for b in kept) and len(kept) <= 6
    assert sorted(one for b in kept for one in said(b)) == sorted(one for part in made for one in said(batch("acme", part)))


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=1, max_size=3), st.integers(1, 4))
def test_words_that_are_numbered_already_are_joined_and_cut_as_those_that_are_not(columns: list[list[str]], most: int) -> None:
    def parts(make: Callable[[list[str]], Words]) -> list[Rows]:
        return [Rows([bytes(16)] * len(c), make(c), make(c), make(c), [1] * len(c), [1] * len(c), make(c), [1] * len(c)) for c in columns]

    listed, numbers = parts(list), parts(numbered)
    assert same(join("acme", numbers), join("acme", listed))
    assert same(join("acme", [*numbers[:1], *listed[1:]]), join("acme", listed))
    assert [list(n.paths) for n in numbers] == columns
    for one, other in zip(numbers, listed, strict=True):
        pieces = zip(cut(one, most), cut(other, most), strict=True)
        assert all(same(join("acme", [a]), join("acme", [b])) for a, b in pieces)


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
    log = await make()
    assert isinstance(log, MemoryLog | SqliteLog | KafkaLog)
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


class Overtaken(SqliteLog[Record]):
    """Something is appended just after the live file was looked at."""

    meanwhile: Record | None = None

    def _fetch(self, partition: int, offset: int, limit: int) -> list[Row]:
        rows = super()._fetch(partition, offset, limit)
        if self.meanwhile is not None:
            self._commit([(partition, EVENTS.encode(self.meanwhile))])
            self.meanwhile = None
        return rows


async def test_what_was_pruned_is_read_also_while_something_is_appended(tmp_path: Path) -> None:
    log = Overtaken(tmp_path / "log.db", EVENTS, ManualClock(1), archive=tmp_path / "archive")
    await log.append([("a", Ready("a", "1"))])
    assert list(Keeper(log.path, tmp_path / "archive", Policy(size=2_000, age=0, live=0)).run(2, lambda: 10**9))
    log.meanwhile = Ready("a", "2")
    assert [s.record for s in await log.read(0, 0)] == [Ready("a", "1")]
    assert [s.record for s in await log.read(0, 0)] == [Ready("a", "1"), Ready("a", "2")]
    await log.close()


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


async def test_a_log_of_the_first_format_is_brought_to_this_one_and_its_records_stay(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        file.execute(
            "CREATE TABLE records (partition INTEGER NOT NULL, number INTEGER NOT NULL, stamp INTEGER NOT NULL, data BLOB NOT NULL,"
            " PRIMARY KEY (partition, number))"
        )
        file.executemany("INSERT INTO about VALUES (?, ?)", [("format", "1"), ("topic", "events"), ("partitions", "1")])
        file.executemany("INSERT INTO records VALUES (0, ?, ?, ?)", [(i, 10 + i, EVENTS.encode(Ready("a", str(i)))) for i in range(3)])
    log = SqliteLog(path, EVENTS, ManualClock(100), archive=tmp_path / "archive")
    await log.append([("a", Ready("a", "3"))])
    for _ in range(2):
        assert [(s.offset, s.stamp, s.record) for s in await log.read(0, 0)] == [(i, (10, 11, 12, 100)[i], Ready("a", str(i))) for i in range(4)]
        await log.close()
        log = SqliteLog(path, EVENTS, ManualClock(100), archive=tmp_path / "archive")
    kept = log._writer.execute("SELECT number, crc FROM records WHERE crc IS NOT NULL").fetchall()
    assert [number for number, _ in kept] == [3]  # what had no checksum has none: it cannot be known what it should have been
    steps = list(Keeper(path, tmp_path / "archive", Policy(age=0, live=0)).run(101, lambda: 10**9))
    assert (steps[-1].what, steps[-1].segment.last) == ("pruned", 3)
    assert [s.record for s in await log.read(0, 0)] == [Ready("a", str(i)) for i in range(4)]
    await log.close()


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
