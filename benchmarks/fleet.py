"""All of production on this machine, each service a process of its own on Kafka and PostgreSQL: from event to decision, and from a restart to the first.

Of the engine there is one process, so that nobody else takes its partitions over: what is measured is the restart itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import uvloop

from benchmarks.figure import Figure
from benchmarks.ingest import JSON, _instant, _path
from benchmarks.latency import GOALS, PACK, SECONDS, Probes, sent, told
from benchmarks.load import Measured, open_loop
from deploy.postgres.server import Missing, Server
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS
from services.adapters.log.kafka import KafkaLog
from services.kernel.decision import Decision
from tests.e2e.siege.fleet import STARTS, Fleet, fleet
from tests.shell.sandboxed import sandbox

RATE, SIZE, INTERVAL = 5_000, 25, 1_000  # events a second, events a request, milliseconds between boundaries
PARTITIONS, RESTARTS = 4, 10
LATE = 10.0  # seconds in which every decision must have come
TRICKLE = 0.1  # seconds between two events while somebody restarts
RESTART_GOALS = {"kill -9": 15.0, "SIGTERM": 3.0}
USUAL = {"checkpoint_records": 200_000, "checkpoint_seconds": 300, "settle_seconds": 1}


@contextmanager
def installed(bootstrap: str) -> Iterator[Fleet]:
    """Everything runs, and the rules are in effect. Raises Missing where there is no PostgreSQL."""
    server = Server()
    try:
        server.start()
        server.sql("CREATE DATABASE fleet")
        asyncio.run(_migrate(server.url("fleet")))
        with tempfile.TemporaryDirectory(prefix="trimtab-bench-fleet-") as folder, sandbox(Path(folder)) as platform:
            many = dict.fromkeys(("ingest", "rules", "actions", "console"), 1)
            with fleet(Path(folder), bootstrap, server.url("fleet"), platform, partitions=PARTITIONS, many=many, settings=USUAL) as made:
                answer = made.ask("POST", "/v1/rules/apply", {"pack": PACK.replace("INTERVAL", str(INTERVAL))})
                answer.raise_for_status()
                while not made.ask("GET", "/v1/engine").json()["rules"]:
                    time.sleep(0.1)
                yield made
    finally:
        if server.process is not None:
            server.remove()


async def _migrate(address: str) -> None:
    database = Database(address)
    await migrate(database)
    await database.close()


@dataclass
class Seen:
    """When each creative's decision of first-click was durable on the decisions log, by `time.perf_counter`."""

    at: dict[str, float] = field(default_factory=dict)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self, log: KafkaLog[Decision], partition: int) -> None:
        async for page in log.follow(partition, 0):
            now = time.perf_counter()
            self.at.update({s.record.path: now for s in page if s.record.rule_id == "first-click" and s.record.path not in self.at})
            async with self._more:
                self._more.notify_all()

    async def every(self, paths: Sequence[str]) -> list[str]:
        """Those that are missing, once none is or they are late."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE), self._more:
                await self._more.wait_for(lambda: all(path in self.at for path in paths))
        return [path for path in paths if path not in self.at]

    async def first(self, wanted: Callable[[str], bool]) -> float:
        """When the first of them was there."""
        async with asyncio.timeout(STARTS), self._more:
            await self._more.wait_for(lambda: any(map(wanted, self.at)))
        return min(at for path, at in self.at.items() if wanted(path))


@asynccontextmanager
async def watching(made: Fleet) -> AsyncIterator[Seen]:
    seen = Seen()
    log: KafkaLog[Decision] = KafkaLog(Cluster(made.bootstrap), DECISIONS, SystemClock(), Topic(f"{made.prefix}.decisions", PARTITIONS, 1), create=False)
    await log.start()
    tasks = [asyncio.create_task(seen.follow(log, n)) for n in range(PARTITIONS)]
    try:
        yield seen
    finally:
        await log.close()
        await asyncio.gather(*tasks)


# -- from an event to its decision ---------------------------------------------------------------------------------------


async def _loaded(made: Fleet, requests: list[bytes], probes: Probes) -> tuple[Measured, float, dict[str, float]]:
    async with watching(made) as seen:
        measured, began = await open_loop(made.of("ingest")[0].port, requests, RATE / SIZE)
        await seen.every([path for _, path in probes])
        return measured, began, seen.at


def latency(bootstrap: str, quick: bool = False) -> Iterator[Figure]:
    """Open loop at ingest; what the engine decides is watched on the decisions log."""
    try:
        with installed(bootstrap) as made:
            requests, probes = sent(RATE, SIZE, 6.0 if quick else SECONDS, made.key)
            measured, began, seen = uvloop.run(_loaded(made, requests, probes))
    except Missing as why:
        print(f"kafka, latency: skipped, {why}", file=sys.stderr)
        return
    if measured.refused:
        raise RuntimeError(f"ingest answered {measured.refused[0]!r}")
    case = f"latency: events/s={RATE} interval={INTERVAL}ms decisions={len(probes)}"
    yield from told(case, probes, seen, began, SIZE / RATE, GOALS[INTERVAL], "kafka")
    yield Figure("kafka", f"{case} acknowledged p99", measured.quantile(0.99), "s", at_most=True)


# -- from a restart to the first decision ----------------------------------------------------------------------------------


async def _trickle(made: Fleet, sent_at: dict[str, float]) -> None:
    """Events that each make a rule fire, with when each was sent, until cancelled."""
    ingest = made.of("ingest")[0]
    async with httpx2.AsyncClient(base_url=ingest.url, headers=dict((JSON, ("authorization", f"Bearer {made.key}"))), timeout=10, trust_env=False) as http:
        for n in itertools.count():
            path = _path(50_000 + n)
            event = {"id": f"t-{n}", "source": "meta_ads", "entity": path, "kind": "click", "amounts": {"clicks": 1}}
            event["occurred_at"] = _instant(time.time_ns() // 1000)
            sent_at[path] = time.perf_counter()
            (await http.post("/v1/events", content=json.dumps([event]).encode())).raise_for_status()
            await asyncio.sleep(TRICKLE)


async def _restarted(made: Fleet, times: int) -> dict[str, list[tuple[float, float]]]:
    """how it ended -> (from its end being asked for, from the start of the new process) to the first decision about an event sent after that start; seconds."""
    engine = made.of("rules")[0]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in RESTART_GOALS}
    sent_at: dict[str, float] = {}
    async with watching(made) as seen:
        sending = asyncio.create_task(_trickle(made, sent_at))

        async def first_after(start: float) -> float:
            first = asyncio.create_task(seen.first(lambda path: sent_at.get(path, 0.0) > start))
            await asyncio.wait((first, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                first.cancel()
                sending.result()
            return await first

        await first_after(time.perf_counter())
        for turn, name in ((turn, name) for turn in range(times) for name in RESTART_GOALS):
            await asyncio.sleep(1 + turn / times)  # each somewhere else between two boundaries
            asked = time.perf_counter()
            if name == "SIGTERM":
                assert engine.process is not None
                engine.process.send(signal.SIGTERM)
                code = await asyncio.to_thread(engine.process.ended, 30)
                if code != 0:
                    raise RuntimeError(f"the engine ended with {code}: {engine.log.read_text()[-1000:]}")
            else:
                await asyncio.to_thread(made.kill, engine)
            began = time.perf_counter()
            made.begin(engine)
            first = await first_after(began)
            found[name].append((first - asked, first - began))
            await asyncio.to_thread(made.await_ready, engine)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        if missing := await seen.every(list(sent_at)[:-1]):  # the last may not have been sent
            raise RuntimeError(f"{len(missing)} of {len(sent_at)} events brought about no decision, first {missing[0]}")
    return found


def restarts(bootstrap: str, quick: bool = False) -> Iterator[Figure]:
    """The one process of the engine is ended and started anew, while events trickle in; afterwards every one of them has its decision."""
    try:
        with installed(bootstrap) as made:
            found = uvloop.run(_restarted(made, 1 if quick else RESTARTS))
    except Missing as why:
        print(f"kafka, restarts: skipped, {why}", file=sys.stderr)
        return
    for name, goal in RESTART_GOALS.items():
        case = f"restarts: {name} times={len(found[name])}"
        whole, own = (sorted(column) for column in zip(*found[name], strict=True))
        p95 = own[-1] if len(own) < 20 else own[int(len(own) * 0.95)]
        yield Figure("kafka", f"{case} restart to first decision p50", statistics.median(own), "s", at_most=True)
        yield Figure("kafka", f"{case} restart to first decision p95", p95, "s", goal, at_most=True)
        yield Figure("kafka", f"{case} from the signal on, p50", statistics.median(whole), "s", at_most=True)
        yield Figure("kafka", f"{case} from the signal on, longest", whole[-1], "s", at_most=True)
