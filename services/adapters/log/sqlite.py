"""The log in one SQLite file: WAL, synchronous=FULL, group commit. What append has returned for is on the disk.

A writer thread takes whatever waits, commits it as one transaction, and wakes every waiter; readers have a connection of their own and never block it.
What was pruned from the file is read from the archive, where one is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import zlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from services.adapters.faultpoint import faultpoint
from services.adapters.log.archive import TABLE, Archive, Registered, registered
from services.adapters.log.codec import Codec, partition_of
from services.adapters.log.segment import Row
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.ports import Clock
from services.kernel.record import Stamped

T = TypeVar("T")
FORMAT = 2
MOST_WAITING = 20_000  # records; more are refused rather than kept in memory


@dataclass(slots=True)
class _Waiting:
    rows: list[tuple[int, bytes]]
    done: asyncio.Future[list[tuple[int, int]]]


class SqliteLog(Generic[T]):
    """One topic in one file; offsets are dense from 0 in each partition, stamps come from the clock at commit."""

    def __init__(self, path: Path, codec: Codec[T], clock: Clock, partitions: int = 1, archive: Path | None = None) -> None:
        self.path, self.codec, self.clock, self.partitions = path, codec, clock, partitions
        self.archive = None if archive is None else Archive(archive)
        self._writing = ThreadPoolExecutor(1, f"log-{codec.topic}-write")
        self._reading = ThreadPoolExecutor(1, f"log-{codec.topic}-read")
        self._waiting: list[_Waiting] = []
        self._records_waiting = 0
        self._turn: asyncio.Task[None] | None = None
        self._grown = asyncio.Condition()
        self._closed = False
        try:
            self._writer, self._reader = self._open(), self._open()
            self._prepare()
            self._next = [self._count(p) for p in range(partitions)]
        except sqlite3.Error as error:
            raise Misconfigured(f"the log {path} cannot be opened: {error}; if it is damaged, restore it from a backup") from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 5000")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        if (mode, synchronous) != ("wal", 2):
            raise Misconfigured(f"SQLite answers journal_mode={mode}, synchronous={synchronous} for {self.path}: is it on a network share?")
        return connection

    def _prepare(self) -> None:
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        w.execute("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        w.execute(
            "CREATE TABLE IF NOT EXISTS records (partition INTEGER NOT NULL, number INTEGER NOT NULL, stamp INTEGER NOT NULL,"
            " data BLOB NOT NULL, crc INTEGER, PRIMARY KEY (partition, number))"
        )
        if w.execute("SELECT 1 FROM about WHERE name = 'format' AND value = '1'").fetchone():  # its records have no checksum, those to come will
            w.execute("ALTER TABLE records ADD COLUMN crc INTEGER")
            w.execute("UPDATE about SET value = '2' WHERE name = 'format'")
        w.execute(TABLE)
        about = {"format": str(FORMAT), "topic": self.codec.topic, "partitions": str(self.partitions)}
        for name, value in about.items():
            w.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, value))
        kept = dict(w.execute("SELECT name, value FROM about").fetchall())
        faultpoint("log.prepared")
        w.execute("COMMIT")
        if kept != about:
            raise Misconfigured(f"{self.path} is a log of {kept}, not of {about}: it was written by another version or setting")

    def _count(self, partition: int) -> int:
        (last,) = self._writer.execute("SELECT max(number) FROM records WHERE partition = ?", (partition,)).fetchone()
        (sealed,) = self._writer.execute("SELECT max(last) FROM segments WHERE partition = ?", (partition,)).fetchone()
        return max(-1 if last is None else int(last), -1 if sealed is None else int(sealed)) + 1

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        if self._closed:
            raise Unavailable("the log is closed", reason="log_closed")
        if self._records_waiting + len(records) > MOST_WAITING:
            raise Unavailable("more waits to be written than the disk takes; send it again later", reason="overloaded", status=429)
        rows = [(partition_of(key, self.partitions) if partition is None else partition, self.codec.encode(record)) for key, record in records]
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._records_waiting += len(rows)
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._write(), name=f"log-{self.codec.topic}")
        return await asyncio.shield(waiting.done)

    async def _write(self) -> None:
        """Commits what waits, in turns, until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                places = await loop.run_in_executor(self._writing, self._commit, [row for w in group for row in w.rows])
            except sqlite3.Error as error:
                self._fail(group, Unavailable(f"the log cannot be written: {error}", reason="log"))
                continue
            finally:
                self._records_waiting -= sum(len(w.rows) for w in group)
            at = 0
            for w in group:
                if not w.done.done():
                    w.done.set_result(places[at : at + len(w.rows)])
                at += len(w.rows)
            async with self._grown:
                self._grown.notify_all()

    @staticmethod
    def _fail(group: list[_Waiting], error: Unavailable) -> None:
        for w in group:
            if not w.done.done():
                w.done.set_exception(error)
                w.done.exception()  # a waiter that was cancelled meanwhile asks no more

    def _commit(self, rows: list[tuple[int, bytes]]) -> list[tuple[int, int]]:
        stamp, following = self.clock.now(), list(self._next)
        places, values = [], []
        for partition, data in rows:
            places.append((partition, following[partition]))
            values.append((partition, following[partition], stamp, data, zlib.crc32(data)))
            following[partition] += 1
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        try:
            w.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", values)
            faultpoint("log.inserted")
            w.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                w.execute("ROLLBACK")
            raise
        faultpoint("log.committed")
        self._next = following
        return places

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        if self._closed:  # an empty answer would say that nothing is there
            raise Unavailable("the log is closed", reason="log_closed")
        loop, following = asyncio.get_running_loop(), self._next[partition]  # before it is looked at: what comes meanwhile is live, not archived
        rows = await loop.run_in_executor(self._reading, self._fetch, partition, offset, limit)
        live = rows[0][0] if rows else following
        if self.archive is not None and offset < live:
            segments = await loop.run_in_executor(self._reading, self._segments, partition)
            if pruned := await asyncio.to_thread(self.archive.read, segments, offset, live, limit):
                rows = (pruned + rows)[:limit] if pruned[-1][0] == live - 1 else pruned
        read = self.codec.decode_all([data for _, _, data in rows])
        return [Stamped(number, stamp, record) for (number, stamp, _), record in zip(rows, read, strict=True)]

    def _segments(self, partition: int) -> list[Registered]:
        try:
            return registered(self._reader, partition)
        except sqlite3.Error as error:
            raise Unavailable(f"the log {self.path} cannot be read: {error}; if it is damaged, restore it from a backup", reason="log") from error

    def _fetch(self, partition: int, offset: int, limit: int) -> list[Row]:
        query = "SELECT number, stamp, data, crc FROM records WHERE partition = ? AND number >= ? ORDER BY number LIMIT ?"
        try:
            rows = self._reader.execute(query, (partition, offset, limit)).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"the log {self.path} cannot be read: {error}; if it is damaged, restore it from a backup", reason="log") from error
        for number, _, data, crc in rows:
            if crc is not None and zlib.crc32(data) != crc:
                raise Unavailable(f"record {number} of {self.path} is damaged: its checksum does not agree; restore it from a backup", reason="log")
        return [(number, stamp, data) for number, stamp, data, _ in rows]

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        while True:
            async with self._grown:
                await self._grown.wait_for(lambda at=offset: self._closed or self._next[partition] > at)  # type: ignore[misc]
            if self._closed:
                return
            page = await self.read(partition, offset)
            offset = page[-1].offset + 1
            yield page

    async def close(self) -> None:
        """Everything accepted is written first; followers end."""
        if self._closed:
            return
        if self._turn is not None:
            await self._turn
        self._closed = True
        async with self._grown:
            self._grown.notify_all()
        for pool in (self._writing, self._reading):
            await asyncio.to_thread(pool.shutdown)
        self._writer.close()
        self._reader.close()
