"""JSON as it can be trusted: UTF-8, bounded, at most 32 deep, no key twice, no NaN; decimals stay the sender's digits."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import numpy as np

from services.ingest.core.refused import Refused

DEPTH = 32
SIZE = 5_000_000

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # an unterminated one ends with the body: no second scan, no backtracking


def depth(body: bytes) -> int:
    """How deep the brackets outside of strings nest; for text that is no JSON, some number that costs no more to find."""
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return 0  # cannot be deeper than allowed
    bare = np.frombuffer(_STRING.sub(b"", body), np.uint8)
    steps = ((bare == 0x5B) | (bare == 0x7B)).astype(np.int32) - ((bare == 0x5D) | (bare == 0x7D))
    return int(np.cumsum(steps).max(initial=0))


def loads(body: bytes, size: int = SIZE) -> Any:
    """The value; fractions come as Decimal. Raises Refused: too_large (413), too_deep, duplicate_key (422), malformed (400)."""
    if len(body) > size:
        raise Refused(f"the body has {len(body):,} bytes; at most {size:,} are read", reason="too_large", status=413)
    if depth(body) > DEPTH:
        raise Refused(f"the body nests deeper than {DEPTH} levels", reason="too_deep")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"the body is not UTF-8 at byte {error.start}", reason="malformed", status=400) from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_decimal)
    except json.JSONDecodeError as error:
        raise Refused(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", reason="malformed", status=400) from None
    except ValueError:  # an integer of thousands of digits
        raise Refused("the body holds a number of absurd length", reason="too_large") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise Refused(f"the key {twice[:80]!r} occurs twice in one object", reason="duplicate_key")
    return made


def _no_constant(name: str) -> Any:
    raise Refused(f"{name} is not JSON: a value that is not known is left out", reason="not_a_number")


def _decimal(digits: str) -> Decimal:
    return Decimal(digits) if len(digits) <= 64 else _too_long()


def _too_long() -> Decimal:
    raise Refused("the body holds a number of absurd length", reason="too_large")
