"""Any past is recomputed from the log: a decision, to be compared bit for bit, or the state as of an instant, to be asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from services.kernel.decision import Decision
from services.kernel.errors import NotFound, Unavailable
from services.kernel.ports import Log
from services.kernel.record import Record, Stamped, Tick
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition, demand_of, skips_of

PAGE = 2000


async def records(log: Log[Record], partition: int, before: int | None = None) -> list[Stamped[Record]]:
    """The partition's records from its beginning: those that a boundary at `before` (microseconds) judges, or all."""
    every: list[Stamped[Record]] = []
    while page := await log.read(partition, len(every), PAGE):
        if page[0].offset > len(every):
            raise Unavailable(f"the log begins at record {page[0].offset}: what stood before it cannot be recomputed any more", reason="log_begins_later")
        every += page
        later = next((i for i, s in enumerate(page) if before is not None and s.stamp >= before), None)
        if later is not None:
            return every[: len(every) - len(page) + later]
    return every


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
    history = await records(log, partition)
    return await asyncio.to_thread(_derive, history, guards, recorded)


def _derive(history: list[Stamped[Record]], guards: dict[str, Guard], recorded: Decision) -> Replayed:
    state = Partition(guards, demand_of(history), skips_of(history))
    for start in range(0, len(history), PAGE):
        page = history[start : start + PAGE]
        for decision in state.step(page):
            if decision.id == recorded.id:
                return Replayed(decision, recorded, start + len(page))
    return Replayed(None, recorded, len(history))


async def state_at(log: Log[Record], guards: dict[str, Guard], instant: int, partition: int = 0) -> Partition:
    """The state as the last boundary at or before an instant judged it, over the records stamped before it, with all that a chart may show."""
    history = await records(log, partition, instant)
    if not history:
        raise NotFound("the log holds nothing from before that time")
    return await asyncio.to_thread(_fold, history, guards, instant)


def _fold(history: list[Stamped[Record]], guards: dict[str, Guard], instant: int) -> Partition:
    state = Partition(guards, replace(demand_of(history), evidence=True), skips_of(history))
    state.step(history)
    state.step([replace(history[-1], offset=history[-1].offset + 1, stamp=max(instant, history[-1].stamp), record=Tick())])
    return state
