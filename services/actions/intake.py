"""The inbox: each decision of the log is recorded once and routed, with its ledger entry and the log's offset, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import store
from services.actions.core.letter import Action, action_of, whole
from services.actions.core.policy import Answer, Circumstances, Escalate, Execute, Hold, Park, Proposal, Record, last_call, route
from services.actions.store import Change
from services.actions.tables import decisions, quarantined
from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput
from services.kernel.record import Outcome


@dataclass(frozen=True, slots=True)
class Malformed:
    """A fired decision whose action nobody can read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Arrival:
    decision: Decision
    offset: int
    body: str
    action: Action | None
    answer: Answer | Malformed

    @property
    def status(self) -> str:
        match self.answer:
            case Record():
                return "recorded"
            case Escalate():
                return "waiting"
            case Execute():
                return "executing"
            case Hold():
                return "held"
            case Park():
                return "parked"
            case Malformed():
                return "failed"


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets are dense, so what lies between `expected` and `found` was on the log and was never seen."""

    expected: int
    found: int
    behind: Decision  # the one at `found`


@dataclass(frozen=True, slots=True)
class Taken:
    """What a batch came to, for the counters."""

    arrivals: tuple[Arrival, ...]
    quarantined: tuple[str, ...]
    gaps: tuple[Gap, ...]
    change: Change


async def take_in(tx: AsyncConnection, partition: int, batch: Sequence[tuple[int, Decision]], so: Circumstances) -> Taken:
    """Every (offset, decision) of the batch is in the inbox exactly once, and the next offset to read is the one behind it."""
    change = Change(so.now)
    start = await store.next_offset(tx, partition)
    fresh = [(offset, decision) for offset, decision in batch if offset >= start]
    gaps = gaps_in(start, fresh)
    for gap in gaps:
        change.note(gap.behind.workspace, "decisions.missing", gap.behind.id, "", partition=partition, expected=gap.expected, found=gap.found)
    known = await store.hashes(tx, {d.id for _, d in fresh})
    switches = {w: (await store.kill_switch(tx, w)).engaged for w in {d.workspace for _, d in fresh}}
    arrivals: list[Arrival] = []
    faults: list[str] = []
    for offset, decision in fresh:
        body = whole(decision)
        content = content_hash(body)
        before = known.setdefault(decision.id, "")
        if before == content:
            continue
        if before:
            await _quarantine(tx, change, partition, offset, decision, body, "two_builds_disagree")
            faults.append("two_builds_disagree")
            continue
        known[decision.id] = content
        arrival = _judge(decision, offset, body, so, switches[decision.workspace])
        if isinstance(arrival.answer, Malformed):
            await _quarantine(tx, change, partition, offset, decision, body, arrival.answer.reason)
            faults.append(arrival.answer.reason)
        arrivals.append(arrival)
    if arrivals:
        await tx.execute(insert(decisions), [_row(a, partition, so.now) for a in arrivals])
        await _act(tx, change, arrivals)
    if fresh:
        await store.set_next_offset(tx, partition, fresh[-1][0] + 1, fresh[-1][1].id)
    await change.write(tx)
    return Taken(tuple(arrivals), tuple(faults), gaps, change)


def gaps_in(start: int, fresh: Sequence[tuple[int, Decision]]) -> tuple[Gap, ...]:
    """Where the sequence skips, the next one to come being `start`."""
    expected = [start, *(offset + 1 for offset, _ in fresh)]
    return tuple(Gap(due, offset, decision) for due, (offset, decision) in zip(expected, fresh, strict=False) if offset != due)


def _judge(decision: Decision, offset: int, body: str, so: Circumstances, is_killed: bool) -> Arrival:
    try:
        action = action_of(decision.action) if decision.kind == "fired" else None
    except RejectedInput as error:
        return Arrival(decision, offset, body, None, Malformed(error.reason))
    valid_until = 0 if decision.now < so.stale_before else decision.valid_until
    proposal = Proposal(decision.kind, decision.mode, decision.simulated, decision.evidence, valid_until, action)
    here = replace(so, kill_switch=is_killed)
    return Arrival(decision, offset, body, action, route(proposal, here))


async def _act(tx: AsyncConnection, change: Change, arrivals: Sequence[Arrival]) -> None:
    acting = [a.decision.id for a in arrivals if not isinstance(a.answer, Record)]
    place = await store.positions(tx, acting) if acting else {}
    for arrival in arrivals:
        d, action = arrival.decision, arrival.action
        change.note(
            d.workspace,
            "decision." + arrival.status,
            d.id,
            d.rule_id,
            reason=arrival.answer.reason,
            kind=d.kind,
            path=d.path,
            content=content_hash(arrival.body),
        )
        match arrival.answer:
            case Execute() | Park() if action is not None:
                state = "parked" if arrival.status == "parked" else "queued"
                await store.queue(tx, d.id, d.workspace, place[d.id], action.steps, last_call(d.valid_until, action.valid_for), d.rule_id, state)
            case Escalate(reason) if action is not None:
                await store.ask(tx, d.id, d.workspace, place[d.id], d.now, action, reason, change.now)
            case Hold(reason) | Malformed(reason):
                change.ended.append((arrival.status, reason))
                change.tell(Outcome(d.workspace, d.id, arrival.status, path=d.path, reason=reason, by=d.rule_id))


def _row(arrival: Arrival, partition: int, now: int) -> dict[str, Any]:
    d = arrival.decision
    return {
        "id": d.id,
        "workspace": d.workspace,
        "rule": d.rule_id,
        "version": d.version,
        "path": d.path,
        "kind": d.kind,
        "mode": d.mode,
        "boundary": d.boundary,
        "at": d.now,
        "valid_until": d.valid_until,
        "action": d.action if arrival.action else "",
        "refusals": ",".join(d.refusals),
        "evidence": d.evidence,
        "simulated": d.simulated,
        "body": arrival.body,
        "body_hash": content_hash(arrival.body),
        "by": "",
        "undoes": "",
        "status": arrival.status,
        "reason": arrival.answer.reason,
        "partition": partition,
        "offset": arrival.offset,
        "changed_at": now,
    }


async def _quarantine(tx: AsyncConnection, change: Change, partition: int, offset: int, d: Decision, body: str, reason: str) -> None:
    """Kept whole for a person to look at; an offset is there once."""
    at = (quarantined.c.partition == partition) & (quarantined.c.offset == offset)
    if (await tx.execute(select(quarantined.c.id).where(at))).first() is None:
        row = {"workspace": d.workspace, "decision_id": d.id, "body": body, "reason": reason, "partition": partition, "offset": offset, "at": change.now}
        await tx.execute(insert(quarantined).values(row))
        change.note(d.workspace, "decision.quarantined", d.id, "", reason=reason, content=content_hash(body), offset=offset, partition=partition)


def content_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
