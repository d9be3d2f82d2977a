"""Several actions services on one PostgreSQL, in threads and loops of their own, all after the same work: each thing happens once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select, text, update

from services.actions.executors.contract import Answer, Observed, Step
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.store import Switch, kill_switch, turn
from services.actions.tables import attempts, decisions, in_flight, intents, kill_switches
from services.actions.worker import ActionsService
from services.adapters.db.clock import Own
from services.adapters.db.database import Database
from tests.shell.acting import AD, ADMIN, MINUTE, Platform, World, a_decision, an_action, world

WORKERS = 6


class Watched(Platform):
    """Keeps how many writes to one object were under way at once."""

    world: World
    most: int
    under_way: Counter[str]

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        self.under_way[step.path] += 1
        self.most = max(self.most, self.under_way[step.path])
        await asyncio.sleep(0.001)
        self.under_way[step.path] -= 1
        return await super().write(step, observed, idempotency_key)


@pytest.fixture
async def w(tmp_path: Path, on_postgres: Callable[[], str]) -> AsyncIterator[World]:
    async with world(tmp_path, url=on_postgres()) as made:
        made.platform.__class__ = Watched
        made.platform.world, made.platform.most, made.platform.under_way = made, 0, Counter()  # type: ignore[attr-defined]
        yield made


async def together(w: World, act: Callable[[ActionsService, int], Awaitable[object]], workers: int = WORKERS) -> list[object]:
    """What came of `act`, done by each worker at the same moment."""
    said: list[object] = []
    start = Barrier(workers)

    def live(i: int) -> None:
        async def run() -> None:
            database = Database(w.url)
            conduct = replace(w.conduct, owner=f"worker {i}")
            service = ActionsService(database, w.decisions, w.events, [w.platform], w.clock, CollectorRegistry(), conduct, Own(w.wall))
            await asyncio.to_thread(start.wait, 60)
            try:
                said.append(await act(service, i))
            except Exception as error:  # told by the test, which would else see a worker less
                said.append(f"{type(error).__name__}: {error}")
            finally:
                await database.close()

        asyncio.run(run())

    threads = [Thread(target=live, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, 100)
    return said


def several(number: int, workspace: str = "main", **changes: object) -> list:  # type: ignore[type-arg]
    return [
        a_decision(k, workspace=workspace, path=f"{AD}{k}", action=an_action(path=f"{AD}{k}", **changes))  # type: ignore[arg-type]
        for k in range(number)
    ]


async def chains_hold(w: World, *workspaces: str) -> bool:
    async with w.database.reading() as connection:
        return all([isinstance(await ledger.check(connection, workspace), Verified) for workspace in workspaces])


async def test_the_same_log_read_by_several_is_taken_in_once(w: World) -> None:
    made = several(60) + several(60, "other")
    await w.decide(*made)

    async def take_in(service: ActionsService, i: int) -> None:
        for offset in range(0, len(made), 20):
            await service.take_in(0, await w.decisions.read(0, offset, 20))

    assert await together(w, take_in) == [None] * WORKERS
    async with w.database.reading() as connection:
        found = (await connection.execute(select(decisions.c.id))).scalars().all()
    assert sorted(found) == sorted(d.id for d in made)
    assert await chains_hold(w, "main", "other")


async def test_what_several_workers_claim_at_once_is_written_once_and_told_once(w: World) -> None:
    made = several(40) + several(40, "other")
    w.platform.objects.update({(d.path, "status"): "active" for d in made})
    await w.decide(*made[:40])
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))

    async def work(service: ActionsService, i: int) -> None:
        for _ in range(30):
            await service.execution.round()
            await service.publish()

    assert await together(w, work) == [None] * WORKERS
    async with w.database.reading() as connection:
        assert set((await connection.execute(select(decisions.c.status))).scalars().all()) == {"verified"}
        assert (await connection.execute(select(in_flight))).all() == []
    assert len(w.platform.keys) == len(set(w.platform.keys)) == 40
    await w.settle(2)
    assert Counter(o.decision_id for o in w.outcomes()) == {d.id: 1 for d in made[:40]}
    assert await chains_hold(w, "main")


async def test_outcomes_that_another_process_is_publishing_are_left_to_it(w: World) -> None:
    [d] = several(1)
    w.platform.objects[d.path, "status"] = "active"
    await w.decide(d)
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))
    await w.service.execution.round()
    assert len(await w.service._unsent(1)) == 1  # and here it stands still

    async def publish(service: ActionsService, i: int) -> object:
        return await service.publish()

    assert await together(w, publish, 2) == [0, 0]
    w.wall.move(MINUTE)
    assert sorted(await together(w, publish, 2)) == [0, 1]  # type: ignore[type-var]
    assert [o.decision_id for o in w.outcomes()] == [d.id]


async def test_one_object_is_changed_by_one_at_a_time_whoever_claims(w: World) -> None:
    made = [a_decision(k, action=an_action(steps=[{"path": AD, "attribute": "status", "observed": None, "desired": f"s{k}"}])) for k in range(12)]
    await w.decide(*made)
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))

    async def work(service: ActionsService, i: int) -> None:
        for _ in range(20):
            await service.execution.round()

    assert await together(w, work) == [None] * WORKERS
    await w.settle(15)
    assert (len(w.platform.keys), w.platform.most) == (12, 1)  # type: ignore[attr-defined]


async def test_no_intent_is_committed_after_the_kill_switch_was(w: World) -> None:
    made = several(60)
    w.platform.objects.update({(d.path, "status"): "active" for d in made})
    await w.decide(*made)
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))

    async def act(service: ActionsService, i: int) -> object:
        if i == 0:
            await asyncio.sleep(0.15)
            return await service.people.set_kill_switch(ADMIN, True, "now")
        for _ in range(8):
            await service.execution.round()
        return None

    said = await together(w, act)
    assert [type(s) for s in said].count(Switch) == 1 and said.count(None) == WORKERS - 1
    async with w.database.reading() as connection:
        kinds = [e.kind for e in await ledger.whole(connection, "main")]
        assert (await kill_switch(connection, "main")).engaged
        left = (await connection.execute(select(intents.c.state).where(intents.c.state == "queued"))).all()
        sent = (await connection.execute(select(attempts.c.decision_id))).all()
    assert "intent" not in kinds[kinds.index("kill_switch.engaged") :]
    assert (left, len(w.platform.keys)) == ([], len(sent))
    assert await chains_hold(w, "main")


async def test_an_intent_waits_for_the_switch_that_is_about_to_be_committed(w: World) -> None:
    [d] = several(1)
    w.platform.objects[d.path, "status"] = "active"
    await w.decide(d)
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))
    [lease] = await w.service.execution._claim(w.service.execution.lanes[0], "main", 1)
    async with w.database.writing(turn("main")) as tx:
        await tx.execute(insert(kill_switches).values(workspace="main", engaged=True, reason="now", by="adam", at=0))
        executing = asyncio.create_task(w.service.execution._execute(w.service.execution.lanes[0], lease))
        async with w.database.reading() as connection:
            while not executing.done() and not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):  # noqa: ASYNC110
                await asyncio.sleep(0)
    await executing
    async with w.database.reading() as connection:
        assert (await connection.execute(select(decisions.c.status, decisions.c.reason))).one() == ("parked", "kill_switch")
    assert w.platform.keys == []


async def test_a_worker_that_lost_its_lease_to_another_commits_nothing(w: World) -> None:
    [d] = several(1)
    w.platform.objects[d.path, "status"] = "active"
    await w.decide(d)
    await w.service.take_in(0, await w.decisions.read(0, 0, 100))
    [old] = await w.service.execution._claim(w.service.execution.lanes[0], "main", 1)
    w.wall.move(2 * MINUTE)

    async def work(service: ActionsService, i: int) -> None:
        await service.execution.round()

    assert await together(w, work, 3) == [None] * 3
    async with w.database.writing() as tx:  # even where the successor's lease looks like ours but for its token
        await tx.execute(update(intents).values(state="running", lease_until=w.wall.now() + MINUTE))
    await w.service.execution._execute(w.service.execution.lanes[0], old)
    async with w.database.reading() as connection:
        assert len((await connection.execute(select(attempts))).all()) == len(w.platform.keys) == 1
        assert (await connection.execute(select(intents.c.token))).scalars().all() == [old.token + 1]
