"""Distinct 128-bit keys, numbered in order of arrival: buckets of eight 4-byte entries, whole columns at a time.

An entry holds a key's number and, in the bits that no number of its table needs, some of its hash, so that a look-up reads one bucket, which is half a
cache line, and the key itself only where it is most likely there. A bucket that is full goes on in the next. A table that is 65 % full is followed by one
twice as large, into which the keys move as others are added, a few for each: no call waits for all of them. Memory is 22 to 29 bytes a key, and for a while
that of both tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64

Bools = NDArray[np.bool_]
U32 = NDArray[np.uint32]
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
MOST = (1 << 28) - 1
HALF, ONE = np.uint64(32), np.uint32(1)
LANES = 8
FULLEST = 0.65
FEW = 1 << 16  # keys that move at once
AT_ONCE = 1 << 14  # keys looked up at once: what is read of them stays in the cache
FASTER = 2  # entries of the table before, full or not, moved for every key added: it is empty long before the next is needed


class Buckets:
    """The entries: (buckets, lanes), of each bucket how many are taken, the first ones."""

    def __init__(self, keys: int, fullest: float = FULLEST) -> None:
        self.count = int(keys / (fullest * LANES)) + 2
        self.table: U32 = np.zeros((self.count, LANES), np.uint32)
        self.taken: NDArray[np.uint8] = np.zeros(self.count, np.uint8)
        self.room = int(self.count * LANES * fullest)  # keys
        self.bits = np.uint32(self.room.bit_length())  # of a number plus one; those above are the hash's
        self.number = np.uint32((1 << self.room.bit_length()) - 1)

    def place(self, keys: I64) -> tuple[I64, U32]:
        """(bucket, mark) of each key."""
        words = keys.view(np.uint64)
        h = words[:, 0] ^ (words[:, 1] * MIX)
        bucket: I64 = (((h >> HALF) * np.uint64(self.count)) >> HALF).astype(np.int64)
        return bucket, h.astype(np.uint32) << self.bits

    def seek(self, known: I64, keys: I64) -> tuple[I64, I64, U32]:
        """(number, bucket, mark) of each key; of one that is not there -1 and the bucket that has room: its own, and while that is full, the next.

        `known` are the keys by their numbers.
        """
        found = np.full(len(keys), -1, np.int64)
        bucket, mark = self.place(keys)
        entry = self.table.take(bucket, axis=0)
        here, number = self.same(entry, mark, known, keys)
        found[here] = number
        some = entry[:, -1].nonzero()[0]  # their buckets are full
        while len(some := some[found[some] < 0]):
            onward = (bucket[some] + 1) % self.count
            bucket[some] = onward
            entry = self.table.take(onward, axis=0)
            here, number = self.same(entry, mark[some], known, keys[some])
            found[some[here]] = number
            some = some[entry[:, -1] != 0]
        return found, bucket, mark

    def same(self, entry: U32, mark: U32, known: I64, keys: I64) -> tuple[I64, I64]:
        """Which of the keys stand in the buckets read for them, and their numbers."""
        hit = (((entry ^ mark[:, None]) - ONE) < self.number).reshape(-1).nonzero()[0]  # much faster than over two axes
        if not len(hit):
            return hit, hit
        maybe, number = hit // LANES, (entry.reshape(-1)[hit] & self.number).astype(np.int64) - 1
        halves = known.take(number, axis=0) == keys.take(maybe, axis=0)
        equal = halves[:, 0] & halves[:, 1]
        return maybe[equal], number[equal]

    def enter(self, bucket: I64, mine: U32) -> tuple[Bools, Bools, I64]:
        """Writes each entry into its bucket where there is room and nobody later in the column wants the same place; (who did, who found room, places)."""
        level = self.taken.take(bucket)
        place = bucket * LANES + level
        room = level < LANES
        flat = self.table.reshape(-1)
        if room.all():
            flat[place] = mine
            won = flat.take(place) == mine
        else:
            flat[place[room]] = mine[room]
            won = room.copy()
            won[room] = flat[place[room]] == mine[room]
        self.taken[bucket[won]] = level[won] + 1  # of a bucket one place is entered
        return won, room, place

    def put(self, bucket: I64, mine: U32) -> None:
        """Enters keys that are known to be distinct and not there."""
        while len(bucket):
            won, _, _ = self.enter(bucket, mine)
            lost = ~won
            bucket, mine = bucket[lost], mine[lost]
            bucket = np.where(self.taken[bucket] == LANES, (bucket + 1) % self.count, bucket)


class Keys:
    """Of a table that is less full than usual a look-up costs less, as the next bucket is read less often."""

    def __init__(self, room: int = 512, fullest: float = FULLEST) -> None:
        self.count, self.fullest = 0, fullest
        self.key: I64 = np.empty((room, 2), np.int64)
        self.table = Buckets(room, fullest)
        self._before: Buckets | None = None  # whole, until all it holds has moved
        self._moved = 0  # buckets

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Of the tables, without the keys."""
        return sum(b.table.nbytes + b.taken.nbytes for b in (self.table, self._before) if b is not None)

    def find(self, keys: I64) -> I64:
        """The number of each key, -1 where it is not known."""
        if not self.count or not len(keys):
            return np.full(len(keys), -1, np.int64)
        if len(keys) <= AT_ONCE:
            return self._find(keys)
        return np.concatenate([self._find(keys[at : at + AT_ONCE]) for at in range(0, len(keys), AT_ONCE)])

    def _find(self, keys: I64) -> I64:
        found, _, _ = self.table.seek(self.key, keys)
        self._look_back(found, keys)
        return found

    def _look_back(self, found: I64, keys: I64) -> None:
        """What was not found may stand in the table before."""
        if self._before is not None and len(rest := (found < 0).nonzero()[0]):
            found[rest] = self._before.seek(self.key, keys[rest])[0]

    def add(self, keys: I64) -> tuple[I64, Bools]:
        """(number of each key, whether it is new): of equal keys only the first is new."""
        if len(keys) <= AT_ONCE:
            return self._add(keys)
        parts = [self._add(keys[at : at + AT_ONCE]) for at in range(0, len(keys), AT_ONCE)]
        return np.concatenate([number for number, _ in parts]), np.concatenate([new for _, new in parts])

    def _add(self, keys: I64) -> tuple[I64, Bools]:
        n = len(keys)
        if not n:
            return np.empty(0, np.int64), np.zeros(0, np.bool_)
        self._room(n)
        base, table = self.count, self.table
        self.key[base : base + n] = keys  # provisional: key i has number base + i until it is known which are new
        number, bucket, mark = table.seek(self.key, keys)
        self._look_back(number, keys)
        new = number < 0
        pending = new.nonzero()[0][::-1]  # of several that want one place the last to write wins: reversed, the first in order
        bucket, mark = (bucket[::-1], mark[::-1]) if len(pending) == n else (bucket[pending], mark[pending])
        at = np.empty(n, np.int64)
        while len(pending):
            won, room, place = table.enter(bucket, (pending + (base + 1)).astype(np.uint32) | mark)
            mine = pending[won]
            number[mine], at[mine] = base + mine, place[won]
            if len(mine) == len(pending):
                break
            lost = ~won  # those whose bucket is full go on; who loses a place to another looks here again: it may be the same key
            pending, bucket, mark = pending[lost], (bucket + ~room)[lost] % table.count, mark[lost]
            there, known = table.same(table.table.take(bucket, axis=0), mark, self.key, keys[pending])
            if len(there):
                number[pending[there]], new[pending[there]] = known, False
                rest = np.ones(len(pending), np.bool_)
                rest[there] = False
                pending, bucket, mark = pending[rest], bucket[rest], mark[rest]
        fresh = new.nonzero()[0]
        if len(fresh) < n:
            rank = np.cumsum(new) - 1
            given = number >= base
            number[given] = base + rank[number[given] - base]
            table.table.reshape(-1)[at[fresh]] = (number[fresh] + 1).astype(np.uint32) | table.place(keys[fresh])[1]
            self.key[base : base + len(fresh)] = keys[fresh]
        self.count += len(fresh)
        return number, new

    def settle(self) -> None:
        """Whatever has yet to move moves now."""
        if self._before is not None:
            self._move(self._before.count)

    def _room(self, more: int) -> None:
        needed = self.count + more
        if needed > MOST:
            raise OverflowError("more than 268 million keys in one table")
        if needed > len(self.key):
            wider = np.empty((max(needed, len(self.key) * 3 // 2), 2), np.int64)
            wider[: self.count] = self.key[: self.count]
            self.key = wider
        if needed > self.table.room:
            self.settle()
            self._before, self._moved, self.table = self.table, 0, Buckets(max(needed, self.table.room * 2), self.fullest)
            if self.count <= FEW:
                self.settle()
        if self._before is not None:
            self._move(max(64, FASTER * more // LANES))

    def _move(self, buckets: int) -> None:
        """The next so many buckets of the table before move, in order of their keys' places: memory is walked, not hit at random."""
        before = self._before
        if before is None:
            return
        stop = min(before.count, self._moved + buckets)
        for start in range(self._moved, stop, FEW):
            entries = before.table[start : min(start + FEW, stop)].reshape(-1)
            number = (entries[entries != 0] & before.number).astype(np.int64)
            bucket, mark = self.table.place(self.key[number - 1])
            self.table.put(bucket, number.astype(np.uint32) | mark)
        self._moved = stop
        if stop == before.count:
            self._before = None
