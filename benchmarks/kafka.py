"""The log on Apache Kafka beside bare clients and beside the log in memory, on one broker of this machine; and what people wait for in production.

    python -m benchmarks.kafka [--quick] [PART ...]     of loop, producer, workers, actions, restore, latency, restarts; --quick is all of them, small

Who is compared takes turns. Each turn counts seconds and seconds of processor: a broker beside two workers takes a part of two cores, and then the second is
the figure to read. What is compared is also checked: the events are counted, and from Kafka the engine decides what it decides from memory.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import structlog
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from benchmarks import actions
from benchmarks.account import START, deltas
from benchmarks.engine import HELD, PAGE, Case, at_boundaries, known_ids, prepared
from benchmarks.figure import Figure
from benchmarks.ingest import JSON, generic
from benchmarks.rivals import bare, plain
from deploy.kafka.broker import Brokers
from deploy.kafka.broker import Missing as NoKafka
from deploy.postgres.server import Missing as NoPostgres
from deploy.postgres.server import Server
from services.adapters.clock import ManualClock, SystemClock
from services.adapters.codec.record import decode
from services.adapters.collector import settle
from services.adapters.log.checksum import checking_here
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS, Codec
from services.adapters.log.kafka import BATCH, KafkaLog
from services.adapters.log.memory import MemoryLog
from services.adapters.log.topics import ensure
from services.adapters.log.writer import EventWriter
from services.ingest.core import usual
from services.ingest.core.source import Delivery
from services.kernel.columns import MOST, Rows
from services.kernel.decision import Decision
from services.kernel.page import Part
from services.kernel.ports import Log
from services.kernel.record import EventBatch, Record, Stamped
from services.rules_engine.core.partition import Partition

RULES, PER_RECORD, SENDERS = 100, 100, 64
ROUNDS, LONG = 5, 30.0  # turns; seconds without a record after which a bare consumer is lost
CORE = 0.9  # of a core, which a worker must have had for its seconds to say something
ENTITIES, FEW_ENTITIES, RESTORE_GOAL = 800_000, 20_000, 40.0  # creatives, of a million entities; seconds
NUMBERS = itertools.count(1)
ROOT = Path(__file__).parents[1]
Say: TypeAlias = Callable[[list[Decision]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Size:
    events: int = 1_000_000
    rounds: int = ROUNDS
    held: int = HELD
    decisions: int = 5_000


QUICK = Size(50_000, 1, 0, 1_000)


@dataclass(slots=True)
class Turns:
    """What one of those compared did in each turn."""

    rates: list[float] = field(default_factory=list)  # events a second
    of_processor: list[float] = field(default_factory=list)

    def add(self, events: int, seconds: float, processor: float) -> None:
        self.rates.append(events / seconds)
        self.of_processor.append(events / processor)

    def figures(self, case: str, against: Turns | None = None, name: str = "", goal: float | None = None) -> Iterator[Figure]:
        for unit, ours in (("events/s", "rates"), ("events/s of processor", "of_processor")):
            values = getattr(self, ours)
            ratio = statistics.median(a / b for a, b in zip(values, getattr(against, ours), strict=True)) if against else None
            yield Figure("kafka", case, statistics.median(values), unit, None, ratio, name, goal)


class Watch:
    """Seconds and seconds of processor since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self.began, self.used = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.began, time.process_time() - self.used


def topic(name: str, partitions: int = 1) -> Topic:
    """One that nobody else has."""
    return Topic(f"{name}{next(NUMBERS)}.{os.urandom(3).hex()}", partitions, 1)


@asynccontextmanager
async def on_kafka(bootstrap: str, codec: Codec[Any], name: Topic) -> Any:
    log: KafkaLog[Any] = KafkaLog(Cluster(bootstrap), codec, SystemClock(), name)
    await log.start()
    try:
        yield log
    finally:
        await log.close()


