"""Every query of the actions service that more than one file needs. Functions take the caller's transaction."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions.core.letter import Action, canonical, steps_of, steps_text
from services.actions.core.progress import Attempt, Effect
from services.actions.executors.contract import Step
from services.actions.ledger import store as ledger
from services.actions.ledger.store import Note
from services.actions.tables import attempts, decisions, escalations, in_flight, intents, kill_switches, offsets, outbox
from services.adapters.db.metadata import leases
from services.adapters.faultpoint import faultpoint
from services.kernel.ids import digest
from services.kernel.record import Outcome

DECISIONS_LOG = "decisions"
WITNESS = "witness"
FINAL = ("verified", "failed", "unknown", "held", "rejected", "expired", "cancelled")


@dataclass(slots=True)
class Change:
    """What one transaction does beside its rows: ledger notes and outcomes, written together at its end; counted once it has committed."""

    now: int
    notes: dict[str, list[Note]] = field(default_factory=lambda: defaultdict(list))
    outcomes: list[Outcome] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)  # (status, reason)

    def note(self, workspace: str, kind: str, subject: str, by: str = "", /, **body: Any) -> None:
        self.notes[workspace].append(Note(kind, subject, body, by))

    def tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        body = {k: v for k, v in asdict(outcome).items() if k not in ("workspace", "decision_id", "by")}
        self.note(outcome.workspace, "outcome", outcome.decision_id, outcome.by, **body)

    @property
    def entries(self) -> int:
        return sum(map(len, self.notes.values()))

    async def write(self, tx: AsyncConnection) -> None:
        for workspace in sorted(self.notes):  # in one order everywhere, so that two writers cannot wait for each other
            await ledger.append(tx, workspace, self.notes[workspace], self.now)
        if self.outcomes:
            await tx.execute(insert(outbox), [{"workspace": o.workspace, "body": canonical(asdict(o))} for o in self.outcomes])


@dataclass(frozen=True, slots=True)
class Switch:
    engaged: bool = False
    reason: str = ""
    by: str = ""
    at: int = 0
    cause: str = ""  # WITNESS where it set the switch
    first: str = ""  # of the two people who then release it
    kept: Switch | None = None  # a person's own beneath the witness's: it remains once that is released


@dataclass(frozen=True, slots=True)
class Place:
    """How far a partition of the decisions log was taken in: the next offset, and the decision before it, "" where that is not known."""

    offset: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one decision, for as long as the intent still carries `token`."""

    decision_id: str
    workspace: str
    steps: tuple[Step, ...]
    valid_until: int  # the last instant at which it may begin
    by: str
    token: int


def turn(workspace: str) -> str:
    """Whoever changes something of a workspace takes it, before anything is read: its switch, queue, people and ledger change one after the other."""
    return f"actions of {workspace}"


def inbox(partition: int) -> str:
    """The turn of whoever takes decisions in from a partition."""
    return f"inbox of {partition}"


async def workspaces(connection: AsyncConnection, of: ColumnElement[Any], where: ColumnElement[bool], now: int = 0) -> list[str]:
    """The workspaces in the column `of` where there is something, in one order; `now` is for conditions that ask for it."""
    return list((await connection.execute(select(of).where(where).distinct().order_by(of), {"now": now} if now else {})).scalars().all())


async def lease(tx: AsyncConnection, name: str, owner: str, now: int, until: int) -> bool:
    """Whether `owner` alone does what is called `name`, until then; within the turn of the same name."""
    row = (await tx.execute(select(leases).where(leases.c.name == name))).first()
    if row is None:
        await tx.execute(insert(leases).values(name=name, owner=owner, until=until))
        return True
    if row.owner != owner and row.until >= now:
        return False
    await tx.execute(update(leases).where(leases.c.name == name).values(owner=owner, until=until))
    return True


async def let_go(tx: AsyncConnection, name: str, owner: str) -> None:
    """Others may do it from now on."""
    await tx.execute(update(leases).where(leases.c.name == name, leases.c.owner == owner).values(until=0))


async def kill_switch(connection: AsyncConnection, workspace: str) -> Switch:
    row = (await connection.execute(select(kill_switches).where(kill_switches.c.workspace == workspace))).first()
    if row is None:
        return Switch()
    kept = Switch(True, row.kept_reason, row.kept_by, row.kept_at) if row.kept_at else None
    if kept and not row.engaged:
        return kept  # the witness's was released by a process of a version that kept nothing beneath it
    return Switch(row.engaged, row.reason, row.by, row.at, row.cause, row.first, kept if row.cause == WITNESS else None)


async def set_switch(tx: AsyncConnection, workspace: str, switch: Switch) -> None:
    kept = switch.kept or Switch()
    row = {name: getattr(switch, name) for name in ("engaged", "reason", "by", "at", "cause", "first")}
    row |= {"kept_reason": kept.reason, "kept_by": kept.by, "kept_at": kept.at}
    if (await tx.execute(update(kill_switches).where(kill_switches.c.workspace == workspace).values(row))).rowcount == 0:
        await tx.execute(insert(kill_switches).values(workspace=workspace, **row))


