"""kill -9 at named points and at random, in embedded mode: nothing is lost, doubled or decided otherwise (verdict.py says what that means)."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.adapters.faultpoint import EMBEDDED
from tests.e2e.plug.soak import Ran, Yard, more, told, void, yard
from tests.e2e.plug.story import After, AtPoint, Kill, kills_of
from tests.e2e.plug.zygote import ROOT, Command, Zygote


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with yard(tmp_path_factory.mktemp("plug")) as made:
        yield made


def judged(*runs: Ran) -> None:
    assert [(r.seed, fault) for r in runs for fault in r.faults] == [], told(list(runs))


def test_every_point_comes_up_as_often_as_any_other() -> None:
    planned = Counter(k.name for seed in range(len(EMBEDDED)) for k in kills_of(seed, random.Random(seed)) if isinstance(k, AtPoint))
    assert planned == dict.fromkeys(EMBEDDED, 3)


def test_a_set_of_runs_that_hit_a_point_too_rarely_is_void() -> None:
    often = Counter(dict.fromkeys(EMBEDDED, 20))
    assert void(often, 1000) == {}
    assert void(often - Counter({"engine.said": 1}), 1000) == {"engine.said": 19}


ONE_ID = """
import sys
for number, line in enumerate(sys.stdin):
    print('{"number": %d, "pid": 7}' % number, flush=True)
    if number == 0:
        print('{"number": 0, "code": 3, "at": 1.0}', flush=True)
"""


def test_of_two_children_that_had_one_process_id_only_the_one_that_ended_has_ended(tmp_path: Path) -> None:
    zygote = Zygote((sys.executable, "-c", ONE_ID))
    first = zygote.start({}, tmp_path / "log")
    assert first.ended(30) == 3
    second = zygote.start({}, tmp_path / "log")
    assert (first.pid, second.pid) == (7, 7)
    assert second.ended(0.1) is None
    zygote.close()


SHORT = ("report", "misbehave", "report", "approve", "by_hand", "report")


@pytest.mark.parametrize(
    "kills",
    [
        [AtPoint("private.begun"), AtPoint("ingest.joined", 3), AtPoint("engine.stepped"), AtPoint("actions.intended")],
        [AtPoint("log.committed", 4), AtPoint("actions.sent"), AtPoint("ledger.inserted"), AtPoint("actions.appended")],
        [AtPoint("rules.activated", 2), AtPoint("engine.said"), After(0.3), AtPoint("actions.concluded")],
    ],
    ids=lambda kills: "-".join(getattr(k, "name", "random") for k in kills),
)
def test_a_process_killed_several_times_leaves_everything_as_it_would_have_been(place: Yard, kills: list[Kill]) -> None:
    ran = place.run(len(kills), kills, acts=SHORT)
    judged(ran)
    assert ran.killed >= 2 and ran.decisions and ran.writes


def stormed(kills: int) -> str:
    done = subprocess.run([sys.executable, "-m", "tests.e2e.plug.storm", "--kills", str(kills)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_a_writer_called_durable_is_there_after_every_one_of_many_kills() -> None:
    assert "lost 0, doubled 0; every file is sound" in stormed(30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_writer_called_durable_is_there_after_a_thousand_kills() -> None:
    assert "lost 0, doubled 0; every file is sound" in stormed(1000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", ["start.locked", "engine.rebuilt", "actions.recorded"])
def test_the_real_command_is_no_different(place: Yard, point: str) -> None:
    ran = place.run(3, [AtPoint(point), After(2.0)], Command)
    judged(ran)
    assert point in ran.hits


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", [0, 1])
def test_two_hundred_runs_lose_and_double_nothing(place: Yard, part: int) -> None:
    runs = [place.run(seed) for seed in range(part * 100, part * 100 + 100)]
    extra = list(more(place, runs, 1000 + part * 100))
    judged(*runs, *extra)
    assert void(Counter(h for r in runs + extra for h in r.hits), len(runs)) == {}
