"""Random days of the actions service: people, the switch, restarts and a platform at its worst, in any order; what must never be is looked for after each."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from services.actions.core.policy import ROOM
from services.actions.executors.contract import Answer, Observed, Step
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.store import FINAL
from services.actions.store import kill_switch as switch_of
from services.actions.tables import attempts, decisions, escalations, in_flight, intents
from services.actions.worker import Conduct
from services.kernel.errors import Conflict
from tests.shell.acting import (
    AD,
    ADMIN,
    EUR,
    MINUTE,
    OTHER,
    POINTS,
    REVIEWER,
    SECOND,
    Crash,
    Ends,
    Platform,
    World,
    a_decision,
    a_refusal,
    a_shift,
    an_action,
    world,
)

MOODS = ("ok", "ok", "ok", "refused", "lost_after", "lost_before", "raises")
WEIGHTS = (5, 12, 1, 3, 1, 2, 1, 3, 1, 5, 1, 3)
STATUS_OF = {"escalation.approved": "executing", "undo.requested": "executing"}


class Witness(Platform):
    """Sees at each write what is committed: an intent, and no switch or hold in its way. What it has against one is kept; an error would be caught."""

    world: World
    against: list[str]

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        async with self.world.database.reading() as connection:
            [row] = (await connection.execute(select(attempts).where(attempts.c.key == idempotency_key))).all()
            is_stopped = (await switch_of(connection, "main")).engaged or self.world.service.conduct.hold
        seen = {
            "the switch or the hold is on": is_stopped,
            "the intent is another": (row.path, json.loads(row.desired), row.answer) != (step.path, step.desired, ""),
            "it was sent before": idempotency_key in self.keys,
        }
        self.against += [fault for fault, is_so in seen.items() if is_so]
        return await super().write(step, observed, idempotency_key)


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        made.platform.__class__ = Witness
        made.platform.world, made.platform.against = made, []  # type: ignore[attr-defined]
        yield made


def somewhere(rng: random.Random) -> Ends:
    """Some point and hit; the process may never come there."""
    return Ends(rng.choice(POINTS), rng.randint(1, 4))


async def decide(w: World, rng: random.Random, k: int) -> None:
    now, path = w.clock.now(), rng.choice((AD, OTHER))
    status, budget = w.platform.objects[path, "status"], w.platform.objects[path, "daily_budget"]
    asks = {"risk": rng.choice(("low", "low", "high")), "valid_for": 15 * MINUTE}
    actions = {
        "pause": an_action(path=path, steps=[{"path": path, "attribute": "status", "observed": status, "desired": "paused"}], **asks),
        "resume": an_action(do="resume", path=path, steps=[{"path": path, "attribute": "status", "observed": status, "desired": "active"}], **asks),
        "set": an_action(do="set_budget", path=path, steps=[{"path": path, "attribute": "daily_budget", "observed": budget, "desired": budget}], **asks),
        "notify": an_action(do="notify", path=path, steps=[], **asks),
    }
    from_, to = w.platform.objects[AD, "daily_budget"], w.platform.objects[OTHER, "daily_budget"]
    assert isinstance(from_, int) and isinstance(to, int)
    shift = [
        {"path": AD, "attribute": "daily_budget", "observed": from_, "desired": from_ - EUR},
        {"path": OTHER, "attribute": "daily_budget", "observed": to, "desired": to + EUR},
    ]
    made = [a_decision(k, path=path, now=now, valid_until=now + 15 * MINUTE, action=a) for a in actions.values()]
    made += [a_decision(k, path=f"{AD}|{OTHER}", now=now, valid_until=now + 15 * MINUTE, action=a_shift(steps=shift, **asks))] * 2
    made += [a_refusal(k, now=now), a_decision(k, path=path, now=now, action='{"do":"delete"}')]
    await w.decide(rng.choices(made, [3, 3, 3, 1, 6, 6, 1, 1])[0])


async def people(w: World, rng: random.Random, table: Any, act: str) -> None:
    async with w.database.reading() as connection:
        ids = (await connection.execute(select(table.c.id).order_by(table.c.position))).scalars().all()
    if ids:
        with suppress(Conflict):
            await getattr(w.service.people, act)(REVIEWER, rng.choice(ids), "because")


async def one_thing(w: World, rng: random.Random, k: int) -> None:
    match rng.choices(("decide", "step", "again", "approve", "reject", "undo", "on", "off", "time", "mood", "away", "restart"), WEIGHTS)[0]:
        case "decide":
            await decide(w, rng, k)
        case "step":
            w.wall.move(rng.choice((0, 1, 10, 100)) * SECOND)
            await w.service.step()
        case "again" if w.decisions.records:
            await w.decide(rng.choice(w.decisions.records)[1])
        case "approve" | "reject" as act:
            await people(w, rng, escalations, act)
        case "undo":
            await people(w, rng, decisions, "undo")
        case "on" | "off" as state:
            await w.service.people.set_kill_switch(ADMIN, state == "on", "so")
        case "time":
            w.clock.move(rng.choice((SECOND, SECOND, MINUTE, MINUTE, 15 * MINUTE - ROOM, 300 * MINUTE)))
        case "mood":
            w.platform.moods.append(rng.choice(MOODS))
        case "away":
            w.platform.unreadable += rng.choice((1, 2, 7))
        case "restart":
            w.start(somewhere(rng), replace(w.conduct, hold=rng.random() < 0.2))
            await w.service.execution.take_over()
            await w.service.release()


async def look(w: World) -> None:
    """The ledger says of every decision what the tables say; what has ended holds nothing and has been told."""
    assert w.platform.against == []  # type: ignore[attr-defined]
    async with w.database.reading() as connection:
        assert isinstance(await ledger.check(connection, "main"), Verified)
        entries = await ledger.whole(connection, "main")
        rows = (await connection.execute(select(decisions))).all()
        waiting = {e.decision_id: e.status for e in await connection.execute(select(escalations))}
        states = {i.decision_id: i.state for i in await connection.execute(select(intents))}
        busy = {f.decision_id for f in await connection.execute(select(in_flight))}
    for row in rows:
        of = [e for e in entries if e.subject == row.id]
        ends = [json.loads(e.body) for e in of if e.kind == "outcome" and json.loads(e.body)["status"] != "approved"]
        if row.status in FINAL:
            assert states.get(row.id, "done") == "done" and row.id not in busy, row
            assert ends[0]["status"] == row.status, (row, ends)
        else:
            last = [e.kind for e in of if e.kind.startswith("decision.") or e.kind in STATUS_OF][-1]
            assert STATUS_OF.get(last, last.removeprefix("decision.")) == row.status, (row, of)
            assert not ends
            assert states.get(row.id) in {"parked": ("parked",), "executing": ("queued", "running")}.get(row.status, (None,)), (row, states)
        assert (row.status == "waiting") == (waiting.get(row.id) == "waiting")


async def rest(w: World) -> None:
    """Everything works again, and all comes to its end."""
    w.platform.moods.clear()
    w.platform.unreadable = 0
    w.start(conduct=Conduct())
    await w.service.execution.take_over()
    await w.service.people.set_kill_switch(ADMIN, False, "")
    await w.service.release()
    await w.settle(60)
    w.clock.move(300 * MINUTE)
    await w.settle(5)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nothing_is_written_twice_unseen_or_against_the_switch(w: World, seed: int) -> None:
    await walk(w, seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 42))
async def test_whatever_happens_in_longer_days(w: World, seed: int) -> None:
    await walk(w, seed, 120)


async def walk(w: World, seed: int, things: int) -> None:
    rng = random.Random(seed)
    for k in range(things):
        try:
            await one_thing(w, rng, k)
        except Crash:
            w.start(conduct=w.service.conduct)
            await w.service.execution.take_over()
            await w.service.release()
        await look(w)
    await rest(w)
    await look(w)
    async with w.database.reading() as connection:
        rows = (await connection.execute(select(decisions))).all()
    assert [r for r in rows if r.status not in (*FINAL, "recorded")] == []
    if not any(r.status == "unknown" for r in rows):  # what nobody knows is for people; all else conserves the sum to the cent
        assert sum(v for (_, attribute), v in w.platform.objects.items() if attribute == "daily_budget" and isinstance(v, int)) == 160 * EUR
    assert len(w.platform.keys) == len(set(w.platform.keys))
    told = {o.decision_id for o in w.outcomes()}
    assert {r.id for r in rows if r.status in FINAL} <= told
