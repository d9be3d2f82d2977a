"""`trimtab try`: what a pack would have done with an export, before anything is switched on. Composes ingest's reading of files with the rules engine.

Rows are read like any other file and replayed on a simulated clock, each at the end of its interval, with the pack's rules in effect from the first row
on; beside them runs a plain threshold: the same condition with only its minimum sample. An object that would have been paused says nothing more from then
on, so that the last survivors are counted as they would have been. What the export does not hold is said and never read as 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from services.adapters.clock import SystemClock
from services.ingest.core.change import ChangeDetector
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context, Levels, detect, flat
from services.ingest.core.source import Rejection
from services.ingest.files import FileReceipt, Spoiled, ingest_files, new_context, shapes_of
from services.ingest.files import rows_of as rows_in
from services.kernel.decision import Decision
from services.kernel.entity import LEVELS, ancestors, level_of
from services.kernel.errors import RejectedInput
from services.kernel.event import Event, Value
from services.kernel.record import Target
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.inspection import Inspection, inspect
from services.rules_engine.core.program import AttributeRef, Condition, Measure, Program
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.truth import FALSE, UNKNOWN, Judge, comparisons, references
from services.rules_engine.core.view import View
from services.rules_engine.core.workspace import Workspace
from services.rules_engine.language.pack import Pack
from services.rules_engine.rehearsal import SECOND, WORKSPACE, Fact, Rehearsal, plain, rehearse
from services.rules_engine.short import reading, refusal, unknowns
from services.rules_engine.trial import asks
from services.rules_engine.words import ago, ratio

ACT, HOLD, UNSURE = "act", "hold", "unknown"
DO = {"pause": "pause", "resume": "resume", "notify": "notify about", "set_budget": "set the budget of", "shift_budget": "shift budget between"}
SHOWN_ROWS = 5  # refused rows that are shown
SAME, SHOWN_SAME = 20, 3  # of more objects with one verdict for one reason these are shown


@dataclass(frozen=True, slots=True)
class Judged:
    """One object (of a pair both) under one rule."""

    path: str
    label: str
    verdict: str  # act | hold | unknown
    reason: str
    asks: bool  # a person is asked before it is done
    plainly: int | None  # when the plain threshold would have acted, microseconds; None: never


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """`absent` is what the export does not hold of what the rule reads: then nothing is reckoned, and every object is unknown."""

    program: Program
    objects: tuple[Judged, ...]
    absent: str = ""
    idle_pairs: int = 0  # pairs of which at least one side's condition does not hold

    def count(self, verdict: str) -> int:
        return sum(o.verdict == verdict for o in self.objects) + (self.idle_pairs if verdict == HOLD else 0)

    @property
    def plain(self) -> int:
        return sum(o.plainly is not None for o in self.objects)


@dataclass(frozen=True, slots=True)
class Tryout:
    pack: Pack
    receipts: tuple[FileReceipt, ...]
    assumed: tuple[str, ...]
    first: int  # instants of the first and the last row, microseconds
    last: int
    rules: tuple[RuleOutcome, ...]


@dataclass(slots=True)
class Export:
    """What the files say, as far as it counts: a sink for their reading."""

    events: list[Event] = field(default_factory=list)
    levels: Levels = field(default_factory=Levels)

    async def __call__(self, events: Sequence[Event], spoiled: Sequence[Spoiled]) -> Sequence[Rejection]:
        refused: list[Rejection] = []
        for event in events:
            try:
                self.levels.check(event)
            except Refused as error:
                refused.append(Rejection(error.reason, f"{event.path}: {error}", event.at))
            else:
                self.events.append(event)
        return refused


async def tryout(pack: Pack, exports: Sequence[Path], mapping: dict[str, str], guards: dict[str, Guard]) -> Tryout:
    """Raises RejectedInput where no row can be used, or where the export is of another platform or currency than the pack."""
    context = new_context(SystemClock().now(), currency=pack.account.currency, zone=pack.account.zone)
    export = Export()
    receipts = await ingest_files(exports, platform_of(pack, exports, mapping), export, context=context)
    events = fitting(export.events, pack, receipts)
    first_values = known_first(events)
    history = chronicle(events, first_values)
    targets, unresolved = placed(pack, events)
    assumed = [*said(pack, events, context, mapping, first_values), *unresolved]
    rules = judged(pack, history, targets, guards)
    reports = [e for e in events if e.amounts]
    return Tryout(pack, tuple(receipts), tuple(assumed), min(map(begin, reports)), max(e.occurred_at for e in reports), rules)


def platform_of(pack: Pack, exports: Iterable[Path], mapping: dict[str, str]) -> dict[str, str]:
    """The mapping; a table that only the mapping explains is of the pack's platform unless it says otherwise."""
    if not mapping or "platform" in mapping:
        return mapping
    headers = [list(flat(row)) for path in exports for row, _, _ in list_first(path)]
    return mapping if any(detect(h, shapes_of()) for h in headers) else {"platform": pack.account.platform, **mapping}


