"""A process that ends at any named point leaves a database from which the next one finishes: nothing doubled, nothing lost."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions.execute import Pace
from services.actions.lanes import Lane
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.store import Lease
from services.actions.store import decision as stored
from services.actions.tables import attempts, intents
from services.actions.worker import Conduct
from services.kernel.errors import Unavailable
from tests.shell.acting import AD, EUR, MINUTE, OTHER, POINTS, REVIEWER, SECOND, Crash, Ends, World, a_decision, a_refusal, a_shift, world
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
        other = w.start(conduct=Conduct(owner="other"))
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


async def broken_off(w: World, point: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """A decision in the execution of which nothing can be written from that point on, until the list beside it is emptied."""
    away: list[str] = []
    write = w.database.writing

    def writing(*turns: str) -> AbstractAsyncContextManager[AsyncConnection]:
        if away:
            away.append("tried")
            raise Unavailable("the database is away", reason="database")
        return write(*turns)

    monkeypatch.setattr(w.database, "writing", writing)
    w.start()
    faultpoint.arm(point, 1, lambda: away.append(point))
    d = a_decision()
    await w.decide(d)
    with suppress(Unavailable):
        await w.service.step()
    return d.id, away


@pytest.mark.parametrize("point", ["actions.observed", "actions.sent", "actions.looked", "actions.recorded"])
async def test_what_the_database_broke_off_is_gone_on_with_under_its_lease(w: World, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decision_id, away = await broken_off(w, point, monkeypatch)
    assert away and (await status(w, decision_id))[0] == "executing"
    away.clear()
    for _ in range(20):  # far less than a lease
        w.wall.move(SECOND)
        await w.service.step()
    assert (await status(w, decision_id), w.platform.journal, len(w.platform.keys)) == (("verified", ""), [(AD, "status", "paused")], 1)


async def test_while_the_database_stays_away_it_is_tried_less_and_less_often_and_no_platform_is_asked(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decision_id, away = await broken_off(w, "actions.observed", monkeypatch)
    tried, reads = [], w.platform.reads
    for second in range(59):
        before = len(away)
        await w.service.execution.round()
        tried += [second] * (len(away) > before)
        w.wall.move(SECOND)
    assert (tried, w.platform.reads) == ([1, 3, 7, 15, 31], reads)
    away.clear()
    w.wall.move(2 * MINUTE)
    await w.service.execution.round()  # another lease: the one that was broken off is over
    await w.settle()
    assert (await status(w, decision_id), len(w.platform.keys)) == (("verified", ""), 1)


async def test_of_many_that_were_broken_off_no_more_are_gone_on_with_at_once_than_there_are_places(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [a_decision(n, path=f"{AD}{n}") for n in range(1, 6)]
    for n in range(1, 6):
        w.platform.objects[f"{AD}{n}", "status"] = "active"
    await w.decide(*many)
    execution = w.start(conduct=Conduct(pace=Pace(at_once=2))).execution
    intend, under_way, most = execution._intend, 0, 0

    async def counted(*arguments: Any) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        if is_away:
            raise Unavailable("the database is away", reason="database")
        return await intend(*arguments)

    monkeypatch.setattr(execution, "_intend", counted)
    is_away = True
    for _ in range(5):
        await w.service.step()
    is_away = False
    assert len(execution.broken_off) == 5
    for _ in range(20):
        w.wall.move(SECOND)
        await w.service.step()
    assert (most, len(execution.broken_off)) == (2, 0)
    assert [(await status(w, d.id))[0] for d in many] == ["verified"] * 5


@pytest.mark.parametrize("first", [1, 2])
async def test_of_two_leases_that_were_broken_off_the_newer_one_is_gone_on_with(w: World, first: int) -> None:
    execution = w.service.execution
    (lane,) = execution.lanes
    for token in (first, 3 - first):
        execution.broken_off.put(lane, Lease("d", "main", (), 0, "rule", token), None)
    w.wall.move(SECOND)
    assert [lease.token for lease in execution.broken_off.due(lane, 8)] == [2]


async def test_what_is_claimed_when_the_database_goes_is_carried_out(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = w.service.execution
    claim, mine, other = execution._claim, a_decision(), a_decision(workspace="shop")

    async def claims(lane: Lane, workspace: str, most: int) -> list[Lease]:
        if workspace == "shop":
            raise Unavailable("the database is away", reason="database")
        return await claim(lane, workspace, most)

    monkeypatch.setattr(execution, "_claim", claims)
    await w.decide(mine, other)
    with pytest.raises(Unavailable):
        await w.service.step()
    assert (await status(w, mine.id))[0] == "verified"


async def test_what_was_broken_off_is_not_gone_on_with_by_who_lost_it(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decision_id, away = await broken_off(w, "actions.observed", monkeypatch)
    first = w.service
    away.clear()
    w.wall.move(2 * MINUTE)
    await w.start(conduct=Conduct(owner="other")).step()
    await first.step()
    await first.step()
    assert (await status(w, decision_id), w.platform.journal, len(w.platform.keys)) == (("verified", ""), [(AD, "status", "paused")], 1)


async def story(w: World, decision_id: str) -> list[str]:
    async with w.database.reading() as connection:
        return [e.kind for e in await ledger.whole(connection, "main") if e.subject == decision_id]


async def attempts_left(w: World) -> int:
    async with w.database.reading() as connection:
        return len((await connection.execute(select(attempts))).all())


SENT_ANEW = ["decision.executing", "intent", "intent.withdrawn", "intent", "result", "outcome"]


@pytest.mark.parametrize("seconds", [50, 90])
async def test_a_worker_that_stood_still_between_its_intent_and_the_call_sends_nothing_and_tries_again(w: World, seconds: int) -> None:
    """That nothing was sent it alone knows, and says, even where its lease has run out: nobody has to doubt what was never done."""
    d = a_decision()
    await w.decide(d)
    faultpoint.arm("actions.intended", 1, lambda: w.wall.move(seconds * SECOND))
    try:
        await w.service.step()
    finally:
        faultpoint.disarm()
    assert (w.platform.keys, await attempts_left(w), await story(w, d.id)) == ([], 0, SENT_ANEW[:3])
    await w.settle()
    assert (len(w.platform.keys), await status(w, d.id), await story(w, d.id)) == (1, ("verified", ""), SENT_ANEW)


async def test_what_was_withdrawn_is_held_once_it_is_too_late_to_begin(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    faultpoint.arm("actions.intended", 1, lambda: w.wall.move(50 * SECOND))
    try:
        await w.service.step()
    finally:
        faultpoint.disarm()
    w.clock.move(16 * MINUTE)
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("held", "stale"))


async def test_a_worker_that_stood_still_until_another_took_over_withdraws_nothing(w: World) -> None:
    """The other may be reading, or have said that nothing was sent: it is the other's decision now."""
    d = a_decision()
    await w.decide(d)
    slow = w.service

    async def vouch(_: str) -> bool:
        if "intent" in await story(w, d.id):
            w.wall.move(2 * MINUTE)
            await w.start(conduct=Conduct(owner="other")).step()
        return True

    slow.execution.vouch = vouch
    await slow.step()
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("failed", "not_applied"))
    assert "intent.withdrawn" not in await story(w, d.id)


