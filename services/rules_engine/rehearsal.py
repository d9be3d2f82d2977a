"""Rules at work on a history that has already happened: the same step, on a declared simulated clock, with nobody's platform at the other end.

What needs nobody's approval is taken as done a second later: an object that is paused says nothing more, whatever the history goes on to tell of it.
What does need one waits, and its object runs on.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

from services.kernel.columns import batches
from services.kernel.decision import Decision
from services.kernel.entity import ancestors
from services.kernel.event import Event
from services.kernel.record import Activation, Change, Clock, Outcome, Ready, Record, Stamped, Target, Tick
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Approval, Program
from services.rules_engine.core.workspace import Workspace
from services.rules_engine.trial import asks

SECOND, HOUR = 1_000_000, 3_600_000_000
WORKSPACE = "try"
PLAIN = ("sample", "status")  # the guards that a plain threshold has
Fact: TypeAlias = Event | Change


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The state after the last fact, and everything that was decided on the way."""

    workspace: Workspace
    decisions: tuple[Decision, ...]


def plain(program: Program) -> Program:
    """The same condition with only its minimum sample: no confidence, no wait, nobody asked."""
    guards = tuple(g for g in program.guards if g.guard in PLAIN)
    return replace(program, guards=guards, hold=0, lag=None, risk="low", approve=Approval(False, -1, "", 0, ""))


def rehearse(programs: Iterable[Program], targets: Sequence[Target], history: Sequence[tuple[int, Fact]], guards: dict[str, Guard]) -> Rehearsal:
    """`history` is (engine time, fact), in order; the rules are in effect from before the first one on."""
    chosen = list(programs)
    start = (history[0][0] // SECOND - 1) * SECOND
    opening: list[Record] = [Clock(True, start, note="rehearsal"), *targets]
    opening += [Activation(WORKSPACE, p.rule, p.version, "active", p.to_json()) for p in chosen] + [Ready(WORKSPACE, p.version) for p in chosen]
    queue: list[tuple[int, int, Record | tuple[Fact, ...]]] = [(start - SECOND // 2, i, r) for i, r in enumerate(opening)]
    end = history[-1][0] + max([0, *(p.hold for p in chosen)]) + 2 * SECOND
    for stamp, group in groupby(history, key=lambda pair: pair[0]):
        queue.append((stamp, len(queue), tuple(fact for _, fact in group)))
        queue.append((stamp + SECOND, len(queue), Tick()))
    queue += [(at, len(queue) + i, Tick()) for i, at in enumerate(range(start, end, HOUR))]
    queue.append((end, 2 * len(queue), Tick()))
    return _run(queue, Partition(guards, demand_of([Stamped(0, 0, r) for r in opening])))


def _run(queue: list[tuple[int, int, Record | tuple[Fact, ...]]], state: Partition) -> Rehearsal:
    heapq.heapify(queue)
    decisions: list[Decision] = []
    silent: set[str] = set()
    number = 3 * len(queue)
    offset = 0
    while queue:
        stamp, _, due = heapq.heappop(queue)
        for record in _records(due, silent) if isinstance(due, tuple) else (due,):
            for decision in state.step([Stamped(offset, stamp, record)]):
                decisions.append(decision)
                for outcome in _done(decision, silent):
                    number += 1
                    heapq.heappush(queue, (max(stamp, decision.now + SECOND), number, outcome))
            offset += 1
    return Rehearsal(state.workspaces[WORKSPACE], tuple(decisions))


def _records(facts: tuple[Fact, ...], silent: set[str]) -> list[Record]:
    """What the facts of one instant say, but for what lies at or below an object that was paused."""
    heard = [f for f in facts if silent.isdisjoint(ancestors(f.path))]
    return [*batches(WORKSPACE, [f for f in heard if isinstance(f, Event)]), *(f for f in heard if isinstance(f, Change))]


def _done(decision: Decision, silent: set[str]) -> list[Outcome]:
    if decision.kind != "fired" or asks(decision):
        return []
    outcomes = []
    for step in json.loads(decision.action)["steps"]:
        if step["attribute"] == "status" and step["desired"] == "paused":
            silent.add(step["path"])
        outcomes.append(Outcome(WORKSPACE, decision.id, "verified", step["path"], step["attribute"], "", decision.rule_id, str(step["desired"])))
    return outcomes or [Outcome(WORKSPACE, decision.id, "verified", by=decision.rule_id)]
