"""Somebody changed an entity: an attribute that matters differs from its last value, and no action of ours set it.

The first sight of an attribute is no change, and neither is a value older than the one known. An outcome of ours is remembered before its effect comes
back in a report, so it is no change either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from services.kernel.event import Event
from services.kernel.record import Change, Outcome

WATCHED = ("status", "daily_budget", "bid", "targeting")


@dataclass(frozen=True, slots=True)
class Known:
    value: str  # micro-units as digits where it is a number
    occurred_at: int


class ChangeDetector:
    """The last value of every watched attribute of one workspace, by (path, attribute). `news` are those that changed since it was last taken."""

    def __init__(self, workspace: str, known: Mapping[tuple[str, str], Known] | None = None) -> None:
        self.workspace = workspace
        self.known: dict[tuple[str, str], Known] = dict(known or {})
        self.news: dict[tuple[str, str], Known] = {}

    def see(self, events: Iterable[Event]) -> Iterator[Change]:
        """A Change for each watched attribute that differs from what was known before it."""
        for event in events:
            for what in WATCHED:
                if what in event.attributes:
                    before = self._learn(event.path, what, str(event.attributes[what]), event.occurred_at)
                    if before is not None:
                        yield Change(self.workspace, event.path, what, before, str(event.attributes[what]), event.occurred_at)

    def ours(self, outcome: Outcome, at: int) -> None:
        """A verified outcome of ours set this attribute at `at`: what platforms report of it later is no news."""
        if outcome.status == "verified" and outcome.path and outcome.action in WATCHED:
            self._learn(outcome.path, outcome.action, outcome.value, at)

    def _learn(self, path: str, what: str, value: str, occurred_at: int) -> str | None:
        """The value before, if it was known, older and different."""
        key = (path, what)
        known = self.known.get(key)
        if known is not None and occurred_at < known.occurred_at:
            return None
        self.known[key] = self.news[key] = Known(value, occurred_at)
        return None if known is None or known.value == value else known.value

    def take_news(self) -> dict[tuple[str, str], Known]:
        news, self.news = self.news, {}
        return news


def watched(events: Iterable[Event]) -> set[tuple[str, str]]:
    """The (path, attribute) pairs that a detector has to know before it sees these events."""
    return {(e.path, what) for e in events for what in WATCHED if what in e.attributes}
