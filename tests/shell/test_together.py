"""Deliveries that wait at the same time are read and written as one; each sender gets the answer that it would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.kernel.ids import event_id
from services.kernel.record import EventBatch
from tests.shell.ingesting import AD, World, event, told
from tests.shell.serving import serving


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    async with serving(world.app, world.front) as world.http:  # over a socket small bodies come in one piece
        await world.post("/v1/events", event(id="first"))  # from now on the key is known, and usual deliveries take the short way
        yield world
    await world.stop()


def ids(*names: str) -> list[bytes]:
    return sorted(event_id("generic", name) for name in names)


async def test_of_many_at_once_each_gets_its_own_answer(w: World) -> None:
    sent: list[Any] = [[event(id=f"a-{i}-{j}") for j in range(i % 3 + 1)] for i in range(20)]
    sent[3] = [event(id="good"), event(id="bad", amounts={"clicks": -1})]
    sent[7] = [event(id="x", entity="nowhere")]
    sent[11] = b'[{"id": '
    answers = await asyncio.gather(*(w.post("/v1/events", body) for body in sent))
    assert [a.json().get("accepted", -1) for a in answers] == [1 if i == 3 else 0 if i == 7 else -1 if i == 11 else i % 3 + 1 for i in range(20)]
    assert [a.status_code for i, a in enumerate(answers) if i not in (7, 11)] == [202] * 18
    assert (told(answers[7]), told(answers[11])) == ((422, "bad_entity"), (400, "malformed"))
    kept = [f"a-{i}-{j}" for i in range(20) for j in range(i % 3 + 1) if i not in (3, 7, 11)]
    assert sorted(await w.ids()) == ids("first", "good", *kept)


async def test_deliveries_at_once_become_few_records_and_an_id_that_two_of_them_hold_is_in_both(w: World) -> None:
    answers = await asyncio.gather(*(w.post("/v1/events", [event(id=f"o-{i}"), event(id="same")]) for i in range(50)))
    assert {a.json()["accepted"] for a in answers} == {2}
    records = [r for r in await w.records() if isinstance(r, EventBatch)]
    assert len(records) < 20
    assert (await w.ids()).count(event_id("generic", "same")) == 50  # the engine counts the first


async def test_workspaces_that_wait_at_the_same_time_are_kept_apart(w: World) -> None:
    await w.post("/v1/events", event(id="theirs"), "stranger")
    roles = ("source", "stranger") * 10
    answers = await asyncio.gather(*(w.post("/v1/events", event(id=f"{role}-{i}"), role) for i, role in enumerate(roles)))
    assert {a.status_code for a in answers} == {202}
    held: dict[str, set[bytes]] = {}
    for record in await w.records():
        assert isinstance(record, EventBatch)
        held.setdefault(record.workspace, set()).update(row.tobytes() for row in record.event_id)
    assert held["globex"] == set(ids("theirs", *(f"stranger-{i}" for i in range(1, 20, 2))))
    assert held["acme"] == set(ids("first", *(f"source-{i}" for i in range(0, 20, 2))))


async def test_a_log_that_is_away_is_told_to_each_and_nothing_is_acknowledged(w: World) -> None:
    w.fails = {"log"}
    answers = await asyncio.gather(*(w.post("/v1/events", event(id=f"o-{i}")) for i in range(10)))
    assert {told(a) for a in answers} == {(503, "log")}
    assert {a.headers["retry-after"] for a in answers} == {"1"}
    w.fails = set()
    again = await asyncio.gather(*(w.post("/v1/events", event(id=f"o-{i}")) for i in range(10)))
    assert {a.status_code for a in again} == {202}
    assert sorted(await w.ids()) == ids("first", *(f"o-{i}" for i in range(10)))


async def test_a_sender_that_gives_up_loses_nobody_else_s_events(w: World) -> None:
    posts = [asyncio.create_task(w.post("/v1/events", event(id=f"o-{i}"))) for i in range(10)]
    while not any(w.short.together._waiting.values()):  # noqa: ASYNC110  turn by turn, until one has come in
        await asyncio.sleep(0)
    for post in posts[::2]:
        post.cancel()
    answers = await asyncio.gather(*posts, return_exceptions=True)
    assert [getattr(a, "status_code", "gone") for a in answers[1::2]] == [202] * 5
    assert set(ids("first", *(f"o-{i}" for i in range(1, 10, 2)))) <= set(await w.ids())


async def test_report_rows_at_once_are_snapshots_each_at_its_level(w: World) -> None:
    interval = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}

    def row(n: int, entity: str = AD) -> dict[str, Any]:
        return {"entity": f"{entity}{n}", "interval": interval, "as_of": "2026-03-01T11:59:00Z", "amounts": {"impressions": n}}

    assert (await w.post("/v1/reports/generic", [row(0)])).status_code == 202  # declares the level
    sent = [[row(i)] for i in range(1, 10)] + [[row(99, "meta_ads/17")]]
    answers = await asyncio.gather(*(w.post("/v1/reports/generic", body) for body in sent))
    assert [a.status_code for a in answers] == [202] * 9 + [422]
    assert told(answers[-1]) == (422, "other_level")
    assert len(await w.ids()) == 11
