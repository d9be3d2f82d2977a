"""One seed, run and judged: what happened, the hash of it, and what is wrong."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from services.adapters import faultpoint
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from tests.simulation.oracle import violations
from tests.simulation.world import World

EXPECTED = ("executor_raised", "decision_quarantined", "partition stopped")  # errors that a schedule may bring about by itself


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    digest: str
    simulated: int  # microseconds of virtual time
    happened: Counter[str]
    wrong: tuple[str, ...]
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        again = f"repeat it with: python -m tests.simulation --seed {self.seed} --trace"
        return "\n".join([f"seed {self.seed}: {len(self.wrong)} wrong", *(f"    {w}" for w in self.wrong), f"    {again}"])


class Simulation:
    """Runs schedules one after another, each on a fresh copy of one migrated database in a folder of memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.template = folder, folder / "template.db"
        self.template.write_bytes(_migrated())

    def run(self, seed: int, keep_trace: bool = False) -> Result:
        gc.disable()
        try:
            return self._run(seed, keep_trace)
        finally:
            gc.collect(1)  # all that it made: memory does not grow from one schedule to the next
            gc.enable()

    def _run(self, seed: int, keep_trace: bool) -> Result:
        wrong: list[str] = []
        world = World(seed, self.template, self.folder, keep_trace)
        try:
            with _listening(wrong, world):
                try:
                    world.run()
                    gc.collect(0)  # an error that nobody asked for is heard of now
                    wrong += violations(world)
                except Exception as error:  # whatever it is, it is this seed's result
                    wrong += [*world.violations, f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error)[-4:])}"]
            lines = tuple(world.trace.lines or ())
            return Result(seed, world.trace.digest(), world.loop.at, world.faults.happened, tuple(wrong), lines)
        finally:
            world.close()


@cache
def _migrated() -> bytes:
    """A database at the newest schema, made once a process."""

    async def make(place: Path) -> None:
        database = Database(f"sqlite:///{place}")
        await migrate(database)
        await database.close()

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "trimtab.db"
        asyncio.run(make(place))
        return place.read_bytes()


@contextmanager
def _listening(wrong: list[str], world: World) -> Iterator[None]:
    """What the services log as an error, and no schedule brings about, is wrong; all they log is in a trace that is kept."""

    def hear(_: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        if world.trace.lines is not None:
            said = " ".join(f"{k}={v}" for k, v in event.items() if k not in ("event", "exc_info"))
            world.trace.lines.append(f"{world.loop.at / 1e6:14.6f}  {'':12} {method}: {event['event']} {said}")
        if method in ("error", "exception") and event["event"] not in EXPECTED:
            told = "".join(traceback.format_exc()) if event.get("exc_info") else ""
            wrong.append(f"a service logged: {event} {told[-1500:]}")
        raise structlog.DropEvent

    before = structlog.get_config()
    faultpoint._plan = world  # type: ignore[assignment]  # it hears of each named point that a process comes to
    least = 20 if world.trace.lines is not None else 40
    structlog.configure(processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(least))
    try:
        yield
    finally:
        faultpoint.disarm()
        structlog.configure(**before)


@contextmanager
def simulation() -> Iterator[Simulation]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="trimtab-simulation-", dir=memory if memory.is_dir() else None) as folder:
        yield Simulation(Path(folder))


def many(seeds: range, on: Any = None) -> list[Result]:
    """The results of these seeds, in order; `on` is told each as it comes."""
    results = []
    with simulation() as schedules:
        for seed in seeds:
            results.append(schedules.run(seed))
            if on is not None:
                on(results[-1])
    return results

