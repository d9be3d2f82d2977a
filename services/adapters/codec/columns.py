"""An event batch read and written in place: each packed fixed-width column is an array in the wire bytes, taken and put without an object per event.

A column that a sender wrote in pieces or unpacked (both are legal) sends the reader to the generated class; the values are the same. Paths are read when
somebody asks for them: the engine knows most entities by their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, overload

import numpy as np
from google.protobuf.message import DecodeError

from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.kernel.errors import RejectedInput
from services.kernel.record import EventBatch

I8, U4 = np.dtype("<i8"), np.dtype("<u4")
COLUMNS: dict[int, tuple[str, np.dtype[Any]]] = {
    2: ("event_id", I8), 3: ("entity", U4), 4: ("source", U4), 5: ("kind", U4), 6: ("occurred_at", I8), 7: ("interval_start", I8), 8: ("interval_end", I8),
    9: ("as_of", I8), 10: ("row_id", I8), 11: ("amount_event", U4), 12: ("amount_measure", U4), 13: ("amount", I8), 14: ("attribute_event", U4),
    15: ("attribute_name", U4), 16: ("attribute_text", U4), 17: ("attribute_number", I8), 18: ("path_key", I8),
}  # fmt: skip
ITEM = {number: kind.itemsize for number, (_, kind) in COLUMNS.items()}
TEXTS = {20: "sources", 21: "kinds", 22: "measures", 23: "names", 24: "texts"}
PATHS, TAIL = 30, 19
PAIRS = ("event_id", "row_id", "path_key")
OMITTED = ("entity", "source", "kind", "interval_start", "interval_end", "as_of", "row_id")  # where all are zero
LENGTH_DELIMITED, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5
MOST_REMEMBERED = 4096
_dictionaries: dict[bytes, tuple[tuple[str, ...], ...]] = {}  # the bytes between columns and paths -> what they say: few, over and over


class NotInPlace(Exception):
    """The bytes are legal but not laid out for reading in place."""


class Paths(Sequence[str]):
    """The last part of a record, read when it is first asked for; raises RejectedInput(poisoned) then if it is none."""

    __slots__ = ("data", "start", "read")

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.start = data, start
        self.read: tuple[str, ...] | None = None

    def all(self) -> tuple[str, ...]:
        if self.read is None:
            found: list[str] = []
            at, end = self.start, len(self.data)
            while at < end:
                number, wire, start, at = _field(self.data, at, end)
                if number == PATHS and wire == LENGTH_DELIMITED:
                    found.append(_text(self.data[start:at]))
                elif number in COLUMNS or number in TEXTS or number in (1, TAIL):
                    raise poisoned("its fields are out of order")
            self.read = tuple(found)
        return self.read

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.all()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple | Paths) and self.all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self.all())

    def __repr__(self) -> str:
        return repr(self.all())


def poisoned(why: str) -> RejectedInput:
    return RejectedInput(f"a record cannot be read: {why}", reason="poisoned")


def read_batch(data: bytes) -> EventBatch:
    """The batch that these bytes (of message EventBatch) hold. Raises RejectedInput(poisoned) where they hold none."""
    try:
        return _in_place(data)
    except NotInPlace:
        return _by_class(data)


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """(number, wire type, start, stop) of the field at `at`; of a length-delimited one its content."""
    tag, at = _varint(data, at)
    wire = tag & 7
    if wire == LENGTH_DELIMITED:
        size, at = _varint(data, at)
        stop = at + size
    elif wire == VARINT:
        stop = _varint(data, at)[1]
    elif wire in (FIXED64, FIXED32):
        stop = at + (8 if wire == FIXED64 else 4)
    else:
        raise NotInPlace
    if stop > end:
        raise poisoned("it ends inside a field")
    return tag >> 3, wire, at, stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
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


@dataclass(slots=True)
class Layout:
    """Where everything stands in the bytes of a batch: (number, start, stop) of each column, the dictionaries, the paths."""

    workspace: str
    columns: list[tuple[int, int, int]]
    words: tuple[int, int]
    paths: int


def layout_of(data: bytes, at: int = 0, begun: Layout | None = None) -> Layout:
    """Columns in order of their numbers, then `tail`, then dictionaries, then paths: as `write_batch` lays them out. Raises NotInPlace where it is not so.

    What stands before `at` may be known already: `begun` is the layout of that.
    """
    columns: list[tuple[int, int, int]] = [] if begun is None else list(begun.columns)
    end, last, workspace = len(data), columns[-1][0] if columns else 0, "" if begun is None else begun.workspace
    try:
        while at < end:
            tag, size, start = data[at], data[at + 1], at + 2
            if tag >= 0x80:  # a number above 15 takes two bytes
                tag, size, start = tag & 0x7F | size << 7, data[at + 2], at + 3
            if tag & 7 != LENGTH_DELIMITED or tag >> 3 >= TAIL:
                break
            if size >= 0x80:
                size, start = size & 0x7F | data[start] << 7, start + 1
                if size >= 1 << 14:
                    size, start = _varint(data, start - 2)
            number, stop = tag >> 3, start + size
            if number <= last:
                raise NotInPlace
            if stop > end:
                raise poisoned("it ends inside a field")
            if number == 1:
                workspace = str(data[start:stop], "utf-8")
            else:
                if size % ITEM[number]:
                    raise NotInPlace
                columns.append((number, start, stop))
            at, last = stop, number
    except (IndexError, KeyError, UnicodeDecodeError):
        raise NotInPlace from None  # the generated class says what is wrong
    if at == end:
        return Layout(workspace, columns, (at, at), at)
    number, wire, start, stop = _field(data, at, end)
    if number == TAIL and wire == VARINT:
        tail = _varint(data, start)[0]
        if 0 < tail <= end - stop:
            return Layout(workspace, columns, (stop, end - tail), end - tail)
    raise NotInPlace


def _in_place(data: bytes) -> EventBatch:
    found = layout_of(data)
    columns = {}
    for number, start, stop in found.columns:
        name, kind = COLUMNS[number]
        columns[name] = np.frombuffer(data, kind, (stop - start) // kind.itemsize, start)
    if found.paths == len(data):
        return _batch(found.workspace, ((),) * 5, (), columns)
    paths = Paths(data, found.paths)
    return _batch(found.workspace, words_of(data[found.words[0] : found.words[1]]), paths if "path_key" in columns else paths.all(), columns)


def words_of(data: bytes) -> tuple[tuple[str, ...], ...]:
    """(sources, kinds, measures, names, texts)"""
    known = _dictionaries.get(data)
    if known is None:
        found: dict[int, list[str]] = {number: [] for number in TEXTS}
        at = 0
        try:
            while at < len(data):
                number, _, start, at = _field(data, at, len(data))
                found[number].append(str(data[start:at], "utf-8"))
        except (RejectedInput, KeyError, UnicodeDecodeError):
            raise NotInPlace from None
        known = tuple(tuple(found[number]) for number in TEXTS)
        if len(data) < 1000:
            if len(_dictionaries) >= MOST_REMEMBERED:
                _dictionaries.clear()
            _dictionaries[data] = known
    return known


def _text(data: bytes) -> str:
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
    words = tuple(tuple(getattr(message, name)) for name in TEXTS.values())
    columns = {name: np.array(getattr(message, name), kind) for name, kind in COLUMNS.values() if len(getattr(message, name))}
    return _batch(message.workspace, words, tuple(message.paths), columns)


def _batch(workspace: str, words: tuple[tuple[str, ...], ...], paths: Sequence[str], columns: dict[str, np.ndarray]) -> EventBatch:
    """Checks what came and fills in what was left out: columns of one table are of one length, and every index points into its dictionary."""
    sources, kinds, measures, names, texts = words
    keys = len(columns["path_key"]) // 2 if "path_key" in columns else -1
    if isinstance(paths, tuple):
        if keys >= 0 and keys != len(paths):
            raise poisoned("there are not as many keys as paths")
        keys = len(paths)
    n, amounts, said = len(columns.get("event_id", NOTHING)) // 2, len(columns.get("amount", NOTHING)), len(columns.get("attribute_event", NOTHING))
    if n > 0 and not (keys and sources and kinds and "occurred_at" in columns):
        raise poisoned("its events are about nothing, of no source or kind, or at no time")
    if (amounts and not measures) or ("amount_event" not in columns and amounts > n):
        raise poisoned("it does not say what its amounts are, or whose")
    for name, column in columns.items():
        length, limit = SHAPE[name]
        if length >= 0 and len(column) != (n, amounts, said, 2 * n)[length]:
            raise poisoned(f"{name} has {len(column)} entries for {n} events, {amounts} amounts and {said} attributes")
        if limit >= 0 and len(column) and int(column.max()) >= (most := (keys, len(sources), len(kinds), n, len(measures), len(names), len(texts) + 1)[limit]):
            raise poisoned(f"{name} points outside its dictionary, which has {most} entries")
    if said and not ("attribute_name" in columns and "attribute_text" in columns and "attribute_number" in columns):
        raise poisoned("it does not say what its attributes are")
    for name in PAIRS:
        if name in columns:
            if len(columns[name]) % 2:
                raise poisoned(f"{name} has half an entry")
            columns[name] = columns[name].reshape(-1, 2)
    small, wide, pairs = _zeros(n)
    filled = {name: small if kind is U4 else pairs if name in PAIRS else wide for name, kind in COLUMNS.values() if name in OMITTED and name not in columns}
    if "amount_event" not in columns:
        columns["amount_event"] = np.arange(amounts, dtype=U4)
    if amounts and "amount_measure" not in columns:
        columns["amount_measure"] = np.zeros(amounts, U4)
    all_columns = {**ABSENT, **filled, **columns}
    return EventBatch(workspace=workspace, paths=paths, sources=sources, kinds=kinds, measures=measures, names=names, texts=texts, **all_columns)


@lru_cache(256)
def _zeros(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of zeros that are shared, and so cannot be written to."""
    made = np.zeros(n, U4), np.zeros(n, I8), np.zeros((n, 2), I8)
    for column in made:
        column.flags.writeable = False
    return made


