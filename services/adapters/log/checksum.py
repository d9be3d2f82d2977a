"""The checksum of a batch, CRC-32C, by the processor's own instruction.

aiokafka computes it by table, several times as slowly, which showed in what a record costs who reads. It offers no way to give it another, so its consumers
are given batches that are looked at here (`checking_here`), and are told not to look themselves.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from google_crc32c import value as crc32c

LENGTH, LENGTH_AT, COUNTED = Struct(">i"), 8, 12  # how many bytes come after the length (https://kafka.apache.org/documentation/#recordbatch)
CRC, CRC_AT = Struct(">I"), 17
CRC_FROM = 21  # the first byte that it is of
MAGIC_AT, MAGIC = 16, 2  # of batches as they are since Kafka 0.11; brokers give us no others


class Checked:
    """The batches of an answer, as aiokafka's own. Raises CorruptRecordException at one whose bytes are not those that were written."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._batches = data, 0, MemoryRecords(data)

    def size_in_bytes(self) -> int:
        return int(self._batches.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> Any:
        batch, begin = self._batches.next_batch(), self._at
        if batch is not None:
            self._at = begin + COUNTED + LENGTH.unpack_from(self._data, begin + LENGTH_AT)[0]
            if self._data[begin + MAGIC_AT] != MAGIC or checksum(self._data, begin, self._at) != CRC.unpack_from(self._data, begin + CRC_AT)[0]:
                raise CorruptRecordException(f"the checksum of a batch of {self._at - begin} bytes is not that of its bytes")
        return batch


def checksum(data: bytes | bytearray, begin: int, end: int) -> int:
    """That of the batch that stands there."""
    return int(crc32c(bytes(memoryview(data)[begin + CRC_FROM : end])))


def checking_here() -> dict[str, bool]:
    """What an aiokafka consumer is told so that its batches are checked here."""
    assert fetcher.MemoryRecords in (MemoryRecords, Checked), "this aiokafka takes its batches from elsewhere"
    fetcher.MemoryRecords = Checked
    return {"check_crcs": False}
