"""A rule as the engine runs it: typed, checked, canonical. Everything a judgement depends on travels in it, and its hash is the rule's version.

All values are exact: a number in a program is a fraction of two integers in natural units (0.8% is 8/1000, 30 EUR is 30/1), a duration is microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

from services.kernel.ids import digest

SEMANTICS = 3  # the version of the letter (docs/semantics.md) that this program asks for
KNOWN = (1, 2, 3)  # those that this build can follow


@dataclass(frozen=True, slots=True)
class Measure:
    """One raw additive quantity of one source: what a column of sums holds. Money carries its currency: spend@EUR."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its measures resolved for this account. value = factor * numerator / denominator, or factor * numerator / 10^6 without one."""

    name: str  # as written: ctr, cpa(purchases)
    version: int
    unit: str  # ratio | count | a currency
    numerator: Measure
    denominator: Measure | None
    factor: int
    family: str  # proportion | rate (events per exposure, the metric being its reciprocal: a cost) | "" (no evidence)


@dataclass(frozen=True, slots=True)
class MetricRef:
    metric: int  # index into Program.metrics
    window: int  # microseconds; 0 is [since change]
    text: str


@dataclass(frozen=True, slots=True)
class Number:
    numerator: int
    denominator: int
    unit: str  # ratio | count | a currency
    text: str


@dataclass(frozen=True, slots=True)
class TargetRef:
    name: str
    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class AttributeRef:
    name: str
    unit: str  # text | ratio | count | a currency


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    op: str  # + - * /
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Compare:
    op: str  # < <= > >= = !=
    left: Expression
    right: Expression
    text: str  # as the author wrote it


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Condition


Expression: TypeAlias = "MetricRef | Number | TargetRef | AttributeRef | Text | Arithmetic"
Condition: TypeAlias = "Compare | And | Or | Not"


@dataclass(frozen=True, slots=True)
class Pair:
    """Judges every ordered pair (from, to) of the rule's level inside one entity of depth `within`; `same` names attributes both must share."""

    within: int  # depth: 1 is account
    same: tuple[str, ...]
    to: Condition  # the condition of the other side; Program.when is that of `from`


@dataclass(frozen=True, slots=True)
class Asked:
    """One guard with its parameters, sorted by name: durations in microseconds, ratios in parts per million, words as they are."""

    guard: str
    parameters: tuple[tuple[str, int | str], ...]

    def get(self, name: str, otherwise: int | str = 0) -> int | str:
        return dict(self.parameters).get(name, otherwise)

    def integer(self, name: str, otherwise: int = 0) -> int:
        value = self.get(name, otherwise)
        return value if isinstance(value, int) else otherwise


@dataclass(frozen=True, slots=True)
class Minimum:
    """A minimum sample: `metric` (a plain amount) must reach `least` micro-units over the window of the comparisons."""

    metric: int
    least: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """What to do: pause | resume | set_budget | shift_budget | notify, with its parameters sorted by name (money in micro-units, shares in ppm)."""

    kind: str
    parameters: tuple[tuple[str, int | str], ...] = ()

    def integer(self, name: str, otherwise: int = 0) -> int:
        value = dict(self.parameters).get(name, otherwise)
        return value if isinstance(value, int) else otherwise


@dataclass(frozen=True, slots=True)
class Approval:
    """Who must agree: `always`, or when the entity spends more than `above` micro-units a day (-1: never); `otherwise` is the safe default named."""

    always: bool
    above: int
    by: str
    within: int  # microseconds
    otherwise: str


@dataclass(frozen=True, slots=True)
class Lag:
    """How much of a conversion's credit has arrived by an age: (microseconds, parts per million) points, linear between, 0 at 0, all after the last."""

    of: str
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Program:
    rule: str
    owner: str
    objective: str
    platform: str
    currency: str
    zone: str  # IANA
    depth: int  # of the entities judged: 0 platform ... 4 creative
    where: Condition | None
    unless: Condition | None  # `except`
    when: Condition
    clear: Condition | None
    pair: Pair | None
    hold: int  # `for`, microseconds
    metrics: tuple[Metric, ...]
    minimums: tuple[Minimum, ...]
    guards: tuple[Asked, ...]  # in the order of the guards' names
    lag: Lag | None  # of `late_conversions`
    action: Action
    approve: Approval
    risk: str  # low | medium | high
    priority: int
    valid_for: int  # microseconds
    panes: tuple[tuple[int, int], ...]  # (window width, pane width), microseconds
    interval: int  # microseconds between boundaries
    coefficients: tuple[tuple[str, tuple[float, ...]], ...]  # of the evidence, as computed at activation
    offsets: tuple[tuple[int, int], ...] = ()  # the zone's rules: (from, offset from UTC), microseconds; none is UTC
    semantics: int = SEMANTICS
    source: str = ""  # the rule's text as written; not part of the version

    @property
    def version(self) -> str:
        plain = to_plain(self)
        del plain["source"]
        return digest("version", canonical(plain))

    @property
    def anchor(self) -> str:
        """What [since change] belongs to: the scope and the metrics; editing a threshold keeps it."""
        scope = [self.depth, to_plain(self.where), to_plain(self.unless), to_plain(self.pair and (self.pair.within, self.pair.same)), to_plain(self.metrics)]
        return digest("anchor", self.rule, canonical(scope))

    def to_json(self) -> str:
        return canonical(to_plain(self))

    @staticmethod
    @lru_cache(16_384)
    def from_json(text: str) -> Program:
        program = from_plain(json.loads(text))
        assert isinstance(program, Program)
        return program


def canonical(value: Any) -> str:
    """One text for one value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def to_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    names = NAMES.get(type(value))
    if names is None:
        return value
    return {"is": type(value).__name__} | {name: to_plain(getattr(value, name)) for name in names}


KINDS = {
    c.__name__: c
    for c in (Measure, Metric, MetricRef, Number, TargetRef, AttributeRef, Text, Arithmetic, Compare, And, Or, Not)
    + (Pair, Asked, Minimum, Action, Approval, Lag, Program)
}
NAMES: dict[type[Any], tuple[str, ...]] = {c: tuple(f.name for f in fields(c)) for c in KINDS.values()}


def from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return KINDS[value["is"]](**{k: from_plain(v) for k, v in value.items() if k != "is"})
    if isinstance(value, list):
        return tuple(from_plain(v) for v in value)
    return value
