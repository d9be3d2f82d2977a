"""Logs of one partition, written by a seed: everything that the semantics speak of happens in some of them, much of it at the edges.

A log is written against the reference evaluator as it grows: outcomes are those of decisions that the log itself brought about, and time likes to
stand where the evaluator says that something may turn, one microsecond before, at and after it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from services.kernel.decision import Decision
from services.kernel.entity import LEVELS, ancestors
from services.kernel.record import Activation, Change, Clock, Outcome, Ready, Record, Skip, Stamped, Target, Tick
from services.rules_engine.core.evidence import default_coefficients
from services.rules_engine.core.program import (
    Action,
    And,
    Approval,
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
    Minimum,
    Not,
    Number,
    Or,
    Pair,
    Program,
    TargetRef,
    Text,
)
from services.rules_engine.language.zone import offsets
from tests.core.world import DAY, HOUR, MINUTE, SECOND, batch
from tests.reference.evaluator import Partition

META, WEB, GOOGLE = "meta_ads", "web", "google_ads"
MICRO = 1_000_000
PURCHASE = "conversions:purchase:7d_click"
ZONES = ("Europe/Berlin", "America/New_York", "UTC", "Australia/Lord_Howe", "Asia/Kathmandu")
TURNS = (1_774_746_000, 1_792_890_000, 1_793_512_800, 1_775_314_800)  # instants near which Berlin, New York and Lord Howe move their clocks, seconds
STATUSES = ("verified", "verified", "verified", "failed", "unknown", "held", "held", "rejected", "expired", "cancelled", "approved")
LATE = (*("verified", "held", "expired", "cancelled") * 2, "failed", "unknown", "rejected")  # words after the deadline


@cache
def zone_rules(zone: str) -> tuple[tuple[int, int], ...]:
    return offsets(zone)


@dataclass(frozen=True, slots=True)
class Kept:
    """A metric as rules of this log may read it, with thresholds near which its values like to lie."""

    metric: Metric
    thresholds: tuple[tuple[int, int], ...]


def measure(name: str, source: str = META) -> Measure:
    return Measure(source, name)


def metrics(platform: str, currency: str, web: bool) -> dict[str, Kept]:
    def own(name: str) -> Measure:
        return Measure(platform, name)

    sold = Measure(WEB, PURCHASE) if web else own(PURCHASE)
    spend = own(f"spend@{currency}")
    return {
        "ctr": Kept(Metric("ctr", 1, "ratio", own("clicks"), own("impressions"), 1, "proportion"), ((8, 1000), (1, 200), (1, 100), (1, 20))),
        "cvr": Kept(Metric("cvr(purchases)", 1, "ratio", sold, own("clicks"), 1, "proportion"), ((1, 10), (1, 50), (1, 4))),
        "cpc": Kept(Metric("cpc", 1, currency, spend, own("clicks"), 1, "rate"), ((1, 1), (2, 1), (5, 2))),
        "cpa": Kept(Metric("cpa(purchases)", 1, currency, spend, sold, 1, "rate"), ((10, 1), (30, 1), (5, 1))),
        "cpm": Kept(Metric("cpm", 1, currency, spend, own("impressions"), 1000, ""), ((10, 1), (5, 1))),
        "roas": Kept(Metric("roas(purchases)", 1, "ratio", own(f"revenue:purchase:7d_click@{currency}"), spend, 1, ""), ((1, 1), (2, 1))),
        "impressions": Kept(Metric("impressions", 1, "count", own("impressions"), None, 1, ""), ((1000, 1), (5000, 1), (0, 1))),
        "clicks": Kept(Metric("clicks", 1, "count", own("clicks"), None, 1, ""), ((5, 1), (20, 1))),
        "spend": Kept(Metric("spend", 1, currency, spend, None, 1, ""), ((50, 1), (10, 1), (0, 1))),
        "conversions": Kept(Metric("conversions(purchases)", 1, "count", sold, None, 1, ""), ((1, 1), (3, 1))),
    }


class Rules:
    """Programs as the language would make them, and some that it would not."""

    def __init__(self, rng: random.Random, interval: int, platform: str, ages: bool, brief: bool) -> None:
        self.rng, self.interval, self.platform, self.brief = rng, interval, platform, brief
        self.currency = rng.choice(["EUR", "EUR", "EUR", "USD"])
        self.kept = metrics(platform, self.currency, web=rng.random() < 0.3)
        self.zone = rng.choice(ZONES)
        self.ages = ages
        self.windows = rng.sample([HOUR, DAY, 7 * DAY, 90 * MINUTE], 2)
        self.metrics: list[Metric] = []

    def program(self, name: str) -> Program:
        made = self.any_program(name)
        return self.sparing(made) if made.pair is None and self.rng.random() < 0.2 else made

    def sparing(self, program: Program) -> Program:
        """Switches off what is weak, as long as others stay on."""
        rng = self.rng
        self.metrics = []
        when = self.condition(True)
        guards = {a.guard: a for a in program.guards if a.guard in ("confidence", "cooldown")}
        per = rng.choice(["ad_group", "ad_group", "campaign", "account"])
        guards["keep_active"] = Asked("keep_active", (("at_least", 1), ("per", per)))
        asked = tuple(guards[name] for name in sorted(guards))
        return replace(
            program, depth=4, where=self.active(), unless=None, when=when, clear=None, hold=0, guards=asked, minimums=(), metrics=tuple(self.metrics), lag=None,
            action=Action("pause"),
        )  # fmt: skip

    def any_program(self, name: str) -> Program:
        rng = self.rng
        self.metrics = []
        pair = rng.random() < 0.3
        evident = rng.random() < (0.2 if pair else 0.5)
        when = self.condition(evident)
        to = self.condition(evident) if pair else None
        if pair and rng.random() < 0.7:
            when, to = self.amount(), self.amount() if rng.random() < 0.6 else self.condition(evident)
        depth = rng.choice([4, 4, 4, 4, 4, 4, 3, 3, 2, 2, 1, 0]) if not pair else rng.choice([4, 2])
        where = rng.choice([self.active(), self.active(), None, self.attributes()])
        unless = self.attributes() if rng.random() < 0.2 else None
        clear = self.clear(when) if rng.random() < 0.3 else None
        minimums = self.minimums()
        action = self.shift() if pair else rng.choice([Action("pause"), Action("pause"), Action("notify"), Action("resume"), self.set_budget()])
        asked = self.guards(evident, depth)
        panes = tuple((w, MINUTE if w <= 2 * HOUR else 5 * MINUTE if w <= DAY else HOUR) for w in (HOUR, 90 * MINUTE, DAY, 7 * DAY))
        lag = None
        if self.ages and rng.random() < 0.7:
            lag = Lag("purchases", rng.choice([((DAY, 900_000), (3 * DAY, MICRO)), ((HOUR, 300_000), (2 * HOUR, 300_000), (6 * HOUR, 950_000)), ()]))
        coefficients = default_coefficients()
        if rng.random() < 0.15:
            coefficients = (("dispersion", (0.4,)), ("high", (0.1, 0.3, 0.6, 1.5)), ("low", (0.1, 0.2, 0.4, 0.7)))
        return Program(
            rule=name, owner="jana@acme.example", objective="", platform=self.platform, currency=self.currency, zone=self.zone, depth=depth, where=where,
            unless=unless, when=when, clear=clear, pair=Pair(rng.choice([1, 2]) if depth == 4 else 1, rng.choice([(), (), ("label",)]), to) if to else None,
            hold=rng.choice([0, 0, 0, self.interval, MINUTE, 15 * MINUTE, 2 * HOUR]), metrics=tuple(self.metrics), minimums=minimums, guards=asked, lag=lag,
            action=action, approve=rng.choice([Approval(False, -1, "", 4 * HOUR, ""), Approval(True, -1, "lead", 4 * HOUR, "leave as is"),
            *[Approval(False, 100 * MICRO, "", HOUR, "leave as is")] * 2]), risk="medium", priority=rng.choice([0, 0, 0, -1, 1]),
            valid_for=rng.choice([15 * MINUTE, 15 * MINUTE, MINUTE, HOUR, 6 * HOUR]), panes=panes, interval=self.interval, coefficients=coefficients,
            offsets=zone_rules(self.zone) if self.zone != "UTC" else (), semantics=rng.choice([1, 2, 3, 3]), source="",
        )  # fmt: skip

    def edited(self, program: Program) -> Program:
        """The same rule with one thing changed: a threshold, the scope, a metric, the guards, the priority."""
        rng = self.rng
        self.metrics = list(program.metrics)
        match rng.choice(["threshold", "threshold", "threshold", "scope", "scope", "metric", "guards", "priority", "hold"]):
            case "threshold":
                return replace(program, when=nudged(program.when, rng), clear=self.kept_clear(program))
            case "scope":
                return replace(program, where=None if program.where else self.active())
            case "metric":
                when = self.condition(False)
                return replace(program, when=when, clear=None, metrics=tuple(self.metrics))
            case "guards":
                return replace(program, guards=self.guards(any(a.guard == "confidence" for a in program.guards), program.depth))
            case "priority":
                return replace(program, priority=program.priority + 1)
        return replace(program, hold=rng.choice([0, MINUTE, HOUR]))

    def kept_clear(self, program: Program) -> Condition | None:
        """Where `when` moves, its clear may come to be true beside it, and tell of it at every boundary: only in logs that pass few."""
        return program.clear if self.brief else None

    # -- conditions --------------------------------------------------------------------------------------------------

    def ref(self, name: str, window: int | None = None) -> MetricRef:
        metric = self.kept[name].metric
        if metric not in self.metrics:
            self.metrics.append(metric)
        if window is None:
            window = self.rng.choice([0, 0, *self.windows])
        return MetricRef(self.metrics.index(metric), window, metric.name)

    def condition(self, evident: bool) -> Condition:
        rng = self.rng
        if evident:
            name = rng.choice(["ctr", "ctr", "ctr", "cvr", "cpc", "cpa", "cpa"] if not self.ages else ["cpa", "cpa", "cpa", "ctr"])
            claim = self.claim(name, 0)
            match rng.randrange(6):
                case 0:
                    return And((claim, self.leaf()))
                case 1:
                    return Not(self.claim(name, 0, against=True))
                case 2:
                    return And((claim, self.claim(rng.choice(["ctr", "cpc", "cpa"]), 0)))
            return claim
        match rng.randrange(7):
            case 0:
                return And((self.leaf(), self.leaf()))
            case 1:
                return Or((self.leaf(), self.leaf()))
            case 2:
                return Not(self.leaf())
            case 3:
                return And((Or((self.leaf(), Not(self.leaf()))), self.leaf()))
        return self.leaf()

    def amount(self) -> Compare:
        return self.claim(self.rng.choice(["spend", "clicks", "impressions"]), None)

    def claim(self, name: str, window: int | None, against: bool = False) -> Compare:
        rng = self.rng
        ref = self.ref(name, window)
        metric = self.metrics[ref.metric]
        bad_above = metric.family == "rate" or metric.denominator is None
        op = rng.choice([">", ">", ">=", "<"] if bad_above != against else ["<", "<", "<", "<=", ">"])
        bound = self.bound(name, metric)
        if rng.random() < 0.15:
            return compare({"<": ">", "<=": ">=", ">": "<", ">=": "<="}[op], bound, ref)
        return compare(op, ref, bound)

    def bound(self, name: str, metric: Metric) -> Expression:
        rng = self.rng
        n, d = rng.choice(self.kept[name].thresholds)
        number = Number(n, d, metric.unit, f"{n}/{d}")
        if metric.denominator is None or rng.random() < 0.55:
            return number
        target = TargetRef(metric.name.partition("(")[0], metric.unit, f"target({metric.name})")
        match rng.randrange(4):
            case 0:
                return Arithmetic("*", target, Number(6, 5, "ratio", "120%"))
            case 1:
                return Arithmetic("*", Number(3, 2, "count", "1.5"), target)
        return target

    def leaf(self) -> Compare:
        rng = self.rng
        match rng.randrange(12):
            case 0:
                return self.attribute()
            case 1:
                first, second = rng.choice([("spend", "spend"), ("clicks", "conversions"), ("cpc", "cpa"), ("ctr", "cvr")])
                return compare(rng.choice(["<", ">", ">=", "="]), self.ref(first), self.ref(second))
            case 2:
                n, d = rng.choice(self.kept["cpa"].thresholds)
                left = Arithmetic(rng.choice("+-"), Number(n, d, self.currency, str(n)), self.ref(rng.choice(["cpa", "cpc", "spend"])))
                return compare(rng.choice(["<", ">"]), left, Number(0, 1, self.currency, "0"))
            case 3:
                left = Arithmetic("/", self.ref(rng.choice(["spend", "clicks"])), self.ref(rng.choice(["conversions", "impressions", "clicks"])))
                return compare(rng.choice(["<", ">", ">="]), left, Number(rng.choice([1, 2]), rng.choice([1, 10]), "count", "n"))
            case 4:
                left = Arithmetic("*", self.ref("spend"), Number(rng.choice([-1, 2, 3]), 2, "count", "n"))
                return compare(rng.choice(["<", ">"]), left, AttributeRef("daily_budget", self.currency))
            case 5:
                name = rng.choice(list(self.kept))
                return compare(rng.choice(["=", "!="]), self.ref(name), self.bound(name, self.kept[name].metric))
        return self.claim(rng.choice(list(self.kept)), None)

    def attribute(self) -> Compare:
        rng = self.rng
        if rng.random() < 0.4:
            return compare(rng.choice(["<", ">=", "="]), AttributeRef("daily_budget", self.currency), Number(50, 1, self.currency, "50"))
        return compare(rng.choice(["=", "!="]), AttributeRef(rng.choice(["label", "status"]), "text"), Text(rng.choice(["a", "active", "paused"])))

    def attributes(self) -> Condition:
        rng = self.rng
        return rng.choice([self.attribute(), And((self.active(), self.attribute())), Or((self.attribute(), self.attribute())), Not(self.attribute())])

    @staticmethod
    def active() -> Compare:
        return compare("=", AttributeRef("status", "text"), Text("active"))

    def clear(self, when: Condition) -> Condition:
        """Mostly the far side of a band, so that a rule seldom clears while it is true."""
        if isinstance(when, Compare) and isinstance(when.left, MetricRef) and isinstance(when.right, Number) and when.op in ("<", "<=", ">", ">="):
            up = when.op in ("<", "<=")
            there = replace(when.right, numerator=when.right.numerator * (3 if up else 1), denominator=when.right.denominator * (2 if up else 2))
            return compare(">" if up else "<", when.left, there)
        return And((Not(when), self.leaf()))

    # -- guards and actions ------------------------------------------------------------------------------------------

    def minimums(self) -> tuple[Minimum, ...]:
        rng = self.rng
        name, least = rng.choice([("impressions", 1000), ("impressions", 3000), ("spend", 40), ("clicks", 5)])
        metric = self.kept[name].metric
        if metric not in self.metrics:
            self.metrics.append(metric)
        many = (Minimum(self.metrics.index(metric), least * MICRO, name),)
        if rng.random() < 0.2:
            other = self.kept["spend"].metric
            if other not in self.metrics:
                self.metrics.append(other)
            many += (Minimum(self.metrics.index(other), 20 * MICRO, "spend"),)
        return many

    def guards(self, evident: bool, depth: int) -> tuple[Asked, ...]:
        rng = self.rng
        every = {
            "sample": {},
            "min_runtime": {"at_least": rng.choice([0, MINUTE, HOUR, DAY])},
            "fresh": {"within": rng.choice([MINUTE, HOUR, 3 * HOUR])},
            "cooldown": {"after": rng.choice(["any change", "any change", "own change"]), "for": rng.choice([MINUTE, HOUR, 6 * HOUR, DAY])},
            "keep_active": {"at_least": rng.choice([1, 1, 1, 2]), "per": rng.choice(LEVELS[max(1, depth - 2) : depth + 1] or LEVELS[:1])},
            "status": {},
        }
        names = rng.sample(sorted(every), rng.choice([0, 1, 1, 2, 2, 3, 6]))
        asked = {name: every[name] for name in names}
        if evident:
            asked["confidence"] = {
                "level": rng.choice([900_000, 950_000, 990_000]),
                "effect": rng.choice([0, 0, 100_000, 250_000]),
                "both": 0,
                "dispersion": rng.choice([200_000, 200_000, 0, 500_000]),
            }
        return tuple(Asked(name, tuple(sorted(asked[name].items()))) for name in sorted(asked))

    def set_budget(self) -> Action:
        return Action("set_budget", (("amount", self.rng.choice([20, 50]) * MICRO),))

    def shift(self) -> Action:
        rng = self.rng
        floor, share = rng.choice([0, 0, 40 * MICRO]), rng.choice([150_000, 333_333])
        return Action("shift_budget", (("floor", floor), ("share", share), ("to_at_most", rng.choice([200_000, MICRO]))))


def compare(op: str, left: Expression, right: Expression) -> Compare:
    return Compare(op, left, right, f"{text(left)} {op} {text(right)}")


def text(e: Expression) -> str:
    match e:
        case Arithmetic():
            return f"({text(e.left)} {e.op} {text(e.right)})"
        case AttributeRef():
            return e.name
        case Text():
            return f'"{e.value}"'
        case MetricRef():
            return f"{e.text}[{e.window // MINUTE}m]"
    return e.text


def renumbered(asked: Asked, rng: random.Random) -> Asked:
    """The same guard with other durations and counts."""
    times = {"at_least": 2, "within": 2, "for": 2}
    return Asked(asked.guard, tuple((n, v * rng.choice([1, times.get(n, 1)]) if isinstance(v, int) else v) for n, v in asked.parameters))


def goals_of(program: Program) -> list[TargetRef]:
    def inside(node: Any) -> list[TargetRef]:
        if isinstance(node, TargetRef):
            return [node]
        parts = getattr(node, "terms", ()) or [getattr(node, name) for name in ("term", "left", "right") if hasattr(node, name)]
        return [ref for part in parts for ref in inside(part)]

    return [ref for c in (program.when, program.pair and program.pair.to) if c for ref in inside(c)]


def nudged(condition: Condition, rng: random.Random) -> Condition:
    """With other numbers, and the same metrics."""
    match condition:
        case Compare(op, left, Number() as n):
            n = replace(n, numerator=n.numerator * rng.choice([1, 2, 3]), denominator=n.denominator * rng.choice([1, 2]))
            return compare(op, left, replace(n, text=f"{n.numerator}/{n.denominator}"))
        case And(terms):
            return And(tuple(nudged(t, rng) for t in terms))
        case Or(terms):
            return Or(tuple(nudged(t, rng) for t in terms))
        case Not(term):
            return Not(nudged(term, rng))
    return condition


# -------------------------------------------------------------------------------------------------------------------- the log


@dataclass(frozen=True, slots=True)
class Log:
    """`told` is what the evaluator concluded from it, `met` counts what happened in it."""

    interval: int
    records: tuple[Stamped[Record], ...]
    told: tuple[Decision, ...] = ()
    met: Mapping[str, int] = field(default_factory=dict)


class Writer:
    """Writes one log. `told` is what the evaluator has concluded from it so far."""

    def __init__(self, seed: int, rounds: int) -> None:
        self.rng = rng = random.Random(f"trimtab {seed}")
        self.ages = rng.random() < 0.25
        self.interval = rng.choice([HOUR, HOUR, 10 * MINUTE, SECOND]) if self.ages else rng.choice([SECOND, SECOND, SECOND, MINUTE, 10 * MINUTE])
        self.brief = self.interval == SECOND and (self.ages or rng.random() < 0.1)  # every boundary counts while spend ripens: no long gaps
        self.rounds = rounds
        self.now = rng.choice(TURNS) * SECOND - rng.choice([0, HOUR, 2 * HOUR, DAY, 5 * DAY])
        self.now += rng.choice([0, 0, SECOND // 2, 1, -1])
        self.start = self.now
        self.names = ["acme"] if rng.random() < 0.7 else ["acme", "beta"]
        self.platform = META if rng.random() < 0.85 else GOOGLE
        self.rules = Rules(rng, self.interval, self.platform, self.ages, self.brief)
        self.programs: dict[tuple[str, str], list[Program]] = {}
        self.unready: list[Ready] = []
        self.programmed = False  # whether the first activation is written
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.snapshots: list[tuple[str, dict[str, Any]]] = []
        self.records: list[Stamped[Record]] = []
        self.poisoned = frozenset({rng.randrange(3, rounds)} if rng.random() < 0.1 else ())
        self.common = rng.choice(["", "", "", "other currencies", "corrections"])  # of what is spent
        self.huge = ["impressions", "clicks", f"spend@{self.rules.currency}"]
        self.horizons = rng.choice([(7 * DAY, HOUR), (7 * DAY, HOUR), (DAY, 2 * HOUR), (3 * DAY, MINUTE)])
        self.told = Partition(self.interval, poisoned=self.poisoned, horizons=self.horizons)
        self.ads = self.entities()

    def entities(self) -> list[str]:
        rng = self.rng
        ads = []
        for account in ("act",) if rng.random() < 0.7 else ("act", "act2"):
            for campaign in ("c1", "c2")[: rng.choice([1, 2])]:
                for group in ("g1", "g2")[: rng.choice([1, 2])]:
                    ads += [f"{self.platform}/{account}/{campaign}/{group}/{ad}" for ad in "abc"[: rng.choice([1, 2, 3])]]
        rng.shuffle(ads)
        ads = ads[: rng.choice([1, 2, 3, 4, 6])]
        if rng.random() < 0.2:
            ads.append(f"{GOOGLE if self.platform == META else META}/act/c1/g1/a")
        return ads

    def write(self) -> Log:
        rng = self.rng
        if rng.random() < 0.1:
            self.put(Clock(True, self.now))
        for name in self.names:
            for i in range(rng.choice([2, 3, 4, 5])):
                self.activate(name, f"rule-{'abcde'[i]}")
            if rng.random() < 0.4:
                self.family(name)
            self.open(name)
            for _ in range(rng.choice([0, 2, 3])):
                self.target(name)
        for _ in range(self.rounds):
            if not (self.waiting() and rng.random() < 0.4):
                self.move()
            self.step()
        for offset in sorted(self.poisoned):
            if offset < len(self.records):
                self.put(Skip(offset, "poisoned"))
        self.now += rng.choice([MINUTE, HOUR, DAY]) if not self.brief else MINUTE
        self.put(Tick())
        return Log(self.interval, tuple(self.records), tuple(self.told.decisions), self.met())

    def met(self) -> Counter[str]:
        met: Counter[str] = Counter()
        for workspace in self.told.workspaces.values():
            met += workspace.met
        for d in self.told.decisions:
            met.update([f"{d.kind} in {d.mode}", *(f"refused by {name}" for name in d.refusals), *(f"reading {r.truth}" for r in d.readings)])
            if "|" in d.path:
                met[f"pair {d.kind}"] += 1
            if d.kind == "fired":
                met[f"fired: {json.loads(d.action)['do']}"] += 1
                met["fired on evidence"] += any(v.guard == "confidence" for v in d.verdicts)
                met["fired: spend a day unknown, asks above"] += json.loads(d.action)["spend_per_day"] is None and json.loads(d.action)["approve"]["above"] >= 0
        return met

    def put(self, record: Record, stamp: int | None = None) -> None:
        stamped = Stamped(len(self.records), self.now if stamp is None else stamp, record)
        self.records.append(stamped)
        self.told.feed([stamped])

    # -- time --------------------------------------------------------------------------------------------------------

    def move(self) -> None:
        """Time is lumpy: much at one instant, some at the edge of a boundary or of something that turns, some long silences."""
        rng = self.rng
        match rng.choice(["stay", "stay", "crumb", "boundary", "boundary", "turn", "turn", "short", "short", "hour", "hour", "long"]):
            case "crumb":
                self.now += rng.choice([1, 2, 1000, self.interval // 3])
            case "boundary":
                self.now = (self.now // self.interval + rng.choice([1, 1, 2])) * self.interval + rng.choice([0, 0, 1, -1])
            case "turn":
                turns = [t for w in self.told.workspaces.values() if (t := w.next_instant(self.now)) is not None]
                if turns and (not self.brief or min(turns) < self.now + 10 * MINUTE):
                    self.now = max(self.now, min(turns) + rng.choice([0, 0, 1, -1, self.interval, -self.interval]))
            case "short":
                self.now += rng.choice([SECOND, 7 * SECOND, MINUTE, 5 * MINUTE])
            case "hour":
                self.now += rng.choice([15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR]) if not self.brief else MINUTE
            case "long" if not self.brief:
                self.now += rng.choice([DAY, DAY, 2 * DAY, 7 * DAY, 8 * DAY, 15 * DAY] if not self.ages or self.interval == HOUR else [DAY])

    # -- records -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        workspace = rng.choice(self.names)
        if (waiting := self.waiting()) and rng.random() < 0.35:
            self.outcome(rng.choice(waiting).workspace)
            return
        if (late := [name for name, w in self.told.workspaces.items() if w.lapsed]) and rng.random() < 0.2:
            self.outcome(rng.choice(late))
            return
        kinds: dict[Callable[[str], None], int] = {
            self.deliver: 34,
            self.restate: 12,
            self.everybody: 10,
            self.again: 5,
            self.outcome: 8,
            self.change: 7,
            self.target: 10,
            self.edit: 8,
            self.ready: 3,
            self.tick: 4,
            self.step_back: 3,
        }
        rng.choices(list(kinds), list(kinds.values()))[0](workspace)

    def waiting(self) -> list[Decision]:
        return [f.decision for w in self.told.workspaces.values() for f in w.flights.values()]

    def tick(self, workspace: str) -> None:
        self.put(Tick())

    def step_back(self, workspace: str) -> None:
        self.put(Tick(), self.now - self.rng.choice([1, SECOND, HOUR, DAY]))
        self.put(batch(self.delta(), workspace=workspace), self.now - self.rng.choice([1, SECOND, HOUR]))

    def delta(self) -> dict[str, Any]:
        rng = self.rng
        path = rng.choice(self.ads)
        if rng.random() < 0.05:
            path = rng.choice(ancestors(path))
        at = self.now - rng.choice([0, 0, 0, 0, 1, SECOND, MINUTE, HOUR, 5 * HOUR, DAY, 3 * DAY])
        if rng.random() < 0.08:
            at = self.now + rng.choice([1, MINUTE, HOUR, HOUR + 1, 3 * HOUR, -self.horizons[0], -self.horizons[0] - 1, -8 * DAY, -30 * DAY])
        event: dict[str, Any] = {"id": f"e{len(self.events)}", "path": path, "at": at, "amounts": self.amounts(), "attributes": self.described()}
        event["source"] = path.split("/")[0]
        if rng.random() < 0.25:
            event["amounts"], event["source"] = {PURCHASE: rng.choice([1, 1, 1, 2, 2, 3, -1]) * MICRO}, rng.choice([WEB, path.split("/")[0]])
        return event

    def amounts(self) -> dict[str, int]:
        rng = self.rng
        if rng.random() < 0.12:
            return {}
        shown = rng.choice([0, 100, 400, 1000, 1000, 3000, 20_000])
        amounts = {"impressions": shown * MICRO, "clicks": rng.choice([0, 0, shown // 1000 * 2, shown // 250, shown // 125, shown // 100, shown // 20]) * MICRO}
        if rng.random() < 0.7:
            amounts[f"spend@{self.rules.currency}"] = rng.choice([0, 1, 5, 10, 10, 30, 90, 500]) * MICRO + rng.choice([0, 0, 1, -1])
        if rng.random() < 0.006:
            amounts["spend@GBP"] = rng.choice([1, 1, -1]) * MICRO
        if rng.random() < 0.04:
            name = rng.choice(sorted(amounts))
            amounts[name] = rng.choice([-amounts[name] // 2, -MICRO, 2**53, 2**53 + 1, -(2**53) - 1])
        return {m: a for m, a in self.mixed(amounts).items() if a or rng.random() < 0.3}

    def mixed(self, amounts: dict[str, int]) -> dict[str, int]:
        """With what makes a sum of money unknown, where this log is full of it."""
        rng = self.rng
        if self.common == "other currencies" and rng.random() < 0.4:
            return amounts | {"spend@GBP": rng.choice([1, 1, -1]) * MICRO}
        if self.common == "corrections" and rng.random() < 0.4:
            return amounts | {f"spend@{self.rules.currency}": rng.choice([-90, -500, -1000]) * MICRO}
        return amounts

    def described(self) -> dict[str, str | int]:
        rng = self.rng
        attributes: dict[str, str | int] = {}
        if rng.random() < 0.6:
            attributes["status"] = rng.choice(["active"] * 8 + ["paused", "archived"])
        if rng.random() < 0.3:
            attributes["daily_budget"] = rng.choice([20, 50, 50, 100, 0]) * MICRO
        if rng.random() < 0.15:
            attributes["label"] = rng.choice(["a", "b"])
        if rng.random() < 0.01:
            attributes["status"], attributes["daily_budget"] = 7 * MICRO, "unlimited"
        return attributes

    def open(self, workspace: str) -> None:
        """Most objects are on and have a budget from the first."""
        there = [path for path in self.ads if self.rng.random() < 0.85] or self.ads
        first = [self.delta() | {"path": path, "source": path.split("/")[0], "at": self.now} for path in there]
        for event in first:
            event["id"] = f"o{event['path']}"
            if self.rng.random() < 0.85:
                event["attributes"] = {"status": "active", "daily_budget": self.rng.choice([50, 100]) * MICRO}
        self.put(batch(*first, workspace=workspace))

    def deliver(self, workspace: str) -> None:
        rng = self.rng
        made = []
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            made.append(self.delta())
            self.events.append((workspace, made[-1]))
        if rng.random() < 0.01:
            path, amounts = rng.choice(self.ads), {rng.choice(self.huge): 2**53}
            self.huge = ["impressions", "clicks"]  # of money once: two of these come round again in 64 bits, which rules of old semantics propose as it is
            huge = {"path": path, "at": self.now, "source": path.split("/")[0], "amounts": amounts}
            made += [{"id": f"huge{len(self.events)}-{i}", **huge} for i in range(515)]
        if rng.random() < 0.1:
            made.append(dict(made[0]) if rng.random() < 0.5 else {**made[0], "amounts": {"clicks": 9 * MICRO}, "path": rng.choice(self.ads)})
        self.put(batch(*made, workspace=workspace))

    def everybody(self, workspace: str) -> None:
        """One kind of day for many at once: several candidates at one boundary."""
        rng = self.rng
        amounts, made = self.amounts(), []
        if rng.random() < 0.6:
            shown, clicked, spent = rng.choice([3000, 20_000]), rng.choice([0, 4, 20, 60]), rng.choice([90, 500])
            amounts = {"impressions": shown * MICRO, "clicks": clicked * MICRO, f"spend@{self.rules.currency}": spent * MICRO}
        for path in rng.sample(self.ads, len(self.ads)):
            if "clicks" in amounts and rng.random() < 0.5:
                amounts = amounts | {"clicks": amounts["clicks"] // 2}
            amounts = self.mixed(amounts)
            said = {"status": "active"} if rng.random() < 0.7 else {}
            made.append(self.delta() | {"path": path, "source": path.split("/")[0], "at": self.now, "amounts": amounts, "attributes": said})
            made[-1]["id"] = f"e{len(self.events)}"
            self.events.append((workspace, made[-1]))
        self.put(batch(*made, workspace=workspace))

    def again(self, workspace: str) -> None:
        """What was sent before comes again, as it was or with another content."""
        rng = self.rng
        old = [e for w, e in self.events if w == workspace] + [e for w, e in self.snapshots if w == workspace]
        if not old:
            return
        sent = [dict(e) for e in rng.sample(old, min(len(old), rng.choice([1, 2, 3])))]
        if rng.random() < 0.3:
            sent[0] |= {"amounts": {"impressions": 5000 * MICRO}, "at": self.now}
        self.put(batch(*sent, workspace=workspace))

    def restate(self, workspace: str) -> None:
        """A report: new rows, restated ones, older ones delivered again."""
        rng = self.rng
        rows = []
        for _ in range(rng.choice([1, 2, 3])):
            known = [e for w, e in self.snapshots if w == workspace]
            if known and rng.random() < 0.6:
                row = dict(rng.choice(known[-6:]))
                row["as_of"] += rng.choice([0, 1, -1, HOUR, HOUR, -HOUR])
                if rng.random() < 0.5:
                    row["as_of"] = self.now
                row["amounts"] = self.amounts()
                if rng.random() < 0.1:
                    row["path"] = rng.choice(self.ads)
            else:
                path = rng.choice(self.ads)
                width = rng.choice([HOUR, DAY, DAY])
                begin = self.now // width * width - rng.choice([0, 0, width, 2 * width, 8 * width]) + rng.choice([0, 0, 0, width])
                row = {"path": path, "interval": (begin, begin + width), "as_of": self.now - rng.choice([0, 0, MINUTE, -MINUTE]), "amounts": self.amounts()}
                row["source"] = path.split("/")[0]
                row["row"] = f"{path} {begin} {rng.choice(['', '', 'phone'])}"
            row |= {"id": f"s{len(self.snapshots)}", "at": self.now - rng.choice([0, 0, HOUR]), "attributes": self.described() if rng.random() < 0.2 else {}}
            self.snapshots.append((workspace, row))
            rows.append(row)
        self.put(batch(*rows, workspace=workspace))

    def activate(self, workspace: str, rule: str) -> None:
        rng = self.rng
        known = self.programs.setdefault((workspace, rule), [])
        if not known:
            known.append(self.rules.program(rule))
        elif rng.random() < 0.6:
            known.append(self.rules.edited(known[-1]))
        program = rng.choice(known[-2:])
        self.announce(workspace, program, rng.choice(["active", "active", "active", "shadow"]))

    def family(self, workspace: str) -> None:
        """Rules that differ in numbers alone: an engine may judge them all at once."""
        rng = self.rng
        first = rng.choice([programs[-1] for (w, _), programs in self.programs.items() if w == workspace])
        for i in range(rng.choice([1, 2, 4])):
            asked = tuple(renumbered(a, rng) for a in first.guards)
            minimums = tuple(replace(m, least=m.least * rng.choice([1, 2, 3])) for m in first.minimums)
            when, clear = nudged(first.when, rng), self.rules.kept_clear(first)
            other = {"hold": rng.choice([0, first.hold, MINUTE]), "priority": rng.choice([0, 1]), "guards": asked, "minimums": minimums, "clear": clear}
            program = replace(first, rule=f"{first.rule}-{i}", when=when, **other)
            self.programs[workspace, program.rule] = [program]
            self.announce(workspace, program, rng.choice(["active", "active", "shadow"]))

    def announce(self, workspace: str, program: Program, state: str) -> None:
        horizon, ahead = self.horizons if not self.programmed or self.rng.random() < 0.9 else (2 * DAY, DAY)
        self.programmed = True
        self.put(Activation(workspace, program.rule, program.version, state, program.to_json() if state != "retired" else "", "", horizon, ahead))
        if state == "retired":
            return
        ready = Ready(workspace, program.version)
        if self.rng.random() < 0.8:
            self.put(ready)
        else:
            self.unready.append(ready)

    def ready(self, workspace: str) -> None:
        if self.unready:
            self.put(self.unready.pop(self.rng.randrange(len(self.unready))))

    def edit(self, workspace: str) -> None:
        rng = self.rng
        rule = rng.choice([r for w, r in self.programs if w == workspace])
        if rng.random() < 0.2:
            self.announce(workspace, rng.choice(self.programs[workspace, rule]), "retired")
            return
        self.activate(workspace, rule)

    def target(self, workspace: str) -> None:
        rng = self.rng
        money = self.rules.currency
        read = {ref.name for programs in self.programs.values() for p in programs[-2:] for ref in goals_of(p)}
        goals = [("cpa", money, (5, 10, 30)), ("cpc", money, (1, 2)), ("ctr", "ratio", (0.008, 0.01, 0.05)), ("cvr", "ratio", (0.1, 0.02))]
        name, unit, amounts = rng.choice([g for g in goals if g[0] in read] or goals)
        path = rng.choice(["", *ancestors(rng.choice(self.ads))])
        begin = rng.choice([0, 0, self.now, self.now + MINUTE, self.now + HOUR, self.now + DAY])
        end = rng.choice([0, 0, begin + MINUTE, self.now + HOUR, self.now + 2 * DAY, self.now])
        self.put(Target(workspace, name, path, round(rng.choice(amounts) * MICRO), rng.choice([unit] * 9 + ["GBP"]), begin, end))

    def change(self, workspace: str) -> None:
        rng = self.rng
        path = rng.choice(self.ads)
        if rng.random() < 0.2:
            path = rng.choice(ancestors(path)[2:])
        self.put(Change(workspace, path, "status", "active", "paused", self.now - rng.choice([0, 0, 1, MINUTE, HOUR, DAY, -MINUTE]), "tom"))

    def outcome(self, workspace: str) -> None:
        """An end, or an approval, of a decision that this log brought about; of one that is waiting if there is one, or whose deadline has passed."""
        rng = self.rng
        known = self.told.workspaces.get(workspace)
        waiting: list[Decision] = [f.decision for f in known.flights.values()] if known else []
        fired = [d for d in self.told.decisions if d.kind == "fired" and d.workspace == workspace]
        if not fired or rng.random() < 0.02:
            self.put(Outcome(workspace, "0" * 32, "failed", reason="nobody knows it"))
            return
        decision = rng.choice(waiting) if waiting and rng.random() < 0.85 else rng.choice(fired[-5:])
        lapsed = [f.decision for f in known.lapsed.values()] if known else []
        is_late = bool(lapsed) and rng.random() < 0.6
        if is_late:
            decision = rng.choice(lapsed)
        status = rng.choice(LATE if is_late else STATUSES)
        for path in decision.path.split("|"):
            if status != "verified":
                self.put(Outcome(workspace, decision.id, status, decision.path, reason="test"))
                return
            name, value = rng.choice([("status", "paused"), ("status", "paused"), ("status", "active"), ("daily_budget", "40000000"), ("", "")])
            self.put(Outcome(workspace, decision.id, status, path if rng.random() < 0.95 else "", name, value=value))


def generate(seed: int, rounds: int = 50) -> Log:
    """The log of a seed, the same on every machine."""
    return Writer(seed, rounds).write()
