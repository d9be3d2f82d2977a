"""The log on Kafka: topics as they have to be, headers that others can read, and what becomes of records when brokers go away."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import CorruptRecordException
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import ConsumerRecord, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy.kafka.broker import Brokers, free_ports
from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, Sparing, Topic
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.kafka import KafkaLog, KafkaMetrics
from services.adapters.log.reader import LOOK, Reader
from services.adapters.log.topics import LARGEST, administering, at_odds, configuration, settings_of
from services.kernel.errors import Misconfigured, RejectedInput, TrimtabError, Unavailable, Unreadable
from services.kernel.record import Ready, Record, Tick
from services.rules_engine.language.pack import guards
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import fresh, on_kafka, restarted, until


def versions(page: Any) -> list[str]:
    return [s.record.version for s in page]


# -- topics ---------------------------------------------------------------------------------------------------------------


async def test_a_topic_is_created_as_it_has_to_be_and_found_so_the_next_time(kafka: Brokers) -> None:
    topic = fresh(EVENTS, partitions=3)
    for create in (True, False):
        await (await on_kafka(kafka, EVENTS, topic, create=create)).close()
    async with administering(Cluster(kafka.bootstrap)) as admin:
        found = await configuration(admin, topic.name)
        assert {name: found[name] for name in settings_of(topic)} == settings_of(topic)
        [told] = await admin.describe_topics([topic.name])
    assert len(told["partitions"]) == 3


async def test_two_that_start_at_one_time_both_find_the_topic(kafka: Brokers) -> None:
    topic = fresh(EVENTS)
    for log in await asyncio.gather(*(on_kafka(kafka, EVENTS, topic) for _ in range(4))):
        await log.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"cleanup.policy": "compact"},
        {"message.timestamp.type": "CreateTime"},
        {"retention.ms": "86400000"},
        {"retention.bytes": "1000000"},
        {"max.message.bytes": "1000"},
        {"unclean.leader.election.enable": "true"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_topic_that_would_lose_records_or_let_senders_stamp_them_is_refused_with_its_remedy(kafka: Brokers, wrong: dict[str, str]) -> None:
    topic = fresh(EVENTS)
    async with administering(Cluster(kafka.bootstrap)) as admin:
        await admin.create_topics([NewTopic(topic.name, 1, 1, topic_configs=settings_of(topic) | wrong)])
    [(name, value)] = wrong.items()
    needed = settings_of(topic)[name]
    with pytest.raises(Misconfigured, match=f"{name}={value} where {needed} is needed: .*--add-config {name}={needed}") as said:
        await on_kafka(kafka, EVENTS, topic)
    assert "\n" not in str(said.value)


async def test_another_number_of_partitions_is_refused_and_so_are_fewer_replicas(kafka: Brokers) -> None:
    topic = fresh(EVENTS, partitions=2)
    await (await on_kafka(kafka, EVENTS, topic)).close()
    with pytest.raises(Misconfigured, match="has 2 partitions, not 3: set TRIMTAB_KAFKA_PARTITIONS=2"):
        await on_kafka(kafka, EVENTS, Topic(topic.name, 3, 1))
    with pytest.raises(Misconfigured, match="has 1 replica, not 3: .*TRIMTAB_KAFKA_REPLICAS=1"):
        await on_kafka(kafka, EVENTS, Topic(topic.name, 2, 3))
    with pytest.raises(Misconfigured, match="cannot have 3 replicas .*TRIMTAB_KAFKA_REPLICAS"):
        await on_kafka(kafka, EVENTS, fresh(EVENTS, replicas=3))
    with pytest.raises(Misconfigured, match="`trimtab log topics --create`"):
        await on_kafka(kafka, EVENTS, fresh(EVENTS), create=False)


def test_more_than_is_needed_is_no_fault() -> None:
    topic = Topic("t", retention_ms=1000)
    assert at_odds(topic, settings_of(topic) | {"retention.ms": "-1", "min.insync.replicas": "3", "max.message.bytes": str(LARGEST * 2)}) == {}
    assert at_odds(topic, settings_of(topic) | {"retention.ms": "999"}) == {"retention.ms": ("999", "1000")}
    assert at_odds(Topic("t"), settings_of(topic)) == {"retention.ms": ("1000", "-1")}


async def test_brokers_that_do_not_answer_are_named() -> None:
    [port] = free_ports(1)
    log = KafkaLog(Cluster(f"127.0.0.1:{port}"), EVENTS, SystemClock(), Topic("t"))
    with pytest.raises(Unavailable, match=f"no Kafka answers at 127.0.0.1:{port} .*TRIMTAB_KAFKA"):
        await log.start()
    with pytest.raises(Unavailable):
        await log.append([("a", Tick())])
    await log.close()


# -- records --------------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.integers(1, 50))
def test_a_workspace_is_where_every_other_client_of_kafka_puts_it(key: str, partitions: int) -> None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return
    assert partition_of(key, partitions) == DefaultPartitioner()(encoded, list(range(partitions)), [])


async def test_records_are_stamped_by_the_broker_in_whole_milliseconds(kafka: Brokers) -> None:
    log = await on_kafka(kafka, EVENTS)
    before = time.time_ns() // 1_000_000 * 1000
    await log.append([("a", Ready("a", "1"))])
    after = time.time_ns() // 1000
    [kept] = await log.read(0, 0)
    assert kept.stamp % 1000 == 0 and before <= kept.stamp <= after
    await log.close()


async def test_headers_are_cloud_events_and_ids_are_not_given_twice(kafka: Brokers) -> None:
    log = await on_kafka(kafka, EVENTS)
    await log.append([("acme", Ready("acme", "1")), ("acme", Ready("acme", "1")), ("", Tick())])
    kept = await log.kept(0, 0)
    first, _, tick = (dict(k.headers) for k in kept)
    assert {n: first[n] for n in first if n not in ("ce_id", "ce_time")} == {
        "ce_specversion": "1.0", "ce_type": "trimtab.v1.Ready", "ce_source": "/trimtab", "ce_workspace": "acme", "content-type": "application/protobuf",
    }  # fmt: skip
    assert first["ce_time"].endswith("Z")
    assert (kept[0].key, kept[2].key) == ("acme", "") and "ce_workspace" not in tick
    assert len({dict(k.headers)["ce_id"] for k in kept}) == 3
    assert kept[0].value == EVENTS.encode(Ready("acme", "1"))
    await log.close()


async def test_what_is_larger_than_the_log_takes_is_refused_before_anything_is_sent(kafka: Brokers) -> None:
    log = await on_kafka(kafka, EVENTS)
    with pytest.raises(RejectedInput, match="larger than the log takes") as refused:
        await log.append([("a", Ready("a", "1")), ("a", Ready("a", "x" * LARGEST))])
    assert (refused.value.reason, refused.value.status) == ("record_too_large", 413)
    assert await log.read(0, 0) == []
    await log.close()


async def test_large_records_and_many_are_cut_into_batches_and_come_back_whole(kafka: Brokers) -> None:
    log = await on_kafka(kafka, EVENTS)
    large = [Ready("a", letter * (LARGEST // 3)) for letter in "ab"]
    many = [Ready("a", f"{i:05}" * 200) for i in range(3000)]
    places = await log.append([("a", r) for r in [*large, *many]])
    assert [offset for _, offset in places] == list(range(3002))
    assert [s.record for s in await log.read(0, 0, 5000)] == [*large, *many]
    await log.close()


async def test_records_that_others_stamped_are_not_read(kafka: Brokers) -> None:
    topic = fresh(EVENTS)
    async with administering(Cluster(kafka.bootstrap)) as admin:
        await admin.create_topics([NewTopic(topic.name, 1, 1, topic_configs=settings_of(topic) | {"message.timestamp.type": "CreateTime"})])
    log = KafkaLog(Cluster(kafka.bootstrap), EVENTS, SystemClock(), topic)
    await log.append([("a", Tick())])
    with pytest.raises(Misconfigured, match="stamped by its sender"):
        await log.read(0, 0)
    await log.close()


async def test_followers_that_wait_for_kafka_say_so_once_and_not_at_each_attempt() -> None:
    log: KafkaLog[Record] = KafkaLog(Cluster(f"127.0.0.1:{free_ports(1)[0]}"), EVENTS, SystemClock(), Topic("t", 3, 1))

    async def follow(number: int) -> None:
        pages = 0
        async for _ in log.follow(number, 0):
            pages += 1
            if pages == 2:
                return

    with capture_logs() as said:
        async with asyncio.timeout(60):
            await asyncio.gather(*(follow(n) for n in range(3)))
    assert [(s["topic"], s["log_level"]) for s in said if s["event"] == "follower waits"] == [("t", "warning")]
    await log.close()


# -- a log that lost its beginning ----------------------------------------------------------------------------------------


async def delete(kafka: Brokers, log: KafkaLog[Any], before: int) -> None:
    async with administering(Cluster(kafka.bootstrap)) as admin:
        await admin.delete_records({TopicPartition(log.topic.name, 0): RecordsToDelete(before)})


async def test_a_truncated_topic_is_read_from_where_it_begins_and_never_followed_over_the_gap(kafka: Brokers) -> None:
    log = await on_kafka(kafka, EVENTS)
    await log.append([("a", Ready("a", str(i))) for i in range(5)])
    await delete(kafka, log, 3)
    assert [s.offset for s in await log.read(0, 0)] == [3, 4]
    assert await log.ends(0) == (3, 5)
    with pytest.raises(Unreadable, match="records 1 to 2 .* were deleted before they were read") as lost:
        async for _ in log.follow(0, 1):
            pass
    assert lost.value.beyond == 3
    await delete(kafka, log, 5)
    with pytest.raises(Unreadable, match="records 0 to 4 .* are deleted") as lost:
        await log.read(0, 0)
    assert lost.value.beyond == 5 and await log.read(0, 5) == []
    await log.close()


@pytest.mark.parametrize("before", [3, 5], ids=["part of it", "all of it"])
async def test_the_engine_does_not_start_on_a_truncated_topic_without_a_checkpoint(kafka: Brokers, before: int) -> None:
    events: KafkaLog[Record] = await on_kafka(kafka, EVENTS)
    decisions = await on_kafka(kafka, DECISIONS)
    await events.append([("a", Tick()) for _ in range(5)])
    await delete(kafka, events, before)
    worker = Worker(events, decisions, SystemClock(), guards(), Metrics(CollectorRegistry()))
    with pytest.raises(Misconfigured, match=f"record {before}.* no valid checkpoint covers what came before it"):
        await worker.start()
    await worker.stop()
    await events.close()
    await decisions.close()


# -- brokers that go away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
async def test_a_broker_killed_during_appends_loses_nothing_that_was_acknowledged(fragile: Brokers, kills: int) -> None:
    await kill_in_turn(fragile, kills, refusals=True)


@pytest.mark.slow
async def test_of_three_brokers_each_may_be_killed(three: Brokers) -> None:
    await kill_in_turn(three, 6, refusals=False)


@pytest.mark.slow
async def test_a_log_starts_while_one_of_three_brokers_is_away(three: Brokers) -> None:
    await asyncio.to_thread(three.kill, 2)
    for log in await asyncio.gather(*(on_kafka(three, EVENTS, fresh(EVENTS, replicas=2)) for _ in range(12))):
        await log.append([("a", Tick())])
        await log.close()
    await restarted(three, 2)


async def kill_in_turn(brokers: Brokers, kills: int, refusals: bool) -> None:
    """Appends go on while brokers are killed; with `refusals` each comes back only once an append was refused."""
    replicas = min(3, brokers.number)
    registry = CollectorRegistry()
    topic = fresh(EVENTS, partitions=2, replicas=replicas)
    log: KafkaLog[Record] = await on_kafka(brokers, EVENTS, topic, metrics=KafkaMetrics(registry), patience=1.0)
    followed: dict[tuple[int, int], str] = {}

    async def follow(number: int) -> None:
        async for page in log.follow(number, 0):
            followed.update({(number, s.offset): s.record.version for s in page if isinstance(s.record, Ready)})

    followers = [asyncio.create_task(follow(n)) for n in range(2)]
    acknowledged: dict[tuple[int, int], str] = {}
    wanted = 60
    enough, refused, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def send(worker: int) -> None:
        n = 0
        while not over.is_set():
            name = f"{worker}-{n}"
            await asyncio.sleep(0.01)
            try:
                [place] = await log.append([("", Ready("a", name))], worker % 2)
            except Unavailable:
                refused.set()
                continue  # the same record again
            acknowledged[place] = name
            n += 1
            if len(acknowledged) >= wanted:
                enough.set()

    senders = [asyncio.create_task(send(i)) for i in range(8)]
    async with asyncio.timeout(100):
        for kill in range(kills):
            await enough.wait()
            number = 1 + kill % brokers.number
            refused.clear()
            await asyncio.to_thread(brokers.kill, number)
            if refusals:
                await refused.wait()
            await restarted(brokers, number)
            wanted = len(acknowledged) + 60
            enough.clear()
        await enough.wait()
        over.set()
        await asyncio.gather(*senders)
    there = {(p, s.offset): s.record.version for p in range(2) for s in await log.read(p, 0, 100_000) if isinstance(s.record, Ready)}
    assert {place: there.get(place) for place in acknowledged} == acknowledged
    if refusals:
        assert registry.get_sample_value("trimtab_kafka_producers_total", {"topic": log.topic.name, "why": "unacknowledged"})
    await until(lambda: followed.keys() >= there.keys())
    await log.close()
    await asyncio.gather(*followers)
    assert followed == there


async def test_an_append_that_was_not_answered_may_be_repeated_and_nothing_is_sent_behind_its_back(fragile: Brokers) -> None:
    log: KafkaLog[Record] = await on_kafka(fragile, EVENTS, patience=1.0)
    await log.append([("a", Ready("a", "0"))])
    fragile.every[0].signal(signal.SIGSTOP)
    with pytest.raises(Unavailable, match="has not acknowledged") as unanswered:
        await log.append([("a", Ready("a", "1"))])
    assert unanswered.value.reason == "log_unacknowledged"
    fragile.every[0].signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        while True:
            try:
                [(_, offset)] = await log.append([("a", Ready("a", "1"))])
                break
            except Unavailable:
                continue
    [(_, after)] = await log.append([("a", Ready("a", "2"))])
    kept = versions(await log.read(0, 0))
    assert kept[offset] == "1" and kept[after] == "2" and kept[0] == "0"
    assert set(kept) == {"0", "1", "2"} and kept[-1] == "2"
    await log.close()


async def test_what_failed_while_the_broker_was_dead_is_not_sent_once_it_is_back(fragile: Brokers) -> None:
    log: KafkaLog[Record] = await on_kafka(fragile, EVENTS, patience=1.0)
    await log.append([("a", Ready("a", "before"))])
    await asyncio.to_thread(fragile.kill)
    with pytest.raises(Unavailable):
        await log.append([("a", Ready("a", "failed"))])
    await restarted(fragile)
    async with asyncio.timeout(60):
        while True:
            try:
                await log.append([("a", Ready("a", "after"))])
                break
            except Unavailable:
                continue
    assert versions(await log.read(0, 0)) == ["before", "after"]
    await log.close()


async def test_a_producer_whose_sequence_the_broker_does_not_know_is_replaced_and_nobody_notices(kafka: Brokers) -> None:
    registry = CollectorRegistry()
    log: KafkaLog[Record] = await on_kafka(kafka, EVENTS, metrics=KafkaMetrics(registry))
    await log.append([("a", Ready("a", "0"))])
    assert log._producer is not None
    log._producer.kafka._txn_manager.increment_sequence_number(TopicPartition(log.topic.name, 0), 7)  # as if the broker had lost seven records
    assert await log.append([("a", Ready("a", "1"))]) == [(0, 1)]
    assert versions(await log.read(0, 0)) == ["0", "1"]
    assert registry.get_sample_value("trimtab_kafka_producers_total", {"topic": log.topic.name, "why": "wedged"}) == 1
    await log.close()


async def test_a_follower_waits_while_the_broker_is_away_and_misses_nothing(fragile: Brokers) -> None:
    log: KafkaLog[Record] = await on_kafka(fragile, EVENTS, patience=1.0)
    seen: list[int] = []

    async def follow() -> None:
        async for page in log.follow(0, 0):
            seen.extend(s.offset for s in page)

    following = asyncio.create_task(follow())
    await log.append([("a", Tick())])
    await asyncio.to_thread(fragile.kill)
    await restarted(fragile)
    async with asyncio.timeout(60):
        while len(seen) < 2:
            try:
                await log.append([("a", Tick())])
            except Unavailable:
                continue
            await asyncio.sleep(0.1)
    assert seen == list(range(len(seen)))
    await log.close()
    await asyncio.wait_for(following, 10)


async def test_who_waits_behind_an_append_that_fails_does_not_wait_for_a_failure_of_his_own(fragile: Brokers) -> None:
    registry = CollectorRegistry()
    log: KafkaLog[Record] = await on_kafka(fragile, EVENTS, patience=1.0, metrics=KafkaMetrics(registry))
    await log.append([("a", Tick())])
    large = Ready("a", "x" * 900_000)  # so that none goes along with another
    fragile.every[0].signal(signal.SIGSTOP)
    try:
        failed = await asyncio.gather(*(log.append([("a", large)]) for _ in range(6)), return_exceptions=True)
    finally:
        fragile.every[0].signal(signal.SIGCONT)
    assert [type(f) for f in failed] == [Unavailable] * 6 and log._bytes_waiting == 0
    assert registry.get_sample_value("trimtab_kafka_append_failures_total", {"topic": log.topic.name, "reason": "log_unacknowledged"}) == 1
    await log.close()


async def test_partitions_that_are_read_side_by_side_keep_their_readers(kafka: Brokers) -> None:
    log: KafkaLog[Record] = await on_kafka(kafka, EVENTS, partitions=6)
    for number in range(6):
        await log.append([("", Ready("a", f"{number}-{i}")) for i in range(30)], number)
    for at in (0, 10, 20):
        pages = await asyncio.gather(*(log.read(number, at, 10) for number in range(6)))
        assert [versions(page) for page in pages] == [[f"{number}-{i}" for i in range(at, at + 10)] for number in range(6)]
    readers = {r.partition: r for r in log._readers.idle}
    assert sorted(readers) == [*range(6)] and len(log._readers.idle) == 6
    await log.read(3, 5, 1)
    assert {r.partition: r for r in log._readers.idle} == readers
    await log.close()


async def test_who_reads_a_partition_and_then_follows_it_does_so_with_one_consumer(kafka: Brokers) -> None:
    log: KafkaLog[Record] = await on_kafka(kafka, EVENTS, partitions=2)
    for number in (0, 1):
        await log.append([("", Ready("a", f"{number}-{i}")) for i in range(5)], number)
        await log.read(number, 3)
    mine = {r.partition: r for r in log._readers.idle}
    pages = log.follow(1, 2)
    assert versions(await anext(pages)) == ["1-2", "1-3", "1-4"]
    assert (log._followers, [r.partition for r in log._readers.idle]) == ({mine[1]}, [0])
    assert versions(await log.read(1, 4)) == ["1-4"]  # of another one: a follower is nobody else's
    assert len(log._readers.idle) == 2 and mine[1] not in log._readers.idle
    await log.append([("", Ready("a", "1-5"))], 1)
    assert versions(await anext(pages)) == ["1-5"]
    await pages.aclose()
    await log.close()


async def test_a_follower_hears_what_comes_after_answers_in_which_nothing_was(kafka: Brokers) -> None:
    """By the consumer that it has: none is replaced, which would take `SILENCE`."""
    log: KafkaLog[Record] = await on_kafka(kafka, EVENTS)
    pages = log.follow(0, 0)
    coming = asyncio.ensure_future(anext(pages))
    await asyncio.sleep(2.5 * LOOK / 1000)
    [reader] = log._followers
    for version in ("1", "2"):
        await log.append([("", Ready("a", version))])
        assert versions(await asyncio.wait_for(coming, 10)) == [version]
        coming = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(2.5 * LOOK / 1000)
    assert log._followers == {reader}
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    await log.close()


class Damaged:
    """A consumer whose third hundred of records cannot be read."""

    def __init__(self) -> None:
        self.next = 0

    async def getmany(self, at: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]:
        if self.next == 200:
            raise CorruptRecordException
        numbers = range(self.next, self.next + max_records)
        self.next += max_records
        return {at: [ConsumerRecord(at.topic, at.partition, i, 1, 1, None, b"value", None, -1, 5, ()) for i in numbers]}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 1000)

    def seek(self, at: TopicPartition, offset: int) -> None: ...

    def resume(self, at: TopicPartition) -> None: ...


async def test_what_was_read_before_a_damaged_record_is_not_lost_with_it() -> None:
    reader = Reader(Cluster("127.0.0.1:1"), "events")
    reader.partition, reader.kafka = 0, Damaged()
    pages = reader.pages(0)
    assert [offset for offset, _, _, _ in await anext(pages)] == [*range(200)]
    with pytest.raises(CorruptRecordException):
        await anext(pages)


class Cancelling:
    """A consumer that ends as aiokafka's do where work of theirs still waits for a broker: as if whoever ends them had been cancelled."""

    def __init__(self) -> None:
        self._client = self

    async def stop(self) -> None:
        raise asyncio.CancelledError

    async def close(self) -> None: ...


