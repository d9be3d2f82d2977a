"""The body of an event: a hash of what it says, to notice two that say different things under one id. It is the same in whatever record the event stands."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from services.kernel.record import I64, EventBatch
from services.rules_engine.core.arrivals import Events, begins, joined

MIX = np.int64(-7046029254386353131)


def word(text: str) -> int:
    """A signed 64-bit hash of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


class Words:
    """The hashes of names, of which there are few: each is made once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = word(name)
        return known


def bodies(e: Events, path: I64, of: I64, amount: I64, measure: I64, batches: Sequence[EventBatch], many: Sequence[int], words: Words) -> I64:
    """A hash of what each event says; `path` is the hash of its entity's, and `many` how many of the amounts are of each batch."""
    place = measure + begins([len(b.measures) for b in batches], many)
    measures = np.array([words.of(m) for b in batches for m in b.measures] or [0], np.int64)
    with np.errstate(over="ignore"):
        body: I64 = path ^ (e.occurred_at * MIX) ^ (e.as_of * np.int64(31))
        said = (amount * MIX) ^ measures[place]
        if len(of) == len(body) and len(of) and of[-1] == len(body) - 1 and (of[1:] > of[:-1]).all():  # one amount an event
            body += said
        else:
            np.add.at(body, of, said)
        if e.as_of.any():
            start, end, rows = (joined([getattr(b, name) for b in batches]) for name in ("interval_start", "interval_end", "row_id"))
            body += start * np.int64(37) + end * np.int64(41) + rows[:, 0]  # zeros but of report rows
        first = 0
        for b in batches:
            if len(b.attribute_event):
                names, texts = np.array([words.of(f"attribute {n}") for n in b.names]), np.array([0, *map(word, b.texts)], np.int64)
                value = b.attribute_number ^ texts[b.attribute_text]
                np.add.at(body, b.attribute_event.astype(np.int64) + first, value * MIX ^ names[b.attribute_name])
            first += len(b.event_id)
        folded: I64 = body ^ (body >> np.int64(32))
    return folded
