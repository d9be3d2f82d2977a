"""A page of records read at once: event batches of one workspace become one, whose columns are those of all of them.

Small records that are laid out alike, byte for byte but for what their columns and paths say, are read as the rows of one table. Of larger ones each is
walked through, and the bytes of its columns are joined with those of the others. What fits neither is left to be read by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.adapters.codec.columns import COLUMNS, PAIRS, SHAPE, U4, Layout, NotInPlace, Paths, layout_of, words_of
from services.kernel.errors import RejectedInput
from services.kernel.page import Chained, Page, Part
from services.kernel.record import I64, EventBatch

BATCH_BYTE = b"\x0a"  # field 1 of a record, length-delimited
FEW = 4  # layouts that are remembered while a page is walked through
FEWEST = 8  # records that are worth a table
MISSES = 3  # layouts of fewer records than that, after which no more are looked for
MOSTLY = 0.9  # of a page in tables: else it is walked through, so that neighbours stay together
SMALL = 2_000  # bytes of a record, on average: larger ones are seldom laid out alike
EVENT_ID, AMOUNT_EVENT, AMOUNT, ATTRIBUTE_EVENT, PATH_KEY = 2, 11, 13, 14, 18
EVENTS, AMOUNTS, ATTRIBUTES = 0, 1, 2  # tables, as in SHAPE
U8 = np.dtype(np.uint8)
Words = tuple[tuple[str, ...], ...]
Columns = dict[int, NDArray[Any]]


@dataclass(slots=True)
class Sizes:
    """Events, amounts, attributes and paths of each record, (records,) each."""

    events: I64
    amounts: I64
    attributes: I64
    paths: I64


@dataclass(slots=True)
class Found:
    """Records of one workspace: their places in the page, what they hold, and where the paths of each begin."""

    places: I64
    sizes: Sizes
    columns: Columns
    words: list[Words]
    said: I64  # of each record, which of the words are its own
    paths: list[int]


def read_page(page: Sequence[bytes]) -> list[EventBatch | None]:
    """The batch of each record that could be read with others; None of the others, be they batches or not."""
    out: list[EventBatch | None] = [None] * len(page)
    if len(page) < FEWEST:
        return out
    tables = _tables(page) if sum(map(len, page)) < SMALL * len(page) else {}
    claimed = sum(len(found.places) for found in tables.values())
    for workspace, found in sorted((tables if claimed > MOSTLY * len(page) else _walks(page)).items()):
        whole = _assembled(workspace, found, page)
        if whole is not None:
            for i, place in enumerate(found.places.tolist()):
                out[place] = Part(workspace, whole, i)
    return out


@dataclass(frozen=True, slots=True)
class Stencil:
    """How a record is laid out up to its paths' keys. Another whose bytes between the columns are the same is laid out likewise so far."""

    head: int
    between: list[tuple[int, int, bytes]]
    begun: Layout
    sizes: tuple[int, int, int]  # events, amounts, attributes

    def applied(self, data: bytes) -> tuple[int, Layout, tuple[int, int, int, int]] | None:
        """As `_regular`, or None where it does not fit."""
        for start, stop, said in self.between:
            if data[start:stop] != said:
                return None
        try:
            layout = layout_of(data, self.begun.paths, self.begun)
        except (NotInPlace, RejectedInput):
            return None
        number, start, stop = layout.columns[-1]
        keys, odd = divmod(stop - start, 16)
        if number != PATH_KEY or len(layout.columns) != len(self.begun.columns) + 1 or odd or not keys or layout.paths == len(data):
            return None
        return self.head, layout, (*self.sizes, keys)


def _stencil(data: bytes, head: int, layout: Layout, sizes: tuple[int, int, int, int]) -> Stencil:
    columns, between, at = layout.columns[:-1], [], head
    for _, start, stop in columns:
        between.append((at, start, data[at:start]))
        at = stop
    return Stencil(head, between, Layout(layout.workspace, columns, (at, at), at), sizes[:3])


def _alike(data: bytes, stencils: list[Stencil]) -> tuple[int, Layout, tuple[int, int, int, int]] | None:
    """As `_regular`, quickly where a record before was laid out likewise; `stencils` are those of the last few."""
    head = _head(data)
    for stencil in stencils:
        if stencil.head == head and (found := stencil.applied(data)) is not None:
            return found
    found = _regular(data)
    if found is not None and found[1].columns[-1][0] == PATH_KEY:
        stencils.insert(0, _stencil(data, *found))
        del stencils[FEW:]
    return found


