"""From what a sender wrote to an Event: texts, paths, amounts, attributes and instants that the log may carry. Every function refuses with a reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from services.ingest.core.instant import HOUR
from services.ingest.core.refused import Refused, at, step
from services.kernel.entity import LEVELS
from services.kernel.event import Event, Snapshot, Value
from services.kernel.measure import MONEY, count, currency, measure, micros

AHEAD = HOUR  # an event dated further ahead of its receipt is not believed
LONGEST_TEXT = 1024
LONGEST_ID = 256

_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}", re.ASCII)


def text(value: object, what: str, longest: int = LONGEST_TEXT) -> str:
    """A non-empty text in NFC that every store can hold; Refused `bad_text` for controls, NUL, half a surrogate pair, or too much of it."""
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{what} must be a text that is not empty", reason="bad_text")
    if not value.isprintable() and (bad := next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None)) is not None:
        raise Refused(f"{what} holds the character U+{ord(bad):04X}, which no text needs", reason="bad_text")
    made = value if value.isascii() else unicodedata.normalize("NFC", value)
    if len(made) > longest:
        raise Refused(f"{what} has {len(made)} characters; at most {longest} are kept", reason="bad_text")
    return made


def native_id(value: object, what: str = "id") -> str:
    """A sender's id: a text or a whole number. A fraction is refused: 1.0 and 1 would be two ids."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128:
        return str(value)
    if value is None:
        raise Refused(f"{what} is missing: without it a repeated delivery would count twice", reason="missing_id")
    return text(value, what, LONGEST_ID)


def word(value: object, what: str) -> str:
    """A lower-case word such as meta_ads."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise Refused(f"{what} {str(value)[:40]!r} is not a word of a-z, 0-9 and _, such as meta_ads", reason=f"bad_{what}")
    return value


def kind(value: object) -> str:
    if not isinstance(value, str) or not _KIND.fullmatch(value):
        raise Refused(f"kind {str(value)[:40]!r} is not a word such as impression or com.example.sale", reason="bad_kind")
    return value


def path(value: object) -> str:
    """platform/account[/campaign[/ad_group[/creative]]] of native ids; Refused `bad_entity`."""
    if not isinstance(value, str) or not 1 <= value.count("/") < len(LEVELS):
        raise Refused(f"{str(value)[:80]!r} is not an entity path: platform/account[/campaign[/ad_group[/creative]]]", reason="bad_entity")
    return _path(value)


@lru_cache(65_536)
def _path(value: str) -> str:
    platform, *parts = value.split("/")
    try:
        return "/".join([word(platform, "platform"), *(part(p) for p in parts)])
    except Refused as error:
        raise Refused(str(error), reason="bad_entity") from None


def part(value: object) -> str:
    """One native id as a level of a path."""
    made = text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value, "an entity's id", 128)
    if any(c in "/|" for c in made) or made != made.strip():
        raise Refused(f"an entity's id may not hold / or | or begin or end with a space: {made[:40]!r}", reason="bad_entity")
    return made


def amounts(given: object, pointer: str = "") -> dict[str, int]:
    """{measure: micro-units} of {"impressions": 1, "spend": {"amount": "1.25", "currency": "EUR"}}; `spend@EUR: "1.25"` is the same."""
    if not isinstance(given, Mapping):
        raise Refused("amounts must be an object of measure names and numbers", reason="bad_amounts", pointer=pointer)
    made: dict[str, int] = {}
    for name, value in given.items():
        here = step(pointer, name)
        with at(here):
            full, amount = _amount(name, value, here)
            if full in made:
                raise Refused(f"{full} is given twice", reason="duplicate_key", pointer=here)
            made[full] = amount
    return made


def _amount(name: str, value: object, pointer: str) -> tuple[str, int]:
    if isinstance(value, Mapping):
        if set(value) != {"amount", "currency"}:
            raise Refused('money is written {"amount": "1.25", "currency": "EUR"}', reason="bad_amounts", pointer=pointer)
        with at(pointer, "currency"):
            name = f"{name}@{currency(value['currency'])}"
        pointer, value = step(pointer, "amount"), value["amount"]
    of = measure(name)
    if of.base in MONEY and not of.currency:
        raise Refused(f'{of.base} is money: write {{"amount": ..., "currency": "EUR"}}', reason="unknown_currency", pointer=pointer)
    with at(pointer):
        return str(of), micros(value) if of.currency else count(value)


def attributes(given: object, pointer: str = "") -> dict[str, Value]:
    """Texts stay texts, numbers (and money, without its currency) become micro-units, true and false become words."""
    if not isinstance(given, Mapping):
        raise Refused("attributes must be an object of names and values", reason="bad_attributes", pointer=pointer)
    made: dict[str, Value] = {}
    for name, value in given.items():
        here = step(pointer, name)
        with at(here):
            made[word(name, "attribute")] = attribute(value)
    return made


def attribute(value: object) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return text(value, "an attribute")
    if isinstance(value, Mapping) and set(value) == {"amount", "currency"}:
        currency(value["currency"])
        return micros(value["amount"])
    if value is None or isinstance(value, list | Mapping):
        raise Refused("an attribute is a text, a number, true or false; leave out what is not known", reason="bad_attributes")
    return micros(value)


def snapshot(interval_start: int, interval_end: int, as_of: int, row: tuple[str, ...]) -> Snapshot:
    """Refused `bad_interval` unless start < end, of at most 400 days, and as_of is not before the start."""
    if not interval_start < interval_end <= interval_start + 400 * 24 * HOUR:
        raise Refused("the interval must end after it starts, and span at most 400 days", reason="bad_interval")
    if as_of <= interval_start:
        raise Refused("as_of is not after the start of the interval: the row cannot know it yet", reason="bad_interval")
    return Snapshot(interval_start, interval_end, as_of, row)


def not_ahead(instant: int, horizon: int, what: str = "occurred_at") -> int:
    """The instant, unless it lies more than an hour ahead of the receipt (Refused `far_future`)."""
    if instant > horizon + AHEAD:
        raise Refused(f"{what} is {(instant - horizon) / HOUR:,.1f} h ahead of its receipt; at most 1 h is believed", reason="far_future")
    return instant


def checked(event: Event, horizon: int) -> Event:
    """The event itself, if it says something and not of the far future."""
    not_ahead(event.occurred_at, horizon)
    if event.snapshot is not None:
        not_ahead(event.snapshot.as_of, horizon, "as_of")
    if not event.amounts and not event.attributes:
        raise Refused("the event has neither amounts nor attributes: it says nothing", reason="empty_event")
    return event


def members(value: Any, allowed: frozenset[str], what: str, pointer: str = "") -> Mapping[str, Any]:
    """The object itself, if it is one and has only members we know: a misspelt one would be lost silently otherwise."""
    if not isinstance(value, Mapping):
        raise Refused(f"{what} must be a JSON object", reason="bad_shape", pointer=pointer)
    for name in value:
        if name not in allowed:
            raise Refused(f"{what} has no member {name[:40]!r}; it has {', '.join(sorted(allowed))}", reason="unknown_member", pointer=step(pointer, name))
    return value
