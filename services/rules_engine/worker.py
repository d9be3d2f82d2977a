"""The engine's shell: follows one partition of the events log, feeds the pure core, appends its decisions, and moves time when nothing else does.

start = newest valid checkpoint (or nothing) + the log from there; then page by page: step, append the decisions, note, and now and then a checkpoint
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from services.adapters.faultpoint import faultpoint
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Conflict, Unavailable
from services.kernel.ports import Clock, Log
from services.kernel.record import Activation, EventBatch, Outcome, Poisoned, Ready, Record, Skip, Stamped, Tick
from services.rules_engine import endings
from services.rules_engine.checkpoint import Checkpoint, Checkpoints, Header, mark
from services.rules_engine.core import state
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.lifecycle import TERMINAL
from services.rules_engine.core.partition import Partition
from services.rules_engine.patiently import patiently
from services.rules_engine.poison import Poisonous, culprit
from services.rules_engine.replay import oldest as oldest_record
from services.rules_engine.restore import BATCH, Restore, require_whole
from services.rules_engine.said import Said
from services.rules_engine.told import Ending
from services.rules_engine.unsaved import Often, Unsaved
from services.rules_engine.watched import FOLDED, LOOKED, STEPS, Metrics, Way

SKEW = 60_000_000  # a record stamped further ahead of our own clock stops the partition before it is fed
MOST, SHORT, LONG = 1000, 0.01, 0.04  # records fed at once, so many that it takes about this long, seconds: whoever else waits for the loop gets it
PATIENCE = 0.2  # seconds between looks at the clock when nothing is due
LEAVING = 10.0  # seconds that checkpoints get at an orderly end, which must not outlast what SIGTERM is given
log = structlog.get_logger("rules_engine")


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
        self.restore = Restore(events, decisions, guards, partition, checkpoints, metrics, self.beat)
        self._empty()

    def _empty(self) -> None:
        self.partition = Partition(self.guards)
        self.said = Said(self.decisions, self.number, self.metrics, self.beat)
        self.declared: set[tuple[str, str]] = set()  # (workspace, version) whose `ready` record is on the log and not yet fed
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
        self.unsaved = Unsaved(self.often)
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
        self.unsaved.begin(asyncio.get_running_loop().time())
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
        return max(0, self.clock.now() - self.unsaved.oldest) / 1e6 if self.unsaved.oldest else 0

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
                if self.restored and self.unsaved.records:
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
        start = await self.restore.start()
        if start.checkpoint is not None:
            await self._take(start.checkpoint, start.state)
        await self.said.recall()
        self._compare_clocks(self.partition.now)
        end = await self._look_ahead(start.oldest)
        begin = self.partition.offset
        log.info("restoring", partition=self.number, offset=begin, end=end)
        while page := await self.events.read(self.number, self.partition.offset, BATCH):
            await self._feed(page)
            self._get_on(FOLDED, begin, self.partition.offset, end)
        self.said.require_derived()
        self.restored, self._lag, self.way = True, 0, None  # nothing was left to be fed
        for step in STEPS:
            self.metrics.way.labels(str(self.number), step).set(1)
        self.metrics.stopped.labels(str(self.number)).set(0)  # not before: one that cannot be restored has not gone on
        faultpoint("engine.restored")
        await self._declare_ready()
        log.info("restored", partition=self.number, offset=self.partition.offset, replayed=self.unsaved.records)

    async def _take(self, found: Checkpoint, partition: Partition) -> None:
        self.partition, self.done = partition, partition.offset
        self.said.load(found.arrays)
        self.endings, self.activations = endings.load(found.plain, found.arrays, list(self.said.place)), found.plain["activations"]
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

    async def _look_ahead(self, oldest: int) -> int:
        """What the rest of the log will ask for is kept from the beginning, where the log has that. Returns where it ends."""
        begin, end = self.partition.offset, await self._end()
        for step in STEPS:
            self.metrics.way.labels(str(self.number), step).set(0)

        def looked(page: Sequence[Stamped[Record]]) -> None:
            self.unsaved.met(page[0].stamp)
            self._get_on(LOOKED, begin, page[-1].offset + 1, end)

        ahead = await self.restore.ahead(self.partition, looked)
        self.metrics.way.labels(str(self.number), LOOKED).set(1)
        if ahead.demand != self.partition.demand and oldest == 0:
            self.partition, self.done, self.activations = Partition(self.guards, ahead.demand), 0, []
            await self.said.recall_all()
        self.partition.skipped = ahead.skipped
        return ahead.end

    def _get_on(self, step: str, begin: int, offset: int, end: int) -> None:
        """A step that began at one record has passed those before `offset`, of all before `end`: that may lie behind, since the log grows, or be unknown, 0."""
        self.way = Way(step, offset - begin, max(end, offset) - begin if end else 0)
        self.metrics.way.labels(str(self.number), step).set(self.way.ratio)

    async def _end(self) -> int:
        """The next record that the log will have, 0 where nobody says."""
        with suppress(Unavailable):
            return await self.end() if self.end is not None else 0
        return 0

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
        require_whole(page, self.partition.offset)
        faultpoint("engine.fetched")
        at = 0
        while at < len(page):
            if (demand := self._lacks(page[at])) is not None:
                self.partition = await self.restore.rebuilt(demand, page[at].offset, self.partition.skipped, self._stride)
                faultpoint("engine.rebuilt")
            end = next((i for i in range(at + 1, len(page)) if i - at >= self._stride or self._is_particular(page[i])), len(page))
            fed, at = page[at:end], end
            decided = await self._step(fed)
            if decided:
                faultpoint("engine.stepped")
            await self.said.say(decided)
            for stamped in fed:
                if not isinstance(stamped.record, EventBatch):
                    await self._note(stamped)
            self.unsaved.add(fed[0].stamp, len(fed))
            self.done = fed[-1].offset + 1
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
            raise await culprit(fed, error, lambda until: self.restore.before(until, self.partition)) from error
        took = self.stopwatch() - begun
        self.metrics.step.observe(took)
        if took > LONG:
            self._stride = max(1, self._stride // 2)
        elif took < SHORT and len(fed) >= self._stride:
            self._stride = min(MOST, self._stride * 2)
        return decided

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
            await patiently(lambda _: tell(activation, stamped.offset, stamped.stamp), self.number, self.beat)
            faultpoint("engine.told")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_when_due(self) -> None:
        is_due, is_whole = self.unsaved.is_due(asyncio.get_running_loop().time()), self.done == self.partition.offset
        if self.checkpoints is not None and is_due and is_whole and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(), name=f"checkpoint-{self.number}")

    async def _save(self) -> None:
        """A checkpoint of the state as it is now is on the disk, or why it is not has been said; meanwhile the engine goes on."""
        if self.checkpoints is None or self.stopped or self.done != self.partition.offset or self.said.to_repeat:
            return
        plain, pieces = state.dump(self.partition)
        offset, decided, engine_time = self.partition.offset, len(self.said.place), self.partition.now
        plain["ending_words"], rows = endings.dump(self.endings, self.said.place)
        plain["activations"] = list(self.activations)
        pieces |= self.said.dump() | {"endings": [rows]}
        faultpoint("checkpoint.dumped")
        self.unsaved.begun(asyncio.get_running_loop().time())
        try:
            skipped = frozenset(plain["skipped"])
            first, _ = await oldest_record(self.events, self.number)
            beginning = mark(first, skipped) if first is not None and first.offset == 0 else ""
            last = mark((await self.events.read(self.number, offset - 1, 1))[0], skipped) if offset else ""
            header = Header(self.number, offset, decided, engine_time, beginning, last, self.clock.now())
            await asyncio.to_thread(self.checkpoints.write, header, plain, pieces)
        except (OSError, Unavailable) as error:
            self.metrics.checkpoints.labels("failed").inc()
            self.unsaved.failed()
            log.warning("checkpoint not written", partition=self.number, offset=offset, why=str(error))
            return
        self.metrics.checkpoints.labels("written").inc()
        self.metrics.saved.labels(str(self.number)).set(offset)
        self.saved, self.saved_time = offset, engine_time
        self.unsaved.written()
        log.info("checkpoint written", partition=self.number, offset=offset)

    # -- what it puts on the log itself ------------------------------------------------------------------------------

    async def _declare_ready(self) -> None:
        """Whatever an activation needs has been rebuilt by the time it was fed."""
        waiting = [a for name in sorted(self.partition.workspaces) for a in self.partition.workspaces[name].activated.values()]
        new = [a for a in waiting if (a.workspace, a.version) not in self.declared]
        if new:
            self.declared |= {(a.workspace, a.version) for a in new}
            await patiently(lambda _: self._put([(a.workspace, Ready(a.workspace, a.version)) for a in new]), self.number, self.beat)
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
