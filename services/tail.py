"""`trimtab log tail`, `topics` and `rights`: what a log holds, decoded, in the data folder or on Kafka where TRIMTAB_KAFKA is set; who may what there."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from services.adapters.settings import Settings, from_environment
from services.kernel.decision import Decision
from services.kernel.errors import Misconfigured, RejectedInput, Unavailable
from services.kernel.record import EventBatch, Record

if TYPE_CHECKING:
    from services.adapters.log.codec import Kept

LOOK = 0.5  # seconds between looks at a log that is followed
PAGE = 500
SHOWN = 2000  # characters of a record that are shown to people


class Which(StrEnum):
    EVENTS = "events"
    DECISIONS = "decisions"
    EACH = "events.each"


class Shelf(Protocol):
    """Where records are looked at as they lie there."""

    partitions: int

    async def kept(self, partition: int, offset: int, limit: int = 1000) -> list[Kept]: ...

    async def ends(self, partition: int) -> tuple[int, int]:
        """(the first record that is there, the next that will be)."""
        ...


def install(app: typer.Typer) -> None:
    """`app` has these commands from now on."""
    app.command()(tail)
    app.command()(topics)
    app.command()(rights)


def tail(
    topic: Annotated[Which, typer.Option(help="events, decisions or events.each")] = Which.EVENTS,
    partition: Annotated[int | None, typer.Option(min=0, help="of Kafka's partitions only this one")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="so many records of each partition")] = 10,
    since: Annotated[int | None, typer.Option("--from", min=0, help="from this record on, in place of the last ones")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="and what comes, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="whole, as one JSON object a line")] = False,
) -> None:
    """Shows the log's newest records decoded, with their headers where they have any; from Kafka where TRIMTAB_KAFKA is set."""
    wanted = from_environment(os.environ)
    try:
        asyncio.run(_tail(wanted, topic.value, partition, last, since, follow, as_json))
    except KeyboardInterrupt:
        return


async def _tail(wanted: Settings, topic: str, partition: int | None, last: int, since: int | None, follow: bool, as_json: bool) -> None:
    async with shelf(wanted, topic) as log:
        if partition is not None and partition >= log.partitions:
            raise RejectedInput(f"there is no partition {partition}: they are 0 to {log.partitions - 1}", reason="not_found")
        at = {}
        for number in range(log.partitions) if partition is None else (partition,):
            begin, end = await log.ends(number)
            at[number] = max(begin, end - last) if since is None else since
        while True:
            any_ = False
            for number in at:
                while page := await log.kept(number, at[number], PAGE):
                    any_, at[number] = True, page[-1].offset + 1
                    for kept in page:
                        typer.echo(shown(topic, kept, as_json))
            if not follow:
                return
            if not any_:
                await asyncio.sleep(LOOK)


def topics(create: Annotated[bool, typer.Option("--create", help="create those that are missing")] = False) -> None:
    """Checks Kafka's topics against what the log needs, and prints what each partition holds; ends with 2 where one is missing or otherwise."""
    wanted = from_environment(os.environ)
    asyncio.run(_topics(wanted, create))


async def _topics(wanted: Settings, create: bool) -> None:
    for name in (which.value for which in Which if which != Which.EACH or wanted.kafka_each):
        async with on_kafka(wanted, name, create, "topics") as log:
            t = log.topic
            kept = "for ever" if t.retention_ms < 0 else f"{wanted.kafka_retention_days:g} days"
            typer.echo(f"{t.name}: as it has to be; {t.partitions} partitions, {t.replicas} replicas, {t.in_sync} before an answer, kept {kept} at least")
            for number in range(t.partitions):
                begin, end = await log.ends(number)
                typer.echo(f"  partition {number:>3}  records {begin} to {end - 1}" if end > begin else f"  partition {number:>3}  none, next {end}")


def rights(
    principal: Annotated[str, typer.Option(help="who each of them is to the brokers; {} stands for its name")] = "User:trimtab-{}",
    config: Annotated[str, typer.Option(metavar="FILE", help="how kafka-acls.sh itself is let in, as an administrator: its --command-config")] = "",
) -> None:
    """Prints the commands that give each process what it needs on Kafka, and no more: by these settings, for whom --principal names."""
    from services.adapters.log.cluster import cluster_of
    from services.adapters.log.rights import RIGHTS, WHO, commands

    wanted = from_environment(os.environ)
    bootstrap = cluster_of(wanted).bootstrap
    for who in RIGHTS:
        typer.echo(f"# {WHO[who]}{'' if RIGHTS[who] else ': nothing'}")
        for words in commands(who, wanted.kafka_prefix, wanted.kafka_each, bootstrap, principal.replace("{}", who), config):
            typer.echo(shlex.join(words))


# -- where records lie ----------------------------------------------------------------------------------------------------


def shelf(wanted: Settings, topic: str) -> Any:
    return on_kafka(wanted, topic) if wanted.kafka else in_folder(wanted.data, topic)


