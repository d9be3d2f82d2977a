"""Log records to bytes and back; equal records give equal bytes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from google.protobuf.message import DecodeError

from services.adapters.codec.columns import poisoned, read_batch, write_batch
from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.kernel.record import Activation, Change, Clock, EventBatch, Outcome, Ready, Record, Skip, Target, Tick

FIELDS: dict[type[Any], str] = {
    Activation: "activation",
    Ready: "ready",
    Target: "target",
    Tick: "tick",
    Outcome: "outcome",
    Change: "change",
    Skip: "skip",
    Clock: "clock",
}
KINDS = {name: kind for kind, name in FIELDS.items()}
BATCH = 0x0A  # field 1, length-delimited


def encode(record: Record) -> bytes:
    if isinstance(record, EventBatch):
        return framed(BATCH >> 3, write_batch(record))
    name = FIELDS[type(record)]
    message = pb.Record()
    inner = getattr(message, name)
    inner.SetInParent()
    for f in fields(record):
        setattr(inner, f.name, getattr(record, f.name))
    return message.SerializeToString(deterministic=True)


def framed(number: int, content: bytes) -> bytes:
    """A message of one length-delimited field."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content


def decode(data: bytes) -> Record:
    """Raises RejectedInput(poisoned) where the bytes hold no record that this build knows."""
    if data[:1] == b"\x0a":
        size = shift = 0
        at = 1
        while at < len(data):
            size |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                break
        if at + size == len(data):
            return read_batch(data[at:])
    return _by_class(data)


def _by_class(data: bytes) -> Record:
    try:
        message = pb.Record.FromString(data)
    except DecodeError as error:
        raise poisoned(str(error)) from None
    name = message.WhichOneof("record")
    if name is None:
        raise poisoned("it is of no known kind")
    if name == "batch":
        return read_batch(message.batch.SerializeToString())
    inner, kind = getattr(message, name), KINDS[name]
    record: Record = kind(**{f.name: getattr(inner, f.name) for f in fields(kind)})
    return record
