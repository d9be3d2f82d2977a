"""The usual delivery, read by columns: plain JSON, CloudEvents or report rows in which nothing is missing, misspelt, twice or out of the ordinary.

Whatever is unusual about any part of a delivery gives None, and the careful reading (`plain`, `cloudevent`, `reading`) says what it is and where. What is
read here means exactly what the careful reading would make of it; a property test holds them against each other.

* a typed decoder refuses unknown members and wrong types; it cannot see a key that stands twice, so the strings of the body are counted: every string is
  a key or a value, and one that is not found among what was decoded was overwritten by its twin;
* without a backslash and beyond ASCII nothing is escaped, and NFC changes nothing;
* paths, measures, money and the minutes of instants repeat: each is checked with care once, and looked up from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from services.ingest.core import normalize, plain
from services.ingest.core.instant import DAY, HOUR, rfc3339
from services.ingest.core.source import Delivery
from services.ingest.core.strict_json import SIZE
from services.kernel.columns import Rows
from services.kernel.errors import RejectedInput
from services.kernel.ids import digest
from services.kernel.measure import LARGEST, MICRO, MONEY, currency, measure, micros

LONGEST_SPAN = 400 * 24 * HOUR
SECOND, MINUTE = 1_000_000, 60_000_000

_PATH = re.compile(r"[a-z][a-z0-9_]{0,63}(?:/[!-.0-{}~](?:[ -.0-{}~]{0,126}[!-.0-{}~])?){1,4}")
_SECONDS = re.compile(r":([0-5]\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII)
_CENTS = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`]+")


def _form(size: int) -> tuple[Any, Any, Any, Any]:
    """Where an instant of so many characters, 2026-03-01T12:00:00.000Z, has its marks, which they are, where its digits of the day, and what each is worth."""
    text = "0000-00-00T00:00:00.000000"[: size - 1] + "Z"
    marks = [i for i, c in enumerate(text) if not c.isdigit()]
    worth = [36_000, 3_600, 600, 60, 10, 1]
    places = [i for i in range(11, size) if text[i].isdigit()]
    micros = [w * SECOND for w in worth] + [10 ** (5 - i) for i in range(len(places) - 6)]
    return np.array(marks), np.array([ord(text[i]) for i in marks], np.uint8), np.array(places), np.array(micros)


_FORMS = {size: _form(size) for size in (20, 24, 27)}


class Unusual(Exception):
    """The careful reading must look at this delivery."""


class Money(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    amount: str | int
    currency: str


Amounts = dict[str, int | str | Money]


class PlainEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    entity: str
    occurred_at: str
    amounts: Amounts
    kind: str | UnsetType = UNSET
    source: str | UnsetType = UNSET


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: list[PlainEvent]


class Data(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    amounts: Amounts


class Cloud(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str
    data: Data
    datacontenttype: str | UnsetType = UNSET


class Interval(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    start: str
    end: str


class Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    entity: str
    interval: Interval
    amounts: Amounts
    as_of: str


_EVENT, _EVENTS, _ENVELOPE = msgspec.json.Decoder(PlainEvent), msgspec.json.Decoder(list[PlainEvent]), msgspec.json.Decoder(Envelope)
_CLOUDS, _ROWS = msgspec.json.Decoder(list[Cloud]), msgspec.json.Decoder(list[Row])


def events(delivery: Delivery, source: str) -> Rows | None:
    """What events in plain JSON say, or None."""
    return attempt(delivery, lambda body: _events(body, source, delivery.horizon))


def clouds(delivery: Delivery, source: str) -> Rows | None:
    """What a batch of CloudEvents in JSON says, or None. `source` stands for those whose own source is a URI."""
    return attempt(delivery, lambda body: _clouds(body, source, delivery.horizon))


def report(delivery: Delivery, source: str) -> Rows | None:
    """What report rows in the plain form say, without a breakdown, or None."""
    return attempt(delivery, lambda body: _report(body, source, delivery.horizon))


def attempt(delivery: Delivery, read: Callable[[bytes], Rows]) -> Rows | None:
    """What `read` makes of the body, or None where it finds it unusual."""
    body = delivery.body
    if not body.isascii() or b"\\" in body or len(body) > SIZE:
        return None
    try:
        return read(body)
    except (Unusual, RejectedInput, msgspec.DecodeError):
        return None


# -- three forms -------------------------------------------------------------------------------------------------------


def _events(body: bytes, source: str, horizon: int) -> Rows:
    strings = 0
    if body.startswith(b"["):
        given = _EVENTS.decode(body)
    elif body.startswith(b'{"events"'):
        given, strings = _ENVELOPE.decode(body).events, 1
    else:
        given = [_EVENT.decode(body)]
    n = len(given)
    kinds, kind_strings = _filled([e.kind for e in given], "event")
    sources, source_strings = _filled([e.source for e in given], source)
    sizes, measures, amounts, amount_strings = _amounts([e.amounts for e in given])
    counted(body, strings + 7 * n + kind_strings + source_strings + amount_strings)
    ids, paths = keys([e.id for e in given], sources), paths_of([e.entity for e in given])
    return Rows(ids, paths, sources, _kinds(kinds), instants([e.occurred_at for e in given], horizon), sizes, measures, amounts)


def _clouds(body: bytes, source: str, horizon: int) -> Rows:
    given = _CLOUDS.decode(body)
    n = len(given)
    if any(e.specversion != "1.0" for e in given) or any(e.datacontenttype not in (UNSET, "application/json") for e in given):
        raise Unusual
    written = [e.source for e in given]
    named = {name: _is_source(name) for name in set(written)}
    ids = [e.id if named[e.source] else digest("cloudevent", e.source, _text(e.id)) for e in given]
    sources = [name if named[name] else source for name in written]
    sizes, measures, amounts, within = _amounts([e.data.amounts for e in given])
    counted(body, 14 * n + 2 * sum(e.datacontenttype is not UNSET for e in given) + within)
    occurred = instants([e.time for e in given], horizon)
    return Rows(keys(ids, sources), paths_of([e.subject for e in given]), sources, _kinds([e.type for e in given]), occurred, sizes, measures, amounts)


def _report(body: bytes, source: str, horizon: int) -> Rows:
    given = _ROWS.decode(body)
    n = len(given)
    sizes, measures, amounts, within = _amounts([e.amounts for e in given])
    counted(body, 10 * n + within)
    paths = paths_of([e.entity for e in given])
    starts, ends = [INSTANT[e.interval.start] for e in given], [INSTANT[e.interval.end] for e in given]
    as_of = instants([e.as_of for e in given], horizon)
    for start, end, read in zip(starts, ends, as_of, strict=True):
        if not start < end <= start + LONGEST_SPAN or read <= start:
            raise Unusual
    ids = [digest("report", *row) for row in zip(paths, map(str, starts), map(str, ends), map(str, as_of), strict=True)]
    row_ids = [bytes.fromhex(digest("row", source, path, str(start), str(end))) for path, start, end in zip(paths, starts, ends, strict=True)]
    sources, occurred = [source] * n, list(map(min, as_of, [end - 1 for end in ends]))
    return Rows(keys(ids, sources), paths, sources, ["report"] * n, occurred, sizes, measures, amounts, starts, ends, as_of, row_ids)


# -- columns -----------------------------------------------------------------------------------------------------------


def counted(body: bytes, strings: int) -> None:
    """Every string of the body is among those decoded: no key stands twice."""
    if np.count_nonzero(np.frombuffer(body, np.uint8) == 0x22) != 2 * strings:
        raise Unusual


def _filled(column: list[str | UnsetType], default: str) -> tuple[list[str], int]:
    """(the column with a default where it is unset, how many strings of the body it holds, keys included)."""
    unset = column.count(UNSET)
    filled = [default if word is UNSET else word for word in column] if unset else column
    return filled, 2 * (len(column) - unset)  # type: ignore[return-value]  # nothing unset is left


def keys(ids: list[str], sources: list[str]) -> list[bytes]:
    """The keys that events are deduplicated by; no id is empty, endless, unprintable or there twice."""
    n, sizes = len(ids), list(map(len, ids))
    if not 0 < n <= plain.MOST or len(set(ids)) != n or not all(map(str.strip, ids)) or not "".join(ids).isprintable():
        raise Unusual
    if max(sizes) > normalize.LONGEST_ID:
        raise Unusual
    encoded = map(str.encode, ids)
    if sources.count(sources[0]) == n and sizes.count(sizes[0]) == n:
        begin = _BEGUN[sources[0], sizes[0]].copy
        return [(h := begin()).update(ident) or h.digest() for ident in encoded]
    begun = [_BEGUN[key].copy for key in zip(sources, sizes, strict=True)]
    return [(h := begin()).update(ident) or h.digest() for begin, ident in zip(begun, encoded, strict=True)]


def paths_of(paths: list[str]) -> list[str]:
    all(map(_GOOD.__getitem__, paths))
    return paths


def _kinds(kinds: list[str]) -> list[str]:
    for kind in set(kinds):
        if len(kind) > 64:
            raise Unusual
        normalize.kind(kind)
    return kinds


def instants(written: list[str], horizon: int) -> list[int]:
    made = _alike(written) if len(written) >= 8 else None
    if made is None:
        made = [_MINUTE[text[:16]] + _SECOND[text[16:]] for text in written]
    if max(made) > horizon + normalize.AHEAD:
        raise Unusual
    return made


def _alike(written: list[str]) -> list[int] | None:
    """Texts of one day and of one length, in UTC, are read at once; None for others."""
    n, size, day = len(written), len(written[0]), written[0][:11]
    if size not in _FORMS:
        return None
    text = "".join(written)
    if len(text) != n * size or text.count(day) != n:
        return None
    rows = np.frombuffer(text.encode(), np.uint8).reshape(n, size)
    marks, signs, places, worth = _FORMS[size]
    digits = rows[:, places] - 48
    if digits.max() > 9 or digits[:, 2].max() > 5 or digits[:, 4].max() > 5 or (rows[:, marks] != signs).any():
        return None
    of_day = digits @ worth
    if of_day.max() >= DAY:  # an hour past 23
        return None
    return (of_day + _MINUTE[f"{day}00:00"]).tolist()  # type: ignore[no-any-return]


def _amounts(given: list[dict[str, Any]]) -> tuple[list[int], list[str], list[int], int]:
    """(how many each event has, measures, micro-units, strings among them); every event has some."""
    sizes = list(map(len, given))
    if not sizes or not min(sizes):
        raise Unusual
    measures: list[str] = list(chain.from_iterable(given))
    values: list[Any] = list(chain.from_iterable(map(dict.values, given)))
    odd = [i for i, value in enumerate(values) if type(value) is not int]
    if not odd:
        _counts(set(measures), values)
        return sizes, measures, [value * MICRO for value in values], len(measures)
    plain_names = set(measures)
    taken: list[int] = []
    moneys, strings = 0, len(measures)
    for i in odd:
        value, name = values[i], measures[i]
        if type(value) is Money:
            written = value.amount
            measures[i] = IN_CURRENCY[name, value.currency]
            strings += 4 if isinstance(written, str) else 3
            moneys += 1
            taken.append(MICROS_OF[written] if isinstance(written, str) else _micros_of(written))
        else:
            strings += 1
            taken.append(MICROS_OF[value])
            if IS_COUNTED[name] and taken[-1] < 0:
                raise Unusual
        values[i] = 0
    if moneys and any("@" in name for name in plain_names):
        raise Unusual  # one event might say one measure in both ways
    if moneys == len(odd):  # what is left is counted
        _counts([name for name in set(measures) if "@" not in name], values)
    else:
        is_odd = set(odd)
        _counts([name for i, name in enumerate(measures) if i not in is_odd], values)
    made = [value * MICRO for value in values]
    for i, amount in zip(odd, taken, strict=True):
        made[i] = amount
    return sizes, measures, made, strings


def _counts(measures: Iterable[str], values: list[int]) -> None:
    """Returns where all the measures are counted, and none of the numbers is negative or past what an amount may be."""
    if not all(map(IS_COUNTED.__getitem__, measures)) or min(values) < 0 or max(values) > LARGEST // MICRO:
        raise Unusual


def count_of(value: int) -> int:
    """Micro-units of something counted."""
    if not 0 <= value <= LARGEST // MICRO:
        raise Unusual
    return value * MICRO


def _micros_of(amount: int) -> int:
    if abs(amount) > LARGEST // MICRO:
        raise Unusual
    return amount * MICRO


# -- what repeats ------------------------------------------------------------------------------------------------------

K = TypeVar("K")
V = TypeVar("V")


class _Known(dict[K, V], Generic[K, V]):
    """Looks a thing up that was made with care once; forgets all when it holds `most`."""

    def __init__(self, make: Callable[[K], V], most: int) -> None:
        super().__init__()
        self._make, self._most = make, most

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value


def _begin(key: tuple[str, int]) -> Any:
    """A hash that has read all that `kernel.ids.event_id` reads of a source and an id of so many bytes, but the id itself."""
    source, size = key
    h = blake2b(digest_size=16)
    for part in (b"event", normalize.word(source, "source").encode()):
        h.update(len(part).to_bytes(8, "little") + part)
    h.update(size.to_bytes(8, "little"))
    return h


def _path(path: str) -> bool:
    if not _PATH.fullmatch(path):
        raise Unusual
    return True


def _second(text: str) -> int:
    found = _SECONDS.fullmatch(text)
    if found is None:
        raise Unusual
    seconds, fraction, sign, hours, minutes = found.groups()
    made = int(seconds) * SECOND + (int(fraction[:6].ljust(6, "0")) if fraction else 0)
    if sign:
        offset = int(hours) * HOUR + int(minutes) * MINUTE
        made += offset if sign == "-" else -offset
    return made


def _is_counted(name: str) -> bool:
    of = measure(name)
    if str(of) != name or (of.base in MONEY and not of.currency):
        raise Unusual
    return not of.currency


def _money(key: tuple[str, str]) -> str:
    name, code = key
    return str(measure(f"{name}@{currency(code)}"))


def _micros(text: str) -> int:
    found = _CENTS.fullmatch(text)
    if found is None:
        return micros(text)
    whole, rest = found.groups()
    return int(whole) * MICRO + int(rest.ljust(6, "0")) if rest else int(whole) * MICRO


def _is_source(name: str) -> bool:
    """Whether a CloudEvent's source names a source; a URI reference does not."""
    if not _REFERENCE.fullmatch(name) or not _text(name):
        raise Unusual
    try:
        return bool(normalize.word(name, "source"))
    except RejectedInput:
        return False


def _text(value: str) -> str:
    return normalize.text(value, "text")


_BEGUN: _Known[tuple[str, int], Any] = _Known(_begin, 8192)
_GOOD: _Known[str, bool] = _Known(_path, 65_536)
_MINUTE: _Known[str, int] = _Known(lambda text: rfc3339(f"{text}:00Z"), 65_536)
_SECOND: _Known[str, int] = _Known(_second, 65_536)
INSTANT: _Known[str, int] = _Known(rfc3339, 4096)
IS_COUNTED: _Known[str, bool] = _Known(_is_counted, 4096)
IN_CURRENCY: _Known[tuple[str, str], str] = _Known(_money, 4096)
MICROS_OF: _Known[str, int] = _Known(_micros, 65_536)

