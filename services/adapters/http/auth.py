"""Every request has a principal: an API key in the Authorization header, or a person's session behind a one-time login link.

A key is `id.secret`; the database holds the secret's keyed SHA-256 and nothing that could be shown again. A session cookie is signed, HttpOnly and
SameSite=Strict, and its session can be revoked. The workspace comes from the credential, never from the request.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from itsdangerous import BadSignature, Signer
from sqlalchemy import insert, select, update

from services.adapters.db.database import Database, again
from services.adapters.http.tables import api_keys, login_links, sessions
from services.adapters.private import keep
from services.kernel.errors import Forbidden, Misconfigured, Unauthorized
from services.kernel.ports import Clock
from services.kernel.principal import ROLES, SOURCE, Principal

COOKIE = "trimtab_session"
MINUTE = 60_000_000
LINK_VALID_FOR = 10 * MINUTE
KNOWN_FOR = 1_000_000  # microseconds that a key found valid is believed
SESSION_VALID_FOR = 12 * 60 * MINUTE
NOBODY = "0" * 64  # what an unknown id is compared with, so that it takes as long as a known one
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def load_secret(folder: Path) -> bytes:
    """The server's own secret, kept in the data folder, readable by its owner only; made on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "secret"
    if not path.exists():
        keep(path, secrets.token_bytes(32).hex() + "\n")
    text = path.read_text().strip()
    if len(text) < 64 or not set(text) <= set("0123456789abcdef"):
        raise Misconfigured(f"{path} is not a secret of 32 bytes; without it no key and no session can be checked")
    return bytes.fromhex(text)


def given_secret(secret: str) -> bytes:
    """That which all services of an installation are given alike."""
    if not secret:
        raise Misconfigured("no secret is given: TRIMTAB_SECRET_FILE, a file with 64 hexadecimal digits (openssl rand -hex 32), the same for all services")
    return bytes.fromhex(secret)


