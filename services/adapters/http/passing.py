"""Passes a request on to another process of ours and its answer back, as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import unquote

import httpx2
import structlog
from starlette.types import Receive, Scope, Send

from services.adapters.http.calling import HttpClient
from services.kernel.errors import NotFound, RejectedInput, TrimtabError, Unavailable

log = structlog.get_logger("passing")

OURS_ALONE = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"proxy-authorization", b"proxy-connection"})
CONNECTS = 3.0
ASKED = 5.0
ANSWERS = 120.0  # seconds: an explanation may replay much of the log
LARGEST = 100_000_000
LONG = 1 << 20  # bytes of an answer that are waited for before any goes on


class Passing:
    """One pool of connections. Headers go on as they came, the credential among them: who asks may do there what they may do here, and no more."""

    def __init__(self) -> None:
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # it keeps no cookie of anyone
        timeout = httpx2.Timeout(ANSWERS, connect=CONNECTS, pool=CONNECTS)
        self._http = HttpClient(200, timeout=timeout, cookies=jar, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, url: str, headers: Mapping[str, str]) -> Any:
        """What is answered there to the same credential. Raises Unavailable where nothing is."""
        kept = {name: headers[name] for name in ("authorization", "cookie") if name in headers}
        try:
            answer = await self._http.get(url, headers=kept, timeout=ASKED)
            answer.raise_for_status()
            return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise Unavailable(f"{url.partition('?')[0]} does not answer ({type(error).__name__})", reason="passing") from error

    async def on(self, url: str, scope: Scope, receive: Receive, send: Send, name: str = "the process that has it") -> None:
        """`name` is what is not there where nobody answers. Raises Unavailable where nobody answers there; a fault cuts an answer off only where it is long."""
        target = url + straight(scope["raw_path"])
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        headers = [(name, value) for name, value in scope["headers"] if name not in OURS_ALONE]
        body = None if scope["method"] in ("GET", "HEAD") else _body(receive)
        try:
            request = self._http.build_request(scope["method"], target, headers=headers, content=body)
        except httpx2.InvalidURL as error:
            raise RejectedInput(f"the path is none: {error}", reason="malformed", status=400) from error
        try:
            answer = await self._http.send(request, stream=True)
        except TrimtabError:
            raise
        except Exception as error:  # where a connection is cut in the wrong moment, the client has raised what is no error of its own
            if not isinstance(error, httpx2.HTTPError):
                log.exception("not passed on", url=url)
            raise Unavailable(f"{name} does not answer ({type(error).__name__}); send it again", reason="passing") from error
        try:
            chunks = answer.aiter_raw()
            try:
                begun = await _first(chunks)
            except httpx2.HTTPError as error:  # it was killed as it answered
                raise Unavailable(f"{name} broke off its answer ({type(error).__name__}); send it again", reason="passing") from error
            kept = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in OURS_ALONE]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            await send({"type": "http.response.body", "body": begun, "more_body": True})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await asyncio.shield(answer.aclose())


def straight(raw_path: bytes) -> str:
    """The path without its query, as it came. Raises NotFound for one that leads somewhere else than it says."""
    path = raw_path.decode("latin-1").partition("?")[0]
    if any(unquote(part) in (".", "..") or "/" in unquote(part) for part in path.split("/")):
        raise NotFound("there is no such path")
    return path


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    """All of a short answer, or the beginning of a long one, whose rest is still to come."""
    begun = b""
    async for chunk in chunks:
        begun += chunk
        if len(begun) >= LONG:
            break
    return begun


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RejectedInput("the sender has gone", reason="sender_gone", status=400)
        size += len(message.get("body", b""))
        if size > LARGEST:
            raise RejectedInput("the body is too large", reason="too_large", status=413)
        yield message.get("body", b"")
        if not message.get("more_body"):
            return
