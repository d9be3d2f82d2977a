"""A small world for the actions service: a real SQLite file, list logs, clocks moved by hand, and a platform that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from prometheus_client import CollectorRegistry

from services.actions.executors.contract import Answer, Observed, Step, Value
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.ledger.witness import Witness
from services.actions.store import decision as stored
from services.actions.worker import ActionsService, Conduct
from services.adapters import faultpoint
from services.adapters.db.clock import Own
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.kernel.decision import Decision, Reading, Verdict
from services.kernel.errors import Unavailable
from services.kernel.principal import Principal
from services.kernel.record import Outcome, Record, Stamped
from tests.shell.ending import Crash as Crash
from tests.shell.ending import Ends

T = TypeVar("T")
NOON = 1_790_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
EUR = 1_000_000
AD = "sandbox/acme/prospecting/women/summer"
OTHER = "sandbox/acme/prospecting/women/autumn"
REVIEWER = Principal("rita", "reviewer", "main", "session")
ADMIN = Principal("adam", "admin", "main", "session")


class ByHand:
    """A clock that stands still until it is moved."""

    def __init__(self, at: int = NOON) -> None:
        self.at = at

    def now(self) -> int:
        return self.at

    def move(self, micros: int) -> None:
        self.at += micros


class ListLog(Generic[T]):
    """A log of one partition in a list; `fails` counts the appends that will be refused."""

    def __init__(self) -> None:
        self.records: list[tuple[str, T]] = []
        self.fails = 0
        self.grown = asyncio.Event()

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        if self.fails:
            self.fails -= 1
            raise Unavailable("the log is away")
        start = len(self.records)
        self.records += records
        self.grown.set()
        return [(0, start + i) for i in range(len(records))]

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        return [Stamped(offset + i, NOON, r) for i, (_, r) in enumerate(self.records[offset : offset + limit])]

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        while page := await self.read(partition, offset):
            yield page
            offset = page[-1].offset + 1

    async def close(self) -> None: ...


# Of the service when time is driven by hand; those of a whole process are for tests that have one.
POINTS = sorted(name for name in faultpoint.POINTS if name.startswith(("actions.", "ledger.", "people.", "database.")) and name != "database.migrated")


@dataclass
class Platform:
    """Applies what it is told and keeps a journal of it. `moods` are used up one per write; without one it behaves."""

    name: ClassVar[str] = "sandbox"
    platforms: ClassVar[frozenset[str]] = frozenset({"sandbox"})
    attributes: ClassVar[frozenset[str]] = frozenset({"status", "daily_budget"})
    is_practice: ClassVar[bool] = True
    objects: dict[tuple[str, str], Value] = field(default_factory=dict)
    journal: list[tuple[str, str, Value]] = field(default_factory=list)
    moods: deque[str] = field(default_factory=deque)  # ok | refused | unsent | lost_after | lost_before | raises
    unreadable: int = 0  # reads that will fail
    stale: int = 0  # reads that will still show what was before the last write
    before: dict[tuple[str, str], Value] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    reads: int = 0
    closed: bool = False

    async def read(self, step: Step) -> Observed:
        self.reads += 1
        if self.unreadable:
            self.unreadable -= 1
            raise Unavailable("the platform is away")
        if self.stale and (step.path, step.attribute) in self.before:
            self.stale -= 1
            return Observed(self.before[step.path, step.attribute], "old")
        return Observed(self.objects.get((step.path, step.attribute)), str(len(self.journal)))

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        mood = self.moods.popleft() if self.moods else "ok"
        if mood == "unsent":
            return Answer("unsent", "no connection could be made in time")
        self.keys.append(idempotency_key)
        if mood == "refused":
            return Answer("refused", "422 not allowed")
        if mood == "raises":
            raise RuntimeError("a bug in the executor")
        if mood == "lost_before":
            return Answer("unclear", "connection reset")
        self.before[step.path, step.attribute] = self.objects[step.path, step.attribute]
        self.objects[step.path, step.attribute] = step.desired
        self.journal.append((step.path, step.attribute, step.desired))
        return Answer("unclear", "no answer") if mood == "lost_after" else Answer("accepted")

    async def close(self) -> None:
        self.closed = True


@dataclass
class World:
    database: Database
    platform: Platform
    decisions: ListLog[Decision] = field(default_factory=ListLog)
    events: ListLog[Record] = field(default_factory=ListLog)
    clock: ByHand = field(default_factory=ByHand)
    wall: ByHand = field(default_factory=ByHand)
    conduct: Conduct = field(default_factory=Conduct)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    witness: Witness | None = None
    url: str = ""  # of the database, for who is another process
    service: ActionsService = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self, ends: Ends | None = None, conduct: Conduct | None = None) -> ActionsService:
        """A new process on the same database, logs and platform; it may be one that ends at some point."""
        faultpoint.disarm()
        if ends is not None:
            faultpoint.arm(ends.point, ends.hit, ends)
        self.registry = CollectorRegistry()
        so = conduct or self.conduct
        logs = self.decisions, self.events
        self.service = ActionsService(self.database, *logs, [self.platform], self.clock, self.registry, so, Own(self.wall), witness=self.witness)
        return self.service

    async def decide(self, *made: Decision) -> None:
        await self.decisions.append([(d.workspace, d) for d in made])

    async def settle(self, rounds: int = 40) -> None:
        """Steps until nothing is left to do, moving the wall clock between, never the decisions' clock."""
        for _ in range(rounds):
            await self.service.step()
            self.wall.move(10 * SECOND)

    def outcomes(self) -> list[Outcome]:
        return [r for _, r in self.events.records if isinstance(r, Outcome)]

    def told(self) -> list[tuple[str, str, str, str]]:
        return [(o.status, o.path, o.value, o.reason) for o in self.outcomes()]

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def world(folder: Path, conduct: Conduct | None = None, url: str = "") -> AsyncIterator[World]:
    database = Database(url or f"sqlite:///{folder / 'trimtab.db'}")
    await migrate(database)
    platform = Platform({(AD, "status"): "active", (OTHER, "status"): "active", (AD, "daily_budget"): 80 * EUR, (OTHER, "daily_budget"): 80 * EUR})
    try:
        yield World(database, platform, conduct=conduct or Conduct(), url=url or f"sqlite:///{folder / 'trimtab.db'}")
    finally:
        faultpoint.disarm()
        await database.close()


