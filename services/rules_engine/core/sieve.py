"""Which of the rules that stand side by side may hold for which objects: one gather of sums, one division and one search among sorted numbers say it.

Of each rule's terms the first two that compare a metric with a number are its sieve. Rules whose sieves read the same metrics stand in one group, sorted by
their numbers, so that a search says how many of them a value may satisfy; only those (object, rule) are looked at closer, by all terms, and exactly where a
value is close to a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from services.kernel.entity import LEVELS
from services.kernel.record import I64
from services.rules_engine.core.program import And, Arithmetic, Compare, Condition, Expression, Metric, MetricRef, Number
from services.rules_engine.core.running import Running
from services.rules_engine.core.shape import KLEENE_AND, Shape
from services.rules_engine.core.truth import (
    CLOSE,
    LARGEST_SUM,
    MICRO,
    MIRRORED_OPERATORS,
    TRUE,
    UNKNOWN,
    Bools,
    Column,
    Floats,
    Judge,
    Truth,
    near,
)

if TYPE_CHECKING:
    from services.rules_engine.core.workspace import Workspace

NO_TERM = -1
MARGIN = 1e-8  # how much wider than exact a sieve is: more than any value can be off
FEW_STEPS = 2  # of a search
MOST_ROWS = 1 << 12  # looked at in one go: what is computed of them stays in the cache
MOST_CELLS = 1 << 20  # likewise

Spots = tuple[I64, I64]  # (index into rows, seat)
NO_SPOTS: Spots = np.zeros(0, np.int64), np.zeros(0, np.int64)
Source = tuple[int, int, int]  # (window, pane, born) of a table of sums


class Reader(Protocol):
    """Who can evaluate what is no metric against a number."""

    def judge_of(self, rule: Running) -> Judge: ...


@dataclass(frozen=True, slots=True)
class Quantity:
    """A metric over a window, or since the change of rules that were born at one boundary."""

    metric: Metric
    window: int  # microseconds; 0 is [since change]
    pane: int  # 0 of [since change]
    born: int  # -1 of a window


@dataclass(frozen=True, slots=True)
class Term:
    """`expression op number` of one rule; `at` is the quantity's number, or that of another expression."""

    at: int
    quantity: bool
    less: bool
    strict: bool
    bound: float
    compare: Compare

    @property
    def upper(self) -> float:
        """What the value, or its negative where the term looks above, is below."""
        upper = self.bound if self.less else -self.bound
        return upper if self.strict else np.nextafter(upper, np.inf)


@dataclass(frozen=True, slots=True)
class Limits:
    """What lets a value through to a level's groups, from the first on: of each group's first two terms (quantity, sign, upper)."""

    first: int
    terms: list[tuple[I64, Floats, Floats]]  # upper is of the value, or of its negative where the term looks above


@dataclass(slots=True)
class Plan:
    """Where the quantities' sums stand, for as many measures as there are."""

    slots: int
    tables: list[tuple[Source, I64]] = field(default_factory=list)  # (table, its columns that are read)
    foreign: list[tuple[int, Source, list[int]]] = field(default_factory=list)  # (sum, table, columns of its measure in other currencies)
    numerator: list[int] = field(default_factory=list)
    denominator: list[int] = field(default_factory=list)
    absent: int = 0  # sums that nothing was reported for in their own currency


@dataclass(frozen=True, slots=True)
class Sight:
    """What the quantities are on some rows, (quantities, rows), nan where unknown; the rows stand by level, from edge to edge those of one."""

    rows: I64
    values: Floats
    edges: list[int]  # one more than there are levels


