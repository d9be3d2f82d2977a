"""What is decided for a workspace does not depend on how many partitions there are, who else is in its own, or who follows it when."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock
from services.adapters.log.cluster import Cluster
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.group import KafkaGroup
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.memory import MemoryLog
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.record import Activation, Record, Stamped, Tick
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.share import Share
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests import histories
from tests.brokers import fresh, until
from tests.core.world import GUARDS

NAMES = ("account-103", "account-111", "account-125", "account-21", "account-48", "account-91")  # without skips, which name offsets


class Told:
    def __init__(self) -> None:
        self.given: Callable[[frozenset[int]], None] = lambda _: None

    async def join(self, given: Callable[[frozenset[int]], None]) -> None:
        self.given = given

    async def commit(self, done: Mapping[int, int]) -> bool:
        return True

    async def leave(self) -> None: ...


class Reader(Worker):
    """Decides on what is on the log and says nothing there: the histories hold their own ticks and `ready` records."""

    async def _declare_ready(self) -> None: ...

    async def _tick(self) -> None: ...


def together() -> list[tuple[str, int, Record]]:
    """(workspace, stamp, record) of all histories in the order of their stamps; each workspace has a name of its own, and ticks are of the first of theirs.

    Horizons are those that the product gives every activation: a partition has those of its first one.
    """
    found: list[tuple[int, int, int, str, Record]] = []
    for i, name in enumerate(NAMES):
        records = histories.read(name).records
        first = next(w for s in records if (w := getattr(s.record, "workspace", "")))
        for s in records:
            workspace = getattr(s.record, "workspace", "")
            record = replace(s.record, workspace=f"{name}-{workspace}") if workspace else s.record  # type: ignore[type-var, call-arg]
            if isinstance(record, Activation):
                record = replace(record, horizon=0, ahead=0)
            found.append((s.stamp, i, s.offset, f"{name}-{workspace or first}", record))
    ordered = [(workspace, stamp, record) for stamp, _, _, workspace, record in sorted(found, key=lambda x: x[:3])]
    return ordered + [(workspace, ordered[-1][1], Tick()) for workspace in sorted({w for w, _, _ in ordered})]  # time ends for all of them at once


def alone(records: list[tuple[str, int, Record]]) -> dict[str, list[bytes]]:
    """What is decided of each workspace where it has a log to itself."""
    decided: dict[str, list[bytes]] = {}
    for name in sorted({w for w, _, _ in records}):
        own = [(stamp, record) for workspace, stamp, record in records if workspace == name]
        log = [Stamped(n, stamp, record) for n, (stamp, record) in enumerate(own)]
        decided[name] = [DECISIONS.encode(d) for d in Partition(GUARDS, demand_of(log)).step(log)]
    return decided


def in_milliseconds(records: list[tuple[str, int, Record]]) -> list[tuple[str, int, Record]]:
    """As Kafka stamps them."""
    return [(workspace, stamp // 1000 * 1000, record) for workspace, stamp, record in records]


async def on_brokers(kafka: Brokers, records: list[tuple[str, int, Record]], partitions: int, folder: Path, chance: random.Random) -> dict[str, list[bytes]]:
    """The same over topics, by members of a group of Kafka's of which any number is there, the stamps being the histories'."""
    clock, cluster = ManualClock(records[0][1]), Cluster(kafka.bootstrap)
    topic = fresh(EVENTS, partitions=partitions, simulated=True)
    events: KafkaLog[Record] = KafkaLog(cluster, EVENTS, clock, topic)
    decisions: KafkaLog[Decision] = KafkaLog(cluster, DECISIONS, clock, fresh(DECISIONS, partitions=partitions, simulated=True))
    await events.start()
    await decisions.start()
    metrics, there, come = Metrics(CollectorRegistry()), list[Share](), 0

    def make(number: int, beat: Beat) -> Worker:
        return Reader(events, decisions, clock, GUARDS, metrics, number, Checkpoints(folder, owner=str(chance.random())), Often(7, 0.05), beat=beat)

    def is_shared_out() -> bool:
        return sorted(n for s in there for n in s.ours) == list(range(partitions)) and not any(s.unready for s in there)

    async def follow() -> None:
        share = Share(KafkaGroup(cluster, topic, topic.name, session=2), make, CollectorRegistry())
        await share.start()
        there.append(share)

    try:
        for n, (workspace, stamp, record) in enumerate(records):
            if n % (len(records) // 6) == 0:
                if len(there) > 1 and chance.random() < 0.4:
                    await there.pop(chance.randrange(len(there))).stop()
                else:
                    await follow()
                come += 1
                await until(is_shared_out)
            clock.set(stamp)
            await events.append([(workspace, record)], partition_of(workspace, partitions))
        ends = {p: (await events.ends(p))[1] for p in range(partitions)}
        await until(lambda: all(w.done == ends[n] for s in there for n, w in s.workers.items()) and is_shared_out())
    finally:
        for share in there:
            await share.stop()
        await events.close()
    assert come >= 6
    decided: dict[str, dict[str, bytes]] = {name: {} for name in sorted({w for w, _, _ in records})}
    for number in range(partitions):
        offset = 0
        while page := await decisions.read(number, offset):
            for s in page:
                decided[s.record.workspace].setdefault(s.record.id, DECISIONS.encode(s.record))
            offset = page[-1].offset + 1
    await decisions.close()
    return {name: list(of.values()) for name, of in decided.items()}


async def shared_out(records: list[tuple[str, int, Record]], partitions: int, folder: Path, chance: random.Random) -> dict[str, list[bytes]]:
    """The same by three members that partitions are given to and taken from all the time."""
    clock = ManualClock(records[0][1])
    events, decisions = MemoryLog(EVENTS, clock, partitions), MemoryLog[Decision](DECISIONS, clock, partitions)
    metrics, groups = Metrics(CollectorRegistry()), [Told() for _ in range(3)]

    def make(number: int, beat: Beat) -> Worker:
        return Reader(events, decisions, clock, GUARDS, metrics, number, Checkpoints(folder, owner=str(chance.random())), Often(7, 0.05), beat=beat)

    shares = [Share(group, make, CollectorRegistry()) for group in groups]
    for share in shares:
        await share.start()
    for n, (workspace, stamp, record) in enumerate(records):
        if n % 25 == 0:  # of the three any number is there
            there = chance.sample(range(3), chance.randint(1, 3))
            whose = {p: chance.choice(there) for p in range(partitions)}
            for i, group in enumerate(groups):
                group.given(frozenset(p for p, owner in whose.items() if owner == i))
            await until(lambda: not any(s.unready for s in shares))
        clock.set(stamp)
        await events.append([(workspace, record)], partition_of(workspace, partitions))
    ends = {p: len(events.kept[p]) for p in range(partitions)}
    await until(lambda: all(w.done == ends[n] for s in shares for n, w in s.workers.items()) and sum(len(s.workers) for s in shares) == partitions)
    for share in shares:
        await share.stop()
    decided: dict[str, list[bytes]] = {name: [] for name in sorted({w for w, _, _ in records})}
    for number in range(partitions):
        seen = set()
        for s in await decisions.read(number, 0, 100_000):
            if s.record.id not in seen:
                seen.add(s.record.id)
                decided[s.record.workspace].append(DECISIONS.encode(s.record))
    return decided


@pytest.mark.parametrize("partitions", [1, 3, 12])
async def test_each_workspace_is_decided_on_as_if_it_had_a_log_to_itself(partitions: int, tmp_path: Path) -> None:
    records = together()
    wanted = alone(records)
    assert len(wanted) == 9 and sum(map(len, wanted.values())) > 200
    assert await shared_out(records, partitions, tmp_path, random.Random(partitions)) == wanted


@pytest.mark.parametrize("partitions", [1, 3, 12])
async def test_each_workspace_is_decided_on_so_on_kafka_too(partitions: int, kafka: Brokers, tmp_path: Path) -> None:
    records = in_milliseconds(together())
    assert await on_brokers(kafka, records, partitions, tmp_path, random.Random(partitions)) == alone(records)
