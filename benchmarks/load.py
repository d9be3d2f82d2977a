"""HTTP load from one core: prebuilt requests over kept-alive connections, closed loop (as fast as answers come) or open loop (at a fixed rate).

In the open loop a request's latency counts from the instant it was due, not from when the connection got to it: a server that stalls is charged for
everything that should have been sent meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@contextmanager
def apart() -> Iterator[int]:
    """The core for the server; this process keeps to the others meanwhile. -1 where there is one core only, which both share."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield -1
        return
    os.sched_setaffinity(0, cores[1:])
    try:
        yield cores[0]
    finally:
        os.sched_setaffinity(0, cores)


def request(method: str, path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}", *(f"{n}: {v}" for n, v in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Measured:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of requests answered 202
    refused: list[bytes] = field(default_factory=list)  # other answers, whole

    def quantile(self, q: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * q), len(ordered) - 1)] if ordered else float("nan")

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


class _Connection(asyncio.Protocol):
    """One request at a time; answers are read by their Content-Length."""

    def __init__(self, load: _Load) -> None:
        self.load, self.due, self.buffer = load, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, data: bytes, due: float) -> None:
        self.due = due
        self.transport.write(data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.find(b"content-length: ") + 16
        size = int(self.buffer[at : self.buffer.find(b"\r\n", at)])
        if len(self.buffer) < head + 4 + size:
            return
        line, self.buffer = self.buffer[:15] if self.buffer.startswith(b"HTTP/1.1 202") else self.buffer, b""
        self.load.answered(self, line)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class _Load:
    def __init__(self, requests: Sequence[bytes], until: float, first: int = 0) -> None:
        self.requests, self.until, self.at = requests, until, first
        self.measured = Measured()
        self.free: deque[_Connection] = deque()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.out = 0
        self.over = asyncio.get_running_loop().create_future()
        self.closed = True

    def next(self) -> bytes:
        data = self.requests[self.at % len(self.requests)]
        self.at += 1
        return data

    def answered(self, connection: _Connection, line: bytes) -> None:
        now = time.perf_counter()
        if line.startswith(b"HTTP/1.1 202"):
            self.measured.latencies.append(now - connection.due)
        else:
            self.measured.refused.append(line)
        if self.closed and now < self.until:
            connection.send(self.next(), now)
            return
        if self.waiting:
            connection.send(*self.waiting.popleft())
            return
        self.out -= 1
        self.free.append(connection)
        self.finish(now)

    def finish(self, now: float) -> None:
        if self.out == 0 and now >= self.until and not self.over.done():
            self.over.set_result(now)

    def lost(self, connection: _Connection) -> None:
        """A server may close a connection that has nothing more to send."""
        if not self.over.done() and not (self.closed and connection in self.free):
            self.over.set_exception(ConnectionError("the server closed a connection"))


async def closed_loop(port: int, requests: Sequence[bytes], seconds: float, connections: int, first: int = 0) -> tuple[Measured, int]:
    """(what was measured, the number of the next request)."""
    began = time.perf_counter()
    load = _Load(requests, began + seconds, first)
    made = await _connect(load, port, connections)
    began = time.perf_counter()
    load.until = began + seconds
    load.out = len(made)
    for c in made:
        c.send(load.next(), time.perf_counter())
    load.measured.seconds = await load.over - began
    _part(load, made)
    return load.measured, load.at


async def open_loop(port: int, requests: Sequence[bytes], rate: float, connections: int = 64) -> tuple[Measured, float]:
    """Each request once, `rate` of them a second, whatever the server does; (what was measured, when the first was due)."""
    load = _Load(requests, float("inf"))
    load.closed = False
    load.free.extend(await _connect(load, port, connections))
    made = list(load.free)
    began = time.perf_counter()
    while load.at < len(requests):
        due = began + load.at / rate
        now = time.perf_counter()
        if due > now:
            await asyncio.sleep(due - now)
            continue
        data = load.next()
        if load.free:
            load.out += 1
            load.free.popleft().send(data, due)
        else:
            load.waiting.append((data, due))
    load.until = 0.0
    load.finish(time.perf_counter())
    await load.over
    load.measured.seconds = time.perf_counter() - began
    _part(load, made)
    return load.measured, began


async def _connect(load: _Load, port: int, connections: int) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port))[1] for _ in range(connections)]


def _part(load: _Load, made: Sequence[_Connection]) -> None:
    for c in made:
        c.transport.close()