def _head(data: bytes) -> int:
    """How many bytes stand before the batch, 0 where this is no batch."""
    if data[:1] != BATCH_BYTE:
        return 0
    size = shift = 0
    for i in range(1, min(6, len(data))):
        size |= (data[i] & 0x7F) << shift
        if data[i] < 0x80:
            return i + 1 if size == len(data) - i - 1 else 0
        shift += 7
    return 0


def _regular(data: bytes) -> tuple[int, Layout, tuple[int, int, int, int]] | None:
    """(bytes before the batch, its layout, its sizes), or None where this is no batch, or not one laid out for reading in place."""
    head = _head(data)
    if not head:
        return None
    try:
        layout = layout_of(data, head)
    except (NotInPlace, RejectedInput):
        return None
    sizes = sizes_of(layout)
    return None if sizes is None or layout.paths == len(data) else (head, layout, sizes)


# -- records laid out alike -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Mould:
    """The layout of one record, against which others are held."""

    layout: Layout
    head: int  # bytes before the batch
    fixed: I64  # the places of the bytes that are the same in all
    tail: slice  # the varint of how long the paths are
    sizes: tuple[int, int, int, int]


@dataclass(slots=True)
class Group:
    mould: Mould
    places: I64
    table: NDArray[np.uint8]  # (records, bytes up to the paths)


def _mould(data: bytes) -> Mould | None:
    found = _regular(data)
    if found is None:
        return None
    head, layout, sizes = found
    stop = layout.columns[-1][2]
    free = np.ones(layout.words[1], np.bool_)
    free[:head] = False
    free[stop + 2 : layout.words[0]] = False  # the tag of `tail` takes two bytes
    for _, start, end in layout.columns:
        free[start:end] = False
    free[0] = True
    return Mould(layout, head, np.flatnonzero(free), slice(stop + 2, layout.words[0]), sizes)


def _tables(page: Sequence[bytes]) -> dict[str, Found]:
    size = np.fromiter(map(len, page), np.int64, len(page))
    todo = np.array([i for i, data in enumerate(page) if data[:1] == b"\x0a"], np.int64)
    groups: dict[str, list[Group]] = {}
    missed = 0
    while len(todo) >= FEWEST and missed < MISSES:
        mould = _mould(page[todo[0]])
        group = None if mould is None else _group(page, size, todo, mould)
        if mould is None or group is None:
            missed, todo = missed + 1, todo[1:]
            continue
        groups.setdefault(mould.layout.workspace, []).append(group)
        todo = todo[~np.isin(todo, group.places)]
    return {workspace: _of_groups(many) for workspace, many in groups.items()}


def _group(page: Sequence[bytes], size: I64, todo: I64, mould: Mould) -> Group | None:
    upto = mould.layout.words[1]
    some = todo[size[todo] > upto]
    table = np.frombuffer(b"".join([page[i][:upto] for i in some.tolist()]), U8).reshape(-1, upto)
    alike = (table[:, mould.fixed] == table[0, mould.fixed]).all(axis=1)
    alike &= _number(table[:, 1 : mould.head]) == size[some] - mould.head
    alike &= _number(table[:, mould.tail]) == size[some] - upto
    if int(alike.sum()) < FEWEST:
        return None
    return Group(mould, some[alike], table[alike])


def _number(digits: NDArray[np.uint8]) -> I64:
    """The varint of each row, of exactly so many bytes; -1 where it is shorter or longer."""
    n = digits.shape[1]
    value = np.zeros(len(digits), np.int64)
    for i in range(n):
        value |= (digits[:, i].astype(np.int64) & 0x7F) << (7 * i)
    value[(digits[:, n - 1] >= 0x80) | (digits[:, : n - 1] < 0x80).any(axis=1)] = -1
    return value


