"""Events as columns: many events become one record of the log, and records of one workspace become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from services.kernel.event import Event
from services.kernel.ids import path_key
from services.kernel.record import I64, U32, EventBatch

MOST = 1000  # events of one record


def batch(workspace: str, events: Sequence[Event]) -> EventBatch:
    """One record that says exactly what the events say, in their order."""
    paths: dict[str, int] = {}
    sources: dict[str, int] = {}
    kinds: dict[str, int] = {}
    measures: dict[str, int] = {}
    names: dict[str, int] = {}
    texts: dict[str, int] = {}
    ids: list[bytes] = []
    rows: list[bytes] = []
    entity: list[int] = []
    source: list[int] = []
    kind: list[int] = []
    occurred: list[int] = []
    start: list[int] = []
    end: list[int] = []
    as_of: list[int] = []
    of: list[int] = []
    which: list[int] = []
    amount: list[int] = []
    about: list[int] = []
    named: list[int] = []
    said: list[int] = []
    number: list[int] = []
    for i, e in enumerate(events):
        ids.append(e.key)
        rows.append(e.row_key)
        entity.append(paths.setdefault(e.path, len(paths)))
        source.append(sources.setdefault(e.source, len(sources)))
        kind.append(kinds.setdefault(e.kind, len(kinds)))
        occurred.append(e.occurred_at)
        s = e.snapshot
        start.append(s.interval_start if s else 0)
        end.append(s.interval_end if s else 0)
        as_of.append(s.as_of if s else 0)
        for name, micros in e.amounts.items():
            of.append(i)
            which.append(measures.setdefault(name, len(measures)))
            amount.append(micros)
        for name, value in e.attributes.items():
            about.append(i)
            named.append(names.setdefault(name, len(names)))
            said.append(texts.setdefault(value, len(texts)) + 1 if isinstance(value, str) else 0)
            number.append(0 if isinstance(value, str) else value)
    return EventBatch(
        workspace=workspace,
        paths=tuple(paths),
        sources=tuple(sources),
        kinds=tuple(kinds),
        measures=tuple(measures),
        names=tuple(names),
        texts=tuple(texts),
        event_id=_pairs(ids),
        entity=_u32(entity),
        source=_u32(source),
        kind=_u32(kind),
        occurred_at=_i64(occurred),
        interval_start=_i64(start),
        interval_end=_i64(end),
        as_of=_i64(as_of),
        row_id=_pairs(rows),
        amount_event=_u32(of),
        amount_measure=_u32(which),
        amount=_i64(amount),
        attribute_event=_u32(about),
        attribute_name=_u32(named),
        attribute_text=_u32(said),
        attribute_number=_i64(number),
        path_key=keys_of(paths),
    )


@lru_cache(65_536)
def _key(path: str) -> bytes:
    return path_key(path)


def keys_of(paths: Iterable[str]) -> I64:
    """The 128-bit key of each path, (paths, 2)."""
    return _pairs([_key(p) for p in paths])


def batches(workspace: str, events: Sequence[Event], most: int = MOST) -> Iterator[EventBatch]:
    """Records of at most `most` events; an event never spans two."""
    for i in range(0, len(events), most):
        yield batch(workspace, events[i : i + most])


def _pairs(keys: list[bytes]) -> I64:
    return np.frombuffer(b"".join(keys), "<i8").reshape(-1, 2).astype(np.int64)


def _i64(values: Sequence[int]) -> I64:
    return np.array(values, np.int64)


def _u32(values: Sequence[int]) -> U32:
    return np.array(values, np.uint32)


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
