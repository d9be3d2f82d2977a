"""The inbox notices decisions that it never got, and a log that is not the one that it read."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from services.actions import store
from services.actions.intake import gaps_in
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Entry
from services.actions.tables import decisions
from services.kernel.decision import Decision
from services.kernel.errors import Unreadable
from services.kernel.record import Stamped
from tests.shell.acting import AD, NOON, World, a_decision, world

GAPS = "trimtab_decision_sequence_gaps_total"


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


def several(number: int) -> list[Decision]:
    return [a_decision(k, path=f"{AD}-{k}", mode="shadow") for k in range(1, number + 1)]


async def known(w: World) -> set[str]:
    async with w.database.reading() as connection:
        return set((await connection.execute(select(decisions.c.id))).scalars())


async def told(w: World) -> list[Entry]:
    async with w.database.reading() as connection:
        return [e for e in await ledger.whole(connection, "main") if e.kind in ("decisions.missing", "decisions.stepped_back")]


def kinds(w: World) -> tuple[float, float]:
    return w.count(GAPS, kind="missing"), w.count(GAPS, kind="stepped_back")


async def test_what_was_skipped_is_noticed_once_and_in_the_ledger(w: World) -> None:
    made = several(8)
    await w.service.take_in(0, [Stamped(i, NOON, d) for i, d in enumerate(made[:3])])
    rest = [Stamped(i, NOON, made[i]) for i in (5, 6, 7)]
    await w.service.take_in(0, rest)
    await w.service.take_in(0, rest)
    assert kinds(w) == (1, 0)
    assert [(e.subject, e.body) for e in await told(w)] == [(made[5].id, '{"expected":3,"found":5,"partition":0}')]
    assert len(await known(w)) == 6


async def test_decisions_in_their_order_are_no_gap_however_often_they_come(w: World) -> None:
    made = several(6)
    await w.decide(*made[:4])
    await w.service.step()
    await w.decide(*made[2:])  # repeated by an engine that was believed dead
    w.start()
    await w.service.step()
    await w.service.take_in(0, await w.decisions.read(0, 0))
    assert (kinds(w), await told(w), len(await known(w))) == ((0, 0), [], 6)


@pytest.mark.parametrize("kept", [0, 2, 3])
async def test_a_log_that_lost_its_end_is_read_again_from_its_beginning(w: World, kept: int) -> None:
    made = several(8)
    await w.decide(*made[:4])
    await w.service.step()
    w.decisions.records = w.decisions.records[:kept]
    await w.decide(*made[4:])  # it is filled again, beyond the place where reading goes on
    w.start()
    await w.service.step()
    assert await known(w) == {d.id for d in made}
    assert kinds(w) == (0, 1)
    await w.service.step()
    w.start()
    await w.service.step()
    assert kinds(w) == (0, 0)
    [entry] = await told(w)
    assert (entry.kind, entry.subject) == ("decisions.stepped_back", made[3].id)


async def test_a_log_that_is_shorter_is_noticed_before_anything_new_is_on_it(w: World) -> None:
    await w.decide(*several(3))
    await w.service.step()
    del w.decisions.records[1:]
    w.start()
    await w.service.step()
    assert kinds(w) == (0, 1)
    async with w.database.reading() as connection:
        assert (await store.place(connection, 0)).offset == 1


async def test_a_beginning_that_was_deleted_after_it_was_read_is_no_step_back(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = several(4)
    await w.decide(*made[:3])
    await w.service.step()
    read = w.decisions.read

    async def lost(partition: int, offset: int, limit: int = 1000) -> object:
        if offset < 3:
            raise Unreadable("records 0 to 2 are deleted", 3)
        return await read(partition, offset, limit)

    monkeypatch.setattr(w.decisions, "read", lost)
    await w.decide(made[3])
    await w.service.step()
    assert (kinds(w), len(await known(w))) == ((0, 0), 4)


@given(st.integers(0, 5), st.lists(st.integers(1, 3), min_size=1, max_size=20))
def test_the_gaps_are_what_is_missing(start: int, steps: list[int]) -> None:
    offsets = [start - 1 + sum(steps[: i + 1]) for i in range(len(steps))]
    found = gaps_in(start, [(o, a_decision(o)) for o in offsets])
    missing = [o for gap in found for o in range(gap.expected, gap.found)]
    assert missing == sorted(set(range(start, offsets[-1])) - set(offsets))
    assert all(gap.behind.id == a_decision(gap.found).id for gap in found)
