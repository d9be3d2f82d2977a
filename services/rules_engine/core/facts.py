"""The facts of one workspace: what has been accepted from its events, folded into sums, attributes and freshness.

Two instants matter for an amount. Its landing chooses the pane: occurred_at of a delta, clamped to the record's stamp; for a snapshot's difference the
stamp while the interval is open, the interval's end - 1 us once it is closed. Its origin tells evidence from baseline (see `history`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from services.kernel.page import Run
from services.kernel.record import I64, EventBatch
from services.rules_engine.core.arrivals import Amounts, Arrivals, Descriptions, Events, begins, joined
from services.rules_engine.core.attributes import Attributes
from services.rules_engine.core.body import Words, bodies
from services.rules_engine.core.demand import AHEAD, HORIZON, Demand, base
from services.rules_engine.core.entities import Entities
from services.rules_engine.core.history import History, Past
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.seen import Seen
from services.rules_engine.core.snapshots import Snapshots
from services.rules_engine.core.sums import Since
from services.rules_engine.core.window import SLOT_BITS, Windows

HOUR = 3_600_000_000
DAY = 24 * HOUR
LARGEST = 1 << 53  # micro-units of one amount
NO_ROWS = np.zeros(0, np.int64)


class Facts:
    """Accepts batches in log order; `dirty` marks the rows whose facts changed since it was last taken."""

    def __init__(self, demand: Demand | None = None) -> None:
        self.demand = demand or Demand()
        self.levels = list(self.demand.depths)
        self.entities = Entities()
        self.windows = Windows(self.demand.windows, self.demand.depths)
        self.sinces: dict[int, Since] = {}  # by when they were born
        self.history = History(self._needed)
        self.horizon, self.ahead = self.demand.horizon or HORIZON, self.demand.ahead or AHEAD
        self.seen = Seen(self.horizon)
        self.slot: dict[tuple[str, str], int] = {}  # (source, measure) -> column of the sums, of those that are read
        self.snapshots = Snapshots()
        self.attributes = Attributes()
        self.sources: dict[str, int] = {}
        self.newest: list[I64] = []  # by source: newest occurred_at or as_of of each account's row, clamped; 0 for never
        self.counts: Counter[str] = Counter()
        self.dirty: Bools = np.zeros(64, np.bool_)
        self.latest = 0  # the largest stamp folded
        self._demanded = set(self.demand.measures)
        self._slots: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
        self._words = Words()

    # -- dictionaries ------------------------------------------------------------------------------------------------

    def slot_of(self, source: str, measure: str) -> int:
        """The column of a measure, -1 where nobody reads it."""
        known = self.slot.get((source, measure))
        if known is None and (source, base(measure)) in self._demanded:
            known = self.slot[source, measure] = len(self.slot)
        return -1 if known is None else known

    def _table(self, batch: EventBatch) -> list[int]:
        """The slot of each (source, measure) of a batch, row by row."""
        key = batch.sources, batch.measures
        known = self._slots.get(key)
        if known is None:
            if len(self._slots) > 10_000:
                self._slots.clear()
            known = self._slots[key] = [self.slot_of(s, m) for s in batch.sources for m in batch.measures]
        return known

    # -- folding -----------------------------------------------------------------------------------------------------

    def read(self, run: Run) -> Arrivals:
        """Accepts what counts of records in log order, whose effective stamps never fall."""
        batches = run.batches
        sizes = [len(b.event_id) for b in batches]
        events = self._events(run.stamps, batches, sizes)
        many = [len(b.amount) for b in batches]
        of = joined([b.amount_event for b in batches]) + begins(sizes, many)
        amount = joined([b.amount for b in batches])
        measure = joined([b.amount_measure for b in batches])
        accepted = self._accept(events, of, amount, measure, batches, many)
        place = measure + begins([len(b.sources) * len(b.measures) for b in batches], many)
        if any(len(b.sources) > 1 for b in batches):
            place += joined([b.source for b in batches])[of] * np.repeat([len(b.measures) for b in batches], many)
        slot = np.array([s for b in batches for s in self._table(b)] or [0], np.int64)[place]
        first_event, first_amount = (np.concatenate([[0], n.cumsum()]) for n in (run.events, run.amounts))
        return Arrivals(run, events, Amounts(of, slot, amount), accepted, self._descriptions(batches, sizes), first_event, first_amount)

    def fold(self, arrivals: Arrivals, begin: int, end: int, foreseen: bool = False) -> None:
        """Folds the records [begin, end) of a run; what is foreseen of them, their windows and which rows they change, is left to be shown."""
        first, last = int(arrivals.first_event[begin]), int(arrivals.first_event[end])
        if first == last:
            return
        some, these = slice(first, last), slice(int(arrivals.first_amount[begin]), int(arrivals.first_amount[end]))
        events, accepted, amounts = arrivals.events.part(some), arrivals.accepted[some], arrivals.amounts
        self.latest = max(self.latest, int(events.stamp[-1]))
        self._learn(events, accepted, arrivals.descriptions, first, foreseen)
        if foreseen and not self.demand.evidence:
            return
        of, slot, amount = amounts.event[these] - first, amounts.slot[these], amounts.amount[these]
        kept = slot >= 0 if accepted.all() else (slot >= 0) & accepted[of]
        if not kept.all():
            of, slot, amount = of[kept], slot[kept], amount[kept]
        self._count(events, Amounts(of, slot, amount), arrivals, some, foreseen)

    def _descriptions(self, batches: Sequence[EventBatch], sizes: Sequence[int]) -> list[Descriptions]:
        made, start = [], 0
        for batch, size in zip(batches, sizes, strict=True):
            if len(batch.attribute_event):
                order = batch.attribute_event.argsort(kind="stable")
                event = batch.attribute_event[order].astype(np.int64) + start
                texts = np.array([0, *(self.attributes.word(t) for t in batch.texts)], np.int64)[batch.attribute_text[order]]
                made.append(Descriptions(event, batch.attribute_name[order], texts, batch.attribute_number[order], batch.names))
            start += size
        return made

    def _events(self, stamps: Sequence[int | I64], batches: Sequence[EventBatch], sizes: list[int]) -> Events:
        rows, widths = self._rows(batches)
        row = rows[joined([b.entity for b in batches]) + begins(widths, sizes)]
        self._room()
        sources = [[self._source(s) for s in b.sources] for b in batches]
        if all(s == sources[0] and len(s) == 1 for s in sources):
            source = np.full(len(row), sources[0][0], np.int64)
        else:
            place = joined([b.source for b in batches]) + begins([len(s) for s in sources], sizes)
            source = np.array([x for s in sources for x in s], np.int64)[place]
        columns = (joined([getattr(b, name) for b in batches]) for name in ("occurred_at", "as_of", "event_id"))
        stamp = joined([np.full(n, s, np.int64) if isinstance(s, int) else s for s, n in zip(stamps, sizes, strict=True)])
        return Events(stamp, row, source, *columns)

    def _rows(self, batches: Sequence[EventBatch]) -> tuple[I64, list[int]]:
        """(the row of every path of every batch, how many paths each has); paths are only read where a key is new."""
        if not all(len(b.path_key) for b in batches):
            rows = [self.entities.rows(b.paths) for b in batches]
            return np.array([r for of_batch in rows for r in of_batch], np.int64), [len(r) for r in rows]
        widths = [len(b.path_key) for b in batches]
        found = self.entities.keys.find(joined([b.path_key for b in batches]))
        new = (found < 0).nonzero()[0]
        if len(new):
            first = np.cumsum([0, *widths])
            of = (np.searchsorted(first, new, side="right") - 1).tolist()
            found[new] = self.entities.rows([batches[b].paths[i - first[b]] for b, i in zip(of, new.tolist(), strict=True)])
        return found, widths

    def _source(self, name: str) -> int:
        known = self.sources.get(name)
        if known is None:
            known = self.sources[name] = len(self.sources)
            self.newest.append(np.zeros(len(self.dirty), np.int64))
        return known

    def _room(self) -> None:
        rows = len(self.entities)
        if rows >= len(self.dirty):  # the last is spare: what has no ancestor at a level marks it
            more = max(rows + 1, 2 * len(self.dirty)) - len(self.dirty)
            self.dirty = np.concatenate([self.dirty, np.zeros(more, np.bool_)])
            self.newest = [np.concatenate([n, np.zeros(more, np.int64)]) for n in self.newest]

    def _accept(self, e: Events, of: I64, amount: I64, measure: I64, batches: Sequence[EventBatch], many: list[int]) -> Bools:
        late = (e.as_of == 0) & (e.occurred_at < e.stamp - self.horizon)
        ahead = e.occurred_at > e.stamp + self.ahead
        if late.any():  # what carries no amounts cannot count twice
            counting = np.zeros(len(late), np.bool_)
            counting[of] = True
            late &= counting
        unfit = late | ahead
        large = np.abs(amount) > LARGEST
        huge = 0
        if large.any():
            too_large = np.zeros(len(e.row), np.bool_)
            too_large[of[large]] = True
            huge = int(too_large.sum())
            unfit |= too_large
        body = bodies(e, self.entities.word[e.row], of, amount, measure, batches, many, self._words)
        counts = self.counts
        if unfit.any():
            fit = np.flatnonzero(~unfit)
            accepted = np.zeros(len(e.row), np.bool_)
            accepted[fit], conflicts = self.seen.accept(e.ids[fit], body[fit], e.stamp[fit])
            candidates = len(fit)
            counts["late"] += int(late.sum())
            counts["ahead"] += int(ahead.sum())
            counts["huge"] += huge
        else:
            accepted, conflicts = self.seen.accept(e.ids, body, e.stamp)
            candidates = len(accepted)
        counted = int(accepted.sum())
        counts["conflicting"] += conflicts
        counts["duplicate"] += candidates - counted
        counts["accepted"] += counted
        return accepted

    def _learn(self, e: Events, accepted: Bools, descriptions: Sequence[Descriptions], first: int, foreseen: bool) -> None:
        """What accepted events say beside their amounts: that entities exist, that sources are alive, what is so."""
        row, stamp, source = e.row, e.stamp, e.source
        occurred = np.minimum(e.occurred_at, stamp)
        heard = np.maximum(occurred, np.minimum(e.as_of, stamp))
        if not accepted.all():
            row, stamp, source, heard = row[accepted], stamp[accepted], source[accepted], heard[accepted]
        if not len(row):
            return
        self.entities.touch(row, stamp)
        if not foreseen:
            lineage = self.entities.lineage
            for depth in self.levels:
                self.dirty[lineage[row, depth]] = True
        account = self.entities.account(row)
        for s in np.unique(source).tolist() if len(self.sources) > 1 else [0]:
            mine = source == s if len(self.sources) > 1 else slice(None)
            np.maximum.at(self.newest[s], account[mine], heard[mine])
        for d in descriptions:
            begin, end = d.event.searchsorted((first, first + len(accepted))).tolist()
            if begin < end:
                self._describe(d, slice(begin, end), first, e.row, accepted, occurred)

    def _describe(self, d: Descriptions, some: slice, first: int, row: I64, accepted: Bools, occurred: I64) -> None:
        event, text, number = d.event[some] - first, d.text[some], d.number[some]
        for i, name in enumerate(d.names):
            here = np.flatnonzero((d.name[some] == i) & accepted[event])
            if len(here):
                about = event[here]
                self.attributes.put(name, row[about], occurred[about], text[here], number[here], len(self.entities))

    def _count(self, e: Events, a: Amounts, arrivals: Arrivals, some: slice, foreseen: bool) -> None:
        of, slot, amount = a.event, a.slot, a.amount
        if not len(of):
            return
        row = e.row[of]
        landing = origin = np.minimum(e.occurred_at, e.stamp)[of]
        restating = e.as_of[of] > 0
        if restating.any():
            row, landing, origin, amount, kept = self._restate(e, a, [column[some] for column in arrivals.intervals], row, landing, origin, restating)
            if not kept.all():
                row, slot, landing, origin, amount = row[kept], slot[kept], landing[kept], origin[kept], amount[kept]
            if not len(row):
                return
        rows, slots = len(self.entities), len(self.slot)
        lineage = self.entities.lineage[:, self.levels]
        if not foreseen:
            self.windows.fold(row << SLOT_BITS | slot, amount, landing, lineage, rows, slots)
        if self.demand.evidence:
            self.history.put(row, slot, origin, landing, amount)
            for since in self.sinces.values():
                since.room(rows, slots)
                since.add(row, slot, origin, amount, lineage)

    def _restate(
        self, e: Events, a: Amounts, intervals: Sequence[I64], row: I64, landing: I64, origin: I64, restating: Bools
    ) -> tuple[I64, I64, I64, I64, Bools]:
        """Readings become differences to what their rows last said; returns (row, landing, origin, amount, kept)."""
        starts, ends, ids = intervals
        names = {number: name for name, number in self.slot.items()}
        words = np.array([self._words.of(f"{names[i][0]} {names[i][1]}") for i in range(len(names))], np.int64)
        at = np.flatnonzero(restating)
        of = a.event[at]
        start, end, stamp = starts[of], ends[of], e.stamp[of]
        newer, difference, owner = self.snapshots.restate(ids[of], words[a.slot[at]], a.slot[at], e.as_of[of], a.amount[at], row[at], start)
        self.counts["outdated"] += int((~newer).sum())
        kept, amount = np.ones(len(row), np.bool_), a.amount.copy()
        row, landing, origin = row.copy(), landing.copy(), origin.copy()
        kept[at], amount[at], row[at] = newer & (difference != 0), difference, owner
        landing[at], origin[at] = np.where(end > stamp, stamp, end - 1), start
        touched = owner[newer & (difference != 0)]
        for depth in self.levels:
            self.dirty[self.entities.lineage[touched, depth]] = True
        return row, landing, origin, amount, kept

    def _needed(self, row: I64, origin: I64) -> Bools:
        """Which amounts some line of [since change] counts, or one that is drawn from now on may."""
        needed = origin >= self.latest
        lineage = self.entities.lineage[:, self.levels][row]
        for since in self.sinces.values():
            since.room(len(self.entities), len(self.slot))
            start = np.where(lineage >= 0, since.start[lineage], np.iinfo(np.int64).max).min(axis=1, initial=np.iinfo(np.int64).max)
            needed |= origin >= start
        return needed

    # -- change and evidence -----------------------------------------------------------------------------------------

    def since(self, born: int) -> Since:
        """The evidence sums of rules whose anchors took effect at this boundary."""
        if born not in self.sinces:
            made = self.sinces[born] = Since(born)
            made.room(len(self.entities), len(self.slot))
            row, slot, origin, _, amount = self.history.every()
            future = origin >= born  # a report row may be of an interval that has yet to begin
            if future.any():
                made.add(row[future], slot[future], origin[future], amount[future], self.entities.lineage[:, self.levels])
        return self.sinces[born]

    def restart(self, row: int, changed: int) -> None:
        """Evidence of the row begins anew at a change."""
        self._room()
        self.dirty[row] = True
        for since in self.sinces.values():
            since.room(len(self.entities), len(self.slot))
            if since.restart(row, changed) and self.demand.evidence:
                since.sums[row] = self.history.totals(self.below(row), since.sums.shape[1], int(since.start[row]))

    def below(self, row: int) -> I64:
        """The row itself and every row under it."""
        depth = int(self.entities.depth[row])
        rows: I64 = np.flatnonzero(self.entities.lineage[: len(self.entities), depth] == row)
        return rows

    def past(self, source: str, measure: str, row: int, start: int) -> Past:
        """The row's amounts of a measure from an origin on."""
        slot = self.slot.get((source, measure))
        return Past(NO_ROWS, NO_ROWS) if slot is None else self.history.since(self.below(row), slot, start)

    # -- reading -----------------------------------------------------------------------------------------------------

    def describe(self, name: str, row: int, when: int, value: str | int) -> None:
        self._room()
        self.attributes.say(name, row, when, value, len(self.entities))
        self.dirty[row] = True

    def attribute(self, name: str, row: int) -> str | int | None:
        """The last known value, or None where it was never seen."""
        return self.attributes.value(name, row)

    def heard(self, source: str, account: int) -> int:
        """The newest occurred_at or as_of of a source in an account's row, 0 for never."""
        known = self.sources.get(source)
        return 0 if known is None else int(self.newest[known][account])

    def roll(self, now: int) -> None:
        """What no longer belongs into a window has left it."""
        for rows in self.windows.roll(now, self.entities.lineage[:, self.levels], len(self.entities)):
            self.mark(rows)

    def widen(self) -> None:
        """Every table of sums has every row and measure."""
        rows, slots = len(self.entities), len(self.slot)
        self.windows.room(rows, slots)
        for since in self.sinces.values():
            since.room(rows, slots)

    def mark(self, rows: I64 | int) -> None:
        """Something about these rows changed."""
        self._room()
        self.dirty[rows] = True

    def take_dirty(self) -> I64:
        rows: I64 = np.flatnonzero(self.dirty[: len(self.entities)])
        self.dirty[rows] = False
        return rows

    def canonical(self) -> list[Any]:
        """The facts by path, in order of the path: neither row order nor array sizes show."""
        path, slots = self.entities.path, sorted(self.slot.items())
        live = sorted((path[r], r) for r in range(len(path)))
        tables = [(list(key), w.sums.table) for key, w in sorted(self.windows.windows.items())]
        tables += [([born], s.sums) for born, s in sorted(self.sinces.items())]
        sums = [[key, [[p, [[s, int(t[r, i])] for s, i in slots if r < len(t) and i < t.shape[1] and t[r, i]]] for p, r in live]] for key, t in tables]
        newest = [[s, path[a], int(n[a])] for s, i in self.sources.items() for n in [self.newest[i]] for a in np.flatnonzero(n[: len(path)]).tolist()]
        return [
            [[p, int(self.entities.first_event[r])] for p, r in live],
            sums,
            blake2b(b"".join(x if isinstance(x, bytes) else str(x).encode() for x in self.seen.canonical()), digest_size=16).hexdigest(),
            self.attributes.canonical(path),
            sorted(newest),
            self.snapshots.canonical(path, [name for name, _ in sorted(self.slot.items(), key=lambda item: item[1])]),
        ]
