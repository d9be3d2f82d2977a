"""What is cancelled is not carried out, whatever it waits for; what may have been sent goes on to an end that is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from services.actions.tables import escalations, in_flight, intents
from services.kernel.errors import Conflict, NotFound, RejectedInput
from services.kernel.principal import Principal
from tests.shell.acting import AD, ADMIN, EUR, MINUTE, OTHER, REVIEWER, World, a_decision, a_shift, an_action, status, story, world

NOBODY = Principal("nora", "reviewer", "other", "session")


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


async def put_off(w: World, how: str, action: str = "") -> str:
    """A decision that is not carried out yet."""
    d = a_decision(action=action or an_action(risk="high" if how == "waiting" else "low"))
    await w.decide(d)
    if how == "parked":
        await w.service.people.set_kill_switch(ADMIN, True, "stop")
    if how == "executing":
        w.platform.unreadable = 1
    await w.service.step()
    assert (await status(w, d.id))[0] == how
    return d.id


@pytest.mark.parametrize("how", ["waiting", "parked", "executing"])
async def test_what_is_cancelled_never_begins_and_the_engine_hears_of_it(w: World, how: str) -> None:
    d = await put_off(w, how)
    await w.service.people.cancel(REVIEWER, d, "the wrong list")
    assert await status(w, d) == ("cancelled", "cancelled")
    if how == "parked":
        await w.service.people.set_kill_switch(ADMIN, False, "")
    await w.settle()
    assert (w.platform.keys, w.platform.journal, await status(w, d)) == ([], [], ("cancelled", "cancelled"))
    assert w.told() == [("cancelled", AD, "", "cancelled")]
    assert [o.by for o in w.outcomes()] == ["rita"]
    assert (await story(w, d))[-2:] == ["decision.cancelled", "outcome"]
    assert w.count("trimtab_actions_total", status="cancelled", reason="cancelled") == 1
    async with w.database.reading() as connection:
        assert (await connection.execute(select(in_flight))).all() == []
        assert set((await connection.execute(select(intents.c.state))).scalars()) <= {"done"}


async def test_the_question_to_people_ends_with_it(w: World) -> None:
    d = await put_off(w, "waiting")
    async with w.database.reading() as connection:
        escalation = str(await connection.scalar(select(escalations.c.id)))
    await w.service.people.cancel(REVIEWER, d, "the wrong list")
    with pytest.raises(Conflict, match="it was cancelled by rita") as late:
        await w.service.people.approve(REVIEWER, escalation, "")
    assert late.value.reason == "already_cancelled"
    assert "escalation.cancelled" in await story(w, d)
    w.clock.move(300 * MINUTE)
    await w.settle()
    assert (await status(w, d), w.told()) == (("cancelled", "cancelled"), [("cancelled", AD, "", "cancelled")])  # nor does it expire


async def test_its_object_is_free_for_the_next(w: World) -> None:
    d = await put_off(w, "executing")
    await w.service.people.cancel(REVIEWER, d, "too early")
    after = a_decision(2)
    await w.decide(after)
    await w.service.step()
    assert (await status(w, after.id), len(w.platform.journal)) == (("verified", ""), 1)


async def test_a_worker_that_has_read_the_platform_by_then_writes_nothing(w: World) -> None:
    d = a_decision()

    class Slow(type(w.platform)):  # type: ignore[misc]
        async def read(self, step):  # type: ignore[no-untyped-def]
            seen = await super().read(step)
            if not w.outcomes():
                await w.service.people.cancel(REVIEWER, d.id, "just in time")
            return seen

    w.platform.__class__ = Slow
    await w.decide(d)
    await w.service.step()
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("cancelled", "cancelled"))
    assert "intent" not in await story(w, d.id)


@pytest.mark.parametrize("mood", ["lost_before", "lost_after"])
async def test_what_may_have_been_sent_goes_on_to_its_end(w: World, mood: str) -> None:
    w.platform.moods.append(mood)
    w.platform.unreadable = 0
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    with pytest.raises(Conflict, match="undo it once it has ended") as begun:
        await w.service.people.cancel(REVIEWER, d.id, "too late")
    assert begun.value.reason == "has_begun"
    await w.settle()
    assert (await status(w, d.id))[0] == ("verified" if mood == "lost_after" else "failed")


async def test_half_a_change_is_not_left_half_by_cancelling_it(w: World) -> None:
    w.platform.moods.extend(["ok", "unsent"])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.service.step()
    assert w.platform.journal == [(AD, "daily_budget", 68 * EUR)]
    with pytest.raises(Conflict):
        await w.service.people.cancel(REVIEWER, d.id, "too late")
    await w.settle()
    assert (await status(w, d.id), w.platform.objects[OTHER, "daily_budget"]) == (("verified", ""), 92 * EUR)


async def test_what_was_withdrawn_may_be_cancelled_for_nothing_was_sent(w: World) -> None:
    w.platform.moods.append("unsent")
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    await w.service.people.cancel(REVIEWER, d.id, "enough")
    await w.settle()
    assert (w.platform.keys, await status(w, d.id)) == ([], ("cancelled", "cancelled"))


async def test_who_may_not_or_says_nothing_or_comes_late_changes_nothing(w: World) -> None:
    d = await put_off(w, "waiting")
    with pytest.raises(RejectedInput, match="say why"):
        await w.service.people.cancel(REVIEWER, d, "  ")
    with pytest.raises(NotFound):
        await w.service.people.cancel(NOBODY, d, "not mine")
    with pytest.raises(NotFound):
        await w.service.people.cancel(REVIEWER, "f" * 32, "no such")
    assert (await status(w, d))[0] == "waiting"
    await w.service.people.cancel(REVIEWER, d, "once")
    with pytest.raises(Conflict, match="the decision is cancelled: there is nothing to cancel") as again:
        await w.service.people.cancel(REVIEWER, d, "twice")
    assert again.value.reason == "nothing_to_cancel"
    assert (await story(w, d)).count("decision.cancelled") == 1


async def test_all_of_a_rule_and_nothing_else(w: World) -> None:
    w.platform.moods.append("lost_before")
    begun = a_decision(1, path=OTHER)
    await w.decide(begun)
    await w.service.step()
    waiting = a_decision(2, action=an_action(risk="high"))
    others = a_decision(3, rule_id="another", action=an_action(risk="high"))
    await w.decide(waiting, others)
    await w.service.step()
    with pytest.raises(RejectedInput):
        await w.service.people.cancel_all(REVIEWER, "pause-weak-creatives", "")
    with pytest.raises(NotFound, match="no rule 'pause-weak-creatives' has decided anything in this workspace"):
        await w.service.people.cancel_all(NOBODY, "pause-weak-creatives", "not mine")
    assert await w.service.people.cancel_all(REVIEWER, "pause-weak-creatives", "the rule is wrong") == (1, 1)
    assert [(await status(w, d.id))[0] for d in (begun, waiting, others)] == ["executing", "cancelled", "waiting"]
    assert await w.service.people.cancel_all(REVIEWER, "pause-weak-creatives", "again") == (0, 1)


async def test_many_are_cancelled_a_few_at_a_time_so_that_the_switch_waits_for_none(w: World) -> None:
    """Between two transactions anybody may have the workspace's turn."""
    many = [a_decision(i + 1, path=f"{AD}{i}", action=an_action(path=f"{AD}{i}", risk="high")) for i in range(120)]
    await w.decide(*many)
    await w.service.step()
    turns: list[int] = []
    some = w.service.people._cancel_some

    async def counted(*asked: object) -> tuple[int, int, int]:
        found = await some(*asked)  # type: ignore[arg-type]
        turns.append(found[1])
        return found

    w.service.people._cancel_some = counted  # type: ignore[method-assign, assignment]
    assert await w.service.people.cancel_all(REVIEWER, "pause-weak-creatives", "the rule is wrong") == (120, 0)
    assert turns == [50, 50, 20]
    assert {(await status(w, d.id))[0] for d in many} == {"cancelled"}


