"""How long to wait before work that failed is begun again."""

from __future__ import annotations

import asyncio


class Patience:
    """Twice as long each time, from `first` to `longest` seconds; what has worked for longer than that begins with `first` again."""

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self._next, self._began = first, 0.0

    def begin(self) -> None:
        self._began = asyncio.get_running_loop().time()

    def pause(self) -> float:
        """Seconds; to be asked once after each failure."""
        if asyncio.get_running_loop().time() - self._began > self.longest:
            self._next = self.first
        pause, self._next = self._next, min(2 * self._next, self.longest)
        return pause
