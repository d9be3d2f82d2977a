"""Kafka's topics in an archive: what the brokers delete can be read all the same, whoever wrote it, and what was lost is said."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy.kafka.broker import Brokers
from services.adapters.blobs import Blob, FolderBlobs, blobs_of
from services.adapters.clock import ManualClock, SystemClock
from services.adapters.log.archiver import LATE, PAGE, PAGE_BYTES, ArchiveMetrics, Archiver, Seal
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.reader import FEW
from services.adapters.log.scratch import Scratch
from services.adapters.log.segment import SegmentFile
from services.adapters.log.shelf import ArchivedLog, Shelf
from services.adapters.log.topics import administering
from services.adapters.progress import Beat, Progress
from services.adapters.settings import Settings, from_environment
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, Unavailable, Unreadable
from services.kernel.record import Ready, Record, Stamped
from services.production.archiving import Archiving, Backed, Daily
from services.production.rules import Rules
from services.rules_engine.bucket import Bucket, checkpoints_of, daily_of
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition
from services.rules_engine.replay import Beyond, Replayer
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import on_kafka, until
from tests.core.world import GROUP, GUARDS, SECOND, World, batch, pause_rule
from tests.shell.sharing import now
from tests.shell.test_bucket import Store, environment, header, store  # noqa: F401  fixtures
from tests.shell.test_livez import Hand, passes
from tests.shell.test_log_tail import run

ROOT = Path(__file__).parents[2]
HOUR = 3600 * SECOND
SEAL = Seal(age=24 * HOUR, size=1 << 20, records=10)


@dataclass
class House:
    """One topic, its archive, and whoever writes it."""

    kafka: Brokers
    log: KafkaLog[Record]
    root: Path
    scratch: Path
    clock: ManualClock
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    shelves: list[Shelf] = field(default_factory=list)

    def shelf(self) -> Shelf:
        self.shelves.append(Shelf(FolderBlobs(self.root), self.log.topic.name, self.scratch))
        return self.shelves[-1]

    def archiver(self, seal: Seal = SEAL) -> Archiver:
        self.registry = CollectorRegistry()
        return Archiver(self.log, self.shelf(), seal, self.clock, ArchiveMetrics(self.registry))

    def archived(self) -> ArchivedLog[Record]:
        return ArchivedLog(self.log, self.shelf())

    async def put(self, first: int, many: int) -> None:
        await self.log.append([("acme", Ready("acme", str(i))) for i in range(first, first + many)])

    async def delete(self, before: int, topic: Topic | None = None) -> None:
        """As the brokers do by themselves, once records are older than the topic's retention."""
        async with administering(Cluster(self.kafka.bootstrap)) as admin:
            await admin.delete_records({TopicPartition((topic or self.log.topic).name, 0): RecordsToDelete(before)})

    def files(self) -> list[Path]:
        return sorted(self.root.rglob("*.segment"))

    def spans(self) -> list[tuple[int, int]]:
        return [(r.first, r.last) for r in self.shelf().every(0)]

    def sample(self, name: str) -> float | None:
        labels = {"topic": self.log.topic.name, "partition": "0"}
        return self.registry.get_sample_value(f"trimtab_archive_{name}", {} if name == "failures_total" else labels)


@pytest.fixture
async def house(kafka: Brokers, tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "archive").mkdir()
    log = await on_kafka(kafka, EVENTS)
    made = House(kafka, log, tmp_path / "archive", tmp_path / "scratch", ManualClock(SystemClock().now()))
    yield made
    await log.close()
    for shelf in made.shelves:
        shelf.close()


async def whole(log: ArchivedLog[Record], offset: int = 0) -> list[str]:
    """The versions of all records from an offset on, however they are paged."""
    found: list[Stamped[Record]] = []
    while page := await log.read(0, offset, 7):
        assert page[0].offset == offset or not found
        found += page
        offset = page[-1].offset + 1
    return [s.record.version for s in found if isinstance(s.record, Ready)]


def numbers(first: int, end: int) -> list[str]:
    return [str(i) for i in range(first, end)]


# -- writing --------------------------------------------------------------------------------------------------------------


