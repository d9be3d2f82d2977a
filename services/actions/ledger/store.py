"""The ledger in the database: appended to in the transaction of what it records, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions.core.letter import canonical
from services.actions.ledger.chain import Broken, Entry, Head, Verified, Walk, following
from services.actions.tables import decisions, ledger, ledger_heads
from services.adapters.faultpoint import faultpoint

PAGE = 2_000
Rows: TypeAlias = Sequence[Any]  # with the fields of Entry, in its order
COLUMNS = tuple(ledger.c[f.name] for f in fields(Entry))


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be recorded; the store gives it its place in the chain."""

    kind: str
    subject: str
    body: dict[str, Any]  # no floats
    by: str = ""


async def append(tx: AsyncConnection, workspace: str, notes: Sequence[Note], now: int) -> Head:
    """The notes are the newest entries of the workspace once the caller's transaction commits. Other writers of the workspace wait until then."""
    if not notes:
        return await head(tx, workspace)
    row = (await tx.execute(select(ledger_heads).where(ledger_heads.c.workspace == workspace).with_for_update())).first()
    last = Head(workspace, row.sequence, row.hash) if row else Head(workspace)
    entries = []
    for note in notes:
        entry = following(last, now, note.kind, note.subject, note.by, canonical(note.body))
        entries.append(asdict(entry))
        last = Head(workspace, entry.sequence, entry.hash)
    await tx.execute(insert(ledger), entries)
    faultpoint("ledger.inserted")
    place = {"sequence": last.sequence, "hash": last.hash}
    if row:
        await tx.execute(update(ledger_heads).where(ledger_heads.c.workspace == workspace).values(place))
    else:
        await tx.execute(insert(ledger_heads).values(workspace=workspace, **place))
    faultpoint("ledger.appended")
    return last


async def head(connection: AsyncConnection, workspace: str) -> Head:
    row = (await connection.execute(select(ledger_heads).where(ledger_heads.c.workspace == workspace))).first()
    return Head(workspace, row.sequence, row.hash) if row else Head(workspace)


async def read(connection: AsyncConnection, workspace: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
    """Entries with a sequence above `after`, in order."""
    return [Entry(*row) for row in await rows(connection, workspace, after, limit)]


async def rows(connection: AsyncConnection, workspace: str, after: int, limit: int) -> Rows:
    query = select(*COLUMNS).where(ledger.c.workspace == workspace, ledger.c.sequence > after).order_by(ledger.c.sequence).limit(limit)
    return (await connection.execute(query)).all()


async def about(connection: AsyncConnection, workspace: str, subject: str) -> list[Entry]:
    """The story of one decision."""
    query = select(*COLUMNS).where(ledger.c.workspace == workspace, ledger.c.subject == subject).order_by(ledger.c.sequence)
    return [Entry(*row) for row in await connection.execute(query)]


async def whole(connection: AsyncConnection, workspace: str) -> list[Entry]:
    """Every entry of the workspace, as one snapshot."""
    entries: list[Entry] = []
    while page := await read(connection, workspace, entries[-1].sequence if entries else 0):
        entries += page
    return entries


async def check(connection: AsyncConnection, workspace: str, page_size: int = PAGE) -> Verified | Broken:
    """Verifies the workspace's chain as it stands in the database, its head included, with one page of it in memory.

    Decisions without any entry are a chain that was taken away whole.
    """
    end, walk = await head(connection, workspace), Walk(workspace)
    while page := await rows(connection, workspace, walk.last.sequence, page_size):
        if broken := walk.go(page):
            return broken
    found = walk.end(end)
    if end.sequence == 0 and isinstance(found, Verified) and await connection.scalar(select(decisions.c.id).where(decisions.c.workspace == workspace).limit(1)):
        return Broken(workspace, 1, "there are decisions but no entries")
    return found


async def workspaces(connection: AsyncConnection) -> list[str]:
    return list((await connection.execute(select(ledger_heads.c.workspace).order_by(ledger_heads.c.workspace))).scalars())
