"""What people do: approve, reject, undo, stop everything. Each act is one transaction with its ledger entry; of two that race, one wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import parking, store
from services.actions.core.letter import Action, action_of, canonical
from services.actions.core.policy import Circumstances, last_call, why_parked
from services.actions.core.progress import standing
from services.actions.executors.contract import Step
from services.actions.intake import content_hash
from services.actions.ledger import store as ledger
from services.actions.ledger.witness import Witness
from services.actions.metrics import Metrics
from services.actions.store import Change
from services.actions.tables import decisions, escalations
from services.adapters.db.database import Database, again
from services.adapters.faultpoint import faultpoint
from services.kernel.errors import Conflict, Forbidden, NotFound, RejectedInput, Unavailable
from services.kernel.ids import digest
from services.kernel.principal import Principal
from services.kernel.record import Outcome

OPPOSITE = {"pause": "resume", "resume": "pause"}
AT_ONCE = 50  # decisions in a transaction that people wait for: a fraction of a second
PENDING = ("waiting", "executing", "parked")
UNDO_VALID_FOR = 15 * 60 * 1_000_000
IS_LATE = and_(escalations.c.status == "waiting", escalations.c.expires_at < bindparam("now"))
ANY_LATE = select(escalations.c.id).where(IS_LATE).limit(1)


class People:
    """`circumstances(now_killed)` says what is so at this moment; `wake` tells the worker that there is something to do."""

    def __init__(
        self,
        database: Database,
        circumstances: Callable[[bool], Circumstances],
        metrics: Metrics,
        wake: Callable[[], None],
        witness: Witness | None = None,
    ) -> None:
        self.witness = witness
        self.database, self.circumstances, self.metrics, self.wake = database, circumstances, metrics, wake

    @again
    async def approve(self, who: Principal, escalation_id: str, comment: str) -> None:
        """The action is queued, valid anew from now. Raises Conflict where it was answered, has expired or may not run now; then it is as it was."""
        async with self.database.writing(store.turn(who.workspace)) as tx:
            row = await self._answerable(tx, who, escalation_id)
            decision = await store.decision(tx, who.workspace, row.decision_id)
            assert decision is not None  # an escalation is written in the transaction of its decision
            so = self.circumstances((await store.kill_switch(tx, who.workspace)).engaged)
            action = action_of(decision.action)
            if why := why_parked(action.steps, decision.simulated, so):
                raise Conflict(f"nothing may be changed now ({why}); the escalation still waits", reason=why)
            change = Change(so.now)
            await self._answer(tx, change, who, row, "approved", comment)
            await store.mark(tx, decision.id, "executing", "approved", so.now)
            valid_until = last_call(so.now + action.valid_for, action.valid_for)
            await store.queue(tx, decision.id, who.workspace, decision.position, action.steps, valid_until, decision.rule)
            change.tell(Outcome(who.workspace, decision.id, "approved", path=decision.path, reason="approved", by=who.name))
            await change.write(tx)
        faultpoint("people.approved")
        self._count(change)

    @again
    async def reject(self, who: Principal, escalation_id: str, comment: str) -> None:
        """The action will not run. Raises Conflict where it was answered or has expired."""
        _say_why(comment)
        async with self.database.writing(store.turn(who.workspace)) as tx:
            row = await self._answerable(tx, who, escalation_id)
            change = Change(self.circumstances(False).now)
            await self._answer(tx, change, who, row, "rejected", comment)
            await store.end(tx, change, who.workspace, row.decision_id, "rejected", "rejected", who.name)
            await change.write(tx)
        faultpoint("people.rejected")
        self._count(change)

    @again
    async def cancel(self, who: Principal, decision_id: str, reason: str) -> None:
        """What the decision proposes is not carried out. Raises Conflict where it has ended, or where something of it was intended already."""
        _say_why(reason)
        async with self.database.writing(store.turn(who.workspace)) as tx:
            row = await store.decision(tx, who.workspace, decision_id)
            if row is None:
                raise NotFound(f"there is no decision {decision_id}")
            if row.status not in PENDING:
                raise Conflict(f"the decision is {row.status}: there is nothing to cancel", reason="nothing_to_cancel")
            change = Change(self.circumstances(False).now)
            if not await self._cancel(tx, change, who, row, reason):
                raise Conflict("something of it is under way or done: undo it once it has ended", reason="has_begun")
            await change.write(tx)
        faultpoint("people.cancelled")
        self._count(change)

    async def cancel_all(self, who: Principal, rule: str, reason: str) -> tuple[int, int]:
        """All that a rule has decided so far, in any version, is not carried out: (how much that was, how much had begun and goes on).

        A few at a time, between which the kill switch and the workers have their turns. Raises NotFound where the rule has never decided anything.
        """
        _say_why(reason)
        its = (decisions.c.workspace == who.workspace) & (decisions.c.rule == rule) & (decisions.c.undoes == "")
        async with self.database.reading() as connection:
            newest = await connection.scalar(select(func.max(decisions.c.position)).where(its))
        if newest is None:
            raise NotFound(f"no rule {rule!r} has decided anything in this workspace")
        cancelled = begun = last = 0
        while last < newest:
            last, done, left = await self._cancel_some(who, and_(its, decisions.c.position > last, decisions.c.position <= newest), newest, reason)
            cancelled, begun = cancelled + done, begun + left
        return cancelled, begun

    @again
    async def _cancel_some(self, who: Principal, which: ColumnElement[bool], newest: int, reason: str) -> tuple[int, int, int]:
        """The first of them: (the position of the last that was looked at, how many are cancelled, how many go on)."""
        async with self.database.writing(store.turn(who.workspace)) as tx:
            change = Change(self.circumstances(False).now)
            pending = select(decisions).where(which, decisions.c.status.in_(PENDING)).order_by(decisions.c.position).limit(AT_ONCE)
            rows = (await tx.execute(pending)).all()
            done = [await self._cancel(tx, change, who, row, reason) for row in rows]
            await change.write(tx)
        faultpoint("people.cancelled")
        self._count(change)
        return int(rows[-1].position) if len(rows) == AT_ONCE else newest, sum(done), len(done) - sum(done)

    async def _cancel(self, tx: AsyncConnection, change: Change, who: Principal, row: Row[Any], reason: str) -> bool:
        """False where an attempt is there that may have been sent. A worker that is about to intend finds its lease gone."""
        if any(a.answer != "unsent" for a in await store.attempts_of(tx, row.id)):
            return False
        waiting = (escalations.c.decision_id == row.id) & (escalations.c.status == "waiting")
        answer = {"status": "cancelled", "answered_by": who.name, "answered_at": change.now, "comment": reason}
        asked = (await tx.execute(update(escalations).where(waiting).values(answer).returning(escalations.c.id))).scalar()
        if asked is not None:
            change.note(who.workspace, "escalation.cancelled", row.id, who.name, escalation=asked, reason=reason)
        change.note(who.workspace, "decision.cancelled", row.id, who.name, reason=reason, was=row.status)
        await store.end(tx, change, who.workspace, row.id, "cancelled", "cancelled", who.name)
        return True

    async def expire(self) -> int:
        """Escalations that nobody answered in time end with the safe default they named: nothing is changed."""
        now = self.circumstances(False).now
        async with self.database.reading() as connection:
            if (await connection.execute(ANY_LATE, {"now": now})).first() is None:
                return 0
            somewhere = await store.workspaces(connection, escalations.c.workspace, IS_LATE, now)
        return sum([await self._expire_in(workspace) for workspace in somewhere])

    @again
    async def _expire_in(self, workspace: str) -> int:
        async with self.database.writing(store.turn(workspace)) as tx:
            change = Change(self.circumstances(False).now)
            late = and_(escalations.c.workspace == workspace, escalations.c.status == "waiting", escalations.c.expires_at < change.now)
            rows = (await tx.execute(update(escalations).where(late).values(status="expired", answered_at=change.now).returning(escalations))).all()
            for row in sorted(rows, key=lambda r: r.position):
                change.note(row.workspace, "escalation.expired", row.decision_id, "", escalation=row.id, otherwise=row.otherwise)
                await store.end(tx, change, row.workspace, row.decision_id, "expired", "no_answer", "")
            await change.write(tx)
            faultpoint("actions.expiring")
        self._count(change)
        return len(rows)

    @again
    async def undo(self, who: Principal, decision_id: str, comment: str) -> str:
        """A new decision, by this person, that restores what the platform said before; returns its id. It takes the same way as any other."""
        async with self.database.writing(store.turn(who.workspace)) as tx:
            row = await store.decision(tx, who.workspace, decision_id)
            if row is None:
                raise NotFound(f"there is no decision {decision_id}")
            if row.status not in ("verified", "unknown"):
                raise Conflict(f"the decision is {row.status}: there is nothing to undo", reason="nothing_to_undo")
            steps = await self._restoring(tx, decision_id)
            so = self.circumstances((await store.kill_switch(tx, who.workspace)).engaged)
            action = _undoing(action_of(row.action), steps)
            valid_until = so.now + UNDO_VALID_FOR
            if why := why_parked(action.steps, row.simulated, so):
                raise Conflict(f"nothing may be changed now ({why})", reason=why)
            undo_id = await self._undo_id(tx, decision_id)
            change = Change(so.now)
            await tx.execute(insert(decisions).values(_undo_row(row, undo_id, action, who, comment, so.now, valid_until)))
            position = (await store.positions(tx, [undo_id]))[undo_id]
            await store.queue(tx, undo_id, who.workspace, position, steps, valid_until, who.name)
            change.note(who.workspace, "undo.requested", undo_id, who.name, undoes=decision_id, reason=comment)
            await change.write(tx)
        faultpoint("people.undone")
        self._count(change)
        return undo_id

    @again
    async def set_kill_switch(self, who: Principal, engaged: bool, reason: str) -> store.Switch:
        """Engaged: nothing of the workspace is written any more, and what was queued is parked. Released: what is parked and still valid is carried out.

        Where the ledger's witness holds it, engaged: a person's switch is beneath the hold. Released: two people end the hold, and a switch beneath it remains.
        """
        if engaged and not reason.strip():
            raise RejectedInput("say why: everyone who meets the switch will read it", reason="reason_missing")
        async with self.database.writing(store.turn(who.workspace)) as tx:
            change = Change(self.circumstances(False).now)
            before = await store.kill_switch(tx, who.workspace)
            if before.cause == store.WITNESS and not engaged and not await self._second(tx, change, who, before, reason):
                return replace(before, first=who.name)
            switch = _switched(before, store.Switch(engaged, reason, who.name, change.now))
            await store.set_switch(tx, who.workspace, switch)
            said = "engaged" if engaged else "remains" if switch.engaged else "released"
            change.note(who.workspace, "kill_switch." + said, "", who.name, reason=reason)
            if switch.engaged:
                await parking.park_queued(tx, change, who.workspace, "kill_switch")
            else:
                await parking.release(tx, change, self.circumstances, who.name, who.workspace)
            await change.write(tx)
        faultpoint("people.switched")
        self._count(change)
        return switch

    @again
    async def hold(self, workspace: str, why: str) -> None:
        """Nothing of the workspace is written any more until two people have released it, for the ledger is not what its witness saw."""
        async with self.database.writing(store.turn(workspace)) as tx:
            before = await store.kill_switch(tx, workspace)
            if before.cause == store.WITNESS and before.reason == why:
                return
            change = Change(self.circumstances(False).now)
            own = before.kept if before.cause == store.WITNESS else before if before.engaged else None
            await store.set_switch(tx, workspace, store.Switch(True, why, "the ledger's witness", change.now, store.WITNESS, kept=own))
            change.note(workspace, "kill_switch.engaged", "", "", reason=why, cause=store.WITNESS)
            await parking.park_queued(tx, change, workspace, "kill_switch")
            await change.write(tx)
        self._count(change)

    async def _second(self, tx: AsyncConnection, change: Change, who: Principal, before: store.Switch, reason: str) -> bool:
        """Whether this is the second of the two who release what the witness has set; the witness then sees the ledger as it is now."""
        if who.kind != "session":
            raise Forbidden("two people release what the ledger's witness has set: log in as yourself (trimtab login); a key is nobody")
        if not reason.strip():
            raise RejectedInput("say why the ledger may be gone on from: auditors will read it", reason="reason_missing")
        if before.first == who.name:
            raise Conflict("you have agreed already; a second person has to", reason="same_person")
        if not before.first:
            await store.set_switch(tx, who.workspace, replace(before, first=who.name))
            change.note(who.workspace, "kill_switch.release_asked", "", who.name, reason=reason)
            await change.write(tx)
            return False
        if self.witness is not None:
            try:
                await asyncio.to_thread(self.witness.write, await ledger.head(tx, who.workspace), change.now)
            except OSError as error:
                raise Unavailable(f"the ledger's witness cannot be written: {error}", reason="witness") from error
        change.note(who.workspace, "witness.accepted", "", who.name, first=before.first, reason=reason)
        return True

    async def _answerable(self, tx: AsyncConnection, who: Principal, escalation_id: str) -> Row[Any]:
        this = (escalations.c.id == escalation_id) & (escalations.c.workspace == who.workspace)
        row = (await tx.execute(select(escalations).where(this).with_for_update())).first()
        if row is None:
            raise NotFound(f"there is no escalation {escalation_id}")
        if row.status != "waiting":
            raise Conflict(f"it was {row.status}" + (f" by {row.answered_by}" if row.answered_by else ""), reason=f"already_{row.status}")
        if row.expires_at < self.circumstances(False).now:
            raise Conflict(f"its time is over; as it said then: {row.otherwise}", reason="already_expired")
        return row

    async def _answer(self, tx: AsyncConnection, change: Change, who: Principal, row: Row[Any], status: str, comment: str) -> None:
        answer = {"status": status, "answered_by": who.name, "answered_at": change.now, "comment": comment}
        this = (escalations.c.id == row.id) & (escalations.c.status == "waiting")
        if (await tx.execute(update(escalations).where(this).values(answer))).rowcount != 1:
            raise Conflict("somebody was faster", reason="already_answered")
        faultpoint("people.answering")
        change.note(who.workspace, "escalation." + status, row.decision_id, who.name, escalation=row.id, reason=comment)

    async def _restoring(self, tx: AsyncConnection, decision_id: str) -> tuple[Step, ...]:
        """The steps back to what the platform said before each change of ours; decreases first, so that a sum never grows on the way."""
        ours = standing(await store.attempts_of(tx, decision_id))
        steps = [Step(a.path, a.attribute, a.desired, a.observed) for a in ours if a.observed is not None]
        if not steps:
            raise Conflict("nothing was changed at the platform, or what was there before is not known", reason="nothing_to_undo")
        return tuple(sorted(steps, key=_growth))

    async def _undo_id(self, tx: AsyncConnection, decision_id: str) -> str:
        """The first undo's id is the hash of what it undoes; another one is possible once the last came to nothing."""
        earlier = (await tx.execute(select(decisions.c.status).where(decisions.c.undoes == decision_id).order_by(decisions.c.position))).scalars().all()
        if earlier and earlier[-1] not in ("held", "failed", "cancelled"):
            raise Conflict(f"it has been undone already; that undo is {earlier[-1]}", reason="already_undone")
        return digest("undo", decision_id, str(len(earlier) + 1)) if earlier else digest("undo", decision_id)

    def _count(self, change: Change) -> None:
        self.metrics.count(change)
        self.wake()


