"""A model ad platform in virtual time: it keeps a journal of every change it applied, forgives nothing, and answers as badly as real ones do.

A request that was sent is on its way whatever becomes of its sender. Nothing is remembered by idempotency key, so a request sent twice is applied twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from services.actions.executors.contract import Answer, Observed, Step, Value
from services.kernel.errors import Unavailable
from tests.simulation.chance import Faults, Trace
from tests.simulation.loop import SECOND, Killed, Loop, Process

T = TypeVar("T")
WRITES = {  # what may befall a write: whether it is applied, and what its sender hears
    "latency": "applied, and answered late",
    "rate_limit": "429, retry after 30 s",
    "refused": "422; of a change in several steps only a part is there",
    "error_before": "500, or no answer, and not applied",
    "error_after": "applied, and 500",
    "timeout_after": "applied, and never answered",
    "garbage": "applied, and answered with what nobody can read",
}
CONNECTIONS = {"refused": "no connection is made, so nothing of a write goes out"}
READS = {
    "latency": "answered late",
    "stale": "answered with what was so before the last change",
    "unreadable": "refused, or not readable",
    "hangs": "never answered",
}
STALE = 8 * SECOND  # how long an old value may be shown
NEVER = 40 * SECOND  # longer than any caller waits


@dataclass(frozen=True, slots=True)
class Applied:
    """One change that took place."""

    at: int
    path: str
    attribute: str
    before: Value | None
    value: Value
    key: str  # "" for somebody at the platform


class AdPlatform:
    def __init__(self, loop: Loop, faults: Faults, trace: Trace, is_conditional: bool) -> None:
        self.loop, self.faults, self.trace = loop, faults, trace
        self.is_conditional = is_conditional  # whether it honours the version that was read
        self.objects: dict[tuple[str, str], Value] = {}
        self.versions: Counter[str] = Counter()
        self.journal: list[Applied] = []
        self.sent: list[str] = []
        self.witness: Callable[[Step, str], None] = lambda _step, _key: None

    def put(self, path: str, attribute: str, value: Value) -> None:
        self.objects[path, attribute] = value

    def change(self, path: str, attribute: str, value: Value, key: str = "") -> None:
        before = self.objects.get((path, attribute))
        self.objects[path, attribute] = value
        self.versions[path] += 1
        self.journal.append(Applied(self.loop.at, path, attribute, before, value, key))
        self.trace.tell(self.loop.at, "platform", f"applied {path} {attribute} {before} -> {value} {key}")

    def mood(self, what: str, of: dict[str, str], often: float) -> str:
        if self.faults.over or self.loop.chance.random() >= often:
            return ""
        mood = self.loop.chance.choice(list(of))
        self.faults.happened[f"{what}.{mood}"] += 1
        return mood

    def shown(self, path: str, attribute: str, is_stale: bool) -> Observed:
        value, version = self.objects.get((path, attribute)), self.versions[path]
        recent = [a for a in self.journal if (a.path, a.attribute) == (path, attribute) and a.at > self.loop.at - STALE]
        if is_stale and recent:
            value, version = recent[0].before, version - 1
        return Observed(value, str(version) if self.is_conditional else None)

    async def read(self, step: Step, answered: asyncio.Future[Observed]) -> None:
        mood = self.mood("read", READS, 0.25)
        await self._travel(4 * SECOND if mood == "latency" else NEVER if mood == "hangs" else SECOND // 10)
        if answered.done():
            return
        if mood == "unreadable":
            answered.set_exception(Unavailable("the platform cannot be read", reason="platform"))
        else:
            answered.set_result(self.shown(step.path, step.attribute, mood == "stale"))

    async def write(self, step: Step, observed: Observed, key: str, answered: asyncio.Future[Answer]) -> None:
        mood = self.mood("write", WRITES, 0.75)
        is_silent = mood == "timeout_after" or (mood == "error_before" and self.loop.chance.random() < 0.5)
        await self._travel(6 * SECOND if mood in ("latency", "timeout_after") else SECOND // 10)
        answer = Answer("accepted")
        if mood in ("rate_limit", "refused"):
            answer = Answer("refused", "429 retry after 30" if mood == "rate_limit" else "422 refused")
        elif mood == "error_before":
            answer = Answer("unclear", "500")
        elif self.is_conditional and observed.version is not None and observed.version != str(self.versions[step.path]):
            answer = Answer("refused", "412 precondition")
        else:
            self.witness(step, key)
            self.change(step.path, step.attribute, step.desired, key)
            if mood in ("error_after", "garbage"):
                answer = Answer("unclear", "500" if mood == "error_after" else "not readable")
        await self._travel(NEVER if is_silent else SECOND // 10)
        if answered.done():
            return
        if mood == "garbage" and self.loop.chance.random() < 0.5:
            answered.set_exception(RuntimeError("the executor has a bug"))
        else:
            answered.set_result(answer)

    async def _travel(self, longest: int) -> None:
        chance = self.loop.chance.random()
        await asyncio.sleep((longest if longest == NEVER else longest * chance) / SECOND)


class PlatformPort:
    """The executor of one process."""

    name: ClassVar[str] = "sandbox"
    platforms: ClassVar[frozenset[str]] = frozenset({"sandbox"})
    attributes: ClassVar[frozenset[str]] = frozenset({"status", "daily_budget"})
    is_practice: ClassVar[bool] = True

    def __init__(self, platform: AdPlatform, process: Process) -> None:
        self.platform, self.process = platform, process

    async def read(self, step: Step) -> Observed:
        await self.process.passes(0)
        answered: asyncio.Future[Observed] = self.process.loop.create_future()
        self.process.loop.ground.spawn(self.platform.read(step, answered), "read")
        with _heard(answered):
            return await self._back(answered)

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        if not self.process.alive:
            raise Killed
        if self.platform.mood("connection", CONNECTIONS, 0.2):
            await self.process.passes(1_000)
            return Answer("unsent", "no connection")
        self.platform.sent.append(idempotency_key)
        self.platform.trace.tell(self.process.loop.at, self.process.name, f"sent {step.path} {step.attribute} {step.desired} {idempotency_key}")
        answered: asyncio.Future[Answer] = self.process.loop.create_future()
        self.process.loop.ground.spawn(self.platform.write(step, observed, idempotency_key, answered), "write")
        with _heard(answered):
            await self.process.passes(0)
            return await self._back(answered)

    async def _back(self, answered: asyncio.Future[T]) -> T:
        answer = await answered
        await self.process.passes(1_000)
        return answer

    async def close(self) -> None: ...


@contextmanager
def _heard(answered: asyncio.Future[T]) -> Iterator[None]:
    """An answer to somebody who waits no more, since it stood still until after its patience, is lost, and that is no fault of anybody."""
    try:
        yield
    finally:
        if not answered.cancel() and not answered.cancelled():
            answered.exception()
