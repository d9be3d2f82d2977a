"""A record that the core cannot fold: which one it is, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.kernel.errors import Unreadable
from services.kernel.record import Record, Stamped
from services.rules_engine.core.partition import Partition


class Poisonous(Exception):
    """This record can be neither fed nor passed over, until somebody says so on the log."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset, self.why = offset, why


async def culprit(fed: Sequence[Stamped[Record]], error: Exception, before: Callable[[int], Awaitable[Partition]]) -> Exception:
    """Which of these records it is that the core raises on, found by feeding them one by one to the state `before` them.

    The error itself where it is none of them, or where that state cannot be made again.
    """
    why = f"{type(error).__name__}: {error}"
    if len(fed) == 1:
        return Poisonous(fed[0].offset, why)
    try:
        state = await before(fed[0].offset)
    except Unreadable:
        return error
    for stamped in fed:
        try:
            state.step([stamped])
        except Exception:
            return Poisonous(stamped.offset, why)
        await asyncio.sleep(0)
    return error
