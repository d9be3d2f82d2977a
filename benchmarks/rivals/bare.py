"""The loop below which nobody gets: one event a record is parsed, the fields that matter are read, and that is all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.account import MEASURES
from benchmarks.rivals.plain import Event
from services.adapters.codec.each import instant, units

FIELDS = (("id", 12), ("entity", 9), ("source", 9), ("kind", 9), ("measure", 9), ("occurred_at", 16), ("amount", 16))  # 9 string, 12 bytes, 16 sfixed64


def message() -> type[Any]:
    """The generated class of a message that holds one event with one amount."""
    file = descriptor_pb2.FileDescriptorProto(name="benchmarks/event.proto", package="benchmarks", syntax="proto3")
    event = file.message_type.add(name="Event")
    for number, (name, kind) in enumerate(FIELDS, 1):
        event.field.add(name=name, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("benchmarks.Event"))


class Json(msgspec.Struct):
    id: str
    entity: str
    source: str
    kind: str
    measure: str
    occurred_at: int
    amount: int


class Published(msgspec.Struct):
    """An event as this product itself tells it to others, one a record (docs/asyncapi.yaml)."""

    id: str
    workspace: str
    source: str
    kind: str
    entity: str
    occurred_at: datetime
    amounts: dict[str, float]
    attributes: dict[str, float | str]


def as_protobuf(events: Sequence[Event]) -> list[bytes]:
    made = message()
    return [
        made(id=e.id, entity=e.entity, source="meta_ads", kind="report", measure=MEASURES[e.measure], occurred_at=e.at, amount=e.amount).SerializeToString()
        for e in events
    ]


def as_json(events: Sequence[Event]) -> list[bytes]:
    return [msgspec.json.encode(Json(e.id.hex(), e.entity, "meta_ads", "report", MEASURES[e.measure], e.at, e.amount)) for e in events]


def as_published(events: Sequence[Event]) -> list[bytes]:
    said = (
        {"id": e.id.hex(), "workspace": "acme", "source": "meta_ads", "kind": "report", "entity": e.entity, "occurred_at": instant(e.at)}
        | {"amounts": {MEASURES[e.measure]: units(e.amount)}, "attributes": {}}
        for e in events
    )
    return [msgspec.json.encode(data) for data in said]


def protobuf(events: Sequence[Event]) -> Callable[[], float]:
    return _loop(as_protobuf(events), message().FromString)


def json(events: Sequence[Event]) -> Callable[[], float]:
    return _loop(as_json(events), msgspec.json.Decoder(Json).decode)


def published(events: Sequence[Event]) -> Callable[[], float]:
    """A loop of its own: a call an event, to read other fields in the same loop, would slow it."""
    records, parse = as_published(events), msgspec.json.Decoder(Published).decode

    def run() -> float:
        began = time.process_time()
        for record in records:
            e = parse(record)
            e.id, e.entity, e.amounts, e.occurred_at  # noqa: B018
        return time.process_time() - began

    return run


def _loop(records: Sequence[bytes], parse: Callable[[bytes], Any]) -> Callable[[], float]:
    def run() -> float:
        began = time.process_time()
        for record in records:
            e = parse(record)
            e.id, e.entity, e.measure, e.occurred_at, e.amount  # noqa: B018
        return time.process_time() - began

    return run
