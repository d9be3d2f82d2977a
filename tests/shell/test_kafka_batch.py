"""Batches of records for Kafka: what aiokafka would send, only compressed otherwise."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from services.adapters.log.batch import Batch

NONE, LZ4 = 0, 3
REPEATING = [bytes([i]) * 500 for i in range(40)]


def built(batch: BatchBuilder, values: list[bytes]) -> bytes:
    for i, value in enumerate(values):
        assert batch.append(timestamp=1_700_000_000_000 + i, key=b"acme", value=value, headers=[("ce_id", str(i).encode())]) is not None
    batch._set_producer_state(7, 1, 42)
    return bytes(batch._build())


def read(data: bytes) -> Any:
    """What a consumer finds in a batch, besides its compression."""
    batch = MemoryRecords(data).next_batch()
    assert batch.validate_crc()
    about = (batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.next_offset, batch.is_transactional, batch.timestamp_type)
    return about, [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in batch]


@pytest.mark.parametrize("values", [REPEATING, REPEATING[:1], [b"", *REPEATING], [os.urandom(200)]], ids=["many", "one", "empty", "random"])
def test_a_batch_says_what_aiokafkas_own_says(values: list[bytes]) -> None:
    assert read(built(Batch(1 << 20), values)) == read(built(BatchBuilder(1 << 20, LZ4), values))


def test_a_batch_is_compressed() -> None:
    data = built(Batch(1 << 20), REPEATING)
    assert MemoryRecords(data).next_batch().compression_type == LZ4
    assert len(data) < sum(map(len, REPEATING)) / 5


def test_what_would_get_no_smaller_is_sent_as_it_is() -> None:
    data = built(Batch(1 << 20), [os.urandom(200)])
    assert MemoryRecords(data).next_batch().compression_type == NONE


def test_a_batch_that_is_sent_again_is_the_same() -> None:
    batch = Batch(1 << 20)
    assert built(batch, REPEATING) == bytes(batch._build())


def test_a_full_batch_takes_no_more() -> None:
    batch = Batch(1_000)
    assert [batch.append(timestamp=None, key=None, value=bytes(400), headers=[]) is None for _ in range(3)] == [False, False, True]
