"""Parking: what may not be carried out for now waits with its reason. It goes on where that ends in time, and is held before the engine stops waiting.

    arriving, or queued --switch, hold mode, no executor--> parked --+-- that is over --> routed anew: queued, or put to people
                                                                     +-- its last call has passed --> held (stale)

So a rule that stays true under the switch fires once per `valid_for` and object, not at every boundary.
A change in several steps that has begun is parked between two of them: it keeps its objects, and goes on, or takes back what it did, once it may.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, exists, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import store
from services.actions.core.letter import Action, action_of, steps_of
from services.actions.core.policy import Answer, Circumstances, Escalate, Execute, Hold, Proposal, route, why_parked
from services.actions.store import Change, Lease
from services.actions.tables import attempts, decisions, escalations, in_flight, intents, kill_switches
from services.adapters.faultpoint import faultpoint

HAS_BEGUN = exists().where(attempts.c.decision_id == intents.c.decision_id)
CHANGES_SOMETHING = intents.c.steps != "[]"  # a notice has no steps
# Not begun, and the last call has passed.
IS_LATE = and_(intents.c.state.in_(("queued", "parked")), intents.c.valid_until < bindparam("now"), CHANGES_SOMETHING, not_(HAS_BEGUN))
ANY_LATE = select(intents.c.decision_id).where(IS_LATE).limit(1)
SWITCH_IS_ON = exists().where(kill_switches.c.workspace == intents.c.workspace, kill_switches.c.engaged)
# Whose end a process may not have seen: a switch releases what it parked itself.
NOT_BY_THE_SWITCH = select(intents.c.workspace, intents.c.steps, decisions.c.simulated).where(
    intents.c.state == "parked", not_(SWITCH_IS_ON), decisions.c.id == intents.c.decision_id
)
LATE = select(intents).where(IS_LATE, intents.c.workspace == bindparam("of")).order_by(intents.c.position).with_for_update(skip_locked=True)


async def park(tx: AsyncConnection, change: Change, intent: Row[Any] | Lease, reason: str) -> None:
    """Nothing of the decision is written until `release`; its objects are free for others unless something was done to them already."""
    await tx.execute(update(intents).where(intents.c.decision_id == intent.decision_id).values(state="parked", owner="", lease_until=0))
    await store.mark(tx, intent.decision_id, "parked", reason, change.now)
    if not await store.attempts_of(tx, intent.decision_id):
        await tx.execute(delete(in_flight).where(in_flight.c.decision_id == intent.decision_id))
    change.note(intent.workspace, "decision.parked", intent.decision_id, intent.by, reason=reason)
    faultpoint("actions.parked")


async def park_queued(tx: AsyncConnection, change: Change, workspace: str, reason: str) -> None:
    """All of the workspace that is to be carried out and has not begun is parked."""
    waiting = and_(intents.c.workspace == workspace, intents.c.state == "queued", CHANGES_SOMETHING, not_(HAS_BEGUN))
    for intent in (await tx.execute(select(intents).where(waiting).order_by(intents.c.position))).all():
        await park(tx, change, intent, reason)


async def where_over(connection: AsyncConnection, so: Circumstances) -> list[str]:
    """The workspaces whose switch is not on and where something is parked that may go on where `so` is so."""
    found: set[str] = set()
    for row in await connection.execute(NOT_BY_THE_SWITCH):
        if row.workspace not in found and not why_parked(steps_of(json.loads(row.steps)), row.simulated, so):
            found.add(row.workspace)
    return sorted(found)


async def release(
    tx: AsyncConnection, change: Change, so: Callable[[bool], Circumstances], by: str = "", workspace: str | None = None, says_why: bool = True
) -> int:
    """What is parked, in all workspaces or one, goes on where its reason is over; returns how much that was. `so` says what is so, the switch on or not.

    What stays parked has its reason as of now, unless `says_why` is false: two processes that differ in what they serve would correct each other for ever.
    """
    where = intents.c.state == "parked" if workspace is None else and_(intents.c.state == "parked", intents.c.workspace == workspace)
    rows = (await tx.execute(select(intents).where(where).order_by(intents.c.position).with_for_update())).all()
    switches = {w: (await store.kill_switch(tx, w)).engaged for w in {row.workspace for row in rows}}
    return sum([await _go_on(tx, change, row, so(switches[row.workspace]), by, says_why) for row in rows])


async def lapse(tx: AsyncConnection, change: Change, workspace: str) -> int:
    """What of the workspace has not begun and may not begin any more is held; returns how much that was."""
    rows = (await tx.execute(LATE, {"now": change.now, "of": workspace})).all()
    for row in rows:
        await store.end(tx, change, row.workspace, row.decision_id, "held", "stale", row.by)
    return len(rows)


async def _go_on(tx: AsyncConnection, change: Change, intent: Row[Any], so: Circumstances, by: str, says_why: bool) -> bool:
    decision = await store.decision(tx, intent.workspace, intent.decision_id)
    assert decision is not None  # an intent is written in the transaction of its decision
    action = action_of(decision.action)
    if why := why_parked(action.steps, decision.simulated, so):
        if says_why and why != decision.reason:
            await park(tx, change, intent, why)
        return False
    this = intents.c.decision_id == intent.decision_id
    match await _anew(tx, intent, decision, action, so):
        case Execute(reason):
            await tx.execute(update(intents).where(this).values(state="queued", due_at=0, tries=0))
            status = "executing"
        case Escalate(reason):
            await tx.execute(delete(intents).where(this))
            await store.ask(tx, decision.id, decision.workspace, decision.position, decision.at, action, reason, so.now)
            status = "waiting"
        case Hold(reason):
            await store.end(tx, change, intent.workspace, intent.decision_id, "held", reason, intent.by)
            return True
        case _:
            return False
    await store.mark(tx, decision.id, status, reason, so.now)
    faultpoint("actions.released")
    change.note(intent.workspace, "decision." + status, decision.id, by, reason=reason, was="parked")
    return True


async def _anew(tx: AsyncConnection, intent: Row[Any], decision: Row[Any], action: Action, so: Circumstances) -> Answer:
    """As if it arrived now, but that nobody is asked again about what people have agreed to or what has begun."""
    has_begun = bool(await store.attempts_of(tx, decision.id))
    if so.now > intent.valid_until and not has_begun:
        return Hold("stale")
    if decision.undoes:
        return Execute("undo")
    if await tx.scalar(select(escalations.c.id).where(escalations.c.decision_id == decision.id, escalations.c.status == "approved")):
        return Execute("approved")
    if has_begun:
        return Execute()
    return route(Proposal(decision.kind, decision.mode, decision.simulated, decision.evidence, decision.valid_until, action), so)
