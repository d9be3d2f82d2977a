"""Which differences count as a change that somebody made."""

from __future__ import annotations

import pytest

from services.ingest.core.change import ChangeDetector, watched
from services.kernel.event import Event
from services.kernel.record import Change, Outcome

AD = "sandbox/acme/c1/g1/a1"


def seen(what: str, value: str | int, at: int) -> Event:
    return Event(f"e{at}", "sandbox", AD, "state", at, {}, {what: value})


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [("status", "active", "paused"), ("daily_budget", 80_000_000, 95_000_000), ("bid", 400_000, 450_000), ("targeting", "women 25-34", "women 25-44")],
)
def test_each_of_status_budget_bid_and_targeting_counts_unless_we_did_it(what: str, before: str | int, after: str | int) -> None:
    detector = ChangeDetector("acme")
    assert list(detector.see([seen(what, before, 1), seen(what, before, 2)])) == []
    assert list(detector.see([seen(what, after, 3)])) == [Change("acme", AD, what, str(before), str(after), 3)]
    detector.ours(Outcome("acme", "d1", "verified", AD, what, "", "rule", str(before)), 4)
    assert list(detector.see([seen(what, before, 5)])) == []
    assert watched([seen(what, after, 3)]) == {(AD, what)}


def test_what_people_may_change_as_they_like_counts_for_nothing() -> None:
    detector = ChangeDetector("acme")
    assert list(detector.see([seen("name", "Summer", 1), seen("name", "Winter", 2)])) == []
