"""The log's upkeep as a running process does it: now and then, beside the loop, and never faster than half of the time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.adapters.log.keeper import DAY, HOUR, Keeper, Policy, Step
from services.adapters.settings import Settings
from services.kernel.errors import Unavailable
from services.kernel.ports import Clock
from services.rules_engine.bucket import checkpoints_of

FIRST, EVERY = 60.0, 600.0  # seconds
LONGEST = 0.05  # seconds of rest after as much work
log = structlog.get_logger("log")


def policy_of(settings: Settings) -> Policy:
    return Policy(round(settings.log_segment_mb * (1 << 20)), round(settings.log_segment_hours * HOUR), round(settings.log_live_days * DAY))


class Stopping(Exception):
    """The process ends: what is under way is left where it stands, and begun anew by the next."""


class LogUpkeep:
    """Seals, archives and prunes the events log of a data folder by its settings; what goes wrong is said and counted, and tried again later."""

    def __init__(self, settings: Settings, clock: Clock, registry: CollectorRegistry) -> None:
        self.clock, self.checkpoints = clock, checkpoints_of(settings)
        self.keeper = Keeper(settings.data / "events.db", settings.archive_folder, policy_of(settings), paused=self._rest)
        self.steps = Counter("trimtab_log_segments_total", "Segments of the log sealed, archived, pruned", ["step"], registry=registry)
        self.failures = Counter("trimtab_log_upkeep_failures_total", "Runs of the log's upkeep that ended early", registry=registry)
        self.archived = Gauge("trimtab_log_archived_offset", "The first record of the log that is not in the archive", registry=registry)
        self.live = Gauge("trimtab_log_live_offset", "The first record that the live log still holds", registry=registry)
        self._stop, self._rested = threading.Event(), time.perf_counter()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="log-upkeep")

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        await asyncio.sleep(FIRST)
        while True:
            await self.once()
            await asyncio.sleep(EVERY)

    async def once(self) -> None:
        """What is due is done."""
        work = asyncio.ensure_future(asyncio.to_thread(self._work))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work  # the thread ends at its next pause, and nothing is closed under it
            raise

    def _work(self) -> None:
        self._rested = time.perf_counter()
        try:
            for step in self.keeper.run(self.clock.now(), self.checkpoints.floor):
                self._tell(step)
            ends = self.keeper.ends()
            self.archived.set(ends.archived)
            self.live.set(ends.live)
        except Stopping:
            return
        except Unavailable as error:
            if error.reason != "archive_busy":
                self.failures.inc()
            log.warning("log not kept up", reason=error.reason, why=str(error))
        except Exception:  # the edge of the thread: the log goes on growing, and that is said
            self.failures.inc()
            log.exception("log not kept up")

    def _tell(self, step: Step) -> None:
        s = step.segment
        if step.stays:
            log.info("segment stays", first=s.first, last=s.last, why=step.stays)
            return
        self.steps.labels(step.what).inc()
        log.info(f"segment {step.what}", first=s.first, last=s.last, file=step.file)

    def _rest(self) -> None:
        if self._stop.is_set():
            raise Stopping
        time.sleep(min(LONGEST, max(0.0, time.perf_counter() - self._rested)))
        self._rested = time.perf_counter()
