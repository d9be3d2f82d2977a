"""The chain: every way to alter it quietly is seen, in the database and in an export alone."""

import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, astuple, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.actions.ledger import chain, store
from services.actions.ledger.chain import Broken, Entry, Head, Verified, Walk, export_lines, following, verify, verify_export
from services.actions.ledger.store import Note
from services.actions.store import turn
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate

NOW = 1_790_000_000_000_000


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await migrate(made)
    yield made
    await made.close()


def a_chain(length: int, workspace: str = "main") -> tuple[list[Entry], Head]:
    head, entries = Head(workspace), []
    for n in range(length):
        entries.append(following(head, NOW + n, "result", f"d{n}", "rule", json.dumps({"n": n})))
        head = Head(workspace, entries[-1].sequence, entries[-1].hash)
    return entries, head


async def fill(database: Database, workspace: str = "main", entries: int = 5) -> None:
    for n in range(entries):
        async with database.writing() as tx:
            await store.append(tx, workspace, [Note("result", f"d{n}", {"n": n, "why": "a\nb\u2028é"}, "rita")], NOW + n)


async def tamper(database: Database, *statements: str) -> None:
    """As someone would who owns the database file."""
    async with database.writing() as tx:
        for trigger in ("ledger_no_UPDATE", "ledger_no_DELETE") if database.is_sqlite else ("ledger_no_change ON ledger",):
            await tx.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            await tx.exec_driver_sql(statement)


async def checked(database: Database, workspace: str = "main") -> Verified | Broken:
    """The verdict, which is the same however few entries are in memory at once."""
    async with database.reading() as connection:
        found = await store.check(connection, workspace)
        for page_size in (1, 2, 3):
            assert await store.check(connection, workspace, page_size) == found
        return found


@given(st.tuples(st.text(), st.integers(), st.integers(), st.text(), st.text(), st.text(), st.text(), st.text()))
def test_an_entry_is_hashed_over_its_canonical_json(values: tuple[str, int, int, str, str, str, str, str]) -> None:
    entry = Entry(*values)
    content = {k: v for k, v in asdict(entry).items() if k != "hash"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert entry.expected_hash() == hashlib.sha256(chain.DOMAIN + text.encode("ascii")).hexdigest()


async def test_what_was_written_verifies_and_ends_at_its_head(database: Database) -> None:
    await fill(database)
    found = await checked(database)
    assert isinstance(found, Verified) and found.head.sequence == 5
    async with database.reading() as connection:
        assert await store.head(connection, "main") == found.head


async def test_a_note_is_there_only_if_what_it_records_is(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.writing() as tx:
            await store.append(tx, "main", [Note("result", "d", {})], NOW)
            raise RuntimeError("the rest of the transaction failed")
    assert await checked(database) == Verified(Head("main"))


async def test_the_database_itself_refuses_to_change_or_delete_an_entry(database: Database) -> None:
    await fill(database)
    for statement in ("UPDATE ledger SET body = '{}'", "DELETE FROM ledger"):
        with pytest.raises(DBAPIError, match="the ledger is only ever appended to"):
            async with database.writing() as tx:
                await tx.execute(text(statement))
    assert isinstance(await checked(database), Verified)


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE ledger SET body = '{\"n\":9}' WHERE sequence = 3", 3),
        ("UPDATE ledger SET by = 'someone else' WHERE sequence = 2", 2),
        ("UPDATE ledger SET at = at + 1 WHERE sequence = 4", 4),
        ("UPDATE ledger SET kind = 'x' WHERE sequence = 5", 5),
        ("UPDATE ledger SET subject = 'x' WHERE sequence = 1", 1),
        ("UPDATE ledger SET hash = previous WHERE sequence = 5", 5),
        ("UPDATE ledger SET previous = hash WHERE sequence = 3", 3),
        ("DELETE FROM ledger WHERE sequence = 3", 3),
        ("DELETE FROM ledger WHERE sequence = 1", 1),
        ("DELETE FROM ledger WHERE sequence = 5", 5),
        ("DELETE FROM ledger", 1),
        ("UPDATE ledger SET sequence = 7 WHERE sequence = 5", 5),
        ("UPDATE ledger SET workspace = 'other' WHERE sequence = 5", 5),
        ("DELETE FROM ledger_heads", 6),
        ("UPDATE ledger_heads SET sequence = 4", 6),
    ],
)
async def test_tampering_names_the_first_broken_link(database: Database, statement: str, broken_at: int) -> None:
    await fill(database)
    await tamper(database, statement)
    found = await checked(database)
    assert isinstance(found, Broken) and found.sequence == broken_at


async def test_swapped_neighbours_are_seen(database: Database) -> None:
    await fill(database)
    swap = [f"UPDATE ledger SET sequence = {to} WHERE sequence = {of}" for of, to in ((2, 99), (3, 2), (99, 3))]
    await tamper(database, *swap)
    found = await checked(database)
    assert isinstance(found, Broken) and found.sequence == 2


