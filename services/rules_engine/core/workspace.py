"""One workspace's engine: what its records say is folded into facts; at each boundary every rule is judged over the facts stamped before it.

Logically every rule is judged for every object at every boundary. Boundaries at which provably nothing can differ are skipped: no record since the
last one, no pane leaving a window, no wait, guard or target turning, nothing emitted at the boundary before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput
from services.kernel.page import coalesced
from services.kernel.record import I64, Activation, Change, EventBatch, Outcome, Ready, Target
from services.rules_engine.core.ahead import Foreseen, Foresight
from services.rules_engine.core.arrivals import Arrivals
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.entities import NEVER, NOWHERE
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.judgement import Candidate, Judgement
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.lifecycle import SPENDING, TERMINAL, Life
from services.rules_engine.core.panel import Panel
from services.rules_engine.core.program import KNOWN, Program, TargetRef
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.shape import Shape, shape_of
from services.rules_engine.core.sums import Since

SCAN = 4096  # boundaries looked ahead at once
WHOLE = re.compile("-?[0-9]+")
MANY = 1024
GIVEN_BACK = 2  # the semantics from which on a late word gives a cause back
NOT_COMPARABLE = NEVER + 1  # a target of another unit


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
        self.facts = Facts(demand)
        self.targets: dict[str, dict[str, list[Target]]] = {}  # by name, then by path, in log order
        self.changed: dict[int, Changed] = {}
        self.ours: dict[int, int] = {}  # row -> stamp of our last verified outcome
        self.changed_at: I64 = np.zeros(64, np.int64)  # the same two as columns, 0 for never
        self.ours_at: I64 = np.zeros(64, np.int64)
        self.activated: dict[str, Activation] = {}  # by version, until ready
        self.effective: list[Activation] = []  # take effect at the next boundary, in log order
        self.born: dict[str, Since] = {}  # by anchor
        self.rules: dict[tuple[str, str], Running] = {}  # (rule id, mode)
        self.shapes: dict[Any, Shape] = {}
        self.panels: dict[str, Panel] = {}  # by platform
        self.pairs: list[Running] = []
        self.flights: dict[str, Flight] = {}
        self.lapsed: dict[str, Flight] = {}  # past their deadlines, while the cause that these have spent lasts, and for some time after
        self.deadlines: list[tuple[int, str]] = []  # of flights, a heap; some may have landed
        self.held: dict[str, str] = {}  # path -> the decision in flight on it
        self.interval = 0
        self.judged = 0  # the last boundary passed
        self.fresh = False  # something came or was emitted since: the next boundary is no no-op
        self.turn = 0  # the next instant at which time alone may change an answer, 0 for none
        self._arrivals: Arrivals | None = None  # read, and not all of them taken in and folded
        self._taken = self._folded = 0  # records of these
        self._foresight: Foresight | None = None  # of these
        self._foreseen: Foreseen | None = None  # of the next boundary, before which all that is folded since the last one is folded
        self._goals: dict[tuple[str, str], tuple[int, tuple[int, dict[int, I64]]]] = {}  # by (name, unit) of a target
        self._lapsed_most = MANY  # so many are looked through for such as nobody waits for any more
        self._goals_until = 0  # the instant at which some target begins or ends
        self._currencies: dict[tuple[str, str], tuple[int, list[int]]] = {}

    # -- records -----------------------------------------------------------------------------------------------------

    def read(self, batches: Sequence[tuple[int, EventBatch]]) -> None:
        """Records that come next, with their effective stamps: what can be said of their events before their time comes is worked out for all at once."""
        self.settle()
        assert self._arrivals is None
        self._arrivals, self._taken, self._folded = self.facts.read(coalesced(batches)), 0, 0
        is_plain = self.interval and not self._arrivals.events.as_of.any()
        self._foresight = Foresight(self.facts, self._arrivals, self.interval) if is_plain else None

    def take(self, records: int = 1) -> None:
        """Takes the next of these in; they are folded, all at once, before anything else happens."""
        self._taken += records
        self.fresh = True

    def settle(self) -> None:
        """Everything taken in is folded."""
        if self._arrivals is not None and self._taken > self._folded:
            assert self._foreseen is None
            if self._foresight is not None and not self.effective:  # what takes effect may ask for other sums
                self._foreseen = self._foresight.of(self._folded, self._taken)
            self.facts.fold(self._arrivals, self._folded, self._taken, self._foreseen is not None)
            self._folded = self._taken
            if self._taken == self._arrivals.records:
                self._arrivals = self._foresight = None
                for panel in self.panels.values():
                    panel.glanced = None  # nobody asks for it any more

    def apply(self, stamp: int, record: Activation | Ready | Target | Outcome | Change) -> None:
        """Takes one record in; `stamp` is its effective stamp, and every boundary up to it has been passed."""
        self.settle()
        self.fresh = True
        match record:
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

    def _activate(self, stamp: int, activation: Activation) -> None:
        if activation.state == "retired":
            self.activated.pop(activation.version, None)
            self.effective.append(activation)
            return
        asked = Program.from_json(activation.program).semantics
        if asked not in KNOWN:
            why = f"rule {activation.rule_id} asks for semantics {asked}; this build knows {', '.join(map(str, KNOWN))}: run one that knows them"
            raise RejectedInput(why, reason="semantics")
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
        self._room()
        if change.ours:
            self.ours[row] = self.ours_at[row] = max(self.ours.get(row, 0), change.when)
        known = self.changed.get(row)
        if known is None or known.when <= change.when:
            self.changed[row], self.changed_at[row] = change, change.when
            self.facts.restart(row, change.when)
        self.facts.mark(row)
        return row

    def _room(self) -> None:
        rows, n = len(self.facts.entities), len(self.changed_at)
        if rows > n:
            more = np.zeros(max(rows, 2 * n) - n, np.int64)
            self.changed_at, self.ours_at = np.concatenate([self.changed_at, more]), np.concatenate([self.ours_at, more])

    def _land(self, decision_id: str, spends: bool) -> None:
        flight = self.flights.pop(decision_id, None) or self.lapsed.pop(decision_id, None)
        if flight is None:
            return
        for path in flight.paths:
            if self.held.get(path) == decision_id:
                del self.held[path]
        life = flight.rule.lives.get(flight.subject)
        if life is not None and life.expects(decision_id):
            life.land(spends)
            if flight.rule.panel is not None:
                self._reconsider(flight.rule.panel, flight.rule, flight.subject, life)

    def _lapse(self, decision_id: str) -> None:
        """Nothing was heard in time: that counts as unknown, until a late word says better."""
        flight = self.flights.get(decision_id)
        self._land(decision_id, spends=True)
        life = None if flight is None else flight.rule.lives.get(flight.subject)
        if flight is None or life is None or not life.spent or flight.rule.program.semantics < GIVEN_BACK:
            return
        life.missed, self.lapsed[decision_id] = decision_id, flight
        if len(self.lapsed) > self._lapsed_most:
            self.lapsed = {d: f for d, f in self.lapsed.items() if (known := f.rule.lives.get(f.subject)) is not None and known.missed == d}
            self._lapsed_most = max(MANY, 2 * len(self.lapsed))

    @staticmethod
    def _reconsider(panel: Panel, rule: Running, subject: Subject, life: Life) -> None:
        """What was waited for has come: the cell asks again, if its cause is not spent and its condition was true when it was last looked at."""
        if life.idle:
            del rule.lives[subject]
            panel.leave(subject, rule.seat)
            return
        settled = panel.is_settled(subject[0], rule.seat)
        panel.ask(subject[0] * panel.width + rule.seat, life.on and not life.spent and settled)

    def _renew(self) -> None:
        """Some target is new, or began or ended."""
        self._goals.clear()
        self._goals_until = self._next_goal(self.judged * self.interval)
        for panel in self.panels.values():
            panel.new[:] = True

    # -- time --------------------------------------------------------------------------------------------------------

    def advance(self, stamp: int) -> list[Decision]:
        """Judges every boundary at or before `stamp` that is not provably a no-op."""
        if not self.interval or (last := stamp // self.interval) <= self.judged:
            return []
        self.settle()
        decisions: list[Decision] = []
        while (k := self._next(last)) is not None:
            decisions += self._boundary(k)
        self.judged = max(self.judged, last)
        return decisions

    def soon(self) -> int | None:
        """The instant of the next boundary, or None before the first activation."""
        return (self.judged + 1) * self.interval if self.interval else None

    def due(self) -> int | None:
        """The instant of the next boundary that may not be a no-op, or None."""
        if not self.interval:
            return None
        soon = (self.judged + 1) * self.interval
        if self.fresh or self._watched():
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

    def _watched(self) -> list[tuple[Running, Subject]]:
        """What asks for evidence that moves with time alone."""
        watching = [r for _, r in sorted(self.rules.items()) if r.watches_time]
        return [(r, s) for r in watching for s, life in sorted(r.lives.items()) if life.on and not life.flight and not life.spent]

    def _crossing(self, first: int, end: int) -> int:
        """The first boundary in [first, end) at which ageing spend may turn a confidence verdict, else `end`."""
        watched = self._watched()
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
        now = k * self.interval
        self.judged, self.fresh = k, False
        facts = self.facts
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is None:
            facts.roll(now)
        else:
            assert foreseen.instant == now
            foreseen.show()
        if self._goals_until and self._goals_until <= now:
            self._renew()
        self._take_effect(now)
        while self.deadlines and self.deadlines[0][0] <= now:
            self._lapse(heappop(self.deadlines)[1])
        self._room()
        judgement = Judgement(self, now, facts.take_dirty(), foreseen)
        candidates: list[Candidate] = []
        decisions: list[Decision] = []
        for panel in self.panels.values():
            told, asked = judgement.judge(panel)
            decisions += told
            candidates += asked
        for rule in self.pairs:
            told, asked = judgement.pairs(rule)
            decisions += told
            candidates += asked
        decisions.sort(key=lambda d: (d.rule_id, d.mode, d.path))
        decisions += judgement.admit(candidates)
        self.fresh = bool(decisions) or judgement.restless
        self.turn = self._next_turn(now)
        return decisions

    def _take_effect(self, now: int) -> None:
        if not self.effective:
            return
        due, self.effective = self.effective, []
        for activation in due:
            if activation.state == "retired":
                self.rules = {key: r for key, r in self.rules.items() if r.version != activation.version}
                continue
            key = (activation.rule_id, activation.state)
            if key in self.rules and self.rules[key].version == activation.version:
                continue  # it stands already, with all that it has told
            program = Program.from_json(activation.program)
            anchor = program.anchor
            if anchor not in self.born:
                self.born[anchor] = self.facts.since(now)
            for other in [k for k in ((activation.rule_id, "active"), (activation.rule_id, "shadow")) if k in self.rules]:
                if self.rules[other].version == activation.version:  # a version has one state
                    del self.rules[other]
            self.rules[key] = Running(program, activation.version, activation.state, self.born[anchor], activation.program)
        self._arrange()

    def _arrange(self) -> None:
        """Rules in effect by their shapes, in an order that only the rules decide."""
        self.pairs = [r for _, r in sorted(self.rules.items()) if r.program.pair is not None]
        grouped: dict[Any, list[Running]] = {}
        for _, rule in sorted(self.rules.items()):
            if rule.program.pair is None:
                grouped.setdefault(shape_of(rule), []).append(rule)
        before, self.shapes = self.shapes, {}
        for key, rules in grouped.items():
            kept = before.get(key)
            self.shapes[key] = kept if kept is not None and kept.rules == rules else Shape(rules)
        side_by_side: dict[str, list[Running]] = {}
        for _, rule in sorted(self.rules.items()):
            if rule.program.pair is None:
                side_by_side.setdefault(rule.program.platform, []).append(rule)
        panels, self.panels = self.panels, {}
        for platform, rules in sorted(side_by_side.items()):
            stood = panels.get(platform)
            self.panels[platform] = stood if stood is not None and stood.rules == rules else Panel(rules, stood)

    def launch(self, decision: Decision, rule: Running, subject: Subject, life: Life) -> None:
        """A fired decision waits for its end and holds its objects meanwhile."""
        approve = rule.program.approve
        within = approve.within if approve.always or approve.above >= 0 else 0
        paths = tuple(decision.path.split("|"))
        deadline = decision.now + within + rule.program.valid_for
        decision_id = decision.id
        self.flights[decision_id] = Flight(rule, subject, paths, deadline)
        heappush(self.deadlines, (deadline, decision_id))
        self.held |= dict.fromkeys(paths, decision_id)
        life.launch(decision_id)

    def _next_goal(self, now: int) -> int:
        """The next instant at which a target begins or ends."""
        times = [t for by_path in self.targets.values() for many in by_path.values() for target in many for t in (target.valid_from, target.valid_until)]
        return min((t for t in times if t > now), default=0)

    def _next_turn(self, now: int) -> int:
        turns = [self.facts.windows.next_roll(), self._goals_until]
        while self.deadlines and self.deadlines[0][1] not in self.flights:
            heappop(self.deadlines)
        if self.deadlines:
            turns.append(self.deadlines[0][0])
        for panel in self.panels.values():
            if panel.asking:
                turns.append(panel.turn)
            if panel.pending:
                turns.append(min(panel.pending.values()))
        for rule in self.pairs:
            for life in rule.lives.values():
                turns.append(life.wake)
                if life.since >= 0 and not life.on:
                    turns.append(life.since + rule.program.hold)
        return min((t for t in turns if t > now), default=0)

    # -- what a judgement reads --------------------------------------------------------------------------------------

    def rows_of(self, platform: str, depth: int) -> I64:
        """The entities of a platform and level that exist."""
        e = self.facts.entities
        rows = e.at_depth(depth)
        mine: I64 = rows[e.lineage[rows, 0] == e.row.get(platform, NOWHERE)]
        return mine

    def other_currencies(self, source: str, measure: str) -> list[int]:
        """Slots of the same measure in other currencies."""
        known = self._currencies.get((source, measure))
        if known is None or known[0] != len(self.facts.slot):
            base = measure.partition("@")[0] + "@"
            others = [i for (s, name), i in self.facts.slot.items() if s == source and name.startswith(base) and name != measure]
            known = self._currencies[source, measure] = len(self.facts.slot), others
        return known[1]

    def targets_of(self, asked: TargetRef, rows: I64, now: int) -> tuple[I64, Bools]:
        """(micro-units, unknown) of each row: the deepest valid target on its lineage wins, then the later record; of another unit it is unknown."""
        entities = self.facts.entities
        n = len(entities)
        key = asked.name, asked.unit
        known = self._goals.get(key)
        if known is None or known[0] != n:
            known = self._goals[key] = n, self._levels(asked, n, now)
        default, levels = known[1]
        amount = np.full(len(rows), default, np.int64)
        for depth, goals in levels.items():
            above = entities.lineage[rows, depth]
            deeper = np.where(above >= 0, goals[above], NEVER)
            amount = np.where(deeper != NEVER, deeper, amount)
        unknown = amount <= NOT_COMPARABLE
        return np.where(unknown, 0, amount), unknown

    def _levels(self, asked: TargetRef, n: int, now: int) -> tuple[int, dict[int, I64]]:
        """(the account's default, by depth the amount set for each row), NEVER for none."""
        default = NEVER
        levels: dict[int, I64] = {}
        for path, many in self.targets.get(asked.name, {}).items():
            valid = [t for t in many if t.valid_from <= now and not (t.valid_until and t.valid_until <= now)]
            if not valid:
                continue
            amount = valid[-1].amount if valid[-1].unit == asked.unit else NOT_COMPARABLE
            if not path:
                default = amount
            elif (row := self.facts.entities.row.get(path)) is not None:
                levels.setdefault(path.count("/"), np.full(n, NEVER))[row] = amount
        return default, dict(sorted(levels.items()))

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
                [rule, mode, r.version, sorted([[path[i] for i in s], life.canonical()] for s, life in r.lives.items())]
                for (rule, mode), r in sorted(self.rules.items())
            ],
            sorted([d, list(f.paths), f.deadline] for d, f in self.flights.items()),
            [self.interval, self.judged, self.fresh, self.simulated],
        ]
