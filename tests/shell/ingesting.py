"""One ingest service with everything real behind it, what is sent to it, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http import problem
from services.adapters.http.auth import Auth
from services.adapters.http.front import Bounds, Front
from services.adapters.log.codec import EVENTS
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.writer import EventWriter
from services.ingest.core.source import Delivery
from services.ingest.http import all_sources, doors
from services.ingest.intake import Intake
from services.kernel.errors import Unavailable
from services.kernel.record import Change, EventBatch, Record
from tests.shell.acting import ByHand

NOON = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
MINUTE = 60_000_000
AD = "meta_ads/1700/6215/62150/621500"
SECRET = "whsec_" + base64.b64encode(b"a test's own secret, 32 bytes ..").decode()
GLOBEX = "whsec_" + base64.b64encode(b"another workspace's own secret ..").decode()


def event(**changes: Any) -> dict[str, Any]:
    made = {"id": "o-1", "entity": AD, "kind": "view", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"impressions": 1}}
    return {k: v for k, v in (made | changes).items() if v is not ...}


class World:
    """One ingest service with everything real behind it; `fails` names the next steps that will be unavailable."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.clock, self.wall, self.registry = ByHand(NOON), ByHand(NOON), CollectorRegistry()
        self.database = Database(url or f"sqlite:///{folder / 'trimtab.db'}")
        self.log: SqliteLog[Record] = SqliteLog(folder / "events.db", EVENTS, self.clock)
        self.writer = EventWriter(self.log, linger_ms=0)
        self.fails: set[str] = set()
        self.app = FastAPI()
        self.keys: dict[str, str] = {}

    async def start(self, **options: Any) -> None:
        await migrate(self.database)
        bounds = options.pop("bounds", None) or Bounds(body_seconds=options.get("patience", 35))
        auth = Auth(self.database, bytes(32), self.wall)
        for role in ("source", "viewer", "editor"):
            self.keys[role] = await auth.issue_key(role, role, "acme")
        self.keys["stranger"] = await auth.issue_key("stranger", "admin", "globex")
        problem.install(self.app)
        self.intake = Intake(self.database, self.append, self.change, self.clock, self.registry, patience=options.pop("log_patience", 10))
        secrets = {"globex": {"web": [GLOBEX]}, "acme": {"web": [SECRET], "sandbox": [SECRET], "hubspot": ["client-secret"], "generic": [SECRET]}}
        options = {"public_url": "https://t.example"} | options
        routes, self.short = doors(self.intake, auth.principal, secrets, self.wall, self.registry, known=auth.known, **options)
        self.app.include_router(routes)
        self.front = Front(self.registry, bounds, self.short)
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://t.example")

    async def append(self, batch: EventBatch) -> None:
        if "log" in self.fails:
            raise Unavailable("the log is away", reason="log")
        if "silence" in self.fails:
            await asyncio.Event().wait()
        await self.writer.append(batch)

    async def change(self, changes: Sequence[Change]) -> None:
        if "changes" in self.fails:
            raise Unavailable("the log is away", reason="log")
        await self.log.append([(c.workspace, c) for c in changes])

    async def stop(self) -> None:
        await self.http.aclose()
        await self.writer.close()
        await self.log.close()
        await self.database.close()

    # -- what people do

    async def post(self, path: str, body: Any, role: str = "source", **headers: str) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {self.keys[role]}", "content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
        return await self.http.post(path, content=raw, headers={n: v for n, v in sent.items() if v})

    async def push(self, source: str, body: Any, secret: str = SECRET, at: int | None = None, **headers: str) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        unsigned = Delivery(source, "", raw, (), 0, url=f"https://t.example/v1/webhooks/{source}")
        signed = dict(all_sources()[source].sign(unsigned, secret, self.wall.now() if at is None else at))
        return await self.http.post(f"/v1/webhooks/{source}", content=raw, headers=signed | headers)

    async def get(self, path: str, role: str = "viewer") -> httpx2.Response:
        return await self.http.get(path, headers={"authorization": f"Bearer {self.keys[role]}"})

    # -- what is there

    async def records(self) -> list[Record]:
        return [s.record for s in await self.log.read(0, 0)]

    async def ids(self) -> list[bytes]:
        return [row.tobytes() for r in await self.records() if isinstance(r, EventBatch) for row in r.event_id]

    async def changes(self) -> list[Change]:
        return [r for r in await self.records() if isinstance(r, Change)]

    async def quarantined(self, state: str = "waiting") -> list[dict[str, Any]]:
        answer = await self.get(f"/v1/quarantine?state={state}")
        return list(answer.json()["quarantine"])

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def told(answer: httpx2.Response) -> tuple[int, str]:
    """(status, reason) of a well-formed problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] and body["title"] and body["detail"]
    return answer.status_code, body["reason"]
