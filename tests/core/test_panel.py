"""Rules side by side decide what each would alone, exactly, however close a value lies to a number and whatever the rules beside it are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Action, And, Arithmetic, Compare, Expression, MetricRef, Number, Program
from tests.core.world import GROUP, GUARDS, HOUR, World, asked, pause_rule

EXACT = {"<": Fraction.__lt__, "<=": Fraction.__le__, ">": Fraction.__gt__, ">=": Fraction.__ge__}
ADS = {"a": (5, 3), "b": (7, 3_000_000), "c": (1, 3), "d": (0, 10), "e": (3_333_333, 10_000_000), "f": (10_000_001, 30_000_000), "g": (4, 0)}
ADS["h"] = 10**9, 3 * 10**9
HAIR = Fraction(1, 10**12)
CTR = MetricRef(0, 0, "ctr")


def number(value: Fraction) -> Number:
    return Number(value.numerator, value.denominator, "ratio", str(value))


def rule(name: str, op: str, left: Expression, right: Expression) -> Program:
    return pause_rule(rule=name, where=None, when=Compare(op, left, right, ""), action=Action("notify"))


def held(*programs: Program, ads: dict[str, tuple[int, int]] = ADS) -> set[tuple[str, str]]:
    """(rule, ad) wherever the condition held: of several rules on one object all but one are outranked."""
    w = World()
    for p in programs:
        w.activate(p)
    w.at(1)
    for ad, (clicks, impressions) in ads.items():
        w.report(ad, impressions=impressions, clicks=clicks)
    w.at(1.1).tick()
    return {(d.rule_id, d.path.removeprefix(GROUP + "/")) for d in Partition(GUARDS, demand_of(w.records)).step(w.records)}


def meant(op: str, bound: Fraction, factor: Fraction = Fraction(1)) -> set[str]:
    return {ad for ad, (n, d) in ADS.items() if (EXACT[op](factor * Fraction(n, d), bound) if d else op[0] == ">")}


@pytest.mark.parametrize("op", EXACT)
def test_a_value_next_to_a_rules_number_is_compared_exactly(op: str) -> None:
    bounds = sorted({Fraction(n, d) + off for n, d in ADS.values() if d for off in (-HAIR, Fraction(0), HAIR)})
    programs = [rule(f"r{i:03d}", op, CTR, number(b)) for i, b in enumerate(bounds)]
    assert held(*programs) == {(f"r{i:03d}", ad) for i, b in enumerate(bounds) for ad in meant(op, b)}


@pytest.mark.parametrize("op", EXACT)
def test_a_number_on_the_left_is_the_same_comparison_turned_round(op: str) -> None:
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[op]
    bounds = sorted({Fraction(n, d) for n, d in ADS.values() if d})
    programs = [rule(f"r{i:03d}", turned, number(b), CTR) for i, b in enumerate(bounds)]
    assert held(*programs) == {(f"r{i:03d}", ad) for i, b in enumerate(bounds) for ad in meant(op, b)}


@pytest.mark.parametrize("op", EXACT)
def test_a_metric_times_a_number_is_compared_exactly(op: str) -> None:
    third, bounds = Fraction(1, 3), sorted({Fraction(n, d) / 3 for n, d in ADS.values() if d})
    times = [rule(f"t{i:03d}", op, Arithmetic("*", CTR, number(third)), number(b)) for i, b in enumerate(bounds)]
    front = [rule(f"u{i:03d}", op, Arithmetic("*", number(third), CTR), number(b)) for i, b in enumerate(bounds)]
    parts = [rule(f"v{i:03d}", op, Arithmetic("/", CTR, number(Fraction(3))), number(b)) for i, b in enumerate(bounds)]
    each = {(i, ad) for i, b in enumerate(bounds) for ad in meant(op, b, third)}
    assert held(*times, *front, *parts) == {(f"{letter}{i:03d}", ad) for letter in "tuv" for i, ad in each}


def test_a_rule_decides_alone_what_it_decides_among_a_hundred() -> None:
    """Groups of one, of many, with a second term, without any sieve: what stands beside a rule changes nothing about it."""
    shown = MetricRef(1, 0, "impressions")
    programs = []
    for i in range(100):
        bound = number(Fraction(i, 77))
        first = Compare(("<", ">=", ">", "<=")[i % 4], CTR, bound, "")
        second = Compare(">", shown, Number(10 ** (i % 8), 1, "count", ""), "")
        when = (first, And((second, first)), And((first, second)), Compare("=", CTR, number(Fraction(1, 3)), ""))[i % 5 % 4]
        programs.append(replace(rule(f"r{i:03d}", "<", CTR, bound), when=when))
    together = held(*programs)
    assert together == {found for p in programs for found in held(p)} and len(together) > 100


def test_a_rule_that_is_joined_by_another_goes_on_asking() -> None:
    w = World().activate(replace(rule("waits", "<", CTR, number(Fraction(1, 2))), guards=(asked("min_runtime", at_least=2 * HOUR),)))
    w.at(1).report("a", impressions=1000, clicks=1).at(1.1).tick()
    w.at(1.5).activate(rule("joins", ">", CTR, number(Fraction(1, 2)))).at(1.6).tick()
    w.at(4).tick()
    assert [(d.rule_id, d.kind) for d in w.decisions()] == [("waits", "refused"), ("waits", "fired")]
