"""One rule of a pack: its fields read, its conditions checked, its guards' parameters turned into numbers, its program made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ruamel.yaml.comments import CommentedMap

from services.kernel.entity import LEVELS
from services.rules_engine.core.claims import claims_of
from services.rules_engine.core.guard import Guard, Parameter
from services.rules_engine.core.metric import Definition
from services.rules_engine.core.program import Action, And, Approval, Asked, Condition, Lag, Measure, MetricRef, Minimum, Not, Or, Pair, Program
from services.rules_engine.core.truth import comparisons, inside, references
from services.rules_engine.language.checker import ATTRIBUTES, Checker, Conversion, constant, spelling
from services.rules_engine.language.grammar import Span
from services.rules_engine.language.problem import Place, nearest
from services.rules_engine.language.reading import LARGEST, MICRO, Fields, Report, brief, number, percent, spelled
from services.rules_engine.language.trial import DOING

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
VALID_FOR = 15 * MINUTE
LATER = {
    "cap": "caps on the number of actions are planned; until then keep `approve` narrow",
    "stop": "stopping rules are planned; until then retire the rule by hand",
    "fdr": "control over many objects is planned; each object has its own promise",
}
RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
OBJECTS = ("pause", "resume", "set_budget", "shift_budget")
COUNTED = "a rate is counted over its denominator, sample: {impressions: 3000}; a cost over the money spent, sample: {spend: 90 EUR}"


@dataclass(frozen=True, slots=True)
class Account:
    platform: str
    currency: str
    zone: str
    offsets: tuple[tuple[int, int], ...]
    interval: int = SECOND  # between two boundaries


def pane_of(window: int) -> int:
    """The width of the panes that a window is made of: fine for short ones, an hour for a week."""
    return MINUTE if window <= 2 * HOUR else 5 * MINUTE if window <= DAY else HOUR if window <= 7 * DAY else DAY // 4


@dataclass(frozen=True, slots=True)
class RuleReader:
    account: Account
    definitions: dict[str, Definition]
    guards: dict[str, Guard]
    conversions: dict[str, Conversion]
    lag: Lag | None
    coefficients: tuple[tuple[str, tuple[float, ...]], ...]
    source: str
    report: Report

    def read(self, fields: Fields) -> Program | None:
        """The rule's program, or None after what is wrong has been reported."""
        before: list[int] = []

        def noted(place: Place, message: str, hint: str = "") -> None:
            before.append(1)
            self.report(place, message, hint)

        return OneRule(self, fields, noted).read(before)


