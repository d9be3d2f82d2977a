"""The database: readers see one snapshot, a writer's transaction is durable when its block ends, or none of it is there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.kernel.errors import Misconfigured, Unavailable

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
BUSY_TIMEOUT_MS = 10_000
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def create_engine(url: str) -> AsyncEngine:
    """An engine for sqlite:///FILE or postgresql://...; a SQLite file is opened with WAL and full durability, or the first connection is refused."""
    parsed = _with_driver(url)
    if parsed.get_backend_name() == "postgresql":
        return create_async_engine(parsed, pool_pre_ping=True)
    engine = create_async_engine(parsed)
    event.listen(engine.sync_engine, "connect", _open_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


class Database:
    """One database and the two ways to use it."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.place = self.engine.url.database or ""
        self._writer = asyncio.Lock()  # writers of one process queue here instead of polling SQLite's lock

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view; nothing written through it stays. Raises Unavailable where the database cannot be asked."""
        with _translated(self.place):
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: durable when the block ends, undone when it raises. Raises Unavailable where the database cannot be asked."""
        async with self._writer if self.is_sqlite else _no_lock():
            with _translated(self.place):
                async with self.engine.connect() as connection:
                    await connection.execution_options(is_writer=True)
                    async with connection.begin():
                        yield connection

    async def close(self) -> None:
        await self.engine.dispose()


@asynccontextmanager
async def _no_lock() -> AsyncIterator[None]:
    yield


class _translated:
    """Turns a database that is away into Unavailable, without the statement's parameters."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OperationalError, InterfaceError)):
            raise Unavailable(f"the database cannot be used: {error.orig}", reason="database") from error
        if isinstance(error, TimeoutError):
            raise Unavailable("no database connection became free in time", reason="database") from error
        if isinstance(error, DatabaseError) and getattr(error.orig, "sqlite_errorcode", 0) in DAMAGED:
            raise Unavailable(f"the database {self.place} is damaged: {error.orig}; restore it from a backup", reason="database") from error


def _with_driver(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Misconfigured("the database address is not one: use sqlite:///FILE or postgresql://USER@HOST/NAME") from error
    backend = parsed.get_backend_name()
    if backend not in DRIVERS:
        raise Misconfigured(f"databases of kind {backend!r} are not supported: use sqlite:///FILE or postgresql://USER@HOST/NAME")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise Misconfigured("the SQLite database must be a file: decisions and the ledger have to outlive the process")
    return parsed.set(drivername=DRIVERS[backend])


def _open_sqlite(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: it would begin them deferred, and a deferred writer loses to another with "database is locked".
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        journal = cursor.fetchone()[0]
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA synchronous")
        synchronous = cursor.fetchone()[0]
    finally:
        cursor.close()
    if (journal, synchronous) != ("wal", 2):
        raise Misconfigured(f"SQLite answers journal_mode={journal}, synchronous={synchronous} where wal and 2 are needed: is the file on a network share?")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("is_writer") else "BEGIN")
