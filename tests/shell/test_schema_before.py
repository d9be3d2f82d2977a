"""Migrations are safe while the version before still runs: each only adds, so what that version writes and reads goes on working after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, inspect

from services.adapters.db.database import Database
from services.adapters.db.migrate import MIGRATIONS, migrate

REVISIONS = [s.revision for s in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
# What a migration does that its predecessor's code could feel, and why it cannot after all: (revision, what `harm` says) -> the reason.
REASONS: Mapping[tuple[str, str], str] = {}
TRIGGERS = {
    "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal",
}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of either kind."""
    made = Database(database_url)
    await migrate(made)
    yield made
    await made.close()


@pytest.fixture
async def empty(database: Database) -> Database:
    await migrate(database, "base")
    return database


# -- what a schema asks of who writes and promises to who reads -----------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    type: str
    length: int | None
    may_be_null: bool
    fills_itself: bool


@dataclass(frozen=True)
class Shape:
    columns: Mapping[str, Field]
    key: tuple[str, ...]
    unique: frozenset[tuple[str, ...]]
    demands: frozenset[str]  # checks, foreign keys and triggers


def shapes(connection: Connection, only: Collection[str] = ()) -> dict[str, Shape]:
    seen = inspect(connection)
    triggers = [(str(table), str(name)) for table, name in connection.exec_driver_sql(TRIGGERS[connection.dialect.name])]
    found = {}
    for table in set(seen.get_table_names()) - {"alembic_version"}:
        if only and table not in only:
            continue
        key = tuple(seen.get_pk_constraint(table)["constrained_columns"])
        columns = {}
        for column in seen.get_columns(table):
            type_ = column["type"].as_generic()
            fills_itself = column["default"] is not None or bool(column.get("identity")) or (key == (column["name"],) and isinstance(type_, sa.Integer))
            length = getattr(type_, "length", None)
            columns[column["name"]] = Field(type_.__class__.__name__, length, bool(column["nullable"]), fills_itself)
        unique = {tuple(u["column_names"]) for u in seen.get_unique_constraints(table)}
        unique |= {tuple(str(name) for name in i["column_names"]) for i in seen.get_indexes(table) if i["unique"]}
        demands = {f"check {c['sqltext']}" for c in seen.get_check_constraints(table)}
        demands |= {f"foreign key {','.join(k['constrained_columns'])}" for k in seen.get_foreign_keys(table)}
        demands |= {f"trigger {name}" for of, name in triggers if of == table}
        found[table] = Shape(columns, key, frozenset(unique), frozenset(demands))
    return found


def is_wider(before: Field, after: Field) -> bool:
    """Whatever was kept in the one is kept in the other, and reads the same."""
    if (before.type, after.type) in (("String", "Text"), ("Integer", "BigInteger"), ("SmallInteger", "Integer")):
        return True
    return before.type == after.type == "String" and (after.length is None or (before.length or after.length + 1) <= after.length)


