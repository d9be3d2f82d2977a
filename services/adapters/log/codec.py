"""What a log carries, as bytes: one encoder and one decoder a topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

from services.adapters.codec import decision, each, record
from services.adapters.codec.each import Each
from services.adapters.codec.page import read_page
from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput
from services.kernel.record import Poisoned, Record

T = TypeVar("T")
WORD = 0xFFFFFFFF
YEAR_10_000 = 253_402_300_800_000_000  # microseconds: no header can say later ones


@dataclass(frozen=True, slots=True)
class About:
    """What a record's headers say of it: the message that it is, and its id, time (microseconds), source and others where it has them of its own."""

    type: str
    id: str = ""
    time: int = 0
    source: str = ""
    more: tuple[tuple[str, str], ...] = ()
    content: str = "application/protobuf"


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it lies in a log: its stamp in microseconds, its bytes, and key and headers where the log has such."""

    partition: int
    offset: int
    stamp: int
    key: str
    headers: tuple[tuple[str, str], ...]
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    topic: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    about: Callable[[T], About]
    read_page: Callable[[Sequence[bytes]], Sequence[T | None]] | None = None  # reads what of it can be read at once

    def decode_all(self, page: Sequence[bytes]) -> list[T]:
        """What each record of a page says."""
        if self.read_page is None:
            return [self.decode(data) for data in page]
        return [self.decode(data) if read is None else read for data, read in zip(page, self.read_page(page), strict=True)]


def readable(data: bytes) -> Record:
    """The record, or Poisoned: one that cannot be read must not hide the others of its page."""
    try:
        return record.decode(data)
    except (RejectedInput, ValueError, TypeError, ArithmeticError, LookupError) as error:
        return Poisoned(str(error))


def about_record(record: Record) -> About:
    return About(f"trimtab.v1.{type(record).__name__}")


def about_decision(decision: Decision) -> About:
    return About("trimtab.v1.Decision", decision.id, decision.now)


def about_each(e: Each) -> About:
    more = (("subject", e.path), ("sequence", e.sequence))
    return About("trimtab.v1.Event", e.id, e.at if 0 < e.at < YEAR_10_000 else 0, f"/trimtab/{e.workspace}/{e.source}", more, "application/json")


EVENTS: Codec[Record] = Codec("events", record.encode, readable, about_record, read_page)
DECISIONS: Codec[Decision] = Codec("decisions", decision.encode, decision.decode, about_decision)
EACH: Codec[Each] = Codec("events.each", lambda e: e.data, each.read, about_each)
CODECS: dict[str, Codec[Any]] = {codec.topic: codec for codec in (EVENTS, DECISIONS, EACH)}


@lru_cache(4096)
def partition_of(key: str, partitions: int) -> int:
    """The same on every machine, in every version and in every Kafka client: their default, murmur2 of the key's UTF-8 without its sign."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits with the seed that Kafka's clients use."""
    mix, whole = 0x5BD1E995, len(data) & ~3
    h = 0x9747B28C ^ len(data)
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * mix & WORD
        h = (h * mix ^ (k ^ k >> 24) * mix) & WORD
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * mix & WORD
    h = (h ^ h >> 13) * mix & WORD
    return h ^ h >> 15
