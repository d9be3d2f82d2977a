"""What is asked of a log or a database that may be away gets done once it is back: a full disk must not stop a partition for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import structlog

from services.adapters.progress import Beat
from services.kernel.errors import Unavailable

SHORTEST, LONGEST = 0.2, 5.0  # seconds between two attempts, twice as long each time
log = structlog.get_logger("rules_engine")


async def patiently(work: Callable[[int], Awaitable[None]], partition: int, beat: Beat) -> None:
    """The work, given the number of the attempt from 0, is done. Raises Unavailable where our own log was closed meanwhile."""
    for attempt in count():
        try:
            await work(attempt)
            return
        except Unavailable as error:
            if error.reason == "log_closed":
                raise
            log.warning("engine waits", partition=partition, reason=error.reason, why=str(error))
            beat()
            await asyncio.sleep(min(SHORTEST * 2 ** min(attempt, 10), LONGEST))
