"""Liveness fails where only a new process helps: a loop that ended or hangs; not where a dependency is away or a person is wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.following import Alone, Following
from services.adapters.log.memory import MemoryLog
from services.adapters.log.reader import LOOK, Reader
from services.adapters.progress import Beat, Progress
from services.adapters.settings import Settings
from services.kernel.errors import Unavailable
from services.kernel.record import Activation, Record, Stamped, Tick
from services.production import service
from services.production.rules import Rules
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.restore import BATCH
from services.rules_engine.share import Share
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import restarted, until
from tests.core.world import GUARDS, START, World, pause_rule
from tests.shell.sharing import patiently

LONG = 1_000.0  # seconds, more than any loop may take to come round


class Hand:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def hand() -> Hand:
    return Hand()


async def passes(hand: Hand, progress: Progress) -> str:
    """What is stalled a long while later, once every loop that turns has had time to come round."""
    hand.at += LONG
    for _ in range(40):
        await asyncio.sleep(0.02)
    return progress.stalled()


async def test_a_loop_that_beats_is_alive_one_that_is_silent_or_ended_is_told_and_one_that_is_forgotten_is_not(hand: Hand) -> None:
    progress = Progress(60, hand)
    quiet, lively = progress.expect("quiet"), progress.expect("lively")
    hand.at = 60
    assert progress.stalled() == ""
    lively()
    hand.at = 61
    assert progress.stalled() == "quiet: it has not come round for 61 s"
    task = asyncio.create_task(asyncio.sleep(0), name="the-work")
    quiet.of(task)
    assert progress.stalled() == ""
    await task
    assert progress.stalled() == "quiet: its task the-work has ended"
    progress.forget("quiet")
    assert progress.stalled() == ""


# -- the engine -----------------------------------------------------------------------------------------------------------


class Awkward(MemoryLog[Record]):
    """Follows nothing more while `silent`, as a reader does that hangs; says now and then that nothing is there, as Kafka's does."""

    silent = False
    reads: Callable[[], None] = staticmethod(lambda: None)

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Sequence[Stamped[Record]]]:
        while True:
            while self.silent:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            page = await super().read(partition, offset)
            if page:
                offset = page[-1].offset + 1
            yield page
            await asyncio.sleep(0.01)

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Record]]:
        self.reads()
        return await super().read(partition, offset, limit)


class Engine:
    def __init__(self, hand: Hand, folder: Path) -> None:
        self.clock, self.progress, self.registry = ManualClock(START), Progress(600, hand), CollectorRegistry()
        self.events = Awkward(EVENTS, self.clock)
        self.decisions, self.metrics = MemoryLog(DECISIONS, self.clock), Metrics(self.registry)
        self.folder = folder
        self.share = Share(Alone({0}), self._make, CollectorRegistry(), commit=0.05, again=0.05, progress=self.progress)

    def _make(self, number: int, beat: Beat) -> Worker:
        return Worker(self.events, self.decisions, self.clock, GUARDS, self.metrics, number, Checkpoints(self.folder), patience=0.01, beat=beat)

    @property
    def delay(self) -> float:
        return self.registry.get_sample_value("trimtab_engine_delay_seconds", {"partition": "0"}) or 0.0


@asynccontextmanager
async def engine(hand: Hand, folder: Path, *records: Record) -> AsyncIterator[Engine]:
    made = Engine(hand, folder)
    await made.events.append([("", r) for r in records])
    await made.share.start()
    try:
        yield made
    finally:
        await made.share.stop()
    assert made.progress._beats == {}  # who ends in order expects nothing any more


async def test_a_partition_with_nothing_to_do_is_alive_and_one_whose_reader_hangs_is_not(hand: Hand, tmp_path: Path) -> None:
    async with engine(hand, tmp_path) as made:
        await until(lambda: not made.share.unready)
        assert await passes(hand, made.progress) == ""
        made.events.silent = True
        await made.events.append([("", Tick())])
        await asyncio.sleep(0.05)
        assert (await passes(hand, made.progress)).startswith("engine: partition 0: it has not come round for 1000 s")


@pytest.mark.parametrize("which", ["_task", "_ticker"])
async def test_a_partition_whose_task_is_gone_is_told_at_once(hand: Hand, tmp_path: Path, which: str) -> None:
    async with engine(hand, tmp_path, Tick()) as made:
        await until(lambda: not made.share.unready)
        getattr(made.share.workers[0], which).cancel()
        name = {"_task": "rules-0", "_ticker": "ticks-0"}[which]
        await until(lambda: made.progress.stalled() == f"engine: partition 0: its task {name} has ended")


