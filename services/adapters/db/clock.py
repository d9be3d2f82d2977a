"""The time that the processes of one database agree on: what is leased or put back until then goes by it, not by the clock of one machine."""

from __future__ import annotations

import time
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.adapters.db.database import NOW, Database
from services.kernel.ports import Clock

ASKED = text(f"SELECT {NOW}")
ELAPSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the process is halted or the machine sleeps


class Agreed(Protocol):
    async def now(self, connection: AsyncConnection) -> int:
        """Microseconds since the epoch, the same to whoever asks at this moment."""
        ...

    def elapsed(self) -> int:
        """Microseconds since some moment: only what lies between two of them means anything, and nobody can set it."""
        ...


class OfTheDatabase:
    """PostgreSQL's own clock, read when it is asked, not when the transaction began."""

    async def now(self, connection: AsyncConnection) -> int:
        return int(await connection.scalar(ASKED) or 0)

    def elapsed(self) -> int:
        return time.clock_gettime_ns(ELAPSING) // 1000


class Own:
    """That of whoever has the database alone; or one that is moved by hand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def now(self, connection: AsyncConnection) -> int:
        return self.clock.now()

    def elapsed(self) -> int:
        return self.clock.now()


def agreed(database: Database, own: Clock) -> Agreed:
    return Own(own) if database.is_sqlite else OfTheDatabase()
