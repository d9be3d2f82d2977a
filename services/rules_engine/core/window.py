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

from bisect import bisect_left, insort
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
        kept = seen.nonzero()[0]
        return (kept // slots) << SLOT_BITS | kept % slots, sums[kept]
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    starts = np.concatenate([[0], (ordered[1:] != ordered[:-1]).nonzero()[0] + 1])
    return ordered[starts], np.add.reduceat(amount[order], starts)


class Panes:
    """What landed in each pane, kept as long as the widest window over it reads it."""

    def __init__(self, width: int) -> None:
        self.width = width  # microseconds
        self.parts: dict[int, list[Part]] = {}
        self.order: list[int] = []  # of the panes that hold something

    def put(self, pane: int, part: Part, rows: int) -> None:
        if pane not in self.parts:
            self.parts[pane] = []
            insort(self.order, pane)
        parts = self.parts[pane]
        parts.append(part)
        if len(parts) > LOOSE:
            self.seal(pane, rows)

    def seal(self, pane: int, rows: int) -> Part:
        """One part of summed cells instead of many: memory is what happened."""
        parts = self.parts[pane]
        if len(parts) > 1:
            parts[:] = [total(np.concatenate([c for c, _ in parts]), np.concatenate([a for _, a in parts]), rows)]
        return parts[0]

    def between(self, first: int, end: int) -> list[int]:
        """The panes from `first` up to `end` that hold something."""
        return self.order[bisect_left(self.order, first) : bisect_left(self.order, end)]

    def held(self, first: int, end: int) -> int:
        """How many amounts are held of the panes from `first` up to `end`."""
        return sum(len(cell) for pane in self.between(first, end) for cell, _ in self.parts[pane])

    def forget(self, end: int) -> None:
        """What lies before is read no more."""
        if not self.order or self.order[0] >= end:
            return
        gone = bisect_left(self.order, end)
        for pane in self.order[:gone]:
            del self.parts[pane]
        del self.order[:gone]


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

    def subtract(self, part: Part, lineage: I64) -> I64:
        """Returns the rows that it took from, some of them often, -1 for none."""
        width = self.table.shape[1]
        flat, amount = lift(part, lineage, width)
        np.subtract.at(self.table.reshape(-1), flat, amount)
        rows: I64 = flat // width
        return rows


def lift(part: Part, lineage: I64, slots: int) -> Part:
    """(index into the flattened sums, amount) at every level."""
    cell, amount = part
    above = lineage[cell >> SLOT_BITS]
    flat = (above * slots + (cell & SLOT)[:, None]).reshape(-1)
    amounts = amount.repeat(above.shape[1])
    kept = above.reshape(-1) >= 0
    return (flat, amounts) if kept.all() else (flat[kept], amounts[kept])


class Window:
    def __init__(self, width: int, panes: Panes) -> None:
        self.width, self.panes, self.sums = width, panes, Sums()
        self.first = 0  # the oldest pane inside

    def oldest(self, now: int) -> int:
        return (now - self.width) // self.panes.width

    def firsts(self, instants: I64) -> I64:
        """The oldest pane inside once it has been rolled to each of these instants, which rise."""
        return np.maximum((instants - self.width) // self.panes.width, self.first)

    def next_roll(self) -> int:
        """The earliest instant at which a pane that holds something leaves; 0 when none will."""
        order = self.panes.order
        at = bisect_left(order, self.first)
        return 0 if at == len(order) else (order[at] + 1) * self.panes.width + self.width


class Windows:
    """All windows over all pane widths of one workspace, at the levels that somebody reads."""

    def __init__(self, demanded: tuple[tuple[int, int], ...] = (), depths: tuple[int, ...] = ()) -> None:
        self.depths = list(depths)
        self.panes: dict[int, Panes] = {}
        self.windows: dict[tuple[int, int], Window] = {}
        for width, pane in demanded:
            self.windows[width, pane] = Window(width, self.panes.setdefault(pane, Panes(pane)))
        self._turn = 0

    def room(self, rows: int, slots: int) -> None:
        for window in self.windows.values():
            window.sums.room(rows, slots)

    def fold(self, cell: I64, amount: I64, landing: I64, lineage: I64, rows: int, slots: int) -> None:
        """Adds amounts that landed at these instants; `lineage` is (rows, levels) of every row there is."""
        self.room(rows, slots)
        whole: Part | None = None
        if (landing[1:] < landing[:-1]).any():
            order = landing.argsort(kind="stable")
            landing, cell, amount = landing[order], cell[order], amount[order]
        for width, panes in self.panes.items():
            pane = landing // width
            starts = [0, len(pane)] if pane[0] == pane[-1] else [0, *((pane[1:] != pane[:-1]).nonzero()[0] + 1).tolist(), len(pane)]
            mine = [w for w in self.windows.values() if w.panes is panes]
            oldest = min(w.first for w in mine)
            for start, stop in pairwise(starts):
                if (p := int(pane[start])) >= oldest:
                    if p not in panes.parts:
                        self._turn = 0
                    panes.put(p, (cell[start:stop], amount[start:stop]), rows)
            for window in mine:
                first = 0 if pane[0] >= window.first else int(pane.searchsorted(window.first))
                if first == 0:
                    whole = whole or lift(total(cell, amount, rows), lineage, slots)
                    window.sums.put(whole, slots)
                elif first < len(pane):
                    window.sums.add(total(cell[first:], amount[first:], rows), lineage)

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
            leaving = [window.panes.seal(p, rows) for p in window.panes.between(window.first, oldest)]
            if leaving:
                part = leaving[0] if len(leaving) == 1 else total(np.concatenate([c for c, _ in leaving]), np.concatenate([a for _, a in leaving]), rows)
                touched.append(window.sums.subtract(part, lineage))
            window.first = max(window.first, oldest)
        self._forget()
        return touched

    def show(self, first: dict[tuple[int, int], int], sums: dict[tuple[int, int], Part], landed: dict[int, list[tuple[int, Part]]], rows: int) -> None:
        """Takes what folding and rolling up to a boundary come to, where somebody has worked it out.

        That is each window's oldest pane, sums with their places in its flattened table, and what landed in each pane.
        """
        for width, parts in landed.items():
            for pane, part in parts:
                self.panes[width].put(pane, part, rows)
        for key, window in self.windows.items():
            flat, amount = sums[key]
            window.sums.table.reshape(-1)[flat] = amount
            window.first = first[key]
        self._forget()
        self._turn = 0

    def _forget(self) -> None:
        """What no window reads any more."""
        oldest: dict[int, int] = {}
        for (_, pane), window in self.windows.items():
            oldest[pane] = min(window.first, oldest.get(pane, window.first))
        for pane, first in oldest.items():
            self.panes[pane].forget(first)

    def next_roll(self) -> int:
        """The earliest instant at which a pane that holds something leaves a window; 0 when none will."""
        if not self._turn:
            self._turn = min((t for w in self.windows.values() if (t := w.next_roll())), default=0)
        return self._turn

    def canonical(self) -> list[Any]:
        return [[key, window.first] for key, window in sorted(self.windows.items())]
