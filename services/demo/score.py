"""What a way of pausing was worth, judged by what the archive says happened in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from services.demo.sample import Arm, Experiment

PLAIN_SAMPLE = 1000  # impressions after which the plain rule believes the rate
WEAK, VERY_WEAK = 0.8, 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """Counts; an arm is weak below 0.8 times its test's rate."""

    tests: int
    winners_paused: int
    weak: int  # arms below 0.8 x their test's rate
    weak_found: int
    very_weak: int  # below 0.5 x
    very_weak_found: int
    paused: int
    weak_impressions: int  # of the weak arms, had nobody paused them
    weak_impressions_saved: int
    impressions_saved: int  # views that paused arms below their test's rate would still have had
    clicks_lost: int  # clicks that paused arms at or above the rate would still have had
    undecided: int  # tests in which no arm was paused

    def plain(self) -> dict[str, int]:
        return asdict(self)


def score(tests: list[Experiment], drawn: Mapping[str, list[tuple[int, int]]], paused_after: Mapping[str, int]) -> Score:
    """`paused_after` says for each paused arm how many rounds it ran; a round is what `drawn` says of it."""
    winners = weak = weak_found = very = very_found = shown = spared = saved = lost = undecided = 0
    for test in tests:
        pooled = test.pooled
        undecided += not any(a.name in paused_after for a in test.arms)
        winners += test.winner.name in paused_after
        for arm in test.arms:
            paused = arm.name in paused_after
            remaining = drawn[arm.name][paused_after[arm.name] :] if paused else []
            views = sum(v for v, _ in remaining)
            if arm.ctr < WEAK * pooled:
                weak, weak_found, shown, spared = weak + 1, weak_found + paused, shown + arm.impressions, spared + views
            very, very_found = very + (arm.ctr < VERY_WEAK * pooled), very_found + (paused and arm.ctr < VERY_WEAK * pooled)
            if arm.ctr < pooled:
                saved += views
            else:
                lost += sum(clicks for _, clicks in remaining)
    return Score(len(tests), winners, weak, weak_found, very, very_found, len(paused_after), shown, spared, saved, lost, undecided)


def plain_rule(tests: list[Experiment], drawn: Mapping[str, list[tuple[int, int]]]) -> dict[str, int]:
    """When "at least 1,000 impressions and CTR below target" would have paused each arm: rounds run."""
    return {arm.name: after for test in tests for arm in test.arms if (after := _plain(test, arm, drawn[arm.name])) is not None}


def _plain(test: Experiment, arm: Arm, rounds: list[tuple[int, int]]) -> int | None:
    shown = hit = 0
    for i, (views, clicks) in enumerate(rounds, 1):
        shown, hit = shown + views, hit + clicks
        if shown >= PLAIN_SAMPLE and hit * 1_000_000 < test.target * shown:
            return i
    return None