def _of_groups(groups: list[Group]) -> Found:
    places = np.concatenate([g.places for g in groups])
    order = np.argsort(places)
    rank = np.empty(len(places), np.int64)
    rank[order] = np.arange(len(places))
    ends = np.cumsum([len(g.places) for g in groups])
    mine = [rank[end - len(g.places) : end] for g, end in zip(groups, ends.tolist(), strict=True)]
    sizes = Sizes(*(_spread(mine, [g.mould.sizes[i] for g in groups], len(places)) for i in range(4)))
    firsts = [np.cumsum(of) - of for of in (sizes.events, sizes.amounts, sizes.attributes, sizes.paths)]
    columns: Columns = {}
    for g, at in zip(groups, mine, strict=True):
        for number, start, stop in g.mould.layout.columns:
            kind, table = COLUMNS[number][1], _table_of(number)
            wide = 2 if COLUMNS[number][0] in PAIRS else 1
            if number not in columns:
                columns[number] = np.zeros(int((sizes.events, sizes.amounts, sizes.attributes, sizes.paths)[table].sum()) * wide, kind)
            content = np.ascontiguousarray(g.table[:, start:stop]).view(kind)
            columns[number][firsts[table][at][:, None] * wide + np.arange(content.shape[1])] = content
    if AMOUNT_EVENT in columns:  # where it is left out, amount i is of event i
        for g, at in zip(groups, mine, strict=True):
            if all(number != AMOUNT_EVENT for number, _, _ in g.mould.layout.columns):
                amounts = np.arange(g.mould.sizes[1])
                columns[AMOUNT_EVENT][firsts[AMOUNTS][at][:, None] + amounts] = amounts.astype(U4)
    words, said = _distinct([words_of(g.table[0, slice(*g.mould.layout.words)].tobytes()) for g in groups])
    paths = _spread(mine, [g.mould.layout.words[1] for g in groups], len(places))
    return Found(places[order], sizes, columns, words, _spread(mine, said, len(places)), paths.tolist())


def _spread(mine: list[I64], values: Sequence[int], n: int) -> I64:
    out = np.empty(n, np.int64)
    for at, value in zip(mine, values, strict=True):
        out[at] = value
    return out


# -- records walked through -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    places: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int, int, int]] = field(default_factory=list)
    parts: dict[int, dict[int, bytes]] = field(default_factory=dict)  # by number, then by record
    words: list[Words] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)


def _walks(page: Sequence[bytes]) -> dict[str, Found]:
    walks: dict[str, Walk] = {}
    stencils: list[Stencil] = []
    for place, data in enumerate(page):
        found = _alike(data, stencils)
        if found is None:
            continue
        _, layout, sizes = found
        try:
            words = words_of(data[layout.words[0] : layout.words[1]])
        except NotInPlace:
            continue
        walk = walks.setdefault(layout.workspace, Walk())
        n = len(walk.places)
        for number, start, stop in layout.columns:
            walk.parts.setdefault(number, {})[n] = data[start:stop]
        walk.places.append(place)
        walk.sizes.append(sizes)
        walk.words.append(words)
        walk.paths.append(layout.paths)
    return {workspace: _of_walk(walk) for workspace, walk in walks.items()}


def _of_walk(walk: Walk) -> Found:
    sizes = Sizes(*(np.array(walk.sizes, np.int64).reshape(-1, 4).T))
    columns: Columns = {}
    for number, parts in walk.parts.items():
        name, kind = COLUMNS[number]
        table, wide = _table_of(number), kind.itemsize * (2 if name in PAIRS else 1)
        if len(parts) < len(walk.places):
            default = _counted if number == AMOUNT_EVENT else bytes
            parts = {i: parts[i] if i in parts else default(of[table] * wide) for i, of in enumerate(walk.sizes)}
        columns[number] = np.frombuffer(b"".join(parts.values()), kind)
    words, said = _distinct(walk.words)
    return Found(np.array(walk.places, np.int64), sizes, columns, words, np.array(said, np.int64), walk.paths)