async def status(w: World, decision_id: str) -> tuple[str, str]:
    """What became of a decision, and why."""
    async with w.database.reading() as connection:
        row = await stored(connection, "main", decision_id)
    assert row is not None
    return row.status, row.reason


async def story(w: World, decision_id: str) -> list[str]:
    """The kinds of its ledger entries, of a chain that holds."""
    async with w.database.reading() as connection:
        assert isinstance(await ledger.check(connection, "main"), Verified)
        return [e.kind for e in await ledger.about(connection, "main", decision_id)]


def an_action(**changes: Any) -> str:
    path = changes.get("path", AD)
    approve = {"always": False, "above": -1, "by": "media-lead", "within": 240 * MINUTE, "otherwise": "leave running"} | changes.pop("approve", {})
    action = {
        "do": "pause",
        "path": AD,
        "risk": "low",
        "approve": approve,
        "spend_per_day": 240 * EUR,
        "currency": "EUR",
        "valid_for": 15 * MINUTE,
        "steps": [{"path": path, "attribute": "status", "observed": "active", "desired": "paused"}],
    }
    return json.dumps(action | changes, sort_keys=True, separators=(",", ":"))


def a_shift(**changes: Any) -> str:
    """15 % of AD's budget goes to OTHER."""
    steps = [
        {"path": AD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 68 * EUR},
        {"path": OTHER, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 92 * EUR},
    ]
    return an_action(**({"do": "shift_budget", "path": f"{AD}|{OTHER}", "steps": steps} | changes))


def a_decision(boundary: int = 1, **changes: Any) -> Decision:
    made: dict[str, Any] = {
        "workspace": "main",
        "rule_id": "pause-weak-creatives",
        "version": "9f2c" * 8,
        "path": AD,
        "boundary": boundary,
        "now": NOON,
        "kind": "fired",
        "mode": "active",
        "action": an_action(path=changes.get("path", AD)),
        "readings": (Reading("ctr[since change] < 0.8%", "ctr", "since change", 30 * EUR, 6_000 * EUR, 8_000_000, "true"),),
        "verdicts": (Verdict("confidence", "", (("evidence", 3_100_000),)),),
        "evidence": 3_100_000,
        "valid_until": NOON + 15 * MINUTE,
    }
    return Decision(**(made | changes))


def a_refusal(boundary: int = 1, guard: str = "confidence", **changes: Any) -> Decision:
    return a_decision(boundary, **({"kind": "refused", "action": "", "verdicts": (Verdict(guard, "not_proven"),)} | changes))
