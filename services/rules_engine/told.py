"""A decision, or a non-decision, told in words: every figure is one that the engine used, at the boundary at which it used it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import exp, log
from zoneinfo import ZoneInfo

import numpy as np

from services.kernel.decision import Decision, Verdict
from services.rules_engine.core.claims import MILLION, Claim, Strength
from services.rules_engine.core.inspection import Inspection
from services.rules_engine.core.judgement import View
from services.rules_engine.core.program import Lag, Measure, Metric
from services.rules_engine.core.truth import Judge
from services.rules_engine.core.workspace import Workspace

HOUR = 3_600_000_000
DAY = 24 * HOUR
PLATFORMS = {"meta_ads": "Meta", "google_ads": "Google Ads", "hubspot": "HubSpot", "web": "the web", "sandbox": "the sandbox"}
DONE = {"pause": "Paused", "resume": "Switched on", "set_budget": "Set the budget of", "shift_budget": "Shifted budget from", "notify": "Told people about"}
WISH = {"pause": "pause", "resume": "switch on", "set_budget": "set the budget of", "shift_budget": "shift budget from", "notify": "tell people about"}


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a decision, as far as the log knows."""

    status: str
    at: int
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    title: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n\n".join((self.title, *self.paragraphs))


def number(value: float) -> str:
    """1,234 for counts, two digits below a hundred where they say something."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 or abs(value) >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def money(value: float, currency: str) -> str:
    return f"{value:,.2f} {currency}"


def percent(value: float) -> str:
    return f"{value * 100:.2f} %"


def ago(micros: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (60_000_000, "min")):
        if micros >= (2 * unit if unit == DAY else unit):
            return f"{micros // unit} {name}"
    return f"{micros // 1_000_000} s"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def ratio(log_e: int) -> str:
    """20.5 : 1"""
    if log_e > 13_815_510:
        return "over 1,000,000 : 1"
    e = exp(log_e / MILLION)
    return f"{e:,.0f} : 1" if e >= 1000 else f"{e:.1f} : 1" if e >= 1 else f"{e:.2g} : 1"


class Teller:
    """Tells one inspection; `version` is the rule version's number, where it is known."""

    def __init__(self, workspace: Workspace, inspection: Inspection, version: int = 0) -> None:
        self.workspace, self.i, self.version = workspace, inspection, version
        self.program = inspection.rule.program
        self.zone = ZoneInfo(self.program.zone)
        self.city = self.program.zone.rpartition("/")[2].replace("_", " ")
        self.view = View(workspace, inspection.rule, inspection.now)
        self.judge = Judge(self.program.metrics, self.view)

    # -- the two texts -----------------------------------------------------------------------------------------------

    def decision(self, decision: Decision, ending: Ending | None) -> Told:
        action = self.program.action.kind
        done = ending is not None and ending.status == "verified"
        title = f"{DONE[action] if done or decision.mode == 'shadow' else 'Proposed to ' + WISH[action]} {self._name()}, {self.when(decision.now)} {self.city}."
        paragraphs = [self._what(), self._promise(), self._also(decision.verdicts) + " " + self._carried_out(decision, ending), self._rule()]
        return Told(title + self._confirmed(decision, ending), tuple(p.strip() for p in paragraphs if p.strip()))

    def non_decision(self) -> Told:
        refusing = [v for v in self.i.verdicts if v.refusal]
        looks = self.i.when == "true"
        metric = self.i.strength.claim.metric.name if self.i.strength else (self.i.readings[0].metric if self.i.readings else "condition")
        verb = {"pause": "running", "resume": "switched off"}.get(self.program.action.kind, "as it is")
        because = f", though its {metric.partition('(')[0].upper()} looks {'weak' if self.program.action.kind == 'pause' else 'right for it'}" if looks else ""
        title = f"Left {self._name()} {verb}{because}."
        return Told(title, tuple(p for p in (self._why_not(looks, refusing), self._outlook(refusing), self._rule()) if p))

    # -- pieces ------------------------------------------------------------------------------------------------------

    def when(self, instant: int) -> str:
        return f"{datetime.fromtimestamp(instant / MILLION, UTC).astimezone(self.zone):%a %d %b %H:%M}"

    def _name(self) -> str:
        if len(self.i.subject) == 2:
            return f"{self._label(self.i.subject[0])} to {self._label(self.i.subject[1])}"
        row = self.i.subject[0]
        above = [self._bare(int(a)) for a in self.workspace.facts.entities.lineage[row, 2:-1] if a >= 0 and a != row]
        return self._label(row) + (f" ({' › '.join(above)})" if above else "")

    def _label(self, row: int) -> str:
        return f'"{self._bare(row)}"'

    def _bare(self, row: int) -> str:
        known = self.view.attribute("name", row)
        return known if isinstance(known, str) and known else self.workspace.facts.entities.path[row].rpartition("/")[2]

    def _platform(self, name: str) -> str:
        return PLATFORMS.get(name, name)

    def _since(self) -> str:
        c = self.i.circumstances[0]
        start = max(c.since, c.first_event)
        return f"Since {self.when(start)}"

    def _amount(self, measure: Measure, micro: float) -> str:
        name, _, currency = measure.name.partition("@")
        noun = name.partition(":")[2].partition(":")[0] or name
        value = micro / MILLION
        if currency:
            return money(value, currency)
        if noun.endswith("s"):
            return f"{number(value)} {noun[:-1] if value == 1 else noun}"
        return f"no {noun}" if value == 0 else f"{number(value)} {noun if value == 1 else noun + 's'}"

    def _by_whom(self, measure: Measure) -> str:
        attribution = measure.name.partition("@")[0].split(":")[2:]
        return f" ({', '.join([self._platform(measure.source), *(a.replace('_', '-').replace('d-', '-day ') for a in attribution)])})" if attribution else ""

    def _figures(self, strength: Strength) -> dict[str, int | str]:
        return dict(strength.totals)

    def _value(self, metric: Metric, numerator: int, denominator: int) -> str:
        if denominator == 0:
            return "without end"
        value = metric.factor * numerator / denominator
        return percent(value) if metric.unit == "ratio" else money(value, metric.unit)

    def _limit(self, claim: Claim) -> float | None:
        threshold = self.judge.value(claim.threshold, self.i.row)
        return float(threshold) if isinstance(threshold, Fraction) else None

    def _unit(self, metric: Metric, value: float) -> str:
        return percent(value) if metric.unit == "ratio" else money(value, metric.unit)

    def _what(self) -> str:
        s = self.i.strength
        if s is None:
            return " ".join(f"{r.text}: {r.truth}." for r in self.i.readings)
        figures, limit = self._figures(s), self._limit(s.claim)
        n, d = int(figures["numerator"]), int(figures["denominator"])
        metric = s.claim.metric
        assert metric.denominator is not None
        if metric.family == "proportion":
            text = f"{self._since()}: {self._amount(metric.numerator, n)} in {self._amount(metric.denominator, d)} is {self._value(metric, n, d)}"
            return f"{text}; the limit is {percent(limit or 0)}."
        brought = (
            f"{self._since()} it spent {self._amount(metric.numerator, n)} and brought {self._amount(metric.denominator, d)}{self._by_whom(metric.denominator)}"
        )
        brought += f". Target: {money(limit or 0, metric.unit)} each."
        if s.claim.lagged and (matured := int(figures["matured"])) < n:
            brought += f" {money(matured / MILLION, metric.unit)} of that is old enough to judge; the rest may still bring more."
        return brought

    def _promise(self) -> str:
        s = self.i.strength
        if s is None or not self.i.rule.measured:
            return ""
        figures, metric = self._figures(s), s.claim.metric
        tested = int(figures["tested_nano"]) / 1e9
        alpha = exp(-self.i.weigher.needed / MILLION)
        effect = f" (target {'-' if s.claim.below else '+'} {number(float(self.i.weigher.effect) * 100)} %)" if self.i.weigher.effect else ""
        side = "more" if s.claim.below else "less"
        action = {"pause": "pause it"}.get(self.program.action.kind, "act")
        text = f"If its true {metric.name} were {self._unit(metric, tested)}{effect} or {side}, this rule would ever {action} "
        text += f"in at most {number(alpha * 100)} of 100 cases, however often it looks. "
        text += f"Evidence {ratio(s.log_e)}; {exp(self.i.weigher.needed / MILLION):.0f} needed."
        if metric.family == "rate":
            text += f" Lag: {self._lag(self.program.lag if s.claim.lagged else None)}. Day-to-day variation: {number(self.i.weigher.cv)}."
        return text

    @staticmethod
    def _lag(lag: Lag | None) -> str:
        return "none" if lag is None else "your table"

    def _also(self, verdicts: tuple[Verdict, ...]) -> str:
        c, asked = self.i.circumstances[0], {v.guard for v in verdicts if not v.refusal}
        said = []
        if "fresh" in asked and c.freshest:
            said.append(f"data {ago(c.now - c.freshest)} old")
        if "cooldown" in asked:
            said.append(f"last change {ago(c.now - c.changed_at)} ago" if c.changed_at else "no change known")
        keep = next((a for a in self.program.guards if a.guard == "keep_active"), None)
        if keep is not None and "keep_active" in asked:
            level = str(keep.get("per"))
            said.append(f"{c.survivors.get(level, 0)} siblings stay on")
        rest = sorted(asked - {"fresh", "cooldown", "keep_active", "confidence"})
        if rest:
            said.append(f"{listed(rest)} agreed")
        return f"Also checked: {', '.join(said)}." if said else ""

    def _carried_out(self, decision: Decision, ending: Ending | None) -> str:
        if decision.mode == "shadow":
            return "In shadow: nothing was sent."
        a, per_day = self.program.approve, max(self.view.spend_per_day(r) for r in self.i.subject)
        cost = f"{money(per_day / MILLION, self.program.currency)} a day"
        if a.always:
            return f"Asked {a.by} first, because this rule always asks."
        if a.above >= 0 and per_day > a.above:
            return f"Asked {a.by} first: {cost} is above your {number(a.above / MILLION)}."
        if ending is not None and ending.status in ("held", "rejected", "expired", "cancelled"):
            return f"It was {ending.status}{f' ({ending.reason})' if ending.reason else ''}: nothing was changed."
        return f"Executed without asking: {cost} is below your {number(a.above / MILLION)}." if a.above >= 0 else "Executed without asking."

    def _confirmed(self, decision: Decision, ending: Ending | None) -> str:
        if ending is None or decision.mode == "shadow":
            return ""
        at = f"{datetime.fromtimestamp(ending.at / MILLION, UTC).astimezone(self.zone):%H:%M:%S}"
        platform = self._platform(self.program.platform)
        if ending.status == "verified":
            return f" Confirmed by {platform[0].upper()}{platform[1:]} {at}."
        return f" {ending.status.capitalize()}{f' by {ending.by}' if ending.by else ''} {at}{f': {ending.reason}' if ending.reason else ''}."

    def _rule(self) -> str:
        number = f" v{self.version}" if self.version else ""
        return f"Rule {self.program.rule}{number} ({self.i.rule.version[:8]}), owner {self.program.owner}."

    def _why_not(self, looks: bool, refusing: list[Verdict]) -> str:
        if not looks:
            shown = [f"{r.text} is {r.truth}" + (f" ({self._reading(r.metric, r.numerator, r.denominator)})" if r.metric else "") for r in self.i.readings]
            return f"Its condition does not hold: {listed(shown)}." + ("" if self.i.where == "true" else f" The rule's `where` is {self.i.where} for it.")
        text = self._what().rstrip(".") + "."
        s = self.i.strength
        if s is None:
            return text
        if self.i.weigher.effect:
            tested = int(self._figures(s)["tested_nano"]) / 1e9
            text = text[:-1] + f", tested at {self._unit(s.claim.metric, tested)} because you allow {number(float(self.i.weigher.effect) * 100)} %."
        if "confidence" in self.i.refusals:
            bound = self.bound()
            may = "" if bound is None else f": the true value may be as {'high' if s.claim.below else 'low'} as {self._unit(s.claim.metric, bound)}"
            text += f" It is not proven{may}. Evidence {ratio(s.log_e)}; {exp(self.i.weigher.needed / MILLION):.0f} needed."
        return text

    def _reading(self, metric: str, numerator: int, denominator: int) -> str:
        known = next((m for m in self.program.metrics if m.name == metric), None)
        if known is None or known.denominator is None:
            return f"{number(numerator / MILLION)}"
        if numerator == 0 and denominator == 0:
            return "nothing counted yet"
        return self._value(known, numerator // known.factor, denominator)

    def _outlook(self, refusing: list[Verdict]) -> str:
        if self.i.when != "true":
            return ""
        said = []
        s = self.i.strength
        if s is not None and "confidence" in self.i.refusals:
            said += [t for t in (self._pace(s), self._counterfactual(s)) if t]
        names = [v.guard for v in refusing]
        others = len(self.i.verdicts) - len(names)
        if names:
            said.append(f"{'Only ' if len(names) == 1 else ''}{listed(names)} stood in the way; the other {others} guards agreed.")
        elif self.i.standing == "pending":
            said.append("Every guard agrees; it waits until the condition has held long enough.")
        elif self.i.standing in ("waiting", "acted"):
            said.append("It has already decided on this stretch and waits for what comes of it.")
        plain = self._plain(s)
        return " ".join([*said, plain]).strip()

    # -- what would change the answer --------------------------------------------------------------------------------

    def _log_e(self, claim: Claim, numerator: float, denominator: float, limit: float, stretch: float = 1.0) -> int:
        """log E if these were the totals, micro-nats; `limit` is what is tested, `stretch` scales the matured spend of a cost."""
        w = self.i.weigher
        if claim.metric.family == "proportion":
            return w._proportion(claim, denominator / MILLION, numerator / MILLION, limit)
        figures = self._figures(self.i.strength) if self.i.strength else {}
        phi = int(figures.get("phi_micro", MILLION)) / MILLION
        m = float(figures.get("matured", numerator)) / MILLION / limit * stretch
        return int(w._rate(claim, denominator / MILLION, np.array([m]), np.array([phi]))[0])

    def bound(self) -> float | None:
        """The anytime-valid bound of the true value: the threshold at which the evidence would be just enough."""
        s = self.i.strength
        if s is None:
            return None
        f = self._figures(s)
        n, d, tested = int(f["numerator"]), int(f["denominator"]), int(f["tested_nano"]) / 1e9
        below = s.claim.below
        low, high = (tested, 1.0 if s.claim.metric.unit == "ratio" else tested * 1e6) if below else (tested * 1e-6, tested)

        def enough(x: float) -> bool:
            return self._log_e(s.claim, n, d, x) >= self.i.weigher.needed

        if not enough(high * (1 - 1e-9) if below else low):
            return None
        for _ in range(60):
            middle = (low + high) / 2
            if enough(middle) == below:
                high = middle
            else:
                low = middle
        return (low + high) / 2

    def _pace(self, s: Strength) -> str:
        """How much more of the same it takes, and at the last day's pace how long."""
        f = self._figures(s)
        n, d, tested = int(f["numerator"]), int(f["denominator"]), int(f["tested_nano"]) / 1e9
        proportion = s.claim.metric.family == "proportion"

        def enough(times: float) -> bool:
            return self._log_e(s.claim, n * times, d * times, tested, times) >= self.i.weigher.needed

        if not enough(1024.0):
            return "As things stand, more of the same would not prove it."
        times = smallest(enough, 1.0, 1024.0)
        measure = s.claim.metric.denominator if proportion else s.claim.metric.numerator
        assert measure is not None
        more = (d if proportion else int(f["matured"])) * (times - 1)
        past = self.view.past(measure, self.i.row)
        a_day = int(past.amount[past.landing >= self.i.now - DAY].sum())
        if a_day <= 0:
            return f"That takes about {self._amount(measure, round(more / MILLION) * MILLION)} more."
        hours = more / a_day * 24
        wait = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        amount = money(more / MILLION, self.program.currency) if "@" in measure.name else f"{number(float(f'{more / MILLION:.2g}'))} {measure.name}"
        return f"At the last day's pace that takes about {amount} more, some {wait}."

    def _counterfactual(self, s: Strength) -> str:
        """With how many events it would already have been enough."""
        f, metric = self._figures(s), s.claim.metric
        n, d, tested = int(f["numerator"]), int(f["denominator"]), int(f["tested_nano"]) / 1e9
        if metric.family != "proportion" or not s.claim.below:
            return ""
        events = n // MILLION
        for fewer in range(int(events), -1, -1):
            if self._log_e(s.claim, fewer * MILLION, d, tested) >= self.i.weigher.needed:
                return f"With {self._amount(metric.numerator, fewer * MILLION)} instead of {number(events)} it would already be enough."
        return ""

    def _plain(self, s: Strength | None) -> str:
        """When a plain threshold after 1,000 impressions would have acted."""
        if s is None or s.claim.metric.family != "proportion" or not s.claim.below or (limit := self._limit(s.claim)) is None:
            return ""
        assert s.claim.metric.denominator is not None
        shown, hit = self.view.past(s.claim.metric.denominator, self.i.row), self.view.past(s.claim.metric.numerator, self.i.row)
        views = [(t, a, 0) for t, a in zip(shown.landing.tolist(), shown.amount.tolist(), strict=True)]
        moments = sorted(views + [(t, 0, a) for t, a in zip(hit.landing.tolist(), hit.amount.tolist(), strict=True)])
        d = n = 0
        for index, (at, more_d, more_n) in enumerate(moments):
            d, n = d + more_d, n + more_n
            last = index + 1 == len(moments) or moments[index + 1][0] != at
            if last and d >= 1000 * MILLION and n < limit * d:
                return f'A plain "1,000 {s.claim.metric.denominator.name}, below {percent(limit)}" rule would have acted on {self.when(at)}.'
        return ""


def smallest(enough: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = exp((log(low) + log(high)) / 2)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
