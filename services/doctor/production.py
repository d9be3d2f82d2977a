"""What stands in the way of the services of production: Kafka's topics, their archive and checkpoints, PostgreSQL, its chains and their witness."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy import text

from services.actions.ledger import store as chain_store
from services.actions.ledger.chain import Broken
from services.actions.ledger.witness import compare, witness_of, witnessed
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrated
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.shelf import Shelf, lost_of, shelf_of
from services.adapters.settings import Settings
from services.doctor.checkpoints import judged, newest, reach_of
from services.doctor.line import FAIL, OK, SECOND, TAMPERED, WARN, Line
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.ports import Clock
from services.kernel.record import Record, Stamped
from services.rules_engine.bucket import checkpoints_of, daily_of
from services.rules_engine.words import ago
from services.rules_engine.worker import SKEW
from services.tail import on_kafka

APART = 5 * SECOND  # a clock further off than this is told
LISTEN, LOOK = 2.0, 0.5  # seconds that new records are waited for, and between two looks
OVERDUE = 3600  # seconds that a segment may be late
LOST = "keep the checkpoints; what is archived in time (TRIMTAB_ARCHIVE) is not lost"


def examined(settings: Settings) -> Iterator[Line]:
    yield from asyncio.run(kafka(settings))
    yield from asyncio.run(database(settings))


async def kafka(settings: Settings) -> list[Line]:
    """Both topics are as they have to be, and what their stamps say of the brokers' clocks."""
    lines = []
    for name in ("events", "decisions", *(["events.each"] if settings.kafka_each else [])):
        try:
            async with on_kafka(settings, name) as there:
                ends = {n: await there.ends(n) for n in range(there.partitions)}
                held = sum(end - begin for begin, end in ends.values())
                lines.append(Line(OK, "kafka", f"{there.topic.name}: {there.partitions} partitions, {held} records"))
                shelf = shelf_of(settings, there.topic.name) if settings.archive and name != "events.each" else None
                lines += [await shelved(settings, there, shelf, n, *ends[n]) for n in ends if shelf is not None]
                reach = {n: await asyncio.to_thread(shelf.reach, n, begin) if shelf is not None else begin for n, (begin, _) in ends.items()}
                if lost := [str(n) for n, first in reach.items() if first]:
                    mend = "keep the checkpoints: a start of these goes by them alone; let the topic keep records longer, or archive them (TRIMTAB_ARCHIVE)"
                    lines.append(Line(WARN, "kafka", f"{there.topic.name} has lost the beginning of partition {', '.join(lost)}", mend))
                if name == "events":
                    lines += await checkpoints(settings, there, reach)
                if not settings.clock:  # stamps of a simulated one are nobody's
                    lines += await clocks(there, SystemClock(), round(LISTEN / LOOK) if name == "events" else 0)
        except (Misconfigured, Unavailable) as error:
            lines.append(Line(FAIL, "kafka", str(error), "see docs/kafka.md"))
    return lines


class Stamping(Protocol):
    """A topic whose brokers stamp what is appended."""

    partitions: int

    async def ends(self, partition: int) -> tuple[int, int]: ...

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Any]]: ...


async def clocks(there: Stamping, clock: Clock, looks: int, pause: float = LOOK) -> list[Line]:
    """What the newest stamps say of the brokers' clocks. No broker tells its time, and we write nothing, so this is all that there is to compare.

    A record that came between two of so many `looks`, `pause` seconds apart, was stamped since the one before: it shows a clock that is ahead or behind.
    Any other may have been stamped at any time before now: it shows one that is ahead, and nothing else.
    """
    newest, came, begun = dict[int, int](), dict[int, int](), clock.now()
    ends = {n: await there.ends(n) for n in range(there.partitions)}
    for n, (begin, end) in ends.items():
        for s in await there.read(n, end - 1, 1) if end > begin else ():
            newest[n] = s.stamp
    ahead, behind = max((stamp - clock.now() for stamp in newest.values()), default=0), 0
    for _ in range(looks):
        await asyncio.sleep(pause)
        looked = clock.now()
        for n in ends.keys() - came.keys():
            end = (await there.ends(n))[1]
            for s in await there.read(n, end - 1, 1) if end > ends[n][1] else ():
                newest[n] = came[n] = s.stamp
                ahead, behind = max(ahead, s.stamp - clock.now()), max(behind, begun - s.stamp)
        begun = looked
        if len(came) == len(ends):
            break
    return _told(newest, came, ahead, behind, clock.now()) if looks or ahead > APART else []


