"""An app on a port, for as long as a block lasts; what a process says of itself while it is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.kernel.errors import Misconfigured

GRACE = 5  # seconds that requests under way get at the end
KEEP = 5  # seconds that a connection stays open without a request


class Server(uvicorn.Server):
    """Leaves the process's signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def open_port(host: str, port: int) -> socket.socket:
    """A listener whose connections send at once: asyncio sees to that only where a socket was made with its protocol named, and this one is not."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
        raise Misconfigured(f"port {port} of {host} cannot be opened: {why}; choose another with TRIMTAB_PORT") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket, http: Any = "auto") -> AsyncIterator[None]:
    """Answers there; at the end takes nothing new and lets what is under way come to its end. `http` is uvicorn's protocol."""
    options: dict[str, Any] = {"timeout_graceful_shutdown": GRACE, "timeout_keep_alive": KEEP, "access_log": False, "server_header": False, "ws": "none"}
    server = Server(uvicorn.Config(app, http=http, log_config=None, lifespan="off", **options))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started and not task.done():  # noqa: ASYNC110  the server has no event for it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


def address_of(host: str, listener: socket.socket) -> str:
    """Where it is reached by whoever reaches `host`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def install_health(
    app: FastAPI,
    unready: Callable[[], Awaitable[str]],
    registry: CollectorRegistry,
    more: Callable[[], dict[str, Any]] = dict,
    stalled: Callable[[], str] = str,
) -> None:
    """/livez, /readyz and /metrics. `unready` says why we are not, "" where we are; `more` is told beside it; `stalled` says what only a new process mends."""

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        """The loop turns, and with it all that is done without being asked."""
        why = stalled()
        return PlainTextResponse(f"stalled: {why}" if why else "alive", 503 if why else 200)

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        """Restored, connected, and nothing has stopped that a person must mend."""
        why = await unready()
        return JSONResponse({"ready": not why, "why": why} | more(), 200 if not why else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
