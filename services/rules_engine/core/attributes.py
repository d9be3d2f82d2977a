"""The last known value of everything said about entities: latest occurred_at wins, of two at one instant the later in the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from services.kernel.record import I64
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.snapshots import turns

NEVER = np.iinfo(np.int64).min


class Column:
    """One attribute of every row: `text` is a number of the vocabulary, 0 where the value is `number` (micro-units)."""

    def __init__(self) -> None:
        self.when: I64 = np.full(64, NEVER, np.int64)
        self.text: I64 = np.zeros(64, np.int64)
        self.number: I64 = np.zeros(64, np.int64)

    def room(self, rows: int) -> None:
        n = len(self.when)
        if rows > n:
            more = max(rows, 2 * n) - n
            self.when = np.concatenate([self.when, np.full(more, NEVER, np.int64)])
            self.text, self.number = (np.concatenate([c, np.zeros(more, np.int64)]) for c in (self.text, self.number))


class Attributes:
    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.vocabulary: dict[str, int] = {}
        self.words: list[str] = [""]

    def word(self, text: str) -> int:
        known = self.vocabulary.get(text)
        if known is None:
            known = self.vocabulary[text] = len(self.words)
            self.words.append(text)
        return known

    def put(self, name: str, row: I64, when: I64, text: I64, number: I64, rows: int) -> None:
        """Takes values in log order; `rows` is how many rows there are."""
        column = self.columns.setdefault(name, Column())
        column.room(rows)
        for turn in turns(row):
            at = row[turn]
            newer = when[turn] >= column.when[at]
            turn, at = turn[newer], at[newer]
            column.when[at], column.text[at], column.number[at] = when[turn], text[turn], number[turn]

    def say(self, name: str, row: int, when: int, value: str | int, rows: int) -> None:
        text, number = (self.word(value), 0) if isinstance(value, str) else (0, value)
        at, of, said, amount = (np.array([x], np.int64) for x in (row, when, text, number))
        self.put(name, at, of, said, amount, rows)

    def value(self, name: str, row: int) -> str | int | None:
        """The last known value, or None where it was never seen."""
        column = self.columns.get(name)
        if column is None or row >= len(column.when) or column.when.item(row) == NEVER:
            return None
        text: int = column.text.item(row)
        return self.words[text] if text else column.number.item(row)

    def take(self, name: str, rows: I64) -> tuple[Bools, I64, I64]:
        """(seen, word, number) of each row."""
        column = self.columns.get(name)
        if column is None:
            return np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        if len(rows) and int(rows.max()) >= len(column.when):
            column.room(int(rows.max()) + 1)
        return column.when[rows] != NEVER, column.text[rows], column.number[rows]

    def having(self, name: str, text: str) -> I64:
        """Rows whose value is this text."""
        column, word = self.columns.get(name), self.vocabulary.get(text)
        if column is None or word is None:
            return np.zeros(0, np.int64)
        rows: I64 = np.flatnonzero(column.text == word)
        return rows

    def each(self, name: str) -> Iterator[tuple[int, int, str | int]]:
        """(row, when, value) of every row of which it is known."""
        column = self.columns.get(name)
        for row in np.flatnonzero(column.when != NEVER).tolist() if column else ():
            value = self.value(name, row)
            assert value is not None and column is not None
            yield row, int(column.when[row]), value

    def canonical(self, path: list[str]) -> list[Any]:
        return [[name, sorted([path[row], when, value] for row, when, value in self.each(name))] for name in sorted(self.columns)]