async def test_a_consumer_that_raises_at_its_end_cancels_nobody_who_waits_for_it() -> None:
    reader = Reader(Cluster("127.0.0.1:1"), "events")
    reader.kafka = Cancelling()
    assert await asyncio.gather(reader.close(), return_exceptions=True) == [None]


async def test_a_log_closes_while_the_broker_stands_still_and_leaves_no_task_behind(fragile: Brokers) -> None:
    before = asyncio.all_tasks()
    log: KafkaLog[Record] = await on_kafka(fragile, EVENTS, patience=1.5)
    await log.append([("a", Tick())])
    await log.read(0, 0)
    fragile.every[0].signal(signal.SIGSTOP)
    try:
        failed = await asyncio.gather(*(log.append([("a", Tick())]) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(f, TrimtabError) for f in failed)
        await asyncio.wait_for(log.close(), 30)
    finally:
        fragile.every[0].signal(signal.SIGCONT)
    left = asyncio.all_tasks() - before
    assert not left or not (await asyncio.wait(left, timeout=30))[1]


# -- what is told ---------------------------------------------------------------------------------------------------------


def test_lines_that_a_library_repeats_are_told_now_and_then_with_how_many_there_were(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    quiet = Sparing(30, lambda: now[0])
    library = logging.getLogger("aiokafka-like")
    library.addHandler(quiet)
    library.propagate = False
    with caplog.at_level(logging.WARNING):
        for i in range(100):
            library.warning("node %s is away", i)
        library.warning("another %s", "thing")
        now[0] = 31
        library.warning("node %s is away", "x")
        library.warning("node %s is away", "y")
    library.removeHandler(quiet)
    assert caplog.messages == ["node 0 is away", "another thing", "node x is away (99 more like it before)"]
