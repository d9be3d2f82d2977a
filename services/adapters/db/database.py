"""The database: readers see one snapshot, a writer's transaction is durable when its block ends, or none of it is there.

Writers of SQLite go one after another. Those of PostgreSQL do where they take the same turn: a lock that is theirs until their transaction ends, taken
before anything is read, so that each sees all that those before it committed. What needs no turn needs no more than a guarded statement.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asyncpg import InterfaceError as AsyncpgInterfaceError
from asyncpg import PostgresError
from sqlalchemy import BigInteger, Connection, bindparam, event, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError, DisconnectionError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from services.adapters.db.address import parse, without_tls
from services.adapters.faultpoint import faultpoint
from services.kernel.errors import Misconfigured, RejectedInput, Unavailable

P = ParamSpec("P")
R = TypeVar("R")
BUSY_TIMEOUT_MS = 10_000
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
AGAIN = 6  # times that a transaction which the database undid is tried
SETTLES = 30.0  # seconds in which it is found out whether a transaction was committed
ANSWERS = 30.0  # seconds in which PostgreSQL answers a statement, or counts as away
CONNECTS = 5.0
PRUNE_EVERY = 1_000  # commits
# Of a session. Whoever holds a turn and has gone is ended by the server, and the turn is free.
SESSION = {
    "application_name": "trimtab",
    "lock_timeout": "10s",
    "statement_timeout": "25s",
    "idle_in_transaction_session_timeout": "20s",
    "synchronous_commit": "on",
    "TimeZone": "UTC",
}
LOST = (DBAPIError, PostgresError, AsyncpgInterfaceError, OSError)  # how a lost connection shows, where it does
UNDONE = ("40001", "40P01", "0A000")  # serialization failure, deadlock, a statement that was prepared before the schema changed
UNKEPT = ("22021", "22P05")  # a NUL, or half a character
WRONG = ("28000", "28P01", "3D000", "42501", "3F000")  # nobody by this name, another password, no such database, no right
MISSING = ("42P01", "42703")  # a table or a column, while somebody migrates or restores
NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"
TURNS = bindparam("turns", type_=ARRAY(BigInteger))
BEGUN = text(f"INSERT INTO commits (id, at) VALUES (:id, {NOW})")
IN_TURN = text(f"WITH begun AS (INSERT INTO commits (id, at) VALUES (:id, {NOW})) SELECT pg_advisory_xact_lock(k) FROM unnest(:turns) AS k").bindparams(TURNS)
# Waits for a transaction that has inserted the same id and not ended; afterwards no other can commit it. Ours is told apart by its sign.
FENCED = text(f"INSERT INTO commits (id, at) VALUES (:id, -{NOW}) ON CONFLICT DO NOTHING")
SETTLED = text("SELECT at FROM commits WHERE id = :id")
PRUNED = text(f"DELETE FROM commits WHERE id IN (SELECT id FROM commits WHERE abs(at) < {NOW} - 600000000 LIMIT 5000 FOR UPDATE SKIP LOCKED)")


class Undone(Unavailable):
    """The database took a transaction back, and nothing of it is there: it may be tried again at once."""

    reason = "database"


def again(act: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Of a method that is one transaction and nothing beside: where the database took it back, it is done again, some times."""

    @wraps(act)
    async def acts(*args: P.args, **kwargs: P.kwargs) -> R:
        for tried in range(1, AGAIN):
            try:
                return await act(*args, **kwargs)
            except Undone:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**tried))  # noqa: S311  those who collided must not do so again
        return await act(*args, **kwargs)

    return acts


