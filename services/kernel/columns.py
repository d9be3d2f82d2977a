"""Events as columns: many events become one record of the log, and records of one workspace become one.

    Event, Event ...      ->  Rows        columns of words, one entry an event; joining them costs no more than extending lists
    Rows, Rows ...        ->  EventBatch  dictionaries of the words, columns of integers; each list becomes an array once
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, chain, count, repeat
from operator import itemgetter
from typing import TypeAlias, TypeVar

import numpy as np

from services.kernel.entity import level_of
from services.kernel.event import Event, Value
from services.kernel.ids import path_key
from services.kernel.record import I64, U32, EventBatch

K = TypeVar("K")

MOST = 1000  # events of one record
Ints: TypeAlias = list[int] | I64


@dataclass(slots=True)
class Numbered:
    """A column of words: each of them once, in order of first appearance, and the number of the one that stands at each place."""

    words: tuple[str, ...]
    index: U32

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[str]:
        return map(self.words.__getitem__, self.index.tolist())

    def __getitem__(self, part: slice) -> list[str]:
        return list(map(self.words.__getitem__, self.index[part].tolist()))


Words: TypeAlias = list[str] | Numbered


def numbered(column: Words) -> Numbered:
    if isinstance(column, Numbered):
        return column
    known, index = numbers(column)
    return Numbered(tuple(known), index)


def chained(columns: Sequence[Words]) -> Numbered:
    """The columns one after the other. Of one that is numbered already only its words are looked at again, not every place that they stand at."""
    if all(isinstance(column, list) for column in columns):
        return numbered(list(chain.from_iterable(columns)))
    parts = list(map(numbered, columns))
    if len(parts) == 1:
        return parts[0]
    words, number = numbers([word for part in parts for word in part.words])
    first = np.cumsum([0, *(len(part.words) for part in parts[:-1])])
    return Numbered(tuple(words), number[np.concatenate([part.index for part in parts]) + np.repeat(first, [len(part) for part in parts])])


def numbers(column: Sequence[K]) -> tuple[list[K], U32]:
    """(what stands in the column, each once in order of first appearance; which of these each entry is)."""
    if len(column) < 2:
        return list(column), np.zeros(len(column), np.uint32)
    known: dict[K, int] = defaultdict(count().__next__)
    index = array("I", itemgetter(*column)(known))
    return list(known), np.frombuffer(index, np.uint32)


@dataclass(slots=True)
class Rows:
    """Events as columns in their order. Those of snapshots are empty where no event is one, else they have zeros for deltas."""

    ids: list[bytes]  # 16 bytes each
    paths: Words
    sources: Words
    kinds: Words
    occurred_at: Ints
    amounts_of: Ints  # how many amounts each event has
    measures: Words
    amounts: Ints
    interval_start: list[int] = field(default_factory=list)
    interval_end: list[int] = field(default_factory=list)
    as_of: list[int] = field(default_factory=list)
    row_ids: list[bytes] = field(default_factory=list)
    attributes_of: list[int] = field(default_factory=list)  # empty where no event has any
    names: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def rows(events: Sequence[Event]) -> Rows:
    """What the events say, in their order."""
    made = Rows(
        [e.key for e in events], [e.path for e in events], [e.source for e in events], [e.kind for e in events], [e.occurred_at for e in events],
        [len(e.amounts) for e in events], list(chain.from_iterable(e.amounts for e in events)), list(chain.from_iterable(e.amounts.values() for e in events)),
    )  # fmt: skip
    if any(e.snapshot is not None for e in events):
        snapshots = [e.snapshot for e in events]
        made.interval_start = [s.interval_start if s else 0 for s in snapshots]
        made.interval_end = [s.interval_end if s else 0 for s in snapshots]
        made.as_of = [s.as_of if s else 0 for s in snapshots]
        made.row_ids = [e.row_key for e in events]
    if any(e.attributes for e in events):
        made.attributes_of = [len(e.attributes) for e in events]
        made.names = list(chain.from_iterable(e.attributes for e in events))
        made.values = list(chain.from_iterable(e.attributes.values() for e in events))
    return made


def join(workspace: str, parts: Sequence[Rows]) -> EventBatch:
    """One record that says what the parts say, in their order; dictionaries in order of first appearance."""
    n = sum(map(len, parts))
    words: dict[str, tuple[str, ...]] = {}

    def number(dictionary: str, columns: Sequence[Words]) -> U32:
        found = chained(columns)
        words[dictionary] = found.words
        return found.index

    is_snapshot = any(p.row_ids for p in parts)
    attributed = any(p.attributes_of for p in parts)
    values = [v for p in parts for v in p.values] if attributed else []
    place = {text: i for i, text in enumerate(dict.fromkeys(v for v in values if isinstance(v, str)), 1)}
    return EventBatch(
        workspace=workspace,
        event_id=_pairs(chain.from_iterable(p.ids for p in parts)),
        entity=number("paths", [p.paths for p in parts]),
        source=number("sources", [p.sources for p in parts]),
        kind=number("kinds", [p.kinds for p in parts]),
        occurred_at=_ints([p.occurred_at for p in parts]),
        interval_start=_i64(_padded((p.interval_start, p) for p in parts)) if is_snapshot else np.zeros(n, np.int64),
        interval_end=_i64(_padded((p.interval_end, p) for p in parts)) if is_snapshot else np.zeros(n, np.int64),
        as_of=_i64(_padded((p.as_of, p) for p in parts)) if is_snapshot else np.zeros(n, np.int64),
        row_id=_pairs(chain.from_iterable(p.row_ids or repeat(bytes(16), len(p)) for p in parts)) if is_snapshot else np.zeros((n, 2), np.int64),
        amount_event=_repeated(_ints([p.amounts_of for p in parts])),
        amount_measure=number("measures", [p.measures for p in parts]),
        amount=_ints([p.amounts for p in parts]),
        attribute_event=_repeated(_i64(_padded((p.attributes_of, p) for p in parts))) if attributed else np.zeros(0, np.uint32),
        attribute_name=number("names", [p.names for p in parts]),
        attribute_text=np.array([place[v] if isinstance(v, str) else 0 for v in values], np.uint32),
        attribute_number=_i64([0 if isinstance(v, str) else v for v in values]),
        paths=words["paths"],
        sources=words["sources"],
        kinds=words["kinds"],
        measures=words["measures"],
        names=words["names"],
        texts=tuple(place),
        path_key=keys_of(words["paths"]),
    )


def reported(rows: Rows) -> set[tuple[str, str, str]]:
    """Every (source, level, measure) that the rows say something of."""
    paths, sources, measures = numbered(rows.paths), numbered(rows.sources), numbered(rows.measures)
    levels = numbered(list(map(level_of, paths.words)))
    width, depth = len(measures.words), len(levels.words)
    of_each = sources.index.astype(np.int64) * depth + levels.index[paths.index]
    seen = np.unique(of_each.repeat(rows.amounts_of) * width + measures.index).tolist()
    return {(sources.words[i // width // depth], levels.words[i // width % depth], measures.words[i % width]) for i in seen}


@lru_cache(65_536)
def _key(path: str) -> bytes:
    return path_key(path)


def keys_of(paths: Iterable[str]) -> I64:
    """The 128-bit key of each path, (paths, 2)."""
    return _pairs([_key(p) for p in paths])


def batch(workspace: str, events: Sequence[Event]) -> EventBatch:
    """One record that says exactly what the events say, in their order."""
    return join(workspace, [rows(events)])


def batches(workspace: str, events: Sequence[Event], most: int = MOST) -> Iterator[EventBatch]:
    """Records of at most `most` events; an event never spans two."""
    for i in range(0, len(events), most):
        yield batch(workspace, events[i : i + most])


def cut(whole: Rows, most: int = MOST) -> Iterator[Rows]:
    """The same in parts of at most `most` events."""
    if len(whole) <= most:
        yield whole
        return
    amounts, attributes = [0, *accumulate(map(int, whole.amounts_of))], [0, *accumulate(whole.attributes_of)]
    for i in range(0, len(whole), most):
        j = min(i + most, len(whole))
        a, b = slice(amounts[i], amounts[j]), slice(attributes[i], attributes[j]) if whole.attributes_of else slice(0, 0)
        e = slice(i, j)
        yield Rows(
            whole.ids[e], whole.paths[e], whole.sources[e], whole.kinds[e], whole.occurred_at[e], whole.amounts_of[e], whole.measures[a], whole.amounts[a],
            whole.interval_start[e], whole.interval_end[e], whole.as_of[e], whole.row_ids[e], whole.attributes_of[e], whole.names[b], whole.values[b],
        )  # fmt: skip


def _padded(columns: Iterable[tuple[list[int], Rows]]) -> list[int]:
    """The columns one after the other, zeros for a part that has none."""
    return list(chain.from_iterable(column or repeat(0, len(part)) for column, part in columns))


def _repeated(sizes: I64) -> U32:
    """The index of each event as often as it has entries."""
    return np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)


def _pairs(keys: Iterable[bytes]) -> I64:
    return np.frombuffer(b"".join(keys), "<i8").reshape(-1, 2).astype(np.int64)


def _ints(columns: Sequence[Ints]) -> I64:
    """The columns one after the other."""
    if any(isinstance(column, list) for column in columns):
        return _i64(list(chain.from_iterable(c if isinstance(c, list) else c.tolist() for c in columns)))
    return columns[0] if len(columns) == 1 else np.concatenate(columns)  # type: ignore[return-value]  # none is a list


def _i64(values: Sequence[int]) -> I64:
    return np.array(values, np.int64)


DICTIONARIES = ("paths", "sources", "kinds", "measures", "names", "texts")
INDEXES = {"entity": "paths", "source": "sources", "kind": "kinds", "amount_measure": "measures", "attribute_name": "names"}
PLAIN = ("event_id", "occurred_at", "interval_start", "interval_end", "as_of", "row_id", "amount", "attribute_number")
TABLES = ("amount_event", "attribute_event")


def merge(batches: Sequence[EventBatch]) -> EventBatch:
    """One batch that says what these of one workspace say, in their order; dictionaries in order of first appearance."""
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, dict[str, int]] = {name: {} for name in DICTIONARIES}
    columns: dict[str, list[I64 | U32]] = {name: [] for name in (*INDEXES, *PLAIN, *TABLES, "attribute_text")}
    events = 0
    for b in batches:
        places = {}
        for name in DICTIONARIES:
            known = joined[name]
            places[name] = np.array([known.setdefault(word, len(known)) for word in getattr(b, name)], np.uint32)
        for column, name in INDEXES.items():
            columns[column].append(places[name][getattr(b, column)])
        for column in PLAIN:
            columns[column].append(getattr(b, column))
        for column in TABLES:
            columns[column].append((getattr(b, column) + np.uint32(events)).astype(np.uint32))
        texts = np.concatenate([np.zeros(1, np.uint32), places["texts"] + np.uint32(1)]).astype(np.uint32)
        columns["attribute_text"].append(texts[b.attribute_text])
        events += len(b.event_id)
    words = {name: tuple(known) for name, known in joined.items()}
    columns["path_key"] = [keys_of(words["paths"])]
    return EventBatch(workspace=batches[0].workspace, **words, **{name: np.concatenate(parts) for name, parts in columns.items()})  # type: ignore[arg-type]


def split(batch: EventBatch, most: int = MOST) -> Iterator[EventBatch]:
    """The same events in records of at most `most`; an event with its amounts and attributes never spans two."""
    n = len(batch.event_id)
    if n <= most:
        yield batch
        return
    for start in range(0, n, most):
        of_event = slice(start, start + most)
        part: dict[str, object] = {name: getattr(batch, name)[of_event] for name in ("event_id", "entity", "source", "kind", "occurred_at")}
        part |= {name: getattr(batch, name)[of_event] for name in ("interval_start", "interval_end", "as_of", "row_id")}
        for table, names in (("amount_event", ("amount_measure", "amount")), ("attribute_event", ("attribute_name", "attribute_text", "attribute_number"))):
            event = getattr(batch, table)
            here = (event >= start) & (event < start + most)
            part[table] = (event[here] - np.uint32(start)).astype(np.uint32)
            part |= {name: getattr(batch, name)[here] for name in names}
        yield replace(batch, **part)  # type: ignore[arg-type]
