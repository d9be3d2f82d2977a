"""The usual delivery, read by columns: plain JSON, CloudEvents or report rows in which nothing is missing, misspelt, twice or out of the ordinary.

Whatever is unusual about any part of a delivery gives None, and the careful reading (`plain`, `cloudevent`, `reading`) says what it is and where. What is
read here means exactly what the careful reading would make of it; a property test holds them against each other.

* a typed decoder refuses unknown members and wrong types; it cannot see a key that stands twice, so the strings of the body are counted: every string is
  a key or a value, and one that is not found among what was decoded was overwritten by its twin;
* without a backslash, a DEL and all beyond ASCII nothing is escaped or unprintable (raw controls are no JSON), and NFC changes nothing;
* paths, measures, money and the minutes of instants repeat: each is checked with care once, and looked up from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from operator import le
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from services.ingest.core import normalize, plain
from services.ingest.core.instant import DAY, HOUR, rfc3339
from services.ingest.core.source import Delivery
from services.ingest.core.strict_json import SIZE
from services.kernel.columns import Ints, Numbered, Rows, numbered, numbers
from services.kernel.errors import RejectedInput
from services.kernel.ids import begun, digest, part
from services.kernel.measure import LARGEST, MICRO, MONEY, currency, measure, micros
from services.kernel.record import I64

SAMPLE = 64  # amounts looked at to tell whether many are written alike
LONGEST_SPAN = 400 * 24 * HOUR
SECOND, MINUTE = 1_000_000, 60_000_000

_PATH = re.compile(r"[a-z][a-z0-9_]{0,63}(?:/[!-.0-{}~](?:[ -.0-{}~]{0,126}[!-.0-{}~])?){1,4}")
_SECONDS = re.compile(r":([0-5]\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII)
_CENTS = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`]+")


def _form(size: int) -> tuple[bytes, Any, Any, float]:
    """Of an instant of so many characters, 2026-03-01T12:00:00.000Z: the least characters past its day, by how much each of all may be greater, how many
    microseconds each is worth, and what the zeros among them add. The sums are whole numbers below 2^53, and so exact.
    """
    least = ("0000-00-00T00:00:00.000000"[: size - 1] + "Z").encode()
    most = ("0000-00-00T29:59:59.999999"[: size - 1] + "Z").encode()
    digits = [i for i in range(11, size) if least[i] != most[i]]
    worth = np.zeros(size)
    worth[digits] = [*(w * SECOND for w in (36_000, 3_600, 600, 60, 10, 1)), *(10 ** (5 - i) for i in range(len(digits) - 6))]
    return least[11:], np.frombuffer(most, np.uint8) - np.frombuffer(least, np.uint8), worth, ord("0") * float(worth.sum())


_FORMS = {size: _form(size) for size in (20, 24, 27)}


class Unusual(Exception):
    """The careful reading must look at this delivery."""


class Money(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    amount: str | int
    currency: str


Amounts = dict[str, int | str | Money]  # each a msgspec.Raw at first: what several events say in the same bytes is read once


class PlainEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    entity: str
    occurred_at: str
    amounts: msgspec.Raw
    kind: str | UnsetType = UNSET
    source: str | UnsetType = UNSET


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: list[PlainEvent]


class Data(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    amounts: msgspec.Raw


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
    amounts: msgspec.Raw
    as_of: str


_EVENT, _EVENTS, _ENVELOPE = msgspec.json.Decoder(PlainEvent), msgspec.json.Decoder(list[PlainEvent]), msgspec.json.Decoder(Envelope)
_CLOUDS, _ROWS, _AMOUNTS = msgspec.json.Decoder(list[Cloud]), msgspec.json.Decoder(list[Row]), msgspec.json.Decoder(list[Amounts])


Read: TypeAlias = tuple[Rows, list[int]]  # what several deliveries say, and how many events each of them has


def events(deliveries: Sequence[Delivery], source: str) -> Read | None:
    """What deliveries of events in plain JSON say, or None where any of them is unusual."""
    return together(deliveries, lambda bodies, horizon: _events(bodies, source, horizon))


def clouds(deliveries: Sequence[Delivery], source: str) -> Read | None:
    """What batches of CloudEvents in JSON say, or None. `source` stands for those whose own source is a URI."""
    return together(deliveries, lambda bodies, horizon: _clouds(bodies, source, horizon))


def reports(deliveries: Sequence[Delivery], source: str) -> Read | None:
    """What report rows in the plain form say, without a breakdown, or None."""
    return together(deliveries, lambda bodies, horizon: _reports(bodies, source, horizon))


def together(deliveries: Sequence[Delivery], read: Callable[[Sequence[bytes], int], Read]) -> Read | None:
    """What `read` makes of the bodies, or None where it finds any of them unusual."""
    bodies = [d.body for d in deliveries]
    whole = bodies[0] if len(bodies) == 1 else b"".join(bodies)
    if not whole.isascii() or b"\\" in whole or b"\x7f" in whole or max(map(len, bodies)) > SIZE:
        return None
    try:
        return read(bodies, min([d.horizon for d in deliveries]))
    except (Unusual, RejectedInput, msgspec.DecodeError):
        return None


def attempt(delivery: Delivery, read: Callable[[bytes], Rows]) -> Rows | None:
    """The same of one delivery."""
    found = together((delivery,), lambda bodies, _: (read(bodies[0]), []))
    return found[0] if found is not None else None


# -- three forms -------------------------------------------------------------------------------------------------------


def _events(bodies: Sequence[bytes], source: str, horizon: int) -> Read:
    strings, given, of = 0, list[PlainEvent](), list[int]()
    for body in bodies:
        before = len(given)
        if body.startswith(b"["):
            given += _EVENTS.decode(body)
        elif body.startswith(b'{"events"'):
            given += _ENVELOPE.decode(body).events
            strings += 1
        else:
            given.append(_EVENT.decode(body))
        of.append(len(given) - before)
    n = len(given)
    kinds, kind_strings = _filled([e.kind for e in given], "event")
    sources, source_strings = _filled([e.source for e in given], source)
    sizes, measures, amounts, quotes = _amounts([e.amounts for e in given])
    counted(bodies, strings + 7 * n + kind_strings + source_strings, quotes)
    ids, paths = keys([e.id for e in given], sources, of), paths_of([e.entity for e in given])
    return Rows(ids, paths, sources, _kinds(kinds), instants([e.occurred_at for e in given], horizon), sizes, measures, amounts), of


def _clouds(bodies: Sequence[bytes], source: str, horizon: int) -> Read:
    batches = [_CLOUDS.decode(body) for body in bodies]
    given, of = list(chain.from_iterable(batches)), list(map(len, batches))
    n = len(given)
    if any(e.specversion != "1.0" for e in given) or any(e.datacontenttype not in (UNSET, "application/json") for e in given):
        raise Unusual
    written = [e.source for e in given]
    named = {name: _is_source(name) for name in set(written)}
    ids = [e.id if named[e.source] else digest("cloudevent", e.source, _text(e.id)) for e in given]
    sources = numbered([name if named[name] else source for name in written])
    sizes, measures, amounts, quotes = _amounts([e.data.amounts for e in given])
    counted(bodies, 14 * n + 2 * sum(e.datacontenttype is not UNSET for e in given), quotes)
    kinds, occurred = _kinds(numbered([e.type for e in given])), instants([e.time for e in given], horizon)
    return Rows(keys(ids, sources, of), paths_of([e.subject for e in given]), sources, kinds, occurred, sizes, measures, amounts), of


def _reports(bodies: Sequence[bytes], source: str, horizon: int) -> Read:
    pages = [_ROWS.decode(body) for body in bodies]
    given, of = list(chain.from_iterable(pages)), list(map(len, pages))
    n = len(given)
    sizes, measures, amounts, quotes = _amounts([e.amounts for e in given])
    counted(bodies, 10 * n, quotes)
    paths = [e.entity for e in given]
    intervals = [(e.interval.start, e.interval.end) for e in given]
    spans = {texts: span(texts) for texts in dict.fromkeys(intervals)}
    starts, ends = [spans[texts][0] for texts in intervals], [spans[texts][1] for texts in intervals]
    as_of = list(map(int, instants([e.as_of for e in given], horizon)))
    if any(map(le, as_of, starts)):
        raise Unusual
    good = paths_of(paths)
    rows = [PART[path] + spans[texts][2] for path, texts in zip(paths, intervals, strict=True)]
    ids = list(map(bytes.hex, hashed(begun("report"), [row + part(str(at)) for row, at in zip(rows, as_of, strict=True)])))
    row_ids = hashed(begun("row", source), rows)
    sources, occurred = of_one(source, n), list(map(min, as_of, [end - 1 for end in ends]))
    return Rows(keys(ids, sources, of), good, sources, of_one("report", n), occurred, sizes, measures, amounts, starts, ends, as_of, row_ids), of


def span(texts: tuple[str, str]) -> tuple[int, int, bytes]:
    """(the interval's start, its end, what a hash reads of them)."""
    start, end = INSTANT[texts[0]], INSTANT[texts[1]]
    if not start < end <= start + LONGEST_SPAN:
        raise Unusual
    return start, end, part(str(start)) + part(str(end))


# -- columns -----------------------------------------------------------------------------------------------------------


def counted(bodies: Sequence[bytes], strings: int, quotes: int = 0) -> None:
    """Every string of the bodies is among those decoded: no key stands twice. None holds fewer than was decoded of it, so one sum tells of all.

    `quotes` are those of parts that were counted by themselves.
    """
    if _quotes(b"".join(bodies)) != 2 * strings + quotes:
        raise Unusual


def _quotes(text: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == 0x22))