def _told(newest: Mapping[int, int], came: Mapping[int, int], ahead: int, behind: int, now: int) -> list[Line]:
    mend = "set both clocks (NTP): the brokers' is engine time, and what is too old to act on is judged by ours"
    if ahead > APART:
        return [Line(FAIL if ahead > SKEW else WARN, "clock", f"the brokers stamp at least {ahead / SECOND:.0f} s ahead of this machine's clock", mend)]
    if behind > APART:
        return [Line(WARN, "clock", f"the brokers stamp at least {behind / SECOND:.0f} s behind this machine's clock", mend)]
    lines = []
    if came:
        lines.append(Line(OK, "clock", f"partition {runs(sorted(came))}: a record came just now, stamped within {APART // SECOND} s of this machine's clock"))
    if silent := sorted(newest.keys() - came.keys()):
        age = max(0, now - max(newest[n] for n in silent))
        text = f"partition {runs(silent)}: nothing came just now; the newest stamp is {ago(age)} old, so that a broker's clock which is behind would not show"
        lines.append(Line(OK, "clock", text))
    return lines or [Line(OK, "clock", "no record yet, so that nothing tells of the brokers' clocks")]


async def shelved(settings: Settings, there: KafkaLog[Any], shelf: Shelf, partition: int, begin: int, end: int) -> Line:
    """How far the archive of a partition reaches, and how old the first record is that it lacks."""
    every = await asyncio.to_thread(shelf.every, partition)
    following = every[-1].last + 1 if every else begin
    waiting = await there.read(partition, following, 1) if begin <= following < end else ()
    lag = (SystemClock().now() - waiting[0].stamp) / SECOND if waiting else 0
    where = f"{there.topic.name}-{partition}"
    text = f"{where}: records {every[0].first} to {following - 1} are archived" if every else f"{where}: nothing is archived"
    if waiting:
        text += f", {end - following} more are on Kafka alone, the oldest {lag / 3600:.1f} h old"
    damaged = [r for r in every if r.segment is None]
    if damaged:
        return Line(FAIL, "archive", f"{text}; {damaged[0].blob.name}: {damaged[0].why}", "restore that file from a backup; see `trimtab log verify`")
    if every and (following < begin or following > end):
        why = f"but Kafka holds {begin} to {end - 1}"
        return Line(FAIL, "archive", f"{text}, {why}", "docs/operations.md, the runbook: records are lost to the archive, or it is another log's")
    if many := lost_of(every):
        return Line(WARN, "archive", f"{text}; {many} of them were deleted before", "replays begin with a checkpoint after the last gap: keep those")
    if lag > settings.log_segment_hours * 3600 + OVERDUE:
        return Line(WARN, "archive", text, "a running `trimtab serve rules` does it within minutes, or its log says why not")
    return Line(OK, "archive", text)


