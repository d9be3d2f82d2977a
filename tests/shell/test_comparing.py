"""Comparisons with the witness are made one at a time and shared: each caller gets one that vouches for what it will use, after two at most."""

import asyncio
from collections.abc import Callable

import pytest

from services.actions.ledger.comparing import Comparing
from services.kernel.errors import Unavailable


class Asked:
    """A database that is connected to, and comparisons that end when a test says so, or at once."""

    def __init__(self) -> None:
        self.connected, self.begun, self.ended = 0, 0, 0
        self.fails: set[int] = set()
        self.gate = asyncio.Event()
        self.during: Callable[[], None] = lambda: None
        self.comparing = Comparing(self.compare, lambda: self.connected)

    async def compare(self) -> None:
        self.begun += 1
        number = self.begun
        self.during()
        await self.gate.wait()
        self.ended += 1
        if number in self.fails:
            raise Unavailable(f"comparison {number} failed", reason="witness")

    def connect(self) -> None:
        self.connected += 1


async def turns() -> None:
    """Everything that can go on has."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_at_once_share_two_comparisons_though_each_comparison_and_each_of_them_makes_a_connection() -> None:
    asked = Asked()
    asked.during = asked.connect
    waiting = []
    for _ in range(50):
        asked.connect()
        waiting.append(asyncio.create_task(asked.comparing.covering()))
        await asyncio.sleep(0)
    assert (asked.begun, asked.ended) == (1, 0)
    asked.gate.set()
    await asyncio.gather(*waiting)
    assert asked.ended == 2


async def test_a_comparison_vouches_for_connections_that_were_there_when_it_began_only() -> None:
    asked = Asked()
    asked.connect()
    first = asyncio.create_task(asked.comparing.covering())
    await turns()
    same = asyncio.create_task(asked.comparing.covering())  # over the connection that the comparison covers
    asked.connect()
    newer = asyncio.create_task(asked.comparing.covering())
    await turns()
    asked.gate.set()
    await asyncio.gather(first, same)
    await turns()
    assert newer.done()
    assert asked.begun == 2
    await asked.comparing.covering()
    assert asked.begun == 2
    asked.connect()
    await asked.comparing.covering()
    assert asked.begun == 3


async def test_one_that_is_asked_for_anew_began_after_the_question() -> None:
    asked = Asked()
    under_way = asyncio.create_task(asked.comparing.anew())
    await turns()
    later = [asyncio.create_task(asked.comparing.anew()) for _ in range(5)]
    await turns()
    asked.gate.set()
    await asyncio.gather(under_way, *later)
    assert asked.begun == 2


async def test_who_waits_takes_the_failure_of_one_that_began_since_and_no_older_one() -> None:
    """Each of eight would otherwise wait for a database that is away, one after the other."""
    asked = Asked()
    asked.fails = {1, 2}
    asked.connect()
    first = asyncio.create_task(asked.comparing.covering())
    await turns()
    asked.connect()
    waiting = [asyncio.create_task(asked.comparing.covering()) for _ in range(8)]
    await turns()
    asked.gate.set()
    with pytest.raises(Unavailable, match="comparison 1 failed") as raised:
        await first
    assert raised.value.reason == "witness"
    assert [str(e) for e in await asyncio.gather(*waiting, return_exceptions=True)] == ["comparison 2 failed"] * 8
    await asked.comparing.covering()
    assert asked.begun == 3


async def test_what_was_vouched_for_stays_so_when_a_later_comparison_fails() -> None:
    asked = Asked()
    asked.gate.set()
    asked.fails = {2}
    asked.connect()
    await asked.comparing.covering()
    with pytest.raises(Unavailable):
        await asked.comparing.anew()
    await asked.comparing.covering()
    assert asked.begun == 2


async def test_a_comparison_that_was_cancelled_vouches_for_nothing() -> None:
    asked = Asked()
    asked.connect()
    first = asyncio.create_task(asked.comparing.covering())
    await turns()
    second = asyncio.create_task(asked.comparing.covering())
    first.cancel()
    await turns()
    asked.gate.set()
    await second
    assert (asked.begun, asked.ended) == (2, 1)