async def test_segments_are_sealed_by_number_and_size_and_age_and_none_before(house: House) -> None:
    await house.put(0, 9)
    archiver = house.archiver()
    assert await archiver.once(0) == 0 and house.files() == []
    await house.put(9, 14)
    assert await archiver.once(0) == 2 and house.spans() == [(0, 9), (10, 19)]
    house.clock.advance(24 * HOUR - SECOND)
    assert await archiver.once(0) == 0
    house.clock.advance(LATE + 2 * SECOND)
    assert await archiver.once(0) == 1 and house.spans()[-1] == (20, 22)
    assert (house.sample("offset"), house.sample("overdue_seconds"), house.sample("lost_records")) == (23, 0, 0)
    await house.put(23, 10)
    size = len((await house.log.kept(0, 23, 1))[0].value)
    assert await house.archiver(Seal(age=HOUR, size=3 * size, records=10)).once(0) >= 1
    assert house.spans()[3] == (23, 25)


async def test_how_records_are_paged_does_not_say_where_a_segment_ends(house: House) -> None:
    await house.put(0, 2 * PAGE + 50)
    archiver = house.archiver(Seal(age=24 * HOUR, size=1 << 20, records=2 * PAGE + 40))
    assert await archiver.once(0) == 1 and house.spans() == [(0, 2 * PAGE + 39)]
    house.clock.advance(25 * HOUR)
    assert await archiver.once(0) == 1 and house.spans()[1:] == [(2 * PAGE + 40, 2 * PAGE + 49)]


class Weighed:
    """A topic that remembers how many bytes were read of it at once."""

    def __init__(self, log: KafkaLog[Record]) -> None:
        self.log, self.sizes = log, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    async def kept(self, *of: Any) -> Any:
        page = await self.log.kept(*of)
        self.sizes.append(sum(len(k.value) for k in page))
        return page


async def test_large_records_are_read_a_few_at_a_time(house: House) -> None:
    large = 1 << 20
    await house.log.append([("acme", Ready("acme", f"{i:x}" * large)) for i in range(16)])
    await house.log.append([("acme", Ready("acme", "0" * large)) for _ in range(16)])
    assert 2 <= len(await house.log.kept(0, 0, 100, large + 100)) <= FEW
    archiver = house.archiver(Seal(age=24 * HOUR, size=1 << 30, records=32))
    archiver.kafka = weighed = Weighed(house.log)  # type: ignore[assignment]
    assert await archiver.once(0) == 1 and house.spans() == [(0, 31)]
    assert max(weighed.sizes) <= PAGE_BYTES + FEW * (large + 100) < sum(weighed.sizes)


async def test_what_kafka_has_deleted_is_read_from_the_archive_as_it_was(house: House) -> None:
    await house.put(0, 35)
    before = await house.log.kept(0, 0, 30)
    await house.archiver().once(0)
    await house.delete(25)
    log = house.archived()
    assert await whole(log) == numbers(0, 35)
    assert await whole(log, 12) == numbers(12, 35)
    page = [s for offset in (0, 10, 20, 25) for s in await log.read(0, offset, 10)]
    assert [(s.offset, s.stamp) for s in page[:30]] == [(k.offset, k.stamp) for k in before]
    await house.delete(30)
    assert await whole(log) == await whole(house.archived()) == numbers(0, 35)


async def test_a_start_goes_on_where_the_archive_ends(house: House) -> None:
    await house.put(0, 25)
    await house.archiver().once(0)
    await house.put(25, 10)
    with capture_logs() as logged:
        assert await house.archiver().once(0) == 1
    assert [line["first"] for line in logged if line["event"] == "segment archived"] == [20]
    files = [SegmentFile(path).segment for path in house.files()]
    assert [s.previous for s in files[1:]] == [s.link for s in files[:-1]] and files[0].previous == ""


async def test_two_writers_make_the_same_files_and_the_second_takes_what_is_there(house: House, tmp_path: Path) -> None:
    await house.put(0, 45)
    first, second = house.archiver(), house.archiver()
    done = await asyncio.gather(first.once(0), second.once(0))
    assert sum(done) >= 4 and house.spans() == [(0, 9), (10, 19), (20, 29), (30, 39)]
    (tmp_path / "other").mkdir()
    other = Archiver(house.log, Shelf(FolderBlobs(tmp_path / "other"), house.log.topic.name, house.scratch), SEAL, house.clock)
    await other.once(0)
    assert [p.read_bytes() for p in house.files()] == [p.read_bytes() for p in sorted((tmp_path / "other").rglob("*.segment"))]
    other.shelf.close()


async def test_a_shorter_segment_takes_no_ones_place_and_a_longer_one_neither(house: House) -> None:
    await house.put(0, 10)
    late = house.archiver(Seal(age=24 * HOUR, size=1 << 20, records=4))
    late._places[0] = await late._resume(0)
    await house.archiver().once(0)
    [kept] = [p.read_bytes() for p in house.files()]
    assert await late.once(0) == 1  # of four records, which would begin there too
    assert [p.read_bytes() for p in house.files()] == [kept]
    assert late._places[0].next == 10


