"""The pages: each asks the APIs in the name of the person who looks at it, and shows what they answered.

/  /escalations  /decisions  /decisions/{id}  /rules  /rules/{rule}  /login; forms POST to .../approve, .../reject,
.../cancel, .../undo, /kill-switch and /leave.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from services.adapters.http.auth import COOKIE
from services.console import chart, words
from services.console.client import Caller, Client, Refused
from services.console.pages import Pages, segment
from services.console.safety import Safely, form_token, read_form
from services.kernel.errors import NotFound, Unauthorized
from services.kernel.principal import Principal

HERE = Path(__file__).parent
KINDS = ("fired", "refused", "cleared")
STATUSES = ("waiting", "executing", "parked", "verified", "failed", "unknown", "held", "rejected", "expired", "cancelled", "recorded")
ANSWERS = ("waiting", "approved", "rejected", "expired", "cancelled")
PENDING = ("waiting", "executing", "parked")
DEEDS = {"cancel": "cancelled", "undo": "undone"}  # what a page of a decision has a form for, and the word once it is done
UNDOABLE = ("verified", "unknown")
FRUITLESS = ("held", "failed", "cancelled")  # an undo that came to nothing may be asked for again
PER_PAGE, ASKED_PER_PAGE = "50", "10"
PATIENCE = 4.0  # seconds that the words of a page of escalations may take together; each is worked out from the log
MOST_TOLD = 200
ID = re.compile(r"[0-9a-f]{32}")
DONE = {
    "approved": "Approved. The platform is read once more before anything is changed.",
    "rejected": "Rejected. Nothing will be changed; the reason is kept.",
    "undone": "This decision takes back another one; it is carried out like any other.",
    "cancelled": "Cancelled. Nothing of it is carried out; the reason is kept. A rule that is not retired decides anew while its condition is true.",
    "engaged": "The kill switch is engaged: nothing is changed any more, and what was queued is parked.",
    "released": "The kill switch is released: what was parked and is still valid is carried out.",
    "stays": "Noted. The kill switch is still engaged: below stands by whom, and who has to release it.",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one person."""

    who: Principal
    api: Caller
    token: str


async def visit(request: Request) -> Visit:
    """Raises Unauthorized, which becomes the page that says how to log in."""
    session = request.cookies.get(COOKIE, "")
    if not session or not session.isascii():
        raise Unauthorized("log in to see this page")
    api = Caller(request.app.state.apis, session)
    me = await api.get("/v1/me")
    return Visit(Principal(me["name"], me["role"], me["workspace"], me["kind"]), api, form_token(session))


Seen = Annotated[Visit, Depends(visit)]