def list_first(path: Path) -> list[tuple[dict[str, object], str, int]]:
    row = next(iter(rows_in(path)), None)
    return [row] if row is not None and isinstance(row[0], dict) else []


def fitting(events: list[Event], pack: Pack, receipts: Sequence[FileReceipt]) -> list[Event]:
    """The events, if there are any with figures, of the pack's platform and currency."""
    account = pack.account
    if not any(e.amounts for e in events):
        first = next((p for r in receipts for p in r.first), None)
        why = f"; the first, {first.pointer.rstrip('#')}: {first.reason}: {first.detail}" if first else ": it carries no figures"
        names = ", ".join(r.path.name for r in receipts)
        raise RejectedInput(f"of {sum(r.rows for r in receipts)} rows of {names} none could be used{why}", reason="no_rows")
    platforms = sorted({e.path.partition("/")[0] for e in events})
    if account.platform not in platforms:
        text = f"the export is of {', '.join(platforms)}, the pack is for {account.platform}"
        raise RejectedInput(f"{text}: try the other pack, or say --map platform={account.platform}", reason="other_platform")
    currencies = sorted({name.rpartition("@")[2] for e in events for name in e.amounts if "@" in name} - {account.currency})
    if currencies:
        text = f"the export is in {', '.join(currencies)}, the pack reckons in {account.currency}"
        raise RejectedInput(f"{text}: amounts in two currencies are never compared", reason="other_currency")
    return events


# -- the history ----------------------------------------------------------------------------------------------------------


def begin(event: Event) -> int:
    """When what the event tells of began."""
    return event.occurred_at if event.snapshot is None else event.snapshot.interval_start


def appearances(events: Iterable[Event]) -> dict[str, int]:
    """When each object, and whatever is above it, is first told of; one of which there are only histories is there from the first row on."""
    seen: dict[str, int] = {}
    for event in events:
        for path in ancestors(event.path):
            if event.amounts:
                seen[path] = min(seen.get(path, begin(event)), begin(event))
    first = min(seen.values())
    return seen | {path: first for event in events for path in ancestors(event.path) if path not in seen}


def known_first(events: Iterable[Event]) -> dict[str, dict[str, Value]]:
    """Per object the earliest value of each attribute."""
    first: dict[str, dict[str, Value]] = {}
    for event in sorted(events, key=lambda e: e.occurred_at):
        for name, value in event.attributes.items():
            first.setdefault(event.path, {}).setdefault(name, value)
    return first