@pytest.mark.parametrize("point", ["kafka.sealed", "kafka.archived"])
async def test_one_that_is_killed_before_or_after_the_archive_has_it_leaves_all_as_it_would_have_been(house: House, tmp_path: Path, point: str) -> None:
    await house.put(0, 35)
    script = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom services.adapters import faultpoint\nfrom tests.shell.test_kafka_archive import *\n"
        "faultpoint.arm_from(os.environ)\n"
        "async def main(bootstrap, topic, root, scratch):\n"
        "    log = KafkaLog(Cluster(bootstrap), EVENTS, SystemClock(), Topic(topic, 1, 1))\n    await log.start()\n"
        "    await Archiver(log, Shelf(FolderBlobs(Path(root)), topic, Path(scratch)), SEAL, SystemClock()).once(0)\n"
        "asyncio.run(main(*sys.argv[1:]))"
    )
    arguments = [house.kafka.bootstrap, house.log.topic.name, str(house.root), str(house.scratch)]
    planted = os.environ | {"TRIMTAB_FAULTPOINT": f"{point}:2:KILL"}
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, *arguments], cwd=ROOT, env=planted, capture_output=True, timeout=120)
    assert done.returncode == -9, done.stderr.decode()
    assert house.spans() == ([(0, 9)] if point == "kafka.sealed" else [(0, 9), (10, 19)])
    await house.archiver().once(0)
    assert house.spans() == [(0, 9), (10, 19), (20, 29)] and list(house.root.rglob("*.begun")) == []
    await house.delete(35)
    await house.put(35, 1)
    assert await whole(house.archived()) == ["35"]  # records 30 to 34 were in no segment: there is no whole log before them


async def test_how_long_the_oldest_record_waits_is_counted_on_while_nobody_comes_round(house: House) -> None:
    await house.put(0, 5)
    archiver = house.archiver()
    await archiver.once(0)
    assert house.sample("overdue_seconds") == 0
    house.clock.advance(26 * HOUR)
    assert house.sample("overdue_seconds") == pytest.approx(7200, abs=120)
    house.clock.advance(HOUR)
    assert house.sample("overdue_seconds") == pytest.approx(10800, abs=120)
    await archiver.once(0)
    assert house.sample("overdue_seconds") == 0
    archiver.forget(0)
    assert house.sample("overdue_seconds") is None


# -- what goes wrong ------------------------------------------------------------------------------------------------------


async def test_a_place_that_is_away_is_said_and_caught_up_later(house: House) -> None:
    await house.put(0, 15)
    await house.archiver().once(0)
    house.root.rename(house.root.with_suffix(".away"))
    await house.put(15, 20)
    archiver = house.archiver()
    with pytest.raises(Unavailable, match="cannot be used: there is no such folder"):
        await archiver.once(0)
    house.root.with_suffix(".away").rename(house.root)
    assert await archiver.once(0) == 2 and house.spans() == [(0, 9), (10, 19), (20, 29)]


class Unlisted(FolderBlobs):
    """Says of every name that it is there, and lists none."""

    def create(self, name: str, path: Path) -> bool:
        return False


async def test_a_name_that_is_taken_and_not_listed_is_said_and_tried_again(house: House) -> None:
    await house.put(0, 15)
    archiver = house.archiver()
    whole_, archiver.shelf.blobs = archiver.shelf.blobs, Unlisted(house.root)
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="said to be there, and is not listed") as said:
            await archiver.once(0)
    assert said.value.reason == "archive_unlisted"
    archiver.shelf.blobs = whole_
    assert await archiver.once(0) == 1


async def test_what_was_deleted_before_it_was_archived_is_said_and_remembered(house: House) -> None:
    await house.put(0, 15)
    archiver = house.archiver()
    await archiver.once(0)
    await house.put(15, 30)
    await house.delete(14)
    with capture_logs() as logged:
        await archiver.once(0)
    [line] = [x for x in logged if x["event"] == "records lost to the archive"]
    assert (line["first"], line["last"], line["log_level"]) == (10, 13, "error")
    assert house.spans() == [(0, 9), (14, 23), (24, 33), (34, 43)] and house.sample("lost_records") == 4
    again = house.archiver()
    await again.once(0)
    assert house.sample("lost_records") == 4
    await house.delete(44)
    assert await whole(house.archived()) == numbers(14, 45)  # whole from there


