"""The database keeps what it promised, and its migrations lead exactly to what the code expects."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, insert, inspect, select, text, update

from services.actions.tables import kill_switches
from services.adapters.db.database import Database, create_engine
from services.adapters.db.metadata import metadata
from services.adapters.db.migrate import migrate
from services.kernel.errors import Misconfigured, Unavailable

ROOT = Path(__file__).parents[2]
for tables in sorted(ROOT.glob("services/**/tables.py")):
    import_module(".".join(tables.relative_to(ROOT).with_suffix("").parts))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'trimtab.db'}")
    yield made
    await made.close()


@pytest.fixture
async def either(database_url: str) -> AsyncIterator[Database]:
    """An empty database of either kind."""
    made = Database(database_url)
    await migrate(made)
    await migrate(made, "base")
    yield made
    await made.close()


def difference(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
    return list(compare_metadata(context, metadata))


async def test_the_migrations_lead_to_what_the_models_say(either: Database) -> None:
    await migrate(either)
    async with either.reading() as connection:
        assert await connection.run_sync(difference) == []


async def test_up_down_and_up_again_leaves_nothing_behind(either: Database) -> None:
    await migrate(either)
    await migrate(either, "base")
    async with either.reading() as connection:
        assert await connection.run_sync(lambda c: inspect(c).get_table_names()) == ["alembic_version"]
    await migrate(either)
    async with either.reading() as connection:
        assert await connection.run_sync(difference) == []


async def test_migrating_twice_changes_nothing(either: Database) -> None:
    await migrate(either)
    async with either.writing() as tx:
        await tx.execute(insert(kill_switches).values(workspace="main", engaged=True, reason="r", by="b", at=1))
    await migrate(either)
    async with either.reading() as connection:
        assert (await connection.execute(select(kill_switches.c.reason))).scalar_one() == "r"


async def test_sqlite_runs_with_wal_and_full_durability(database: Database) -> None:
    async with database.reading() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2


async def test_concurrent_writers_lose_no_update(database: Database, tmp_path: Path) -> None:
    """Also between two processes' worth of engines on one file: a deferred transaction would fail or lose one."""
    await migrate(database)
    other = Database(f"sqlite:///{tmp_path / 'trimtab.db'}")
    async with database.writing() as tx:
        await tx.execute(insert(kill_switches).values(workspace="main", engaged=False, reason="", by="", at=0))

    async def add_one(through: Database) -> None:
        async with through.writing() as tx:
            value = (await tx.execute(select(kill_switches.c.at))).scalar_one()
            await asyncio.sleep(0)
            await tx.execute(update(kill_switches).values(at=value + 1))

    await asyncio.gather(*(add_one(d) for d in [database, other] * 20))
    await other.close()
    async with database.reading() as connection:
        assert (await connection.execute(select(kill_switches.c.at))).scalar_one() == 40


async def test_a_failed_block_leaves_nothing(either: Database) -> None:
    await migrate(either)
    with pytest.raises(RuntimeError):
        async with either.writing() as tx:
            await tx.execute(insert(kill_switches).values(workspace="main", engaged=True, reason="", by="", at=0))
            raise RuntimeError("no")
    async with either.reading() as connection:
        assert (await connection.execute(select(kill_switches))).all() == []


async def test_a_database_that_is_away_is_unavailable_and_says_no_values(tmp_path: Path) -> None:
    away = Database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    with pytest.raises(Unavailable) as refused:
        async with away.writing() as tx:
            await tx.execute(text("SELECT :secret"), {"secret": "hunter2"})
    assert refused.value.reason == "database" and "hunter2" not in str(refused.value)
    await away.close()
    for thread in [t for t in threading.enumerate() if "connection_worker" in t.name]:  # the driver lets go of a failed connection without waiting
        await asyncio.to_thread(thread.join, 5)


async def test_a_file_that_another_process_holds_for_too_long_is_unavailable(database: Database, tmp_path: Path) -> None:
    await migrate(database)
    holder = sqlite3.connect(tmp_path / "trimtab.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Unavailable):
            async with database.reading() as connection:
                await connection.exec_driver_sql("PRAGMA busy_timeout = 1")
                await connection.exec_driver_sql("INSERT INTO leases VALUES ('main', '', 0)")
    finally:
        holder.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x", "nonsense"])
def test_an_address_that_cannot_keep_anything_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured):
        create_engine(url)


def test_postgresql_is_reached_through_its_asynchronous_driver() -> None:
    assert create_engine("postgresql://joe@localhost/trimtab").dialect.driver == "asyncpg"


async def test_a_task_that_is_cancelled_while_it_reads_in_its_transaction_leaves_no_lock_behind(database: Database) -> None:
    """Whoever collects garbage later must not decide when others may write."""
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def cancel() -> int:
        """Called by SQLite for the first row, so before anybody awaits the second."""
        loop.call_soon_threadsafe(tasks[0].cancel)
        return 1

    event.listen(database.engine.sync_engine, "connect", lambda connection, _: connection.create_function("cancelled", 0, cancel))
    async with database.writing() as tx:
        await tx.execute(text("CREATE TABLE t (a INTEGER)"))
        await tx.execute(text("INSERT INTO t VALUES (1), (2), (3)"))

    async def work() -> None:
        async with database.writing() as tx:
            await tx.execute(text("UPDATE t SET a = a + 10"))
            await tx.execute(text("SELECT cancelled(), a FROM t"))

    gc.disable()
    try:
        tasks.append(asyncio.create_task(work()))
        with pytest.raises(asyncio.CancelledError) as ended:  # held on to, as a log line or a debugger would
            await tasks[0]
        async with asyncio.timeout(5), database.writing() as tx:
            assert (await tx.execute(text("SELECT a FROM t"))).scalars().all() == [1, 2, 3]
            await tx.execute(text("INSERT INTO t VALUES (4)"))
        del ended
    finally:
        gc.enable()
