"""One workspace's engine: what its records say is folded into facts; at each boundary every rule is judged over the facts stamped before it.

Logically every rule is judged for every object at every boundary. Boundaries at which provably nothing can differ are skipped: no record since the
last one, no pane leaving a window, no wait, guard or target turning, nothing emitted at the boundary before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.kernel.decision import Decision
from services.kernel.record import I64, Activation, Change, EventBatch, Outcome, Ready, Target
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.entities import NEVER
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.judgement import Candidate, Judgement
from services.rules_engine.core.lifecycle import SPENDING, TERMINAL, Life
from services.rules_engine.core.program import Program
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.sums import Since

SCAN = 4096  # boundaries looked ahead at once
WHOLE = re.compile("-?[0-9]+")
NOWHERE = -2  # no row at all


@dataclass(slots=True)
class Flight:
    """A fired decision until its terminal record or its deadline."""

    rule: Running
    subject: Subject
    paths: tuple[str, ...]
    deadline: int


@dataclass(frozen=True, slots=True)
class Changed:
    when: int
    by: str
    ours: bool


class Workspace:
    def __init__(self, name: str, guards: dict[str, Guard], demand: Demand, simulated: bool) -> None:
        self.name, self.guards, self.simulated = name, guards, simulated
        self.facts = Facts()
        for width, pane in demand.windows:
            self.facts.windows.demand(width, pane)
        self.targets: dict[str, dict[str, list[Target]]] = {}  # by name, then by path, in log order
        self.changed: dict[int, Changed] = {}
        self.ours: dict[int, int] = {}  # row -> stamp of our last verified outcome
        self.activated: dict[str, Activation] = {}  # by version, until ready
        self.effective: list[Activation] = []  # take effect at the next boundary, in log order
        self.born: dict[str, Since] = {}  # by anchor
        self.rules: dict[tuple[str, str], Running] = {}  # (rule id, mode)
        self.flights: dict[str, Flight] = {}
        self.held: dict[str, str] = {}  # path -> the decision in flight on it
        self.interval = 0
        self.judged = 0  # the last boundary passed
        self.fresh = False  # something came or was emitted since: the next boundary is no no-op
        self.turn = 0  # the next instant at which time alone may change an answer, 0 for none

    # -- records -----------------------------------------------------------------------------------------------------

    def apply(self, stamp: int, record: EventBatch | Activation | Ready | Target | Outcome | Change) -> None:
        """Takes one record in; `stamp` is its effective stamp, and every boundary up to it has been passed."""
        self.fresh = True
        match record:
            case EventBatch():
                self._fold(stamp, record)
            case Activation():
                self._activate(stamp, record)
            case Ready(_, version):
                if version in self.activated:
                    self.effective.append(self.activated.pop(version))
            case Target():
                self.targets.setdefault(record.name, {}).setdefault(record.path, []).append(record)
                self._renew()
            case Outcome():
                self._learn(stamp, record)
            case Change():
                self._change(record.path, Changed(min(record.occurred_at, stamp), record.by, False))

    def _fold(self, stamp: int, batch: EventBatch) -> None:
        parts = self.facts.fold(stamp, batch)
        for since in self.born.values():
            since.room(len(self.facts.entities), len(self.facts.slot))
            for part in parts:
                since.add(*part)

    def _activate(self, stamp: int, activation: Activation) -> None:
        if activation.state == "retired":
            self.activated.pop(activation.version, None)
            self.effective.append(activation)
            return
        same = (activation.rule_id, activation.state)
        self.activated = {v: a for v, a in self.activated.items() if (a.rule_id, a.state) != same}
        self.activated[activation.version] = activation
        if not self.interval:
            self.interval = Program.from_json(activation.program).interval
            self.judged = stamp // self.interval

    def _learn(self, stamp: int, outcome: Outcome) -> None:
        if outcome.status == "verified" and outcome.path:
            flight = self.flights.get(outcome.decision_id)
            row = self._change(outcome.path, Changed(stamp, outcome.by or (flight.rule.program.rule if flight else ""), True))
            if outcome.action:
                value: str | int = int(outcome.value) if WHOLE.fullmatch(outcome.value) else outcome.value
                self.facts.describe(outcome.action, row, stamp, value)
        if outcome.status in TERMINAL:
            self._land(outcome.decision_id, outcome.status in SPENDING)

    def _change(self, path: str, change: Changed) -> int:
        row = self.facts.entities.resolve(path)
        if change.ours:
            self.ours[row] = max(self.ours.get(row, 0), change.when)
        known = self.changed.get(row)
        if known is None or known.when <= change.when:
            self.changed[row] = change
            for since in self.born.values():
                since.room(len(self.facts.entities), len(self.facts.slot))
                since.restart(row, change.when, self.facts.history)
        self.facts.dirty.append(np.array([row], np.int64))
        return row

    def _land(self, decision_id: str, spends: bool) -> None:
        flight = self.flights.pop(decision_id, None)
        if flight is None:
            return
        for path in flight.paths:
            if self.held.get(path) == decision_id:
                del self.held[path]
        life = flight.rule.lives.get(flight.subject)
        if life is not None and life.flight == decision_id:
            life.land(spends)

    def _renew(self) -> None:
        for rule in self.rules.values():
            rule.new = True

    # -- time --------------------------------------------------------------------------------------------------------

    def advance(self, stamp: int) -> list[Decision]:
        """Judges every boundary at or before `stamp` that is not provably a no-op."""
        if not self.interval:
            return []
        decisions: list[Decision] = []
        last = stamp // self.interval
        while (k := self._next(last)) is not None:
            decisions += self._boundary(k)
        self.judged = max(self.judged, last)
        return decisions

    def due(self) -> int | None:
        """The instant of the next boundary that may not be a no-op, or None."""
        if not self.interval:
            return None
        soon = (self.judged + 1) * self.interval
        watching = any(life.on for r in self.rules.values() if r.watches_time for life in r.lives.values())
        if self.fresh or watching:
            return soon
        return max(soon, -(-self.turn // self.interval) * self.interval) if self.turn else None

    def _next(self, last: int) -> int | None:
        if self.judged >= last:
            return None
        if self.fresh:
            return self.judged + 1
        k = max(self.judged + 1, -(-self.turn // self.interval)) if self.turn else last + 1
        k = self._crossing(self.judged + 1, min(k, last + 1))
        return k if k <= last else None

    def _crossing(self, first: int, end: int) -> int:
        """The first boundary in [first, end) at which ageing spend may turn a confidence verdict, else `end`."""
        watched = [
            (r, s) for r in self.rules.values() if r.watches_time for s, life in sorted(r.lives.items()) if life.on and not life.flight and not life.spent
        ]
        while watched and first < end:
            stop = min(end, first + SCAN)
            instants = np.arange(first, stop, dtype=np.int64) * self.interval
            hits = [Judgement(self, first * self.interval).turning(rule, subject, instants) for rule, subject in watched]
            found = [first + h for h in hits if h >= 0]
            if found:
                return min(found)
            first = stop
        return end

    def _boundary(self, k: int) -> list[Decision]:
        before, now = self.judged * self.interval, k * self.interval
        self.judged, self.fresh = k, False
        touched = self.facts.windows.roll(now)
        if any(before < t <= now for t in self._target_turns()):
            self._renew()
        dirty = np.unique(np.concatenate([self.facts.take_dirty(), *touched]))
        self._take_effect(now)
        for decision_id in sorted(d for d, f in self.flights.items() if f.deadline <= now):
            self._land(decision_id, spends=True)
        judgement = Judgement(self, now)
        candidates: list[Candidate] = []
        decisions: list[Decision] = []
        for key in sorted(self.rules):
            told, asked = judgement.judge(self.rules[key], dirty)
            decisions += told
            candidates += asked
        decisions += judgement.admit(candidates)
        self.fresh = bool(decisions)
        self.turn = self._next_turn(now)
        return decisions

    def _take_effect(self, now: int) -> None:
        due, self.effective = self.effective, []
        for activation in due:
            if activation.state == "retired":
                self.rules = {key: r for key, r in self.rules.items() if r.version != activation.version}
                continue
            key = (activation.rule_id, activation.state)
            if key in self.rules and self.rules[key].version == activation.version:
                continue  # it stands already, with all that it has told
            program = Program.from_json(activation.program)
            if program.anchor not in self.born:
                changed = {row: c.when for row, c in self.changed.items()}
                self.born[program.anchor] = Since(now, self.facts.history, changed, len(self.facts.entities), len(self.facts.slot))
            self.rules = {k: r for k, r in self.rules.items() if r.version != activation.version}  # a version has one state
            self.rules[key] = Running(program, activation.version, activation.state, self.born[program.anchor])

    def launch(self, decision: Decision, rule: Running, subject: Subject, life: Life) -> None:
        """A fired decision waits for its end and holds its objects meanwhile."""
        approve = rule.program.approve
        within = approve.within if approve.always or approve.above >= 0 else 0
        paths = tuple(decision.path.split("|"))
        self.flights[decision.id] = Flight(rule, subject, paths, decision.now + within + rule.program.valid_for)
        self.held |= dict.fromkeys(paths, decision.id)
        life.launch(decision.id)

    def _next_turn(self, now: int) -> int:
        turns = [self.facts.windows.next_roll(now), *self._target_turns()]
        turns += [f.deadline for f in self.flights.values()]
        for rule in self.rules.values():
            for life in rule.lives.values():
                turns.append(life.wake)
                if life.since >= 0 and not life.on:
                    turns.append(life.since + rule.program.hold)
        return min((t for t in turns if t > now), default=0)

    def _target_turns(self) -> list[int]:
        """Every instant at which a target begins or ends."""
        return [t for by_path in self.targets.values() for many in by_path.values() for target in many for t in (target.valid_from, target.valid_until)]

    # -- what a judgement reads --------------------------------------------------------------------------------------

    def rows_of(self, program: Program) -> I64:
        """The entities of the program's platform and level."""
        return self.existing(self.facts.entities.at_depth(program.depth), program)

    def existing(self, rows: I64, program: Program) -> I64:
        """Those of the rows that exist and are of the program's platform and level."""
        e = self.facts.entities
        of_platform = e.lineage[rows, 0] == e.row.get(program.platform, NOWHERE)
        fitting: I64 = rows[of_platform & (e.depth[rows] == program.depth) & (e.first_event[rows] != NEVER)]
        return fitting

    def canonical(self) -> list[Any]:
        path = self.facts.entities.path
        return [
            self.facts.canonical(),
            sorted([path[row], c.when, c.by, c.ours, self.ours.get(row, 0)] for row, c in self.changed.items()),
            sorted(
                [name, path, [[t.amount, t.unit, t.valid_from, t.valid_until] for t in many]] for name, by in self.targets.items() for path, many in by.items()
            ),
            sorted(self.activated),
            [a.version for a in self.effective],
            [[anchor, since.born] for anchor, since in sorted(self.born.items())],
            [
                [rule, mode, r.version, r.new, sorted([[path[i] for i in s], life.canonical()] for s, life in r.lives.items())]
                for (rule, mode), r in sorted(self.rules.items())
            ],
            sorted([d, list(f.paths), f.deadline] for d, f in self.flights.items()),
            [self.interval, self.judged, self.fresh, self.simulated],
        ]
