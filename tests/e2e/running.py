"""A whole Trimtab and a whole sandbox platform, on loopback, in temporary folders."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from services.adapters.settings import Settings
from services.embedded import Embedded
from tests.shell.sandboxed import Sandbox, sandbox

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()

PACK = """
pack: e2e
account: {platform: sandbox, currency: EUR, time_zone: Europe/Berlin}
conversions:
  purchases: {source: sandbox, action_type: purchase, attribution: 7d_click}
rules:
  - rule: pause-weak
    owner: jana@acme.example
    objective: stop paying for creatives that people scroll past
    scope: {level: creative, where: status = "active"}
    when: ctr[since change] < 0.8%
    guards:
      sample: {impressions: 3000}
      confidence: {level: 95%, effect: 10%}
      min_runtime: 0s
      keep_active: {at_least: 1, per: ad_group}
    do: pause
    risk: low
    approve: {above: 300 EUR per day, by: media-lead, within: 4h, otherwise: leave running}
"""


def signed(body: bytes, message: str = "m1", secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{message}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
        "content-type": "application/json",
    }


@dataclass
class Running:
    trimtab: Embedded
    sandbox: Sandbox
    http: httpx2.AsyncClient
    sent: int = 0

    async def report(self, *rows: dict[str, Any]) -> httpx2.Response:
        """Rows for ads of sandbox/demo/c1/g1; deltas of now."""
        made = []
        for row in rows:
            self.sent += 1
            at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            entity = {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": row.pop("ad")}
            made.append({"id": f"r{self.sent}", "entity": entity, "occurred_at": at, "currency": "EUR", **row})
        body = json.dumps({"type": "report", "account": "demo", "sent_at": made[0]["occurred_at"], "rows": made}).encode()
        return await self.http.post("/v1/webhooks/sandbox", content=body, headers=signed(body, f"m{self.sent}"))

    async def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = await self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def post(self, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        answer = await self.http.post(path, json=body or {})
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def apply(self, pack: str = PACK) -> dict[str, Any]:
        """The pack's rules are active and in effect."""
        applied = await self.post("/v1/rules/apply", {"pack": pack})
        for _ in range(100):
            if len((await self.get("/v1/engine"))["rules"]) == len(applied["rules"]):
                return applied
            await asyncio.sleep(0.1)
        raise AssertionError(f"not in effect: {await self.get('/v1/engine')}")

    async def decisions(self, count: int, **wanted: str) -> list[dict[str, Any]]:
        """At least so many decisions of this kind or status, waited for up to 20 s."""

        for _ in range(200):
            found = (await self.get("/v1/decisions", **wanted))["decisions"]
            if len(found) >= count:
                return list(found)
            await asyncio.sleep(0.1)
        raise AssertionError(f"no {wanted}: {await self.get('/v1/decisions')}")


@asynccontextmanager
async def running(folder: Path, ads: int = 4, **settings: Any) -> AsyncIterator[Running]:
    with sandbox(folder) as platform:
        objects = {f"sandbox/demo/c1/g1/a{i}": {"status": "active", "name": f"Summer_v{i}"} for i in range(1, ads + 1)}
        platform.load({**objects, "sandbox/demo/c1": {"status": "active", "daily_budget": 80_000_000}})
        values = {"data": folder / "data", "port": 0, "webhook_secrets": {"sandbox": [SECRET]}, "sandbox_url": platform.url, "sandbox_token": "sandbox"}
        trimtab = Embedded(Settings(**{**values, **settings}))
        await trimtab.start()
        try:
            async with trimtab.serving() as url:
                key = (await trimtab.cli_key()).read_text()
                async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
                    yield Running(trimtab, platform, http)
        finally:
            await trimtab.stop()
