"""What keeps a log from growing for ever: segments are sealed, archived, and pruned from the live file, in that order and never out of it.

    open --(so old or so large)--> sealed --(file on the disk, read back)--> archived --(old enough, and below every checkpoint)--> pruned

Sealing registers what a run of records says. Archiving writes it as a file under another name, flushes it, reads it back from the disk, renames it, and
only then registers where it lies. Pruning reads the file whole once more and then deletes from the front, a little at a time, so that appends go on beside
it. Killed anywhere in between, the next run goes on: what was not registered is written again, what is registered is on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.adapters.disk import flush
from services.adapters.log.archive import COLUMNS, TABLE, Archive, Registered, begins, name_of, registered
from services.adapters.log.segment import BLOCK, RECORDS, Content, Damaged, Row, Segment, SegmentFile, write
from services.kernel.errors import Unavailable, Unreadable

HOUR, DAY = 3_600_000_000, 86_400_000_000
AT_ONCE, SHORT, LONG = 50, 0.001, 0.004  # records deleted in one transaction, so many that it takes about this long, seconds


@dataclass(frozen=True, slots=True)
class Policy:
    size: int = 64 << 20  # bytes of records after which a segment is sealed
    age: int = DAY  # or after so long, microseconds
    live: int = 35 * DAY  # what is younger stays in the live file


@dataclass(frozen=True, slots=True)
class Step:
    """Something done, or to be done: `what` is sealed, archived or pruned. `stays` says why a segment that is old enough is not pruned."""

    what: str
    segment: Segment
    file: str = ""
    packed: int = 0
    stays: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    live: int  # the first record of the live file
    archived: int  # the first that is in no archived segment


Told = Callable[[str, int, int], None]  # what, done, total: records


class Keeper:
    """The upkeep of one partition of a log in a file, whether or not a process appends to it meanwhile. Blocks; one at a time, in whatever process."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        policy: Policy | None = None,
        partition: int = 0,
        *,
        reached: Callable[[str], None] = lambda _: None,
        told: Told = lambda *_: None,
        paused: Callable[[], None] = lambda: None,
    ) -> None:
        """`reached` is called at each step, `told` with progress, `paused` between pages and transactions; each may end the work by raising."""
        self.path, self.partition, self.policy = path, partition, policy or Policy()
        self.archive = Archive(folder)
        self.reached, self.told, self.paused = reached, told, paused

    # -- what is due -------------------------------------------------------------------------------------------------

    def due(self, now: int) -> list[Segment]:
        """The segments that a run at `now` would seal; their hashes are still open. Raises Unavailable."""
        with self._file() as file:
            found, first = [], self._unsealed(file)
            while (end := self._end(file, first, now)) is not None:
                found.append(Segment(self._topic(file), self.partition, first, *end, "", ""))
                first = end[0] + 1
        return found

    def old(self, now: int, floor: Callable[[], int]) -> Iterator[Step]:
        """What a run at `now` would prune, from the front; ends with the first that is old enough and stays, and why. Raises Unavailable.

        `floor` is the first record that must stay for the checkpoints' sake; it is asked only where anything is old enough.
        """
        with self._file() as file:
            live, segments = begins(file, self.partition), registered(file, self.partition)
        old = [r for r in segments if r.segment.last >= live and r.segment.newest < now - self.policy.live]
        lowest = floor() if old else 0
        for r in old:
            if not r.file:
                yield Step("pruned", r.segment, stays="it is not archived yet")
                return
            if r.segment.last >= lowest:
                yield Step("pruned", r.segment, r.file, stays=f"no valid checkpoint covers it: every one must find the log from record {lowest} on")
                return
            yield Step("pruned", r.segment, r.file, r.packed)

    def ends(self) -> Ends:
        with self._file() as file:
            live, segments = begins(file, self.partition), registered(file, self.partition)
        return Ends(live, next((r.segment.first for r in segments if not r.file), segments[-1].segment.last + 1 if segments else live))

    # -- doing it ----------------------------------------------------------------------------------------------------

    def run(self, now: int, floor: Callable[[], int]) -> Iterator[Step]:
        """Everything due is sealed, archived and pruned. Raises Unavailable with one clear line, and then nothing was lost."""
        yield from self.seal(now)
        yield from self.store()
        yield from self.prune(now, floor)

    def seal(self, now: int) -> Iterator[Step]:
        """Every run of records that is old or large enough is registered with what it says."""
        with self._alone(), self._file() as file:
            first = self._unsealed(file)
            while (end := self._end(file, first, now)) is not None:
                before = registered(file, self.partition)
                content = Content()
                for rows in self._pages(file, first, end[0]):
                    content.add(rows)
                    self.told("sealing", rows[-1][0] - first + 1, end[0] - first + 1)
                segment = content.segment(self._topic(file), self.partition, before[-1].link if before else "")
                self.reached("log.sealing")
                self._register(file, Registered(segment, segment.link, "", 0, ""))
                self.reached("log.sealed")
                yield Step("sealed", segment)
                first = end[0] + 1

    def store(self) -> Iterator[Step]:
        """Every sealed segment is a file in the archive, read back from the disk; so is one whose file was lost or damaged while its records still live."""
        with self._alone(), self._file() as file:
            live = begins(file, self.partition)
            for r in registered(file, self.partition):
                if r.segment.first >= live and (not r.file or not self.archive.lies(r)):
                    yield self._store(file, r)

    def mend(self) -> Iterator[Step]:
        """Files that do not hold, of segments whose records still live, are written again."""
        with self._alone(), self._file() as file:
            live = begins(file, self.partition)
            for r in registered(file, self.partition):
                if r.segment.first >= live and r.file and self.archive.fault(r) is not None:
                    yield self._store(file, r)

    def prune(self, now: int, floor: Callable[[], int]) -> Iterator[Step]:
        """What is archived, holds, is old enough and needed by no checkpoint is gone from the live file, from the front."""
        with self._alone():
            for step in self.old(now, floor):
                if step.stays:
                    yield step
                    return
                with self._file() as file:
                    r = next(r for r in registered(file, self.partition) if r.segment == step.segment)
                    if fault := self.archive.fault(r):
                        again = "`trimtab log archive --mend` writes it again from the live records"
                        raise Unreadable(f"{self.archive.folder / r.file} does not hold: {fault.why}; nothing of it is pruned; {again}", r.segment.last + 1)
                    self.reached("log.pruning")
                    self._delete(file, r.segment)
                self.reached("log.pruned")
                yield step

    def _store(self, file: sqlite3.Connection, r: Registered) -> Step:
        folder, name = self.archive.folder, name_of(r.segment)
        begun = folder / f"{name}.begun"
        try:
            with begun.open("wb") as out:
                self.reached("archive.begun")
                written = write(out, r.segment, self._told_pages(file, r.segment))
                self.reached("archive.written")
                out.flush()
                os.fsync(out.fileno())
                os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read back from the disk
            self.reached("archive.flushed")
            if SegmentFile(begun, written.sha256).verify(self.paused) != r.segment:
                raise Damaged("it reads back as another segment")
            self.reached("archive.read")
            begun.replace(folder / name)
            flush(folder)
            self.reached("archive.renamed")
        except (OSError, Damaged) as error:
            with contextlib.suppress(OSError):
                begun.unlink()
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise Unavailable(
                f"records {r.segment.first} to {r.segment.last} cannot be archived in {folder}: {why}; nothing is pruned until they are", reason="archive"
            ) from error
        self._register(file, replace(r, file=name, packed=written.size, sha256=written.sha256))
        self.reached("archive.registered")
        return Step("archived", r.segment, name, written.size)

    def _delete(self, file: sqlite3.Connection, segment: Segment) -> None:
        at, many = begins(file, self.partition), AT_ONCE
        file.execute("PRAGMA synchronous = NORMAL")  # what a crash brings back is pruned again; appends need not wait for the disk twice
        while at <= segment.last:
            end, begun = min(at + many - 1, segment.last), time.perf_counter()
            file.execute("BEGIN IMMEDIATE")
            file.execute("DELETE FROM records WHERE partition = ? AND number BETWEEN ? AND ?", (self.partition, at, end))
            file.execute("COMMIT")
            took, at = time.perf_counter() - begun, end + 1
            many = max(1, many // 2) if took > LONG else min(many * 2, RECORDS) if took < SHORT else many
            self.reached("log.deleted")
            self.told("pruning", at - segment.first, segment.records)
            self.paused()

    # -- the live file -----------------------------------------------------------------------------------------------

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as file:
                file.execute("PRAGMA busy_timeout = 5000")
                file.execute("PRAGMA synchronous = FULL")
                file.execute(TABLE)
                yield file
        except sqlite3.Error as error:
            raise Unavailable(f"the log {self.path} cannot be kept up: {error}", reason="log") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process, nor this one, keeps the same archive up meanwhile."""
        folder = self.archive.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "lock").open("a+")
        except OSError as error:
            raise Unavailable(f"the archive {folder} cannot be used: {error.strerror}; choose another folder with TRIMTAB_ARCHIVE", reason="archive") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Unavailable(f"{folder} is being kept up by another process: try again when it is done", reason="archive_busy") from None
            yield

    def _topic(self, file: sqlite3.Connection) -> str:
        return str(file.execute("SELECT value FROM about WHERE name = 'topic'").fetchone()[0])

    def _unsealed(self, file: sqlite3.Connection) -> int:
        segments = registered(file, self.partition)
        return segments[-1].segment.last + 1 if segments else begins(file, self.partition)

    def _end(self, file: sqlite3.Connection, first: int, now: int) -> tuple[int, int, int, int] | None:
        """(last record, oldest and newest stamp, bytes) of the segment that begins at `first`, or None while it stays open."""
        size, until, last, oldest, newest = 0, 0, -1, 0, 0
        query = "SELECT number, stamp, length(data) FROM records WHERE partition = ? AND number >= ? ORDER BY number LIMIT ?"
        at = first
        while rows := file.execute(query, (self.partition, at, RECORDS)).fetchall():
            for number, stamp, length in rows:
                until = until or stamp + self.policy.age
                if last >= 0 and (stamp >= until or size + length > self.policy.size):
                    return last, oldest, newest, size
                oldest, newest = (stamp, stamp) if last < 0 else (min(oldest, stamp), max(newest, stamp))
                last, size = number, size + length
            at = last + 1
            self.paused()
        return (last, oldest, newest, size) if last >= 0 and now >= until else None

    def _pages(self, file: sqlite3.Connection, first: int, last: int) -> Iterator[list[Row]]:
        """The records in runs of about a block, each checked against its checksum."""
        query = "SELECT number, stamp, data, crc FROM records WHERE partition = ? AND number >= ? AND number <= ? ORDER BY number"
        at = first
        while at <= last:
            page, size = [], 0
            with closing(file.execute(query, (self.partition, at, last))) as rows:
                for number, stamp, data, crc in rows:
                    if crc is not None and zlib.crc32(data) != crc:
                        raise Unreadable(f"record {number} of {self.path} is damaged: its checksum does not agree; restore it from a backup", number + 1)
                    page.append((number, stamp, data))
                    size += len(data)
                    if size >= BLOCK or len(page) >= RECORDS:
                        break
            if not page or page[0][0] != at:
                raise Unavailable(f"records from {at} on are missing from {self.path}: restore it from a backup", reason="log")
            yield page
            at = page[-1][0] + 1
            self.paused()

    def _told_pages(self, file: sqlite3.Connection, segment: Segment) -> Iterator[list[Row]]:
        for rows in self._pages(file, segment.first, segment.last):
            yield rows
            self.told("archiving", rows[-1][0] - segment.first + 1, segment.records)

    def _register(self, file: sqlite3.Connection, r: Registered) -> None:
        s = r.segment
        values = (self.partition, s.first, s.last, s.oldest, s.newest, s.size, s.content, s.previous, r.link, r.file, r.packed, r.sha256)
        file.execute(f"INSERT OR REPLACE INTO segments (partition, {COLUMNS}) VALUES ({', '.join('?' * 12)})", values)
