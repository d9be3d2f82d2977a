"""A process's share of the engine: a worker for each partition that its group gives it.

    given --> restoring --(state is whole)--> following --(given to another)--> stopped, a checkpoint is left
                  |                               |
                  +--------- failed: alarmed, and tried again after a while ----> restoring

A worker never runs on an empty state because it could not be restored. Two that have one partition for a while, because one of them was believed dead, say
the same, with the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.adapters.progress import Beat, Progress
from services.kernel.errors import Unavailable
from services.kernel.ports import Group
from services.rules_engine.worker import Worker

log = structlog.get_logger("rules_share")

COMMIT = 5.0  # seconds between two tellings of how far we are
AGAIN = 30.0  # seconds until a partition that stopped is restored once more
FOREVER = 1 << 62
OFFSETS = "engine: offsets"


class Share:
    """Workers come and go with the partitions; `make` makes one of a number, which says by its beat that it goes on."""

    def __init__(
        self,
        group: Group,
        make: Callable[[int, Beat], Worker],
        registry: CollectorRegistry,
        commit: float = COMMIT,
        again: float = AGAIN,
        progress: Progress | None = None,
    ) -> None:
        self.group, self.make, self.commit, self.again, self.progress = group, make, commit, again, progress or Progress()
        self.ours: frozenset[int] = frozenset()
        self._is_stopping = False
        self.workers: dict[int, Worker] = {}  # restored or being restored
        self.failed: dict[int, str] = {}  # partition -> why it is not followed
        self._keeping: dict[int, asyncio.Task[None]] = {}
        self._telling: asyncio.Task[None] | None = None
        self._told: dict[int, int] = {}
        owned = Gauge("trimtab_engine_partitions", "Partitions that this process owns", registry=registry)
        owned.set_function(lambda: len(self.ours))
        restored = Gauge("trimtab_engine_partitions_restored", "Of these, those whose state is whole and that are followed", registry=registry)
        restored.set_function(lambda: sum(w.restored and not w.stopped for w in self.workers.values()))
        self.given = Counter("trimtab_engine_partitions_given_total", "Times that partitions were shared out anew", registry=registry)

    async def start(self) -> None:
        beat = self.progress.expect(OFFSETS)
        self._telling = asyncio.create_task(self._tell(beat), name="rules-offsets")
        beat.of(self._telling)
        await self.group.join(self._given)

    async def stop(self) -> None:
        """Every worker has left its checkpoint, the group knows how far we are, and the others take over."""
        self._is_stopping = True
        for loop in (OFFSETS, *map(_loop, self.ours)):
            self.progress.forget(loop)
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        done = self._done()
        self.ours = frozenset()
        keeping = list(self._keeping.values())
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        await self.group.commit(done)
        await self.group.leave()

    @property
    def restoring(self) -> str:
        """Which partitions of ours are being restored, and how far each is; "" where none is."""
        waiting = [n for n in sorted(self.ours) if not self.stopped(n) and (n not in self.workers or not self.workers[n].restored)]
        return ", ".join(f"partition {n}: {self._restoring(n)}" for n in waiting)

    def _restoring(self, number: int) -> str:
        worker = self.workers.get(number)
        return worker.restoring if worker is not None and worker.restoring else "restoring"

    def stopped(self, number: int) -> str:
        """Why a partition of ours stands; "" where it does not."""
        worker = self.workers.get(number)
        if worker is not None and worker.restored:  # it knows before we do that somebody passed over the record
            return worker.stopped
        return self.failed.get(number, "") or (worker.stopped if worker is not None else "")

    @property
    def unready(self) -> str:
        """Why not every partition of ours is followed; "" where each is."""
        waiting = [n for n in sorted(self.ours) if n not in self.workers or not self.workers[n].restored or self.workers[n].stopped]
        return ", ".join(f"partition {n}: {self.failed.get(n) or self._restoring(n)}" for n in waiting)

    def _given(self, ours: frozenset[int]) -> None:
        if self._is_stopping:  # we are a member until what we have is at rest
            return
        for number in ours - self.ours:
            self.progress.expect(_loop(number))
        self.ours = ours
        self.given.inc()
        for number in sorted(ours - self._keeping.keys()):
            self._keep(number)
        for number, task in self._keeping.items():
            if number not in ours:
                self.progress.forget(_loop(number))
                task.cancel()

    def _keep(self, number: int) -> None:
        self._keeping[number] = task = asyncio.create_task(self._run(number), name=f"share-{number}")
        task.add_done_callback(lambda _: self._let_go(number))

    def _let_go(self, number: int) -> None:
        del self._keeping[number]
        self.failed.pop(number, None)
        if number in self.ours:  # it was taken away and given back while its worker was ending
            self._keep(number)

    async def _run(self, number: int) -> None:
        """For as long as the partition is ours."""
        beat = self.progress.expect(_loop(number))
        while True:
            beat.of()
            worker = self.workers[number] = self.make(number, beat)
            try:
                await self._follow(number, worker)
            finally:
                await asyncio.shield(asyncio.create_task(self._end(number, worker)))

    async def _follow(self, number: int, worker: Worker) -> None:
        """Until it has stopped, and a while later: where it stopped at a record, somebody may pass over that one, and it goes on."""
        try:
            await worker.start()
            while True:
                if not worker.stopped:
                    self.failed.pop(number, None)
                with self._telling_of(number, worker):
                    await worker.caught_up(FOREVER)  # that is, until it stops
                await asyncio.sleep(self.again)
                if worker.stopped:
                    return
        except Exception as error:  # whatever it is, the other partitions go on
            self._failed(number, worker, str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}")
            if not isinstance(error, Unavailable):
                log.exception("partition failed", partition=number)
            await asyncio.sleep(self.again)

    @contextlib.contextmanager
    def _telling_of(self, number: int, worker: Worker) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            self._failed(number, worker, str(error))

    def _failed(self, number: int, worker: Worker, why: str) -> None:
        self.failed[number] = why
        worker.metrics.stopped.labels(str(number)).set(1)
        log.error("partition is not followed", partition=number, why=why, again=self.again)

    async def _end(self, number: int, worker: Worker) -> None:
        try:
            await worker.stop()
        except Exception:
            log.exception("worker ended badly", partition=number)
        if self.workers.get(number) is worker:
            del self.workers[number]
        if number not in self.ours:
            worker.metrics.forget(number)

    def _done(self) -> dict[int, int]:
        """The next record of each partition of ours whose decisions are not yet all acknowledged."""
        return {n: w.done for n, w in self.workers.items() if n in self.ours and w.restored and self._told.get(n) != w.done}

    async def _tell(self, beat: Beat) -> None:
        while True:
            beat()
            await asyncio.sleep(self.commit)
            done = self._done()
            if await self.group.commit(done):
                self._told |= done


def _loop(number: int) -> str:
    return f"engine: partition {number}"