def of_one(word: str, n: int) -> Numbered:
    """A column of the same word."""
    return Numbered((word,), np.zeros(n, np.uint32))


def _filled(column: list[str | UnsetType], default: str) -> tuple[Numbered, int]:
    """(the column with a default where it is unset, how many strings of the body it holds, keys included)."""
    unset = column.count(UNSET)
    if unset == len(column):
        return of_one(default, unset), 0
    filled: Any = [default if word is UNSET else word for word in column] if unset else column
    return numbered(filled), 2 * (len(column) - unset)


def keys(ids: list[str], sources: Numbered, of: Sequence[int]) -> list[bytes]:
    """The keys that events are deduplicated by; no id is empty, endless, or twice in one delivery. `of` says how many each delivery has."""
    n, sizes = len(ids), list(map(len, ids))
    if not 0 < min(of) <= max(of) <= plain.MOST:
        raise Unusual
    if len(set(ids)) != n and any(len(set(ids[end - size : end])) != size for end, size in zip(accumulate(of), of, strict=True)):
        raise Unusual
    are_alike = sizes.count(sizes[0]) == n
    shortest, longest = (sizes[0], sizes[0]) if are_alike else (min(sizes), max(sizes))
    if not 0 < shortest <= longest <= normalize.LONGEST_ID or (" " in "".join(ids) and not all(map(str.strip, ids))):
        raise Unusual
    encoded = map(str.encode, ids)
    if are_alike and len(sources.words) == 1:
        return hashed(_BEGUN[sources.words[0], sizes[0]], encoded)
    begun = [_BEGUN[key].copy for key in zip(sources, sizes, strict=True)]
    return [(h := begin()).update(ident) or h.digest() for begin, ident in zip(begun, encoded, strict=True)]


