"""The reference evaluator: what the semantics say, one event, one rule, one boundary at a time, slow and obvious.

It shares only the vocabulary with the engine: the records, the decision and the program's data classes. It keeps every amount it
ever accepted, sums them anew at every judgement, judges truth in fractions and evidence in thirty digits. Where it and the engine
disagree, one of them has misread the semantics; README.md beside it lists where two careful readers might.

    for each boundary k, in order:
        absorb every record stamped before k * interval          (Workspace.absorb)
        for each rule in effect, for each entity or pair:        (Workspace.judge)
            truth -> lifecycle -> guards -> a candidate, a refusal, a clearing or silence
        admit the candidates one by one                          (Workspace.admit)
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from itertools import permutations

from mpmath import mp

from services.kernel.decision import Decision, Reading, Verdict
from services.kernel.entity import LEVELS, ancestors
from services.kernel.record import Activation, Change, Clock, EventBatch, Outcome, Ready, Skip, Stamped, Target
from services.rules_engine.core.program import (
    And,
    Arithmetic,
    Asked,
    AttributeRef,
    Compare,
    Condition,
    Expression,
    Lag,
    Measure,
    Metric,
    MetricRef,
    Not,
    Number,
    Or,
    Program,
    TargetRef,
    Text,
)

MICRO = 1_000_000
HOUR = 3600 * MICRO
DAY_PANE = HOUR // 12  # of the window of a day, where the rule reads none
HORIZON = 7 * 24 * HOUR  # of deduplication, where the first activation says nothing else
AHEAD = HOUR
CENT = 10_000
LARGEST_AMOUNT = 2**53
LARGEST_SUM = 2**62
TERMINAL = {"verified", "failed", "unknown", "held", "rejected", "expired", "cancelled"}
SPENDING = {"verified", "failed", "unknown", "rejected"}
PAUSING = {"pause"}
MP_DIGITS = 30

Truth = bool | None  # None is unknown
Plain = Fraction | str
INFINITE = "above every number"
MINUS_INFINITE = "below every number"


# ---------------------------------------------------------------------------------------------------------------- the entry


def evaluate(records: Sequence[Stamped], interval: int = MICRO, *, skip: bool = True) -> list[Decision]:
    """Every decision of one partition's log, by boundary, then workspace, rule and path.

    `skip=False` judges literally every boundary. `skip=True` leaves out those between two instants at which anything may change,
    and only after a boundary at which nothing did; `next_instant` says which instants these are.
    """
    poisoned = frozenset(r.record.offset for r in records if isinstance(r.record, Skip))
    activations = [r.record for r in records if isinstance(r.record, Activation) and r.record.state != "retired" and r.offset not in poisoned]
    partition = Partition(interval, skip=skip, poisoned=poisoned, horizons=horizons_of(activations[0]) if activations else (HORIZON, AHEAD))
    partition.feed(records)
    return partition.decisions


def horizons_of(activation: Activation) -> tuple[int, int]:
    """(of deduplication, how far ahead an event may be dated): those of the partition's first activation, before it as well."""
    return (activation.horizon or HORIZON, activation.ahead or AHEAD)


