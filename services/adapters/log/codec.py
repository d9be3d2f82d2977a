"""What a log carries, as bytes: one encoder and one decoder a topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

from services.adapters.codec import decision, record
from services.kernel.decision import Decision
from services.kernel.record import Record

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    topic: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


EVENTS: Codec[Record] = Codec("events", record.encode, record.decode)
DECISIONS: Codec[Decision] = Codec("decisions", decision.encode, decision.decode)


def partition_of(key: str, partitions: int) -> int:
    """The same on every machine and in every version."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") % partitions
