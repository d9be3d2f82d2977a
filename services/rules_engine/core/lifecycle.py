"""The life of a (rule, object).

      when            for elapsed            guards agree, admitted          terminal record or deadline
idle ------> pending ------------> on ------------------------------> waiting -------------------------+
 ^              | not true          |  ^  refusals change: refused                                      |
 +--------------+                   |  +---- held, expired, cancelled: the cause is not spent ----------+
 ^                                  |  +---- verified, rejected, failed, unknown: spent until `when` is not true, out of scope or not
 ^                                  |  +---- deadline: spent likewise, unless held, expired or cancelled comes late, which gives it back
 +------- clear (or when is false): cleared
"""

from __future__ import annotations

from dataclasses import dataclass

from services.rules_engine.core.truth import FALSE, TRUE

SPENDING = ("verified", "rejected", "failed", "unknown")
TERMINAL = (*SPENDING, "held", "expired", "cancelled")


@dataclass(slots=True)
class Life:
    since: int = -1  # pending since this boundary's instant
    on: bool = False
    spent: bool = False
    flight: str = ""  # the decision that is waited for
    outlived: bool = False  # the stretch of truth that it was about has ended: how it ends spends nothing
    emitted: tuple[str, ...] | None = None  # the last emitted refusals; () after firing, None when nothing was emitted
    missed: str = ""  # the decision whose deadline has spent the cause; a late word that it was not carried out gives it back
    wake: int = 0  # the next instant at which a guard may answer differently, 0 for none

    @property
    def idle(self) -> bool:
        return not self.on and self.since < 0 and not self.flight and not self.spent

    def launch(self, decision_id: str) -> None:
        self.flight, self.outlived = decision_id, False

    def land(self, spends: bool) -> None:
        self.flight, self.spent, self.missed = "", spends and not self.outlived, ""

    def expects(self, decision_id: str) -> bool:
        return decision_id in (self.flight, self.missed)

    def advance(self, eligible: bool, when: int, clear: int | None, hold: int, now: int) -> bool:
        """Moves on by one boundary; returns whether it turned off after having told somebody something."""
        self.wake = 0
        if when != TRUE:
            self.spent, self.outlived, self.missed = False, True, ""
        if not self.on:
            self._wait(eligible and when == TRUE, hold, now)
            return False
        if eligible and not (clear == TRUE if clear is not None else when == FALSE):
            return False
        told = self.emitted is not None and not self.flight
        self.on, self.since, self.emitted = False, -1, None
        return told

    def _wait(self, true: bool, hold: int, now: int) -> None:
        if not true:
            self.since = -1
            return
        if self.since < 0:
            self.since = now
        self.on = now - self.since >= hold

    def asks(self, when: int) -> bool:
        return self.on and when == TRUE and not self.spent and not self.flight

    def canonical(self) -> list[object]:
        return [self.since, self.on, self.spent, self.flight, bool(self.flight) and self.outlived, self.emitted, self.missed]
