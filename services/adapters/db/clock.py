"""The time that the processes of one database agree on: what is leased or put back until then goes by it, not by the clock of one machine."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.adapters.clock import elapsed
from services.adapters.db.database import NOW, Database
from services.kernel.ports import Clock

ASKED = text(f"SELECT {NOW}")


class Agreed(Protocol):
    async def now(self, connection: AsyncConnection) -> int:
        """Microseconds since the epoch, the same to whoever asks at this moment."""
        ...

    def elapsed(self) -> int:
        """Microseconds since some moment, as `services.adapters.clock.elapsed`."""
        ...


class OfTheDatabase:
    """PostgreSQL's own clock, read when it is asked, not when the transaction began."""

    async def now(self, connection: AsyncConnection) -> int:
        return int(await connection.scalar(ASKED) or 0)

    def elapsed(self) -> int:
        return elapsed()


class Own:
    """A clock that is moved by hand, for all that there is of time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def now(self, connection: AsyncConnection) -> int:
        return self.clock.now()

    def elapsed(self) -> int:
        return self.clock.now()


class OfTheMachine(Own):
    """That of whoever has the database alone. Where it is set, what has elapsed is still what it was."""

    def elapsed(self) -> int:
        return elapsed()


def agreed(database: Database, own: Clock) -> Agreed:
    return OfTheMachine(own) if database.is_sqlite else OfTheDatabase()
