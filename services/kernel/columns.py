"""Events become one record of the log: dictionaries of texts, then columns of integers. Each list becomes an array once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from services.kernel.event import Event
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
    )


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
