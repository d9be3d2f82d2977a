"""One boundary: the truth of every rule for every object that may have changed, the guards' answers, the order of admission."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.kernel.decision import Decision, Verdict
from services.kernel.entity import LEVELS
from services.kernel.record import I64
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.claims import Strength
from services.rules_engine.core.entities import NEVER, NOWHERE
from services.rules_engine.core.guard import Circumstance
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.panel import ASK_ANYWAY, BETWEEN, SETTLED, Panel
from services.rules_engine.core.program import Program
from services.rules_engine.core.propose import propose
from services.rules_engine.core.readings import readings_of
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.shape import Shape
from services.rules_engine.core.sieve import MOST_ROWS, Sight, Spots, picked
from services.rules_engine.core.truth import FALSE, TRUE, Bools, Judge, Truth, both
from services.rules_engine.core.view import View

if TYPE_CHECKING:
    from services.rules_engine.core.ahead import Foreseen
    from services.rules_engine.core.workspace import Workspace

OUTRANKED = Verdict("outranked", "outranked")
NO_ROWS: I64 = np.zeros(0, np.int64)
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


class Judgement:
    """Reads a workspace at one boundary; changes only the lives of its rules and, on admission, what is in flight."""

    def __init__(self, workspace: Workspace, now: int, dirty: I64 | None = None, foreseen: Foreseen | None = None) -> None:
        """`dirty` are the rows that something was said about, beside those whose change was foreseen."""
        self.workspace, self.now, self._foreseen = workspace, now, foreseen
        self._strengths: dict[tuple[str, str, int, int], Strength | None] = {}
        self._staying: dict[int, Bools] = {}  # by depth: whether a row is on and will stay so
        self._counts: dict[tuple[int, int], I64] = {}  # (their depth, an ancestor's depth) -> how many below each row
        self._views: dict[tuple[int, tuple[tuple[int, int], ...]], View] = {}
        self._dirty = dirty
        self.restless = False  # some rule comes on and clears by turns: the next boundary is no no-op
        self._judges: dict[Shape, Judge] = {}
        self._marked: tuple[I64, I64, I64] | None = None  # what changed: (rows by level, their depths, their platforms)

    # -- what is looked at -------------------------------------------------------------------------------------------

    def view(self, rule: Running) -> View:
        """One view for all rules that read the same evidence line and panes."""
        key = rule.since.born, rule.program.panes
        view = self._views.get(key)
        if view is None or view.program.platform != rule.program.platform or view.program.currency != rule.program.currency:
            rule.since.room(len(self.workspace.facts.entities), len(self.workspace.facts.slot))
            view = self._views[key] = View(self.workspace, rule, self.now)
        return view

    def judge_of(self, rule: Running) -> Judge:
        """One judge for all rules of a shape."""
        if rule.shape is None:
            return Judge(rule.program.metrics, self.view(rule))
        judge = self._judges.get(rule.shape)
        if judge is None:
            judge = self._judges[rule.shape] = Judge(rule.program.metrics, self.view(rule))
        return judge

    def _changed(self, panel: Panel) -> I64:
        """The panel's objects whose facts changed, by their levels."""
        e = self.workspace.facts.entities
        if self._marked is None:
            dirty = self._dirty if self._dirty is not None else NO_ROWS
            if self._foreseen is not None:
                dirty = np.union1d(dirty, self._foreseen.rows)
            dirty = dirty[e.first_event[dirty] != NEVER]
            dirty = dirty[e.depth[dirty].argsort(kind="stable")]
            self._marked = dirty, e.depth[dirty], e.lineage[dirty, 0]
        rows, depth, platform = self._marked
        mine = panel.sieve.has_level[depth] & (platform == e.row.get(panel.platform, NOWHERE))
        return rows if mine.all() else rows[mine]

    # -- truth and lifecycle -----------------------------------------------------------------------------------------

    def judge(self, panel: Panel) -> tuple[list[Decision], list[Candidate]]:
        """What the panel's rules tell at once (refused, cleared) and what they wish to do."""
        told, rows = self._look_at_changes(panel)
        if panel.new.any():
            every = np.concatenate([self.workspace.rows_of(panel.platform, d) for d in panel.sieve.depths.tolist()])
            told += self._look(panel, every[~np.isin(every, rows)] if len(rows) else every, panel.new)
            panel.new = np.zeros(panel.width, np.bool_)
        if panel.pending:
            self._wait(panel)
        if not panel.asking:
            return told, []
        refused, candidates = self._ask_all(panel)
        return told + refused, candidates

    def _look_at_changes(self, panel: Panel) -> tuple[list[Decision], I64]:
        """(what is told at once, the rows that were looked at, and maybe others)."""
        foreseen = self._foreseen
        glance = None if foreseen is None else panel.glance(foreseen.ahead, self.workspace)
        if foreseen is None or glance is None:
            rows = self._changed(panel)
            return self._look(panel, rows, None), rows
        told = self._look_at(panel, glance.sight, glance.objects(foreseen.at), glance.candidates(foreseen.at), None)
        rows = foreseen.rows
        if self._dirty is not None and len(self._dirty):
            more = self._changed(panel)
            more = more[~np.isin(more, rows)]
            told, rows = told + self._look(panel, more, None), np.concatenate([rows, more])
        return told, rows

    def _look(self, panel: Panel, every: I64, only: Bools | None) -> list[Decision]:
        told = []
        for start in range(0, len(every), MOST_ROWS):
            sight = panel.sieve.sight(self.workspace, every[start : start + MOST_ROWS])
            told += self._look_at(panel, sight, None, panel.sieve.candidates(sight), only)
        return told

    def _look_at(self, panel: Panel, sight: Sight, objects: I64 | None, candidates: Iterable[Spots], only: Bools | None) -> list[Decision]:
        """Only where some rule's condition may hold, or something is alive, is there anything to do. `objects` are indexes into the sight, None for all."""
        told = []
        at, seat, kind = panel.alive(sight.rows if objects is None else sight.rows[objects])
        if objects is not None:
            at = objects[at]
        if only is not None and len(at):
            mine = only[seat]
            at, seat, kind = at[mine], seat[mine], kind[mine]
        looks: list[tuple[int, int, bool, int, int | None]] = []
        for some, seats in panel.without_life(sight, candidates, only):
            looks += self._begun(panel, sight.rows, *panel.sieve.true(self, sight, some, seats))
        if len(at):
            looks += self._alive(panel, sight.rows, at, seat, kind, panel.sieve.truth(self, sight, at, seat))
        for row, place, eligible, when, clear in looks:
            told += self._live(panel.rules[place], (row,), eligible, when, clear)
        return told

    def _begun(self, panel: Panel, rows: I64, at: I64, seat: I64) -> list[tuple[int, int, bool, int, int | None]]:
        """Cells without a life whose condition is true."""
        if not len(at):
            return []
        eligible = self._eligible(panel, rows[at], seat)
        if not eligible.all():
            at, seat = at[eligible], seat[eligible]
        clear = self._clear(panel, rows[at], seat)
        return [(r, p, True, TRUE, c) for r, p, c in zip(rows[at].tolist(), seat.tolist(), clear, strict=True)]

    def _alive(self, panel: Panel, rows: I64, at: I64, seat: I64, kind: Truth, when: Truth) -> list[tuple[int, int, bool, int, int | None]]:
        """Cells with a life in which something may have to be done."""
        eligible = self._eligible(panel, rows[at], seat)
        clear = self._clear(panel, rows[at], seat)
        moving = (when == TRUE) & eligible
        look = (moving != (kind == SETTLED)) | (kind == BETWEEN)
        if any(c is not None for c in clear):
            look |= np.array([c == TRUE for c in clear])
        some = np.flatnonzero(look)
        columns = (rows[at[some]].tolist(), seat[some].tolist(), eligible[some].tolist(), when[some].tolist(), [clear[i] for i in some.tolist()])
        return list(zip(*columns, strict=True))

    def _eligible(self, panel: Panel, rows: I64, seat: I64) -> Bools:
        """Whether the rules' `where` and `unless` let them look at these objects."""
        eligible = np.ones(len(rows), np.bool_)
        for shape, some, each, back in panel.sieve.by_shape(rows, seat, panel.sieve.scoped[seat]):
            judge, p = self.judge_of(shape.rules[0]), shape.program
            fits = judge.truth(p.where, each) == TRUE
            if p.unless is not None:
                fits &= judge.truth(p.unless, each, absent=FALSE) != TRUE
            eligible[some] = fits[back]
        return eligible

    def _clear(self, panel: Panel, rows: I64, seat: I64) -> list[int | None]:
        """The truth of each cell's `clear`, None where its rule has none."""
        clear: list[int | None] = [None] * len(rows)
        for shape, some, each, back in panel.sieve.by_shape(rows, seat, panel.sieve.clears[seat]):
            assert shape.clear is not None
            truth = picked(shape.truth(shape.clear, self.judge_of(shape.rules[0]), each), back, panel.sieve.place[seat[some]])
            for i, t in zip(some.tolist(), truth.tolist(), strict=True):
                clear[i] = t
        return clear

    def _wait(self, panel: Panel) -> None:
        """Cells whose `for` has passed while their condition stayed true."""
        for cell in [c for c, due in panel.pending.items() if due <= self.now]:
            self._live(panel.rules[cell % panel.width], (cell // panel.width,), True, TRUE, None)

    def _live(self, rule: Running, subject: Subject, eligible: bool, when: int, clear: int | None) -> list[Decision]:
        panel = rule.panel
        assert panel is not None
        if eligible and when == TRUE and clear == TRUE:
            self._come_again(subject)
        life = rule.lives.get(subject)
        if life is None:
            life = rule.lives[subject] = Life()
        told = []
        if life.advance(eligible, when, clear, rule.program.hold, self.now):
            told.append(self._decision(rule, self.judge_of(rule), subject, "cleared", (), None))
        if life.idle:
            del rule.lives[subject]
            panel.leave(subject, rule.seat)
        else:
            due = life.since + rule.program.hold if life.since >= 0 and not life.on else -1
            panel.enter(subject, rule.seat, life.asks(when) and eligible, due, settled=eligible and when == TRUE)
        return told

    def _come_again(self, subject: Subject) -> None:
        """What is on clears at the next boundary, and comes on at the one after that: neither needs a new fact."""
        self.restless = True
        for row in subject:
            self.workspace.facts.mark(row)

    def pairs(self, rule: Running) -> tuple[list[Decision], list[Candidate]]:
        """The same for a rule on pairs, pair by pair."""
        program, view = rule.program, self.view(rule)
        judge = Judge(program.metrics, view)
        subjects, eligible, when, clear = self._pairs(rule, judge)
        told: list[Decision] = []
        asking: list[tuple[Subject, Life]] = []
        for i, subject in subjects:
            if eligible[i] and when[i] == TRUE and clear is not None and clear[i] == TRUE:
                self._come_again(subject)
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

    def _pairs(self, rule: Running, judge: Judge) -> tuple[list[tuple[int, Subject]], Bools, Truth, Truth | None]:
        """Every ordered pair under one ancestor whose two conditions may hold, and every pair that is alive."""
        program, e = rule.program, self.workspace.facts.entities
        assert program.pair is not None
        rows = self.workspace.rows_of(program.platform, program.depth)
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

    def _ask_all(self, panel: Panel) -> tuple[list[Decision], list[Candidate]]:
        """Every cell that asks is answered in columns; only where the refusals changed, or nothing refuses, is it looked at by itself."""
        told: list[Decision] = []
        candidates: list[Candidate] = []
        panel.turn = 0
        for shape, row, place, told_before in panel.asked():
            view, judge = self.view(shape.rules[0]), self.judge_of(shape.rules[0])
            cells = Cells(self, shape, judge, view, row, place)
            look: Sequence[int] = range(len(row))
            if (told_before >= 0).any() and (mask := cells.refusals()) is not None:  # a cell that was never refused is always looked at
                look = np.flatnonzero((mask != told_before) | (mask == 0) | cells.uncertain).tolist()
            turn = cells.turn()
            panel.turn = min(panel.turn or turn, turn or panel.turn)
            by_rule: dict[int, list[Subject]] = {}
            for i in look:
                by_rule.setdefault(place.item(i), []).append((row.item(i),))
            for at, subjects in by_rule.items():
                rule = shape.rules[at]
                self._weigh(rule, judge, view, subjects)
                for subject in subjects:
                    refused, candidate = self._ask(rule, judge, view, subject, rule.lives[subject])
                    told += refused
                    candidates += candidate
        return told, candidates

    def _ask(self, rule: Running, judge: Judge, view: View, subject: Subject, life: Life) -> tuple[list[Decision], list[Candidate]]:
        verdicts, evidence, life.wake = self.verdicts(rule, judge, view, subject)
        if any(v.refusal for v in verdicts):
            return self._refuse(rule, judge, subject, life, verdicts, evidence), []
        return [], [Candidate(rule, subject, self._path(subject), life, verdicts, evidence)]

    def _refuse(self, rule: Running, judge: Judge, subject: Subject, life: Life, verdicts: tuple[Verdict, ...], evidence: int | None) -> list[Decision]:
        refusals = tuple(v.guard for v in verdicts if v.refusal)
        if rule.panel is not None:
            known = len(rule.program.guards) == len(verdicts)
            mask = sum(1 << i for i, v in enumerate(verdicts) if v.refusal) if known else ASK_ANYWAY
            rule.panel.told(subject[0] * rule.panel.width + rule.seat, mask)
        if refusals == life.emitted:
            return []
        life.emitted = refusals
        return [self._decision(rule, judge, subject, "refused", verdicts, evidence)]

    def verdicts(self, rule: Running, judge: Judge, view: View, subject: Subject) -> tuple[tuple[Verdict, ...], int | None, int]:
        """Every guard's answer, of both objects of a pair: the one that refuses is recorded; then the weakest evidence, and when an answer may turn."""
        sides = [self.circumstance(rule, judge, view, subject, side) for side in range(len(subject))]
        known = [c.evidence for c in sides]
        weakest = None if None in known else min(e for e in known if e is not None)
        if len(sides) > 1:
            sides = [replace(c, evidence=weakest) for c in sides]
        verdicts = []
        for asked in rule.program.guards:
            answers = [self.workspace.guards[asked.guard].ask(asked, c) for c in sides]
            verdicts.append(next((a for a in answers if a.refusal), answers[0]))
        return tuple(verdicts), weakest, self._wake(rule, sides) if rule.shape is None else 0

    def circumstance(self, rule: Running, judge: Judge, view: View, subject: Subject, side: int) -> Circumstance:
        program, workspace, row = rule.program, self.workspace, subject[side]
        facts = workspace.facts
        strength = self._strength(rule, judge, view, side, row) if rule.weighers[side].claims else None
        account = facts.entities.lineage.item(row, 1)
        account = account if account >= 0 else facts.entities.lineage.item(row, 0)
        heard = [(facts.heard(source, account), source) for source in rule.sources]
        freshest, stalest = min(heard) if heard else (self.now, "")
        changed = workspace.changed.get(row)
        status = view.attribute("status", row)
        minimums = []
        for m in program.minimums:
            counted, unknown = view.sum_of(program.metrics[m.metric].numerator, rule.sample_window, row)
            minimums.append(None if unknown else counted)
        return Circumstance(
            program, facts.entities.path[row], self.now, rule.since.start.item(row), facts.entities.first_event.item(row), tuple(minimums),
            None if strength is None else strength.log_e, rule.weighers[side].needed, () if strength is None else self._totals(strength),
            freshest, stalest, changed.when if changed else 0, changed.by if changed else "", workspace.ours.get(row, 0),
            status if isinstance(status, str) else "", self._survivors(row) if rule.counts_siblings else {},
        )  # fmt: skip

    @staticmethod
    def _totals(strength: Strength) -> tuple[tuple[str, int | str], ...]:
        return (("metric", strength.claim.metric.name), *strength.totals)

    def _survivors(self, row: int) -> dict[str, int]:
        """Per level above: siblings of the row's own level with status known active and no pausing action in flight."""
        e = self.workspace.facts.entities
        depth = int(e.depth[row])
        one = np.array([row], np.int64)
        return {LEVELS[d]: int(self.others_staying(depth, d, one)[0]) for d in range(depth)}

    def others_staying(self, depth: int, above: int, rows: I64) -> I64:
        """How many siblings of each row below its ancestor at that depth are on and will stay so."""
        e = self.workspace.facts.entities
        staying = self._staying.get(depth)
        if staying is None:
            n = len(e)
            staying = self._staying[depth] = np.zeros(n, np.bool_)
            active = self.workspace.facts.attributes.having("status", "active")
            active = active[active < n]
            staying[active[(e.depth[active] == depth) & (e.first_event[active] != NEVER)]] = True
            for path, decision_id in self.workspace.held.items():
                row = e.row.get(path)
                if row is not None and self.workspace.flights[decision_id].rule.program.action.kind == "pause":
                    staying[row] = False
        counts = self._counts.get((depth, above))
        if counts is None:
            counts = self._counts[depth, above] = np.bincount(e.lineage[np.flatnonzero(staying), above], minlength=len(e)).astype(np.int64)
        others: I64 = counts[e.lineage[rows, above]] - staying[rows]
        return others

    def _leaves(self, row: int) -> None:
        """The row is about to be switched off: those asked after it see one less."""
        e = self.workspace.facts.entities
        depth = int(e.depth[row])
        staying = self._staying.get(depth)
        if staying is not None and staying[row]:
            staying[row] = False
            for (of, above), counts in self._counts.items():
                if of == depth:
                    counts[int(e.lineage[row, above])] -= 1

    def _wake(self, rule: Running, sides: list[Circumstance]) -> int:
        """The next instant at which a guard that compares now with a known instant plus one of its durations may answer differently."""
        instants = {t for c in sides for t in (c.since, c.first_event, c.changed_at, c.changed_by_us_at)}
        if rule.sources:  # where none is read, nothing grows old
            instants |= {c.freshest for c in sides}
        kinds = [(a, n, p.default) for a in rule.program.guards for n, p in self.workspace.guards[a.guard].parameters.items() if p.kind == "duration"]
        durations = {a.integer(name, default if isinstance(default, int) else 0) for a, name, default in kinds}
        return min((t for i in instants for d in durations for t in (i + d, i + d + 1) if t > self.now), default=0)

    def turning(self, rule: Running, subject: Subject, instants: I64) -> int:
        """The index of the first instant at which ageing evidence may turn the confidence verdict that stood at the instant before, or -1."""
        view = self.view(rule)
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
        switched = False  # something is about to be switched off, so that those asked after it have one sibling less
        for c in sorted(candidates, key=lambda c: c.order):
            view, judge = self.view(c.rule), self.judge_of(c.rule)
            held = any(path in self.workspace.held for path in c.path.split("|"))
            if held or (switched and c.rule.counts_siblings and any(v.refusal for v in self.verdicts(c.rule, judge, view, c.subject)[0])):
                decisions += self._refuse(c.rule, judge, c.subject, c.life, (*c.verdicts, OUTRANKED), c.evidence)
                continue
            action = propose(c.rule.program, c.path, c.subject, view)
            if action is None:
                decisions += self._refuse(c.rule, judge, c.subject, c.life, (*c.verdicts, NOTHING_TO_MOVE), c.evidence)
                continue
            decision = self._decision(c.rule, judge, c.subject, "fired", c.verdicts, c.evidence, action)
            decisions.append(decision)
            c.life.emitted = ()
            if c.rule.panel is not None:
                c.rule.panel.ask(c.subject[0] * c.rule.panel.width + c.rule.seat, False)
            if c.rule.mode == "active":
                self.workspace.launch(decision, c.rule, c.subject, c.life)
                if c.rule.program.action.kind == "pause":
                    self._leaves(c.subject[0])
                    switched = True
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
        readings = readings_of(rule, judge, subject)
        valid_until = self.now + program.valid_for if kind == "fired" else 0
        return Decision(
            w.name, program.rule, rule.version, self._path(subject), self.now // w.interval, self.now, kind, rule.mode, action, readings, verdicts,
            evidence, valid_until, w.simulated,
        )  # fmt: skip
