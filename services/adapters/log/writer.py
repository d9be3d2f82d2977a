"""Many requests, few records: the events that wait together become one record of the log, and each sender is answered once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from services.adapters.faultpoint import faultpoint
from services.kernel.columns import MOST, Rows, cut, join, merge, split
from services.kernel.errors import Bug, TrimtabError, Unavailable
from services.kernel.ports import Log
from services.kernel.record import EventBatch, Record

MOST_WAITING = 200_000  # events


@dataclass(slots=True)
class _Waiting:
    part: EventBatch | Rows
    size: int
    done: asyncio.Future[None]


class EventWriter:
    """`append` returns once the events are durable. An event never spans records; a sender that gives up loses nobody else's events."""

    def __init__(self, log: Log[Record], linger_ms: float = 2, most: int = MOST, registry: CollectorRegistry | None = None) -> None:
        self.log, self.linger, self.most = log, linger_ms / 1000, most
        self._waiting: dict[str, list[_Waiting]] = {}
        self._events_waiting = 0
        self._turn: asyncio.Task[None] | None = None
        gauge = Gauge("trimtab_log_events_waiting", "Events that wait to be written to the log", registry=registry)
        gauge.set_function(lambda: self._events_waiting)

    async def append(self, batch: EventBatch) -> None:
        """Raises Unavailable, with status 429 when more waits than memory should hold."""
        await self._append(batch.workspace, batch, len(batch.event_id), self.linger)

    async def append_rows(self, workspace: str, rows: Rows) -> None:
        """As `append`, for events whose words are not numbered yet: those that wait together are numbered once. They have lingered where they come from."""
        await self._append(workspace, rows, len(rows), 0)

    async def _append(self, workspace: str, part: EventBatch | Rows, size: int, linger: float) -> None:
        if size == 0:
            return
        if self._events_waiting + size > MOST_WAITING:
            raise Unavailable("more events wait to be written than the disk takes; send them again later", reason="overloaded", status=429)
        waiting = _Waiting(part, size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(workspace, []).append(waiting)
        self._events_waiting += size
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._write(linger), name="event-writer")
        await asyncio.shield(waiting.done)

    async def _write(self, linger: float) -> None:
        await asyncio.sleep(linger)
        while self._waiting:
            groups, self._waiting = self._waiting, {}
            waiting = [w for group in groups.values() for w in group]
            failure: Exception | None = None
            try:
                records = [(name, part) for name, group in groups.items() for part in self._records(name, group)]
                faultpoint("ingest.joined")
                await self.log.append(records)
            except Exception as error:  # whatever it was, every sender must be told that nothing was acknowledged
                failure = error if isinstance(error, TrimtabError) else Bug(f"events could not be written: {type(error).__name__}: {error}")
            self._events_waiting -= sum(w.size for w in waiting)
            for w in waiting:
                if w.done.done():
                    continue
                if failure is None:
                    w.done.set_result(None)
                else:
                    w.done.set_exception(failure)
                    w.done.exception()  # a sender that gave up asks no more

    def _records(self, workspace: str, group: list[_Waiting]) -> list[EventBatch]:
        """What waits joined up to `most` events a record, larger parts cut."""
        records: list[EventBatch] = []
        open_: list[EventBatch | Rows] = []
        size = 0
        for waiting in group:
            for part in self._cut(waiting):
                n = len(part) if isinstance(part, Rows) else len(part.event_id)
                if open_ and size + n > self.most:
                    records.append(_one(workspace, open_))
                    open_, size = [], 0
                open_.append(part)
                size += n
        return [*records, _one(workspace, open_)] if open_ else records

    def _cut(self, waiting: _Waiting) -> Iterable[EventBatch | Rows]:
        if waiting.size <= self.most:
            return (waiting.part,)
        return cut(waiting.part, self.most) if isinstance(waiting.part, Rows) else split(waiting.part, self.most)

    async def close(self) -> None:
        if self._turn is not None:
            await self._turn


def _one(workspace: str, parts: list[EventBatch | Rows]) -> EventBatch:
    rows = [p for p in parts if isinstance(p, Rows)]
    if len(rows) == len(parts):
        return join(workspace, rows)
    return merge([join(workspace, [p]) if isinstance(p, Rows) else p for p in parts])
