"""Brings a database to the newest schema, in one transaction, from any earlier one."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from services.adapters.db.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 7_270_911  # any number of ours: two processes that start together migrate one after the other


def config(connection: Connection) -> Config:
    """Alembic's configuration, bound to an open connection."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = connection
    return made


async def migrate(database: Database, revision: str = "head") -> None:
    """The schema is at `revision`; raises and changes nothing if a step fails. A revision below the present one migrates down."""

    def run(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if revision == "head" or revision.startswith("+"):
            command.upgrade(config(connection), revision)
        else:
            command.downgrade(config(connection), revision)

    async with database.writing() as connection:
        await connection.run_sync(run)
