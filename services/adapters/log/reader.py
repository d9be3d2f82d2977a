"""Consumers of a topic without a group, told where to stand: nothing is committed, nothing is reset, and what was deleted is never passed over in silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from services.adapters.log.checksum import checking_here
from services.adapters.log.cluster import Cluster, Topic, end_consumer
from services.adapters.log.rights import READ, TOPIC, why
from services.adapters.log.unpacked import Record, unpacked_here
from services.kernel.errors import Unavailable, Unreadable

R = TypeVar("R")

READING = 15.0  # seconds in which a read is answered: a change of leader takes up to ten
LOOK = 500  # milliseconds that a consumer waits for records before it looks around
SILENCE = 20.0  # seconds after which a follower without records asks whether there are any
AGAIN = 0.2  # seconds between attempts
FEWEST, MOST = 4, 32  # readers of a topic
PAGE = 1000  # records
FEW = 8  # records taken at once where each may be large
PIECE = 100  # records taken at once: what each is made of is gone before the collector sees it, and before it leaves the processor's cache

# What the log itself reads of a record: (offset, timestamp in milliseconds, who gave that, value). No class of its own, which would take thrice as long.
Taken = tuple[int, int, int, bytes | None]
taken: Callable[[Record], Taken] = attrgetter("offset", "timestamp", "timestamp_type", "value")


class Reader:
    """A consumer that stands somewhere in one partition. It belongs to no group, so it commits nothing, and it is never moved but by us."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.topic, self.partition, self.position = topic, -1, -1
        bounds = {"max_partition_fetch_bytes": 4 << 20, "fetch_max_wait_ms": LOOK, "request_timeout_ms": 10_000, "metadata_max_age_ms": 60_000}
        ours = {**bounds, **checking_here(), **unpacked_here()}
        self.kafka = AIOKafkaConsumer(**cluster.options(), group_id=None, enable_auto_commit=False, auto_offset_reset="none", **ours)
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.kafka.start()

    def turn_to(self, partition: int) -> None:
        if self.partition != partition:
            self.partition, self.position = partition, -1
            self.kafka.assign([self.at])
            self._stand(0)
            self.kafka.pause(self.at)

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def _stand(self, offset: int) -> None:
        if self.position != offset:
            self.position = offset
            self.kafka.seek(self.at, offset)

    async def known(self) -> None:
        """The topic is known to us. Raises TopicAuthorizationFailedError where we may not know of it: who only reads would hear nothing, for ever."""
        await self.kafka._client._wait_on_metadata(self.topic)

    async def begins(self) -> int:
        await self.known()
        return int((await self.kafka.beginning_offsets([self.at]))[self.at])

    async def ends(self) -> int:
        await self.known()
        return int((await self.kafka.end_offsets([self.at]))[self.at])

    async def page(self, offset: int, limit: int, keep: Callable[[Record], R], is_enough: Callable[[list[R]], bool] | None = None) -> list[R]:
        """What `keep` makes of up to `limit` records from `offset`, or from the first that is there. Raises Unreadable where all of them are lost.

        It ends sooner, a few records late at most, where `is_enough` says so of those that are read.
        """
        end, rows, step = await self.ends(), list[R](), limit if is_enough is None else FEW
        if offset >= end:
            return rows
        self._stand(offset)
        self.kafka.resume(self.at)
        while len(rows) < limit and self.position < end and not (is_enough and is_enough(rows)):
            try:
                rows += await self._some(min(step, limit - len(rows)), keep)
            except OffsetOutOfRangeError:
                begin = await self.begins()
                if begin >= end:
                    raise Unreadable(f"records {offset} to {end - 1} of {self.topic}-{self.partition} are deleted, the next is record {end}", end) from None
                if rows:  # whoever asks for the next sees what is missing
                    break
                self._stand(max(begin, self.position))
        self.kafka.pause(self.at)  # else it asks for what may come, and the next read waits until that is answered
        return rows

    async def pages(self, offset: int) -> AsyncIterator[list[Taken]]:
        """Records as they come, none where none is there; ends where some are there and none comes: then this consumer is of no more use."""
        self._stand(offset)
        self.kafka.resume(self.at)
        heard = time.monotonic()
        while True:
            try:
                rows = await self._some(PAGE, taken)
            except OffsetOutOfRangeError:
                await self._explain()
                continue
            if rows and (first := rows[0][0]) != offset:
                raise self._lost(offset, first)
            if rows:
                offset, heard = rows[-1][0] + 1, time.monotonic()
                yield rows
            elif time.monotonic() - heard > SILENCE:
                if await self.ends() > offset:
                    return
                heard = time.monotonic()
                yield []

    async def _explain(self) -> None:
        """Raises what became of the records at our position, unless they are there after all."""
        begin, end = await self.begins(), await self.ends()
        if self.position < begin:
            raise self._lost(self.position, begin)
        if self.position > end:
            why = f"{self.topic}-{self.partition} ends at record {end}, and what came before {self.position} was read: its end is lost"
            raise Unavailable(why, reason="log_lost")
        position, self.position = self.position, -1
        await asyncio.sleep(AGAIN)
        self._stand(position)

    def _lost(self, offset: int, begin: int) -> Unreadable:
        return Unreadable(f"records {offset} to {begin - 1} of {self.topic}-{self.partition} were deleted before they were read", begin)

    async def _some(self, most: int, keep: Callable[[Record], R]) -> list[R]:
        """What `keep` makes of the records of one answer that are there, or come soon; perhaps nothing."""
        kept: list[R] = []
        while len(kept) < most:
            size = min(PIECE, most - len(kept))
            try:
                found: dict[TopicPartition, list[Record]] = await self.kafka.getmany(self.at, timeout_ms=0 if kept else LOOK, max_records=size)
            except KafkaError:
                if kept:  # it is raised again where what comes next is asked for
                    break
                raise
            records = found.get(self.at, [])
            if records:
                kept += map(keep, records)
                self.position = records[-1].offset + 1
            if len(records) < size:
                break
        return kept

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(end_consumer(self.kafka))
        await asyncio.shield(self._closing)


