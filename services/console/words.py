"""Figures as people read them. Nothing here decides anything: it spells what the APIs answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import exp, floor, log10
from typing import Any

MICRO = 1_000_000
MINUTE, HOUR, DAY = 60 * MICRO, 3_600 * MICRO, 86_400 * MICRO
MOST_SHOWN = 13_815_510  # ln(1,000,000) in micro-nats

WHY = {  # the reasons of policy, outcome and people
    "above_amount": "it spends more a day than may be changed without asking",
    "actions_held": "the operator holds all actions (TRIMTAB_ACTIONS=hold)",
    "amount_unknown": "what it spends a day is not known",
    "approval_always": "this rule always asks",
    "approved": "a person approved it",
    "kill_switch": "the kill switch is engaged",
    "low_confidence": "the evidence is weaker than this installation asks for",
    "no_answer": "nobody answered in time",
    "no_executor": "no way to change anything on this platform is set up",
    "rejected": "a person rejected it",
    "risk_high": "the rule says that its risk is high",
    "shadow": "the rule runs in shadow: nothing is sent",
    "simulated_clock_real_executor": "it was decided on a simulated clock, and the platform is a real one",
    "stale": "its validity ended before its turn came",
    "undo": "a person takes it back",
    "unsupported": "the platform cannot do this",
    "within_bounds": "within what may be done without asking",
}
TONES = {"verified": "good", "waiting": "warn", "executing": "warn", "failed": "bad", "unknown": "bad", "held": "warn", "parked": "warn"}
DOING = {
    "pause": "Pause",
    "resume": "Switch on",
    "set_budget": "Set the budget of",
    "shift_budget": "Shift budget from",
    "notify": "Tell people about",
}


# -- plain figures -----------------------------------------------------------------------------------------------------


def count(value: float) -> str:
    """1,234; fractions with at most two digits."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1_000 else f"{value:,.2f}".rstrip("0").rstrip(".")


def money(micros: int, currency: str = "") -> str:
    """400.00 EUR"""
    return f"{micros / MICRO:,.2f} {currency}".strip()


def span(micros: int) -> str:
    """Two units at most: 3 h 58 min."""
    rest = max(0, micros)
    said: list[str] = []
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (MICRO, "s")):
        if rest >= unit and len(said) < 2:
            said.append(f"{rest // unit} {name}")
            rest %= unit
        elif said:
            break
    return " ".join(said) or "0 s"


def micros_of(text: str) -> int:
    """Of an RFC 3339 instant."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * MICRO)


def instant(value: str | float, with_seconds: bool = True) -> str:
    """24 Nov 2026, 23:12:06 UTC; from RFC 3339 or from microseconds."""
    at = datetime.fromtimestamp((micros_of(value) if isinstance(value, str) else value) / MICRO, UTC)
    return f"{at:%d %b %Y, %H:%M:%S} UTC" if with_seconds else f"{at:%d %b %Y, %H:%M} UTC"


def machine(value: str | float) -> str:
    """The same instant for <time datetime>."""
    return value if isinstance(value, str) else datetime.fromtimestamp(value / MICRO, UTC).isoformat().replace("+00:00", "Z")


def ratio(micro_nats: int) -> str:
    """14 : 1, rounded down, so that what falls short never reads as if it did not."""
    if micro_nats > MOST_SHOWN:
        return "over 1,000,000 : 1"
    e = exp(micro_nats / MICRO) * (1 + 2e-6)  # a threshold is rounded to micro-nats: ln 20 must read as 20
    if e >= 10:
        return f"{floor(e):,} : 1"
    if e >= 0.1:
        return f"{floor(e * 10) / 10:g} : 1"
    digits = 1 - floor(log10(e)) if e > 1e-12 else 12
    return f"{floor(e * 10**digits) / 10**digits:g} : 1"


def evidence(decision: Mapping[str, Any]) -> str:
    """14 : 1 of 20 : 1; "" where nothing was measured. What was needed stands in the verdict of the guard that asks for it."""
    for verdict in decision.get("verdicts", ()):
        figures = dict(verdict["figures"])
        if isinstance(figures.get("evidence"), int) and isinstance(figures.get("needed"), int):
            return f"{ratio(figures['evidence'])} of {ratio(figures['needed'])}"
    return ratio(decision["evidence"]) if decision.get("evidence") is not None else ""


def amount(value: float, unit: str) -> str:
    """A metric's value in its unit: 0.20 %, 32.50 EUR, 1,234."""
    if unit == "ratio":
        return f"{value * 100:.2f} %"
    return count(value) if unit == "count" else f"{value:,.2f} {unit}"


