"""Extensions: a folder where one file is one thing. A new one is found by scanning its folder and the entry-point group `trimtab.<kind>`."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Every module of the folder, by name."""
    for name in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        yield import_module(f"{package.__name__}.{name}")


def found(package: ModuleType, kind: str, attribute: str) -> dict[str, Any]:
    """name -> extension: the `attribute` of each file of the folder and of each entry point, by their `name`; a name taken twice is refused."""
    every = [getattr(m, attribute) for m in modules(package) if hasattr(m, attribute)]
    every += [e.load() for e in sorted(entry_points(group=f"trimtab.{kind}"), key=lambda e: e.name)]
    by_name: dict[str, Any] = {}
    for one in every:
        if one.name in by_name:
            raise ValueError(f"two {kind}s are called {one.name!r}")
        by_name[one.name] = one
    return dict(sorted(by_name.items()))