def chronicle(events: Sequence[Event], first: dict[str, dict[str, Value]]) -> list[tuple[int, Fact]]:
    """Engine time and fact: an object's appearance with what is first known of it (active, where no status is), its rows, its changes by hand."""
    facts: list[tuple[int, int, Fact]] = []
    last = max(e.occurred_at for e in events if e.amounts)
    for path, at in appearances(events).items():
        attributes: dict[str, Value] = {"status": "active", **first.get(path, {})}
        facts.append((at - SECOND // 2, 0, Event(f"appears {path}", "export", path, "state", at - SECOND // 2, {}, attributes)))
    beginning = min(at for at, _, _ in facts)
    detector = ChangeDetector(WORKSPACE)
    detector_facts = [f for _, _, f in facts if isinstance(f, Event)]
    list(detector.see(detector_facts))
    for event in sorted(events, key=lambda e: (e.occurred_at, e.snapshot.as_of if e.snapshot else 0)):
        if event.occurred_at > last:
            continue
        at = max(event.occurred_at, beginning)
        facts.append((at, event.snapshot.as_of if event.snapshot else 0, event))
        facts += [(at, 1 << 62, change) for change in detector.see([event])]
    return [(at, fact) for at, _, fact in sorted(facts, key=lambda f: f[:2])]


def placed(pack: Pack, events: Sequence[Event]) -> tuple[list[Target], list[str]]:
    """The pack's targets at their paths, and a sentence for each that names nothing here."""
    names = {(e.path, str(e.attributes["name"])) for e in events if "name" in e.attributes}
    paths = {p for e in events for p in ancestors(e.path)}
    targets, unresolved = [], []
    for t in pack.targets:
        level, _, name = t.selector.partition(":")
        found = sorted({p for p in paths if p.rpartition("/")[2] == name} | {p for p, called in names if called == name})
        fit = [""] if not t.selector else [p for p in found if level_of(p) == level]
        if len(fit) == 1:
            targets.append(Target(WORKSPACE, t.name, fit[0], t.amount, t.unit))
        else:
            unresolved.append(f"The target {t.name} of {t.selector!r} is left out: {'several objects have' if fit else f'no {level} here has'} that name.")
    return targets, unresolved


def said(pack: Pack, events: Sequence[Event], context: Context, mapping: dict[str, str], first: dict[str, dict[str, Value]]) -> list[str]:
    """What had to be assumed, a sentence each."""
    zone, currency = pack.account.zone, pack.account.currency
    sentences = [f"Days are those of {zone}; a row counts from the end of its day on, so `fresh` was asked as if each had arrived just then."]
    if any("@" in name for e in events for name in e.amounts) and not context.currencies and "currency" not in mapping:
        sentences.append(f"The export does not name its currency: its money was read as {currency}, the pack's.")
    depths = {p.program.depth for p in pack.rules}
    objects = {p for e in events for p in ancestors(e.path) if p.count("/") in depths}
    without = sum("status" not in first.get(p, {}) for p in objects)
    if without == len(objects):
        sentences.append("The export has no status: every object counts as active.")
    elif without:
        sentences.append(f"{without} of {len(objects)} objects have no status in the export: they count as active.")
    accounts = {"/".join(e.path.split("/")[:2]) for e in events}
    if len(accounts) > 1:
        sentences.append(f"The export is of {len(accounts)} accounts; a pack is meant for one.")
    return sentences


# -- the verdicts ---------------------------------------------------------------------------------------------------------


def judged(pack: Pack, history: Sequence[tuple[int, Fact]], targets: Sequence[Target], guards: dict[str, Guard]) -> tuple[RuleOutcome, ...]:
    """The pack's rules run together, as they would; plain thresholds run each alone."""
    counted = {(f.source, name) for _, f in history if isinstance(f, Event) for name in f.amounts}
    programs = [r.program for r in pack.rules]
    absent = {p.rule: " and no ".join(f"{m.name} of {m.source}" for m in needed(p) if (m.source, m.name) not in counted) for p in programs}
    done = rehearse([p for p in programs if not absent[p.rule]], targets, history, guards)
    outcomes = []
    for program in programs:
        if lacking := absent[program.rule]:
            reason = f"the export holds no {lacking}, and 0 would be a guess"
            unsure = [Judged(path_of(done.workspace, s), label(done.workspace, s), UNSURE, reason, False, None) for s in subjects(done.workspace, program)]
            outcomes.append(RuleOutcome(program, ordered(unsure), lacking))
        else:
            beside = rehearse([plain(program)], targets, history, guards)
            outcomes.append(OneRule(pack, program, done, beside, guards).outcome())
    return tuple(outcomes)


def needed(program: Program) -> list[Measure]:
    """Every measure that the rule's conditions and its sample read."""
    refs = references(program.when) + (references(program.pair.to) if program.pair else [])
    metrics = [program.metrics[i] for i in dict.fromkeys([*(r.metric for r in refs), *(m.metric for m in program.minimums)])]
    return list(dict.fromkeys(m for metric in metrics for m in (metric.numerator, metric.denominator) if m is not None))


def subjects(workspace: Workspace, program: Program) -> list[Subject]:
    """What the rule judges of its platform and level: objects, or ordered pairs of them."""
    e, pair = workspace.facts.entities, program.pair
    rows = [r for r in e.at_depth(program.depth).tolist() if e.path[r].startswith(program.platform + "/")]
    if pair is None:
        return [(r,) for r in rows]
    return [(a, b) for a in rows for b in rows if a != b and e.lineage[a, pair.within] == e.lineage[b, pair.within]]


def path_of(workspace: Workspace, subject: Subject) -> str:
    return "|".join(workspace.facts.entities.path[r] for r in subject)


def label(workspace: Workspace, subject: Subject) -> str:
    """ "Summer_v3" (621510), the id alone where nothing has a name; of a pair both."""
    shown = []
    for row in subject:
        ident, name = workspace.facts.entities.path[row].rpartition("/")[2], workspace.facts.attribute("name", row)
        shown.append(f'"{name}" ({ident})' if name and name != ident else ident)
    return " to ".join(shown)


def ordered(objects: Iterable[Judged]) -> tuple[Judged, ...]:
    return tuple(sorted(objects, key=lambda o: ((ACT, HOLD, UNSURE).index(o.verdict), o.label, o.path)))


@dataclass(slots=True)
class OneRule:
    """One rule's objects at the end of the history."""

    pack: Pack
    program: Program
    done: Rehearsal
    beside: Rehearsal
    guards: dict[str, Guard]

    def outcome(self) -> RuleOutcome:
        workspace, program = self.done.workspace, self.program
        fired = {d.path: d for d in reversed(self.done.decisions) if d.kind == "fired" and d.rule_id == program.rule}
        plainly = {d.path: d.now for d in reversed(self.beside.decisions) if d.kind == "fired"}
        running = workspace.rules[program.rule, "active"]
        judge = Judge(program.metrics, View(workspace, running, workspace.judged * workspace.interval))
        objects, idle = [], 0
        for subject in subjects(workspace, program):
            path = path_of(workspace, subject)
            if program.pair is not None and path not in fired and path not in plainly and FALSE in self._truths(judge, subject):
                idle += 1
                continue
            verdict, reason = self._acted(fired[path]) if path in fired else self._left(running, judge, subject)
            is_asked = path in fired and asks(fired[path])
            objects.append(Judged(path, label(workspace, subject), verdict, reason, is_asked, plainly.get(path)))
        return RuleOutcome(program, ordered(objects), "", idle)

    def _truths(self, judge: Judge, subject: Subject) -> list[int]:
        """Of the condition of each side."""
        conditions = [self.program.when] + ([self.program.pair.to] if self.program.pair else [])
        return [int(judge.truth(c, np.array([r], np.int64))[0]) for c, r in zip(conditions, subject, strict=True)]

    def _acted(self, decision: Decision) -> tuple[str, str]:
        told = "; ".join(reading(r, self.program) for r in decision.readings)
        evidence = "" if decision.evidence is None else f"; evidence {ratio(decision.evidence)}"
        return ACT, f"on {judged_on(decision.now, self.pack)}: {told}{evidence}"

    def _left(self, running: Running, judge: Judge, subject: Subject) -> tuple[str, str]:
        """Why nothing was done: the first of what stands between the object and the rule."""
        i = inspect(self.done.workspace, running, subject)
        program, truths = self.program, self._truths(judge, subject)
        if (other := self._paused_before(i)) is not None:
            return HOLD, f"{other.rule_id} would have paused it on {judged_on(other.now, self.pack)}"
        if i.where == "false":
            return HOLD, "outside the rule's scope: " + listed(as_it_is(program.where, judge, subject))
        if i.where == "unknown":
            return UNSURE, "the rule's scope: " + listed(unknowns(program.where, judge, subject[0]))
        if i.excluded:
            return HOLD, "excepted by the rule"
        if FALSE in truths:
            return HOLD, "its condition does not hold; " + "; ".join(reading(r, program) for r in i.readings)
        if UNKNOWN in truths:
            conditions = [program.when] + ([program.pair.to] if program.pair else [])
            return UNSURE, listed([t for c, row in zip(conditions, subject, strict=True) for t in unknowns(c, judge, row)])
        return HOLD, self._held(i)

    def _paused_before(self, i: Inspection) -> Decision | None:
        """The pause by which another rule silenced the object."""
        above = {p for path in i.paths for p in ancestors(path)}
        return next((d for d in self.done.decisions if d.kind == "fired" and d.path in above and is_pause(d) and not asks(d)), None)

    def _held(self, i: Inspection) -> str:
        refusing = [v for v in i.verdicts if v.refusal]
        if refusing:
            return "; ".join(refusal(v, self.program, self.guards) for v in refusing)
        if i.standing == "pending":
            return f"its condition has not held for {ago(self.program.hold)} yet"
        path = "|".join(i.paths)
        last = next((d for d in reversed(self.done.decisions) if d.path == path and d.rule_id == self.program.rule), None)
        told = [refusal(v, self.program, self.guards) for v in (last.verdicts if last is not None else ()) if v.refusal]
        return "; ".join(told) or "no boundary came after its last row"


def is_pause(decision: Decision) -> bool:
    return bool(json.loads(decision.action)["do"] == "pause")


def as_it_is(condition: Condition | None, judge: Judge, subject: Subject) -> list[str]:
    """The value of each attribute that a scope reads."""
    names = [e.name for c in comparisons(condition) for e in (c.left, c.right) if isinstance(e, AttributeRef)]
    return [f"its {name} is {value}" for row in subject for name in names if isinstance(value := judge.view.attribute(name, row), str)]


def listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts)) or "its condition has no answer"


