"""Entities as rows: a row knows its ancestors, so lifting amounts to every level is one gather. Row order is never observable."""

from __future__ import annotations

import numpy as np

from services.kernel.record import I64

DEPTH = 5  # platform, account, campaign, ad_group, creative
NEVER = np.iinfo(np.int64).min


class Entities:
    """`lineage[row, depth]` is the ancestor's row at that depth, -1 below the entity itself."""

    def __init__(self) -> None:
        self.row: dict[str, int] = {}
        self.path: list[str] = []
        self.children: list[list[int]] = []
        self.depth: I64 = np.zeros(64, np.int64)
        self.lineage: I64 = np.full((64, DEPTH), -1, np.int64)
        self.first_event: I64 = np.full(64, NEVER, np.int64)  # stamp of the first accepted event, its own or a descendant's

    def __len__(self) -> int:
        return len(self.path)

    def resolve(self, path: str) -> int:
        known = self.row.get(path)
        if known is not None:
            return known
        parent = self.resolve(path.rpartition("/")[0]) if "/" in path else -1
        row = len(self.path)
        if row == len(self.depth):
            self._grow()
        self.row[path] = row
        self.path.append(path)
        self.children.append([])
        depth = path.count("/")
        self.depth[row] = depth
        if parent >= 0:
            self.lineage[row] = self.lineage[parent]
            self.children[parent].append(row)
        self.lineage[row, depth] = row
        return row

    def _grow(self) -> None:
        n = len(self.depth)
        self.depth = np.concatenate([self.depth, np.zeros(n, np.int64)])
        self.lineage = np.concatenate([self.lineage, np.full((n, DEPTH), -1, np.int64)])
        self.first_event = np.concatenate([self.first_event, np.full(n, NEVER, np.int64)])

    def touch(self, rows: I64, stamps: I64) -> None:
        """Rows had an accepted event at these stamps: they and their ancestors exist from then on."""
        lifted = self.lineage[rows].reshape(-1)
        when = np.repeat(stamps, DEPTH)
        keep = lifted >= 0
        lifted, when = lifted[keep], when[keep]
        fresh = self.first_event[lifted] == NEVER
        lifted, when = lifted[fresh][::-1], when[fresh][::-1]
        self.first_event[lifted] = when  # of several the earliest in log order is written last

    def at_depth(self, depth: int) -> I64:
        n = len(self.path)
        rows: I64 = np.flatnonzero((self.depth[:n] == depth) & (self.first_event[:n] != NEVER)).astype(np.int64)
        return rows
