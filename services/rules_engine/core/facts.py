"""The facts of one workspace: what has been accepted from its events, folded into sums, attributes and freshness.

Two instants matter for an amount. Its landing chooses the pane: occurred_at of a delta, clamped to the record's stamp; for a snapshot's difference the
stamp while the interval is open, the interval's end - 1 us once it is closed. Its origin tells evidence from baseline (see `history`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from services.kernel.record import I64, EventBatch
from services.rules_engine.core.entities import DEPTH, Entities
from services.rules_engine.core.history import History
from services.rules_engine.core.seen import Seen
from services.rules_engine.core.window import Windows

HOUR = 3_600_000_000
DAY = 24 * HOUR
HORIZON = 7 * DAY  # deduplication, by occurred_at
AHEAD = HOUR  # an event dated further ahead of its stamp is set aside
LARGEST = 1 << 53  # micro-units of one amount
MIX = np.int64(-7046029254386353131)


@dataclass(slots=True)
class Snapshot:
    """The report row's last value for one slot, and the rows it was first folded on."""

    as_of: int
    value: int
    rows: I64
    interval_start: int


def word(text: str) -> int:
    """A signed 64-bit hash of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


class Facts:
    """Accepts batches in log order; `dirty` collects the rows whose facts changed since it was last taken."""

    def __init__(self) -> None:
        self.entities = Entities()
        self.windows = Windows()
        self.history = History()
        self.seen = Seen(HORIZON)
        self.slot: dict[tuple[str, str], int] = {}  # (source, measure) -> column of the sums
        self.snapshots: dict[tuple[int, int, int], Snapshot] = {}
        self.attributes: dict[str, dict[int, tuple[int, str | int]]] = {}
        self.newest: dict[tuple[str, int], int] = {}  # (source, account row) -> newest occurred_at or as_of, clamped
        self.counts: Counter[str] = Counter()
        self.dirty: list[I64] = []

    def slot_of(self, source: str, measure: str) -> int:
        return self.slot.setdefault((source, measure), len(self.slot))

    def fold(self, stamp: int, batch: EventBatch) -> list[tuple[I64, I64, I64, I64]]:
        """Accepts what counts of a batch; returns parts (row, slot, origin, amount) of what was added, lifted to every ancestor."""
        rows = np.array([self.entities.resolve(p) for p in batch.paths] or [0], np.int64)
        with np.errstate(over="ignore"):
            body = np.array([word(p) for p in batch.paths] or [0], np.int64)[batch.entity] ^ (batch.occurred_at * MIX) ^ (batch.as_of * np.int64(31))
            cell = np.array([word(m) for m in batch.measures] or [0], np.int64)
            np.add.at(body, batch.amount_event, (batch.amount * MIX) ^ cell[batch.amount_measure])
        is_snapshot = batch.as_of > 0
        has_amounts = np.zeros(len(body), np.bool_)
        has_amounts[batch.amount_event] = True
        late = has_amounts & ~is_snapshot & (batch.occurred_at < stamp - HORIZON)
        ahead = batch.occurred_at > stamp + AHEAD
        huge = np.zeros(len(body), np.bool_)
        huge[batch.amount_event[np.abs(batch.amount) > LARGEST]] = True
        fit = ~(late | ahead | huge)
        accepted = np.zeros(len(body), np.bool_)
        accepted[fit], conflicts = self.seen.accept(batch.event_id[fit], body[fit], stamp)
        self.counts.update(late=int(late.sum()), ahead=int(ahead.sum()), huge=int(huge.sum()), conflicting=conflicts)
        self.counts.update(duplicate=int(fit.sum() - accepted.sum()), accepted=int(accepted.sum()))
        if not accepted.any():
            return []
        entity = rows[batch.entity]
        occurred = np.minimum(batch.occurred_at, stamp)
        self.entities.touch(entity[accepted], np.full(int(accepted.sum()), stamp))
        lifted = self.entities.lineage[entity[accepted]].reshape(-1)
        self.dirty.append(np.unique(lifted[lifted >= 0]))
        self._freshen(batch, entity, accepted, np.maximum(occurred, np.minimum(batch.as_of, stamp)))
        self._describe(batch, entity, accepted, occurred)
        slots = np.zeros((len(batch.sources) or 1, len(batch.measures) or 1), np.int64)
        for s, m in sorted(set(zip(batch.source[batch.amount_event].tolist(), batch.amount_measure.tolist(), strict=True))):
            slots[s, m] = self.slot_of(batch.sources[s], batch.measures[m])
        event = batch.amount_event.astype(np.int64)
        slot = slots[batch.source[event], batch.amount_measure]
        parts = []
        plain = accepted[event] & ~is_snapshot[event]
        if plain.any():
            parts.append(self._lift(entity[event[plain]], slot[plain], occurred[event[plain]], occurred[event[plain]], batch.amount[plain]))
        for i in np.flatnonzero(accepted[event] & is_snapshot[event]).tolist():
            part = self._restate(stamp, batch, int(event[i]), int(slot[i]), int(batch.amount[i]), int(entity[event[i]]))
            if part is not None:
                parts.append(part)
        return [(row, s, origin, amount) for row, s, origin, landing, amount in map(self._add, parts)]

    def _add(self, part: tuple[I64, I64, I64, I64, I64]) -> tuple[I64, I64, I64, I64, I64]:
        row, slot, origin, landing, amount = part
        self.windows.fold(row, slot, amount, landing, len(self.entities), len(self.slot))
        self.history.put(row, slot, origin, landing, amount)
        return part

    def _lift(self, row: I64, slot: I64, origin: I64, landing: I64, amount: I64) -> tuple[I64, I64, I64, I64, I64]:
        lineage = self.entities.lineage[row]
        keep = (lineage >= 0).reshape(-1)
        columns = (np.repeat(column, DEPTH)[keep] for column in (slot, origin, landing, amount))
        s, o, at, a = columns
        return lineage.reshape(-1)[keep], s, o, at, a

    def _restate(self, stamp: int, batch: EventBatch, event: int, slot: int, value: int, row: int) -> tuple[I64, I64, I64, I64, I64] | None:
        """A snapshot becomes the difference to the row's last value, if it is newer."""
        key = (int(batch.row_id[event, 0]), int(batch.row_id[event, 1]), slot)
        as_of, start, end = int(batch.as_of[event]), int(batch.interval_start[event]), int(batch.interval_end[event])
        kept = self.snapshots.get(key)
        if kept is not None and as_of <= kept.as_of:
            self.counts["outdated"] += 1
            return None
        if kept is None:
            lineage = self.entities.lineage[row]
            kept = self.snapshots[key] = Snapshot(as_of, 0, lineage[lineage >= 0], start)
        difference, kept.as_of, kept.value = value - kept.value, as_of, value
        if difference == 0:
            return None
        n = len(kept.rows)
        self.dirty.append(kept.rows)
        landing = stamp if end > stamp else end - 1
        return kept.rows, np.full(n, slot), np.full(n, start), np.full(n, landing), np.full(n, difference)

    def _freshen(self, batch: EventBatch, entity: I64, accepted: np.typing.NDArray[np.bool_], when: I64) -> None:
        account = self.entities.lineage[entity, 1]
        for s, a in sorted(set(zip(batch.source[accepted].tolist(), account[accepted].tolist(), strict=True))):
            of = accepted & (batch.source == s) & (account == a)
            key = (batch.sources[s], a)
            self.newest[key] = max(self.newest.get(key, 0), int(when[of].max()))

    def _describe(self, batch: EventBatch, entity: I64, accepted: np.typing.NDArray[np.bool_], occurred: I64) -> None:
        for event, name, text, number in zip(
            batch.attribute_event.tolist(), batch.attribute_name.tolist(), batch.attribute_text.tolist(), batch.attribute_number.tolist(), strict=True
        ):
            if accepted[event]:
                self.describe(batch.names[name], int(entity[event]), int(occurred[event]), batch.texts[text - 1] if text else number)

    def describe(self, name: str, row: int, when: int, value: str | int) -> None:
        """The latest value wins, of two at one instant the later in the log."""
        known = self.attributes.setdefault(name, {})
        if row not in known or known[row][0] <= when:
            known[row] = (when, value)

    def attribute(self, name: str, row: int) -> str | int | None:
        """The last known value, or None where it was never seen."""
        known = self.attributes.get(name, {}).get(row)
        return None if known is None else known[1]

    def take_dirty(self) -> I64:
        parts, self.dirty = self.dirty, []
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def canonical(self) -> list[Any]:
        """The facts by path, in order of the path: neither row order nor array sizes show."""
        path, slots = self.entities.path, sorted(self.slot.items())
        live = sorted((path[r], r) for r in range(len(path)))
        sums = [[key, [[p, [[s, int(w.sums[r, i])] for s, i in slots if r < len(w.sums) and i < w.sums.shape[1] and w.sums[r, i]]] for p, r in live]]
                for key, w in sorted(self.windows.windows.items())]  # fmt: skip
        return [
            [[p, int(self.entities.first_event[r])] for p, r in live],
            sums,
            blake2b(b"".join(x if isinstance(x, bytes) else str(x).encode() for x in self.seen.canonical()), digest_size=16).hexdigest(),
            [[name, sorted([path[r], when, value] for r, (when, value) in known.items())] for name, known in sorted(self.attributes.items())],
            sorted([source, path[account], when] for (source, account), when in self.newest.items()),
            sorted([list(key[:2]), [path[r] for r in s.rows.tolist()], s.as_of, s.value] for key, s in self.snapshots.items()),
        ]
