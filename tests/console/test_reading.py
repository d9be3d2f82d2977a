"""What the pages show, over HTTP, of a Trimtab that runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI

from services import console
from services.adapters.http.auth import COOKIE
from services.adapters.http.problem import install as install_problems
from services.console.safety import HEADERS
from tests.console.visiting import DEAR, FINE, Visitor, seed, visitor
from tests.e2e.running import running
from tests.shell.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGES = ("/", "/escalations", "/decisions", "/rules", "/rules/pause-weak")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimpleNamespace]:
    async with running(tmp_path_factory.mktemp("reading")) as r:
        paused, waiting = await seed(r)
        async with visitor(r) as admin, visitor(r, "viewer", "vera") as viewer:
            yield SimpleNamespace(r=r, paused=paused, waiting=waiting, admin=admin, viewer=viewer)


def pages_of(w: SimpleNamespace) -> tuple[str, ...]:
    return (*PAGES, f"/decisions/{w.paused['id']}?replay=yes", f"/decisions/{w.waiting['id']}", "/?verify=yes", "/login", "/escalations?status=approved")


async def test_without_a_login_every_page_says_how_to_get_one(w: SimpleNamespace) -> None:
    async with visitor(w.r, "") as stranger:
        for path in (*PAGES, f"/decisions/{w.paused['id']}"):
            page = await stranger.see(path, 401)
            assert "You are not logged in" in page.text
            assert "trimtab login" in page.text
            assert stranger.last.headers["content-type"] == "text/html; charset=utf-8"


async def test_a_login_link_works_once_and_then_is_a_page_that_says_so(w: SimpleNamespace) -> None:
    link = await w.r.trimtab.login("rita", "reviewer")
    async with visitor(w.r, "") as first, visitor(w.r, "") as second:
        await first.see(link)
        assert "rita , reviewer" in (await first.see("/")).text
        assert "this login link has been used or has expired" in (await second.see(link, 401)).text
        await second.see("/", 401)


async def test_every_answer_carries_the_policy_and_no_page_needs_an_exception_from_it(w: SimpleNamespace) -> None:
    for path in (*pages_of(w), "/static/console.css", "/v1/overview"):
        answer = await w.admin.http.get(path)
        assert answer.status_code == 200, path
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
    for path in pages_of(w):
        page = await w.admin.see(path)
        assert w.admin.last.headers["cache-control"] == "no-store"
        assert all(s.get("src", "").startswith("/static/") for s in page.all("script")), path
        assert not page.all("style"), path
        assert [(t, n) for t, named in page.tags for n in named if n == "style" or n.startswith("on")] == [], path
        loaded = [named.get("src") or named.get("href") for tag, named in page.tags if tag in ("script", "link", "img", "iframe")]
        assert all(address and address.startswith("/static/") for address in loaded), (path, loaded)


async def test_every_field_has_a_label_every_table_its_headers_and_every_id_is_its_own(w: SimpleNamespace) -> None:
    for path in pages_of(w):
        page = await w.admin.see(path)
        labelled = {named["for"] for named in page.all("label")}
        fields = [f for tag in ("input", "select", "textarea") for f in page.all(tag) if f.get("type") != "hidden"]
        assert [f for f in fields if f.get("id") not in labelled and "aria-label" not in f] == [], path
        assert all(th.get("scope") in ("row", "col") for th in page.all("th")), path
        ids = [named["id"] for _, named in page.tags if "id" in named]
        assert sorted(set(ids)) == sorted(ids), path
        assert len(page.all("h1")) == 1, path


async def test_a_hostile_name_stays_text_wherever_it_is_shown(w: SimpleNamespace) -> None:
    for path in ("/escalations", f"/decisions/{w.waiting['id']}"):
        page = await w.admin.see(path)
        assert DEAR in page.text, path
        assert not page.all("img"), path
        assert "<script>alert" not in w.admin.last.text, path
    attack = '"><svg onload=alert(3)>'
    page = await w.admin.see(f"/decisions?entity={attack}&rule={attack}&kind={attack}")
    assert not [named for named in page.all("svg") if "onload" in named]


async def test_an_escalation_shows_all_that_an_answer_needs(w: SimpleNamespace) -> None:
    text = (await w.admin.see("/escalations")).text
    for said in (
        "Proposed to pause",
        "100 clicks in 50,000 impressions is 0.20 %; your limit is 0.80 %",
        "Evidence over 1,000,000 : 1 of 20 : 1",
        "status of sandbox/demo/c1/g1/a2 active paused",
        "Money 400.00 EUR a day",
        "Must approve media-lead",
        "Asked because it spends more a day than may be changed without asking",
        "If nobody answers leave running",
    ):
        assert said in text, said
    assert re.search(r"Expires \d\d \w{3} \d{4}, \d\d:\d\d:\d\d UTC , in 3 h 5\d min", text), text


async def test_a_viewer_sees_everything_and_no_button_that_is_not_theirs(w: SimpleNamespace) -> None:
    seen = {path: await w.viewer.see(path) for path in ("/", "/escalations", f"/decisions/{w.paused['id']}")}
    assert {action for page in seen.values() for action in page.forms} == {"/leave", "/#ledger", f"/decisions/{w.paused['id']}#replay"}
    assert "A reviewer can approve or reject this; you are viewer." in seen["/escalations"].text
    theirs = {action for path in seen for action in (await w.admin.see(path)).forms}
    assert {"/kill-switch", f"/decisions/{w.paused['id']}/undo"} < theirs


async def test_a_decision_is_told_in_words_numbers_and_entries(w: SimpleNamespace) -> None:
    page = await w.admin.see(f"/decisions/{w.paused['id']}?replay=yes")
    for said in (
        'Paused "Summer_v1"',
        "evidence over 1,000,000 : 1 of 20 : 1; 100 clicks in 50,000 impressions, tested against 0.72 %",
        "3 others stay on in the same ad group; at least 1 asked for",
        "50,000 impressions counted; at least 3,000 asked for",
        "its status is active; active asked for",
        "ctr[since change] < 0.8% 100 / 50,000 true",
        "threshold 0.80 %",
        "status of sandbox/demo/c1/g1/a1 active paused accepted paused verified",
        "decision.executing",
        "Identical. Recomputed from",
        "pause-weak v1",
        "owner jana@acme.example",
    ):
        assert said in page.text, said
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 2  # a wide and a narrow one, of which a style sheet shows one
    assert page.all("title")
    assert page.all("desc")
    assert all(set(svg["aria-labelledby"].split()) <= {n["id"] for _, n in page.tags if "id" in n} for svg in charts)
    assert "The same as a table" in page.text
    assert "simulated" not in page.text


async def test_a_refusal_says_which_guard_stood_in_the_way_and_with_which_figures(w: SimpleNamespace) -> None:
    refused = (await w.r.get("/v1/decisions", kind="refused", entity="sandbox/demo/c1/g1/a3"))["decisions"][-1]
    text = (await w.admin.see(f"/decisions/{refused['id']}")).text
    assert f'Left "{FINE}"' in text
    assert "confidence refused not proven" in text
    assert "sample refused too small 2,000 impressions counted; at least 3,000 asked for" in text
    assert not [a for a in (await w.admin.see(f"/decisions/{refused['id']}")).forms if a.endswith("/undo")]


async def test_the_overview_counts_what_there_is_and_verifies_the_ledger(w: SimpleNamespace) -> None:
    text = (await w.admin.see("/?verify=yes")).text
    state = await w.r.get("/v1/overview")
    for said in ("Engine Running", f"Waiting for people {state['waiting']}", "Not engaged", "The chain holds.", state["ledger"]["hash"]):
        assert said in text, said
    for name, number in (*state["statuses"].items(), *state["kinds"].items(), *state["refusals"].items()):
        assert f"{name} {number}" in text, name


async def test_filters_stand_in_the_address_and_choose(w: SimpleNamespace) -> None:
    def rows(page: Any) -> int:
        return sum(a.get("href", "").startswith("/decisions/") for a in page.all("a"))

    every = (await w.r.get("/v1/decisions"))["decisions"]
    wanted = {
        "": len(every),
        "kind=refused": sum(d["kind"] == "refused" for d in every),
        "status=verified": 1,
        "rule=pause-weak": len(every),
        "rule=other": 0,
        "entity=sandbox/demo/c1/g1/a1": sum(d["path"].endswith("/a1") for d in every),
        "entity=sandbox/demo&status=waiting&kind=": 1,
    }
    assert {query: rows(await w.admin.see(f"/decisions?{query}")) for query in wanted} == wanted
    page = await w.admin.see("/decisions?kind=refused&status=recorded")
    assert sum("selected" in option for option in page.all("option")) == 2


async def test_what_is_not_there_or_not_sane_is_a_page_that_says_so(w: SimpleNamespace) -> None:
    assert "No page has this address" in (await w.admin.see("/nothing", 404)).text
    assert "there is no decision" in (await w.admin.see("/decisions/" + "0" * 32, 404)).text
    assert "there is no rule" in (await w.admin.see("/rules/none", 404)).text
    assert "the cursor is not one of ours" in (await w.admin.see("/decisions?cursor=x", 422)).text
    await w.admin.see("/escalations/x/burn", 405)
    answer = await w.admin.http.get("/nothing", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_the_same_pages_work_over_an_address(w: SimpleNamespace) -> None:
    apart = FastAPI()
    install_problems(apart)
    apis = console.Client.at(w.r.trimtab.url)
    console.install(apart, apis)
    async with serving(apart) as http:
        http.headers["Accept"] = "text/html"
        http.cookies.set(COOKIE, w.viewer.http.cookies[COOKIE])
        text = (await Visitor(http).see("/")).text
        assert "vera , viewer" in text
        assert "Engine Running" in text
    await apis.close()


async def test_a_part_that_does_not_answer_is_a_page_that_says_so(w: SimpleNamespace) -> None:
    apart = FastAPI()
    install_problems(apart)
    apis = console.Client.at("http://127.0.0.1:1")
    console.install(apart, apis)
    async with serving(apart) as http:
        http.headers["Accept"] = "text/html"
        http.cookies.set(COOKIE, "someone")
        text = (await Visitor(http).see("/", 503)).text
        assert "A part is not there right now" in text
        assert "Nothing was changed" in text
    await apis.close()


async def test_one_client_never_mixes_up_the_sessions_that_it_serves(w: SimpleNamespace) -> None:
    apis = console.Client.at(w.r.trimtab.url)
    link = (await w.r.trimtab.login("mallory", "admin")).removeprefix(w.r.trimtab.url)
    answer = await apis._http.get(link)
    assert "set-cookie" in answer.headers
    assert not list(apis._http.cookies.jar)
    for visit, name in ((w.admin, "jana"), (w.viewer, "vera"), (w.admin, "jana")):
        assert (await apis.call(visit.http.cookies[COOKIE], "GET", "/v1/me"))["name"] == name
    with pytest.raises(console.Refused):
        await apis.call("nobody", "GET", "/v1/me")
    await apis.close()