async def test_a_partition_that_stopped_wants_a_person_and_no_new_process(hand: Hand, tmp_path: Path) -> None:
    async with engine(hand, tmp_path, Tick(), Activation("acme", "r", "v", "active", "{", "tom")) as made:
        await until(lambda: "poisoned" in made.share.stopped(0))
        assert await passes(hand, made.progress) == ""


class Wrong(Worker):
    """Cannot say when a boundary is due."""

    async def _move_time(self) -> None:
        raise ZeroDivisionError("due")


async def test_an_error_of_the_ticks_stops_the_partition_and_says_so(hand: Hand, tmp_path: Path) -> None:
    made = Engine(hand, tmp_path)
    made.share.make = lambda number, beat: Wrong(made.events, made.decisions, made.clock, GUARDS, made.metrics, number, beat=beat)
    await made.share.start()
    await until(lambda: made.share.stopped(0) == "ZeroDivisionError: due")
    assert await passes(hand, made.progress) == ""
    await made.share.stop()


async def test_a_restore_beats_page_by_page_however_long_all_of_it_takes(hand: Hand, tmp_path: Path) -> None:
    said: list[str] = []
    made = Engine(hand, tmp_path)

    def read() -> None:
        hand.at += 150
        said.append(made.progress.stalled().partition("engine: partition 0")[1])

    await made.events.append([("", Tick())] * (6 * BATCH))
    made.events.reads = read
    await made.share.start()
    await until(lambda: not made.share.unready)
    assert hand.at > 3 * made.progress.within and said == [""] * len(said)
    await made.share.stop()


async def test_a_dependency_that_is_away_is_waited_for_and_alive(hand: Hand, tmp_path: Path) -> None:
    """The database, here: the engine tells it of an activation."""
    made, tries = Engine(hand, tmp_path), list[int]()

    async def away(activation: Activation, offset: int, stamp: int) -> None:
        tries.append(offset)
        raise Unavailable("the database does not answer", reason="database")

    def make(number: int, beat: Beat) -> Worker:
        worker = made._make(number, beat)
        worker.on_activation = away
        return worker

    made.share.make = make
    await made.share.start()
    await until(lambda: not made.share.unready)
    await made.events.append([("acme", s.record) for s in World().activate(pause_rule()).records])
    await until(lambda: len(tries) > 1)
    before = len(tries)
    hand.at += LONG
    await until(lambda: len(tries) > before)
    assert made.progress.stalled() == ""
    await made.share.stop()


async def test_the_delay_grows_while_something_is_due_and_time_stands(hand: Hand, tmp_path: Path) -> None:
    async with engine(hand, tmp_path) as made:
        await until(lambda: not made.share.unready)
        for stamped in World().activate(pause_rule()).at(1).report("a", 1000, 5, status="active").records:
            made.clock.set(max(made.clock.now(), stamped.stamp))
            await made.events.append([("acme", stamped.record)])
        worker = made.share.workers[0]
        await until(lambda: worker.done == len(made.events.kept[0]) and worker._due is not None)
        made.events.silent = True
        await asyncio.sleep(0.05)
        made.clock.advance(100_000_000)
        assert 95 < made.delay <= 100
        made.clock.advance(100_000_000)
        assert 195 < made.delay <= 200  # nothing was fed in between
        made.events.silent = False
        await until(lambda: made.delay < 2)


async def test_a_quiet_partition_without_rules_is_not_behind(hand: Hand, tmp_path: Path) -> None:
    made = Engine(hand, tmp_path)
    await made.events.append([("", Tick())])
    made.clock.advance(7_200_000_000)
    await made.share.start()
    await until(lambda: not made.share.unready)
    assert made.delay == 0
    await made.share.stop()


# -- followings -----------------------------------------------------------------------------------------------------------


async def test_a_following_that_fails_is_tried_again_and_one_that_hangs_is_told(hand: Hand) -> None:
    progress, tries, hangs = Progress(600, hand), list[int](), asyncio.Event()

    async def run(number: int, beat: Beat) -> None:
        tries.append(number)
        if not hangs.is_set():
            raise ZeroDivisionError
        await asyncio.Event().wait()

    following = Following(Alone({3}), run, "outcomes", progress)
    following.again = 0.01
    await following.start()
    await until(lambda: len(tries) > 3)
    hand.at += LONG
    before = len(tries)
    await until(lambda: len(tries) > before + 1)
    assert "partition" not in progress.stalled()
    hangs.set()
    before = len(tries)
    await until(lambda: len(tries) > before)
    hand.at += LONG
    assert "outcomes: partition 3: it has not come round for 1000 s" in progress.stalled()
    await following.stop()
    assert progress._beats == {}


