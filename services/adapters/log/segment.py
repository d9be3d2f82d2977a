"""One segment of a log as a file that is never changed: compressed, checksummed, linked to the one before.

    trimtab segment 1\\n | blocks | index, JSON | size of index | sha-256 of all before

A block is a Zstandard frame of about a megabyte of records: their stamps, their lengths, their bytes. The index says what the segment is of, and of every
block where it lies, what it holds and its sha-256. So one page is read without unpacking all, and nothing is believed that was not hashed before.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import cramjam
import numpy as np

MAGIC = b"trimtab segment 1\n"
LARGEST_INDEX = 64 << 20  # bytes: a damaged size must not be believed
LARGEST_BLOCK = 1 << 30
BLOCK = 1 << 20  # bytes of records, or so many records, whichever is first
RECORDS = 20_000
LEVEL = 3
CHUNK = 1 << 22

Row = tuple[int, int, bytes]  # number, stamp, data


class Damaged(Exception):
    """This file does not say what it said when it was written: the message says how."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The records `first` to `last` of a partition. `content` is the hash of what they say, `previous` the link of the segment before, "" for the first."""

    topic: str
    partition: int
    first: int
    last: int
    oldest: int  # stamps, microseconds
    newest: int
    size: int  # bytes of data
    content: str
    previous: str

    @property
    def link(self) -> str:
        """Stands for this segment and all before it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def records(self) -> int:
        return self.last - self.first + 1


class Content:
    """The hash of a run of records, however they were paged."""

    def __init__(self) -> None:
        self.first, self.last, self.oldest, self.newest, self.size = -1, -1, 0, 0, 0
        self._stamps, self._lengths, self._data = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, rows: Sequence[Row]) -> None:
        """Raises Damaged where a number does not follow the one before."""
        if not rows:
            return
        first = rows[0][0] if self.first < 0 else self.last + 1
        if rows[0][0] != first or rows[-1][0] != first + len(rows) - 1:
            raise Damaged(f"records between {first} and {rows[-1][0]} are missing")
        stamps = np.array([stamp for _, stamp, _ in rows], "<i8")
        data = b"".join([data for _, _, data in rows])
        self._stamps.update(stamps.tobytes())
        self._lengths.update(np.array([len(data) for _, _, data in rows], "<i8").tobytes())
        self._data.update(data)
        oldest, newest = int(stamps.min()), int(stamps.max())
        if self.first < 0:
            self.first, self.oldest, self.newest = first, oldest, newest
        self.last, self.size = rows[-1][0], self.size + len(data)
        self.oldest, self.newest = min(self.oldest, oldest), max(self.newest, newest)

    def hexdigest(self) -> str:
        parts = (self.first.to_bytes(8, "little", signed=True), self.last.to_bytes(8, "little", signed=True))
        return hashlib.sha256(b"".join((*parts, self._stamps.digest(), self._lengths.digest(), self._data.digest()))).hexdigest()

    def segment(self, topic: str, partition: int, previous: str) -> Segment:
        return Segment(topic, partition, self.first, self.last, self.oldest, self.newest, self.size, self.hexdigest(), previous)


@dataclass(frozen=True, slots=True)
class Written:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    first: int
    records: int
    at: int
    size: int
    sha256: str


class Writer:
    """A segment's file, as its records come. Where blocks end depends on the records alone, so that the same records make the same file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.content = Content()
        self._file, self._digest, self._at = file, hashlib.sha256(), 0
        self._blocks: list[Block] = []
        self._rows: list[Row] = []  # of the block that is open
        self._size = 0
        self._put(MAGIC)

    def add(self, rows: Sequence[Row]) -> None:
        """Raises OSError, or Damaged where a number does not follow the one before."""
        self.content.add(rows)
        for row in rows:
            self._rows.append(row)
            self._size += len(row[2])
            if self._size >= BLOCK or len(self._rows) >= RECORDS:
                self.cut()

    def end(self, segment: Segment) -> Written:
        """The file holds the segment; not yet flushed. Raises OSError, or Damaged where the records are not those that were sealed."""
        if self.content.segment(segment.topic, segment.partition, segment.previous) != segment:
            raise Damaged(f"records {segment.first} to {segment.last} are not those that were sealed")
        self.cut()
        index = json.dumps({"segment": asdict(segment), "blocks": [asdict(b) for b in self._blocks]}).encode()
        self._put(index)
        self._put(len(index).to_bytes(8, "little"))
        self._file.write(self._digest.digest())
        return Written(self._digest.hexdigest(), self._at + self._digest.digest_size)

    def cut(self) -> None:
        """What comes next is in another block."""
        if not self._rows:
            return
        packed = bytes(cramjam.zstd.compress(_pack(self._rows), LEVEL))
        self._blocks.append(Block(self._rows[0][0], len(self._rows), self._at, len(packed), hashlib.sha256(packed).hexdigest()))
        self._put(packed)
        self._rows, self._size = [], 0

    def _put(self, part: bytes) -> None:
        self._digest.update(part)
        self._file.write(part)
        self._at += len(part)


