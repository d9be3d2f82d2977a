"""Running sums over windows, made of panes.

A window of width w, read at a boundary `now` (both microseconds), covers every amount whose landing instant t satisfies

    floor((now - w) / pane) * pane  <=  t  <  now

so it is up to one pane wider than w, never narrower. `pane` travels in the activation record. A sum over a window without rows is 0.

    ... | pane | pane | pane | pane | ...
        ^ floor((now-w)/pane)     ^ now, exclusive: only records stamped before the boundary have been folded, and nothing lands after its stamp
"""

from __future__ import annotations

from typing import Any

import numpy as np

from services.kernel.record import I64


class Panes:
    """What landed in each pane, kept as long as the widest window over it reads it."""

    def __init__(self, width: int) -> None:
        self.width, self.keep = width, 0  # microseconds
        self.parts: dict[int, list[tuple[I64, I64, I64]]] = {}

    def put(self, pane: I64, row: I64, slot: I64, amount: I64, oldest: int) -> None:
        for p in np.unique(pane):
            if p >= oldest:
                here = pane == p
                self.parts.setdefault(int(p), []).append((row[here], slot[here], amount[here]))

    def seal(self, pane: int) -> None:
        """One part of summed cells instead of many: memory is what happened."""
        parts = self.parts.get(pane)
        if parts and len(parts) > 1:
            self.parts[pane] = [total(*(np.concatenate([p[i] for p in parts]) for i in range(3)))]


def total(row: I64, slot: I64, amount: I64) -> tuple[I64, I64, I64]:
    """Cells summed: one entry a (row, slot), in order of the cell."""
    cell, inverse = np.unique(row << 16 | slot, return_inverse=True)
    sums = np.zeros(len(cell), np.int64)
    np.add.at(sums, inverse.reshape(-1), amount)
    return cell >> 16, cell & 0xFFFF, sums


class Window:
    """One window's dense sums, (rows, slots) in micro-units."""

    def __init__(self, width: int, panes: Panes) -> None:
        self.width, self.panes = width, panes
        self.sums: I64 = np.zeros((64, 8), np.int64)
        self.first = 0  # the oldest pane inside
        panes.keep = max(panes.keep, width)

    def oldest(self, now: int) -> int:
        return (now - self.width) // self.panes.width

    def next_roll(self, now: int) -> int:
        """The earliest instant after `now` at which a pane that holds something leaves; 0 when none will."""
        held = [p for p in self.panes.parts if p >= self.oldest(now)]
        return (min(held) + 1) * self.panes.width + self.width if held else 0

    def room(self, rows: int, slots: int) -> None:
        r, s = self.sums.shape
        if rows > r or slots > s:
            wider = np.zeros((max(r, 1 << (rows - 1).bit_length()), max(s, 1 << (slots - 1).bit_length())), np.int64)
            wider[:r, :s] = self.sums
            self.sums = wider

    def add(self, pane: I64, row: I64, slot: I64, amount: I64) -> None:
        inside = pane >= self.first
        np.add.at(self.sums, (row[inside], slot[inside]), amount[inside])

    def roll(self, now: int) -> list[I64]:
        """Panes that no longer belong are subtracted; returns the rows they touched."""
        oldest, touched = self.oldest(now), []
        for pane in sorted(p for p in self.panes.parts if self.first <= p < oldest):
            self.panes.seal(pane)
            for row, slot, amount in self.panes.parts[pane]:
                np.subtract.at(self.sums, (row, slot), amount)
                touched.append(row)
        self.first = max(self.first, oldest)
        return touched


class Windows:
    """All windows over all pane widths of one workspace."""

    def __init__(self) -> None:
        self.panes: dict[int, Panes] = {}
        self.windows: dict[tuple[int, int], Window] = {}

    def demand(self, width: int, pane: int) -> None:
        if (width, pane) not in self.windows:
            self.windows[width, pane] = Window(width, self.panes.setdefault(pane, Panes(pane)))

    def fold(self, row: I64, slot: I64, amount: I64, landing: I64, rows: int, slots: int) -> None:
        for width, panes in self.panes.items():
            pane = landing // width
            oldest = min(w.first for w in self.windows.values() if w.panes is panes)
            panes.put(pane, row, slot, amount, oldest)
            for window in self.windows.values():
                if window.panes is panes:
                    window.room(rows, slots)
                    window.add(pane, row, slot, amount)

    def roll(self, now: int) -> list[I64]:
        touched = [rows for key in sorted(self.windows) for rows in self.windows[key].roll(now)]
        for panes in self.panes.values():
            oldest = min(w.first for w in self.windows.values() if w.panes is panes)
            for pane in [p for p in panes.parts if p < oldest]:
                del panes.parts[pane]
        return touched

    def next_roll(self, now: int) -> int:
        times = [t for w in self.windows.values() if (t := w.next_roll(now))]
        return min(times) if times else 0

    def canonical(self) -> list[Any]:
        return [[key, window.first] for key, window in sorted(self.windows.items())]
