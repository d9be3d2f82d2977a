"""What a log carries, as bytes: one encoder and one decoder a topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

from services.adapters.codec import decision, record
from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput
from services.kernel.record import Poisoned, Record

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    topic: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


def readable(data: bytes) -> Record:
    """The record, or Poisoned: one that cannot be read must not hide the others of its page."""
    try:
        return record.decode(data)
    except (RejectedInput, ValueError, TypeError, ArithmeticError, LookupError) as error:
        return Poisoned(str(error))


EVENTS: Codec[Record] = Codec("events", record.encode, readable)
DECISIONS: Codec[Decision] = Codec("decisions", decision.encode, decision.decode)


def partition_of(key: str, partitions: int) -> int:
    """The same on every machine and in every version."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") % partitions
