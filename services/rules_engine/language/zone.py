"""A time zone's rules as plain numbers, so that they travel with the program and no host's tables are asked when it is judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

FIRST, LAST = datetime(2015, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def offsets(zone: str) -> tuple[tuple[int, int], ...]:
    """(from, offset from UTC) in microseconds, oldest first, 2015 to 2040; raises ZoneInfoNotFoundError, or ValueError for no name at all."""
    info = ZoneInfo(zone)
    known = [(FIRST, at(info, FIRST))]
    day = FIRST
    while day < LAST:
        after = day + timedelta(days=1)
        if at(info, after) != known[-1][1]:
            known.append((turn(info, day, after), at(info, after)))
        day = after
    return tuple((micros(t - EPOCH), micros(offset)) for t, offset in known)


def at(info: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(info).utcoffset() or timedelta(0)


def turn(info: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second of the new offset."""
    old = at(info, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        low, high = (middle, high) if at(info, middle) == old else (low, middle)
    return high


def micros(delta: timedelta) -> int:
    return delta // timedelta(microseconds=1)
