"""Any past is recomputed from the log: a decision, to be compared bit for bit, or the state as of an instant, to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from services.kernel.decision import Decision
from services.kernel.errors import NotFound, Unavailable, Unreadable
from services.kernel.ports import Log
from services.kernel.record import Activation, Record, Skip, Stamped, Tick
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition, demand_of, skips_of

PAGE = 2000


async def oldest(log: Log[Record], partition: int = 0) -> tuple[Stamped[Record] | None, str]:
    """The record from which on the log can be read, None where it is empty; and why it cannot be from further back, where that is known."""
    offset, why = 0, ""
    while True:
        try:
            page = await log.read(partition, offset, 1)
            return (page[0] if page else None), why
        except Unreadable as damaged:
            offset, why = damaged.beyond, str(damaged)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A partition's records from its beginning up to `end`, exclusive, and what they ask for."""

    end: int
    stamp: int  # of the last one
    demand: Demand
    skipped: frozenset[int]


async def survey(log: Log[Record], partition: int, before: int | None = None) -> Stretch:
    """The records that a boundary at `before` (microseconds) judges, or all. Raises Unavailable where the log has lost its beginning."""
    particular: list[Stamped[Record]] = []
    end, stamp = 0, 0
    async for page in pages(log, partition):
        within = next((i for i, s in enumerate(page) if before is not None and s.stamp >= before), len(page))
        particular += [s for s in page[:within] if isinstance(s.record, Skip | Activation)]
        if within:
            end, stamp = page[within - 1].offset + 1, page[within - 1].stamp
        if within < len(page):
            break
    return Stretch(end, stamp, demand_of(particular), skips_of(particular))


async def pages(log: Log[Record], partition: int, end: int | None = None) -> AsyncIterator[Sequence[Stamped[Record]]]:
    """The records before `end` in order from the first on, a page at a time: a log is larger than memory."""
    offset = 0
    while (end is None or offset < end) and (page := await log.read(partition, offset, PAGE if end is None else min(PAGE, end - offset))):
        if page[0].offset > offset:
            raise Unavailable(f"the log begins at record {page[0].offset}: what stood before it cannot be recomputed any more", reason="log_begins_later")
        yield page
        offset = page[-1].offset + 1


@dataclass(frozen=True, slots=True)
class Replayed:
    derived: Decision | None  # what this build derives from the log, None where it derives no such decision
    recorded: Decision
    records: int

    @property
    def identical(self) -> bool:
        return self.derived == self.recorded


async def replay(log: Log[Record], guards: dict[str, Guard], recorded: Decision, partition: int = 0) -> Replayed:
    """Recomputes one decision from the log's first record on."""
    stretch = await survey(log, partition)
    state = Partition(guards, stretch.demand, stretch.skipped)
    async for page in pages(log, partition, stretch.end):
        for decision in await asyncio.to_thread(state.step, page):
            if decision.id == recorded.id:
                return Replayed(decision, recorded, page[-1].offset + 1)
    return Replayed(None, recorded, stretch.end)


async def state_at(log: Log[Record], guards: dict[str, Guard], instant: int, partition: int = 0) -> Partition:
    """The state as the last boundary at or before an instant judged it, over the records stamped before it, with all that a chart may show."""
    stretch = await survey(log, partition, instant)
    if not stretch.end:
        raise NotFound("the log holds nothing from before that time")
    state = Partition(guards, replace(stretch.demand, evidence=True), stretch.skipped)
    async for page in pages(log, partition, stretch.end):
        await asyncio.to_thread(state.step, page)
    await asyncio.to_thread(state.step, [Stamped(stretch.end, max(instant, stretch.stamp), Tick())])
    return state
