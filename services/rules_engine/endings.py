"""What became of decisions, as it is kept in a checkpoint: a row of numbers each, with the texts that they share apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from services.kernel.record import I64
from services.rules_engine.checkpoint import Arrays
from services.rules_engine.told import Ending


def dump(endings: Mapping[str, Ending], ids: Iterable[str]) -> tuple[list[str], I64]:
    """(texts, rows): of each decision that is among the ids its number there, and its ending."""
    words: dict[str, int] = {}
    numbers = {decision_id: number for number, decision_id in enumerate(ids)}
    rows = []
    for decision_id, ending in endings.items():
        if (number := numbers.get(decision_id)) is not None:
            status, why, by = (words.setdefault(w, len(words)) for w in (ending.status, ending.reason, ending.by))
            rows.append((number, status, ending.at, why, by))
    return list(words), np.array(rows, np.int64).reshape(-1, 5)


def load(plain: Mapping[str, Any], arrays: Arrays, ids: Sequence[str]) -> dict[str, Ending]:
    """By decision; the rows are taken out of the arrays."""
    words = plain["ending_words"]
    return {ids[n]: Ending(words[status], at, words[why], words[by]) for n, status, at, why, by in arrays.pop("endings").tolist()}
