"""The planted bugs can be planted: a plant that went stale, or that is no code, would catch nothing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.planted import PLANTS, Plant, chosen

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda p: p.name)
def test_a_plant_has_one_place_and_is_code(plant: Plant) -> None:
    sound = (ROOT / plant.file).read_text()
    assert sound.count(plant.text) == 1
    grown = sound.replace(plant.text, plant.bug)
    assert grown != sound
    if plant.file.endswith(".py"):
        compile(grown, plant.file, "exec")


def test_no_two_plants_have_one_name() -> None:
    assert [name for name, n in Counter(p.name for p in PLANTS).items() if n > 1] == []


def test_every_test_that_a_plant_names_is_there() -> None:
    named = sorted({test for plant in PLANTS for test in plant.tests})
    assert len(named) > 200
    gone = [test for test in named if not is_there(*test.partition("::")[::2])]
    assert gone == []


def test_three_thirds_are_all_of_them() -> None:
    parts = [chosen([f"{i}/3"]) for i in (1, 2, 3)]
    assert sorted(p.name for part in parts for p in part) == sorted(p.name for p in chosen([]))
    assert [p.name for p in chosen(["fencing token"])] == ["the fencing token is not compared"]


def is_there(file: str, name: str) -> bool:
    """The file, and where a test of it is named that one."""
    text, function = (ROOT / file).read_text(), name.rpartition("::")[2].partition("[")[0]
    return not function or re.search(rf"def {re.escape(function)}\(", text) is not None
