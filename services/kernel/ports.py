"""The seams: what the services ask of the world, two to four methods each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from services.kernel.record import Stamped

T = TypeVar("T")


class Clock(Protocol):
    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...


class Log(Protocol[T]):
    """An ordered, durable sequence of records per partition; the key is the workspace, and the key says the partition."""

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        """Returns (partition, offset) of each (key, record) once all are durable. `partition` is for records of no workspace: ticks, skips.

        Raises Unavailable, and then any of them may be there, or come to be there: whoever appends them again may find them twice. RejectedInput
        where one is larger than the log takes: then none is there.
        """
        ...

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        """Up to `limit` records in order, from `offset` or, where the log has lost its beginning, from the first that it still has; empty at the end.

        Raises Unreadable where all that is wanted is lost.
        """
        ...

    def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        """Records from `offset` as they come; a page may be empty: nothing new is there, or the log is away and is waited for."""
        ...

    async def close(self) -> None: ...


class Group(Protocol):
    """Several processes that share a log's partitions out among them."""

    async def join(self, given: Callable[[frozenset[int]], None]) -> None:
        """From now on `given` is told which partitions are ours, whenever that is decided anew. It must not wait."""
        ...

    async def commit(self, done: Mapping[int, int]) -> bool:
        """The group knows that every record before these offsets is done with; False where it does not."""
        ...

    async def leave(self) -> None: ...