def _counted(size: int) -> bytes:
    return np.arange(size // 4, dtype=U4).tobytes()


# -- one of many ----------------------------------------------------------------------------------------------------------


def _table_of(number: int) -> int:
    """Whose rows a column has: those of events, amounts, attributes or paths."""
    table = SHAPE[COLUMNS[number][0]][0]
    return 3 if number == PATH_KEY else EVENTS if table == 3 else table


def sizes_of(layout: Layout) -> tuple[int, int, int, int] | None:
    """(events, amounts, attributes, paths), or None where the record is irregular."""
    length = {number: (stop - start) // COLUMNS[number][1].itemsize for number, start, stop in layout.columns}
    n, a, t, k = length.get(EVENT_ID, 0) // 2, length.get(AMOUNT, 0), length.get(ATTRIBUTE_EVENT, 0), length.get(PATH_KEY, 0) // 2
    if not n or not k or 6 not in length or (AMOUNT_EVENT not in length and a > n) or (t and not {15, 16, 17} <= length.keys()):
        return None
    for number, count in length.items():
        if count != (n, a, t, k)[_table_of(number)] * (2 if COLUMNS[number][0] in PAIRS else 1):
            return None
    return n, a, t, k


def _distinct(many: Sequence[Words]) -> tuple[list[Words], list[int]]:
    """(the different ones, which of them each is)"""
    known: dict[Words, int] = {}
    said: list[int] = []
    last: Words | None = None
    for words in many:
        said.append(said[-1] if words is last else known.setdefault(words, len(known)))
        last = words
    return list(known), said


def _assembled(workspace: str, found: Found, page: Sequence[bytes]) -> Page | None:
    """One batch of them all, or None where some column points outside its dictionary: which it is, is found by reading them one by one."""
    sizes, columns = found.sizes, found.columns
    firsts = [np.concatenate([[0], np.cumsum(of)]) for of in (sizes.events, sizes.amounts, sizes.attributes, sizes.paths)]
    n, a, t = (int(first[-1]) for first in firsts[:3])
    filled: dict[str, NDArray[Any]] = {}
    for number, (name, kind) in COLUMNS.items():
        column = columns.get(number)
        if column is None:
            column = np.zeros((n, a, t, 0)[_table_of(number)] * (2 if name in PAIRS else 1), kind)
        filled[name] = column.reshape(-1, 2) if name in PAIRS else column
    if AMOUNT_EVENT not in columns:
        filled["amount_event"] = (np.arange(a) - np.repeat(firsts[AMOUNTS][:-1], sizes.amounts)).astype(U4)
    dictionaries = [[len(w[i]) for w in found.words] for i in range(5)]
    record = {EVENTS: sizes.events, AMOUNTS: sizes.amounts, ATTRIBUTES: sizes.attributes}
    for name, (_, limit) in SHAPE.items():
        if limit < 0 or not len(filled[name]) or (limit != 3 and not filled[name].any() and _has_some(limit, dictionaries, sizes)):
            continue
        table = _table_of(next(number for number, (of, _) in COLUMNS.items() if of == name))
        most = sizes.paths if limit == 0 else sizes.events if limit == 3 else _lengths(limit, dictionaries, found.said)
        if (filled[name] >= np.repeat(most, record[table])).any():
            return None
    texts = found.words[0] if len(found.words) == 1 else _united(found, filled, record)
    if n and (not texts[0] or not texts[1]) or (a and not texts[2]):
        return None
    filled["entity"] = filled["entity"] + np.repeat(firsts[3][:-1], sizes.events).astype(U4)
    for name, table in (("amount_event", AMOUNTS), ("attribute_event", ATTRIBUTES)):
        filled[name] = filled[name] + np.repeat(firsts[EVENTS][:-1], record[table]).astype(U4)
    starts, places = found.paths, found.places.tolist()

    def read(i: int) -> Sequence[str]:
        return Paths(page[places[i]], starts[i])

    return _made(workspace, texts, filled, firsts, read)


def _made(workspace: str, words: Words, columns: dict[str, NDArray[Any]], firsts: list[I64], read: Callable[[int], Sequence[str]]) -> Page:
    sources, kinds, measures, names, texts = words
    paths = Chained(read, firsts[3], 0, len(firsts[3]) - 1)
    batch = EventBatch(workspace, paths, sources, kinds, measures, names, texts, **columns)
    return Page(batch, read, firsts[0], firsts[1], firsts[2], firsts[3])


def _lengths(limit: int, dictionaries: list[list[int]], said: I64) -> I64:
    """How many words each record's dictionary has; an attribute's text is 0 or one more than its place."""
    of = {1: 0, 2: 1, 4: 2, 5: 3, 6: 4}[limit]
    return np.array(dictionaries[of], np.int64)[said] + (limit == 6)


def _has_some(limit: int, dictionaries: list[list[int]], sizes: Sizes) -> bool:
    """Whether zeros point at something in every record."""
    return bool(sizes.paths.all()) if limit == 0 else limit == 6 or all(dictionaries[{1: 0, 2: 1, 4: 2, 5: 3}[limit]])


def _united(found: Found, columns: dict[str, NDArray[Any]], record: dict[int, I64]) -> Words:
    """One dictionary of each kind for all; columns point into it."""
    made = []
    pointing = (("source", EVENTS), ("kind", EVENTS), ("amount_measure", AMOUNTS), ("attribute_name", ATTRIBUTES), ("attribute_text", ATTRIBUTES))
    for i, (name, table) in enumerate(pointing):
        known: dict[str, int] = {}
        shift = int(name == "attribute_text")
        maps = [[0] * shift + [known.setdefault(w, len(known)) + shift for w in words[i]] for words in found.words]
        base = np.array([0, *accumulate(len(m) for m in maps)][:-1], np.int64)
        flat = np.array([x for m in maps for x in m] or [0], np.int64)
        if len(columns[name]):
            columns[name] = flat[np.repeat(base[found.said], record[table]) + columns[name]].astype(U4)
        made.append(tuple(known))
    return tuple(made)


