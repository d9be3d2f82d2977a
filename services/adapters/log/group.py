"""Which partitions are ours: membership in a consumer group of Kafka, and nothing else.

All partitions stay paused: records are read apart (`KafkaLog.follow`), so that a rebalance, which gives all partitions back and anew, disturbs none that
stay. `getmany` is asked all the same, or the group would believe us idle. What is committed is how far the engine is, for those who watch its lag; nobody
reads it back, a start goes by checkpoint and log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import GroupAuthorizationFailedError, IllegalStateError, KafkaError, for_code
from aiokafka.structs import TopicPartition

from services.adapters.log.cluster import Cluster, Topic, end_consumer, spare_lines
from services.adapters.log.protocol import described_group
from services.adapters.log.rights import GROUP, READ, lacking, needs, why
from services.adapters.log.topics import administering
from services.adapters.progress import Progress
from services.kernel.errors import Misconfigured, Unavailable

log = structlog.get_logger("kafka_group")

SESSION = 10.0  # seconds without a heartbeat after which the others take over
LOOK = 0.5  # seconds between looks
PATIENCE = 60.0  # seconds out of the group after which the membership is made anew: aiokafka's may stay alive and never join again
COMMITS = 5.0

Given = Callable[[frozenset[int]], None]


class KafkaGroup:
    """A member of the group `name`, which shares the topic's partitions."""

    def __init__(
        self,
        cluster: Cluster,
        topic: Topic,
        name: str,
        *,
        member: str = "trimtab",
        session: float = SESSION,
        patience: float = PATIENCE,
        progress: Progress | None = None,
    ) -> None:
        """`member` is what the others are told of us, see `owners`: where we are reached."""
        self.cluster, self.topic, self.name, self.session, self.patience = cluster, topic, name, session, patience
        self.member, self.progress = member, progress or Progress()
        self.kafka: AIOKafkaConsumer | None = None
        self.joined = 0  # how often
        self.failed = ""  # why we are no member, where that is known
        self._given: Given = lambda _: None
        self._task: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """We may be a member, as far as brokers tell. Raises Misconfigured where we may not, Unavailable where none answers."""
        async with administering(self.cluster) as admin:
            try:
                missing = lacking([READ], (await described_group(admin, self.name))["authorized_operations"])
            except GroupAuthorizationFailedError:  # who may not even ask
                missing = [READ]
        if missing:
            raise Misconfigured(needs(self.cluster, missing, GROUP, self.name))

    @property
    def unready(self) -> str:
        """Why requests should go to another process: "" once we have been a member."""
        return "" if self.joined else f"joining the group{f': {self.failed}' if self.failed else ''}"

    async def join(self, given: Given) -> None:
        """From now on `given` is told which partitions are ours, whenever that is decided anew. It must not wait: heartbeats stand still meanwhile."""
        spare_lines()
        self._given = given
        self._beat = self.progress.expect(f"membership of {self.name}")
        self._task = asyncio.create_task(self._stay(), name=f"group-{self.name}")
        self._beat.of(self._task)

    async def commit(self, done: Mapping[int, int]) -> bool:
        """The group knows that every record before these offsets is done with; False where it does not, for instance because they are not ours any more."""
        if self.kafka is None or not done:
            return False
        try:
            async with asyncio.timeout(COMMITS):  # the client itself would try for ever
                await self.kafka.commit({TopicPartition(self.topic.name, number): offset for number, offset in done.items()})
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            log.info("offsets not committed", group=self.name, why=f"{type(error).__name__}: {error}")
            return False
        return True

    async def leave(self) -> None:
        """The others take over at once."""
        self.progress.forget(f"membership of {self.name}")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # -- staying a member --------------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        while True:
            self._beat()
            try:
                await self._be_member()
            except (KafkaError, OSError) as error:
                self.failed = why(error, self.cluster, READ, GROUP, self.name)
                log.warning("membership lost", group=self.name, why=self.failed)
            except Exception:  # whatever it is, without a membership nothing is ours
                log.exception("membership lost", group=self.name)
            await asyncio.sleep(LOOK)

    async def _be_member(self) -> None:
        """Returns, or raises KafkaError, where this membership is of no more use."""
        milliseconds = round(self.session * 1000)
        bounds = {"session_timeout_ms": milliseconds, "heartbeat_interval_ms": milliseconds // 5, "request_timeout_ms": 10_000, "metadata_max_age_ms": 60_000}
        assignor = type("Sticky", (StickyPartitionAssignor,), {})  # it remembers in its class what its member had
        options: dict[str, Any] = {"client_id": self.member}
        options |= {"group_id": self.name, "enable_auto_commit": False, "auto_offset_reset": "none", "partition_assignment_strategy": (assignor,)}
        kafka = AIOKafkaConsumer(**self.cluster.options(), **options, **bounds)
        kafka.subscribe([self.topic.name], listener=_Listener(self, kafka))
        try:
            self.kafka = kafka
            async with asyncio.timeout(self.patience):
                await kafka.start()
            heard = time.monotonic()
            while time.monotonic() - heard < self.patience:
                await self._look(kafka)
                self._beat()
                if kafka._coordinator.generation > 0 and not kafka._subscription.reassignment_in_progress:
                    heard = time.monotonic()
        except TimeoutError:
            pass
        finally:
            self.kafka = None
            await asyncio.shield(end_consumer(kafka))

    async def _look(self, kafka: AIOKafkaConsumer) -> None:
        """Counts as activity. A rebalance under way is waited for no longer than a look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LOOK):
                await kafka.getmany(timeout_ms=round(LOOK * 1000))

    def _have(self, kafka: AIOKafkaConsumer, ours: Iterable[TopicPartition]) -> None:
        for partition in ours:
            kafka.seek(partition, 0)  # else its position is looked for, and there is none
            kafka.pause(partition)
        self.joined, self.failed = self.joined + 1, ""
        numbers = frozenset(p.partition for p in ours)
        log.info("partitions given", group=self.name, partitions=",".join(map(str, sorted(numbers))))
        self._given(numbers)


async def owners(cluster: Cluster, topic: Topic, name: str) -> dict[int, str]:
    """Partition -> what the member of the group `name` said of itself that has it; those that nobody has are missing. Raises Unavailable."""
    async with administering(cluster) as admin:
        try:
            [answer] = await admin.describe_consumer_groups([name])
        except (KafkaError, OSError) as error:
            raise Unavailable(f"the group {name} cannot be asked for: {why(error, cluster, READ, GROUP, name)}", reason="group") from error
    found: dict[int, str] = {}
    for code, _, _, _, _, members, *_ in answer.groups:  # the newest form has a field more
        if code:
            raise Unavailable(f"the group {name} cannot be asked for: {why(for_code(code)(), cluster, READ, GROUP, name)}", reason="group")
        for _, client, _, _, assigned in members:
            for topic_name, numbers in ConsumerProtocol.ASSIGNMENT.decode(assigned).assignment if assigned else ():
                found |= dict.fromkeys(numbers if topic_name == topic.name else (), client)
    return found


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """What was ours stays so until it is decided anew: who goes on meanwhile only repeats what the next one says."""

    def __init__(self, group: KafkaGroup, kafka: AIOKafkaConsumer) -> None:
        self.group, self.kafka = group, kafka

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None: ...

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.group._have(self.kafka, assigned)
