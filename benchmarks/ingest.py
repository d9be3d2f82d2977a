"""How many events a second ingest accepts over HTTP, durably, on one core; beside it a bare endpoint that does the same parse and forgets.

Both servers are processes of their own, held to one core, and take turns under the same load, which is held to the others: their ratio holds on a busy machine,
where the absolute figures sway. 202 means committed to SQLite with synchronous=FULL for the one, and nothing for the other.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import uvloop
from fastapi import FastAPI, Request, Response

from benchmarks.figure import Figure
from benchmarks.load import Measured, apart, closed_loop, request
from services.ingest.core.source import Delivery
from services.ingest.http import all_sources, time_zone

SECRET = "whsec_" + base64.b64encode(b"a benchmark's own secret, 32 byte").decode()
JSON = ("content-type", "application/json")
SOURCES = all_sources()
ROUNDS, SECONDS, EVENTS_ = 5, 1.5, 150_000
QUICK = (1, 0.7, 20_000)
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


def web(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    c = int(rnd.paretovariate(0.5)) % CREATIVES
    campaign = {"source": "facebook", "account_id": f"a{c // 500}", "name": f"c{c // 20}", "term": f"g{c // 5}", "content": f"v{c}"}
    message: dict[str, object] = {
        "messageId": f"m-{rnd.getrandbits(64):016x}", "timestamp": _instant(now - rnd.randrange(60_000_000)), "context": {"campaign": campaign},
    }  # fmt: skip
    kind = rnd.choices(("page", "lead", "purchase"), (80, 12, 8))[0]
    if kind == "page":
        return message | {"type": "page"}
    if kind == "lead":
        return message | {"type": "track", "event": "Form Submitted", "properties": {}}
    order = {"order_id": f"{rnd.getrandbits(40)}", "revenue": f"{rnd.randrange(500, 20_000) / 100:.2f}", "currency": "EUR"}
    return message | {"type": "track", "event": "Order Completed", "properties": order}


def hubspot(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    c = i % CREATIVES
    place = {"utm_source": "facebook", "account_id": f"a{c // 500}", "utm_campaign": f"c{c // 20}", "utm_term": f"g{c // 5}", "utm_content": f"v{c}"}
    message = {"eventId": i, "portalId": 62515, "occurredAt": now // 1000 - rnd.randrange(60_000), "objectId": rnd.getrandbits(40)}
    if i % 5:
        return message | {"subscriptionType": "contact.creation", "properties": place}
    money = {"amount": f"{rnd.randrange(500, 200_000) / 100:.2f}", "deal_currency_code": "EUR"}
    won = {"subscriptionType": "deal.propertyChange", "propertyName": "dealstage", "propertyValue": "closedwon"}
    return message | won | {"properties": place | money}


def meta_ads(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    c, day = i % CREATIVES, _instant(now, 0)[:10]
    return {
        "account_id": f"a{c // 500}", "campaign_id": f"c{c // 20}", "adset_id": f"g{c // 5}", "ad_id": f"v{c}", "account_currency": "EUR",
        "date_start": day, "date_stop": day, "impressions": str(400 + i), "inline_link_clicks": str(2 + i % 9), "spend": f"{rnd.randrange(25, 900) / 100:.2f}",
        "actions": [{"action_type": "purchase", "value": "3", "7d_click": "2"}, {"action_type": "lead", "value": "1"}],
        "action_values": [{"action_type": "purchase", "value": "149.70", "7d_click": "99.80"}],
    }  # fmt: skip


def google_ads(i: int, rnd: random.Random, now: int) -> dict[str, object]:
    c = i % CREATIVES
    return {
        "customer": {"id": f"a{c // 500}", "currencyCode": "EUR", "timeZone": "Europe/Berlin"}, "campaign": {"id": f"c{c // 20}"},
        "adGroup": {"id": f"g{c // 5}"}, "adGroupAd": {"ad": {"id": f"v{c}"}, "status": "ENABLED"}, "segments": {"date": _instant(now, 0)[:10]},
        "metrics": {
            "impressions": str(400 + i), "clicks": str(2 + i % 9), "costMicros": str(rnd.randrange(250, 9_000) * 1000), "conversions": 2.5,
            "conversionsValue": 149.7,
        },
    }  # fmt: skip


Made: TypeAlias = Callable[[int, random.Random, int], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Sender:
    """How one source sends: what makes an event of it, where it goes, and under which name the events stand in a body; without one a body is their array."""

    source: str
    make: Made
    path: str
    under: str = ""
    is_signed: bool = False
    media: str = "application/json"

    def body(self, events: Sequence[dict[str, object]]) -> bytes:
        return json.dumps({self.under: events} | ({"type": "report", "account": "a"} if self.source == "sandbox" else {}) if self.under else events).encode()


SENDERS = {
    "generic": Sender("generic", generic, "/v1/events"),
    "cloudevents": Sender("generic", cloudevent, "/v1/events", media="application/cloudevents-batch+json"),
    "report": Sender("generic", report, "/v1/reports/generic"),
    "sandbox": Sender("sandbox", sandbox, "/v1/webhooks/sandbox", "rows", is_signed=True),
    "web": Sender("web", web, "/v1/webhooks/web", "batch", is_signed=True),
    "hubspot": Sender("hubspot", hubspot, "/v1/webhooks/hubspot", is_signed=True),
    "meta_ads": Sender("meta_ads", meta_ads, "/v1/reports/meta_ads", "data"),
    "google_ads": Sender("google_ads", google_ads, "/v1/reports/google_ads", "results"),
}


def deliveries(name: str, size: int, count: int, now: int) -> Iterator[Delivery]:
    """Each with events of its own, signed where its source signs."""
    rnd, sender = random.Random(7), SENDERS[name]
    source = SOURCES[sender.source]
    for r in range(count):
        events = [sender.make(r * size + i, rnd, now) for i in range(size)]
        body = json.dumps(events[0]).encode() if name == "generic" and size == 1 else sender.body(events)
        made = Delivery(sender.source, "acme", body, (("content-type", sender.media),), now, "POST", f"http://127.0.0.1{sender.path}")
        yield replace(made, headers=made.headers + source.sign(made, SECRET, now)) if sender.is_signed else made


def requests(name: str, size: int, count: int, key: str) -> list[bytes]:
    """Prebuilt deliveries; those that nobody signs carry a key."""
    sender, bearer = SENDERS[name], (("authorization", f"Bearer {key}"),)
    made = deliveries(name, size, count, time.time_ns() // 1000)
    return [request("POST", sender.path, d.body, d.headers if sender.is_signed else d.headers + bearer) for d in made]


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
    secrets = {"acme": {s.source: [SECRET] for s in SENDERS.values() if s.is_signed}}
    routes, short = doors(intake, auth.principal, secrets, clock, registry, known=auth.known, linger_ms=writer.linger * 1000)
    app.include_router(routes)
    front = Front(registry, short=short)
    return app, front.protocol, key


def bare_app() -> FastAPI:
    """FastAPI and msgspec as one would write them: the same structures parsed, nothing kept."""
    from benchmarks.shapes import BATCHES, count

    app = FastAPI()
    decoders = {name: msgspec.json.Decoder(shape) for name, shape in BATCHES.items()}

    async def parse(request: Request, shape: str) -> Response:
        read = decoders[shape].decode(await request.body())
        return Response(b'{"accepted":%d}' % count(read), status_code=202, media_type="application/json")

    @app.post("/v1/events", status_code=202)
    async def events(request: Request) -> Response:
        if "cloudevents" in request.headers["content-type"]:
            return await parse(request, "cloudevents")
        return await parse(request, "generic" if (await request.body())[:1] == b"[" else "single")

    @app.post("/v1/webhooks/{source}", status_code=202)
    async def webhooks(source: str, request: Request) -> Response:
        return await parse(request, source)

    @app.post("/v1/reports/{source}", status_code=202)
    async def reports(source: str, request: Request) -> Response:
        return await parse(request, "report" if source == "generic" else source)

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

    def __init__(self, which: str, core: int, folder: str, profile: str = "") -> None:
        arguments = [sys.executable, "-m", "benchmarks.ingest", "serve", which, str(core), folder, profile]
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


def against_bare(source: str, size: int, connections: int, rounds: int = ROUNDS, seconds: float = SECONDS, events: int = EVENTS_) -> Iterator[Figure]:
    """`events` are prepared, and sent again once all have been."""
    with tempfile.TemporaryDirectory() as folder, apart() as core:
        servers = [Server("ingest", core, folder), Server("bare", core, folder)]
        try:
            count = max(2 * connections, events // size) if size > 1 else events * 2 // 5
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
    yield Figure("ingest", f"{case} requests", statistics.median(rates[0]) / size, "requests/s")
    for q in (0.5, 0.99):
        value = statistics.median(m.quantile(q) for m in seen[0]) * 1000
        yield Figure("ingest", f"{case} p{q * 100:g}", value, "ms", None, at_most=True)


def stages(rounds: int = 5) -> Iterator[Figure]:
    """Where the time of plain batches of 100 goes, in microseconds of processor an event: each stage alone, ten deliveries read together."""
    from benchmarks.shapes import BATCHES
    from services.adapters.log.codec import EVENTS
    from services.ingest.core import usual
    from services.kernel.columns import join

    now, size, count = time.time_ns() // 1000, 100, 200
    made = list(deliveries("generic", size, count, now))
    groups = [made[i : i + 10] for i in range(0, count, 10)]
    bare = msgspec.json.Decoder(BATCHES["generic"])
    decoded = [[e for d in group for e in usual._EVENTS.decode(d.body)] for group in groups]
    rows = [found[0] for group in groups if (found := usual.events(group, "generic")) is not None]
    records = [join("acme", [r]) for r in rows]
    work: dict[str, Callable[[], object]] = {
        "bare: decoding into typed structures": lambda: [bare.decode(d.body) for d in made],
        "decoding": lambda: [[usual._EVENTS.decode(d.body) for d in group] for group in groups],
        "keys of ids": lambda: [usual.keys([e.id for e in g], usual.of_one("generic", len(g)), [len(g)]) for g in decoded],
        "instants": lambda: [usual.instants([e.occurred_at for e in g], now) for g in decoded],
        "amounts": lambda: [usual._amounts([e.amounts for e in g]) for g in decoded],
        "all of reading by columns, these four included": lambda: [usual.events(group, "generic") for group in groups],
        "joining into records": lambda: [join("acme", [r]) for r in rows],
        "writing records as bytes": lambda: [EVENTS.encode(record) for record in records],
    }
    for name, stage in work.items():
        yield Figure("ingest", f"stage: {name}", _least(stage, time.thread_time, rounds, count * size), "us an event", at_most=True)
    commit = uvloop.run(_committed(records, rounds)) / (count * size)
    yield Figure("ingest", "stage: writing as bytes and committing to SQLite", commit, "us an event", at_most=True)
    for name in SENDERS:
        some = list(deliveries(name, size, count // 10, now))
        read = _least(lambda some=some: [read_alone(d) for d in some], time.thread_time, rounds, len(some) * size)  # type: ignore[misc]
        yield Figure("ingest", f"stage: a delivery of {name} alone, its signature checked and read", read, "us an event", at_most=True)


def _least(stage: Callable[[], object], clock: Callable[[], float], rounds: int, events: int) -> float:
    taken = []
    for _ in range(rounds):
        began = clock()
        stage()
        taken.append((clock() - began) * 1e6 / events)
    return min(taken)


async def _committed(records: Sequence[Any], rounds: int) -> float:
    """Microseconds of processor, SQLite's own thread included, that the records take from columns to the disk."""
    from services.adapters.clock import SystemClock
    from services.adapters.log.codec import EVENTS
    from services.adapters.log.sqlite import SqliteLog

    taken = []
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "events.db", EVENTS, SystemClock())
        for _ in range(rounds):
            began = time.process_time()
            for record in records:
                await log.append([("acme", record)])
            taken.append((time.process_time() - began) * 1e6)
        await log.close()
    return min(taken)


