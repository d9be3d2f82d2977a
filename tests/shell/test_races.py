"""People who act at once, each in a process-like world of their own: real threads, real connections, one SQLite file, and exactly one outcome."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from threading import Barrier, Thread

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.tables import decisions, escalations
from services.actions.worker import ActionsService
from services.adapters.db.clock import Own
from services.adapters.db.database import Database
from services.kernel.errors import Conflict
from services.kernel.ids import digest
from services.kernel.principal import Principal
from tests.shell.acting import AD, MINUTE, REVIEWER, World, a_decision, an_action, world

PEOPLE = 64
ROUNDS = 6

Act = Callable[[ActionsService, Principal, int], Coroutine[None, None, object]]  # `i` is the number of the person


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


def person(w: World, i: int, start: Barrier, acts: list[Act], answers: list[list[str]]) -> None:
    """One of many, with connections and an event loop of their own, who does all acts, each at the same moment as everybody else."""

    async def live() -> None:
        database = Database(w.url)
        service = ActionsService(database, w.decisions, w.events, [w.platform], w.clock, CollectorRegistry(), w.conduct, Own(w.wall))
        try:
            for n, act in enumerate(acts):
                start.wait(60)
                try:
                    await act(service, Principal(f"p{i}", "reviewer", "main"), i)
                    answers[n].append("done")
                except Conflict as late:
                    answers[n].append(late.reason)
                except Exception as other:  # told by the test, which would else wait for a thread that is gone
                    answers[n].append(f"{type(other).__name__}: {other}")
        finally:
            await database.close()

    asyncio.run(live())


async def at_once(w: World, acts: list[Act]) -> list[Counter[str]]:
    answers: list[list[str]] = [[] for _ in acts]
    start = Barrier(PEOPLE)
    threads = [Thread(target=person, args=(w, i, start, acts, answers)) for i in range(PEOPLE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, 240)
    return [Counter(a) for a in answers]


async def chain_holds(w: World) -> bool:
    async with w.database.reading() as connection:
        return isinstance(await ledger.check(connection, "main"), Verified)


def answer(escalation: str) -> Act:
    return lambda service, who, i: (service.people.approve if i % 2 else service.people.reject)(who, escalation, f"says {who.name}")


async def test_of_64_people_who_approve_and_reject_at_once_one_is_heard(w: World) -> None:
    made = [a_decision(k, path=f"{AD}{k}", action=an_action(path=f"{AD}{k}", risk="high")) for k in range(ROUNDS)]
    w.platform.objects.update({(d.path, "status"): "active" for d in made})
    await w.decide(*made)
    await w.service.step()
    told = await at_once(w, [answer(digest("escalation", d.id)) for d in made])
    async with w.database.reading() as connection:
        rows = {row.decision_id: row for row in await connection.execute(select(escalations))}
        entries = Counter((e.kind, e.subject) for e in await ledger.whole(connection, "main"))
    for d, said in zip(made, told, strict=True):
        row = rows[d.id]
        assert said == {"done": 1, f"already_{row.status}": PEOPLE - 1}
        assert (row.status == "approved") == (int(row.answered_by[1:]) % 2 == 1)
        assert entries["escalation.approved", d.id] + entries["escalation.rejected", d.id] == entries[f"escalation.{row.status}", d.id] == 1
    await w.settle()
    assert {path for path, _, _ in w.platform.journal} == {d.path for d in made if rows[d.id].status == "approved"}
    assert len(w.platform.keys) == sum(row.status == "approved" for row in rows.values())
    assert await chain_holds(w)


async def test_of_64_people_who_undo_at_once_one_does(w: World) -> None:
    made = [a_decision(k, path=f"{AD}{k}", action=an_action(path=f"{AD}{k}")) for k in range(2)]
    w.platform.objects.update({(d.path, "status"): "active" for d in made})
    await w.decide(*made)
    await w.settle()

    def undo(decision_id: str) -> Act:
        return lambda service, who, _: service.people.undo(who, decision_id, "")

    assert await at_once(w, [undo(d.id) for d in made]) == [{"done": 1, "already_undone": PEOPLE - 1}] * len(made)
    await w.settle()
    assert len(w.platform.keys) == 2 * len(made)
    assert set(w.platform.objects.values()) >= {"active"} and await chain_holds(w)


async def test_of_an_expiry_and_people_who_answer_too_late_the_expiry_wins(w: World) -> None:
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    await w.service.step()
    w.clock.move(240 * MINUTE + 1)
    escalation = digest("escalation", d.id)

    def act(service: ActionsService, who: Principal, i: int) -> Coroutine[None, None, object]:
        return service.people.expire() if i % 2 else service.people.approve(who, escalation, "")

    [said] = await at_once(w, [act])
    assert said == {"done": PEOPLE // 2, "already_expired": PEOPLE // 2}
    async with w.database.reading() as connection:
        assert (await connection.execute(select(decisions.c.status))).scalars().all() == ["expired"]
        assert [e.kind for e in await ledger.about(connection, "main", d.id)].count("escalation.expired") == 1
    await w.settle()
    assert (w.platform.keys, await chain_holds(w)) == ([], True)


async def test_an_approval_and_the_kill_switch_at_once_write_nothing(w: World) -> None:
    """Whoever is first: the approval is refused, or what it queued is parked."""
    made = [a_decision(k, path=f"{AD}{k}", action=an_action(path=f"{AD}{k}", risk="high")) for k in range(PEOPLE - 1)]
    await w.decide(*made)
    await w.service.step()
    admin = Principal("adam", "admin", "main")

    def act(service: ActionsService, who: Principal, i: int) -> Coroutine[None, None, object]:
        if i == PEOPLE - 1:
            return service.people.set_kill_switch(admin, True, "now")
        return service.people.approve(who, digest("escalation", made[i].id), "")

    [said] = await at_once(w, [act])
    assert said["done"] + said["kill_switch"] == PEOPLE
    await w.settle()
    async with w.database.reading() as connection:
        found = Counter((await connection.execute(select(decisions.c.status))).scalars().all())
    assert (found["parked"], found["waiting"]) == (said["done"] - 1, said["kill_switch"])
    assert (w.platform.keys, await chain_holds(w)) == ([], True)


async def test_an_undo_waits_for_what_is_in_flight_on_its_object(w: World) -> None:
    first = a_decision()
    await w.decide(first)
    await w.service.step()
    w.platform.moods.append("lost_before")
    budget = [{"path": AD, "attribute": "daily_budget", "observed": 80_000_000, "desired": 68_000_000}]
    await w.decide(a_decision(2, action=an_action(do="set_budget", steps=budget)))
    await w.service.step()
    await w.service.people.undo(REVIEWER, first.id, "")
    await w.service.step()
    assert len(w.platform.keys) == 2  # the undo has not been sent while the budget is in doubt
    await w.settle()
    assert w.platform.journal[-1] == (AD, "status", "active")


async def test_an_undo_can_be_undone_and_the_decision_then_stands_again(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    undo = await w.service.people.undo(REVIEWER, d.id, "")
    await w.settle()
    again = await w.service.people.undo(REVIEWER, undo, "it was right")
    await w.settle()
    assert [value for _, _, value in w.platform.journal] == ["paused", "active", "paused"]
    for twice in (d.id, undo):
        with pytest.raises(Conflict) as refused:
            await w.service.people.undo(REVIEWER, twice, "")
        assert refused.value.reason == "already_undone"
    await w.service.people.undo(REVIEWER, again, "")
    await w.settle()
    assert w.platform.objects[AD, "status"] == "active"
