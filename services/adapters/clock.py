"""Clocks: the only places where time comes from."""

from __future__ import annotations

import mmap
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from services.kernel.errors import Misconfigured

ELAPSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the process is halted or the machine sleeps
SIZE = 8  # bytes of a shared clock's file: one instant


def instant(micros: int) -> str:
    """Microseconds since the epoch as RFC 3339, to the second."""
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat(timespec="seconds")


def elapsed() -> int:
    """Microseconds since some moment: only what lies between two of them means anything, and nobody can set it."""
    return time.clock_gettime_ns(ELAPSING) // 1000


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


class SharedClock:
    """Stands still until one of this machine's processes sets it, for all of them: an instant in a file that each has mapped."""

    def __init__(self, path: Path) -> None:
        """Raises Misconfigured where there is no such file."""
        try:
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), SIZE)
        except (OSError, ValueError) as error:
            raise Misconfigured(f"TRIMTAB_CLOCK={path} is no simulated clock ({error}): unset it, and time is the world's") from error
        self._instant = memoryview(self._map).cast("q")  # read and written whole, in one go

    @classmethod
    def made(cls, path: Path, start: int) -> SharedClock:
        """A new one, in place of what stands there."""
        path.write_bytes(struct.pack("=q", start))
        return cls(path)

    def now(self) -> int:
        return self._instant[0]

    def set(self, instant: int) -> None:
        """Raises ValueError on the way back."""
        if instant < self.now():
            raise ValueError(f"the clock stands at {self.now()} and cannot go back to {instant}")
        self._instant[0] = instant

    def advance(self, micros: int) -> None:
        self.set(self.now() + micros)
