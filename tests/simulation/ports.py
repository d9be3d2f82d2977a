"""The seams of one process onto the shared world: its logs, its database, the disk for its checkpoints. All of it takes virtual time and may fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from services.adapters.db.database import Database
from services.adapters.log.codec import Codec
from services.adapters.log.memory import MemoryLog
from services.kernel.errors import Unavailable
from services.kernel.record import Stamped
from tests.simulation.chance import Faults, Trace
from tests.simulation.loop import SECOND, Loop, Process
from tests.simulation.sql import run

T = TypeVar("T")
BUSY = 10 * SECOND  # how long a writer waits for another, as the real database does
POLL = SECOND // 20


class SharedLog(Generic[T]):
    """The memory log and who waits for it to grow. `clock` is that of the log's host: it may step back, as across a change of leader."""

    def __init__(self, codec: Codec[T], clock: Process, loop: Loop, trace: Trace, name: str) -> None:
        self.inner: MemoryLog[T] = MemoryLog(codec, clock)
        self.loop, self.trace, self.name = loop, trace, name
        self.waiting: list[asyncio.Future[None]] = []

    @property
    def kept(self) -> list[tuple[int, bytes]]:
        return self.inner.kept[0]

    def put_bytes(self, data: bytes) -> int:
        """Straight onto the disk, whatever it is."""
        self.kept.append((self.inner.clock.now(), data))
        self.trace.tell(self.loop.at, "disk", f"log {self.name} {len(self.kept) - 1} {data.hex()}")
        self.grown()
        return len(self.kept) - 1

    async def append(self, who: str, records: Sequence[tuple[str, T]]) -> Sequence[tuple[int, int]]:
        places = await self.inner.append(records)
        for _, offset in places:
            stamp, data = self.kept[offset]
            self.trace.tell(self.loop.at, who, f"log {self.name} {offset} {stamp} {blake2b(data, digest_size=8).hexdigest()}")
        if self.trace.lines is not None:
            self.trace.lines += [f"{'':29}{record!r:.400}" for _, record in records]
        self.grown()
        return places

    def grown(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class LogPort(Generic[T]):
    """A process's way to a log: an append may be refused, or get through and be reported as failed."""

    def __init__(self, shared: SharedLog[T], process: Process, faults: Faults) -> None:
        self.shared, self.process, self.faults = shared, process, faults

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        chance = self.process.loop.chance
        await self.process.passes(int(2_000 * chance.random()))
        if self.faults.strikes("append.refused"):
            raise Unavailable("the log does not answer", reason="log")
        places = await self.shared.append(self.process.name, records)
        await self.process.passes(int((8 * SECOND if self.faults.strikes("append.slow") else 3_000) * chance.random()))
        if self.faults.strikes("append.ambiguous"):
            raise Unavailable("the log did not say whether it has it", reason="log")
        return places

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        await self.process.passes(int(1_000 * self.process.loop.chance.random()))
        return await self.shared.inner.read(partition, offset, limit)

    def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        return _Following(self, partition, offset)

    async def close(self) -> None: ...


class _Following(Generic[T]):
    def __init__(self, port: LogPort[T], partition: int, offset: int) -> None:
        self.port, self.partition, self.offset = port, partition, offset

    def __aiter__(self) -> _Following[T]:
        return self

    async def __anext__(self) -> Sequence[Stamped[T]]:
        shared, process = self.port.shared, self.port.process
        while len(shared.kept) <= self.offset:
            future = process.loop.create_future()
            shared.waiting.append(future)
            await future
        some = 1 + int(12 * process.loop.chance.random() ** 3)  # pages end anywhere
        page = await self.port.read(self.partition, self.offset, some)
        self.offset = page[-1].offset + 1
        return page


# -- the database -----------------------------------------------------------------------------------------------------------

class Disk:
    """The database file all processes share: what is committed stays, whoever is killed."""

    def __init__(self, place: str, loop: Loop, faults: Faults, trace: Trace) -> None:
        self.place, self.loop, self.faults, self.trace = place, loop, faults, trace
        self.every: list[sqlite3.Connection] = []
        self._left: list[sqlite3.Connection] = []  # by processes that have ended

    def open(self, is_writer: bool, process: Process) -> sqlite3.Connection:
        connection = self._left.pop() if self._left else self._connect()
        if is_writer:
            connection.set_trace_callback(lambda text: self._told(process, text))
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.place, isolation_level=None, timeout=0)
        connection.execute("PRAGMA synchronous = OFF")
        self.every.append(connection)
        return connection

    def drop(self, connection: sqlite3.Connection) -> None:
        """As the system closes what a process leaves behind: what was not committed is undone."""
        connection.set_trace_callback(None)
        connection.rollback()
        self._left.append(connection)

    def _told(self, process: Process, text: str) -> None:
        if not text.startswith(("SELECT", "BEGIN")):
            self.trace.tell(self.loop.at, process.name, text)

    def look(self) -> sqlite3.Connection:
        """A connection for those who only look on."""
        return sqlite3.connect(self.place, isolation_level=None)

    def close(self) -> None:
        for connection in self.every:
            connection.set_trace_callback(None)
            connection.close()
        self.every.clear()


