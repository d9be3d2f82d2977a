"""What each process may do on Kafka, and no more: what it asks for at its start, what `trimtab log rights` grants, and the table of docs/kafka.md."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum

from aiokafka.errors import ClusterAuthorizationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError

from services.adapters.log.cluster import Cluster

TOPIC, GROUP = "topic", "group"
REFUSED = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)  # the last where a producer may write nowhere
NOT_TOLD = (-(2**31), 0)  # instead of the operations, by brokers and proxies that do not say which we may do; who may do nothing gets no answer


class Operation(IntEnum):
    """In Kafka's numbers and words. Read and Write imply Describe."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10

    @property
    def word(self) -> str:
        return self.name.title().replace("_", "")


READ, WRITE, CREATE, DESCRIBE, CONFIGS = Operation  # CONFIGS: every start compares the topics' settings with what the log needs


@dataclass(frozen=True, slots=True)
class Right:
    """`name` is that of a topic or a group without the prefix. With `each` only where TRIMTAB_KAFKA_EACH is set."""

    kind: str
    name: str
    operations: tuple[Operation, ...]
    purpose: str
    each: bool = False


RIGHTS: dict[str, tuple[Right, ...]] = {
    "ingest": (
        Right(TOPIC, "events", (READ, WRITE, CONFIGS), "appends events and changes; follows outcomes, so that our own actions are no changes by hand"),
        Right(GROUP, "ingest", (READ,), "shares the following of outcomes out"),
        Right(TOPIC, "events.each", (READ, WRITE, CONFIGS), "appends events one by one; its last record says how far it is", each=True),
        Right(GROUP, "each", (READ,), "shares that out", each=True),
    ),
    "rules": (
        Right(TOPIC, "events", (READ, WRITE, CONFIGS), "folds and archives it; appends activations, targets, ticks, and the skips of records"),
        Right(TOPIC, "decisions", (READ, WRITE, CONFIGS), "appends decisions; reads which are there already; archives them"),
        Right(GROUP, "rules", (READ,), "shares the partitions out, and names who has which"),
    ),
    "actions": (
        Right(TOPIC, "decisions", (READ, CONFIGS), "takes decisions in"),
        Right(TOPIC, "events", (WRITE, CONFIGS), "appends outcomes"),
        Right(GROUP, "actions", (READ,), "shares the partitions out"),
    ),
    "console": (),
    "doctor": (
        Right(TOPIC, "events", (READ, CONFIGS), "compares checkpoints and archive with it; shows records"),
        Right(TOPIC, "decisions", (READ, CONFIGS), "the same"),
        Right(TOPIC, "events.each", (READ, CONFIGS), "shows records", each=True),
    ),
    "topics": (
        Right(TOPIC, "events", (CREATE, DESCRIBE, CONFIGS), "creates it once; says what it holds"),
        Right(TOPIC, "decisions", (CREATE, DESCRIBE, CONFIGS), "the same"),
        Right(TOPIC, "events.each", (CREATE, DESCRIBE, CONFIGS), "the same", each=True),
    ),
}
WHO = {
    **{name: f"`trimtab serve {name}`" for name in ("ingest", "rules", "actions", "console")},
    "doctor": "`trimtab doctor`, `trimtab log tail`",
    "topics": "`trimtab log topics --create`",
}


def needed(who: str, topic: str) -> tuple[Operation, ...]:
    """What is needed on the topic; every topic that a process opens is in its rights."""
    return next(r.operations for r in RIGHTS[who] if (r.kind, r.name) == (TOPIC, topic))


def commands(who: str, prefix: str, each: bool, bootstrap: str, principal: str, config: str = "") -> Iterator[list[str]]:
    """The words of the calls of kafka-acls.sh that give `principal` the rights."""
    for right in RIGHTS[who]:
        if right.each <= each:
            client = ["--command-config", config] if config else []
            operations = [word for operation in right.operations for word in ("--operation", operation.word)]
            whom = ["--add", "--allow-principal", principal, *operations]
            yield ["kafka-acls.sh", "--bootstrap-server", bootstrap, *client, *whom, f"--{right.kind}", f"{prefix}.{right.name}"]


# -- in words -------------------------------------------------------------------------------------------------------------


def needs(cluster: Cluster, operations: Collection[Operation], kind: str, name: str) -> str:
    who = f"user {cluster.user}" if cluster.user else "our user"
    return f"{who} needs {', '.join(o.word for o in sorted(operations))} on {kind} {name}: `trimtab log rights` prints what grants it"


def why(error: Exception, cluster: Cluster, operation: Operation, kind: str, name: str) -> str:
    """What a failure means; where it is for want of a right, which."""
    return needs(cluster, [operation], kind, name) if isinstance(error, REFUSED) else f"{type(error).__name__}: {error}"


def lacking(wanted: Collection[Operation], told: int) -> list[Operation]:
    """Those of `wanted` that are not among what a broker tells that we may do, a bit for each operation; none where it does not tell."""
    return [] if told in NOT_TOLD else [o for o in wanted if not told >> o & 1]
