"""Real tests of real creatives: the winner stays on, the weak go, and views are saved. A guard that never opens fails here too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.demo.sample import Experiment, archive, bundled, order
from services.demo.score import plain_rule, score
from tests.e2e.gate import run

DATA = Path(os.environ.get("TRIMTAB_TEST_DATA", Path(__file__).parents[3] / "shared/data")) / "upworthy/upworthy_exploratory_packages.csv"


def whole_archive() -> list[Experiment]:
    if not DATA.exists():
        pytest.skip(f"the archive is not at {DATA}: set TRIMTAB_TEST_DATA")
    return archive(DATA)


def check(tests: list[Experiment], seed: int) -> None:
    guarded, plain = run(tests, seed)
    assert guarded.winners_paused <= 0.01 * guarded.tests
    assert guarded.weak_found >= 0.27 * guarded.weak
    assert guarded.very_weak_found >= 0.65 * guarded.very_weak
    assert guarded.weak_impressions_saved >= 0.13 * guarded.weak_impressions
    assert plain.winners_paused >= 0.15 * plain.tests  # what everybody else does


def test_on_the_bundled_sample_winners_stay_on_and_most_very_weak_arms_go() -> None:
    guarded, plain = run(bundled(), 1)
    assert guarded.winners_paused == 0 < plain.winners_paused
    assert 2 * guarded.very_weak_found > guarded.very_weak > 0
    assert guarded.clicks_lost < plain.clicks_lost
    assert guarded.impressions_saved > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_archive_passes_the_gate(seed: int) -> None:
    check(whole_archive(), seed)


def test_the_order_that_is_drawn_adds_up_and_depends_on_the_seed_alone() -> None:
    arm = bundled()[0].arms[0]
    drawn = order(arm, 48, 7)
    assert (sum(v for v, _ in drawn), sum(c for _, c in drawn)) == (arm.impressions, arm.clicks)
    assert drawn == order(arm, 48, 7) != order(arm, 48, 8)


def test_the_bundled_sample_says_its_targets_and_holds_a_doubtful_test() -> None:
    tests = bundled()
    assert len(tests) == 36
    assert any(t.is_doubtful for t in tests)
    assert all(abs(t.target / 1e6 - t.pooled) <= 0.000_051 for t in tests)


def test_a_paused_winner_costs_clicks_and_a_paused_loser_saves_views() -> None:
    test = bundled()[0]
    drawn = {a.name: order(a, 10, 1) for a in test.arms}
    loser = min(test.arms, key=lambda a: a.ctr)
    good, bad = score([test], drawn, {loser.name: 4}), score([test], drawn, {test.winner.name: 4})
    assert (good.winners_paused, good.clicks_lost, good.undecided) == (0, 0, 0)
    assert good.impressions_saved == sum(v for v, _ in drawn[loser.name][4:]) > 0
    assert (bad.winners_paused, bad.impressions_saved) == (1, 0)
    assert bad.clicks_lost == sum(c for _, c in drawn[test.winner.name][4:]) > 0
    assert score([test], drawn, {}).undecided == 1
    assert all(1 <= after <= 10 for after in plain_rule([test], drawn).values())