class Auth:
    """Issues and checks credentials. `clock` should be the world's, also where the rest of the process runs on a simulated one."""

    def __init__(self, database: Database, secret: bytes, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self._secret = secret
        self.is_secure = False  # people come over TLS, which ends in front of us
        self._signer = Signer(secret, salt="trimtab-session", digest_method=hashlib.sha256)
        self._known: dict[str, tuple[Principal, int]] = {}  # credential -> (whose it is, until when that is believed)
        self._asking: dict[str, asyncio.Future[Principal]] = {}
        self._revocations = 0

    def sign(self, text: str) -> str:
        """The text, and that it is of a process with our secret."""
        return f"{text}#{self._digest('process', text)}"

    def signed_by_us(self, signed: str) -> str:
        """The text that a process with our secret has signed; "" for any other."""
        text, _, digest = signed.rpartition("#")
        return text if hmac.compare_digest(digest.encode(), self._digest("process", text).encode()) else ""

    @again
    async def issue_key(self, name: str, role: str, workspace: str) -> str:
        """A new key, `id.secret`; this is the only time it can be seen."""
        _require_known_role(role, keys=True)
        key_id, secret = "tk" + secrets.token_hex(6), secrets.token_urlsafe(32)
        row = {"id": key_id, "workspace": workspace, "name": name, "role": role, "digest": self._digest("key", secret), "created_at": self.clock.now()}
        async with self.database.writing() as tx:
            await tx.execute(insert(api_keys).values(row))
        return f"{key_id}.{secret}"

    @again
    async def revoke_key(self, key_id: str, workspace: str) -> bool:
        """False where the workspace has no such key in use. Works at once in this process, and within `KNOWN_FOR` in any other."""
        in_use = (api_keys.c.id == key_id) & (api_keys.c.workspace == workspace) & api_keys.c.revoked_at.is_(None)
        async with self.database.writing() as tx:
            revoked = (await tx.execute(update(api_keys).where(in_use).values(revoked_at=self.clock.now()))).rowcount == 1
        self._known.clear()
        self._asking.clear()
        self._revocations += 1
        return revoked

    async def keys(self, workspace: str) -> list[dict[str, Any]]:
        """Id, name, role, when it was made and taken back (None: in use), oldest first; instants in microseconds."""
        c = api_keys.c
        query = select(c.id, c.name, c.role, c.created_at, c.revoked_at).where(c.workspace == workspace).order_by(c.created_at, c.id)
        async with self.database.reading() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    @again
    async def login_link(self, name: str, role: str, workspace: str, base_url: str = "", valid_for: int = LINK_VALID_FOR) -> str:
        """An address that logs one person in, once, within `valid_for` microseconds."""
        _require_known_role(role, keys=False)
        token = secrets.token_urlsafe(32)
        row = {"digest": self._digest("link", token), "workspace": workspace, "name": name, "role": role, "expires_at": self.clock.now() + valid_for}
        async with self.database.writing() as tx:
            await tx.execute(insert(login_links).values(row))
        return f"{base_url}/login/{token}"

    @again
    async def login(self, token: str) -> str:
        """Uses the link up and returns the cookie of a new session. Raises Unauthorized for a link that is used, expired or unknown: nobody learns which."""
        now, session = self.clock.now(), secrets.token_urlsafe(32)
        usable = (login_links.c.digest == self._digest("link", token)) & login_links.c.used_at.is_(None) & (login_links.c.expires_at > now)
        async with self.database.writing() as tx:
            who = (await tx.execute(update(login_links).where(usable).values(used_at=now).returning(login_links))).first()
            if who is None:
                raise Unauthorized("this login link has been used or has expired: ask for a new one")
            row = {"digest": self._digest("session", session), "workspace": who.workspace, "name": who.name, "role": who.role}
            await tx.execute(insert(sessions).values(**row, created_at=now, expires_at=now + SESSION_VALID_FOR))
        return self._signer.sign(session).decode()

    @again
    async def logout(self, cookie: str) -> None:
        """The session opens nothing any more."""
        if (digest := self._session_digest(cookie)) is None:
            return
        async with self.database.writing() as tx:
            await tx.execute(update(sessions).where(sessions.c.digest == digest, sessions.c.revoked_at.is_(None)).values(revoked_at=self.clock.now()))

    async def principal(self, request: Request) -> Principal:
        """Who asks; Unauthorized where nobody can tell, Forbidden for a change that another site's page sent along."""
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, credential = header.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized("use `Authorization: Bearer <key>`")
            return await self._by_key(credential.strip())
        if cookie := request.cookies.get(COOKIE):
            refuse_cross_site(request)
            return await self._by_session(cookie)
        raise Unauthorized("a key or a login is needed")

    def known(self, authorization: str) -> Principal | None:
        """Whose the header's key is, if it was found valid a moment ago; None says nothing, `principal` must ask.

        One in use is asked about again before that moment is over, so that a sender of many requests never waits for it.
        """
        credential = authorization.removeprefix("Bearer ")
        known, now = self._known.get(credential), self.clock.now()
        if known is None or not known[1] - KNOWN_FOR <= now < known[1]:
            return None
        if now >= known[1] - KNOWN_FOR // 2 and credential not in self._asking:
            self._asking[credential] = again = asyncio.ensure_future(self._ask(credential, now))
            again.add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # who asks next is told
        return known[0]

    async def _by_key(self, credential: str) -> Principal:
        """Whose key it is; one found to be valid is believed for a moment, so that a sender of many requests is looked up once a second."""
        if (known := self.known(f"Bearer {credential}")) is not None:
            return known
        now = self.clock.now()
        if credential not in self._asking:  # of many requests at once one asks
            self._asking[credential] = asyncio.ensure_future(self._ask(credential, now))
        return await asyncio.shield(self._asking[credential])

    async def _ask(self, credential: str, now: int) -> Principal:
        revocations = self._revocations
        try:
            found = await self._look_up(credential)
            if revocations == self._revocations:  # else it may be the one that was revoked meanwhile
                self._known[credential] = found, now + KNOWN_FOR
            return found
        finally:
            self._asking.pop(credential, None)

    async def _look_up(self, credential: str) -> Principal:
        key_id, _, secret = credential.partition(".")
        async with self.database.reading() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).first()
        is_right = hmac.compare_digest(self._digest("key", secret), row.digest if row else NOBODY)
        if row is None or not is_right or row.revoked_at is not None:
            raise Unauthorized("the key is not valid")
        return Principal(row.name, row.role, row.workspace, "key")

    async def _by_session(self, cookie: str) -> Principal:
        digest = self._session_digest(cookie)
        async with self.database.reading() as connection:
            row = (await connection.execute(select(sessions).where(sessions.c.digest == (digest or NOBODY)))).first()
        if row is None or row.revoked_at is not None or row.expires_at <= self.clock.now():
            raise Unauthorized("the session has ended: log in again")
        return Principal(row.name, row.role, row.workspace, "session")

    def _session_digest(self, cookie: str) -> str | None:
        try:
            return self._digest("session", self._signer.unsign(cookie).decode())
        except (BadSignature, UnicodeError):
            return None

    def _digest(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def refuse_cross_site(request: Request) -> None:
    """A change that rides on a cookie must come from our own pages; SameSite=Strict is the first wall, this is the second."""
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise Forbidden("a page of another site sent this", reason="cross_site")


def require(role: str) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency: the request's principal, if it may do what asks for `role` (source | viewer | editor | reviewer | admin)."""
    if role not in (*ROLES, SOURCE):
        raise ValueError(f"no such role: {role}")

    async def principal(request: Request) -> Principal:
        auth: Auth = request.app.state.auth
        who = await auth.principal(request)
        if not who.may(role):
            raise Forbidden(f"this needs the role {role}; {who.name} is {who.role}")
        return who

    return principal


def install(app: FastAPI, auth: Auth) -> None:
    """`require` works in this app from now on, and GET /login/{token}, GET /v1/me and POST /logout exist."""
    app.state.auth = auth
    app.include_router(login_router(auth))


def login_router(auth: Auth) -> APIRouter:
    router = APIRouter()

    @router.get("/login/{token}", response_class=HTMLResponse, include_in_schema=False)
    async def login(token: str, request: Request, next: str = "/") -> Response:
        cookie = await auth.login(token)
        # A page, not a redirect: a browser that came here from elsewhere would not send a Strict cookie along a redirect.
        target = escape(local(next), quote=True)
        page = f'<!doctype html><meta charset="utf-8"><title>Trimtab</title><meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on</a>'
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        answer = HTMLResponse(page, headers=headers)
        secure = auth.is_secure or request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, max_age=SESSION_VALID_FOR // 1_000_000, httponly=True, samesite="strict", secure=secure, path="/")
        return answer

    @router.get("/v1/me", operation_id="get_me", summary="Who asks, and in which role")
    async def me(request: Request) -> dict[str, str]:
        who = await auth.principal(request)
        return {"name": who.name, "role": who.role, "workspace": who.workspace, "kind": who.kind}

    @router.post("/logout", status_code=204, include_in_schema=False)
    async def logout(request: Request) -> Response:
        refuse_cross_site(request)
        await auth.logout(request.cookies.get(COOKIE, ""))
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    return router


def local(target: str) -> str:
    """The path to go to, if it is one of ours; else the start page."""
    parts = urlsplit(target)
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc and ";" not in target
    return target if is_ours and target.isprintable() else "/"


def _require_known_role(role: str, keys: bool) -> None:
    allowed = (*ROLES, SOURCE) if keys else ROLES
    if role not in allowed:
        raise Misconfigured(f"no such role: {role}; there are {', '.join(allowed)}")