NOTHING = np.zeros(0, np.int64)
ABSENT = {name: np.zeros((0, 2) if name in PAIRS else 0, kind) for name, kind in COLUMNS.values()}
EVENT, AMOUNT, ATTRIBUTE, EVENT_PAIR = range(4)
SHAPE = dict.fromkeys(("occurred_at", "interval_start", "interval_end", "as_of"), (EVENT, -1))  # (its table, the dictionary it points into)
SHAPE |= {"event_id": (EVENT_PAIR, -1), "row_id": (EVENT_PAIR, -1), "path_key": (-1, -1), "entity": (EVENT, 0), "source": (EVENT, 1), "kind": (EVENT, 2)}
SHAPE |= {"amount_event": (AMOUNT, 3), "amount_measure": (AMOUNT, 4), "amount": (AMOUNT, -1), "attribute_event": (ATTRIBUTE, 3)}
SHAPE |= {"attribute_name": (ATTRIBUTE, 5), "attribute_text": (ATTRIBUTE, 6), "attribute_number": (ATTRIBUTE, -1)}


def write_batch(batch: EventBatch) -> bytes:
    """The bytes of message EventBatch, its fields in order of their numbers, as the generated class writes them; columns of zeros are left out."""
    parts = [_written(1, batch.workspace.encode())] if batch.workspace else []
    for number, (name, kind) in COLUMNS.items():
        column = getattr(batch, name)
        if len(column) and not _is_omitted(name, column, batch):
            parts.append(_written(number, column.astype(kind, copy=False).tobytes()))
    paths = b"".join(map(_written_path, batch.paths))
    if paths:
        parts.append(_number(TAIL << 3) + _number(len(paths)))
    for number, name in TEXTS.items():
        parts.append(_written_texts(number, getattr(batch, name)))
    return b"".join([*parts, paths])


def _is_omitted(name: str, column: np.ndarray, batch: EventBatch) -> bool:
    if name == "amount_measure":
        return not column.any()
    if name == "amount_event":
        return len(column) <= len(batch.event_id) and bool((column == np.arange(len(column))).all())
    return name in OMITTED and not column.any()


def _written(number: int, content: bytes) -> bytes:
    return _number(number << 3 | LENGTH_DELIMITED) + _number(len(content)) + content


def _written_texts(number: int, words: Sequence[str]) -> bytes:
    tag = _number(number << 3 | LENGTH_DELIMITED)
    return b"".join([tag + _number(len(word)) + word for word in map(str.encode, words)])


@lru_cache(65_536)
def _written_path(path: str) -> bytes:
    return _written_texts(PATHS, (path,))


def _number(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes([i]) for i in range(0x80)]


def same(a: EventBatch, b: EventBatch) -> bool:
    """Whether two batches say exactly the same."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(EventBatch) if f.name != "path_key"]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else tuple(x) == tuple(y) for x, y in pairs)
