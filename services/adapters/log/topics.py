"""Kafka's topics as the log needs them: created where they are missing, refused with the remedy where they are otherwise. Nobody's topic is altered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code

from services.adapters.log.cluster import Cluster, Heard, Topic
from services.adapters.log.protocol import described_topic
from services.adapters.log.rights import CONFIGS, CREATE, DESCRIBE, TOPIC, Operation, lacking, needs
from services.kernel.errors import Misconfigured, Unavailable

LARGEST = 8 << 20  # bytes of one record, and of one batch
ALREADY_EXISTS, NO_SUCH_TOPIC, NO_LEADER, NOT_SO_MANY, MAY_NOT = 36, 3, 5, 38, (29, 31)  # Kafka's error codes
ATTEMPTS, AGAIN = 15, 0.5  # how often a request is made, and seconds between
PATIENCE = 15.0  # seconds until a new topic has a leader for each of its partitions
NEVER = str(2**63 - 1)


def settings_of(topic: Topic) -> dict[str, str]:
    """What a topic is created with."""
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime" if topic.simulated else "LogAppendTime",
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": "-1",
        "min.insync.replicas": str(topic.in_sync),
        "max.message.bytes": str(LARGEST),
        "unclean.leader.election.enable": "false",
    }


def _at_least(wanted: str) -> Callable[[str], bool]:
    """-1 stands for no end."""
    return lambda found: found == "-1" or (wanted != "-1" and int(found) >= int(wanted))


def at_odds(topic: Topic, found: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """setting -> (what it is, what it has to be), of those that would lose records, or let the wrong side stamp them."""
    wanted = settings_of(topic)
    holds: dict[str, Callable[[str], bool]] = dict.fromkeys(wanted, lambda _: False)
    holds |= {name: _at_least(wanted[name]) for name in ("retention.ms", "retention.bytes", "min.insync.replicas", "max.message.bytes")}
    return {name: (found[name], value) for name, value in wanted.items() if name in found and found[name] != value and not holds[name](found[name])}


@asynccontextmanager
async def administering(cluster: Cluster) -> AsyncIterator[AIOKafkaAdminClient]:
    """Raises Unavailable, naming the addresses, where none of them answers or lets us in; Misconfigured where they are too old for what we ask."""
    admin = AIOKafkaAdminClient(**cluster.options(), request_timeout_ms=10_000)
    try:
        with Heard() as heard:
            try:
                await admin.start()
            except (KafkaError, OSError) as error:
                why = heard.last or str(error)
                text = f"no Kafka answers at {cluster.bootstrap} ({cluster.security}): {why}; see TRIMTAB_KAFKA"
                raise Unavailable(text, reason="log_unreachable") from error
        yield admin
    except (IncompatibleBrokerVersion, NotImplementedError) as error:  # aiokafka says it in two ways
        raise Misconfigured(f"the brokers at {cluster.bootstrap} are too old ({error}): the log needs Apache Kafka 3.9 or later; see TRIMTAB_KAFKA") from error
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka at {cluster.bootstrap} does not answer as it should: {type(error).__name__}: {error}", reason="log") from error
    finally:
        await admin.close()


async def ensure(cluster: Cluster, topic: Topic, create: bool = True, wanted: Collection[Operation] = ()) -> None:
    """The topic is there and as it has to be, and we may do with it what is `wanted`, as far as brokers tell.

    Raises Misconfigured with one line and its remedy, Unavailable where no broker answers.

    A request goes to any broker, also to one that has just gone: it is made again, until it meets another.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            await _ensure(cluster, topic, create, wanted)
            return
        except Unavailable as error:
            if not left or error.reason == "log_unreachable":
                raise
        await asyncio.sleep(AGAIN)


async def _ensure(cluster: Cluster, topic: Topic, create: bool, wanted: Collection[Operation]) -> None:
    async with administering(cluster) as admin:
        found = await described_topic(admin, topic.name)
        if found["error_code"] in MAY_NOT:
            raise Misconfigured(needs(cluster, {*wanted, CONFIGS} if wanted else (DESCRIBE, CONFIGS), TOPIC, topic.name))
        if found["error_code"] == NO_SUCH_TOPIC:
            if not create:
                raise Misconfigured(f"there is no topic {topic.name} at {cluster.bootstrap}: `trimtab log topics --create` creates it")
            await _create(admin, cluster, topic)
        await _check(admin, cluster, topic, wanted)


