"""The actions service: follows the decisions log into the inbox, executes, lets escalations expire, and sends every outcome back to the events log.

decisions log --take_in--> inbox --+--> intents --execute--> outcome --+--> outbox --publish--> events log
                                   +--> escalations --people, time-----+
                                   +--> parked --its reason ends, time-+
                                   +--> held, recorded ----------------+
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from services.actions import parking, store
from services.actions.core.policy import Circumstances
from services.actions.execute import Execution, Pace
from services.actions.executors.contract import Executor
from services.actions.intake import take_in
from services.actions.metrics import Metrics
from services.actions.people import People
from services.actions.tables import intents, outbox
from services.adapters.db.database import Database
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.ports import Clock, Log
from services.kernel.record import Outcome, Record, Stamped

log = structlog.get_logger("actions")
BATCH = 500
PATIENCE = 0.2  # seconds between looks at the queue when nothing wakes us
GRACE = 20.0  # seconds that a round in progress gets at the end


@dataclass(frozen=True, slots=True)
class Rules:
    """How this installation acts."""

    hold: bool = False  # TRIMTAB_ACTIONS=hold
    evidence_at_least: int = 0  # micro-nats; below it people are asked; 0: never for this reason
    stale_before: int = 0  # the instant of a restore: what was decided before it is held
    partitions: tuple[int, ...] = (0,)
    owner: str = "embedded"  # a process that starts under this name takes over what the last one of the name left
    pace: Pace = field(default_factory=Pace)


class World:
    """The world's clock."""

    def now(self) -> int:
        return time.time_ns() // 1_000


