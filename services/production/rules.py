"""The engine: a worker for each partition that the group of such processes gives this one, and the answers that people want of it.

Any of these processes may be asked anything. What is about a workspace whose partition another one has is passed on to that one, which the group names.

folder/  checkpoints/ of all processes of the engine: a volume that they share, or each its own, and then a partition that moves is folded from the log

Where there is an archive, whoever has a partition puts both topics' records there, and reads there what Kafka has deleted.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from services.adapters.http.passing import Passing
from services.adapters.http.problem import from_error
from services.adapters.log.archiver import ArchiveMetrics, Archiver, seal_of
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.group import owners
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.shelf import ArchivedLog, shelf_of
from services.adapters.progress import Beat
from services.adapters.settings import Settings
from services.kernel.errors import TrimtabError, Unavailable
from services.production.archiving import Archiving, Backed, Daily
from services.production.service import Service
from services.rules_engine import api
from services.rules_engine.answers import Answers, standing
from services.rules_engine.bucket import checkpoints_of, daily_of
from services.rules_engine.language.pack import guards
from services.rules_engine.share import Share
from services.rules_engine.store import RuleStore
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker

T = TypeVar("T")
ASKED = 5.0  # seconds that the group has to answer
KNOWN_FOR, FAILED_FOR = 5.0, 1.0  # seconds that its word on who has what is believed, and that it does not answer
MOVES = "the workspace's partition is being taken over by another process; ask again"


class Rules(Service):
    name = "rules"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        owner = os.urandom(4).hex()
        self.checkpoints = checkpoints_of(settings, owner)
        events = self.log_of(EVENTS)
        self.events, self.decisions = self._whole(events), self._whole(self.log_of(DECISIONS))
        if settings.archive:
            self.daily = Daily(self.checkpoints, daily_of(settings, owner))
            self.checkpoints = Backed(self.checkpoints, self.daily.archived)
        self.often = Often(settings.checkpoint_records, settings.checkpoint_seconds)
        self.guards, self.engine, self.store = guards(), Metrics(self.registry), RuleStore(self.database)
        self.group = self.group_of(events)
        self.share = Share(self.group, self._worker, self.registry, progress=self.progress)
        self.owners, self.passing = Owners(self), Passing()
        self.app.include_router(api.router(self.store, self._answers, self.events, self.clock))
        self.app.include_router(api.partitions(self._partitions))

    def layers(self) -> list[Any]:
        return [partial(_ToTheOwner, rules=self)]

    async def _open(self) -> None:
        self.group.member = self.auth.sign(self.url)  # where the others find us, and that it is one of us who says so
        self._cleanup.push_async_callback(self.passing.close)
        self._cleanup.push_async_callback(self.share.stop)
        await self.share.start()
        if self.settings.archive:
            archiving = self._archiving()
            self._cleanup.push_async_callback(archiving.stop)
            archiving.start()

    def _whole(self, log: KafkaLog[T]) -> KafkaLog[T] | ArchivedLog[T]:
        """The topic with what Kafka has deleted of it, where there is an archive."""
        if not self.settings.archive:
            return log
        shelf = shelf_of(self.settings, log.topic.name)
        self._cleanup.callback(shelf.close)  # after the topic and all who read it
        return ArchivedLog(log, shelf)

    def _archiving(self) -> Archiving:
        metrics, seal = ArchiveMetrics(self.registry), seal_of(self.settings)
        archivers = [Archiver(log.log, log.shelf, seal, self.clock, metrics) for log in (self.events, self.decisions) if isinstance(log, ArchivedLog)]
        return Archiving(self.share, archivers, self.daily, self.clock, metrics, progress=self.progress)

    def _worker(self, partition: int, beat: Beat) -> Worker:
        worker = Worker(self.events, self.decisions, self.clock, self.guards, self.engine, partition, self.checkpoints, self.often, beat=beat)
        worker.on_activation = lambda activation, offset, stamp: self.store.follow(activation, partition, offset, stamp)
        worker.followed = lambda: self.store.followed(partition)
        worker.end = lambda: self._end(partition)
        return worker

    async def _end(self, partition: int) -> int:
        return (await self.events.ends(partition))[1]

    def partition(self, workspace: str) -> int:
        return partition_of(workspace, self.settings.kafka_partitions)

    def _answers(self, workspace: str) -> Answers:
        worker = self.share.workers.get(self.partition(workspace))
        if worker is None or not (worker.restored or worker.stopped):
            raise Unavailable(self.share.unready or MOVES, reason="restoring")
        return Answers(worker, self.events, self.store)

    async def _partitions(self, request: Request, own: bool) -> list[dict[str, Any]]:
        return await self._own() if own else await self._all(request)

    async def _own(self) -> list[dict[str, Any]]:
        found = []
        for number in sorted(self.share.ours):
            worker = self.share.workers.get(number)
            if worker is None:
                found.append({"partition": number, "state": "restoring", "why": self.share.failed.get(number, ""), "owner": self.url})
                continue
            end = await self._end(number)
            stands = standing(worker)
            why = self.share.stopped(number) or stands["why"]
            found.append(stands | {"owner": self.url, "lag": end - worker.partition.offset, "why": why})
        return found

    async def _all(self, request: Request) -> list[dict[str, Any]]:
        """Everybody says of its own; of what nobody has, and of whoever does not answer, just that is said."""
        whose = await self.owners.all()
        told = {p["partition"]: p for p in await self._own()}
        for url in sorted(set(whose.values()) - {self.url}):
            try:
                answer = await self.passing.get(f"{url}{api.PARTITIONS}?own=true", request.headers)
                told |= {p["partition"]: p for p in answer["partitions"]}
            except Unavailable as error:
                told |= {n: {"partition": n, "state": "unknown", "why": str(error), "owner": url} for n, owner in whose.items() if owner == url}
        nobody = {"state": "unowned", "why": "no process of the engine has it", "owner": ""}
        return [told.get(n) or {"partition": n, **nobody} for n in range(self.settings.kafka_partitions)]

    async def unready(self) -> str:
        """No partition of ours is being restored; without any we stand by. One that stopped is told beside it: to pass over its record we must be asked."""
        return await super().unready() or self.group.unready or self.share.restoring

    def told(self) -> dict[str, Any]:
        stopped = {n: why for n in sorted(self.share.ours) if (why := self.share.stopped(n))}
        return {"partitions": sorted(self.share.ours)} | ({"stopped": stopped} if stopped else {})


class Owners:
    """Where the process is reached that has a partition, as the group says."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self._known, self._at, self._asking = rules, dict[int, str](), float("-inf"), asyncio.Lock()
        self._failed: tuple[float, Unavailable] | None = None  # when it could not be asked last, and why

    async def all(self) -> dict[int, str]:
        """Partition -> address; those that nobody has are missing."""
        async with self._asking:
            if time.monotonic() - self._at > KNOWN_FOR:
                await self._ask()
        return self._known

    async def _ask(self) -> None:
        """Whoever waited while it could not be asked is told so, and does not try in its turn."""
        if self._failed is not None and time.monotonic() - self._failed[0] < FAILED_FOR:
            raise self._failed[1]
        try:
            async with asyncio.timeout(ASKED):
                told = await owners(self.rules.cluster, self.rules.events.topic, self.rules.group.name)
        except (Unavailable, TimeoutError) as error:
            away = error if isinstance(error, Unavailable) else Unavailable(f"the group has not answered within {ASKED:g} s", reason="group")
            self._failed = time.monotonic(), away
            raise away from error
        self._known = {number: url for number, member in told.items() if (url := self.rules.auth.signed_by_us(member))}
        self._at, self._failed = time.monotonic(), None

    async def of(self, partition: int) -> str:
        """Raises Unavailable where nobody has it."""
        async with self._asking:
            if partition not in self._known or time.monotonic() - self._at > KNOWN_FOR:
                await self._ask()
        if partition not in self._known:
            raise Unavailable(f"no process has partition {partition} yet; ask again", reason="restoring", retry_after=2)
        return self._known[partition]

    def forget(self) -> None:
        self._at = float("-inf")


class _ToTheOwner:
    """What is asked of a workspace goes to the process that has its partition; each request is passed on once at most."""

    HEADER = b"x-trimtab-passed"

    def __init__(self, app: Any, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/") or scope["path"] in ("/v1/me", api.PARTITIONS) or self.rules.why_not_ready:
            await self.app(scope, receive, send)
            return
        try:
            who = await self.rules.auth.principal(Request(scope))
            partition = self.rules.partition(who.workspace)
            if partition in self.rules.share.ours:
                await self.app(scope, receive, send)
                return
            if any(name == self.HEADER for name, _ in scope["headers"]):
                raise Unavailable(MOVES, reason="restoring")
            url = await self.rules.owners.of(partition)
            passed = {**scope, "headers": [*scope["headers"], (self.HEADER, b"1")]}
            try:
                await self.rules.passing.on(url, passed, receive, send)
            except Unavailable:
                self.rules.owners.forget()
                raise
        except TrimtabError as error:
            await from_error(error)(scope, receive, send)
