"""How many events a second ingest accepts over HTTP, durably, on one core; beside it a bare endpoint that does the same parse and forgets.

Both servers are processes of their own, held to one core, and take turns under the same load from another: their ratio holds on a busy machine, where
the absolute figures sway. 202 means committed to SQLite with synchronous=FULL for the one, and nothing for the other.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from fastapi import FastAPI, Request, Response

from benchmarks.figure import Figure
from benchmarks.load import Measured, closed_loop, request

SECRET = "whsec_" + base64.b64encode(b"a benchmark's own secret, 32 byte").decode()
JSON = ("content-type", "application/json")
ROUNDS, SECONDS = 5, 1.5
GOALS = {("generic", 100): (300_000, 0.55), ("generic", 1): (None, 0.75)}
CREATIVES = 1_250


# -- what is sent ------------------------------------------------------------------------------------------------------


def _path(c: int) -> str:
    return f"meta_ads/act_{c // 500:03d}/cmp_{c // 20:05d}/ads_{c // 5:06d}/crv_{c:07d}"


def _instant(micros: int, digits: int = 3) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micros // 1_000_000))
    return (f"{whole}.{micros % 1_000_000:06d}"[: 20 + digits] if digits else whole) + "Z"


def generic(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    kind = rnd.choices(("impression", "click", "purchase", "cost"), (80, 12, 3, 5))[0]
    amounts: dict[str, object] = {"impression": {"impressions": 1}, "click": {"clicks": 1}}.get(kind, {})  # type: ignore[assignment]
    if kind == "purchase":
        amounts = {"conversions:purchase": 1, "revenue:purchase": {"amount": f"{rnd.randrange(500, 20_000) / 100:.2f}", "currency": "EUR"}}
    elif kind == "cost":
        amounts = {"spend": {"amount": f"{rnd.randrange(25, 500) / 100:.2f}", "currency": "EUR"}}
    at = _instant(now - rnd.randrange(60_000_000))
    path = _path(int(rnd.paretovariate(0.5)) % CREATIVES)
    return {"id": f"ev-{rnd.getrandbits(64):016x}", "entity": path, "kind": kind, "occurred_at": at, "amounts": amounts}


def cloudevent(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    e = generic(i, rnd, now)
    return {
        "specversion": "1.0", "id": e["id"], "source": "shop", "type": e["kind"], "time": e["occurred_at"], "subject": e["entity"],
        "data": {"amounts": e["amounts"]},
    }  # fmt: skip


def sandbox(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    c = i % CREATIVES
    day = now // 86_400_000_000 * 86_400_000_000
    at = _instant(now + i)
    return {
        "id": f"r-{rnd.getrandbits(48):012x}", "occurred_at": at, "as_of": at, "currency": "EUR",
        "entity": {"account": f"a{c // 500}", "campaign": f"c{c // 20}", "ad_group": f"g{c // 5}", "creative": f"v{c}"},
        "interval": {"start": _instant(day, 0), "end": _instant(day + 86_400_000_000, 0)},
        "impressions": 400 + i, "clicks": 2 + i % 9, "spend": f"{rnd.randrange(25, 900) / 100:.2f}",
        "conversions": {"purchase": {"7d_click": 1}}, "revenue": {"purchase": {"7d_click": "49.90"}},
    }  # fmt: skip


def report(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    day = now // 86_400_000_000 * 86_400_000_000
    interval = {"start": _instant(day, 0), "end": _instant(day + 86_400_000_000, 0)}
    spend = {"amount": f"{rnd.randrange(25, 900) / 100:.2f}", "currency": "EUR"}
    return {
        "entity": _path(i % CREATIVES), "interval": interval, "as_of": _instant(now + i),
        "amounts": {"impressions": 400 + i, "clicks": 2 + i % 9, "conversions:purchase": 1, "spend": spend},
    }  # fmt: skip


def requests(source: str, size: int, count: int, key: str) -> list[bytes]:
    """Prebuilt, each with events of its own."""
    rnd, now = random.Random(7), time.time_ns() // 1000
    bearer = ("authorization", f"Bearer {key}")
    made = []
    for r in range(count):
        if source == "sandbox":
            body = json.dumps({"type": "report", "account": "a", "rows": [sandbox(r * size + i, rnd, now) for i in range(size)]}).encode()
            made.append(request("POST", "/v1/webhooks/sandbox", body, (JSON, *_signed(body, now))))
            continue
        event = {"generic": generic, "cloudevents": cloudevent, "report": report}[source]
        events = [event(r * size + i, rnd, now) for i in range(size)]
        body = json.dumps(events[0] if source == "generic" and size == 1 else events).encode()
        media = ("content-type", "application/cloudevents-batch+json") if source == "cloudevents" else JSON
        made.append(request("POST", "/v1/reports/generic" if source == "report" else "/v1/events", body, (media, bearer)))
    return made


def _signed(body: bytes, now: int) -> tuple[tuple[str, str], ...]:
    from services.ingest.core.signature import sign_standard_webhooks
    from services.ingest.core.source import Delivery

    return sign_standard_webhooks(Delivery("sandbox", "", body, (), now), SECRET, now)


# -- the two servers -----------------------------------------------------------------------------------------------------


async def ingest_app(folder: Path) -> tuple[Any, Any, str]:
    """(the ingest service alone: log, database, keys, doors; the protocol of its connections; a key)."""
    from prometheus_client import CollectorRegistry

    from services.adapters.clock import SystemClock
    from services.adapters.db.database import Database
    from services.adapters.db.migrate import migrate
    from services.adapters.http import problem
    from services.adapters.http.auth import Auth
    from services.adapters.http.front import Front
    from services.adapters.log.codec import EVENTS
    from services.adapters.log.sqlite import SqliteLog
    from services.adapters.log.writer import EventWriter
    from services.ingest.http import doors
    from services.ingest.intake import Intake

    clock, registry = SystemClock(), CollectorRegistry()
    database = Database(f"sqlite:///{folder / 'trimtab.db'}")
    await migrate(database)
    log = SqliteLog(folder / "events.db", EVENTS, clock)
    writer = EventWriter(log)
    auth = Auth(database, bytes(32), clock)
    key = await auth.issue_key("load", "source", "acme")

    async def changes(made) -> None:  # type: ignore[no-untyped-def]
        await log.append([(c.workspace, c) for c in made])

    app = FastAPI()
    problem.install(app)
    intake = Intake(database, writer.append, changes, clock, registry, append_rows=writer.append_rows)
    routes, short = doors(intake, auth.principal, {"acme": {"sandbox": [SECRET]}}, clock, registry, known=auth.known, linger_ms=writer.linger * 1000)
    app.include_router(routes)
    front = Front(registry, short=short)
    return app, front.protocol, key


def bare_app() -> FastAPI:
    """FastAPI and msgspec as one would write them: the same structures parsed, nothing kept."""
    from benchmarks.shapes import BATCHES

    app = FastAPI()
    decoders = {name: msgspec.json.Decoder(shape) for name, shape in BATCHES.items()}

    async def parse(request: Request, shape: str) -> Response:
        body = await request.body()
        rows: Any = decoders[shape if body[:1] == b"[" or shape == "sandbox" else "single"].decode(body)
        n = len(rows) if isinstance(rows, list) else len(rows.rows) if shape == "sandbox" else 1
        return Response(b'{"accepted":%d}' % n, status_code=202, media_type="application/json")

    @app.post("/v1/events", status_code=202)
    async def events(request: Request) -> Response:
        return await parse(request, "cloudevents" if "cloudevents" in request.headers["content-type"] else "generic")

    @app.post("/v1/webhooks/{source}", status_code=202)
    async def webhooks(source: str, request: Request) -> Response:
        return await parse(request, "sandbox")

    @app.post("/v1/reports/{source}", status_code=202)
    async def reports(source: str, request: Request) -> Response:
        return await parse(request, "report")

    return app


def serve(which: str, cpu: int, folder: str, profile: str = "") -> None:
    """Runs until its standard input ends; says the port and a key first."""
    import structlog
    import uvicorn

    from services.adapters import collector

    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def run() -> None:
        app, http, key = (await ingest_app(Path(folder))) if which == "ingest" else (bare_app(), "httptools", "none")
        collector.settle()  # the bare one too: it costs a line, and is no merit of either
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None, lifespan="off", access_log=False, server_header=False))
        print(listener.getsockname()[1], key, flush=True)
        asyncio.get_running_loop().add_reader(0, lambda: setattr(server, "should_exit", True))
        await server._serve(sockets=[listener])

    if profile:
        import cProfile

        profiler = cProfile.Profile(time.thread_time)
        profiler.enable()
    uvloop.run(run())
    if profile:
        profiler.dump_stats(profile)


class Server:
    """One of the two, in a process of its own; `seconds()` is the processor time it has taken."""

    def __init__(self, which: str, folder: str, profile: str = "") -> None:
        cpus = sorted(os.sched_getaffinity(0))
        arguments = [sys.executable, "-m", "benchmarks.ingest", "serve", which, str(cpus[0] if len(cpus) > 1 else -1), folder, profile]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        port, self.key = self.process.stdout.readline().split()
        self.port = int(port)

    def seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


# -- the figures ---------------------------------------------------------------------------------------------------------


def against_bare(source: str, size: int, connections: int, rounds: int = ROUNDS, seconds: float = SECONDS) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        servers = [Server("ingest", folder), Server("bare", folder)]
        try:
            count = max(200, 150_000 // size) if size > 1 else 60_000
            sent = [requests(source, size, count, s.key) for s in servers]
            rates: list[list[float]] = [[], []]
            of_core: list[list[float]] = [[], []]
            seen: list[list[Measured]] = [[], []]
            at = [0, 0]
            for turn in range(rounds + 1):
                for i, server in enumerate(servers):
                    cpu = server.seconds()
                    measured, at[i] = uvloop.run(closed_loop(server.port, sent[i], seconds if turn else 0.5, connections, at[i]))
                    if measured.refused:
                        raise RuntimeError(f"{source}: the server answered {measured.refused[0]!r}")
                    if turn:  # the first warms up
                        rates[i].append(measured.rate * size)
                        of_core[i].append(len(measured.latencies) * size / (server.seconds() - cpu))
                        seen[i].append(measured)
        finally:
            for server in servers:
                server.stop()
    case = f"{source} events_per_request={size} connections={connections}"
    goal, ratio_goal = GOALS.get((source, size), (None, None))
    ratio = statistics.median(a / b for a, b in zip(*rates, strict=True))
    against = "bare FastAPI and msgspec"
    yield Figure("ingest", case, statistics.median(rates[0]), "events/s", goal, ratio, against, ratio_goal)
    core = statistics.median(a / b for a, b in zip(*of_core, strict=True))
    yield Figure("ingest", f"{case} processor", statistics.median(of_core[0]), "events/s of processor", None, core, against)
    if size > 1:
        yield Figure("ingest", f"{case} requests", statistics.median(rates[0]) / size, "requests/s")
    for q in (0.5, 0.99):
        value = statistics.median(m.quantile(q) for m in seen[0]) * 1000
        yield Figure("ingest", f"{case} p{q * 100:g}", value, "ms", None, at_most=True)


def stages(rounds: int = 5) -> Iterator[Figure]:
    """Where the time of plain batches of 100 goes, in microseconds of processor an event: each stage alone, ten deliveries read together."""
    from benchmarks.shapes import BATCHES
    from services.adapters.log.codec import EVENTS
    from services.ingest.core import usual
    from services.ingest.core.source import Delivery
    from services.kernel.columns import join

    rnd, now, size = random.Random(7), time.time_ns() // 1000, 100
    bodies = [json.dumps([generic(i, rnd, now) for i in range(size)]).encode() for _ in range(200)]
    groups = [bodies[i : i + 10] for i in range(0, len(bodies), 10)]
    deliveries = [[Delivery("generic", "acme", body, (JSON,), now) for body in group] for group in groups]
    bare = msgspec.json.Decoder(BATCHES["generic"])
    decoded = [[e for body in group for e in usual._EVENTS.decode(body)] for group in groups]
    rows = [found[0] for group in deliveries if (found := usual.events(group, "generic")) is not None]
    records = [join("acme", [r]) for r in rows]
    work: dict[str, Callable[[], object]] = {
        "bare: decoding into typed structures": lambda: [bare.decode(body) for body in bodies],
        "decoding": lambda: [[usual._EVENTS.decode(body) for body in group] for group in groups],
        "keys of ids": lambda: [usual.keys([e.id for e in g], usual.of_one("generic", len(g)), [len(g)]) for g in decoded],
        "instants": lambda: [usual.instants([e.occurred_at for e in g], now) for g in decoded],
        "amounts": lambda: [usual._amounts([e.amounts for e in g]) for g in decoded],
        "all of reading by columns, these four included": lambda: [usual.events(group, "generic") for group in deliveries],
        "joining into records": lambda: [join("acme", [r]) for r in rows],
        "writing records as bytes": lambda: [EVENTS.encode(record) for record in records],
    }
    for name, stage in work.items():
        taken = []
        for _ in range(rounds):
            began = time.thread_time()
            stage()
            taken.append((time.thread_time() - began) * 1e6 / (len(bodies) * size))
        yield Figure("ingest", f"stage: {name}", min(taken), "us an event", at_most=True)


CASES: Sequence[tuple[str, int, int]] = (
    ("generic", 100, 64), ("generic", 1, 96), ("generic", 1_000, 32), ("cloudevents", 100, 64), ("sandbox", 100, 64), ("report", 100, 64),
)  # fmt: skip


def figures(quick: bool = False) -> Iterator[Figure]:
    for source, size, connections in CASES[: 2 if quick else None]:
        yield from against_bare(source, size, connections, *((1, 1.0) if quick else (ROUNDS, SECONDS)))
    yield from stages()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        for figure in figures():
            print(figure, flush=True)
