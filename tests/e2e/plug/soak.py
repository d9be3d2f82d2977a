"""Many seeded runs, one after the other, and what came of them.

    python -m tests.e2e.plug.soak --seeds 0:1000      ends with 1 where anything was lost, doubled or different, or where a point was hit too rarely
    python -m tests.e2e.plug.soak --seeds 17          one run again; what it left is kept

A set of runs in which a named point was hit less than 20 times a 1,000 runs says nothing about that point: it is void, not green. So what was hit too rarely
gets some runs more that are killed there first.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from services.adapters.faultpoint import EMBEDDED
from tests.e2e.plug.story import After, AtPoint, Kill, Run, Start, kills_of
from tests.e2e.plug.verdict import faults_of, left_by, tally
from tests.e2e.plug.zygote import Zygote
from tests.shell.sandboxed import Sandbox, sandbox

LEAST = 20  # hits of each point in RUNS runs
RUNS = 1000
# What befalls the process before: some points only one comes to that goes on from what another left.
BEFORE: tuple[list[Kill], ...] = ([], [AtPoint("actions.intended")], [After(1.5)])
BUSY = (
    *("burst", "report", "rest", "rest", "undo", "approve", "reject", "burst", "cancel", "rest", "undo"),
    *("switch_on", "rest", "cancel", "switch_off", "report", "rest", "undo"),
)
HANDS = ("report", "by_hand", "by_hand", "rest", "by_hand", "report", "by_hand", "rest", "by_hand", "by_hand", "report", "by_hand", "by_hand")
ACTS = {"people": BUSY, "ingest.changed": HANDS}  # what such points take: a story draws them too, but seldom often enough
MEMORY = Path("/dev/shm")  # kill -9 takes nothing from a file that was written, flushed or not


@dataclass
class Ran:
    """What one run came to."""

    seed: int
    faults: list[str]
    hits: list[str] = field(default_factory=list)
    killed: int = 0
    starts: int = 0
    ready: list[float] = field(default_factory=list)  # seconds from a kill until it served again
    first: list[float] = field(default_factory=list)  # and until it said its first decision
    events: int = 0
    decisions: int = 0
    writes: int = 0
    seconds: float = 0.0


@dataclass
class Yard:
    """Where runs are made: a zygote, two platforms, and a folder."""

    folder: Path
    zygote: Zygote
    platforms: tuple[Sandbox, Sandbox]  # one with idempotency keys and versions, one without
    http: httpx2.Client
    made: int = 0

    def run(self, seed: int, kills: list[Kill] | None = None, begin: Start | None = None, acts: Sequence[str] = (), keep: bool = False) -> Ran:
        """One whole run and its verdict; kills and acts are the seed's unless they are given. Its folder goes where nothing is wrong with it."""
        self.made += 1
        rng, begun = random.Random(seed), time.monotonic()
        drawn = kills_of(seed, rng)
        folder, platform = self.folder / f"run-{seed}", self.platforms[seed % 2]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mine = f"r{seed}-{self.made}"
        run = Run(seed, folder, begin or self.zygote.start, platform, self.http, drawn if kills is None else kills, rng, mine, acts)
        told, ran = run.told, Ran(seed, [])
        try:
            run.play()
            left = left_by(told, run.data, run.log, platform.client.get("/journal", params={"under": run.path() + "/"}).json())
            ran.faults = faults_of(left)
            ran.events, ran.decisions, ran.writes = len(told.rows), len(left.decisions), len(left.sent)
            said = [s.stamp / 1e6 for s in left.decisions]
            ends = [*told.deaths[1:], float("inf")]
            first = [next((at for at in said if at > death), float("inf")) for death in told.deaths]
            ran.first = [at - death for death, at, end in zip(told.deaths, first, ends, strict=False) if at < end]
        except Exception as error:
            ran.faults.append(f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-2:])}")
        finally:
            run.close()
            platform.client.delete("/faults")
        ran.hits, ran.killed, ran.starts, ran.ready = told.hits, len(told.deaths), told.starts, told.ready
        ran.seconds = time.monotonic() - begun
        if not ran.faults and not keep:
            shutil.rmtree(folder)
        return ran


@contextmanager
def yard(folder: Path) -> Iterator[Yard]:
    zygote = Zygote()
    try:
        with ExitStack() as stack:
            rooms = [folder / name for name in ("able", "plain")]
            for room in rooms:
                room.mkdir(exist_ok=True)
            able, plain = stack.enter_context(sandbox(rooms[0])), stack.enter_context(sandbox(rooms[1], "--plain"))
            http = stack.enter_context(httpx2.Client(timeout=20, trust_env=False))
            yield Yard(folder, zygote, (able, plain), http)
    finally:
        zygote.close()


