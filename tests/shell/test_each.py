"""The events one a record, on a real broker: each at least once and in the log's order, whoever writes and however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy.kafka.broker import Brokers
from services.adapters.codec.each import Each, each, place_of, sequence_of
from services.adapters.log.cluster import Cluster
from services.adapters.log.codec import EACH, EVENTS, Kept
from services.adapters.log.each import EachMetrics, EachWriter
from services.adapters.log.kafka import EACH_HEADERS, KafkaLog
from services.adapters.log.topics import administering
from services.adapters.settings import from_environment
from services.kernel.columns import batch
from services.kernel.errors import Unavailable
from services.kernel.event import Event, Snapshot
from services.kernel.record import EventBatch, Ready, Record, Tick
from services.production.ingest import Ingest
from tests.brokers import on_kafka, until

ROOT = Path(__file__).parents[2]


def clicks(first: int, many: int, workspace: str = "acme") -> EventBatch:
    made = [Event(f"e{i}", "meta_ads", f"meta_ads/act/c{i % 3}", "click", 5_000_000 + i, {"clicks": 1_000_000}) for i in range(first, first + many)]
    return batch(workspace, made)


@dataclass
class House:
    kafka: Brokers
    events: KafkaLog[Record]
    each: KafkaLog[Each]

    async def told(self) -> list[Kept]:
        end, found = (await self.each.ends(0))[1], list[Kept]()
        while len(found) < end:
            found += await self.each.kept(0, len(found))
        return found

    async def write(self, offset: int, index: int = 0, writers: int = 1) -> None:
        """So many writers, until this event of the log is there."""
        running = [asyncio.create_task(EachWriter(self.events, self.each).run(0)) for _ in range(writers)]
        async with asyncio.timeout(60):
            while not (there := await self.told()) or max(places(there)) < (offset, index):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def places(told: list[Kept]) -> list[tuple[int, int]]:
    return [place_of(dict(k.headers)["ce_sequence"]) for k in told]


@pytest.fixture
async def house(kafka: Brokers) -> AsyncIterator[House]:
    made = House(kafka, await on_kafka(kafka, EVENTS), await on_kafka(kafka, EACH))
    yield made
    await made.events.close()
    await made.each.close()


def test_an_event_is_told_with_all_that_it_says() -> None:
    day = 86_400_000_000
    said = {"clicks": 3_000_000, "spend@EUR": 1_230_000}, {"status": "active", "daily_budget": 50_000_000}
    snapshot = Event("r1", "meta_ads", "meta_ads/act/c1", "report", 5_000_000, *said, Snapshot(0, day, day, ("row",)))
    [first, second] = each(batch("acme", [snapshot, Event("e2", "web", "web/shop", "purchase", 7_500_000, {}, {})]), 17)
    assert json.loads(first.data) == {
        "id": first.id, "workspace": "acme", "source": "meta_ads", "kind": "report", "entity": "meta_ads/act/c1", "occurred_at": "1970-01-01T00:00:05Z",
        "as_of": "1970-01-02T00:00:00Z", "interval": ["1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"],
        "amounts": {"clicks": 3, "spend@EUR": 1.23}, "attributes": {"status": "active", "daily_budget": 50},
    }  # fmt: skip
    assert json.loads(second.data)["occurred_at"] == "1970-01-01T00:00:07.500000Z" and "as_of" not in json.loads(second.data)
    assert (second.sequence, place_of(second.sequence)) == (sequence_of(17, 1), (17, 1))
    assert sequence_of(9, 10) < sequence_of(10, 2) < sequence_of(10, 10)


async def test_events_are_told_one_by_one_as_cloud_events_in_the_order_of_the_log(house: House) -> None:
    await house.events.append([("acme", clicks(0, 3)), ("acme", Ready("acme", "v")), ("", Tick()), ("other", clicks(1, 1200, "other"))], 0)
    await house.write(3, 1199)
    told = await house.told()
    assert places(told) == [(0, 0), (0, 1), (0, 2), *((3, i) for i in range(1200))]
    first, headers = told[0], dict(told[0].headers)
    assert set(headers) == set(EACH_HEADERS) and first.key == headers["ce_workspace"] == "acme"
    assert headers["ce_id"] == json.loads(first.value)["id"] and headers["ce_source"] == "/trimtab/acme/meta_ads"
    assert (headers["ce_subject"], headers["ce_time"], headers["content-type"]) == ("meta_ads/act/c0", "1970-01-01T00:00:05.000Z", "application/json")
    same = [k for k in told if dict(k.headers)["ce_id"] == dict(told[1].headers)["ce_id"]]
    assert [k.key for k in same] == ["acme", "other"]  # told apart by ce_source
    assert len({(dict(k.headers)["ce_source"], dict(k.headers)["ce_id"]) for k in told}) == len(told)


async def test_of_a_partition_that_is_let_go_nothing_is_shown_any_more(house: House) -> None:
    registry = CollectorRegistry()

    def shown() -> float | None:
        return registry.get_sample_value("trimtab_each_offset", {"partition": "0"})

    await house.events.append([("acme", clicks(0, 3))], 0)
    writing = asyncio.create_task(EachWriter(house.events, house.each, EachMetrics(registry)).run(0))
    await until(lambda: shown() == 1)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert shown() is None


async def test_whoever_goes_on_begins_after_the_last_one_also_within_a_record(house: House) -> None:
    await house.events.append([("acme", clicks(0, 3)), ("acme", clicks(3, 4))])
    second = list(each(clicks(3, 4), 1))
    await house.each.append([("acme", e) for e in [*each(clicks(0, 3), 0), *second[:2]]], 0)
    assert await EachWriter(house.events, house.each).resume(0) == (1, 2)
    await house.events.append([("acme", clicks(7, 1))])
    await house.write(2)
    assert places(await house.told()) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


async def test_where_all_of_it_was_deleted_it_begins_anew_and_says_so(house: House) -> None:
    await house.events.append([("acme", clicks(0, 3)), ("acme", clicks(3, 4))])
    writer = EachWriter(house.events, house.each)
    with capture_logs() as logged:
        assert await writer.resume(0) == (0, 0)
    assert logged == []
    await house.write(1, 3)
    async with administering(Cluster(house.kafka.bootstrap)) as admin:
        await admin.delete_records({TopicPartition(house.each.topic.name, 0): RecordsToDelete(7)})
    with capture_logs() as logged:
        assert await writer.resume(0) == (0, 0)
    [line] = logged
    assert line["event"] == "events are told one by one again, from the oldest that the log holds" and line["written_before"] == 7


async def test_two_writers_repeat_and_leave_nothing_out(house: House) -> None:
    await house.events.append([("acme", clicks(i, 7)) for i in range(0, 70, 7)])
    await house.write(9, 6, writers=2)
    found = places(await house.told())
    assert sorted(set(found)) == [(offset, i) for offset in range(10) for i in range(7)]
    assert list(dict.fromkeys(found)) == sorted(set(found))  # who has them once has them in order


async def test_a_writer_that_is_killed_leaves_nothing_out(house: House) -> None:
    await house.events.append([("acme", clicks(i, 600)) for i in (0, 600)])
    script = (
        "import asyncio, os, sys\nfrom services.adapters import faultpoint\nfrom tests.shell.test_each import *\n"
        "from services.adapters.log.cluster import Topic\n"
        "from services.adapters.clock import SystemClock\nfaultpoint.arm_from(os.environ)\n"
        "async def main(bootstrap, events, each):\n"
        "    logs = [KafkaLog(Cluster(bootstrap), codec, SystemClock(), Topic(name, 1, 1)) for codec, name in ((EVENTS, events), (EACH, each))]\n"
        "    await EachWriter(*logs).run(0)\n"
        "asyncio.run(main(*sys.argv[1:]))"
    )
    words = [sys.executable, "-c", script, house.kafka.bootstrap, house.events.topic.name, house.each.topic.name]
    planted = os.environ | {"TRIMTAB_FAULTPOINT": "kafka.acknowledged:3:KILL"}  # two batches a record: within the second one
    done = await asyncio.to_thread(subprocess.run, words, cwd=ROOT, env=planted, capture_output=True, timeout=120)
    assert done.returncode == -9, done.stderr.decode()
    assert max(places(await house.told())) == (1, 499)
    await house.events.append([("acme", clicks(1200, 1))])
    await house.write(2)
    assert places(await house.told()) == [*((offset, i) for offset in (0, 1) for i in range(600)), (2, 0)]


async def test_what_kafka_deleted_before_it_was_told_is_said_and_passed_over(house: House) -> None:
    await house.events.append([("acme", clicks(0, 1))])
    await house.write(0)
    await house.events.append([("acme", clicks(i, 1)) for i in range(1, 5)])
    async with administering(Cluster(house.kafka.bootstrap)) as admin:
        await admin.delete_records({TopicPartition(house.events.topic.name, 0): RecordsToDelete(3)})
    with capture_logs() as logged:
        await house.write(4)
    assert [(x["first"], x["last"]) for x in logged if x["event"] == "events were deleted before they were told one by one"] == [(0, 2)]
    assert places(await house.told()) == [(0, 0), (3, 0), (4, 0)]


async def test_a_topic_that_others_write_to_is_not_gone_on_with(house: House) -> None:
    foreign: Any = await on_kafka(house.kafka, EVENTS, house.each.topic)
    await foreign.append([("", Tick())], 0)
    await foreign.close()
    with pytest.raises(Unavailable, match="let nobody else write there"):
        await EachWriter(house.events, house.each).resume(0)


def test_ingest_writes_them_only_where_they_are_wanted(tmp_path: Path) -> None:
    wanted = {"TRIMTAB_KAFKA": "127.0.0.1:1", "TRIMTAB_DATABASE": "postgresql+asyncpg://u@127.0.0.1/d", "TRIMTAB_DATA": str(tmp_path)}
    wanted["TRIMTAB_SECRET"] = "5e" * 32
    assert Ingest(from_environment(wanted)).each is None
    made = Ingest(from_environment(wanted | {"TRIMTAB_KAFKA_EACH": "true"}))
    assert made.each is not None and made.each.group.name == "trimtab.each"  # type: ignore[attr-defined]
    assert [log.topic.name for log in made._logs] == ["trimtab.events", "trimtab.events.each"]
