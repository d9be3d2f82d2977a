"""A decision, or a non-decision, told in words: every figure is one that the engine used, at the boundary at which it used it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import exp, log
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from services.kernel.decision import Decision, Reading, Verdict
from services.rules_engine.core.claims import Claim, Strength
from services.rules_engine.core.evidence import crossing
from services.rules_engine.core.inspection import Inspection
from services.rules_engine.core.program import AttributeRef, Measure, Metric, TargetRef
from services.rules_engine.core.truth import Judge, comparisons
from services.rules_engine.core.view import View
from services.rules_engine.core.workspace import Workspace
from services.rules_engine.short import reading, refusal
from services.rules_engine.trial import asks
from services.rules_engine.words import DAY, HOUR, MILLION, ago, counted, length, listed, money, number, percent, ratio, round_money, round_percent

PLATFORMS = {"meta_ads": "Meta", "google_ads": "Google Ads", "hubspot": "HubSpot", "web": "the web", "sandbox": "the sandbox"}
DONE = {"pause": "Paused", "resume": "Switched on", "set_budget": "Set the budget of", "shift_budget": "Shifted budget from", "notify": "Told people about"}
WISH = {"pause": "pause", "resume": "switch on", "set_budget": "set the budget of", "shift_budget": "shift budget from", "notify": "tell people about"}
WOULD = {"pause": "have paused it", "resume": "have switched it on"}
ALREADY = {"pause": "already be paused", "resume": "already be switched on"}
STATUS = {"running": "active", "switched off": "paused"}  # what an object that was left so must be
TRIED = ("failed", "unknown")  # what was sent to the platform and not confirmed by it
PLAIN_SAMPLE = 1000  # trials after which a plain threshold rule would look
FARTHEST = 60 * 24  # hours that a projection looks ahead


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


class Teller:
    """Tells one inspection; `version` is the rule version's number, where it is known. A decision's own verdicts and evidence go before the inspection's."""

    def __init__(self, workspace: Workspace, inspection: Inspection, version: int = 0, decision: Decision | None = None) -> None:
        self.workspace, self.i, self.version, self.decided = workspace, inspection, version, decision
        self.program = inspection.rule.program
        self.zone = ZoneInfo(self.program.zone)
        self.city = self.program.zone.rpartition("/")[2].replace("_", " ")
        self.view = View(workspace, inspection.rule, inspection.now)
        self.judge = Judge(self.program.metrics, self.view)
        self.now = decision.now if decision else inspection.now
        self.verdicts = decision.verdicts if decision and decision.verdicts else inspection.verdicts
        self.readings = decision.readings if decision else inspection.readings
        self.strength = self._strength()

    def _strength(self) -> Strength | None:
        """The evidence as the confidence guard recorded it; of a pair, and where no such guard is asked, that of the inspection."""
        known = self.i.strength
        verdict = next((v for v in self.verdicts if v.guard == "confidence"), None)
        if known is None or verdict is None or len(self.i.subject) > 1:
            return known
        figures = dict(verdict.figures)
        evidence = figures.get("evidence")
        claim = next((c for c in self.i.weigher.claims if c.metric.name == figures.get("metric")), known.claim)
        return replace(known, log_e=evidence, claim=claim, totals=verdict.figures) if isinstance(evidence, int) else known

    # -- the texts ---------------------------------------------------------------------------------------------------

    def decision(self, ending: Ending | None) -> Told:
        """A decision that fired."""
        decision = self.decided
        assert decision is not None
        action = json.loads(decision.action)
        title = f"{self._verb(decision, action, ending)} {self._name()}, {self.when(decision.now)} {self.city}.{self._confirmed(decision, ending)}"
        also = f"{self._also()} {self._carried_out(decision, action, ending)}"
        paragraphs = [f"{self._what()} {self._steps(action)}", self._promise(), also, self._rule()]
        return Told(title, tuple(p.strip() for p in paragraphs if p.strip()))

    def non_decision(self) -> Told:
        """Why nothing was done: the condition, the guards, or what is already under way."""
        if self.decided is not None and self.decided.kind == "cleared":
            return Told(f"{self._name()} is clear again, {self.when(self.now)} {self.city}.", (self._why_not_true(), self._rule()))
        if self.i.where != "true" or self.i.excluded:
            return Told(f"Rule {self.program.rule} does not look at {self._name()}.", (self._not_in_scope(), self._rule()))
        looks = self.i.when == "true" if self.decided is None else self.decided.kind == "refused"
        title = f"Left {self._name()} {self._as_it_is()}{self._though() if looks else ''}."
        if not looks:
            return Told(title, (self._why_not_true(), self._rule()))
        return Told(title, tuple(p for p in (self._why_not_acted(), self._outlook(), self._rule()) if p))

    # -- names and instants ------------------------------------------------------------------------------------------

    def local(self, instant: int) -> datetime:
        """To the nearest second: a report's row lands a microsecond before its hour is over."""
        return datetime.fromtimestamp((instant + MILLION // 2) // MILLION, UTC).astimezone(self.zone)

    def when(self, instant: int) -> str:
        """Tue 3 Mar 07:00"""
        at = self.local(instant)
        return f"{at:%a} {at.day} {at:%b %H:%M}"

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

    def _since(self) -> str:
        """Since Monday 00:00; with its date where that is a week ago or more."""
        start = self.local(self._start)
        days = (self.local(self.now).date() - start.date()).days
        if days >= 7:
            return f"Since {start.day} {start:%B %H:%M}"
        if days:
            return f"Since {start:%A %H:%M}"
        return f"Since {start:%H:%M} {'today' if self.decided is None else 'the same day'}"

    @property
    def _start(self) -> int:
        """When what is counted began: the last change, or the object's first event."""
        c = self.i.circumstances[self.i.subject.index(self.i.row)]
        return max(c.since, c.first_event)

    def _figures(self, s: Strength) -> dict[str, int]:
        return {name: value for name, value in s.totals if isinstance(value, int)}

    def _amount(self, measure: Measure, micro: int) -> str:
        """310.00 EUR; 6,000 impressions; 1 purchase; no purchase."""
        if currency := measure.name.partition("@")[2]:
            return money(micro / MILLION, currency)
        one = noun(measure)
        return f"no {one}" if micro == 0 else f"{number(micro / MILLION)} {one if micro == MILLION else one + 's'}"

    def _by_whom(self, measure: Measure) -> str:
        """In brackets, after a blank: (Meta, 7-day click)"""
        attribution = measure.name.partition("@")[0].split(":")[2:]
        words = [PLATFORMS.get(measure.source, measure.source), *(a.replace("d_", "-day ").replace("_", " ") for a in attribution)]
        return f" ({', '.join(words)})" if attribution else ""

    def _value(self, metric: Metric, n: int, d: int) -> str:
        return "without end" if d == 0 else self._unit(metric, metric.factor * n / d)

    def _unit(self, metric: Metric, value: float) -> str:
        return percent(value) if metric.unit == "ratio" else round_money(value, metric.unit)

    def _limit(self, s: Strength) -> float:
        """The threshold before its margin."""
        margin = 1 - self.i.weigher.effect if s.claim.below else 1 + self.i.weigher.effect
        return float(Fraction(self._figures(s)["tested_nano"], 1_000_000_000) / margin)

    @staticmethod
    def _called(claim: Claim) -> str:
        """CTR; cost per purchase"""
        metric = claim.metric
        if metric.family == "proportion" or metric.denominator is None:
            return metric.name.partition("(")[0].upper()
        return f"cost per {noun(metric.denominator)}"

    # -- what was counted, and what it proves --------------------------------------------------------------------------

    def _what(self, tested: bool = False) -> str:
        """`tested`: with the margin beyond the threshold, where there is one."""
        s = self.strength
        if len(self.i.subject) == 2:
            return self._of_both()
        if s is None:
            return self._read(self.readings)
        figures, metric = self._figures(s), s.claim.metric
        n, d, limit = figures["numerator"], figures["denominator"], self._limit(s)
        assert metric.denominator is not None
        word = "target" if isinstance(s.claim.threshold, TargetRef) else "limit"
        at = f", tested at {self._unit(metric, figures['tested_nano'] / 1e9)} because you allow {self._effect()}" if tested and self.i.weigher.effect else ""
        if metric.family == "proportion":
            text = f"{self._since()}: {self._amount(metric.numerator, n)} in {self._amount(metric.denominator, d)} is {self._value(metric, n, d)}"
            return f"{text}; your {word} is {percent(limit)}{at}."
        each = f", {self._value(metric, n, d)} each" if d else ""
        text = f"{self._since()} it spent {self._amount(metric.numerator, n)} and brought {self._amount(metric.denominator, d)}"
        text += f"{self._by_whom(metric.denominator)}{each}. {word.capitalize()}: {round_money(limit, metric.unit)} each{at}."
        if s.claim.lagged and figures["matured"] < n:
            text += f" {self._roughly(figures['matured'])} of that is old enough to judge; the rest may still bring {noun(metric.denominator)}s."
        return text

    def _read(self, readings: tuple[Reading, ...]) -> str:
        return " ".join(f"{reading(r, self.program)}." for r in readings)

    def _of_both(self) -> str:
        """Of a pair what each side was read as."""
        first = len(comparisons(self.program.when))
        sides = (self.readings[:first], self.readings[first:])
        return " ".join(f"{self._label(row)}: {self._read(side)}" for row, side in zip(self.i.subject, sides, strict=True))

    def _roughly(self, micro: int) -> str:
        value = micro / MILLION
        return round_money(round(value) if value >= 100 else value, self.program.currency)

    def _promise(self) -> str:
        s = self.strength
        if s is None or not self.i.rule.measured:
            return ""
        metric, tested = s.claim.metric, self._figures(s)["tested_nano"] / 1e9
        alpha = exp(-self.i.weigher.needed / MILLION)
        word = "target" if isinstance(s.claim.threshold, TargetRef) else "limit"
        effect = f" ({word} {'−' if s.claim.below else '+'} {self._effect()})" if self.i.weigher.effect else ""
        act = "pause it" if self.program.action.kind == "pause" else "act"
        innocent = f"{self._unit(metric, tested)}{effect} or {'more' if s.claim.below else 'less'}"
        true = f"its true {self._called(s.claim)}" if len(self.i.subject) == 1 else f"the true {self._called(s.claim)} of {self._label(self.i.row)}"
        text = f"If {true} were {innocent}, this rule would ever {act} in at most {number(round(alpha * 100, 6))} of 100 cases, "
        text += f"however often it looks. {self._evidence(s)}"
        if metric.family == "rate":
            cv, default = self.i.weigher.cv, self.i.weigher.coefficients.get("dispersion", (self.i.weigher.cv,))[0]
            lag = "your table" if s.claim.lagged else "none"
            text += f" Lag: {lag}. Day-to-day variation: {round_percent(cv)}{', the default' if cv == default else ''}."
        return text

    def _effect(self) -> str:
        return round_percent(float(self.i.weigher.effect))

    def _evidence(self, s: Strength) -> str:
        return f"Evidence {ratio(s.log_e)}; {exp(self.i.weigher.needed / MILLION):.0f} needed."

    # -- guards, and what was done -------------------------------------------------------------------------------------

    def _also(self) -> str:
        """Guards that agreed, each by the figure that it saw."""
        said = [self._agreed(v) for v in sorted(self.verdicts, key=lambda v: ORDER.index(v.guard) if v.guard in ORDER else len(ORDER)) if not v.refusal]
        of = f" of both, here {self._label(self.i.subject[0])}" if len(self.i.subject) == 2 else ""
        return f"Also checked{of}: {', '.join(t for t in said if t)}." if any(said) else ""

    def _agreed(self, v: Verdict) -> str:
        f = {name: value for name, value in v.figures if isinstance(value, int)}
        match v.guard:
            case "confidence":
                return ""
            case "fresh":
                return f"data {ago(f['age'])} old"
            case "cooldown":
                return f"last change {ago(f['ago'])} ago" if "ago" in f else "no change known"
            case "min_runtime":
                return f"running for {ago(f['running'])}"
            case "keep_active":
                return f"{f['others']} sibling{' stays' if f['others'] == 1 else 's stay'} on"
            case "sample":
                least = next((m for m in self.program.minimums if m.least == f.get("least")), None)
                if least is None:
                    return "sample large enough"
                measure = self.program.metrics[least.metric].numerator
                return f"{self._amount(measure, f['counted'])}{' spent' if noun(measure) == 'spend' else ''} of at least {self._least(measure, f['least'])}"
            case "status":
                status = dict(v.figures)["status"]
                return f"its status is {status}" if status else "its status is not known"
        return f"{v.guard} agreed"

    def _least(self, measure: Measure, micro: int) -> str:
        currency = measure.name.partition("@")[2]
        return round_money(micro / MILLION, currency) if currency else number(micro / MILLION)

    def _verb(self, decision: Decision, action: dict[str, Any], ending: Ending | None) -> str:
        kind = action["do"]
        if decision.mode == "shadow":
            return f"In shadow, nothing was sent: this rule wished to {WISH[kind]}"
        if ending is None:
            return f"{'Proposed' if asks(decision) else 'Decided'} to {WISH[kind]}"
        if ending.status == "verified":
            return DONE[kind]
        return f"{'Tried to' if ending.status in TRIED else 'Did not'} {WISH[kind]}"

    def _carried_out(self, decision: Decision, action: dict[str, Any], ending: Ending | None) -> str:
        if decision.mode == "shadow":
            return ""
        approve, spent, limit = action["approve"], action["spend_per_day"], number(action["approve"]["above"] / MILLION)
        cost = "what it spends a day" if spent is None else f"{round_money(spent / MILLION, action['currency'])} a day"
        if asks(decision):
            over = "is not known, so it may be above" if spent is None else "is above"
            because = "this rule always asks" if approve["always"] else f"{cost} {over} your {limit}"
            waits = f" Without an answer within {length(approve['within'])}: {approve['otherwise']}." if ending is None else ""
            return f"{approve['by'] or 'People'} {'is' if ending is None else 'was'} asked first: {because}.{waits}"
        because = f": {cost} is {'below' if spent < approve['above'] else 'not above'} your {limit}" if approve["above"] >= 0 else ""
        if ending is None:
            return f"Nobody has to be asked{because}."
        return f"Executed without asking{because}." if ending.status == "verified" else ""

    def _confirmed(self, decision: Decision, ending: Ending | None) -> str:
        if ending is None or decision.mode == "shadow":
            return ""
        at = f"{self.local(ending.at):%H:%M:%S}"
        if ending.status == "verified":
            return f" Confirmed by {PLATFORMS.get(self.program.platform, self.program.platform)} {at}."
        what = "Outcome unknown" if ending.status == "unknown" else ending.status.capitalize()
        return f" {what}{f' by {ending.by}' if ending.by else ''} {at}{f': {ending.reason}' if ending.reason else ''}."

    def _steps(self, action: dict[str, Any]) -> str:
        """Budgets before and after, absolute."""
        moved = [s for s in action["steps"] if s["attribute"] == "daily_budget"]
        named = zip(self.i.subject, moved, strict=False)
        said = [f"{self._label(row)} {self._budget(s['observed'])} → {self._budget(s['desired'])}" for row, s in named]
        return f"Daily budgets: {', '.join(said)}." if said else ""

    def _budget(self, micro: int | str | None) -> str:
        return money(micro / MILLION, self.program.currency) if isinstance(micro, int) else "unknown"

    def _rule(self) -> str:
        version = f" v{self.version}" if self.version else ""
        return f"Rule {self.program.rule}{version} ({self.i.rule.version[:8]}), owner {self.program.owner}."

    # -- why not -------------------------------------------------------------------------------------------------------

    def _as_it_is(self) -> str:
        verb = {"pause": "running", "resume": "switched off"}.get(self.program.action.kind, "as it is")
        status = self.i.circumstances[0].status
        return verb if not status or STATUS.get(verb, status) == status else f"as it is, which is {status}"

    def _though(self) -> str:
        if self.strength is None or len(self.i.subject) > 1:
            return ", though its condition holds"
        claim = self.strength.claim
        looks = ("weak" if claim.below else "high") if self.program.action.kind == "pause" else "right for it"
        return f", though its {claim.metric.name.partition('(')[0].upper()} looks {looks}"

    def _why_not_true(self) -> str:
        return f"Its condition does not hold: {listed([f'{r.text} is {r.truth}{self._seen(r)}' for r in self.readings])}."

    def _seen(self, r: Reading) -> str:
        if not r.metric:
            return ""
        seen = reading(r, self.program).removeprefix(f"{r.text}: ")
        return " (nothing counted yet)" if seen.startswith("nothing counted") else f" ({seen})"

    def _not_in_scope(self) -> str:
        if self.i.excluded:
            return "It is one of those that the rule excepts."
        return f"The rule's `where` is {self.i.where} for it{f': {listed(known)}' if (known := self._attributes()) else ''}."

    def _attributes(self) -> list[str]:
        names = sorted({e.name for c in comparisons(self.program.where) for e in (c.left, c.right) if isinstance(e, AttributeRef)})
        return [f"its {name} is {self.view.attribute(name, row) or 'not known'}" for name in names for row in self.i.subject]

    def _why_not_acted(self) -> str:
        text, s = self._what(tested=self.i.rule.measured), self.strength
        if s is None or len(self.i.subject) > 1 or not self.i.rule.measured:
            return text
        if "confidence" in self.refusing:
            text += f" It is not proven{self._may_be(s)}. {self._evidence(s)}"
        return text

    def _may_be(self, s: Strength) -> str:
        bound = self.bound()
        if bound is None:
            return ""
        called = "rate" if s.claim.metric.family == "proportion" else "cost"
        return f": the true {called} may be as {'high' if s.claim.below else 'low'} as {self._unit(s.claim.metric, bound)}"

    @property
    def refusing(self) -> dict[str, Verdict]:
        return {v.guard: v for v in self.verdicts if v.refusal}

    def _outlook(self) -> str:
        """What would change the answer."""
        said, s, refusing = [], self.strength, self.refusing
        if s is not None and len(self.i.subject) == 1 and "confidence" in refusing and self.i.standing != "waiting":
            said += [self._pace(s), self._counterfactual(s)]
        others = len(self.verdicts) - len(refusing)
        if refusing:
            why = [refusal(v, self.program, self.workspace.guards) for g, v in refusing.items() if g != "confidence"]
            reasons = f" ({'; '.join(why)})" if why else ""
            names = listed(list(refusing))
            stood = f"{f'Only {names}' if len(refusing) == 1 else names[0].upper() + names[1:]} stood in the way{reasons}"
            said.append(f"{stood}; the other {'guard' if others == 1 else f'{counted(others)} guards'} agreed." if others else f"{stood}.")
        elif self.i.standing == "waiting":
            said.append("It has already decided on this stretch and waits for what comes of it.")
        elif self.i.standing == "acted":
            said.append("It has already acted on this stretch; it looks again once the condition has been clear.")
        else:
            said.append(f"Every guard agrees; it waits until the condition has held for {length(self.program.hold)}.")
        said.append(self._plain(s) if s is not None and len(self.i.subject) == 1 else "")
        return " ".join(t for t in said if t)

    # -- what would change the answer ----------------------------------------------------------------------------------

    def _log_e(self, claim: Claim, n: float, d: float, limit: float, phi: float = 1.0) -> int:
        """log E in micro-nats if these were the totals, in micro-units; of a cost `n` is the matured spend. `limit` is what is tested."""
        w = self.i.weigher
        if claim.metric.family == "proportion":
            return w._proportion(claim, d / MILLION, n / MILLION, limit)
        return int(w._rate(claim, d / MILLION, np.array([n / MILLION / limit]), np.array([phi]))[0])

    def _enough(self, s: Strength, n: float, d: float, limit: float | None = None) -> bool:
        """Whether the guard would open; the dispersion follows the limit, since it is reckoned in limits."""
        f = self._figures(s)
        tested = f["tested_nano"] / 1e9
        phi = 1 + (f.get("phi_micro", MILLION) / MILLION - 1) * (tested / limit if limit else 1)
        return self._log_e(s.claim, n, d, limit or tested, phi) >= self.i.weigher.needed

    def bound(self) -> float | None:
        """The anytime-valid bound of the true value: the threshold at which the evidence would be just enough."""
        s = self.strength
        if s is None:
            return None
        f, below = self._figures(s), s.claim.below
        n, d, tested = f.get("matured", f["numerator"]), f["denominator"], f["tested_nano"] / 1e9
        farthest = (1 - 1e-12 if s.claim.metric.unit == "ratio" else tested * 1e6) if below else tested * 1e-6
        found = crossing(lambda limit: self._enough(s, n, d, limit), tested, farthest)
        return None if found == farthest else found

    def _pace(self, s: Strength) -> str:
        """How much more of the same it takes, and at the pace of the last 24 hours how long."""
        return self._pace_of_rate(s) if s.claim.metric.family == "proportion" else self._pace_of_cost(s)

    def _pace_of_rate(self, s: Strength) -> str:
        f, metric = self._figures(s), s.claim.metric
        n, d = f["numerator"], f["denominator"]
        if not self._enough(s, n * 1024.0, d * 1024.0):
            return f"More of the same would not prove it: {self._value(metric, n, d)} is too close to {percent(f['tested_nano'] / 1e9)}."
        more = d * (smallest(lambda times: self._enough(s, n * times, d * times), 1.0, 1024.0) - 1)
        assert metric.denominator is not None
        amount = f"about {two_digits(more / MILLION)} more {noun(metric.denominator)}s"
        an_hour = self._pace_an_hour(metric.denominator)
        if an_hour <= 0:
            return f"That takes {amount}; today there were none."
        return f"At today's pace that takes {amount}, {lasting(more / an_hour)}."

    def _pace_of_cost(self, s: Strength) -> str:
        """Hour by hour ahead: what was spent matures, the same is spent again, and brings what it brought."""
        f, claim, w = self._figures(s), s.claim, self.i.weigher
        past, an_hour = self.view.past(claim.metric.numerator, self.i.row), self._pace_an_hour(claim.metric.numerator)
        ahead = np.arange(1, FARTHEST + 1) * HOUR + self.i.now
        landing = np.concatenate([past.landing, ahead])
        amount = np.concatenate([past.amount.astype(np.float64), np.full(FARTHEST, an_hour)])
        _, day = np.unique(w.local_day(landing), return_inverse=True)
        for hour in range(1, FARTHEST + 1):
            upto = len(past.landing) + hour
            credit = amount[:upto] * self._share(claim, self.i.now + hour * HOUR - landing[:upto])
            daily = np.bincount(day.reshape(-1)[:upto], weights=credit) / MILLION / (f["tested_nano"] / 1e9)
            m = float(daily.sum())
            if m <= 0:
                continue
            events = f["denominator"] * (m * f["tested_nano"] / 1e9 * MILLION / f["matured"] if f["matured"] > 0 else 1.0)
            phi = 1 + w.cv * w.cv * float((daily * daily).sum()) / m
            if self._log_e(claim, m * f["tested_nano"] / 1e9 * MILLION, events, f["tested_nano"] / 1e9, phi) >= w.needed:
                if not an_hour:
                    return f"Without further spend it takes {lasting(hour)} until enough of it is old enough to judge."
                more = f"about {two_digits(an_hour * hour / MILLION)} {self.program.currency} more"
                return f"At today's pace that takes {more}, {lasting(hour)}."
        if not an_hour:
            return "Nothing was spent today, and what was spent before will not prove it."
        return f"At today's pace it would not be proven within {FARTHEST // 24} days."

    def _share(self, claim: Claim, ages: Any) -> Any:
        lag = self.program.lag
        if not claim.lagged or lag is None:
            return np.ones(len(ages))
        xs, ys = zip((0.0, 0.0), *((float(x), y / MILLION) for x, y in lag.points), strict=True)
        return np.interp(ages.astype(np.float64), xs, ys, right=1.0)

    def _pace_an_hour(self, measure: Measure) -> float:
        """Micro-units an hour over the last 24 hours, or since the start where that is later."""
        past = self.view.past(measure, self.i.row)
        hours = max(1.0, min(DAY, self.i.now - self._start) / HOUR)
        return float(past.amount[past.landing >= self.i.now - DAY].sum()) / hours

    def _counterfactual(self, s: Strength) -> str:
        """With how many events it would already have been enough, everything else as it is."""
        f, metric = self._figures(s), s.claim.metric
        proportion = metric.family == "proportion"
        assert metric.denominator is not None
        measure, events = (metric.numerator, f["numerator"]) if proportion else (metric.denominator, f["denominator"])
        exposure = f["denominator"] if proportion else f["matured"]

        def enough(n: int) -> bool:
            return self._enough(s, n * MILLION, exposure) if proportion else self._enough(s, exposure, n * MILLION)

        now = events // MILLION
        if s.claim.side == "low":
            other = last(enough, now) if now and enough(0) else None
        else:
            most = exposure // MILLION if proportion else 2 * now + 100
            other = None if not enough(most) else most - last(lambda less: enough(most - less), most - now)
        if other is None:
            return ""
        act = ALREADY.get(self.program.action.kind, "already be enough") if list(self.refusing) == ["confidence"] else "already be proven"
        return f"With {self._amount(measure, other * MILLION)} instead of {number(now)} it would {act}."

    def _plain(self, s: Strength) -> str:
        """When a plain threshold rule would have acted: after 1,000 trials, or after the rule's own minimum spend."""
        claim, limit = s.claim, self._limit(s)
        metric = claim.metric
        assert metric.denominator is not None
        if metric.family == "proportion":
            exposure, least, described = metric.denominator, PLAIN_SAMPLE * MILLION, f"{PLAIN_SAMPLE:,} {metric.denominator.name}"
        else:
            exposure = metric.numerator
            least = max((m.least for m in self.program.minimums if self.program.metrics[m.metric].numerator == exposure), default=0)
            described = f"{round_money(least / MILLION, self.program.currency)} spent"
        at = self._first(metric, exposure, least, claim.below, limit)
        if at is None:
            return ""
        shown = round_percent(limit) if metric.unit == "ratio" else f"{round_money(limit, metric.unit)} each"
        would = WOULD.get(self.program.action.kind, "have acted")
        return f'A plain "{described}, {"below" if claim.below else "above"} {shown}" rule would {would} {self._day(at)}.'

    def _first(self, metric: Metric, exposure: Measure, least: int, below: bool, limit: float) -> int | None:
        """The first instant at which the bare ratio lay on the wrong side of the limit with enough counted."""
        assert metric.denominator is not None
        above, under = self.view.past(metric.numerator, self.i.row), self.view.past(metric.denominator, self.i.row)
        moments = [(t, a, 0) for t, a in zip(above.landing.tolist(), above.amount.tolist(), strict=True)]
        moments = sorted(moments + [(t, 0, a) for t, a in zip(under.landing.tolist(), under.amount.tolist(), strict=True)])
        n = d = 0
        for index, (at, more_n, more_d) in enumerate(moments):
            n, d = n + more_n, d + more_d
            if index + 1 < len(moments) and moments[index + 1][0] == at:
                continue
            counted_so_far = d if exposure == metric.denominator else n
            if counted_so_far >= max(least, 1) and (n < limit * d if below else n > limit * d):
                return int(at)
        return None

    def _day(self, instant: int) -> str:
        """today at 06:00; yesterday; on Sun 1 Mar"""
        then, today = self.local(instant), self.local(self.now).date()
        days: dict[date, str] = {today: f"today at {then:%H:%M}", today - timedelta(days=1): "yesterday"}
        return days.get(then.date(), f"on {then:%a} {then.day} {then:%b}")


ORDER = ["fresh", "cooldown", "min_runtime", "sample", "keep_active", "status"]


def noun(measure: Measure) -> str:
    """impression, purchase, spend: one of what a measure counts."""
    name = measure.name.partition("@")[0]
    return (name.partition(":")[2].partition(":")[0] or name).removesuffix("s").replace("_", " ")


def two_digits(value: float) -> str:
    """4,900; 47; 3: about so many."""
    rounded = float(f"{value:.2g}")
    return number(rounded) if rounded >= 10 else number(max(1, round(value)))


def lasting(hours: float) -> str:
    if hours < 1.5:
        return "about an hour"
    return f"some {hours:.0f} hours" if hours < 72 else f"some {hours / 24:.0f} days"


def last(holds: Callable[[int], bool], below: int) -> int:
    """The largest whole number under `below` for which it holds; it holds at 0 and, from somewhere on, no longer."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def smallest(enough: Callable[[float], bool], low: float, high: float) -> float:
    """Where `enough` turns true between two positive numbers."""
    for _ in range(60):
        middle = exp((log(low) + log(high)) / 2)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
