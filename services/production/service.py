"""What every service of production has: its clock, its registry, its database, its logs, a port, and a word on how it is.

    starting --(broker and database answer)--> running --(SIGTERM)--> stopping, nothing new is taken --> stopped

Where something it needs is away it waits, says so in /readyz, and goes on by itself; what cannot work stops the start with one clear line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from services import VERSION
from services.adapters.clock import SharedClock, SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrated
from services.adapters.http import auth as authentication
from services.adapters.http.front import Front, Short, bounded
from services.adapters.http.problem import install as install_problems
from services.adapters.http.problem import problem
from services.adapters.http.serving import address_of, install_health, open_port, serving
from services.adapters.log.cluster import Cluster, cluster_of, topic_of
from services.adapters.log.codec import EVENTS, Codec
from services.adapters.log.group import KafkaGroup
from services.adapters.log.kafka import KafkaLog, KafkaMetrics
from services.adapters.log.rights import needed
from services.adapters.progress import Progress
from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured, TrimtabError, Unavailable
from services.kernel.ports import Clock
from services.kernel.record import Clock as ClockRecord
from services.kernel.record import Record

T = TypeVar("T")
log = structlog.get_logger("service")
AGAIN, LONGEST = 0.5, 5.0  # seconds between two attempts to reach what we need
LOOK = 2.0  # seconds that the database has to answer, and that its answer is believed
ASKED = 5.0  # seconds that a group has to say whether we may join it
START = "start"
STAYS_OPEN = ("/livez", "/readyz", "/metrics")


class Service(ABC):
    """One process. A service makes its parts in `__init__`, without asking anyone, and sets them going in `_open`."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        if not settings.database.startswith("postgresql"):
            raise Misconfigured("no PostgreSQL is named: TRIMTAB_DATABASE=postgresql+asyncpg://USER@HOST/NAME")
        self.settings, self.wall, self.registry = settings, SystemClock(), CollectorRegistry()
        self.clock: Clock = SharedClock(settings.clock) if settings.clock else self.wall  # of events and decisions; keys go by the world's
        self.owner = f"{socket.gethostname()}-{os.urandom(4).hex()}"
        self.database = Database(settings.database_address, settings.database_password)
        self.auth = authentication.Auth(self.database, authentication.given_secret(settings.secret), self.wall)
        self.auth.is_secure = settings.advertise.startswith("https://")
        self.progress = Progress(settings.stalled_seconds)
        self.url = ""
        self.why_not_ready = "starting"  # why not, "" when ready
        self.short: Short | None = None
        self._kafka = KafkaMetrics(self.registry)
        self._logs: list[KafkaLog[Any]] = []
        self._groups: list[KafkaGroup] = []
        self._cleanup = contextlib.AsyncExitStack()
        self._answered, self._why = 0.0, ""
        self.app = self._new_app()

    @cached_property
    def cluster(self) -> Cluster:
        """Raises Misconfigured where no Kafka is named; who has neither topic nor group needs none."""
        return cluster_of(self.settings)

    def log_of(self, codec: Codec[T]) -> KafkaLog[T]:
        """The topic of this codec, checked and created at the start, closed after everything that is set going later."""
        topic, wanted = topic_of(self.settings, codec.topic), needed(self.name, codec.topic)
        made = KafkaLog(self.cluster, codec, self.clock, topic, self._kafka, wanted=wanted, source=f"/trimtab/{self.name}")
        self._logs.append(made)
        return made

    def group_of(self, shared: KafkaLog[Any], name: str = "") -> KafkaGroup:
        """Our membership among the processes of this service, which share this log's partitions out; for another purpose under another name."""
        s = self.settings
        name, session = f"{s.kafka_prefix}.{name or self.name}", s.kafka_session_seconds
        made = KafkaGroup(self.cluster, shared.topic, name, member=self.owner, session=session, progress=self.progress)
        self._groups.append(made)
        return made

    # -- a life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything runs. Waits for a broker or a database that does not answer; raises Misconfigured with one clear line where waiting is of no use."""
        self._cleanup.push_async_callback(self.database.close)
        for kafka in self._logs:
            self._cleanup.push_async_callback(kafka.close)
        self._beat = self.progress.expect(START)
        self._cleanup.callback(self.progress.forget, START)
        await self._patiently(self._check)
        await self._open()
        self.progress.forget(START)
        self.why_not_ready = ""
        log.info("serving", service=self.name, url=self.url, owner=self.owner)

    async def stop(self) -> None:
        """Nothing new is taken, what is under way comes to a durable end, and others take over."""
        self.why_not_ready = "stopping"
        await self._cleanup.aclose()

    async def _check(self) -> None:
        for kafka in self._logs:
            await kafka.start()
            if self.settings.clock and kafka.codec is EVENTS:
                await self._declare(kafka)
        for group in self._groups:
            with contextlib.suppress(Unavailable, TimeoutError):  # we join it once it answers
                async with asyncio.timeout(ASKED):
                    await group.check()
        await migrated(self.database)
        await self._keep_apart()

    async def _keep_apart(self) -> None:
        """Raises Misconfigured where the database holds decisions of the other kind of clock: practice would send what is real, and the reverse."""
        async with self.database.reading() as connection:
            simulated = await connection.scalar(text("SELECT simulated FROM decisions LIMIT 1"))
        if simulated is not None and bool(simulated) != (self.settings.clock is not None):
            kinds = ("the world's", "a simulated") if self.settings.clock is None else ("a simulated", "the world's")
            raise Misconfigured(f"{self.database.place} holds decisions on {kinds[1]} clock, this process is on {kinds[0]}: name another with TRIMTAB_DATABASE")

    async def _declare(self, events: KafkaLog[Record]) -> None:
        """Each partition begins with the word that its clock is simulated; two processes that say so at once do no harm."""
        for number in range(events.partitions):
            if await events.ends(number) == (0, 0):
                await events.append([("", ClockRecord(True, self.clock.now(), note="a clock that the services of one machine share"))], number)

    async def _patiently(self, work: Any) -> None:
        pause = AGAIN
        while True:
            self._beat()
            try:
                await work()
                return
            except Unavailable as error:
                self.why_not_ready = str(error)
                log.warning("waits to start", service=self.name, reason=error.reason, why=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST)

    @abstractmethod
    async def _open(self) -> None:
        """What the service is for is set going; each step leaves its ending in `_cleanup`."""

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _new_app(self) -> FastAPI:
        app = FastAPI(title=f"Trimtab {self.name}", version=VERSION, docs_url=None, redoc_url=None)
        for layer in (*self.layers(), partial(_Gate, service=self)):
            app.add_middleware(layer)
        install_problems(app)  # around them: whatever goes wrong is a problem with a request id
        install_health(app, self.unready, self.registry, self.told, self.progress.stalled)
        authentication.install(app, self.auth)
        return app

    def layers(self) -> list[Any]:
        """What stands between the gate and the routes."""
        return []

    async def unready(self) -> str:
        """Why requests should go to another process, "" where they may come to us."""
        return self.why_not_ready or await self._database_away()

    def told(self) -> dict[str, Any]:
        """More of what /readyz says."""
        return {}

    async def _database_away(self) -> str:
        """Why the database is of no use just now; believed for a moment, since probes come often."""
        if time.monotonic() - self._answered > LOOK:
            try:
                async with asyncio.timeout(LOOK), self.database.reading() as connection:
                    await connection.execute(text("SELECT 1"))
                self._why = ""
            except (TrimtabError, TimeoutError) as error:
                self._why = f"the database does not answer: {str(error) or f'nothing within {LOOK:g} s'}"
            self._answered = time.monotonic()
        return self._why

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The port is open for as long as the block lasts, also while we start: then only for those who ask how we are. Yields the address."""
        listener = open_port(self.settings.host, self.settings.port)
        self.url = self.settings.advertise.rstrip("/") or address_of(self.settings.host, listener)
        front = Front(self.registry, bounded(self.settings.connections), _Gated(self))
        async with serving(self.app, listener, front.protocol):
            yield self.url


class _Gate:
    """Nothing but how we are is answered before we are ready to, or while we stop."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (why := self.service.why_not_ready) and scope["type"] == "http" and scope["path"] not in STAYS_OPEN:
            is_ending = why == "stopping"
            told = "the server stops; send it again" if is_ending else f"{self.service.name} is not ready yet; send it again"
            await problem(503, "stopping" if is_ending else "starting", told)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class _Gated:
    """The short way is closed while the gate is."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def wants(self, scope: Any) -> bool:
        service = self.service
        return not service.why_not_ready and service.short is not None and service.short.wants(scope)

    def begin(self, scope: Any, body: bytes) -> Any:
        assert self.service.short is not None
        return self.service.short.begin(scope, body)
