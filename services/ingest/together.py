"""Deliveries that wait at the same time are read as one and become durable as one: what a delivery costs by itself is most of what a small one costs.

Each sender gets the answer that it would have got alone: where any of a group is unusual, each is read by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.ingest.core.source import Delivery
from services.ingest.core.usual import Read
from services.ingest.intake import Intake
from services.kernel.columns import Rows
from services.kernel.errors import Bug, TrimtabError

MOST = 200_000  # bytes read at once: what the processor has at hand, and done in a millisecond or two

Reading: TypeAlias = Callable[[Sequence[Delivery], str], Read | None]


@dataclass(slots=True)
class _Waiting:
    delivery: Delivery
    done: asyncio.Future[int | None]


class Together:
    """What `take` returns is done once a usual delivery is durable. A sender that gives up loses nobody else's events."""

    def __init__(self, intake: Intake, read: Reading, linger: float) -> None:
        self.intake, self.read, self.linger = intake, read, linger
        self._waiting: dict[tuple[str, str, str], list[_Waiting]] = {}  # by workspace, source and route
        self._turn: asyncio.Task[None] | None = None
        self._accepting: set[asyncio.Task[None]] = set()

    def take(self, delivery: Delivery, route: str) -> asyncio.Future[int | None]:
        """How many events were accepted, or None, and nothing was done, where it must be read with care. Fails as `Intake.accept_rows` does."""
        waiting = _Waiting(delivery, asyncio.get_running_loop().create_future())
        self._waiting.setdefault((delivery.workspace, delivery.source, route), []).append(waiting)
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._read_what_waits(), name="ingest-together")
        return waiting.done

    async def _read_what_waits(self) -> None:
        await asyncio.sleep(self.linger)
        while self._waiting:
            (workspace, source, route), group = next(iter(self._waiting.items()))
            size, n = 0, 0
            while n < len(group) and (not n or size + len(group[n].delivery.body) <= MOST):
                size, n = size + len(group[n].delivery.body), n + 1
            taken, rest = group[:n], group[n:]
            if rest:
                self._waiting[workspace, source, route] = rest
            else:
                del self._waiting[workspace, source, route]
            self._read(taken, route)
            await asyncio.sleep(0)

    def _read(self, group: list[_Waiting], route: str) -> None:
        try:
            found = self.read([w.delivery for w in group], route)
        except Exception as error:  # whatever it was, every sender must be told that nothing was acknowledged
            self._fail(group, error)
            return
        if found is not None:
            task = asyncio.create_task(self._accept(group, route, *found), name="ingest-accept")
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        elif len(group) == 1:
            self._tell(group, (None,))
        else:
            for waiting in group:
                self._read([waiting], route)

    async def _accept(self, group: list[_Waiting], route: str, rows: Rows, of: Sequence[int]) -> None:
        try:
            receipt = await self.intake.accept_rows(group[0].delivery, rows)
        except Exception as error:
            self._fail(group, error)
            return
        if receipt is not None:
            self._tell(group, of)
        elif len(group) == 1:
            self._tell(group, (None,))
        else:
            for waiting in group:
                self._read([waiting], route)

    @staticmethod
    def _tell(group: list[_Waiting], answers: Sequence[int | None]) -> None:
        for waiting, answer in zip(group, answers, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(answer)

    @staticmethod
    def _fail(group: list[_Waiting], error: Exception) -> None:
        told = error if isinstance(error, TrimtabError) else Bug(f"deliveries could not be read: {type(error).__name__}: {error}")
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_exception(told)
