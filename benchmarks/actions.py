"""How many decisions a second the actions service routes and records on SQLite and on PostgreSQL, and how fast its ledger is appended to and verified.

Of a hundred decisions forty are refusals (recorded), forty fire and only notify, ten fire and ask people, ten pause an object. Every transaction is
durable (synchronous=FULL, fsync=on) and writes the inbox, the queue or the escalation, the ledger and the log's offset together.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from benchmarks.figure import Figure
from benchmarks.stages import Stages, watched
from deploy.postgres.server import Missing, Server
from services.actions import intake, store, worker
from services.actions.core.letter import canonical
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Entry, Head, Verified, Walk, following, verify
from services.actions.worker import ActionsService
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.memory import MemoryLog
from services.kernel.decision import Decision, Reading, Verdict
from services.kernel.ports import Log
from services.kernel.record import Record

ROUNDS = 5
MINUTE = 60_000_000
ROUTING: Stages = (
    ("letters, their canonical text and hash", intake, "whole"), ("letters, their canonical text and hash", intake, "content_hash"),
    ("policy", intake, "_judge"), ("what is known already", store, "next_offset"), ("what is known already", store, "hashes"),
    ("what is known already", store, "kill_switch"), ("queue and escalations", intake, "_act"), ("ledger and outcomes", store.Change, "write"),
    ("inbox", worker, "take_in"), ("the transaction's begin and commit, counters", ActionsService, "take_in"),
)  # fmt: skip
APPENDING: Stages = (
    ("canonical text", ledger, "canonical"), ("chain, its hashes", ledger, "following"), ("rows into the database", ledger, "append"),
)  # fmt: skip
CHECKING: Stages = (("rows out of the database", ledger, "rows"), ("chain, its hashes", Walk, "go"))


def decision(n: int, now: int) -> Decision:
    share, path = n % 100, f"sandbox/act/cmp_{n // 20:05d}/ads_{n // 5:06d}/crv_{n:07d}"
    do = "notify" if share < 90 else "pause"
    steps = [] if do == "notify" else [{"path": path, "attribute": "status", "observed": "active", "desired": "paused"}]
    approve = {"always": 80 <= share < 90, "above": -1, "by": "media-lead", "within": 240 * MINUTE, "otherwise": "leave running"}
    fired = share >= 40
    action = {"do": do, "path": path, "risk": "low", "approve": approve, "spend_per_day": 5_000_000, "valid_for": 15 * MINUTE, "steps": steps}
    readings = (Reading("ctr[since change] < 0.8%", "ctr", "since change", 21_000_000 + n, 4_000_000_000, 8_000_000, "true"),)
    verdicts = (Verdict("sample", "" if fired else "too_few", (("impressions", 4_000_000_000),)), Verdict("cooldown", ""))
    return Decision(
        "acme", "pause-weak", "0123456789abcdef", path, now // 1_000_000, now, "fired" if fired else "refused", "active",
        canonical(action) if fired else "", readings, verdicts, 3_200_000, now + 15 * MINUTE,
    )  # fmt: skip


async def routed(count: int, address: str, decisions: Log[Decision] | None = None) -> float:
    """Decisions a second, from an empty log: in memory, unless another is given."""
    clock = SystemClock()
    database = Database(address)
    await migrate(database)
    decisions = decisions or MemoryLog(DECISIONS, clock)
    events: MemoryLog[Record] = MemoryLog(EVENTS, clock)
    now = clock.now()
    await decisions.append([("acme", decision(n, now)) for n in range(count)])
    service = ActionsService(database, decisions, events, [], clock, CollectorRegistry())
    began, offset = time.perf_counter(), 0
    while page := await decisions.read(0, offset, 500):
        await service.take_in(0, page)
        offset = page[-1].offset + 1
    took = time.perf_counter() - began
    async with database.reading() as connection:
        found = await ledger.check(connection, "acme")
    if not isinstance(found, Verified) or found.head.sequence < count:
        raise RuntimeError(f"the ledger holds less than what was routed: {found}")
    await database.close()
    return count / took


async def ledgered(count: int, folder: Path) -> tuple[float, float]:
    """(entries appended a second, in transactions of 500; entries verified a second from the database)."""
    database = Database(f"sqlite:///{folder / 'trimtab.db'}")
    await migrate(database)
    now = time.time_ns() // 1000
    body = {"reason": "within_bounds", "kind": "fired", "path": "sandbox/act/cmp/ads/crv", "content": "0" * 64}
    notes = [ledger.Note("decision.executing", f"{n:032x}", body, "pause-weak") for n in range(count)]
    began = time.perf_counter()
    for i in range(0, count, 500):
        async with database.writing() as tx:
            await ledger.append(tx, "acme", notes[i : i + 500], now)
    appended = count / (time.perf_counter() - began)
    began = time.process_time()
    async with database.reading() as connection:
        found = await ledger.check(connection, "acme")
    if not isinstance(found, Verified) or found.head.sequence != count:
        raise RuntimeError(f"the ledger does not verify: {found}")
    checked = count / (time.process_time() - began)
    await database.close()
    return appended, checked


def verified(count: int) -> float:
    """Entries of a chain in memory verified a second: what an export's verifier does."""
    entries: list[Entry] = []
    head = Head("acme")
    for n in range(count):
        entry = following(head, 1_790_000_000_000_000 + n, "decision.executing", f"{n:032x}", "pause-weak", '{"content":"' + "0" * 64 + '","kind":"fired"}')
        entries.append(entry)
        head = Head("acme", entry.sequence, entry.hash)
    began = time.process_time()
    if not isinstance(verify("acme", entries, head), Verified):
        raise RuntimeError("a chain just made does not verify")
    return count / (time.process_time() - began)