class Partition:
    """`poisoned` are the offsets that a skip record anywhere on the log names: they move time and say nothing."""

    def __init__(
        self, interval: int = MICRO, *, skip: bool = True, poisoned: frozenset[int] = frozenset(), horizons: tuple[int, int] | None = None
    ) -> None:
        self.interval = interval
        self.skip = skip
        self.poisoned = poisoned
        self.horizons = horizons or (HORIZON, AHEAD)
        self.workspaces: dict[str, Workspace] = {}
        self.simulated = False
        self.decisions: list[Decision] = []
        self.time = 0  # engine time: the largest stamp so far
        self.k: int | None = None  # the next boundary to judge

    def feed(self, records: Sequence[Stamped]) -> None:
        for stamped in records:
            self.time = max(self.time, stamped.stamp)
            if self.k is None:
                self.k = self.time // self.interval + 1  # nothing is known before the first record
            self.k = self.judge_until(self.k, self.time)
            if stamped.offset not in self.poisoned:
                self.absorb(stamped, self.time)
                self.k = min(self.k, self.time // self.interval + 1)  # what was skipped ahead of may have changed

    def judge_until(self, k: int, time: int) -> int:
        """Judges the boundaries from k whose instant engine time has reached; returns the next one."""
        while k * self.interval <= time:
            k = self.judge(k)
        return k

    def judge(self, k: int) -> int:
        emitted: list[Decision] = []
        moved = False
        for _, workspace in sorted(self.workspaces.items()):
            moved |= workspace.judge(k, self.interval, self.simulated, emitted)
        self.decisions += sorted(emitted, key=lambda d: (d.workspace, d.rule_id, d.path))
        if emitted or moved or not self.skip:
            return k + 1
        now = k * self.interval
        instants = [t for w in self.workspaces.values() if (t := w.next_instant(now)) is not None]
        if not instants:
            return 2**62  # until a record comes
        return max(k + 1, -(-min(instants) // self.interval))

    def absorb(self, stamped: Stamped, stamp: int) -> None:
        record = stamped.record
        if isinstance(record, Clock):
            self.simulated |= record.simulated
            return
        if isinstance(record, EventBatch | Activation | Ready | Target | Outcome | Change):
            workspace = self.workspaces.setdefault(record.workspace, Workspace(record.workspace, *self.horizons))
            workspace.absorb(record, stamp, self.interval)


# ---------------------------------------------------------------------------------------------------------------- what is known


@dataclass(frozen=True)
class Event:
    id: tuple[int, int]
    path: str
    source: str
    occurred_at: int
    interval_start: int
    interval_end: int
    as_of: int
    row: tuple[int, int]
    amounts: list[tuple[str, int]]
    attributes: list[tuple[str, int | str]]

    @property
    def is_snapshot(self) -> bool:
        return self.as_of > 0


def events_of(batch: EventBatch) -> Iterator[Event]:
    """The rows of the three tables, put together again event by event."""
    amounts: dict[int, list[tuple[str, int]]] = {}
    for event, measure, amount in zip(batch.amount_event.tolist(), batch.amount_measure.tolist(), batch.amount.tolist(), strict=True):
        amounts.setdefault(event, []).append((batch.measures[measure], amount))
    attributes: dict[int, list[tuple[str, int | str]]] = {}
    columns = (batch.attribute_event, batch.attribute_name, batch.attribute_text, batch.attribute_number)
    for event, name, text, number in zip(*(c.tolist() for c in columns), strict=True):
        attributes.setdefault(event, []).append((batch.names[name], batch.texts[text - 1] if text else number))
    for i, (first, second) in enumerate(batch.event_id.tolist()):
        yield Event(
            id=(first, second),
            path=batch.paths[batch.entity.tolist()[i]],
            source=batch.sources[batch.source.tolist()[i]],
            occurred_at=batch.occurred_at.tolist()[i],
            interval_start=batch.interval_start.tolist()[i],
            interval_end=batch.interval_end.tolist()[i],
            as_of=batch.as_of.tolist()[i],
            row=tuple(batch.row_id.tolist()[i]),
            amounts=amounts.get(i, []),
            attributes=attributes.get(i, []),
        )


@dataclass(frozen=True)
class Amount:
    at: int  # the instant it lands on: which panes, which calendar day, which age
    origin: int  # the instant it is from: before or after a change
    micros: int


@dataclass(frozen=True)
class Row:
    """The newest reading of one measure of one report row."""

    as_of: int
    micros: int
    path: str  # where it was first folded


@dataclass(frozen=True)
class Changed:
    at: int
    ours: bool


@dataclass
class Rule:
    """A version in effect."""

    id: str
    version: str
    mode: str
    program: Program

    @cached_property
    def anchor(self) -> object:
        """What [since change] belongs to: the rule's id, its scope and its metrics."""
        p = self.program
        return (self.id, p.depth, p.where, p.unless, p.pair and (p.pair.within, p.pair.same), p.metrics)


@dataclass
class Life:
    """Where one rule stands with one entity (or pair)."""

    phase: str = "idle"  # idle | pending | on
    was_true: bool = False  # `when`, at the last boundary
    pending_since: int = 0
    emitted: tuple[str, ...] | None = None  # the last emitted set of refusals, () after it fired, None when nothing was emitted
    waits_for: str = ""  # the id of the decision in flight
    stretch: int = 0  # counts the stretches of truth of `when`
    spent: int = -1  # the stretch whose cause is spent


@dataclass(frozen=True)
class Flight:
    """A fired decision of an active rule whose end is not known yet."""

    decision: Decision
    kind: str
    objects: tuple[str, ...]
    deadline: int
    life: Life
    stretch: int
    semantics: int


@dataclass(frozen=True)
class Candidate:
    rule: Rule
    path: str
    life: Life
    verdicts: tuple[Verdict, ...]
    evidence: int | None

    @property
    def order(self) -> tuple[int, int, int, bytes, str, str]:
        without = self.evidence is None
        return (self.rule.program.priority, int(without), -(self.evidence or 0), self.path.encode(), self.rule.id, self.rule.mode)


@dataclass
class Workspace:
    name: str
    horizon: int
    ahead: int
    seen: dict[tuple[int, int], int] = field(default_factory=dict)  # event id -> period it was first seen in
    rows: dict[tuple[tuple[int, int], str], Row] = field(default_factory=dict)
    amounts: dict[tuple[str, str, str], list[Amount]] = field(default_factory=dict)  # (path, source, measure)
    measures: set[tuple[str, str]] = field(default_factory=set)  # (source, measure)
    exists_since: dict[str, int] = field(default_factory=dict)  # path -> stamp of its own or a descendant's first accepted event
    attributes: dict[tuple[str, str], tuple[int, int | str]] = field(default_factory=dict)  # (path, name) -> (instant, value)
    heard: dict[tuple[str, str], int] = field(default_factory=dict)  # (account, source) -> newest instant
    changes: dict[str, list[Changed]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    announced: list[Activation] = field(default_factory=list)  # not yet ready
    rules: dict[tuple[str, str], Rule] = field(default_factory=dict)  # (rule id, mode): one version of each, a version in one mode
    starts: dict[object, int] = field(default_factory=dict)  # anchor -> first boundary in effect
    lives: dict[tuple[str, str, str], Life] = field(default_factory=dict)  # (rule id, mode, path)
    landings: list[int] = field(default_factory=list)  # every instant that an amount landed on, sorted
    totals: dict[tuple[object, ...], int | None] = field(default_factory=dict)  # of the boundary being judged
    flights: dict[str, Flight] = field(default_factory=dict)
    lapsed: dict[str, Flight] = field(default_factory=dict)  # those whose deadline passed, which counts as unknown until a late word says better
    met: Counter[str] = field(default_factory=Counter)  # what has happened to it, for those who ask whether a log says anything

    # ------------------------------------------------------------------------------------------------------------ absorbing

    def absorb(self, record: EventBatch | Activation | Ready | Target | Outcome | Change, stamp: int, interval: int) -> None:
        match record:
            case EventBatch():
                for event in events_of(record):
                    self.absorb_event(event, stamp)
            case Activation():
                self.absorb_activation(record)
            case Ready():
                self.absorb_ready(record, stamp, interval)
            case Target():
                self.targets.append(record)
            case Outcome():
                self.absorb_outcome(record, stamp)
            case Change():
                self.changes.setdefault(record.path, []).append(Changed(min(record.occurred_at, stamp), ours=False))

    def meets(self, what: str) -> None:
        self.met[what] += 1

    def absorb_event(self, event: Event, stamp: int) -> None:
        if unfit := self.unfit(event, stamp):
            self.meets(unfit)
            return
        self.meets("accepted again after the horizon" if event.id in self.seen else "accepted")
        self.seen[event.id] = stamp // self.horizon
        occurred_at = min(event.occurred_at, stamp)
        for path in ancestors(event.path):
            self.exists_since.setdefault(path, stamp)
        heard = (account_of(event.path), event.source)
        self.heard[heard] = max(self.heard.get(heard, 0), occurred_at, min(event.as_of, stamp))
        for name, value in event.attributes:
            self.set_attribute(event.path, name, value, occurred_at)
        for measure, micros in event.amounts:
            if event.is_snapshot:
                self.absorb_reading(event, measure, micros, stamp)
            else:
                self.add(event.path, event.source, measure, Amount(occurred_at, occurred_at, micros))

    def unfit(self, event: Event, stamp: int) -> str:
        """Why the event does not count, or "". What is set aside has not taken its id."""
        if event.occurred_at > stamp + self.ahead:
            return "set aside: ahead"
        if any(abs(micros) > LARGEST_AMOUNT for _, micros in event.amounts):
            return "set aside: huge"
        if event.amounts and not event.is_snapshot and event.occurred_at < stamp - self.horizon:
            return "set aside: late"  # a duplicate of it might have been forgotten
        if event.id in self.seen and stamp // self.horizon <= self.seen[event.id] + 1:
            return "duplicate"  # the first in log order counts
        return ""

    def absorb_reading(self, event: Event, measure: str, micros: int, stamp: int) -> None:
        kept = self.rows.get((event.row, measure), Row(0, 0, event.path))
        if event.as_of <= kept.as_of:
            self.meets("row: outdated")
            return
        self.meets("row: " + ("new" if not kept.as_of else "restated" if kept.path == event.path else "restated elsewhere"))
        self.rows[event.row, measure] = Row(event.as_of, micros, kept.path)
        is_open = stamp < event.interval_end
        self.meets("row: open" if is_open else "row: closed")
        at = stamp if is_open else event.interval_end - 1
        self.add(kept.path, event.source, measure, Amount(at, event.interval_start, micros - kept.micros))

    def add(self, path: str, source: str, measure: str, amount: Amount) -> None:
        for level in ancestors(path):
            self.amounts.setdefault((level, source, measure), []).append(amount)
        self.measures.add((source, measure))
        insort(self.landings, amount.at)

    def set_attribute(self, path: str, name: str, value: int | str, at: int) -> None:
        kept = self.attributes.get((path, name))
        if kept is None or at >= kept[0]:
            self.attributes[path, name] = (at, value)

    def absorb_activation(self, record: Activation) -> None:
        """A version has one state, and a rule one version a state: what is announced replaces what was announced before."""
        same = (record.rule_id, record.state)
        self.announced = [a for a in self.announced if a.version != record.version and (a.rule_id, a.state) != same]
        if record.state == "retired":
            self.meets("version: retired")
            self.remove(record.version)
        else:
            self.announced.append(record)

    def absorb_ready(self, record: Ready, stamp: int, interval: int) -> None:
        """Its versions take effect at the next boundary, even where a record before that replaces or retires them."""
        for activation in [a for a in self.announced if a.version == record.version]:
            self.announced.remove(activation)
            program = Program.from_json(activation.program)
            if program.interval != interval:
                raise ValueError(f"the program's interval is {program.interval}, the log is judged at {interval}")
            key = (activation.rule_id, activation.state)
            if key in self.rules and self.rules[key].version == activation.version:
                self.meets("version: stands already")
                continue
            self.meets("version: moves" if any(r.version == activation.version for r in self.rules.values()) else "version: new")
            self.remove(activation.version)
            if key in self.rules:
                self.meets("version: replaces")
                self.remove(self.rules[key].version)
            rule = self.rules[key] = Rule(activation.rule_id, activation.version, activation.state, program)
            self.starts.setdefault(rule.anchor, (stamp // interval + 1) * interval)

    def remove(self, version: str) -> None:
        for key in [key for key, rule in self.rules.items() if rule.version == version]:
            del self.rules[key]
            self.lives = {place: life for place, life in self.lives.items() if place[:2] != key}

    def absorb_outcome(self, record: Outcome, stamp: int) -> None:
        if record.status == "verified" and record.path:
            self.changes.setdefault(record.path, []).append(Changed(stamp, ours=True))
            if record.action:
                value = int(record.value) if re.fullmatch("-?[0-9]+", record.value) else record.value
                self.set_attribute(record.path, record.action, value, stamp)
        if record.status in TERMINAL and record.decision_id in self.flights:
            self.meets(f"ended: {record.status}")
            self.land(record.decision_id, spends=record.status in SPENDING)
        elif record.status in TERMINAL and record.decision_id in self.lapsed:
            self.hear_late(self.lapsed.pop(record.decision_id), record.status)

    def hear_late(self, flight: Flight, status: str) -> None:
        if flight.life.spent != flight.stretch or flight.life.stretch != flight.stretch:
            self.meets("ended late: after its cause")
            return
        self.meets(f"ended late: {status}")
        if status not in SPENDING:
            flight.life.spent = -1

    def land(self, decision_id: str, *, spends: bool) -> None:
        flight = self.flights.pop(decision_id)
        flight.life.waits_for = ""
        if flight.stretch != flight.life.stretch:
            self.meets("ended: after its cause")
        if spends:
            flight.life.spent = flight.stretch

    # ------------------------------------------------------------------------------------------------------------ judging

    def judge(self, k: int, interval: int, simulated: bool, emitted: list[Decision]) -> bool:
        """Adds the boundary's decisions to `emitted`; returns whether any lifecycle moved."""
        now = k * interval
        before = self.standing()
        self.totals.clear()
        for decision_id, flight in [(i, f) for i, f in self.flights.items() if now >= f.deadline]:
            self.land(decision_id, spends=True)  # a deadline counts as unknown
            if flight.semantics > 1:
                self.lapsed[decision_id] = flight
            self.meets("ended: deadline of an escalation" if flight.deadline > flight.decision.valid_until else "ended: deadline")
        candidates: list[Candidate] = []
        for rule in self.rules.values():
            for path in self.judged_paths(rule.program):
                self.judge_one(rule, path, k, now, simulated, candidates, emitted)
        self.admit(candidates, k, now, simulated, emitted)
        return before != self.standing()

    def standing(self) -> object:
        lives = {key: (v.phase, v.was_true, v.pending_since, v.emitted, v.waits_for, v.stretch, v.spent) for key, v in self.lives.items()}
        return (lives, set(self.flights))

    def judged_paths(self, program: Program) -> list[str]:
        at_level = sorted(p for p in self.exists_since if depth_of(p) == program.depth and p.split("/")[0] == program.platform)
        if program.pair is None:
            return at_level
        within = program.pair.within
        return [f"{a}|{b}" for a, b in permutations(at_level, 2) if ancestors(a)[within] == ancestors(b)[within]]

    def judge_one(
        self, rule: Rule, path: str, k: int, now: int, simulated: bool, candidates: list[Candidate], emitted: list[Decision]
    ) -> None:
        program = rule.program
        life = self.lives.setdefault((rule.id, rule.mode, path), Life())
        sides = [Side(self, rule, *side, now) for side in sides_of(program, path)]
        in_scope = all(s.truth(program.where, otherwise=True) is True and s.truth(program.unless, otherwise=False) is not True for s in sides)
        in_scope = in_scope and self.alike(program, path)
        truth = all_of([s.truth(s.condition) for s in sides])
        if life.was_true and truth is not True:
            life.stretch += 1  # the next truth of `when` is another cause
        life.was_true = truth is True

        if life.phase == "on":
            is_over = (truth is False) if program.clear is None else (sides[0].truth(program.clear) is True)
            if is_over or not in_scope:
                if life.waits_for:
                    self.meets("off while waiting")
                elif life.emitted is not None:
                    emitted.append(self.decision(rule, path, k, now, "cleared", None, simulated))
                life.phase, life.emitted = "idle", None
                return
        elif in_scope and truth is True:
            if life.phase == "idle":
                life.phase, life.pending_since = "pending", now
            if now - life.pending_since < program.hold:
                return
            life.phase = "on"
        else:
            life.phase = "idle"
            return

        if truth is not True or life.waits_for or life.spent == life.stretch:
            return
        evidence = smallest([s.evidence() for s in sides])
        refusing = {name for s in sides for name in s.refusing()}
        verdicts = tuple(Verdict(a.guard, "refused" if a.guard in refusing else "") for a in program.guards)
        if refusing:
            self.refuse(rule, path, life, verdicts, evidence, k, now, simulated, emitted)
        else:
            candidates.append(Candidate(rule, path, life, verdicts, evidence))

    def alike(self, program: Program, path: str) -> bool:
        if program.pair is None:
            return True
        a, b = path.split("|")
        for name in program.pair.same:
            left, right = self.attributes.get((a, name)), self.attributes.get((b, name))
            if left is None or right is None or left[1] != right[1]:
                return False
        return True

    def refuse(
        self,
        rule: Rule,
        path: str,
        life: Life,
        verdicts: tuple[Verdict, ...],
        evidence: int | None,
        k: int,
        now: int,
        simulated: bool,
        emitted: list[Decision],
    ) -> None:
        names = tuple(sorted(v.guard for v in verdicts if v.refusal))
        if names == life.emitted:
            return
        life.emitted = names
        emitted.append(self.decision(rule, path, k, now, "refused", evidence, simulated, verdicts))

    # ------------------------------------------------------------------------------------------------------------ admitting

    def admit(self, candidates: list[Candidate], k: int, now: int, simulated: bool, emitted: list[Decision]) -> None:
        for c in sorted(candidates, key=lambda c: c.order):
            objects = tuple(c.path.split("|"))
            is_held = any(o in f.objects for f in self.flights.values() for o in objects)
            sides = [Side(self, c.rule, *side, now) for side in sides_of(c.rule.program, c.path)]
            # What was admitted before it is in flight by now, so asking last survivor again counts it.
            if is_held or any("keep_active" in s.refusing() for s in sides):
                self.refuse(c.rule, c.path, c.life, (*c.verdicts, Verdict("outranked", "refused")), c.evidence, k, now, simulated, emitted)
                continue
            action = self.action(c.rule.program, c.path, now)
            if action is None:
                self.refuse(c.rule, c.path, c.life, (*c.verdicts, Verdict("proposal", "refused")), c.evidence, k, now, simulated, emitted)
                continue
            decision = self.decision(c.rule, c.path, k, now, "fired", c.evidence, simulated, c.verdicts, action)
            emitted.append(decision)
            c.life.emitted = ()
            if c.rule.mode != "active":
                c.life.spent = c.life.stretch
                continue
            program = c.rule.program
            can_ask = program.approve.always or program.approve.above >= 0
            deadline = now + (program.approve.within if can_ask else 0) + program.valid_for
            c.life.waits_for = decision.id
            self.flights[decision.id] = Flight(decision, program.action.kind, objects, deadline, c.life, c.life.stretch, program.semantics)

    def action(self, program: Program, path: str, now: int) -> str | None:
        """What is proposed, with absolute values, or None where there is nothing to move."""
        wish, objects = program.action, path.split("|")

        def observed(name: str, which: int) -> int | str | None:
            known = self.attributes.get((objects[which], name))
            return None if known is None else known[1]

        def step(which: int, name: str, desired: int | str) -> dict[str, int | str | None]:
            return {"path": objects[which], "attribute": name, "observed": observed(name, which), "desired": desired}

        steps = []
        match wish.kind:
            case "pause":
                steps = [step(0, "status", "paused")]
            case "resume":
                steps = [step(0, "status", "active")]
            case "set_budget":
                steps = [step(0, "daily_budget", wish.integer("amount"))]
            case "shift_budget":
                giver, taker = observed("daily_budget", 0), observed("daily_budget", 1)
                if not isinstance(giver, int) or not isinstance(taker, int):
                    return None
                share, at_most = Fraction(wish.integer("share"), MICRO), Fraction(wish.integer("to_at_most", MICRO), MICRO)
                most = min(share * giver, Fraction(giver - wish.integer("floor")), at_most * taker)
                moved = most // CENT * CENT  # whole cents
                if moved <= 0:
                    return None
                steps = [step(0, "daily_budget", giver - moved), step(1, "daily_budget", taker + moved)]
        approve = program.approve
        spend = [self.spend_a_day(program, o, now) for o in objects]
        proposal = {
            "do": wish.kind,
            "path": path,
            "risk": program.risk,
            "approve": {"always": approve.always, "above": approve.above, "by": approve.by, "within": approve.within, "otherwise": approve.otherwise},
            "spend_per_day": None if None in spend else max(s for s in spend if s is not None),
            "currency": program.currency,
            "valid_for": program.valid_for,
            "steps": steps,
        }
        return json.dumps(proposal, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def spend_a_day(self, program: Program, path: str, now: int) -> int | None:
        """The sum over a window of 24 h like any other; before version 3 of the semantics, an unknown one was taken for the number that it is not."""
        pane = dict(program.panes).get(24 * HOUR, DAY_PANE)
        day = (now - 24 * HOUR) // pane * pane

        def over_a_day(measure: Measure) -> int:
            return sum(a.micros for a in self.amounts.get((path, measure.source, measure.name), []) if a.at >= day)

        own = Measure(program.platform, f"spend@{program.currency}")
        total, mixed = over_a_day(own), any(over_a_day(other) != 0 for other in self.in_other_currencies(own))
        why = "currencies" if mixed else "negative" if total < 0 else "past 2^62" if total > LARGEST_SUM else ""
        if not why:
            return total
        self.meets(f"spend a day unknown: {why}" if program.semantics >= 3 else "spend a day taken for a number")
        return None if program.semantics >= 3 else total

    def decision(
        self,
        rule: Rule,
        path: str,
        k: int,
        now: int,
        kind: str,
        evidence: int | None,
        simulated: bool,
        verdicts: tuple[Verdict, ...] = (),
        action: str = "",
    ) -> Decision:
        return Decision(
            workspace=self.name,
            rule_id=rule.id,
            version=rule.version,
            path=path,
            boundary=k,
            now=now,
            kind=kind,
            mode=rule.mode,
            action=action,
            readings=tuple(r for side in sides_of(rule.program, path) for r in Side(self, rule, *side, now).readings()),
            verdicts=verdicts,
            evidence=evidence,
            valid_until=now + rule.program.valid_for if kind == "fired" else 0,
            simulated=simulated,
        )

    # ------------------------------------------------------------------------------------------------------------ skipping

    def next_instant(self, now: int) -> int | None:
        """The earliest later instant at which a judgement may differ without a record; None if there is none.

        Truth moves when a pane leaves a window or a target begins or ends; a lifecycle when `for` is over or a deadline comes; a guard
        when its time is over; evidence at every instant while spend matures.
        """
        instants = [f.deadline for f in self.flights.values()]
        instants += [t for target in self.targets for t in (target.valid_from, target.valid_until)]
        for rule in self.rules.values():
            program = rule.program
            for window in windows_of(program):
                oldest = bisect_left(self.landings, pane_start(program, window, now))
                if oldest < len(self.landings):  # it leaves with its pane
                    pane = pane_of(program, window)
                    instants.append((self.landings[oldest] // pane + 1) * pane + window)
            paths = {side for path in self.judged_paths(program) for side in path.split("|")}
            for asked in program.guards:
                instants += [t for path in paths for t in self.guard_instants(rule, path, asked)]
            for (rule_id, mode, _), life in self.lives.items():
                if (rule_id, mode) != (rule.id, rule.mode):
                    continue
                if life.phase == "pending":
                    instants.append(life.pending_since + program.hold)
                if life.phase == "on" and program.lag is not None and not life.waits_for and life.spent != life.stretch:
                    instants.append(now + 1)
        later = [t for t in instants if t > now]
        return min(later) if later else None

    def guard_instants(self, rule: Rule, path: str, asked: Asked) -> list[int]:
        match asked.guard:
            case "min_runtime":
                return [max(self.since(rule, path), self.exists_since[path]) + asked.integer("at_least")]
            case "cooldown":
                return [c.at + asked.integer("for") for c in self.changes.get(path, [])]
            case "fresh":
                return [t + asked.integer("within") + 1 for (account, _), t in self.heard.items() if account == account_of(path)]
        return []

    # ------------------------------------------------------------------------------------------------------------ looking up

    def since(self, rule: Rule, path: str) -> int:
        """Where [since change] starts."""
        return max([self.starts[rule.anchor]] + [c.at for c in self.changes.get(path, [])])

    def counted(self, rule: Rule, path: str, measure: Measure, window: int, now: int) -> list[Amount]:
        every = self.amounts.get((path, measure.source, measure.name), [])
        if window == 0:
            start = self.since(rule, path)
            return [a for a in every if a.origin >= start]
        start = pane_start(rule.program, window, now)
        return [a for a in every if start <= a.at < now]

    def total(self, rule: Rule, path: str, measure: Measure, window: int, now: int) -> int | None:
        """In micro-units; unknown below zero, past 2^62, and where other currencies are among it."""
        key = (rule.id, rule.mode, path, measure, window, now)
        if key not in self.totals:
            total = sum(a.micros for a in self.counted(rule, path, measure, window, now))
            mixed = any(sum(a.micros for a in self.counted(rule, path, other, window, now)) != 0 for other in self.in_other_currencies(measure))
            self.totals[key] = total if 0 <= total <= LARGEST_SUM and not mixed else None
            if self.totals[key] is None:
                self.meets("unknown: currencies" if mixed else "unknown: negative" if total < 0 else "unknown: past 2^62")
        return self.totals[key]

    def in_other_currencies(self, measure: Measure) -> set[Measure]:
        kind, money, _ = measure.name.partition("@")
        if not money:
            return set()
        names = {name for source, name in self.measures if source == measure.source and name.startswith(kind + "@")}
        return {Measure(measure.source, name) for name in names - {measure.name}}

    def target(self, name: str, path: str, now: int) -> Target | None:
        places = ("", *ancestors(path))
        valid = [t for t in self.targets if t.name == name and t.path in places and t.valid_from <= now and (now < t.valid_until or not t.valid_until)]
        if not valid:
            return None
        deepest = max(places.index(t.path) for t in valid)
        return [t for t in valid if places.index(t.path) == deepest][-1]

    def siblings_staying(self, path: str, per: str) -> int:
        depth = LEVELS.index(per)
        if depth > depth_of(path):
            return 0
        around = ancestors(path)[depth]
        leaving = {o for f in self.flights.values() if f.kind in PAUSING for o in f.objects}
        return sum(
            1
            for other in self.exists_since
            if other != path
            and depth_of(other) == depth_of(path)
            and ancestors(other)[depth] == around
            and self.attributes.get((other, "status"), (0, ""))[1] == "active"
            and other not in leaving
        )


def account_of(path: str) -> str:
    return "/".join(path.split("/")[:2])


def depth_of(path: str) -> int:
    return path.count("/")


def pane_of(program: Program, window: int) -> int:
    return dict(program.panes)[window]


def pane_start(program: Program, window: int, now: int) -> int:
    """Where a window's oldest pane begins."""
    pane = pane_of(program, window)
    return (now - window) // pane * pane


def windows_of(program: Program) -> set[int]:
    conditions = [program.when, program.where, program.unless, program.clear, program.pair and program.pair.to]
    return {ref.window for c in conditions if c is not None for ref in references(c)} - {0}


def sides_of(program: Program, path: str) -> list[tuple[str, Condition]]:
    """One side, or the two of a pair, each with the condition asked of it."""
    if program.pair is None:
        return [(path, program.when)]
    a, b = path.split("|")
    return [(a, program.when), (b, program.pair.to)]


def references(node: Condition | Expression) -> list[MetricRef]:
    match node:
        case MetricRef():
            return [node]
        case And(terms) | Or(terms):
            return [r for t in terms for r in references(t)]
        case Not(term):
            return references(term)
        case Compare(left=left, right=right) | Arithmetic(left=left, right=right):
            return references(left) + references(right)
    return []


def compares(condition: Condition) -> list[Compare]:
    match condition:
        case Compare():
            return [condition]
        case And(terms) | Or(terms):
            return [c for t in terms for c in compares(t)]
        case Not(term):
            return compares(term)


def window_in_words(window: int) -> str:
    if window == 0:
        return "since change"
    if window % (24 * HOUR) == 0 and window > 24 * HOUR:
        return f"{window // (24 * HOUR)}d"
    return f"{window // HOUR}h" if window % HOUR == 0 else f"{window // (60 * MICRO)}m"


def all_of(truths: list[Truth]) -> Truth:
    if any(t is False for t in truths):
        return False
    return None if any(t is None for t in truths) else True


def smallest(evidence: list[int | None]) -> int | None:
    known = [e for e in evidence if e is not None]
    return min(known) if len(known) == len(evidence) and known else None


# ---------------------------------------------------------------------------------------------------------------- one entity, one rule, now


@dataclass(frozen=True)
class Side:
    """One entity under one rule at one boundary, with the condition asked of it."""

    workspace: Workspace
    rule: Rule
    path: str
    condition: Condition
    now: int

    # ------------------------------------------------------------------------------------------------------------ truth

    def truth(self, condition: Condition | None, *, otherwise: Truth = None) -> Truth:
        match condition:
            case None:
                return otherwise
            case Compare():
                return compared(condition.op, self.value(condition.left), self.value(condition.right))
            case And(terms):
                return all_of([self.truth(t) for t in terms])
            case Or(terms):
                return negated(all_of([negated(self.truth(t)) for t in terms]))
            case Not(term):
                return negated(self.truth(term))

    def value(self, expression: Expression) -> Plain | None:
        """A fraction in natural units, one of the two infinities, a text; None is unknown."""
        match expression:
            case Number():
                return Fraction(expression.numerator, expression.denominator)
            case Text():
                return "text:" + expression.value
            case AttributeRef():
                known = self.workspace.attributes.get((self.path, expression.name))
                if known is None:
                    return None
                return Fraction(known[1], MICRO) if isinstance(known[1], int) else "text:" + known[1]
            case TargetRef():
                target = self.workspace.target(expression.name, self.path, self.now)
                return Fraction(target.amount, MICRO) if target is not None and target.unit == expression.unit else None
            case MetricRef():
                return self.metric_value(self.rule.program.metrics[expression.metric], expression.window)
            case Arithmetic():
                return calculated(expression.op, self.value(expression.left), self.value(expression.right))

    def metric_value(self, metric: Metric, window: int) -> Plain | None:
        numerator = self.total(metric.numerator, window)
        if metric.denominator is None:
            return None if numerator is None else Fraction(metric.factor * numerator, MICRO)
        denominator = self.total(metric.denominator, window)
        if numerator is None or denominator is None:
            return None
        return calculated("/", Fraction(metric.factor * numerator), Fraction(denominator))

    def total(self, measure: Measure, window: int) -> int | None:
        return self.workspace.total(self.rule, self.path, measure, window, self.now)

    def readings(self) -> list[Reading]:
        """One of each comparison, in the order written: its first metric, and what that is compared with."""
        return [self.reading(c) for c in compares(self.condition)]

    def reading(self, c: Compare) -> Reading:
        truth = {True: "true", False: "false", None: "unknown"}[self.truth(c)]
        other = self.value(c.right if references(c.left) else c.left)
        threshold = round(other * 10**9) if isinstance(other, Fraction) else 0
        if not references(c):
            return Reading(c.text, "", "", 0, 0, threshold, truth)
        first = references(c)[0]
        metric = self.rule.program.metrics[first.metric]
        above = (self.total(metric.numerator, first.window) or 0) * metric.factor
        below = 0 if metric.denominator is None else self.total(metric.denominator, first.window) or 0
        return Reading(c.text, metric.name, window_in_words(first.window), above, below, threshold, truth)

    # ------------------------------------------------------------------------------------------------------------ guards

    def refusing(self) -> list[str]:
        """The names of the guards that refuse."""
        return [asked.guard for asked in self.rule.program.guards if not self.agrees(asked)]

    def agrees(self, asked: Asked) -> bool:
        w, program = self.workspace, self.rule.program
        match asked.guard:
            case "sample":
                return self.has_sample()
            case "confidence":
                evidence = self.evidence()
                return evidence is not None and evidence >= needed(asked.integer("level", 950_000))
            case "min_runtime":
                return self.now - max(w.since(self.rule, self.path), w.exists_since[self.path]) >= asked.integer("at_least")
            case "fresh":
                heard = [w.heard.get((account_of(self.path), source)) for source in self.sources()]
                return all(t is not None and self.now - t <= asked.integer("within") for t in heard)
            case "cooldown":
                ours_only = asked.get("after", "any change") == "own change"
                changes = [c.at for c in w.changes.get(self.path, []) if c.ours or not ours_only]
                return not changes or self.now - max(changes) >= asked.integer("for")
            case "keep_active":
                return w.siblings_staying(self.path, str(asked.get("per"))) >= asked.integer("at_least")
            case "status":
                wanted = {"pause": "active", "set_budget": "active", "shift_budget": "active", "resume": "paused"}.get(program.action.kind)
                _, status = w.attributes.get((self.path, "status"), (0, None))
                return not isinstance(status, str) or wanted is None or status == wanted  # a number is no status that is known
            case "late_conversions":
                return True  # a parameter of the evidence
        raise ValueError(f"a guard called {asked.guard} is not in the semantics")

    def has_sample(self) -> bool:
        windows = {r.window for r in self.read()}
        window = 0 if 0 in windows or not windows else max(windows)
        for minimum in self.rule.program.minimums:
            total = self.total(self.rule.program.metrics[minimum.metric].numerator, window)
            if total is None or total < minimum.least:
                return False
        return True

    def read(self) -> list[MetricRef]:
        """What the rule's condition reads, of both sides where it is one on pairs."""
        return [r for _, condition in sides_of(self.rule.program, "|") for r in references(condition)]

    def sources(self) -> set[str]:
        metrics = [self.rule.program.metrics[r.metric] for r in self.read()]
        return {m.source for metric in metrics for m in (metric.numerator, metric.denominator) if m is not None}

    # ------------------------------------------------------------------------------------------------------------ evidence

    def evidence(self) -> int | None:
        """log E in micro-nats, the smallest over the comparisons that can have one."""
        claims = [(ref, op, bound) for op, left, right in comparisons(self.condition) for ref, op, bound in claim(op, left, right)]
        every = [self.evidence_of(ref, op, bound) for ref, op, bound in claims if self.rule.program.metrics[ref.metric].family in ("proportion", "rate")]
        return smallest(every)

    def evidence_of(self, ref: MetricRef, op: str, bound: Expression) -> int | None:
        metric = self.rule.program.metrics[ref.metric]
        threshold = self.value(bound)
        assert metric.denominator is not None
        numerator, denominator = self.total(metric.numerator, 0), self.total(metric.denominator, 0)
        if not isinstance(threshold, Fraction) or numerator is None or denominator is None:
            return None
        is_below = op in ("<", "<=")
        effect = Fraction(self.confidence("effect", 0), MICRO)
        tested = threshold * (1 - effect if is_below else 1 + effect) / metric.factor
        if threshold <= 0 or tested <= 0:
            return None
        if metric.family == "proportion":
            claimed = "low" if is_below else "high"
            return log_e_proportion(Fraction(denominator, MICRO), Fraction(numerator, MICRO), tested, claimed, self.grid(claimed))
        return self.evidence_of_cost(metric, Fraction(denominator, MICRO), tested, is_below)

    def evidence_of_cost(self, metric: Metric, events: Fraction, tested: Fraction, is_below: bool) -> int | None:
        """A high cost is a low rate of events per exposure; only there may late conversions still help the entity."""
        program = self.rule.program
        lag = program.lag if program.lag is not None and metric.name.endswith(f"({program.lag.of})") and not is_below else None
        days: dict[int, Fraction] = {}
        for a in self.workspace.counted(self.rule, self.path, metric.numerator, 0, self.now):
            day = local_day(a.at, program.offsets)
            days[day] = days.get(day, Fraction(0)) + Fraction(a.micros, MICRO) * arrived(lag, self.now - a.at) / tested
        exposure = sum(days.values(), Fraction(0))
        if exposure < 0:
            return None
        [default] = dict(program.coefficients)["dispersion"]
        variation = Fraction(self.confidence("dispersion", round(default * MICRO)), MICRO)
        phi = Fraction(1)
        if exposure > 0:
            phi = 1 + variation**2 * sum(m * m for m in days.values()) / exposure
        claimed = "high" if is_below else "low"
        return log_e_rate(events, exposure, phi, claimed, self.grid(claimed))

    def grid(self, claimed: str) -> tuple[Fraction, ...]:
        """The alternatives, as they travelled with the activation: decimals as written."""
        return tuple(Fraction(repr(d)) for d in dict(self.rule.program.coefficients)[claimed])

    def confidence(self, parameter: str, otherwise: int) -> int:
        for asked in self.rule.program.guards:
            if asked.guard == "confidence":
                return asked.integer(parameter, otherwise)
        return otherwise


NEGATION = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "!=": "="}
MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def comparisons(condition: Condition, negative: bool = False) -> list[tuple[str, Expression, Expression]]:
    """The comparisons with `not` pushed into their operators."""
    match condition:
        case Compare():
            return [(NEGATION[condition.op] if negative else condition.op, condition.left, condition.right)]
        case Not(term):
            return comparisons(term, not negative)
        case And(terms) | Or(terms):
            return [c for t in terms for c in comparisons(t, negative)]


def claim(op: str, left: Expression, right: Expression) -> list[tuple[MetricRef, str, Expression]]:
    """[metric since change, operator, bound] where the comparison claims that a metric lies on one side of a bound."""
    if is_bound(left):
        op, left, right = MIRROR[op], right, left
    if isinstance(left, MetricRef) and left.window == 0 and is_bound(right) and op not in ("=", "!="):
        return [(left, op, right)]
    return []


def is_bound(e: Expression) -> bool:
    return not references(e)


# ---------------------------------------------------------------------------------------------------------------- three-valued arithmetic


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def compared(op: str, a: Plain | None, b: Plain | None) -> Truth:
    if a is None or b is None:
        return None
    if is_text(a) or is_text(b):
        if not (is_text(a) and is_text(b)):
            return None
        return {"=": a == b, "!=": a != b}.get(op)
    if a == b and not isinstance(a, Fraction):
        return None  # two infinities of one sign say nothing of each other
    difference = order(a, b)
    return {"<": difference < 0, "<=": difference <= 0, ">": difference > 0, ">=": difference >= 0, "=": difference == 0, "!=": difference != 0}[op]


def is_text(v: Plain) -> bool:
    return isinstance(v, str) and v.startswith("text:")


def sign(v: Plain) -> int:
    if v == INFINITE:
        return 1
    if v == MINUS_INFINITE:
        return -1
    assert isinstance(v, Fraction)
    return (v > 0) - (v < 0)


def order(a: Plain, b: Plain) -> int:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return sign(a - b)
    return sign(a) if not isinstance(a, Fraction) else -sign(b)


def infinite(direction: int) -> Plain | None:
    return {1: INFINITE, -1: MINUS_INFINITE, 0: None}[direction]


def calculated(op: str, a: Plain | None, b: Plain | None) -> Plain | None:
    if a is None or b is None or is_text(a) or is_text(b):
        return None
    if op == "-":
        return calculated("+", a, calculated("*", Fraction(-1), b))
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if op == "/" and b == 0:
            return INFINITE if a > 0 else None
        return {"+": lambda: a + b, "*": lambda: a * b, "/": lambda: a / b}[op]()
    if op == "+":
        if isinstance(a, Fraction) or isinstance(b, Fraction):
            return b if isinstance(a, Fraction) else a
        return a if a == b else None
    if op == "*":
        return infinite(sign(a) * sign(b))
    if isinstance(a, Fraction):
        return Fraction(0)  # something over infinitely much
    if b == 0:
        return INFINITE if a == INFINITE else None  # x / 0 with x > 0
    return infinite(sign(a) * sign(b)) if isinstance(b, Fraction) else None


# ---------------------------------------------------------------------------------------------------------------- the formulas of the evidence

def real(f: Fraction) -> mp.mpf:
    return mp.mpf(f.numerator) / mp.mpf(f.denominator)


def micro_nats(value: mp.mpf) -> int:
    return int(mp.nint(value * MICRO))  # half to even


def mixture(terms: list[mp.mpf]) -> mp.mpf:
    """The logarithm of the mean of exp(terms)."""
    top = max(terms)
    return top + mp.log(sum(mp.exp(t - top) for t in terms)) - mp.log(len(terms))


@cache
def needed(level: int) -> int:
    with mp.workdps(MP_DIGITS):
        return micro_nats(-mp.log(real(Fraction(MICRO - level, MICRO))))


@lru_cache(maxsize=100_000)
def log_e_proportion(n: Fraction, k: Fraction, p0: Fraction, claimed: str, grid: tuple[Fraction, ...]) -> int | None:
    """Evidence that the true proportion of k in n is below (low) or above (high) p0."""
    if not 0 < p0 < 1 or k > n:
        return None
    with mp.workdps(MP_DIGITS):
        if claimed == "low":
            other = [p0 * (1 - d) for d in grid]
        else:
            other = [min(p0 * (1 + d), (1 + p0) / 2) for d in grid]
        return micro_nats(mixture([real(k) * mp.log(real(p / p0)) + real(n - k) * mp.log(real((1 - p) / (1 - p0))) for p in other]))


@lru_cache(maxsize=100_000)
def log_e_rate(events: Fraction, exposure: Fraction, phi: Fraction, claimed: str, grid: tuple[Fraction, ...]) -> int:
    """Evidence that events come at a rate below (low) or above (high) one per exposure."""
    with mp.workdps(MP_DIGITS):
        n, m = real(events / phi), exposure / phi
        if claimed == "low":
            return micro_nats(mixture([n * mp.log(real(1 - d)) + real(d * m) for d in grid]))
        return micro_nats(mixture([n * mp.log(real(1 + d)) - real(d * m) for d in grid]))


def arrived(lag: Lag | None, age: int) -> Fraction:
    """The share of the conversions of spend of this age that has arrived."""
    if lag is None:
        return Fraction(1)
    before = (0, 0)
    for point in lag.points:
        if age < point[0]:
            return Fraction(before[1] + Fraction((point[1] - before[1]) * (age - before[0]), point[0] - before[0])) / MICRO
        before = point
    return Fraction(1)


def local_day(at: int, offsets: tuple[tuple[int, int], ...]) -> int:
    """Days since the epoch by the zone's rules that travelled with the activation: the last begun holds, none is UTC."""
    begun = [offset for start, offset in offsets if start <= at] or [offset for _, offset in offsets[:1]] or [0]
    return (at + begun[-1]) // (24 * HOUR)
