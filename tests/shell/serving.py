"""A real HTTP server on a free loopback port, for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn

from services.adapters.http.front import Front


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        await super().startup(sockets)
        self.is_up.set()


@asynccontextmanager
async def serving(app: Any, front: Front | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    http = front.protocol if front is not None else "httptools"
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", http=http))
    task = asyncio.create_task(server._serve())
    try:
        async with asyncio.timeout(20):
            await server.is_up.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await task
