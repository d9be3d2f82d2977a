"""Least privilege, tried: every process as a user of its own with the rights that docs/kafka.md gives it, on a broker that refuses all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy.kafka.broker import Brokers, Missing
from deploy.postgres.server import Failed, Server
from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import CODECS, About
from services.adapters.log.group import KafkaGroup, owners
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.rights import CREATE, GROUP, READ, RIGHTS, TOPIC, WRITE, Operation, Right
from services.adapters.log.topics import ensure
from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import Tick
from services.production import NAMES, service
from tests.brokers import until
from tests.e2e.running import PACK
from tests.e2e.siege.fleet import SHARED, Fleet, fleet
from tests.e2e.test_production import report, verified
from tests.granted import Grant, grant, grants_of, used
from tests.parts import lacks
from tests.roles import OWNER, SERVICE, Roles, roles
from tests.shell.commanded import Said, run
from tests.shell.commanded import until as asked
from tests.shell.sandboxed import sandbox

NOWHERE = "postgresql+asyncpg://joe@127.0.0.1:1/trimtab"
PREFIX, PARTITIONS, PASSWORD = "least", 2, "correct-horse-battery"
TOPICS, GROUPS = ("events", "decisions", "events.each"), ("ingest", "rules", "actions", "each")
SHOWS = "`trimtab log rights` prints what grants it"


@dataclass(frozen=True)
class Lesser:
    """A user that may do all that `who` may, but for one operation."""

    who: str
    right: Right
    operation: Operation

    @property
    def name(self) -> str:
        return f"{self.who}-without-{self.operation.word}-on-{self.right.kind}-{self.right.name}"

    @property
    def grants(self) -> Iterator[Grant]:
        for right, operation in every(self.who):
            if (right, operation) != (self.right, self.operation):
                yield f"User:{self.name}", operation.word, right.kind, f"{PREFIX}.{right.name}"

    @property
    def said(self) -> str:
        """What a start says. Who may neither read nor write a topic is not told what else it may do there: then all that is needed is said."""
        stays = [o for o in self.right.operations if o != self.operation]
        missing = [self.operation] if READ in stays or WRITE in stays else sorted(self.right.operations)
        return f"user {self.name} needs {', '.join(o.word for o in missing)} on {self.right.kind} {PREFIX}.{self.right.name}: {SHOWS}"


def every(who: str) -> Iterator[tuple[Right, Operation]]:
    return ((right, operation) for right in RIGHTS[who] for operation in right.operations)


LESSER = {who: [Lesser(who, *held) for held in every(who)] for who in NAMES}


@dataclass
class Guarded:
    """A broker that lets in by password, and on which everyone may do what `trimtab log rights` grants, and no more."""

    bootstrap: str
    unguarded: str  # where who comes may do anything
    audit: Path
    settings: dict[str, str] = field(default_factory=dict)
    too_early: str = ""  # what a service said that came before the topics

    def __post_init__(self) -> None:
        self.settings |= {
            "kafka": self.bootstrap, "kafka_prefix": PREFIX, "kafka_partitions": str(PARTITIONS), "kafka_replicas": "1", "kafka_each": "true",
            "kafka_security": "SASL_PLAINTEXT",
        }  # fmt: skip

    async def begin(self) -> None:
        """As docs/kafka.md has it: what is printed is entered, then the topics are created by the user who may."""
        lesser = [g for found in LESSER.values() for each in found for g in each.grants]
        await grant(self.unguarded, [*lesser, *grants_of(self.run("trimtab-topics", "log", "rights").out)])
        while not self.too_early.startswith("there is no topic"):  # each broker enforces them a moment later
            with pytest.raises(Misconfigured) as refused:
                await ensure(self.cluster("trimtab-rules"), self.topic("events"))
            self.too_early = str(refused.value)
        self.run("trimtab-topics", "log", "topics", "--create")
        async with self.unguarded_log("events") as events:
            await events.append([("", Tick())], 0)  # where nothing is nobody is refused to read

    def as_(self, user: str) -> dict[str, str]:
        return self.settings | {"kafka_user": user, "kafka_password": PASSWORD}

    def cluster(self, user: str) -> Cluster:
        return Cluster(self.bootstrap, "SASL_PLAINTEXT", user=user, password=PASSWORD)

    def run(self, user: str, *words: str) -> Said:
        said = run(*words, **self.as_(user))
        assert said.code == 0, said
        return said

    def log(self, user: str, topic: str) -> KafkaLog[Any]:
        """It is not started, so that nothing is refused before it is tried."""
        return KafkaLog(self.cluster(user), replace(CODECS[topic], encode=lambda _: b"", about=lambda _: About("any")), SystemClock(), self.topic(topic))

    @asynccontextmanager
    async def unguarded_log(self, topic: str) -> AsyncIterator[KafkaLog[Any]]:
        log = KafkaLog(Cluster(self.unguarded), CODECS[topic], SystemClock(), self.topic(topic))
        try:
            yield log
        finally:
            await log.close()

    def topic(self, name: str) -> Topic:
        return Topic(f"{PREFIX}.{name}", PARTITIONS, 1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    users = [f"trimtab-{who}" for who in RIGHTS] + [lesser.name for found in LESSER.values() for lesser in found]
    settings = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    }
    passwords = dict.fromkeys(users, PASSWORD)
    brokers = Brokers(tmp_path_factory.mktemp("rights"), settings=settings, listeners={"SCRAM": "SASL_PLAINTEXT"}, users=passwords, authorizes=True)
    try:
        brokers.start()
    except Missing as why:
        lacks("kafka", str(why))
    try:
        made = Guarded(f"127.0.0.1:{brokers.ports['SCRAM']}", brokers.bootstrap, brokers.every[0].log)
        with asyncio.Runner() as runner:
            runner.run(made.begin())
        yield made
    finally:
        brokers.stop(patience=0)


# -- with exactly these rights all of it works ----------------------------------------------------------------------------------


@pytest.fixture
def documented(postgres: Server) -> Iterator[Roles]:
    """Migrated by the owner's role, as docs/postgres.md has it."""
    with roles(postgres) as made:
        yield made


