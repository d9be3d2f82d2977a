"""Every pack that we ship is right, passes its own tests, and fires when an independent reckoning says it should; a wrong expectation is told as a story."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from services.rules_engine.language.pack import Pack, guards, load_pack
from services.rules_engine.trial import Result, run_tests

RULES = Path(__file__).parents[2] / "rules"
PACKS = sorted(RULES.glob("**/*.yaml"))
ACME = RULES / "acme-paid-social.yaml"
HOUR = 3_600_000_000
NEEDED = math.log(20)
LAG = [(0.0, 0.0), (1.0, 0.4), (6.0, 0.7), (24.0, 0.9), (72.0, 1.0)]


def pack(path: Path = ACME, old: str = "", new: str = "") -> Pack:
    text = path.read_text()
    assert old in text
    return load_pack(text.replace(old, new, 1) if old else text, path.name)


def results(of: Pack) -> dict[str, Result]:
    return {r.test: r for r in run_tests(of, guards())}


def fired(result: Result) -> list[float]:
    """Hours after the test's beginning."""
    return [(d.now - result.start) / HOUR for d in result.decisions if d.kind == "fired"]


@pytest.mark.parametrize("path", PACKS, ids=lambda p: p.stem)
def test_every_pack_is_right_and_passes_its_own_tests(path: Path) -> None:
    made = pack(path)
    ran = run_tests(made, guards())
    assert [(r.test, r.failures) for r in ran if not r.passed] == []
    assert {r.rule for r in ran} == {r.program.rule for r in made.rules}, "a rule without a test"


def test_there_are_packs() -> None:
    assert ACME in PACKS


# -- when the example pack fires ------------------------------------------------------------------------------------------


def arrived(age: float) -> float:
    for (x0, y0), (x1, y1) in zip(LAG, LAG[1:], strict=False):
        if age < x1:
            return y0 + (y1 - y0) * (age - x0) / (x1 - x0)
    return 1.0


def evidence_of_a_high_cost(hours: float, every: float, spend: float, purchases: int, target: float) -> float:
    """From the formula alone: rows land just before their interval ends, days vary by 20 %."""
    days: dict[int, float] = {}
    rows = int(hours / every + 1e-9)
    for i in range(1, rows + 1):
        landing = i * every - 1e-9
        days[int(landing // 24)] = days.get(int(landing // 24), 0.0) + spend * arrived(hours - landing) / target
    m = sum(days.values())
    phi = 1 + 0.2**2 * sum(x * x for x in days.values()) / m
    return math.log(sum(math.exp(purchases * rows / phi * math.log(1 - d) + d * m / phi) for d in (0.1, 0.2, 0.4, 0.8)) / 4)


def first_second(every: float, spend: float, purchases: int, target: float, start: int, end: int) -> float:
    return next(s / 3600 for s in range(start * 3600, end * 3600) if evidence_of_a_high_cost(s / 3600, every, spend, purchases, target) >= NEEDED)


def test_a_weak_creative_is_paused_after_fifty_six_hours() -> None:
    done = results(pack())["a weak creative goes only once it is proven weak"]
    assert fired(done) == [56.0]


def test_spend_without_a_sale_is_stopped_on_the_second_day_at_the_second_it_is_proven() -> None:
    done = results(pack())["no sale at all stops the spend, though not on day one"]
    assert fired(done) == [pytest.approx(28.8, abs=0.2)]
    assert fired(done) == [pytest.approx(first_second(1, 10, 0, 33, 28, 30), abs=1e-9)]


def test_budget_is_shifted_on_the_thirteenth_day_at_the_second_it_is_proven() -> None:
    done = results(pack())["not a cent appears or vanishes"]
    assert fired(done) == [pytest.approx(298.7, abs=0.3)]
    assert fired(done) == [pytest.approx(first_second(24, 75, 1, 33, 290, 300), abs=1e-9)]


def test_what_is_refused_meanwhile_is_told_guard_by_guard() -> None:
    done = results(pack())["a weak creative goes only once it is proven weak"]
    told = [((d.now - done.start) / HOUR, d.kind, d.refusals) for d in done.decisions]
    assert told == [
        (4.0, "refused", ("confidence", "min_runtime", "sample")),
        (16.0, "refused", ("confidence", "min_runtime")),
        (24.0, "refused", ("confidence",)),
        (56.0, "fired", ()),
        (58.0, "cleared", ()),
    ]


# -- a test that fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, failure",
    [
        (
            "{by: 60h, do: pause}",
            "{by: 50h, do: pause}",
            "by 50 h it should pause; it was held by confidence, min_runtime and sample from 4 h, then held by confidence and min_runtime from 16 h, "
            "then held by confidence from 24 h",
        ),
        (
            "{at: 30h, held: confidence}",
            "{at: 57h, held: confidence}",
            "at 57 h it should be held by confidence; it was held by confidence, min_runtime and sample from 4 h, "
            "then held by confidence and min_runtime from 16 h, then held by confidence from 24 h, then fired (pause) at 56 h",
        ),
        ("{at: 30h, held: confidence}", "{at: 2h, held: confidence}", "at 2 h it should be held by confidence; it decided nothing"),
        ("{A: 68 EUR, B: 92 EUR}", "{A: 70 EUR, B: 90 EUR}", "by 336 h it should propose A: 70.00, B: 90.00; it proposed A: 68.00, B: 92.00"),
        (
            "[{by: 14d, propose",
            "[{by: 8d, propose",
            "by 192 h it should propose A: 68.00, B: 92.00; it was held by confidence, min_runtime and sample from 24 h, "
            "then held by confidence and min_runtime from 96 h, then held by confidence from 168 h",
        ),
    ],
)
def test_a_wrong_expectation_fails_with_what_came_instead(old: str, new: str, failure: str) -> None:
    assert [f for r in run_tests(pack(ACME, old, new), guards()) for f in r.failures] == [failure]


def test_a_rule_that_is_too_eager_fails_its_own_test() -> None:
    ran = run_tests(pack(ACME, "confidence: {level: 95%, effect: 10%}       # tests 0.72%", "confidence: {level: 90%}"), guards())
    assert any(not r.passed for r in ran)
