"""Another workspace's principal finds nothing of ours: not found, never forbidden, so that nobody learns what exists."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.e2e.running import running


async def test_nothing_of_one_workspace_is_found_from_another(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active"} for i in range(1, 5)))
        await r.apply()
        await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "impressions": 50_000, "clicks": 100, "spend": "400.00"})
        [done] = await r.decisions(1, status="verified")
        await r.decisions(1, status="waiting")
        [asked] = (await r.get("/v1/escalations"))["escalations"]
        key = await r.trimtab.auth.issue_key("eve", "admin", "theirs")
        async with httpx2.AsyncClient(base_url=r.trimtab.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as eve:
            for path in (f"/v1/decisions/{done['id']}/undo", *(f"/v1/escalations/{asked['id']}/{act}" for act in ("approve", "reject"))):
                answer = await eve.post(path, json={"reason": "mine now"})
                assert (answer.status_code, answer.json()["reason"]) == (404, "not_found"), answer.text
            assert (await eve.get(f"/v1/decisions/{done['id']}")).status_code == 404
            for path, name in (("/v1/decisions", "decisions"), ("/v1/escalations", "escalations"), ("/v1/audit", "entries")):
                assert (await eve.get(path)).json()[name] == [], path
            overview = (await eve.get("/v1/overview")).json()
            assert (overview["statuses"], overview["waiting"], overview["ledger"]["sequence"]) == ({}, 0, 0)
            assert (await eve.get("/v1/audit/export")).text.count("\n") == 1  # a head of nothing
            assert (await eve.put("/v1/kill-switch", json={"engaged": True, "reason": "mine"})).status_code == 200
        assert (await r.get("/v1/kill-switch"))["engaged"] is False
        assert "eve" not in {e["by"] for e in (await r.get("/v1/audit"))["entries"]}
        await r.post(f"/v1/escalations/{asked['id']}/approve", {"reason": "ours still"})
        await r.decisions(2, status="verified")
        assert [e["path"][-2:] for e in r.sandbox.applied()] == ["a1", "a2"]
