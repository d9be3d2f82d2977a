"""Entities as rows: a row knows its ancestors, so lifting amounts to every level is one gather. Row order is never observable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.kernel.ids import path_key
from services.kernel.record import I64
from services.rules_engine.core.keys import Keys

DEPTH = 5  # platform, account, campaign, ad_group, creative
NEVER = np.iinfo(np.int64).min
NOWHERE = -2  # no row at all
SPARSE = 0.25  # how full the table of their keys may become


class Entities:
    """`lineage[row, depth]` is the ancestor's row at that depth, -1 below the entity itself. A row is also known by the 128-bit hash of its path."""

    def __init__(self) -> None:
        self.row: dict[str, int] = {}
        self.path: list[str] = []
        self.keys = Keys(64, SPARSE)
        self.depth: I64 = np.zeros(64, np.int64)
        self.word: I64 = np.zeros(64, np.int64)  # half of the path's hash
        self.lineage: I64 = np.full((64, DEPTH), -1, np.int64)
        self.first_event: I64 = np.full(64, NEVER, np.int64)  # stamp of the first accepted event, its own or a descendant's

    def __len__(self) -> int:
        return len(self.path)

    def resolve(self, path: str) -> int:
        known = self.row.get(path)
        return self.rows([path])[0] if known is None else known

    def rows(self, paths: Sequence[str]) -> list[int]:
        """The row of each path; what is new gets one, its ancestors first."""
        made = [self.row.get(p, -1) for p in paths]
        if -1 in made:
            self._add(dict.fromkeys(p for p, row in zip(paths, made, strict=True) if row < 0))
            made = [self.row[p] for p in paths]
        return made

    def _add(self, paths: dict[str, None]) -> None:
        first = len(self.path)
        for path in paths:
            at = path.find("/")
            while at >= 0:
                self._enter(path[:at])
                at = path.find("/", at + 1)
            self._enter(path)
        count = len(self.path)
        self._room(count)
        keys = np.frombuffer(b"".join(path_key(p) for p in self.path[first:]), "<i8").reshape(-1, 2)
        self.keys.add(keys)
        self.word[first:count] = keys[:, 0]
        for row in range(first, count):
            path = self.path[row]
            depth = path.count("/")
            self.depth[row] = depth
            if depth:
                self.lineage[row] = self.lineage[self.row[path.rpartition("/")[0]]]
            self.lineage[row, depth] = row

    def _enter(self, path: str) -> None:
        if path not in self.row:
            self.row[path] = len(self.path)
            self.path.append(path)

    def _room(self, rows: int) -> None:
        n = len(self.depth)
        if rows <= n:
            return
        more = max(rows, n * 2) - n
        self.depth = np.concatenate([self.depth, np.zeros(more, np.int64)])
        self.word = np.concatenate([self.word, np.zeros(more, np.int64)])
        self.lineage = np.concatenate([self.lineage, np.full((more, DEPTH), -1, np.int64)])
        self.first_event = np.concatenate([self.first_event, np.full(more, NEVER, np.int64)])

    def touch(self, rows: I64, stamps: I64) -> None:
        """Rows had an accepted event at these stamps, which never fall: they and their ancestors exist from then on."""
        new = np.flatnonzero(self.first_event[rows] == NEVER)
        if not len(new):
            return
        lifted = self.lineage[rows[new]].reshape(-1)
        when = np.repeat(stamps[new], DEPTH)
        keep = (lifted >= 0) & (self.first_event[lifted] == NEVER)
        self.first_event[lifted[keep][::-1]] = when[keep][::-1]  # of several the earliest in log order is written last

    def account(self, rows: I64) -> I64:
        """The row of each one's account; a platform stands for itself."""
        accounts: I64 = self.lineage[rows, 1]
        return np.where(accounts >= 0, accounts, self.lineage[rows, 0]) if (accounts < 0).any() else accounts

    def at_depth(self, depth: int) -> I64:
        """Rows of this depth that exist."""
        n = len(self.path)
        rows: I64 = np.flatnonzero((self.depth[:n] == depth) & (self.first_event[:n] != NEVER))
        return rows