async def test_workspaces_have_chains_of_their_own(database: Database) -> None:
    await fill(database, "main", 3)
    await fill(database, "other", 2)
    await tamper(database, "UPDATE ledger SET body = '{}' WHERE workspace = 'other' AND sequence = 1")
    assert isinstance(await checked(database, "main"), Verified)
    assert isinstance(await checked(database, "other"), Broken)
    async with database.reading() as connection:
        assert await store.workspaces(connection) == ["main", "other"]


async def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    import asyncio

    async def write(n: int) -> None:
        async with database.writing(turn("main")) as tx:
            await store.append(tx, "main", [Note("result", f"d{n}", {"n": n})] * 3, NOW)

    await asyncio.gather(*(write(n) for n in range(20)))
    found = await checked(database)
    assert isinstance(found, Verified) and found.head.sequence == 60


def test_an_export_verifies_alone_and_is_useless_without_its_head() -> None:
    entries, head = a_chain(4)
    lines = list(export_lines(entries, head))
    assert verify_export(lines) == Verified(head)
    assert isinstance(verify_export(lines[:-1]), Broken)
    assert isinstance(verify_export([]), Broken)
    assert isinstance(verify_export([lines[-1]]), Broken)
    assert isinstance(verify_export([*lines, lines[0]]), Broken)
    assert isinstance(verify_export(["not json", *lines]), Broken)
    assert verify_export(list(export_lines([], Head("main")))) == Verified(Head("main"))


def test_the_verifier_runs_as_one_file_with_nothing_but_python(tmp_path: Path) -> None:
    entries, head = a_chain(3)
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    lines = list(export_lines(entries, head))
    good.write_text("\n".join(lines))
    bad.write_text("\n".join(lines).replace('\\"n\\": 1', '\\"n\\": 7'))
    assert good.read_text() != bad.read_text()
    alone = tmp_path / "verifier.py"
    alone.write_bytes(Path(chain.__file__).read_bytes())
    answers = [subprocess.run([sys.executable, "-I", str(alone), str(f)], capture_output=True, cwd=tmp_path).returncode for f in (good, bad)]
    assert answers == [0, 1]


@given(st.integers(1, 8), st.data())
def test_any_changed_character_of_an_export_is_seen(length: int, data: st.DataObject) -> None:
    entries, head = a_chain(length)
    whole = "\n".join(export_lines(entries, head))
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    changed = whole[:at] + new + whole[at + 1 :]
    was = [json.loads(line) for line in whole.split("\n")]
    try:
        if [json.loads(line) for line in changed.split("\n")] == was:
            return
    except ValueError:
        pass
    assert isinstance(verify_export(changed.split("\n")), Broken)


@given(st.integers(2, 8), st.data())
def test_any_other_order_or_number_of_entries_is_seen(length: int, data: st.DataObject) -> None:
    entries, head = a_chain(length)
    picked = data.draw(st.lists(st.sampled_from(entries), max_size=length + 2))
    if picked != entries:
        assert isinstance(verify("main", picked, head), Broken)


@given(st.integers(1, 8), st.data())
def test_a_chain_walked_in_parts_is_found_to_be_what_it_is_as_a_whole(length: int, data: st.DataObject) -> None:
    entries, head = a_chain(length)
    if data.draw(st.booleans()):
        changed, name = data.draw(st.integers(0, length - 1)), data.draw(st.sampled_from(("workspace", "sequence", "at", "body", "previous", "hash")))
        value = getattr(entries[changed], name)
        entries[changed] = replace(entries[changed], **{name: value + 1 if isinstance(value, int) else value + "x"})
    walk, at, broken = Walk("main"), 0, None
    while at < length and broken is None:
        upto = data.draw(st.integers(at + 1, length))
        broken = walk.go([astuple(entry) for entry in entries[at:upto]])
        at = upto
    assert (broken or walk.end(head)) == verify("main", entries, head)


def test_a_chain_recomputed_from_a_changed_entry_is_seen_by_whoever_kept_the_head() -> None:
    entries, kept = a_chain(5)
    forged, head = list(entries[:2]), Head("main", 2, entries[1].hash)
    for entry in entries[2:]:
        forged.append(following(head, entry.at, entry.kind, entry.subject, "someone else", entry.body))
        head = Head("main", forged[-1].sequence, forged[-1].hash)
    assert isinstance(verify("main", forged, head), Verified)
    assert isinstance(verify("main", forged, kept), Broken)


def test_every_field_is_under_the_hash() -> None:
    [entry], head = a_chain(1)
    for name, value in asdict(entry).items():
        changed = replace(entry, **{name: value + 1 if isinstance(value, int) else value + "x"})
        assert isinstance(verify("main", [changed], head), Broken), name
        assert name == "hash" or changed.expected_hash() != entry.hash, name
