"""`trimtab log tail` and `topics`, on Kafka and on a folder; and what docs/asyncapi.yaml says of the topics is what is sent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from ruamel.yaml import YAML
from typer.testing import CliRunner

from deploy.kafka.broker import Brokers
from deploy.postgres.server import Server
from services.__main__ import app
from services.adapters.clock import ManualClock
from services.adapters.codec.generated.trimtab.v1 import decision_pb2, record_pb2
from services.adapters.log.cluster import Cluster
from services.adapters.log.codec import DECISIONS, EACH, EVENTS, partition_of
from services.adapters.log.each import EachWriter
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.topics import administering, settings_of
from services.kernel.columns import batch
from services.kernel.decision import Decision
from services.kernel.errors import TrimtabError
from services.kernel.event import Event
from services.kernel.record import Activation, Change, Clock, Outcome, Ready, Record, Skip, Target, Tick
from tests.brokers import fresh, on_kafka
from tests.shell.commanded import Said

ROOT = Path(__file__).parents[2]
BATCH = batch("acme", [Event("e1", "meta_ads", "meta_ads/act/c1", "click", 5_000_000, {"clicks": 1_000_000, "spend@EUR": 1_230_000}, {"status": "active"})])
DECISION = Decision("acme", "r", "v", "meta_ads/act/c1", 7, 8_000_000, "fired", "active", "{}", (), (), None, 9, False)


def run(*words: object, **settings: object) -> Said:
    """The command in this process."""
    environment = {f"TRIMTAB_{name.upper()}": str(value) for name, value in settings.items()}
    done = CliRunner().invoke(app, [*map(str, words)], env=environment)
    if isinstance(done.exception, TrimtabError):
        return Said(2, done.stdout, str(done.exception))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def cluster(kafka: Brokers) -> dict[str, object]:
    """Settings of topics that nobody else has."""
    return {"kafka": kafka.bootstrap, "kafka_prefix": f"t{os.urandom(4).hex()}", "kafka_partitions": 2, "kafka_replicas": 1}


def put(kafka: Brokers, cluster: dict[str, Any], records: Sequence[tuple[str, Record]], decisions: Sequence[Decision] = ()) -> None:
    async def append() -> None:
        for codec, them in ((EVENTS, records), (DECISIONS, [(d.workspace, d) for d in decisions])):
            log: Any = await on_kafka(kafka, codec, fresh(codec, name=f"{cluster['kafka_prefix']}.{codec.topic}", partitions=2))
            await log.append(them)
            await log.close()

    asyncio.run(append())


def test_topics_are_created_checked_and_counted(kafka: Brokers, cluster: dict[str, object]) -> None:
    assert "there is no topic" in run("log", "topics", **cluster).err
    made = run("log", "topics", "--create", **cluster)
    assert made.code == 0 and f"{cluster['kafka_prefix']}.decisions: as it has to be; 2 partitions, 1 replicas" in made.out
    put(kafka, cluster, [("acme", Ready("acme", "1"))])
    assert f"partition {partition_of('acme', 2):>3}  records 0 to 0" in run("log", "topics", **cluster).out
    assert "set TRIMTAB_KAFKA_PARTITIONS=2" in run("log", "topics", **cluster | {"kafka_partitions": 3}).err


def test_tail_shows_records_decoded_with_their_headers(kafka: Brokers, cluster: dict[str, object]) -> None:
    put(kafka, cluster, [("acme", Ready("acme", "1")), ("acme", BATCH), ("acme", Ready("acme", "2"))], [DECISION])
    [about, headers, record, *_] = run("log", "tail", "-n", 2, **cluster).lines
    number = partition_of("acme", 2)
    assert about.startswith(f"{number}:1  20") and about.endswith("Z  acme  EventBatch")
    assert "ce_type=trimtab.v1.EventBatch" in headers and "ce_workspace=acme" in headers
    [event] = json.loads(record)["events"]
    assert {k: event[k] for k in event if k != "id"} == {
        "source": "meta_ads", "kind": "click", "entity": "meta_ads/act/c1", "occurred_at": "1970-01-01T00:00:05Z",
        "amounts": {"clicks": 1, "spend@EUR": "1.23"}, "attributes": {"status": "active"},
    }  # fmt: skip
    [whole] = [json.loads(line) for line in run("log", "tail", "--topic", "decisions", "--json", **cluster).lines]
    assert (whole["offset"], whole["key"], whole["headers"]["ce_id"], whole["record"]["id"]) == (0, "acme", DECISION.id, DECISION.id)
    assert whole["headers"]["ce_time"] == "1970-01-01T00:00:08.000Z"
    since = [json.loads(line)["offset"] for line in run("log", "tail", "--from", 1, "--partition", number, "--json", **cluster).lines]
    assert since == [1, 2]
    assert run("log", "tail", "--partition", 2, **cluster).err == "there is no partition 2: they are 0 to 1"


def test_tail_reads_a_data_folder_where_no_kafka_is_named(tmp_path: Path) -> None:
    async def append() -> None:
        log = SqliteLog(tmp_path / "events.db", EVENTS, ManualClock(1_000_000))
        await log.append([("acme", Ready("acme", str(i))) for i in range(20)])
        await log.close()

    assert "TRIMTAB_KAFKA" in run("log", "tail", data=tmp_path).err
    asyncio.run(append())
    shown = run("log", "tail", data=tmp_path).lines
    assert shown[-2:] == ["0:19  1970-01-01T00:00:01Z  acme  Ready", '    {"workspace": "acme", "version": "19"}'] and len(shown) == 20


def test_a_log_on_kafka_has_no_segments_and_up_does_not_pretend_to_use_it(tmp_path: Path) -> None:
    for words in (("log", "segments"), ("log", "archive"), ("up",)):
        assert "TRIMTAB_KAFKA is set" in run(*words, kafka="127.0.0.1:1", data=tmp_path).err


def test_doctor_examines_the_topics_and_the_database_where_the_log_is_on_kafka(
    kafka: Brokers, cluster: dict[str, object], on_postgres: Callable[[], str], postgres: Server
) -> None:
    without = run("doctor", **cluster)
    assert without.code == 1 and without.out.count("FAIL  kafka         there is no topic") == 2
    assert "FAIL  database      TRIMTAB_KAFKA is set and TRIMTAB_DATABASE is not" in without.out
    cluster = cluster | {"database": on_postgres()}
    assert "FAIL  secrets       TRIMTAB_SECRET_FILE is not set" in run("doctor", **cluster).out
    assert "run `trimtab migrate`" in run("doctor", **(cluster | {"database": postgres.url("postgres")})).out
    cluster |= {"secret": "5e" * 32}
    run("log", "topics", "--create", **cluster)
    put(kafka, cluster, [("acme", Ready("acme", "1")), ("acme", Tick())])
    there = run("doctor", **cluster)
    assert there.code == 0 and f"ok    kafka         {cluster['kafka_prefix']}.events: 2 partitions, 2 records" in there.out
    asyncio.run(delete(kafka, f"{cluster['kafka_prefix']}.events"))
    assert f"has lost the beginning of partition {partition_of('acme', 2)}" in run("doctor", **cluster).out


async def delete(kafka: Brokers, topic: str) -> None:
    async with administering(Cluster(kafka.bootstrap)) as admin:
        await admin.delete_records({TopicPartition(topic, partition_of("acme", 2)): RecordsToDelete(1)})


# -- docs/asyncapi.yaml ---------------------------------------------------------------------------------------------------

ONE_OF_EACH: list[tuple[str, Record]] = [
    ("acme", BATCH),
    ("acme", Activation("acme", "r", "v", "active", "{}")),
    ("acme", Ready("acme", "v")),
    ("acme", Target("acme", "cpa", "", 1, "EUR")),
    ("", Tick()),
    ("acme", Outcome("acme", "d", "verified")),
    ("acme", Change("acme", "p", "status", "active", "paused", 1)),
    ("", Skip(1, "why")),
    ("", Clock(True, 1)),
]


async def tell_each(kafka: Brokers, cluster: dict[str, Any]) -> None:
    """What is on the events topic is told one by one."""
    logs: list[Any] = [await on_kafka(kafka, codec, fresh(codec, name=f"{cluster['kafka_prefix']}.{codec.topic}", partitions=2)) for codec in (EVENTS, EACH)]
    number = partition_of("acme", 2)
    telling = asyncio.create_task(EachWriter(*logs).run(number))
    async with asyncio.timeout(30):
        while (await logs[1].ends(number))[1] < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    for log in logs:
        await log.close()


def test_asyncapi_says_what_is_sent(kafka: Brokers, cluster: dict[str, object]) -> None:
    said = YAML(typ="safe").load(ROOT / "docs/asyncapi.yaml")

    def resolved(reference: dict[str, str]) -> Any:
        found = said
        for word in reference["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        return found

    put(kafka, cluster, ONE_OF_EACH, [DECISION])
    sent: dict[str, set[str]] = {}
    asyncio.run(tell_each(kafka, cluster))
    for topic, proto in (("events", record_pb2.Record), ("decisions", decision_pb2.Decision), ("events.each", None)):
        channel = said["channels"][topic.replace(".e", "E")]
        names = {m["name"]: m for m in map(resolved, channel["messages"].values())}
        for line in run("log", "tail", "--topic", topic, "-n", 100, "--json", **cluster).lines:
            headers = json.loads(line)["headers"]
            message = names[headers["ce_type"]]
            schema = resolved(message["headers"])
            assert set(headers) == set(schema["required"]) == set(schema["properties"]), message["name"]
            assert headers["content-type"] == message["contentType"]
            if proto is None:
                data = {k: v for k, v in json.loads(line)["record"].items() if k != "type"}
                assert set(message["payload"]["required"]) <= set(data) <= set(message["payload"]["properties"])
            else:
                file = (ROOT / "docs" / message["payload"]["schema"]["$ref"]).resolve()
                assert proto.DESCRIPTOR.file.name.endswith(file.name) and file.exists()
            sent.setdefault(topic, set()).add(headers["ce_type"])
        assert sent[topic] == set(names)
        described = channel["bindings"]["kafka"]
        wanted = fresh(EVENTS, name=described["topic"], partitions=12, replicas=3)
        assert channel["address"] == described["topic"] == f"trimtab.{topic}"
        assert (described["partitions"], described["replicas"]) == (12, 3)
        plain = {k: v[0] if isinstance(v, list) else str(v) for k, v in described["topicConfiguration"].items()}
        assert plain == settings_of(wanted)
