"""Keys, one-time links, sessions and roles, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from itsdangerous import Signer

from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http import problem
from services.adapters.http.auth import COOKIE, KNOWN_FOR, LINK_VALID_FOR, SESSION_VALID_FOR, Auth, install, load_secret, local, require
from services.kernel.errors import Misconfigured, Unauthorized, Unavailable
from services.kernel.principal import Principal
from tests.shell.acting import ByHand
from tests.shell.ending import ending
from tests.shell.serving import serving

SECRET = bytes(range(32))


@pytest.fixture
async def s(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    database = Database(f"sqlite:///{tmp_path / 'trimtab.db'}")
    await migrate(database)
    clock = ByHand()
    auth = Auth(database, SECRET, clock)
    app = FastAPI()
    problem.install(app)
    install(app, auth)

    for role in ("source", "viewer", "editor", "reviewer", "admin"):

        @app.api_route(f"/{role}", methods=["GET", "POST"])
        async def who(principal: Annotated[Principal, Depends(require(role))]) -> dict[str, str]:
            return {"name": principal.name, "role": principal.role, "workspace": principal.workspace, "kind": principal.kind}

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("whsec_abcdef")

    @app.get("/away")
    async def away() -> None:
        raise Unavailable("postgresql://joe:hunter2@db/trimtab is away, key tk0123456789ab.0123456789012345678901234567890123456789012")

    async with serving(app) as client:
        yield SimpleNamespace(client=client, auth=auth, clock=clock, database=database, path=tmp_path / "trimtab.db")
    await database.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_key_says_who_and_which_workspace(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "editor", "acme")
    answer = await s.client.get("/viewer", headers=bearer(key))
    assert answer.json() == {"name": "ci", "role": "editor", "workspace": "acme", "kind": "key"}


async def test_the_database_holds_nothing_that_opens_anything(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "admin", "acme")
    link = await s.auth.login_link("jana", "admin", "acme")
    cookie = await s.auth.login(link.rsplit("/", 1)[1])
    held = b"".join(f.read_bytes() for f in s.path.parent.iterdir() if f.name.startswith("trimtab.db"))
    for shown in (key.split(".")[1], link.rsplit("/", 1)[1], cookie.rsplit(".", 1)[0]):
        assert shown.encode() not in held


@pytest.mark.parametrize("role", ["viewer", "editor", "reviewer", "admin", "source"])
async def test_a_role_may_do_what_the_ones_before_it_may(s: SimpleNamespace, role: str) -> None:
    allowed = {
        "viewer": {"viewer"},
        "editor": {"viewer", "editor", "source"},
        "reviewer": {"viewer", "editor", "reviewer", "source"},
        "admin": {"viewer", "editor", "reviewer", "admin", "source"},
        "source": {"source"},
    }[role]
    key = await s.auth.issue_key("x", role, "acme")
    answers = {asked: (await s.client.get(f"/{asked}", headers=bearer(key))).status_code for asked in ("viewer", "editor", "reviewer", "admin", "source")}
    assert answers == {asked: 200 if asked in allowed else 403 for asked in answers}


async def test_every_wrong_credential_gets_the_same_answer(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "admin", "acme")
    revoked = await s.auth.issue_key("old", "admin", "acme")
    assert await s.auth.revoke_key(revoked.split(".")[0], "acme")
    key_id, secret = key.split(".")
    wrong = [f"{key_id}.{secret[:-1]}", f"{key_id}.", key_id, f"tk000000000000.{secret}", f".{secret}", ".", revoked, f"{key_id}.{secret}x", "\xe9.\xe9"]
    answers = [(await s.client.get("/viewer", headers={b"Authorization": b"Bearer " + k.encode("latin-1")})) for k in wrong]
    assert {(a.status_code, a.json()["reason"], a.json()["detail"]) for a in answers} == {(401, "unauthorized", "the key is not valid")}
    assert (await s.client.get("/viewer")).status_code == 401
    assert (await s.client.get("/viewer", headers={"Authorization": "Basic eDp5"})).status_code == 401


async def test_a_key_that_was_just_used_opens_nothing_once_it_is_revoked(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "viewer", "acme")
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 200
    assert await s.auth.revoke_key(key.split(".")[0], "acme")
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 401


async def test_a_key_that_another_process_revoked_opens_nothing_after_a_second(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "viewer", "acme")
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 200
    assert await Auth(s.auth.database, bytes(32), s.clock).revoke_key(key.split(".")[0], "acme")
    s.clock.move(KNOWN_FOR)
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 401


async def test_a_key_in_use_is_asked_about_again_before_it_is_forgotten(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "viewer", "acme")
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 200
    for _ in range(4):
        s.clock.move(KNOWN_FOR * 3 // 4)
        assert s.auth.known(f"Bearer {key}") is not None
        await asyncio.gather(*s.auth._asking.values())
    assert await Auth(s.auth.database, bytes(32), s.clock).revoke_key(key.split(".")[0], "acme")
    s.clock.move(KNOWN_FOR * 3 // 4)
    s.auth.known(f"Bearer {key}")
    await asyncio.gather(*s.auth._asking.values(), return_exceptions=True)
    s.clock.move(KNOWN_FOR // 4)
    assert s.auth.known(f"Bearer {key}") is None


async def test_a_key_is_revoked_only_within_its_workspace(s: SimpleNamespace) -> None:
    key = await s.auth.issue_key("ci", "viewer", "acme")
    assert not await s.auth.revoke_key(key.split(".")[0], "other")
    assert (await s.client.get("/viewer", headers=bearer(key))).status_code == 200


async def test_a_login_link_works_once_and_sets_a_strict_cookie(s: SimpleNamespace) -> None:
    link = await s.auth.login_link("jana", "reviewer", "acme")
    first = await s.client.get(link + "?next=/escalations")
    assert first.status_code == 200 and 'url=/escalations"' in first.text
    cookie = first.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert first.headers["cache-control"] == "no-store"
    assert (await s.client.get("/reviewer")).json() == {"name": "jana", "role": "reviewer", "workspace": "acme", "kind": "session"}
    second = await s.client.get(link)
    assert (second.status_code, second.headers["content-type"]) == (401, "application/problem+json")


async def test_a_login_link_expires(s: SimpleNamespace) -> None:
    link = await s.auth.login_link("jana", "reviewer", "acme")
    s.clock.move(LINK_VALID_FOR)
    assert (await s.client.get(link)).status_code == 401
    assert (await s.client.get("/login/unknown")).status_code == 401


async def test_a_session_ends_by_logout_and_by_time(s: SimpleNamespace) -> None:
    await s.client.get(await s.auth.login_link("jana", "admin", "acme"))
    cookie = s.client.cookies[COOKIE]
    assert (await s.client.post("/logout")).status_code == 204
    assert (await s.client.get("/viewer", headers={"Cookie": f"{COOKIE}={cookie}"})).status_code == 401
    await s.client.get(await s.auth.login_link("jana", "admin", "acme"))
    s.clock.move(SESSION_VALID_FOR)
    assert (await s.client.get("/viewer")).status_code == 401


async def test_a_forged_cookie_opens_nothing(s: SimpleNamespace) -> None:
    await s.client.get(await s.auth.login_link("jana", "admin", "acme"))
    cookie = s.client.cookies[COOKIE]
    session, mac = cookie.rsplit(".", 1)
    forged = [session, f"{session}.{'A' if mac[0] != 'A' else 'B'}{mac[1:]}", Signer(b"other secret", salt="trimtab-session").sign(session).decode(), "x", "."]
    s.client.cookies.clear()
    assert [(await s.client.get("/viewer", headers={"Cookie": f"{COOKIE}={c}"})).status_code for c in forged] == [401] * len(forged)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_a_change_sent_by_another_sites_page_is_refused(s: SimpleNamespace, headers: dict[str, str], status: int) -> None:
    await s.client.get(await s.auth.login_link("jana", "admin", "acme"))
    assert (await s.client.post("/viewer", headers=headers)).status_code == status
    assert (await s.client.get("/viewer", headers=headers)).status_code == 200
    own = f"http://{s.client.base_url.host}:{s.client.base_url.port}"
    assert (await s.client.post("/viewer", headers={"Origin": own})).status_code == 200


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\nb", "/;url=x"])
def test_a_login_leads_to_our_own_pages_only(target: str) -> None:
    assert local(target) == "/"


async def test_a_source_cannot_log_in_and_an_unknown_role_does_not_exist(s: SimpleNamespace) -> None:
    with pytest.raises(Misconfigured):
        await s.auth.login_link("shop", "source", "acme")
    with pytest.raises(Misconfigured):
        await s.auth.issue_key("x", "owner", "acme")
    with pytest.raises(ValueError):
        require("owner")
    with pytest.raises(Unauthorized):
        await s.auth.login("nothing")


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    made = load_secret(tmp_path / "data")
    assert load_secret(tmp_path / "data") == made and len(made) == 32
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o077 == 0
    (tmp_path / "data" / "secret").write_text("")
    with pytest.raises(Misconfigured):
        load_secret(tmp_path / "data")


@pytest.mark.parametrize("point", ["private.begun", "private.written"])
def test_a_process_that_ends_while_it_makes_the_secret_leaves_none(tmp_path: Path, point: str) -> None:
    with ending(point):
        load_secret(tmp_path / "data")
    assert load_secret(tmp_path / "data") == load_secret(tmp_path / "data")
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o077 == 0


async def test_an_error_tells_nothing_it_should_not(s: SimpleNamespace) -> None:
    broken, away = await s.client.get("/broken"), await s.client.get("/away")
    assert (broken.status_code, broken.json()["reason"]) == (500, "bug")
    assert "whsec" not in broken.text and broken.headers["x-request-id"] in broken.text
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    assert "hunter2" not in away.text and "0123456789012345678901234567890123456789012" not in away.text


async def test_every_answer_carries_a_request_id(s: SimpleNamespace) -> None:
    mine = await s.client.get("/viewer", headers={"X-Request-Id": "abc-1"})
    assert (mine.status_code, mine.headers["x-request-id"]) == (401, "abc-1")
    assert (await s.client.get("/nowhere", headers={"X-Request-Id": "a b\tc"})).headers["x-request-id"] not in ("a b\tc", "")
    assert (await s.client.get("/nowhere")).json()["reason"] == "not_found"
