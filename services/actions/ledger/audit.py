"""Verification in the background: each step goes on from the last verified head by a page of entries, and once a day from the first entry.

How far a chain was verified is kept in the database: the next process goes on there, and a chain that has become shorter is noticed.
One process does it at a time. Where there is a witness, it is told how far the chains were verified.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import store
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import GENESIS, Broken, Head, Walk
from services.actions.ledger.witness import Disagreement, Untrue, Witness, compare, witnessed
from services.actions.metrics import Metrics
from services.actions.tables import decisions, ledger_checks, ledger_heads
from services.adapters.db.clock import Agreed
from services.adapters.db.database import Database, again

log = structlog.get_logger("ledger")
PAGE = 500  # entries at once: a few milliseconds of the loop
SECOND = 1_000_000
DAY = 86_400 * SECOND
AUDITING = "auditing"  # a turn, and a lease
LEASE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Check:
    """How far a workspace's chain was verified, when it was last from its first entry, and what does not hold, if anything."""

    workspace: str
    sequence: int = 0
    hash: str = GENESIS
    whole_at: int = 0
    witnessed: int = 0  # the sequence that the witness was told last
    broken: int = 0  # the sequence of the first link that does not hold
    why: str = ""

    @property
    def head(self) -> Head:
        return Head(self.workspace, self.sequence, self.hash)


class Audit:
    def __init__(self, database: Database, metrics: Metrics, owner: str, wall: Agreed, witness: Witness | None = None, page: int = PAGE) -> None:
        self.database, self.metrics, self.owner, self.wall, self.witness, self.page = database, metrics, owner, wall, witness, page
        self._whole: dict[str, Walk] = {}  # walks from the first entry that are under way

    async def step(self) -> int:
        """Up to a page more is verified; returns how many entries that was, 0 where every chain is verified to its head or another process does it."""
        now = await self._turn()
        if now is None:
            self._whole.clear()
            self.metrics.broken.set(0)
            return 0
        done, checks, changed = 0, {}, []
        async with self.database.reading() as connection:
            for check, head in await _standing(connection):
                checks[check.workspace] = check
                if done < self.page and self._is_due(check, head, now):
                    walked, after = await self._go_on(connection, check, head, now, self.page - done)
                    done += walked
                    checks[check.workspace] = after
                    changed.append(after)
        await self._keep(changed)
        for after in changed:
            if after.broken:
                log.error("ledger_broken", workspace=after.workspace, sequence=after.broken, why=after.why)
        self.metrics.verified.inc(done)
        self.metrics.broken.set(sum(1 for c in checks.values() if c.broken))
        if not done:
            self.metrics.verified_at.labels("new").set(now / SECOND)
            self.metrics.verified_at.labels("whole").set(min((c.whole_at for c in checks.values()), default=now) / SECOND)
            await self.bear_witness(list(checks.values()), now)
        return done

    def _is_due(self, check: Check, head: Head, now: int) -> bool:
        if check.workspace in self._whole or now - check.whole_at >= DAY:
            return True
        return not check.broken and check.head != head

    async def _go_on(self, connection: AsyncConnection, check: Check, head: Head, now: int, limit: int) -> tuple[int, Check]:
        """(entries walked, how it stands then); a broken chain is walked again once a day, from its first entry."""
        is_whole = check.workspace in self._whole or now - check.whole_at >= DAY
        walk = self._whole.setdefault(check.workspace, Walk(check.workspace)) if is_whole else Walk(check.workspace)
        if not is_whole:
            walk.last = check.head
        rows = await ledger.rows(connection, check.workspace, walk.last.sequence, limit)
        broken = _shorter(check, head) or walk.go(rows) or _replaced(check, rows)
        if broken is None and len(rows) < limit:
            found = walk.end(head)
            broken = found if isinstance(found, Broken) else await _taken_away(connection, head)
        if broken is not None:
            self._whole.pop(check.workspace, None)
            return len(rows), replace(check, broken=broken.sequence, why=broken.why, whole_at=now)
        if not is_whole:
            return len(rows), replace(check, sequence=walk.last.sequence, hash=walk.last.hash)
        if len(rows) == limit:
            return len(rows), check
        del self._whole[check.workspace]
        return len(rows), replace(check, sequence=walk.last.sequence, hash=walk.last.hash, whole_at=now, broken=0, why="")

    @again
    async def _turn(self) -> int | None:
        """What time it is, where it is for us to verify; None where another process does."""
        async with self.database.writing(AUDITING) as tx:
            now = await self.wall.now(tx)
            return now if await store.lease(tx, AUDITING, self.owner, now, now + LEASE) else None

    @again
    async def _keep(self, changed: list[Check]) -> None:
        if not changed:
            return
        async with self.database.writing(AUDITING) as tx:
            await tx.execute(delete(ledger_checks).where(ledger_checks.c.workspace.in_([c.workspace for c in changed])))
            await tx.execute(insert(ledger_checks), [{name: getattr(c, name) for name in Check.__slots__} for c in changed])

    # -- the witness -------------------------------------------------------------------------------------------------

    async def disagreements(self) -> list[Disagreement]:
        """Where the database is not what its witness saw. Raises OSError where the witness cannot be asked."""
        if self.witness is None:
            return []
        seen = list(await asyncio.to_thread(self.witness.all))  # first: the database may be ahead of what was seen, never behind
        async with self.database.reading() as connection:
            return await compare(connection, seen, await witnessed(connection))

    async def bear_witness(self, checks: list[Check], now: int) -> None:
        """The witness has seen the chains as far as they were verified, but where it has seen another one."""
        if self.witness is None:
            return
        try:
            disagreeing = {d.workspace for d in await self.disagreements()}
            seen = {h.workspace: h.sequence for h in await asyncio.to_thread(self.witness.all) if not isinstance(h, Untrue)}
            news = [c for c in checks if c.workspace not in disagreeing and not c.broken and c.sequence > seen.get(c.workspace, 0)]
            for check in news:
                await asyncio.to_thread(self.witness.write, check.head, now)
        except OSError as error:
            self.metrics.unwitnessed.inc()
            log.warning("ledger_not_witnessed", folder=str(self.witness.folder), why=str(error))
            return
        await self._keep([replace(c, witnessed=c.sequence) for c in news])


async def _standing(connection: AsyncConnection) -> list[tuple[Check, Head]]:
    """Every chain that is there, or was."""
    heads = {row.workspace: Head(*row) for row in await connection.execute(select(ledger_heads))}
    checks = {row.workspace: Check(**row._mapping) for row in await connection.execute(select(ledger_checks))}
    return [(checks.get(w, Check(w)), heads.get(w, Head(w))) for w in sorted(heads.keys() | checks.keys())]


def _shorter(check: Check, head: Head) -> Broken | None:
    if head.sequence >= check.sequence:
        return None
    return Broken(check.workspace, head.sequence + 1, f"the chain ends at {head.sequence}, it was verified up to {check.sequence} before")


def _replaced(check: Check, rows: ledger.Rows) -> Broken | None:
    """An entry that was verified before is another one now, and the chain was made anew from there."""
    if any(row.sequence == check.sequence and row.hash != check.hash for row in rows):
        return Broken(check.workspace, check.sequence, "it is not the entry that was verified before")
    return None


async def _taken_away(connection: AsyncConnection, head: Head) -> Broken | None:
    if head.sequence == 0 and await connection.scalar(select(decisions.c.id).where(decisions.c.workspace == head.workspace).limit(1)):
        return Broken(head.workspace, 1, "there are decisions but no entries")
    return None
