"""Several engines on one log: members of a group, in this process or their own, what is told to them, and what a single engine would say of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry

from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.group import KafkaGroup
from services.adapters.log.kafka import KafkaLog
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Unavailable
from services.kernel.record import Record
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.share import Share
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import until
from tests.core.world import GROUP, GUARDS, SECOND, World, batch, pause_rule

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PARTITIONS = 4
WORKSPACES = [f"w{i}" for i in range(12)]


class Member:
    """What a process of production has of the engine."""

    def __init__(self, bootstrap: str, topics: tuple[Topic, Topic], folder: Path, session: float = 1.0) -> None:
        self.cluster, self.topics, self.folder, self.session = Cluster(bootstrap), topics, folder, session
        self.slow: asyncio.Event | None = None

    async def __aenter__(self) -> Member:
        clock, registry = SystemClock(), CollectorRegistry()
        self.events: KafkaLog[Record] = KafkaLog(self.cluster, EVENTS, clock, self.topics[0])
        self.decisions: KafkaLog[Decision] = KafkaLog(self.cluster, DECISIONS, clock, self.topics[1])
        await self.events.start()
        await self.decisions.start()
        self.group = KafkaGroup(self.cluster, self.topics[0], f"{self.topics[0].name}-rules", session=self.session)
        metrics = Metrics(registry)

        def make(number: int, beat: Beat) -> Worker:
            return Late(self.slow, self.events, self.decisions, clock, GUARDS, metrics, number, Checkpoints(self.folder), beat=beat)

        self.share = Share(self.group, make, registry, commit=0.2, again=0.5)
        await self.share.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.share.stop()
        await self.events.close()
        await self.decisions.close()

    @property
    def follows(self) -> bool:
        return bool(self.share.ours) and not self.share.unready


class Late(Worker):
    """Is restored only once it may be."""

    def __init__(self, wait: asyncio.Event | None, *rest: object, beat: Beat) -> None:
        super().__init__(*rest, beat=beat)  # type: ignore[arg-type]
        self.wait = wait

    async def start(self) -> None:
        if self.wait is not None:
            await self.wait.wait()
        await super().start()


def now() -> int:
    return time.time_ns() // 1000


async def activate(log: KafkaLog[Record]) -> None:
    """The rule is in force in every workspace: what is told from now on counts."""
    for name in WORKSPACES:
        await patiently(partial(log.append, [(name, s.record) for s in World(name).activate(pause_rule()).records]))
    in_force = now() + 2 * SECOND
    await until(lambda: now() > in_force)


async def tell(log: KafkaLog[Record], ad: str) -> dict[tuple[int, int], bytes]:
    """In every workspace an ad is weak. Returns the ids of the events by where they stand."""
    there = {}
    for name in WORKSPACES:
        event = {"id": f"{name} {ad}", "path": f"{GROUP}/{ad}", "at": now(), "attributes": {"status": "active"}}
        record = batch(event | {"amounts": {"impressions": 1000 * SECOND, "clicks": 5 * SECOND}}, workspace=name)
        [place] = await patiently(partial(log.append, [(name, record)]))
        there[place] = record.event_id.tobytes()
    return there


async def said(log: KafkaLog[Decision]) -> list[list[str]]:
    """The ids of each partition's decisions, in order, repetitions left out."""
    return [list(dict.fromkeys(s.record.id for s in await log.read(n, 0, 100_000))) for n in range(PARTITIONS)]


async def derived(log: KafkaLog[Record]) -> list[list[str]]:
    """What a single engine decides on each partition as it stands."""
    found = []
    for number in range(PARTITIONS):
        records = list(await log.read(number, 0, 100_000))
        found.append([d.id for d in Partition(GUARDS, demand_of(records)).step(records)])
    return found


async def settled(events: KafkaLog[Record], decisions: KafkaLog[Decision], ads: int, patience: float = 60) -> None:
    """Every workspace's every ad has been decided on, and what is said is what a single engine says of the same log."""
    async with asyncio.timeout(patience):
        while sum(map(len, await said(decisions))) < ads * len(WORKSPACES):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    there, derivable = await said(decisions), await derived(events)
    assert [len(ids) for ids in derivable] == [ads * sum(partition_of(w, PARTITIONS) == n for w in WORKSPACES) for n in range(PARTITIONS)]
    assert there == derivable


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Whoever is refused says it again."""
    while True:
        try:
            return await work()
        except Unavailable:
            continue


CHILD = """
import asyncio, sys
from pathlib import Path
from services.adapters.log.cluster import Topic
from services.adapters.telemetry import configure
from tests.shell.sharing import Member

async def main():
    configure("error", "text")
    topics = tuple(Topic(f"{sys.argv[2]}.{name}", 4, int(sys.argv[4])) for name in ("events", "decisions"))
    async with Member(sys.argv[1], topics, Path(sys.argv[3])) as member:
        while True:
            await asyncio.sleep(0.05)
            print(len(member.share.ours) if member.follows else 0, member.group.joined, flush=True)

asyncio.run(main())
"""


def started(bootstrap: str, topics: tuple[Topic, Topic], folder: Path) -> subprocess.Popen[str]:
    """A member that is a process of its own; each line says how many partitions it follows, and how often they were given."""
    words = [sys.executable, "-c", CHILD, bootstrap, topics[0].name.partition(".")[0], str(folder), str(topics[0].replicas)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def follows(child: subprocess.Popen[str], many: int, after: int = 0) -> int:
    """How often partitions were given to it when it follows so many, and more often than `after`."""
    assert child.stdout is not None
    async with asyncio.timeout(60):
        while line := await asyncio.to_thread(child.stdout.readline):
            followed, given = map(int, line.split())
            if followed == many and given > after:
                return given
    raise AssertionError("it has ended")
