"""Clocks: the only two places where time comes from."""

from __future__ import annotations

import time


class SystemClock:
    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000


class ManualClock:
    """Stands still until it is set: tests, demo and trials."""

    def __init__(self, start: int) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def set(self, instant: int) -> None:
        """Raises ValueError on the way back."""
        if instant < self._now:
            raise ValueError(f"the clock stands at {self._now} and cannot go back to {instant}")
        self._now = instant

    def advance(self, micros: int) -> None:
        self.set(self._now + micros)
