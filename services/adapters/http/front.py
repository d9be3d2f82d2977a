"""The sockets: uvicorn's HTTP protocol with the bounds that it lacks, and a short way past the app for requests that need none of it.

Of itself uvicorn reads no more of a body than somebody asks for, closes a connection that is idle after an answer, and waits for a reader that is slow.
It has no limit for the head of a request, in bytes or in time, none for the time of a body, none for a reader that never reads, and its limit on connections
refuses the newest. Here a connection that does not get on is closed, and where there are too many, the one that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from services.adapters.http.problem import problem

log = structlog.get_logger("http")
SPARE_FILES = 256  # for the log, the database and whatever else is open

Answer = tuple[int, bytes, list[tuple[bytes, bytes]]]  # status, body, headers


@dataclass(frozen=True, slots=True)
class Bounds:
    connections: int = 10_000
    head_bytes: int = 32_768
    head_seconds: float = 10.0  # from the first to the last byte of a request's head, and from a connection to its first request
    body_seconds: float = 35.0  # a little more than the app has patience for: it says more about it
    drain_seconds: float = 5.0  # for the rest of a body that was answered before its end
    unread_seconds: float = 30.0  # for a reader to go on reading


class Begun(Protocol):
    """A request that went the short way: `done` ends it, then `answer` says how, or None where the app must."""

    done: asyncio.Future[Any]

    def answer(self) -> Answer | None: ...

    def answered(self) -> None:
        """The answer is written."""
        ...


class Short(Protocol):
    def wants(self, scope: Any) -> bool:
        """Whether a request of this head may go the short way."""
        ...

    def begin(self, scope: Any, body: bytes) -> Begun | None:
        """The request under way; None, and nothing is done, where the app must take it."""
        ...


class Front:
    """Every connection of one server. Give `protocol` to uvicorn as its `http`."""

    def __init__(self, registry: CollectorRegistry, bounds: Bounds | None = None, short: Short | None = None) -> None:
        self.bounds, self.short = bounds or Bounds(), short
        self.open: set[Connection] = set()
        b = self.bounds
        self.seconds = {"head": b.head_seconds, "body": b.body_seconds, "drain": b.drain_seconds, "unread": b.unread_seconds}
        self.seconds["idle"] = inf  # after an answer: uvicorn has a timer for that
        self._clocks: dict[str, dict[Connection, float]] = {name: {} for name in self.seconds}  # since when; the longest is the first
        self._sweeps: asyncio.TimerHandle | None = None
        opened = Gauge("trimtab_http_connections", "Connections that are open", registry=registry)
        opened.set_function(lambda: len(self.open))
        self._shed = Counter("trimtab_http_shed_total", "Connections closed by a bound", ["reason"], registry=registry)
        for reason in ("connections", "head_bytes", "head", "body", "drain", "unread"):
            self._shed.labels(reason)

    @property
    def protocol(self) -> Any:
        """What makes the protocol of each new connection."""
        return partial(Connection, self)

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for it, made where need be by closing the connection that has been idle longest."""
        self.open.add(connection)
        if len(self.open) > self.bounds.connections:
            longest = next(iter(self._clocks["idle"] or self._clocks["head"]), None)
            if longest is None:
                return False
            longest.shed("connections")
        self.started("head", connection)
        return True

    def started(self, clock: str, connection: Connection) -> None:
        clocks = self._clocks[clock]
        clocks.pop(connection, None)  # the newest is the last
        clocks[connection] = connection.loop.time()
        if self._sweeps is None:
            self._sweeps = connection.loop.call_later(min(1.0, min(self.seconds.values()) / 4), self._sweep, connection.loop)

    def stopped(self, clock: str, connection: Connection) -> None:
        self._clocks[clock].pop(connection, None)

    def closed(self, connection: Connection) -> None:
        self.open.discard(connection)
        for clocks in self._clocks.values():
            clocks.pop(connection, None)

    def count(self, reason: str) -> None:
        self._shed.labels(reason).inc()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeps, now = None, loop.time()
        for name, clocks in self._clocks.items():
            while clocks:
                connection, since = next(iter(clocks.items()))
                if now - since < self.seconds[name]:
                    break
                connection.shed(name)
        if self.open:
            self._sweeps = loop.call_later(min(1.0, min(self.seconds.values()) / 4), self._sweep, loop)


