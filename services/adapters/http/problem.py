"""Every error leaves as an RFC 9457 problem with a short reason, free of secrets, under a request id."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from itertools import count
from math import ceil
from secrets import token_hex
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.kernel.errors import TrimtabError, Unavailable

log = structlog.get_logger()

SECRETS = re.compile(
    r"whsec_[A-Za-z0-9+/=]+"  # a webhook secret
    r"|(?i:(?<=bearer )|(?<=basic ))[^\s,\"']+"  # a credential in a header
    r"|(?<=/login/)[^\s/?\"']+"  # a one-time login
    r"|\b[a-z0-9_]{4,32}\.[A-Za-z0-9_-]{32,}"  # id.secret
    r"|(?i:(?<=password=)|(?<=secret=)|(?<=token=))[^\s&,;\"']+"
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"  # user:password in an address
)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
RUN, NUMBERS = token_hex(4).encode(), count(1)  # of this process; to draw each from the system costs more than many a request


HTTP_REASONS = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


def redact(text: str) -> str:
    """The text without anything that looks like a credential."""
    return SECRETS.sub("[redacted]", text)


def problem(status: int, reason: str, detail: str, retry_after: float = 1, **more: Any) -> JSONResponse:
    """An answer of type application/problem+json; `more` adds members such as pointer or errors. Whoever is asked to come back is told after how long."""
    body = {"type": f"urn:trimtab:problem:{reason}", "title": HTTPStatus(status).phrase, "status": status, "detail": redact(detail), "reason": reason, **more}
    headers = {"Retry-After": str(ceil(retry_after))} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def pointer(where: tuple[Any, ...]) -> str:
    """The JSON Pointer (RFC 6901) of a place inside a body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in where)


def from_error(error: TrimtabError) -> JSONResponse:
    more = {name: said for name in ("pointer", "errors", "retry_after") if (said := getattr(error, name, None))}
    return problem(error.status, error.reason, str(error), **more)


class _Sparingly:
    """One line a second a reason, however many are turned away."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}  # reason -> (when it was last said, how often it came since)

    def warn(self, reason: str) -> None:
        now = time.monotonic()
        at, since = self._said.get(reason, (now - 2, 0))
        if now - at < 1:
            self._said[reason] = at, since + 1
            return
        log.warning("unavailable", reason=reason, **({"times": since + 1} if since else {}))
        self._said[reason] = now, 0


_sparingly = _Sparingly()


def from_unavailable(error: Unavailable) -> JSONResponse:
    _sparingly.warn(error.reason)
    return from_error(error)


def from_validation(error: RequestValidationError | ValidationError) -> JSONResponse:
    """Names the places and what was expected there; never echoes what was sent."""
    errors = []
    for one in error.errors():
        inside, *where = one["loc"] if isinstance(error, RequestValidationError) else ("body", *one["loc"])
        if one["type"] == "json_invalid":
            return problem(400, "malformed", "the body is not JSON")
        errors.append({"in": str(inside), "pointer": pointer(tuple(where)), "detail": redact(one["msg"])})
    return problem(422, "invalid", f"{errors[0]['detail']} (at {errors[0]['in']}{errors[0]['pointer']})", pointer=errors[0]["pointer"], errors=errors[:20])


def from_http(error: HTTPException) -> JSONResponse:
    answer = problem(error.status_code, HTTP_REASONS.get(error.status_code, "http"), str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """The sender's X-Request-Id, if it is a sane one, or a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return b"%s-%x" % (RUN, next(NUMBERS))


class RequestIds:
    """Outermost layer: gives every answer its X-Request-Id (the sender's, if it is a sane one) and turns what nobody caught into a 500 that tells nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        name = request_id(dict(scope["headers"]))
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=name.decode()):
            try:
                await self.app(scope, receive, stamped)
            except Exception as error:
                log.exception("request_failed", error=type(error).__name__)
                if started:  # half an answer is out: only cutting the connection tells the truth
                    raise
                await problem(500, "bug", f"something is wrong on our side; request {name.decode()}")(scope, receive, stamped)


def install(app: FastAPI) -> None:
    """From now on every error of this app is a problem, and every answer carries X-Request-Id."""

    async def handle(_: Request, error: Exception) -> Response:
        match error:
            case Unavailable():
                return from_unavailable(error)
            case TrimtabError():
                return from_error(error)
            case RequestValidationError() | ValidationError():
                return from_validation(error)
            case HTTPException():
                return from_http(error)
        raise error

    for kind in (TrimtabError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_middleware(RequestIds)