def install(app: FastAPI, client: Client) -> None:
    """The app has the pages from now on; they ask `client` for everything."""
    pages = Pages()
    app.state.apis = client
    for part in (overview(pages), escalations(pages), decisions(pages), rules(pages), coming_and_going(pages)):
        app.include_router(part, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_middleware(Safely, draw=pages.problem)


def overview(pages: Pages) -> APIRouter:
    routes = APIRouter(default_response_class=HTMLResponse)

    async def show(v: Visit, verify: str = "", done: str = "", refused: Refused | None = None) -> Response:
        state, engine = await asyncio.gather(v.api.get("/v1/overview"), v.api.get("/v1/engine"))
        verified = await v.api.get("/v1/audit/verify") if verify else None
        values = {"visit": v, "here": "/", "state": state, "engine": engine, "verified": verified}
        return pages.page("overview.html", status_of(refused), **values, done=DONE.get(done), refused=refused)

    @routes.get("/")
    async def look(v: Seen, verify: str = "", done: str = "") -> Response:
        return await show(v, verify, done)

    @routes.post("/kill-switch")
    async def kill_switch(request: Request, v: Seen) -> Response:
        form = await read_form(request, v.api.session)
        engaged = form.get("engaged") == "yes"
        try:
            switch = await v.api.put("/v1/kill-switch", {"engaged": engaged, "reason": form.get("reason", "")})
        except Refused as refused:
            return await show(v, refused=tellable(refused))
        return back("/", done="engaged" if engaged else "stays" if switch["engaged"] else "released")

    return routes


def escalations(pages: Pages) -> APIRouter:
    routes = APIRouter(default_response_class=HTMLResponse)
    told: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def tell(v: Visit, about: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Each decision's words, as many as can be had in time; they change only with its status."""
        keys = [(d["id"], d["status"]) for d in about]
        try:
            async with asyncio.timeout(PATIENCE):
                for key in keys:
                    if key not in told:
                        told[key] = await v.api.get("/v1/explain", decision=key[0])
        except (TimeoutError, Refused):
            pass  # the page says where they can be read
        found = [told.get(key) for key in keys]
        while len(told) > MOST_TOLD:
            told.popitem(last=False)
        return found

    async def show(v: Visit, status: str, cursor: str = "", **said: Any) -> Response:
        found, engine = await asyncio.gather(v.api.get("/v1/escalations", status=status, cursor=cursor, limit=ASKED_PER_PAGE), v.api.get("/v1/engine"))
        about = await asyncio.gather(*(v.api.get(f"/v1/decisions/{e['decision']['id']}") for e in found["escalations"]))
        now = engine["engine_time"] + round((engine["idle_seconds"] or 0) * words.MICRO)
        asked = [
            {"escalation": e, "d": d, "told": t, "rest": words.micros_of(e["expires_at"]) - now}
            for e, d, t in zip(found["escalations"], about, await tell(v, about), strict=True)
        ]
        more = link("/escalations", status=status, cursor=found["next"]) if found["next"] else ""
        values = {"visit": v, "here": "/escalations", "engine": engine, "asked": asked, "status": status, "statuses": ANSWERS, "more": more}
        said = {"done": None, "decision": "", "refused": None, "present": None} | said
        return pages.page("escalations.html", status_of(said["refused"]), **values, **said)

    @routes.get("/escalations")
    async def look(v: Seen, status: str = "waiting", cursor: str = "", done: str = "", decision: str = "") -> Response:
        known = decision if ID.fullmatch(decision) else ""
        return await show(v, status if status in ANSWERS else "waiting", cursor, done=DONE.get(done), decision=known)

    @routes.post("/escalations/{escalation}/{answer}")
    async def answer(escalation: str, answer: str, request: Request, v: Seen) -> Response:
        if answer not in ("approve", "reject"):
            raise NotFound("there is no such page")
        form = await read_form(request, v.api.session)
        decision = form.get("decision", "")
        try:
            answered = await v.api.post(f"/v1/escalations/{segment(escalation)}/{answer}", {"reason": form.get("reason", "")})
        except Refused as refused:
            present = await v.api.get(f"/v1/decisions/{decision}") if ID.fullmatch(decision) else None
            return await show(v, "waiting", refused=tellable(refused), present=present)
        return back("/escalations", done=answered["status"], decision=answered["decision"]["id"])

    return routes


def decisions(pages: Pages) -> APIRouter:
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/decisions")
    async def look(v: Seen, rule: str = "", kind: str = "", status: str = "", entity: str = "", cursor: str = "") -> Response:
        wanted = {"rule": rule.strip(), "kind": kind, "status": status, "entity": entity.strip().strip("/")}
        found, known = await asyncio.gather(v.api.get("/v1/decisions", **wanted, cursor=cursor, limit=PER_PAGE), v.api.get("/v1/rules"))
        names = sorted({r["rule"] for r in known["rules"]} | ({wanted["rule"]} - {""}))
        more = link("/decisions", **wanted, cursor=found["next"]) if found["next"] else ""
        first = link("/decisions", **wanted) if cursor else ""
        values = {"visit": v, "here": "/decisions", "found": found["decisions"], "wanted": wanted, "more": more, "first": first}
        return pages.page("decisions.html", **values, rules=names, kinds=KINDS, statuses=STATUSES)

    async def show(v: Visit, decision: str, replay: str = "", done: str = "", refused: Refused | None = None) -> Response:
        at = f"/v1/decisions/{segment(decision)}"
        d = await v.api.get(at)
        is_the_rules = d["undoes"] is None  # a person's undo stands in no log of decisions: nothing to tell, to draw or to replay
        version = if_any(v.api, f"/v1/rules/{segment(d['rule'])}/versions/{segment(d['version'])}")
        answers = (if_any(v.api, "/v1/explain", decision=d["id"]), if_any(v.api, "/v1/series", decision=d["id"])) if is_the_rules else ()
        rule, told, series = [*await asyncio.gather(version, *answers), None, None][:3]
        replayed = await v.api.get(f"{at}/replay") if replay and is_the_rules else None
        undos = await asyncio.gather(*(v.api.get(f"/v1/decisions/{u}") for u in d["undone_by"]))
        may_undo = v.who.may("reviewer") and d["status"] in UNDOABLE and bool(d["steps"]) and (not undos or undos[-1]["status"] in FRUITLESS)
        may_cancel = v.who.may("reviewer") and d["status"] in PENDING and not d["attempts"]
        program = program_of(rule)
        currency = (d["action"] or {}).get("currency") or (program or {}).get("currency", "")
        values = {"visit": v, "here": "/decisions", "d": d, "rule": rule, "program": program, "currency": currency, "told": told, "drawing": drawn(series)}
        more = {"replayed": replayed, "is_the_rules": is_the_rules, "undos": undos, "may_undo": may_undo, "may_cancel": may_cancel}
        return pages.page("decision.html", status_of(refused), **values, **more, done=DONE.get(done), refused=refused)

    @routes.get("/decisions/{decision}")
    async def one(decision: str, v: Seen, replay: str = "", done: str = "") -> Response:
        return await show(v, decision, replay, done)

    @routes.post("/decisions/{decision}/{deed}")
    async def act(decision: str, deed: str, request: Request, v: Seen) -> Response:
        if deed not in DEEDS:
            raise NotFound("there is no such page")
        form = await read_form(request, v.api.session)
        try:
            made = await v.api.post(f"/v1/decisions/{segment(decision)}/{deed}", {"reason": form.get("reason", "")})
        except Refused as refused:
            return await show(v, decision, refused=tellable(refused))
        return back(f"/decisions/{made['id']}", done=DEEDS[deed])

    return routes


def rules(pages: Pages) -> APIRouter:
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/rules")
    async def look(v: Seen) -> Response:
        found, engine = await asyncio.gather(v.api.get("/v1/rules"), v.api.get("/v1/engine"))
        running = {r["version"]: r for r in engine["rules"]}
        return pages.page("rules.html", visit=v, here="/rules", rules=found["rules"], running=running)

    @routes.get("/rules/{rule}")
    async def one(rule: str, v: Seen, version: str = "") -> Response:
        at = f"/v1/rules/{segment(rule)}"
        found = await v.api.get(at)
        whole = await v.api.get(f"{at}/versions/{segment(version or found['versions'][0]['version'])}")
        return pages.page("rule.html", visit=v, here="/rules", rule=rule, versions=found["versions"], shown=whole, program=program_of(whole))

    return routes


def coming_and_going(pages: Pages) -> APIRouter:
    """/login/{token} itself is the door of the APIs."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/favicon.ico")
    async def icon() -> Response:
        """For pages that name no icon, such as the one that a login link opens."""
        return FileResponse(HERE / "static" / "icon.svg")

    @routes.get("/login")
    async def login() -> Response:
        return pages.page("login.html", visit=None, here="")

    @routes.post("/leave")
    async def leave(request: Request, v: Seen) -> Response:
        await read_form(request, v.api.session)
        await v.api.post("/logout")
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    return routes


async def if_any(api: Caller, path: str, **parameters: str) -> Any:
    """The answer, or None where there is none to be had: the rest of the page stands without it."""
    try:
        return await api.get(path, **parameters)
    except Refused as refused:
        if refused.status in (404, 409, 500, 503):
            return None
        raise


def tellable(refused: Refused) -> Refused:
    """An answer that the same page can tell; any other is a page of its own."""
    if refused.status not in (409, 422):
        raise refused
    return refused


def status_of(refused: Refused | None) -> int:
    return refused.status if refused else 200


def back(path: str, **parameters: str) -> Response:
    return RedirectResponse(link(path, **parameters), 303)


def link(path: str, **parameters: str) -> str:
    """With those parameters that say something."""
    said = {name: value for name, value in parameters.items() if value}
    return f"{quote(path)}?{urlencode(said)}" if said else quote(path)


def program_of(version: dict[str, Any] | None) -> dict[str, Any] | None:
    return json.loads(version["program"]) if version else None


def drawn(series: dict[str, Any] | None) -> dict[str, Any] | None:
    """The chart twice, for wide and narrow windows, with its figures in words; None where there is nothing to draw."""
    wide = chart.draw(series, 760, 280) if series else None
    if series is None or wide is None:
        return None
    said = {name: words.amount(value, series["unit"]) for name, value in (("limit", series["threshold"]), ("last", chart.last(series))) if value is not None}
    sizes = {"wide": wide, "narrow": chart.draw(series, 360, 240)}
    return {"sizes": sizes, "rows": chart.rows(series), "metric": series["metric"], "limit": said.get("limit"), "last": said.get("last")}