def hashed(begun: Any, texts: Iterable[bytes]) -> list[bytes]:
    """What a hash that has read some parts makes of each text after them."""
    begin = begun.copy
    return [(h := begin()).update(text) or h.digest() for text in texts]


def paths_of(paths: list[str]) -> Numbered:
    found = numbered(paths)
    all(map(_GOOD.__getitem__, found.words))
    return found


def _kinds(kinds: Numbered) -> Numbered:
    for kind in kinds.words:
        if len(kind) > 64:
            raise Unusual
        normalize.kind(kind)
    return kinds


def instants(written: list[str], horizon: int) -> Ints:
    alike = _alike(written) if len(written) >= 8 else None
    made: Ints = [_MINUTE[text[:16]] + _SECOND[text[16:]] for text in written] if alike is None else alike
    if (max(made) if alike is None else alike.max()) > horizon + normalize.AHEAD:
        raise Unusual
    return made


def _alike(written: list[str]) -> I64 | None:
    """Texts of one day and of one length, in UTC, are read at once; None for others."""
    n, size, day = len(written), len(written[0]), written[0][:11]
    if size not in _FORMS:
        return None
    text = "".join(written)
    if len(text) != n * size:
        return None
    least, spans, worth, zeros = _FORMS[size]
    rows = np.frombuffer(text.encode(), np.uint8).reshape(n, size)
    if (rows - np.frombuffer(day.encode() + least, np.uint8) > spans).any():
        return None
    of_day = (rows @ worth - zeros).astype(np.int64)
    if of_day.max() >= DAY:  # an hour past 23
        return None
    instants: I64 = of_day + _MINUTE[f"{day}00:00"]
    return instants


