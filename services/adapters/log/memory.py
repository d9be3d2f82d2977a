"""The log in memory: for tests, trials and simulations; it forgets with the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from services.adapters.log.codec import Codec, partition_of
from services.kernel.errors import Unavailable
from services.kernel.ports import Clock
from services.kernel.record import Stamped

T = TypeVar("T")


class MemoryLog(Generic[T]):
    """Keeps bytes, as the others do, so that what comes out is what would come out of them."""

    def __init__(self, codec: Codec[T], clock: Clock, partitions: int = 1) -> None:
        self.codec, self.clock = codec, clock
        self.kept: list[list[tuple[int, bytes]]] = [[] for _ in range(partitions)]
        self._grown = asyncio.Condition()
        self._closed = False

    async def append(self, records: Sequence[tuple[str, T]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        if self._closed:
            raise Unavailable("the log is closed", reason="log_closed")
        encoded = [(partition_of(key, len(self.kept)) if partition is None else partition, self.codec.encode(record)) for key, record in records]
        stamp, places = self.clock.now(), []
        for number, data in encoded:
            places.append((number, len(self.kept[number])))
            self.kept[number].append((stamp, data))
        async with self._grown:
            self._grown.notify_all()
        return places

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[T]]:
        page = self.kept[partition][offset : offset + limit]
        read = self.codec.decode_all([data for _, data in page])
        return [Stamped(offset + i, stamp, record) for i, ((stamp, _), record) in enumerate(zip(page, read, strict=True))]

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[T]]]:
        while True:
            async with self._grown:
                await self._grown.wait_for(lambda at=offset: self._closed or len(self.kept[partition]) > at)  # type: ignore[misc]
            page = await self.read(partition, offset)
            if not page:
                return
            offset = page[-1].offset + 1
            yield page

    async def close(self) -> None:
        """What is kept can still be read; followers end once they have it all."""
        self._closed = True
        async with self._grown:
            self._grown.notify_all()