# -- on Kafka -------------------------------------------------------------------------------------------------------------


def settings(brokers: Brokers, database: str, folder: Path) -> Settings:
    values: dict[str, Any] = {"kafka": brokers.bootstrap, "kafka_prefix": f"t{os.urandom(4).hex()}", "kafka_partitions": 2, "kafka_replicas": 1}
    return Settings(**values, kafka_session_seconds=1, database=database, secret="5e" * 32, data=folder, port=0)


@asynccontextmanager
async def served(name: str, wanted: Settings, hand: Hand) -> AsyncIterator[tuple[Any, httpx2.AsyncClient]]:
    made = service(name, wanted)
    made.progress._now = hand
    async with made.serving() as url, httpx2.AsyncClient(base_url=url, trust_env=False) as http:
        try:
            await made.start()
            await is_ready(http)
            yield made, http
        finally:
            await made.stop()


async def is_ready(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await http.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def is_alive(http: httpx2.AsyncClient) -> None:
    """Sooner or later: every loop has come round."""
    async with asyncio.timeout(90):
        while (await http.get("/livez")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_brokers_that_are_away_do_not_fail_liveness(
    fragile: Brokers, on_postgres: Callable[[], str], tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.adapters.log.reader.SILENCE", 1.0)
    async with served("rules", settings(fragile, on_postgres(), tmp_path), hand) as (rules, http):
        await until(lambda: rules.share.ours == {0, 1} and not rules.share.unready)
        hand.at += LONG
        await is_alive(http)  # nothing comes, and each knows that nothing is there
        await asyncio.to_thread(fragile.kill)
        try:
            for _ in range(2):
                hand.at += LONG
                assert (await http.get("/livez")).status_code == 503  # in the moment that nobody has come round since
                await is_alive(http)
        finally:
            await restarted(fragile)
        await is_ready(http)
        hand.at += LONG
        await is_alive(http)
        for number in (0, 1):
            await patiently(lambda n=number: rules.events.append([("", Tick())], n))  # type: ignore[misc]
        await until(lambda: all(w.done for w in rules.share.workers.values()) and len(rules.share.workers) == 2)


@pytest.mark.parametrize("name", ["rules", "actions", "ingest"])
async def test_a_membership_that_ended_fails_liveness_and_says_so(
    kafka: Brokers, on_postgres: Callable[[], str], tmp_path: Path, hand: Hand, name: str
) -> None:
    async with served(name, settings(kafka, on_postgres(), tmp_path), hand) as (made, http):
        group = made.outcomes.group if name == "ingest" else made.group
        await until(lambda: group.joined)
        assert (await http.get("/livez")).text == "alive"
        group._task.cancel()
        await asyncio.wait([group._task])
        answer = await http.get("/livez")
        assert answer.status_code == 503 and answer.text.startswith(f"stalled: membership of {group.name}: its task group-{group.name} has ended")


async def test_a_reader_that_hears_nothing_though_there_is_something_fails_liveness(
    kafka: Brokers, on_postgres: Callable[[], str], tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is replaced."""
    monkeypatch.setattr("services.adapters.log.reader.SILENCE", 0.5)
    async with served("rules", settings(kafka, on_postgres(), tmp_path), hand) as (rules, http):
        assert isinstance(rules, Rules)
        await until(lambda: rules.share.ours == {0, 1} and not rules.share.unready)

        some = Reader._some

        async def nothing(reader: Reader, most: int, keep: Callable[[Any], Any]) -> list[Any]:
            if reader not in rules.events._followers:
                return await some(reader, most, keep)
            await asyncio.sleep(0.1)
            return []

        monkeypatch.setattr(Reader, "_some", nothing)
        await asyncio.sleep(LOOK / 500)  # those who look already hear what comes
        await rules.events.append([("", Tick())], 0)
        replaced = {"topic": rules.events.topic.name}
        await until(lambda: (rules.registry.get_sample_value("trimtab_kafka_readers_replaced_total", replaced) or 0) > 0)
        hand.at += LONG

        def said() -> str:
            return rules.progress.stalled()

        await until(lambda: "partition 1" not in said() and "membership" not in said() and "offsets" not in said())
        answer = await http.get("/livez")
        assert (answer.status_code, answer.text) == (503, "stalled: engine: partition 0: it has not come round for 1000 s")
