"""What Kafka has deleted of a topic, in an archive: the segments of each partition, read as one log with what the brokers still hold.

    trimtab.events/3/00000000000000000000.segment, ...00000000000000065536.segment, ...     a file of the form of `segment`, named by its first record

There is no register beside them: which segments there are is what the place lists, and what each holds it says itself. What is read from one was hashed
whole first. Keys and headers are not in them: the key is in each record, and the engine reads no header.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar

from services.adapters.blobs import Blob, Blobs, blobs_of
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.scratch import Scratch
from services.adapters.log.segment import Damaged, Row, Segment, SegmentFile, described
from services.adapters.settings import Settings
from services.kernel.errors import Unavailable, Unreadable
from services.kernel.record import Stamped

T = TypeVar("T")
NAME = re.compile(r".*/([0-9]{20})\.segment")
OPEN = 2  # segments of a partition that are kept at hand
AT_ONCE = 16  # ends of files that are asked for side by side


@dataclass(frozen=True, slots=True)
class Shelved:
    """A file in the archive. Where its end cannot be read `why` says so, and `last` is what the file after it lets guess."""

    blob: Blob
    first: int
    last: int
    segment: Segment | None
    why: str = ""


class Shelf:
    """The archive of one topic. Blocks; several threads may ask."""

    def __init__(self, blobs: Blobs, topic: str, scratch: Path) -> None:
        """`scratch` is a folder of this machine, where what is read lies meanwhile."""
        self.blobs, self.topic = blobs, topic
        self._scratch = Scratch(scratch)
        self._locks: dict[int, threading.Lock] = {}
        self._listed: dict[int, list[Shelved]] = {}
        self._said: dict[Blob, Segment] = {}
        self._open: dict[int, list[tuple[Blob, SegmentFile]]] = {}

    def name_of(self, partition: int, first: int) -> str:
        return f"{self.topic}/{partition}/{first:020d}.segment"

    def every(self, partition: int) -> list[Shelved]:
        """The segments of a partition in order, by what their names and ends say. Raises Unavailable."""
        there = [b for b in self.blobs.names(f"{self.topic}/{partition}") if NAME.fullmatch(b.name)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = list(pool.map(partial(self._described, partition), there))
        found: list[Shelved] = []
        for i, (blob, what) in enumerate(zip(there, said, strict=True)):
            first = first_of(blob)
            if isinstance(what, Segment):
                found.append(Shelved(blob, first, what.last, what))
            else:
                found.append(Shelved(blob, first, first_of(there[i + 1]) - 1 if i + 1 < len(there) else first, None, what))
        self._listed[partition] = found
        return found

    def _described(self, partition: int, blob: Blob) -> Segment | str:
        if blob not in self._said:
            try:
                segment = described(lambda size: self.blobs.end(blob, size))
            except (Damaged, FileNotFoundError) as error:
                return str(error)
            if (segment.topic, segment.partition, segment.first) != (self.topic, partition, first_of(blob)):
                return "it holds another segment than its name says"
            self._said[blob] = segment
        return self._said[blob]

    def reach(self, partition: int, live: int) -> int:
        """The first record from which on everything up to `live`, the first that Kafka still holds, can be had. Raises Unavailable."""
        return reach_of(self._covering(partition, live), live)

    def _covering(self, partition: int, live: int) -> list[Shelved]:
        known = self._listed.get(partition, [])
        return known if known and known[-1].last >= live - 1 else self.every(partition)

    def read(self, partition: int, offset: int, live: int, limit: int) -> list[Row]:
        """Up to `limit` records from `offset`, or from where the archive begins to be whole, as one segment holds them; none at or after `live`.

        Raises Unreadable where the archive is away, or a file of it does not hold, which it names.
        """
        with self._locks.setdefault(partition, threading.Lock()):
            r: Shelved | None = None
            try:
                shelved = self._covering(partition, live)
                at, rows = max(offset, reach_of(shelved, live)), list[Row]()
                r = next((r for r in shelved if r.first <= at <= r.last), None) if at < live else None
                if r is None:
                    return rows
                file = self._opened(partition, r)
                while at <= r.last and at < live and len(rows) < limit:
                    rows += file.read(at, min(limit - len(rows), live - at))
                    at = rows[-1][0] + 1
                return rows
            except (Damaged, FileNotFoundError) as error:
                self._listed.pop(partition, None)
                assert r is not None
                raise Unreadable(
                    f"the archived segment {self.blobs.place}/{r.blob.name} (records {r.first} to {r.last}) cannot be read: {error}; "
                    "restore that file from a backup",
                    r.last + 1,
                ) from error
            except Unreadable:
                raise
            except (Unavailable, OSError) as error:
                why = error if isinstance(error, Unavailable) else self._full("what it reads of the archive", error)
                raise Unreadable(f"Kafka holds {self.topic}-{partition} from record {live} on, and {why}", live) from error

    def _opened(self, partition: int, r: Shelved) -> SegmentFile:
        at_hand = self._open[partition] = [(blob, file) for blob, file in self._open.get(partition, []) if file.path.exists()]
        for blob, file in at_hand:
            if blob == r.blob:
                return file
        file = self.verified(r.blob)
        if r.segment is not None and file.segment != r.segment:
            raise Damaged("it holds another segment")
        at_hand.append((r.blob, file))
        if len(at_hand) > OPEN:
            at_hand.pop(0)[1].path.unlink(missing_ok=True)
        return file

    def verified(self, blob: Blob) -> SegmentFile:
        """A copy of it on this machine, every record of which is what was sealed. Raises Damaged, Unavailable, FileNotFoundError."""
        path = self.scratch()
        try:
            self.blobs.fetch(blob.name, path)
            file = SegmentFile(path)
            said = file.verify()
            if said.topic != self.topic or self.name_of(said.partition, said.first) != blob.name:
                raise Damaged("it holds another segment than its name says")
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and (not isinstance(error, FileNotFoundError) or not path.parent.is_dir()):
                raise self._full(f"a copy of {blob.name}", error) from error
            raise
        return file

    def _full(self, what: str, error: OSError) -> Unavailable:
        why = f"{self._scratch.path} cannot hold {what}: {error.strerror or error}"
        return Unavailable(f"{why}; make room in the folder that TRIMTAB_DATA names, and start again where it was removed", reason="archive_copy")

    def scratch(self) -> Path:
        """The name of a new file of this machine; whoever asks for it removes it."""
        return self._scratch.path / os.urandom(8).hex()

    def close(self) -> None:
        """Nothing of it is left on this machine."""
        self._scratch.close()


def shelf_of(settings: Settings, topic: str) -> Shelf:
    """The archive of a topic, where TRIMTAB_ARCHIVE says."""
    return Shelf(blobs_of(settings, settings.archive), topic, settings.data)


def first_of(blob: Blob) -> int:
    named = NAME.fullmatch(blob.name)
    assert named is not None
    return int(named[1])


def reach_of(shelved: list[Shelved], live: int) -> int:
    reach = live
    for r in reversed([r for r in shelved if r.first < live]):
        if r.last < reach - 1:
            break
        reach = r.first
    return reach


def lost_of(shelved: list[Shelved]) -> int:
    """How many records between the first and the last are in no segment."""
    return sum(max(0, after.first - before.last - 1) for before, after in pairwise(shelved))


class ArchivedLog(Generic[T]):
    """A topic with what Kafka has deleted of it. All but reading is Kafka's."""

    def __init__(self, log: KafkaLog[T], shelf: Shelf) -> None:
        self.log, self.shelf = log, shelf
        self.topic, self.partitions = log.topic, log.partitions
        self._begins: dict[int, int] = {}  # what Kafka held first when it was last asked for less
        self._first: dict[int, Sequence[Stamped[T]]] = {}  # the archive's first record, which every checkpoint is marked with

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        return await self.log.append(records, partition)

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        if offset == 0 and limit == 1 and partition in self._first:
            return self._first[partition]
        if offset < self._begins.get(partition, 0) and (rows := await self._archived(partition, offset, self._begins[partition], limit)):
            return rows
        try:
            page = await self.log.read(partition, offset, limit)
            begin = page[0].offset if page else offset
        except Unreadable as lost:
            if rows := await self._archived(partition, offset, lost.beyond, limit):
                return rows
            raise
        return await self._archived(partition, offset, begin, limit) or page if begin > offset else page

    async def _archived(self, partition: int, offset: int, live: int, limit: int) -> Sequence[Stamped[T]]:
        self._begins[partition] = live
        rows = await asyncio.to_thread(self.shelf.read, partition, offset, live, limit)
        read = self.log.codec.decode_all([data for _, _, data in rows])
        page = [Stamped(number, stamp, record) for (number, stamp, _), record in zip(rows, read, strict=True)]
        if offset == 0 and page:
            self._first[partition] = page[:1]
        return page

    def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        return self.log.follow(partition, offset)

    async def ends(self, partition: int) -> tuple[int, int]:
        """Of what Kafka holds."""
        return await self.log.ends(partition)

    async def close(self) -> None:
        await self.log.close()
        self.shelf.close()