class ActionsService:
    """`clock` is the time decisions live in (simulated in a demo); `wall` the world's, for leases and waits; `point` a hook for crash tests."""

    def __init__(
        self,
        database: Database,
        decisions: Log[Decision],
        events: Log[Record],
        executors: Sequence[Executor],
        clock: Clock,
        registry: CollectorRegistry,
        rules: Rules | None = None,
        wall: Clock | None = None,
        point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.database, self.decisions, self.events, self.clock, self.point = database, decisions, events, clock, point
        self.rules = rules or Rules()
        self.executors = by_platform(executors)
        self.metrics = Metrics(registry)
        self._capabilities = tuple((platform, e.attributes, e.is_practice) for platform, e in sorted(self.executors.items()))
        self._to_execute, self._to_tend = asyncio.Event(), asyncio.Event()
        self.people = People(database, self.circumstances, self.metrics, self._wake)
        self.execution = Execution(database, self.executors, self.circumstances, clock, wall or World(), self.rules.owner, self.rules.pace, self.metrics, point)
        self._stopping = asyncio.Event()
        self._followers: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []

    def circumstances(self, is_killed: bool) -> Circumstances:
        return Circumstances(self.clock.now(), is_killed, self.rules.hold, self._capabilities, self.rules.evidence_at_least, self.rules.stale_before)

    async def start(self) -> None:
        """Follows, executes and publishes until `stop`; first what the last process left is taken up."""
        await self.execution.take_over()
        await self.release()
        self._followers = [asyncio.create_task(self._keep("follow", partial(self._follow, p)), name=f"actions-follow-{p}") for p in self.rules.partitions]
        parts: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "execute": partial(self._work_on, self._to_execute, self._execute),  # apart, so that a slow platform keeps nobody's outcome waiting
            "tend": partial(self._work_on, self._to_tend, self.tend),
        }
        self._workers = [asyncio.create_task(self._keep(part, run), name=f"actions-{part}") for part, run in parts.items()]

    async def stop(self) -> None:
        """Takes nothing more in, lets what is being executed come to a durable state, and ends."""
        self._stopping.set()
        self._wake()
        for follower in self._followers:
            await _cancel(follower)
        if self._workers:
            await asyncio.wait(self._workers, timeout=GRACE)
        for worker in self._workers:
            await _cancel(worker)
        with suppress(Unavailable):
            await self.publish()  # what the last execution came to
        for executor in {id(e): e for e in self.executors.values()}.values():
            await executor.close()

    async def step(self) -> int:
        """Takes in all there is and does all that is due, once; returns how much that was. For tests, and for whoever drives time by hand."""
        done = 0
        for partition in self.rules.partitions:
            async with self.database.reading() as connection:
                offset = await store.next_offset(connection, partition)
            while page := await self.decisions.read(partition, offset, BATCH):
                await self.take_in(partition, page)
                offset, done = page[-1].offset + 1, done + len(page)
        return done + await self.execution.round() + await self.tend()

    async def release(self) -> int:
        """What is parked for a reason that is over goes on. At the start, since hold mode and executors are the process's own."""
        change = store.Change(self.clock.now())
        async with self.database.writing() as tx:
            released = await parking.release(tx, change, self.circumstances)
            await change.write(tx)
        self.execution.count(change)
        return released

    async def take_in(self, partition: int, page: Sequence[Stamped[Decision]]) -> None:
        async with self.database.writing() as tx:
            taken = await take_in(tx, partition, [(s.offset, s.record) for s in page], self.circumstances(False))
            self.point("taken")
        self.point("took")
        for arrival in taken.arrivals:
            self.metrics.received.labels(arrival.decision.kind, arrival.status, arrival.answer.reason).inc()
        for reason in taken.parked:
            self.metrics.parked.labels(reason).inc()
            log.error("decision_parked", reason=reason)
        for status, reason in taken.change.ended:
            self.metrics.actions.labels(status, reason).inc()
        self.metrics.entries.inc(taken.change.entries)
        self._wake()

    async def publish(self) -> int:
        """Outcomes that are not on the events log yet are; one may get there twice if the process ends in between, never not at all."""
        async with self.database.reading() as connection:
            rows = (await connection.execute(select(outbox).where(outbox.c.sent_at.is_(None)).order_by(outbox.c.id).limit(BATCH))).all()
        if not rows:
            return 0
        await self.events.append([(row.workspace, Outcome(**json.loads(row.body))) for row in rows])
        self.point("appended")
        async with self.database.writing() as tx:
            await tx.execute(update(outbox).where(outbox.c.id.in_([row.id for row in rows])).values(sent_at=self.clock.now()))
        return len(rows)

    async def tend(self) -> int:
        """What time has ended is ended, and every outcome is on the events log; returns how much that was."""
        done = await self._lapse() + await self.people.expire() + await self.publish()
        async with self.database.reading() as connection:
            self.metrics.show(await store.queues(connection), self.clock.now())
        return done

    async def _lapse(self) -> int:
        change = store.Change(self.clock.now())
        async with self.database.reading() as connection:
            if (await connection.execute(select(intents.c.decision_id).where(parking.late(change.now)).limit(1))).first() is None:
                return 0
        async with self.database.writing() as tx:
            lapsed = await parking.lapse(tx, change)
            await change.write(tx)
        self.execution.count(change)
        return lapsed

    async def _execute(self) -> int:
        done = await self.execution.round()
        if done:
            self._to_tend.set()
        return done

    def _wake(self) -> None:
        self._to_execute.set()
        self._to_tend.set()

    async def _follow(self, partition: int) -> None:
        async with self.database.reading() as connection:
            offset = await store.next_offset(connection, partition)
        async for page in self.decisions.follow(partition, offset):
            if page:
                await self.take_in(partition, page)

    async def _work_on(self, woken: asyncio.Event, work: Callable[[], Coroutine[Any, Any, int]]) -> None:
        while not self._stopping.is_set():
            woken.clear()
            if await work():
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), PATIENCE)

    async def _keep(self, part: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs until the service stops; what fails is said, counted and begun again from what is stored."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                await run()
                return
            except Unavailable as error:
                log.warning("actions_wait", part=part, reason=error.reason)
            except Exception:
                log.exception("actions_fault", part=part)
            self.metrics.faults.labels(part).inc()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, 5.0)


def by_platform(executors: Sequence[Executor]) -> dict[str, Executor]:
    """Each platform's one executor; two for the same one are refused."""
    served: dict[str, Executor] = {}
    for executor in executors:
        for platform in sorted(executor.platforms):
            if platform in served:
                raise Misconfigured(f"two executors serve {platform}: {served[platform].name} and {executor.name}")
            served[platform] = executor
    return served


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
