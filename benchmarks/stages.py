"""Where the time goes: functions that are timed while somebody watches, in a run of its own beside the timed one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

Stages: TypeAlias = Sequence[tuple[str, Any, str]]  # (its name, where the function is looked up, under which name); several may be one stage
Clock: TypeAlias = Callable[[], float]


@contextmanager
def watched(stages: Stages, clock: Clock = time.perf_counter) -> Iterator[dict[str, float]]:
    """Seconds of the clock by stage, each without those of the stages that it calls. For one task at a time."""
    spent = {name: 0.0 for name, _, _ in stages}
    inside: list[float] = []  # of each stage that runs, the seconds of the stages it has called
    kept = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in stages]
    for (name, owner, attribute), (_, _, function) in zip(stages, kept, strict=True):
        setattr(owner, attribute, _timed(function, name, spent, inside, clock))
    try:
        yield spent
    finally:
        for owner, attribute, function in kept:
            setattr(owner, attribute, function)


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float], inside: list[float], clock: Clock) -> Callable[..., Any]:
    @contextmanager
    def counted() -> Iterator[None]:
        inside.append(0.0)
        began = clock()
        try:
            yield
        finally:
            took = clock() - began
            spent[name] += took - inside.pop()
            if inside:
                inside[-1] += took

    @wraps(function)
    def call(*a: Any, **k: Any) -> Any:
        with counted():
            return function(*a, **k)

    @wraps(function)
    async def call_async(*a: Any, **k: Any) -> Any:
        with counted():
            return await function(*a, **k)

    return call_async if iscoroutinefunction(function) else call
