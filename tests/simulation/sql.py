"""The statements of the services, made by SQLAlchemy once each and run by sqlite3 at once: its own way between the two is a third of a schedule's time.

What it does for them is done here as it does it: parameters in a list are lists in the statement, booleans are booleans, rows have names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.engine.row import Row

DIALECT: Any = create_engine("sqlite://").dialect
_compiled: Any = {}
_shapes: dict[Any, tuple[Any, Any]] = {}  # of a compiled statement: what its rows are called, and how each value is read


class Rows:
    """What the services ask of a result."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        return self._rows

    def first(self) -> Any:
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        [row] = self._rows
        return row

    def one_or_none(self) -> Any:
        return self.one() if self._rows else None

    def scalars(self) -> Rows:
        return Rows([row[0] for row in self._rows], self.rowcount)

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None


def run(connection: sqlite3.Connection, statement: Any, parameters: Any = None) -> Rows:
    many = parameters if isinstance(parameters, list) else [parameters] if parameters else []
    is_many = len(many) > 1
    made, extracted, collected, _ = statement._compile_w_cache(
        DIALECT, compiled_cache=_compiled, column_keys=sorted(many[0]) if many else [], for_executemany=is_many
    )
    assert not made.insert_prefetch and not made.update_prefetch, "values that SQLAlchemy would make up are not made up here"
    values = [
        made.construct_params(one, extracted_parameters=extracted, escape_names=False, _group_number=i, _collected_params=collected)
        for i, one in enumerate(many or [None])
    ]
    text, names, processors = made.string, made.positiontup, made._bind_processors
    if made.literal_execute_params or made.post_compile_params:
        expanded = made._process_parameters_for_postcompile(values[0])
        text, names, processors = expanded.statement, expanded.positiontup, processors | expanded.processors
        values = [expanded.parameters]
    placed = [[processors[n](v[n]) if n in processors else v[n] for n in names] for v in values]
    cursor = connection.executemany(text, placed) if is_many else connection.execute(text, placed[0])
    if cursor.description is None:
        return Rows((), cursor.rowcount)
    shape, reading = _shapes.get(made) or _shape(made, cursor.description)
    index = shape._key_to_index
    return Rows([Row(shape, reading, index, row) for row in cursor.fetchall()], cursor.rowcount)


def _shape(made: Any, description: Any) -> tuple[Any, Any]:
    found = [column.type._cached_result_processor(DIALECT, None) for column in made._result_columns]
    assert len(found) == len(description)
    _shapes[made] = SimpleResultMetaData([column.keyname for column in made._result_columns]), found if any(found) else None
    return _shapes[made]