def setting(attribute: str, value: Any, currency: str) -> str:
    """An attribute's value at the platform."""
    if value is None:
        return "not known"
    if attribute.endswith("budget") and isinstance(value, int):
        return money(value, currency) + (" a day" if attribute.startswith("daily") else "")
    return str(value)


def spoken(name: str) -> str:
    return name.replace("_", " ")


def why(reason: str) -> str:
    """A typed reason in words; one not known here is still readable."""
    return WHY.get(reason) or spoken(reason)


# -- what each guard answered ------------------------------------------------------------------------------------------

Figures = dict[str, Any]
Sayer = Callable[[Figures, Mapping[str, Any] | None], str]


def verdict(v: Mapping[str, Any], program: Mapping[str, Any] | None = None) -> str:
    """One guard's answer with its figures; a guard that is not known here is told by the names of its figures."""
    figures = dict(v["figures"])
    try:
        return SAYERS.get(v["guard"], _anything)(figures, program)
    except (KeyError, TypeError, ValueError, IndexError):  # another version's figures
        return _anything(figures, program)


def _anything(f: Figures, _: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{spoken(name)} {value:,}" if isinstance(value, int) else f"{spoken(name)} {value}" for name, value in sorted(f.items()))


def _confidence(f: Figures, program: Mapping[str, Any] | None) -> str:
    if "evidence" not in f:
        return f"nothing measured yet that could speak for it; {ratio(f['needed'])} needed"
    said = f"evidence {ratio(f['evidence'])} of {ratio(f['needed'])}"
    metric = next((m for m in (program or {}).get("metrics", ()) if m["name"] == f.get("metric")), None)
    if metric is None or metric["denominator"] is None:
        return said
    counted = " in ".join(_measured(metric[part]["name"], f[part]) for part in ("numerator", "denominator"))
    if metric["family"] == "rate":
        counted = counted.replace(" in ", " for ")
    return f"{said}; {counted}, tested against {amount(f['tested_nano'] / 1e9, metric['unit'])}"


def _measured(measure: str, micros: int) -> str:
    name, _, currency = measure.partition("@")
    noun = name.split(":")[1] if ":" in name else name
    return money(micros, currency) if currency else f"{count(micros / MICRO)} {spoken(noun)}"


def _cooldown(f: Figures, _: Mapping[str, Any] | None) -> str:
    if "ago" not in f:
        return "no change known"
    said = f"last changed {span(f['ago'])} ago by {f['by']}; {span(f['for'])} of rest asked for"
    return said + (f", asked again in {span(f['remaining'])}" if f["remaining"] else "")


def _fresh(f: Figures, _: Mapping[str, Any] | None) -> str:
    if "age" not in f:
        return f"nothing was ever heard from {f['source']}"
    return f"the newest data of {f['source']} is {span(f['age'])} old; at most {span(f['within'])} asked for"


def _keep_active(f: Figures, _: Mapping[str, Any] | None) -> str:
    others = "1 other stays on" if f["others"] == 1 else f"{f['others']:,} others stay on"
    return f"{others} in the same {spoken(f['per'])}; at least {f['at_least']:,} asked for"


def _min_runtime(f: Figures, _: Mapping[str, Any] | None) -> str:
    return f"running for {span(f['running'])}; at least {span(f['at_least'])} asked for"


def _sample(f: Figures, program: Mapping[str, Any] | None) -> str:
    if "counted" not in f:
        return "what was counted is unknown"
    of = [(program["metrics"][m["metric"]], m["least"]) for m in program["minimums"]] if program else []
    fitting = {(m["name"], m["unit"]) for m, least in of if least == f["least"]}
    name, unit = fitting.pop() if len(fitting) == 1 else ("", "count")
    counted, least = (amount(f[key] / MICRO, unit) for key in ("counted", "least"))
    return f"{counted}{' ' + spoken(name) if name else ''} counted; at least {least} asked for"


def _status(f: Figures, _: Mapping[str, Any] | None) -> str:
    return f"its status is {f['status'] or 'not known'}" + (f"; {f['wanted']} asked for" if f["wanted"] else "")


SAYERS: dict[str, Sayer] = {
    "confidence": _confidence,
    "cooldown": _cooldown,
    "fresh": _fresh,
    "keep_active": _keep_active,
    "min_runtime": _min_runtime,
    "sample": _sample,
    "status": _status,
}
