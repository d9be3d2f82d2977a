"""From words to a program: names resolved to this account's measures, units checked, every fault pointed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from services.rules_engine.core.metric import MONEY, OF_CONVERSION, Definition
from services.rules_engine.core.program import (
    And,
    Arithmetic,
    AttributeRef,
    Compare,
    Condition,
    Expression,
    Measure,
    Metric,
    MetricRef,
    Not,
    Number,
    Or,
    TargetRef,
    Text,
)
from services.rules_engine.core.readings import window_text
from services.rules_engine.language.grammar import Binary, Comparison, Goal, Joined, Literal, Name, Negation, Node, NotACondition, Quoted, Span, Term, parse
from services.rules_engine.language.problem import nearest

ATTRIBUTES = {"status": "text", "label": "text", "objective": "text", "name": "text", "learning_phase": "text", "daily_budget": "money", "bid": "money"}
WINDOWS = "[24h], [7d], [90m] or [since change]"
SHORTEST, LONGEST = 60_000_000, 90 * 86_400_000_000
LARGEST, FINEST = Fraction(1 << 53, 1_000_000), 1_000_000_000  # of a number as written: an amount's largest, and one part in so many


@dataclass(frozen=True, slots=True)
class Conversion:
    """One source's conversions of one kind: never added to another's."""

    name: str
    source: str
    action_type: str
    attribution: str

    @property
    def measure(self) -> str:
        return ":".join(p for p in (self.action_type, self.attribution) if p)


@dataclass(slots=True)
class Checker:
    """Checks conditions of one rule; the metrics that they read are collected in `metrics`, each once."""

    platform: str
    currency: str
    definitions: dict[str, Definition]
    conversions: dict[str, Conversion]
    report: Callable[[Span, str, str], None]
    metrics: list[Metric] = field(default_factory=list)
    used: dict[str, Definition] = field(default_factory=dict)  # by the metric's written name

    def condition(self, text: str, attributes_only: bool = False) -> Condition | None:
        """The typed condition, or None after what is wrong has been reported."""
        try:
            tree = parse(text)
        except NotACondition as fault:
            self.report(fault.span, fault.message, fault.hint)
            return None
        return self._node(tree, text, attributes_only)

    def _node(self, node: Node, text: str, attributes_only: bool) -> Condition | None:
        match node:
            case Comparison():
                return self._comparison(node, text, attributes_only)
            case Negation(term):
                inner = self._node(term, text, attributes_only)
                return None if inner is None else Not(inner)
            case Joined(word, terms):
                parts = [self._node(t, text, attributes_only) for t in terms]
                if any(p is None for p in parts):
                    return None
                good = tuple(p for p in parts if p is not None)
                return And(good) if word == "and" else Or(good)

    def _comparison(self, c: Comparison, text: str, attributes_only: bool) -> Compare | None:
        if self._unquoted(c.left, c.right) or self._unquoted(c.right, c.left):
            return None
        left, right = self._term(c.left, attributes_only), self._term(c.right, attributes_only)
        if left is None or right is None:
            return None
        (a, a_unit), (b, b_unit) = left, right
        if not self._comparable(c, a, a_unit, b, b_unit):
            return None
        return Compare(c.op, a, b, f"{written(a)} {c.op} {written(b)}")

    def _unquoted(self, term: Term, other: Term) -> bool:
        """status = active: the author means the text."""
        if not (isinstance(term, Name) and isinstance(other, Name) and ATTRIBUTES.get(other.name) == "text"):
            return False
        if term.name in ATTRIBUTES or term.name in self.definitions or term.window is not None:
            return False
        self.report(term.span, f"there is no metric or attribute {term.name!r}", f'texts stand in double quotes: "{term.name}"')
        return True

    def _comparable(self, c: Comparison, a: Expression, a_unit: str, b: Expression, b_unit: str) -> bool:
        if "text" in (a_unit, b_unit):
            if a_unit != b_unit:
                self.report(c.span, f"{named(a_unit)} is compared with {named(b_unit)}", 'texts stand in double quotes: status = "active"')
                return False
            if c.op not in ("=", "!="):
                self.report(c.span, f"texts cannot be compared by {c.op}", "use = or !=")
                return False
            return True
        if a_unit == b_unit:
            return True
        if {a_unit, b_unit} == {"ratio", "count"}:
            plain, other = (c.right, a) if b_unit == "count" else (c.left, b)
            if not isinstance(plain, Literal):
                self.report(c.span, "a rate is compared with a count", "divide one count by another, or compare with a percentage")
                return False
            if not self._is_proportion(other):
                return True
            self.report(plain.span, "a rate is compared with a plain number", f"did you mean {plain.text}%?")
            return False
        money = next((u for u in (a_unit, b_unit) if u not in ("ratio", "count")), "")
        plain_literal = next((t for t, u in ((c.left, a_unit), (c.right, b_unit)) if isinstance(t, Literal) and u == "count"), None)
        if money and plain_literal is not None:
            self.report(plain_literal.span, "money is compared with a plain number", f"did you mean {plain_literal.text} {money}?")
        else:
            self.report(c.span, f"{named(a_unit)} is compared with {named(b_unit)}", "both sides must have one unit")
        return False

    def _is_proportion(self, e: Expression) -> bool:
        return not isinstance(e, MetricRef) or self.metrics[e.metric].family == "proportion"

    def _term(self, term: Term, attributes_only: bool) -> tuple[Expression, str] | None:
        match term:
            case Literal(value, unit, _, span):
                if value > LARGEST or (value * FINEST).denominator != 1:
                    self.report(span, "this number is too large, or finer than a billionth", f"at most {int(LARGEST):,}")
                    return None
                if unit not in ("ratio", "count", self.currency):
                    self.report(span, f"this account reckons in {self.currency}, not in {unit}", f"write it in {self.currency}")
                    return None
                return Number(value.numerator, value.denominator, unit, spelling(value, unit)), unit
            case Quoted(value):
                return Text(value), "text"
            case Goal(name, span):
                return self._target(name, span)
            case Name():
                return self._name(term, attributes_only)
            case Binary():
                return self._arithmetic(term, attributes_only)

    def _target(self, name: str, span: Span) -> tuple[Expression, str] | None:
        known = {n for n, d in self.definitions.items() if d.denominator}
        if name not in known:
            self.report(span, f"there is no target {name!r}: targets are set for rates and costs", nearest(name, known))
            return None
        unit = self._unit(self.definitions[name])
        return TargetRef(name, unit, f"target({name})"), unit

    def _unit(self, definition: Definition) -> str:
        return self.currency if definition.unit == "money" else definition.unit

    def _name(self, term: Name, attributes_only: bool) -> tuple[Expression, str] | None:
        if term.name in ATTRIBUTES:
            return self._attribute(term)
        definition = self.definitions.get(term.name)
        if definition is None:
            self.report(term.span, f"there is no metric or attribute {term.name!r}", nearest(term.name, [*self.definitions, *ATTRIBUTES]))
            return None
        if attributes_only:
            self.report(term.span, f"{term.name} is a metric; `where` and `except` read attributes", "put it into `when`")
            return None
        metric = self._resolve(definition, term)
        if metric is None:
            return None
        self._check_window(term)
        if metric not in self.metrics:
            self.metrics.append(metric)
            self.used[metric.name] = definition
        return MetricRef(self.metrics.index(metric), term.window or 0, metric.name), metric.unit

    def _attribute(self, term: Name) -> tuple[Expression, str] | None:
        if term.window is not None or term.of:
            self.report(term.span, f"{term.name} is an attribute: it has its last known value, no window", f"write {term.name}")
            return None
        kind = ATTRIBUTES[term.name]
        unit = self.currency if kind == "money" else kind
        return AttributeRef(term.name, unit), unit

    def _check_window(self, term: Name) -> None:
        of = f"({term.of})" if term.of else ""
        if term.window is None:
            self.report(term.span, f"over which time? {term.name} needs a window", f"write {term.name}{of} and then {WINDOWS}")
        elif term.window and not SHORTEST <= term.window <= LONGEST:
            self.report(term.span, "a window is at least one minute and at most 90 days wide", WINDOWS)

    def _resolve(self, definition: Definition, term: Name) -> Metric | None:
        if definition.takes_conversion and not term.of:
            known = ", ".join(f"{term.name}({c})" for c in sorted(self.conversions))
            self.report(term.span, f"{term.name} of which conversions?", f"write {known}" if known else "define them under `conversions:`")
            return None
        if term.of and not definition.may_take_conversion:
            self.report(term.span, f"{term.name} takes no conversion definition", f"write {term.name}")
            return None
        if term.of and term.of not in self.conversions:
            self.report(term.span, f"there is no conversion definition {term.of!r}", nearest(term.of, self.conversions) or "define it under `conversions:`")
            return None
        return self.metric(definition, term.of)

    def metric(self, definition: Definition, of: str = "") -> Metric:
        """The definition with its measures resolved for this account."""
        below = self._measure(definition.denominator, of) if definition.denominator else None
        name = f"{definition.name}({of})" if of else definition.name
        unit = self._unit(definition)
        return Metric(name, definition.version, unit, self._measure(definition.numerator, of), below, definition.factor, definition.family)

    def _measure(self, kind: str, of: str) -> Measure:
        money = f"@{self.currency}" if kind in MONEY else ""
        conversion = self.conversions.get(of)
        if kind in OF_CONVERSION:
            assert conversion is not None
            return Measure(conversion.source, f"{kind}:{conversion.measure}{money}")
        if kind == "leads" and conversion is not None:
            return Measure(conversion.source, "leads")
        return Measure(self.platform, f"{kind}{money}")

    def _arithmetic(self, term: Binary, attributes_only: bool) -> tuple[Expression, str] | None:
        left, right = self._term(term.left, attributes_only), self._term(term.right, attributes_only)
        if left is None or right is None:
            return None
        (a, a_unit), (b, b_unit) = left, right
        halved = term.op == "/" and b_unit == "count" and constant(b) is not None and a_unit != "text"
        unit = a_unit if halved else combined(term.op, a_unit, b_unit)
        if unit is None:
            self.report(
                term.span, f"{named(a_unit)} {term.op} {named(b_unit)} has no meaning", "units must fit: add like to like, scale by a number or a percentage"
            )
            return None
        if term.op == "/" and constant(b) == 0:
            self.report(term.span, "this divides by zero", "")
            return None
        return Arithmetic(term.op, a, b), unit


def written(e: Expression) -> str:
    """An expression as everybody would write it, so that spacing and the spelling of a number make no other version of a rule."""
    match e:
        case MetricRef(_, window, text):
            return f"{text}[{window_text(window)}]"
        case Number(text=text) | TargetRef(text=text):
            return text
        case AttributeRef(name):
            return name
        case Text(value):
            return f'"{value}"'
        case Arithmetic(op, left, right):
            first, second = written(left), written(right)
            if isinstance(left, Arithmetic) and op in "*/" and left.op in "+-":
                first = f"({first})"
            if isinstance(right, Arithmetic) and (op in "*/" or right.op in "+-"):
                second = f"({second})"
            return f"{first} {op} {second}"


def spelling(value: Fraction, unit: str) -> str:
    """0.8%, 30 EUR, 3000."""
    scaled = value * 100 if unit == "ratio" else value
    whole, rest = divmod(abs(scaled), 1)
    digits = f"{int(rest * 10**12):012d}".rstrip("0")
    plain = f"{int(whole)}.{digits}" if digits else str(int(whole))
    return f"{plain}%" if unit == "ratio" else plain if unit == "count" else f"{plain} {unit}"


def constant(e: Expression) -> Fraction | None:
    """The value of an expression of numbers alone, None of any other."""
    match e:
        case Number(n, d):
            return Fraction(n, d)
        case Arithmetic(op, left, right):
            a, b = constant(left), constant(right)
            if a is None or b is None or (op == "/" and b == 0):
                return None
            return {"+": a + b, "-": a - b, "*": a * b}.get(op) if op != "/" else a / b
    return None


def named(unit: str) -> str:
    return {"ratio": "a rate", "count": "a number", "text": "a text"}.get(unit, f"money ({unit})")


def combined(op: str, a: str, b: str) -> str | None:
    """The unit of a op b, or None where it has none."""
    if "text" in (a, b):
        return None
    scalars = ("ratio", "count")
    if op in "+-":
        return a if a == b else None
    if op == "*":
        if a in scalars and b in scalars:
            return "count" if "count" in (a, b) else "ratio"
        return a if b in scalars else b if a in scalars else None
    if a == b:
        return "ratio"
    if b in scalars:
        return a
    return None
