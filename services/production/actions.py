"""Takes decisions in, executes them or asks people, and keeps the ledger. Any number of these: what is done is claimed in the database first."""

from __future__ import annotations

from typing import Any

from services.actions import api
from services.actions.connect import executors_of
from services.actions.execute import SECOND, Pace
from services.actions.ledger.witness import witness_of
from services.actions.worker import ActionsService, Conduct
from services.adapters.db.clock import agreed
from services.adapters.http.auth import given_secret
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.settings import Settings
from services.production.service import Service


class Actions(Service):
    name = "actions"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        events, decisions = self.log_of(EVENTS), self.log_of(DECISIONS)
        pace = Pace(again=round(settings.settle_seconds * SECOND))
        conduct = Conduct(hold=settings.actions == "hold", partitions=tuple(range(settings.kafka_partitions)), owner=self.owner, pace=pace)
        self.group = self.group_of(decisions)
        executors = executors_of(settings)
        witness = witness_of(settings.witness, given_secret(settings.secret))
        parts = (executors, self.clock, self.registry, conduct, agreed(self.database, self.wall), self.group, witness, self.progress)
        self.service = ActionsService(self.database, decisions, events, *parts)
        self.app.include_router(api.router(self.service))

    async def _open(self) -> None:
        self._cleanup.push_async_callback(self.service.stop)
        await self._patiently(self.service.start)

    async def unready(self) -> str:
        return await super().unready() or self.group.unready

    def told(self) -> dict[str, Any]:
        return {"partitions": sorted(self.service.following.ours)} | self.service.told()