async def checkpoints(settings: Settings, there: KafkaLog[Record], reach: Mapping[int, int]) -> list[Line]:
    """Of every partition, given the first record that can be had of it: what a start would go on from, and how far back a past without its beginning reaches.

    Partitions that are alike share a line.
    """
    places = [checkpoints_of(settings), *([daily_of(settings)] if settings.archive else ())]
    where = settings.checkpoints or str(settings.checkpoints_folder)
    if settings.archive:
        where += f" or {settings.daily_checkpoints}"
    said: dict[Line, list[int]] = {}
    lost: list[Line] = []
    for n, first in reach.items():
        try:
            found = await asyncio.to_thread(newest, places, n, first)
            if first:
                how_far = await asyncio.to_thread(reach_of, places, n, first)
                lost.append(Line(WARN, "log", f"{there.topic.name}-{n} begins at record {first}, and {how_far}", LOST))
        except (OSError, Unavailable) as error:
            fault = Line(FAIL, "checkpoints", str(error), "see to TRIMTAB_CHECKPOINTS and TRIMTAB_ARCHIVE: a start waits for them, or is refused")
            said[fault] = list(reach)[n:]  # each would wait as long
            break
        begin, end = await there.ends(n)  # asked for later: meanwhile both may have grown
        offset = found.header.offset if found.header else 0
        page = await there.read(n, offset - 1, 1) if begin < offset <= end else ()
        before = page[0] if page and page[0].offset == offset - 1 else None
        for line in judged(found, first, end, before, where):
            said.setdefault(line, []).append(n)
    return [*lost, *(replace(line, text=f"{there.topic.name}-{runs(alike)}: {line.text}") for line, alike in said.items())]


def runs(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, those that follow one another by their ends: 0-3,7."""
    ends: list[list[int]] = []
    for n in numbers:
        if ends and n == ends[-1][1] + 1:
            ends[-1][1] = n
        else:
            ends.append([n, n])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


async def database(settings: Settings) -> list[Line]:
    """PostgreSQL answers, its schema is this build's, its clock is near ours, and there is a secret."""
    mend = "see docs/postgres.md and docs/production.md"
    if not settings.database:
        return [Line(FAIL, "database", "TRIMTAB_KAFKA is set and TRIMTAB_DATABASE is not", mend)]
    there = Database(settings.database_address, settings.database_password)
    try:
        await migrated(there)
        async with there.reading() as connection:
            theirs = int(await connection.scalar(text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")) or 0)
        apart = abs(theirs - SystemClock().now())
        lines = [Line(OK, "database", f"{there.place}, its schema is this build's")]
        if apart > APART:
            both = "set both clocks (NTP): what is too old to act on is judged by ours"
            lines.append(Line(WARN, "clock", f"the database's clock is {apart / SECOND:.1f} s from this machine's", both))
        lines += await chains(there)
        if settings.secret and settings.witness is not None:
            lines += await witness(settings, there)
    except (Misconfigured, Unavailable) as error:
        lines = [Line(FAIL, "database", str(error), mend)]
    finally:
        await there.close()
    if not settings.secret:
        lines.append(Line(FAIL, "secrets", "TRIMTAB_SECRET_FILE is not set", "openssl rand -hex 32; the same for all services"))
    return lines


async def chains(there: Database) -> list[Line]:
    """Every workspace's chain in PostgreSQL holds to its head."""
    lines = []
    async with there.reading() as connection:
        for workspace in await chain_store.workspaces(connection):
            found = await chain_store.check(connection, workspace)
            if isinstance(found, Broken):
                lines.append(Line(FAIL, "ledger", f"{workspace}: broken at entry {found.sequence}: {found.why}", TAMPERED))
            else:
                lines.append(Line(OK, "ledger", f"{workspace}: {found.head.sequence} entries, head {found.head.hash[:16]}"))
    return lines or [Line(OK, "ledger", "empty")]


async def witness(settings: Settings, there: Database) -> list[Line]:
    """The database is not behind what was seen of it outside."""
    seen_by = witness_of(settings.witness, bytes.fromhex(settings.secret))
    assert seen_by is not None
    try:
        seen = await asyncio.to_thread(seen_by.all)
    except OSError as error:
        return [Line(FAIL, "witness", f"{settings.witness}: {error}", "see to TRIMTAB_WITNESS: the same folder for all processes of actions")]
    async with there.reading() as connection:
        found = await compare(connection, seen, await witnessed(connection))
    mend = "docs/operations.md, the runbook: find out what happened to the database, then two people release its kill switch"
    return [Line(FAIL, "witness", f"{d.workspace}: {d.why}", mend) for d in found] or [Line(OK, "witness", f"{len(seen)} heads in {settings.witness}, as seen")]
