"""The APIs as the pages use them: HTTP with the person's own session, so that nobody may do through a page what they may not do without one."""

from __future__ import annotations

from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
import structlog

from services.adapters.http.auth import COOKIE
from services.adapters.http.calling import HttpClient
from services.kernel.errors import TrimtabError, Unavailable


class Refused(TrimtabError):
    """An API's own answer: its status, its reason, its words."""

    reason = "refused"


class Client:
    """One connection pool for everyone. It keeps no cookie of anyone: each call carries the session that it is made for, and only that one."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    @classmethod
    def within(cls, app: Any) -> Client:
        """The APIs of the same process, without a socket; `app` is an ASGI application."""
        return cls(httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://within", cookies=_no_cookies()))

    @classmethod
    def at(cls, url: str, timeout: float = 30) -> Client:
        """The APIs at an address; `timeout` in seconds."""
        return cls(HttpClient(base_url=url, timeout=timeout, cookies=_no_cookies(), trust_env=False))

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, session: str, method: str, path: str, body: Any = None, parameters: dict[str, str] | None = None) -> Any:
        """The answer's JSON, None for an empty one. Raises Refused with the API's words, Unavailable where nothing answers."""
        headers = {"Cookie": f"{COOKIE}={session}", "Accept": "application/json"}
        if request_id := structlog.contextvars.get_contextvars().get("request_id"):
            headers["X-Request-Id"] = request_id
        try:
            answer = await self._http.request(method, path, json=body, params=parameters, headers=headers)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the service behind this page does not answer ({type(error).__name__})") from error
        if answer.is_error:
            raise _refused(answer)
        return answer.json() if answer.content else None


@dataclass(frozen=True, slots=True)
class Caller:
    """The APIs in the name of one session."""

    client: Client
    session: str

    async def get(self, path: str, **parameters: str) -> Any:
        """Empty parameters are left out."""
        return await self.client.call(self.session, "GET", path, parameters={name: value for name, value in parameters.items() if value})

    async def post(self, path: str, body: Any = None) -> Any:
        return await self.client.call(self.session, "POST", path, body)

    async def put(self, path: str, body: Any) -> Any:
        return await self.client.call(self.session, "PUT", path, body)


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _refused(answer: httpx2.Response) -> Refused:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    detail = body.get("detail") or f"the service behind this page answers {answer.status_code}"
    return Refused(str(detail), reason=str(body.get("reason", "refused")), status=answer.status_code)