@pytest.mark.timeout(300)
async def test_every_service_as_a_user_of_its_own_does_the_main_job_and_uses_each_of_its_rights(guarded: Guarded, documented: Roles, tmp_path: Path) -> None:
    assert run("migrate", database=documented.url(OWNER)).code == 0
    documented.take_back()
    own = {name: guarded.as_(f"trimtab-{name}") for name in NAMES}
    needed = {g for who in RIGHTS for g in granted(who)}
    place = (tmp_path, guarded.bootstrap, documented.url(SERVICE))
    with sandbox(tmp_path) as platform:
        platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active", "name": f"Summer_v{i}"} for i in range(1, 5)})
        with fleet(*place, platform, prefix=PREFIX, partitions=PARTITIONS, many=dict.fromkeys(NAMES, 1), own=own) as running:
            await asyncio.to_thread(decide, running)
            assert [e["path"] for e in platform.applied()] == ["sandbox/demo/c1/g1/a1"]
            seen = documented.server.sql("SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'trimtab' AND backend_type = 'client backend'")
            assert seen == SERVICE
            for forbidden in ("UPDATE ledger SET at = 2", "DELETE FROM ledger", "CREATE TABLE t (a int)"):
                with pytest.raises(Failed, match="permission denied"):
                    documented.sql(forbidden, SERVICE)
            for topic, kind in (("events", "Outcome"), ("decisions", "Decision"), ("events.each", "Event")):
                await has(guarded, topic, kind)
            told = running.command("doctor", **{f"TRIMTAB_{name.upper()}": value for name, value in guarded.as_("trimtab-doctor").items()})
            assert "FAIL" not in told and all(f"{PREFIX}.{topic}: {PARTITIONS} partitions" in told for topic in TOPICS), told
            ingest, told_before = running.members["ingest-0"], await many(guarded, "events.each")
            assert running.end(ingest) == 0
            running.begin(ingest)  # which looks how far it was
            await asyncio.to_thread(report, running, {"ad": "a2", "impressions": 10})
            async with asyncio.timeout(60):
                while await many(guarded, "events.each") == told_before:  # noqa: ASYNC110  a record has no event
                    await asyncio.sleep(0.1)
            for member in running.members.values():
                assert member.errors == "" and "needs" not in member.log.read_text(), member.log.read_text()[-2000:]
    assert used(guarded.audit, "User:trimtab-") - implied() == needed


async def many(guarded: Guarded, topic: str) -> int:
    async with guarded.unguarded_log(topic) as log:
        return sum([(await log.ends(number))[1] for number in range(PARTITIONS)])


def granted(who: str) -> Iterator[Grant]:
    for right, operation in every(who):
        yield f"User:trimtab-{who}", operation.word, right.kind, f"{PREFIX}.{right.name}"


def implied() -> set[Grant]:
    """Who may read or write may describe."""
    return {(who, "Describe", *at) for name in RIGHTS for who, operation, *at in granted(name) if operation in ("Read", "Write")}  # type: ignore[misc]


