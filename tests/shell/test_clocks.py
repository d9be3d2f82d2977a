"""Machines whose clocks differ by minutes, on one PostgreSQL: leases go by the database's clock, so nobody takes what another has, nor waits longer for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from services.actions.execute import Pace
from services.actions.executors.contract import Answer, Observed, Step
from services.actions.tables import decisions, intents
from services.actions.worker import ActionsService
from services.adapters.clock import SystemClock
from services.adapters.db.clock import Own, agreed
from services.adapters.db.database import Database
from services.kernel.record import Stamped
from tests.shell.acting import AD, MINUTE, SECOND, ListLog, Platform, World, a_decision, world

OFF = 10 * MINUTE
PACE = Pace(lease=1_500_000, call=500_000, again=100_000)
APART = pytest.mark.parametrize(("holder", "other"), [(0, OFF), (-OFF, 0), (OFF, 0), (0, -OFF), (-OFF, OFF)])


class Off:
    """This machine's clock, set wrong."""

    def __init__(self, by: int) -> None:
        self.by = by

    def now(self) -> int:
        return SystemClock().now() + self.by


class Slow(Platform):
    """Answers a write once it may."""

    asked: asyncio.Event
    may: asyncio.Event

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        self.asked.set()
        await self.may.wait()
        return await super().write(step, observed, idempotency_key)


@pytest.fixture
async def w(tmp_path: Path, on_postgres: Callable[[], str]) -> AsyncIterator[World]:
    async with world(tmp_path, url=on_postgres()) as made:
        made.platform.__class__ = Slow
        made.platform.asked, made.platform.may = asyncio.Event(), asyncio.Event()  # type: ignore[attr-defined]
        yield made


@asynccontextmanager
async def machine(w: World, name: str, off: int, pace: Pace | None = None) -> AsyncIterator[ActionsService]:
    database = Database(w.url)
    conduct = replace(w.conduct, owner=name, pace=pace or Pace())
    yield ActionsService(database, w.decisions, w.events, [w.platform], w.clock, CollectorRegistry(), conduct, agreed(database, Off(off)))
    await database.close()


async def status(w: World, decision_id: str) -> str:
    async with w.database.reading() as connection:
        return str(await connection.scalar(select(decisions.c.status).where(decisions.c.id == decision_id)))


async def taken_in(w: World, service: ActionsService) -> str:
    d = a_decision()
    await w.decide(d)
    await service.take_in(0, [Stamped(0, 0, d)])
    return d.id


@APART
async def test_whatever_clocks_say_nobody_takes_what_another_that_lives_has(w: World, holder: int, other: int) -> None:
    async with machine(w, "holder", holder) as first, machine(w, "other", other) as second:
        decision_id = await taken_in(w, first)
        acting = asyncio.create_task(first.execution.round())
        await w.platform.asked.wait()  # type: ignore[attr-defined]
        for _ in range(5):
            assert await second.execution.round() == 0
        w.platform.may.set()  # type: ignore[attr-defined]
        assert await acting == 1
        assert await second.execution.round() == 0
    assert (await status(w, decision_id), len(w.platform.keys), w.platform.journal) == ("verified", 1, [(AD, "status", "paused")])


@APART
async def test_what_one_that_died_had_is_taken_over_when_its_lease_has_run_out_and_not_minutes_later(w: World, holder: int, other: int) -> None:
    async with machine(w, "holder", holder, PACE) as first, machine(w, "other", other, PACE) as second:
        decision_id = await taken_in(w, first)
        acting = asyncio.create_task(first.execution.round())
        await w.platform.asked.wait()  # type: ignore[attr-defined]
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
        w.platform.may.set()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while not await second.execution.round():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while await status(w, decision_id) == "executing":
                await second.execution.round()
                await asyncio.sleep(0.05)
    assert (await status(w, decision_id), len(w.platform.keys)) == ("failed", 0)  # read back, and not sent again


async def test_what_waits_for_another_look_waits_by_the_clock_that_all_share(w: World) -> None:
    async with machine(w, "ahead", OFF) as first, machine(w, "right", 0) as second:
        await taken_in(w, first)
        w.platform.unreadable = 1
        assert await first.execution.round() == 1
        async with w.database.reading() as connection:
            due, now = await connection.scalar(select(intents.c.due_at)), await second.wall.now(connection)
        assert due is not None and due - now < 30 * SECOND


class Halting(ListLog):  # type: ignore[type-arg]
    """Takes a record once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def append(self, records, partition=None):  # type: ignore[no-untyped-def]
        self.asked.set()
        await self.may.wait()
        return await super().append(records, partition)


@APART
async def test_outcomes_are_sent_and_the_ledger_is_verified_by_one_at_a_time(w: World, holder: int, other: int) -> None:
    w.events = Halting()
    async with machine(w, "holder", holder) as first, machine(w, "other", other) as second:
        await taken_in(w, first)
        w.platform.may.set()  # type: ignore[attr-defined]
        assert await first.execution.round() == 1
        sending = asyncio.create_task(first.publish())
        await w.events.asked.wait()
        assert await second.publish() == 0
        w.events.may.set()
        assert await sending > 0
        assert await first.audit._turn() is not None
        assert await second.audit._turn() is None
    told = [(o.status, o.path) for o in w.outcomes()]
    assert len(told) == len(set(told)) > 0


async def test_the_time_that_all_share_is_the_databases_and_what_elapses_is_nobodys_to_set(w: World, tmp_path: Path) -> None:
    shared = agreed(w.database, Off(OFF))
    async with w.database.writing() as tx:
        before = await shared.now(tx)
        await tx.exec_driver_sql("SELECT pg_sleep(0.01)")
        assert abs(before - SystemClock().now()) < MINUTE and await shared.now(tx) >= before + 10_000  # within one transaction, too
    assert abs(shared.elapsed() - Off(OFF).now()) > OFF  # no instant
    alone = Database(f"sqlite:///{tmp_path / 'alone.db'}")
    lonely = agreed(alone, Off(OFF))
    assert isinstance(lonely, Own) and abs(lonely.elapsed() - Off(OFF).now()) > OFF
    await alone.close()


