"""The state of a partition made from its log: what a start goes on from, and what has to be made again while it runs.

    start    the newest checkpoint that both logs fit, or nothing where the log has its beginning
    ahead    what the log from there on will ask for
    rebuilt  the log from its beginning, where more is to be kept than was
    before   such a start, or nothing, and the log up to a record
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, Unreadable
from services.kernel.ports import Log
from services.kernel.record import Activation, Record, Skip, Stamped
from services.rules_engine.checkpoint import Checkpoint, Checkpoints, Kept, unfit
from services.rules_engine.core import state
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition
from services.rules_engine.poison import Poisonous
from services.rules_engine.replay import oldest as oldest_record
from services.rules_engine.watched import Metrics

BATCH = 1000  # records read at once
log = structlog.get_logger("rules_engine")


@dataclass(frozen=True, slots=True)
class Start:
    """What a start goes on from; without a checkpoint the state is empty."""

    state: Partition
    checkpoint: Checkpoint | None
    oldest: int  # the first record that the log holds


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the log holds beyond a state: where it ends, which records are skipped, and the demand of its activations and the state's own."""

    end: int
    skipped: frozenset[int]
    demand: Demand


@dataclass(frozen=True, slots=True)
class Restore:
    """Of one partition. `beat` is told that it goes on."""

    events: Log[Record]
    decisions: Log[Decision]
    guards: dict[str, Guard]
    number: int
    checkpoints: Checkpoints | None
    metrics: Metrics
    beat: Beat

    async def start(self) -> Start:
        """That of the newest checkpoint that can be gone on from, or the empty state where the log has its beginning. Raises Misconfigured where neither is."""
        first, why = await oldest_record(self.events, self.number)
        oldest = first.offset if first else 0
        if why:
            log.warning("log cannot be read from its beginning", partition=self.number, why=why)
        found = await self._usable(first)
        if found is not None:
            checkpoint, partition = found
            return Start(partition, checkpoint, oldest)
        if oldest > 0 or why:
            what = f"the log begins at record {oldest}" if not why else f"the log can be read from record {oldest} on only ({why})" if first else why
            raise Misconfigured(f"{what}, and no valid checkpoint covers what came before it: restore the whole log, or a checkpoint, from a backup")
        return Start(Partition(self.guards), None, oldest)

    async def ahead(self, of: Partition, looked: Callable[[Sequence[Stamped[Record]]], None]) -> Ahead:
        """What the rest of the log will ask for is known before it is fed; `looked` is told of each page. Raises Unreadable where a record is missing."""
        skips, activations, offset = set(of.skipped), [], of.offset
        while page := await self.events.read(self.number, offset, BATCH):
            require_whole(page, offset)
            skips |= {s.record.offset for s in page if isinstance(s.record, Skip)}
            activations += [s for s in page if isinstance(s.record, Activation)]
            offset = page[-1].offset + 1
            looked(page)
            self.beat()
            await asyncio.sleep(0)
        skipped, demand = frozenset(skips), of.demand
        for stamped in activations:
            if stamped.offset not in skipped:
                with suppress(Exception):  # one that cannot be read is met again when it is fed, and named
                    demand = Partition(self.guards, demand).lacks(stamped.record) or demand
        return Ahead(offset, skipped, demand)

    async def before(self, until: int, now: Partition) -> Partition:
        """The state before a record, made again; it may be narrower than that of `now`. Raises Unreadable where the log does not hold all of it any more."""
        first, _ = await oldest_record(self.events, self.number)
        found = await self._usable(first)
        before = found[1] if found is not None and found[1].offset <= until else Partition(self.guards, now.demand)
        before.skipped = now.skipped
        while before.offset < until:
            page = await self.events.read(self.number, before.offset, min(BATCH, until - before.offset))
            require_whole(page, before.offset)
            for stamped in page:
                before.step([stamped])
            self.beat()
            await asyncio.sleep(0)
        return before

    async def rebuilt(self, demand: Demand, until: int, skipped: frozenset[int], stride: int) -> Partition:
        """The state before a record as if the wider demand had always been there: a rule activated today reads the days that the log holds.

        So many records are folded before whoever else waits for the loop gets it. Raises Poisonous where the log does not hold them all any more.
        """
        wider = Partition(self.guards, demand, skipped)
        while wider.offset < until:
            try:
                page = await self.events.read(self.number, wider.offset, min(BATCH, until - wider.offset))
            except Unreadable as damaged:
                raise Poisonous(until, f"it reads what was not kept, and {damaged}") from damaged
            if page[0].offset > wider.offset:
                raise Poisonous(until, f"it reads what was not kept, and the log that would say it begins at record {page[0].offset}")
            for at in range(0, len(page), stride):
                wider.step(page[at : at + stride])
                self.beat()
                await asyncio.sleep(0)
        if wider.offset == 0:
            wider.offset = until
        return wider

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


def require_whole(page: Sequence[Stamped[Record]], begin: int) -> None:
    """Raises Unreadable where a record from `begin` on is not in the page: its sums would lack what it says, and nothing would show it."""
    if not page:
        raise Unreadable(f"the log has no record {begin}, nor any after it: nothing is decided without what is missing", begin)
    if page[0].offset == begin and page[-1].offset == begin + len(page) - 1:
        return
    expected, found = next((begin + i, s.offset) for i, s in enumerate(page) if s.offset != begin + i)
    raise Unreadable(f"the log has no record {expected}, the next that can be read is {found}: nothing is decided without what is missing", found)
