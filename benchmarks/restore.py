"""How long a start takes that goes on from a checkpoint: of 500,000 entities, a hundred rules, a million events known by their ids.

    python -m benchmarks.restore            every part, and the whole start with a tail of the log to fold
    python -m benchmarks.restore profile    where the time of reading, rebuilding and the first boundary goes
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
from prometheus_client import CollectorRegistry

from benchmarks.account import MINUTE, START, deltas, rules
from benchmarks.engine import GUARDS
from benchmarks.figure import Figure
from services.adapters.clock import ManualClock
from services.adapters.codec.record import encode
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.memory import MemoryLog
from services.adapters.log.sqlite import SqliteLog
from services.kernel.decision import Decision
from services.kernel.record import Activation, Ready, Record, Tick
from services.rules_engine.checkpoint import Checkpoints, read
from services.rules_engine.core import state
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker

CREATIVES, EVENTS_, TAIL = 400_000, 1_000_000, 100_000
RULES, PER_RECORD = 100, 1_000
SPAN = 5 * MINUTE
NEVER = Often(10**9, 10**9)
GOAL = 20.0  # seconds


class House:
    """A log on the disk, decisions in memory, a folder of checkpoints."""

    def __init__(self, folder: Path, creatives: int) -> None:
        self.folder, self.clock = folder, ManualClock(START - MINUTE)
        self.log: SqliteLog[Record] = SqliteLog(folder / "events.db", EVENTS, self.clock)
        self.decisions: MemoryLog[Decision] = MemoryLog(DECISIONS, self.clock)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        events = EVENTS_ * creatives // CREATIVES
        self.body = list(deltas(events, PER_RECORD, creatives, each=True))
        self.tail = len(self.body) - max(1, TAIL * creatives // CREATIVES // PER_RECORD)
        self.number = 0

    def hold(self, records: list[tuple[int, bytes]]) -> None:
        w = self.log._writer
        w.execute("BEGIN IMMEDIATE")
        for stamp, data in records:
            w.execute("INSERT INTO records VALUES (0, ?, ?, ?, NULL)", (self.number, stamp, data))
            self.number += 1
        w.execute("COMMIT")
        self.log._next[0] = self.number
        self.clock.set(max(self.clock.now(), records[-1][0]))

    def late(self) -> list[tuple[int, bytes]]:
        """The tail as it comes between two checkpoints: within five minutes."""
        tail, end = self.body[self.tail :], self.body[-1][0]
        return [*((end - (len(tail) - i) * SPAN // len(tail), data) for i, (_, data) in enumerate(tail)), (end + MINUTE, encode(Tick()))]

    def worker(self) -> Worker:
        return Worker(self.log, self.decisions, self.clock, GUARDS, Metrics(CollectorRegistry()), checkpoints=self.checkpoints, often=NEVER)


def activations() -> list[tuple[int, bytes]]:
    made: list[Record] = []
    for p in rules(RULES, MINUTE):
        made += [Activation("acme", p.rule, p.version, "active", p.to_json()), Ready("acme", p.version)]
    return [(START - MINUTE, encode(r)) for r in made]


async def measured(folder: Path, creatives: int) -> dict[str, float]:
    house, found = House(folder, creatives), dict[str, float]()
    house.hold(activations())
    house.hold(house.body[: house.tail])
    worker = house.worker()
    await worker.start()
    found["entities"] = len(worker.partition.workspaces["acme"].facts.entities)
    began = time.perf_counter()
    state.dump(worker.partition)
    found["dump"] = time.perf_counter() - began
    began = time.perf_counter()
    await worker._save()
    found["save"] = time.perf_counter() - began
    await worker.stop()
    [path] = [k.path for k in house.checkpoints.every(0)]
    found["size"] = path.stat().st_size / 1e6
    del worker
    gc.collect()
    began = time.perf_counter()
    checkpoint = read(path)
    found["read"] = time.perf_counter() - began
    began = time.perf_counter()
    partition = state.load(checkpoint.plain, checkpoint.arrays, GUARDS)
    found["load"] = time.perf_counter() - began
    began = time.perf_counter()
    partition.workspaces["acme"].advance(partition.now + MINUTE)
    found["first boundary"] = time.perf_counter() - began
    del checkpoint, partition
    gc.collect()
    worker = house.worker()
    began = time.perf_counter()
    await worker.start()
    found["start"] = time.perf_counter() - began
    await worker.stop()
    house.hold(house.late())
    for extra in [k.path for k in house.checkpoints.every(0)][:-1]:
        extra.unlink()
    worker = house.worker()
    began = time.perf_counter()
    await worker.start()
    found["start with a tail"] = time.perf_counter() - began
    found["tail"] = len(house.body[house.tail :]) * PER_RECORD
    await worker.stop()
    await house.log.close()
    return found


def run(creatives: int = CREATIVES) -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="trimtab-restore-") as folder:
        return asyncio.run(measured(Path(folder), creatives))


def figures(quick: bool = False) -> Iterator[Figure]:
    creatives = CREATIVES // 20 if quick else CREATIVES
    found = run(creatives)
    of = f"entities={found['entities']:.0f} rules={RULES}"
    for name, unit in (("dump", "s"), ("save", "s"), ("size", "MB"), ("read", "s"), ("load", "s"), ("first boundary", "s")):
        told = {"dump": "state copied, the engine stands", "save": "checkpoint written, all of it", "size": "checkpoint"}.get(name, name)
        yield Figure("restore", f"{of} {told}", found[name], unit, at_most=True)
    yield Figure("restore", f"{of} start, nothing to fold", found["start"], "s", GOAL, at_most=True)
    yield Figure("restore", f"{of} start, {found['tail']:.0f} events to fold", found["start with a tail"], "s", GOAL, at_most=True)


def profile() -> None:
    profiler = cProfile.Profile()
    original: Any = state.load

    def load(*arguments: Any) -> Any:
        profiler.enable()
        try:
            return original(*arguments)
        finally:
            profiler.disable()

    with patch.object(state, "load", load):
        found = run()
    print({name: round(value, 3) for name, value in found.items()})
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    if sys.argv[1:] == ["profile"]:
        profile()
    else:
        for figure in figures():
            print(figure)