def _amounts(written: list[msgspec.Raw]) -> tuple[Ints, Numbered, I64, int]:
    """(how many each event has, measures, micro-units, how many quotes they hold); every event has some, and says each once.

    Where many are written in the same bytes, what is written alike is read once.
    """
    if _repeats(written):
        joined = b"\n".join(written)
        texts = joined.split(b"\n")
        if len(texts) != len(written):  # a line ends within one
            texts = list(map(bytes, written))
        different, which = numbers(texts)
        n, read = len(different), b",".join(different)
    else:
        n, which = len(written), np.zeros(0, np.uint32)
        joined = read = b",".join(written)
    given = _AMOUNTS.decode(b"[%b]" % read)
    if len(given) != n:
        raise Unusual
    sizes, measures, amounts, strings = _each(given)
    quotes = _quotes(joined)
    if (quotes if read is joined else _quotes(read)) != 2 * strings:
        raise Unusual
    words = numbered(measures)
    if n == len(written):
        return sizes, words, amounts, quotes
    at, counts = which.astype(np.intp), np.array(sizes)
    of_each = counts.take(at)
    if len(measures) != n:  # some say several things: where those of each event stand among all
        ends = of_each.cumsum()
        at = (counts.cumsum().take(at) - ends).repeat(of_each) + np.arange(ends[-1])
    return of_each, Numbered(words.words, words.index.take(at)), amounts.take(at), quotes


def _repeats(written: list[msgspec.Raw]) -> bool:
    """Whether half of the first few are written like another of them; where they are not, numbering all costs more than it saves."""
    few = written[:SAMPLE]
    return 2 * len(set(map(bytes, few))) <= len(few)


def _each(given: list[dict[str, Any]]) -> tuple[list[int], list[str], I64, int]:
    """(how many each of these has, measures, micro-units, strings among them)."""
    sizes = list(map(len, given))
    if not sizes or not min(sizes):
        raise Unusual
    measures: list[str] = list(chain.from_iterable(given))
    values: list[Any] = list(chain.from_iterable(map(dict.values, given)))
    odd = [i for i, value in enumerate(values) if type(value) is not int]
    if not odd:
        return sizes, measures, _counts(set(measures), values), len(measures)
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
        made = _counts([name for name in set(measures) if "@" not in name], values)
    else:
        is_odd = set(odd)
        made = _counts([name for i, name in enumerate(measures) if i not in is_odd], values)
    made[odd] = taken
    return sizes, measures, made, strings


def _counts(measures: Iterable[str], values: list[int]) -> I64:
    """The micro-units of numbers of which all are counted, and none is negative or past what an amount may be."""
    if not all(map(IS_COUNTED.__getitem__, measures)) or min(values) < 0 or max(values) > LARGEST // MICRO:
        raise Unusual
    return np.array(values, np.int64) * MICRO


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
    h = begun("event", normalize.word(source, "source"))
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
PART: _Known[str, bytes] = _Known(part, 65_536)
_GOOD: _Known[str, bool] = _Known(_path, 65_536)
_MINUTE: _Known[str, int] = _Known(lambda text: rfc3339(f"{text}:00Z"), 65_536)
_SECOND: _Known[str, int] = _Known(_second, 65_536)
INSTANT: _Known[str, int] = _Known(rfc3339, 4096)
IS_COUNTED: _Known[str, bool] = _Known(_is_counted, 4096)
IN_CURRENCY: _Known[tuple[str, str], str] = _Known(_money, 4096)
MICROS_OF: _Known[str, int] = _Known(_micros, 65_536)