async def test_time_that_vouching_takes_before_the_intent_does_not_count(w: World) -> None:
    d = a_decision()
    await w.decide(d)

    async def vouch(_: str) -> bool:
        if "intent" not in await story(w, d.id):
            w.wall.move(50 * SECOND)
        return True

    w.service.execution.vouch = vouch
    await w.service.step()
    assert (await status(w, d.id), await story(w, d.id)) == (("verified", ""), [*SENT_ANEW[:2], *SENT_ANEW[4:]])


async def test_what_nobody_could_vouch_for_after_its_intent_is_withdrawn(w: World) -> None:
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    asked: list[str] = []

    async def vouch(workspace: str) -> bool:
        asked.append(workspace)
        if len(asked) == 4:  # of the second step, after its intent
            raise Unavailable("the witness cannot be read", reason="witness")
        return True

    w.service.execution.vouch = vouch
    await w.service.step()
    assert ((await story(w, d.id))[-2:], len(w.platform.keys)) == (["intent", "intent.withdrawn"], 1)
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 2)
    assert w.platform.objects[OTHER, "daily_budget"] == 92 * EUR


async def test_what_did_not_go_out_is_withdrawn_and_made_once_it_can_be(w: World) -> None:
    """The platform takes no connection for a while: that is no answer of its."""
    d = a_decision()
    w.platform.moods.extend(["unsent"] * 5)
    await w.decide(d)
    await w.service.step()
    assert (await attempts_left(w), await story(w, d.id)) == (0, SENT_ANEW[:3])
    await w.settle()
    assert (await status(w, d.id), w.platform.journal) == (("verified", ""), [(AD, "status", "paused")])
    assert await story(w, d.id) == ["decision.executing", *["intent", "intent.withdrawn"] * 5, "intent", "result", "outcome"]


