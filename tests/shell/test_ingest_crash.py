"""A process that ends between two steps of a delivery, and a sender that repeats it: everything is there, nothing twice in effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.log.codec import EVENTS
from services.adapters.log.memory import MemoryLog
from services.adapters.log.writer import EventWriter
from services.ingest.core.source import Delivery, Rejection
from services.ingest.intake import PART, Intake
from services.ingest.tables import known_attributes, outcome_positions, quarantine
from services.kernel.errors import Unavailable
from services.kernel.event import Event, Snapshot
from services.kernel.record import Change, EventBatch, Outcome, Record
from tests.shell.acting import AD, NOON, SECOND, ByHand
from tests.shell.ending import Crash, Ends, ending, faultpoint

ROOMS = (
    "ingest.received",
    "ingest.declared",
    "ingest.appended",
    "ingest.changed",
    "database.written",
    "database.committed",
    "ingest.accepted",
)


class Ingest:
    """A log and a database that outlive the processes on them."""

    def __init__(self, url: str) -> None:
        self.clock = ByHand()
        self.log: MemoryLog[Record] = MemoryLog(EVENTS, self.clock)
        self.database = Database(url)
        self.start()

    def start(self) -> None:
        """A new process."""
        self.intake = Intake(self.database, EventWriter(self.log, 0).append, self._change, self.clock, CollectorRegistry())

    async def _change(self, changes: list[Change]) -> None:
        await self.log.append([(c.workspace, c) for c in changes])

    async def deliver(self, *items: Event | Rejection) -> None:
        await self.intake.accept(Delivery("sandbox", "main", b"{}", (), NOON), items, "webhooks")

    async def records(self) -> list[Record]:
        return [s.record for s in await self.log.read(0, 0)]

    async def changes(self) -> set[tuple[str, str, str]]:
        return {(c.path, c.before, c.after) for c in await self.records() if isinstance(c, Change)}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.intake.watch(self.log, 0))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Crash):
                await task


@pytest.fixture
async def ingest(database_url: str) -> AsyncIterator[Ingest]:
    made = Ingest(database_url)
    await migrate(made.database)
    yield made
    await made.database.close()


def seen(status: str, seconds: int = 0, name: str = "e1") -> Event:
    return Event(name, "sandbox", AD, "state", NOON + seconds * SECOND, {}, {"status": status})


@pytest.mark.parametrize("point", ROOMS)
async def test_a_delivery_that_is_repeated_is_there_once(ingest: Ingest, point: str) -> None:
    await ingest.deliver(seen("active"))
    hour = Snapshot(NOON - 3600 * SECOND, NOON, NOON, ("r1",))
    items = (seen("paused", 1, "e2"), Event("e3", "sandbox", AD, "report", NOON, {"clicks": 1}, snapshot=hour), Rejection("bad", "so", "/rows/2"))
    with ending(point):
        await ingest.deliver(*items)
    ingest.start()
    await ingest.deliver(*items)
    ids = [i.tobytes() for r in await ingest.records() if isinstance(r, EventBatch) for i in r.event_id]
    assert set(ids) == {seen("active").key, *(e.key for e in items if isinstance(e, Event))}
    assert await ingest.changes() == {(AD, "active", "paused")}
    async with ingest.database.reading() as connection:
        assert (await connection.execute(select(quarantine.c.pointer, quarantine.c.state))).all() == [("/rows/2", "waiting")]
        assert (await connection.execute(select(known_attributes.c.value))).scalars().all() == ["paused"]


@pytest.mark.parametrize("point", ["database.written", "database.committed", "ingest.noted"])
async def test_what_we_did_ourselves_is_never_taken_for_a_change_by_hand(ingest: Ingest, point: str) -> None:
    await ingest.deliver(seen("active"))
    await ingest.log.append([("main", Outcome("main", "d1", "verified", AD, "status", "", "rule", "paused"))])
    faultpoint.arm(point, 1, Ends(point))
    async with ingest.watching() as task:
        with pytest.raises(Crash):
            await task
    faultpoint.disarm()
    ingest.start()
    async with ingest.watching(), asyncio.timeout(20):
        while not await position(ingest):  # noqa: ASYNC110  a row tells nobody that it was written
            await asyncio.sleep(0.01)
    await ingest.deliver(seen("paused", 60, "e2"))
    assert await ingest.changes() == set()


async def test_what_we_did_is_known_also_after_a_time_without_the_database(ingest: Ingest) -> None:
    await ingest.deliver(seen("active"))
    await ingest.log.append([("main", Outcome("main", "d1", "verified", AD, "status", "", "rule", "paused"))])

    def away() -> None:
        raise Unavailable("the database cannot be used: disk I/O error", reason="database")

    faultpoint.arm("database.written", 1, away)
    try:
        async with ingest.watching(), asyncio.timeout(20):
            while not await position(ingest):  # noqa: ASYNC110  a row tells nobody that it was written
                await asyncio.sleep(0.01)
    finally:
        faultpoint.disarm()
    await ingest.deliver(seen("paused", 60, "e2"))
    assert await ingest.changes() == set()


async def test_a_page_of_outcomes_is_gone_through_in_parts_and_gone_on_with_where_it_was_left(ingest: Ingest) -> None:
    """Else a start after an outage, with many pages to go through and all partitions at it, is taken for one that hangs, and begins the page again."""
    many = [Outcome("main" if n % 2 else "shop", f"d{n}", "verified", f"{AD}{n}", "status", "", "rule", "paused") for n in range(3 * PART)]
    await ingest.log.append([(o.workspace, o) for o in many])
    faultpoint.arm("ingest.noted", 3, Ends("ingest.noted"))
    beats: list[None] = []
    with pytest.raises(Crash):
        async with asyncio.timeout(20):
            await ingest.intake.watch(ingest.log, 0, lambda: beats.append(None))
    faultpoint.disarm()
    assert (await position(ingest), len(beats)) == (2 * PART, 3)  # one of the page, one of each part that is done
    ingest.start()
    async with ingest.watching(), asyncio.timeout(20):
        while await position(ingest) < 3 * PART:  # noqa: ASYNC110  a row tells nobody that it was written
            await asyncio.sleep(0.01)
    async with ingest.database.reading() as connection:
        known = (await connection.execute(select(known_attributes.c.workspace, known_attributes.c.path))).all()
    assert {tuple(row) for row in known} == {(o.workspace, o.path) for o in many}


async def test_of_two_outcomes_of_one_part_the_later_one_is_known(ingest: Ingest) -> None:
    both = [Outcome("main", f"d{n}", "verified", AD, "status", "", "rule", value) for n, value in enumerate(("paused", "active"))]
    await ingest.intake.ours([(both[0], NOON), (both[1], NOON + SECOND)])
    await ingest.intake.ours([(both[0], NOON)])
    async with ingest.database.reading() as connection:
        assert (await connection.execute(select(known_attributes.c.value, known_attributes.c.occurred_at))).all() == [("active", NOON + SECOND)]


async def position(ingest: Ingest) -> int:
    async with ingest.database.reading() as connection:
        return int(await connection.scalar(select(outcome_positions.c.offset)) or 0)
