"""The events of the events topic one a record, for whoever does not want to read columns: written by whoever has the partition, at least once.

    events 3 --(an EventBatch of many)--> events.each 3, one after the other, in the order of the log

How far it is, the topic itself says: its last record names its place in the events topic. Each writer goes on after that one, so that what stands there is
always all before it; two writers at a time only repeat, and an event is known by its id. Where nothing stands there any more it begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.adapters.codec.each import Each, each, place_of
from services.adapters.log.kafka import KafkaLog
from services.adapters.patience import Patience
from services.kernel.errors import Unavailable, Unreadable
from services.kernel.record import EventBatch, Record, Stamped

AT_ONCE = 500
LONGEST = 30.0  # seconds between attempts
log = structlog.get_logger("each")


class EachMetrics:
    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.told = Counter("trimtab_each_events_total", "Events written one a record, repetitions included", registry=registry)
        self.failures = Counter("trimtab_each_failures_total", "Attempts to write events one a record that failed", registry=registry)
        self.next = Gauge("trimtab_each_offset", "The first record of the events topic that is not told one by one", ["partition"], registry=registry)

    def forget(self, partition: int) -> None:
        """It is another process's now, which tells of it."""
        with suppress(KeyError):
            self.next.remove(str(partition))


class EachWriter:
    """Follows the events topic and writes the other; whatever fails there holds up nothing else."""

    def __init__(self, events: KafkaLog[Record], each_: KafkaLog[Each], metrics: EachMetrics | None = None) -> None:
        self.events, self.each, self.metrics = events, each_, metrics or EachMetrics(None)

    async def run(self, partition: int, beat: Callable[[], None] = lambda: None) -> None:
        """Until it is cancelled. Beats whenever it has come round."""
        try:
            await self._patiently(partition, beat)
        finally:
            self.metrics.forget(partition)

    async def _patiently(self, partition: int, beat: Callable[[], None]) -> None:
        patience = Patience(0.2, LONGEST)
        while True:
            patience.begin()
            try:
                await self._run(partition, beat)
                return
            except Unavailable as error:
                beat()
                self.metrics.failures.inc()
                log.warning("events wait to be told one by one", partition=partition, reason=error.reason, why=str(error))
                await asyncio.sleep(patience.pause())

    async def _run(self, partition: int, beat: Callable[[], None]) -> None:
        offset, index = await self.resume(partition)
        begin, _ = await self.events.ends(partition)
        if begin > offset:
            if offset or index:
                log.error("events were deleted before they were told one by one", partition=partition, first=offset, last=begin - 1)
            offset, index = begin, 0
        try:
            async for page in self.events.follow(partition, offset):
                beat()
                for stamped in page:
                    await self._tell(partition, stamped, index if stamped.offset == offset else 0)
                    self.metrics.next.labels(str(partition)).set(stamped.offset + 1)
        except Unreadable as lost:
            raise Unavailable(str(lost), reason="each_lost") from lost  # the next attempt begins after them, and says so

    async def resume(self, partition: int) -> tuple[int, int]:
        """(offset, index) of the first event that is not there yet. Raises Unavailable."""
        begin, end = await self.each.ends(partition)
        if begin == end:
            if end:  # what it held was deleted, and with its last record how far it was
                log.warning("events are told one by one again, from the oldest that the log holds", partition=partition, written_before=end)
            return 0, 0
        [last] = await self.each.kept(partition, end - 1, 1)
        try:
            offset, index = place_of(dict(last.headers)["ce_sequence"])
        except (KeyError, ValueError) as error:
            what = f"record {end - 1} of {self.each.topic.name}-{partition} is not ours: it has no ce_sequence; let nobody else write there"
            raise Unavailable(what, reason="each_foreign") from error
        return offset, index + 1

    async def _tell(self, partition: int, stamped: Stamped[Record], first: int) -> None:
        if not isinstance(stamped.record, EventBatch):
            return
        told = list(each(stamped.record, stamped.offset, first))
        for at in range(0, len(told), AT_ONCE):
            await self.each.append([(e.workspace, e) for e in told[at : at + AT_ONCE]], partition)
            self.metrics.told.inc(len(told[at : at + AT_ONCE]))
