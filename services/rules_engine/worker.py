"""The engine's shell: follows one partition of the events log, feeds the pure core, appends its decisions, and moves time when nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kernel.decision import Decision
from services.kernel.errors import Bug, Unavailable
from services.kernel.ports import Clock, Log
from services.kernel.record import Activation, Outcome, Ready, Record, Stamped, Tick
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.lifecycle import TERMINAL
from services.rules_engine.core.partition import Partition
from services.rules_engine.told import Ending

SKEW = 60_000_000  # a record stamped further ahead of our own clock stops the partition before it is fed
BATCH = 500
PATIENCE = 0.2  # seconds between looks at the clock when nothing is due
log = structlog.get_logger("rules_engine")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter("trimtab_decisions_total", "Decisions by rule and kind", ["rule", "kind", "mode"], registry=registry)
        self.refusals = Counter("trimtab_guard_refusals_total", "Refusals told, by guard", ["rule", "guard"], registry=registry)
        self.records = Counter("trimtab_engine_records_total", "Records folded", ["partition"], registry=registry)
        self.time = Gauge("trimtab_engine_time_seconds", "Engine time of the partition", ["partition"], registry=registry)
        self.delay = Gauge("trimtab_engine_delay_seconds", "Own clock minus engine time when last fed", ["partition"], registry=registry)
        buckets = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)
        self.step = Histogram("trimtab_engine_step_seconds", "Time to fold and judge one record", buckets=buckets, registry=registry)
        self.stopped = Gauge("trimtab_partition_stopped", "1 when the partition stopped and wants a person", ["partition"], registry=registry)


class Worker:
    """Owns one partition. State is rebuilt by replaying the log; what was decided before is recognised, not said again."""

    def __init__(self, events: Log[Record], decisions: Log[Decision], clock: Clock, guards: dict[str, Guard], metrics: Metrics, partition: int = 0) -> None:
        self.events, self.decisions, self.clock, self.guards, self.metrics = events, decisions, clock, guards, metrics
        self.number = partition
        self.partition = Partition(guards)
        self.said: list[str] = []  # ids on the decisions log that replay has not come to yet, oldest first
        self.declared: set[tuple[str, str]] = set()
        self.place: dict[str, int] = {}  # decision id -> offset on the decisions log
        self.endings: dict[str, Ending] = {}  # decision id -> what became of it
        self.on_activation: Callable[[Activation, int, int], Awaitable[None]] | None = None  # (record, offset, stamp), in the order of the log
        self.stopped = ""  # why a person is wanted
        self.restored = False
        metrics.stopped.labels(str(partition)).set(0)
        self._advanced = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Restores the state from the log, then follows it until `stop`."""
        await self._restore()
        self._task = asyncio.create_task(self._follow(), name=f"rules-{self.number}")
        self._ticker = asyncio.create_task(self._tick(), name=f"ticks-{self.number}")

    async def stop(self) -> None:
        for task in (self._ticker, self._task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def caught_up(self, offset: int) -> None:
        """Returns once every record before `offset` has been fed and its decisions are durable."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.partition.offset >= offset or self.stopped)
        if self.stopped:
            raise Unavailable(self.stopped, reason="partition_stopped")

    async def _restore(self) -> None:
        while before := await self.decisions.read(self.number, len(self.said)):
            self.said += [s.record.id for s in before]
        self.place = {id_: offset for offset, id_ in enumerate(self.said)}
        self.said.reverse()
        offset = 0
        while page := await self.events.read(self.number, offset, BATCH):
            await self._feed(page, restoring=True)
            offset = page[-1].offset + 1
        if self.said:
            raise Bug(f"the decisions log holds {self.said[-1]}, which this build does not derive: two builds disagree", reason="decisions_differ")
        self.restored = True
        await self._declare_ready()
        log.info("restored", partition=self.number, offset=self.partition.offset)

    async def _follow(self) -> None:
        try:
            async for page in self.events.follow(self.number, self.partition.offset):
                await self._feed(page, restoring=False)
                await self._declare_ready()
                async with self._advanced:
                    self._advanced.notify_all()
        except Exception as error:  # the edge of the loop: what stopped it is said, and nobody is answered on its behalf
            await self._halt(f"{type(error).__name__}: {error}")
            log.exception("partition stopped", partition=self.number)

    async def _halt(self, why: str) -> None:
        self.stopped = why
        self.metrics.stopped.labels(str(self.number)).set(1)
        async with self._advanced:
            self._advanced.notify_all()

    async def _feed(self, page: Sequence[Stamped[Record]], restoring: bool) -> None:
        ahead = max(s.stamp for s in page) - self.clock.now()
        if ahead > SKEW:
            raise Unavailable(f"a record is stamped {ahead / 1e6:.0f} s ahead of this machine's clock: check both clocks", reason="clock_skew")
        for stamped in page:
            if (demand := self.partition.lacks(stamped.record)) is not None:
                await self._rebuild(demand, stamped.offset)
            with self.metrics.step.time():
                decided = self.partition.step([stamped])
            await self._say(decided)
            await self._note(stamped)
            if len(page) > 1:
                await asyncio.sleep(0)
        self.metrics.records.labels(str(self.number)).inc(len(page))
        self.metrics.time.labels(str(self.number)).set(self.partition.now / 1e6)
        self.metrics.delay.labels(str(self.number)).set((self.clock.now() - self.partition.now) / 1e6)

    async def _note(self, stamped: Stamped[Record]) -> None:
        """What people ask about beside the core's state: how decisions ended, and which version is what."""
        record = stamped.record
        if isinstance(record, Outcome) and record.status in TERMINAL and record.decision_id not in self.endings:
            self.endings[record.decision_id] = Ending(record.status, stamped.stamp, record.reason, record.by)
        if isinstance(record, Activation) and self.on_activation is not None:
            await self.on_activation(record, stamped.offset, stamped.stamp)

    async def decision(self, decision_id: str) -> Decision | None:
        """A decision of this partition, or None."""
        offset = self.place.get(decision_id)
        return None if offset is None else (await self.decisions.read(self.number, offset, 1))[0].record

    async def _rebuild(self, demand: Demand, until: int) -> None:
        """The state as if the wider demand had always been there: a rule activated today reads the days that the log holds."""
        wider = Partition(self.guards, demand)
        while wider.offset < until:
            page = await self.events.read(self.number, wider.offset, min(BATCH, until - wider.offset))
            for stamped in page:
                wider.step([stamped])
                await asyncio.sleep(0)
        if wider.offset == 0:
            wider.offset = until
        self.partition = wider

    async def _say(self, decided: list[Decision]) -> None:
        """Appends what is new; what the log already holds must be what was derived again."""
        fresh = []
        for decision in decided:
            if not self.said:
                fresh.append(decision)
            elif (before := self.said.pop()) != decision.id:
                raise Bug(f"this build decides {decision.id} where the log holds {before}: two builds disagree", reason="decisions_differ")
        if not fresh:
            return
        places = await self.decisions.append([(d.workspace, d) for d in fresh])
        self.place |= {d.id: offset for d, (_, offset) in zip(fresh, places, strict=True)}
        for d in fresh:
            self.metrics.decisions.labels(d.rule_id, d.kind, d.mode).inc()
            for guard in d.refusals:
                self.metrics.refusals.labels(d.rule_id, guard).inc()
            log.info("decided", decision=d.id, rule=d.rule_id, entity=d.path, kind=d.kind, refusals=",".join(d.refusals))

    async def _declare_ready(self) -> None:
        """Whatever an activation needs has been rebuilt by the time it was fed."""
        waiting = [a for name in sorted(self.partition.workspaces) for a in self.partition.workspaces[name].activated.values()]
        new = [a for a in waiting if (a.workspace, a.version) not in self.declared]
        if new:
            self.declared |= {(a.workspace, a.version) for a in new}
            await self.events.append([(a.workspace, Ready(a.workspace, a.version)) for a in new])

    async def _tick(self) -> None:
        """Time moves when nothing else does: an empty record as soon as a boundary is due that may not be a no-op."""
        while not self.stopped:
            due, now = self.partition.due(), self.clock.now()
            if due is None or not self.partition.now < due <= now:
                await asyncio.sleep(PATIENCE if due is None else min(max((due - now) / 1e6, 0.002), PATIENCE))
                continue
            try:
                [(_, offset)] = await self.events.append([("", Tick())])
                await self.caught_up(offset + 1)
            except Unavailable as error:  # a full disk must not end time for good
                log.warning("tick waits", partition=self.number, reason=error.reason)
                await asyncio.sleep(PATIENCE)
