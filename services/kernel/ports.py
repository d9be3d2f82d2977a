"""The seams: what the services ask of the world, two to four methods each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

from services.kernel.record import Stamped

T = TypeVar("T")


class Clock(Protocol):
    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...


class Log(Protocol[T]):
    """An ordered, durable sequence of records per partition; the key is the workspace."""

    async def append(self, records: Sequence[tuple[str, T]]) -> Sequence[tuple[int, int]]:
        """Returns (partition, offset) of each (key, record) once all are durable; raises Unavailable, and then none or all are there."""
        ...

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        """Up to `limit` records from `offset`, in order; empty at the end."""
        ...

    def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        """Records from `offset` as they come."""
        ...

    async def close(self) -> None: ...
