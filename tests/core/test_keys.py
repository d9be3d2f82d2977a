"""Numbering of 128-bit keys against a dict, over every size at which the table grows."""

from __future__ import annotations

import numpy as np
import pytest

from services.rules_engine.core import keys
from services.rules_engine.core.keys import Keys


@pytest.mark.parametrize("few", [1 << 16, 1], ids=["moved at once", "moved little by little"])
@pytest.mark.parametrize("most", [3, 40, 3000])
def test_keys_are_numbered_in_order_of_arrival_and_only_the_first_of_equal_ones_is_new(most: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FEW", few)
    monkeypatch.setattr(keys, "AT_ONCE", 7 if few == 1 else keys.AT_ONCE)
    for seed in range(3 if most == 3000 else 12):
        rng = np.random.default_rng(seed)
        table, known = Keys(8), dict[int, int]()
        for _ in range(40):
            column = rng.integers(0, 4 * most + seed * 300, (int(rng.integers(1, most)), 2)) * 7919
            column[:, 1] = column[:, 0] * 3
            words = column[:, 0].tolist()
            assert table.find(column).tolist() == [known.get(w, -1) for w in words]
            number, new = table.add(column)
            for w, n, fresh in zip(words, number.tolist(), new.tolist(), strict=True):
                assert (w not in known) == fresh
                assert known.setdefault(w, len(known)) == n
            assert len(table) == len(known)


def test_equal_keys_in_one_column_are_one_key_where_their_bucket_fills_up_meanwhile() -> None:
    """Of two equal keys the second must look where the first went in, even if that was the bucket's last place."""
    table, rng = Keys(200_000), np.random.default_rng(2)
    bucket = table.table.place(column := rng.integers(-(2**63), 2**63, (400_000, 2)))[0]
    crowd = column[bucket == bucket[0]]
    while len(crowd) < keys.LANES + 2:
        column = rng.integers(-(2**63), 2**63, (400_000, 2))
        crowd = np.concatenate([crowd, column[table.table.place(column)[0] == bucket[0]]])
    table.add(crowd[: keys.LANES - 1])
    number, new = table.add(np.stack([crowd[8], crowd[8], crowd[9], crowd[8]]))
    assert number.tolist() == [7, 7, 8, 7] and new.tolist() == [True, False, True, False]


def test_keys_of_one_hash_are_told_apart() -> None:
    second = np.arange(60, dtype=np.uint64)
    column = np.stack([second * keys.MIX ^ np.uint64(12345), second], axis=1).view(np.int64)
    table = Keys(512)
    assert len(np.unique(np.stack(table.table.place(column)), axis=1).T) == 1
    assert table.add(column[:30])[0].tolist() == list(range(30))
    number, new = table.add(column[::-1])
    assert new.tolist() == [True] * 30 + [False] * 30 and number.tolist() == [*range(30, 60), *range(29, -1, -1)]
    assert table.find(column).tolist() == [*range(30), *range(59, 29, -1)]


def test_a_table_that_grows_does_not_wait_for_all_its_keys() -> None:
    table, rng = Keys(100_000), np.random.default_rng(3)
    column = rng.integers(-(2**63), 2**63, (table.table.room + 1, 2))
    table.add(column[:-1])
    table.add(column[-1:])
    moved, whole = table._moved, table._before
    assert whole is not None and 0 < moved < whole.count
    assert table.find(column).tolist() == list(range(len(column)))
    for _ in range(90):
        table.add(rng.integers(-(2**63), 2**63, (1000, 2)))
    assert table._before is None and table.find(column).tolist() == list(range(len(column)))