def void(hits: Counter[str], runs: int) -> dict[str, int]:
    """The points that so many runs hit too rarely."""
    return {name: hits[name] for name in sorted(EMBEDDED) if hits[name] < LEAST * runs // RUNS}


def more(place: Yard, runs: list[Ran], seed: int) -> Iterator[Ran]:
    """Runs from this seed on for the points that were hit too rarely, as long as that leads anywhere."""
    hits, of = Counter(h for r in runs for h in r.hits), len(runs)
    for name in void(hits, of):
        for attempt in range(2 * LEAST * of // RUNS + 24):  # some points only a rare turn of a story comes to
            if hits[name] >= LEAST * of // RUNS:
                break
            ran = place.run(seed, [*BEFORE[attempt % len(BEFORE)], AtPoint(name)], acts=ACTS.get(name) or ACTS.get(name.split(".")[0], ()))
            hits.update(ran.hits)
            seed += 1
            yield ran


def share(values: list[float], of: float) -> str:
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * of))]:.2f} s" if ordered else "-"


def told(runs: list[Ran]) -> str:
    """The figures of a set of runs."""
    faults = [f for r in runs for f in r.faults]
    hits = Counter(h for r in runs for h in r.hits)
    ready, first = [s for r in runs for s in r.ready], [s for r in runs for s in r.first]
    lines = [
        f"{len(runs)} runs, {sum(r.killed for r in runs)} kills ({sum(hits.values())} at {len(hits)} of {len(EMBEDDED)} named points), "
        f"{sum(r.starts for r in runs)} starts, {sum(r.seconds for r in runs):.0f} s",
        f"{sum(r.events for r in runs)} events, {sum(r.decisions for r in runs)} decisions, {sum(r.writes for r in runs)} writes at platforms",
        tally(faults),
        f"from a kill until it serves again: p50 {share(ready, 0.5)}, p95 {share(ready, 0.95)}; until its first decision: p50 {share(first, 0.5)}, "
        f"p95 {share(first, 0.95)}",
    ]
    return "\n".join(lines)


def at_once(seeds: Iterable[int], jobs: int, folder: Path) -> Iterator[Ran]:
    """Each seed's run as it comes to its end."""
    if jobs == 1:
        with yard(folder) as place:
            yield from map(place.run, seeds)
        return
    parts = [list(seeds)[i::jobs] for i in range(jobs)]
    with ProcessPoolExecutor(jobs) as pool:
        pending = [pool.submit(_part, part[i : i + 10], str(folder / str(n))) for n, part in enumerate(parts) for i in range(0, len(part), 10)]
        for future in pending:
            yield from future.result()


def _part(seeds: list[int], name: str) -> list[Ran]:
    folder = Path(f"{name}-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    with yard(folder) as place:
        return [place.run(seed) for seed in seeds]


def tell(ran: Ran, how: str) -> None:
    for fault in ran.faults:
        print(f"seed {ran.seed}: {fault}\n    again: python -m tests.e2e.plug.soak --seeds {ran.seed}{how}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.plug.soak", description="Kills a Trimtab at named points and at random.")
    parser.add_argument("--seeds", default="0:100", help="first:end, or one seed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--points", action="store_true", help="list the hits of every point")
    asked = parser.parse_args()
    begin, _, end = asked.seeds.partition(":")
    seeds = range(int(begin), int(end) if end else int(begin) + 1)
    folder = Path(tempfile.mkdtemp(prefix="trimtab-plug-", dir=MEMORY if MEMORY.is_dir() else None))
    runs: list[Ran] = []
    extra: list[Ran] = []
    if len(seeds) == 1:
        with yard(folder) as place:
            runs = [place.run(seeds[0], keep=True)]
            print(f"killed at {', '.join(runs[0].hits) or 'nothing'}; {folder}")
    else:
        for ran in at_once(seeds, asked.jobs, folder):
            runs.append(ran)
            tell(ran, "")
            if len(runs) % 20 == 0:
                print(f"{len(runs)} of {len(seeds)} runs, {sum(r.killed for r in runs)} kills, {sum(map(len, (r.faults for r in runs)))} faults", flush=True)
        with yard(folder) as place:
            for ran in more(place, runs, seeds[-1] + 1):
                extra.append(ran)
                tell(ran, f", killed at {', '.join(ran.hits)} alone")
    wanted, runs = len(runs), runs + extra
    print(told(runs))
    hits = Counter(h for r in runs for h in r.hits)
    if asked.points:
        print("\n".join(f"{hits[name]:6} {name}" for name in sorted(EMBEDDED)))
    missed = void(hits, wanted)
    if missed:
        print(f"VOID: hit less than {LEAST * wanted // RUNS} times: {', '.join(f'{name} {count}' for name, count in missed.items())}")
    wrong = any(r.faults for r in runs)
    if wrong:
        print(f"what failed is kept in {folder}")
    elif len(seeds) > 1:
        shutil.rmtree(folder)
    return int(wrong or bool(missed))


if __name__ == "__main__":
    sys.exit(main())