async def bare_producer(bootstrap: str, name: str, values: Sequence[bytes], senders: int = SENDERS) -> None:
    """Each sender waits until its record is acknowledged, as safely as ours: every replica in sync, idempotent."""
    safe: dict[str, Any] = {"acks": "all", "enable_idempotence": True, "compression_type": "lz4", "max_batch_size": BATCH, "max_request_size": 2 * BATCH}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **safe)
    await producer.start()
    waiting = iter(values)

    async def send() -> None:
        for value in waiting:
            await producer.send_and_wait(name, value, partition=0)

    try:
        await asyncio.gather(*(send() for _ in range(senders)))
    finally:
        await producer.stop()


# -- reading -------------------------------------------------------------------------------------------------------------


async def bare_loop(bootstrap: str, name: str, events: int) -> tuple[float, float]:
    """One event a record: taken by `getmany`, parsed, and the fields read that an engine needs. (seconds, of processor)"""
    parse = bare.message().FromString
    bounds: dict[str, Any] = {"max_partition_fetch_bytes": 4 << 20, "enable_auto_commit": False, "auto_offset_reset": "none", **checking_here()}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, **bounds)
    await consumer.start()
    try:
        at = TopicPartition(name, 0)
        consumer.assign([at])
        consumer.seek(at, 0)
        watch, count, amount, last = Watch(), 0, 0, time.perf_counter()
        while count < events:
            rows = (await consumer.getmany(at, timeout_ms=500, max_records=500)).get(at, ())  # more at once is slower
            for row in rows:
                e = parse(row.value)
                e.id, e.entity, e.measure, e.occurred_at  # noqa: B018
                amount += e.amount
            count += len(rows)
            last = time.perf_counter() if rows else last
            if time.perf_counter() - last > LONG:
                raise RuntimeError(f"the bare loop read {count:,} of {events:,} events")
        return watch.read()
    finally:
        await consumer.stop()


def events_of(stamped: Stamped[Record]) -> int:
    """To look into a record that was read with others costs as much as to judge it."""
    match stamped.record:
        case Part(page=page, index=index):
            return int(page.first_event[index + 1] - page.first_event[index])
        case EventBatch(event_id=ids):
            return len(ids)
    return 0


async def judged(
    log: Log[Record], partition: Partition, stamps: Sequence[int], events: int, number: int = 0, say: Say | None = None
) -> tuple[list[Decision], tuple[float, float]]:
    """(decisions, (seconds, of processor)) of the engine over the log's `events`, followed as a worker does, with the account's stamps instead of the log's.

    `say` is given what was decided, as it is. Raises RuntimeError where it was fed other than so many events.
    """
    base, decisions, fed_events = partition.offset, list[Decision](), 0
    await log.read(number, 0, 1)  # as a start does; it follows by the same consumer, which stands already, as the bare loop's does
    settle()  # as a process of the engine does once it is up
    watch = Watch()
    async with aclosing(log.follow(number, 0)) as pages:  # type: ignore[type-var]
        async for page in pages:
            for i in range(0, len(page), PAGE):
                fed = [Stamped(base + s.offset, stamps[s.offset], s.record) for s in page[i : i + PAGE]]
                fed_events += sum(map(events_of, fed))
                decided = partition.step(fed)
                decisions += decided
                if decided and say is not None:
                    await say(decided)
                await asyncio.sleep(0)
            if page[-1].offset + 1 >= len(stamps):
                break
    spent = watch.read()
    gc.unfreeze()
    if fed_events != events:
        raise RuntimeError(f"the engine was fed {fed_events:,} of {events:,} events")
    return decisions, spent


async def filled(log: KafkaLog[Record], records: Sequence[tuple[int, bytes]], partition: int = 0) -> None:
    for i in range(0, len(records), 200):
        await log.append([("acme", decode(data)) for _, data in records[i : i + 200]], partition)


