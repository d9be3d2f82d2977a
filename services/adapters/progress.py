"""Whether what a process does without being asked goes on: each loop beats when it has come round, whether it moved or knows why it does not.

Nothing new to do, a dependency that is away, a record that wants a person: a loop that knows so beats all the same, since no new process would mend it.
What does not beat any more has ended, or hangs past the bounds of all that it waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

STALLED = 600.0  # seconds


class Beat:
    """Called by the loop that it is of. `tasks` must not end while it is expected."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self.at = now, now()
        self.tasks: tuple[asyncio.Task[Any], ...] = ()

    def __call__(self) -> None:
        self.at = self._now()

    def of(self, *tasks: asyncio.Task[Any]) -> None:
        """These do the work from now on; without any it may stand, and has to be begun anew in time."""
        self.tasks = tasks
        self()

    def why(self, within: float) -> str:
        """What is wrong with its loop, "" for nothing."""
        if ended := [task.get_name() for task in self.tasks if task.done()]:
            return f"its task {', '.join(ended)} has ended"
        silent = self._now() - self.at
        return f"it has not come round for {silent:.0f} s" if silent > within else ""


class Progress:
    """The loops of a process, by name. One of them is stalled after `within` seconds, by the clock `now`, or when a task of it has ended."""

    def __init__(self, within: float = STALLED, now: Callable[[], float] = time.monotonic) -> None:
        self.within, self._now = within, now
        self._beats: dict[str, Beat] = {}

    def expect(self, loop: str) -> Beat:
        """From now on it has to beat, until it is forgotten."""
        beat = self._beats[loop] = Beat(self._now)
        return beat

    def forget(self, loop: str) -> None:
        self._beats.pop(loop, None)

    def stalled(self) -> str:
        """Which loops do not go on, and what is wrong with each; "" where all do."""
        return ", ".join(f"{loop}: {why}" for loop, beat in self._beats.items() if (why := beat.why(self.within)))
