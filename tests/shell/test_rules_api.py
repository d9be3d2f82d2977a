"""Rules over HTTP on a whole installation: what is drafted never changes, what is active stands on the log, and what is wrong is pointed at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.e2e.running import PACK, Running, running

AD = "sandbox/demo/c1/g1/a1"
STRICTER = PACK.replace("ctr[since change] < 0.8%", "ctr[since change] < 0.7%")
COST = PACK.replace("pause-weak", "stop-loss").replace("ctr[since change] < 0.8%", "cpa(purchases)[since change] > target(cpa)")
COST = COST.replace("{impressions: 3000}", "{spend: 90 EUR}")
TARGETED = COST.replace("rules:\n", 'targets:\n  cpa: {default: 30 EUR, "campaign:Retargeting DE": 22 EUR}\nrules:\n', 1)


@asynccontextmanager
async def as_(r: Running, role: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a key of its own."""
    key = await r.trimtab.auth.issue_key(f"a {role}", role, "main")
    async with httpx2.AsyncClient(base_url=r.http.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        yield http


async def effective(r: Running, *wanted: tuple[str, str, str]) -> None:
    """Waits until the engine runs exactly these (rule, mode, version)."""
    for _ in range(200):
        rules = (await r.get("/v1/engine"))["rules"]
        if sorted((x["rule"], x["mode"], x["version"]) for x in rules) == sorted(wanted):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{wanted} did not take effect: {rules}")


async def states(r: Running, rule: str = "pause-weak") -> list[tuple[int, str]]:
    return [(v["number"], v["state"]) for v in (await r.get(f"/v1/rules/{rule}"))["versions"]]


async def refused(answer: httpx2.Response, status: int, reason: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = dict(answer.json())
    assert body["reason"] == reason, body
    return body


async def test_a_version_is_drafted_once_activated_followed_rolled_back_and_retired(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        valid = await r.post("/v1/rules/validate", {"pack": PACK})
        assert valid["valid"] is True
        assert (await r.get("/v1/rules"))["rules"] == []  # validating keeps nothing

        [first] = (await r.post("/v1/rules", {"pack": PACK}, 201))["rules"]
        assert (first["rule"], first["number"], first["state"]) == ("pause-weak", 1, "draft")
        assert first["version"] == valid["rules"][0]["version"]
        respelled = PACK.replace("0.8%", "0.80 %").replace("pack: e2e", "pack: e2e  # a comment")
        [again] = (await r.post("/v1/rules", {"pack": respelled}, 201))["rules"]
        assert again == first
        [second] = (await r.post("/v1/rules", {"pack": STRICTER}, 201))["rules"]
        assert (second["number"], second["state"]) == (2, "draft")
        assert (await r.get("/v1/engine"))["rules"] == []  # drafts judge nothing

        active = await r.post("/v1/rules/pause-weak/activate", {"version": "v1"})
        assert active == first | {"state": "active"}
        await effective(r, ("pause-weak", "active", first["version"]))
        await r.post("/v1/rules/pause-weak/activate", {"version": second["version"][:8]})
        await effective(r, ("pause-weak", "active", second["version"]))
        assert await states(r) == [(2, "active"), (1, "retired")]

        back = await r.post("/v1/rules/pause-weak/rollback")
        assert (back["number"], back["state"]) == (1, "active")
        await effective(r, ("pause-weak", "active", first["version"]))
        assert await states(r) == [(2, "retired"), (1, "active")]

        gone = await r.post("/v1/rules/pause-weak/retire")
        assert [(v["number"], v["state"]) for v in gone["retired"]] == [(1, "retired")]
        await effective(r)
        await refused(await r.http.post("/v1/rules/pause-weak/retire"), 409, "conflict")

        listed = (await r.get("/v1/rules"))["rules"]
        assert [(x["rule"], [v["number"] for v in x["versions"]]) for x in listed] == [("pause-weak", [2, 1])]
        for v in (first, second):  # a version is what it was when it was drafted
            kept = await r.get(f"/v1/rules/pause-weak/versions/{v['version']}")
            assert {k: kept[k] for k in v if k != "state"} == {k: v[k] for k in v if k != "state"}
            assert ("0.8%" if v is first else "0.7%") in kept["program"]


async def test_shadow_decides_and_changes_nothing_beside_the_active_version(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 5)))
        [shadow] = (await r.post("/v1/rules/apply", {"pack": PACK, "state": "shadow"}))["rules"]
        assert shadow["state"] == "shadow"
        await effective(r, ("pause-weak", "shadow", shadow["version"]))
        await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        [told] = await r.decisions(1, kind="fired")
        assert (told["mode"], told["path"], told["version"]) == ("shadow", AD, shadow["version"])
        assert r.sandbox.applied() == []
        text = await r.get("/v1/explain", decision=told["id"])
        assert text["title"].startswith('In shadow, nothing was sent: this rule wished to pause "Summer_v1"')
        assert [link["name"] for link in text["links"]] == ["numbers", "replay"]
        [other] = (await r.post("/v1/rules", {"pack": STRICTER}, 201))["rules"]
        await r.post("/v1/rules/pause-weak/activate", {"version": other["version"]})
        await effective(r, ("pause-weak", "active", other["version"]), ("pause-weak", "shadow", shadow["version"]))
        assert await states(r) == [(2, "active"), (1, "shadow")]


async def test_a_decision_names_its_version_and_keeps_it_when_the_rule_moves_on(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report(*({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 5)))
        [version] = (await r.apply())["rules"]
        await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        [done] = await r.decisions(1, status="verified")
        [later] = (await r.apply(STRICTER))["rules"]
        await effective(r, ("pause-weak", "active", later["version"]))
        whole = await r.get(f"/v1/decisions/{done['id']}")
        assert (done["version"], whole["version"]) == (version["version"],) * 2
        told = await r.get("/v1/explain", decision=done["id"][:8])
        assert told["paragraphs"][-1] == f"Rule pause-weak v1 ({version['version'][:8]}), owner jana@acme.example."
        assert "your limit is 0.80 %." in told["paragraphs"][0]
        undo, numbers, replay = told["links"]
        assert (undo["method"], undo["href"]) == ("POST", f"/v1/decisions/{done['id']}/undo")
        assert (await r.http.get(numbers["href"])).json()["threshold"] == 0.008
        assert (await r.http.get(replay["href"])).json()["identical"] is True


async def test_a_bad_pack_is_a_problem_that_points(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        bad = PACK.replace("ctr[since change] < 0.8%", "ctr < 0.8").replace("do: pause", "do: puase")
        for path in ("/v1/rules/validate", "/v1/rules", "/v1/rules/apply"):
            body = await refused(await r.http.post(path, json={"pack": bad, "filename": "mine.yaml"}), 422, "invalid_rule")
            assert "mine.yaml:11:17: a rate is compared with a plain number" in body["detail"]
            assert "    when: ctr < 0.8" in body["detail"]
            assert "= did you mean 0.8%?" in body["detail"]
            assert [(e["line"], e["column"], e["hint"]) for e in body["errors"]][1:] == [(11, 17, "did you mean 0.8%?"), (17, 9, "did you mean pause?")]
        assert (await r.get("/v1/rules"))["rules"] == []
        for text in ("", "[", "a: &a [*a]", "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), "x" * 70_000, "\x00"):
            await refused(await r.http.post("/v1/rules/validate", json={"pack": text}), 422, "invalid_rule")
        lone = await r.http.post("/v1/rules/validate", content=b'{"pack": "owner: \\ud800"}', headers={"content-type": "application/json"})
        assert lone.status_code == 422
        assert (await r.http.post("/v1/rules/validate", json={"pack": 7})).status_code == 422
        assert (await r.http.post("/v1/rules/apply", json={"pack": PACK, "state": "draft"})).status_code == 422


async def test_what_is_unknown_is_said_to_be_so(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.post("/v1/rules", {"pack": PACK}, 201)
        for path in ("/v1/rules/nothing", "/v1/rules/nothing/versions/v1", "/v1/rules/pause-weak/versions/v9", "/v1/rules/pause-weak/versions/abc"):
            body = await refused(await r.http.get(path), 404, "not_found")
        assert "it has v1 (" in body["detail"]
        for path in ("/v1/rules/nothing/activate", "/v1/rules/nothing/rollback", "/v1/rules/pause-weak/rollback"):
            await refused(await r.http.post(path, json={}), 404, "not_found")
        await refused(await r.http.post("/v1/rules/nothing/retire"), 409, "conflict")
        await refused(await r.http.get("/v1/explain", params={"name": "nobody"}), 404, "not_found")
        await refused(await r.http.get("/v1/explain", params={"decision": "0" * 32}), 404, "not_found")
        await refused(await r.http.get("/v1/explain"), 422, "empty")
        await refused(await r.http.get("/v1/explain", params={"name": "x", "at": "yesterday"}), 422, "malformed")
        await refused(await r.http.get("/v1/series", params={"decision": "0" * 32}), 404, "not_found")


async def test_viewers_read_editors_change_and_nobody_else_does_either(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        changes = [
            ("/v1/rules", {"pack": PACK}),
            ("/v1/rules/apply", {"pack": PACK}),
            ("/v1/rules/pause-weak/activate", {}),
            ("/v1/rules/pause-weak/retire", None),
        ]
        changes += [("/v1/rules/pause-weak/rollback", None), ("/v1/targets", [{"name": "cpa", "amount": 1, "unit": "EUR"}])]
        reads = ["/v1/rules", "/v1/targets", "/v1/engine"]
        async with as_(r, "viewer") as http:
            assert [(await http.get(p)).status_code for p in reads] == [200] * 3
            assert (await http.post("/v1/rules/validate", json={"pack": PACK})).status_code == 200
            for path, body in changes:
                await refused(await http.post(path, json=body), 403, "forbidden")
        async with as_(r, "source") as http:
            for path in reads:
                await refused(await http.get(path), 403, "forbidden")
            await refused(await http.post("/v1/rules/validate", json={"pack": PACK}), 403, "forbidden")
        async with httpx2.AsyncClient(base_url=r.http.base_url) as http:
            for path in reads:
                await refused(await http.get(path), 401, "unauthorized")
        assert (await r.get("/v1/rules"))["rules"] == []
        async with as_(r, "editor") as http:
            assert (await http.post("/v1/rules", json={"pack": PACK})).status_code == 201
            [kept] = (await http.get("/v1/rules")).json()["rules"]
            assert kept["versions"][0]["by"] == "a editor"


async def test_targets_are_records_and_name_what_exists(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        body = await refused(await r.http.post("/v1/rules/apply", json={"pack": TARGETED}), 404, "not_found")
        assert "Retargeting DE" in body["detail"]
        assert "ingest it first" in body["detail"]
        assert (await r.get("/v1/rules"))["rules"] == []  # all or nothing

        at = {"source": "sandbox", "occurred_at": "2026-01-01T00:00:00Z"}
        named = {"id": "n1", "entity": "sandbox/demo/c1", "attributes": {"name": "Retargeting DE"}}
        same = {"id": "n2", "entity": "sandbox/demo/c1/g1", "attributes": {"name": "Retargeting DE"}}  # an ad group of the same name
        answer = await r.http.post("/v1/events", json=[named | at, same | at])
        assert answer.status_code == 202, answer.text
        for _ in range(100):
            if (await r.get("/v1/engine"))["entities"] >= 4:
                break
            await asyncio.sleep(0.05)
        applied = await r.post("/v1/rules/apply", {"pack": TARGETED})
        assert applied["targets"] == 2
        await refused(await r.http.get("/v1/explain", params={"name": "Retargeting DE"}), 409, "conflict")
        held = {(t["name"], t["path"]): (t["amount"], t["unit"], t["owner"]) for t in (await r.get("/v1/targets"))["targets"]}
        assert held == {("cpa", ""): (30_000_000, "EUR", "command line"), ("cpa", "sandbox/demo/c1"): (22_000_000, "EUR", "command line")}

        await r.post("/v1/targets", [{"name": "ctr", "path": "sandbox/demo/c1", "amount": 9_000, "unit": "ratio", "valid_from": 5, "valid_until": 9}], 201)
        [ctr] = [t for t in (await r.get("/v1/targets"))["targets"] if t["name"] == "ctr"]
        assert (ctr["amount"], ctr["valid_from"], ctr["valid_until"]) == (9_000, 5, 9)
        for wrong, reason in [
            ([], "empty"),
            ([{"name": "cpx", "amount": 1, "unit": "EUR"}], "unknown_target"),
            ([{"name": "spend", "amount": 1, "unit": "EUR"}], "unknown_target"),
            ([{"name": "ctr", "amount": 1, "unit": "EUR"}], "unit"),
            ([{"name": "cpa", "amount": 1, "unit": "ratio"}], "unit"),
            ([{"name": "cpa", "amount": 1, "unit": "EUR", "valid_from": 9, "valid_until": 9}], "interval"),
            ([{"name": "cpa", "amount": 0, "unit": "EUR"}], "invalid"),
            ([{"name": "cpa", "amount": 1, "unit": "euro"}], "invalid"),
            ([{"name": "cpa", "amount": 1, "unit": "EUR", "valid_from": -1}], "invalid"),
        ]:
            await refused(await r.http.post("/v1/targets", json=wrong), 422, reason)


async def test_a_target_for_a_name_that_two_objects_have_is_refused(tmp_path: Path) -> None:
    """Whichever was chosen, money would go by the other's number."""
    async with running(tmp_path) as r:
        at = {"source": "sandbox", "occurred_at": "2026-01-01T00:00:00Z", "attributes": {"name": "Retargeting DE"}}
        answer = await r.http.post("/v1/events", json=[{"id": f"n{i}", "entity": f"sandbox/demo/c{i}"} | at for i in (1, 2)])
        assert answer.status_code == 202, answer.text
        for _ in range(100):
            if (await r.get("/v1/engine"))["entities"] >= 4:
                break
            await asyncio.sleep(0.05)
        body = await refused(await r.http.post("/v1/rules/apply", json={"pack": TARGETED}), 409, "conflict")
        assert "2 objects are called 'Retargeting DE': sandbox/demo/c1, sandbox/demo/c2; give the path" in body["detail"]
        assert ((await r.get("/v1/rules"))["rules"], (await r.get("/v1/targets"))["targets"]) == ([], [])


async def test_rules_and_their_versions_survive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        [first] = (await r.apply())["rules"]
        [second] = (await r.apply(STRICTER))["rules"]
        await effective(r, ("pause-weak", "active", second["version"]))
        await r.post("/v1/rules/pause-weak/rollback")
        await effective(r, ("pause-weak", "active", first["version"]))
    (tmp_path / "journal.jsonl").unlink(missing_ok=True)
    async with running(tmp_path) as r:
        await effective(r, ("pause-weak", "active", first["version"]))
        assert await states(r) == [(2, "retired"), (1, "active")]
        await r.post("/v1/rules/pause-weak/activate", {"version": "v2"})
        await effective(r, ("pause-weak", "active", second["version"]))


async def test_how_far_boundaries_are_apart_is_settled_by_the_first_activation(tmp_path: Path) -> None:
    account = next(line for line in PACK.splitlines() if line.startswith("account:"))
    swifter = PACK.replace(account, account.replace("}", ", interval: 100ms}"))
    async with running(tmp_path) as r:
        await r.post("/v1/rules/apply", {"pack": swifter})
        [first] = (await r.get("/v1/rules/pause-weak"))["versions"]
        await effective(r, ("pause-weak", "active", first["version"]))
        body = await refused(await r.http.post("/v1/rules/apply", json={"pack": PACK}), 409, "interval")
        assert "100 ms apart" in body["detail"] and "`interval: 100ms`" in body["detail"]
        [second] = (await r.post("/v1/rules", {"pack": PACK}, 201))["rules"]
        await refused(await r.http.post("/v1/rules/pause-weak/activate", json={"version": second["version"]}), 409, "interval")
        assert [(v["version"], v["state"]) for v in (await r.get("/v1/rules/pause-weak"))["versions"]] == [
            (second["version"], "draft"), (first["version"], "active"),
        ]  # fmt: skip
