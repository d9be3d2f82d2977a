"""A way to a server that a test can cut: a TCP proxy on loopback that loses what is sent, or answered, from some moment on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """`lose_request` and `lose_answer` are asked with each chunk a client sends; True cuts the connection before it is passed on, or before it is answered."""

    target: int
    port: int = 0
    lose_request: Callable[[bytes], bool] = lambda chunk: False
    lose_answer: Callable[[bytes], bool] = lambda chunk: False
    cuts: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection("127.0.0.1", self.target)
        mute = asyncio.Event()
        self._open |= {writer, thither}

        async def back() -> None:
            with suppress(ConnectionError):
                while (chunk := await there.read(65536)) and not mute.is_set():
                    writer.write(chunk)
                    await writer.drain()
            writer.transport.abort()

        answering = asyncio.create_task(back())
        try:
            while chunk := await reader.read(65536):
                if self.lose_request(chunk):
                    self.cuts += 1
                    break
                if self.lose_answer(chunk):
                    self.cuts += 1
                    mute.set()
                thither.write(chunk)
                await thither.drain()
                if mute.is_set():
                    await answering
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            answering.cancel()
            for end in (writer, thither):
                self._open.discard(end)
                end.transport.abort()


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for end in list(proxy._open):
            end.transport.abort()
