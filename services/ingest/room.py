"""How much is in work at once. What is past it is refused with a moment to come back after, before memory grows: nothing is queued without end.

    all deliveries  ->  at most `most`, with `most_bytes` of bodies among them     503 busy
    of one sender   ->  at most half of either                                      429 share
    of one sender   ->  at most `rate` a second, twice that at once                 429 rate

A sender is a key's name in its workspace, or the source of a webhook; what nobody has signed for yet is a sender of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.kernel.errors import Unavailable

MOST = 1024
MOST_BYTES = 64 * 2**20
REMEMBERED = 10_000  # senders whose rate is remembered
NOBODY = "not verified"


class Room:
    def __init__(
        self, registry: CollectorRegistry, most: int = MOST, most_bytes: int = MOST_BYTES, rate: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.most_bytes, self.rate, self.clock = most, most_bytes, rate, clock
        self.inside = self.bytes = 0
        self._by: dict[str, list[int]] = {}  # sender -> [deliveries, bytes]
        self._tokens: dict[str, tuple[float, float]] = {}  # sender -> (requests left, as of when)
        self._shed = Counter("trimtab_ingest_shed_total", "Deliveries refused because too much was in work", ["reason"], registry=registry)
        for reason in ("busy", "share", "rate"):
            self._shed.labels(reason)
        Gauge("trimtab_ingest_deliveries_in_work", "Deliveries being read or written", registry=registry).set_function(lambda: self.inside)
        Gauge("trimtab_ingest_bytes_in_work", "Bytes of the bodies of these", registry=registry).set_function(lambda: self.bytes)

    def enter(self, sender: str, size: int = 0) -> Place:
        """A place for one delivery, until it is left; raises Unavailable where there is none."""
        if self.rate:
            self._take_token(sender)
        place = Place(self, sender)
        if self.inside >= self.most:
            raise self.busy()
        of = self._by.setdefault(sender, [0, 0])
        if of[0] >= self.most // 2:
            raise self.share()
        self.inside += 1
        of[0] += 1
        if size:
            try:
                place.hold(size)
            except Unavailable:
                place.leave()
                raise
        return place

    def _take_token(self, sender: str) -> None:
        if sender == NOBODY:
            return
        now = self.clock()
        left, since = self._tokens.get(sender, (2 * self.rate, now))
        left = min(2 * self.rate, left + (now - since) * self.rate)
        if left < 1:
            raise self.too_fast((1 - left) / self.rate)
        if len(self._tokens) >= REMEMBERED:
            self._tokens.clear()
        self._tokens[sender] = left - 1, now

    def busy(self) -> Unavailable:
        self._shed.labels("busy").inc()
        return Unavailable("too many deliveries at once; send it again in a moment", reason="busy")

    def share(self) -> Unavailable:
        self._shed.labels("share").inc()
        return Unavailable("too many deliveries of yours at once; send fewer at a time", reason="share", status=429)

    def too_fast(self, seconds: float) -> Unavailable:
        self._shed.labels("rate").inc()
        said = f"more than {self.rate:g} deliveries a second; send fewer, with more events in each"
        return Unavailable(said, reason="rate", status=429, retry_after=seconds)


class Place:
    """One delivery's, with the bytes of its body as they come in."""

    __slots__ = ("room", "sender", "size", "is_left")

    def __init__(self, room: Room, sender: str) -> None:
        self.room, self.sender, self.size, self.is_left = room, sender, 0, False

    def hold(self, size: int) -> None:
        """So many bytes more; raises Unavailable where there is no room for them."""
        room, of = self.room, self.room._by[self.sender]
        if room.bytes + size > room.most_bytes:
            raise room.busy()
        if of[1] + size > room.most_bytes // 2:
            raise room.share()
        room.bytes += size
        of[1] += size
        self.size += size

    def leave(self) -> None:
        if self.is_left:
            return
        self.is_left = True
        room, of = self.room, self.room._by[self.sender]
        room.inside -= 1
        room.bytes -= self.size
        of[0] -= 1
        of[1] -= self.size
        if not of[0]:
            del room._by[self.sender]

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()
