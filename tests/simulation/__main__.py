"""Schedules by their seeds: python -m tests.simulation --seeds 0:10000, or one with its story: --seed 123 --trace."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.schedule import Result, many, simulation

DAY = 86_400_000_000


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    arguments.add_argument("--seeds", default="0:1000", help="from:to, the latter exclusive")
    arguments.add_argument("--seed", type=int, help="only this one")
    arguments.add_argument("--trace", action="store_true", help="its whole story")
    arguments.add_argument("--twice", action="store_true", help="each seed twice; the hashes must be equal")
    asked = arguments.parse_args()
    if asked.seed is not None:
        return one(asked.seed, asked.trace)
    first, last = (int(n) for n in asked.seeds.split(":"))
    return run(range(first, last), asked.twice)


def one(seed: int, trace: bool) -> int:
    with simulation() as schedules:
        result = schedules.run(seed, keep_trace=trace)
    print(*result.trace, sep="\n")
    print(f"seed {seed}: trace {result.digest}, {result.simulated / 6e7:.1f} simulated minutes; {dict(sorted(result.happened.items()))}")
    if result.wrong:
        print(result)
    return 1 if result.wrong else 0


def run(seeds: range, twice: bool) -> int:
    begun, happened, failed = time.monotonic(), Counter[str](), []
    done, simulated = 0, 0

    def take(result: Result) -> None:
        nonlocal done, simulated
        done, simulated = done + 1, simulated + result.simulated
        happened.update(result.happened.keys())
        if result.wrong:
            failed.append(result)
            print(result, flush=True)
        if done % 250 == 0:
            print(line(done, simulated, time.monotonic() - begun), flush=True)

    results = many(seeds, take)
    if twice:
        differing = [a.seed for a, b in zip(results, many(seeds), strict=True) if a.digest != b.digest]
        print(f"{len(seeds)} seeds run twice, {len(seeds) - len(differing)} with equal traces; others: {differing}")
        failed += [r for r in results if r.seed in differing]
    print(line(done, simulated, time.monotonic() - begun))
    for kind, count in sorted(happened.items(), key=lambda item: item[1]):
        print(f"{count:8} {count / len(seeds):7.1%}  {kind}")
    print(f"{len(failed)} of {len(seeds)} seeds failed" + (f": {[r.seed for r in failed]}" if failed else ""))
    return 1 if failed else 0


def line(done: int, simulated: int, seconds: float) -> str:
    return f"{done} schedules in {seconds:.0f} s, {done / seconds:.1f} a second, {simulated / DAY / seconds * 60:.0f} simulated days a real minute"


if __name__ == "__main__":
    sys.exit(main())