async def test_a_damaged_segment_is_named_when_it_is_read(house: House) -> None:
    await house.put(0, 35)
    await house.archiver().once(0)
    path = house.files()[1]
    good = path.read_bytes()
    path.write_bytes(good[:60] + bytes([good[60] ^ 1]) + good[61:])
    await house.delete(28)
    log = house.archived()
    assert len(await log.read(0, 3, 100)) == 7
    with pytest.raises(Unreadable, match=f"{path.name}.*records 10 to 19.*restore that file") as said:
        await log.read(0, 10, 1)
    assert said.value.beyond == 20 and (await log.read(0, 20, 1))[0].offset == 20


def test_what_a_killed_process_began_in_the_archive_goes_a_day_later(tmp_path: Path) -> None:
    folder = tmp_path / "trimtab.events" / "0"
    folder.mkdir(parents=True)
    for name, age in ((".a.segment.0f.begun", 200_000), (".b.segment.0f.begun", 3_600), ("c.segment", 200_000)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    assert FolderBlobs(tmp_path).create("trimtab.events/0/d.segment", Path(__file__))
    assert sorted(p.name for p in folder.iterdir()) == [".b.segment.0f.begun", "c.segment", "d.segment"]


class Full(FolderBlobs):
    """As on a machine whose own disk is full."""

    def fetch(self, name: str, path: Path) -> None:
        super().fetch(name, Path("/dev/full"))


async def test_a_full_disk_of_this_machine_is_said_and_no_fault_of_the_archive(house: House) -> None:
    await house.put(0, 25)
    await house.archiver().once(0)
    await house.delete(18)
    log = house.archived()
    log.shelf.blobs = Full(house.root)
    with pytest.raises(Unreadable, match=f"from record 18 on, and {house.scratch}.*No space left on device; make room in the folder that TRIMTAB_DATA"):
        await log.read(0, 0)
    archiver = house.archiver()
    archiver.shelf.blobs = log.shelf.blobs
    with pytest.raises(Unavailable, match="cannot hold a copy of") as said:
        await archiver.once(0)
    assert said.value.reason == "archive_copy"
    log.shelf.blobs = FolderBlobs(house.root)
    assert len(await log.read(0, 0, 5)) == 5
    for copy in house.scratch.rglob("????????????????"):
        copy.unlink()  # as whoever tidies temporary files may do
    assert len(await log.read(0, 5, 5)) == 5


def test_what_a_killed_process_left_on_this_machine_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    script = "import sys, time\nfrom pathlib import Path\nfrom services.adapters.log.scratch import Scratch\n"
    script += "s = Scratch(Path(sys.argv[1]))\nprint(s.path, flush=True)\ntime.sleep(60)"
    words = [sys.executable, "-c", script, str(tmp_path)]
    mine, living, killed = Scratch(tmp_path), *(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        there = [Path(p.stdout.readline().strip()) for p in (living, killed) if p.stdout is not None]
        killed.kill()
        killed.wait(60)
        (there[1] / "segment").touch()
        nobodys, young = tmp_path / ".archive-nobodys", tmp_path / ".archive-young"
        for folder, age in ((mine.path, 200_000), (there[0], 200_000), (there[1], 100), (nobodys, 200_000), (young, 100)):
            folder.mkdir(exist_ok=True)
            os.utime(folder, (time.time() - age,) * 2)
        Scratch(tmp_path).close()
        assert sorted(tmp_path.iterdir()) == sorted([mine.path, there[0], young])
        mine.close()
        assert not mine.path.exists()
    finally:
        for process in (living, killed):
            process.kill()
            process.communicate(timeout=60)


async def test_the_newest_segment_is_read_back_at_a_start_and_made_anew(house: House) -> None:
    await house.put(0, 25)
    await house.archiver().once(0)
    path = house.files()[-1]
    good = path.read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), b"", good[:100]):
        path.write_bytes(bad)
        with capture_logs() as logged:
            assert await house.archiver().once(0) == 1
        assert [x["file"] for x in logged if x["log_level"] == "error"][0].endswith(path.name)
        assert path.read_bytes() == good


async def test_the_archive_of_another_log_is_refused_and_left_alone(house: House) -> None:
    await house.put(0, 25)
    await house.archiver().once(0)
    kept = [p.read_bytes() for p in house.files()]
    name = house.log.topic.name
    async with administering(Cluster(house.kafka.bootstrap)) as admin:
        await admin.delete_topics([name])
    await house.log.close()
    log = house.log = await _anew(house.kafka, Topic(name, 1, 1))
    with pytest.raises(Unavailable, match="ends at record .*another place with TRIMTAB_ARCHIVE"):
        await house.archiver().once(0)
    await house.put(1000, 40)
    with pytest.raises(Unavailable, match="record 19 of .* is not the one") as said:
        await house.archiver().once(0)
    assert said.value.reason == "archive_foreign"
    assert [p.read_bytes() for p in house.files()] == kept and log is house.log


