"""Figures as people write them: one spelling of a number, an amount of money, a rate, a length of time and an odds wherever we tell something."""

from __future__ import annotations

from math import exp

MILLION = 1_000_000
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MOST_ODDS = 13_815_510  # micro-nats; ln of a million


def number(value: float) -> str:
    """1,234 for counts, two digits below a hundred where they say something."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 or abs(value) >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def money(value: float, currency: str) -> str:
    """310.00 EUR: what was counted."""
    return f"{value:,.2f} {currency}"


def round_money(value: float, currency: str) -> str:
    """30 EUR, 22.50 EUR: what was set, or is known only roughly."""
    return f"{value:,.0f} {currency}" if abs(value - round(value)) < 0.005 else money(value, currency)


def percent(value: float) -> str:
    """0.80 %; below a tenth of a percent with the digits that it takes."""
    scaled = value * 100
    return f"{scaled:.2f} %" if scaled == 0 or abs(scaled) >= 0.1 else f"{scaled:.3g} %"


def round_percent(value: float) -> str:
    """0.8 %, 10 %: what was set."""
    return f"{value * 100:.4f}".rstrip("0").rstrip(".") + " %"


def ago(micros: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if micros >= (2 * unit if unit == DAY else unit):
            return f"{micros // unit} {name}"
    return f"{micros // 1_000_000} s"


def length(micros: int) -> str:
    """2 h, 90 h, 7 d: a length of time that was set, to the letter."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if micros >= (2 * unit if unit == DAY else unit) and micros % unit == 0:
            return f"{micros // unit} {name}"
    return f"{micros // 1_000_000} s"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def counted(value: int) -> str:
    """no, one, two ... twelve, 13"""
    return SMALL[value] if value < len(SMALL) else str(value)


def ratio(log_e: int) -> str:
    """20.5 : 1"""
    if log_e > MOST_ODDS:
        return "over 1,000,000 : 1"
    e = exp(log_e / MILLION)
    return f"{e:,.0f} : 1" if e >= 1000 else f"{e:.1f} : 1" if e >= 1 else f"{e:.2g} : 1"
