"""Carries out intents: claim, read, commit the intent, write once, read back, conclude. What may have been sent is never sent again, only read.

    queued --claim: lease, token, objects free--> running --+--> done (verified | failed | unknown | held)
       ^                                                    |
       +---------- not readable yet, or still in doubt -----+--> parked (the switch, hold mode, no executor): nothing is written until released

A crash at any line leaves either no attempt (nothing was sent) or an attempt without a status (it may have been): the next claim reads the latter back.
Each executor's decisions have a lane of their own, so that a slow platform keeps no other's waiting.
A process that lives and finds, after its intent and before the call, that it may not send withdraws the attempt: nobody has to doubt what was never done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions import parking, store
from services.actions.broken_off import BrokenOff
from services.actions.core.policy import Circumstances, Hold, Park, why_parked
from services.actions.core.progress import (
    APPLY,
    FAILED,
    VERIFIED,
    Attempt,
    Done,
    Settle,
    Write,
    given_up,
    is_as_decided,
    next_move,
    settle,
)
from services.actions.executors.contract import Answer, Executor, Observed, Step
from services.actions.lanes import Lane, lanes_of
from services.actions.ledger import store as ledger
from services.actions.metrics import Metrics
from services.actions.store import Lease
from services.actions.tables import in_flight, intents
from services.adapters.db.clock import Agreed
from services.adapters.db.database import Database, again
from services.adapters.faultpoint import faultpoint
from services.kernel.errors import Unavailable
from services.kernel.ids import digest
from services.kernel.ports import Clock

log = structlog.get_logger("actions")
SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient execution is, in microseconds of the clock that all processes agree on."""

    lease: int = 60 * SECOND  # at least three times `call`
    call: int = 15 * SECOND
    fresh: int = SECOND // 2  # how old the last look at the switch may be when a call begins
    last_looks: int = 3  # of these, until one is fresh
    again: int = 1 * SECOND  # the first wait before another look; doubles each time
    looks: int = 5  # reads before doubt ends
    tries: int = 6  # tries at one step before giving up, or before a restore believes that it is not needed
    at_once: int = 8  # decisions in execution at the same time, of each lane
    idle: int = SECOND // 5  # between looks at the queue when nothing wakes us
    audit: int = 10 * SECOND  # between looks at what of the ledger is to be verified
    show: int = 1 * SECOND  # between counts of the queues for the metrics when nothing happens: they cost more than the look itself


class LostLease(Exception):
    """Another worker took the decision over: whatever this one knows is the other's to find out."""


