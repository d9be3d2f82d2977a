"""The replay's stage in production: each service processes of its own on Kafka and PostgreSQL, of which some are killed on the way.

    clock (a file that all share) <-- the replay sets it
    ingest, rules x 2, actions x 2, console <-- started, killed, started anew, each at a port that it keeps
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import func, select

from services.actions.tables import decisions as taken_in
from services.adapters.clock import SharedClock, SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http.auth import Auth, given_secret
from services.adapters.http.calling import HttpClient
from services.adapters.http.serving import open_port
from services.adapters.log.cluster import cluster_of, topic_of
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.lock import FolderLock
from services.adapters.private import keep
from services.adapters.settings import PREFIX, Settings
from services.demo.platform import ROOT
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import Clock, Record, Tick

MANY = {"ingest": 1, "rules": 2, "actions": 2, "console": 1}
STARTS = 60.0  # seconds in which a process is ready
ENDS = 30.0  # seconds that its orderly end may take
PATIENCE = 180.0  # seconds: what a killed process had claimed is another's once its lease has run out, a minute later
AGAIN = 0.02  # seconds between two looks
HOUR = 3_600_000_000
PORTS = range(10_000, 32_000)
Say = Callable[[str], None]


async def usable(settings: Settings) -> None:
    """A broker and a database are named, and that has the schema. Raises Misconfigured where it holds decisions: the demo would be mixed with what is real."""
    if not settings.kafka or not settings.database.startswith("postgresql"):
        raise Misconfigured("a demo of production needs TRIMTAB_KAFKA and TRIMTAB_DATABASE; `make demo-production` starts both")
    database = Database(settings.database_address, settings.database_password)
    try:
        await migrate(database)
        async with database.reading() as connection:
            if await connection.scalar(select(func.count()).select_from(taken_in)):
                needed = "the demo needs a database of its own: CREATE DATABASE, and name it in TRIMTAB_DATABASE"
                raise Misconfigured(f"{database.place} holds decisions, and {needed}")
    finally:
        await database.close()


@dataclass
class Member:
    """A process, and the place of its successors."""

    service: str
    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, environment: Mapping[str, str]) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "services", "serve", self.service]
            own = {**environment, f"{PREFIX}PORT": str(self.port)}
            self.process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=out, stderr=out, start_new_session=True)

    def kill(self) -> int:
        """Its process id; it had no time to say anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return self.process.pid


