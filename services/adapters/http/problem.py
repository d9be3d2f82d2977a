"""Every error leaves as an RFC 9457 problem with a short reason, free of secrets, under a request id."""

from __future__ import annotations

import re
from http import HTTPStatus
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
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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


def problem(status: int, reason: str, detail: str, **more: Any) -> JSONResponse:
    """An answer of type application/problem+json; `more` adds members such as pointer or errors."""
    body = {"type": f"urn:trimtab:problem:{reason}", "title": HTTPStatus(status).phrase, "status": status, "detail": redact(detail), "reason": reason, **more}
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def pointer(where: tuple[Any, ...]) -> str:
    """The JSON Pointer (RFC 6901) of a place inside a body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in where)


def from_error(error: TrimtabError) -> JSONResponse:
    more = {name: said for name in ("pointer", "errors") if (said := getattr(error, name, None))}
    return problem(error.status, error.reason, str(error), **more)


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


class RequestIds:
    """Outermost layer: gives every answer its X-Request-Id (the sender's, if it is a sane one) and turns what nobody caught into a 500 that tells nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else token_hex(8)
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, stamped)
            except Exception as error:
                log.exception("request_failed", error=type(error).__name__)
                if started:  # half an answer is out: only cutting the connection tells the truth
                    raise
                await problem(500, "bug", f"something is wrong on our side; request {request_id}")(scope, receive, stamped)


def install(app: FastAPI) -> None:
    """From now on every error of this app is a problem, and every answer carries X-Request-Id."""

    async def handle(_: Request, error: Exception) -> Response:
        match error:
            case Unavailable():
                log.warning("unavailable", reason=error.reason)
                return from_error(error)
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
