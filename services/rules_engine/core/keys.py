"""Distinct 128-bit keys, numbered in order of arrival: open addressing over a table of 4-byte entries, whole columns at a time.

An entry holds a key's number and four bits of its hash, so a probe reads one word of a small table and the key itself only where it is most likely there.
Memory is at most 26 bytes a key: 16 of the key and 4 / load of the table, which grows by half whenever it is 65 % full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64

Bools = NDArray[np.bool_]
U64 = NDArray[np.uint64]
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
NUMBER, MARK = np.uint32((1 << 28) - 1), np.uint32(0xF0000000)
HALF = np.uint64(32)
FULLEST = 0.65
CHUNK = 1 << 18


class Keys:
    def __init__(self, room: int = 512) -> None:
        self.count = 0
        self.key: I64 = np.empty((room, 2), np.int64)
        self.table = np.zeros(int(room / FULLEST) + 8, np.uint32)

    def __len__(self) -> int:
        return self.count

    def _place(self, keys: I64) -> tuple[I64, NDArray[np.uint32]]:
        """(slot, mark) of each key."""
        words = keys.view(np.uint64)
        h = words[:, 0] ^ (words[:, 1] * MIX)
        slot: I64 = (((h >> HALF) * np.uint64(len(self.table))) >> HALF).astype(np.int64)
        return slot, (h.astype(np.uint32) << np.uint32(28))

    def find(self, keys: I64) -> I64:
        """The number of each key, -1 where it is not known."""
        found = np.full(len(keys), -1, np.int64)
        if not self.count or not len(keys):
            return found
        slot, mark = self._place(keys)
        pending, end = np.arange(len(keys)), len(self.table)
        while True:
            entry = self.table[slot]
            taken = entry != 0
            same, number = self._same(entry, taken, mark, keys, pending)
            found[pending[same]] = number
            taken[same] = False
            go = np.flatnonzero(taken)
            if not len(go):
                return found
            pending, mark, slot = pending[go], mark[go], slot[go] + 1
            slot[slot == end] = 0

    def _same(self, entry: NDArray[np.uint32], taken: Bools, mark: NDArray[np.uint32], keys: I64, pending: I64) -> tuple[I64, I64]:
        """Which of the pending keys are those that their entries hold, and these keys' numbers."""
        maybe = np.flatnonzero(taken & ((entry & MARK) == mark))
        number = (entry[maybe] & NUMBER).astype(np.int64) - 1
        here = pending[maybe]
        equal = (self.key[number, 0] == keys[here, 0]) & (self.key[number, 1] == keys[here, 1])
        return maybe[equal], number[equal]

    def add(self, keys: I64) -> tuple[I64, Bools]:
        """(number of each key, whether it is new): of equal keys only the first is new."""
        n = len(keys)
        number, new = np.empty(n, np.int64), np.zeros(n, np.bool_)
        if not n:
            return number, new
        self._room(n)
        base, end, table = self.count, len(self.table), self.table
        self.key[base : base + n] = keys  # provisional: key i has number base + i until it is known which are new
        at = np.zeros(n, np.int64)
        slot, mark = self._place(keys)
        pending = np.arange(n)[::-1]  # of several that want one slot the last to write wins: reversed, the first in order
        slot, mark = slot[::-1], mark[::-1]
        while len(pending):
            entry = table[slot]
            taken = entry != 0
            free = np.flatnonzero(~taken)
            if len(free):
                mine = (pending[free] + (base + 1)).astype(np.uint32) | mark[free]
                table[slot[free]] = mine
                won = free[table[slot[free]] == mine]
                mine_at = pending[won]
                new[mine_at], number[mine_at], at[mine_at] = True, base + mine_at, slot[won]
            else:
                won = free
            same, known = self._same(entry, taken, mark, keys, pending)
            number[pending[same]] = known
            rest = np.ones(len(pending), np.bool_)
            rest[won] = rest[same] = False
            step = taken[rest]  # those that lost a free slot look there again
            pending, mark, slot = pending[rest], mark[rest], slot[rest] + step
            slot[slot == end] = 0
        fresh = np.flatnonzero(new)
        if len(fresh) < n:
            rank = np.cumsum(new) - 1
            given = number >= base
            number[given] = base + rank[number[given] - base]
            table[at[fresh]] = (number[fresh] + 1).astype(np.uint32) | (self._mark(keys[fresh]))
            self.key[base : base + len(fresh)] = keys[fresh]
        self.count += len(fresh)
        return number, new

    @staticmethod
    def _mark(keys: I64) -> NDArray[np.uint32]:
        words = keys.view(np.uint64)
        return (words[:, 0] ^ (words[:, 1] * MIX)).astype(np.uint32) << np.uint32(28)

    def _room(self, more: int) -> None:
        needed = self.count + more
        if needed > int(NUMBER):
            raise OverflowError("more than 268 million keys in one table")
        if needed > len(self.key):
            wider = np.empty((max(needed, len(self.key) * 3 // 2), 2), np.int64)
            wider[: self.count] = self.key[: self.count]
            self.key = wider
        if needed > FULLEST * len(self.table):
            self.table = np.zeros(max(int(needed / FULLEST) + 8, len(self.table) * 3 // 2), np.uint32)
            for start in range(0, self.count, CHUNK):
                self._put(start, min(start + CHUNK, self.count))

    def _put(self, start: int, stop: int) -> None:
        """Enters keys that are known to be distinct."""
        slot, mark = self._place(self.key[start:stop])
        mine = np.arange(start + 1, stop + 1).astype(np.uint32) | mark
        order = np.argsort(slot)  # in order of the place, memory is walked once instead of hit at random
        slot, mine = slot[order], mine[order]
        end, table = len(self.table), self.table
        while len(slot):
            free = table[slot] == 0
            table[slot[free]] = mine[free]
            lost = table[slot] != mine
            slot, mine = slot[lost], mine[lost]
            slot = np.where(table[slot] == 0, slot, slot + 1)
            slot[slot == end] = 0