def on_postgresql(rounds: int, decisions: int) -> Iterator[Figure]:
    """The same on a PostgreSQL of this machine, with fsync."""
    server = Server()
    try:
        server.start()
    except Missing as why:
        print(f"actions on PostgreSQL: skipped, {why}", file=sys.stderr)
        return
    try:
        routes = []
        for n in range(rounds):
            server.sql(f"CREATE DATABASE round_{n}")
            routes.append(asyncio.run(routed(decisions, server.url(f"round_{n}"))))
        yield Figure("actions", "decisions routed and recorded on PostgreSQL, 500 a transaction", statistics.median(routes), "decisions/s")
    finally:
        server.remove()


def stages(decisions: int, entries: int) -> Iterator[Figure]:
    """Where the time goes, in a run of its own; what no stage says of appending and checking is the transaction."""
    with tempfile.TemporaryDirectory() as folder, watched(ROUTING) as spent:
        asyncio.run(routed(decisions, f"sqlite:///{Path(folder) / 'trimtab.db'}"))
    yield from _told("routing", spent, decisions, "decision")
    with tempfile.TemporaryDirectory() as folder, watched(APPENDING) as appending, watched(CHECKING) as checking:
        asyncio.run(ledgered(entries, Path(folder)))
    yield from _told("ledger append", appending, entries, "entry")
    yield from _told("ledger verify", checking, entries, "entry")


def _told(what: str, spent: Mapping[str, float], many: int, of: str) -> Iterator[Figure]:
    for name, seconds in spent.items():
        yield Figure("actions", f"{what}: stage {name}", 1e6 * seconds / many, f"us a{'n' if of == 'entry' else ''} {of}", at_most=True)


def figures(quick: bool = False) -> Iterator[Figure]:
    rounds, decisions, entries = (3, 1_000, 5_000) if quick else (ROUNDS, 5_000, 20_000)
    routes, appends, checks, chains = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            routes.append(asyncio.run(routed(decisions, f"sqlite:///{Path(folder) / 'trimtab.db'}")))
        with tempfile.TemporaryDirectory() as folder:
            appended, checked = asyncio.run(ledgered(entries, Path(folder)))
            appends.append(appended)
            checks.append(checked)
        chains.append(verified(entries))
    yield Figure("actions", "decisions routed and recorded, 500 a transaction", statistics.median(routes), "decisions/s")
    yield from on_postgresql(rounds, decisions)
    yield Figure("actions", "ledger append, 500 a transaction", statistics.median(appends), "entries/s")
    yield Figure("actions", "ledger verify, a chain in memory", statistics.median(chains), "entries/s of processor", 100_000)
    yield Figure("actions", "ledger verify, from the database", statistics.median(checks), "entries/s of processor", 100_000)
    if quick:
        print("actions  where the time goes: skipped, it is told in whole sizes only", file=sys.stderr)
    else:
        yield from stages(decisions, entries)


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
