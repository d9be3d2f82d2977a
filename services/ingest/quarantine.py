"""What could not be normalized is kept with the bytes it came in, why, and where it stands, until it is driven again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.adapters.db.database import Database, again
from services.ingest.core.source import Delivery, Rejection
from services.ingest.tables import quarantine, quarantined_deliveries
from services.kernel.errors import NotFound
from services.kernel.ids import digest

KEPT_HEADERS = re.compile(r"content-type|user-agent|ce-.*|(webhook|svix)-(id|timestamp)|x-hubspot-request-timestamp")
EXCERPT = 2_000


@dataclass(frozen=True, slots=True)
class Quarantined:
    position: int
    id: str
    workspace: str
    source: str
    delivery_id: str
    pointer: str
    reason: str
    detail: str
    received_at: int
    state: str


class Quarantine:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._dialect = sqlite if database.is_sqlite else postgresql

    async def put(self, tx: AsyncConnection, delivery: Delivery, route: str, rejections: Sequence[Rejection]) -> None:
        """Each rejection has a row when the transaction commits; the same delivery put twice has its rows once."""
        if not rejections:
            return
        delivery_id = digest("delivery", delivery.workspace, delivery.source, route, digest_of(delivery.body), redacted(delivery.headers, identity=True))
        kept = {
            "id": delivery_id, "workspace": delivery.workspace, "source": delivery.source, "route": route, "body": delivery.body,
            "headers": redacted(delivery.headers), "method": delivery.method, "url": delivery.url.partition("?")[0], "received_at": delivery.received_at,
        }  # fmt: skip
        await tx.execute(self._dialect.insert(quarantined_deliveries).values(kept).on_conflict_do_nothing())
        rows = [
            {
                "id": digest("quarantined", delivery_id, r.pointer, r.reason, r.detail), "workspace": delivery.workspace, "source": delivery.source,
                "delivery_id": delivery_id, "pointer": storable(r.pointer), "reason": r.reason[:64], "detail": storable(r.detail), "state": "waiting",
                "received_at": delivery.received_at, "redriven_by": "",
            }
            for r in rejections
        ]  # fmt: skip
        for i in range(0, len(rows), 500):
            await tx.execute(self._dialect.insert(quarantine).values(rows[i : i + 500]).on_conflict_do_nothing())

    async def page(self, workspace: str, *, limit: int, before: int | None, state: str, source: str = "", reason: str = "") -> list[Quarantined]:
        """Newest first, those before a position."""
        q = select(*(quarantine.c[name] for name in Quarantined.__slots__)).where(quarantine.c.workspace == workspace, quarantine.c.state == state)
        if source:
            q = q.where(quarantine.c.source == source)
        if reason:
            q = q.where(quarantine.c.reason == reason)
        if before is not None:
            q = q.where(quarantine.c.position < before)
        async with self.database.reading() as connection:
            return [Quarantined(*row) for row in await connection.execute(q.order_by(quarantine.c.position.desc()).limit(limit))]

    async def get(self, workspace: str, row_id: str) -> tuple[Quarantined, Delivery, str]:
        """(the row, the delivery it came with, the route it took); NotFound outside of the workspace."""
        of = (quarantine.c.workspace == workspace) & (quarantine.c.id == row_id)
        async with self.database.reading() as connection:
            row = (await connection.execute(select(*(quarantine.c[name] for name in Quarantined.__slots__)).where(of))).first()
            if row is None:
                raise NotFound(f"nothing in quarantine is called {row_id[:40]}")
            kept = (await connection.execute(select(quarantined_deliveries).where(quarantined_deliveries.c.id == row.delivery_id))).one()
        headers = tuple((str(n), str(v)) for n, v in json.loads(kept.headers))
        delivery = Delivery(kept.source, kept.workspace, bytes(kept.body), headers, kept.received_at, kept.method, kept.url)
        return Quarantined(*row), delivery, kept.route

    async def waiting(self, delivery_id: str) -> list[Quarantined]:
        q = select(*(quarantine.c[name] for name in Quarantined.__slots__)).where(quarantine.c.delivery_id == delivery_id, quarantine.c.state == "waiting")
        async with self.database.reading() as connection:
            return [Quarantined(*row) for row in await connection.execute(q)]

    @again
    async def settle(self, row_ids: Sequence[str], at: int, by: str) -> None:
        """These were driven again and are in the log."""
        async with self.database.writing() as tx:
            for i in range(0, len(row_ids), 500):
                of = quarantine.c.id.in_(row_ids[i : i + 500])
                await tx.execute(update(quarantine).where(of).values(state="redriven", redriven_at=at, redriven_by=by))


def digest_of(body: bytes) -> str:
    return digest("body", body.decode("latin-1"))


def redacted(headers: Sequence[tuple[str, str]], identity: bool = False) -> str:
    """JSON of the headers whose values may be kept; `identity` leaves out all that differs between two attempts at one delivery."""
    kept: list[Any] = []
    for name, value in headers:
        if identity and not (name == "content-type" or name.startswith("ce-")):
            continue
        kept.append([name, storable(value) if KEPT_HEADERS.fullmatch(name) else "[redacted]"])
    return json.dumps(sorted(kept))


def storable(text: str) -> str:
    """The text as every database can hold it: without NUL and half surrogates, and not endless."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:EXCERPT]