async def test_what_does_not_go_out_waits_longer_each_time(w: World) -> None:
    d = a_decision()
    w.platform.moods.extend(["unsent"] * 5)
    await w.decide(d)
    tried: list[int] = []
    for second in range(100):
        before = len(await story(w, d.id))
        await w.service.step()
        tried += [second] if len(await story(w, d.id)) > before else []
        w.wall.move(SECOND)
    assert tried == [0, 2, 6, 14, 30, 62]


async def test_what_never_goes_out_has_failed_after_six_tries_and_says_so(w: World) -> None:
    d = a_decision()
    w.platform.moods.extend(["unsent"] * 6)
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), w.platform.keys, list(w.platform.moods)) == (("failed", "unreachable"), [], [])
    assert await story(w, d.id) == ["decision.executing", *["intent", "intent.withdrawn"] * 6, "result", "outcome"]
    assert w.told() == [("failed", AD, "", "unreachable")]


async def test_each_step_has_tries_of_its_own_and_what_was_done_is_taken_back(w: World) -> None:
    """Five are used up by the first step, six by the second, and one by taking the first back."""
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    w.platform.moods.extend([*["unsent"] * 5, "ok", *["unsent"] * 6, "unsent", "ok"])
    await w.decide(d)
    await w.settle()
    assert await status(w, d.id) == ("failed", "unreachable")
    assert [(path, value) for path, _, value in w.platform.journal] == [(AD, 68 * EUR), (AD, 80 * EUR)]
    assert w.platform.objects[OTHER, "daily_budget"] == 80 * EUR
    async with w.database.reading() as connection:
        bodies = [json.loads(e.body) for e in await ledger.whole(connection, "main") if e.kind == "intent.withdrawn"]
    assert Counter((b["step"], b["role"]) for b in bodies) == {(0, "apply"): 5, (1, "apply"): 6, (0, "restore"): 1}


async def test_tries_that_did_not_go_out_are_no_looks_at_whether_a_value_is_old(w: World) -> None:
    """A replica lags: what is to be undone is shown as it was before; one look is not enough to believe that there is nothing to undo."""
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.platform.moods.extend(["unsent"] * 5)
    undo = await w.service.people.undo(REVIEWER, d.id, "a mistake")
    while w.platform.moods:
        await w.service.step()
        w.wall.move(40 * SECOND)
    w.platform.stale = 3
    await w.settle()
    assert (await status(w, undo), w.platform.journal[-1]) == (("verified", ""), (AD, "status", "active"))


async def test_tries_that_did_not_go_out_are_no_faults_of_ours(w: World) -> None:
    """What was accepted in the end is read back as often as ever, though the first look raises something."""
    w.platform.moods.extend(["unsent"] * 5)

    class Faulty(type(w.platform)):  # type: ignore[misc]
        raised = 0

        async def read(self, step):  # type: ignore[no-untyped-def]
            if self.journal and not Faulty.raised:
                Faulty.raised = 1
                raise ValueError("a bug in the executor")
            return await super().read(step)

    w.platform.__class__ = Faulty
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (Faulty.raised, await status(w, d.id)) == (1, ("verified", ""))


async def test_what_does_not_go_out_is_held_once_it_is_too_late_to_begin(w: World) -> None:
    d = a_decision()
    w.platform.moods.append("unsent")
    await w.decide(d)
    await w.service.step()
    w.clock.move(16 * MINUTE)
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("held", "stale"))


async def test_a_running_decision_of_another_living_worker_is_left_to_it(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    w.start(Ends("actions.claimed"))
    with pytest.raises(Crash):
        await w.service.step()
    other = w.start(conduct=replace(w.conduct, owner="other"))
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