async def loop(bootstrap: str, size: Size) -> list[Figure]:
    """The engine with a hundred rules from Kafka, beside the bare loop and beside itself from memory."""
    case = Case(rules=RULES, per_record=PER_RECORD, events=size.events)
    records, held = at_boundaries(case), known_ids(size.held) if size.held else None
    stamps = [stamp for stamp, _ in records]
    single = topic("single")
    await ensure(Cluster(bootstrap), single, True)
    values = bare.as_protobuf(list(plain.events(size.events, case.creatives)))
    await bare_producer(bootstrap, single.name, values, 2_000)
    memory: MemoryLog[Record] = MemoryLog(EVENTS, ManualClock(START))
    memory.kept[0] = list(records)
    turns = {name: Turns() for name in ("bare", "kafka", "memory")}
    decided: dict[str, list[Decision]] = {}
    async with on_kafka(bootstrap, EVENTS, topic("events")) as log:
        await filled(log, records)
        for turn in range(size.rounds):
            for name in (*turns, *turns)[turn % 3 : turn % 3 + 3]:
                if name == "bare":
                    turns[name].add(size.events, *await bare_loop(bootstrap, single.name, size.events))
                else:
                    decided[name], spent = await judged(log if name == "kafka" else memory, prepared(case, held), stamps, size.events)
                    turns[name].add(size.events, *spent)
            if decided["kafka"] != decided["memory"]:
                raise RuntimeError("from Kafka the engine decides other than from memory")
    told = f"loop: engine rules={RULES} per_record={PER_RECORD}"
    return [
        *turns["bare"].figures("loop: bare, getmany, protobuf of one event a record"),
        *turns["memory"].figures(f"{told} from memory"),
        *turns["kafka"].figures(f"{told} from Kafka", turns["bare"], "bare loop", 1.2),
        *turns["kafka"].figures(f"{told} from Kafka, beside memory", turns["memory"], "from memory", 0.8),
        Figure("kafka", f"{told}: decisions, the same from both", 1000 * len(decided["kafka"]) / size.events, "per 1,000 events"),
    ]


# -- writing -------------------------------------------------------------------------------------------------------------


async def written(log: Log[Record], parts: Sequence[EventBatch | Rows]) -> tuple[float, float]:
    """Ingest's way to the log: each sender waits until its part is durable."""
    writer, waiting = EventWriter(log), iter(parts)

    async def send() -> None:
        for part in waiting:
            await (writer.append_rows("acme", part) if isinstance(part, Rows) else writer.append(part))

    watch = Watch()
    await asyncio.gather(*(send() for _ in range(SENDERS)))
    spent = watch.read()
    await writer.close()
    return spent


def whole(events: int) -> Sequence[EventBatch]:
    """Batches as large as a record may be."""
    return [batch for _, data in deltas(events, MOST, 1_000) if isinstance(batch := decode(data), EventBatch)]


