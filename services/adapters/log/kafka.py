"""The log on Apache Kafka: what append has returned for is on every replica in sync, stamped by the broker.

    append --> lane of the partition --(one batch on its way, the next gathers)--> idempotent producer, acks=all --> offsets
    read   --> one of a few readers
    follow --> a reader of its own, one of these where the partition was read before

A producer that did not answer in time, or whose sequence the broker has lost, is given up and a new one made: aiokafka's never recovers by itself. So a
record may stand twice, which whoever reads knows by its id. Stamps are the broker's milliseconds, told in microseconds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ConsumerStoppedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    RecordListTooLargeError,
    UnknownProducerId,
)
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.adapters.faultpoint import faultpoint
from services.adapters.log.batch import Batch
from services.adapters.log.cluster import ENDING, OFTEN, Cluster, Topic, spare_lines
from services.adapters.log.codec import About, Codec, Kept, partition_of
from services.adapters.log.reader import Reader, Readers, Taken, taken
from services.adapters.log.rights import READ, TOPIC, WRITE, Operation, why
from services.adapters.log.topics import LARGEST, ensure
from services.adapters.log.unpacked import Record
from services.kernel.errors import Bug, Misconfigured, RejectedInput, TrimtabError, Unavailable
from services.kernel.ports import Clock
from services.kernel.record import Stamped

T = TypeVar("T")
R = TypeVar("R")
log = structlog.get_logger("kafka_log")

BATCH = 1 << 20  # bytes that go as one, unless a single record is larger
MOST_WAITING = 64 << 20  # bytes; more are refused rather than kept in memory
OVERHEAD = 512  # bytes of a record besides its value: key and headers
PATIENCE = 3.0  # seconds in which an append is acknowledged, or reported as failed
AGAIN = 0.2  # seconds between attempts
SENDERS, BROKERS = 0, 1  # Kafka's timestamp types: who stamped a record
WEDGED = (OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced, ProducerClosed)

HEADERS = {
    "ce_specversion": "1.0: the headers are CloudEvents 1.0, its Kafka protocol binding in binary mode",
    "ce_id": "a decision's own id; of other records one that no other append gets",
    "ce_type": "the message: trimtab.v1. and the record's kind",
    "ce_source": "who appended it, a URI reference",
    "ce_time": "a decision's engine time; of other records when they were appended, by the appender's clock; the engine reads neither",
    "ce_workspace": "the workspace, which is also the key; records of no workspace (ticks, skips, a simulated clock) have neither",
    "content-type": "application/protobuf",
}
EACH_HEADERS = {
    "ce_specversion": HEADERS["ce_specversion"],
    "ce_id": "hash of the event's source and its id there: an event that stands twice has the same, and the first counts",
    "ce_type": "trimtab.v1.Event; its kind is among the data",
    "ce_source": "/trimtab/ and the workspace, / and the sending system",
    "ce_time": "when it occurred",
    "ce_subject": "the path of the entity that it is about",
    "ce_sequence": "its record's offset in the events topic, a dot, and which of that record's events it is: texts in the order of the log",
    "ce_workspace": "the workspace, which is also the key",
    "content-type": "application/json",
}


class KafkaMetrics:
    """Of all topics of a process."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        buckets = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4)
        self.took = Histogram("trimtab_kafka_append_seconds", "Time until a batch was acknowledged", ["topic"], buckets=buckets, registry=registry)
        self.failed = Counter("trimtab_kafka_append_failures_total", "Batches that were not acknowledged", ["topic", "reason"], registry=registry)
        self.producers = Counter("trimtab_kafka_producers_total", "Producers made, by why a new one was needed", ["topic", "why"], registry=registry)
        self.readers = Counter("trimtab_kafka_readers_replaced_total", "Consumers replaced because nothing came", ["topic"], registry=registry)


@dataclass(frozen=True, slots=True)
class _Row:
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class _Waiting:
    rows: list[_Row]
    size: int
    done: asyncio.Future[list[int]]


@dataclass(slots=True, eq=False)
class _Lent:
    """A producer and how many batches are on their way with it."""

    kafka: AIOKafkaProducer
    users: int = 0
    retired: bool = False


