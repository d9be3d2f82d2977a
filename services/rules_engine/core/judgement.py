"""One boundary: the truth of every rule for every object that may have changed, the guards' answers, the order of admission."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from services.kernel.decision import Decision, Reading, Verdict
from services.kernel.entity import LEVELS, ancestors
from services.kernel.record import I64, Target
from services.rules_engine.core.claims import Strength
from services.rules_engine.core.entities import NEVER
from services.rules_engine.core.guard import Circumstance
from services.rules_engine.core.history import Past
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.program import Compare, Condition, Measure, Program, TargetRef
from services.rules_engine.core.propose import propose
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.truth import FALSE, LARGEST_SUM, TRUE, WORDS, Bools, Judge, Truth, both, comparisons, inside

if TYPE_CHECKING:
    from services.rules_engine.core.workspace import Workspace

DAY = 86_400_000_000
PLAIN = 1_000_000  # the denominator of a plain amount
OUTRANKED = Verdict("outranked", "outranked")
NOTHING_TO_MOVE = Verdict("proposal", "nothing_to_move")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object whose condition holds and whose guards all agreed."""

    rule: Running
    subject: Subject
    path: str
    life: Life
    verdicts: tuple[Verdict, ...]
    evidence: int | None

    @property
    def order(self) -> tuple[int, bool, int, bytes, str, str]:
        """Priority first, then the strongest evidence (none last), then path and rule."""
        e = self.evidence
        return self.rule.program.priority, e is None, -(e or 0), self.path.encode(), self.rule.program.rule, self.rule.mode


