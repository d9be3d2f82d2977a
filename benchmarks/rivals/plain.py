"""The account's events one by one, and its rules as plain comparisons of sums: what somebody without the engine would write down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from benchmarks.account import DAY, HOUR, MEASURES, WINDOWS, deltas, everyone, rules
from services.adapters.codec.record import decode
from services.kernel.record import EventBatch
from services.rules_engine.core.program import And, Arithmetic, Compare, Condition, MetricRef, Number, Program

HOURS = {HOUR: "1h", DAY: "24h", 7 * DAY: "7d"}
SHORT = ("impressions", "clicks", "sales", "spend")
NAMES = tuple(f"{measure}_{HOURS[window]}" for window, _ in WINDOWS for measure in SHORT)  # slot = window * 4 + measure
LEVELS = (1, 2, 3, 4)  # account, campaign, ad group, creative
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Event:
    id: bytes
    entity: str
    at: int  # microseconds
    measure: int  # index into MEASURES
    amount: int  # micro-units


def events(total: int, creatives: int, first: int | None = None) -> Iterator[Event]:
    """The first so many of the account's `total` events, in order."""
    return islice(_events(total, creatives), first)


def everyone_of(creatives: int, at: int) -> Iterator[Event]:
    """The events that make every creative live before the clock starts."""
    return _read(everyone(creatives, at))


def _events(total: int, creatives: int) -> Iterator[Event]:
    return _read(deltas(total, 100, creatives))


def _read(records: Iterable[tuple[int, bytes]]) -> Iterator[Event]:
    for _, data in records:
        batch = decode(data)
        assert isinstance(batch, EventBatch)
        columns = (batch.entity.tolist(), batch.occurred_at.tolist(), batch.amount_measure.tolist(), batch.amount.tolist())
        paths, measures = list(batch.paths), [MEASURES.index(m) for m in batch.measures]
        for i, (entity, at, measure, amount) in enumerate(zip(*columns, strict=True)):
            yield Event(batch.event_id[i].tobytes(), paths[entity], at, measures[measure], amount)


@dataclass(frozen=True, slots=True)
class Clause:
    """left[0] * left[1] op right[0] * right[1]: a factor and a slot of the sums each, the second slot None for a number alone.

    A ratio against a threshold is multiplied out, which has it that x / 0 is above every threshold and 0 / 0 never holds.
    """

    op: str
    left: tuple[int, int]
    right: tuple[int, int | None]

    @property
    def slots(self) -> set[int]:
        return {self.left[1]} | ({self.right[1]} if self.right[1] is not None else set())


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    depth: int
    clauses: tuple[Clause, ...]  # all must hold; the cheapest first

    @property
    def slots(self) -> set[int]:
        return set().union(*(c.slots for c in self.clauses))

    @property
    def window(self) -> int:
        """Index of the one window that it reads."""
        (window,) = {slot // 4 for slot in self.slots}
        return window

    def reads(self, measure: int) -> bool:
        return any(slot % 4 == measure for slot in self.slots)


def plain_rules(count: int) -> list[Rule]:
    return [Rule(p.rule, p.depth, tuple(sorted(_clauses(p, p.when), key=lambda c: len(c.slots)))) for p in rules(count, MICRO)]


def _clauses(program: Program, condition: Condition) -> Iterator[Clause]:
    if isinstance(condition, And):
        for term in condition.terms:
            yield from _clauses(program, term)
        return
    assert isinstance(condition, Compare)
    left, number, factor = condition.left, condition.right, 1
    if isinstance(left, Arithmetic):
        assert left.op == "*" and isinstance(left.right, Number) and left.right.denominator
        factor = left.right.numerator // left.right.denominator
        left = left.left
    assert isinstance(left, MetricRef) and isinstance(number, Number)
    metric = program.metrics[left.metric]
    window = [w for w, _ in WINDOWS].index(left.window)
    slot = window * 4 + MEASURES.index(metric.numerator.name)
    if metric.denominator is None:
        yield Clause(condition.op, (factor * number.denominator, slot), (number.numerator * MICRO, None))
    else:
        below = window * 4 + MEASURES.index(metric.denominator.name)
        yield Clause(condition.op, (factor * metric.factor * number.denominator, slot), (number.numerator, below))
