"""Which events have counted: 128-bit ids in two vectorized hash tables, each one horizon of engine time long.

    period p-1            period p             period p+1
|------ table A ------|------ table B ------|------ table A (emptied) ...
an id is known from its arrival until the period after its own ends, so a look-up costs two probes and no late duplicate can count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64

Bools = NDArray[np.bool_]
MIX = np.int64(-7046029254386353131)  # 2^64 / golden ratio, as a signed word


class Table:
    """An open-addressing set of 128-bit keys, each with the 64-bit hash of its content; grows at half load."""

    def __init__(self, slots: int = 1 << 10) -> None:
        self.used = 0
        self._make(slots)

    def _make(self, slots: int) -> None:
        self.mask = np.int64(slots - 1)
        self.taken: Bools = np.zeros(slots, np.bool_)
        self.key: I64 = np.zeros((slots, 2), np.int64)
        self.body: I64 = np.zeros(slots, np.int64)
        self.claim: I64 = np.zeros(slots, np.int64)

    def _start(self, ids: I64) -> I64:
        with np.errstate(over="ignore"):
            slots: I64 = ((ids[:, 0] ^ (ids[:, 1] * MIX)) & self.mask).astype(np.int64)
        return slots

    def find(self, ids: I64) -> tuple[Bools, I64]:
        """(known, body hash) of each id."""
        known, body = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.int64)
        slot, pending = self._start(ids), np.arange(len(ids))
        while len(pending):
            s = slot[pending]
            taken = self.taken[s]
            same = taken & (self.key[s] == ids[pending]).all(axis=1)
            known[pending[same]], body[pending[same]] = True, self.body[s[same]]
            go = taken & ~same
            slot[pending[go]] = (s[go] + 1) & self.mask
            pending = pending[go]
        return known, body

    def add(self, ids: I64, body: I64) -> None:
        """Adds ids that are distinct and not yet here."""
        while (self.used + len(ids)) * 2 > len(self.taken):
            key, old = self.key[self.taken], self.body[self.taken]
            self._make(len(self.taken) * 2)
            self._insert(key, old)
        self._insert(ids, body)
        self.used += len(ids)

    def _insert(self, ids: I64, body: I64) -> None:
        slot, pending = self._start(ids), np.arange(len(ids))
        while len(pending):
            s = slot[pending]
            free = ~self.taken[s]
            won = np.zeros(len(pending), np.bool_)
            self.claim[s[free]] = pending[free]  # several may want one slot: the last to claim it wins, the others look again
            won[free] = self.claim[s[free]] == pending[free]
            self.key[s[won]], self.body[s[won]], self.taken[s[won]] = ids[pending[won]], body[pending[won]], True
            lost = pending[~won]
            slot[lost] = np.where(self.taken[slot[lost]], (slot[lost] + 1) & self.mask, slot[lost])
            pending = lost


class Seen:
    """The two tables. `accept` says which of a column of ids count, in log order, and how many conflicted with what was accepted before."""

    def __init__(self, horizon: int) -> None:
        self.horizon, self.period = horizon, -1
        self.tables = [Table(), Table()]

    def accept(self, ids: I64, body: I64, stamp: int) -> tuple[Bools, int]:
        """True where the id is new: of two events with one id the first in log order counts, whatever the other says."""
        self._turn(stamp // self.horizon)
        first = np.zeros(len(ids), np.bool_)
        _, index, inverse = np.unique(ids, axis=0, return_index=True, return_inverse=True)
        first[index] = True
        conflicts = int((body != body[index[inverse.reshape(-1)]]).sum())
        for table in self.tables:
            known, was = table.find(ids)
            conflicts += int((known & first & (was != body)).sum())
            first &= ~known
        self.tables[self.period & 1].add(ids[first], body[first])
        return first, conflicts

    def _turn(self, period: int) -> None:
        if self.period < 0:
            self.period = period
        if period == self.period + 1:
            self.tables[period & 1] = Table()
        elif period > self.period + 1:
            self.tables = [Table(), Table()]
        self.period = max(self.period, period)

    def canonical(self) -> list[Any]:
        out: list[Any] = [self.period]
        for age in (0, 1):
            table = self.tables[(self.period - age) & 1]
            keys = table.key[table.taken]
            order = np.lexsort((keys[:, 1], keys[:, 0]))
            out += [keys[order].tobytes(), table.body[table.taken][order].tobytes()]
        return out
