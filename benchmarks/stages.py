"""Where the time goes: functions that are timed while somebody watches, in a run of its own beside the timed one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

Stages: TypeAlias = Sequence[tuple[str, Any, str]]  # (its name, where the function is looked up, under which name); several may be one stage


@contextmanager
def watched(stages: Stages) -> Iterator[dict[str, float]]:
    """Seconds by stage, each without those of the stages that it calls. For one task at a time."""
    spent = {name: 0.0 for name, _, _ in stages}
    inside: list[float] = []  # of each stage that runs, the seconds of the stages it has called
    kept = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in stages]
    for (name, owner, attribute), (_, _, function) in zip(stages, kept, strict=True):
        setattr(owner, attribute, _timed(function, name, spent, inside))
    try:
        yield spent
    finally:
        for owner, attribute, function in kept:
            setattr(owner, attribute, function)


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float], inside: list[float]) -> Callable[..., Any]:
    @contextmanager
    def clock() -> Iterator[None]:
        inside.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            spent[name] += took - inside.pop()
            if inside:
                inside[-1] += took

    @wraps(function)
    def call(*a: Any, **k: Any) -> Any:
        with clock():
            return function(*a, **k)

    @wraps(function)
    async def call_async(*a: Any, **k: Any) -> Any:
        with clock():
            return await function(*a, **k)

    return call_async if iscoroutinefunction(function) else call
