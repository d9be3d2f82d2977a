"""Brings a database to the newest schema, in one transaction, from any earlier one."""

from __future__ import annotations

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from services.adapters.db.database import Database, sqlstate
from services.kernel.errors import Misconfigured, Unavailable

log = structlog.get_logger("database")
MIGRATIONS = Path(__file__).parent / "migrations"
OLDEST = 15  # of PostgreSQL
LOCK = 7_270_911  # any number of ours: two processes that start together migrate one after the other


def config(connection: Connection) -> Config:
    """Alembic's configuration, bound to an open connection."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = connection
    return made


async def migrate(database: Database, revision: str = "head") -> None:
    """The schema is at `revision`; raises and changes nothing if a step fails. A revision below the present one migrates down.

    Of several that start together one migrates. Who finds the schema as it should be needs no right to change it. Raises Misconfigured where the
    schema is of a newer build, where it has to be changed and may not be, or where the database refuses us.
    """
    there, newest, is_known = await _present(database)
    if not is_known:
        raise Misconfigured(f"the schema of {database.place}, {there}, is of a newer build than this one: start that one, or a newer one")
    if revision == "head" and there == newest:
        return

    def run(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if revision == "head" or revision.startswith("+"):
            command.upgrade(config(connection), revision)
        else:
            command.downgrade(config(connection), revision)

    try:
        async with database.migrating() as connection:
            await connection.run_sync(run)
    except Unavailable as error:
        if isinstance(error.__cause__, DBAPIError) and sqlstate(error.__cause__) == "42501":
            why = f"the schema of {database.place} is {there or 'empty'}, this build needs {newest}, and we may not change it"
            raise Misconfigured(f"{why}: run `trimtab migrate` as its owner (docs/postgres.md)") from error
        raise


async def migrated(database: Database) -> None:
    """The schema is one that this build works with; nothing is changed. Raises Unavailable while it is an older one, which `trimtab migrate` mends.

    That of a newer build is worked with: its migrations leave what the build before it needs, so that both may run while one replaces the other.
    """
    there, newest, is_known = await _present(database)
    if not is_known:
        log.warning("schema of a newer build", database=database.place, schema=there, ours=newest)
    elif there != newest:
        raise Unavailable(f"the schema of {database.place} is {there or 'empty'}, this build needs {newest}: run `trimtab migrate`", reason="schema")


async def _present(database: Database) -> tuple[str | None, str | None, bool]:
    """(the schema that is there, the newest that we know, whether we know the one that is there). Raises Misconfigured where the database is of no use."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    newest, known = scripts.get_current_head(), {s.revision for s in scripts.walk_revisions()}
    try:
        await _look(database)
        async with database.reading() as connection:
            there = await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
    except Unavailable as error:
        if error.reason == "database_refuses":
            raise Misconfigured(str(error)) from error
        raise
    return there, newest, there is None or there in known


async def _look(database: Database) -> None:
    """Raises Misconfigured for a server that is too old or keeps nothing it acknowledges."""
    if database.is_sqlite:
        return
    async with database.reading() as connection:
        version = int(str(await connection.scalar(text("SHOW server_version_num")))) // 10_000
        encoding = str(await connection.scalar(text("SHOW server_encoding")))
    if version < OLDEST:
        raise Misconfigured(f"the database {database.place} is PostgreSQL {version}: {OLDEST} or newer is needed")
    if encoding != "UTF8":
        raise Misconfigured(f"the database {database.place} keeps {encoding}: create it with ENCODING 'UTF8'")
