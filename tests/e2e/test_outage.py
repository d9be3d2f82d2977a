"""An outage that outlasts a decision: it is held, its cause is given back, and the rule decides anew on present facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from services.adapters.clock import ManualClock, SystemClock
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.kernel.record import Clock, Outcome
from tests.e2e.running import SECRET, Running
from tests.shell.sandboxed import Sandbox, sandbox

SECOND, HOUR = 1_000_000, 3_600_000_000


@asynccontextmanager
async def up(folder: Path, platform: Sandbox, clock: ManualClock, actions: str) -> AsyncIterator[Running]:
    """A Trimtab on a clock that passes a second at a time for as long as the block lasts."""
    platform_of = {"sandbox_url": platform.url, "sandbox_token": "sandbox", "webhook_secrets": {"sandbox": [SECRET]}}
    trimtab = Embedded(Settings(data=folder, port=0, actions=actions, **platform_of), clock, Clock(True, clock.now()))

    async def passing() -> None:
        while True:
            await asyncio.sleep(0.05)
            clock.advance(SECOND)

    await trimtab.start()
    time = asyncio.create_task(passing())
    try:
        async with trimtab.serving() as url:
            key = (await trimtab.cli_key()).read_text()
            async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
                yield Running(trimtab, platform, http)
    finally:
        time.cancel()
        await trimtab.stop()


async def told(r: Running) -> list[tuple[str, str]]:
    return [(s.record.decision_id, s.record.status) for s in await r.trimtab.events.read(0, 0) if isinstance(s.record, Outcome)]


async def test_a_decision_that_an_outage_outlived_is_held_and_decided_anew(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now() - HOUR // 2)  # behind the rows' own instants, which are clamped to it
    with sandbox(tmp_path) as platform:
        platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active"} for i in (1, 2)})
        async with up(tmp_path / "data", platform, clock, "hold") as r:
            await r.apply()
            await r.report({"ad": "a1", "status": "active", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "status": "active"})
            [parked] = await r.decisions(1, status="parked")
        clock.advance(5 * HOUR)  # past the deadline too, which people might have used
        async with up(tmp_path / "data", platform, clock, "execute") as r:
            [held] = await r.decisions(1, status="held")
            [anew] = await r.decisions(1, status="verified")
            async with asyncio.timeout(20):
                while len(outcomes := await told(r)) < 2:  # noqa: ASYNC110  an end is known before the log hears of it
                    await asyncio.sleep(0.05)
        assert (held["id"], held["reason"]) == (parked["id"], "stale")
        assert anew["id"] != parked["id"] and anew["path"] == parked["path"]
        assert outcomes == [(parked["id"], "held"), (anew["id"], "verified")]
        assert [change["path"] for change in platform.applied()] == [parked["path"]]
