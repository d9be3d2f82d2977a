"""The engine shared out: partitions follow the group's word, nothing is lost or doubled in what is decided, and a start takes as long as it takes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock, SystemClock
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.memory import MemoryLog
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Unavailable
from services.kernel.record import Activation, Record, Stamped, Tick
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.share import Share
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import restarted, until
from tests.core.world import GUARDS, START, World, pause_rule
from tests.shell.sharing import PARTITIONS, ROOT, Member, activate, follows, settled, started, tell

# -- without Kafka --------------------------------------------------------------------------------------------------------


class Told:
    """A group that gives what the test says."""

    def __init__(self) -> None:
        self.given: Callable[[frozenset[int]], None] = lambda _: None
        self.committed: dict[int, int] = {}
        self.left = False

    async def join(self, given: Callable[[frozenset[int]], None]) -> None:
        self.given = given

    async def commit(self, done: Mapping[int, int]) -> bool:
        self.committed |= done
        return True

    async def leave(self) -> None:
        self.left = True


class Awkward(MemoryLog[Record]):
    """Cannot be read while `broken`, and then stands still while `slow`."""

    broken = False

    async def read(self, partition: int, offset: int, limit: int = 1000):  # type: ignore[no-untyped-def]
        if self.broken:
            raise Unavailable("nobody answers", reason="log")
        return await super().read(partition, offset, limit)


@pytest.fixture
def logs() -> tuple[Awkward, MemoryLog[Decision], ManualClock]:
    clock = ManualClock(START)
    return Awkward(EVENTS, clock, 2), MemoryLog(DECISIONS, clock, 2), clock


def share_of(logs: tuple[Awkward, MemoryLog[Decision], ManualClock], group: Told, folder: Path, registry: CollectorRegistry | None = None) -> Share:
    events, decisions, clock = logs
    registry = registry or CollectorRegistry()
    metrics = Metrics(registry)

    def make(number: int, beat: Beat) -> Worker:
        return Worker(events, decisions, clock, GUARDS, metrics, number, Checkpoints(folder), beat=beat)

    return Share(group, make, registry, commit=0.05, again=0.05)


def gauges(registry: CollectorRegistry) -> set[str]:
    """The partitions that gauges tell of."""
    return {s.labels["partition"] for m in registry.collect() if m.type == "gauge" for s in m.samples if "partition" in s.labels}


async def test_workers_come_and_go_as_the_group_says_and_offsets_follow_acknowledged_decisions(
    logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path
) -> None:
    events, group, registry = logs[0], Told(), CollectorRegistry()
    share = share_of(logs, group, tmp_path, registry)
    await share.start()
    for number, many in ((0, 3), (1, 5)):
        await events.append([("", Tick())] * many, number)
    assert share.unready == ""
    group.given(frozenset({0, 1}))
    assert share.unready == "partition 0: restoring, partition 1: restoring"
    await until(lambda: group.committed == {0: 3, 1: 5})
    assert share.unready == ""
    first = share.workers[0]
    assert gauges(registry) == {"0", "1"}
    group.given(frozenset({0}))
    await until(lambda: set(share.workers) == {0})
    assert share.workers[0] is first  # one that stays is not disturbed
    assert gauges(registry) == {"0"}  # of the other one its new owner tells
    group.given(frozenset({0, 1}))
    group.given(frozenset({1}))
    group.given(frozenset({0, 1}))  # given back while it is ending
    await until(lambda: set(share.workers) == {0, 1} and not share.unready and share.workers[0] is not first)
    await share.stop()
    assert group.left and not share.workers
    assert {k.header.offset for k in Checkpoints(tmp_path).every() if k.header} == {3, 5}


async def test_a_partition_that_cannot_be_restored_is_told_and_tried_again_while_the_other_goes_on(
    logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path
) -> None:
    events, group = logs[0], Told()
    share = share_of(logs, group, tmp_path)
    await share.start()
    await events.append([("", Tick())], 0)
    group.given(frozenset({0}))
    await until(lambda: group.committed == {0: 1})
    events.broken = True
    group.given(frozenset({0, 1}))
    await until(lambda: share.failed)
    assert share.unready == "partition 1: nobody answers" and not share.workers[0].stopped
    assert share.restoring == "" and share.stopped(1) == "nobody answers" and not share.stopped(0)  # it is told, and the others may be asked
    events.broken = False
    await until(lambda: not share.unready)
    await share.stop()


async def test_while_a_partition_is_restored_it_is_told_how_far_that_is(logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path) -> None:
    events, group, registry = logs[0], Told(), CollectorRegistry()
    share, said = share_of(logs, group, tmp_path, registry), list[tuple[str, float | None, float | None]]()
    await events.append([("", Tick())] * 2500, 0)
    read = events.read

    def ratio(step: str) -> float | None:
        return registry.get_sample_value("trimtab_engine_restore_ratio", {"partition": "0", "step": step})

    async def told(partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Record]]:
        said.append((share.restoring, ratio("looked through"), ratio("folded")))
        return await read(partition, offset, limit)

    async def end() -> int:
        return 2500

    make = share.make

    def made(number: int, beat: Beat) -> Worker:
        worker = make(number, beat)
        worker.end = end
        return worker

    events.read, share.make = told, made  # type: ignore[method-assign]
    await share.start()
    group.given(frozenset({0}))
    await until(lambda: share.workers and not share.unready)
    assert [(why.removeprefix("partition 0: restoring"), *ratios) for why, *ratios in said if ratios[0] is not None][:8] == [
        ("", 0, 0),
        (" (1000 of 2500 records looked through, 40%)", 0.4, 0),
        (" (2000 of 2500 records looked through, 80%)", 0.8, 0),
        (" (2500 of 2500 records looked through, 100%)", 1, 0),
        (" (2500 of 2500 records looked through, 100%)", 1, 0),
        (" (1000 of 2500 records folded, 40%)", 1, 0.4),
        (" (2000 of 2500 records folded, 80%)", 1, 0.8),
        (" (2500 of 2500 records folded, 100%)", 1, 1),
    ]
    assert share.restoring == share.workers[0].restoring == ""
    group.given(frozenset())
    await until(lambda: not share.workers)
    assert ratio("folded") is ratio("looked through") is None
    await share.stop()


async def test_who_waits_for_a_partition_that_is_taken_away_is_told_to_ask_again(
    logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path
) -> None:
    group = Told()
    share = share_of(logs, group, tmp_path)
    await share.start()
    await logs[0].append([("", Tick())], 0)
    group.given(frozenset({0}))
    await until(lambda: group.committed == {0: 1})
    waiting = asyncio.create_task(share.workers[0].caught_up(5))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    group.given(frozenset())
    with pytest.raises(Unavailable, match="ask again"):
        await asyncio.wait_for(waiting, 10)
    await share.stop()


class Barred(Awkward):
    """Cannot be read until `gate` is open."""

    gate: asyncio.Event

    async def read(self, partition: int, offset: int, limit: int = 1000):  # type: ignore[no-untyped-def]
        await self.gate.wait()
        return await super().read(partition, offset, limit)


async def test_a_worker_that_is_told_to_end_while_it_restores_follows_nothing() -> None:
    clock = ManualClock(START)
    events = Barred(EVENTS, clock)
    events.gate = asyncio.Event()
    worker = Worker(events, MemoryLog(DECISIONS, clock), clock, GUARDS, Metrics(CollectorRegistry()))
    starting = asyncio.create_task(worker.start())
    await asyncio.sleep(0.01)
    await worker.stop()
    events.gate.set()
    await starting
    assert worker._task is None and worker._ticker is None


class Late(Told):
    """Shares the partitions out once more while its member leaves."""

    async def leave(self) -> None:
        self.given(frozenset({0, 1}))
        await super().leave()


async def test_what_the_group_gives_while_we_stop_is_not_begun(logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path) -> None:
    group = Late()
    share = share_of(logs, group, tmp_path)
    await share.start()
    await logs[0].append([("", Tick())], 0)
    group.given(frozenset({0}))
    await until(lambda: group.committed == {0: 1})
    await share.stop()
    assert group.left and not share.workers and not share.ours and not share._keeping


async def test_a_partition_that_stopped_at_a_record_goes_on_once_somebody_passes_over_it(
    logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path
) -> None:
    events, group = logs[0], Told()
    share = share_of(logs, group, tmp_path)
    share.again = 0.5
    await share.start()
    await events.append([("", Tick()), ("", Activation("acme", "r", "v", "active", "{", "tom")), ("", Tick())], 0)
    group.given(frozenset({0}))
    await until(lambda: "poisoned: record 1" in share.unready)
    assert share.restoring == "" and "poisoned" in share.stopped(0)
    worker = share.workers[0]
    await worker.skip(1, "it is nothing", "tom")
    await until(lambda: not share.unready)
    assert share.stopped(0) == ""  # at once, not when the share has looked again
    assert share.workers[0] is worker and worker.partition.offset == 4
    await asyncio.sleep(0.8)
    assert share.workers[0] is worker and not share.unready and not share.failed
    await share.stop()


class Deaf(MemoryLog[Decision]):
    """Never says that it has a decision."""

    async def append(self, records: Sequence[tuple[str, Decision]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_no_offset_is_told_before_what_was_decided_there_is_acknowledged(tmp_path: Path) -> None:
    clock, group = ManualClock(START), Told()
    events, deaf = Awkward(EVENTS, clock, 2), Deaf(DECISIONS, clock, 2)
    share = share_of((events, deaf, clock), group, tmp_path)
    await share.start()
    own = partition_of("acme", 2)
    await events.append([("", Tick())] * 3, own)
    group.given(frozenset({0, 1}))
    await until(lambda: group.committed.get(own) == 3)
    for stamped in World().activate(pause_rule()).at(1).report("a", 1000, 5, status="active").at(2).tick().records:
        clock.set(stamped.stamp)
        await events.append([("acme", stamped.record)], own)
    await events.append([("", Tick())], 1 - own)
    await until(lambda: share.workers[own].partition.offset > 6 and group.committed.get(1 - own))
    assert group.committed[own] < 6  # the record that the decision comes of
    await share.stop()
    assert group.committed[own] < 6


class Stuck(Checkpoints):
    """Storage that does not take what is written before it may."""

    may: threading.Event

    def write(self, *what: Any) -> None:
        self.may.wait(60)
        super().write(*what)


@pytest.mark.parametrize("is_under_way", [False, True], ids=["the last one", "one under way"])
async def test_a_checkpoint_that_storage_does_not_take_keeps_nobody_from_taking_over(
    logs: tuple[Awkward, MemoryLog[Decision], ManualClock], tmp_path: Path, is_under_way: bool
) -> None:
    events, decisions, clock = logs
    first = Worker(events, decisions, clock, GUARDS, Metrics(CollectorRegistry()), 0, Checkpoints(tmp_path))
    await events.append([("", Tick())] * 3, 0)
    await first.start()
    await first.stop()
    stuck, registry, group = Stuck(tmp_path), CollectorRegistry(), Told()
    stuck.may = threading.Event()
    often = Often(1, 300) if is_under_way else Often()

    def make(number: int, beat: Beat) -> Worker:
        worker = Worker(events, decisions, clock, GUARDS, metrics, number, stuck, often, beat=beat)
        worker.leaving = 0.2
        return worker

    metrics = Metrics(registry)
    share = Share(group, make, registry, commit=0.05, again=0.05)
    await share.start()
    group.given(frozenset({0}))
    await until(lambda: not share.unready)
    await events.append([("", Tick())] * 2, 0)
    await until(lambda: share.workers[0].done == 5 and (share.workers[0]._saving is not None) == is_under_way)
    try:
        async with asyncio.timeout(30):
            await share.stop()
        assert group.left and registry.get_sample_value("trimtab_checkpoints_total", {"outcome": "failed"}) == 1
        assert [k.header.offset for k in Checkpoints(tmp_path).every() if k.header] == [3]  # from which the next one starts
    finally:
        stuck.may.set()


# -- on Kafka -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def topics() -> tuple[Topic, Topic]:
    prefix = f"t{os.urandom(4).hex()}"
    return Topic(f"{prefix}.events", PARTITIONS, 1), Topic(f"{prefix}.decisions", PARTITIONS, 1)


async def test_partitions_are_shared_and_what_is_decided_is_what_one_engine_decides(kafka: Brokers, topics: tuple[Topic, Topic], tmp_path: Path) -> None:
    async with Member(kafka.bootstrap, topics, tmp_path) as first:
        await until(lambda: first.share.ours == {0, 1, 2, 3} and first.follows)
        await activate(first.events)
        await tell(first.events, "a0")
        await settled(first.events, first.decisions, 1)
        async with Member(kafka.bootstrap, topics, tmp_path) as second:
            await until(lambda: len(first.share.ours) == len(second.share.ours) == 2 and first.follows and second.follows)
            assert first.share.ours | second.share.ours == {0, 1, 2, 3}
            await tell(first.events, "a1")
            await settled(first.events, first.decisions, 2)
        await until(lambda: first.share.ours == {0, 1, 2, 3} and first.follows)
        await tell(first.events, "a2")
        await settled(first.events, first.decisions, 3)
        await until(lambda: len(first.share._told) == 4)
        ends = {n: (await first.events.ends(n))[1] for n in range(4)}
        await until(lambda: first.share._told == ends)
        assert first.group.kafka is not None and first.group.kafka.paused() == first.group.kafka.assignment()
        assert {n: await first.group.kafka.committed(TopicPartition(topics[0].name, n)) for n in range(4)} == ends


async def test_a_restore_that_takes_longer_than_a_session_loses_no_partition(kafka: Brokers, topics: tuple[Topic, Topic], tmp_path: Path) -> None:
    member = Member(kafka.bootstrap, topics, tmp_path, session=0.6)
    member.slow = asyncio.Event()
    async with member:
        await until(lambda: member.share.ours)
        await asyncio.sleep(3)  # five sessions
        assert member.group.joined == 1 and member.share.unready.startswith("partition 0: restoring")
        member.slow.set()
        await until(lambda: member.follows)
        await activate(member.events)
        await tell(member.events, "a0")
        await settled(member.events, member.decisions, 1)
        assert member.group.joined == 1


async def test_the_engine_goes_on_after_its_broker_was_killed(fragile: Brokers, topics: tuple[Topic, Topic], tmp_path: Path) -> None:
    async with Member(fragile.bootstrap, topics, tmp_path) as member:
        await until(lambda: member.follows)
        await activate(member.events)
        await tell(member.events, "a0")
        await asyncio.to_thread(fragile.kill)
        await restarted(fragile)
        await tell(member.events, "a1")
        await settled(member.events, member.decisions, 2)
        await until(lambda: member.share.ours == {0, 1, 2, 3} and member.follows)
        ends = {n: (await member.events.ends(n))[1] for n in range(PARTITIONS)}
        await until(lambda: member.share._told.items() >= ends.items())  # so it is in the group again


@pytest.fixture
def other(kafka: Brokers, topics: tuple[Topic, Topic], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with started(kafka.bootstrap, topics, tmp_path) as child:
        yield child
        child.kill()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "believed dead"])
async def test_what_a_member_had_that_is_gone_is_decided_by_the_others(
    kafka: Brokers, topics: tuple[Topic, Topic], tmp_path: Path, other: subprocess.Popen[str], sign: signal.Signals
) -> None:
    async with Member(kafka.bootstrap, topics, tmp_path) as first:
        await until(lambda: first.follows)
        given = await follows(other, 2)
        await activate(first.events)
        await tell(first.events, "a0")
        other.send_signal(sign)
        await tell(first.events, "a1")
        await until(lambda: first.share.ours == {0, 1, 2, 3} and first.follows)
        await settled(first.events, first.decisions, 2)
        if sign == signal.SIGSTOP:
            other.send_signal(signal.SIGCONT)  # goes on with what it had, until it hears of it
            await tell(first.events, "a2")
            await follows(other, 2, after=given)
            await settled(first.events, first.decisions, 3)


# -- `trimtab serve rules` ------------------------------------------------------------------------------------------------


@contextmanager
def serving(brokers: Brokers, topics: tuple[Topic, Topic], folder: Path, database: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and where it says how it is."""
    settings = {"kafka": brokers.bootstrap, "kafka_prefix": topics[0].name.partition(".")[0], "kafka_partitions": PARTITIONS, "kafka_replicas": 1}
    settings |= {"database": database, "secret": "5e" * 32}
    environment = {f"TRIMTAB_{n.upper()}": str(v) for n, v in {**settings, "data": folder, "port": 0, "log_level": "error"}.items()}
    words = [sys.executable, "-m", "services", "serve", "rules"]
    with subprocess.Popen(words, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            yield process, said.partition(" is at ")[2].partition(";")[0]
        finally:
            process.kill()


def asked(url: str, path: str) -> str:
    """The answer, whatever its status; "" where there is none."""
    try:
        return httpx2.get(url + path).text
    except httpx2.HTTPError:
        return ""


async def ready(url: str, many: int) -> None:
    async with asyncio.timeout(60):
        while (said := json.loads(await asyncio.to_thread(asked, url, "/readyz") or "{}")) != {"ready": True, "why": "", "partitions": [*range(many)]}:
            assert said.get("why", "") == "" or "restoring" in said["why"] or said["why"].startswith(("starting", "joining the group"))
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_the_engine_is_served_says_how_it_is_and_a_killed_one_is_gone_on_from(
    kafka: Brokers, topics: tuple[Topic, Topic], on_postgres: Callable[[], str], tmp_path: Path
) -> None:
    database = on_postgres()
    clock = SystemClock()
    events: KafkaLog[Record] = KafkaLog(Cluster(kafka.bootstrap), EVENTS, clock, topics[0])
    decisions: KafkaLog[Decision] = KafkaLog(Cluster(kafka.bootstrap), DECISIONS, clock, topics[1])
    with serving(kafka, topics, tmp_path, database) as (process, url):
        await ready(url, PARTITIONS)
        await activate(events)
        await tell(events, "a0")
        await settled(events, decisions, 1)
        assert "trimtab_engine_partitions_restored 4.0" in asked(url, "/metrics") and asked(url, "/livez") == "alive"
        await tell(events, "a1")
        process.kill()
    with serving(kafka, topics, tmp_path, database) as (process, url):
        await ready(url, PARTITIONS)
        await settled(events, decisions, 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
        assert process.stdout is not None and "nothing that was acknowledged is lost" in process.stdout.read()
    assert len(Checkpoints(tmp_path / "checkpoints").every()) == PARTITIONS
    await events.close()
    await decisions.close()


async def test_processes_that_share_a_folder_leave_each_others_begun_checkpoints_alone(tmp_path: Path) -> None:
    clock = ManualClock(START)
    for owner in ("one", "two"):
        (tmp_path / f"0-{9:020d}.{owner}.begun").write_bytes(b"half")
    (tmp_path / f"0-{8:020d}.dead.begun").write_bytes(b"half")
    os.utime(tmp_path / f"0-{8:020d}.dead.begun", (0, 0))
    events = MemoryLog(EVENTS, clock)
    await events.append([("", Tick())])
    worker = Worker(events, MemoryLog(DECISIONS, clock), clock, GUARDS, Metrics(CollectorRegistry()), checkpoints=Checkpoints(tmp_path, owner="one"))
    await worker.start()
    await worker.caught_up(1)
    await worker.stop()
    assert sorted(os.listdir(tmp_path)) == [f"0-{1:020d}.checkpoint", f"0-{9:020d}.two.begun"]
