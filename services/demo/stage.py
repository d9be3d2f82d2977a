"""Where the replay is played: a running Trimtab, its clock, and what its logs say. Here all of it in this process; `fleet` has the services of production."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from services.adapters.clock import ManualClock
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.kernel.decision import Decision
from services.kernel.errors import Unavailable
from services.kernel.record import Clock, Tick


class Hand(Protocol):
    """A clock that is set by hand."""

    def now(self) -> int: ...
    def set(self, instant: int) -> None: ...
    def advance(self, micros: int) -> None: ...


class Stage(Protocol):
    """`key` is an admin's; `patience` is how many seconds of the world nothing may move until the replay is given up."""

    key: str
    patience: float

    @property
    def url(self) -> str: ...

    @property
    def clock(self) -> Hand: ...

    async def judged(self) -> None:
        """Everything appended before is folded, at the instant at which the clock stands, and its decisions are durable."""

    async def news(self) -> Sequence[Decision]:
        """What has been decided since this was asked last, each decision once."""

    async def login(self) -> str:
        """A link that logs in once."""

    def trouble(self, hour: int) -> AbstractAsyncContextManager[None]:
        """What befalls in this hour while it is judged and acted on; the block ends once that is done."""

    def why(self) -> str:
        """What may be wrong where nothing moves any more."""


Place = Callable[[Settings, Clock, int], AbstractAsyncContextManager[Stage]]


@dataclass(slots=True)
class OneProcess:
    trimtab: Embedded
    clock: ManualClock
    url: str
    key: str
    patience: float = 60.0
    read: int = 0  # decisions read so far

    async def judged(self) -> None:
        [(_, offset)] = await self.trimtab.events.append([("", Tick())])
        await self.trimtab.worker.caught_up(offset + 1)

    async def news(self) -> list[Decision]:
        found: list[Decision] = []
        while page := await self.trimtab.decisions.read(0, self.read):
            found += [s.record for s in page]
            self.read = page[-1].offset + 1
        return found

    async def login(self) -> str:
        return await self.trimtab.login()

    @asynccontextmanager
    async def trouble(self, hour: int) -> AsyncIterator[None]:
        yield

    def why(self) -> str:
        return self.trimtab.worker.stopped or "see the log beside the data"


@asynccontextmanager
async def one_process(settings: Settings, declared: Clock, port: int) -> AsyncIterator[OneProcess]:
    """All of Trimtab in this process, its pages at this port."""
    clock = ManualClock(declared.start)
    trimtab = Embedded(settings, clock, declared)
    try:
        await trimtab.start()
        async with trimtab.serving(port) as url:
            yield OneProcess(trimtab, clock, url, (await trimtab.cli_key()).read_text())
    finally:
        await trimtab.stop()


def stands_still(stage: Stage) -> Unavailable:
    return Unavailable(f"nothing has moved for {stage.patience:.0f} s: {stage.why()}")
