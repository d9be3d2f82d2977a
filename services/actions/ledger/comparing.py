"""One comparison with the witness at a time; whoever needs one takes the answer, or the failure, of any that will do.

A database can only have been put back where sessions to it were cut, so what was done over a connection is vouched for by any comparison that began
when that connection was there already.

    connections   1        2   3                    A comparison that began at b vouches for connections 1 to 3, not for 4.
                  |        |   |        |4|         Who asks at a takes its answer; who asks at c, after connection 4,
    comparison             b------------------>     waits for its end and compares anew.
    asked                         a        c
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.kernel.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison that has ended, or none yet."""

    number: int = 0  # in the order in which they began
    connected: int = -1  # how often the database had been connected to when it began
    failed: Unavailable | None = None


class Comparing:
    """`compare` raises Unavailable where it cannot; `connected` says how often the database was connected to so far."""

    def __init__(self, compare: Callable[[], Awaitable[None]], connected: Callable[[], int]) -> None:
        self._compare, self._connected = compare, connected
        self._turn = asyncio.Lock()
        self._begun = 0
        self._last = self._good = Compared()  # the one that ended last, the last that succeeded

    async def anew(self) -> None:
        """A comparison has succeeded that began after this was called. Raises Unavailable where it failed."""
        asked = self._begun
        await self._one(lambda good: good.number > asked)

    async def covering(self) -> None:
        """A comparison has succeeded that vouches for every connection that there was when this was called; two at most are waited for."""
        newest = self._connected()
        if self._good.connected < newest:
            await self._one(lambda good: good.connected >= newest)

    async def _one(self, will_do: Callable[[Compared], bool]) -> None:
        asked = self._begun
        async with self._turn:
            if will_do(self._good):
                return
            if self._last.failed is None or self._last.number <= asked:  # one that began since and failed is ours as well
                await self._next()
            if self._last.failed is not None:
                raise Unavailable(str(self._last.failed), reason=self._last.failed.reason) from self._last.failed

    async def _next(self) -> None:
        self._begun += 1
        number, connected = self._begun, self._connected()
        try:
            await self._compare()
        except Unavailable as error:
            self._last = Compared(number, connected, error)
        else:
            self._last = self._good = Compared(number, connected)