class _Transaction:
    """The two methods of a connection that the services use; each statement is a way to the database and back."""

    __slots__ = ("connection", "process")

    def __init__(self, connection: sqlite3.Connection, process: Process) -> None:
        self.connection, self.process = connection, process

    async def execute(self, *statement: Any) -> Any:
        await self._passes()
        return run(self.connection, *statement)

    async def scalar(self, *statement: Any) -> Any:
        await self._passes()
        return run(self.connection, *statement).scalar()

    async def _passes(self) -> None:
        chance = self.process.loop.chance.random()
        if chance < 0.3 or not self.process.alive:
            await self.process.passes(int(1_000 * chance))


class SimulatedDatabase(Database):
    """SQLite without threads: each statement is done at once, each wait is virtual."""

    def __init__(self, disk: Disk, process: Process, faults: Faults) -> None:
        self.disk, self.process, self.faults = disk, process, faults
        self.is_sqlite, self.place = True, disk.place
        self._writer = asyncio.Lock()
        self._free: dict[bool, list[sqlite3.Connection]] = {True: [], False: []}
        self._open: list[sqlite3.Connection] = []
        self.writes = 0  # transactions under way that may hold the write lock
        process.on_kill.append(self._release)

    def _release(self) -> None:
        """What the system does for a process that has ended: its connections are closed, what was not committed is undone."""
        for connection in self._open:
            self.disk.drop(connection)
        self._open.clear()

    def _take(self, is_writer: bool) -> sqlite3.Connection:
        if self._free[is_writer]:
            return self._free[is_writer].pop()
        connection = self.disk.open(is_writer, self.process)
        self._open.append(connection)
        return connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        await self.process.passes(int(500 * self.process.loop.chance.random()))
        connection = self._take(False)
        connection.execute("BEGIN")
        try:
            yield _Transaction(connection, self.process)
        finally:
            if self.process.alive:
                connection.rollback()
                self._free[False].append(connection)

    @asynccontextmanager
    async def writing(self, *turns: str) -> AsyncIterator[Any]:
        async with self._writer:
            await self.process.passes(int(500 * self.process.loop.chance.random()))
            connection = await self._begin()
            self.writes += 1
            try:
                yield _Transaction(connection, self.process)
                await self._commit(connection)
            finally:
                self.writes -= 1
                if self.process.alive:
                    connection.rollback()
                    self._free[True].append(connection)
            await self.process.passes(int(1_000 * self.process.loop.chance.random()))
            if self.faults.strikes("commit.ambiguous"):
                raise Unavailable("the database cannot be used: the connection was lost during COMMIT", reason="database")

    async def _begin(self) -> sqlite3.Connection:
        until = self.process.loop.at + BUSY
        connection = self._take(True)
        is_busy = self.faults.strikes("database.busy")
        while True:
            try:
                if is_busy:
                    raise sqlite3.OperationalError("database is locked")
                connection.execute("BEGIN IMMEDIATE")
                return connection
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or self.process.loop.at >= until:
                    self._free[True].append(connection)
                    raise Unavailable(f"the database cannot be used: {error}", reason="database") from error
            await self.process.passes(POLL * 20 if is_busy else POLL)

    async def _commit(self, connection: sqlite3.Connection) -> None:
        await self.process.passes(int(2_000 * self.process.loop.chance.random()))
        if self.faults.strikes("commit.lost"):
            connection.rollback()
            raise Unavailable("the database cannot be used: disk I/O error", reason="database")
        connection.commit()

    async def close(self) -> None: ...

