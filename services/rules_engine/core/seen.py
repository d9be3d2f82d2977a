"""Which events have counted: 128-bit ids in two tables, each one horizon of engine time long.

    period p-1            period p             period p+1
|------ table A ------|------ table B ------|------ table A (emptied) ...
an id is known from its arrival until the period after its own ends, so a look-up costs two probes and no late duplicate can count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core.keys import Bools, Keys


class Table:
    """Ids, each with 32 bits of its content's hash: 30 bytes an id at most."""

    def __init__(self, room: int = 512) -> None:
        self.ids = Keys(room)
        self.body: NDArray[np.int32] = np.zeros(room, np.int32)

    def add(self, ids: I64, body: NDArray[np.int32]) -> tuple[Bools, int]:
        """(new, how many of the others say something else than what counted)."""
        before = len(self.ids)
        number, new = self.ids.add(ids)
        if len(self.ids) > len(self.body):
            wider = np.zeros(max(len(self.ids), len(self.body) * 3 // 2), np.int32)
            wider[:before] = self.body[:before]
            self.body = wider
        self.body[before : len(self.ids)] = body[new]
        return new, 0 if new.all() else int((self.body[number] != body).sum())

    def find(self, ids: I64, body: NDArray[np.int32]) -> tuple[Bools, int]:
        number = self.ids.find(ids)
        known = number >= 0
        return known, int((self.body[number[known]] != body[known]).sum()) if known.any() else 0


class Seen:
    """The two tables. `accept` says which of a column of ids count, in log order, and how many conflicted with what was accepted before."""

    def __init__(self, horizon: int) -> None:
        self.horizon, self.period = horizon, -1
        self.tables = [Table(), Table()]

    def accept(self, ids: I64, body: I64, stamp: I64) -> tuple[Bools, int]:
        """True where the id is new: of two events with one id the first in log order counts, whatever the other says. `stamp` never falls."""
        if not len(ids):
            return np.zeros(0, np.bool_), 0
        said = body.astype(np.int32)  # the low 32 bits
        first, last = int(stamp[0]) // self.horizon, int(stamp[-1]) // self.horizon
        if first == last:
            return self._accept(ids, said, first)
        parts, conflicts = [], 0
        period = stamp // self.horizon
        for p in np.unique(period).tolist():
            here = period == p
            fresh, conflicting = self._accept(ids[here], said[here], p)
            parts.append(fresh)
            conflicts += conflicting
        return np.concatenate(parts), conflicts

    def _accept(self, ids: I64, said: NDArray[np.int32], period: int) -> tuple[Bools, int]:
        self._turn(period)
        current, before = self.tables[self.period & 1], self.tables[(self.period - 1) & 1]
        if not len(before.ids):
            return current.add(ids, said)
        known, conflicts = before.find(ids, said)
        if not known.any():
            return current.add(ids, said)
        unknown = np.flatnonzero(~known)
        new, more = current.add(ids[unknown], said[unknown])
        fresh = np.zeros(len(ids), np.bool_)
        fresh[unknown[new]] = True
        return fresh, conflicts + more

    def _turn(self, period: int) -> None:
        if self.period < 0:
            self.period = period
        if period == self.period + 1:
            self.tables[period & 1] = Table(max(512, len(self.tables[self.period & 1].ids)))  # about as many will come as in the period before
        elif period > self.period + 1:
            self.tables = [Table(), Table()]
        self.period = max(self.period, period)

    def canonical(self) -> list[Any]:
        out: list[Any] = [self.period]
        for age in (0, 1):
            table = self.tables[(self.period - age) & 1]
            keys = table.ids.key[: len(table.ids)]
            order = np.lexsort((keys[:, 1], keys[:, 0]))
            out += [keys[order].tobytes(), table.body[: len(keys)][order].tobytes()]
        return out
