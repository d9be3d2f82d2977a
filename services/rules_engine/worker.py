"""The engine's shell: follows one partition of the events log, feeds the pure core, appends its decisions, and moves time when nothing else does.

start = newest valid checkpoint (or nothing) + the log from there; then page by page: step, append the decisions, note, and now and then a checkpoint
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.adapters.codec.decision import encode
from services.adapters.faultpoint import faultpoint
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Bug, Conflict, Misconfigured, Unavailable, Unreadable
from services.kernel.ports import Clock, Log
from services.kernel.record import Activation, EventBatch, Outcome, Poisoned, Ready, Record, Skip, Stamped, Tick
from services.rules_engine.checkpoint import Checkpoint, Checkpoints, Header, Kept, mark, unfit
from services.rules_engine.core import state
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.lifecycle import TERMINAL
from services.rules_engine.core.partition import Partition
from services.rules_engine.replay import oldest as oldest_record
from services.rules_engine.told import Ending

SKEW = 60_000_000  # a record stamped further ahead of our own clock stops the partition before it is fed
BATCH = 1000
MOST, SHORT, LONG = 1000, 0.01, 0.04  # records fed at once, so many that it takes about this long, seconds: whoever else waits for the loop gets it
PATIENCE = 0.2  # seconds between looks at the clock when nothing is due
LEAVING = 10.0  # seconds that checkpoints get at an orderly end, which must not outlast what SIGTERM is given
LONGEST = 5.0  # seconds between two attempts to write what a full disk does not take
ID = 16  # bytes of a decision's id
STEPS = LOOKED, FOLDED = "looked through", "folded"  # of a restore, one after the other, the same records
log = structlog.get_logger("rules_engine")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter("trimtab_decisions_total", "Decisions by rule and kind", ["rule", "kind", "mode"], registry=registry)
        self.refusals = Counter("trimtab_guard_refusals_total", "Refusals told, by guard", ["rule", "guard"], registry=registry)
        self.records = Counter("trimtab_engine_records_total", "Records folded", ["partition"], registry=registry)
        self.time = Gauge("trimtab_engine_time_seconds", "Engine time of the partition", ["partition"], registry=registry)
        self.delay = Gauge("trimtab_engine_delay_seconds", "How long what is due has waited to be fed or judged", ["partition"], registry=registry)
        buckets = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)
        self.step = Histogram("trimtab_engine_step_seconds", "Time to fold and judge the records fed at once", buckets=buckets, registry=registry)
        self.stopped = Gauge("trimtab_partition_stopped", "1 when the partition stopped and wants a person", ["partition"], registry=registry)
        self.checkpoints = Counter("trimtab_checkpoints_total", "Checkpoints written, failed, or passed over at a start", ["outcome"], registry=registry)
        self.saved = Gauge("trimtab_checkpoint_offset", "The next record that the newest checkpoint has not folded", ["partition"], registry=registry)
        self.unsaved = Gauge("trimtab_checkpoint_age_seconds", "How long ago the oldest record came that no checkpoint has", ["partition"], registry=registry)
        self.way = Gauge(
            "trimtab_engine_restore_ratio",
            "How much of the log a restore has looked through, and then folded, of all that it has to; both 1 once it is done",
            ["partition", "step"],
            registry=registry,
        )

    def forget(self, partition: int) -> None:
        """It is another process's now, which tells of it."""
        for gauge in (self.time, self.delay, self.stopped, self.saved, self.unsaved):
            with suppress(KeyError):
                gauge.remove(str(partition))
        for step in STEPS:
            with suppress(KeyError):
                self.way.remove(str(partition), step)


@dataclass(frozen=True, slots=True)
class Often:
    """A checkpoint is due after so many records, or so many seconds if there was any."""

    records: int = 200_000
    seconds: float = 300


@dataclass(frozen=True, slots=True)
class Way:
    """How far a step of a restore is: `done` of the `whole` records that it has to pass; `whole` is 0 while nobody knows how many those are."""

    step: str
    done: int
    whole: int

    def __str__(self) -> str:
        if not self.whole:
            return f"{self.done} records {self.step}"
        return f"{self.done} of {self.whole} records {self.step}, {100 * self.done // self.whole}%"


