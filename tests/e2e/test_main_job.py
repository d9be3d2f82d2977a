"""The whole way over HTTP: a signed report arrives, a rule fires, the platform is changed, and everything can be asked and replayed."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.running import running

AD = "sandbox/demo/c1/g1/a1"


async def test_a_weak_creative_is_paused_at_the_platform_and_the_way_can_be_told(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 5)))
        applied = await r.apply()
        assert [v["state"] for v in applied["rules"]] == ["active"]
        answer = await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100, "spend": "12.50"}, {"ad": "a2", "impressions": 50_000, "clicks": 900})
        assert answer.status_code == 202, answer.text
        [done] = await r.decisions(1, status="verified")
        assert (done["path"], done["kind"], done["rule"]) == (AD, "fired", "pause-weak")
        assert [(e["path"], e["after"]) for e in r.sandbox.applied()] == [(AD, {"status": "paused"})]

        whole = await r.get(f"/v1/decisions/{done['id']}")
        assert {v["guard"] for v in whole["verdicts"]} == {"confidence", "keep_active", "min_runtime", "sample", "status"}
        assert (await r.get(f"/v1/decisions/{done['id']}/replay"))["identical"] is True
        assert (await r.get("/v1/audit/verify"))["verified"] is True

        told = await r.get("/v1/explain", decision=done["id"])
        text = " ".join([told["title"], *told["paragraphs"]])
        assert 'Paused "Summer_v1"' in told["title"]
        assert "Confirmed by the sandbox" in told["title"]
        assert "100 clicks in 50,000 impressions is 0.20 %" in text
        assert "20 needed" in text
        other = await r.get("/v1/explain", name="Summer_v2")
        assert other["title"].startswith('Left "Summer_v2"')

        series = await r.get("/v1/series", decision=done["id"])
        assert (series["metric"], series["threshold"], series["points"][-1][1]) == ("ctr", 0.008, 0.002)
        metrics = (await r.http.get("/metrics")).text
        assert 'trimtab_decisions_total{kind="fired",mode="active",rule="pause-weak"} 1.0' in metrics


async def test_what_was_decided_and_done_survives_a_restart_and_is_not_done_again(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active"} for i in range(1, 5)))
        await r.apply()
        await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        [done] = await r.decisions(1, status="verified")
        digest = r.trimtab.worker.partition.digest()
        offset = r.trimtab.worker.partition.offset
    (tmp_path / "journal.jsonl").rename(tmp_path / "first.jsonl")
    async with running(tmp_path) as r:
        assert r.trimtab.worker.partition.offset >= offset
        assert (await r.get(f"/v1/decisions/{done['id']}/replay"))["identical"] is True
        assert r.sandbox.applied() == []
        assert len((await r.get("/v1/decisions", kind="fired"))["decisions"]) == 1
        assert digest


async def test_a_dear_creative_is_asked_about_and_an_approval_is_carried_out(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active"} for i in range(1, 5)))
        await r.apply()
        await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100, "spend": "400.00"})
        [waiting] = await r.decisions(1, status="waiting")
        [escalation] = (await r.get("/v1/escalations", status="waiting"))["escalations"]
        assert (escalation["by"], escalation["otherwise"], escalation["decision"]["id"]) == ("media-lead", "leave running", waiting["id"])
        assert r.sandbox.applied() == []
        await r.post(f"/v1/escalations/{escalation['id']}/approve", {"reason": "agreed"})
        [done] = await r.decisions(1, status="verified")
        assert done["id"] == waiting["id"]
        assert len(r.sandbox.applied()) == 1
        await r.post(f"/v1/decisions/{done['id']}/undo", {"reason": "a mistake"}, status=202)
        for _ in range(2):
            await r.decisions(2, status="verified")
        assert [e["after"]["status"] for e in r.sandbox.applied()] == ["paused", "active"]
        assert (await r.get("/v1/audit/verify"))["verified"] is True
