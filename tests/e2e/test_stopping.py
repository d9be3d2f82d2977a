"""Stopping what acts: one decision waits where nothing may be changed, is carried out if it may be in time, and makes room for a new one if not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import PACK, Running, running
from tests.shell.acting import SECOND

AD = "sandbox/demo/c1/g1/a1"
SHORT = PACK + "    valid_for: 8s\n"


async def weak(r: Running, pack: str = PACK) -> None:
    """The rule is in effect, and a1 is weak."""
    await r.report(*({"ad": f"a{i}", "status": "active"} for i in range(1, 5)))
    await r.apply(pack)
    await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100})


async def boundary(r: Running, k: int) -> None:
    """The engine has judged boundary k, a second each: facts go on arriving until then."""
    async with asyncio.timeout(60):
        while (await r.get("/v1/engine"))["engine_time"] < k * SECOND:
            await r.report({"ad": "a1", "impressions": 10, "clicks": 0})
            await asyncio.sleep(0.2)


async def fired(r: Running) -> list[dict[str, Any]]:
    return list((await r.get("/v1/decisions", kind="fired"))["decisions"])


async def switch(r: Running, engaged: bool) -> None:
    answer = await r.http.put("/v1/kill-switch", json={"engaged": engaged, "reason": "wrong currency"})
    assert answer.status_code == 200, answer.text


async def test_under_the_kill_switch_a_weak_ad_is_decided_about_once_and_paused_when_it_is_released(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await switch(r, True)
        await weak(r)
        [parked] = await r.decisions(1, status="parked")
        assert (parked["path"], parked["reason"]) == (AD, "kill_switch")
        await boundary(r, parked["boundary"] + 5)
        assert [(d["id"], d["status"]) for d in await fired(r)] == [(parked["id"], "parked")]
        assert (await r.get("/v1/overview"))["parked"] == {"kill_switch": 1}
        assert 'trimtab_actions_parked{reason="kill_switch"} 1.0' in (await r.http.get("/metrics")).text
        assert r.sandbox.applied() == []

        await switch(r, False)
        [done] = await r.decisions(1, status="verified")
        assert done["id"] == parked["id"]
        await boundary(r, parked["boundary"] + 8)
        assert [d["id"] for d in await fired(r)] == [parked["id"]]
        assert [(e["path"], e["after"]) for e in r.sandbox.applied()] == [(AD, {"status": "paused"})]
        assert (await r.get("/v1/audit/verify"))["verified"] is True


async def test_what_the_switch_outlasts_is_held_and_decided_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await switch(r, True)
        await weak(r, SHORT)
        [first] = await r.decisions(1, status="parked")
        [held] = await r.decisions(1, status="held")
        assert (held["id"], held["reason"]) == (first["id"], "stale")
        [second] = await r.decisions(1, status="parked")
        assert second["boundary"] - first["boundary"] >= 6  # of the 8 s that it is valid
        assert [d["id"] for d in await fired(r)] == [second["id"], first["id"]]
        await switch(r, False)
        [done] = await r.decisions(1, status="verified")
        assert done["id"] == second["id"]
        assert len(r.sandbox.applied()) == 1


@pytest.mark.parametrize(("reason", "settings"), [("actions_held", {"actions": "hold"}), ("no_executor", {"sandbox_url": ""})])
async def test_what_an_installation_may_not_do_waits_for_one_that_may(tmp_path: Path, reason: str, settings: dict[str, Any]) -> None:
    async with running(tmp_path, **settings) as r:
        await weak(r)
        [parked] = await r.decisions(1, status="parked")
        assert parked["reason"] == reason
        await boundary(r, parked["boundary"] + 4)
        assert [d["id"] for d in await fired(r)] == [parked["id"]]
        assert r.sandbox.applied() == []
    async with running(tmp_path) as r:
        [done] = await r.decisions(1, status="verified")
        assert done["id"] == parked["id"]
        assert [e["path"] for e in r.sandbox.applied()] == [AD]
