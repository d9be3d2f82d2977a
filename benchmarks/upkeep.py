"""How long an append to the log takes while its segments are sealed, archived and pruned beside it, against one on a log left alone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.account import START, deltas
from benchmarks.figure import Figure
from services.adapters.clock import ManualClock
from services.adapters.log.codec import About, Codec
from services.adapters.log.keeper import DAY, Keeper, Policy
from services.adapters.log.sqlite import SqliteLog

BYTES: Codec[bytes] = Codec("events", lambda data: data, lambda data: data, lambda _: About("bytes"))
DAYS, RECORDS = 8, 4_000  # a day, of 100 events each
ALONE = 4.0  # seconds
EACH = 0.005  # between two appends


class House:
    def __init__(self, folder: Path, days: int) -> None:
        self.clock, self.days = ManualClock(START), days
        self.log = SqliteLog(folder / "events.db", BYTES, self.clock, archive=folder / "archive")
        self.records = [data for _, data in deltas(RECORDS * 100, 100, 1_255)]
        self._rested = time.perf_counter()
        self.keeper = Keeper(folder / "events.db", folder / "archive", Policy(live=DAY), paused=self._rest)

    def _rest(self) -> None:
        """As a running process rests: as long as it worked."""
        time.sleep(min(0.05, time.perf_counter() - self._rested))
        self._rested = time.perf_counter()

    async def fill(self) -> None:
        for _ in range(self.days):
            for at in range(0, RECORDS, 200):
                await self.log.append([("a", data) for data in self.records[at : at + 200]])
            self.clock.advance(DAY)

    async def appends(self, work: Callable[[], object]) -> tuple[list[float], float]:
        """(ms that each append took, sorted; seconds of the work)."""
        self._rested = began = time.perf_counter()
        beside, took = asyncio.create_task(asyncio.to_thread(work)), list[float]()
        while not beside.done():
            start = time.perf_counter()
            await self.log.append([("a", self.records[len(took) % RECORDS])])
            took.append(1000 * (time.perf_counter() - start))
            await asyncio.sleep(EACH)
        await beside
        return sorted(took), time.perf_counter() - began


async def measured(folder: Path, days: int) -> list[Figure]:
    house = House(folder, days)
    await house.fill()
    size = sum(map(len, house.records)) * days / 1e6
    alone, _ = await house.appends(lambda: time.sleep(ALONE))
    base, found = alone[len(alone) * 99 // 100], []
    for name, percentile in (("p50", 50), ("p99", 99)):
        found.append(Figure("upkeep", f"append alone {name}", alone[len(alone) * percentile // 100], "ms", at_most=True))
    now = house.clock.now()
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("sealed", lambda: list(house.keeper.seal(now))),
        ("archived", lambda: list(house.keeper.store())),
        ("pruned", lambda: list(house.keeper.prune(now, lambda: 10**12))),
    )
    for name, work in steps:
        took, seconds = await house.appends(work)
        p99 = took[len(took) * 99 // 100]
        found.append(Figure("upkeep", f"append while {size:.0f} MB are {name} p99", p99, "ms", None, p99 / base, "append alone p99", at_most=True))
        found.append(Figure("upkeep", f"{size:.0f} MB {name}", size / seconds, "MB/s"))
    packed = sum(f.stat().st_size for f in (folder / "archive").glob("*.segment")) / 1e6
    found.append(Figure("upkeep", "archived size of the log's", packed / size, "ratio", at_most=True))
    await house.log.close()
    return found


def figures(quick: bool = False) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="trimtab-upkeep-") as folder:
        yield from asyncio.run(measured(Path(folder), 3 if quick else DAYS))
