"""Records read at once say what each says by itself, whatever they are laid out like, and one that cannot be read hides no other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.account import deltas, reports
from services.adapters.codec import page as pages
from services.adapters.codec.columns import same
from services.adapters.codec.record import decode, encode
from services.adapters.log.codec import EVENTS
from services.kernel.columns import keys_of
from services.kernel.page import Part
from services.kernel.record import EventBatch, Poisoned, Record, Stamped
from services.rules_engine.core.partition import Partition, demand_of
from tests.core.world import GUARDS
from tests.reference.generate import generate


def batches(page: Sequence[bytes]) -> list[EventBatch]:
    """Each record of a page that holds nothing else, read by itself."""
    return [read for data in page if isinstance(read := decode(data), EventBatch)]


def keyed(record: Record) -> Record:
    return replace(record, path_key=keys_of(list(record.paths))) if isinstance(record, EventBatch) else record


def said(batch: EventBatch) -> list[Any]:
    """What a batch says, with words for indices: dictionaries may differ."""
    texts = (None, *batch.texts)
    pairs = (("source", batch.sources), ("kind", batch.kinds), ("amount_measure", batch.measures), ("attribute_name", batch.names), ("attribute_text", texts))
    columns = [getattr(batch, name).tolist() for name in ("event_id", "occurred_at", "interval_start", "interval_end", "as_of", "row_id", "path_key")]
    columns += [getattr(batch, name).tolist() for name in ("entity", "amount_event", "amount", "attribute_event", "attribute_number")]
    return [batch.workspace, list(batch.paths), *columns, *([words[i] for i in getattr(batch, name)] for name, words in pairs)]


PAGES = {
    "one event a record": lambda: [d for _, d in deltas(400, 1, 60)],
    "three events a record": lambda: [d for _, d in deltas(900, 3, 60)],
    "a hundred events a record": lambda: [d for _, d in deltas(3000, 100, 60)],
    "report rows": lambda: [d for _, d in reports(400, 4, 60)],
    **{f"generated log {seed}": lambda seed=seed: [encode(keyed(s.record)) for s in generate(seed, 150).records] for seed in range(6)},
}


@pytest.mark.parametrize("small", [0, 1_000_000], ids=["walked through", "as tables"])
@pytest.mark.parametrize("name", PAGES)
def test_what_is_read_together_says_what_each_says_alone(name: str, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SMALL", small)
    page = PAGES[name]()
    read = pages.read_page(page)
    for data, found in zip(page, read, strict=True):
        if found is not None:
            alone = decode(data)
            assert isinstance(found, Part) and isinstance(alone, EventBatch)
            assert said(found) == said(alone)
    assert sum(found is not None for found in read) >= 0.9 * len(batches(page))


def test_one_that_cannot_be_read_is_named_and_hides_no_other() -> None:
    page = [d for _, d in deltas(40, 1, 10)]
    broken = {3: page[3][:-1], 5: b"", 9: b"\x0a\x05abc", 12: page[12].replace(b"meta_ads", b"meta_\xff\xfes", 1), 20: b"\x12\x00"}
    for at, data in broken.items():
        page[at] = data
    read = EVENTS.decode_all(page)
    assert [i for i, r in enumerate(read) if isinstance(r, Poisoned)] == [3, 5, 9, 12]
    assert all(isinstance(r, EventBatch) for i, r in enumerate(read) if i not in broken)


def test_an_index_outside_its_dictionary_is_found_in_the_record_that_has_it() -> None:
    page = [d for _, d in deltas(40, 2, 10)]
    page[7] = encode(replace(batches(page)[7], amount_measure=np.array([3, 9], np.uint32)))
    assert [i for i, r in enumerate(EVENTS.decode_all(page)) if isinstance(r, Poisoned)] == [7]


def test_workspaces_are_not_mixed() -> None:
    two = [[replace(b, workspace=w) for b in batches([d for _, d in deltas(60, 1, 10, seed)])] for w, seed in (("acme", 1), ("bolt", 2))]
    page = list(itertools.chain.from_iterable(zip(*two, strict=True)))
    read = EVENTS.decode_all([encode(b) for b in page])
    for found, alone in zip(read, page, strict=True):
        assert isinstance(found, Part) and said(found) == said(alone)


@pytest.mark.parametrize("seed", range(8))
def test_the_engine_decides_the_same_on_what_was_read_together(seed: int) -> None:
    records = [(s.stamp, encode(keyed(s.record))) for s in generate(seed, 200).records]
    alone = [Stamped(i, stamp, decode(data)) for i, (stamp, data) in enumerate(records)]
    read = EVENTS.decode_all([data for _, data in records])
    at_once = [Stamped(i, stamp, record) for i, ((stamp, _), record) in enumerate(zip(records, read, strict=True))]
    assert sum(isinstance(s.record, Part) for s in at_once) > 20

    def run(log: Sequence[Stamped[Record]], step: int) -> tuple[list[str], str]:
        partition = Partition(GUARDS, demand_of(log))
        out = [d.id for i in range(0, len(log), step) for d in partition.step(log[i : i + step])]
        return out, partition.digest()

    assert run(at_once, 50) == run(alone, 1) == run(at_once, 7)


def test_a_batch_made_of_a_stretch_of_records_is_what_its_records_say() -> None:
    read = [r for r in EVENTS.decode_all([d for _, d in deltas(60, 3, 10)]) if isinstance(r, Part)]
    whole = read[0].page
    assert len(read) == 20 and same(whole.between(0, 20), whole.batch) and len(whole.batch.paths) == len(whole.batch.path_key)
    some = whole.between(4, 6)
    assert list(some.paths) == [*read[4].paths, *read[5].paths]
    assert some.paths[-1] == read[5].paths[-1] and some.paths[0:2] == tuple(some.paths)[0:2]
    with pytest.raises(IndexError):
        _ = some.paths[len(some.paths)]