class View:
    """What one rule may read at one boundary."""

    def __init__(self, workspace: Workspace, rule: Running, now: int) -> None:
        self.workspace, self.rule, self.now, self.facts = workspace, rule, now, workspace.facts
        self._targets: dict[tuple[str, int], Target | None] = {}

    def sums(self, measure: Measure, window: int, rows: I64) -> tuple[I64, Bools]:
        table = self._table(window)
        slot = self.facts.slot.get((measure.source, measure.name))
        sums = self._column(table, slot, rows)
        unknown = (sums < 0) | (sums > LARGEST_SUM)
        if "@" in measure.name:
            for other in self._other_currencies(measure):
                unknown |= self._column(table, other, rows) != 0
        return sums, unknown

    def _table(self, window: int) -> I64:
        if window == 0:
            return self.rule.since.sums
        pane = dict(self.rule.program.panes)[window]
        return self.facts.windows.windows[window, pane].sums

    @staticmethod
    def _column(table: I64, slot: int | None, rows: I64) -> I64:
        out = np.zeros(len(rows), np.int64)
        if slot is not None and slot < table.shape[1]:
            inside = rows < len(table)
            out[inside] = table[rows[inside], slot]
        return out

    def _other_currencies(self, measure: Measure) -> list[int]:
        base = measure.name.partition("@")[0] + "@"
        return [i for (source, name), i in self.facts.slot.items() if source == measure.source and name.startswith(base) and name != measure.name]

    def target(self, asked: TargetRef, row: int) -> int | None:
        key = (asked.name, row)
        if key not in self._targets:
            self._targets[key] = self._resolve(asked.name, row)
        target = self._targets[key]
        return target.amount if target is not None and target.unit == asked.unit else None

    def _resolve(self, name: str, row: int) -> Target | None:
        """The deepest valid target on the row's lineage wins, then the later record."""
        by_path = self.workspace.targets.get(name, {})
        for at in (*reversed(ancestors(self.facts.entities.path[row])), ""):
            valid = [t for t in by_path.get(at, ()) if t.valid_from <= self.now and not (t.valid_until and t.valid_until <= self.now)]
            if valid:
                return valid[-1]
        return None

    def attribute(self, name: str, row: int) -> str | int | None:
        return self.facts.attribute(name, row)

    def past(self, measure: Measure, row: int) -> Past:
        slot = self.facts.slot.get((measure.source, measure.name))
        if slot is None:
            return Past(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return self.facts.history.since(row, slot, int(self.rule.since.start[row]))

    def spend_per_day(self, row: int) -> int:
        """What the object spent over the last 24 hours, micro-units of the account's currency."""
        slot = self.facts.slot.get((self.rule.program.platform, f"spend@{self.rule.program.currency}"))
        if slot is None:
            return 0
        past = self.facts.history.since(row, slot, np.iinfo(np.int64).min)
        return int(past.amount[past.landing >= self.now - DAY].sum())


class Judgement:
    """Reads a workspace at one boundary; changes only the lives of its rules and, on admission, what is in flight."""

    def __init__(self, workspace: Workspace, now: int) -> None:
        self.workspace, self.now = workspace, now
        self._strengths: dict[tuple[str, str, int, int], Strength | None] = {}
        self._staying: dict[int, set[int]] = {}  # by depth: rows that are on and will stay so
        self._counts: dict[tuple[int, int], dict[int, int]] = {}  # (their depth, an ancestor's depth) -> ancestor -> how many

    # -- truth and lifecycle -----------------------------------------------------------------------------------------

    def judge(self, rule: Running, dirty: I64) -> tuple[list[Decision], list[Candidate]]:
        """What the rule tells at once (refused, cleared) and what it wishes to do."""
        program, view = rule.program, View(self.workspace, rule, self.now)
        rule.since.room(len(self.workspace.facts.entities), len(self.workspace.facts.slot))
        judge = Judge(program.metrics, view)
        subjects, eligible, when, clear = self._pairs(rule, judge) if program.pair else self._rows(rule, judge, dirty)
        rule.new = False
        told: list[Decision] = []
        asking: list[tuple[Subject, Life]] = []
        for i, subject in subjects:
            life = rule.lives.get(subject)
            if life is None:
                life = rule.lives[subject] = Life()
            if life.advance(bool(eligible[i]), int(when[i]), None if clear is None else int(clear[i]), program.hold, self.now):
                told.append(self._decision(rule, judge, subject, "cleared", (), None))
            elif life.asks(int(when[i])) and eligible[i]:
                asking.append((subject, life))
            if life.idle:
                del rule.lives[subject]
        self._weigh(rule, judge, view, [subject for subject, _ in asking])
        candidates: list[Candidate] = []
        for subject, life in asking:
            refused, candidate = self._ask(rule, judge, view, subject, life)
            told += refused
            candidates += candidate
        return told, candidates

    def _weigh(self, rule: Running, judge: Judge, view: View, subjects: list[Subject]) -> None:
        """The evidence of all objects that are about to be asked, as columns."""
        for side, weigher in enumerate(rule.weighers):
            rows = sorted({s[side] for s in subjects})
            if weigher.claims and rows:
                self._strengths |= {(rule.program.rule, rule.mode, side, r): s for r, s in weigher.weigh_all(judge, view, rows, self.now).items()}

    def _strength(self, rule: Running, judge: Judge, view: View, side: int, row: int) -> Strength | None:
        key = (rule.program.rule, rule.mode, side, row)
        if key not in self._strengths:
            self._strengths[key] = rule.weighers[side].weigh(judge, view, row, self.now)
        return self._strengths[key]

    def _rows(self, rule: Running, judge: Judge, dirty: I64) -> tuple[list[tuple[int, Subject]], Bools, Truth, Truth | None]:
        program, workspace = rule.program, self.workspace
        if rule.new:
            rows = workspace.rows_of(program)
        else:
            alive = np.array([s[0] for s in rule.lives], np.int64)
            rows = workspace.existing(np.unique(np.concatenate([dirty, alive])), program)
        when = judge.truth(program.when, rows)
        eligible = (judge.truth(program.where, rows) == TRUE) & (judge.truth(program.unless, rows, absent=FALSE) != TRUE)
        clear = None if program.clear is None else judge.truth(program.clear, rows)
        moving = eligible & (when == TRUE)
        subjects: list[tuple[int, Subject]] = [(i, (r,)) for i, r in enumerate(rows.tolist()) if moving[i] or (r,) in rule.lives]
        return subjects, eligible, when, clear

    def _pairs(self, rule: Running, judge: Judge) -> tuple[list[tuple[int, Subject]], Bools, Truth, Truth | None]:
        """Every ordered pair under one ancestor whose two conditions may hold, and every pair that is alive."""
        program, e = rule.program, self.workspace.facts.entities
        assert program.pair is not None
        rows = self.workspace.rows_of(program)
        giver, taker = judge.truth(program.when, rows), judge.truth(program.pair.to, rows)
        fits = (judge.truth(program.where, rows) == TRUE) & (judge.truth(program.unless, rows, absent=FALSE) != TRUE)
        wish = None if program.clear is None else judge.truth(program.clear, rows)
        at = {r: i for i, r in enumerate(rows.tolist())}
        givers, takers = (rows[fits & (t == TRUE)].tolist() for t in (giver, taker))
        alive = [s for s in rule.lives if s[0] in at and s[1] in at]
        pairs = sorted({(a, b) for a in givers for b in takers if a != b and e.lineage[a, program.pair.within] == e.lineage[b, program.pair.within]} | {*alive})
        first, second = ([at[p[side]] for p in pairs] for side in (0, 1))
        same = np.array([self._same(program, judge, a, b) for a, b in pairs], np.bool_)
        when = both([giver[first], taker[second]])
        return list(enumerate(pairs)), fits[first] & fits[second] & same, when, None if wish is None else wish[first]

    @staticmethod
    def _same(program: Program, judge: Judge, a: int, b: int) -> bool:
        """Both share every attribute named; one never seen is unknown, and unknown never acts."""
        assert program.pair is not None
        known = [(judge.view.attribute(name, a), judge.view.attribute(name, b)) for name in program.pair.same]
        return all(x is not None and x == y for x, y in known)

    # -- guards ------------------------------------------------------------------------------------------------------

    def _ask(self, rule: Running, judge: Judge, view: View, subject: Subject, life: Life) -> tuple[list[Decision], list[Candidate]]:
        verdicts, evidence, life.wake = self.verdicts(rule, judge, view, subject)
        path = self._path(subject)
        if any(v.refusal for v in verdicts):
            return self._refuse(rule, judge, subject, life, verdicts, evidence), []
        return [], [Candidate(rule, subject, path, life, verdicts, evidence)]

    def _refuse(self, rule: Running, judge: Judge, subject: Subject, life: Life, verdicts: tuple[Verdict, ...], evidence: int | None) -> list[Decision]:
        refusals = tuple(v.guard for v in verdicts if v.refusal)
        if refusals == life.emitted:
            return []
        life.emitted = refusals
        return [self._decision(rule, judge, subject, "refused", verdicts, evidence)]

    def verdicts(self, rule: Running, judge: Judge, view: View, subject: Subject) -> tuple[tuple[Verdict, ...], int | None, int]:
        """Every guard's answer, of both objects of a pair: the one that refuses is recorded; then the weakest evidence, and when an answer may turn."""
        sides = [self.circumstance(rule, judge, view, subject, side) for side in range(len(subject))]
        known = [c.evidence for c in sides]
        weakest = None if None in known else min(e for e in known if e is not None)
        sides = [replace(c, evidence=weakest) for c in sides]
        verdicts = []
        for asked in rule.program.guards:
            answers = [self.workspace.guards[asked.guard].ask(asked, c) for c in sides]
            verdicts.append(next((a for a in answers if a.refusal), answers[0]))
        return tuple(verdicts), weakest, self._wake(rule, sides)

    def circumstance(self, rule: Running, judge: Judge, view: View, subject: Subject, side: int) -> Circumstance:
        program, facts, row = rule.program, self.workspace.facts, subject[side]
        strength = self._strength(rule, judge, view, side, row) if rule.weighers[side].claims else None
        account = int(facts.entities.lineage[row, 1])
        heard = [(facts.newest.get((source, account), 0), source) for source in rule.sources]
        freshest, stalest = min(heard) if heard else (self.now, "")
        changed = self.workspace.changed.get(row)
        status = view.attribute("status", row)
        minimums = []
        for m in program.minimums:
            least, unknown = view.sums(program.metrics[m.metric].numerator, rule.sample_window, np.array([row], np.int64))
            minimums.append(None if unknown[0] else int(least[0]))
        return Circumstance(
            program, facts.entities.path[row], self.now, int(rule.since.start[row]), int(facts.entities.first_event[row]), tuple(minimums),
            None if strength is None else strength.log_e, rule.weighers[side].needed, () if strength is None else self._totals(strength),
            freshest, stalest, changed.when if changed else 0, changed.by if changed else "", self.workspace.ours.get(row, 0),
            status if isinstance(status, str) else "", self._survivors(program, row),
        )  # fmt: skip

    @staticmethod
    def _totals(strength: Strength) -> tuple[tuple[str, int | str], ...]:
        return (("metric", strength.claim.metric.name), *strength.totals)

    def _survivors(self, program: Program, row: int) -> dict[str, int]:
        """Per level above: siblings of the row's own level with status known active and no pausing action in flight; asked only where a guard reads it."""
        if not any(a.guard == "keep_active" for a in program.guards):
            return {}
        e = self.workspace.facts.entities
        depth = int(e.depth[row])
        if depth not in self._staying:
            active = [r for r, (_, value) in self.workspace.facts.attributes.get("status", {}).items() if value == "active" and e.depth[r] == depth]
            self._staying[depth] = {r for r in active if e.first_event[r] != NEVER and not self._pausing(e.path[r])}
            for d in range(depth):
                above, counts = np.unique(e.lineage[sorted(self._staying[depth]), d], return_counts=True)
                self._counts[depth, d] = dict(zip(above.tolist(), counts.tolist(), strict=True))
        own = int(row in self._staying[depth])
        return {LEVELS[d]: self._counts[depth, d].get(int(e.lineage[row, d]), 0) - own for d in range(depth)}

    def _leaves(self, row: int) -> None:
        """The row is about to be switched off: those asked after it see one less."""
        e = self.workspace.facts.entities
        depth = int(e.depth[row])
        if row in self._staying.get(depth, ()):
            self._staying[depth].remove(row)
            for d in range(depth):
                self._counts[depth, d][int(e.lineage[row, d])] -= 1

    def _pausing(self, path: str) -> bool:
        held = self.workspace.held.get(path)
        return held is not None and self.workspace.flights[held].rule.program.action.kind == "pause"

    def _wake(self, rule: Running, sides: list[Circumstance]) -> int:
        """The next instant at which a guard that compares now with a known instant plus one of its durations may answer differently."""
        instants = {t for c in sides for t in (c.since, c.first_event, c.changed_at, c.changed_by_us_at)}
        if rule.sources:  # where none is read, nothing grows old
            instants |= {c.freshest for c in sides}
        durations = {v for a in rule.program.guards for _, v in a.parameters if isinstance(v, int)}
        defaults = [p.default for a in rule.program.guards for p in self.workspace.guards[a.guard].parameters.values() if p.kind == "duration"]
        durations |= {d for d in defaults if isinstance(d, int)}
        return min((t for i in instants for d in durations for t in (i + d, i + d + 1) if t > self.now), default=0)

    def turning(self, rule: Running, subject: Subject, instants: I64) -> int:
        """The index of the first instant at which ageing evidence may turn the confidence verdict that stood at the instant before, or -1."""
        view = View(self.workspace, rule, self.now)
        judge = Judge(rule.program.metrics, view)
        for side, row in enumerate(subject):
            weigher = rule.weighers[side]
            if not weigher.ages:
                continue
            before = np.concatenate([instants[:1] - self.workspace.interval, instants])
            log_e = weigher.curve(judge, view, row, before)
            opens = log_e >= weigher.needed
            near = np.abs(log_e - weigher.needed) < 1000  # micro-nats: far more than the curve can be wrong
            turns = np.flatnonzero((opens[1:] != opens[:-1]) | near[1:])
            if len(turns):
                return int(turns[0])
        return -1

    # -- admission ---------------------------------------------------------------------------------------------------

    def admit(self, candidates: list[Candidate]) -> list[Decision]:
        """One by one, each counting at once for those after it."""
        decisions: list[Decision] = []
        launched = False
        for c in sorted(candidates, key=lambda c: c.order):
            view = View(self.workspace, c.rule, self.now)
            judge = Judge(c.rule.program.metrics, view)
            held = any(path in self.workspace.held for path in c.path.split("|"))
            if held or (launched and any(v.refusal for v in self.verdicts(c.rule, judge, view, c.subject)[0])):
                decisions += self._refuse(c.rule, judge, c.subject, c.life, (*c.verdicts, OUTRANKED), c.evidence)
                continue
            action = propose(c.rule.program, c.path, c.subject, view)
            if action is None:
                decisions += self._refuse(c.rule, judge, c.subject, c.life, (*c.verdicts, NOTHING_TO_MOVE), c.evidence)
                continue
            decision = self._decision(c.rule, judge, c.subject, "fired", c.verdicts, c.evidence, action)
            decisions.append(decision)
            c.life.emitted = ()
            if c.rule.mode == "active":
                self.workspace.launch(decision, c.rule, c.subject, c.life)
                if c.rule.program.action.kind == "pause":
                    self._leaves(c.subject[0])
                launched = True
            else:
                c.life.spent = True
        return decisions

    # -- words and figures -------------------------------------------------------------------------------------------

    def _path(self, subject: Subject) -> str:
        return "|".join(self.workspace.facts.entities.path[row] for row in subject)

    def _decision(
        self, rule: Running, judge: Judge, subject: Subject, kind: str, verdicts: tuple[Verdict, ...], evidence: int | None, action: str = ""
    ) -> Decision:
        program, w = rule.program, self.workspace
        readings = self.readings(rule, judge, subject)
        valid_until = self.now + program.valid_for if kind == "fired" else 0
        return Decision(
            w.name, program.rule, rule.version, self._path(subject), self.now // w.interval, self.now, kind, rule.mode, action, readings, verdicts,
            evidence, valid_until, w.simulated,
        )  # fmt: skip

    def readings(self, rule: Running, judge: Judge, subject: Subject) -> tuple[Reading, ...]:
        """One a comparison, in the order written; of a pair those of `from` first."""
        program = rule.program
        conditions: list[Condition] = [program.when] + ([program.pair.to] if program.pair else [])
        return tuple(self._reading(program, judge, c, row) for condition, row in zip(conditions, subject, strict=True) for c in comparisons(condition))

    @staticmethod
    def _reading(program: Program, judge: Judge, compare: Compare, row: int) -> Reading:
        truth = WORDS[judge.exactly(compare, row)]
        refs = inside(compare.left) + inside(compare.right)
        other = judge.value(compare.right if inside(compare.left) else compare.left, row)
        threshold = round(other * 1_000_000_000) if isinstance(other, Fraction) else 0
        if not refs:
            return Reading(compare.text, "", "", 0, 0, threshold, truth)
        metric = program.metrics[refs[0].metric]
        n, d = judge.totals(metric, refs[0].window, row)
        below = 0 if metric.denominator is None else (d or 0)
        return Reading(compare.text, metric.name, window_text(refs[0].window), (n or 0) * metric.factor, below, threshold, truth)


def window_text(width: int) -> str:
    """since change, 24h, 7d, 90m."""
    if width == 0:
        return "since change"
    for unit, letter in ((DAY, "d"), (3_600_000_000, "h"), (60_000_000, "m")):
        if width % unit == 0 and (letter != "d" or width > DAY):
            return f"{width // unit}{letter}"
    return f"{width // 1_000_000}s"