class Readers:
    """A few readers of one topic, lent one at a time: as many as partitions, within bounds, so that those that are read side by side keep theirs."""

    def __init__(self, cluster: Cluster, topic: Topic) -> None:
        self.cluster, self.topic = cluster, topic.name
        self.idle: list[Reader] = []
        self._lent = 0
        self._most = max(FEWEST, min(topic.partitions, MOST))
        self._places = asyncio.Semaphore(self._most)
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def one(self, partition: int, offset: int) -> AsyncIterator[Reader]:
        """Turned to the partition. Raises Unavailable where no answer comes in time."""
        try:
            async with asyncio.timeout(READING), self._turned(partition, offset) as reader:
                yield reader
        except TimeoutError:
            raise Unavailable(f"Kafka has not answered for {self.topic}-{partition} within {READING:g} s", reason="log") from None
        except (KafkaError, OSError) as error:
            raise Unavailable(f"{self.topic}-{partition} cannot be read: {why(error, self.cluster, READ, TOPIC, self.topic)}", reason="log") from error

    @asynccontextmanager
    async def _turned(self, partition: int, offset: int) -> AsyncIterator[Reader]:
        """One that stands there already, where there is one. One that failed is not used again."""
        async with self._places:
            nearest = min(self.idle, key=lambda r: (r.partition != partition, r.position != offset), default=None)
            is_new = nearest is None or (nearest.partition != partition and len(self.idle) + self._lent < self._most)
            reader = Reader(self.cluster, self.topic) if is_new or nearest is None else nearest
            self._lent += 1
            try:
                if reader is nearest:
                    self.idle.remove(reader)
                else:
                    await reader.start()
                reader.turn_to(partition)
                yield reader
            except BaseException:
                self._end(reader)
                raise
            finally:
                self._lent -= 1
            if self._closed:
                await reader.close()
            else:
                self.idle.append(reader)

    def given(self, partition: int) -> Reader | None:
        """An idle one that is turned to the partition, which is the caller's from now on, or None."""
        found = next((r for r in self.idle if r.partition == partition), None)
        if found is not None:
            self.idle.remove(found)
        return found

    def _end(self, reader: Reader) -> None:
        task = asyncio.create_task(reader.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Those that are lent are closed when they come back."""
        self._closed = True
        for reader in self.idle:
            await reader.close()
        self.idle.clear()
        while self._ending:
            await asyncio.wait(self._ending)