class OneRule:
    def __init__(self, pack: RuleReader, fields: Fields, report: Report) -> None:
        self.pack, self.f, self.report = pack, fields, report
        fields.report = report
        self.current: tuple[Fields, str] = (fields, "when")
        self.faults: list[int] = []
        a = pack.account
        self.checker = Checker(a.platform, a.currency, pack.definitions, pack.conversions, self._point)

    def read(self, faults: list[int]) -> Program | None:
        f, self.faults = self.f, faults
        f.take("tests")
        name, owner, objective = f.text("rule", None), f.text("owner", None), f.text("objective")
        if name and not RULE_NAME.fullmatch(name):
            self.report(f.where("rule"), f"{brief(name)!r} cannot be a rule's name", "letters, digits and . _ - only, at most 100: pause-weak-creatives")
        depth, where, unless, pair_fields = self._scope()
        when_key = "from" if pair_fields else "when"
        when = self._condition(f, when_key) if f.has(when_key) else None
        f.asked.append(when_key)
        to = self._condition(f, "to") if pair_fields else None
        clear = self._condition(f, "clear") if f.has("clear") else None
        f.asked += ["clear", "to"] if pair_fields else ["clear"]
        if f.mapping.get(when_key) in (None, ""):
            f.missing(when_key, "the condition")
        hold, priority = f.duration("for"), self._whole("priority")
        valid_for = f.duration("valid_for", VALID_FOR)
        conditions = [c for c in (when, to) if c is not None]
        asked, minimums, lag = self._guards(conditions)
        action = self._action(bool(pair_fields))
        asked = self._implied(asked, action)
        risk = f.text("risk", "medium")
        if risk not in ("low", "medium", "high"):
            self.report(f.where("risk"), f"a risk is low, medium or high, not {risk!r}", "")
        approve = self._approve(risk)
        f.done(LATER)
        if when is None or action is None or (pair_fields and to is None) or faults:
            return None
        self._judgeable(conditions, asked, minimums, when_key)
        if faults:
            return None
        windows = sorted({r.window for c in (*conditions, clear) for r in references(c) if r.window})
        a = self.pack.account
        pair = Pair(pair_fields[0], pair_fields[1], to) if pair_fields and to is not None else None
        program = Program(
            rule=name, owner=owner, objective=objective, platform=a.platform, currency=a.currency, zone=a.zone, depth=depth, where=where, unless=unless,
            when=when, clear=clear, pair=pair, hold=hold, metrics=tuple(self.checker.metrics), minimums=minimums,
            guards=tuple(sorted(asked, key=lambda g: g.guard)), lag=lag, action=action, approve=approve, risk=risk, priority=priority, valid_for=valid_for,
            panes=tuple((w, pane_of(w)) for w in windows), interval=a.interval, coefficients=self.pack.coefficients, offsets=a.offsets,
            source=self._source(),
        )  # fmt: skip
        self._provable(program, when_key)
        return None if faults else program

    # -- conditions --------------------------------------------------------------------------------------------------

    def _condition(self, fields: Fields, key: str, attributes_only: bool = False) -> Condition | None:
        text = fields.text(key)
        if not text.strip():
            return None
        self.current = fields, key
        return self.checker.condition(text, attributes_only)

    def _point(self, span: Span, message: str, hint: str) -> None:
        """A place inside the condition being checked becomes a place in the file."""
        fields, key = self.current
        self.report(spelled(self.pack.source, fields.where(key), str(fields.mapping.get(key)), span.start, span.end), message, hint)

    def _scope(self) -> tuple[int, Condition | None, Condition | None, tuple[int, tuple[str, ...]] | None]:
        fields = self.f.fields("scope", "a scope", needed=True)
        if fields is None:
            return 4, None, None, None
        level = fields.text("level", None)
        if level and level not in LEVELS:
            self.report(fields.where("level"), f"there is no level {level!r}", nearest(level, LEVELS))
        where = self._condition(fields, "where", attributes_only=True)
        unless = self._condition(fields, "except", attributes_only=True)
        within, same = fields.text("pairs_within"), fields.text("same")
        pair = None
        depth = LEVELS.index(level) if level in LEVELS else 4
        if within:
            if within not in LEVELS[:depth]:
                self.report(fields.where("pairs_within"), f"pairs are formed within a level above {level}, not {within!r}", nearest(within, LEVELS[:depth]))
            names = tuple(w.strip() for w in same.split(",") if w.strip())
            for name in names:
                if name not in ATTRIBUTES:
                    self.report(fields.where("same"), f"there is no attribute {name!r}", nearest(name, ATTRIBUTES))
            pair = (LEVELS.index(within) if within in LEVELS else 1, names)
        elif same:
            self.report(fields.where_key("same"), "`same` compares the two objects of a pair", "write pairs_within: account")
        fields.done()
        return depth, where, unless, pair

    # -- guards ------------------------------------------------------------------------------------------------------

    def _guards(self, conditions: list[Condition]) -> tuple[list[Asked], tuple[Minimum, ...], Lag | None]:
        fields = self.f.fields("guards", "the guards")
        if fields is None:
            return [], (), None
        asked: list[Asked] = []
        minimums: tuple[Minimum, ...] = ()
        lag = None
        for name in list(fields.mapping):
            if name == "late_conversions":
                lag = self._lag(fields)
            elif name == "sample":
                minimums = self._sample(fields, conditions)
                asked.append(Asked("sample", ()))
            elif name in self.pack.guards:
                asked.append(Asked(name, self._parameters(fields, self.pack.guards[name])))
            elif name in LATER:
                fields.asked.append(name)
                self.report(fields.where_key(name), f"`{name}` does not exist yet", LATER[name])
            else:
                fields.asked.append(name)
                self.report(fields.where_key(name), f"there is no guard {name!r}", nearest(name, [*self.pack.guards, "late_conversions"]))
        return asked, minimums, lag

    def _implied(self, asked: list[Asked], action: Action | None) -> list[Asked]:
        """Guards that are asked without being written: status for what acts on an object, a day's run time beside confidence."""
        names = {a.guard for a in asked}
        if action is not None and action.kind in OBJECTS and "status" not in names:
            asked = [*asked, Asked("status", ())]
        if "confidence" in names and "min_runtime" not in names:
            asked = [*asked, Asked("min_runtime", (("at_least", DAY),))]
        return asked

    def _lag(self, guards: Fields) -> Lag | None:
        of, table = guards.text("late_conversions"), self.pack.lag
        if of not in self.pack.conversions:
            self.report(guards.where("late_conversions"), f"there is no conversion definition {of!r}", nearest(of, self.pack.conversions))
        elif table is None or table.of != of:
            self.report(guards.where("late_conversions"), f"there is no lag table of {of}", f"write lag: {{of: {of}, arrived: {{24h: 90%, 72h: 100%}}}}")
        else:
            return table
        return None

    def _sample(self, guards: Fields, conditions: list[Condition]) -> tuple[Minimum, ...]:
        fields = guards.fields("sample", "a minimum sample")
        if fields is None:
            return ()
        minimums = []
        quotients = [m for c in conditions for r in references(c) if (m := self.checker.metrics[r.metric]).denominator is not None]
        costs = bool(quotients) and all(m.family == "rate" for m in quotients)
        exposure = {m.name: m.numerator if m.numerator.name.startswith("spend@") else m.denominator for m in quotients}
        weighed = {side for m in quotients if m.family for side in (m.numerator, m.denominator)} - set(exposure.values())
        for name in sorted(fields.mapping):
            written, _, of = name.partition("(")
            definition = self.pack.definitions.get(written)
            if definition is None or definition.denominator:
                fields.asked.append(name)
                plain = [n for n, d in self.pack.definitions.items() if not d.denominator]
                self.report(fields.where_key(name), f"a sample is counted in plain amounts, not in {name!r}", nearest(name, plain))
                continue
            if costs and definition.unit != "money":
                fields.asked.append(name)
                self.report(fields.where_key(name), "the sample of a cost rule is money spent, never a number of events", "sample: {spend: 90 EUR}")
                continue
            if definition.takes_conversion and of.rstrip(")") not in self.pack.conversions:
                fields.asked.append(name)
                self.report(fields.where_key(name), f"{written} of which conversions?", nearest(of.rstrip(")"), self.pack.conversions))
                continue
            least = fields.money(name, self.pack.account.currency) if definition.unit == "money" else self._count(fields, name)
            metric = self.checker.metric(definition, of.rstrip(")"))
            if metric.numerator in weighed:
                self.report(fields.where_key(name), "a sample is never what a rule weighs: what has none of it would never be judged", COUNTED)
            if least == 0 and re.match(r"0+(\.0*)?(?!\S)", str(fields.mapping[name])):  # what cannot be read is none either, and was reported
                self.report(fields.where(name), "a sample of nothing keeps nothing back", "leave it out where none is needed")
            if metric not in self.checker.metrics:
                self.checker.metrics.append(metric)
            unit = self.pack.account.currency if definition.unit == "money" else "count"
            minimums.append(Minimum(self.checker.metrics.index(metric), least, f"{name}: {spelling(Fraction(least, MICRO), unit)}"))
        counted = {self.checker.metrics[m.metric].numerator for m in minimums}
        if minimums and exposure and not counted & set(exposure.values()):
            what = ", ".join(f"of {name} {spoken_of(measure)}" for name, measure in sorted(exposure.items()))
            self.report(guards.where_key("sample"), f"the sample lacks what the rule is counted over: {what}", COUNTED)
        return tuple(minimums)

    def _count(self, fields: Fields, key: str, hint: str = "write 3000") -> int:
        value = number(str(fields.take(key)))
        if value is None or value.denominator != 1:
            self.report(fields.where(key), f"{brief(fields.mapping[key])!r} is not a whole number", hint)
            return 0
        if value > LARGEST:
            self.report(fields.where(key), f"{brief(fields.mapping[key])} is more than anything can count", f"at most {int(LARGEST):,}")
            return 0
        return int(value) * MICRO

    def _parameters(self, guards: Fields, guard: Guard) -> tuple[tuple[str, int | str], ...]:
        value = guards.mapping.get(guard.name)
        sole = next((n for n, p in guard.parameters.items() if p.sole), None)
        if not isinstance(value, CommentedMap):
            if sole is None:
                guards.asked.append(guard.name)
                fields_of = ", ".join(f"{name}: ..." for name in guard.parameters)
                self.report(guards.where(guard.name), f"guard {guard.name} takes fields", f"{guard.name}: {{{fields_of}}}")
                return ()
            written: dict[str, int | str] = {sole: self._parameter(guards, guard.name, guard.parameters[sole])}
            return self._complete(guards, guard, written)
        fields = guards.fields(guard.name, f"guard {guard.name}")
        assert fields is not None
        written = {name: self._parameter(fields, name, p) for name, p in guard.parameters.items() if fields.has(name)}
        fields.asked += guard.parameters
        fields.done(LATER)
        return self._complete(guards, guard, written)

    def _complete(self, guards: Fields, guard: Guard, written: dict[str, int | str]) -> tuple[tuple[str, int | str], ...]:
        for name, p in guard.parameters.items():
            if name not in written and p.default is None and not p.choices:
                self.report(guards.where_key(guard.name), f"guard {guard.name} lacks `{name}`", p.help)
            elif name not in written and p.default is None:
                self.report(guards.where_key(guard.name), f"guard {guard.name} lacks `{name}`", f"one of {', '.join(p.choices)}")
            else:
                written.setdefault(name, p.default if p.default is not None else 0)
        return tuple(sorted(written.items()))

    def _parameter(self, fields: Fields, name: str, p: Parameter) -> int | str:
        value: int | str
        known = len(self.faults)
        match p.kind:
            case "duration":
                value = fields.duration(name)
            case "percent":
                value = fields.percent(name)
            case "number":
                value = self._count(fields, name, p.help) // MICRO
            case "flag":
                raw = fields.take(name)
                value = int(raw is True)
                if not isinstance(raw, bool):
                    self.report(fields.where(name), f"`{name}` is true or false", "")
            case _:
                value = fields.text(name)
        if len(self.faults) > known:
            return value
        if p.choices and str(fields.mapping.get(name)) not in p.choices:
            hint = p.help if p.kind == "percent" else nearest(str(fields.mapping.get(name)), p.choices)
            self.report(fields.where(name), f"`{name}` is one of {', '.join(p.choices)}", hint)
        if p.least is not None and isinstance(value, int) and value < p.least:
            least = "longer than nothing" if p.kind == "duration" else f"at least {p.least}"
            self.report(fields.where(name), f"`{name}` is {least}", p.help)
        return value

    def _judgeable(self, conditions: list[Condition], asked: list[Asked], minimums: tuple[Minimum, ...], key: str) -> None:
        """A rate or cost rule has a minimum sample; what stands under confidence must be measurable."""
        metrics = self.checker.metrics
        place = self.f.where(key)
        rates = [metrics[r.metric] for c in conditions for r in references(c) if metrics[r.metric].denominator is not None]
        if rates and not minimums:
            costs = any(m.unit not in ("ratio", "count") for m in rates)
            hint = f"guards: {{sample: {{spend: 90 {self.pack.account.currency}}}}}" if costs else "guards: {sample: {impressions: 3000}}"
            self.report(place, f"a rule on {rates[0].name} needs a minimum sample", hint)
        if not any(a.guard == "confidence" for a in asked):
            return
        for condition in conditions:
            for comparison in comparisons(condition):
                sides = [r for side in (comparison.left, comparison.right) for r in inside(side)]
                for r in sides:
                    self._measurable(comparison.text, r, len(sides), isinstance(comparison.left, MetricRef) or isinstance(comparison.right, MetricRef), place)
            if either(condition):
                self.report(place, "`or` between two metrics has no evidence of its own", "write two rules, or leave confidence out")
        if not rates:
            self.report(place, "confidence has nothing to measure: the condition compares no rate and no cost", "leave confidence out")

    def _measurable(self, text: str, r: MetricRef, metrics: int, alone: bool, place: Place) -> None:
        metric = self.checker.metrics[r.metric]
        if metric.denominator is None:
            return
        if not metric.family:
            self.report(place, f"no evidence is built for {metric.name} yet", "leave confidence out, or use ctr, cvr, cpc, cpa or cpl")
        elif r.window:
            self.report(place, f"{text!r}: evidence over a sliding window is not built yet", f"use {r.text}[since change], or leave confidence out")
        elif metrics > 1 or not alone:
            self.report(place, f"{text!r}: under confidence a metric is compared with a number or a target", "move the arithmetic to the other side")

    def _provable(self, program: Program, key: str) -> None:
        """A threshold that no evidence can ever speak against would make a rule that silently never acts."""
        confidence = next((a for a in program.guards if a.guard == "confidence"), None)
        if confidence is None:
            return
        effect = Fraction(confidence.integer("effect"), MICRO)
        for where, condition in ((key, program.when), ("to", program.pair.to if program.pair else None)):
            for claim in claims_of(program, condition) if condition else ():
                margin, value = 1 - effect if claim.below else 1 + effect, constant(claim.threshold)
                tested = None if value is None else value * margin
                if margin <= 0:
                    self.report(self.f.where(where), "with an effect of 100% or more nothing is left to test", "confidence: {level: 95%, effect: 10%}")
                elif tested is not None and (tested <= 0 or (claim.metric.family == "proportion" and tested >= 1)):
                    lies = "between 0% and 100%" if claim.metric.family == "proportion" else "above 0"
                    self.report(self.f.where(where), "nothing can ever prove this", f"what is tested of {claim.metric.name} must lie {lies}")

    # -- action ------------------------------------------------------------------------------------------------------

    def _whole(self, key: str) -> int:
        raw = self.f.take(key)
        if raw is None:
            return 0
        if not isinstance(raw, int) or isinstance(raw, bool) or abs(raw) > 1_000_000:
            self.report(self.f.where(key), f"`{key}` is a whole number", "0 is the default; smaller goes first")
            return 0
        return int(raw)

    def _action(self, pairs: bool) -> Action | None:
        f = self.f
        if isinstance(f.mapping.get("do"), CommentedMap):
            fields = f.fields("do", "an action")
            assert fields is not None
            return self._budget(fields, pairs)
        kind = f.text("do", None)
        if not kind:
            return None
        if kind not in DOING:
            self.report(f.where("do"), f"there is no action {kind!r}", nearest(kind, DOING))
            return None
        if kind in ("set_budget", "shift_budget"):
            self.report(f.where("do"), f"{kind} needs an amount", "do: {set_budget: 50 EUR} or {shift_budget: 15% of from}")
            return None
        if pairs:
            self.report(f.where("do"), f"a rule on pairs cannot {kind}", "do: {shift_budget: 15% of from}")
            return None
        return Action(kind)

    def _budget(self, fields: Fields, pairs: bool) -> Action | None:
        currency = self.pack.account.currency
        if fields.has("set_budget"):
            if pairs:
                self.report(fields.where_key("set_budget"), "a rule on pairs shifts budget", "do: {shift_budget: 15% of from}")
            action = Action("set_budget", (("amount", fields.money("set_budget", currency)),))
            fields.done()
            return action
        if not fields.has("shift_budget"):
            fields.asked += ["set_budget", "shift_budget"]
            fields.done()
            return None
        if not pairs:
            self.report(fields.where_key("shift_budget"), "budget is shifted between the two objects of a pair", "scope: {pairs_within: account}")
        written = fields.text("shift_budget")
        ppm = percent(written.removesuffix("of from").strip()) or 0
        if not 0 < ppm <= MICRO or not written.endswith("of from"):
            self.report(fields.where("shift_budget"), f"{brief(fields.mapping['shift_budget'])!r} is not a share", "shift_budget: 15% of from")
        cap = percent(fields.text("to_at_most", "+100% per day").removesuffix("per day").strip().removeprefix("+")) or 0
        if cap <= 0:
            self.report(fields.where("to_at_most"), f"{brief(fields.mapping['to_at_most'])!r} is not a limit", "to_at_most: +20% per day")
        floor = fields.money("floor", currency, 0)
        fields.done()
        return Action("shift_budget", (("floor", floor), ("share", ppm), ("to_at_most", cap)))

    def _approve(self, risk: str) -> Approval:
        """A high risk always asks, whatever is written."""
        fields = self.f.fields("approve", "an approval")
        if fields is None:
            return Approval(risk == "high", -1, "", 4 * HOUR if risk == "high" else 0, "leave as is")
        always = fields.take("always")
        if always is not None and not isinstance(always, bool):
            self.report(fields.where("always"), "`always` is true or false", "")
        above = -1
        if fields.has("above"):
            text = fields.text("above")
            if not text.endswith("per day"):
                self.report(fields.where("above"), f"{text!r} is not a limit", f"above: 300 {self.pack.account.currency} per day")
            else:
                above = fields.amount(fields.where("above"), text.removesuffix("per day").strip(), self.pack.account.currency)
        approval = Approval(bool(always) or risk == "high", above, fields.text("by", None), fields.duration("within", None), fields.text("otherwise", None))
        fields.done()
        return approval

    def _source(self) -> str:
        """The rule's own lines, as written."""
        lines = self.pack.source.splitlines()
        first = self.f.place.line - 1
        indent = self.f.place.column - 1
        last = first + 1
        while last < len(lines) and (not lines[last].strip() or len(lines[last]) - len(lines[last].lstrip()) >= indent):
            last += 1
        return "\n".join(line.rstrip() for line in lines[first:last]).rstrip() + "\n"


def either(condition: Condition, negated: bool = False) -> bool:
    """Whether an `or` (or a negated `and`) joins comparisons of metrics, at any depth."""
    match condition:
        case Not(term):
            return either(term, not negated)
        case And(terms) | Or(terms):
            joins = isinstance(condition, And) is negated
            return (joins and sum(bool(references(t)) for t in terms) > 1) or any(either(t, negated) for t in terms)
    return False


def spoken_of(measure: Measure | None) -> str:
    """As a pack writes it: spend, impressions, conversions(purchases)."""
    name, _, of = (measure.name.partition("@")[0] if measure else "").partition(":")
    return f"{name}({of})" if of else name
