"""Where sealed segments of a log are kept, and how what the live file no longer holds is read from there.

The live file registers every segment in its own table: what it is of, and once it is in the archive under which name and hash. Each is linked to the one
before by a hash, so a segment that was put in the place of another is seen.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from services.adapters.log.segment import Damaged, Row, Segment, SegmentFile
from services.kernel.errors import Unreadable

TABLE = (
    "CREATE TABLE IF NOT EXISTS segments (partition INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, oldest INTEGER NOT NULL,"
    " newest INTEGER NOT NULL, size INTEGER NOT NULL, content TEXT NOT NULL, previous TEXT NOT NULL, link TEXT NOT NULL, file TEXT NOT NULL,"
    " packed INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (partition, first)) WITHOUT ROWID"
)
COLUMNS = "first, last, oldest, newest, size, content, previous, link, file, packed, sha256"


@dataclass(frozen=True, slots=True)
class Registered:
    """A segment as the live file knows it; `file` is "" until it is in the archive."""

    segment: Segment
    link: str
    file: str
    packed: int  # bytes of the file
    sha256: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A segment that does not hold, and whether the live file could still say what it said."""

    segment: Segment
    file: str
    why: str


def name_of(segment: Segment) -> str:
    """Two logs that parted never write the same name for different records."""
    return f"{segment.topic}-{segment.partition}-{segment.first:020d}-{segment.content[:12]}.segment"


def registered(file: sqlite3.Connection, partition: int = 0) -> list[Registered]:
    """Every segment of a partition, in order; none in a log that has never sealed one. Raises sqlite3.Error."""
    if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'segments'").fetchone():
        return []
    (topic,) = file.execute("SELECT value FROM about WHERE name = 'topic'").fetchone()
    rows = file.execute(f"SELECT {COLUMNS} FROM segments WHERE partition = ? ORDER BY first", (partition,))
    return [Registered(Segment(topic, partition, *row[:7]), *row[7:]) for row in rows]


def unlinked(segments: list[Registered]) -> list[Fault]:
    """Where the chain does not hold: an entry altered, left out or put in."""
    faults, before = [], None
    for r in segments:
        if r.segment.link != r.link:
            faults.append(Fault(r.segment, r.file, "its entry was altered"))
        elif before is not None and (r.segment.previous, r.segment.first) != (before.link, before.segment.last + 1):
            faults.append(Fault(r.segment, r.file, "it does not follow the segment before it"))
        before = r
    return faults


class Archive:
    """A folder of segments. What it hands out was hashed first; several threads may ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._open: SegmentFile | None = None

    def lies(self, r: Registered) -> bool:
        return bool(r.file) and (self.folder / r.file).is_file()

    def reach(self, segments: list[Registered], live: int) -> int:
        """The first offset from which on everything up to the live records can be had."""
        reach = live
        for r in reversed([r for r in segments if r.segment.first < live]):
            if r.segment.last < reach - 1 or not self.lies(r):
                break
            reach = r.segment.first
        return reach

    def read(self, segments: list[Registered], offset: int, live: int, limit: int) -> list[Row]:
        """Up to `limit` records from `offset`, or from where the archive begins to be whole; none where that is not before the live records.

        Raises Unreadable naming the file, where what it holds is not what was archived.
        """
        at, rows = max(offset, self.reach(segments, live)), list[Row]()
        for r in segments:
            try:
                while r.segment.first <= at <= r.segment.last and at < live and len(rows) < limit:
                    rows += self._read(r, at, min(limit - len(rows), live - at))
                    at = rows[-1][0] + 1
            except Unreadable:
                if rows:
                    return rows  # up to the damage; who reads on is told
                raise
        return rows

    def _read(self, r: Registered, offset: int, limit: int) -> list[Row]:
        with self._lock:
            try:
                if self._open is None or self._open.path != self.folder / r.file:
                    self._open = SegmentFile(self.folder / r.file, r.sha256)
                if self._open.segment != r.segment:
                    raise Damaged("it holds another segment")
                return self._open.read(offset, limit)
            except (Damaged, OSError) as error:
                self._open = None
                raise Unreadable(
                    f"the archived segment {self.folder / r.file} (records {r.segment.first} to {r.segment.last}) cannot be read: {error}; "
                    "restore that file from a backup",
                    r.segment.last + 1,
                ) from error

    def fault(self, r: Registered) -> Fault | None:
        """What is wrong with the file of an archived segment, read whole."""
        try:
            found = SegmentFile(self.folder / r.file, r.sha256).verify()
        except FileNotFoundError:
            return Fault(r.segment, r.file, "its file is not there")
        except (Damaged, OSError) as error:
            return Fault(r.segment, r.file, str(error))
        return None if found == r.segment else Fault(r.segment, r.file, "it holds another segment")


def begins(file: sqlite3.Connection, partition: int = 0) -> int:
    """The first record of the live file, or the next offset where it holds none. Raises sqlite3.Error."""
    (first,) = file.execute("SELECT min(number) FROM records WHERE partition = ?", (partition,)).fetchone()
    if first is not None:
        return int(first)
    segments = registered(file, partition)
    return segments[-1].segment.last + 1 if segments else 0


def first_record(path: Path, folder: Path) -> bytes | None:
    """The first record of the log in a file, from the archive where it was pruned; None where neither holds any. Raises sqlite3.Error, Unreadable."""
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as file:
        live, segments = begins(file), registered(file)
        if live > 0 and (rows := Archive(folder).read(segments, 0, live, 1)):
            return rows[0][2]
        row = file.execute("SELECT data FROM records WHERE partition = 0 ORDER BY number LIMIT 1").fetchone()
    return bytes(row[0]) if row else None
