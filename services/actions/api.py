"""The HTTP face of decisions, escalations, undo, the kill switch and the ledger. Everything is of the principal's own workspace; anything else is not found."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import store
from services.actions.core.letter import rfc3339
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Entry, Verified, export_lines
from services.actions.tables import attempts, decisions, escalations, ledger_checks
from services.actions.worker import ActionsService
from services.adapters.http.auth import require
from services.kernel.errors import NotFound, RejectedInput
from services.kernel.principal import Principal

Viewer = Annotated[Principal, Depends(require("viewer"))]
Reviewer = Annotated[Principal, Depends(require("reviewer"))]
Admin = Annotated[Principal, Depends(require("admin"))]
Limit = Annotated[int, Query(ge=1, le=500)]
MICRO = 1_000_000


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2_000)


class OfRule(Reason):
    rule: str = Field(min_length=1, max_length=128)


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    engaged: bool
    reason: str = Field("", max_length=2_000)


def router(service: ActionsService) -> APIRouter:
    """The routes of the actions service, on the database it works with."""
    routes = APIRouter(prefix="/v1", tags=["actions"])
    database, people = service.database, service.people

    @routes.get("/decisions", operation_id="list_decisions")
    async def list_decisions(
        who: Viewer,
        limit: Limit = 50,
        cursor: str | None = None,
        entity: str | None = None,
        rule: str | None = None,
        status: str | None = None,
        kind: str | None = None,
    ) -> dict[str, Any]:
        """Newest first. `entity` is a path: it and everything below it. Pass `next` as `cursor` for the page after."""
        query = _filtered(select(decisions), who.workspace, entity, rule, status, kind)
        if cursor is not None:
            query = query.where(decisions.c.position < _position(cursor))
        async with database.reading() as connection:
            rows = (await connection.execute(query.order_by(decisions.c.position.desc()).limit(limit + 1))).all()
        page, more = rows[:limit], len(rows) > limit
        return {"decisions": [decision(r) for r in page], "next": str(page[-1].position) if more else None}

    @routes.get("/decisions/{decision_id}", operation_id="get_decision")
    async def get_decision(decision_id: str, who: Viewer) -> dict[str, Any]:
        """One decision with all that is known of it: its readings and verdicts, every call, every ledger entry."""
        async with database.reading() as connection:
            row = await store.decision(connection, who.workspace, decision_id)
            if row is None:
                raise NotFound(f"there is no decision {decision_id}")
            calls = (await connection.execute(select(attempts).where(attempts.c.decision_id == decision_id).order_by(attempts.c.intended_at))).all()
            story = await ledger.about(connection, who.workspace, decision_id)
            asked = (await connection.execute(select(escalations).where(escalations.c.decision_id == decision_id))).first()
            undos = (await connection.execute(select(decisions.c.id).where(decisions.c.undoes == decision_id))).scalars().all()
        record = json.loads(row.body)
        return {
            **decision(row),
            "readings": record.get("readings", []),
            "verdicts": record.get("verdicts", []),
            "steps": (json.loads(row.action) if row.action else {}).get("steps", []),
            "attempts": [attempt(r) for r in calls],
            "entries": [entry(e) for e in story],
            "escalation": escalation(asked, row) if asked else None,
            "undone_by": list(undos),
            "record": record,
        }

    @routes.post("/decisions/{decision_id}/undo", status_code=202, operation_id="undo_decision")
    async def undo(decision_id: str, body: Reason, who: Reviewer) -> dict[str, Any]:
        """Restores what the platform said before, as a decision of its own by this person."""
        undo_id = await people.undo(who, decision_id, body.reason)
        return await _one(undo_id, who)

    @routes.post("/decisions/{decision_id}/cancel", operation_id="cancel_decision")
    async def cancel(decision_id: str, body: Reason, who: Reviewer) -> dict[str, Any]:
        """It is not carried out, whether it is queued, parked or waits for people. 409 where something of it is under way, or where it has ended."""
        await people.cancel(who, decision_id, body.reason)
        return await _one(decision_id, who)

    @routes.post("/decisions/cancel", operation_id="cancel_decisions_of_a_rule")
    async def cancel_all(body: OfRule, who: Reviewer) -> dict[str, int]:
        """Nothing that a rule has decided so far is carried out; what is under way goes on, and is counted. To stop what it will decide, retire it first."""
        cancelled, begun = await people.cancel_all(who, body.rule, body.reason)
        return {"cancelled": cancelled, "under_way": begun}

    @routes.get("/escalations", operation_id="list_escalations")
    async def list_escalations(who: Viewer, status: str = "waiting", limit: Limit = 100, cursor: str | None = None) -> dict[str, Any]:
        """Oldest first while they wait, newest first once they are answered."""
        is_waiting = status == "waiting"
        query = select(escalations).where(escalations.c.workspace == who.workspace, escalations.c.status == status)
        if cursor is not None:
            after = _position(cursor)
            query = query.where(escalations.c.position > after if is_waiting else escalations.c.position < after)
        order = escalations.c.position if is_waiting else escalations.c.position.desc()
        async with database.reading() as connection:
            rows = (await connection.execute(query.order_by(order).limit(limit + 1))).all()
            about = await _by_id(connection, [r.decision_id for r in rows])
        page, more = rows[:limit], len(rows) > limit
        return {"escalations": [escalation(r, about[r.decision_id]) for r in page], "next": str(page[-1].position) if more else None}

    @routes.post("/escalations/{escalation_id}/approve", operation_id="approve_escalation")
    async def approve(escalation_id: str, body: Reason, who: Reviewer) -> dict[str, Any]:
        """The action is queued; what the decision saw is compared with the platform once more before anything is changed."""
        await people.approve(who, escalation_id, body.reason)
        return await _answered(escalation_id, who)

    @routes.post("/escalations/{escalation_id}/reject", operation_id="reject_escalation")
    async def reject(escalation_id: str, body: Reason, who: Reviewer) -> dict[str, Any]:
        """The action will not run; the reason is kept."""
        await people.reject(who, escalation_id, body.reason)
        return await _answered(escalation_id, who)

    @routes.get("/kill-switch", operation_id="get_kill_switch")
    async def get_kill_switch(who: Viewer) -> dict[str, Any]:
        async with database.reading() as connection:
            return switch(await store.kill_switch(connection, who.workspace))

    @routes.put("/kill-switch", operation_id="set_kill_switch")
    async def set_kill_switch(body: Switch, who: Admin) -> dict[str, Any]:
        """Engaged: nothing is written any more, and what was queued is parked. Released: what is parked and still valid is carried out.

        Where the ledger's witness holds it, two people release that, and `kept`, a person's own, remains until it is released in its turn.
        """
        return switch(await people.set_kill_switch(who, body.engaged, body.reason))

    @routes.get("/audit", operation_id="list_audit_entries")
    async def audit(who: Viewer, after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100) -> dict[str, Any]:
        """Ledger entries with a sequence above `after`, in order, and where the chain ends."""
        async with database.reading() as connection:
            entries = await ledger.read(connection, who.workspace, after, limit)
            end = await ledger.head(connection, who.workspace)
        return {"entries": [entry(e) for e in entries], "head": {"sequence": end.sequence, "hash": end.hash}}

    @routes.get("/audit/verify", operation_id="verify_audit")
    async def verify(who: Viewer) -> dict[str, Any]:
        """Walks the whole chain; names the first link that does not hold."""
        async with database.reading() as connection:
            found = await ledger.check(connection, who.workspace)
        if isinstance(found, Verified):
            return {"verified": True, "entries": found.head.sequence, "head": found.head.hash}
        return {"verified": False, "broken_at": found.sequence, "why": found.why}

    @routes.get("/audit/export", operation_id="export_audit")
    async def export(who: Viewer) -> StreamingResponse:
        """The whole chain as JSON lines, its head last: what the offline verifier reads."""
        async with database.reading() as connection:
            entries = await ledger.whole(connection, who.workspace)
            end = await ledger.head(connection, who.workspace)
        return StreamingResponse((line + "\n" for line in export_lines(entries, end)), media_type="application/x-ndjson")

    @routes.get("/overview", operation_id="get_overview")
    async def overview(who: Viewer) -> dict[str, Any]:
        """Counts by status and by refusal, what waits for people, the kill switch, and where the ledger ends."""
        async with database.reading() as connection:
            ours = decisions.c.workspace == who.workspace
            statuses = await connection.execute(
                select(decisions.c.status, decisions.c.kind, func.count()).where(ours).group_by(decisions.c.status, decisions.c.kind)
            )
            refused = await connection.execute(
                select(decisions.c.refusals, func.count()).where(ours, decisions.c.kind == "refused").group_by(decisions.c.refusals)
            )
            stopped = await connection.execute(
                select(decisions.c.status, decisions.c.reason, func.count())
                .where(ours, decisions.c.status.in_(("held", "parked")))
                .group_by(decisions.c.status, decisions.c.reason)
            )
            reasons: dict[str, dict[str, int]] = {"held": {}, "parked": {}}
            for status, reason, number in stopped:
                reasons[status][reason] = number
            waiting = escalations.c.workspace == who.workspace, escalations.c.status == "waiting"
            count = await connection.scalar(select(func.count()).select_from(escalations).where(*waiting))
            kill = await store.kill_switch(connection, who.workspace)
            end = await ledger.head(connection, who.workspace)
            checked = (await connection.execute(select(ledger_checks).where(ledger_checks.c.workspace == who.workspace))).first()
        by_status: Counter[str] = Counter()
        by_kind: Counter[str] = Counter()
        for status, kind, number in statuses:
            by_status[status] += number
            by_kind[kind] += number
        by_refusal: Counter[str] = Counter()
        for names, number in refused:
            for name in filter(None, names.split(",")):
                by_refusal[name] += number
        return {
            "statuses": dict(by_status),
            "kinds": dict(by_kind),
            "refusals": dict(by_refusal),
            **reasons,
            "waiting": count or 0,
            "kill_switch": switch(kill),
            "ledger": {
                "sequence": end.sequence,
                "hash": end.hash,
                "verified": checked.sequence if checked else 0,
                "broken_at": (checked.broken or None) if checked else None,
                "why": checked.why if checked else "",
            },
            "holding": service.conduct.hold,
        }

    async def _one(decision_id: str, who: Principal) -> dict[str, Any]:
        async with database.reading() as connection:
            row = await store.decision(connection, who.workspace, decision_id)
        if row is None:
            raise NotFound(f"there is no decision {decision_id}")
        return decision(row)

    async def _answered(escalation_id: str, who: Principal) -> dict[str, Any]:
        async with database.reading() as connection:
            row = (await connection.execute(select(escalations).where(escalations.c.id == escalation_id, escalations.c.workspace == who.workspace))).one()
            about = await _by_id(connection, [row.decision_id])
        return escalation(row, about[row.decision_id])

    return routes


def decision(row: Row[Any]) -> dict[str, Any]:
    """D, as every list shows it."""
    return {
        "id": row.id,
        "rule": row.rule,
        "version": row.version,
        "path": row.path,
        "kind": row.kind,
        "mode": row.mode,
        "at": rfc3339(row.at),
        "boundary": row.boundary,
        "action": json.loads(row.action) if row.action else None,
        "status": row.status,
        "reason": row.reason,
        "refusals": [name for name in row.refusals.split(",") if name],
        "evidence": row.evidence,
        "simulated": row.simulated,
        "by": row.by,
        "undoes": row.undoes or None,
        "valid_until": rfc3339(row.valid_until),
        "changed_at": rfc3339(row.changed_at),
    }


def escalation(row: Row[Any], about: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "decision": decision(about),
        "by": row.by,
        "otherwise": row.otherwise,
        "opened_at": rfc3339(row.opened_at),
        "expires_at": rfc3339(row.expires_at),
        "status": row.status,
        "reason": row.reason,
        "answered_by": row.answered_by or None,
        "answered_at": rfc3339(row.answered_at) if row.answered_at is not None else None,
        "comment": row.comment,
    }


def attempt(row: Row[Any]) -> dict[str, Any]:
    return {
        "step": row.step,
        "role": row.role,
        "path": row.path,
        "attribute": row.attribute,
        "observed": json.loads(row.observed),
        "desired": json.loads(row.desired),
        "answer": row.answer,
        "detail": row.detail,
        "seen": json.loads(row.seen),
        "status": row.status,
        "reason": row.reason,
        "intended_at": rfc3339(row.intended_at),
        "finished_at": rfc3339(row.finished_at) if row.finished_at is not None else None,
    }


def entry(e: Entry) -> dict[str, Any]:
    return {
        "sequence": e.sequence,
        "at": rfc3339(e.at),
        "kind": e.kind,
        "subject": e.subject,
        "by": e.by,
        "body": json.loads(e.body),
        "previous": e.previous,
        "hash": e.hash,
    }


def switch(s: store.Switch) -> dict[str, Any]:
    """Who has set it and why; `kept` is a person's own beneath the hold of the ledger's witness, which remains once that is released."""
    reason = s.reason + (f"; {s.first} agrees to its release, a second person has to" if s.cause and s.first else "; two people release it" if s.cause else "")
    kept = {"reason": s.kept.reason, "by": s.kept.by, "at": rfc3339(s.kept.at)} if s.kept else None
    return {"engaged": s.engaged, "reason": reason, "by": s.by or None, "at": rfc3339(s.at) if s.at else None, "cause": s.cause, "kept": kept}


async def _by_id(connection: AsyncConnection, ids: list[str]) -> dict[str, Row[Any]]:
    return {row.id: row for row in await connection.execute(select(decisions).where(decisions.c.id.in_(ids)))}


def _filtered(query: Select[Any], workspace: str, entity: str | None, rule: str | None, status: str | None, kind: str | None) -> Select[Any]:
    query = query.where(decisions.c.workspace == workspace)
    if entity:
        path = decisions.c.path
        below = path.startswith(entity + "/", autoescape=True)
        pair = path.startswith(entity + "|", autoescape=True) | path.endswith("|" + entity, autoescape=True)
        query = query.where((path == entity) | below | pair)
    if rule:
        query = query.where(decisions.c.rule == rule)
    if status:
        query = query.where(decisions.c.status == status)
    if kind:
        query = query.where(decisions.c.kind == kind)
    return query


def _position(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise RejectedInput("the cursor is not one of ours: pass the `next` of the page before", reason="cursor")
    return int(cursor)