def _say_why(reason: str) -> None:
    if not reason.strip():
        raise RejectedInput("say why: the rule's owner will read it", reason="reason_missing")


def _switched(before: store.Switch, own: store.Switch) -> store.Switch:
    """The switch once a person has set theirs to `own`, and two people have released the witness's where it holds and this is no engaging."""
    if before.cause != store.WITNESS:
        return own
    if own.engaged:
        return replace(before, kept=own)  # on top of it, it would let one person alone release the hold
    return before.kept or own


def _growth(step: Step) -> int:
    if isinstance(step.desired, int) and isinstance(step.observed, int):
        return step.desired - step.observed
    return 0


def _undoing(action: Action, steps: tuple[Step, ...]) -> Action:
    return replace(action, do=OPPOSITE.get(action.do, action.do), path="|".join(s.path for s in steps), valid_for=UNDO_VALID_FOR, steps=steps)


def _undo_row(row: Row[Any], undo_id: str, action: Action, who: Principal, comment: str, now: int, valid_until: int) -> dict[str, Any]:
    proposed = asdict(action)
    body = canonical(
        {"id": undo_id, "undoes": row.id, "by": who.name, "reason": comment, "now": now, "workspace": row.workspace, "action": canonical(proposed)}
    )
    same = ("workspace", "rule", "version", "mode", "boundary", "simulated")
    return {
        **{name: getattr(row, name) for name in same},
        "id": undo_id,
        "path": action.path,
        "kind": "fired",
        "at": now,
        "valid_until": valid_until,
        "action": canonical(proposed),
        "refusals": "",
        "evidence": None,
        "body": body,
        "body_hash": content_hash(body),
        "by": who.name,
        "undoes": row.id,
        "status": "executing",
        "reason": "undo",
        "partition": None,
        "offset": None,
        "changed_at": now,
    }
