"""Running sums over windows, made of panes.

A window of width w, read at a boundary `now` (both microseconds), covers every amount whose landing instant t satisfies

    floor((now - w) / pane) * pane  <=  t  <  now

so it is up to one pane wider than w, never narrower. `pane` travels in the activation record. A sum over a window without rows is 0.

    ... | pane | pane | pane | pane | ...
        ^ floor((now-w)/pane)     ^ now, exclusive: only records stamped before the boundary have been folded, and nothing lands after its stamp

The sums are dense, (rows, slots), of every level that is asked for. A pane is sparse: (cell, amount) of the entities that were reported, one pair a cell;
it is lifted to their ancestors again when it leaves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from services.kernel.record import I64

Part = tuple[I64, I64]  # (cells, amounts); a cell is row << SLOT_BITS | slot
SLOT_BITS = 16
SLOT = (1 << SLOT_BITS) - 1
LOOSE = 64  # parts of a pane that are kept apart before they are summed into one


def total(cell: I64, amount: I64, end: int) -> Part:
    """One pair a cell; `end` is above every cell's row."""
    n = len(cell)
    if n < 2:
        return cell, amount
    slots = int((cell & SLOT).max()) + 1
    dense = end * slots
    if dense <= 16 * n:  # counting beats sorting
        flat = (cell >> SLOT_BITS) * slots + (cell & SLOT)
        sums, seen = np.zeros(dense, np.int64), np.zeros(dense, np.bool_)
        np.add.at(sums, flat, amount)
        seen[flat] = True
        kept = np.flatnonzero(seen)
        return (kept // slots) << SLOT_BITS | kept % slots, sums[kept]
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.add.reduceat(amount[order], starts)


class Panes:
    """What landed in each pane, kept as long as the widest window over it reads it."""

    def __init__(self, width: int) -> None:
        self.width = width  # microseconds
        self.parts: dict[int, list[Part]] = {}

    def put(self, pane: int, part: Part, rows: int) -> None:
        parts = self.parts.setdefault(pane, [])
        parts.append(part)
        if len(parts) > LOOSE:
            self.seal(pane, rows)

    def seal(self, pane: int, rows: int) -> Part:
        """One part of summed cells instead of many: memory is what happened."""
        parts = self.parts[pane]
        if len(parts) > 1:
            parts[:] = [total(np.concatenate([c for c, _ in parts]), np.concatenate([a for _, a in parts]), rows)]
        return parts[0]


class Sums:
    """Dense sums in micro-units, (rows, slots), for the levels asked for."""

    def __init__(self) -> None:
        self.table: I64 = np.zeros((64, 4), np.int64)

    def room(self, rows: int, slots: int) -> None:
        r, s = self.table.shape
        if rows > r or slots > s:
            wider = np.zeros((max(r, rows + (rows >> 1)) if rows > r else r, max(s, slots)), np.int64)
            wider[:r, :s] = self.table
            self.table = wider

    def put(self, lifted: Part, slots: int) -> None:
        """Adds what was lifted for a table of so many slots."""
        flat, amount = lifted
        width = self.table.shape[1]
        np.add.at(self.table.reshape(-1), flat if width == slots else flat // slots * width + flat % slots, amount)

    def add(self, part: Part, lineage: I64) -> None:
        """`lineage` is (rows, levels): every cell's amount is added at each of its ancestors, -1 being none."""
        flat, amount = lift(part, lineage, self.table.shape[1])
        np.add.at(self.table.reshape(-1), flat, amount)

    def subtract(self, part: Part, lineage: I64) -> None:
        flat, amount = lift(part, lineage, self.table.shape[1])
        np.subtract.at(self.table.reshape(-1), flat, amount)


def lift(part: Part, lineage: I64, slots: int) -> Part:
    """(index into the flattened sums, amount) at every level."""
    cell, amount = part
    above = lineage[cell >> SLOT_BITS]
    flat = above * slots + (cell & SLOT)[:, None]
    amounts = np.broadcast_to(amount[:, None], flat.shape)
    if (above < 0).any():
        kept = above >= 0
        return flat[kept], amounts[kept]
    return flat.reshape(-1), amounts.reshape(-1)


class Window:
    def __init__(self, width: int, panes: Panes) -> None:
        self.width, self.panes, self.sums = width, panes, Sums()
        self.first = 0  # the oldest pane inside

    def oldest(self, now: int) -> int:
        return (now - self.width) // self.panes.width

    def next_roll(self) -> int:
        """The earliest instant at which a pane that holds something leaves; 0 when none will."""
        held = min((p for p in self.panes.parts if p >= self.first), default=None)
        return 0 if held is None else (held + 1) * self.panes.width + self.width


class Windows:
    """All windows over all pane widths of one workspace, at the levels that somebody reads."""

    def __init__(self, demanded: tuple[tuple[int, int], ...] = (), depths: tuple[int, ...] = ()) -> None:
        self.depths = list(depths)
        self.panes: dict[int, Panes] = {}
        self.windows: dict[tuple[int, int], Window] = {}
        for width, pane in demanded:
            self.windows[width, pane] = Window(width, self.panes.setdefault(pane, Panes(pane)))
        self._turn = 0

    def fold(self, cell: I64, amount: I64, landing: I64, lineage: I64, rows: int, slots: int) -> None:
        """Adds amounts that landed at these instants; `lineage` is (rows, levels) of every row there is."""
        for window in self.windows.values():
            window.sums.room(rows, slots)
        self._turn = 0
        whole: Part | None = None
        for width, panes in self.panes.items():
            pane = landing // width
            if len(pane) > 1 and (pane[1:] < pane[:-1]).any():
                order = np.argsort(pane, kind="stable")
                pane, cells, amounts = pane[order], cell[order], amount[order]
            else:
                cells, amounts = cell, amount
            mine = [w for w in self.windows.values() if w.panes is panes]
            starts = [0, *(np.flatnonzero(pane[1:] != pane[:-1]) + 1).tolist(), len(pane)]
            oldest = min(w.first for w in mine)
            for start, stop in pairwise(starts):
                if (p := int(pane[start])) >= oldest:
                    panes.put(p, (cells[start:stop], amounts[start:stop]), rows)
            for window in mine:
                first = int(np.searchsorted(pane, window.first))
                if first == 0:
                    whole = whole or lift(total(cell, amount, rows), lineage, slots)
                    window.sums.put(whole, slots)
                elif first < len(pane):
                    window.sums.add(total(cells[first:], amounts[first:], rows), lineage)

    def roll(self, now: int, lineage: I64, rows: int) -> list[I64]:
        """Panes that no longer belong are subtracted; returns the rows they touched, some of them often, -1 for none."""
        touched: list[I64] = []
        due = self.next_roll()
        if not due or due > now:
            for w in self.windows.values():
                w.first = max(w.first, w.oldest(now))
            return touched
        self._turn = 0
        for window in self.windows.values():
            oldest = window.oldest(now)
            for pane in sorted(p for p in window.panes.parts if window.first <= p < oldest):
                part = window.panes.seal(pane, rows)
                window.sums.subtract(part, lineage)
                touched.append(lineage[part[0] >> SLOT_BITS].reshape(-1))
            window.first = max(window.first, oldest)
        for panes in self.panes.values():
            oldest = min(w.first for w in self.windows.values() if w.panes is panes)
            for pane in [p for p in panes.parts if p < oldest]:
                del panes.parts[pane]
        return touched

    def next_roll(self) -> int:
        """The earliest instant at which a pane that holds something leaves a window; 0 when none will."""
        if not self._turn:
            self._turn = min((t for w in self.windows.values() if (t := w.next_roll())), default=0)
        return self._turn

    def canonical(self) -> list[Any]:
        return [[key, window.first] for key, window in sorted(self.windows.items())]