async def next_offset(connection: AsyncConnection, partition: int) -> int:
    return (await place(connection, partition)).offset


async def place(connection: AsyncConnection, partition: int) -> Place:
    at = (offsets.c.log == DECISIONS_LOG) & (offsets.c.partition == partition)
    row = (await connection.execute(select(offsets.c.offset, offsets.c.last).where(at))).first()
    return Place(row.offset, row.last) if row else Place()


async def set_next_offset(tx: AsyncConnection, partition: int, offset: int, last: str = "") -> None:
    at = (offsets.c.log == DECISIONS_LOG) & (offsets.c.partition == partition)
    if (await tx.execute(update(offsets).where(at).values(offset=offset, last=last))).rowcount == 0:
        await tx.execute(insert(offsets).values(log=DECISIONS_LOG, partition=partition, offset=offset, last=last))


async def hashes(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """The content hash of each decision that is known."""
    rows = await connection.execute(select(decisions.c.id, decisions.c.body_hash).where(decisions.c.id.in_(list(ids))))
    return {row.id: row.body_hash for row in rows}


async def decision(connection: AsyncConnection, workspace: str, decision_id: str) -> Row[Any] | None:
    return (await connection.execute(select(decisions).where(decisions.c.workspace == workspace, decisions.c.id == decision_id))).first()


async def workspace_of(connection: AsyncConnection, decision_id: str) -> str | None:
    return (await connection.execute(select(decisions.c.workspace).where(decisions.c.id == decision_id))).scalar()


async def positions(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, int]:
    rows = await connection.execute(select(decisions.c.id, decisions.c.position).where(decisions.c.id.in_(list(ids))))
    return {row.id: row.position for row in rows}


async def is_simulated(connection: AsyncConnection, decision_id: str) -> bool:
    return bool(await connection.scalar(select(decisions.c.simulated).where(decisions.c.id == decision_id)))


async def is_undo(connection: AsyncConnection, decision_id: str) -> bool:
    return bool(await connection.scalar(select(decisions.c.undoes).where(decisions.c.id == decision_id)))


async def queue(
    tx: AsyncConnection, decision_id: str, workspace: str, position: int, steps: tuple[Step, ...], valid_until: int, by: str, state: str = "queued"
) -> None:
    """The decision is to be executed, first come, first served, and not begun after `valid_until`; parked, it is to be once it may."""
    row = {"decision_id": decision_id, "workspace": workspace, "position": position, "steps": steps_text(steps), "valid_until": valid_until, "by": by}
    await tx.execute(insert(intents).values(**row, state=state, owner="", token=0, lease_until=0, due_at=0, tries=0))
    faultpoint("actions.queued")


async def ask(tx: AsyncConnection, decision_id: str, workspace: str, position: int, at: int, action: Action, reason: str, now: int) -> None:
    """People are asked about the decision of `at` until its time is over."""
    await tx.execute(
        insert(escalations).values(
            id=digest("escalation", decision_id),
            position=position,
            decision_id=decision_id,
            workspace=workspace,
            by=action.approve.by,
            otherwise=action.approve.otherwise,
            reason=reason,
            status="waiting",
            opened_at=now,
            expires_at=at + action.approve.within,
            answered_by="",
            answered_at=None,
            comment="",
        )
    )
    faultpoint("actions.asked")


def lease_of(row: Row[Any]) -> Lease:
    return Lease(row.decision_id, row.workspace, steps_of(json.loads(row.steps)), row.valid_until, row.by, row.token)


async def attempts_of(connection: AsyncConnection, decision_id: str) -> tuple[Attempt, ...]:
    rows = await connection.execute(select(attempts).where(attempts.c.decision_id == decision_id).order_by(attempts.c.intended_at, attempts.c.step))
    return tuple(
        Attempt(
            step=r.step,
            role=r.role,
            path=r.path,
            attribute=r.attribute,
            observed=json.loads(r.observed),
            desired=json.loads(r.desired),
            answer=r.answer,
            detail=r.detail,
            seen=tuple(json.loads(r.seen)),
            status=r.status,
            reason=r.reason,
        )
        for r in rows
    )


async def add_attempt(tx: AsyncConnection, workspace: str, decision_id: str, attempt: Attempt, key: str, now: int) -> None:
    await tx.execute(
        insert(attempts).values(
            decision_id=decision_id,
            workspace=workspace,
            step=attempt.step,
            role=attempt.role,
            path=attempt.path,
            attribute=attempt.attribute,
            observed=json.dumps(attempt.observed),
            desired=json.dumps(attempt.desired),
            key=key,
            answer=attempt.answer,
            detail=attempt.detail,
            seen=json.dumps(attempt.seen),
            status=attempt.status,
            reason=attempt.reason,
            intended_at=now,
            finished_at=now if attempt.status else None,
        )
    )


async def update_attempt(tx: AsyncConnection, decision_id: str, attempt: Attempt, now: int) -> None:
    this = (attempts.c.decision_id == decision_id) & (attempts.c.step == attempt.step) & (attempts.c.role == attempt.role)
    found = {"answer": attempt.answer, "detail": attempt.detail, "seen": json.dumps(attempt.seen), "status": attempt.status, "reason": attempt.reason}
    await tx.execute(update(attempts).where(this).values(**found, finished_at=now if attempt.status else None))


async def withdraw_attempt(tx: AsyncConnection, decision_id: str, attempt: Attempt) -> None:
    """Of an attempt that was certainly not made: it may be made yet."""
    this = (attempts.c.decision_id == decision_id) & (attempts.c.step == attempt.step) & (attempts.c.role == attempt.role)
    await tx.execute(delete(attempts).where(this, attempts.c.answer == "", attempts.c.status == ""))


async def end(tx: AsyncConnection, change: Change, workspace: str, decision_id: str, status: str, reason: str, by: str, effects: Sequence[Effect] = ()) -> None:
    """The decision has come to its end: nothing of it is in flight, and the outcome of each step is on its way to the engine."""
    row = await decision(tx, workspace, decision_id)
    await tx.execute(update(decisions).where(decisions.c.id == decision_id).values(status=status, reason=reason, changed_at=change.now))
    await tx.execute(update(intents).where(intents.c.decision_id == decision_id).values(state="done"))
    await tx.execute(delete(in_flight).where(in_flight.c.decision_id == decision_id))
    change.ended.append((status, reason))
    if not any(e.status == status for e in effects):  # the first outcome told is the one that ends the wait
        changed = row.path if row and status != "verified" else ""  # a notice changes no entity
        change.tell(Outcome(workspace, decision_id, status, path=changed, reason=reason, by=by))
    for effect in effects:
        value = "" if effect.status == "failed" else str(effect.value)
        change.tell(Outcome(workspace, decision_id, effect.status, effect.path, effect.attribute, effect.reason, by, value))


async def mark(tx: AsyncConnection, decision_id: str, status: str, reason: str, now: int) -> None:
    await tx.execute(update(decisions).where(decisions.c.id == decision_id).values(status=status, reason=reason, changed_at=now))


@dataclass(frozen=True, slots=True)
class Queues:
    """What waits for something, at one moment."""

    waiting: int  # escalations, for people
    asked: int  # microseconds: since when the first of these waits; 0 without one
    used: float  # the largest share of its own time that one of these has used up; 0 without one
    unsent: int  # outcomes, for the events log
    queued: int  # decisions, for their execution or its end
    oldest: int  # microseconds: since when the first of these has been to be executed; 0 without one
    in_doubt: int  # calls, for what they did
    intended: int  # microseconds: since when the first of these is in doubt; 0 without one
    parked: dict[str, int]  # decisions by reason, for that to end


_UNDER_WAY = intents.c.state.in_(("queued", "running"))
_OF_DECISION = intents.join(decisions, decisions.c.id == intents.c.decision_id)
_OF_ATTEMPT = intents.join(attempts, attempts.c.decision_id == intents.c.decision_id)
_QUEUED = select(func.count(), func.min(decisions.c.changed_at)).select_from(_OF_DECISION).where(_UNDER_WAY)
_USED = (bindparam("now") - escalations.c.opened_at) * 1.0 / func.nullif(escalations.c.expires_at - escalations.c.opened_at, 0)
_WAITING = select(func.count(), func.min(escalations.c.opened_at), func.max(_USED)).select_from(escalations).where(escalations.c.status == "waiting")
_UNSENT = select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None))
_IN_DOUBT = select(func.count(), func.min(attempts.c.intended_at)).select_from(_OF_ATTEMPT).where(_UNDER_WAY, attempts.c.status == "")
_PARKED = select(decisions.c.reason, func.count()).select_from(_OF_DECISION).where(intents.c.state == "parked").group_by(decisions.c.reason)


async def queues(connection: AsyncConnection, now: int) -> Queues:
    queued, in_doubt = [(await connection.execute(q)).one() for q in (_QUEUED, _IN_DOUBT)]
    waiting = (await connection.execute(_WAITING, {"now": now})).one()
    return Queues(
        waiting=waiting[0],
        asked=waiting[1] or 0,
        used=float(waiting[2] or 0),
        unsent=int(await connection.scalar(_UNSENT) or 0),
        queued=queued[0],
        oldest=queued[1] or 0,
        in_doubt=in_doubt[0],
        intended=in_doubt[1] or 0,
        parked={row[0]: row[1] for row in await connection.execute(_PARKED)},
    )
