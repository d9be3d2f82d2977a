"""`make bench` measures what its page says, and what it measures is what it says: every source, every goal."""

from __future__ import annotations

import os

import msgspec
import pytest

from benchmarks import ingest
from benchmarks.load import apart
from benchmarks.shapes import BATCHES, count

NOW = 1_772_366_400_000_000


def test_every_source_of_ingest_is_measured() -> None:
    assert {ingest.SENDERS[name].source for name, _, _ in ingest.CASES} == set(ingest.SOURCES)
    assert {name for name, _, _ in ingest.CASES} == set(ingest.SENDERS)


@pytest.mark.parametrize("name", list(ingest.SENDERS))
def test_every_event_that_is_counted_is_read_by_the_source_and_by_the_bare_endpoint(name: str) -> None:
    for delivery in ingest.deliveries(name, 20, 3, NOW):
        assert ingest.read_alone(delivery) == count(msgspec.json.decode(delivery.body, type=BATCHES[name])) == 20


def test_the_load_keeps_off_the_server_s_core_and_may_use_it_again_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with apart() as core:
        within = os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == before
    assert (core, within) == (-1, before) if len(before) < 2 else {core} | within == before and core not in within
