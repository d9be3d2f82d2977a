"""Checks the histories, or renews them; see the package."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from services.kernel.record import Record
from tests.histories import Differs, check, renew
from tests.reference.generate import generate

SEEDS = (3, 11, 21, 48, 91, 103, 111, 125, 311)  # between them they meet everything that the generator could when each was recorded
HOURS = 24


def account(seed: int) -> list[tuple[int, Record]]:
    return [(s.stamp, s.record) for s in generate(seed).records]


def demo() -> list[tuple[int, Record]]:
    """The log of a demo over some of its tests."""
    from services.demo.sample import bundled
    from tests.e2e.test_demo import staged_with

    async def run() -> list[tuple[int, Record]]:
        with tempfile.TemporaryDirectory() as folder:
            async with staged_with(Path(folder), bundled()[:12], HOURS, seed=1) as replay:
                for hour in range(1, HOURS + 1):
                    await replay.hour(hour)
                records: list[tuple[int, Record]] = []
                while page := await replay.trimtab.events.read(0, len(records)):
                    records += [(s.stamp, s.record) for s in page]
        return records

    return asyncio.run(run())


def main(words: list[str]) -> int:
    try:
        if words[:1] == ["check"]:
            print(f"{check(int(words[1]))} decisions, the same")
        elif words[:1] == ["renew"]:
            renew("".join(words[1:]), {"demo": demo} | {f"account-{seed}": (lambda s=seed: account(s)) for seed in SEEDS})  # type: ignore[misc]
        else:
            print(sys.modules["tests.histories"].__doc__)
            return 2
    except Differs as differs:
        print(differs, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
