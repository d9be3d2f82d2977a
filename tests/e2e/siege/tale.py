"""What happens to one workspace of a fleet: the same senders, people and bad platform as with one process, which is now many that come and go."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import asyncpg
import httpx2

from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.http.auth import Auth, given_secret
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.kafka import KafkaLog
from services.kernel.decision import Decision
from services.kernel.errors import Unavailable
from services.kernel.record import Record
from tests.e2e.plug.story import FINAL, UNDER_WAY, Run, Stuck
from tests.e2e.plug.verdict import TABLES, Left
from tests.e2e.siege.fleet import SHARED, Fleet

T = TypeVar("T")
QUIET = 0.05  # seconds between two questions


def secret_of(workspace: str) -> str:
    return "whsec_" + base64.b64encode(workspace.encode().ljust(32, b".")).decode()


def workspaces(partitions: int) -> list[str]:
    """One for each partition, so that a partition's log is one workspace's."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault(partition_of(f"w{number}", partitions), f"w{number}")
        number += 1
    return [found[p] for p in range(partitions)]


class Inside:
    """Looks past the services: at the database and at both topics, from a thread of its own. Asks again while they are away."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.loop = fleet, asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._pool: asyncpg.Pool | None = None
        cluster, clock = Cluster(fleet.bootstrap), SystemClock()
        made = [Topic(f"{fleet.prefix}.{codec.topic}", fleet.partitions, fleet.replicas) for codec in (EVENTS, DECISIONS)]

        async def logs() -> tuple[KafkaLog[Record], KafkaLog[Decision]]:
            return KafkaLog(cluster, EVENTS, clock, made[0]), KafkaLog(cluster, DECISIONS, clock, made[1])

        self.events, self.decisions = self.run(logs())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        return self.run(self._rows(query, arguments))

    async def _rows(self, query: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        for attempt in range(60):
            try:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(self.fleet.database.replace("+asyncpg", ""), min_size=1, max_size=3, command_timeout=20)
                return [dict(row) for row in await self._pool.fetch(query, *arguments)]
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                if attempt == 59:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError

    def end(self, partition: int) -> int:
        """Where the decisions' partition ends."""
        return self.run(self._patiently(lambda: self.decisions.ends(partition)))[1]

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        for _ in range(60):
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.5)
        return await ask()

    def whole(self, partition: int) -> tuple[list[Any], list[Any]]:
        """All of both topics' partition."""
        return self.run(self._whole(self.events, partition)), self.run(self._whole(self.decisions, partition))

    async def _whole(self, log: KafkaLog[Any], partition: int) -> list[Any]:
        found: list[Any] = []
        while page := await self._patiently(partial(log.read, partition, len(found))):
            found += page
        return found

    def key(self, workspace: str) -> str:
        async def make() -> str:
            database = Database(self.fleet.database)
            try:
                return await Auth(database, given_secret(SHARED), SystemClock()).issue_key("tale", "admin", workspace)
            finally:
                await database.close()

        return self.run(make())

    def close(self) -> None:
        async def end() -> None:
            if self._pool is not None:
                self._pool.terminate()
            await self.events.close()
            await self.decisions.close()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


@dataclass
class Tale(Run):
    """It goes on until `over` is set, so that whatever is to befall the fleet befalls it too."""

    fleet: Fleet = field(kw_only=True)
    inside: Inside = field(kw_only=True)
    workspace: str = field(kw_only=True)
    over: threading.Event = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.partition = partition_of(self.workspace, self.fleet.partitions)
        self.data, self.secret = self.fleet.folder / "data", secret_of(self.workspace)
        self.http = httpx2.Client(timeout=30, trust_env=False, headers={"Authorization": f"Bearer {self.inside.key(self.workspace)}"})

    # -- many processes instead of one -----------------------------------------------------------------------------------

    def start(self) -> None: ...

    def stop(self) -> bool:
        return True

    def restart(self) -> None:
        self.rest()

    def close(self) -> None:
        self.http.close()

    def is_up(self, seconds: float = 0) -> bool:
        """Waits so long; raises where the tale takes too long."""
        if time.monotonic() > self.end:
            raise Stuck(f"not at rest after {self.patience:.0f} s: {self.unfinished()}")
        time.sleep(max(seconds, 0.001))
        return True

    def ask(self, method: str, path: str, make: Callable[[], dict[str, Any]] = dict) -> httpx2.Response:
        """Deliveries go to any ingest, everything else to any console; who gets no answer asks again, and perhaps another."""
        told: Any = None
        while True:
            member = self.rng.choice(self.fleet.of("ingest" if path.startswith("/v1/webhooks") else "console"))
            try:
                answer = self.http.request(method, f"{member.url}{path}", **make())
            except httpx2.TransportError as error:
                told = f"{type(error).__name__} of {member.name}"
            else:
                if answer.status_code not in (429, 503):
                    return answer
                told = f"{member.name} answers {answer.status_code}: {answer.text[:300]}"
            if time.monotonic() > self.end:
                raise Stuck(f"{method} {path}: {told}")
            self.is_up(self.rng.uniform(QUIET, 4 * QUIET))

    # -- where it stands ---------------------------------------------------------------------------------------------------

    def is_executing(self) -> bool:
        return bool(self.inside.rows(f"SELECT 1 FROM intents WHERE workspace = $1 AND {UNDER_WAY} LIMIT 1", self.workspace))

    def unfinished(self) -> dict[str, int]:
        query = f"""
            SELECT (SELECT count(*) FROM decisions WHERE workspace = $1 AND status NOT IN {FINAL}) AS decisions,
                   (SELECT count(*) FROM outbox WHERE workspace = $1 AND sent_at IS NULL) AS outcomes,
                   (SELECT coalesce(max("offset"), 0) FROM offsets WHERE partition = $2) AS taken_in"""
        [row] = self.inside.rows(query, self.workspace, self.partition)
        counts = {"decisions": row["decisions"], "outcomes": row["outcomes"], "decisions not taken in": self.inside.end(self.partition) - row["taken_in"]}
        return {name: count for name, count in counts.items() if count}

    def _acts(self) -> list[str]:
        return [act for act in super()._acts() if act != "restart"]

    def come_to_rest(self) -> None:
        while not self.over.is_set():
            self.rng.choice((self.report, self.burst, self.by_hand, self.approve, self.repeat, self.rest, self.rest, self.rest))()
            self.is_up(1.0)
        super().come_to_rest()

    def left(self) -> Left:
        """What it leaves behind, once every process has ended."""
        tables: dict[str, list[Any]] = {}
        for name in TABLES:
            where = ("partition", self.partition) if name == "offsets" else ("workspace", self.workspace)
            tables[name] = self.inside.rows(f"SELECT * FROM {name} WHERE {where[0]} = $1", where[1])
        records, decisions = self.inside.whole(self.partition)
        journal = self.platform.client.get("/journal", params={"under": self.path() + "/"}).json()
        return Left(self.told, self.data, "", records, decisions, tables, journal["applied"], journal["sent"], self.workspace, self.partition)
