"""A rule's tests, run through the engine on a declared simulated clock: the same step, a log of a few hundred records."""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from services.kernel.columns import batch
from services.kernel.decision import Decision
from services.kernel.event import Event
from services.kernel.record import Activation, Change, Clock, Outcome, Ready, Record, Stamped, Target, Tick
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.language.checker import Conversion
from services.rules_engine.language.pack import Pack, PackRule
from services.rules_engine.language.trial import Expectation, PackTest, Series

SECOND, HOUR = 1_000_000, 3_600_000_000
MONDAY = datetime(2026, 3, 2)  # noqa: DTZ001  tests start at this midnight, local to the account
WORKSPACE = "test"


@dataclass(frozen=True, slots=True)
class Result:
    rule: str
    test: str
    failures: tuple[str, ...]
    decisions: tuple[Decision, ...]
    start: int

    @property
    def passed(self) -> bool:
        return not self.failures


def run_tests(pack: Pack, guards: dict[str, Guard]) -> list[Result]:
    """Every test of every rule, in the order of the file."""
    return [Trial(pack, rule, test, guards).run() for rule in pack.rules for test in rule.tests]


class Trial:
    def __init__(self, pack: Pack, rule: PackRule, test: PackTest, guards: dict[str, Guard]) -> None:
        self.pack, self.program, self.test, self.guards = pack, rule.program, test, guards
        self.start = round(MONDAY.replace(tzinfo=ZoneInfo(pack.account.zone)).timestamp()) * SECOND
        self.queue: list[tuple[int, int, Record]] = []
        self.sequence = 0
        self.paused: set[str] = set()
        self.decisions: list[Decision] = []

    def run(self) -> Result:
        self._begin()
        end = self.start + max(e.at for e in self.test.expect) + SECOND
        rows = [(s, self._path(s.name or "object")) for s in self.test.series]
        for series, path in rows:
            self._row(series, path, 1, end)
        self._put(end, Tick())
        activations = [Stamped(0, 0, r) for _, _, r in self.queue if isinstance(r, Activation)]
        state = Partition(self.guards, demand_of(activations))
        offset = 0
        while self.queue:
            stamp, _, record = heapq.heappop(self.queue)
            if isinstance(record, _Row):
                if record.path in self.paused:
                    self._row(record.series, record.path, record.number + 1, end)
                    continue
                self._row(record.series, record.path, record.number + 1, end)
                record = self._report(record, stamp)
            if isinstance(record, Change):
                self.paused.discard(record.path) if record.after == "active" else self.paused.add(record.path)
            for decision in state.step([Stamped(offset, stamp, record)]):
                self.decisions.append(decision)
                self._act(decision, stamp)
            offset += 1
        failures = tuple(f for f in (self._check(e) for e in self.test.expect) if f)
        return Result(self.program.rule, self.test.name, failures, tuple(self.decisions), self.start)

    def _put(self, stamp: int, record: Record | _Row) -> None:
        self.sequence += 1
        heapq.heappush(self.queue, (stamp, self.sequence, record))  # type: ignore[misc]  # rows become records when their time comes

    def _path(self, name: str) -> str:
        parents = ["account", "campaign", "ad_group"][: self.program.depth - 1]
        return "/".join([self.pack.account.platform, *parents, name][: self.program.depth] + [name])

    def _begin(self) -> None:
        """Just before midnight: the rule is active, its objects and their siblings are known and switched on."""
        before, p = self.start - SECOND // 2, self.program
        self._put(before, Clock(True, self.start, note=f"test of {p.rule}"))
        self._put(before, Activation(WORKSPACE, p.rule, p.version, "active", p.to_json()))
        for t in self.pack.targets:
            if not t.selector:
                self._put(before, Target(WORKSPACE, t.name, "", t.amount, t.unit))
        known: list[Event] = []
        for s in self.test.series:
            shared: dict[str, str | int] = dict.fromkeys(p.pair.same if p.pair else (), "sales")
            known.append(self._known(s.name or "object", {"status": "active", "name": s.name or "object", **shared, **dict(s.attributes)}))
            known += [self._known(f"sibling-{i + 1}", {"status": "active"}) for i in range(s.siblings)]
        self._put(before, batch(WORKSPACE, known))
        self._put(before, Ready(WORKSPACE, p.version))
        if self.test.person is not None:
            at, after = self.start + self.test.person.at, {"resume": "active", "pause": "paused"}[self.test.person.do]
            path = self._path(self.test.series[0].name or "object")
            self._put(at, Change(WORKSPACE, path, "status", "", after, at, "a person"))
            self._put(at, batch(WORKSPACE, [Event("person", self.pack.account.platform, path, "change", at, {}, {"status": after})]))

    def _known(self, name: str, attributes: dict[str, str | int]) -> Event:
        at = self.start - SECOND // 2
        return Event(f"known {name}", self.pack.account.platform, self._path(name), "entity", at, {}, attributes)

    def _row(self, series: Series, path: str, number: int, end: int) -> None:
        """A row lands a microsecond before its interval ends."""
        at = self.start + number * series.every - 1
        if at < end:
            self._put(at, _Row(series, path, number))

    def _report(self, row: _Row, stamp: int) -> Record:
        by_source: dict[str, dict[str, int]] = {}
        for name, amount in row.series.amounts:
            source, measure = measured(self.pack, name)
            by_source.setdefault(source, {})[measure] = amount
        by_source.setdefault(self.pack.account.platform, {})
        events = [Event(f"{row.path} {row.number} {s}", s, row.path, "report", stamp, amounts, {}) for s, amounts in sorted(by_source.items())]
        return batch(WORKSPACE, events)

    def _act(self, decision: Decision, stamp: int) -> None:
        """What needs nobody's approval is done a second later; what does waits."""
        if decision.kind != "fired" or asks(decision):
            return
        at = max(stamp, decision.now + SECOND)
        for step in json.loads(decision.action)["steps"]:
            if step["attribute"] == "status":
                self.paused.add(step["path"]) if step["desired"] == "paused" else self.paused.discard(step["path"])
            outcome = Outcome(WORKSPACE, decision.id, "verified", step["path"], step["attribute"], "", decision.rule_id, str(step["desired"]))
            self._put(at, outcome)

    def _check(self, e: Expectation) -> str:
        """What was expected and did not come, or ""."""
        until = self.start + e.at
        due = [d for d in self.decisions if d.now <= until]
        when = f"{'by' if e.by else 'at'} {hours(e.at)}"
        if e.held:
            last = due[-1] if due else None
            if last is not None and last.kind == "refused" and e.held in last.refusals:
                return ""
            return f"{when} it should be held by {e.held}; {self._story(due)}"
        if e.do:
            if any(d.kind == "fired" and json.loads(d.action)["do"] == e.do for d in due):
                return ""
            return f"{when} it should {e.do}; {self._story(self.decisions)}"
        wanted = {self._path(name): amount for name, amount in e.propose}
        proposed = [{s["path"]: s["desired"] for s in json.loads(d.action)["steps"]} for d in due if d.kind == "fired"]
        if wanted in proposed:
            return ""
        shown = "; ".join(", ".join(f"{p.rpartition('/')[2]}: {a / 1e6:.2f}" for p, a in sorted(one.items())) for one in proposed)
        return f"{when} it should propose {', '.join(f'{n}: {a / 1e6:.2f}' for n, a in e.propose)}; " + (
            f"it proposed {shown}" if proposed else self._story(due)
        )

    def _story(self, decisions: list[Decision]) -> str:
        if not decisions:
            return "it decided nothing"
        return "it was " + ", then ".join(self._told(d) for d in decisions[-4:])

    def _told(self, d: Decision) -> str:
        at = hours(d.now - self.start)
        if d.kind == "fired":
            return f"fired ({json.loads(d.action)['do']}) at {at}"
        names = list(d.refusals)
        held = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
        return f"held by {held} from {at}" if held else f"clear at {at}"


@dataclass(frozen=True, slots=True)
class _Row:
    series: Series
    path: str
    number: int


def asks(decision: Decision) -> bool:
    """Whether a person is asked before this is done."""
    action = json.loads(decision.action)
    approve, spent = action["approve"], action["spend_per_day"]
    return bool(approve["always"] or (approve["above"] >= 0 and (spent is None or spent > approve["above"])))


def measured(pack: Pack, name: str) -> tuple[str, str]:
    """(source, measure) of a series' column: a plain measure, or a conversion definition's count."""
    conversion: Conversion | None = next((c for c in pack.conversions if c.name == name), None)
    if conversion is not None:
        return conversion.source, f"conversions:{conversion.measure}"
    return pack.account.platform, f"spend@{pack.account.currency}" if name == "spend" else name


def hours(micros: int) -> str:
    return f"{micros / HOUR:.1f} h".replace(".0 h", " h")