async def _anew(kafka: Brokers, topic: Topic) -> KafkaLog[Record]:
    async with asyncio.timeout(60):
        while True:
            try:
                log = await on_kafka(kafka, EVENTS, topic)
                if await log.ends(0) == (0, 0):
                    return log
                await log.close()
            except Unavailable:
                pass
            await asyncio.sleep(0.2)


# -- the engine -----------------------------------------------------------------------------------------------------------


class Engine:
    """A worker on topics of its own, with what it decided."""

    def __init__(self, house: House, decisions: KafkaLog[Decision], folder: Path) -> None:
        self.house, self.decisions, self.folder = house, decisions, folder

    def worker(self, events: Any = None, decisions: Any = None, checkpoints: Any = None) -> Worker:
        logs = (events or self.house.log, decisions or self.decisions)
        return Worker(*logs, SystemClock(), GUARDS, Metrics(CollectorRegistry()), checkpoints=checkpoints, patience=0.05)

    async def run(self, events: Any = None, decisions: Any = None, checkpoints: Any = None) -> Worker:
        worker = self.worker(events, decisions, checkpoints)
        await worker.start()
        await worker.caught_up((await self.house.log.ends(0))[1])
        await worker.stop()
        return worker

    async def said(self) -> list[Decision]:
        log, found = ArchivedLog(self.decisions, self.shelf()), list[Decision]()
        while page := await log.read(0, len(found)):
            found += [s.record for s in page]
        return found

    def shelf(self) -> Shelf:
        self.house.shelves.append(Shelf(FolderBlobs(self.house.root), self.decisions.topic.name, self.house.scratch))
        return self.house.shelves[-1]


@pytest.fixture
async def engine(house: House, tmp_path: Path) -> AsyncIterator[Engine]:
    """It has decided on two ads, has left a checkpoint, and all it read and said is on Kafka."""
    decisions = await on_kafka(house.kafka, DECISIONS)
    made = Engine(house, decisions, tmp_path / "checkpoints")
    worker = made.worker(checkpoints=Checkpoints(made.folder))
    await worker.start()
    await house.log.append([("acme", s.record) for s in World().activate(pause_rule()).records])
    in_force = now() + 2 * SECOND
    await until(lambda: now() > in_force)
    for ad in ("a", "b"):
        event = {"id": ad, "path": f"{GROUP}/{ad}", "at": now(), "attributes": {"status": "active"}}
        await house.log.append([("acme", batch(event | {"amounts": {"impressions": 1000 * SECOND, "clicks": 5 * SECOND}}))])
    await until(lambda: len(worker.said.place) == 2)
    await worker.stop()
    yield made
    await decisions.close()


async def test_a_state_is_restored_and_decisions_replayed_from_archive_and_kafka_together(engine: Engine) -> None:
    house = engine.house
    said, whole_ = await engine.said(), await engine.run()
    assert len(said) == 2
    await Archiver(house.log, house.shelf(), Seal(24 * HOUR, 1 << 20, 2), house.clock).once(0)
    await Archiver(engine.decisions, engine.shelf(), Seal(24 * HOUR, 1 << 20, 1), house.clock).once(0)
    await house.delete(house.spans()[-1][1])
    await house.delete(2, engine.decisions.topic)
    with pytest.raises(Misconfigured, match="no valid checkpoint covers"):
        await engine.run()
    events, decisions = house.archived(), ArchivedLog(engine.decisions, engine.shelf())
    worker = await engine.run(events, decisions)
    assert worker.said.place == whole_.said.place and await engine.said() == said
    for decision in said:
        assert (await Replayer(events, GUARDS).replay(decision)).identical
    assert await worker.said.decision(said[0].id) == said[0]


async def test_a_place_that_is_away_stops_no_engine_that_has_a_checkpoint(engine: Engine) -> None:
    house = engine.house
    await Archiver(house.log, house.shelf(), Seal(24 * HOUR, 1 << 20, 1), house.clock).once(0)
    await house.delete(Checkpoints(engine.folder).every(0)[0].offset - 1)
    events = house.archived()
    house.root.rename(house.root.with_suffix(".away"))
    worker = await engine.run(events, checkpoints=Checkpoints(engine.folder))
    assert worker.restored and not worker.stopped
    with pytest.raises(Misconfigured, match="can be read from record .* on only .*no such folder.* no valid checkpoint covers"):
        await engine.run(events)
    house.root.with_suffix(".away").rename(house.root)
    assert (await engine.run(events)).restored