def day(instant: int, pack: Pack) -> str:
    """Tue 10 Mar 2026, in the account's zone."""
    return f"{datetime.fromtimestamp(instant / SECOND, ZoneInfo(pack.account.zone)):%a %d %b %Y}"


def judged_on(instant: int, pack: Pack) -> str:
    """The day by whose rows something was decided: midnight belongs to the one that ended."""
    return day(instant - SECOND, pack)


# -- in words -------------------------------------------------------------------------------------------------------------


def render(t: Tryout) -> str:
    """The whole answer as text: what was read, what was assumed, then each rule with each object and its reason."""
    lines = [f"{t.pack.name} ({t.pack.filename}), tried on the days from {day(t.first, t.pack)} to {day(t.last, t.pack)}; nothing is switched on or changed."]
    for r in t.receipts:
        refused = f", {r.quarantined} refused" if r.quarantined else ""
        lines.append(f"{r.path.name} ({r.shape}): {r.accepted} of {r.rows} rows used{refused}.")
        lines += [f"  {p.pointer.rstrip('#')}: {p.reason}: {p.detail}" for p in r.first[:SHOWN_ROWS]]
        if r.quarantined > SHOWN_ROWS:
            lines.append(f"  ... and {r.quarantined - SHOWN_ROWS} more")
    lines += t.assumed
    for rule in t.rules:
        lines += ["", *told(rule, t.pack)]
    return "\n".join(lines)