async def _create(admin: AIOKafkaAdminClient, cluster: Cluster, topic: Topic) -> None:
    new = NewTopic(topic.name, topic.partitions, topic.replicas, topic_configs=settings_of(topic))
    for name, code, *said in (await admin.create_topics([new])).topic_errors:
        if code in MAY_NOT:
            raise Misconfigured(f"there is no topic {name}: `trimtab log topics --create` creates it; to do so, {needs(cluster, [CREATE], TOPIC, name)}")
        if code == NOT_SO_MANY:
            raise Misconfigured(
                f"topic {name} cannot have {topic.replicas} replicas ({said[0] if said else 'too few brokers'}): start more brokers, or set "
                f"TRIMTAB_KAFKA_REPLICAS; with 1, what a broken disk held is lost"
            )
        if code not in (0, ALREADY_EXISTS):
            raise Misconfigured(f"topic {name} cannot be created: {for_code(code).__name__}{': ' + said[0] if said and said[0] else ''}")


async def _check(admin: AIOKafkaAdminClient, cluster: Cluster, topic: Topic, wanted: Collection[Operation]) -> None:
    found = await _settled(admin, topic.name)
    if missing := lacking({*wanted, CONFIGS}, found["authorized_operations"]):
        raise Misconfigured(needs(cluster, missing, TOPIC, topic.name))
    partitions = found["partitions"]
    if len(partitions) != topic.partitions:
        raise Misconfigured(
            f"topic {topic.name} has {len(partitions)} partitions, not {topic.partitions}: set TRIMTAB_KAFKA_PARTITIONS={len(partitions)}, or begin anew "
            "with another TRIMTAB_KAFKA_PREFIX; the number cannot change while records are there, since it says where a workspace's are"
        )
    fewest = min(len(p["replicas"]) for p in partitions)
    if fewest < topic.replicas:
        raise Misconfigured(
            f"topic {topic.name} has {fewest} replica{'s' * (fewest > 1)}, not {topic.replicas}: reassign its partitions, or set "
            f"TRIMTAB_KAFKA_REPLICAS={fewest}"
        )
    wrong = at_odds(topic, await configuration(admin, topic.name))
    if wrong:
        is_so = ", ".join(f"{name}={found} where {value} is needed" for name, (found, value) in wrong.items())
        mend = ",".join(f"{name}={value}" for name, (_, value) in wrong.items())
        stays = "; records that are there keep the time that they were given: better begin anew with another TRIMTAB_KAFKA_PREFIX"
        raise Misconfigured(
            f"topic {topic.name} has {is_so}: kafka-configs.sh --bootstrap-server {cluster.bootstrap} --alter --entity-type topics "
            f"--entity-name {topic.name} --add-config {mend}{stays if 'message.timestamp.type' in wrong else ''}"
        )


async def _settled(admin: AIOKafkaAdminClient, name: str) -> dict[str, Any]:
    """The topic as the brokers tell it, once each of its partitions has a leader."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await described_topic(admin, name)
            if found["partitions"] and not found["error_code"] and all(p["leader"] >= 0 for p in found["partitions"]):
                return found
            if found["error_code"] not in (0, NO_SUCH_TOPIC, NO_LEADER):  # the last while one is elected
                raise Misconfigured(f"topic {name} cannot be described: {for_code(found['error_code']).__name__}")
            await asyncio.sleep(0.1)


async def configuration(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    """The topic's settings, defaults included."""
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    [(code, _, _, _, entries)] = answer.resources
    if code == NO_SUCH_TOPIC:
        raise Unavailable(f"a broker does not know topic {name} yet", reason="log")
    if code:
        raise Misconfigured(f"the settings of topic {name} cannot be read: {for_code(code).__name__}; our user needs DescribeConfigs on it")
    return {entry[0]: entry[1] for entry in entries}