async def test_a_checkpoint_of_each_day_is_kept_beside_it_and_a_start_falls_back_on_it(engine: Engine) -> None:
    house = engine.house
    own, archived = Checkpoints(engine.folder), Checkpoints(house.root / "checkpoints", 1, 3)
    daily = Daily(own, archived)
    assert daily.keep(0) and not daily.keep(0)
    [kept] = archived.every(0)
    assert kept.header == own.every(0)[0].header
    for path in engine.folder.iterdir():
        path.unlink()
    await house.delete(kept.offset - 1)
    with pytest.raises(Misconfigured, match="no valid checkpoint covers"):
        await engine.run(checkpoints=own)
    assert (await engine.run(checkpoints=Backed(own, archived))).restored


async def test_what_kafka_has_deleted_is_replayed_from_a_checkpoint_of_a_day_where_no_segment_holds_it(engine: Engine) -> None:
    house = engine.house
    own, archived = Checkpoints(engine.folder), Checkpoints(house.root / "checkpoints", 1, 3)
    assert Daily(own, archived).keep(0)
    [kept] = archived.every(0)
    event = {"id": "c", "path": f"{GROUP}/c", "at": now(), "attributes": {"status": "active"}}
    await house.log.append([("acme", batch(event | {"amounts": {"impressions": 1000 * SECOND, "clicks": 5 * SECOND}}))])
    worker = engine.worker(checkpoints=own)
    await worker.start()
    await until(lambda: len(worker.said.place) == 3)
    await worker.stop()
    first, _, last = await engine.said()
    assert (await Replayer(house.log, GUARDS).replay(last)).begun == 0
    await house.delete(kept.offset - 1)
    for path in engine.folder.iterdir():
        path.unlink()
    past = Replayer(house.log, GUARDS, checkpoints=Backed(own, archived))
    again = await past.replay(last)
    assert again.identical and again.begun == kept.offset
    with pytest.raises(Beyond, match="no valid checkpoint"):
        await past.replay(first)


def test_checkpoints_older_than_the_audit_period_go(tmp_path: Path) -> None:
    own, archived = Checkpoints(tmp_path / "own"), Checkpoints(tmp_path / "archived", 1, 3)
    plain, pieces = state.dump(Partition(GUARDS))
    day = 24 * HOUR
    for n in range(6):
        own.write(replace(header(n + 1), at=n * day), plain, pieces)
        assert Daily(own, archived).keep(0)
    assert [k.offset for k in archived.every(0)] == [6, 5, 4]


# -- the process ----------------------------------------------------------------------------------------------------------


async def test_the_owner_archives_what_it_has_and_says_when_it_cannot(house: House, tmp_path: Path) -> None:
    await house.put(0, 25)
    archiver, registry = house.archiver(), CollectorRegistry()
    metrics = ArchiveMetrics(registry)
    share: Any = SimpleNamespace(ours=frozenset({0}), workers={})
    daily = Daily(Checkpoints(tmp_path / "none"), Checkpoints(house.root / "checkpoints"))
    archiving = Archiving(share, [archiver], daily, house.clock, metrics, every=0.02)
    house.root.rename(house.root.with_suffix(".away"))
    with capture_logs() as logged:
        await archiving.once()
    assert registry.get_sample_value("trimtab_archive_failures_total") == 1
    [why] = [x["why"] for x in logged if x["event"] == "not archived"]
    assert why == f"the archive {house.root} cannot be used: there is no such folder; make it, or mount it"
    house.root.with_suffix(".away").rename(house.root)
    archiving.start()
    await until(lambda: len(house.files()) == 2)
    await archiving.stop()
    assert house.sample("offset") is not None
    share.ours = frozenset()
    await archiving.once()
    assert house.sample("offset") is None


