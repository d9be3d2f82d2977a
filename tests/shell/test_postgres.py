"""PostgreSQL below the services: who goes first, what a lost answer means, what a role may do, what a start says where it cannot."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from deploy.postgres.server import Failed, Server
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.ledger.store import Note
from services.actions.tables import kill_switches
from services.adapters.db.database import Database, Undone, again
from services.adapters.db.metadata import commits, leases
from services.adapters.db.migrate import migrate
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.kernel.errors import Misconfigured, RejectedInput, Unavailable
from tests.proxy import proxied
from tests.roles import OWNER, SERVICE, roles

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def database(on_postgres: Callable[[], str]) -> AsyncIterator[Database]:
    made = Database(on_postgres())
    yield made
    await made.close()


async def put(database: Database, name: str) -> None:
    async with database.writing() as tx:
        await tx.execute(insert(leases).values(name=name, owner="", until=0))


async def names(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.execute(select(leases.c.name).order_by(leases.c.name))).scalars())


# -- turns ------------------------------------------------------------------------------------------------------------------


async def test_who_takes_the_same_turn_sees_all_that_those_before_it_committed(database: Database) -> None:
    other = Database(database.engine.url.render_as_string(hide_password=False))
    async with database.writing() as tx:
        await tx.execute(insert(kill_switches).values(workspace="main", engaged=False, reason="", by="", at=0))

    async def add_one(through: Database) -> None:
        async with through.writing("main") as tx:
            value = (await tx.execute(select(kill_switches.c.at))).scalar_one()
            await asyncio.sleep(0)
            await tx.execute(update(kill_switches).values(at=value + 1))

    await asyncio.gather(*(add_one(d) for d in [database, other] * 20))
    await other.close()
    async with database.reading() as connection:
        assert (await connection.execute(select(kill_switches.c.at))).scalar_one() == 40


async def test_turns_are_taken_in_one_order_whoever_names_them(database: Database) -> None:
    async def both(first: str, second: str) -> None:
        async with database.writing(first, second) as tx:
            await tx.execute(text("SELECT 1"))

    await asyncio.gather(*(both("a", "b") if i % 2 else both("b", "a") for i in range(40)))
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")) == 0


async def test_a_chain_that_many_begin_at_once_is_one_chain(database: Database) -> None:
    async def append(n: int) -> None:
        async with database.writing("actions of main") as tx:
            await ledger.append(tx, "main", [Note("result", f"d{n}", {"n": n})], n)

    await asyncio.gather(*(append(n) for n in range(30)))
    async with database.reading() as connection:
        found = await ledger.check(connection, "main", 2)
    assert isinstance(found, Verified) and found.head.sequence == 30


async def test_a_reader_sees_one_moment_and_writes_nothing(database: Database) -> None:
    async with database.reading() as connection:
        assert (await connection.execute(select(func.count()).select_from(leases))).scalar_one() == 0
        await put(database, "meanwhile")
        assert (await connection.execute(select(func.count()).select_from(leases))).scalar_one() == 0
    assert await names(database) == ["meanwhile"]
    with pytest.raises(Undone, match="read-only"):
        async with database.reading() as connection:
            await connection.execute(insert(leases).values(name="x", owner="", until=0))


async def test_of_two_who_wait_for_each_other_both_come_through(database: Database) -> None:
    for name in ("a", "b"):
        await put(database, name)
    met = asyncio.Barrier(2)
    tries: list[str] = []

    @again
    async def change(first: str, second: str) -> None:
        tries.append(first)
        async with database.writing() as tx:
            await tx.execute(update(leases).where(leases.c.name == first).values(until=leases.c.until + 1))
            if len(tries) <= 2:
                await met.wait()
            await tx.execute(update(leases).where(leases.c.name == second).values(until=leases.c.until + 1))

    await asyncio.gather(change("a", "b"), change("b", "a"))
    async with database.reading() as connection:
        assert (await connection.execute(select(leases.c.until))).scalars().all() == [2, 2]
    assert len(tries) == 3


async def test_a_text_that_cannot_be_kept_is_refused_and_not_our_fault(database: Database) -> None:
    for bad in ("a\x00b", "a\ud800b"):
        with pytest.raises(RejectedInput) as refused:
            await put(database, bad)
        assert (refused.value.reason, refused.value.status) == ("bad_text", 422)


# -- lost answers -------------------------------------------------------------------------------------------------------------


async def test_a_commit_whose_answer_is_lost_is_found_to_have_been_done(database: Database, postgres: Server) -> None:
    async with proxied(postgres.port) as proxy:
        far = Database(postgres.url(str(database.engine.url.database), port=proxy.port))
        for n in range(10):
            proxy.lose_answer = lambda chunk, seen=[]: b"COMMIT;" in chunk and not seen and not seen.append(1)  # type: ignore[misc]
            await put(far, f"n{n}")
        await far.close()
    assert (proxy.cuts, len(await names(database))) == (10, 10)


async def test_a_commit_that_never_arrived_is_found_not_to_have_been_done_and_can_be_done_again(database: Database, postgres: Server) -> None:
    async with proxied(postgres.port) as proxy:
        far = Database(postgres.url(str(database.engine.url.database), port=proxy.port))
        proxy.lose_request = lambda chunk, seen=[]: b"COMMIT;" in chunk and not seen and not seen.append(1)  # type: ignore[misc]
        with pytest.raises(Undone):
            await put(far, "x")
        assert await names(database) == []
        proxy.lose_request = lambda chunk, seen=[]: b"COMMIT;" in chunk and len(seen) < 3 and not seen.append(1)  # type: ignore[misc]
        await again(put)(far, "x")
        await far.close()
    assert await names(database) == ["x"]


async def test_whoever_was_found_not_to_have_committed_cannot_commit_any_more(database: Database) -> None:
    """The old connection may live on at the server, with a COMMIT still on its way."""
    async with database.engine.connect() as late:
        transaction = await late.begin()
        await late.execute(insert(leases).values(name="late", owner="", until=0))
        assert await database._is_committed("c" * 32) is False
        with pytest.raises(DBAPIError):
            await late.execute(insert(commits).values(id="c" * 32, at=1))
        await transaction.rollback()
    assert await names(database) == []


async def test_a_database_that_is_away_is_unavailable_and_says_no_password(postgres: Server) -> None:
    away = Database(f"postgresql://joe:s3cret-enough@127.0.0.1:{1}/trimtab")
    with pytest.raises(Unavailable) as refused:
        async with away.writing() as tx:
            await tx.execute(text("SELECT 1"))
    assert refused.value.reason == "database" and refused.value.retry_after and "s3cret" not in str(refused.value)


@pytest.mark.slow
async def test_what_was_acknowledged_is_there_once_however_often_the_server_is_killed(postgres: Server) -> None:
    """With fsync, as a server must be; `postgres` is asked for only so that a machine without one says so."""
    server = Server().start()
    try:
        database = Database(server.url())
        await migrate(database)
        rng, done, stop, grown = random.Random(7), list[str](), asyncio.Event(), asyncio.Event()

        @again
        async def write(name: str) -> None:
            async with database.writing("ledger") as tx:
                await tx.execute(insert(leases).values(name=name, owner="", until=0))
                await ledger.append(tx, "main", [Note("result", name, {})], 1)

        async def work(worker: int) -> None:
            n = 0
            while not stop.is_set():
                try:
                    await write(f"{worker}.{n}")
                    done.append(f"{worker}.{n}")
                    grown.set()
                    n += 1
                except Unavailable:
                    await asyncio.sleep(0.05)

        workers = [asyncio.create_task(work(i)) for i in range(6)]
        for _ in range(4):
            have = len(done)
            enough = have + rng.randint(20, 60)
            while len(done) < enough:
                await grown.wait()
                grown.clear()
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            await asyncio.to_thread(server.run)
        stop.set()
        await asyncio.gather(*workers)
        async with database.reading() as connection:
            kept = [e.subject for e in await ledger.whole(connection, "main")]
            assert isinstance(await ledger.check(connection, "main"), Verified)
        assert sorted(kept) == sorted(done) == sorted(await names(database))
        await database.close()
    finally:
        server.remove()


# -- starts -------------------------------------------------------------------------------------------------------------------


async def test_of_many_that_start_at_once_one_migrates(postgres: Server) -> None:
    postgres.sql("CREATE DATABASE starting")
    every = [Database(postgres.url("starting")) for _ in range(6)]
    await asyncio.gather(*(migrate(d) for d in every))
    assert await names(every[0]) == []
    for d in every:
        await d.close()
    postgres.sql("DROP DATABASE starting WITH (FORCE)")


async def test_a_schema_of_a_newer_build_is_refused(database: Database) -> None:
    async with database.writing() as tx:
        await tx.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    with pytest.raises(Misconfigured, match="9999_later, is of a newer build than this one"):
        await migrate(database)


@pytest.mark.parametrize(
    ("user", "password", "name", "said"),
    [("trimtab", "wrong", "postgres", "password authentication failed"), ("trimtab", None, "nowhere", 'database "nowhere" does not exist')],
)
async def test_a_start_that_the_database_refuses_says_why_in_one_line(postgres: Server, user: str, password: str | None, name: str, said: str) -> None:
    database = Database(postgres.url(name, user, password))
    with pytest.raises(Misconfigured) as refused:
        await migrate(database)
    assert said in str(refused.value) and "\n" not in str(refused.value) and postgres.password not in str(refused.value)
    await database.close()


async def test_the_services_role_appends_to_the_ledger_and_can_neither_change_it_nor_the_schema(postgres: Server) -> None:
    with roles(postgres) as documented:
        service, owner = Database(documented.url(SERVICE)), Database(documented.url(OWNER))
        with pytest.raises(Misconfigured, match="is empty, this build needs .* and we may not change it: run `trimtab migrate` as its owner"):
            await migrate(service)
        await migrate(owner)
        documented.take_back()
        await migrate(service)  # nothing to do, so no right is needed
        async with service.writing() as tx:
            await ledger.append(tx, "main", [Note("result", "d", {})], 1)
        for forbidden in ("UPDATE ledger SET at = 2", "DELETE FROM ledger", "TRUNCATE ledger", "CREATE TABLE t (a int)", "DROP TABLE ledger",
                          "ALTER TABLE ledger DISABLE TRIGGER ALL", "CREATE SCHEMA s", "UPDATE alembic_version SET version_num = ''"):  # fmt: skip
            with pytest.raises(Failed, match="permission denied|must be owner"):
                documented.sql(forbidden, SERVICE)
        async with service.reading() as connection:
            assert isinstance(await ledger.check(connection, "main"), Verified)
        for database in (owner, service):
            await database.close()


async def test_all_of_trimtab_runs_on_it_and_the_command_line_migrates_it(postgres: Server, tmp_path: Path) -> None:
    postgres.sql("CREATE DATABASE whole")
    environment = {"PATH": os.environ["PATH"], "TRIMTAB_DATA": str(tmp_path), "TRIMTAB_DATABASE": postgres.url("whole")}
    command = [sys.executable, "-m", "services"]
    told = await asyncio.to_thread(subprocess.run, [*command, "migrate"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, f"the schema of whole at 127.0.0.1:{postgres.port} is this build's\n"), told.stderr
    refused = await asyncio.to_thread(subprocess.run, [*command, "backup", "b"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "the database is a PostgreSQL" in refused.stderr
    trimtab = Embedded(Settings(data=tmp_path, database=postgres.url("whole"), port=0))
    try:
        await trimtab.start()
        key = await trimtab.auth.issue_key("shop", "source", "main")
    finally:
        await trimtab.stop()
    assert postgres.sql("SELECT name FROM api_keys", "whole") == "shop" and key
    assert not (tmp_path / "trimtab.db").exists()
    postgres.sql("DROP DATABASE whole WITH (FORCE)")