class Poisonous(Exception):
    """This record can be neither fed nor passed over, until somebody says so on the log."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset, self.why = offset, why


class Worker:
    """Owns one partition. State is restored from a checkpoint and the log; what was decided before is recognised, not said again."""

    def __init__(
        self,
        events: Log[Record],
        decisions: Log[Decision],
        clock: Clock,
        guards: dict[str, Guard],
        metrics: Metrics,
        partition: int = 0,
        checkpoints: Checkpoints | None = None,
        often: Often | None = None,
        patience: float = PATIENCE,
        stopwatch: Callable[[], float] = time.perf_counter,
        beat: Beat | None = None,
    ) -> None:
        """`patience` is how many seconds pass between looks at the clock when nothing is due; `stopwatch` (seconds) only chooses how much is fed at once.

        `beat` is told that it goes on.
        """
        self.patience, self.stopwatch, self.beat, self.leaving = patience, stopwatch, beat or Beat(), LEAVING
        self.events, self.decisions, self.clock, self.guards, self.metrics = events, decisions, clock, guards, metrics
        self.number, self.checkpoints, self.often = partition, checkpoints, often or Often()
        self.on_activation: Callable[[Activation, int, int], Awaitable[None]] | None = None  # (record, offset, stamp), in the order of the log
        self.end: Callable[[], Awaitable[int]] | None = None  # the next record that the log will have, which tells how far a restore is
        self.followed: Callable[[], Awaitable[int]] | None = None  # the last offset that `on_activation` is known to have taken in, -1 for none
        self._advanced, self._mending = asyncio.Condition(), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._is_over = False  # it was told to end, and begins nothing any more
        self._empty()

    def _empty(self) -> None:
        self.partition = Partition(self.guards)
        self.to_repeat: list[tuple[str, bytes]] = []  # (id, content; b"" if deleted) said, but not derived again yet; the next one last
        self.declared: set[tuple[str, str]] = set()  # (workspace, version) whose `ready` record is on the log and not yet fed
        self.place: dict[str, int] = {}  # decision id -> offset on the decisions log, in that order
        self.endings: dict[str, Ending] = {}  # decision id -> what became of it
        self.activations: list[int] = []  # offsets
        self.stopped = ""  # why a person is wanted
        self.poisoned: int | None = None  # the offset of the record that it stopped at
        self.restored = False
        self.way: Way | None = None  # of the restore, once it is under way and until it is done
        self._is_gone = False  # nobody follows the partition here any more
        self.done = 0  # every decision that records before this offset brought about is durable
        self.saved, self.saved_time = 0, 0  # the next record that the newest checkpoint has not folded, and that one's engine time
        self._lag = 0  # microseconds that the newest record had waited when it was fed, 0 once none was left
        self._due: int | None = None  # the boundary that is due next
        self._unsaved, self._saved_at = 0, 0.0  # records since the last checkpoint, and when that was
        self._oldest, self._later = 0, 0  # stamps of the first records that no checkpoint has, and that the one being written will not have; 0 without one
        self._stride = 50

    async def start(self) -> None:
        """Restores the state, then follows the log until `stop`. At a poisoned record it stands, stopped, and says so."""
        self.metrics.delay.labels(str(self.number)).set_function(lambda: self.delay)
        if self.checkpoints is not None:
            self.metrics.unsaved.labels(str(self.number)).set_function(lambda: self.checkpoint_age)
        try:
            await self._restore()
        except Poisonous as poison:
            await self._halt_at(poison)
            return
        if self._is_over:  # while it was being restored
            return
        self._saved_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._follow(), name=f"rules-{self.number}")
        self._ticker = asyncio.create_task(self._tick(), name=f"ticks-{self.number}")
        self.beat.of(self._task, self._ticker)

    @property
    def delay(self) -> float:
        """Seconds by which the engine is behind its clock, now: grows where something is to be fed or judged, and time does not move."""
        now, reached = self.clock.now(), self.partition.now
        if not self.restored or self.stopped:
            return max(0, now - reached) / 1e6 if reached else 0
        overdue = now - self._due if self._due is not None and self._due > reached else 0
        return max(0, overdue, self._lag) / 1e6

    @property
    def restoring(self) -> str:
        """That it is being restored, and how far that is; "" once it is done."""
        return "" if self.restored else f"restoring ({self.way})" if self.way else "restoring"

    @property
    def checkpoint_age(self) -> float:
        """Seconds since the oldest record came that a start would have to fold, now; 0 where the newest checkpoint has them all."""
        return max(0, self.clock.now() - self._oldest) / 1e6 if self._oldest else 0

    async def stop(self) -> None:
        """Ends for good, and leaves a checkpoint behind, so that the next start is short. Whoever waits here is told to ask again."""
        self._is_over = True
        await self._cease()

    async def _cease(self) -> None:
        self.beat.of()
        for task in (self._ticker, self._task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        async with self._advanced:
            self._is_gone = True
            self._advanced.notify_all()
        try:
            async with asyncio.timeout(self.leaving):
                if self._saving is not None:
                    await self._saving
                if self.restored and self._unsaved:
                    await self._save()
        except TimeoutError:  # whoever has the partition next starts from the one before it
            self.metrics.checkpoints.labels("failed").inc()
            log.warning("checkpoint given up", partition=self.number, offset=self.partition.offset, after=self.leaving)

    async def caught_up(self, offset: int) -> None:
        """Returns once every record before `offset` has been fed and its decisions are durable. Raises Unavailable where that is not to be waited for here."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.done >= offset or self.stopped or self._is_gone)
        if self.stopped:
            raise Unavailable(self.stopped, reason="partition_stopped")
        if self.done < offset:
            raise Unavailable("the partition is being taken over by another process; ask again", reason="restoring")

    async def skip(self, offset: int, reason: str, by: str) -> None:
        """The log says durably that this record is passed over, now and in every replay, and the partition goes on. Only where it stopped at it."""
        async with self._mending:
            if self.poisoned != offset:
                stands = "is not stopped at a record" if self.poisoned is None else f"stopped at record {self.poisoned}, not at {offset}"
                raise Conflict(f"the partition {stands}: only the record that it cannot fold may be skipped", reason="not_poisoned")
            await self.events.append([("", Skip(offset, reason, by))], self.number)
            log.warning("record skipped", partition=self.number, offset=offset, reason=reason, by=by)
            await self._cease()
            self._empty()
            try:
                await self.start()
            except Exception as error:  # the skip is on the log; that nothing runs now must not look like a start under way
                await self._halt(f"{type(error).__name__}: {error}")
                raise
        async with self._advanced:
            self._advanced.notify_all()

    # -- restoring ---------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        oldest = await self._begin()
        self._compare_clocks(self.partition.now)
        end = await self._survey(oldest)
        begin = self.partition.offset
        log.info("restoring", partition=self.number, offset=begin, end=end)
        while page := await self.events.read(self.number, self.partition.offset, BATCH):
            await self._feed(page)
            self._get_on(FOLDED, begin, self.partition.offset, end)
        if self.to_repeat:
            raise Bug(f"the decisions log holds {self.to_repeat[-1][0]}, which this build does not derive: two builds disagree", reason="decisions_differ")
        self.restored, self._lag, self.way = True, 0, None  # nothing was left to be fed
        for step in STEPS:
            self.metrics.way.labels(str(self.number), step).set(1)
        self.metrics.stopped.labels(str(self.number)).set(0)  # not before: one that cannot be restored has not gone on
        faultpoint("engine.restored")
        await self._declare_ready()
        log.info("restored", partition=self.number, offset=self.partition.offset, replayed=self._unsaved)

    async def _begin(self) -> int:
        """The state is that of the newest checkpoint that can be gone on from, or empty where the log has its beginning; returns the log's first offset."""
        first, why = await oldest_record(self.events, self.number)
        oldest = first.offset if first else 0
        if why:
            log.warning("log cannot be read from its beginning", partition=self.number, why=why)
        found = await self._usable(first)
        if found is not None:
            await self._take(*found)
        elif oldest > 0 or why:
            what = f"the log begins at record {oldest}" if not why else f"the log can be read from record {oldest} on only ({why})" if first else why
            raise Misconfigured(f"{what}, and no valid checkpoint covers what came before it: restore the whole log, or a checkpoint, from a backup")
        new = {decision_id: found for decision_id, found in (await self._on_the_log()).items() if decision_id not in self.place}
        self.place |= {decision_id: offset for decision_id, (offset, _) in new.items()}
        self.to_repeat = [(decision_id, content) for decision_id, (_, content) in reversed(new.items())]
        return oldest

    async def _on_the_log(self, at: int | None = None) -> dict[str, tuple[int, bytes]]:
        """(offset, content) of decisions from `at` on, by default those not known yet. One that a worker believed dead has repeated stands there twice."""
        there: dict[str, tuple[int, bytes]] = {}
        at = len(self.place) if at is None else at  # with repetitions this lies before the first unknown one, never after it
        while page := await self.decisions.read(self.number, at, BATCH):
            for stamped in page:
                if stamped.record.id not in there:
                    there[stamped.record.id] = stamped.offset, content_of(stamped.record)
            at = page[-1].offset + 1
            self.beat()
        return there

    async def _usable(self, first: Stamped[Record] | None) -> tuple[Checkpoint, Partition] | None:
        """The newest checkpoint that can be gone on from, and its state."""
        if self.checkpoints is None:
            return None
        every = self.checkpoints.valid(self.number)
        while (found := await asyncio.to_thread(next, every, None)) is not None:
            self.beat()
            if isinstance(found, Kept):
                self._pass_over(found.offset, found.why)
            elif why := await self._unfit(found, first):
                self._pass_over(found.header.offset, why)
            else:
                try:
                    return found, await asyncio.to_thread(state.load, found.plain, found.arrays, self.guards)
                except Exception as error:  # whatever it is, the log can still say all of it
                    self._pass_over(found.header.offset, f"{type(error).__name__}: {error}")
        return None

    def _pass_over(self, offset: int, why: str) -> None:
        self.metrics.checkpoints.labels("passed_over").inc()
        log.warning("checkpoint passed over", partition=self.number, offset=offset, why=why)

    async def _unfit(self, found: Checkpoint, first: Stamped[Record] | None) -> str:
        """Why this checkpoint cannot be gone on from, "" where it can. Raises Misconfigured where it shows that the log is not the one it was."""
        if why := await unfit(self.events, found, first):
            return why
        header = found.header
        if header.decisions and not await self.decisions.read(self.number, header.decisions - 1, 1):
            return f"the decisions log holds less than the {header.decisions} decisions that were made before it"
        return ""

    async def _take(self, found: Checkpoint, partition: Partition) -> None:
        plain, arrays, self.partition, self.done = found.plain, found.arrays, partition, partition.offset
        ids = arrays.pop("said").tobytes().hex()
        offsets = arrays.pop("said_at").tolist() if "said_at" in arrays else range(len(ids) // (2 * ID))
        self.place = {ids[2 * ID * i : 2 * ID * (i + 1)]: offset for i, offset in enumerate(offsets)}
        words, known = plain["ending_words"], list(self.place)
        self.endings = {known[n]: Ending(words[status], at, words[why], words[by]) for n, status, at, why, by in arrays.pop("endings").tolist()}
        self.activations = plain["activations"]
        self.metrics.saved.labels(str(self.number)).set(found.header.offset)
        self.saved, self.saved_time = found.header.offset, found.header.engine_time
        log.info("checkpoint loaded", partition=self.number, offset=found.header.offset)
        faultpoint("engine.loaded")
        if self.on_activation is None:
            return
        followed = await self.followed() if self.followed is not None else -1
        for offset in [o for o in self.activations if o > followed]:  # the database is older than the checkpoint
            for stamped in await self.events.read(self.number, offset, 1):
                if isinstance(stamped.record, Activation) and stamped.offset == offset:
                    await self._tell(stamped.record, stamped)

    def _get_on(self, step: str, begin: int, offset: int, end: int) -> None:
        """A step that began at one record has passed those before `offset`, of all before `end`: that may lie behind, since the log grows, or be unknown, 0."""
        self.way = Way(step, offset - begin, max(end, offset) - begin if end else 0)
        self.metrics.way.labels(str(self.number), step).set(self.way.done / self.way.whole if self.way.whole else 0)

    async def _end(self) -> int:
        """The next record that the log will have, 0 where nobody says."""
        with suppress(Unavailable):
            return await self.end() if self.end is not None else 0
        return 0

    async def _survey(self, oldest: int) -> int:
        """What the rest of the log will ask for is known before it is fed: which records it skips, and what its activations read. Returns where it ends."""
        skips, activations, offset = set(self.partition.skipped), [], self.partition.offset
        begin, end = offset, await self._end()
        for step in STEPS:
            self.metrics.way.labels(str(self.number), step).set(0)
        while page := await self.events.read(self.number, offset, BATCH):
            self._miss_none(page, offset)
            self._oldest = self._oldest or page[0].stamp
            skips |= {s.record.offset for s in page if isinstance(s.record, Skip)}
            activations += [s for s in page if isinstance(s.record, Activation)]
            offset = page[-1].offset + 1
            self._get_on(LOOKED, begin, offset, end)
            self.beat()
            await asyncio.sleep(0)
        self.metrics.way.labels(str(self.number), LOOKED).set(1)
        skipped, demand = frozenset(skips), self.partition.demand
        for stamped in activations:
            if stamped.offset not in skipped:
                with suppress(Exception):  # one that cannot be read is met again when it is fed, and named
                    demand = Partition(self.guards, demand).lacks(stamped.record) or demand
        if demand != self.partition.demand and oldest == 0:
            self.partition, self.done = Partition(self.guards, demand), 0
            self.activations, there = [], await self._on_the_log(0)
            self.to_repeat = [(decision_id, there[decision_id][1] if decision_id in there else b"") for decision_id in reversed(self.place)]
        self.partition.skipped = skipped
        return offset

    async def _rebuild(self, demand: Demand, until: int) -> None:
        """The state as if the wider demand had always been there: a rule activated today reads the days that the log holds."""
        wider = Partition(self.guards, demand, self.partition.skipped)
        while wider.offset < until:
            try:
                page = await self.events.read(self.number, wider.offset, min(BATCH, until - wider.offset))
            except Unreadable as damaged:
                raise Poisonous(until, f"it reads what was not kept, and {damaged}") from damaged
            if page[0].offset > wider.offset:
                raise Poisonous(until, f"it reads what was not kept, and the log that would say it begins at record {page[0].offset}")
            for at in range(0, len(page), self._stride):
                wider.step(page[at : at + self._stride])
                self.beat()
                await asyncio.sleep(0)
        if wider.offset == 0:
            wider.offset = until
        self.partition = wider
        faultpoint("engine.rebuilt")

    # -- following ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        try:
            async for page in self.events.follow(self.number, self.partition.offset):
                self.beat()
                if not page:
                    self._lag = 0
                    continue
                await self._feed(page)
                await self._declare_ready()
                async with self._advanced:
                    self._advanced.notify_all()
                self._save_when_due()
        except Poisonous as poison:
            await self._halt_at(poison)
        except Exception as error:  # the edge of the loop: what stopped it is said, and nobody is answered on its behalf
            await self._halt(f"{type(error).__name__}: {error}")
            log.exception("partition stopped", partition=self.number)

    async def _halt_at(self, poison: Poisonous) -> None:
        self.poisoned = poison.offset
        way = f"`trimtab partition skip {poison.offset} --reason ...` goes on without it"
        await self._halt(f"poisoned: record {poison.offset} cannot be folded: {poison.why}; {way}")
        log.error("partition stopped", partition=self.number, offset=poison.offset, why=poison.why, exc_info=poison.__cause__)

    async def _halt(self, why: str) -> None:
        self.stopped = why
        self.beat.of()
        self.metrics.stopped.labels(str(self.number)).set(1)
        async with self._advanced:
            self._advanced.notify_all()

    async def _feed(self, page: Sequence[Stamped[Record]]) -> None:
        """Every record of the page is folded and its decisions are durable. Fed at once are as many as one can go on without anyone's noticing."""
        self._compare_clocks(max(s.stamp for s in page))
        self._miss_none(page, self.partition.offset)
        faultpoint("engine.fetched")
        at = 0
        while at < len(page):
            if (demand := self._lacks(page[at])) is not None:
                await self._rebuild(demand, page[at].offset)
            end = next((i for i in range(at + 1, len(page)) if i - at >= self._stride or self._is_particular(page[i])), len(page))
            fed, at = page[at:end], end
            decided = await self._step(fed)
            if decided:
                faultpoint("engine.stepped")
            await self._say(decided)
            for stamped in fed:
                if not isinstance(stamped.record, EventBatch):
                    await self._note(stamped)
            self._oldest, self._later = self._oldest or fed[0].stamp, self._later or fed[0].stamp
            self.done, self._unsaved = fed[-1].offset + 1, self._unsaved + len(fed)
            self.beat()
            if at < len(page):
                await asyncio.sleep(0)
        self.metrics.records.labels(str(self.number)).inc(len(page))
        self.metrics.time.labels(str(self.number)).set(self.partition.now / 1e6)
        self._lag = self.clock.now() - self.partition.now

    def _compare_clocks(self, stamp: int) -> None:
        ahead = stamp - self.clock.now()
        if ahead > SKEW:
            raise Unavailable(f"a record is stamped {ahead / 1e6:.0f} s ahead of this machine's clock: check both clocks", reason="clock_skew")

    def _miss_none(self, page: Sequence[Stamped[Record]], begin: int) -> None:
        """Raises Unreadable where a record from `begin` on is not in the page: its sums would lack what it says, and nothing would show it."""
        if page[0].offset == begin and page[-1].offset == begin + len(page) - 1:
            return
        expected, found = next((begin + i, s.offset) for i, s in enumerate(page) if s.offset != begin + i)
        raise Unreadable(f"the log has no record {expected}, the next that can be read is {found}: nothing is decided without what is missing", found)

    def _is_particular(self, stamped: Stamped[Record]) -> bool:
        """Whether something has to be looked at before this record is fed."""
        return isinstance(stamped.record, Activation | Poisoned)

    def _lacks(self, stamped: Stamped[Record]) -> Demand | None:
        record = stamped.record
        if stamped.offset in self.partition.skipped:
            return None
        if isinstance(record, Poisoned):
            raise Poisonous(stamped.offset, record.why)
        try:
            return self.partition.lacks(record)
        except Exception as error:
            raise Poisonous(stamped.offset, f"{type(error).__name__}: {error}") from error

    async def _step(self, fed: Sequence[Stamped[Record]]) -> list[Decision]:
        begun = self.stopwatch()
        try:
            decided = self.partition.step(fed)
        except Exception as error:
            raise await self._culprit(fed, error) from error
        took = self.stopwatch() - begun
        self.metrics.step.observe(took)
        if took > LONG:
            self._stride = max(1, self._stride // 2)
        elif took < SHORT and len(fed) >= self._stride:
            self._stride = min(MOST, self._stride * 2)
        return decided

    async def _culprit(self, fed: Sequence[Stamped[Record]], error: Exception) -> Exception:
        """Which of these records it is that the core raises on, found by feeding them one by one to the state before them."""
        why = f"{type(error).__name__}: {error}"
        if len(fed) == 1:
            return Poisonous(fed[0].offset, why)
        before = await self._before(fed[0].offset)
        for stamped in fed:
            try:
                before.step([stamped])
            except Exception:
                return Poisonous(stamped.offset, why)
            await asyncio.sleep(0)
        return error

    async def _before(self, until: int) -> Partition:
        """The state before a record, made again; it may be narrower than what was kept."""
        first, _ = await oldest_record(self.events, self.number)
        found = await self._usable(first)
        before = found[1] if found is not None and found[1].offset <= until else Partition(self.guards, self.partition.demand)
        before.skipped = self.partition.skipped
        while before.offset < until:
            for stamped in await self.events.read(self.number, before.offset, min(BATCH, until - before.offset)):
                before.step([stamped])
            self.beat()
            await asyncio.sleep(0)
        return before

    async def _note(self, stamped: Stamped[Record]) -> None:
        """What people ask about beside the core's state: how decisions ended, and which version is what."""
        record = stamped.record
        if stamped.offset in self.partition.skipped:
            return
        if isinstance(record, Outcome) and record.status in TERMINAL and record.decision_id not in self.endings:
            self.endings[record.decision_id] = Ending(record.status, stamped.stamp, record.reason, record.by)
        if isinstance(record, Ready):
            self.declared.discard((record.workspace, record.version))  # a version may be activated again, after a roll-back
        if isinstance(record, Activation):
            self.activations.append(stamped.offset)
            await self._tell(record, stamped)

    async def _tell(self, activation: Activation, stamped: Stamped[Record]) -> None:
        if (tell := self.on_activation) is not None:
            await self._patiently(lambda _: tell(activation, stamped.offset, stamped.stamp))
            faultpoint("engine.told")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_when_due(self) -> None:
        elapsed = asyncio.get_running_loop().time() - self._saved_at
        due = self._unsaved >= self.often.records or (self._unsaved > 0 and elapsed >= self.often.seconds)
        is_whole = self.done == self.partition.offset
        if self.checkpoints is not None and due and is_whole and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(), name=f"checkpoint-{self.number}")

    async def _save(self) -> None:
        """A checkpoint of the state as it is now is on the disk, or why it is not has been said; meanwhile the engine goes on."""
        if self.checkpoints is None or self.stopped or self.done != self.partition.offset or self.to_repeat:
            return
        plain, pieces = state.dump(self.partition)
        offset, decided, engine_time = self.partition.offset, len(self.place), self.partition.now
        pieces |= self._bookkeeping(plain)
        faultpoint("checkpoint.dumped")
        self._unsaved, self._saved_at, self._later = 0, asyncio.get_running_loop().time(), 0
        try:
            skipped = frozenset(plain["skipped"])
            first, _ = await oldest_record(self.events, self.number)
            beginning = mark(first, skipped) if first is not None and first.offset == 0 else ""
            last = mark((await self.events.read(self.number, offset - 1, 1))[0], skipped) if offset else ""
            header = Header(self.number, offset, decided, engine_time, beginning, last, self.clock.now())
            await asyncio.to_thread(self.checkpoints.write, header, plain, pieces)
        except (OSError, Unavailable) as error:
            self.metrics.checkpoints.labels("failed").inc()
            self._unsaved = max(1, self._unsaved)  # one is due again in time, though nothing may come meanwhile
            log.warning("checkpoint not written", partition=self.number, offset=offset, why=str(error))
            return
        self.metrics.checkpoints.labels("written").inc()
        self.metrics.saved.labels(str(self.number)).set(offset)
        self.saved, self.saved_time, self._oldest = offset, engine_time, self._later
        log.info("checkpoint written", partition=self.number, offset=offset)

    def _bookkeeping(self, plain: dict[str, Any]) -> state.Pieces:
        """What else a start would have to read both logs for from their beginnings: every decision's id, and how those that ended did."""
        words: dict[str, int] = {}
        numbers = {decision_id: number for number, decision_id in enumerate(self.place)}
        rows = []
        for decision_id, ending in self.endings.items():
            if (number := numbers.get(decision_id)) is not None:
                status, why, by = (words.setdefault(w, len(words)) for w in (ending.status, ending.reason, ending.by))
                rows.append((number, status, ending.at, why, by))
        plain["ending_words"], plain["activations"] = list(words), list(self.activations)
        ids = np.frombuffer(bytes.fromhex("".join(self.place)), np.uint8).reshape(-1, ID)
        offsets = np.array(list(self.place.values()), np.int64)
        return {"said": [ids], "said_at": [offsets], "endings": [np.array(rows, np.int64).reshape(-1, 5)]}

    # -- deciding ----------------------------------------------------------------------------------------------------

    async def decision(self, decision_id: str) -> Decision | None:
        """A decision of this partition, or None."""
        offset = self.place.get(decision_id)
        return None if offset is None else (await self.decisions.read(self.number, offset, 1))[0].record

    async def _say(self, decided: list[Decision]) -> None:
        """Appends what is new; what the log already holds must be what was derived again."""
        fresh = []
        for decision in decided:
            if not self.to_repeat:
                fresh.append(decision)
                continue
            before, content = self.to_repeat.pop()
            if before != decision.id:
                raise Bug(f"this build decides {decision.id} where the log holds {before}: two builds disagree", reason="decisions_differ")
            if content and content != content_of(decision):
                raise Bug(f"the log holds {before} with other content than this build gives it: two builds disagree", reason="decisions_differ")
        if not fresh:
            return
        await self._patiently(lambda attempt: self._append(fresh, attempt))
        faultpoint("engine.said")
        for d in fresh:
            self.metrics.decisions.labels(d.rule_id, d.kind, d.mode).inc()
            for guard in d.refusals:
                self.metrics.refusals.labels(d.rule_id, guard).inc()
            log.info("decided", decision=d.id, rule=d.rule_id, entity=d.path, kind=d.kind, refusals=",".join(d.refusals))

    async def _append(self, fresh: list[Decision], attempt: int) -> None:
        """They are on the decisions log once, also where an append that failed had got through."""
        there = {decision_id: offset for decision_id, (offset, _) in (await self._on_the_log()).items()} if attempt else {}
        missing = [d for d in fresh if d.id not in there]
        places = await self.decisions.append([(d.workspace, d) for d in missing]) if missing else ()
        there |= {d.id: offset for d, (_, offset) in zip(missing, places, strict=True)}
        self.place |= {d.id: there[d.id] for d in fresh}

    async def _patiently(self, work: Callable[[int], Awaitable[None]]) -> None:
        """The work, given the number of the attempt from 0, is done: a full disk must not stop the partition for good."""
        for attempt in count():
            try:
                await work(attempt)
                return
            except Unavailable as error:
                if error.reason == "log_closed":
                    raise
                log.warning("engine waits", partition=self.number, reason=error.reason, why=str(error))
                self.beat()
                await asyncio.sleep(min(PATIENCE * 2 ** min(attempt, 10), LONGEST))

    async def _declare_ready(self) -> None:
        """Whatever an activation needs has been rebuilt by the time it was fed."""
        waiting = [a for name in sorted(self.partition.workspaces) for a in self.partition.workspaces[name].activated.values()]
        new = [a for a in waiting if (a.workspace, a.version) not in self.declared]
        if new:
            self.declared |= {(a.workspace, a.version) for a in new}
            await self._patiently(lambda _: self._put([(a.workspace, Ready(a.workspace, a.version)) for a in new]))
            faultpoint("engine.readied")

    async def _put(self, records: list[tuple[str, Record]]) -> None:
        await self.events.append(records)

    async def _tick(self) -> None:
        try:
            await self._move_time()
        except Exception as error:  # the edge of the loop, as above: where time stands, nothing is decided
            await self._halt(f"{type(error).__name__}: {error}")
            log.exception("partition stopped", partition=self.number)

    async def _move_time(self) -> None:
        """Time moves when nothing else does: an empty record as soon as a boundary is due that may not be a no-op."""
        while not self.stopped:
            self._save_when_due()  # where nothing comes any more, what came last is in one all the same
            due, now = self.partition.due(), self.clock.now()
            self._due = due
            if due is None or not self.partition.now < due <= now:
                await asyncio.sleep(self.patience if due is None else min(max((due - now) / 1e6, 0.002), self.patience))
                continue
            try:
                [(_, offset)] = await self.events.append([("", Tick())], self.number)
                faultpoint("engine.ticked")
                await self.caught_up(offset + 1)
                if self.partition.now < due:  # the log's clock is behind ours: it gets there by itself, and more ticks would only fill the log
                    await asyncio.sleep(min(max((due - self.partition.now) / 1e6, 0.002), self.patience))
            except Unavailable as error:  # a full disk must not end time for good
                log.warning("tick waits", partition=self.number, reason=error.reason)
                await asyncio.sleep(PATIENCE)


def content_of(decision: Decision) -> bytes:
    """Equal for equal decisions alone."""
    return blake2b(encode(decision), digest_size=ID).digest()