def read_alone(delivery: Delivery) -> int:
    """How many events the source reads from the delivery, in columns where it can; what it would refuse is not counted."""
    from services.ingest.core import reading, usual
    from services.ingest.core.report import Context
    from services.ingest.core.source import Columnar, Reporter, Webhook
    from services.kernel.event import Event

    source = SOURCES[delivery.source]
    if "/reports/" in delivery.url:
        if (found := usual.reports([delivery], delivery.source)) is not None:
            return len(found[0])
        shapes, context = source.shapes if isinstance(source, Reporter) else (), Context(delivery.received_at, zones=time_zone)
        return sum(isinstance(item, Event) for item in reading.events(delivery, delivery.source, shapes, context))
    if isinstance(source, Webhook) and "/webhooks/" in delivery.url:
        source.verify(delivery, [SECRET], delivery.received_at)
    if isinstance(source, Columnar) and (rows := source.rows(delivery)) is not None:
        return len(rows)
    return sum(isinstance(item, Event) for item in source.events(delivery))


CASES: Sequence[tuple[str, int, int]] = (
    ("generic", 100, 64), ("generic", 1, 96), ("generic", 1_000, 32), *((name, 100, 64) for name in SENDERS if name != "generic"),
)  # fmt: skip


def figures(quick: bool = False) -> Iterator[Figure]:
    for source, size, connections in CASES:
        yield from against_bare(source, size, connections, *(QUICK if quick else (ROUNDS, SECONDS)))
    yield from stages(2 if quick else 5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        for figure in figures():
            print(figure, flush=True)
