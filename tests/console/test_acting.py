"""What people do at the pages, over HTTP, and what then is so at the platform."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from services.adapters.clock import ManualClock
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.kernel.record import Clock
from tests.console.visiting import seed, visitor
from tests.e2e.running import PACK, Running, running

A2 = "sandbox/demo/c1/g1/a2"


def changes(r: Running, path: str = A2) -> list[str]:
    return [e["after"]["status"] for e in r.sandbox.applied() if e["path"] == path]


async def test_an_approval_changes_the_platform_and_a_second_answer_is_told_what_came_first(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer", "rita") as rita, visitor(r, "reviewer", "tom") as tom:
        _, waiting = await seed(r)
        seen, late = await rita.see("/escalations"), await tom.see("/escalations")
        [approve] = [a for a in seen.forms if a.endswith("/approve")]
        after = await rita.send(seen, approve, reason="agreed")
        assert "Approved. The platform is read once more" in after.text
        await r.decisions(2, status="verified")
        assert changes(r) == ["paused"]
        told = await tom.send(late, approve, 409)
        assert "Nothing was changed. it was approved by rita" in told.text
        assert "As it stands now: approved by rita" in told.text
        assert "(“ agreed ”)" in told.text
        told = await tom.send(late, approve.replace("/approve", "/reject"), 409, reason="too late")
        assert "approved by rita" in told.text
        assert changes(r) == ["paused"]
        assert "by rita" in (await tom.see("/escalations?status=approved")).text
        assert "agreed" in (await tom.see(f"/decisions/{waiting['id']}")).text


async def test_a_rejection_needs_a_reason_and_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer", "rita") as rita:
        _, waiting = await seed(r)
        seen = await rita.see("/escalations")
        [reject] = [a for a in seen.forms if a.endswith("/reject")]
        assert "say why" in (await rita.send(seen, reject, 422, reason="   ")).text
        assert "Rejected. Nothing will be changed" in (await rita.send(seen, reject, reason="a <b>test</b> of mine")).text
        page = await rita.see(f"/decisions/{waiting['id']}")
        assert "rejected by rita" in page.text
        assert "a <b>test</b> of mine" in page.text
        assert changes(r) == []


async def test_what_waits_is_cancelled_on_its_page_and_what_is_done_cannot_be(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer", "rita") as rita, visitor(r, "editor", "ed") as ed:
        paused, waiting = await seed(r)
        cancel = f"/decisions/{waiting['id']}/cancel"
        seen = await rita.see(f"/decisions/{waiting['id']}")
        assert cancel in seen.forms
        assert cancel not in (await ed.see(f"/decisions/{waiting['id']}")).forms
        assert f"/decisions/{paused['id']}/cancel" not in (await rita.see(f"/decisions/{paused['id']}")).forms
        assert "say why" in (await rita.send(seen, cancel, 422, reason="  ")).text
        after = await rita.send(seen, cancel, reason="the <b>wrong</b> list")
        assert "Cancelled. Nothing of it is carried out" in after.text
        assert "the <b>wrong</b> list" in after.text
        assert cancel not in after.forms
        told = await rita.send(seen, cancel, 409, reason="again")
        assert "Nothing was changed. the decision is cancelled: there is nothing to cancel" in told.text
        assert "Cancelled by rita" in (await rita.see("/escalations?status=cancelled")).text
        assert changes(r) == []


async def test_an_undo_restores_the_platform_once(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer", "rita") as rita:
        paused, _ = await seed(r)
        seen = await rita.see(f"/decisions/{paused['id']}")
        undo = f"/decisions/{paused['id']}/undo"
        page = await rita.send(seen, undo, reason="a mistake")
        assert "rita asked to restore what the platform said before" in page.text
        assert "a mistake" in page.text
        await r.decisions(2, status="verified")
        assert changes(r, paused["path"]) == ["paused", "active"]
        told = await rita.send(seen, undo, 409)
        assert "Nothing was changed. it has been undone already; that undo is verified" in told.text
        assert "the decision is verified" in told.text
        assert undo not in told.forms
        assert "Taken back by" in told.text
        [back] = (await r.get(f"/v1/decisions/{paused['id']}"))["undone_by"]
        assert "status of sandbox/demo/c1/g1/a1 paused active" in (await rita.see(f"/decisions/{back}")).text


async def test_the_kill_switch_stops_an_approval_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "admin", "adam") as adam:
        await seed(r)
        asked = await adam.see("/escalations")
        [approve] = [a for a in asked.forms if a.endswith("/approve")]
        assert "say why" in (await adam.send(await adam.see("/"), "/kill-switch", 422, reason=" ")).text
        page = await adam.send(await adam.see("/"), "/kill-switch", reason="a fire drill")
        assert "The kill switch is engaged" in page.text
        assert "Engaged by adam" in page.text
        assert "a fire drill" in page.text
        told = await adam.send(asked, approve, 409)
        assert "nothing may be changed now (kill_switch); the escalation still waits" in told.text
        assert "As it stands now: waiting" in told.text
        assert approve in told.forms
        assert "The kill switch is released" in (await adam.send(page, "/kill-switch")).text
        await adam.send(told, approve)
        await r.decisions(2, status="verified")
        assert changes(r) == ["paused"]


async def test_a_switch_beneath_the_witnesss_hold_is_shown_and_remains(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "admin", "adam") as adam, visitor(r, "admin", "eve") as eve, visitor(r, "admin", "ida") as ida:
        await r.trimtab.actions.people.hold("main", "it is not what its witness saw")
        page = await adam.send(await adam.see("/"), "/kill-switch", engaged="yes", reason="wrong currency")
        assert "it is not what its witness saw; two people release it" in page.text
        assert "Beneath it, and remaining after it: engaged by adam" in page.text
        for who in (eve, ida):
            page = await who.send(await who.see("/"), "/kill-switch", reason="compared")
            assert "Noted. The kill switch is still engaged" in page.text
        assert "its witness saw" not in page.text
        assert "Engaged by adam" in page.text


async def test_a_form_needs_our_origin_its_own_session_and_a_sane_body(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer", "rita") as rita, visitor(r, "reviewer", "tom") as tom:
        await seed(r)
        seen, others = await rita.see("/escalations"), await tom.see("/escalations")
        [approve] = [a for a in seen.forms if a.endswith("/approve")]
        assert "belongs to another login" in (await rita.send(seen, approve, 403, token="")).text
        assert "belongs to another login" in (await rita.send(seen, approve, 403, token=others.forms[approve]["token"])).text
        for foreign in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
            assert "a page of another site sent this" in (await rita.send(seen, approve, 403, headers=foreign)).text, foreign
        whole = seen.forms[approve]
        assert (await rita.http.post(approve, json=whole)).status_code == 415
        assert (await rita.http.post(approve, files={n: (None, v) for n, v in whole.items()})).status_code == 415
        assert (await rita.http.post(approve, data={**whole, "reason": "x" * 30_000})).status_code == 413
        assert (await rita.http.post(approve, data={**whole, **{f"f{i}": "" for i in range(40)}})).status_code == 400
        binary = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await rita.http.post(approve, content=b"token=%ff%fe", headers=binary)).status_code == 400
        for other in ("/leave", "/kill-switch", f"/decisions/{'0' * 32}/undo"):
            assert (await rita.http.post(other, data={"token": "no"})).status_code == 403, other
        assert (await r.get("/v1/overview"))["waiting"] == 1
        assert changes(r) == []


async def test_a_viewer_who_sends_a_form_anyway_is_told_that_it_is_not_theirs(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "viewer", "vera") as vera:
        paused, _ = await seed(r)
        [escalation] = (await r.get("/v1/escalations"))["escalations"]
        home = await vera.see("/")
        token = home.forms["/leave"]["token"]
        of_decision = (f"/decisions/{paused['id']}/undo", f"/decisions/{escalation['decision']['id']}/cancel")
        for action in (f"/escalations/{escalation['id']}/approve", f"/escalations/{escalation['id']}/reject", *of_decision):
            home.forms[action] = {"token": token, "reason": "me too"}
            page = await vera.send(home, action, 403)
            assert "this needs the role reviewer; vera is viewer" in page.text
        home.forms["/kill-switch"] = {"token": token, "engaged": "yes", "reason": "me too"}
        assert "this needs the role admin" in (await vera.send(home, "/kill-switch", 403)).text
        assert changes(r) == []


async def test_whoever_logs_out_is_out_everywhere(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "viewer", "vera") as vera:
        home = await vera.see("/")
        stolen = dict(vera.http.cookies)
        assert "Log in" in (await vera.send(home, "/leave")).text
        await vera.see("/", 401)
        vera.http.cookies.update(stolen)
        await vera.see("/", 401)


async def test_pages_follow_one_another_without_gaps_or_repeats(tmp_path: Path) -> None:
    async with running(tmp_path, ads=1) as r, visitor(r, "viewer") as vera:
        await r.report({"ad": "a1", "status": "active"})
        await r.apply()
        await r.report(*({"ad": f"b{i}", "status": "active", "impressions": 1_000, "clicks": 1} for i in range(120)))
        every = await r.decisions(120, kind="refused", limit="500")
        path, found, pages = "/decisions?kind=refused", [], 0
        while path:
            page = await vera.see(path)
            found += [a["href"].removeprefix("/decisions/") for a in page.all("a") if a.get("href", "").startswith("/decisions/")]
            path, pages = next((a["href"] for a in page.all("a") if a.get("rel") == "next"), ""), pages + 1
            assert "kind=refused" in path or not path
        assert (found, pages) == ([d["id"] for d in every], -(-len(every) // 50))


async def test_what_ran_on_a_simulated_clock_says_so(tmp_path: Path) -> None:
    start = 1_790_000_000_000_000
    clock = ManualClock(start)
    trimtab = Embedded(Settings(data=tmp_path / "data", port=0), clock, Clock(True, start, 60, "a test"))
    await trimtab.start()
    try:
        async with trimtab.serving() as url, httpx2.AsyncClient(base_url=url, timeout=30) as http:
            http.headers["Authorization"] = f"Bearer {(await trimtab.cli_key()).read_text()}"
            r = Running(trimtab, None, http)  # type: ignore[arg-type]  # nothing here is carried out at a platform
            decision = await decide(r, clock)
            async with visitor(r, "viewer") as vera:
                page = await vera.see(f"/decisions/{decision}")
                assert "Decided on a simulated clock. 21 Sep 2026" in page.text
                assert "Simulated clock. This log runs on a declared clock of its own, now 21 Sep 2026" in (await vera.see("/")).text
                assert "simulated clock" in (await vera.see("/decisions")).text
                assert "All times on this page" in (await vera.see("/escalations")).text
    finally:
        await trimtab.stop()


async def decide(r: Running, clock: ManualClock) -> str:
    """The id of a decision on this clock, which runs on until there is one."""

    async def until(path: str, name: str) -> list[dict[str, Any]]:
        for _ in range(200):
            clock.advance(1_000_000)
            if found := (await r.get(path))[name]:
                return list(found)
            await asyncio.sleep(0.05)
        raise AssertionError(f"nothing came of it: {await r.get('/v1/engine')}")

    await r.post("/v1/rules/apply", {"pack": PACK})
    await until("/v1/engine", "rules")
    at = datetime.fromtimestamp(clock.now() / 1_000_000, UTC).isoformat()
    same = {"source": "sandbox", "kind": "report", "occurred_at": at, "amounts": {"impressions": 1_000, "clicks": 1}, "attributes": {"status": "active"}}
    await r.post("/v1/events", [{**same, "id": f"e{i}", "entity": f"sandbox/demo/c1/g1/a{i}"} for i in range(2)], status=202)
    return str((await until("/v1/decisions", "decisions"))[0]["id"])


async def test_there_is_no_third_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as r, visitor(r, "reviewer") as rita:
        home = await rita.see("/")
        for answer in ("burn", "approve/"):
            reply = await rita.http.post(f"/escalations/{'0' * 32}/{answer}", data=home.forms["/leave"])
            assert reply.status_code in (404, 307), answer
        assert "there is no escalation" in (await rita.http.post(f"/escalations/{'0' * 32}/approve", data=home.forms["/leave"])).text