class Sieve:
    """Of the rules of one platform; a rule's seat is its place among them."""

    def __init__(self, rules: list[Running]) -> None:
        self.rules, self.width = rules, len(rules)
        self._plan: Plan | None = None
        self._lay_out()

    # -- layout ------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.quantities: list[Quantity] = []
        self.expressions: list[Expression] = []
        numbers: dict[Any, int] = {}
        terms = [self._terms(r, numbers) for r in self.rules]
        self.most = max(len(t) for t, _ in terms)
        shape = (max(self.most, 1), self.width)
        self.at, self.bound, self.side, self.read = np.full(shape, NO_TERM), np.zeros(shape), np.ones(shape), np.zeros(shape, np.bool_)
        self.compares = [[t.compare for t in of] for of, _ in terms]
        for seat, (of, _) in enumerate(terms):
            for i, t in enumerate(of):
                self.at[i, seat], self.bound[i, seat], self.side[i, seat], self.read[i, seat] = t.at, t.upper, 1.0 if t.less else -1.0, t.quantity
        self.plain = [bool(self.read[i][self.at[i] != NO_TERM].all()) for i in range(self.most)]  # its i-th terms all read quantities
        self.full = [bool((self.at[i] != NO_TERM).all()) for i in range(self.most)]  # every rule has an i-th term
        self.reads_changes = any(q.born >= 0 for q in self.quantities)  # and not only windows
        self.factor: Floats = np.array([[q.metric.factor] for q in self.quantities], np.float64)
        of_shape: dict[Shape, int] = {}
        for r in self.rules:
            assert r.shape is not None
            of_shape.setdefault(r.shape, len(of_shape))
        self.shapes: list[Shape] = list(of_shape)
        self.shape: I64 = np.array([of_shape[r.shape] for r in self.rules if r.shape is not None], np.int64)
        self.place: I64 = np.array([r.place for r in self.rules], np.int64)
        self.whole: Bools = np.array([not whole for _, whole in terms], np.bool_)  # its terms do not say all of it
        self.scoped: Bools = np.array([r.program.where is not None or r.program.unless is not None for r in self.rules], np.bool_)
        self.clears: Bools = np.array([r.program.clear is not None for r in self.rules], np.bool_)
        self._sieves(terms)

    def _terms(self, rule: Running, numbers: dict[Any, int]) -> tuple[list[Term], bool]:
        """(the terms that are an expression against a number, whether that is all of the condition)."""
        condition: Condition = rule.program.when
        terms = condition.terms if isinstance(condition, And) else (condition,)
        found, panes = [], dict(rule.program.panes)
        op: str
        expression: Expression
        for term in terms:
            match term:
                case Compare("<" | "<=" | ">" | ">=" as said, expression, Number(a, b)) if not isinstance(expression, Number):
                    op = said
                case Compare("<" | "<=" | ">" | ">=" as said, Number(a, b), expression) if not isinstance(expression, Number):
                    op = MIRRORED_OPERATORS[said]
                case _:
                    continue
            expression, bound = scaled(expression, a / b)
            key: Any
            if isinstance(expression, MetricRef):
                window = expression.window
                key = Quantity(rule.program.metrics[expression.metric], window, panes.get(window, 0) if window else 0, -1 if window else rule.since.born)
                many: list[Any] = self.quantities
            else:
                key, many = (expression, rule.program.metrics, rule.program.panes, rule.since.born), self.expressions
            if key not in numbers:
                numbers[key] = len(many)
                many.append(key if many is self.quantities else expression)
            found.append(Term(numbers[key], many is self.quantities, op[0] == "<", "=" not in op, bound, term))
        return found, len(found) == len(terms)

    def _sieves(self, terms: list[tuple[list[Term], bool]]) -> None:
        """Groups of rules by the quantities and directions of their first two terms, the loosest number of the first term first."""
        self.depths: I64 = np.array(sorted({r.program.depth for r in self.rules}), np.int64)  # the levels
        self.has_level: Bools = np.zeros(len(LEVELS), np.bool_)
        self.has_level[self.depths] = True
        groups: dict[tuple[int, tuple[tuple[int, bool], ...]], list[tuple[float, int, float]]] = {}
        loose: dict[int, list[int]] = {}
        for seat, (of, _) in enumerate(terms):
            sieves = [t for t in of if t.quantity][:2]
            if sieves:
                tightness = [-t.bound if t.less else t.bound for t in sieves]
                key = self.rules[seat].program.depth, tuple((t.at, t.less) for t in sieves)
                groups.setdefault(key, []).append((tightness[0], seat, tightness[-1]))
            else:
                loose.setdefault(self.rules[seat].program.depth, []).append(seat)
        self.loose = {level: np.array(loose[d], np.int64) for level, d in enumerate(self.depths.tolist()) if d in loose}  # rules without a sieve
        ordered = [(key, sorted(groups[key])) for key in sorted(groups)]
        sizes = [len(of) for _, of in ordered]
        self.first: I64 = np.cumsum([0, *sizes])
        self.numbers: Floats = np.array([n for _, of in ordered for n, _, _ in of], np.float64)
        self.seats: I64 = np.array([s for _, of in ordered for _, s, _ in of], np.int64)
        self.steps = max(sizes, default=0).bit_length()
        tested = np.array([[key[0][0], key[-1][0]] for (_, key), _ in ordered], np.int64).reshape(-1, 2).T
        sign = np.array([[1.0 if key[i][1] else -1.0 for i in (0, -1)] for (_, key), _ in ordered]).reshape(-1, 2).T
        loosest = np.array([[of[0][0], min(last for _, _, last in of)] for _, of in ordered]).reshape(-1, 2).T
        upper = np.abs(loosest) * MARGIN - loosest
        self.tested, self.sign = tested[0], sign[0]  # of each group's first term
        edges = np.searchsorted([depth for (depth, _), _ in ordered], [*self.depths, len(LEVELS)]).tolist()
        self.limits = [
            Limits(start, [(tested[i, start:stop], sign[i, start:stop, None], upper[i, start:stop, None]) for i in (0, 1)]) if start < stop else None
            for start, stop in pairwise(edges)
        ]  # of each level

    # -- values ------------------------------------------------------------------------------------------------------

    def sight(self, workspace: Workspace, rows: I64, sums: Mapping[tuple[int, int], I64] | None = None) -> Sight:
        """Every quantity on these rows, which stand by their levels and are of no other.

        `sums` are (slots, rows) of each (window, pane) where they are not those that the tables hold.
        """
        facts = workspace.facts
        depth = facts.entities.depth[rows]
        edges = [*depth.searchsorted(self.depths).tolist(), len(rows)]
        if not self.quantities:
            return Sight(rows, np.zeros((0, len(rows))), edges)
        facts.widen()
        plan = self._plan
        if plan is None or plan.slots != len(facts.slot):
            plan = self._plan = self._planned(workspace)
        n = sum(len(columns) for _, columns in plan.tables)
        floats = np.zeros((n + 2 + plan.absent, len(rows)))
        floats[n + 1] = MICRO
        at = 0
        for source, columns in plan.tables:
            table = self._table(workspace, *source).take(rows, axis=0).T if sums is None else sums[source[:2]]
            read = table[columns]
            floats[at : at + len(columns)] = read
            if len(rows) and (int(read.min()) < 0 or int(read.max()) > LARGEST_SUM):
                floats[at : at + len(columns)][(read < 0) | (read > LARGEST_SUM)] = np.nan
            at += len(columns)
        for i, source, others in plan.foreign:
            table = self._table(workspace, *source).take(rows, axis=0).T if sums is None else sums[source[:2]]
            floats[i][(table[others] != 0).any(axis=0)] = np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            values = floats[plan.numerator]
            values /= floats[plan.denominator]
            values *= self.factor
        return Sight(rows, values, edges)

    def _planned(self, workspace: Workspace) -> Plan:
        facts = workspace.facts
        plan = Plan(len(facts.slot))
        wanted: dict[Source, dict[int, int]] = {}  # table -> its slots
        for q in self.quantities:
            slots = wanted.setdefault((q.window, q.pane, q.born), {})
            for measure in (q.metric.numerator, q.metric.denominator):
                slot = None if measure is None else facts.slot.get((measure.source, measure.name))
                if slot is not None:
                    slots.setdefault(slot, len(slots))
        begin, count = {}, 0
        for key, slots in wanted.items():
            begin[key] = count
            count += len(slots)
            if slots:
                plan.tables.append((key, np.array(list(slots), np.int64)))
        for q in self.quantities:
            key = q.window, q.pane, q.born
            for measure, ends in ((q.metric.numerator, plan.numerator), (q.metric.denominator, plan.denominator)):
                if measure is None:
                    ends.append(count + 1)
                    continue
                slot = facts.slot.get((measure.source, measure.name))
                ends.append(count if slot is None else begin[key] + wanted[key][slot])
                if "@" in measure.name and (others := workspace.other_currencies(measure.source, measure.name)):
                    if slot is None:
                        ends[-1] = count + 2 + plan.absent
                        plan.absent += 1
                    plan.foreign.append((ends[-1], key, others))
        return plan

    @staticmethod
    def _table(workspace: Workspace, window: int, pane: int, born: int) -> I64:
        facts = workspace.facts
        return facts.windows.windows[window, pane].sums.table if window else facts.sinces[born].sums

    # -- which cells may hold ----------------------------------------------------------------------------------------

    def candidates(self, sight: Sight) -> Iterator[Spots]:
        """Wherever a condition may be true, in pieces."""
        yield from self.sifted(sight)
        for level, (start, stop) in enumerate(pairwise(sight.edges)):
            yield from self.unsifted(level, np.arange(start, stop))

    def sifted(self, sight: Sight) -> Iterator[Spots]:
        """Of the rules with a sieve."""
        group, at = self._possible(sight)
        if len(at):
            count = self._count(sight, group, at)
            for some in slices(count):
                times = count[some]
                start = np.cumsum(times) - times
                place = np.arange(int(times.sum())) + np.repeat(self.first[group[some]] - start, times)
                yield np.repeat(at[some], times), self.seats[place]

    def unsifted(self, level: int, at: I64) -> Iterator[Spots]:
        """Of those without one, wherever one looks."""
        loose = self.loose.get(level)
        if loose is None:
            return
        step = max(1, MOST_CELLS // len(loose))
        for i in range(0, len(at), step):
            yield np.repeat(at[i : i + step], len(loose)), np.tile(loose, len(at[i : i + step]))

    def _possible(self, sight: Sight) -> Spots:
        """(group, index into rows) wherever both sieves of some rule of a group let the value through."""
        if not len(self.seats):
            return NO_SPOTS
        found = []
        for (begin, end), limits in zip(pairwise(sight.edges), self.limits, strict=True):
            if begin == end or limits is None:
                continue
            values = sight.values[:, begin:end]
            passing, also = (values.take(tested, axis=0) * sign <= upper for tested, sign, upper in limits.terms)
            hit = (passing & also).reshape(-1).nonzero()[0]
            group = hit // (end - begin)
            found.append((group + limits.first, hit - group * (end - begin) + begin))
        if len(found) == 1:
            return found[0]
        return (np.concatenate([g for g, _ in found]), np.concatenate([a for _, a in found])) if found else NO_SPOTS

    def _count(self, sight: Sight, group: I64, at: I64) -> I64:
        """How many of each group's rules, the loosest first, a value may satisfy."""
        low, high = self.first[group], self.first[group + 1]
        if self.steps <= FEW_STEPS:
            return high - low  # looking at them all is less work than searching
        value = sight.values[self.tested[group], at]
        reach = np.abs(value) * MARGIN - value * self.sign[group]
        first = low
        for _ in range(self.steps):
            middle = (low + high) >> 1
            up = (self.numbers[np.minimum(middle, len(self.numbers) - 1)] <= reach) & (low < high)
            low, high = np.where(up, middle + 1, low), np.where(up, high, middle)
        count: I64 = low - first
        return count

    def truth(self, reader: Reader, sight: Sight, at: I64, seat: I64) -> Truth:
        """The truth of each cell's condition."""
        truth = np.full(len(at), TRUE, np.int8)
        for i in range(self.most):
            term = self.at[i][seat]
            if self.full[i]:
                truth = KLEENE_AND[truth * np.int8(3) + self._term(reader, sight, i, term, at, seat)]
            elif len(here := (term != NO_TERM).nonzero()[0]):
                truth[here] = KLEENE_AND[truth[here] * np.int8(3) + self._term(reader, sight, i, term[here], at[here], seat[here])]
        return self._wholly(reader, sight, at, seat, truth)

    def true(self, reader: Reader, sight: Sight, at: I64, seat: I64) -> Spots:
        """The cells whose condition is true: each term is asked only where those before it hold."""
        for i in range(self.most):
            term = self.at[i][seat]
            if self.full[i]:
                holds = self._term(reader, sight, i, term, at, seat) == TRUE
            else:
                holds = term == NO_TERM
                if len(here := (~holds).nonzero()[0]):
                    holds[here] = self._term(reader, sight, i, term[here], at[here], seat[here]) == TRUE
            at, seat = at[holds], seat[holds]
            if not len(at):
                return at, seat
        if self.whole[seat].any():
            holds = self._wholly(reader, sight, at, seat, np.full(len(at), TRUE, np.int8)) == TRUE
            at, seat = at[holds], seat[holds]
        return at, seat

    def _wholly(self, reader: Reader, sight: Sight, at: I64, seat: I64, truth: Truth) -> Truth:
        """With the conditions of which the terms do not say all."""
        for shape, some, rows, back in self.by_shape(sight.rows[at], seat, self.whole[seat]):
            judge = reader.judge_of(shape.rules[0])
            truth[some] = picked(shape.truth(shape.when, judge, rows), back, self.place[seat[some]])
        return truth

    def by_shape(self, rows: I64, seat: I64, which: Bools) -> Iterator[tuple[Shape, I64, I64, I64]]:
        """(shape, its cells, their rows each once, each cell's place among those)."""
        if not which.any():
            return
        index = np.flatnonzero(which)
        shapes = self.shape[seat[index]]
        for s in np.unique(shapes).tolist():
            some = index[shapes == s]
            each, back = np.unique(rows[some], return_inverse=True)
            yield self.shapes[s], some, each, back

    def _term(self, reader: Reader, sight: Sight, i: int, term: I64, at: I64, seat: I64) -> Truth:
        """The truth of the cells' i-th terms."""
        side, bound = self.side[i][seat], self.bound[i][seat]
        if self.plain[i]:
            value = sight.values[term, at]
            unknown = np.isnan(value)
            value *= side
            close = np.abs(value - bound) < np.abs(value) * CLOSE  # never of what is infinite; of zero only the bound's own strictness counts
        else:
            value, unknown, slack = self._expressed(reader, sight, term, at, seat, self.read[i][seat])
            value *= side
            close = (np.abs(value - bound) <= slack) | np.isinf(slack)
        truth: Truth = (value < bound).view(np.int8)
        if close.any():
            for k in (close & ~unknown).nonzero()[0].tolist():
                place = int(seat[k])
                truth[k] = reader.judge_of(self.rules[place]).exactly(self.compares[place][i], int(sight.rows[at[k]]))
        truth[unknown] = UNKNOWN
        return truth

    def _expressed(self, reader: Reader, sight: Sight, term: I64, at: I64, seat: I64, quantity: Bools) -> tuple[Floats, Bools, Floats]:
        """(value, unknown, how far it may be off) of terms that read quantities or other expressions."""
        value, unknown, slack = np.zeros(len(at)), np.zeros(len(at), np.bool_), np.zeros(len(at))
        here = quantity.nonzero()[0]
        value[here] = sight.values[term[here], at[here]]
        unknown[here] = np.isnan(value[here])
        slack[here] = near(value[here])
        rest = (~quantity).nonzero()[0]
        terms = term[rest]
        for number in np.unique(terms).tolist():
            some = rest[terms == number]
            column: Column | None = reader.judge_of(self.rules[int(seat[some[0]])]).column(self.expressions[number], sight.rows[at[some]])
            assert column is not None  # a text is compared with a text
            value[some], unknown[some], slack[some] = column.value, column.unknown, column.slack
        return value, unknown, slack


def picked(truth: Truth, at: I64, place: I64) -> Truth:
    """Of (rows, rules), or (rows, 1) where all rules agree, one entry a cell."""
    out: Truth = truth[at, place if truth.shape[1] > 1 else 0]
    return out


def scaled(expression: Expression, bound: float) -> tuple[Expression, float]:
    """The same comparison of the metric alone, where it is only multiplied or divided by a number above 0."""
    while isinstance(expression, Arithmetic):
        match expression:
            case Arithmetic("*", inner, Number(a, b)) | Arithmetic("*", Number(a, b), inner) if a > 0 and isinstance(inner, MetricRef | Arithmetic):
                expression, bound = inner, bound / (a / b)
            case Arithmetic("/", inner, Number(a, b)) if a > 0 and isinstance(inner, MetricRef | Arithmetic):
                expression, bound = inner, bound * (a / b)
            case _:
                break
    return expression, bound


def slices(count: I64) -> Iterator[slice]:
    """Stretches whose counts sum to no more than what is looked at in one go; one alone may."""
    if int(count.sum()) <= MOST_CELLS:
        yield slice(0, len(count))
        return
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + MOST_CELLS, side="right")))
        yield slice(start, stop)
        start = stop
