"""Instants and days as senders write them become integer microseconds UTC; what is ambiguous is refused, never guessed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from services.kernel.errors import RejectedInput

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
EARLIEST, LATEST = 631_152_000 * SECOND, 4_102_444_800 * SECOND  # 1990 to 2100: outside, the unit is wrong

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(value: object) -> int:
    """Microseconds of an RFC 3339 timestamp with its offset; digits beyond microseconds are cut. RejectedInput `bad_time` otherwise."""
    if not isinstance(value, str) or (match := _RFC3339.fullmatch(value)) is None:
        raise RejectedInput(f"{str(value)[:40]!r} is not an RFC 3339 instant such as 2026-03-01T12:00:00Z (the offset is needed)", reason="bad_time")
    text = value.upper().replace(" ", "T")
    fraction = match.group(1)
    if fraction and len(fraction) > 6:
        text = text.replace(fraction, fraction[:6], 1)
    try:
        return micros_of(datetime.fromisoformat(text))
    except ValueError:
        raise RejectedInput(f"{value!r} is not a date and time that exists", reason="bad_time") from None


def instant(value: object) -> int:
    """RFC 3339 text, or an integer of microseconds since the epoch."""
    return epoch(value, 1) if isinstance(value, int) and not isinstance(value, bool) else rfc3339(value)


def epoch(value: object, unit: int) -> int:
    """Microseconds of an integer count of `unit` microseconds; RejectedInput `bad_time` outside 1990 to 2100, where the unit is surely another."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise RejectedInput(f"{str(value)[:40]!r} is not a whole number of time units since 1970", reason="bad_time")
    if not EARLIEST <= value * unit <= LATEST:
        names = {1: "microseconds", 1000: "milliseconds", SECOND: "seconds"}
        raise RejectedInput(f"read as {names.get(unit, 'units')} since 1970 the time is not between 1990 and 2100", reason="bad_time")
    return value * unit


def micros_of(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def local(value: str, zone: tzinfo) -> int:
    """Microseconds of a date and time without offset, as clocks in `zone` showed it; `2021-08-09 14:22:58` and `2022-02-01 2:20:51` are read."""
    text = value.strip().replace("T", " ")
    head, _, fraction = text.partition(".")
    try:
        moment = datetime.strptime(head, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the zone follows
    except ValueError:
        raise RejectedInput(f"{value[:40]!r} is not a date and time such as 2026-03-01 14:30:00", reason="bad_time") from None
    micro = int((fraction + "000000")[:6]) if fraction.isdigit() else 0
    return micros_of(moment.replace(tzinfo=zone)) + micro


def day(value: str, zone: tzinfo, form: str = "%Y-%m-%d") -> tuple[int, int]:
    """[start, end) of a local day `2026-03-01` (a midnight time after it is allowed); 23 or 25 hours long where the clocks change."""
    text = value.strip()
    for midnight in (" 00:00:00", "T00:00:00", " 0:00:00"):
        text = text.removesuffix(midnight)
    try:
        return _day(text, zone, form)
    except (ValueError, OverflowError):
        raise RejectedInput(f"{value[:40]!r} is not a day written like {form}, such as 2026-03-01 for %Y-%m-%d", reason="bad_time") from None


@lru_cache(1024)
def _day(text: str, zone: tzinfo, form: str) -> tuple[int, int]:
    """Remembered, since the rows of a report are of a few days. Raises ValueError, or OverflowError at the end of all years."""
    start = datetime.strptime(text, form)  # noqa: DTZ007 - the zone follows
    return micros_of(start.replace(tzinfo=zone)), micros_of((start + timedelta(days=1)).replace(tzinfo=zone))