def harm(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> list[str]:
    """What code that was written for the schema before could feel of the one after."""
    said = []
    for name, old in before.items():
        if name not in after:
            said.append(f"{name} is gone")
            continue
        new = after[name]
        for column, field in old.columns.items():
            now = new.columns.get(column)
            if now is None:
                said.append(f"{name}.{column} is gone")
                continue
            if (now.type, now.length) != (field.type, field.length) and not is_wider(field, now):
                said.append(f"{name}.{column} was {field.type} and is {now.type}" if now.type != field.type else f"{name}.{column} is shorter")
            if now.may_be_null != field.may_be_null:
                said.append(f"{name}.{column} may be null" if now.may_be_null else f"{name}.{column} must not be null")
            if field.fills_itself and not now.fills_itself:
                said.append(f"{name}.{column} has no default any more")
        said += [f"{name}.{c} is new and must be given" for c, f in new.columns.items() if c not in old.columns and not (f.may_be_null or f.fills_itself)]
        said += [f"{name} has another key"] if new.key != old.key else []
        said += [f"{name} is unique by {','.join(u)}" for u in sorted(new.unique - old.unique)]
        said += [f"{name} is not unique by {','.join(u)} any more" for u in sorted(old.unique - new.unique)]  # what `ON CONFLICT` names
        said += [f"{name} has the {d}" for d in sorted(new.demands - old.demands)]
        said += [f"{name} has not the {d} any more" for d in sorted(old.demands - new.demands)]
    return said


# -- each migration ---------------------------------------------------------------------------------------------------------------


async def test_each_migration_only_adds_to_what_the_version_before_knows(empty: Database) -> None:
    seen = []
    for _ in REVISIONS:
        await migrate(empty, "+1")
        async with empty.reading() as connection:
            seen.append(await connection.run_sync(shapes))
    assert len(seen) >= 7 and all(len(after) >= len(before) for before, after in pairwise(seen))
    said = {(revision, what) for revision, (before, after) in zip(REVISIONS[1:], pairwise(seen), strict=True) for what in harm(before, after)}
    assert said - set(REASONS) == set(), "the version before cannot go on beside this: add first, take away a version later, or say in REASONS why it can"
    assert {revision for revision, _ in REASONS} <= set(REVISIONS[1:]) and all(REASONS.values())


def some(column: Column[Any], number: int) -> Any:
    match column.type:
        case sa.Boolean():
            return bool(number % 2)
        case sa.Integer():
            return number
        case sa.LargeBinary():
            return b"%d" % number
        case sa.String():
            return f"{number:03}".ljust(column.type.length or 2_000, "x")
    raise AssertionError(f"no value of {column.type} is known")


def row(table: Table, number: int) -> dict[str, Any]:
    return {column.name: some(column, number) for column in table.columns}


def of(table: Table, *numbers: int) -> sa.ColumnElement[bool]:
    return sa.or_(*(sa.and_(*(column == some(column, number) for column in table.primary_key)) for number in numbers))


def known(connection: Connection) -> list[Table]:
    """The tables as code of this schema knows them."""
    found = MetaData()
    found.reflect(connection)
    return [table for name, table in sorted(found.tables.items()) if name != "alembic_version"]


async def test_what_the_version_before_writes_and_reads_goes_on_after_each_migration(empty: Database) -> None:
    """With exactly its columns: a row of before is there after, another is written, read, changed and deleted."""
    await migrate(empty, "+1")
    for number, revision in enumerate(REVISIONS[1:]):
        old, new, changed = (3 * number + i for i in range(3))
        async with empty.migrating() as connection:
            tables = await connection.run_sync(known)
            for table in tables:
                await connection.execute(table.insert().values(row(table, old)))
        await migrate(empty, "+1")
        async with empty.migrating() as connection:
            for table in tables:
                await connection.execute(table.insert().values(row(table, new)))
                both = await connection.execute(sa.select(table).where(of(table, old, new)).order_by(*table.primary_key))
                assert [tuple(r) for r in both] == [tuple(row(table, n).values()) for n in (old, new)], f"{table.name} after {revision}"
                if table.name == "ledger":
                    continue  # only ever appended to
                values = {c.name: some(c, changed) for c in table.columns if not c.primary_key}
                if values:
                    await connection.execute(table.update().where(of(table, new)).values(values))
                read = (await connection.execute(sa.select(table).where(of(table, new)))).one()
                assert tuple(read) == tuple((row(table, new) | values).values()), f"{table.name} after {revision}"
                await connection.execute(table.delete())


# -- and what would not be safe is seen ---------------------------------------------------------------------------------------------

Change = Callable[[Operations], object]


def within(table: str, change: Callable[[Any], object]) -> Change:
    def do(op: Operations) -> None:
        with op.batch_alter_table(table) as batch:
            change(batch)

    return do


UNSAFE: dict[str, Change] = {
    "leases is gone": lambda op: op.drop_table("leases"),
    "outbox is gone": lambda op: op.rename_table("outbox", "outgoing"),
    "leases.owner is gone": within("leases", lambda b: b.drop_column("owner")),
    "leases.until is gone; leases.ends is new and must be given": within("leases", lambda b: b.alter_column("until", new_column_name="ends")),
    "leases.until was BigInteger and is Text": within("leases", lambda b: b.alter_column("until", type_=sa.Text, postgresql_using="until::text")),
    "leases.owner is shorter": within("leases", lambda b: b.alter_column("owner", type_=sa.String(8))),
    "leases.owner may be null": within("leases", lambda b: b.alter_column("owner", existing_type=sa.String(128), nullable=True)),
    "outbox.sent_at must not be null": within("outbox", lambda b: b.alter_column("sent_at", existing_type=sa.BigInteger, nullable=False)),
    "offsets.last has no default any more": within("offsets", lambda b: b.alter_column("last", existing_type=sa.String(32), server_default=None)),
    "leases.term is new and must be given": within("leases", lambda b: b.add_column(Column("term", sa.Integer, nullable=False))),
    "leases is unique by owner": within("leases", lambda b: b.create_unique_constraint("uq_leases_owner", ["owner"])),
    "outbox is unique by workspace": lambda op: op.create_index("ix_outbox_workspace", "outbox", ["workspace"], unique=True),
    "parked is not unique by partition,offset any more": within("parked", lambda b: b.drop_constraint("uq_parked_partition_offset", type_="unique")),
    "leases has the check until >= 0": within("leases", lambda b: b.create_check_constraint("ck_leases_until", "until >= 0")),
    "leases has the foreign key owner": within("leases", lambda b: b.create_foreign_key("fk_leases_owner", "commits", ["owner"], ["id"])),
}
SAFE: dict[str, Change] = {
    "a table": lambda op: op.create_table("terms", Column("id", sa.Integer, primary_key=True), Column("name", sa.Text, nullable=False, unique=True)),
    "a column that may be null": lambda op: op.add_column("leases", Column("term", sa.Integer)),
    "a column with a default": lambda op: op.add_column("leases", Column("term", sa.Integer, nullable=False, server_default="0")),
    "an index": lambda op: op.create_index("ix_leases_owner", "leases", ["owner"]),
    "room": within("leases", lambda b: b.alter_column("owner", type_=sa.Text)),
    "more room": within("leases", lambda b: b.alter_column("owner", type_=sa.String(200))),
}


TOUCHED = {"leases", "offsets", "outbox", "parked"}


class Taken(Exception):
    """A change was looked at, and is taken back."""

    def __init__(self, said: list[str]) -> None:
        self.said = said


async def felt(database: Database, change: Change) -> list[str]:
    """What code of today's schema could feel of the change, which is taken back."""

    def look(connection: Connection) -> None:
        before = shapes(connection, TOUCHED)
        change(Operations(MigrationContext.configure(connection)))
        raise Taken(harm(before, shapes(connection, {*TOUCHED, "terms"})))

    with pytest.raises(Taken) as taken:
        async with database.migrating() as connection:
            await connection.run_sync(look)
    return taken.value.said


async def test_what_the_version_before_could_feel_is_seen_and_what_only_adds_is_safe(database: Database) -> None:
    assert {name: "; ".join(await felt(database, change)) for name, change in UNSAFE.items()} == {name: name for name in UNSAFE}
    assert {name: await felt(database, change) for name, change in SAFE.items()} == {name: [] for name in SAFE}
