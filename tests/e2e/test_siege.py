"""Production under siege: kill -9, halted processes, brokers and a database that come and go; nothing is lost, doubled or decided otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.kafka import broker
from deploy.postgres import server
from tests.e2e.siege.siege import OF, Came, Ground, ground, told
from tests.parts import lacks


@contextmanager
def grounds(folder: Path, brokers: int) -> Iterator[Ground]:
    try:
        with ground(folder, brokers) as made:
            yield made
    except broker.Missing as why:
        lacks("kafka", str(why))
    except server.Missing as why:
        lacks("postgres", str(why))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with grounds(tmp_path_factory.mktemp("siege"), 1) as made:
        yield made


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with grounds(tmp_path_factory.mktemp("brokers"), 3) as made:
        yield made


def judged(*batches: Came) -> None:
    print(told(batches))
    assert [(b.kind, b.seed, fault) for b in batches for fault in b.faults] == [], told(batches)


def test_there_are_points_enough_in_every_service_that_writes() -> None:
    assert len({p for points in OF.values() for p in points}) >= 25 and all(OF[name] for name in ("ingest", "rules", "actions"))


@pytest.mark.timeout(300)
def test_a_few_runs_whose_processes_are_killed(place: Ground) -> None:
    """What the hundreds below do, in short."""
    came = place.batch(300, partitions=3, budget=4)
    judged(came)
    assert came.befell["rules killed"] >= 2 and came.tales == 3 and came.decisions > 0 and came.writes > 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_runs_whose_processes_are_killed(place: Ground) -> None:
    batches = [place.batch(seed) for seed in range(9)]
    judged(*batches)
    assert sum(b.tales for b in batches) >= 100
    assert sum(b.befell.total() for b in batches) >= 150 and len({p for b in batches for p in b.hits}) >= 25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_processes_halted_past_their_session(place: Ground) -> None:
    came = place.batch(100, "zombies", partitions=6, budget=20)
    judged(came)
    assert came.befell["process halted"] >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_restarts_of_the_database_and_cut_commits(place: Ground) -> None:
    came = place.batch(101, "database", partitions=6, budget=20)
    judged(came)
    assert came.befell["database restarted"] >= 20 and came.befell["sessions cut"] >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_minutes_in_which_members_come_and_go(place: Ground) -> None:
    came = place.batch(102, "storm", partitions=6, storms=5)
    judged(came)
    assert came.befell["storm of a minute"] >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_brokers_of_three_are_killed(of_three: Ground) -> None:
    came = of_three.batch(103, "brokers", partitions=6, budget=20)
    judged(came)
    assert came.befell["broker killed"] >= 20
