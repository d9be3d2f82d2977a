"""A process that ends at any named point leaves a database from which the next one finishes: nothing doubled, nothing lost."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.store import decision as stored
from services.actions.tables import intents
from services.actions.worker import Rules
from tests.shell.acting import AD, EUR, MINUTE, OTHER, POINTS, SECOND, Crash, Ends, World, a_decision, a_refusal, a_shift, world
from tests.shell.ending import faultpoint

# not on the way of a pause that nobody is asked about
ELSEWHERE = ("actions.asked", "actions.parked", "actions.released", "actions.expiring", "actions.taken_over", "people.")
ON_THE_WAY = [p for p in POINTS if not p.startswith(ELSEWHERE)]


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


async def crash(w: World, point: str, hit: int = 1) -> None:
    w.start(Ends(point, hit))
    with pytest.raises(Crash):
        for _ in range(20):
            await w.service.step()
            w.wall.move(MINUTE)
    w.start()
    await w.service.execution.take_over()


async def status(w: World, decision_id: str) -> tuple[str, str]:
    async with w.database.reading() as connection:
        row = await stored(connection, "main", decision_id)
        assert isinstance(await ledger.check(connection, "main"), Verified)
    assert row is not None
    return row.status, row.reason


@pytest.mark.parametrize("point", ON_THE_WAY)
async def test_a_pause_is_neither_lost_nor_doubled(w: World, point: str) -> None:
    d = a_decision()
    await w.decide(a_refusal(7), d)
    await crash(w, point)
    await w.settle()
    if point == "actions.intended":  # nothing was sent, and nobody can know that: it is read, not repeated
        assert (await status(w, d.id), w.platform.journal) == (("failed", "not_applied"), [])
    else:
        assert (await status(w, d.id), w.platform.journal) == (("verified", ""), [(AD, "status", "paused")])
    told = {(o.decision_id, o.status) for o in w.outcomes()}
    assert told == {(d.id, (await status(w, d.id))[0])}
    assert len(w.outcomes()) == (2 if point == "actions.appended" else 1)  # at least once, and only there twice
    assert len(w.platform.keys) == len(set(w.platform.keys))


@pytest.mark.parametrize("hit", [1, 2, 3])
@pytest.mark.parametrize("point", ["actions.intended", "actions.sent", "actions.recorded"])
@pytest.mark.parametrize("second", ["ok", "refused", "lost_after", "lost_before"])
async def test_a_shift_ends_with_the_sum_it_began_with(w: World, point: str, hit: int, second: str) -> None:
    w.platform.moods.extend(["ok", second])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    w.start(Ends(point, hit))
    try:
        await w.settle()
    except Crash:
        w.start()
        await w.service.execution.take_over()
        await w.settle()
    spent = (w.platform.objects[AD, "daily_budget"], w.platform.objects[OTHER, "daily_budget"])
    assert spent == ((68 * EUR, 92 * EUR) if await status(w, d.id) == ("verified", "") else (80 * EUR, 80 * EUR))
    assert len(w.platform.keys) == len(set(w.platform.keys))
    assert (await status(w, d.id))[0] in ("verified", "failed")


async def test_a_whole_log_read_again_from_the_start_changes_nothing(w: World) -> None:
    made = [a_decision(1), a_refusal(2), a_decision(3, path=OTHER)]
    await w.decide(*made)
    await w.settle()
    journal, told = list(w.platform.journal), list(w.outcomes())
    await w.decide(*made, *made)
    await w.settle()
    assert (w.platform.journal, w.outcomes()) == (journal, told)


async def test_a_worker_that_lost_its_lease_writes_nothing_more(w: World) -> None:
    """The old worker sleeps between reading and writing; its lease runs out and another one takes the decision over."""
    d = a_decision()

    async def steal() -> None:
        w.wall.move(2 * MINUTE)
        other = w.start(rules=Rules(owner="other"))
        await other.step()

    class Sleepy(type(w.platform)):  # type: ignore[misc]
        slept = False

        async def read(self, step):  # type: ignore[no-untyped-def]
            seen = await super().read(step)
            if not Sleepy.slept:
                Sleepy.slept = True
                await steal()
            return seen

    w.platform.__class__ = Sleepy
    await w.decide(d)
    await w.service.step()
    await w.settle()
    assert (len(w.platform.keys), w.platform.journal) == (1, [(AD, "status", "paused")])
    assert await status(w, d.id) == ("verified", "")


async def test_a_worker_that_stood_still_between_its_intent_and_the_call_sends_nothing(w: World) -> None:
    """Meanwhile another may have read that nothing was sent, and ended the decision as failed."""
    d = a_decision()
    await w.decide(d)
    faultpoint.arm("actions.intended", 1, lambda: w.wall.move(50 * SECOND))
    try:
        await w.service.step()
    finally:
        faultpoint.disarm()
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("failed", "not_applied"))


async def test_a_running_decision_of_another_living_worker_is_left_to_it(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    w.start(Ends("actions.claimed"))
    with pytest.raises(Crash):
        await w.service.step()
    other = w.start(rules=replace(w.rules, owner="other"))
    await other.execution.take_over()
    await other.step()
    assert w.platform.keys == []
    w.wall.move(2 * MINUTE)
    await other.step()
    assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 1)


@pytest.mark.parametrize("point", ["actions.claimed", "actions.observed", "actions.noted", "actions.recorded", "actions.ending"])
async def test_what_the_last_process_of_this_name_had_under_way_waits_for_no_lease(w: World, point: str) -> None:
    d = a_decision()
    await w.decide(d)
    w.start(Ends(point))
    with pytest.raises(Crash):
        await w.service.step()
    w.start()
    await w.service.execution.take_over()
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal) == (("verified", ""), [(AD, "status", "paused")])


async def test_a_stale_token_is_fenced_off(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    w.start(Ends("actions.claimed"))
    with pytest.raises(Crash):
        await w.service.step()
    w.start()
    async with w.database.writing() as tx:
        await tx.execute(update(intents).values(token=5, lease_until=w.wall.now() + MINUTE, owner="newer"))
    from services.actions.core.progress import Attempt
    from services.actions.execute import LostLease
    from services.actions.store import Lease

    old = Lease(d.id, "main", (), d.valid_until, "rule", token=1)
    with pytest.raises(LostLease):
        await w.service.execution._intend(old, Attempt(0, "apply", AD, "status", "active", "paused"), "key")
