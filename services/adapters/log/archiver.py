"""Writes what Kafka will delete of a topic into its archive, a segment at a time, while Kafka still holds it.

    due (so many records, or so old) --> read and packed into a file here, read back --> put where nothing of its name is --> the next

Where a segment ends is said by the records alone, so that two who write one partition, because one of them was believed dead, make the same file. Whoever
comes second takes what is there. Nothing is noted anywhere: a start asks the archive how far it reaches. What was deleted before it was archived is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.adapters.faultpoint import faultpoint
from services.adapters.log.codec import Kept
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.segment import Damaged, Row, Segment, SegmentFile, Writer
from services.adapters.log.shelf import Shelf, Shelved, lost_of
from services.adapters.settings import Settings
from services.kernel.errors import Unavailable
from services.kernel.ports import Clock

PAGE, PAGE_BYTES = 200, 8 << 20  # records, and about so many bytes of them, that are read at once
LATE = 60_000_000  # microseconds by which the brokers' clock may be behind ours
LONGEST = 0.05  # seconds of rest after as much work
SECOND, HOUR = 1_000_000, 3_600_000_000

Turns = Callable[[], None]  # called whenever the work has gone on a step, from any thread
log = structlog.get_logger("archive")


@dataclass(frozen=True, slots=True)
class Seal:
    """A segment ends before the record that is so much younger than its first, or that would make it larger; and is due when it is so old, or so many are."""

    age: int  # microseconds
    size: int  # bytes
    records: int = 200_000


def seal_of(settings: Settings) -> Seal:
    return Seal(round(settings.log_segment_hours * HOUR), round(settings.log_segment_mb * (1 << 20)))


@dataclass(frozen=True, slots=True)
class Place:
    """How far the archive reaches: the next record, and the link of the segment before it."""

    next: int
    link: str = ""


class ArchiveMetrics:
    """Of all topics of a process."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.segments = Counter("trimtab_archive_segments_total", "Segments of Kafka's topics put into the archive", ["topic"], registry=registry)
        self.failures = Counter("trimtab_archive_failures_total", "Attempts to archive Kafka's topics or a day's checkpoint that failed", registry=registry)
        self.next = Gauge("trimtab_archive_offset", "The first record of a topic that is not in the archive", ["topic", "partition"], registry=registry)
        self.overdue = Gauge(
            "trimtab_archive_overdue_seconds", "How long ago the oldest record outside of the archive was due", ["topic", "partition"], registry=registry
        )
        self.lost = Gauge("trimtab_archive_lost_records", "Records that Kafka deleted before they were archived", ["topic", "partition"], registry=registry)

    def forget(self, topic: str, partition: int) -> None:
        """It is another process's now, which tells of it."""
        for gauge in (self.next, self.overdue, self.lost):
            with suppress(KeyError):
                gauge.remove(topic, str(partition))


