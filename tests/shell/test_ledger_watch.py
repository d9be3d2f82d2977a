"""The ledger is verified in the background, and a database that is behind its witness does nothing until two people have released it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from services.actions import store
from services.actions.api import switch as switch_of
from services.actions.ledger import store as ledger
from services.actions.ledger.audit import DAY
from services.actions.ledger.chain import Head
from services.actions.ledger.store import Note
from services.actions.ledger.witness import Disagreement, Untrue, Witness
from services.actions.tables import kill_switches, ledger_heads
from services.actions.tables import ledger as entries
from services.adapters import faultpoint
from services.adapters.db.migrate import migrate
from services.kernel.errors import Conflict, Forbidden, RejectedInput, Unavailable
from services.kernel.principal import Principal
from services.people import switch as in_words
from tests.shell.acting import AD, ADMIN, NOON, OTHER, World, a_decision, an_action, world

SECRET = bytes(range(32))
EVE = Principal("eve", "admin", "main", "session")
IDA = Principal("ida", "admin", "main", "session")
KEY = Principal("robot", "admin", "main", "key")


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


@pytest.fixture
async def on_files(tmp_path: Path) -> AsyncIterator[World]:
    """On SQLite, whose file can be put back to what it was, with a witness beside it."""
    async with world(tmp_path) as made:
        made.witness = Witness(tmp_path / "elsewhere", SECRET)
        made.start()
        yield made


async def write(w: World, number: int, workspace: str = "main") -> None:
    async with w.database.writing() as tx:
        await ledger.append(tx, workspace, [Note("test", str(i), {}) for i in range(number)], NOON)


async def verify(w: World) -> int:
    total = 0
    while done := await w.service.audit.step():
        total += done
    return total


async def broken(w: World) -> tuple[float, str]:
    """(workspaces that are broken by the metric, what the first of them says)."""
    async with w.database.reading() as connection:
        from services.actions.ledger.audit import _standing

        found = [f"{c.workspace} {c.broken}: {c.why}" for c, _ in await _standing(connection) if c.broken]
    return w.count("trimtab_ledger_broken"), (found or [""])[0]


async def disarm(w: World) -> None:
    """As someone would who owns the database: it refuses changes of the ledger no more."""
    async with w.database.writing() as tx:
        for trigger in ("ledger_no_UPDATE", "ledger_no_DELETE") if w.database.is_sqlite else ("ledger_no_change ON ledger",):
            await tx.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")


async def alter(w: World, sequence: int, body: str = '{"a":1}') -> None:
    await disarm(w)
    async with w.database.writing() as tx:
        await tx.execute(update(entries).where(entries.c.workspace == "main", entries.c.sequence == sequence).values(body=body))


async def test_only_what_is_new_is_verified_and_that_across_processes(w: World) -> None:
    await write(w, 7)
    await write(w, 3, "other")
    assert await verify(w) == 10
    await write(w, 2)
    w.start()
    assert (await verify(w), await verify(w)) == (2, 0)
    assert w.count("trimtab_ledger_verified_entries_total") == 2
    assert w.count("trimtab_ledger_verified_timestamp_seconds", scope="new") == w.wall.now() / 1e6
    assert await broken(w) == (0, "")


async def test_a_step_is_bounded_however_long_the_chains_are(w: World) -> None:
    await write(w, 25)
    await write(w, 8, "other")
    w.service.audit.page = 10
    assert [await w.service.audit.step() for _ in range(5)] == [10, 10, 10, 3, 0]


async def test_an_old_entry_that_was_altered_is_found_within_the_day(w: World) -> None:
    await write(w, 9)
    await verify(w)
    await alter(w, 4)
    await write(w, 1)
    assert (await verify(w), await broken(w)) == (1, (0, ""))
    w.wall.move(DAY)
    await verify(w)
    assert await broken(w) == (1, "main 4: its content is not what was hashed")


async def test_a_new_entry_that_was_altered_is_found_at_once_and_stays_said_until_it_holds_again(w: World) -> None:
    await write(w, 3)
    await verify(w)
    await write(w, 3)
    await alter(w, 5)
    await verify(w)
    assert (await broken(w))[0] == 1
    w.start()
    await verify(w)
    assert (await broken(w))[0] == 1
    await alter(w, 5, "{}")
    w.wall.move(DAY)
    await verify(w)
    assert await broken(w) == (0, "")


async def test_a_chain_that_was_cut_or_made_anew_is_not_what_was_verified(w: World) -> None:
    await write(w, 6)
    await verify(w)
    await disarm(w)
    async with w.database.writing() as tx:
        await tx.execute(delete(entries).where(entries.c.sequence > 4))
        last = (await ledger.read(tx, "main", 3))[0]
        await tx.execute(update(ledger_heads).values(sequence=4, hash=last.hash))
    await verify(w)
    assert await broken(w) == (1, "main 5: the chain ends at 4, it was verified up to 6 before")
    async with w.database.writing() as tx:
        await ledger.append(tx, "main", [Note("forged", "", {}) for _ in range(5)], NOON)
    w.wall.move(DAY)
    await verify(w)
    assert await broken(w) == (1, "main 6: it is not the entry that was verified before")


async def test_one_process_verifies_at_a_time(w: World) -> None:
    await write(w, 3)
    assert await verify(w) == 3
    await write(w, 3)
    w.start(conduct=replace(w.conduct, owner="second"))
    assert await w.service.audit.step() == 0
    w.wall.move(DAY // 24)
    assert await verify(w) == 3


async def test_a_running_service_verifies_by_itself(w: World) -> None:
    await write(w, 5)
    await w.service.start()
    try:
        async with asyncio.timeout(20):
            while w.count("trimtab_ledger_verified_entries_total") < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await w.service.stop()
    assert w.count("trimtab_ledger_verified_entries_total") == 5


# -- the witness ----------------------------------------------------------------------------------------------------------


async def put_back(w: World, then: Path) -> None:
    """The database is the older copy again, and another process works on it."""
    await w.database.close()
    for path in then.parent.glob("trimtab.db*"):
        path.unlink()
    shutil.copy(then, then.with_name("trimtab.db"))
    from services.adapters.db.database import Database

    w.database = Database(w.url)
    w.start()


async def copy(w: World, folder: Path) -> Path:
    import sqlite3

    to = folder / "copied.db"
    with sqlite3.connect(folder / "trimtab.db") as source, sqlite3.connect(to) as target:
        source.backup(target)
    return to


async def older(w: World, folder: Path) -> None:
    """One pause was done and witnessed; then the database is as it was before it, and another is decided."""
    await write(w, 3)
    await verify(w)
    then = await copy(w, folder)
    await w.decide(a_decision(1))
    await w.service.step()
    await verify(w)
    assert w.platform.journal == [(AD, "status", "paused")]
    w.platform.objects[AD, "status"] = "active"  # somebody has switched it on again since: a second pause would undo that
    await put_back(w, then)
    await w.decide(a_decision(2, path=OTHER, action=an_action(path=OTHER)))


async def test_an_older_database_executes_nothing_until_two_people_release_it(on_files: World, tmp_path: Path) -> None:
    w = on_files
    await older(w, tmp_path)
    await w.service.step()
    assert (len(w.platform.journal), w.service.disagreements) == (1, ("main",))
    assert w.count("trimtab_ledger_witness_disagreements") == 1
    people = w.service.people
    with pytest.raises(Forbidden):
        await people.set_kill_switch(KEY, False, "it is fine")
    with pytest.raises(RejectedInput):
        await people.set_kill_switch(ADMIN, False, " ")
    assert (await people.set_kill_switch(ADMIN, False, "the copy of this morning")).engaged
    await w.service.step()
    with pytest.raises(Conflict):
        await people.set_kill_switch(ADMIN, False, "the copy of this morning")
    assert (await people.set_kill_switch(EVE, True, "I stop it myself")).cause == store.WITNESS  # which is not a way around the second person
    await w.service.step()
    assert len(w.platform.journal) == 1
    assert (await people.set_kill_switch(EVE, False, "I compared the platform")).engaged  # by herself
    await w.service.step()
    assert len(w.platform.journal) == 1
    assert not (await people.set_kill_switch(ADMIN, False, "")).engaged
    await w.service.step()
    assert (OTHER, "status", "paused") in w.platform.journal
    assert w.service.disagreements == ()
    async with w.database.reading() as connection:
        told = [(e.kind, e.by) for e in await ledger.whole(connection, "main") if e.kind.startswith(("kill_switch", "witness"))]
    assert told == [
        ("kill_switch.engaged", ""),
        ("kill_switch.release_asked", "adam"),
        ("kill_switch.engaged", "eve"),
        ("witness.accepted", "eve"),
        ("kill_switch.remains", "eve"),
        ("kill_switch.released", "adam"),
    ]


async def switched(w: World) -> list[tuple[str, str, str]]:
    """(kind, by, reason) of each entry about the switch."""
    async with w.database.reading() as connection:
        whole = await ledger.whole(connection, "main")
    return [(e.kind.removeprefix("kill_switch."), e.by, json.loads(e.body)["reason"]) for e in whole if e.kind.startswith("kill_switch.")]


async def test_a_persons_switch_remains_once_the_witnesss_hold_is_released(w: World) -> None:
    people = w.service.people
    adams = await people.set_kill_switch(ADMIN, True, "wrong currency")
    await people.hold("main", "behind")
    await people.hold("main", "gone")
    await w.decide(a_decision(1))
    await w.service.step()
    for who in (EVE, IDA):
        left = await people.set_kill_switch(who, False, "compared")
    assert left == adams
    await w.service.step()
    assert w.platform.journal == []
    async with w.database.reading() as connection:
        assert await store.kill_switch(connection, "main") == adams
    assert await switched(w) == [
        ("engaged", "adam", "wrong currency"),
        ("engaged", "", "behind"),
        ("engaged", "", "gone"),
        ("release_asked", "eve", "compared"),
        ("remains", "ida", "compared"),
    ]
    assert not (await people.set_kill_switch(ADMIN, False, "")).engaged
    await w.service.step()
    assert w.platform.journal == [(AD, "status", "paused")]


async def test_a_switch_that_is_engaged_while_the_witness_holds_is_kept_and_noted(w: World) -> None:
    people = w.service.people
    await people.hold("main", "behind")
    await people.set_kill_switch(EVE, False, "compared")
    both = await people.set_kill_switch(ADMIN, True, "wrong currency")
    adams = store.Switch(True, "wrong currency", "adam", NOON)
    assert both == store.Switch(True, "behind", "the ledger's witness", NOON, store.WITNESS, "eve", adams)
    async with w.database.reading() as connection:
        assert await store.kill_switch(connection, "main") == both
    assert await people.set_kill_switch(IDA, False, "compared") == adams
    assert (await switched(w))[1:] == [("release_asked", "eve", "compared"), ("engaged", "adam", "wrong currency"), ("remains", "ida", "compared")]


async def test_a_process_of_the_version_before_that_releases_the_hold_leaves_the_persons_switch(w: World) -> None:
    """Both versions run while one replaces the other: the older knows the columns of its own schema alone."""
    adams = await w.service.people.set_kill_switch(ADMIN, True, "wrong currency")
    await w.service.people.hold("main", "behind")
    async with w.database.writing() as tx:
        theirs = {"engaged": False, "reason": "compared", "by": "ida", "at": NOON, "cause": "", "first": ""}
        await tx.execute(update(kill_switches).values(theirs))
        await tx.execute(insert(kill_switches).values(workspace="other", **theirs))
    async with w.database.reading() as connection:
        assert await store.kill_switch(connection, "main") == adams
        assert not (await store.kill_switch(connection, "other")).engaged
    await migrate(w.database, "0006_ledger_checks")
    await migrate(w.database)
    async with w.database.reading() as connection:
        assert await store.kill_switch(connection, "main") == adams
        assert not (await store.kill_switch(connection, "other")).engaged


async def test_whoever_asks_is_told_of_the_hold_and_of_the_switch_beneath_it() -> None:
    both = store.Switch(True, "behind", "the ledger's witness", NOON, store.WITNESS, "", store.Switch(True, "wrong currency", "adam", NOON))
    assert switch_of(both) == {
        "engaged": True,
        "reason": "behind; two people release it",
        "by": "the ledger's witness",
        "at": "2026-09-21T14:13:20.000000Z",
        "cause": "witness",
        "kept": {"reason": "wrong currency", "by": "adam", "at": "2026-09-21T14:13:20.000000Z"},
    }
    assert in_words(switch_of(both)) == (
        "kill switch ON since 2026-09-21T14:13:20Z by the ledger's witness: behind; two people release it; "
        "beneath it, and remaining after it, since 2026-09-21T14:13:20Z by adam: wrong currency"
    )


async def test_a_service_that_starts_on_an_older_database_is_held_before_it_executes(on_files: World, tmp_path: Path) -> None:
    w = on_files
    await older(w, tmp_path)
    await w.service.start()
    await w.service.stop()
    assert len(w.platform.journal) == 1
    async with w.database.reading() as connection:
        assert (await store.kill_switch(connection, "main")).cause == store.WITNESS


async def test_a_database_that_went_on_is_no_disagreement(on_files: World) -> None:
    w = on_files
    await write(w, 3)
    await verify(w)
    await write(w, 3)
    w.start()
    await w.decide(a_decision(1))
    await w.service.step()
    assert (len(w.platform.journal), w.service.disagreements) == (1, ())


@pytest.mark.parametrize("how", ["forged", "damaged", "gone", "of another secret"])
async def test_a_witness_that_is_not_as_it_was_written_holds_too(on_files: World, how: str) -> None:
    w = on_files
    await write(w, 5)
    await verify(w)
    [path] = (w.witness.folder if w.witness else Path()).glob("*.witness")
    match how:
        case "forged":
            async with w.database.reading() as connection:
                first = (await ledger.read(connection, "main", 0, 1))[0]  # such a database could be put back to there
            path.write_text(json.dumps(json.loads(path.read_text()) | {"sequence": 1, "hash": first.hash}))
        case "damaged":
            path.write_text("[]")
        case "gone":
            path.unlink()
        case _:
            Witness(path.parent, b"x" * 32).write(Head("main", 5, "0" * 64), NOON)
    await w.decide(a_decision(1))
    await w.service.step()
    assert (w.platform.journal, w.service.told()) == ([], {"held_by_witness": ["main"]})
    await verify(w)
    await w.service.step()
    assert w.service.disagreements == ("main",)  # and is not written over by one process alone


async def test_a_chain_that_was_made_anew_beyond_what_was_seen_is_noticed(on_files: World) -> None:
    w = on_files
    await write(w, 5)
    await verify(w)
    await disarm(w)
    async with w.database.writing() as tx:
        await tx.execute(delete(entries))
        await tx.execute(delete(ledger_heads))
        await ledger.append(tx, "main", [Note("forged", "", {}) for _ in range(9)], NOON)
    await w.service.step()
    assert w.service.disagreements == ("main",)


async def test_a_service_whose_witness_cannot_be_read_does_not_start(on_files: World, tmp_path: Path) -> None:
    w = on_files
    assert w.witness is not None
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("a file where the folder belongs")
    with pytest.raises(Unavailable, match="TRIMTAB_WITNESS"):
        await w.service.start()
    assert w.count("trimtab_ledger_witness_failures_total") == 1


def test_what_is_seen_is_read_back_whatever_the_workspace_is_called(tmp_path: Path) -> None:
    witness = Witness(tmp_path, SECRET)
    heads = [Head("../up", 3, "a" * 64), Head("main", 9, "b" * 64)]
    for head in heads:
        witness.write(head, NOON)
    assert sorted(witness.all(), key=lambda h: h.workspace) == heads
    assert Untrue("main") in Witness(tmp_path, b"y" * 32).all()


def test_processes_that_see_at_the_same_time_leave_what_one_of_them_saw(tmp_path: Path) -> None:
    """In containers each of them has the number 1, as threads here have the same."""
    seen = [Head("main", number, f"{number:064x}") for number in range(1, 201)]
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda head: Witness(tmp_path, SECRET).write(head, NOON), seen))
    [read] = Witness(tmp_path, SECRET).all()
    assert read in seen
    assert [path.name for path in tmp_path.iterdir()] == ["main.witness"]


async def test_nothing_is_written_over_a_connection_that_is_newer_than_the_last_look_at_the_witness(on_files: World, tmp_path: Path) -> None:
    """The look of every few seconds would be too late: what the older database has forgotten is due at once."""
    w = on_files
    await older(w, tmp_path)
    await w.service.take_in(0, await w.decisions.read(0, 0))
    await w.service.execution.round()
    assert (len(w.platform.journal), w.service.disagreements) == (1, ("main",))


async def test_nor_is_what_was_intended_before_that_connection(on_files: World) -> None:
    w = on_files
    await write(w, 3)
    await verify(w)
    d = a_decision(1)
    await w.decide(d)

    def replaced() -> None:
        assert w.witness is not None
        w.witness.write(Head("main", 999, "f" * 64), NOON)
        w.database.connected += 1

    faultpoint.arm("actions.intended", 1, replaced)
    await w.service.step()
    assert (w.platform.keys, w.service.disagreements) == ([], ("main",))
    async with w.database.reading() as connection:
        told = [e.kind for e in await ledger.whole(connection, "main") if e.subject == d.id]
    assert told == ["decision.executing", "intent", "intent.withdrawn"]  # nothing was sent, so there is nothing to doubt
    await w.service.step()
    w.wall.move(60_000_000)
    await w.service.step()
    async with w.database.reading() as connection:
        assert (await ledger.whole(connection, "main"))[-1].kind == "decision.parked"
    assert w.platform.keys == []


async def test_vouching_ends_though_each_look_at_the_witness_makes_connections(on_files: World) -> None:
    w = on_files
    await write(w, 3)
    await verify(w)
    looks = 0
    disagreements = w.service.audit.disagreements

    async def look() -> list[Disagreement]:
        nonlocal looks
        looks += 1
        assert looks < 20, "it goes round"
        w.database.connected += 1
        return await disagreements()

    w.service.audit.disagreements = look  # type: ignore[method-assign]
    await w.decide(*(a_decision(k, rule_id=f"pause-{k}", path=path, action=an_action(path=path)) for k, path in enumerate((AD, OTHER))))
    await w.service.step()
    assert len(w.platform.journal) == 2


async def test_what_two_people_released_goes_on_before_the_next_look(on_files: World, tmp_path: Path) -> None:
    w = on_files
    await older(w, tmp_path)
    await w.service.step()
    for who in (ADMIN, EVE):
        await w.service.people.set_kill_switch(who, False, "I compared the platform")
    await w.service.execution.round()
    assert (OTHER, "status", "paused") in w.platform.journal