def write(file: IO[bytes], segment: Segment, pages: Iterable[Sequence[Row]]) -> Written:
    """The file holds the segment, a page a block; not yet flushed. Raises OSError, or Damaged where the records are not those that were sealed."""
    writer = Writer(file)
    for rows in pages:
        writer.add(rows)
        writer.cut()
    return writer.end(segment)


def described(end: Callable[[int], bytes]) -> Segment:
    """What a file says that it holds. `end` gives so many bytes of its end, which prove nothing. Raises Damaged."""
    tail = end(1 << 16)
    rest = 8 + hashlib.sha256().digest_size
    length = int.from_bytes(tail[-rest : 8 - rest], "little")
    if len(tail) < rest or length > LARGEST_INDEX:
        raise Damaged("its index is damaged")
    if len(tail) < length + rest:
        tail = end(length + rest)
    return _index(tail[len(tail) - length - rest : len(tail) - rest])[0]


class SegmentFile:
    """A segment that was hashed whole when it was opened, and whose blocks are hashed again as they are read."""

    def __init__(self, path: Path, sha256: str = "") -> None:
        """Raises Damaged, or OSError; with `sha256` given, also where the file is whole but another one."""
        self.path = path
        self.segment, self.blocks, self.sha256 = _open(path)
        if sha256 and self.sha256 != sha256:
            raise Damaged("it is not the file that was registered")
        self._firsts = [b.first for b in self.blocks]
        self._last: tuple[int, list[Row]] = (-1, [])  # the block that was read last: pages come in order

    def read(self, offset: int, limit: int) -> list[Row]:
        """Up to `limit` records from `offset`, of one block. Raises Damaged, or OSError."""
        number = bisect_right(self._firsts, offset) - 1
        if self._last[0] != number:
            self._last = (number, self.rows(self.blocks[number]))
        at = offset - self.blocks[number].first
        return self._last[1][at : at + limit]

    def rows(self, block: Block) -> list[Row]:
        with self.path.open("rb") as file:
            file.seek(block.at)
            packed = file.read(block.size)
        if hashlib.sha256(packed).hexdigest() != block.sha256:
            raise Damaged(f"the block of records {block.first} to {block.first + block.records - 1} does not agree with its hash")
        try:
            return _unpack(bytes(cramjam.zstd.decompress(packed)), block)
        except cramjam.DecompressionError as error:
            raise Damaged(f"the block of record {block.first} cannot be unpacked") from error

    def verify(self, paused: Callable[[], None] = lambda: None) -> Segment:
        """What it holds, when every record unpacked is what was sealed. Raises Damaged, or OSError."""
        content = Content()
        for block in self.blocks:
            content.add(self.rows(block))
            paused()
        if content.segment(self.segment.topic, self.segment.partition, self.segment.previous) != self.segment:
            raise Damaged("its records are not those that were sealed")
        return self.segment


def _pack(rows: Sequence[Row]) -> bytes:
    stamps = np.array([stamp for _, stamp, _ in rows], "<i8").tobytes()
    lengths = np.array([len(data) for _, _, data in rows], "<i8").tobytes()
    return b"".join((stamps, lengths, *(data for _, _, data in rows)))


def _unpack(plain: bytes, block: Block) -> list[Row]:
    n = block.records
    if len(plain) < 16 * n:
        raise Damaged(f"the block of record {block.first} is shorter than it says")
    stamps, lengths = np.frombuffer(plain, "<i8", n).tolist(), np.frombuffer(plain, "<i8", n, 8 * n)
    ends = (16 * n + np.cumsum(lengths)).tolist()
    if n and (int(lengths.min()) < 0 or ends[-1] != len(plain)):
        raise Damaged(f"the block of record {block.first} is not as long as it says")
    return [(block.first + i, stamps[i], plain[start:end]) for i, (start, end) in enumerate(zip([16 * n, *ends], ends, strict=False))]


def _open(path: Path) -> tuple[Segment, list[Block], str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        tail = 8 + digest.digest_size
        if size < len(MAGIC) + tail or file.read(len(MAGIC)) != MAGIC:
            raise Damaged("it is no segment of this format")
        file.seek(0)
        rest = size - digest.digest_size
        while rest > 0 and (part := file.read(min(CHUNK, rest))):
            digest.update(part)
            rest -= len(part)
        if file.read() != digest.digest():
            raise Damaged("its hash does not agree")
        file.seek(size - tail)
        length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_INDEX, size - tail - len(MAGIC)):
            raise Damaged("its index is damaged")
        file.seek(size - tail - length)
        said = _index(file.read(length))
    return said[0], said[1], digest.hexdigest()


def _index(text: bytes) -> tuple[Segment, list[Block]]:
    try:
        said: dict[str, Any] = json.loads(text)
        segment, blocks = Segment(**said["segment"]), [Block(**b) for b in said["blocks"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("its index is damaged") from error
    expected = segment.first
    for block in blocks:
        if block.first != expected or block.records < 1 or not 0 < block.size <= LARGEST_BLOCK:
            raise Damaged("its index is damaged")
        expected += block.records
    if expected != segment.last + 1:
        raise Damaged("its index is damaged")
    return segment, blocks