def create_engine(url: str, password: str = "") -> AsyncEngine:
    """An engine for sqlite:///FILE or postgresql://...; a SQLite file is opened with WAL and full durability, or the first connection is refused."""
    parsed = parse(url, password)
    if parsed.get_backend_name() == "postgresql":
        plain, tls = without_tls(parsed)
        arguments = {"server_settings": SESSION, "timeout": CONNECTS, "command_timeout": ANSWERS, **tls}
        engine = create_async_engine(plain, connect_args=arguments, pool_size=20, max_overflow=0, pool_timeout=10, isolation_level="READ COMMITTED")
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return engine
    engine = create_async_engine(parsed)
    event.listen(engine.sync_engine, "connect", _open_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    event.listen(engine.sync_engine, "invalidate", _roll_back)
    return engine


class Database:
    """One database and the two ways to use it."""

    connected = 0  # how often a connection was made: after another one it may be another database, for instance one that was restored

    def __init__(self, url: str, password: str = "") -> None:
        self.engine = create_engine(url, password)
        event.listen(self.engine.sync_engine, "connect", self._count)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.place = place(self.engine.url)
        self._writer = asyncio.Lock()  # writers of one process queue here instead of polling SQLite's lock
        self._readers = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._commits = 0

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view; nothing written through it stays. Raises Unavailable where the database cannot be asked."""
        with self._translated():
            async with self._readers.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self, *turns: str) -> AsyncIterator[AsyncConnection]:
        """One transaction: durable when the block ends, undone when it raises. Whoever takes one of the same turns waits until then.

        Raises Unavailable where the database cannot be asked; Undone where nothing of it is there, and it may be tried again.
        """
        if self.is_sqlite:
            async with self._writer:
                with self._translated():
                    async with self.engine.connect() as connection:
                        await connection.execution_options(is_writer=True)
                        async with connection.begin():
                            yield connection
                            faultpoint("database.written")
                        faultpoint("database.committed")
            return
        commit = secrets.token_hex(16)
        with self._translated():
            async with self.engine.connect() as connection:
                async with connection.begin() as transaction:
                    keys = sorted(turn_key(turn) for turn in set(turns))  # in one order everywhere, so that two cannot wait for each other
                    await connection.execute(IN_TURN if keys else BEGUN, {"id": commit, "turns": keys} if keys else {"id": commit})
                    yield connection
                    await self._prune(connection)
                    faultpoint("database.written")
                    try:
                        await transaction.commit()
                    except LOST as error:
                        if not is_ambiguous(error):
                            raise
                        if not await self._is_committed(commit):
                            raise Undone("the connection to the database was lost before it committed; nothing of it is there") from error
                faultpoint("database.committed")

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """One transaction for as long as it takes, whatever the schema is."""
        async with self._writer:
            with self._translated():
                async with self.engine.connect() as connection:
                    await connection.execution_options(is_writer=True)
                    async with connection.begin():
                        if not self.is_sqlite:
                            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                                await connection.execute(text(f"SET LOCAL {name} = 0"))
                        yield connection

    async def close(self) -> None:
        await self.engine.dispose()

    def _count(self, *_: Any) -> None:
        self.connected += 1

    async def _prune(self, connection: AsyncConnection) -> None:
        """What nobody can be in doubt about any more is forgotten."""
        self._commits += 1
        if self._commits % PRUNE_EVERY == 0:
            await connection.execute(PRUNED)

    async def _is_committed(self, commit: str) -> bool:
        """Found out by asking, never by doing it again. Raises Unavailable where the database does not say in time."""
        until, pause = asyncio.get_running_loop().time() + SETTLES, 0.05
        while True:
            try:
                async with self.engine.connect() as connection:
                    async with connection.begin():
                        await connection.execute(FENCED, {"id": commit})
                    return int(await connection.scalar(SETTLED, {"id": commit}) or 0) > 0
            except (*LOST, TimeoutError) as error:
                if asyncio.get_running_loop().time() > until:
                    raise Unavailable("the database was lost while it committed, and whether it did is not known yet", reason="database") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns a database that is away into Unavailable, without the statement's parameters."""
        try:
            yield
        except TimeoutError as error:
            raise Unavailable("no database connection became free in time", reason="database") from error
        except (DBAPIError, PostgresError, AsyncpgInterfaceError) as error:
            if self.is_sqlite:
                self._raise_of_sqlite(error)
            else:
                self._raise_of_postgresql(error)
            raise
        except OSError as error:  # a connection that failed, or an answer that did not come in time
            if self.is_sqlite:
                raise
            raise Undone(f"the database {self.place} cannot be reached: {error or 'it did not answer in time'}") from error

    def _raise_of_sqlite(self, error: Exception) -> None:
        if isinstance(error, (OperationalError, InterfaceError)):
            raise Unavailable(f"the database cannot be used: {error.orig}", reason="database") from error
        if isinstance(error, DatabaseError) and getattr(error.orig, "sqlite_errorcode", 0) in DAMAGED:
            raise Unavailable(f"the database {self.place} is damaged: {error.orig}; restore it from a backup", reason="database") from error

    def _raise_of_postgresql(self, error: Exception) -> None:
        """The database says no to one thing (then it is raised as it is), to this one (RejectedInput), or to anything just now."""
        state = sqlstate(error)
        said = str(getattr(error, "orig", None) or error).rpartition(">: ")[2].partition("\n")[0]
        if state in UNKEPT or (state == "22000" and "surrogates not allowed" in said):  # the latter is the driver's word
            raise RejectedInput("a text holds a character that cannot be kept (NUL, or half of one)", reason="bad_text", status=422) from error
        if state in UNDONE:
            raise Undone(f"the database took the transaction back: {said}") from error
        if state in MISSING:
            raise Unavailable(f"the schema of {self.place} is not this build's: {said}", reason="database") from error
        if state in WRONG:
            raise Unavailable(f"the database {self.place} refuses us: {said}", reason="database_refuses") from error
        if state is None or state == "55P03" or state[:2] in ("08", "53", "57", "58", "XX") or state in ("25006", "25P03"):
            raise Undone(f"the database {self.place} cannot be used: {said}") from error


def place(url: URL) -> str:
    """Where the database is, without who uses it."""
    return url.database or "" if url.get_backend_name() == "sqlite" else f"{url.database} at {url.host}:{url.port or 5432}"


def turn_key(turn: str) -> int:
    """The number of the turn's lock; that two turns share one costs a wait, nothing else."""
    return int.from_bytes(hashlib.sha256(turn.encode()).digest()[:8], "big", signed=True)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of the error; None where the driver made it itself, which it does where the connection is lost."""
    found = getattr(getattr(error, "orig", None), "sqlstate", None) or getattr(error, "sqlstate", None)
    return str(found) if found else None


def is_ambiguous(error: BaseException) -> bool:
    """Whether a COMMIT that ended with this error may have been done all the same."""
    state = sqlstate(error)
    return state is None or state[:2] in ("08", "57")


def _refuse_closed(connection: Any, _: Any, __: Any) -> None:
    """A connection that was lost while nobody used it is not handed out; known without asking the server."""
    if connection._connection.is_closed():
        raise DisconnectionError("lost while it was idle")


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


def _roll_back(connection: Any, _: Any, __: Any) -> None:
    """What a cancelled task had begun is undone before its connection is closed.

    A statement that was half read outlives its connection until it is collected, and keeps the transaction, and the lock on the file, for as long.
    """
    if in_greenlet():
        with suppress(DatabaseError, sqlite3.Error, asyncio.CancelledError):  # it is cancelled already, and the rollback is under way
            connection.rollback()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("is_writer") else "BEGIN")