@dataclass
class Fleet:
    settings: Settings
    clock: SharedClock
    events: KafkaLog[Record]
    decisions: KafkaLog[Decision]
    members: dict[str, Member]
    http: httpx2.AsyncClient
    auth: Auth
    say: Say
    kills: Mapping[int, str]  # hour -> the service of which a process is killed in it
    key: str = ""
    patience: float = PATIENCE
    killed: list[str] = field(default_factory=list)
    read: int = 0
    _seen: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.members["console-0"].url

    @property
    def partition(self) -> int:
        return partition_of(self.settings.workspace, self.settings.kafka_partitions)

    # -- what the replay asks ----------------------------------------------------------------------------------------

    async def judged(self) -> None:
        [(_, offset)] = await self.events.append([("", Tick())], self.partition)
        while True:
            standing = await self._standing()
            if standing.get("state") == "stopped":
                raise Unavailable(str(standing["why"]))
            if standing.get("done", 0) > offset:
                return
            await asyncio.sleep(AGAIN)

    async def news(self) -> Sequence[Decision]:
        """One that a killed process had already said stands twice."""
        found: list[Decision] = []
        while page := await self.decisions.read(self.partition, self.read):
            for stamped in page:
                if stamped.record.id not in self._seen:
                    self._seen.add(stamped.record.id)
                    found.append(stamped.record)
            self.read = page[-1].offset + 1
        return found

    async def login(self) -> str:
        return await self.auth.login_link("you", "admin", self.settings.workspace, self.url, HOUR)

    @asynccontextmanager
    async def trouble(self, hour: int) -> AsyncIterator[None]:
        """In some hours the process that has the workspace's partition is killed while it works, and a new one started in its place."""
        if hour not in self.kills:
            yield
            return
        victim, begun = await self._busy(self.kills[hour]), time.monotonic()
        moving = asyncio.create_task(self._kill(victim, hour), name="kill")
        yield
        await moving
        self.say(f"hour {hour}: all of it is judged and acted on, {time.monotonic() - begun:.1f} s after the kill")

    def why(self) -> str:
        ended = [f"{m.name} has ended with {code}" for m in self.members.values() if m.process and (code := m.process.poll()) is not None]
        return "; ".join(ended) or f"see the logs of the processes in {self.settings.data}"

    # -- processes ---------------------------------------------------------------------------------------------------

    async def start(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        for member in self.members.values():
            member.begin(environment)
        self.key = await self.auth.issue_key("demo", "admin", self.settings.workspace)
        keep(self.settings.data / "cli.key", self.key)
        self.http.headers["Authorization"] = f"Bearer {self.key}"
        await asyncio.gather(*(self._ready(m) for m in self.members.values()))

    async def stop(self) -> None:
        """Each is asked to end; who has not within its time is killed."""
        running = [m.process for m in self.members.values() if m.process is not None and m.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                await asyncio.to_thread(process.wait, ENDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def _ready(self, member: Member) -> None:
        end, why = time.monotonic() + STARTS, ""
        while (why := (await self._asked(f"{member.url}/readyz")).get("why", "it does not answer")) != "":
            if time.monotonic() > end or (member.process is not None and member.process.poll() is not None):
                raise Misconfigured(f"{member.name} does not start: {why}; what it said is in {member.log}")
            await asyncio.sleep(0.1)

    async def _kill(self, member: Member, hour: int) -> None:
        pid = member.kill()
        self.killed.append(member.name)
        self.say(f"hour {hour}: kill -9 of {member.name} (process {pid}), which has the workspace's partition; a new one starts in its place")
        member.begin(self._environment)

    async def _busy(self, service: str) -> Member:
        """The process of the service that has the workspace's partition."""
        async with asyncio.timeout(self.patience):
            while True:
                owner = (await self._standing()).get("owner") if service == "rules" else ""
                for member in (m for m in self.members.values() if m.service == service):
                    if member.url == owner or (service != "rules" and self.partition in (await self._asked(f"{member.url}/readyz")).get("partitions", [])):
                        return member
                await asyncio.sleep(AGAIN)

    async def _standing(self) -> dict[str, Any]:
        """Of the workspace's partition; empty while nobody answers."""
        told = await self._asked(f"{self.url}/v1/partitions")
        return next((p for p in told.get("partitions", []) if p["partition"] == self.partition), {})

    async def _asked(self, url: str) -> dict[str, Any]:
        try:
            answer = await self.http.get(url)
            found: dict[str, Any] = answer.json()
        except (httpx2.HTTPError, ValueError):
            return {}
        return found


def free_ports(many: int) -> list[int]:
    """Loopback ports that nobody listens at now, below those that the system gives to whoever connects: each is there for a successor, too."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == many:
                break
            with contextlib.suppress(Misconfigured):
                stack.enter_context(contextlib.closing(open_port("127.0.0.1", port)))
                found.append(port)
    return found


def environment_of(settings: Settings, members: Mapping[str, Member]) -> dict[str, str]:
    """Of each process: what is set for this one, but what the demo decides itself: nothing of theirs lies where anything else keeps its own."""
    own = {
        "data": settings.data, "checkpoints": settings.data / "checkpoints", "archive": settings.data / "archive", "witness": settings.data / "witness",
        "clock": settings.clock, "secret": settings.secret, "workspace": settings.workspace,
        "kafka_prefix": settings.kafka_prefix, "kafka_partitions": settings.kafka_partitions,
        "sandbox_url": settings.sandbox_url, "sandbox_token": settings.sandbox_token, "webhook_secrets": json.dumps(settings.webhook_secrets),
        **{f"{service}_url": members[f"{service}-0"].url for service in ("ingest", "rules", "actions")},
    }  # fmt: skip
    left = {"port", "host", "advertise", "executors", "checkpoints_endpoint", "checkpoints_key_id", "checkpoints_secret_key"}
    ours = {f"{PREFIX}{name.upper()}{form}" for name in own.keys() | left for form in ("", "_FILE")}
    given = {name: value for name, value in os.environ.items() if name not in ours}
    return given | {f"{PREFIX}{name.upper()}": str(value) for name, value in own.items()}


def fleet(say: Say, kills: Mapping[int, str]) -> Callable[[Settings, Clock, int], contextlib.AbstractAsyncContextManager[Fleet]]:
    """A place for the replay: production on the Kafka and the PostgreSQL of the settings, which are `usable`, in topics of its own."""

    @asynccontextmanager
    async def place(given: Settings, declared: Clock, port: int) -> AsyncIterator[Fleet]:
        own = {"clock": given.data / "clock", "secret": secrets.token_hex(32), "kafka_prefix": f"{given.kafka_prefix}-demo-{secrets.token_hex(4)}"}
        clock = SharedClock.made(given.data / "clock", declared.start)
        settings = given.model_copy(update=own)
        for name in ("checkpoints", "archive", "witness"):
            (settings.data / name).mkdir()
        async with AsyncExitStack() as stack:
            stack.callback(FolderLock(settings.data).release)  # so that the command line finds us there, and no second demo does
            events: KafkaLog[Record] = KafkaLog(cluster_of(settings), EVENTS, clock, topic_of(settings, EVENTS.topic), source="/trimtab/demo")
            decisions: KafkaLog[Decision] = KafkaLog(cluster_of(settings), DECISIONS, clock, topic_of(settings, DECISIONS.topic), source="/trimtab/demo")
            for log in (events, decisions):
                stack.push_async_callback(log.close)
                await log.start()
            database = Database(settings.database_address, settings.database_password)
            stack.push_async_callback(database.close)
            names = [(service, f"{service}-{i}") for service, many in MANY.items() for i in range(many)]
            ports = dict(zip((name for _, name in names), free_ports(len(names)), strict=True))
            if port:
                ports["console-0"] = port
                open_port("127.0.0.1", port).close()  # says so where it is taken
            members = {name: Member(service, name, ports[name], settings.data / f"{name}.log") for service, name in names}
            http = await stack.enter_async_context(HttpClient(timeout=20, trust_env=False))
            auth = Auth(database, given_secret(settings.secret), SystemClock())
            made = Fleet(settings, clock, events, decisions, members, http, auth, say, kills)
            stack.push_async_callback(made.stop)
            await made.start(environment_of(settings, members))
            yield made

    return place
