"""The records of an answer as its batches have them: who takes four of their fields needs no dataclass of twelve made from each.

aiokafka makes one for whoever reads, and offers no way to go without. A consumer that is told `unpacked_here` gets what its batches hold; others in the
process get what they always got.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from aiokafka.consumer import fetcher

aiokafkas: Any = fetcher.PartitionRecords


class Record(Protocol):
    """What is had of each."""

    offset: int
    timestamp: int  # milliseconds since the epoch
    timestamp_type: int  # who gave it: 0 its sender, 1 the broker
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Unpacked:
    """Those of one partition, in order, from `offset` on. Only for consumers that read what is not committed by a transaction, too: we write in none."""

    def __init__(self, batches: Any, offset: int) -> None:
        self.next_fetch_offset = offset
        self._records = self._each(batches)

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    def _each(self, batches: Any) -> Iterator[Record]:
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.is_control_batch:
                for record in batch:
                    if (at := record.offset) >= self.next_fetch_offset:  # a batch is given whole, whichever of its records was asked for
                        self.next_fetch_offset = at + 1
                        yield record
            self.next_fetch_offset = batch.next_offset  # its last records may be gone, by compaction


def as_it_is(value: bytes | None) -> bytes | None:
    """What a consumer is told to make of a value: by this one it is known to be ours."""
    return value


def _records(partition: Any, batches: Any, aborted: Any, offset: int, of_key: Any, of_value: Any, check_crcs: bool, isolation: int) -> Any:
    if of_value is not as_it_is:
        return aiokafkas(partition, batches, aborted, offset, of_key, of_value, check_crcs, isolation)
    return Unpacked(batches, offset)


def unpacked_here() -> dict[str, Any]:
    """What an aiokafka consumer is told so that it gives records as its batches have them, and asks for nothing that is left out here."""
    assert fetcher.PartitionRecords in (aiokafkas, _records), "this aiokafka makes its records elsewhere"
    fetcher.PartitionRecords = _records
    return {"value_deserializer": as_it_is, "check_crcs": False, "isolation_level": "read_uncommitted"}