def told(rule: RuleOutcome, pack: Pack) -> list[str]:
    program, wish = rule.program, DO[rule.program.action.kind]
    asked = sum(o.asks for o in rule.objects)
    agreed = f" ({asked} of them only if {program.approve.by or 'a person'} agrees)" if asked else ""
    things = f"{LEVELS[program.depth].replace('_', ' ')}{' pairs' if program.pair else 's'}"
    total = len(rule.objects) + rule.idle_pairs
    lines = [f"{program.rule}: would {wish} {rule.count(ACT)}{agreed}, hold {rule.count(HOLD)}, unknown {rule.count(UNSURE)}, of {total} {things}."]
    sample = ", ".join(m.text for m in program.minimums) or "no minimum"
    if rule.absent:
        lines.append("  A plain threshold is not reckoned either: it would have read 0.")
    else:
        lines.append(f"  A plain threshold (the same condition after {sample}, no other guard) would {wish} {rule.plain}.")
    for (verdict, reason), group in groupby(rule.objects, key=lambda o: (o.verdict, o.reason)):
        same = list(group)
        shown = same if len(same) <= SAME else same[:SHOWN_SAME]
        lines += [line(o, wish, pack) for o in shown]
        if len(same) > len(shown):
            lines.append(f"  {word(verdict, wish)}  {len(same) - len(shown)} more: {reason}")
    if rule.idle_pairs:
        lines.append(f"  {word(HOLD, wish)}  {rule.idle_pairs} more pairs: one of their two conditions does not hold")
    return lines


def line(o: Judged, wish: str, pack: Pack) -> str:
    beside = "" if o.plainly is None else f" [plain: {wish} on {judged_on(o.plainly, pack)}]"
    return f"  {word(o.verdict, wish)}  {o.label}: {o.reason}{beside}"


def word(verdict: str, wish: str) -> str:
    act = f"would {wish}"
    return f"{act if verdict == ACT else verdict:{max(len(act), len(UNSURE))}}"
