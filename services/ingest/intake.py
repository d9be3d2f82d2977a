"""Deliveries become durable: events and changes in the log, the rest in quarantine. Only when all of it is there, anyone is told so.

    events  ->  changes  ->  quarantine and memory (one transaction)  ->  Receipt

A crash between two steps leaves the sender without an answer; its repetition repeats the steps. Events are known by their ids, changes by their values,
quarantined parts by their content, so nothing is there twice in effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.adapters.db.database import Database, again
from services.adapters.faultpoint import faultpoint
from services.adapters.patience import Patience
from services.ingest.core.change import ChangeDetector, Known, watched
from services.ingest.core.refused import Refused
from services.ingest.core.report import Levels
from services.ingest.core.source import Delivery, Item, Rejection
from services.ingest.quarantine import Quarantine
from services.ingest.tables import declared_levels, known_attributes, outcome_positions
from services.kernel.columns import Rows, batches, cut, join, reported
from services.kernel.errors import Unavailable, Unreadable
from services.kernel.event import Event
from services.kernel.ports import Clock, Log
from services.kernel.record import Change, EventBatch, Outcome, Record

logger = structlog.get_logger("ingest")
AppendEvents = Callable[[EventBatch], Awaitable[Any]]
AppendRows = Callable[[str, Rows], Awaitable[Any]]
AppendChanges = Callable[[Sequence[Change]], Awaitable[Any]]
PATIENCE = 10.0  # seconds until a log that does not answer counts as down
LONGEST = 5.0  # seconds between two attempts to follow a log or to note what it says
PART = 50  # outcomes that are remembered in one transaction, after which it is noted how far the log was read
FAR = 10_000  # records of others after which it is noted how far the log was read for outcomes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery; all of it is durable."""

    accepted: int
    rejections: tuple[Rejection, ...]


