"""Kafka's topics and a checkpoint a day into the archive, by whoever has the partition, now and then, beside the engine and never in its way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import structlog

from services.adapters.log.archiver import ArchiveMetrics, Archiver, Turns
from services.adapters.progress import Progress
from services.kernel.errors import Unavailable
from services.kernel.ports import Clock
from services.rules_engine.checkpoint import DAY, Checkpoint, Checkpoints, Kept, Unusable, verify
from services.rules_engine.share import Share

EVERY = 60.0  # seconds
LOOP = "archive"
log = structlog.get_logger("archive")


class Archiving:
    """For the partitions that `share` has. A place that is away is told, counted, and tried again."""

    def __init__(
        self,
        share: Share,
        archivers: Sequence[Archiver],
        daily: Daily,
        clock: Clock,
        metrics: ArchiveMetrics,
        every: float = EVERY,
        progress: Progress | None = None,
    ) -> None:
        self.share, self.archivers, self.daily, self.clock, self.metrics, self.every = share, archivers, daily, clock, metrics, every
        self.progress = progress or Progress()
        self._beat: Turns = lambda: None
        self._had: frozenset[int] = frozenset()
        self._seen: dict[int, tuple[int, int]] = {}  # partition -> newest checkpoint and day at which the day's was last seen to
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._beat = beat = self.progress.expect(LOOP)
        self._task = asyncio.create_task(self._run(), name="archiving")
        beat.of(self._task)

    async def stop(self) -> None:
        """What is under way is left where it stands, and made anew by the next."""
        self.progress.forget(LOOP)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            self._beat()
            await self.once()
            self._beat()
            await asyncio.sleep(self.every)

    async def once(self) -> None:
        """What is due of our partitions is in the archive, or why not has been said."""
        ours = self.share.ours
        for number in self._had - ours:
            for archiver in self.archivers:
                archiver.forget(number)
        self._had = ours
        for number in sorted(ours):
            for archiver in self.archivers:
                try:
                    await archiver.once(number, self._beat)
                except Unavailable as error:
                    self._failed(error, topic=archiver.kafka.topic.name, partition=number)
                    if error.reason == "archive":  # away for all of them
                        return
                except Exception:  # the edge of the loop: Kafka goes on holding it, and that is said
                    self.metrics.failures.inc()
                    log.exception("not archived", topic=archiver.kafka.topic.name, partition=number)
            self._beat()
            await self._keep(number)
            self._beat()

    async def _keep(self, number: int) -> None:
        worker = self.share.workers.get(number)
        state = (worker.saved if worker is not None else 0, self.clock.now() // DAY)
        if self._seen.get(number) == state:
            return
        try:
            await asyncio.to_thread(self.daily.keep, number, self._beat)
        except (Unavailable, Unusable, OSError) as error:
            self._failed(error, checkpoint_of=number)
        except Exception:
            self.metrics.failures.inc()
            log.exception("not archived", checkpoint_of=number)
        else:
            self._seen[number] = state

    def _failed(self, error: Exception, **of: object) -> None:
        self.metrics.failures.inc()
        log.warning("not archived", why=str(error), **of)


class Daily:
    """The first checkpoint of each day is copied from where the engine keeps its own. Blocks."""

    def __init__(self, own: Checkpoints, archived: Checkpoints) -> None:
        self.own, self.archived = own, archived

    def keep(self, partition: int, beat: Turns = lambda: None) -> bool:
        """The newest one's day has its copy; True where it was made now. Raises Unavailable, Unusable, OSError."""
        newest = next((k for k in self.own.every(partition) if k.header is not None), None)
        if newest is None or newest.header is None:
            return False
        beat()
        day = newest.header.at // DAY
        if any(k.header is not None and k.header.at // DAY == day for k in self.archived.every(partition)):
            return False
        beat()
        with self.own.file(newest) as path:
            beat()
            verify(path)
            self.archived.keep(newest, path)
        log.info("checkpoint archived", partition=partition, offset=newest.offset)
        return True


class Backed(Checkpoints):
    """The engine's own checkpoints, and where none of them is of use those of the archive."""

    def __init__(self, own: Checkpoints, archived: Checkpoints) -> None:
        self.own, self.archived = own, archived
        self.write = own.write  # type: ignore[method-assign]

    def valid(self, partition: int, before: int | None = None) -> Iterator[Checkpoint | Kept]:
        yield from self.own.valid(partition, before)
        try:
            yield from self.archived.valid(partition, before)
        except Unavailable as error:
            log.warning("no archived checkpoint can be asked for", partition=partition, why=str(error))
