"""The actions service: follows the decisions log into the inbox, executes, lets escalations expire, and sends every outcome back to the events log.

decisions log --take_in--> inbox --+--> intents --execute--> outcome --+--> outbox --publish--> events log
                                   +--> escalations --people, time-----+
                                   +--> parked --its reason ends, time-+
                                   +--> held, recorded ----------------+

A reason to park may be one process's own (hold mode, its executors): while it lives beside another, each releases now and then what it may carry out itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import Row, bindparam, func, select, update

from services.actions import parking, store
from services.actions.core.policy import Circumstances
from services.actions.execute import Execution, Pace
from services.actions.executors.contract import Executor
from services.actions.intake import take_in
from services.actions.lanes import Lane
from services.actions.ledger.audit import Audit
from services.actions.ledger.comparing import Comparing
from services.actions.ledger.witness import Witness
from services.actions.metrics import Metrics
from services.actions.people import People
from services.actions.tables import intents, outbox
from services.adapters.clock import SystemClock
from services.adapters.db.clock import Agreed, agreed
from services.adapters.db.database import Database, again
from services.adapters.faultpoint import faultpoint
from services.adapters.log.following import Alone, Following
from services.adapters.patience import Patience
from services.adapters.progress import Beat, Progress
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, TrimtabError, Unavailable, Unreadable
from services.kernel.ports import Clock, Group, Log
from services.kernel.record import Outcome, Record, Stamped

log = structlog.get_logger("actions")
BATCH = 500
LAST_UNSENT = select(func.max(outbox.c.id)).where(outbox.c.sent_at.is_(None))
UNSENT = select(outbox).where(outbox.c.sent_at.is_(None), outbox.c.id <= bindparam("last")).order_by(outbox.c.id).limit(BATCH)
PUBLISHING = "publishing"  # a turn, and a lease
GRACE = 20.0  # seconds that a round in progress gets at the end
LONGEST = 5.0  # seconds before work that failed is begun again


@dataclass(frozen=True, slots=True)
class Conduct:
    """How this installation acts."""

    hold: bool = False  # TRIMTAB_ACTIONS=hold
    evidence_at_least: int = 0  # micro-nats; below it people are asked; 0: never for this reason
    stale_before: int = 0  # the instant of a restore: what was decided before it is held
    partitions: tuple[int, ...] = (0,)
    owner: str = "embedded"  # a process that starts under this name takes over what the last one of the name left
    pace: Pace = field(default_factory=Pace)


class ActionsService:
    """`clock` is the time decisions live in (simulated in a demo); `group` shares the decisions' partitions out.

    `wall` is for leases and waits: by default the database's clock, which all processes share, or the world's where the database is ours alone.
    """

    def __init__(
        self,
        database: Database,
        decisions: Log[Decision],
        events: Log[Record],
        executors: Sequence[Executor],
        clock: Clock,
        registry: CollectorRegistry,
        conduct: Conduct | None = None,
        wall: Agreed | None = None,
        group: Group | None = None,
        witness: Witness | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self.database, self.decisions, self.events, self.clock = database, decisions, events, clock
        self.conduct, self.wall = conduct or Conduct(), wall or agreed(database, SystemClock())
        self.executors = by_platform(executors)
        self.metrics = Metrics(registry)
        self._capabilities = tuple((platform, e.attributes, e.is_practice) for platform, e in sorted(self.executors.items()))
        self._to_tend, self._to_publish = asyncio.Event(), asyncio.Event()
        self.people = People(database, self.circumstances, self.metrics, self._wake, witness)
        self.audit = Audit(database, self.metrics, self.conduct.owner, self.wall, witness)
        self.disagreements: tuple[str, ...] = ()  # workspaces whose ledger is not what its witness saw
        self.comparing = Comparing(self._compare, lambda: database.connected)
        self.execution = Execution(database, self.executors, self.circumstances, clock, self.wall, self.conduct.owner, self.conduct.pace, self.metrics)
        self.execution.vouch = self.vouch
        self._lanes = {f"execute {lane.name}".strip(): (lane, asyncio.Event()) for lane in self.execution.lanes}
        self._shown = float("-inf")  # when the queues were counted last, by the loop's clock
        self._released = float("-inf")  # when it was looked last for what is parked and may go on, by the same
        self._stopping = asyncio.Event()
        self.following = Following(group or Alone(self.conduct.partitions), self._followed, "actions", self.progress)
        self._workers: list[asyncio.Task[None]] = []

    def circumstances(self, is_killed: bool) -> Circumstances:
        return Circumstances(self.clock.now(), is_killed, self.conduct.hold, self._capabilities, self.conduct.evidence_at_least, self.conduct.stale_before)

    async def start(self) -> None:
        """Follows, executes and publishes until `stop`; first what the last process left is taken up."""
        await self.compare()
        await self.execution.take_over()
        await self.release()
        await self.following.start()
        parts: dict[str, Callable[[Beat], Coroutine[Any, Any, None]]] = {
            **{part: partial(self._execute_in, *lane) for part, lane in self._lanes.items()},  # apart, so that a slow platform keeps nobody else waiting
            "tend": partial(self._work_on, self._to_tend, self._tend),
            "publish": partial(self._work_on, self._to_publish, self.publish),  # apart, so that a log that is away keeps nobody's end waiting
            "audit": self._audit,
        }
        for part, run in parts.items():
            beat = self.progress.expect(f"actions: {part}")
            self._workers.append(asyncio.create_task(self._keep(part, partial(run, beat), beat), name=f"actions-{part}"))
            beat.of(self._workers[-1])

    async def stop(self) -> None:
        """Takes nothing more in, lets what is being executed come to a durable state, and ends."""
        self._stopping.set()
        for part in (*self._lanes, "tend", "publish", "audit"):
            self.progress.forget(f"actions: {part}")
        self._wake()
        await self.following.stop()
        if self._workers:
            await asyncio.wait(self._workers, timeout=GRACE)
        for worker in self._workers:
            await _cancel(worker)
        with suppress(Unavailable):
            await self.publish()  # what the last execution came to
        if self.audit.witness is not None:
            with suppress(Unavailable):
                await self._bear_witness()
        for executor in {id(e): e for e in self.executors.values()}.values():
            await executor.close()

    async def step(self) -> int:
        """Takes in all there is and does all that is due, once; returns how much that was. For tests, and for whoever drives time by hand."""
        await self.compare()
        done = 0
        for partition in self.conduct.partitions:
            offset = await self._begin(partition)
            while page := await self.decisions.read(partition, offset, BATCH):
                await self.take_in(partition, page)
                offset, done = page[-1].offset + 1, done + len(page)
        return done + await self.execution.round() + await self.tend()

    def told(self) -> dict[str, Any]:
        """What readiness says beside itself: which workspaces the ledger's witness holds, where there are any."""
        return {"held_by_witness": list(self.disagreements)} if self.disagreements else {}

    async def compare(self) -> None:
        """Whatever workspace's ledger is not what its witness saw is held. Raises Unavailable where the witness cannot be asked."""
        await self.comparing.anew()

    async def _compare(self) -> None:
        try:
            found = await self.audit.disagreements()
        except OSError as error:
            self.metrics.unwitnessed.inc()
            raise Unavailable(f"the ledger's witness cannot be read: {error}; see to TRIMTAB_WITNESS", reason="witness") from error
        if found:  # a witness that another process has begun meanwhile is there the second time
            again = {d.workspace for d in await self.audit.disagreements()}
            found = [d for d in found if d.workspace in again]
        for disagreement in found:
            if disagreement.workspace not in self.disagreements:
                log.error("ledger_disagrees", workspace=disagreement.workspace, why=disagreement.why)
            await self.people.hold(disagreement.workspace, disagreement.why)
        self.disagreements = tuple(d.workspace for d in found)
        self.metrics.disagree.set(len(found))

    async def vouch(self, workspace: str) -> bool:
        """Whether the workspace's ledger is what its witness saw; asked anew where a connection was made since, for the database may be an older one now."""
        await self.comparing.covering()
        if workspace in self.disagreements:  # or was, and has been released since
            await self.compare()
        return workspace not in self.disagreements

    async def _bear_witness(self) -> None:
        """As far as a few pages go, so that the end does not wait for a long chain."""
        for _ in range(20):
            if not await self.audit.step():
                return

    async def _audit(self, beat: Beat) -> None:
        while not self._stopping.is_set():
            beat()
            await self.compare()
            more = await self.audit.step()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), (self.conduct.pace.idle if more else self.conduct.pace.audit) / 1e6)

    async def release(self) -> int:
        """What is parked for a reason that is over goes on, the rest has its reason anew. At the start, since hold mode and executors are the process's own."""
        async with self.database.reading() as connection:
            somewhere = await store.workspaces(connection, intents.c.workspace, intents.c.state == "parked")
        return sum([await self._release(workspace) for workspace in somewhere])

    async def _release_again(self) -> int:
        """What we may carry out goes on, whoever parked it: in a rolling update an old process that holds lives on after our start, and parks what it meets."""
        so = self.circumstances(False)
        if so.hold:
            return 0
        async with self.database.reading() as connection:
            somewhere = await parking.where_over(connection, so)
        return sum([await self._release(workspace, says_why=False) for workspace in somewhere])

    @again
    async def _release(self, workspace: str, says_why: bool = True) -> int:
        async with self.database.writing(store.turn(workspace)) as tx:
            change = store.Change(self.clock.now())
            released = await parking.release(tx, change, self.circumstances, workspace=workspace, says_why=says_why)
            await change.write(tx)
        self.metrics.count(change)
        if released:
            self._wake()
        return released

    @again
    async def take_in(self, partition: int, page: Sequence[Stamped[Decision]]) -> None:
        turns = {store.turn(s.record.workspace) for s in page}
        async with self.database.writing(store.inbox(partition), *turns) as tx:
            taken = await take_in(tx, partition, [(s.offset, s.record) for s in page], self.circumstances(False))
            faultpoint("actions.taken")
        faultpoint("actions.took")
        for arrival in taken.arrivals:
            self.metrics.received.labels(arrival.decision.kind, arrival.status, arrival.answer.reason).inc()
        for gap in taken.gaps:
            self.metrics.gaps.labels("missing").inc()
            log.error("decisions_missing", partition=partition, expected=gap.expected, found=gap.found)
        for reason in taken.quarantined:
            self.metrics.quarantined.labels(reason).inc()
            log.error("decision_quarantined", reason=reason)
        self.metrics.count(taken.change)
        self._wake()

    async def publish(self) -> int:
        """What is not on the events log when it begins is there afterwards, each workspace's outcomes in their order.

        Each workspace's are appended and marked as sent by themselves: where a partition of the log is away, that is raised once all the others' are there.
        None is lost. One is there twice where the log has taken it without saying so in time, or the process or the database is gone before it is marked as
        sent: the engine does not tell the two apart, and a verified one counts as a change again. So one process publishes at a time, and marks at once.
        """
        async with self.database.reading() as connection:
            last = await connection.scalar(LAST_UNSENT)
        if last is None:
            return 0
        sent = 0
        under_way: dict[asyncio.Task[TrimtabError | None], Sequence[Row[Any]]] = {}
        failed: dict[str, TrimtabError] = {}
        try:
            while (page := await self._unsent(last, [rows[0].workspace for rows in under_way.values()], failed)) or under_way:
                for rows in _by_workspace(page).values():
                    under_way[asyncio.create_task(self._append(rows))] = rows
                # Behind a full page there may be more, of those whom a log that does not answer now has nothing to do with.
                done, _ = await asyncio.wait(under_way, timeout=0 if len(page) == BATCH else None, return_when=asyncio.FIRST_COMPLETED)
                ended = [(task.result(), under_way.pop(task)) for task in [*under_way] if task in done]
                failed |= {rows[0].workspace: error for error, rows in ended if error is not None}
                if there := [row.id for error, rows in ended if error is None for row in rows]:
                    faultpoint("actions.appended")
                    await self._mark_sent(there)
                    faultpoint("actions.published")
                    sent += len(there)
        finally:
            for task in under_way:
                task.cancel()
        for error in failed.values():
            raise error
        return sent

    async def _append(self, rows: Sequence[Row[Any]]) -> TrimtabError | None:
        """None where the outcomes of a workspace are on the log, else why that is not known."""
        try:
            await self.events.append([(row.workspace, Outcome(**json.loads(row.body))) for row in rows])
        except TrimtabError as error:
            return error
        return None

    @again
    async def _mark_sent(self, ids: Collection[int]) -> None:
        async with self.database.writing() as tx:
            await tx.execute(update(outbox).where(outbox.c.id.in_(ids)).values(sent_at=self.clock.now()))

    @again
    async def _unsent(self, last: int, under_way: Collection[str] = (), failed: Collection[str] = ()) -> Sequence[Row[Any]]:
        """What is to be sent, up to the row `last` and of other workspaces than these, by us alone; nothing where another process is at it."""
        async with self.database.writing(PUBLISHING) as tx:
            now = await self.wall.now(tx)
            if not await store.lease(tx, PUBLISHING, self.conduct.owner, now, now + self.conduct.pace.call):
                return ()
            others = outbox.c.workspace.not_in(sorted({*under_way, *failed}))
            rows = (await tx.execute(UNSENT.where(others) if under_way or failed else UNSENT, {"last": last})).all()
            if not rows and not under_way:  # all is sent that can be, by us or while we waited for the turn
                await store.let_go(tx, PUBLISHING, self.conduct.owner)
            return rows

    async def tend(self) -> int:
        """What time has ended is ended, what may go on does, and every outcome is on the events log; returns how much that was."""
        done = await self._end_what_is_late() + await self._release_again()
        try:
            return done + await self.publish()
        finally:
            await self._show()

    async def _tend(self) -> int:
        done, now = await self._end_what_is_late(), asyncio.get_running_loop().time()
        if now >= self._released + self.conduct.pace.audit / 1e6:
            self._released = now
            done += await self._release_again()
        if done:
            self._to_publish.set()
        if done or now >= self._shown + self.conduct.pace.show / 1e6:
            await self._show()
        return done

    async def _end_what_is_late(self) -> int:
        return await self._lapse() + await self.people.expire()

    async def _show(self) -> None:
        async with self.database.reading() as connection:
            now = self.clock.now()
            self.metrics.show(await store.queues(connection, now), now)
        self._shown = asyncio.get_running_loop().time()

    async def _lapse(self) -> int:
        now = self.clock.now()
        async with self.database.reading() as connection:
            if (await connection.execute(parking.ANY_LATE, {"now": now})).first() is None:
                return 0
            somewhere = await store.workspaces(connection, intents.c.workspace, parking.IS_LATE, now)
        return sum([await self._lapse_in(workspace) for workspace in somewhere])

    @again
    async def _lapse_in(self, workspace: str) -> int:
        async with self.database.writing(store.turn(workspace)) as tx:
            change = store.Change(self.clock.now())
            lapsed = await parking.lapse(tx, change, workspace)
            await change.write(tx)
        self.metrics.count(change)
        return lapsed

    async def _execute_in(self, lane: Lane, woken: asyncio.Event, beat: Beat) -> None:
        lane.beat = beat
        await self._work_on(woken, partial(self._execute, lane), beat)

    async def _execute(self, lane: Lane) -> int:
        done = await self.execution.round_of(lane)
        if done:
            self._to_tend.set()
            self._to_publish.set()
        return done

    def _wake(self) -> None:
        for woken in (*(woken for _, woken in self._lanes.values()), self._to_tend, self._to_publish):
            woken.set()

    async def _followed(self, partition: int, beat: Beat) -> None:
        await self._keep("follow", partial(self._follow, partition, beat), beat)

    async def _follow(self, partition: int, beat: Beat) -> None:
        offset = await self._begin(partition)
        while True:
            try:
                async for page in self.decisions.follow(partition, offset):
                    beat()
                    if page:
                        await self.take_in(partition, page)
                        self.following.done[partition] = page[-1].offset + 1
                return
            except Unreadable as lost:  # deleted before they were read: the inbox notes the gap with the next that is there
                log.error("decisions_unreadable", partition=partition, beyond=lost.beyond, why=str(lost))
                offset = lost.beyond

    async def _begin(self, partition: int) -> int:
        """The next decision to read: the first of all where the log is not the one that was read so far, since who knows an id ignores it."""
        async with self.database.reading() as connection:
            place = await store.place(connection, partition)
        if not place.last:
            return place.offset
        try:
            page = await self.decisions.read(partition, place.offset - 1, 1)
        except Unreadable:
            return place.offset  # that record was deleted, which says nothing of those after it
        if page and (page[0].offset >= place.offset or page[0].record.id == place.last):
            return place.offset
        found = page[0].record.id if page else ""
        await self._step_back(partition, place, found)
        self.metrics.gaps.labels("stepped_back").inc()
        log.error("decisions_stepped_back", partition=partition, offset=place.offset - 1, expected=place.last, found=found)
        return 0

    @again
    async def _step_back(self, partition: int, place: store.Place, found: str) -> None:
        async with self.database.reading() as connection:
            workspace = await store.workspace_of(connection, place.last)
        async with self.database.writing(store.inbox(partition), *([store.turn(workspace)] if workspace else ())) as tx:
            if await store.place(tx, partition) != place:
                return  # another process has noticed too, or gone on
            await store.set_next_offset(tx, partition, 0)
            change = store.Change(self.clock.now())
            if workspace:
                change.note(workspace, "decisions.stepped_back", place.last, "", partition=partition, offset=place.offset - 1, found=found)
            await change.write(tx)
        self.metrics.count(change)

    async def _work_on(self, woken: asyncio.Event, work: Callable[[], Coroutine[Any, Any, int]], beat: Beat) -> None:
        while not self._stopping.is_set():
            beat()
            woken.clear()
            if await work():
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), self.conduct.pace.idle / 1e6)

    async def _keep(self, part: str, run: Callable[[], Coroutine[Any, Any, None]], beat: Beat) -> None:
        """Runs until the service stops; what fails is said, counted and begun again from what is stored."""
        patience = Patience(0.1, LONGEST)
        while not self._stopping.is_set():
            patience.begin()
            try:
                await run()
                return
            except Unavailable as error:
                log.warning("actions_wait", part=part, reason=error.reason, why=str(error))
            except Exception:
                log.exception("actions_fault", part=part)
            self.metrics.faults.labels(part).inc()
            beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), patience.pause())


def _by_workspace(page: Sequence[Row[Any]]) -> Mapping[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for row in page:
        found.setdefault(row.workspace, []).append(row)
    return found


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
