"""Everything that stood at one boundary about one rule and one object, for people who ask why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.kernel.decision import Reading, Verdict
from services.rules_engine.core.claims import Strength, Weigher
from services.rules_engine.core.guard import Circumstance
from services.rules_engine.core.judgement import Judgement
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.readings import readings_of
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.truth import FALSE, TRUE, WORDS, Judge
from services.rules_engine.core.view import View
from services.rules_engine.core.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Inspection:
    """`standing` is idle, pending, on, waiting or acted; `verdicts` are asked whatever the standing."""

    rule: Running
    subject: Subject
    paths: tuple[str, ...]
    now: int
    standing: str
    where: str
    excluded: bool
    when: str
    readings: tuple[Reading, ...]
    verdicts: tuple[Verdict, ...]
    circumstances: tuple[Circumstance, ...]
    strength: Strength | None
    weigher: Weigher
    row: int  # of the object that `strength` is about

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(v.guard for v in self.verdicts if v.refusal)


def inspect(workspace: Workspace, rule: Running, subject: Subject) -> Inspection:
    """As of the last boundary that the workspace passed; changes nothing."""
    now = workspace.judged * workspace.interval
    judgement, view = Judgement(workspace, now), View(workspace, rule, now)
    program = rule.program
    judge = Judge(program.metrics, view)
    life = rule.lives.get(subject)
    rows = np.array(subject, np.int64)
    where = judge.truth(program.where, rows)
    unless = judge.truth(program.unless, rows, absent=FALSE)
    when = judge.truth(program.when, rows[:1])
    verdicts, _, _ = judgement.verdicts(rule, judge, view, subject)
    sides = tuple(judgement.circumstance(rule, judge, view, subject, side) for side in range(len(subject)))
    weighed = [(s, i) for i, row in enumerate(subject) if rule.weighers[i].claims and (s := rule.weighers[i].weigh(judge, view, row, now)) is not None]
    weakest = min(weighed, key=lambda pair: pair[0].log_e, default=None)
    side = weakest[1] if weakest else 0
    return Inspection(
        rule, subject, tuple(workspace.facts.entities.path[r] for r in subject), now, _standing(life), WORDS[int(where.min())] if len(where) else "true",
        bool((unless == TRUE).any()), WORDS[int(when[0])], readings_of(rule, judge, subject), verdicts, sides,
        weakest[0] if weakest else None, rule.weighers[side], subject[side],
    )  # fmt: skip


def _standing(life: Life | None) -> str:
    if life is None:
        return "idle"
    if life.flight:
        return "waiting"
    if life.on:
        return "acted" if life.spent else "on"
    return "pending" if life.since >= 0 else "idle"