class Connection(HttpToolsProtocol):
    """One connection, and the requests on it one after the other."""

    def __init__(self, front: Front, **given: Any) -> None:
        super().__init__(**given)
        self.front = front
        self._in_head, self._head = True, 0
        self._is_refused = False
        self._held: RequestResponseCycle | None = None  # its body is not whole yet, and nobody has been asked to read it

    # -- what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.front.opened(self):
            self.front.count("connections")
            self._refuse(503, "busy", "too many connections, none of them idle; try again in a moment", lingers=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = None
        self.front.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > self.front.bounds.head_bytes and not self.transport.is_closing():
                self.front.count("head_bytes")
                self._refuse(431, "head_too_large", f"the head of a request may have {self.front.bounds.head_bytes:,} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head = True, 0
        if self._is_free():
            self.front.stopped("idle", self)
            self.front.started("head", self)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.front.stopped("head", self)
        self.front.started("body", self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.front.stopped("body", self)
        self.front.stopped("drain", self)
        if self._held is not None and self._held is self.cycle:
            self._held = None
            self._go(self.cycle)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.cycle.response_complete and self.cycle.more_body:
            self.front.stopped("body", self)
            self.front.started("drain", self)
        elif self._is_free():
            self.front.started("idle", self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.front.started("unread", self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.front.stopped("unread", self)

    def shutdown(self) -> None:
        """The server stops: what is being answered is finished, what has not come whole will not be waited for."""
        if self._is_refused:
            self.transport.close()
        elif self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self._refuse(503, "stopping", "the server stops; send it again", lingers=False)
        else:
            super().shutdown()

    # -- the short way

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        short = self.front.short
        if short is None or cycle.waiting_for_100_continue or not short.wants(cycle.scope) or not _is_small(cycle.scope["headers"]):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle
        else:
            self._go(cycle)

    def _go(self, cycle: RequestResponseCycle) -> None:
        assert self.front.short is not None
        begun = self.front.short.begin(cycle.scope, bytes(cycle.body))
        if begun is None:
            super()._start_asgi_task(cycle, self.app)
            return
        self.tasks.add(begun.done)  # type: ignore[arg-type]  # a server that stops waits for it
        begun.done.add_done_callback(partial(self._ended, cycle, begun))

    def _ended(self, cycle: RequestResponseCycle, begun: Begun, done: asyncio.Future[Any]) -> None:
        self.tasks.discard(done)
        if cycle.disconnected or self.transport.is_closing():
            begun.answer()
            return
        answer = begun.answer()
        if answer is None:
            super()._start_asgi_task(cycle, self.app)
            return
        status, body, headers = answer
        lines = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        lines.append(body)
        self.transport.write(b"".join(lines))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
        begun.answered()

    # -- the bounds

    def _is_free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def shed(self, reason: str) -> None:
        """Closes a connection that does not get on; one that has begun a request is told why."""
        if not self._is_refused:
            self.front.count(reason)
        for clock in self.front.seconds:
            self.front.stopped(clock, self)
        if reason == "head" and self._head:
            self._refuse(408, "slow_head", f"the head of the request did not arrive within {self.front.bounds.head_seconds:g} s")
        elif reason == "body" and not self.cycle.response_started:
            self._refuse(408, "slow_body", f"the body did not arrive within {self.front.bounds.body_seconds:g} s")
        elif reason in ("head", "connections"):
            self.transport.close()
        else:
            self.transport.abort()

    def _refuse(self, status: int, reason: str, detail: str, lingers: bool = True) -> None:
        """The last words on this connection. To close it while more comes in would take them away from a client that has not read them yet."""
        told = problem(status, reason, detail)
        lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in told.raw_headers), b"connection: close\r\n\r\n", bytes(told.body)]
        self.transport.write(b"".join(lines))
        self._is_refused, self._held = True, None
        if lingers:
            self.transport.write_eof()
            self.front.started("drain", self)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def _is_small(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the body is announced, and small enough for the connection to hold it without an end to its reading."""
    for name, value in headers:
        if name == b"content-length":
            return len(value) < 10 and int(value) <= HIGH_WATER_LIMIT
    return False


def files() -> int:
    """How many files this process may have open, raised as far as it may; connections are files too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft
        return wanted
    return soft


def bounded(connections: int, open_files: Callable[[], int] = files) -> Bounds:
    """Bounds that leave files for the log and the database."""
    room = open_files() - SPARE_FILES
    if room < connections:
        log.warning("fewer connections than wished: raise the limit on open files (ulimit -n)", wished=connections, possible=max(room, 16))
    return Bounds(connections=max(min(connections, room), 16))
