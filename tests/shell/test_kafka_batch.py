"""Batches of records for Kafka: what aiokafka would send, only compressed otherwise."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from services.adapters.log.batch import Batch
from services.adapters.log.checksum import CRC, CRC_AT, Checked, checking_here, checksum
from services.adapters.log.cluster import Cluster
from services.adapters.log.reader import Reader
from services.adapters.log.unpacked import Unpacked, aiokafkas, as_it_is, unpacked_here

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


def consumed(data: bytes) -> list[bytes]:
    """The values that a consumer gets of an answer to its fetch, by aiokafka's own way, told what ours is told."""
    options = checking_here()
    batches = fetcher.MemoryRecords(data)
    return [r.value for r in fetcher.PartitionRecords(TopicPartition("events", 0), batches, None, 0, None, None, options["check_crcs"], 0)]


def test_batches_whose_checksums_hold_are_read() -> None:
    first, second = built(Batch(1 << 20), REPEATING), built(BatchBuilder(1 << 20, NONE), REPEATING)
    assert consumed(first + second) == REPEATING  # the second's offsets were read with the first
    assert consumed(second) == REPEATING


@pytest.mark.parametrize("kind", [NONE, LZ4])
@pytest.mark.parametrize("at", [16, 17, 30, 60, 61, 200, -1])
def test_a_bit_that_turned_anywhere_in_a_batch_is_found_before_a_record_of_it_is_read(kind: int, at: int) -> None:
    whole = built(Batch(1 << 20) if kind == LZ4 else BatchBuilder(1 << 20, NONE), REPEATING)
    bad = bytearray(whole)
    bad[at] ^= 0x10
    with pytest.raises(CorruptRecordException):
        consumed(bytes(bad))
    read_before = fetcher.PartitionRecords(TopicPartition("events", 0), fetcher.MemoryRecords(whole + bytes(bad)), None, 0, None, None, False, 0)
    assert [next(read_before).value for _ in REPEATING] == REPEATING
    with pytest.raises(CorruptRecordException):
        next(read_before)


def test_the_end_of_an_answer_may_be_cut_off() -> None:
    """A broker sends as many bytes as are asked for; what is left of the last batch is sent again."""
    whole = built(Batch(1 << 20), REPEATING)
    assert consumed(whole + whole[:-9]) == REPEATING


async def test_a_reader_is_told_to_leave_the_checksum_to_us() -> None:
    assert Reader(Cluster("127.0.0.1:1"), "events").kafka._check_crcs is False
    assert fetcher.MemoryRecords is Checked


def test_an_answer_can_be_asked_whatever_aiokafkas_own_can() -> None:
    asked = {name for name in dir(MemoryRecords) if not name.startswith("_")}
    assert asked == {"has_next", "next_batch", "size_in_bytes"}
    whole = built(Batch(1 << 20), REPEATING)
    for data in (b"", whole, whole[:-9]):
        ours, theirs = Checked(data), MemoryRecords(data)
        assert (ours.size_in_bytes(), ours.has_next()) == (theirs.size_in_bytes(), theirs.has_next())
    assert (Checked(b"").next_batch(), Checked(whole).has_next()) == (None, True)


def placed(batch: bytes, offset: int, attributes: int = 0, last: int | None = None) -> bytes:
    """As a broker keeps it: from this offset on, with more attributes, or up to a last offset that was compacted away."""
    made = bytearray(batch)
    made[0:8] = offset.to_bytes(8, "big")
    made[21:23] = (int.from_bytes(made[21:23], "big") | attributes).to_bytes(2, "big")
    if last is not None:
        made[23:27] = (last - offset).to_bytes(4, "big")
    CRC.pack_into(made, CRC_AT, checksum(made, 0, len(made)))
    return bytes(made)


BY_BROKER, CONTROL = 0x08, 0x20
A, B, C = REPEATING[:5], [b"", *REPEATING[:2]], REPEATING[:1]
EVENTS = TopicPartition("events", 0)
ANSWERS = {
    "one batch": [placed(built(Batch(1 << 20), A), 0)],
    "two, stamped by the broker": [placed(built(Batch(1 << 20), A), 0, BY_BROKER), placed(built(Batch(1 << 20), B), 5, BY_BROKER)],
    "a control batch between": [
        placed(built(Batch(1 << 20), A), 0), placed(built(BatchBuilder(1 << 20, NONE), C), 5, CONTROL), placed(built(Batch(1 << 20), B), 6),
    ],
    "compacted": [placed(built(Batch(1 << 20), A), 0, last=9), placed(built(Batch(1 << 20), B), 10)],
    "nothing": [],
}


@pytest.mark.parametrize("start", range(7))
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_record_as_its_batch_has_it_says_what_aiokafkas_own_says(answer: list[bytes], start: int) -> None:
    """And a consumer stands after each where it would stand with aiokafka's: it goes on in the middle, too."""
    data = b"".join(answer)
    theirs, ours = aiokafkas(EVENTS, MemoryRecords(data), None, start, None, None, False, 0), Unpacked(MemoryRecords(data), start)
    while True:
        a, b = next(theirs, None), next(ours, None)
        assert ours.next_fetch_offset == theirs.next_fetch_offset
        if a is None or b is None:
            assert a is b
            break
        assert (b.offset, b.timestamp, b.timestamp_type, b.key, b.value, list(b.headers)) == (
            a.offset, a.timestamp, a.timestamp_type, a.key, a.value, list(a.headers)
        )  # fmt: skip


def test_pieces_of_an_answer_follow_one_another() -> None:
    """aiokafka takes as many as were asked for, and later goes on with the same."""
    records = Unpacked(MemoryRecords(ANSWERS["two, stamped by the broker"][0]), 0)
    assert [r.offset for r, _ in zip(records, range(2), strict=False)] == [0, 1]
    assert records.next_fetch_offset == 3  # zip had taken one more
    assert [r.offset for r in records] == [3, 4]


async def test_only_a_consumer_that_asks_for_it_is_given_records_as_their_batches_have_them() -> None:
    of_value = Reader(Cluster("127.0.0.1:1"), "events").kafka._value_deserializer
    assert of_value is as_it_is is unpacked_here()["value_deserializer"]
    data = ANSWERS["one batch"][0]
    assert isinstance(fetcher.PartitionRecords(EVENTS, MemoryRecords(data), None, 0, None, of_value, False, 0), Unpacked)
    [first, *_] = fetcher.PartitionRecords(EVENTS, MemoryRecords(data), None, 0, None, None, True, 0)
    assert (first.topic, first.partition, first.offset) == ("events", 0, 0)