async def has(guarded: Guarded, topic: str, kind: str) -> None:
    """The topic holds a record of this kind, soon."""
    async with guarded.unguarded_log(topic) as log, asyncio.timeout(60):
        while kind not in {dict(kept.headers)["ce_type"].partition("v1.")[2] for number in range(PARTITIONS) for kept in await log.kept(number, 0)}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def decide(running: Fleet) -> None:
    """A weak creative is paused at the platform, and that is explained by its replay and verified."""
    report(running, *({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 5)))
    assert running.ask("POST", "/v1/rules/apply", {"pack": PACK}).status_code == 200
    asked(lambda: running.ask("GET", "/v1/engine").json()["rules"])
    report(running, {"ad": "a1", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    decision = verified(running, "a1")
    for path in (f"/v1/decisions/{decision['id']}/replay", "/v1/partitions", "/v1/audit/verify"):
        assert running.ask("GET", path).status_code == 200, path


def who_may(operation: Operation, topic: str) -> set[str]:
    return {who for who in RIGHTS for right, held in every(who) if (held, right.kind, right.name) == (operation, TOPIC, topic)}


def test_decisions_are_written_by_the_engine_alone_and_topics_created_by_no_service() -> None:
    """The table once more, as people say it: whoever widens it must mean it."""
    assert {topic: who_may(WRITE, topic) for topic in TOPICS} == {"events": {"ingest", "rules", "actions"}, "decisions": {"rules"}, "events.each": {"ingest"}}
    assert {topic: who_may(READ, topic) for topic in TOPICS} == {
        "events": {"ingest", "rules", "doctor"}, "decisions": {"rules", "actions", "doctor"}, "events.each": {"ingest", "doctor"},
    }  # fmt: skip
    assert [who_may(CREATE, topic) for topic in TOPICS] == [{"topics"}] * 3
    assert {who: {right.name for right in RIGHTS[who] if right.kind == GROUP} for who in RIGHTS if RIGHTS[who]} == {
        "ingest": {"ingest", "each"}, "rules": {"rules"}, "actions": {"actions"}, "doctor": set(), "topics": set(),
    }  # fmt: skip
    assert RIGHTS["console"] == ()


# -- and what is not among them is refused, with its name -----------------------------------------------------------------------


@pytest.mark.parametrize("who", [*NAMES, "doctor"])
async def test_what_a_process_does_not_need_it_may_not_do(guarded: Guarded, who: str) -> None:
    user = f"trimtab-{who}"
    held = {(operation, right.kind, right.name) for right, operation in every(who)}
    tried = {*product((READ, WRITE), (TOPIC,), TOPICS), *product((READ,), (GROUP,), GROUPS)} - held
    said = {each: await refusal(guarded, user, *each) for each in tried}
    missed = {each: f"user {user} needs {each[0].word} on {each[1]} {PREFIX}.{each[2]}: {SHOWS}" for each in tried}
    assert [each for each in tried if missed[each] not in said[each]] == [], said


async def refusal(guarded: Guarded, user: str, operation: Operation, kind: str, name: str) -> str:
    """What is said to who tries it; "" where it may."""
    try:
        if kind == GROUP:
            await owners(guarded.cluster(user), guarded.topic("events"), f"{PREFIX}.{name}")
            return ""
        log = guarded.log(user, name)
        try:
            await (log.append([("", "any record")], 0) if operation == WRITE else log.read(0, 0))
        finally:
            await log.close()
    except Unavailable as error:
        return str(error)
    return ""


def test_who_may_not_create_topics_says_so_where_one_is_missing(guarded: Guarded) -> None:
    missing = f"there is no topic {PREFIX}.events: `trimtab log topics --create` creates it"
    assert guarded.too_early == f"{missing}; to do so, user trimtab-rules needs Create on topic {PREFIX}.events: {SHOWS}"


@pytest.mark.parametrize("who", [who for who in NAMES if LESSER[who]])
async def test_a_start_that_lacks_a_right_ends_with_the_line_that_names_it(guarded: Guarded, who: str, tmp_path: Path) -> None:
    said = {}
    for lesser in LESSER[who]:
        made = service(who, Settings(**guarded.as_(lesser.name), database=NOWHERE, data=tmp_path, secret=SHARED))  # type: ignore[arg-type]
        with pytest.raises(Misconfigured) as refused:
            async with asyncio.timeout(60):
                await made.start()
        await made.stop()
        said[lesser.name] = str(refused.value)
    assert said == {lesser.name: lesser.said for lesser in LESSER[who]}


async def test_a_right_that_is_taken_away_later_is_named_where_it_is_missed(guarded: Guarded) -> None:
    """Whoever was let start then waits, and says for what: once it is given back it goes on."""
    user, said = "trimtab-console", list[Any]()
    for topic in TOPICS:
        log = guarded.log(user, topic)
        with capture_logs() as lines:
            following = asyncio.create_task(anext(aiter(log.follow(0, 0))))  # type: ignore[arg-type]
            await until(lambda lines=lines: any("waits" in line["event"] for line in lines))  # type: ignore[misc]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await log.close()
        said += [line["why"] for line in lines if "waits" in line["event"]]
    group = KafkaGroup(guarded.cluster(user), guarded.topic("events"), f"{PREFIX}.rules")
    await group.join(lambda _: None)
    await until(lambda: group.failed)
    await group.leave()
    assert said == [f"user {user} needs Read on topic {PREFIX}.{topic}: {SHOWS}" for topic in TOPICS]
    assert group.unready == f"joining the group: user {user} needs Read on group {PREFIX}.rules: {SHOWS}"