class Hung(FolderBlobs):
    """Answers nobody until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.let_go = threading.Event(), threading.Event()

    def names(self, folder: str) -> list[Blob]:
        self.asked.set()
        self.let_go.wait(60)
        return super().names(folder)


async def test_archiving_is_alive_while_its_place_is_away_and_told_when_it_hangs_or_ends(house: House, tmp_path: Path) -> None:
    hand, share = Hand(), SimpleNamespace(ours=frozenset({0}), workers={})
    progress, archiver = Progress(600, hand), house.archiver()
    daily = Daily(Checkpoints(tmp_path / "none"), Checkpoints(tmp_path / "daily"))
    archiving = Archiving(share, [archiver], daily, house.clock, archiver.metrics, every=0.02, progress=progress)  # type: ignore[arg-type]
    house.root.rename(house.root.with_suffix(".away"))
    archiving.start()
    assert await passes(hand, progress) == ""
    archiver.shelf.blobs = hung = Hung(house.root)
    await until(hung.asked.is_set)
    assert await passes(hand, progress) == "archive: it has not come round for 1000 s"
    hung.let_go.set()
    await until(lambda: progress.stalled() == "")
    assert archiving._task is not None
    archiving._task.cancel()
    await until(lambda: progress.stalled() == "archive: its task archiving has ended")
    await archiving.stop()
    assert progress.stalled() == ""


async def test_the_engine_of_production_archives_both_topics_where_an_archive_is_named(tmp_path: Path) -> None:
    wanted = {"TRIMTAB_KAFKA": "127.0.0.1:1", "TRIMTAB_DATABASE": "postgresql+asyncpg://u@127.0.0.1/d", "TRIMTAB_DATA": str(tmp_path)}
    wanted["TRIMTAB_SECRET"] = "5e" * 32
    assert isinstance(Rules(from_environment(wanted)).events, KafkaLog)
    rules = Rules(from_environment(wanted | {"TRIMTAB_ARCHIVE": str(tmp_path / "archive"), "TRIMTAB_LOG_SEGMENT_HOURS": "2", "TRIMTAB_AUDIT_DAYS": "30"}))
    assert isinstance(rules.events, ArchivedLog) and isinstance(rules.decisions, ArchivedLog) and isinstance(rules.checkpoints, Backed)
    archiving = rules._archiving()
    assert [(a.kafka.topic.name, a.seal.age) for a in archiving.archivers] == [("trimtab.events", 2 * HOUR), ("trimtab.decisions", 2 * HOUR)]
    assert (archiving.daily.archived.folder, archiving.daily.archived.days) == (tmp_path / "archive" / "trimtab.checkpoints", 30)
    worker = rules._worker(0, Beat())
    assert worker.checkpoints is rules.checkpoints and worker.events is rules.events
    assert sum(name.startswith(".archive-") for name in os.listdir(tmp_path)) == 2
    await rules.stop()
    assert not any(name.startswith(".archive-") for name in os.listdir(tmp_path))


# -- the command line -----------------------------------------------------------------------------------------------------


async def test_the_command_line_lists_verifies_and_examines_the_archive(house: House, tmp_path: Path) -> None:
    await house.put(0, 35)
    prefix = house.log.topic.name.removesuffix(".events")
    wanted = {
        "kafka": house.kafka.bootstrap, "kafka_prefix": prefix, "kafka_partitions": 1, "kafka_replicas": 1, "archive": house.root, "data": tmp_path / "data",
    }  # fmt: skip

    async def said(*words: str) -> Any:
        return await asyncio.to_thread(run, *words, **wanted)

    assert f"{prefix}.events-0: nothing is archived, 35 more are on Kafka alone" in (await said("doctor")).out
    await house.archiver().once(0)
    listed = (await said("log", "segments")).lines
    assert len(listed) == 3 and listed[0].startswith(f"{prefix}.events-0  records          0 to          9  20") and listed[0].endswith(".segment")
    assert (await said("log", "verify")).out == "3 segments hold\n"
    assert f"ok    archive       {prefix}.events-0: records 0 to 29 are archived, 5 more are on Kafka alone, the oldest 0.0 h old" in (await said("doctor")).out
    await house.delete(12)
    assert "has lost the beginning" not in (await said("doctor")).out
    path = house.files()[1]
    good = path.read_bytes()
    path.write_bytes(good[:60] + bytes([good[60] ^ 1]) + good[61:])
    verified = await said("log", "verify")
    assert verified.code == 1 and f"{prefix}.events-0 records 10 to 19: DAMAGED: its hash does not agree" in verified.out
    path.write_bytes(good[:-60])
    assert "FAIL  archive" in (await said("doctor")).out
    path.unlink()
    verified = await said("log", "verify")
    assert verified.code == 1 and f"{prefix}.events-0 records 10 to 19: NOT THERE" in verified.out
    assert "10 of them were deleted before" in (await said("doctor")).out


# -- a bucket -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(environment: dict[str, str]) -> Settings:  # noqa: F811
    place = environment.pop("TRIMTAB_CHECKPOINTS").replace("/trimtab/one", "/archive")
    return from_environment(environment | {"TRIMTAB_ARCHIVE": place, "TRIMTAB_KAFKA": "127.0.0.1:1"})


async def test_an_archive_in_a_bucket_is_as_one_in_a_folder(house: House, bucket: Settings, store: Store) -> None:  # noqa: F811
    await house.put(0, 35)
    shelf = Shelf(blobs_of(bucket, bucket.archive), house.log.topic.name, house.scratch)
    archiver = Archiver(house.log, shelf, SEAL, house.clock)
    store.mood = "503"
    with pytest.raises(Unavailable, match="s3://"):
        await archiver.once(0)
    store.mood = ""
    assert await archiver.once(0) == 3
    blob = shelf.every(0)[0].blob
    assert not shelf.blobs.create(blob.name, Path(__file__)) and shelf.every(0)[0].blob == blob
    late = Archiver(house.log, shelf, Seal(age=HOUR, size=1 << 20, records=4), house.clock)
    late._places[0] = archiver._places[0].__class__(0)
    await late.once(0)
    assert [(r.first, r.last) for r in shelf.every(0)] == [(0, 9), (10, 19), (20, 29), (30, 33)]
    await house.delete(32)
    log = ArchivedLog(house.log, shelf)
    assert await whole(log) == numbers(0, 35)
    shelf.blobs.replace(blob.name, Path(__file__))
    with pytest.raises(Unreadable, match="records 0 to 9"):
        await ArchivedLog(house.log, Shelf(shelf.blobs, house.log.topic.name, house.scratch)).read(0, 0)
    shelf.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"TRIMTAB_ARCHIVE": "s3://a/b"}, "is for the topics of TRIMTAB_KAFKA"),
        ({"TRIMTAB_ARCHIVE": "gs://a/b", "TRIMTAB_KAFKA": "a:1"}, "write s3://BUCKET/PREFIX"),
        ({"TRIMTAB_AUDIT_DAYS": "0"}, "TRIMTAB_AUDIT_DAYS"),
        ({"TRIMTAB_ARCHIVE": "s3://b/a/", "TRIMTAB_CHECKPOINTS": "s3://b//a/trimtab.checkpoints/", "TRIMTAB_KAFKA": "a:1"}, "name another place for its own"),
        ({"TRIMTAB_ARCHIVE": "var/a", "TRIMTAB_CHECKPOINTS": "./var/b/../a/other.checkpoints", "TRIMTAB_KAFKA": "a:1"}, "name another place for its own"),
        ({"TRIMTAB_ARCHIVE": "var/a", "TRIMTAB_KAFKA_RETENTION_DAYS": "1.9", "TRIMTAB_KAFKA": "a:1"}, "HOURS=24 old: keep records for 2 days at least"),
    ],
)
def test_settings_of_the_archive_that_do_not_go_together_are_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        from_environment(changed)


@pytest.mark.parametrize(
    "given",
    [
        {"TRIMTAB_ARCHIVE": "s3://b", "TRIMTAB_CHECKPOINTS": "s3://b/checkpoints", "TRIMTAB_KAFKA": "a:1"},
        {"TRIMTAB_ARCHIVE": "var", "TRIMTAB_KAFKA": "a:1", "TRIMTAB_KAFKA_RETENTION_DAYS": "2"},
        {"TRIMTAB_ARCHIVE": "s3://b", "TRIMTAB_CHECKPOINTS": "s3://c/trimtab.checkpoints", "TRIMTAB_KAFKA": "a:1"},
    ],
)
def test_the_engines_own_checkpoints_and_those_of_each_day_lie_apart(given: dict[str, str]) -> None:
    wanted = from_environment(given)
    own, daily = checkpoints_of(wanted), daily_of(wanted)
    places = [c.place if isinstance(c, Bucket) else str(c.folder) for c in (own, daily)]
    assert places[0] != places[1] and places[1] == f"{given['TRIMTAB_ARCHIVE']}/trimtab.checkpoints"


def test_a_log_that_is_begun_anew_under_another_prefix_does_not_take_the_checkpoints_of_the_old_one(tmp_path: Path) -> None:
    old = from_environment({"TRIMTAB_ARCHIVE": str(tmp_path), "TRIMTAB_KAFKA": "a:1"})
    own = Checkpoints(tmp_path / "own")
    own.write(header(7), *state.dump(Partition(GUARDS)))
    assert Daily(own, daily_of(old)).keep(0)
    anew = from_environment({"TRIMTAB_ARCHIVE": str(tmp_path), "TRIMTAB_KAFKA": "a:1", "TRIMTAB_KAFKA_PREFIX": "again"})
    assert [k.offset for k in daily_of(old).every(0)] == [7]
    assert list(Backed(Checkpoints(tmp_path / "empty"), daily_of(anew)).valid(0)) == []
