"""An event batch read in place: each packed fixed-width column is found in the wire bytes and taken as an array, without an object per event.

A column that a sender wrote in pieces or unpacked (both are legal) sends the reader to the generated class; the values are the same.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from google.protobuf.message import DecodeError

from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.kernel.errors import RejectedInput
from services.kernel.record import EventBatch

TEXTS = {2: "paths", 3: "sources", 4: "kinds", 5: "measures", 6: "names", 7: "texts"}
WIDE = {10: "event_id", 14: "occurred_at", 15: "interval_start", 16: "interval_end", 17: "as_of", 18: "row_id", 22: "amount", 33: "attribute_number"}
SMALL = {11: "entity", 12: "source", 13: "kind", 20: "amount_event", 21: "amount_measure", 30: "attribute_event", 31: "attribute_name", 32: "attribute_text"}
PAIRS = ("event_id", "row_id")
COLUMNS = {**{n: (name, "<i8") for n, name in WIDE.items()}, **{n: (name, "<u4") for n, name in SMALL.items()}}
LENGTH_DELIMITED, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5


class NotInPlace(Exception):
    """The bytes are legal but not laid out for reading in place."""


def poisoned(why: str) -> RejectedInput:
    return RejectedInput(f"a record cannot be read: {why}", reason="poisoned")


def read_batch(data: bytes) -> EventBatch:
    """The batch that these bytes (of message EventBatch) hold. Raises RejectedInput(poisoned) where they hold none."""
    try:
        batch = _in_place(memoryview(data))
    except NotInPlace:
        batch = _by_class(data)
    check(batch)
    return batch


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise poisoned("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _in_place(data: memoryview) -> EventBatch:
    texts: dict[str, list[str]] = {name: [] for name in TEXTS.values()}
    columns: dict[str, np.ndarray] = {}
    workspace, at, end = "", 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire != LENGTH_DELIMITED:
            if number in COLUMNS or wire not in (VARINT, FIXED64, FIXED32):
                raise NotInPlace
            at = _varint(data, at)[1] if wire == VARINT else at + (8 if wire == FIXED64 else 4)
            continue
        size, at = _varint(data, at)
        stop = at + size
        if stop > end:
            raise poisoned("it ends inside a field")
        if number in COLUMNS:
            name, kind = COLUMNS[number]
            if name in columns or size % int(kind[2]):
                raise NotInPlace
            columns[name] = np.frombuffer(data[at:stop], kind)
        elif number == 1:
            workspace = _text(data[at:stop])
        elif number in TEXTS:
            texts[TEXTS[number]].append(_text(data[at:stop]))
        at = stop
    if at != end:
        raise poisoned("it ends inside a field")
    empty = {name: np.zeros(0, kind) for name, kind in COLUMNS.values() if name not in columns}
    return _batch(workspace, {k: tuple(v) for k, v in texts.items()}, columns | empty)


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise poisoned("a text is not UTF-8") from None


def _by_class(data: bytes) -> EventBatch:
    try:
        message = pb.EventBatch.FromString(data)
    except DecodeError as error:
        raise poisoned(str(error)) from None
    return from_message(message)


def from_message(message: pb.EventBatch) -> EventBatch:
    texts = {name: tuple(getattr(message, name)) for name in TEXTS.values()}
    return _batch(message.workspace, texts, {name: np.array(getattr(message, name), kind) for name, kind in COLUMNS.values()})


def _batch(workspace: str, texts: dict[str, tuple[str, ...]], columns: dict[str, np.ndarray]) -> EventBatch:
    for name in PAIRS:
        if len(columns[name]) % 2:
            raise poisoned(f"{name} has half an entry")
        columns[name] = columns[name].reshape(-1, 2)
    return EventBatch(workspace=workspace, **texts, **columns)  # type: ignore[arg-type]  # names and kinds come from the two tables above


def check(batch: EventBatch) -> None:
    """Columns of one table are of one length, and every index points into its dictionary."""
    n = len(batch.event_id)
    for name in ("entity", "source", "kind", "occurred_at", "interval_start", "interval_end", "as_of", "row_id"):
        if len(getattr(batch, name)) != n:
            raise poisoned(f"{name} has {len(getattr(batch, name))} entries for {n} events")
    for table in (("amount_event", "amount_measure", "amount"), ("attribute_event", "attribute_name", "attribute_text", "attribute_number")):
        sizes = {len(getattr(batch, name)) for name in table}
        if len(sizes) > 1:
            raise poisoned(f"{table[0]} and its columns are of different lengths")
    limits = {
        "entity": len(batch.paths), "source": len(batch.sources), "kind": len(batch.kinds), "amount_event": n, "amount_measure": len(batch.measures),
        "attribute_event": n, "attribute_name": len(batch.names), "attribute_text": len(batch.texts) + 1,
    }  # fmt: skip
    for name, limit in limits.items():
        column = getattr(batch, name)
        if len(column) and int(column.max()) >= limit:
            raise poisoned(f"{name} points outside its dictionary")


def written(batch: EventBatch) -> bytes:
    """The bytes of message EventBatch that hold this batch: those the generated class would write, without an object per element."""
    parts = [*_field(1, batch.workspace.encode())] if batch.workspace else []
    for number in sorted((*TEXTS, *COLUMNS)):
        if number in TEXTS:
            for word in getattr(batch, TEXTS[number]):
                parts += _field(number, word.encode())
            continue
        name, kind = COLUMNS[number]
        column = getattr(batch, name)
        if column.size:
            parts += _field(number, column.astype(kind, copy=False).tobytes())
    return b"".join(parts)


def varint(value: int) -> bytes:
    """A number as the wire writes it, seven bits a byte."""
    if value < 0x80:
        return bytes((value,))
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _field(number: int, data: bytes) -> tuple[bytes, bytes, bytes]:
    return varint(number << 3 | LENGTH_DELIMITED), varint(len(data)), data


def write_batch(batch: EventBatch) -> pb.EventBatch:
    message = pb.EventBatch(workspace=batch.workspace)
    for name in TEXTS.values():
        getattr(message, name).extend(getattr(batch, name))
    for name, _ in COLUMNS.values():
        getattr(message, name).extend(getattr(batch, name).reshape(-1).tolist())
    return message


def same(a: EventBatch, b: EventBatch) -> bool:
    """Whether two batches say exactly the same."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(EventBatch)]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)