@asynccontextmanager
async def on_kafka(wanted: Settings, topic: str, create: bool = False, who: str = "doctor") -> AsyncIterator[Any]:
    from services.adapters.clock import SystemClock
    from services.adapters.log.cluster import cluster_of, topic_of
    from services.adapters.log.codec import CODECS
    from services.adapters.log.kafka import KafkaLog
    from services.adapters.log.rights import CREATE, needed

    rights = [r for r in needed(who, topic) if r != CREATE]  # the right to create is asked for where it is used
    log: KafkaLog[Any] = KafkaLog(cluster_of(wanted), CODECS[topic], SystemClock(), topic_of(wanted, topic), create=create, wanted=rights)
    try:
        await log.start()
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def in_folder(data: Path, topic: str) -> AsyncIterator[Folder]:
    from services.backup import reading

    path = data / f"{topic}.db"
    if not path.exists():
        raise Misconfigured(f"{data} holds no Trimtab: name its folder with TRIMTAB_DATA, or Kafka's brokers with TRIMTAB_KAFKA")
    with closing(reading(path)) as file:
        yield Folder(path, file)


@dataclass
class Folder:
    """A log in a file, whether or not a Trimtab runs on it. What was pruned from it is in the archive, and not shown."""

    path: Path
    file: sqlite3.Connection
    partitions: int = 1

    async def kept(self, partition: int, offset: int, limit: int = 1000) -> list[Kept]:
        from services.adapters.log.codec import Kept

        query = "SELECT number, stamp, data FROM records WHERE partition = ? AND number >= ? ORDER BY number LIMIT ?"
        return [Kept(partition, number, stamp, "", (), data) for number, stamp, data in self._ask(query, partition, offset, limit)]

    async def ends(self, partition: int) -> tuple[int, int]:
        ((first, last),) = self._ask("SELECT min(number), max(number) FROM records WHERE partition = ?", partition)
        return (0, 0) if first is None else (first, last + 1)

    def _ask(self, query: str, *values: int) -> list[Any]:
        try:
            return self.file.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"the log {self.path} cannot be read: {error}; see `trimtab doctor`", reason="log") from error


# -- in words -------------------------------------------------------------------------------------------------------------


def shown(topic: str, kept: Kept, as_json: bool) -> str:
    record = decoded(topic, kept.value)
    about = {"partition": kept.partition, "offset": kept.offset, "stamp": instant(kept.stamp), "key": kept.key or record.get("workspace", "")}
    headers = dict(kept.headers)
    if as_json:
        return json.dumps({**about, "headers": headers, "record": record}, ensure_ascii=False)
    kind = record.pop("type")
    lines = [f"{kept.partition}:{kept.offset}  {about['stamp']}  {about['key'] or '-'}  {kind}"]
    if headers:
        lines.append("    " + "  ".join(f"{name}={text}" for name, text in headers.items()))
    text = json.dumps(record, ensure_ascii=False)
    lines.append("    " + (text if len(text) <= SHOWN else f"{text[:SHOWN]} ... {len(text)} characters: --json shows them"))
    return "\n".join(lines)


def decoded(topic: str, value: bytes) -> dict[str, Any]:
    from services.adapters.log.codec import DECISIONS, EVENTS

    if topic == Which.EACH:
        return {"type": "Event", **json.loads(value)}
    if topic == "decisions":
        try:
            return told(DECISIONS.decode(value))
        except RejectedInput as error:
            return {"type": "Poisoned", "why": str(error)}
    return told(EVENTS.decode(value))


def told(record: Record | Decision) -> dict[str, Any]:
    """A record in plain values: events row by row, amounts in units, instants as text where they are an event's."""
    kind = type(record).__name__
    if isinstance(record, EventBatch):
        return {"type": kind, "workspace": record.workspace, "events": list(_events(record))}
    plain = asdict(record)
    if isinstance(record, Decision):
        plain = {"id": record.id, **plain}
    return {"type": kind, **plain}


def _events(b: EventBatch) -> Iterator[dict[str, Any]]:
    for i in range(len(b.event_id)):
        event: dict[str, Any] = {
            "id": b.event_id[i].tobytes().hex(),
            "source": b.sources[b.source[i]],
            "kind": b.kinds[b.kind[i]],
            "entity": b.paths[b.entity[i]],
            "occurred_at": instant(int(b.occurred_at[i])),
        }
        if b.as_of[i]:
            event |= {"as_of": instant(int(b.as_of[i])), "interval": [instant(int(b.interval_start[i])), instant(int(b.interval_end[i]))]}
        amounts = {b.measures[b.amount_measure[j]]: units(int(b.amount[j])) for j in (b.amount_event == i).nonzero()[0]}
        attributes = {
            b.names[b.attribute_name[j]]: b.texts[b.attribute_text[j] - 1] if b.attribute_text[j] else units(int(b.attribute_number[j]))
            for j in (b.attribute_event == i).nonzero()[0]
        }
        yield event | ({"amounts": amounts} if amounts else {}) | ({"attributes": attributes} if attributes else {})


def units(micros: int) -> int | str:
    """Exact: a number where it is whole, text where it is not."""
    return micros // 1_000_000 if micros % 1_000_000 == 0 else f"{(Decimal(micros) / 1_000_000).normalize():f}"


def instant(micros: int) -> str:
    try:
        return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(micros)