class KafkaLog(Generic[T]):
    """One topic. `start` checks it, and creates it where it may; offsets are dense from 0 in each partition."""

    def __init__(
        self,
        cluster: Cluster,
        codec: Codec[T],
        clock: Clock,
        topic: Topic,
        metrics: KafkaMetrics | None = None,
        *,
        create: bool = True,
        wanted: Sequence[Operation] = (),
        patience: float = PATIENCE,
        source: str = "/trimtab",
    ) -> None:
        """`clock` only dates headers: a record's stamp is the broker's, unless the topic's clock is simulated. `source` is the headers' `ce_source`.

        A start is refused where our user lacks a right that is `wanted`.
        """
        self.cluster, self.codec, self.clock, self.topic = cluster, codec, clock, topic
        self.create, self.wanted, self.patience, self.source = create, wanted, patience, source
        self.metrics = metrics or KafkaMetrics(None)
        self._token, self._number = os.urandom(8).hex(), 0  # of the headers' ids
        self._waiting: dict[int, list[_Waiting]] = {}
        self._turns: dict[int, asyncio.Task[None]] = {}
        self._bytes_waiting = 0
        self._producer: _Lent | None = None
        self._making = asyncio.Lock()
        self._why = "first"  # the next producer is made
        self._ending: set[asyncio.Task[None]] = set()
        self._said_at = float("-inf")  # when it was said last that followers wait, of time.monotonic()
        self._readers = Readers(cluster, topic)
        self._followers: set[Reader] = set()
        self._closed = False

    @property
    def partitions(self) -> int:
        return self.topic.partitions

    async def start(self) -> None:
        """The topic is as it has to be. Raises Misconfigured where it is not, Unavailable where no broker answers."""
        spare_lines()
        await ensure(self.cluster, self.topic, self.create, self.wanted)

    # -- appending ---------------------------------------------------------------------------------------------------

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        """Records of one partition are there in this order; where they fit into one batch, all of them or none."""
        if self._closed:
            raise Unavailable("the log is closed", reason="log_closed")
        parts: dict[int, list[_Row]] = {}
        numbers = []
        for key, record in records:
            numbers.append(partition_of(key, self.partitions) if partition is None else partition)
            parts.setdefault(numbers[-1], []).append(self._row(key, record))
        size = sum(size_of(rows) for rows in parts.values())
        if self._bytes_waiting and self._bytes_waiting + size > MOST_WAITING:
            raise Unavailable("more waits to be written than Kafka takes; send it again later", reason="overloaded", status=429)
        waiting = {number: self._wait(number, rows) for number, rows in parts.items()}
        done = await asyncio.shield(asyncio.gather(*waiting.values(), return_exceptions=True))
        offsets: dict[int, Iterator[int]] = {}
        for number, outcome in zip(waiting, done, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            offsets[number] = iter(outcome)
        return [(number, next(offsets[number])) for number in numbers]

    def _row(self, key: str, record: T) -> _Row:
        value = self.codec.encode(record)
        if len(value) + OVERHEAD > LARGEST:
            why = f"a record of {len(value)} bytes is larger than the log takes ({LARGEST}): send less at once"
            raise RejectedInput(why, reason="record_too_large", status=413)
        self._number += 1
        headers = headers_of(self.codec.about(record), key, f"{self._token}-{self._number}", self.clock.now(), self.source)
        return _Row(key.encode() or None, value, headers)

    def _wait(self, number: int, rows: list[_Row]) -> asyncio.Future[list[int]]:
        waiting = _Waiting(rows, size_of(rows), asyncio.get_running_loop().create_future())
        self._waiting.setdefault(number, []).append(waiting)
        self._bytes_waiting += waiting.size
        if number not in self._turns or self._turns[number].done():
            self._turns[number] = asyncio.create_task(self._write(number), name=f"log-{self.topic.name}-{number}")
        return waiting.done

    async def _write(self, number: int) -> None:
        """What waits for a partition is sent, in turns, until nothing waits."""
        while self._waiting[number]:
            group = self._next_group(number)
            outcome: list[int] | TrimtabError
            try:
                outcome = await self._send(number, [row for w in group for row in w.rows])
            except TrimtabError as error:
                outcome = error
            except Exception as error:  # whatever it was, everyone who waits must be told that nothing was acknowledged
                log.exception("append failed", topic=self.topic.name, partition=number)
                outcome = Bug(f"records could not be appended: {type(error).__name__}: {error}")
            finally:
                self._bytes_waiting -= sum(w.size for w in group)
            if isinstance(outcome, TrimtabError):
                self._fail(number, group, outcome)
                continue
            at = 0
            for w in group:
                w.done.set_result(outcome[at : at + len(w.rows)])
                at += len(w.rows)

    def _fail(self, number: int, group: list[_Waiting], error: TrimtabError) -> None:
        """Whoever waited behind these is told too: one after the other they would wait for ever longer."""
        behind, self._waiting[number] = self._waiting[number], []
        self._bytes_waiting -= sum(w.size for w in behind)
        for w in (*group, *behind):
            w.done.set_exception(error)

    def _next_group(self, number: int) -> list[_Waiting]:
        """As many as go into a batch, but one at least."""
        waiting, size, many = self._waiting[number], 0, 0
        while many < len(waiting) and (not many or size + waiting[many].size <= BATCH):
            size, many = size + waiting[many].size, many + 1
        group, self._waiting[number] = waiting[:many], waiting[many:]
        return group

    async def _send(self, number: int, rows: list[_Row]) -> list[int]:
        """The offsets of these records, which may be more than a batch."""
        offsets: list[int] = []
        while len(offsets) < len(rows):
            begun = time.perf_counter()
            try:
                first, many = await self._deliver(number, rows[len(offsets) :])
            except Unavailable as error:
                self.metrics.failed.labels(self.topic.name, error.reason).inc()
                raise
            self.metrics.took.labels(self.topic.name).observe(time.perf_counter() - begun)
            offsets += range(first, first + many)
        return offsets

    async def _deliver(self, number: int, rows: list[_Row]) -> tuple[int, int]:
        """(offset of the first, how many) of as many of them as one batch takes, acknowledged."""
        where = f"{self.topic.name}-{number}"
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    async with self._lend() as lent:
                        try:
                            return await self._hand_over(lent.kafka, number, rows)
                        except WEDGED as error:  # the broker has forgotten this producer, and takes nothing from it any more
                            self._retire(lent, "wedged")
                            log.warning("producer given up", topic=where, why=type(error).__name__)
                        except BaseException as error:  # whatever it is, what this producer still holds is not sent behind our back
                            self._retire(lent, "unacknowledged" if isinstance(error, asyncio.CancelledError) else "refused")
                            raise
                    await asyncio.sleep(AGAIN)
        except TimeoutError:
            raise Unavailable(f"Kafka has not acknowledged records of {where} within {self.patience:g} s", reason="log_unacknowledged", retry_after=2) from None
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            raise Unavailable(f"Kafka refuses {where} a batch as too large: its max.message.bytes must be {LARGEST}", reason="log_refused") from error
        except (KafkaError, OSError) as error:
            said = why(error, self.cluster, WRITE, TOPIC, self.topic.name)
            raise Unavailable(f"Kafka does not take records of {where}: {said}", reason="log_refused", retry_after=2) from error

    async def _hand_over(self, producer: AIOKafkaProducer, number: int, rows: list[_Row]) -> tuple[int, int]:
        batch, many = Batch(BATCH), 0
        stamp = self.clock.now() // 1000 if self.topic.simulated else None
        for row in rows:
            if batch.append(timestamp=stamp, key=row.key, value=row.value, headers=row.headers) is None:
                break
            many += 1
        batch.close()
        sent = await producer.send_batch(batch, self.topic.name, partition=number)
        faultpoint("kafka.sent")
        told = await sent
        faultpoint("kafka.acknowledged")
        if told.offset < 0:
            raise Unavailable(f"Kafka knows these records of {self.topic.name}-{number} already, and not where they are", reason="log_unacknowledged")
        return told.offset, many

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[_Lent]:
        async with self._making:
            if self._producer is None:
                self._producer = _Lent(await self._make())
                self.metrics.producers.labels(self.topic.name, self._why).inc()
            lent = self._producer
            lent.users += 1
        try:
            yield lent
        finally:
            lent.users -= 1
            self._end_when_unused(lent)

    async def _make(self) -> AIOKafkaProducer:
        bounds = {"request_timeout_ms": round(self.patience * 1000), "metadata_max_age_ms": 60_000}
        producer = AIOKafkaProducer(**self.cluster.options(), acks="all", enable_idempotence=True, **bounds)
        try:
            await producer.start()
        except BaseException:
            self._behind(_end(producer))
            raise
        return producer

    def _retire(self, lent: _Lent, why: str) -> None:
        """Takes no new batch; those of other partitions that are on their way may still arrive."""
        lent.retired = True
        if self._producer is lent:
            self._producer, self._why = None, why

    def _end_when_unused(self, lent: _Lent) -> None:
        if lent.retired and not lent.users:
            self._behind(_end(lent.kafka))

    def _behind(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        return self._stamped(partition, await self._page(partition, offset, limit, taken))

    async def kept(self, partition: int, offset: int, limit: int = 1000, size: int | None = None) -> list[Kept]:
        """As `read`, with keys, headers and bytes; of about `size` bytes at most, but one record always."""
        is_enough = None if size is None else lambda rows: sum(len(k.value) for k in rows) >= size
        return await self._page(partition, offset, limit, partial(kept_of, partition), is_enough)

    async def ends(self, partition: int) -> tuple[int, int]:
        """(the first record that is there, the next that will be)."""
        async with self._readers.one(partition, -1) as reader:
            return await reader.begins(), await reader.ends()

    async def _page(
        self, partition: int, offset: int, limit: int, keep: Callable[[Record], R], is_enough: Callable[[list[R]], bool] | None = None
    ) -> list[R]:
        if self._closed:  # an empty answer would say that nothing is there
            raise Unavailable("the log is closed", reason="log_closed")
        async with self._readers.one(partition, offset) as reader:
            return await reader.page(offset, limit, keep, is_enough)

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        """Waits as long as Kafka is away. Raises Unreadable where records were deleted before they were read, and Unavailable where the log lost its end.

        Yields an empty page whenever it knows that nothing is there, or that Kafka is away; none where records are there and do not come.
        """
        while not self._closed:
            given, is_away = self._readers.given(partition), False  # what is followed was read before, as a rule: its consumer goes on
            reader = given or Reader(self.cluster, self.topic.name)
            self._followers.add(reader)
            try:
                if given is None:
                    await reader.start()
                reader.turn_to(partition)
                await reader.known()
                async for rows in reader.pages(offset):
                    if self._closed:
                        return
                    if rows:
                        offset = rows[-1][0] + 1
                    yield self._stamped(partition, rows)
                if not self._closed:
                    self.metrics.readers.labels(self.topic.name).inc()
                    log.warning("reader replaced", topic=self.topic.name, partition=partition, offset=offset)
            except (KafkaError, OSError, ConsumerStoppedError) as error:
                if self._closed:
                    return
                is_away = True
                self._say_it_waits(partition, error)
                await asyncio.sleep(1)
            finally:
                self._followers.discard(reader)
                await reader.close()
            if is_away:
                yield ()

    def _say_it_waits(self, partition: int, error: Exception) -> None:
        """One line for the topic, now and then: every follower tries once a second while Kafka is away."""
        now = time.monotonic()
        if now - self._said_at >= OFTEN:
            self._said_at = now
            log.warning("follower waits", topic=self.topic.name, partition=partition, why=why(error, self.cluster, READ, TOPIC, self.topic.name))

    def _stamped(self, partition: int, rows: list[Taken]) -> list[Stamped[T]]:
        by = SENDERS if self.topic.simulated else BROKERS
        for offset, _, stamped_by, _ in rows:
            if stamped_by != by:
                who, other = ("its sender", "LogAppendTime") if by == BROKERS else ("a broker", "CreateTime")
                raise Misconfigured(
                    f"record {offset} of {self.topic.name}-{partition} is stamped by {who}: set message.timestamp.type={other}, and begin anew with another "
                    "TRIMTAB_KAFKA_PREFIX"
                )
        read = self.codec.decode_all([value or b"" for _, _, _, value in rows])
        return [Stamped(offset, timestamp * 1000, record) for (offset, timestamp, _, _), record in zip(rows, read, strict=True)]

    async def close(self) -> None:
        """Everything accepted is acknowledged or reported as failed first; followers end."""
        if self._closed:
            return
        self._closed = True
        for turn in list(self._turns.values()):
            await turn
        lent, self._producer = self._producer, None
        if lent is not None:
            self._behind(_end(lent.kafka))
        await self._readers.close()
        for reader in list(self._followers):
            await reader.close()
        while self._ending:
            await asyncio.wait(self._ending)


async def _end(producer: AIOKafkaProducer) -> None:
    """It sends nothing more: what was not acknowledged is given up. Its own `stop` would wait for a broker that does not answer."""
    held = producer._message_accumulator
    batches = [*held._pending_batches, *(batch for queue in held._batches.values() for batch in queue)]
    held._pending_batches.update(batches)  # one that was to be sent again is in neither set it is looked for in
    held.fail_all(ProducerClosed())
    for future in (f for batch in batches for f in (batch.future, batch._drain_waiter)):
        if future.done() and not future.cancelled():
            future.exception()  # else each is complained of as never retrieved
    if producer._sender.sender_task is not None:
        producer._sender.sender_task.remove_done_callback(producer._sender._fail_all)  # it would raise where nobody hears it: they are failed already
    with suppress(Exception):  # nobody waits for it any more, and what it holds is told as failed already
        async with asyncio.timeout(ENDING):
            await producer.stop()
    with suppress(Exception):
        await producer.client.close()


def size_of(rows: Sequence[_Row]) -> int:
    return sum(len(row.value) + OVERHEAD for row in rows)


def headers_of(about: About, key: str, number: str, now: int, source: str) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0, Kafka protocol binding, binary mode. The time is the record's own, or when it was appended by the appender's clock."""
    when = datetime.fromtimestamp((about.time or now) / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"specversion": "1.0", "id": about.id or number, "type": about.type, "source": about.source or source, "time": when, **dict(about.more)}
    if key:
        told["workspace"] = key
    return [*((f"ce_{name}", text.encode()) for name, text in told.items()), ("content-type", about.content.encode())]


def kept_of(partition: int, record: Record) -> Kept:
    key = (record.key or b"").decode(errors="replace")
    return Kept(partition, record.offset, record.timestamp * 1000, key, _texts(record.headers), record.value or b"")


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, (value or b"").decode(errors="replace")) for name, value in headers)
