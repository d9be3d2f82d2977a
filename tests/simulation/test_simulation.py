"""Schedules by their seeds: whatever befalls the services, what they say and do is what it must be, and a seed always tells the same story.

    python -m tests.simulation --seed 123 --trace      one of them, to be read
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from services.actions.executors.contract import Observed, Step
from tests.simulation.chance import Faults, Trace
from tests.simulation.loop import Loop
from tests.simulation.platform import AdPlatform, PlatformPort
from tests.simulation.schedule import Result, many, simulation
from tests.simulation.world import FAULTS

A_FEW, AT_ONCE = 10, 500
TWICE = 10  # of each 500


def wrong(results: list[Result]) -> str:
    return "\n".join(str(r) for r in results if r.wrong)


@pytest.mark.parametrize("first", range(0, 160, A_FEW))
def test_whatever_befalls_the_services_all_is_as_it_must_be(first: int) -> None:
    """And a seed tells the same story twice: some of them are run again."""
    results = many(range(first, first + A_FEW))
    assert wrong(results) == ""
    assert len({r.digest for r in results}) == A_FEW
    assert [r.digest for r in many(range(first, first + 2))] == [r.digest for r in results[:2]]


def test_a_seed_tells_the_same_story_in_another_process() -> None:
    """With other hash seeds, so that the order of no set is in it."""
    say = "from tests.simulation.schedule import many; print(*[r.digest for r in many(range(6))])"
    told = [subprocess.run([sys.executable, "-c", say], env=os.environ | {"PYTHONHASHSEED": n}, check=True, capture_output=True).stdout for n in ("1", "2")]
    assert told[0] == told[1] and len(told[0].split()) == 6


def test_a_story_that_is_told_is_the_story_that_happened() -> None:
    """Keeping the trace for people to read changes nothing in it."""
    with simulation() as schedules:
        silent, told = schedules.run(7), schedules.run(7, keep_trace=True)
    assert (silent.digest, silent.trace) == (told.digest, ())
    assert len(told.trace) > 50


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_that_nobody_waits_for_any_more_is_nobodys_fault(seed: int) -> None:
    """A process stands still between its call and its wait, until after its patience; meanwhile the call has failed."""
    loop = Loop(random.Random(seed))
    platform = Unreadable(loop, Faults(random.Random(seed), {}), Trace(), is_conditional=False)
    process = loop.process("actions")
    process.fuse = (1, process.pause)
    port = PlatformPort(platform, process)

    async def call() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(15):
                await port.write(Step("sandbox/ad", "status", "active", "paused"), Observed("active", None), "key")

    async def course() -> None:
        task = process.spawn(call())
        await asyncio.sleep(60)
        process.resume()
        await task

    loop.run(course())
    assert (loop.complaints, [a.value for a in platform.journal]) == ([], ["paused"])


class Unreadable(AdPlatform):
    """Applies what it is told, and answers with what nobody can read."""

    def mood(self, what: str, of: dict[str, str], often: float) -> str:
        return "garbage" if what == "write" else ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 10_000, AT_ONCE))
def test_whatever_befalls_them_in_thousands_of_schedules(first: int) -> None:
    """10,000 different ones, in pieces that processes share; some are run twice. Every kind of fault strikes in at least a tenth of each."""
    results = many(range(first, first + AT_ONCE))
    assert wrong(results) == ""
    struck = Counter(kind for r in results for kind in r.happened)
    assert {kind: struck[kind] for kind in FAULTS if struck[kind] < AT_ONCE // 10} == {}
    assert [r.digest for r in many(range(first, first + TWICE))] == [r.digest for r in results[:TWICE]]
