"""A seeded event loop in virtual time: processes that take turns by chance, timers that jump, and a kill that leaves nothing behind.

Within a process callbacks run in the order asyncio promises; between processes nothing is promised, and chance decides. Time moves only when nothing
can run. What a process does to the world goes through `Process.passes`, an await of seeded length: there it may be killed, or stand still.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 400_000  # callbacks a run: one that needs more goes in circles
MOST_DYING = 5_000
SECOND = 1_000_000
HERE: ContextVar[Process] = ContextVar("process")


class Killed(BaseException):
    """The process is gone: whatever it still tries does not happen."""


class GoesInCircles(Exception):
    """More callbacks ran than any schedule needs."""


class Turn:
    """A callback whose turn will come: asyncio's handle, without what makes that one dear."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self.callback, self.args, self.context, self.is_cancelled = callback, args, context, False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class Process:
    """One process of the installation: its tasks, its clock, and the moment at which something befalls it."""

    def __init__(self, loop: Loop, name: str, start: int = 0) -> None:
        self.loop, self.name, self.start = loop, name, start
        self.alive, self.paused = True, False
        self.skew = 0  # its clock minus the true time, microseconds
        self.tasks: list[asyncio.Task[Any]] = []
        self.ready: deque[Turn] = deque()
        self.passed = 0  # awaits on the world so far
        self.fuse: tuple[int, Callable[[], None]] | None = None  # at which of these something befalls it
        self.mine: tuple[str, Callable[[], None]] | None = None  # or at which named point
        self.on_kill: list[Callable[[], None]] = []

    def now(self) -> int:
        """What its clock shows: microseconds since the epoch."""
        return self.start + self.loop.at + self.skew

    async def passes(self, micros: int) -> None:
        """So much time goes by on the way to the world or back; raises Killed where the process ends meanwhile."""
        if not self.alive:
            raise Killed
        self.passed += 1
        if self.fuse is not None and self.passed >= self.fuse[0]:
            (_, burn), self.fuse = self.fuse, None
            burn()
        if self.alive:
            future = self.loop.create_future()
            self.loop.call_later(micros / SECOND, _done, future)
            await future
        if not self.alive:
            raise Killed

    def reach(self, point: str) -> None:
        """It has come to a named point of its code; raises Killed where it ends there."""
        if self.mine is not None and self.mine[0] == point:
            (_, burn), self.mine = self.mine, None
            burn()
            if not self.alive:
                raise Killed

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """A task of this process, whoever starts it."""
        context = copy_context()
        context.run(HERE.set, self)
        return context.run(self.loop.create_task, work, name=name or self.name)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def kill(self) -> None:
        """As kill -9: none of its tasks takes another step that the world could see."""
        if not self.alive:
            return
        self.alive, self.paused = False, False
        for release in self.on_kill:
            release()
        for task in self.tasks:
            if not task.done():
                task.cancel()
        self.loop.dying.append(self)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Loop(asyncio.AbstractEventLoop):
    """`at` is virtual time in microseconds since the start. Every turn and every tie is drawn from `chance`."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.at, self.ran = chance, 0, 0
        self.dying: list[Process] = []
        self.processes: list[Process] = []
        self.complaints: list[str] = []
        self._timers: list[tuple[int, float, int, Turn, Process]] = []
        self._numbers = 0
        self._running = self._closed = False
        self._ground = self.process("world")

    def process(self, name: str, start: int = 0) -> Process:
        made = Process(self, name, start)
        self.processes.append(made)
        return made

    @property
    def ground(self) -> Process:
        """The world itself: senders, people, the platform, whoever starts processes again."""
        return self._ground

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs until `main`, a part of the world, is done."""
        events._set_running_loop(self)
        self._running = True
        try:
            task = self._ground.spawn(main, "main")
            turn, done = self._turn, task.done
            while not done():
                turn()
            return task.result()
        finally:
            self._running = False
            events._set_running_loop(None)

    def _turn(self) -> None:
        if self.dying:
            self._bury()
        waiting = [p for p in self.processes if p.ready and not p.paused]
        while not waiting:
            self._jump()
            waiting = [p for p in self.processes if p.ready and not p.paused]
        process = waiting[0] if len(waiting) == 1 else waiting[int(self.chance.random() * len(waiting))]
        self._take_turn(process.ready.popleft())
        self.ran += 1
        if self.ran > MOST:
            raise GoesInCircles(f"{MOST} callbacks ran, and there is no end")

    def _take_turn(self, turn: Turn) -> None:
        if turn.is_cancelled:
            return
        try:
            turn.context.run(turn.callback, *turn.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.call_exception_handler({"message": f"Exception in callback {turn.callback!r}", "exception": error})

    def _jump(self) -> None:
        """Time is that of the next timer."""
        if not self._timers:
            raise GoesInCircles("nothing can run and nothing is waited for")
        when, _, _, turn, process = heapq.heappop(self._timers)
        if turn.is_cancelled:
            return
        self.at = max(self.at, when)
        process.ready.append(turn)

    def _bury(self) -> None:
        """What is left of killed processes comes to its end at once; the world sees none of it."""
        steps = 0
        while self.dying:
            process = self.dying.pop()
            while any(not t.done() for t in process.tasks):
                if not process.ready:
                    mine = [t for t in self._timers if t[4] is process]
                    if not mine:
                        raise GoesInCircles(f"{process.name} was killed and {[t.get_name() for t in process.tasks if not t.done()]} go on")
                    self._timers = [t for t in self._timers if t[4] is not process]
                    heapq.heapify(self._timers)
                    process.ready.extend(t[3] for t in sorted(mine, key=lambda t: t[:3]))
                self._take_turn(process.ready.popleft())
                steps += 1
                if steps > MOST_DYING:
                    raise GoesInCircles(f"{process.name} was killed and does not end")
            process.ready.clear()
            self._timers = [t for t in self._timers if t[4] is not process]
            heapq.heapify(self._timers)
            self.processes.remove(process)

    # -- what asyncio asks of a loop ------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.at / SECOND

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        context = context if context is not None else copy_context()
        turn = Turn(callback, args, context)
        context.get(HERE, self._ground).ready.append(turn)
        return turn

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        return self._at(self.at + max(0, round(delay * SECOND)), callback, args, context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        return self._at(max(self.at, round(when * SECOND)), callback, args, context)

    def _at(self, when: int, callback: Callable[..., Any], args: Any, context: Context | None) -> Turn:
        context = context if context is not None else copy_context()
        turn = Turn(callback, args, context)
        self._numbers += 1
        heapq.heappush(self._timers, (when, self.chance.random(), self._numbers, turn, context.get(HERE, self._ground)))
        return turn

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        process = HERE.get(self._ground) if context is None else context.get(HERE, self._ground)
        if not process.alive:
            coro.close()
            raise Killed
        task = asyncio.Task(coro, loop=self, name=name, context=context) if context is not None else asyncio.Task(coro, loop=self, name=name)
        process.tasks.append(task)
        if len(process.tasks) > 200:
            process.tasks = [t for t in process.tasks if not t.done()]
        return task

    def run_in_executor(self, executor: Any, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """There are no threads: the work is done in one piece, some time later."""
        future = self.create_future()
        self.call_later(self.chance.random() * 0.02, _work, future, work, args)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Killed | asyncio.CancelledError):
            self.complaints.append(f"{context.get('message')}: {error!r}")


def _work(future: asyncio.Future[T], work: Callable[..., T], args: Any) -> None:
    try:
        result = work(*args)
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)
