"""`trimtab doctor` in production: of every partition, what a start would go on from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock, SystemClock, instant
from services.adapters.log.archiver import Archiver, Seal
from services.adapters.log.cluster import Cluster
from services.adapters.log.codec import EVENTS
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.shelf import shelf_of
from services.adapters.log.topics import administering
from services.adapters.settings import from_environment
from services.doctor import FAIL, OK, WARN, Line, examine
from services.doctor.checkpoints import FAR_BEHIND, Found, judged
from services.doctor.production import clocks, runs
from services.kernel.record import Ready, Record, Stamped, Tick
from services.rules_engine.bucket import checkpoints_of, daily_of
from services.rules_engine.checkpoint import Checkpoints, Header, mark
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition
from tests.brokers import fresh, on_kafka
from tests.core.world import GUARDS, SECOND, START
from tests.shell.test_bucket import Store, environment, store  # noqa: F401  fixtures

PARTITIONS = 3


@dataclass
class Cloud:
    """The topic of events, and where the engine keeps its checkpoints."""

    kafka: Brokers
    log: KafkaLog[Record]
    environment: dict[str, str]

    async def put(self, partition: int, many: int) -> None:
        await self.log.append([("acme", Ready("acme", str(i))) for i in range(many)], partition)

    async def keep(self, of: int, offset: int, there: Checkpoints | None = None, **wrong: object) -> str:
        """A checkpoint that has folded the records before `offset`. Returns its name."""
        last = mark((await self.log.read(of, offset - 1, 1))[0])
        header = replace(Header(of, offset, 0, START, "", last, START), **wrong)  # type: ignore[arg-type]
        there = there or checkpoints_of(from_environment(self.environment))
        return (await asyncio.to_thread(there.write, header, *state.dump(Partition(GUARDS)))).name

    async def delete(self, partition: int, before: int) -> None:
        async with administering(Cluster(self.kafka.bootstrap)) as admin:
            await admin.delete_records({TopicPartition(self.log.topic.name, partition): RecordsToDelete(before)})

    async def said(self) -> list[Line]:
        """Of checkpoints, without the name of the topic."""
        every = await asyncio.to_thread(lambda: list(examine(self.environment)))
        return [replace(line, text=line.text.removeprefix(f"{self.log.topic.name}-")) for line in every if line.name == "checkpoints"]

    async def found(self) -> list[tuple[str, str]]:
        return [(line.level, line.text) for line in await self.said()]


@pytest.fixture
async def cloud(kafka: Brokers, tmp_path: Path) -> AsyncIterator[Cloud]:
    log = await on_kafka(kafka, EVENTS, fresh(EVENTS, partitions=PARTITIONS))
    wanted = {
        "TRIMTAB_KAFKA": kafka.bootstrap, "TRIMTAB_KAFKA_PREFIX": log.topic.name.removesuffix(".events"), "TRIMTAB_KAFKA_PARTITIONS": str(PARTITIONS),
        "TRIMTAB_KAFKA_REPLICAS": "1", "TRIMTAB_DATA": str(tmp_path / "data"), "TRIMTAB_CHECKPOINTS": str(tmp_path / "kept"),
    }  # fmt: skip
    yield Cloud(kafka, log, wanted)
    await log.close()


async def test_partitions_without_records_and_checkpoints_share_a_line(cloud: Cloud) -> None:
    where = cloud.environment["TRIMTAB_CHECKPOINTS"]
    assert await cloud.found() == [(OK, f"0-2: none in {where}, and nothing on the log")]
    await cloud.put(1, 4)
    assert await cloud.found() == [(OK, f"0,2: none in {where}, and nothing on the log"), (OK, f"1: none in {where}: a start folds all 4 records")]


async def test_a_good_checkpoint_is_told_with_its_age_and_what_a_start_folds(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    await cloud.keep(0, 3)
    await cloud.keep(0, 7)
    assert (await cloud.found())[0] == (OK, f"0: the newest that is valid is of {instant(START)}, 2 records behind the log")


async def test_a_checkpoint_of_another_log_is_a_failure(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    name = await cloud.keep(0, 7, last="that of another record")
    [line] = [x for x in await cloud.said() if x.level != OK]
    assert (line.level, line.text) == (FAIL, f"0: {name} was not taken of this log: its record 6 is another")
    assert "a start is refused" in line.mend


async def test_a_checkpoint_beyond_the_topics_end_is_a_failure(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    await cloud.put(1, 12)
    name = await cloud.keep(1, 12, partition=0)
    [line] = [x for x in await cloud.said() if x.level != OK]
    assert (line.level, line.text) == (FAIL, f"0: {name} has folded more than the 9 records of the log, which has lost records or is another")
    assert "a start is refused" in line.mend


async def test_a_checkpoint_that_has_folded_all_there_is_is_not_beyond_the_end(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    await cloud.keep(0, 9)
    assert (await cloud.found())[0] == (OK, f"0: the newest that is valid is of {instant(START)}, 0 records behind the log")


async def test_no_checkpoint_is_a_failure_where_the_topic_has_lost_its_beginning(cloud: Cloud) -> None:
    await cloud.put(2, 9)
    await cloud.delete(2, 5)
    [line] = [x for x in await cloud.said() if x.level != OK]
    assert (line.level, line.text) == (FAIL, f"2: none in {cloud.environment['TRIMTAB_CHECKPOINTS']} covers the records before 5, and they are gone")
    assert "a start is refused" in line.mend


async def test_a_checkpoint_at_the_end_of_a_topic_that_has_lost_every_record_is_as_good_as_any(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    await cloud.keep(0, 9)
    await cloud.delete(0, 9)
    [(level, text)] = [(level, text) for level, text in await cloud.found() if text.startswith("0: ")]
    assert level == OK and text.endswith("0 records behind the log, which holds none any more")


async def test_how_far_back_a_topic_without_its_beginning_can_be_replayed_is_said(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    await cloud.put(1, 9)
    for offset in (3, 6, 8):
        name = await cloud.keep(0, offset, engine_time=START + offset)
        if offset == 6:
            oldest = name
    await cloud.delete(0, 5)
    await cloud.delete(1, 4)
    every = await asyncio.to_thread(lambda: list(examine(cloud.environment)))
    assert [(x.level, x.text.removeprefix(f"{cloud.log.topic.name}-")) for x in every if x.name == "log"] == [
        (
            WARN, f"0 begins at record 5, and what was decided after {instant(START + 6)} can be replayed and explained, from record 6 on, by {oldest}; "
            "nothing before"
        ),
        (WARN, "1 begins at record 4, and no valid checkpoint is of record 4 or a later one: nothing can be replayed or explained"),
    ]  # fmt: skip


async def test_what_a_start_passes_over_is_a_warning_and_the_next_is_told(cloud: Cloud) -> None:
    await cloud.put(0, 9)
    good = await cloud.keep(0, 5)
    other, damaged = await cloud.keep(0, 7, state=state.STATE + 1), await cloud.keep(0, 8)
    path = Path(cloud.environment["TRIMTAB_CHECKPOINTS"]) / damaged
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert (await cloud.found())[:3] == [
        (WARN, f"0: {damaged}: its hash does not agree: it is damaged"),
        (WARN, f"0: {other} is of form {state.STATE + 1}, this build's is {state.STATE}"),
        (OK, f"0: the newest that is valid is of {instant(START)}, 4 records behind the log"),
    ]
    await cloud.delete(0, 6)
    assert [text for level, text in await cloud.found() if level != OK][2:] == [
        f"0: {good}: the log begins after it", f"0: none in {path.parent} covers the records before 6, and they are gone"
    ]  # fmt: skip


async def test_the_archive_is_part_of_the_log_and_its_checkpoints_are_those_of_last_resort(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    cloud.environment["TRIMTAB_ARCHIVE"] = str(tmp_path / "archive")
    wanted = from_environment(cloud.environment)
    await cloud.put(0, 20)
    shelf = shelf_of(wanted, cloud.log.topic.name)
    await Archiver(cloud.log, shelf, Seal(age=3600 * SECOND, size=1 << 20, records=10), ManualClock(SystemClock().now())).once(0)
    await cloud.keep(0, 15, daily_of(wanted))
    await cloud.keep(0, 5)
    await cloud.delete(0, 10)
    assert (await cloud.found())[0] == (OK, f"0: the newest that is valid is of {instant(START)}, 15 records behind the log")
    for path in (tmp_path / "archive").rglob("00000000000000000000.segment"):
        path.unlink()
    passed, found, *_ = await cloud.found()
    assert passed[0] == WARN and passed[1].endswith("the log begins after it")
    assert found == (OK, f"0: the newest that is valid is of {instant(START)}, 5 records behind the log")
    shelf.close()


async def test_checkpoints_in_a_bucket_are_read_there_and_a_bucket_that_is_away_is_a_failure(
    cloud: Cloud, environment: dict[str, str], store: Store  # noqa: F811
) -> None:
    cloud.environment |= environment
    await cloud.put(0, 9)
    await cloud.keep(0, 7)
    assert await cloud.found() == [
        (OK, f"0: the newest that is valid is of {instant(START)}, 2 records behind the log"),
        (OK, f"1-2: none in {environment['TRIMTAB_CHECKPOINTS']}, and nothing on the log"),
    ]
    store.mood = "503"
    [line] = await cloud.said()
    assert line.level == FAIL and line.text.startswith("0-2: no checkpoint can be looked for in s3://") and "TRIMTAB_CHECKPOINTS" in line.mend


@dataclass
class Stamping:
    """A topic of which each look takes a second; `coming`: look -> (partition, by how many seconds its stamp is off)."""

    stamps: list[list[int]]
    coming: dict[int, tuple[int, float]]
    clock: ManualClock
    asked: int = 0

    @property
    def partitions(self) -> int:
        return len(self.stamps)

    async def ends(self, partition: int) -> tuple[int, int]:
        if partition == 0:
            self.clock.advance(SECOND)
            if (come := self.coming.get(self.asked)) is not None:
                self.stamps[come[0]].append(self.clock.now() + round(come[1] * SECOND))
            self.asked += 1
        return 0, len(self.stamps[partition])

    async def read(self, partition: int, offset: int, limit: int = 1000) -> list[Stamped[Record]]:
        return [Stamped(offset, self.stamps[partition][offset], Tick())]


async def told_of_clocks(older: Sequence[float | None], coming: dict[int, tuple[int, float]], looks: int = 3) -> list[tuple[str, str]]:
    """Of partitions whose newest record was stamped so many seconds before we look, None without one."""
    clock = ManualClock(START)
    there = Stamping([[] if s is None else [START - round(s * SECOND)] for s in older], coming, clock)
    return [(line.level, line.text) for line in await clocks(there, clock, looks, pause=0)]


async def test_of_the_brokers_clocks_no_more_is_said_than_was_compared() -> None:
    behind = "so that a broker's clock which is behind would not show"
    assert await told_of_clocks([7200, None], {}) == [(OK, f"partition 0: nothing came just now; the newest stamp is 2 h old, {behind}")]
    assert await told_of_clocks([None], {}) == [(OK, "no record yet, so that nothing tells of the brokers' clocks")]
    assert await told_of_clocks([7200, 60], {2: (1, -1)}) == [
        (OK, "partition 1: a record came just now, stamped within 5 s of this machine's clock"),
        (OK, f"partition 0: nothing came just now; the newest stamp is 2 h old, {behind}"),
    ]


async def test_a_brokers_clock_that_is_off_shows_in_what_comes_and_ahead_in_what_came() -> None:
    assert await told_of_clocks([7200, 60], {2: (1, -9)}) == [(WARN, "the brokers stamp at least 7 s behind this machine's clock")]
    assert await told_of_clocks([7200, 60], {2: (0, 9)}) == [(WARN, "the brokers stamp at least 9 s ahead of this machine's clock")]
    assert await told_of_clocks([-31, 60], {}, looks=0) == [(WARN, "the brokers stamp at least 30 s ahead of this machine's clock")]
    assert await told_of_clocks([-3601, 60], {}) == [(FAIL, "the brokers stamp at least 3600 s ahead of this machine's clock")]
    assert await told_of_clocks([7200, 60], {}, looks=0) == []


@pytest.mark.parametrize(("behind", "level"), [(FAR_BEHIND, OK), (FAR_BEHIND + 1, WARN)])
def test_a_start_that_would_fold_very_many_records_is_a_warning(behind: int, level: str) -> None:
    header = Header(0, 7, 0, START, "", "", START)
    for found in (Found("0-7.checkpoint", header), Found("", None)):
        begin = header.offset if found.header else 0
        [line] = judged(found, 0, begin + behind, None, "here")
        assert line.level == level and bool(line.mend) == (level == WARN)


@pytest.mark.parametrize(("numbers", "said"), [([], ""), ([4], "4"), ([0, 1, 2, 4, 6, 7], "0-2,4,6-7")])
def test_numbers_that_follow_one_another_are_said_by_their_ends(numbers: Sequence[int], said: str) -> None:
    assert runs(numbers) == said
