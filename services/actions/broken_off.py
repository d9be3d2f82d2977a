"""What the database broke off, to be gone on with under its lease: less and less often while the database stays away."""

from __future__ import annotations

from dataclasses import dataclass

from services.actions.lanes import Lane
from services.actions.store import Lease
from services.adapters.db.clock import Agreed


@dataclass(frozen=True, slots=True)
class Broken:
    """An execution that the database broke off so many `times` before, and when it is gone on with."""

    lane: Lane
    lease: Lease
    times: int
    due: int  # by `elapsed`


class BrokenOff:
    """One for each decision. `again` is the first wait, in microseconds; it doubles each time that the same lease is broken off."""

    def __init__(self, wall: Agreed, again: int) -> None:
        self.wall, self.again = wall, again
        self._broken: dict[str, Broken] = {}  # by decision

    def __len__(self) -> int:
        return len(self._broken)

    def due(self, lane: Lane, most: int) -> list[Lease]:
        """Up to so many of the lane that are to be gone on with now, that which has waited longest first."""
        now = self.wall.elapsed()
        due = sorted((b for b in self._broken.values() if b.lane is lane and b.due <= now), key=lambda b: b.due)
        return [b.lease for b in due[:most]]

    def take(self, decision_id: str) -> Broken | None:
        """What was broken off of the decision, which from now on is nobody's but the caller's."""
        return self._broken.pop(decision_id, None)

    def put(self, lane: Lane, lease: Lease, before: Broken | None) -> None:
        """It was broken off now, `before` being what was taken of it. Of two leases on one decision the newer one stays."""
        newer = self._broken.get(lease.decision_id)
        if newer is None or newer.lease.token < lease.token:
            times = before.times + 1 if before and before.lease == lease else 0
            self._broken[lease.decision_id] = Broken(lane, lease, times, self.wall.elapsed() + (self.again << times))
