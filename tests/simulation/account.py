"""The advertiser of a schedule: a few ads, the rules about them, and what its platform reports, all drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from services.kernel.event import Event, Snapshot
from services.rules_engine.core.evidence import default_coefficients
from services.rules_engine.core.program import Action, Approval, Compare, Measure, Metric, MetricRef, Minimum, Number, Pair, Program
from tests.core.world import ACTIVE, CHEAP_TO_ACT, DAY, HOUR, MINUTE, SECOND, asked
from tests.simulation.platform import AdPlatform

WORKSPACE = "main"
GROUP = "sandbox/acme/prospecting/women"
EUR = 1_000_000
IMPRESSIONS, CLICKS, SPEND = (Measure("sandbox", m) for m in ("impressions", "clicks", "spend@EUR"))
CTR = Metric("ctr", 1, "ratio", CLICKS, IMPRESSIONS, 1, "proportion")
SHOWN = Metric("impressions", 1, "count", IMPRESSIONS, None, 1, "")


def ctr(op: str, ppm: int, window: int = 0) -> Compare:
    return Compare(op, MetricRef(0, window, "ctr"), Number(ppm, 1_000_000, "ratio", f"{ppm / 1e4}%"), f"ctr {op} {ppm / 1e4}%")


def shown(op: str, count: int, window: int = 0) -> Compare:
    return Compare(op, MetricRef(0, window, "impressions"), Number(count, 1, "count", str(count)), f"impressions {op} {count}")


@dataclass(frozen=True, slots=True)
class Sending:
    """One delivery: when it is first sent, and what it holds."""

    at: int  # microseconds after the start
    events: tuple[Event, ...]
    again: tuple[int, ...]  # instants at which it is sent once more, though it was answered


class Account:
    def __init__(self, chance: random.Random, start: int, span: int) -> None:
        self.chance, self.start, self.span = chance, start, span
        self.ads = [f"{GROUP}/{name}" for name in "abcd"[: chance.choice([2, 3, 3, 4])]]
        self.programs = self._programs()
        self.numbers = 0

    def furnish(self, platform: AdPlatform) -> None:
        for ad in self.ads:
            platform.put(ad, "status", "active")
            platform.put(ad, "daily_budget", 80 * EUR)

    # -- rules --------------------------------------------------------------------------------------------------------

    def _base(self, rule: str, **other: object) -> Program:
        plain = Program(
            rule=rule, owner="jana@acme.example", objective="", platform="sandbox", currency="EUR", zone="UTC", depth=4, where=ACTIVE, unless=None,
            when=ctr("<", 8000), clear=None, pair=None, hold=0, metrics=(CTR,), minimums=(), guards=(), lag=None, action=Action("pause"),
            approve=CHEAP_TO_ACT, risk="low", priority=0, valid_for=self.chance.choice([1, 2, 4]) * MINUTE, panes=((HOUR, MINUTE), (DAY, 5 * MINUTE)),
            interval=SECOND, coefficients=default_coefficients(),
        )  # fmt: skip
        return replace(plain, **other)  # type: ignore[arg-type]

    def _programs(self) -> list[Program]:
        chance = self.chance
        asks = Approval(True, -1, "lead", chance.choice([2, 4, 8]) * MINUTE, "leave as is")
        guards = [asked("keep_active", at_least=1, per="ad_group")]
        if chance.random() < 0.3:
            guards = [asked("cooldown", **{"after": "any change", "for": 3 * MINUTE}), *guards]
        pause = self._base("pause-weak", guards=tuple(guards), hold=chance.choice([0, 0, 30 * SECOND]))
        if chance.random() < 0.3:
            sample = (Minimum(0, 2_000_000_000, "2000 impressions"),)
            pause = replace(pause, minimums=sample, metrics=(SHOWN,), when=shown(">", 1500), guards=(*guards, asked("sample")))
        if chance.random() < 0.25:
            pause = replace(pause, approve=asks)
        budget = self._base(
            "cap-budget", metrics=(SHOWN,), when=shown(">", 1000, chance.choice([0, 0, HOUR])), action=Action("set_budget", (("amount", 50 * EUR),)),
            approve=asks if chance.random() < 0.8 else CHEAP_TO_ACT,
        )  # fmt: skip
        shift = self._base(
            "shift-budget", when=ctr("<", 8000), pair=Pair(3, (), ctr(">", 8000)), where=None,
            action=Action("shift_budget", (("floor", 0), ("share", 150_000), ("to_at_most", 1_000_000))),
        )  # fmt: skip
        notice = self._base("tell", metrics=(SHOWN,), when=shown(">", 2000), action=Action("notify"))
        kinds = chance.choices(["p", "b", "pb", "s", "pn", "ps"], [4, 1, 4, 3, 1, 2])[0]
        return [{"p": pause, "b": budget, "s": shift, "n": notice}[kind] for kind in kinds]

    def edited(self, program: Program) -> Program:
        """The next version of a rule: another threshold, or another validity."""
        return replace(program, valid_for=program.valid_for + MINUTE) if self.chance.random() < 0.5 else replace(program, priority=program.priority + 1)

    # -- what is reported -----------------------------------------------------------------------------------------------

    def sendings(self) -> list[Sending]:
        """Deliveries over the first part of the span; statuses are those of the beginning, later ones are read when they are sent."""
        chance, found = self.chance, []
        for _ in range(chance.choice([3, 4, 5, 6])):
            at = int(self.span * 0.75 * chance.random())
            events = tuple(self._event(at) for _ in range(chance.choice([1, 1, 2, 3])))
            again = tuple(at + int(5 * MINUTE * chance.random()) for _ in range(chance.choice([0, 0, 0, 1, 2])))
            found.append(Sending(at, events, again))
        first = tuple(self._first(ad) for ad in self.ads)
        return sorted([Sending(0, first, ()), *found], key=lambda s: s.at)

    def _first(self, ad: str) -> Event:
        self.numbers += 1
        return Event(f"first {self.numbers}", "sandbox", ad, "report", self.start, {}, {"status": "active", "daily_budget": 80 * EUR})

    def _event(self, at: int) -> Event:
        self.numbers += 1
        chance, ad = self.chance, self.chance.choice(self.ads)
        impressions, clicks = chance.choice([1000, 1500, 2500]), chance.choice([1, 3, 5, 8, 12, 40])
        amounts = {"impressions": impressions * 1_000_000, "clicks": clicks * 1_000_000}
        when = self.start + at - int(chance.choice([0, 0, 1, 90]) * SECOND * chance.random())
        if chance.random() < 0.15:
            row = Snapshot(self.start - HOUR, self.start + HOUR, when, (f"row {ad}",))
            return Event(f"row {self.numbers}", "sandbox", ad, "report", when, {"spend@EUR": chance.randrange(90) * EUR}, {}, row)
        return Event(f"event {self.numbers}", "sandbox", ad, "report", when, amounts)
