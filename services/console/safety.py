"""What stands between the pages and the web: headers on every answer, a token in every form, and errors that people can read.

A change needs three things at once: a session cookie that browsers send from our own pages only (SameSite=Strict), an Origin that is ours, and the form's
token, which is a keyed hash of the session and so worthless to anyone who does not already hold it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.adapters.http.auth import refuse_cross_site
from services.kernel.errors import Forbidden, RejectedInput

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides the Origin of our own forms, too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
PROBLEM = "application/problem+json"
MOST_FORM_BYTES = 20_000
MOST_FIELDS = 20

Form = dict[str, str]


def form_token(session: str) -> str:
    """What every form of this session carries."""
    return hmac.new(session.encode(), b"trimtab-form", hashlib.sha256).hexdigest()


async def read_form(request: Request, session: str) -> Form:
    """The fields of a form of ours, stripped; Forbidden where another page sent it, or where it belongs to another session."""
    refuse_cross_site(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise RejectedInput("this is not a form", reason="unsupported_media_type", status=415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise RejectedInput(f"a form is at most {MOST_FORM_BYTES:,} bytes long", reason="too_large", status=413)
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
    except ValueError as error:
        raise RejectedInput("the form cannot be read", reason="malformed", status=400) from error
    if not hmac.compare_digest(fields.pop("token", "").encode(), form_token(session).encode()):
        raise Forbidden("this form belongs to another login: open the page anew and try again", reason="form_token")
    return {name: value.strip() for name, value in fields.items()}


class Safely:
    """Every answer carries the headers; a problem that was meant for a browser becomes a page, drawn by `draw(status, problem)`."""

    def __init__(self, app: ASGIApp, draw: Callable[[int, dict[str, Any]], str]) -> None:
        self.app, self.draw = app, draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wants_page = "text/html" in Headers(scope=scope).get("accept", "") and not scope["path"].startswith("/v1/")
        start: Message = {}
        body = b""

        async def safely(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Cache-Control", "no-store")
                elif scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-cache")  # kept, and asked about each time
                if wants_page and headers.get("content-type", "").startswith(PROBLEM):
                    start = message
                    return
            elif start:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                await self._page(start, body, send)
                return
            await send(message)

        await self.app(scope, receive, safely)

    async def _page(self, start: Message, body: bytes, send: Send) -> None:
        page = self.draw(start["status"], json.loads(body)).encode()
        headers = MutableHeaders(scope=start)
        headers["content-type"], headers["content-length"], headers["cache-control"] = "text/html; charset=utf-8", str(len(page)), "no-store"
        await send(start)
        await send({"type": "http.response.body", "body": page})