class Execution:
    """Executes what is queued. `clock` is the decisions' time (validity), `wall` the world's (leases, waits)."""

    def __init__(
        self,
        database: Database,
        executors: Mapping[str, Executor],
        circumstances: Callable[[bool], Circumstances],
        clock: Clock,
        wall: Agreed,
        owner: str,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self.database, self.executors, self.circumstances, self.clock, self.wall = database, executors, circumstances, clock, wall
        self.owner, self.pace, self.metrics = owner, pace, metrics
        self.vouch: Callable[[str], Awaitable[bool]] = _vouched
        self.lanes = lanes_of(executors)
        self.broken_off = BrokenOff(wall, pace.again)

    async def take_over(self) -> None:
        """What a process of the same name left running is due at once: it cannot be alive any more."""
        async with self.database.reading() as connection:
            somewhere = await store.workspaces(connection, intents.c.workspace, and_(intents.c.state == "running", intents.c.owner == self.owner))
        for workspace in somewhere:
            await self._take_over_in(workspace)

    @again
    async def _take_over_in(self, workspace: str) -> None:
        async with self.database.writing(store.turn(workspace)) as tx:
            mine = and_(intents.c.state == "running", intents.c.owner == self.owner, intents.c.workspace == workspace)
            await tx.execute(update(intents).where(mine).values(lease_until=0))
        faultpoint("actions.taken_over")

    async def round(self) -> int:
        """Executes what is due now, each as far as it can go; returns how many were claimed."""
        return sum([await self.round_of(lane) for lane in self.lanes])

    async def round_of(self, lane: Lane) -> int:
        """The places are shared out among the workspaces, so that one with thousands of decisions keeps nobody else's waiting for all of them."""
        somewhere = await self._where_something_is_due(lane)
        leases, lost = self.broken_off.due(lane, self.pace.at_once), None
        try:
            for number, workspace in enumerate(somewhere):
                if len(leases) == self.pace.at_once:
                    break
                leases += await self._claim(lane, workspace, -(-(self.pace.at_once - len(leases)) // (len(somewhere) - number)))
        except Unavailable as error:  # what was claimed before is ours all the same
            lost = error
        await asyncio.gather(*(self._execute(lane, lease) for lease in leases))
        if lost is not None:
            raise lost
        return len(leases)

    async def _where_something_is_due(self, lane: Lane) -> Sequence[str]:
        """The workspaces, that which has waited longest first."""
        async with self.database.reading() as connection:
            now = await self.wall.now(connection)
            if (await connection.execute(lane.any_due, {"now": now})).first() is None:
                return ()
            return (await connection.execute(lane.where_due, {"now": now})).scalars().all()

    @again
    async def _claim(self, lane: Lane, workspace: str, most: int) -> list[Lease]:
        """Leases on due decisions whose objects are free. What has not begun is parked or held instead where it may not begin now, or any more."""
        leases: list[Lease] = []
        async with self.database.writing(store.turn(workspace)) as tx:
            change = store.Change(self.clock.now())
            now = await self.wall.now(tx)
            rows = (await tx.execute(lane.due, {"now": now, "of": workspace})).all()
            for row in rows:
                lease = store.lease_of(row)
                if not await store.attempts_of(tx, lease.decision_id) and (stop := await self._stopped(tx, lease, has_begun=False)):
                    await self._set_aside(tx, change, lease, stop)
                    continue
                this = intents.c.decision_id == lease.decision_id
                if not await self._occupy(tx, lease):
                    await tx.execute(update(intents).where(this).values(due_at=now + self.pace.again))
                    continue
                until = now + self.pace.lease
                await tx.execute(update(intents).where(this).values(state="running", owner=self.owner, token=lease.token + 1, lease_until=until))
                leases.append(replace(lease, token=lease.token + 1))
                if len(leases) == most:
                    break
            await change.write(tx)
        self.metrics.count(change)
        faultpoint("actions.claimed")
        return leases

    async def _stopped(self, tx: AsyncConnection, lease: Lease, has_begun: bool) -> Hold | Park | None:
        """Why nothing of it may be written now, the switch read in this transaction."""
        if lease.steps and not has_begun and self.clock.now() > lease.valid_until:
            return Hold("stale")
        so = self.circumstances((await store.kill_switch(tx, lease.workspace)).engaged)
        why = why_parked(lease.steps, await store.is_simulated(tx, lease.decision_id), so)
        return Park(why) if why else None

    async def _set_aside(self, tx: AsyncConnection, change: store.Change, lease: Lease, stop: Hold | Park) -> None:
        match stop:
            case Hold(reason):
                await store.end(tx, change, lease.workspace, lease.decision_id, "held", reason, lease.by)
            case Park(reason):
                await parking.park(tx, change, lease, reason)

    async def _is_undo(self, lease: Lease) -> bool:
        async with self.database.reading() as connection:
            return await store.is_undo(connection, lease.decision_id)

    async def _occupy(self, tx: AsyncConnection, lease: Lease) -> bool:
        """Whether all objects of the decision are now its own."""
        paths = sorted({s.path for s in lease.steps})
        taken = (await tx.execute(select(in_flight).where(in_flight.c.workspace == lease.workspace, in_flight.c.path.in_(paths)))).all()
        if any(row.decision_id != lease.decision_id for row in taken):
            return False
        free = set(paths) - {row.path for row in taken}
        if free:
            await tx.execute(in_flight.insert(), [{"workspace": lease.workspace, "path": p, "decision_id": lease.decision_id} for p in sorted(free)])
        return True

    async def _execute(self, lane: Lane, lease: Lease) -> None:
        before = self.broken_off.take(lease.decision_id)
        try:
            if before:  # behind whatever of ours may still be on its way into the database
                await self._still_ours(lease)
            while await self._advance(lease):
                lane.beat()
        except LostLease:
            log.warning("lease_lost", decision=lease.decision_id)
        except Unavailable as error:
            log.warning("execution_waits", decision=lease.decision_id, reason=error.reason)  # the lease runs out and is claimed again, but for this:
            if error.reason == "database":
                self.broken_off.put(lane, lease, before)
        except Exception:
            self.metrics.faults.labels("execute").inc()
            log.exception("execution_failed", decision=lease.decision_id)
            with suppress(LostLease, Unavailable):
                await self._later(lease, "bug")

    @again
    async def _still_ours(self, lease: Lease) -> None:
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            await self._hold_lease(tx, lease)

    async def _advance(self, lease: Lease) -> bool:
        """One move; False once nothing more can be done now."""
        async with self.database.reading() as connection:
            attempts = await store.attempts_of(connection, lease.decision_id)
        match next_move(lease.steps, attempts):
            case Done() as done:
                await self._conclude(lease, done)
                return False
            case Settle(attempt):
                return await self._look(lease, attempt)
            case Write() as move:
                return await self._set(lease, move)

    async def _set(self, lease: Lease, move: Write) -> bool:
        step = move.step
        draft = Attempt(move.index, move.role, step.path, step.attribute, None, step.desired)
        if move.role == APPLY and move.index and self.clock.now() > lease.valid_until:
            return await self._unsent(lease, draft, FAILED, "stale")
        observed = await self._read(step)
        if observed is None:
            if await self._later(lease, "unreachable"):
                return False
            return await self._unsent(lease, draft, FAILED, "unreachable")
        faultpoint("actions.observed")
        draft = replace(draft, observed=observed.value)
        if observed.value == step.desired:
            takes_back = move.role != APPLY or await self._is_undo(lease)
            if takes_back and await self._later(lease, "maybe_old"):  # it may be shown from before our own change: only time tells
                return False
            if takes_back or step.observed in (None, step.desired):
                return await self._unsent(lease, draft, VERIFIED, "already_there")
        if why := is_as_decided(step, observed):
            return await self._unsent(lease, draft, FAILED, why)
        key = digest("attempt", lease.decision_id, str(move.index), move.role)
        await self.vouch(lease.workspace)
        begun = self.wall.elapsed()
        if not await self._intend(lease, draft, key):
            return False
        faultpoint("actions.intended")
        if why := await self._why_not_sent(lease, move, begun):
            await self._withdraw(lease, draft, why)
            return False
        answer = await self._write(step, observed, key)
        faultpoint("actions.sent")
        answered = replace(draft, answer=answer.kind, detail=answer.detail[:500])
        if answer.kind == "unsent":
            if await self._withdraw(lease, answered, "unreachable", is_a_try=True):
                return False
            return await self._unsent(lease, draft, FAILED, "unreachable")
        if answer.kind == "refused":
            answered = replace(answered, status=FAILED, reason="refused")
            again = 0 if move.role == APPLY else self.pace.again << self.pace.looks
            await self._save(lease, answered, wait=again)
            return not again
        return await self._look(lease, answered)

    async def _why_not_sent(self, lease: Lease, move: Write, begun: int) -> str:
        """Why what was intended at `begun` may not be sent after all; "" where it may, if the call begins at once: nothing that was so `fresh` ago stops it.

        intent -- commit -- witness -- the last look: switch, hold, validity, lease -- call -- under way
                                       |<-------- fresh -------->|<- UNDER_WAY ->|
        """
        try:
            if not await self.vouch(lease.workspace):  # the intent went into a database that is behind its witness
                return "behind_witness"
            for _ in range(self.pace.last_looks):
                looked, why = await self._look_last(lease, move)
                now = self.wall.elapsed()
                if why:
                    return why
                if now > begun + self.pace.lease - self.pace.call:  # another may have read that nothing was sent, and said so
                    return "stood_still"
                if now <= looked + self.pace.fresh:
                    return ""
        except Unavailable as error:
            return error.reason
        return "too_slow"

    async def _look_last(self, lease: Lease, move: Write) -> tuple[int, str]:
        """What stops the move, "" for nothing, and a moment before which it would have been seen. A reader waits for nobody and keeps nobody waiting."""
        async with self.database.reading() as connection:
            looked = self.wall.elapsed()  # the view is of no earlier moment: it begins with the first statement
            if stop := await self._stopped(connection, lease, has_begun=move.role != APPLY):
                return looked, stop.reason
            now = await self.wall.now(connection)
            is_ours = (await connection.execute(select(intents.c.token).where(_ours(lease, now)))).first() is not None
        return looked, "" if is_ours else "lease_lost"

    async def _look(self, lease: Lease, attempt: Attempt) -> bool:
        """Reads the platform back once more; False where another look has to wait."""
        now = await self._read(Step(attempt.path, attempt.attribute, None, attempt.desired))
        faultpoint("actions.looked")
        looked = settle(replace(attempt, seen=(*attempt.seen, None if now is None else now.value)), self.pace.looks)
        await self._save(lease, looked, wait=0 if looked.status else self.pace.again << (len(looked.seen) - 1))
        faultpoint("actions.recorded")
        return bool(looked.status)

    async def _read(self, step: Step) -> Observed | None:
        """None where the platform could not be asked."""
        try:
            async with asyncio.timeout(self.pace.call / SECOND):
                return await self._executor(step).read(step)
        except (Unavailable, TimeoutError) as error:
            log.warning("platform_not_readable", path=step.path, error=type(error).__name__)
            return None

    async def _write(self, step: Step, observed: Observed, key: str) -> Answer:
        executor = self._executor(step)
        try:
            async with asyncio.timeout(self.pace.call / SECOND):
                answer = await executor.write(step, observed, key)
        except TimeoutError:
            answer = Answer("unclear", "no answer in time")
        except Exception as error:  # an executor that raises has told us nothing about the platform
            log.exception("executor_raised", executor=executor.name)
            answer = Answer("unclear", f"the executor raised {type(error).__name__}")
        self.metrics.calls.labels(executor.name, answer.kind).inc()
        return answer

    def _executor(self, step: Step) -> Executor:
        platform = step.path.split("/", 1)[0]
        if platform not in self.executors:
            raise Unavailable(f"no executor serves {platform}", reason="no_executor")
        return self.executors[platform]

    @again
    async def _intend(self, lease: Lease, attempt: Attempt, key: str) -> bool:
        """The attempt is committed, and may be sent by whoever gets True, once; False where the decision was parked or held instead."""
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            await self._hold_lease(tx, lease)
            stop = await self._stopped(tx, lease, has_begun=bool(await store.attempts_of(tx, lease.decision_id)))
            if stop:
                await self._set_aside(tx, change, lease, stop)
            else:
                await store.add_attempt(tx, lease.workspace, lease.decision_id, attempt, key, change.now)
                await tx.execute(update(intents).where(intents.c.decision_id == lease.decision_id).values(tries=0))
                self._note(change, lease, "intent", attempt)
            await change.write(tx)
            faultpoint("actions.noted")
        self.metrics.count(change)
        return stop is None

    @again
    async def _withdraw(self, lease: Lease, attempt: Attempt, reason: str, is_a_try: bool = False) -> bool:
        """The attempt was never made, as only its process can know, and its decision is put back; not where another has it already.

        False where this `is_a_try`, and the last of them: then the decision stays ours. The ledger knows how many there were of this step. A lease that has run
        out may still be given back so: whoever takes it over raises the token, and from then on reads what nobody has withdrawn.
        """
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            now = await self.wall.now(tx)
            ours = and_(intents.c.decision_id == lease.decision_id, intents.c.token == lease.token, intents.c.state == "running")
            tries = 1 + await self._withdrawn(tx, lease, attempt, reason) if is_a_try else 0
            is_last = tries >= self.pace.tries
            then = {"lease_until": now + self.pace.lease} if is_last else {"state": "queued", "due_at": now + (self.pace.again << tries)}
            if (await tx.execute(update(intents).where(ours).values(then))).rowcount != 1:
                raise LostLease
            await store.withdraw_attempt(tx, lease.decision_id, attempt)
            self._note(change, lease, "intent.withdrawn", replace(attempt, answer="unsent", reason=reason))
            await change.write(tx)
        self.metrics.count(change)
        log.warning("intent_withdrawn", decision=lease.decision_id, reason=reason)
        return not is_last

    async def _withdrawn(self, tx: AsyncConnection, lease: Lease, attempt: Attempt, reason: str) -> int:
        """How often this step was withdrawn for that reason."""
        bodies = [json.loads(e.body) for e in await ledger.about(tx, lease.workspace, lease.decision_id) if e.kind == "intent.withdrawn"]
        return sum((b["step"], b["role"], b["reason"]) == (attempt.step, attempt.role, reason) for b in bodies)

    @again
    async def _unsent(self, lease: Lease, attempt: Attempt, status: str, reason: str) -> bool:
        """Records why nothing was sent for this step."""
        known = replace(attempt, answer="unsent", status=status, reason=reason)
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            await self._hold_lease(tx, lease)
            await store.add_attempt(tx, lease.workspace, lease.decision_id, known, "", change.now)
            await tx.execute(update(intents).where(intents.c.decision_id == lease.decision_id).values(tries=0))
            self._note(change, lease, "result", known)
            await change.write(tx)
        self.metrics.count(change)
        return True

    @again
    async def _save(self, lease: Lease, attempt: Attempt, wait: int = 0) -> None:
        """What is known of an attempt is durable; with `wait`, the decision is put back until then, its objects still its own."""
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            now = await self._hold_lease(tx, lease)
            await store.update_attempt(tx, lease.decision_id, attempt, change.now)
            self._note(change, lease, "result" if attempt.status else "in_doubt", attempt)
            if wait:
                this = intents.c.decision_id == lease.decision_id
                await tx.execute(update(intents).where(this).values(state="queued", due_at=now + wait))
            await change.write(tx)
        self.metrics.count(change)

    @again
    async def _later(self, lease: Lease, reason: str) -> bool:
        """Puts the decision back for another try; False once it has been tried often enough."""
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            now = await self._hold_lease(tx, lease)
            this = intents.c.decision_id == lease.decision_id
            tries = int(await tx.scalar(select(intents.c.tries).where(this)) or 0) + 1
            if tries >= self.pace.tries and reason == "bug":
                done = given_up(lease.steps, await store.attempts_of(tx, lease.decision_id), reason)
                await store.end(tx, change, lease.workspace, lease.decision_id, done.status, reason, lease.by, done.effects)
            elif tries < self.pace.tries:
                await tx.execute(update(intents).where(this).values(state="queued", due_at=now + (self.pace.again << tries), tries=tries))
            await change.write(tx)
        self.metrics.count(change)
        return tries < self.pace.tries

    @again
    async def _conclude(self, lease: Lease, done: Done) -> None:
        async with self.database.writing(store.turn(lease.workspace)) as tx:
            change = store.Change(self.clock.now())
            await self._hold_lease(tx, lease)
            reason = done.reason or ("" if lease.steps else "notified")
            await store.end(tx, change, lease.workspace, lease.decision_id, done.status, reason, lease.by, done.effects)
            await change.write(tx)
            faultpoint("actions.ending")
        self.metrics.count(change)
        faultpoint("actions.concluded")
        log.info("action_ended", decision=lease.decision_id, status=done.status, reason=done.reason)

    async def _hold_lease(self, tx: AsyncConnection, lease: Lease) -> int:
        """Raises LostLease unless the decision is still ours; renews it if so, and returns the time that all agree on."""
        now = await self.wall.now(tx)
        if (await tx.execute(update(intents).where(_ours(lease, now)).values(lease_until=now + self.pace.lease))).rowcount != 1:
            raise LostLease
        return now

    def _note(self, change: store.Change, lease: Lease, kind: str, attempt: Attempt) -> None:
        change.note(
            lease.workspace,
            kind,
            lease.decision_id,
            lease.by,
            role=attempt.role,
            step=attempt.step,
            path=attempt.path,
            attribute=attempt.attribute,
            observed=json.dumps(attempt.observed),
            desired=json.dumps(attempt.desired),
            answer=attempt.answer,
            detail=attempt.detail,
            status=attempt.status,
            reason=attempt.reason,
        )


def _ours(lease: Lease, now: int) -> ColumnElement[bool]:
    this = and_(intents.c.decision_id == lease.decision_id, intents.c.token == lease.token)
    return and_(this, intents.c.state == "running", intents.c.lease_until >= now)


async def _vouched(workspace: str) -> bool:
    return True
