"""Measures and money: exact decimals become integer micro-units, and a measure's name says which currency it is in.

    impressions   conversions:purchase:7d_click   spend@EUR   revenue:purchase:7d_click@EUR
    `- base       `- base `- qualifiers           `- base `- currency

One unit is 1,000,000 micro-units: 1 click, 1 EUR, a ratio of 1. No float takes part in a conversion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import lru_cache

from services.kernel.errors import RejectedInput

MICRO = 1_000_000
LARGEST = 1 << 53  # micro-units of one amount; more is an error of the sender
MONEY = frozenset({"spend", "revenue"})  # bases that mean nothing without a currency
COUNTS = frozenset({"impressions", "clicks", "conversions", "leads"})  # bases that a currency would make nonsense of

_BY_DIGITS = {  # ISO 4217, active, by the digits of the minor unit
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK "
        "DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR "
        "LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR "
        "SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR "
        "ZMW ZWG"
    ),
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CURRENCIES: dict[str, int] = {code: digits for digits, codes in _BY_DIGITS.items() for code in codes.split()}

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}(:[A-Za-z0-9_.-]{1,64}){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Money:
    micros: int
    currency: str

    def __str__(self) -> str:
        digits = CURRENCIES.get(self.currency, 2)
        return f"{Decimal(self.micros).scaleb(-6, _EXACT):.{digits}f} {self.currency}"


def currency(code: object) -> str:
    """The code itself where ISO 4217 lists it as active; else RejectedInput `unknown_currency`."""
    if not isinstance(code, str) or code not in CURRENCIES:
        raise RejectedInput(f"{str(code)[:20]!r} is not an active ISO 4217 currency code; write it like EUR", reason="unknown_currency")
    return code


def decimal(value: object) -> Decimal:
    """The finite decimal that a text, an int or a Decimal writes; else RejectedInput `not_a_number`. A float is refused: its decimals are not the sender's."""
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 128:  # neither its decimals nor its text are worth computing
            raise RejectedInput("the number is past 2^53 micro-units", reason="too_large")
        number = Decimal(value)
    elif isinstance(value, str) and len(value) <= 64 and _DECIMAL.fullmatch(value):
        number = Decimal(value)
    else:
        raise RejectedInput(f"{str(value)[:40]!r} is not a number", reason="not_a_number")
    if not number.is_finite():
        raise RejectedInput(f"{value} is not a finite number", reason="not_a_number")
    return number


def micros(value: object, *, scale: int = 6) -> int:
    """The value in micro-units, exactly; digits beyond a micro-unit are rounded half-even, but nothing is ever rounded away to 0.

    `scale` is how many decimal places separate the value from micro-units: 6 for units, 0 where the sender already counts micro-units.
    Raises RejectedInput: not_a_number, too_large (past 2^53 micro-units), too_small (less than half a micro-unit, though not 0).
    """
    number = decimal(value)
    if not number:
        return 0
    if number.adjusted() + scale > 17:  # before any arithmetic: 1e9999 must cost nothing
        raise RejectedInput(f"{str(value)[:40]} is past 2^53 micro-units", reason="too_large")
    if number.adjusted() + scale < -2:
        raise RejectedInput(f"{str(value)[:40]} is less than a micro-unit", reason="too_small")
    whole = int(number.scaleb(scale, _EXACT).quantize(Decimal(1), context=_EXACT))
    if abs(whole) > LARGEST:
        raise RejectedInput(f"{str(value)[:40]} is past 2^53 micro-units", reason="too_large")
    if whole == 0:
        raise RejectedInput(f"{str(value)[:40]} is less than a micro-unit", reason="too_small")
    return whole


def count(value: object) -> int:
    """Micro-units of something counted: as `micros`, and never negative (RejectedInput `negative_count`)."""
    amount = micros(value)
    if amount < 0:
        raise RejectedInput(f"{value} is a negative count", reason="negative_count")
    return amount


@dataclass(frozen=True, slots=True)
class Measure:
    base: str
    qualifiers: tuple[str, ...] = ()
    currency: str = ""

    def __str__(self) -> str:
        return ":".join((self.base, *self.qualifiers)) + (f"@{self.currency}" if self.currency else "")


def measure(name: object) -> Measure:
    """The parts of a measure's name; RejectedInput `bad_measure` or `unknown_currency` where it is none."""
    if not isinstance(name, str):
        raise RejectedInput("a measure's name is a text", reason="bad_measure")
    return _measure(name)


@lru_cache(4096)
def _measure(name: str) -> Measure:
    plain, at, code = name.partition("@")
    if not _NAME.fullmatch(plain):
        raise RejectedInput(f"{name[:80]!r} is not a measure; write it like clicks, conversions:purchase:7d_click or spend@EUR", reason="bad_measure")
    base, *qualifiers = plain.split(":")
    made = Measure(base, tuple(qualifiers), currency(code) if at else "")
    if base in COUNTS and made.currency:
        raise RejectedInput(f"{base} is counted and has no currency", reason="bad_measure")
    return made


def money_measure(base: str, code: str, *qualifiers: str) -> str:
    """spend@EUR, revenue:purchase:7d_click@EUR."""
    return str(measure(f"{':'.join((base, *qualifiers))}@{currency(code)}"))


def count_measure(base: str, *qualifiers: str) -> str:
    """clicks, conversions:purchase:7d_click."""
    return str(measure(":".join((base, *qualifiers))))
