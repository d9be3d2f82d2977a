"""Where the rules of a panel may hold at each of some boundaries that were worked out together: its sieve is asked about all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.ahead import Ahead
from services.rules_engine.core.entities import NOWHERE
from services.rules_engine.core.sieve import MOST_CELLS, MOST_ROWS, NO_SPOTS, Sight, Spots

if TYPE_CHECKING:
    from services.rules_engine.core.panel import Panel
    from services.rules_engine.core.workspace import Workspace

MOST_NUMBERS = 1 << 23  # values of quantities

class Glance:
    """`sight` is of every pair (row, boundary) of the panel's objects; what is told of one boundary are indexes into it."""

    def __init__(self, panel: Panel, ahead: Ahead, workspace: Workspace) -> None:
        self.ahead, self._sieve = ahead, panel.sieve
        entities, pairs = workspace.facts.entities, ahead.pairs
        row, sums, self._order, self._edges = pairs.row, ahead.sums, pairs.order, pairs.edges
        mine = panel.sieve.has_level[entities.depth[row]] & (entities.lineage[row, 0] == entities.row.get(panel.platform, NOWHERE))
        if not mine.all():
            row, sums = row[mine], {key: table[:, mine] for key, table in sums.items()}
            kept = mine[pairs.order]
            self._order = (mine.cumsum() - 1)[pairs.order[kept]]
            self._edges = np.concatenate([[0], kept.cumsum()])[pairs.edges].tolist()
        sights, found = [], [NO_SPOTS]
        self.is_small = True
        for start in range(0, max(len(row), 1), MOST_ROWS):
            part = slice(start, start + MOST_ROWS)
            sights.append(panel.sieve.sight(workspace, row[part], {key: table[:, part] for key, table in sums.items()}))
            self.is_small = self.is_small and self._sift(sights[-1], start, found)
        self.sight = Sight(row, np.concatenate([s.values for s in sights], axis=1), np.sum([s.edges for s in sights], axis=0).tolist())
        at, seat = (np.concatenate([spots[i] for spots in found]) for i in (0, 1))
        boundary = np.empty(len(row), np.int64)
        boundary[self._order] = np.arange(len(self._edges) - 1).repeat(np.diff(self._edges))
        order = boundary[at].argsort(kind="stable")
        self._at, self._seat = at[order], seat[order]
        self._ends = boundary[self._at].searchsorted(np.arange(len(self._edges))).tolist()

    def _sift(self, sight: Sight, start: int, found: list[Spots]) -> bool:
        """Adds the cells of a part that begins there; whether they are not so many that they are better looked for boundary by boundary."""
        cells = sum(len(at) for at, _ in found)
        for at, seat in self._sieve.sifted(sight):
            cells += len(at)
            if cells > MOST_CELLS:
                return False
            found.append((at + start, seat))
        return True

    def objects(self, boundary: int) -> I64:
        """The panel's objects that may have changed, by their levels."""
        return self._order[self._edges[boundary] : self._edges[boundary + 1]]

    def candidates(self, boundary: int) -> Iterator[Spots]:
        """Wherever a condition may be true, in pieces."""
        some = slice(self._ends[boundary], self._ends[boundary + 1])
        yield self._at[some], self._seat[some]
        if self._sieve.loose:
            objects = self.objects(boundary)
            edges = objects.searchsorted(self.sight.edges).tolist()
            for level in self._sieve.loose:
                yield from self._sieve.unsifted(level, objects[edges[level] : edges[level + 1]])