async def test_a_change_that_was_there_already_is_nothing_sent(w: World) -> None:
    """The first step was as desired, the second never went out."""
    steps = [
        {"path": AD, "attribute": "daily_budget", "observed": None, "desired": 80 * EUR},
        {"path": OTHER, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 92 * EUR},
    ]
    w.platform.moods.append("unsent")
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift(steps=steps))
    await w.decide(d)
    await w.service.step()
    assert ((await status(w, d.id))[0], w.platform.keys) == ("executing", [])
    await w.service.people.cancel(REVIEWER, d.id, "enough")
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("cancelled", "cancelled"), [])


async def test_an_undo_of_a_rules_decision_is_a_persons_and_stays(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    undo = await w.service.people.undo(REVIEWER, d.id, "a mistake")
    assert await w.service.people.cancel_all(REVIEWER, "pause-weak-creatives", "the rule is wrong") == (0, 0)
    await w.service.step()
    assert (await status(w, undo))[0] == "verified"


async def test_an_undo_may_be_cancelled_and_asked_for_again(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    undo = await w.service.people.undo(REVIEWER, d.id, "a mistake")
    await w.service.people.cancel(REVIEWER, undo, "no, it was right")
    await w.service.step()
    assert w.platform.objects[AD, "status"] == "paused"
    again = await w.service.people.undo(REVIEWER, d.id, "it was a mistake")
    await w.settle()
    assert (again != undo, (await status(w, again))[0], w.platform.objects[AD, "status"]) == (True, "verified", "active")


async def test_of_cancelling_and_approving_at_once_one_wins(w: World) -> None:
    d = await put_off(w, "waiting")
    async with w.database.reading() as connection:
        escalation = str(await connection.scalar(select(escalations.c.id)))
    people = w.service.people
    said = await asyncio.gather(
        *(people.approve(REVIEWER, escalation, "") for _ in range(4)), *(people.cancel(REVIEWER, d, "no") for _ in range(4)), return_exceptions=True
    )
    assert [s for s in said if s is not None and not isinstance(s, Conflict)] == []
    await w.settle()
    ended, _ = await status(w, d)
    assert (ended, len(w.platform.journal)) in (("cancelled", 0), ("verified", 1))
