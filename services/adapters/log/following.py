"""Work on partitions that are shared out: a task for each one that the group gives this process, for as long as it is ours.

What is worked on must bear that another process does the same for a while, where one of the two was believed dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import structlog

from services.adapters.progress import Beat, Progress
from services.kernel.ports import Group

log = structlog.get_logger("following")

COMMIT = 5.0  # seconds between two tellings of how far we are
AGAIN = 30.0  # seconds until a partition that could not be followed is tried once more


class Alone:
    """A group of one, which has these partitions for good."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = frozenset(partitions)

    async def join(self, given: Callable[[frozenset[int]], None]) -> None:
        given(self.partitions)

    async def commit(self, done: Mapping[int, int]) -> bool:
        return True

    async def leave(self) -> None: ...


class Following:
    """`run` follows one partition until it is cancelled, notes in `done` the next record that it has not dealt with, and beats."""

    def __init__(self, group: Group, run: Callable[[int, Beat], Coroutine[Any, Any, None]], name: str, progress: Progress | None = None) -> None:
        self.group, self.name, self._run, self.progress = group, name, run, progress or Progress()
        self.again, self.every = AGAIN, COMMIT
        self.ours: frozenset[int] = frozenset()
        self._is_stopping = False
        self.done: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        beat = self.progress.expect(f"{self.name}: offsets")
        self._telling = asyncio.create_task(self._tell(beat), name=f"{self.name}-offsets")
        beat.of(self._telling)
        await self.group.join(self._given)

    async def stop(self) -> None:
        """Nothing is followed any more, the group knows how far we are, and the others take over."""
        tasks = [t for t in (self._telling, *self._tasks.values()) if t is not None]
        self.ours, self._is_stopping = frozenset(), True
        for loop in (f"{self.name}: offsets", *map(self._loop, self._tasks)):
            self.progress.forget(loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self.group.commit(self._news(self.done))
        finally:
            await self.group.leave()

    def _given(self, ours: frozenset[int]) -> None:
        if self._is_stopping:  # we are a member until what we have is at rest
            return
        for number in ours - self.ours:
            self.progress.expect(self._loop(number))
        self.ours = ours
        for number, task in self._tasks.items():
            if number not in ours:
                self.progress.forget(self._loop(number))
                task.cancel()
        for number in sorted(ours - self._tasks.keys()):
            self._begin(number)

    def _loop(self, number: int) -> str:
        return f"{self.name}: partition {number}"

    def _begin(self, number: int) -> None:
        beat = self.progress.expect(self._loop(number))
        self._tasks[number] = task = asyncio.create_task(self._follow(number, beat), name=f"{self.name}-follow-{number}")
        beat.of(task)
        task.add_done_callback(lambda _: self._let_go(number))

    async def _follow(self, number: int, beat: Beat) -> None:
        while True:
            try:
                await self._run(number, beat)
                return
            except Exception as error:  # whatever it is, the other partitions go on
                log.exception("partition is not followed", name=self.name, partition=number, why=f"{type(error).__name__}: {error}", again=self.again)
            beat()
            await asyncio.sleep(self.again)

    def _let_go(self, number: int) -> None:
        task = self._tasks.pop(number)
        if number in self.ours and task.cancelled():  # it was taken away and given back while its task was ending
            self._begin(number)

    def _news(self, done: Mapping[int, int]) -> dict[int, int]:
        return {number: offset for number, offset in done.items() if self._told.get(number) != offset}

    async def _tell(self, beat: Beat) -> None:
        while True:
            beat()
            await asyncio.sleep(self.every)
            done = self._news({number: offset for number, offset in self.done.items() if number in self.ours})
            if await self.group.commit(done):
                self._told |= done
