"""Numbers as people's exports write them: read where only one reading is possible, refused otherwise, and never taken for 0.

1234.5    1,234.5    1.234,5    1 234,5    1,234,567    12,5        one reading
67,283                                                              one reading where only whole numbers make sense, else refused
N/A   --   80%   3 of 4                                             refused
"""

from __future__ import annotations

import re
from decimal import Decimal

from services.kernel.errors import RejectedInput
from services.kernel.measure import decimal

ABSENT = frozenset({"n/a", "na", "#n/a", "null", "none", "nan", "-", "--", "–", "—"})

_PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_GROUPED = {  # decimal mark -> whole numbers grouped in threes by another mark
    ".": re.compile(r"[+-]?\d{1,3}(([,' \u00a0\u202f])\d{3})(\2\d{3})*(\.\d+)?", re.ASCII),
    ",": re.compile(r"[+-]?\d{1,3}(([.' \u00a0\u202f])\d{3})(\2\d{3})*(,\d+)?", re.ASCII),
}
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[,.]\d{3}", re.ASCII)


def number(value: object, *, whole: bool = False) -> Decimal | None:
    """The number a cell holds; None for an empty one. `whole` says that a fraction makes no sense there (impressions, clicks).

    RejectedInput: not_available (N/A and the like), percent, ambiguous_number, not_a_number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        return _fitting(decimal(value), value, whole)
    text = value.strip()
    if text.isdecimal() and text.isascii() and len(text) <= 18:  # most cells
        return Decimal(text)
    if text.lower() in ABSENT:
        raise RejectedInput(f"{text!r}: the report does not know this figure, and 0 would be a guess", reason="not_available")
    if text.endswith("%"):
        raise RejectedInput(f"{text[:40]!r} is a percentage where an amount is expected", reason="percent")
    text = text.replace("\u2212", "-")
    if _ONE_GROUP.fullmatch(text) and (whole or "," in text):
        if not whole:
            raise RejectedInput(f"{text!r} may be thousands or decimals; export it without grouping", reason="ambiguous_number")
        return Decimal(text.replace(",", "").replace(".", ""))
    if _PLAIN.fullmatch(text) and len(text) <= 64:
        return _fitting(Decimal(text), value, whole)
    for mark, grouped in _GROUPED.items():
        if (match := grouped.fullmatch(text)) is not None:
            return _fitting(Decimal(text.replace(match.group(2), "").replace(mark, ".")), value, whole)
    if _COMMA.fullmatch(text):
        return _fitting(Decimal(text.replace(",", ".")), value, whole)
    raise RejectedInput(f"{text[:40]!r} is not a number", reason="not_a_number")


def ratio(value: str) -> Decimal | None:
    """The share a cell such as 80.00% or 0.8 holds; None for an empty one."""
    text = value.strip()
    if not text.endswith("%"):
        return number(text)
    found = number(text[:-1])
    return None if found is None else found / 100


def _fitting(found: Decimal, value: object, whole: bool) -> Decimal:
    if whole and found.is_finite() and abs(found) < 10**18 and found != found.to_integral_value():
        raise RejectedInput(f"{str(value)[:40]} is not a whole number", reason="not_a_number")
    return found
