"""The last value of every report row and measure, and when it was true: a newer reading becomes the difference to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.keys import Bools, Keys

AS_OF, VALUE, ROW, START, SLOT = range(5)


class Snapshots:
    """A row is known by its 128-bit id and the measure's word; it stays with the entity on which it was first folded."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.kept: I64 = np.zeros((512, 5), np.int64)
        self.ids: I64 = np.zeros((512, 2), np.int64)

    def restate(self, ids: I64, word: I64, slot: I64, as_of: I64, value: I64, row: I64, start: I64) -> tuple[Bools, I64, I64]:
        """(newer than what was kept, difference, the entity's row) of each reading, in log order. A redelivered or older one changes nothing."""
        n = len(value)
        keys = ids.copy()
        keys[:, 0] ^= word
        number, new = self.keys.add(keys)
        self._room(len(self.keys))
        fresh = number[new]
        self.ids[fresh] = ids[new]
        self.kept[fresh] = np.stack([np.full(len(fresh), -1), np.zeros(len(fresh), np.int64), row[new], start[new], slot[new]], axis=1)
        newer, difference, of = np.zeros(n, np.bool_), np.zeros(n, np.int64), self.kept[number, ROW]
        for turn in turns(number):
            at = number[turn]
            fits = as_of[turn] > self.kept[at, AS_OF]
            turn, at = turn[fits], at[fits]
            newer[turn] = True
            difference[turn] = value[turn] - self.kept[at, VALUE]
            self.kept[at, AS_OF], self.kept[at, VALUE] = as_of[turn], value[turn]
        return newer, difference, of

    def _room(self, count: int) -> None:
        if count > len(self.kept):
            more = max(count, len(self.kept) * 3 // 2) - len(self.kept)
            self.kept = np.concatenate([self.kept, np.zeros((more, 5), np.int64)])
            self.ids = np.concatenate([self.ids, np.zeros((more, 2), np.int64)])

    def __len__(self) -> int:
        return len(self.keys)

    def canonical(self, path: list[str], slots: list[tuple[str, str]]) -> list[Any]:
        n = len(self)
        rows = zip(self.ids[:n].tolist(), self.kept[:n].tolist(), strict=True)
        return sorted([key, path[k[ROW]], list(slots[k[SLOT]]), k[AS_OF], k[VALUE]] for key, k in rows)


def turns(number: I64) -> list[I64]:
    """Indices in as few groups as each number occurs at most once in one, those of one number in order."""
    n = len(number)
    if n < 2:
        return [np.arange(n)]
    order = np.argsort(number, kind="stable")
    ordered = number[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    if first.all():
        return [np.arange(n)]
    starts = np.flatnonzero(first)
    place = np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))
    return [order[place == t] for t in range(int(place.max()) + 1)]
