"""What the confidence guard promises, counted exactly over the implementation's own boundary."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, poisson

from services.rules_engine.core.evidence import HIGH, LOW, crossing, dispersion, proportion_log_e, proportion_nats, rate_log_e, rate_nats, threshold_micro_nats

GUARDS = Path(os.environ.get("TRIMTAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "guards"
RATES = (0.005, 0.008, 0.01, 0.02, 0.03, 0.05, 0.1)
GONE = 1e-18  # probability beyond which a state is let go


def reference(name: str) -> dict:
    path = GUARDS / name
    if not path.exists():
        pytest.skip(f"the reference table is not at {path}: set TRIMTAB_TEST_DATA")
    return dict(json.loads(path.read_text()))


# -- exact probabilities by dynamic programming ---------------------------------------------------------------------------


def boundary(p0: float, alpha_ppm: int, horizon: int) -> np.ndarray:
    """Per number of clicks the smallest number of impressions at which they open the guard, up to the first that never do within the horizon."""
    needed = threshold_micro_nats(alpha_ppm)
    k = np.arange(0, int(horizon * p0 * 1.2) + 50, dtype=np.float64)
    low, high = k.copy(), np.full(len(k), float(horizon + 1))  # shut at low (k of k is no weak rate), open or past the horizon at high
    while (high - low).max() > 1:
        middle = np.floor((low + high) / 2)
        opens = proportion_log_e(middle, k, np.full(len(k), p0), "low", LOW) >= needed
        low, high = np.where(opens, low, middle), np.where(opens, middle, high)
    assert high[-1] > horizon
    return high[: int(np.argmax(high > horizon)) + 1].astype(np.int64)


def opening(p0: float, true: float, alpha_ppm: int, horizon: int, every: int = 1) -> list[tuple[int, float]]:
    """(impressions, probability of having been opened by then) wherever it rises; `every`: looked at only so often."""
    alive, first, now, opened = np.ones(1), 0, 0, 0.0  # alive[i]: the probability of first + i clicks, never yet opened
    course = [(0, 0.0)]
    for clicks, at in enumerate(boundary(p0, alpha_ppm, horizon).tolist()):
        at = -(-at // every) * every
        if at > horizon or not len(alive):
            break
        steps = at - now
        if steps:
            law = binom.pmf(np.arange(steps + 1), steps, true)
            alive = np.convolve(alive, law[: int(np.flatnonzero(law > GONE)[-1]) + 1])
            alive = alive[: int(np.flatnonzero(alive > GONE).max(initial=-1)) + 1]
        if first <= clicks:
            opened += float(alive[: clicks + 1 - first].sum())
            alive, first = alive[clicks + 1 - first :], clicks + 1
        now = at
        course.append((at, opened))
    return course


def by(course: list[tuple[int, float]], impressions: int) -> float:
    return next(p for n, p in reversed(course) if n <= impressions)


def quantile(course: list[tuple[int, float]], share: float) -> int | None:
    return next((n for n, p in course if p >= share), None)


def plainly(p0: float, true: float, alpha_ppm: int, horizon: int) -> float:
    """The same by stepping one impression at a time and asking the guard at each: slow, and with no boundary to get wrong."""
    needed = threshold_micro_nats(alpha_ppm)
    alive, opened = np.ones(1), 0.0
    for n in range(1, horizon + 1):
        alive = np.concatenate([alive * (1 - true), [0.0]]) + np.concatenate([[0.0], alive * true])
        k = np.arange(n + 1, dtype=np.float64)
        opens = proportion_log_e(np.full(n + 1, float(n)), k, np.full(n + 1, p0), "low", LOW) >= needed
        opened += float(alive[opens].sum())
        alive[opens] = 0.0
    return opened


@pytest.mark.parametrize("p0, true", [(0.05, 0.05), (0.1, 0.08), (0.3, 0.3)])
def test_the_boundary_opens_the_guard_exactly_where_the_guard_itself_does(p0: float, true: float) -> None:
    assert by(opening(p0, true, 50_000, 600), 600) == pytest.approx(plainly(p0, true, 50_000, 600), abs=1e-12)


@pytest.mark.parametrize("p0, expected", [(0.005, 0.030561906607681), (0.05, 0.046730968462354)])
def test_an_object_at_its_threshold_is_ever_acted_on_in_less_than_one_of_twenty_cases(p0: float, expected: float) -> None:
    """After 20,000 impressions, looked at after every one."""
    assert by(opening(p0, p0, 50_000, 20_000), 20_000) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("p0", [0.005, 0.1])
def test_a_better_object_is_acted_on_far_more_rarely(p0: float) -> None:
    assert by(opening(p0, p0 * 1.1, 50_000, 20_000), 20_000) <= 0.015
    assert by(opening(p0, p0 * 1.25, 50_000, 20_000), 20_000) <= 0.005


@pytest.mark.parametrize("p0", [0.02, 0.1])
@pytest.mark.parametrize("ratio, median, ninth", [(0.9, 0.80, 1.95), (0.75, 0.80, 1.80), (0.5, 0.95, 1.85)])
def test_a_worse_object_is_found_about_as_soon_as_by_the_one_look_that_knew_its_rate(p0: float, ratio: float, median: float, ninth: float) -> None:
    """Against the sample that a single look with 90 % power would be planned with, had one known beforehand how bad it is."""
    true = p0 * ratio
    planned = ((1.6449 * math.sqrt(p0 * (1 - p0)) + 1.2816 * math.sqrt(true * (1 - true))) / (p0 - true)) ** 2
    course = opening(p0, true, 50_000, 200_000)
    half, most = quantile(course, 0.5), quantile(course, 0.9)
    assert half is not None and most is not None
    assert (half <= median * planned, most <= ninth * planned) == (True, True), (half / planned, most / planned)


@pytest.mark.slow
@pytest.mark.parametrize("p0", RATES)
def test_over_two_hundred_thousand_impressions_the_exact_probabilities_are_those_published(p0: float) -> None:
    cases = {k: v for k, v in reference("exact_dp.json")["cases"].items() if k.startswith(f"p0={p0}|")}
    assert cases
    for name, expected in cases.items():
        settings = dict(part.split("=") for part in name.split("|") if "=" in part)
        every = int(name.rpartition("every")[2])
        course = opening(p0, p0 * float(settings["ratio"]), round(float(settings["alpha"]) * 1_000_000), 200_000, every)
        figures = {"p_fire_by_20000": by(course, 20_000), "p_fire_by_200000": by(course, 200_000)}
        assert figures == pytest.approx({k: expected[k] for k in figures}, abs=1e-6), name
        assert (quantile(course, 0.5), quantile(course, 0.9)) == (expected["median"], expected["p90"]), name


@pytest.mark.slow
@pytest.mark.parametrize("p0", RATES)
def test_at_the_threshold_the_promise_is_kept_and_nearly_used_up(p0: float) -> None:
    assert 0.0468 <= by(opening(p0, p0, 50_000, 200_000), 200_000) <= 0.0499


# -- the property behind the promise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, grid", [("low", LOW), ("high", HIGH)])
@pytest.mark.parametrize("p0", [0.001, 0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("n", [1, 7, 60, 700])
def test_the_expected_evidence_at_the_threshold_is_one(side: str, grid: tuple[float, ...], p0: float, n: int) -> None:
    k = np.arange(n + 1, dtype=np.float64)
    log_e = proportion_nats(np.full(n + 1, float(n)), k, np.full(n + 1, p0), side, grid)
    assert math.fsum(np.exp(binom.logpmf(k, n, p0) + log_e)) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("side, grid", [("low", LOW), ("high", HIGH)])
@pytest.mark.parametrize("m", [0.1, 3.0, 40.0])
def test_the_expected_evidence_of_a_rate_at_its_target_is_one(side: str, grid: tuple[float, ...], m: float) -> None:
    events = np.arange(600, dtype=np.float64)
    log_e = rate_nats(events, np.full(600, m), np.ones(600), side, grid)
    assert math.fsum(np.exp(poisson.logpmf(events, m) + log_e)) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("side, grid", [("low", LOW), ("high", HIGH)])
def test_evidence_moves_one_way_with_the_threshold(side: str, grid: tuple[float, ...]) -> None:
    """So a threshold may be edited without starting anew."""
    p0 = np.linspace(0.001, 0.99, 500)
    steps = np.diff(proportion_nats(np.full(500, 4000.0), np.full(500, 40.0), p0, side, grid))
    assert (steps >= -1e-9).all() if side == "low" else (steps <= 1e-9).all()


@pytest.mark.parametrize(
    "compute",
    [
        lambda: proportion_log_e(np.array([5.0]), np.array([6.0]), np.array([0.1]), "low", LOW),
        lambda: proportion_log_e(np.array([5.0]), np.array([1.0]), np.array([1.0]), "low", LOW),
        lambda: rate_log_e(np.array([5.0]), np.array([-1.0]), np.array([1.0]), "low", LOW),
        lambda: rate_log_e(np.array([5.0]), np.array([1.0]), np.array([0.5]), "low", LOW),
        lambda: threshold_micro_nats(0),
    ],
)
def test_what_is_no_proportion_and_no_rate_is_refused(compute) -> None:
    with pytest.raises(ValueError, match="needs|must lie"):
        compute()


# -- costs ----------------------------------------------------------------------------------------------------------------


def spend_needed(events: int, alpha_ppm: int) -> float:
    """In targets: how much must have been spent until so few events open the guard."""
    needed = threshold_micro_nats(alpha_ppm)

    def opens(m: float) -> bool:
        return bool(rate_log_e(np.array([float(events)]), np.array([m]), np.ones(1), "low", LOW)[0] >= needed)

    return crossing(opens, float(events), 3000.0)


@pytest.mark.parametrize("alpha_ppm, expected", [(100_000, 4.28), (50_000, 5.26), (10_000, 7.41)])
def test_without_a_sale_the_guard_opens_after_about_five_targets(alpha_ppm: int, expected: float) -> None:
    assert spend_needed(0, alpha_ppm) == pytest.approx(expected, abs=0.005)


def test_the_spend_it_takes_is_that_of_the_published_table() -> None:
    table = reference("mstar_table.json")
    ours = {alpha: {events: spend_needed(int(events), round(float(alpha) * 1_000_000)) for events in row} for alpha, row in table.items()}
    for alpha, row in table.items():
        assert ours[alpha] == pytest.approx(row, abs=0.0051), alpha


def days_to_find(true_over_target: float, alpha_ppm: int, share: float) -> float:
    """Spend in targets by which a share of objects with this true cost is found, by stepping a tenth of a target at a time."""
    needed, step = threshold_micro_nats(alpha_ppm), 0.1
    law = poisson.pmf(np.arange(12), step / true_over_target)
    alive, opened = np.ones(1), 0.0
    for i in range(1, 2000):
        alive = np.convolve(alive, law)[:200]
        k = np.arange(len(alive), dtype=np.float64)
        opens = rate_log_e(k, np.full(len(k), i * step), np.ones(len(k)), "low", LOW) >= needed
        opened += float(alive[opens].sum())
        alive[opens] = 0.0
        if opened >= share:
            return i * step
    raise AssertionError(f"only {opened:.0%} were ever found")


def test_a_cost_of_twice_the_target_is_found_within_a_known_spend() -> None:
    assert days_to_find(2.0, 50_000, 0.5) <= 25
    assert days_to_find(2.0, 50_000, 0.9) <= 48


def test_variation_from_day_to_day_weighs_the_more_the_more_a_day_holds() -> None:
    assert dispersion([], 0.2) == dispersion([0.0], 0.2) == 1.0
    assert dispersion([5.0] * 8, 0.2) == pytest.approx(1.2)
    assert dispersion([40.0], 0.2) == pytest.approx(2.6)
    assert dispersion([5.0] * 8, 0.0) == 1.0


def test_a_crossing_is_found_to_the_last_bit_or_said_not_to_be_there() -> None:
    assert crossing(lambda x: x * x >= 2, 0.0, 4.0) == pytest.approx(math.sqrt(2), abs=1e-15)
    assert crossing(lambda x: x < 0.3, 1.0, 0.0) == pytest.approx(0.3, abs=1e-15)
    assert crossing(lambda x: False, 0.0, 4.0) == 4.0
