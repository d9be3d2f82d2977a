"""Takes deliveries in, makes them durable on Kafka, and only then says so. Any number of these; each may be sent anything."""

from __future__ import annotations

from collections.abc import Sequence

import services.ingest.http as ingest_http
from services.adapters.log.codec import EACH, EVENTS
from services.adapters.log.each import EachMetrics, EachWriter
from services.adapters.log.following import Following
from services.adapters.log.writer import EventWriter
from services.adapters.progress import Beat
from services.adapters.settings import Settings
from services.ingest.intake import Intake
from services.kernel.record import Change
from services.production.service import Service


class Ingest(Service):
    name = "ingest"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.events = self.log_of(EVENTS)
        self.writer = EventWriter(self.events, settings.linger_ms, registry=self.registry)
        append_rows = self.writer.append_rows
        self.intake = Intake(self.database, self.writer.append, self._append_changes, self.clock, self.registry, append_rows=append_rows)
        group = self.group_of(self.events)
        self.outcomes = Following(group, self._watch, "outcomes", self.progress)
        self.each: Following | None = None
        if settings.kafka_each:
            writer = EachWriter(self.events, self.log_of(EACH), EachMetrics(self.registry))
            self.each = Following(self.group_of(self.events, "each"), writer.run, "each", self.progress)
        routes, self.short = ingest_http.doors_of(settings, self.intake, self.auth, self.wall, self.registry)
        self.app.include_router(routes)

    async def _open(self) -> None:
        self._cleanup.push_async_callback(self.writer.close)
        self._cleanup.push_async_callback(self.outcomes.stop)
        await self.outcomes.start()
        if self.each is not None:
            self._cleanup.push_async_callback(self.each.stop)
            await self.each.start()

    async def _watch(self, partition: int, beat: Beat) -> None:
        await self.intake.watch(self.events, partition, beat)

    async def _append_changes(self, changes: Sequence[Change]) -> None:
        await self.events.append([(c.workspace, c) for c in changes])
