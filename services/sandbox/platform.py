"""The sandbox's state: a small account tree, its journal of applied writes, every write it was sent, and the faults that were asked for."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EDITABLE = {"status": ("active", "paused", "archived"), "daily_budget": None, "name": None}


@dataclass(slots=True)
class Thing:
    """One object of the platform; `version` grows with every applied write."""

    path: str
    attributes: dict[str, Any]
    version: int = 1
    before: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=1))


@dataclass(slots=True)
class Fault:
    """What befalls the next `times` requests of `method` whose path contains `path`.

    kind: latency | 429 | 500_before | 500_after | drop_before | drop_after | error_inside | stale_read | garbage
    """

    kind: str
    method: str = "PATCH"
    path: str = ""
    times: int = 1
    seconds: float = 0.0


class Refused(Exception):
    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail


class Platform:
    """`is_plain`: it knows neither idempotency keys nor versions, as many platforms do not; what is sent is applied."""

    def __init__(self, journal: Path | None, is_plain: bool = False) -> None:
        self.is_plain = is_plain
        self.sent: list[dict[str, Any]] = []
        self.things: dict[str, Thing] = {}
        self.faults: list[Fault] = []
        self.applied: list[dict[str, Any]] = []
        self.by_key: dict[str, dict[str, Any]] = {}
        self._journal = open(journal, "a", encoding="utf-8") if journal else None  # noqa: SIM115  held for the platform's life

    def put(self, path: str, attributes: dict[str, Any]) -> Thing:
        known = self.things.get(path)
        if known is None:
            known = self.things[path] = Thing(path, {})
        known.attributes |= attributes
        return known

    def get(self, path: str) -> Thing:
        if path not in self.things:
            raise Refused(404, "not_found", f"there is no {path}")
        return self.things[path]

    def shown(self, path: str, stale: bool) -> tuple[dict[str, Any], int]:
        thing = self.get(path)
        if stale and thing.before:
            return thing.before[0] | {"path": path}, thing.version - 1
        return thing.attributes | {"path": path}, thing.version

    def change(self, path: str, wanted: dict[str, Any], key: str, version: int | None, by: str) -> Thing:
        """Sets absolute values; of two requests with one key the second changes nothing."""
        thing = self.get(path)
        if self.is_plain:
            version = None
        elif key and key in self.by_key:
            if self.by_key[key] != {"path": path, "wanted": wanted}:
                raise Refused(409, "key_reused", "this idempotency key belongs to another request")
            return thing
        for name, value in wanted.items():
            allowed = EDITABLE.get(name, ())
            if name not in EDITABLE or (allowed and value not in allowed):
                raise Refused(422, "invalid", f"{name} cannot be set to {value!r}")
            if name == "daily_budget" and (not isinstance(value, int) or isinstance(value, bool) or value < 1_000_000):
                raise Refused(422, "budget_too_small", "a daily budget is at least 1.00, in micro-units")
        if version is not None and version != thing.version:
            raise Refused(412, "precondition", f"{path} is at version {thing.version}")
        entry = {"n": len(self.applied) + 1, "path": path, "key": key, "by": by, "before": {n: thing.attributes.get(n) for n in wanted}, "after": wanted}
        thing.before.append(dict(thing.attributes))
        thing.attributes |= wanted
        thing.version += 1
        if key:
            self.by_key[key] = {"path": path, "wanted": wanted}
        self._record(entry)
        return thing

    def _record(self, entry: dict[str, Any]) -> None:
        self.applied.append(entry)
        if self._journal is not None:
            self._journal.write(json.dumps(entry) + "\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that befalls this request, used up by one."""
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
