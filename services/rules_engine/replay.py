"""Any past is recomputed from the log: a decision, to be compared bit for bit, or the state as of an instant, to be asked.

From the log's first record on; where that cannot be read any more, from the newest checkpoint that was taken before what is asked for. Never from the
middle of a log on an empty state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from services.adapters.clock import instant as told
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, NotFound, Unavailable, Unreadable
from services.kernel.ports import Log
from services.kernel.record import Activation, Record, Skip, Stamped, Tick
from services.rules_engine.checkpoint import Checkpoint, Checkpoints, Kept, unfit
from services.rules_engine.core import state as form
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition, demand_of, skips_of

PAGE = 2000
logger = structlog.get_logger("replay")


class Beyond(Unavailable):
    """Neither the log nor a checkpoint reaches back to before what is asked for: it cannot be recomputed any more."""

    reason = "log_begins_later"


async def oldest(log: Log[Record], partition: int = 0) -> tuple[Stamped[Record] | None, str]:
    """The record from which on the log can be read, None where it is empty; and why it cannot be from further back, where that is known."""
    offset, why = 0, ""
    while True:
        try:
            page = await log.read(partition, offset, 1)
            return (page[0] if page else None), why
        except Unreadable as damaged:
            offset, why = damaged.beyond, str(damaged)


async def pages(log: Log[Record], partition: int, end: int | None = None, start: int = 0) -> AsyncIterator[Sequence[Stamped[Record]]]:
    """The records from `start` up to `end`, exclusive, in order, a page at a time: a log is larger than memory. Raises Unreadable where one is missing."""
    offset = start
    while (end is None or offset < end) and (page := await log.read(partition, offset, PAGE if end is None else min(PAGE, end - offset))):
        if page[0].offset > offset:
            raise Unreadable(f"the log begins at record {page[0].offset}: what stood before it is gone", page[0].offset)
        if (found := next((s.offset for i, s in enumerate(page) if s.offset != offset + i), None)) is not None:
            raise Unreadable(f"records before record {found} are missing on the log", found)
        yield page
        offset = page[-1].offset + 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """A partition's records up to `end`, exclusive, and of these the ones that say what others mean."""

    end: int
    particular: list[Stamped[Record]]


async def survey(log: Log[Record], partition: int, start: int, before: int) -> Stretch:
    """The records from `start` on that a boundary at `before` (microseconds) judges."""
    particular: list[Stamped[Record]] = []
    end = start
    async for page in pages(log, partition, start=start):
        within = next((i for i, s in enumerate(page) if s.stamp >= before), len(page))
        particular += [s for s in page[:within] if isinstance(s.record, Skip | Activation)]
        if within:
            end = page[within - 1].offset + 1
        if within < len(page):
            break
    return Stretch(end, particular)


@dataclass(frozen=True, slots=True)
class Past:
    """The state as a boundary left it, what it decided, and between which records of the log that was found out: `begun` is 0, or a checkpoint's."""

    state: Partition
    decided: list[Decision]
    begun: int
    end: int
    why: str = ""  # why it did not begin with record 0


@dataclass(frozen=True, slots=True)
class Replayed:
    derived: Decision | None  # what this build derives from the log, None where it derives no such decision
    recorded: Decision
    begun: int  # the first record that was folded: 0, or the one that a checkpoint had not
    records: int  # how many were folded
    why: str = ""  # why it did not begin with record 0

    @property
    def identical(self) -> bool:
        return self.derived == self.recorded


@dataclass(frozen=True, slots=True)
class Replayer:
    """What a partition's past is recomputed from."""

    log: Log[Record]
    guards: dict[str, Guard]
    partition: int = 0
    checkpoints: Checkpoints | None = None
    skipped: frozenset[int] = frozenset()  # records that are known to be skipped by one that may stand after what is asked for

    async def replay(self, recorded: Decision) -> Replayed:
        """Recomputes one decision. Raises Beyond."""
        past = await self._at(recorded.now)
        if not past.end:  # it was decided on something
            raise Beyond("the log holds nothing any more from before the decision was made")
        return Replayed(next((d for d in past.decided if d.id == recorded.id), None), recorded, past.begun, past.end - past.begun, past.why)

    async def state_at(self, instant: int) -> Partition:
        """The state as the last boundary at or before an instant judged it, over the records stamped before it, with all that a chart may show.

        Begun from a checkpoint it may lack what only a chart shows: then its demand says so. Raises Beyond.
        """
        past = await self._at(instant, evidence=True)
        if not past.end:
            raise NotFound("the log holds nothing from before that time")
        return past.state

    async def _at(self, instant: int, evidence: bool = False) -> Past:
        try:
            return await self._from_the_beginning(instant, evidence)
        except Unreadable as lost:
            return replace(await self._from_a_checkpoint(instant, lost), why=str(lost))

    async def _from_the_beginning(self, instant: int, evidence: bool) -> Past:
        stretch = await survey(self.log, self.partition, 0, instant)
        skipped = self.skipped | skips_of(stretch.particular)
        demand = demand_of([s for s in stretch.particular if s.offset not in skipped])
        return await self._folded(Partition(self.guards, replace(demand, evidence=demand.evidence or evidence), skipped), stretch.end, instant)

    async def _from_a_checkpoint(self, instant: int, lost: Unreadable) -> Past:
        """Of those that were taken before the instant the newest from which all that follows can be read and was kept."""
        why, least = lost, lost.beyond
        first, _ = await oldest(self.log, self.partition)
        every: Iterator[Checkpoint | Kept] = iter(()) if self.checkpoints is None else self.checkpoints.valid(self.partition, instant)
        while (found := await asyncio.to_thread(next, every, None)) is not None:
            if isinstance(found, Kept):
                logger.warning("checkpoint passed over", partition=self.partition, offset=found.offset, why=found.why)
            elif found.header.offset >= least:
                try:
                    if loaded := await self._loaded(found, first):
                        return await self._gone_on(loaded, instant)
                except Unreadable as lacking:
                    why, least = lacking, lacking.beyond
        raise Beyond(f"{why}; and no valid checkpoint from there on was taken before {told(instant)}") from why

    async def _loaded(self, found: Checkpoint, first: Stamped[Record] | None) -> Partition | None:
        try:
            why = await unfit(self.log, found, first)
            if not why:
                return await asyncio.to_thread(form.load, found.plain, found.arrays, self.guards)
        except (Misconfigured, KeyError, ValueError, TypeError, IndexError) as error:
            why = str(error) or type(error).__name__
        logger.warning("checkpoint passed over", partition=self.partition, offset=found.header.offset, why=why)
        return None

    async def _gone_on(self, state: Partition, instant: int) -> Past:
        stretch = await survey(self.log, self.partition, state.offset, instant)
        state.skipped |= self.skipped | skips_of(stretch.particular)
        for stamped in stretch.particular:
            if isinstance(a := stamped.record, Activation) and stamped.offset not in state.skipped and state.lacks(a) is not None:
                what = f"rule {a.rule_id}, activated at record {stamped.offset}, reads more than the checkpoint at record {state.offset} keeps"
                raise Unreadable(f"{what}, and the log's beginning is gone", stamped.offset + 1)
        return await self._folded(state, stretch.end, instant)

    async def _folded(self, state: Partition, end: int, instant: int) -> Past:
        begun = state.offset
        async for page in pages(self.log, self.partition, end, begun):
            await asyncio.to_thread(state.step, page)
        decided = await asyncio.to_thread(state.step, [Stamped(end, instant, Tick())])
        return Past(state, decided, begun, end)
