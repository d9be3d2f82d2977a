"""The sandbox over HTTP: GET and PATCH one object, load and list many, change one by hand, ask for faults, read the journal."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from services.sandbox.platform import Fault, Platform, Refused


class FaultWanted(BaseModel):
    kind: str = Field(pattern="^(latency|429|500_before|500_after|drop_before|drop_after|error_inside|stale_read|garbage)$")
    method: str = "PATCH"
    path: str = ""
    times: int = Field(1, ge=1, le=10_000)
    seconds: float = Field(0.0, ge=0, le=60)


class Dropped(Exception):
    """The connection ends without an answer."""


def create_app(platform: Platform, token: str) -> FastAPI:
    """Every request but GET /health needs `Authorization: Bearer <token>`."""
    app = FastAPI(title="Sandbox ad platform", openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Request, go_on: Any) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path != "/health" and not secrets.compare_digest(given.encode(), token.encode()):
            return JSONResponse({"error": {"reason": "unauthorized", "detail": "a token is needed"}}, 401)
        answer: Response = await go_on(request)
        return answer

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return JSONResponse({"error": {"reason": error.reason, "detail": error.detail}}, error.status)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.put("/objects")
    async def load(objects: dict[str, dict[str, Any]]) -> dict[str, int]:
        for path, attributes in objects.items():
            platform.put(path, attributes)
        return {"objects": len(platform.things)}

    @app.get("/objects")
    async def every() -> dict[str, dict[str, Any]]:
        return {path: thing.attributes for path, thing in platform.things.items()}

    @app.get("/objects/{path:path}")
    async def show(path: str) -> Response:
        fault = platform.fault("GET", path)
        if early := await befall(fault, before=True):
            return early
        attributes, version = platform.shown(path, stale=fault is not None and fault.kind == "stale_read")
        return JSONResponse(attributes, headers={"ETag": f'"{version}"'})

    @app.patch("/objects/{path:path}")
    async def change(path: str, request: Request) -> Response:
        wanted = await request.json()
        if not isinstance(wanted, dict) or not wanted:
            raise Refused(422, "invalid", "send the attributes to set")
        platform.sent.append({"path": path, "key": request.headers.get("idempotency-key", ""), "at": time.time_ns() // 1000})
        fault = platform.fault("PATCH", path)
        if early := await befall(fault, before=True):
            return early
        match = request.headers.get("if-match", "").strip('"')
        key = request.headers.get("idempotency-key", "")
        thing = platform.change(path, wanted, key, int(match) if match.isdigit() else None, request.headers.get("x-by", "api"))
        if late := await befall(fault, before=False):
            return late
        return JSONResponse(thing.attributes | {"path": path}, headers={"ETag": f'"{thing.version}"'})

    @app.post("/by-hand/{path:path}")
    async def by_hand(path: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """As if a person used the platform's own tool."""
        thing = platform.change(path, wanted, "", None, "a person")
        return thing.attributes | {"path": path, "version": thing.version}

    @app.post("/faults")
    async def faults(wanted: FaultWanted) -> dict[str, int]:
        platform.faults.append(Fault(**wanted.model_dump()))
        return {"faults": sum(f.times for f in platform.faults)}

    @app.delete("/faults")
    async def no_faults() -> dict[str, int]:
        platform.faults.clear()
        return {"faults": 0}

    @app.get("/journal")
    async def journal(under: str = "") -> dict[str, Any]:
        """Of the objects whose path begins so: what was applied, and every write that was sent, whatever became of it."""
        applied, sent = ([e for e in many if e["path"].startswith(under)] for many in (platform.applied, platform.sent))
        return {"applied": applied, "sent": sent, "faults": [asdict(f) for f in platform.faults]}

    return app


async def befall(fault: Fault | None, before: bool) -> Response | None:
    """What the fault answers instead; None lets the request go on. Dropping raises, and the server cuts the connection."""
    if fault is None:
        return None
    if fault.kind == "latency" and before:
        await asyncio.sleep(fault.seconds)
    if fault.kind == "429" and before:
        return JSONResponse({"error": {"reason": "rate_limited", "detail": "slow down"}}, 429, headers={"Retry-After": "1"})
    if fault.kind == ("500_before" if before else "500_after"):
        return JSONResponse({"error": {"reason": "internal", "detail": "something broke"}}, 500)
    if fault.kind == ("drop_before" if before else "drop_after"):
        return Cut()
    if fault.kind == "error_inside" and before:
        return JSONResponse({"error": {"reason": "policy", "detail": "this object may not be edited now"}}, 200)
    if fault.kind == "garbage" and not before:
        return Response("<html>gateway</html>", media_type="text/html")
    return None


class Cut(Response):
    """Promises a body and ends the connection in the middle of it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000"), (b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"pa', "more_body": True})
        transport = scope.get("extensions", {}).get("transport")
        if transport is not None:
            transport.abort()
        raise Dropped