class Archiver:
    """Of one topic, of whichever partitions it is asked for."""

    def __init__(self, kafka: KafkaLog[Any], shelf: Shelf, seal: Seal, clock: Clock, metrics: ArchiveMetrics | None = None) -> None:
        self.kafka, self.shelf, self.seal, self.clock = kafka, shelf, seal, clock
        self.metrics = metrics or ArchiveMetrics(None)
        self._places: dict[int, Place] = {}
        self._waits: dict[int, int] = {}  # partition -> stamp of the first record that is not in the archive

    def forget(self, partition: int) -> None:
        """Whoever has it meanwhile goes on: how far the archive reaches is asked anew."""
        self._waits.pop(partition, None)
        if self._places.pop(partition, None) is not None:
            self.metrics.forget(self.kafka.topic.name, partition)

    async def once(self, partition: int, beat: Turns = lambda: None) -> int:
        """Every segment that is due is in the archive; how many were put there. Raises Unavailable, and what is there stays good."""
        try:
            return await self._once(partition, beat)
        except (Damaged, OSError) as error:
            raise Unavailable(f"{self._named(partition)} cannot be archived: {error}", reason="archive_unwritten") from error

    async def _once(self, partition: int, beat: Turns) -> int:
        labels, done = (self.kafka.topic.name, str(partition)), 0
        if partition not in self._places:
            self._places[partition] = await self._resume(partition, beat)
        while True:
            beat()
            begin, end = await self.kafka.ends(partition)
            place = self._places[partition]
            self.metrics.next.labels(*labels).set(place.next)
            if begin > place.next:
                place = self._skip(partition, begin)
            page = await self.kafka.kept(partition, place.next, 1) if end > place.next else []
            self._note(partition, page)
            overdue = self._overdue(partition)
            if not page or page[0].offset != place.next or not (overdue >= LATE or end - place.next >= self.seal.records):
                return done
            if not await self._archive(partition, place, end, beat, is_old=overdue >= LATE):
                return done
            done += 1

    def _note(self, partition: int, page: Sequence[Kept]) -> None:
        """Whoever asks for the metrics hears how long the first of these waits by then, whether or not we have come round meanwhile."""
        self._waits.pop(partition, None)
        if page:
            self._waits[partition] = page[0].stamp
        overdue = self.metrics.overdue.labels(self.kafka.topic.name, str(partition))
        overdue.set_function(lambda: max(0, self._overdue(partition)) / SECOND)

    def _overdue(self, partition: int) -> int:
        """Microseconds since the first record that is not in the archive was due; below zero where it is not yet, 0 where there is none."""
        stamp = self._waits.get(partition)
        return 0 if stamp is None else self.clock.now() - stamp - self.seal.age

    def _named(self, partition: int) -> str:
        return f"{self.kafka.topic.name}-{partition}"

    def _skip(self, partition: int, begin: int) -> Place:
        """What is gone is gone, and that is said; the archive goes on after it."""
        place = self._places[partition]
        if place.link:  # before the first segment nothing was promised
            self.metrics.lost.labels(self.kafka.topic.name, str(partition)).inc(begin - place.next)
            log.error("records lost to the archive", topic=self.kafka.topic.name, partition=partition, first=place.next, last=begin - 1)
        else:
            log.warning("archive begins later than the log", topic=self.kafka.topic.name, partition=partition, first=begin)
        self._places[partition] = Place(begin, place.link)
        return self._places[partition]

    # -- how far it reaches -----------------------------------------------------------------------------------------------

    async def _resume(self, partition: int, beat: Turns = lambda: None) -> Place:
        """After the newest segment that holds. Raises Unavailable where the archive is away, or is of another log."""
        shelved = await asyncio.to_thread(self.shelf.every, partition)
        self.metrics.lost.labels(self.kafka.topic.name, str(partition)).set(lost_of(shelved))
        for r in reversed(shelved):
            beat()
            try:
                file = await asyncio.to_thread(self.shelf.verified, r.blob)
            except (Damaged, FileNotFoundError) as error:
                log.error("archived segment does not hold", file=r.blob.name, first=r.first, why=str(error))
                continue
            try:
                await self._agree(partition, file)
            finally:
                file.path.unlink(missing_ok=True)
            return Place(file.segment.last + 1, file.segment.link)
        return Place(0)

    async def _agree(self, partition: int, file: SegmentFile) -> None:
        """Its last record is what Kafka has there, where Kafka still has it."""
        last = file.segment.last
        begin, end = await self.kafka.ends(partition)
        if end <= last:
            raise self._foreign(partition, f"{self._named(partition)} ends at record {end}, and the archive holds records up to {last}")
        if begin <= last:
            [(_, stamp, data)] = await asyncio.to_thread(file.read, last, 1)
            found = await self.kafka.kept(partition, last, 1)
            if [(k.offset, k.stamp, k.value) for k in found] != [(last, stamp, data)]:
                raise self._foreign(partition, f"record {last} of {self._named(partition)} is not the one that the archive holds")

    def _foreign(self, partition: int, why: str) -> Unavailable:
        where = f"{self.shelf.blobs.place}/{self.kafka.topic.name}/{partition}"
        mend = "the topic was made anew or has lost its end; keep that archive, and name another place with TRIMTAB_ARCHIVE"
        return Unavailable(f"{why}: {mend} (it is in {where})", reason="archive_foreign")

    # -- a segment --------------------------------------------------------------------------------------------------------

    async def _archive(self, partition: int, place: Place, end: int, beat: Turns, *, is_old: bool) -> bool:
        """The segment that begins at `place` is in the archive; False where it is not due after all."""
        path = self.shelf.scratch()
        try:
            segment = await self._build(path, partition, place, end, is_old, beat)
            if segment is None:
                return False
            faultpoint("kafka.sealed")
            segment = await asyncio.to_thread(self._put, path, segment, beat)
        finally:
            path.unlink(missing_ok=True)
        faultpoint("kafka.archived")
        self._places[partition] = Place(segment.last + 1, segment.link)
        self.metrics.segments.labels(self.kafka.topic.name).inc()
        log.info("segment archived", topic=self.kafka.topic.name, partition=partition, first=segment.first, last=segment.last)
        return True

    async def _build(self, path: Path, partition: int, place: Place, end: int, is_old: bool, beat: Turns) -> Segment | None:
        with path.open("wb") as file:
            writer, at, until, is_cut = Writer(file), place.next, 0, False
            while at < end and not is_cut:
                beat()
                begun = time.perf_counter()
                page = await self.kafka.kept(partition, at, min(PAGE, end - at), PAGE_BYTES)
                if not page or page[0].offset != at:
                    is_cut = at > place.next  # the rest was deleted meanwhile: what was read is kept
                    break
                until = until or page[0].stamp + self.seal.age
                rows = self._within(page, at - place.next, writer.content.size, until)
                await asyncio.to_thread(writer.add, rows)
                at += len(rows)
                is_cut = len(rows) < len(page) or at - place.next >= self.seal.records
                await asyncio.sleep(min(LONGEST, time.perf_counter() - begun))
            if at == place.next or not (is_cut or is_old):
                return None
            segment = writer.content.segment(self.kafka.topic.name, partition, place.link)
            await asyncio.to_thread(writer.end, segment)
        return await asyncio.to_thread(SegmentFile(path).verify)

    def _within(self, page: Sequence[Kept], many: int, size: int, until: int) -> list[Row]:
        """The records of a page up to where the segment ends, which holds so many of such a size already."""
        rows: list[Row] = []
        for k in page:
            size += len(k.value)
            if many + len(rows) and (k.stamp >= until or size > self.seal.size or many + len(rows) >= self.seal.records):
                break
            rows.append((k.offset, k.stamp, k.value))
        return rows

    def _put(self, path: Path, segment: Segment, beat: Turns) -> Segment:
        """What the archive holds under this name, which is ours unless one that holds was there before."""
        name = self.shelf.name_of(segment.partition, segment.first)
        if self.shelf.blobs.create(name, path):
            return segment
        beat()
        there: Shelved | None = next((r for r in self.shelf.every(segment.partition) if r.blob.name == name), None)
        if there is None:  # removed since, or not listed yet
            raise Unavailable(f"{name} cannot be put into {self.shelf.blobs.place}: it is said to be there, and is not listed", reason="archive_unlisted")
        beat()
        try:
            file = self.shelf.verified(there.blob)
        except Damaged as error:
            log.error("archived segment does not hold, and is written again", file=name, why=str(error))
            self.shelf.blobs.replace(name, path)
            return segment
        file.path.unlink(missing_ok=True)
        if file.segment.last == segment.last and file.segment.content != segment.content:
            raise self._foreign(segment.partition, f"records {segment.first} to {segment.last} are not those that the archive holds")
        return file.segment