def deliveries(events: int) -> Sequence[Rows]:
    """What ingest has read of plain JSON, a hundred events a delivery: their words are numbered and they are joined on the way."""
    rnd, now = random.Random(7), time.time_ns() // 1000
    bodies = (json.dumps([generic(i, rnd, now) for i in range(PER_RECORD)]).encode() for _ in range(events // PER_RECORD))
    read = (usual.events([Delivery("generic", "acme", body, (JSON,), now)], "generic") for body in bodies)
    return [found[0] for found in read if found is not None]


async def producer(bootstrap: str, size: Size) -> list[Figure]:
    """Ingest's way to the log beside a producer that is given the same records as bytes."""
    figures: list[Figure] = []
    for made, name in ((whole, f"batches of {MOST:,} events"), (deliveries, f"deliveries of {PER_RECORD} events")):
        parts = made(size.events)
        ours, theirs = Turns(), Turns()
        for turn in range(size.rounds):
            async with on_kafka(bootstrap, EVENTS, topic("written")) as log:
                ours.add(size.events, *await written(log, parts))
                values: list[bytes] = []
                while page := await log.kept(0, len(values)):
                    values += [k.value for k in page]
            if turn == 0 and (found := sum(len(r.event_id) for r in map(EVENTS.decode, values) if isinstance(r, EventBatch))) != size.events:
                raise RuntimeError(f"{found:,} of {size.events:,} events are on the log")
            plainly = topic("bare")
            await ensure(Cluster(bootstrap), plainly, True)
            watch = Watch()
            await bare_producer(bootstrap, plainly.name, values)
            theirs.add(size.events, *watch.read())
        told = f"producer: {name}"
        figures += theirs.figures(f"{told}, bare, the same bytes")
        figures += ours.figures(f"{told}, EventWriter and KafkaLog", theirs, "bare producer", 0.8)
    return figures


# -- workers -------------------------------------------------------------------------------------------------------------


async def work(bootstrap: str, events: str, decisions: str, partitions: Sequence[int], many: int) -> None:
    """A worker's process: prepared, it says so; told to go, it judges its partitions to their ends and says what that took."""
    case = Case(rules=RULES, per_record=PER_RECORD, events=many, held=0)
    async with on_kafka(bootstrap, EVENTS, Topic(events, 2, 1)) as log, on_kafka(bootstrap, DECISIONS, Topic(decisions, 2, 1)) as told:
        stamps, made = [stamp for stamp, _ in at_boundaries(case)], {number: prepared(case, None) for number in partitions}
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def one(number: int) -> tuple[str, str]:
            async def say(decided: list[Decision]) -> None:
                await told.append([("acme", d) for d in decided], number)

            decided, _ = await judged(log, made[number], stamps, many, number, say)
            return str(number), hashlib.sha256("".join(d.id for d in decided).encode()).hexdigest()

        watch = Watch()
        digests = dict(await asyncio.gather(*map(one, partitions)))
        seconds, processor = watch.read()
        print(json.dumps({"seconds": seconds, "processor": processor, "decided": digests}), flush=True)


def at_work(bootstrap: str, events: str, decisions: str, shares: Sequence[str], many: int) -> list[dict[str, Any]]:
    """What each of the workers told, of which each has a share of the partitions."""
    with ExitStack() as stack:
        processes = []
        for share in shares:
            command = [sys.executable, "-m", "benchmarks.kafka", "work", bootstrap, events, decisions, share, str(many)]
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            processes.append(process)
        said = []
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a worker did not start")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            said.append(json.loads(process.stdout.readline()))
            process.wait(60)
        return said


async def workers(bootstrap: str, size: Size) -> list[Figure]:
    """One process with two partitions, then two with one each."""
    case = Case(rules=RULES, per_record=PER_RECORD, events=size.events // 2)
    events = topic("shared", 2)
    one, two, shares = Turns(), Turns(), list[float]()
    async with on_kafka(bootstrap, EVENTS, events) as log:
        for number in (0, 1):
            await filled(log, at_boundaries(case, seed=5 + number), number)
    for _ in range(size.rounds):
        decided = []
        for turns, given in ((one, ["0,1"]), (two, ["0", "1"])):
            decisions = topic("decided", 2)
            await ensure(Cluster(bootstrap), decisions, True)
            said = await asyncio.to_thread(at_work, bootstrap, events.name, decisions.name, given, case.events)
            turns.rates.append(size.events / max(s["seconds"] for s in said))
            turns.of_processor.append(sum(case.events * len(s["decided"]) / s["processor"] for s in said))
            decided.append({number: digest for s in said for number, digest in s["decided"].items()})
            if turns is two:
                shares += [s["processor"] / s["seconds"] for s in said]
        if decided[0] != decided[1]:
            raise RuntimeError("two workers decide other than one")
    share = statistics.median(shares)
    goal = 1.7
    [seconds, processor] = two.figures("workers: two, a partition each", one, "one with both")
    return [
        *one.figures("workers: one, both partitions"),
        replace(seconds, ratio_goal=goal if share >= CORE else None),
        replace(processor, ratio_goal=goal),
        Figure("kafka", "workers: of a core, that each of the two had", share, "cores"),
    ]


# -- what is written down and read again -----------------------------------------------------------------------------------


def recorded(bootstrap: str, size: Size) -> Iterator[Figure]:
    """Decisions from Kafka to PostgreSQL, beside those from memory to SQLite."""
    server = Server()
    try:
        server.start()
        ours, theirs = [], []

        async def from_kafka(address: str) -> float:
            async with on_kafka(bootstrap, DECISIONS, topic("routed")) as log:
                return await actions.routed(size.decisions, address, log)

        for turn in range(min(3, size.rounds)):
            server.sql(f"CREATE DATABASE turn_{turn}")
            ours.append(uvloop.run(from_kafka(server.url(f"turn_{turn}"))))
            with tempfile.TemporaryDirectory() as folder:
                theirs.append(uvloop.run(actions.routed(size.decisions, f"sqlite:///{Path(folder) / 'trimtab.db'}")))
    except NoPostgres as why:
        print(f"kafka, actions: skipped, {why}", file=sys.stderr)
        return
    finally:
        if server.process is not None:
            server.remove()
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    told = "actions: decisions routed and recorded, 500 a transaction, "
    yield Figure("kafka", f"{told}memory and SQLite", statistics.median(theirs), "decisions/s")
    yield Figure("kafka", f"{told}Kafka and PostgreSQL", statistics.median(ours), "decisions/s", None, ratio, "memory and SQLite")


def restored(creatives: int = ENTITIES) -> Iterator[Figure]:
    """A million live entities, from a checkpoint in a folder. Which log it is makes no difference: none of it is read but the end."""
    from benchmarks import restore

    found = restore.run(creatives)
    case = f"restore: entities={found['entities']:.0f} rules={restore.RULES}"
    yield Figure("kafka", f"{case} checkpoint", found["size"], "MB", at_most=True)
    yield Figure("kafka", f"{case} start, nothing to fold", found["start"], "s", RESTORE_GOAL, at_most=True)
    yield Figure("kafka", f"{case} start, {found['tail']:.0f} events to fold", found["start with a tail"], "s", at_most=True)


# -- all of it -------------------------------------------------------------------------------------------------------------

ON_A_BROKER: dict[str, Callable[[str, Size], Coroutine[Any, Any, list[Figure]]]] = {"loop": loop, "producer": producer, "workers": workers}
PARTS = (*ON_A_BROKER, "actions", "restore", "latency", "restarts")


def figures(quick: bool = False, parts: Sequence[str] = ()) -> Iterator[Figure]:
    parts, size = parts or PARTS, QUICK if quick else Size()
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-kafka-") as folder:
        brokers = Brokers(Path(folder))
        try:
            brokers.start()
        except NoKafka as why:
            print(f"kafka: skipped, {why}", file=sys.stderr)
            return
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        try:
            for part in (p for p in PARTS if p in parts):
                if part in ON_A_BROKER:
                    yield from uvloop.run(ON_A_BROKER[part](brokers.bootstrap, size))
                elif part == "actions":
                    yield from recorded(brokers.bootstrap, size)
                elif part == "restore":
                    yield from restored(FEW_ENTITIES if quick else ENTITIES)
                else:
                    from benchmarks import fleet

                    yield from getattr(fleet, part)(brokers.bootstrap, quick)
        finally:
            brokers.stop()


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["work"]:
        bootstrap, events, decisions, share, many = arguments[1:]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        uvloop.run(work(bootstrap, events, decisions, [int(n) for n in share.split(",")], int(many)))
        return 0
    if unknown := [a for a in arguments if a not in (*PARTS, "--quick")]:
        print(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for figure in figures("--quick" in arguments, [a for a in arguments if a in PARTS]):
        print(figure.to_json() if os.environ.get("JSON") else figure, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