class Intake:
    def __init__(
        self, database: Database, append: AppendEvents, append_changes: AppendChanges, clock: Clock, registry: CollectorRegistry, patience: float = PATIENCE,
        append_rows: AppendRows | None = None,
    ) -> None:
        """`append_rows` takes events before their words are numbered, where the log's writer joins deliveries; without it each is a record of its own."""
        self.database, self.append, self.append_changes, self.clock, self.patience = database, append, append_changes, clock, patience
        self.append_rows = append_rows or self._append_joined
        self.quarantine = Quarantine(database)
        self.levels: dict[str, Levels] = {}
        self._remembering = asyncio.Lock()  # two deliveries of one entity's state are compared one after the other
        self._dialect = sqlite if database.is_sqlite else postgresql
        self._events = Counter("trimtab_ingest_events_total", "Events by what became of them", ["source", "outcome"], registry=registry)
        self._by_source: dict[str, Any] = {}
        self._reasons = Counter("trimtab_ingest_quarantined_total", "Parts of deliveries put into quarantine, by reason", ["reason"], registry=registry)
        self._changes = Counter("trimtab_ingest_changes_total", "Changes by hand seen at platforms", ["what"], registry=registry)

    async def accept(self, delivery: Delivery, items: Iterable[Item], route: str) -> Receipt:
        """Returns once everything the items say is durable; raises Unavailable, and then nothing is acknowledged."""
        events: list[Event] = []
        rejections: list[Rejection] = []
        for item in items:
            events.append(item) if isinstance(item, Event) else rejections.append(item)
        events, twins = without_twins(events)
        faultpoint("ingest.received")
        rejections += twins
        if any(e.snapshot for e in events):
            events, elsewhere = await self._at_their_level(delivery.workspace, events)
            rejections += elsewhere
        try:
            async with asyncio.timeout(self.patience):
                if pairs := watched(events):
                    async with self._remembering:
                        detector = await self._detector(delivery.workspace, pairs)
                        await self._write(delivery, route, events, tuple(rejections), detector)
                else:
                    await self._write(delivery, route, events, tuple(rejections), None)
        except TimeoutError:
            raise Unavailable("the log did not answer in time; send it again", reason="log") from None
        self._count(delivery.source, len(events), rejections)
        faultpoint("ingest.accepted")
        return Receipt(len(events), tuple(rejections))

    async def accept_rows(self, delivery: Delivery, rows: Rows) -> Receipt | None:
        """As `accept`, for events of which none is refused or watched. None, and nothing is done, where a level is another or not declared yet."""
        if rows.row_ids and not self._is_at_its_level(delivery.workspace, rows):
            return None
        faultpoint("ingest.received")
        try:
            async with asyncio.timeout(self.patience):
                await self.append_rows(delivery.workspace, rows)
        except TimeoutError:
            raise Unavailable("the log did not answer in time; send it again", reason="log") from None
        self._accepted(delivery.source).inc(len(rows))
        faultpoint("ingest.accepted")
        return Receipt(len(rows), ())

    async def _append_joined(self, workspace: str, rows: Rows) -> None:
        await asyncio.gather(*(self.append(join(workspace, [part])) for part in cut(rows)))

    def _is_at_its_level(self, workspace: str, rows: Rows) -> bool:
        """Whether every measure of these snapshots, which have no breakdown, is known to be reported where they report it."""
        levels = self.levels.get(workspace)
        if levels is None:
            return False
        return all(levels.declared.get((source, name)) == level for source, level, name in reported(rows))

    def _accepted(self, source: str) -> Any:
        """The counter of a source's accepted events; looking a label up costs more than counting."""
        if source not in self._by_source:
            self._by_source[source] = self._events.labels(source, "accepted")
            self._events.labels(source, "quarantined")
        return self._by_source[source]

    async def _write(self, delivery: Delivery, route: str, events: list[Event], rejections: tuple[Rejection, ...], detector: ChangeDetector | None) -> None:
        changes = list(detector.see(events)) if detector else []
        await asyncio.gather(*(self.append(record) for record in batches(delivery.workspace, events)))
        faultpoint("ingest.appended")
        if changes:
            await self.append_changes(changes)
            faultpoint("ingest.changed")
            for change in changes:
                self._changes.labels(change.what).inc()
        news = detector.take_news() if detector else {}
        if rejections or news:
            await self._keep(delivery, route, rejections, news)

    @again
    async def _keep(self, delivery: Delivery, route: str, rejections: Sequence[Rejection], news: Mapping[tuple[str, str], Known]) -> None:
        async with self.database.writing() as tx:
            await self.quarantine.put(tx, delivery, route, rejections)
            await self._learn(tx, _rows(delivery.workspace, news))

    async def ours(self, outcomes: Iterable[tuple[Outcome, int]]) -> None:
        """Outcomes of ours, each with its stamp: what platforms report of those that are verified is no change by hand from then on.

        One transaction, tried once: others wait for it, and whoever asks for it comes back.
        """
        detectors: dict[str, ChangeDetector] = {}
        for outcome, at in outcomes:
            detectors.setdefault(outcome.workspace, ChangeDetector(outcome.workspace)).ours(outcome, at)
        rows = [row for workspace in sorted(detectors) for row in _rows(workspace, detectors[workspace].take_news())]
        if not rows:
            return
        async with self._remembering, self.database.writing() as tx:
            await self._learn(tx, rows)

    async def watch(self, log: Log[Record], partition: int, beat: Callable[[], None] = lambda: None) -> None:
        """Follows a partition of the events log for outcomes of ours, from where it was left, until cancelled; waits where the database or the log is away.

        Beats whenever it has come round, and after each part of a page of outcomes; goes on with the part that was under way.
        """
        patience = Patience(0.2, LONGEST)
        while True:
            patience.begin()
            try:
                await self._watch(log, partition, beat)
                return
            except Unavailable as error:
                beat()
                logger.warning("ingest waits", reason=error.reason, why=str(error))
                await asyncio.sleep(patience.pause())

    async def _watch(self, log: Log[Record], partition: int, beat: Callable[[], None]) -> None:
        position = select(outcome_positions.c.offset).where(outcome_positions.c.partition == partition)
        async with self.database.reading() as connection:
            offset = await connection.scalar(position) or 0
        try:
            await self._note(log, partition, offset, beat)
        except Unreadable as lost:  # deleted before they were read: what they said of our own changes is lost, what comes is not
            logger.error("outcomes lost", partition=partition, beyond=lost.beyond, why=str(lost))
            await self._noted(partition, lost.beyond)
            raise

    async def _note(self, log: Log[Record], partition: int, offset: int, beat: Callable[[], None]) -> None:
        async for chunk in log.follow(partition, offset):
            beat()
            outcomes = [(s.offset, s.record, s.stamp) for s in chunk if isinstance(s.record, Outcome)]
            for part in (outcomes[i : i + PART] for i in range(0, len(outcomes), PART)):
                await self.ours((outcome, stamp) for _, outcome, stamp in part)
                faultpoint("ingest.noted")
                offset = part[-1][0] + 1
                await self._noted(partition, offset)
                beat()
            if chunk and chunk[-1].offset - offset >= FAR:
                offset = chunk[-1].offset + 1
                await self._noted(partition, offset)

    async def _noted(self, partition: int, offset: int) -> None:
        async with self.database.writing() as tx:
            put = self._dialect.insert(outcome_positions).values({"partition": partition, "offset": offset})
            await tx.execute(put.on_conflict_do_update(index_elements=["partition"], set_={"offset": offset}))

    async def _learn(self, tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Each value holds unless a newer one is known."""
        if not rows:
            return
        put = self._dialect.insert(known_attributes)
        said, key = put.excluded, ["workspace", "path", "what"]
        new = {"value": said.value, "occurred_at": said.occurred_at}
        await tx.execute(put.on_conflict_do_update(index_elements=key, set_=new, where=known_attributes.c.occurred_at <= said.occurred_at), rows)

    async def _detector(self, workspace: str, pairs: set[tuple[str, str]]) -> ChangeDetector:
        c = known_attributes.c
        known: dict[tuple[str, str], Known] = {}
        wanted = sorted(pairs)
        async with self.database.reading() as connection:
            for i in range(0, len(wanted), 300):
                q = select(c.path, c.what, c.value, c.occurred_at).where(c.workspace == workspace, tuple_(c.path, c.what).in_(wanted[i : i + 300]))
                known |= {(path, what): Known(value, at) for path, what, value, at in await connection.execute(q)}
        return ChangeDetector(workspace, known)

    async def _at_their_level(self, workspace: str, events: list[Event]) -> tuple[list[Event], list[Rejection]]:
        levels = self.levels.get(workspace)
        new = levels is None or any((e.source, m) not in levels.declared for e in events if e.snapshot for m in e.amounts)
        if levels is None or new:
            levels = await self._declare(workspace, events)
        kept, refused = [], []
        for event in events:
            try:
                levels.check(event, event.at)
                kept.append(event)
            except Refused as error:
                refused.append(Rejection(error.reason, f"{event.path}: {error}", error.pointer))
        return kept, refused

    @again
    async def _declare(self, workspace: str, events: list[Event]) -> Levels:
        """The levels with what these events declare; of two processes that declare differently at once the first committed holds for both."""
        c = declared_levels.c
        everything = select(c.source, c.measure, c.level).where(c.workspace == workspace)
        async with self.database.writing(f"levels of {workspace}") as tx:
            levels = Levels({(source, name): level for source, name, level in await tx.execute(everything)})
            for event in events:
                try:
                    levels.check(event)
                except Refused:
                    continue
            for (source, name), level in levels.news.items():
                row = {"workspace": workspace, "source": source, "measure": name, "level": level}
                await tx.execute(self._dialect.insert(declared_levels).values(row).on_conflict_do_nothing())
            self.levels[workspace] = Levels({(source, name): level for source, name, level in await tx.execute(everything)})
        faultpoint("ingest.declared")
        return self.levels[workspace]

    def _count(self, source: str, accepted: int, rejections: Sequence[Rejection]) -> None:
        self._accepted(source).inc(accepted)
        self._events.labels(source, "quarantined").inc(len(rejections))
        for rejection in rejections:
            self._reasons.labels(rejection.reason).inc()


def without_twins(events: list[Event]) -> tuple[list[Event], list[Rejection]]:
    """Of several events of one delivery with one id the first is kept; one that says something else is no repetition, and would vanish silently."""
    first: dict[tuple[str, str], Event] = {}
    twins: list[Rejection] = []
    for event in events:
        known = first.setdefault((event.source, event.id), event)
        if known is not event and (known.amounts, known.attributes, known.path, known.occurred_at, known.snapshot) != (
            event.amounts, event.attributes, event.path, event.occurred_at, event.snapshot,
        ):  # fmt: skip
            detail = f"two different parts of this delivery are {event.id!r} of {event.path}: name what tells them apart (an id, a breakdown)"
            twins.append(Rejection("conflicting_twin", detail, event.at))
    return list(first.values()), twins


def look_again(delivery: Delivery, now: int) -> Delivery:
    """The delivery as looked at now; what it says about itself by the time of its receipt stays as it was."""
    return replace(delivery, seen_at=now)


def _rows(workspace: str, news: Mapping[tuple[str, str], Known]) -> list[dict[str, Any]]:
    return [{"workspace": workspace, "path": path, "what": what, "value": k.value, "occurred_at": k.occurred_at} for (path, what), k in sorted(news.items())]
