"""What may not be carried out for now: parked with its reason, carried out if that ends in time, held before the engine stops waiting, written never."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from services.actions.core.policy import ROOM, Circumstances
from services.actions.execute import Pace
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.store import decision as stored
from services.actions.tables import escalations, in_flight, intents
from services.actions.worker import ActionsService, Conduct
from services.adapters.db.clock import Own
from services.kernel.decision import Decision
from services.kernel.errors import Conflict
from services.kernel.principal import Principal
from services.kernel.record import Outcome
from tests.shell.acting import (
    AD,
    ADMIN,
    EUR,
    MINUTE,
    OTHER,
    REVIEWER,
    SECOND,
    Crash,
    Ends,
    ListLog,
    Platform,
    World,
    a_decision,
    a_shift,
    an_action,
    world,
)
from tests.shell.ending import faultpoint

VALID = 15 * MINUTE
PAIR = f"{AD}|{OTHER}"


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


async def status(w: World, decision_id: str) -> tuple[str, str]:
    async with w.database.reading() as connection:
        row = await stored(connection, "main", decision_id)
        assert isinstance(await ledger.check(connection, "main"), Verified)
    assert row is not None
    return row.status, row.reason


async def story(w: World, decision_id: str) -> list[tuple[str, str]]:
    async with w.database.reading() as connection:
        return [(e.kind, e.by) for e in await ledger.about(connection, "main", decision_id)]


async def engage(w: World) -> None:
    await w.service.people.set_kill_switch(ADMIN, True, "wrong currency")


async def let_go(w: World) -> None:
    await w.service.people.set_kill_switch(ADMIN, False, "")


def parked(w: World) -> dict[str, float]:
    reasons = ("kill_switch", "actions_held", "no_executor", "unsupported", "simulated_clock_real_executor")
    return {reason: n for reason in reasons if (n := w.count("trimtab_actions_parked", reason=reason))}


async def test_the_kill_switch_parks_what_is_queued_and_what_comes(w: World) -> None:
    w.platform.unreadable = 1
    queued, later = a_decision(1), a_decision(2, path=OTHER)
    await w.decide(queued)
    await w.service.step()
    await engage(w)
    assert await status(w, queued.id) == ("parked", "kill_switch")  # in the transaction of the switch, whatever the worker does
    await w.decide(later)
    await w.settle()
    assert [await status(w, d.id) for d in (queued, later)] == [("parked", "kill_switch")] * 2
    assert (w.platform.keys, w.told(), parked(w)) == ([], [], {"kill_switch": 2})
    assert (await story(w, queued.id))[-1] == ("decision.parked", "pause-weak-creatives")


async def test_what_was_parked_is_carried_out_once_the_switch_is_released(w: World) -> None:
    await engage(w)
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.clock.move(VALID - ROOM)
    await w.service.step()
    await let_go(w)
    assert await status(w, d.id) == ("executing", "within_bounds")
    await w.settle()
    assert (await status(w, d.id), w.platform.journal) == (("verified", ""), [(AD, "status", "paused")])
    assert await story(w, d.id) == [
        ("decision.parked", d.rule_id),
        ("decision.executing", "adam"),
        ("intent", d.rule_id),
        ("result", d.rule_id),
        ("outcome", d.rule_id),
    ]
    assert parked(w) == {}


async def test_what_is_parked_past_its_last_call_is_held_while_the_engine_still_waits(w: World) -> None:
    await engage(w)
    d = a_decision()
    await w.decide(d)
    w.clock.move(VALID - ROOM)
    await w.service.step()
    assert (await status(w, d.id), w.told()) == (("parked", "kill_switch"), [])
    w.clock.move(1)
    await w.service.step()
    assert (await status(w, d.id), w.told()) == (("held", "stale"), [("held", AD, "", "stale")])
    assert w.clock.now() < d.valid_until
    await let_go(w)
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("held", "stale"), [])


async def test_what_waits_in_the_queue_past_its_last_call_is_held_in_time_too(w: World) -> None:
    w.platform.unreadable = 1
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.clock.move(VALID - ROOM + 1)
    await w.service.tend()
    assert (await status(w, d.id), w.told()) == (("held", "stale"), [("held", AD, "", "stale")])


async def test_the_platform_is_looked_at_anew_when_the_switch_is_released(w: World) -> None:
    await engage(w)
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.platform.objects[AD, "status"] = "archived"
    await let_go(w)
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("failed", "precondition"), [])


async def test_people_are_asked_once_the_switch_is_released_if_the_rule_asks_them(w: World) -> None:
    await engage(w)
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    await w.settle()
    assert await status(w, d.id) == ("parked", "kill_switch")
    await let_go(w)
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("waiting", "risk_high"), [])
    async with w.database.reading() as connection:
        asked = (await connection.execute(select(escalations))).one()
    assert asked.expires_at == d.now + 240 * MINUTE
    await w.service.people.approve(REVIEWER, asked.id, "go")
    await engage(w)
    assert await status(w, d.id) == ("parked", "kill_switch")
    await let_go(w)
    assert await status(w, d.id) == ("executing", "approved")  # they are not asked again
    await w.settle()
    assert await status(w, d.id) == ("verified", "")


async def test_an_undo_that_was_parked_is_still_an_undo(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    undo = await w.service.people.undo(REVIEWER, d.id, "")
    await engage(w)
    await w.settle()
    assert await status(w, undo) == ("parked", "kill_switch")
    with pytest.raises(Conflict) as twice:
        await w.service.people.undo(REVIEWER, d.id, "")
    assert twice.value.reason == "kill_switch"
    await let_go(w)
    with pytest.raises(Conflict) as twice:
        await w.service.people.undo(REVIEWER, d.id, "")
    assert twice.value.reason == "already_undone"
    await w.settle()
    assert (await status(w, undo), w.platform.objects[AD, "status"]) == (("verified", ""), "active")


async def test_a_shift_that_the_switch_meets_half_way_writes_nothing_more_until_it_is_released(w: World) -> None:
    class Slow(Platform):
        async def write(self, step, observed, idempotency_key):  # type: ignore[no-untyped-def]
            answer = await super().write(step, observed, idempotency_key)
            if len(self.keys) == 1:
                await engage(w)
            return answer

    w.platform.__class__ = Slow
    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), w.platform.journal) == (("parked", "kill_switch"), [(AD, "daily_budget", 68 * EUR)])
    async with w.database.reading() as connection:
        assert {row.path for row in await connection.execute(select(in_flight))} == {AD, OTHER}
    await let_go(w)
    await w.settle()
    assert (await status(w, d.id), w.platform.journal[1:]) == (("verified", ""), [(OTHER, "daily_budget", 92 * EUR)])
    assert w.told() == [("verified", AD, "68000000", ""), ("verified", OTHER, "92000000", "")]


@pytest.mark.parametrize("stop", ["switch", "hold", "validity"])
async def test_what_stops_a_change_after_its_intent_stops_the_write(w: World, stop: str) -> None:
    """Between the intent and the call lie a commit and a look at the witness, which may take a minute together."""

    async def stops() -> None:
        match stop:
            case "switch":
                await engage(w)
            case "hold":
                w.service.conduct = replace(w.service.conduct, hold=True)
            case _:
                w.clock.move(VALID)

    d = a_decision()
    await w.decide(d)
    after_intent(w, d, stops)
    await w.service.step()
    assert (w.platform.keys, "intent.withdrawn" in dict(await story(w, d.id))) == ([], True)
    await w.settle()
    assert w.platform.keys == []
    assert await status(w, d.id) == {"switch": ("parked", "kill_switch"), "hold": ("parked", "actions_held"), "validity": ("held", "stale")}[stop]
    if stop == "switch":
        await let_go(w)
        await w.settle()
        assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 1)


async def test_a_second_step_that_the_switch_meets_after_its_intent_is_parked_and_made_once_it_is_released(w: World) -> None:
    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    after_intent(w, d, lambda: engage(w), number=2)
    await w.settle()
    assert (await status(w, d.id), w.platform.journal) == (("parked", "kill_switch"), [(AD, "daily_budget", 68 * EUR)])
    await let_go(w)
    await w.settle()
    assert (await status(w, d.id), w.platform.journal[1:]) == (("verified", ""), [(OTHER, "daily_budget", 92 * EUR)])


async def test_a_second_step_that_becomes_too_late_after_its_intent_is_not_taken_and_the_first_is_restored(w: World) -> None:
    async def late() -> None:
        w.clock.move(VALID)

    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    after_intent(w, d, late, number=2)
    await w.settle()
    assert w.platform.journal == [(AD, "daily_budget", 68 * EUR), (AD, "daily_budget", 80 * EUR)]
    assert await status(w, d.id) == ("failed", "stale")


@pytest.mark.parametrize(("halts", "sent"), [(1, 1), (1000, 0)])
async def test_nothing_is_sent_on_a_look_at_the_switch_that_is_old_by_now(w: World, halts: int, sent: int) -> None:
    """The process stands still between that look and the call: it looks again, and gives up where it stands still each time."""
    so, halted = w.service.execution.circumstances, 0

    def halting(is_killed: bool) -> Circumstances:
        nonlocal halted
        if intended and halted < halts:
            halted += 1
            w.wall.move(SECOND)
        return so(is_killed)

    intended: list[bool] = []

    async def now() -> None:
        intended.append(True)

    d = a_decision()
    await w.decide(d)
    after_intent(w, d, now)
    w.service.execution.circumstances = halting
    await w.service.step()
    assert (len(w.platform.keys), "intent.withdrawn" in dict(await story(w, d.id))) == (sent, not sent)


async def test_whoever_has_no_lease_any_more_when_it_looks_last_sends_nothing(w: World) -> None:
    async def taken() -> None:
        async with w.database.writing() as tx:
            await tx.execute(update(intents).values(token=intents.c.token + 1, owner="other"))

    d = a_decision()
    await w.decide(d)
    after_intent(w, d, taken)
    await w.service.step()
    assert (w.platform.keys, "intent.withdrawn" in dict(await story(w, d.id))) == ([], False)  # it is the other's to find out


def after_intent(w: World, d: Decision, then: Callable[[], Awaitable[None]], number: int = 1) -> None:
    """Once so many of its intents are committed, something happens before the call."""
    happened = False

    async def vouch(_: str) -> bool:
        nonlocal happened
        async with w.database.reading() as connection:
            kinds = [e.kind for e in await ledger.whole(connection, "main") if e.subject == d.id]
        if not happened and kinds.count("intent") == number:
            happened = True
            await then()
        return True

    w.service.execution.vouch = vouch


async def test_a_shift_released_when_its_time_is_over_takes_back_what_it_did(w: World) -> None:
    w.platform.moods.extend(["ok", "lost_before"])
    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    await w.service.step()
    await engage(w)
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("parked", "kill_switch"), 2)  # read back under the switch, not restored
    w.clock.move(VALID)
    await w.settle()
    assert await status(w, d.id) == ("parked", "kill_switch")
    await let_go(w)
    await w.settle()
    assert w.platform.objects[AD, "daily_budget"] == w.platform.objects[OTHER, "daily_budget"] == 80 * EUR
    assert await status(w, d.id) == ("failed", "not_applied")


async def test_a_second_step_whose_turn_comes_too_late_is_not_taken_and_the_first_is_restored(w: World) -> None:
    class Away(Platform):
        async def read(self, step: Any) -> Any:
            if step.path == OTHER:
                w.clock.move(VALID)
                self.unreadable += 1
            return await super().read(step)

    w.platform.__class__ = Away
    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    await w.settle()
    assert w.platform.objects[AD, "daily_budget"] == w.platform.objects[OTHER, "daily_budget"] == 80 * EUR
    assert (await status(w, d.id), w.told()) == (("failed", "stale"), [("failed", OTHER, "", "stale"), ("verified", AD, "80000000", "restored")])


async def test_a_notice_is_never_parked(w: World) -> None:
    await engage(w)
    d = a_decision(action=an_action(do="notify", steps=[]))
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("verified", "notified")


async def test_a_switch_released_for_one_workspace_releases_nothing_of_another(w: World) -> None:
    theirs = Principal("olga", "admin", "other")
    await engage(w)
    await w.service.people.set_kill_switch(theirs, True, "ours too")
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    await w.service.people.set_kill_switch(theirs, False, "")
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("parked", "kill_switch"), [])


async def test_what_the_operator_holds_is_carried_out_by_a_process_that_does_not(w: World) -> None:
    w.start(conduct=Conduct(hold=True))
    d, approved = a_decision(), a_decision(2, path=OTHER, action=an_action(path=OTHER, risk="high"))
    await w.decide(d, approved)
    await w.settle()
    assert (await status(w, d.id), parked(w)) == (("parked", "actions_held"), {"actions_held": 2})
    assert (await w.service.release(), await status(w, d.id)) == (0, ("parked", "actions_held"))
    w.start()
    assert await w.service.release() == 2
    await w.settle()
    assert (await status(w, d.id), await status(w, approved.id)) == (("verified", ""), ("waiting", "risk_high"))
    assert len(w.platform.keys) == 1


async def test_what_the_last_process_left_in_the_queue_is_not_written_in_hold_mode(w: World) -> None:
    w.platform.unreadable = 1
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.start(conduct=Conduct(hold=True))
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("parked", "actions_held"), [])


async def test_two_reasons_have_to_be_over_and_the_one_that_is_left_is_told(w: World) -> None:
    w.start(conduct=Conduct(hold=True))
    await engage(w)
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("parked", "kill_switch")
    await let_go(w)
    assert await status(w, d.id) == ("parked", "actions_held")
    w.start()
    await w.service.release()
    await w.settle()
    assert await status(w, d.id) == ("verified", "")


async def test_where_no_executor_serves_the_platform_a_decision_waits_its_time_for_one(w: World) -> None:
    w.platform.__class__ = type("Elsewhere", (Platform,), {"platforms": frozenset({"elsewhere"})})
    w.start()
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), parked(w)) == (("parked", "no_executor"), {"no_executor": 1})
    w.platform.__class__ = Platform
    w.start()
    await w.service.release()
    await w.settle()
    assert await status(w, d.id) == ("verified", "")


async def test_an_executor_taken_away_parks_what_waited_for_it(w: World) -> None:
    w.platform.unreadable = 1
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.platform.__class__ = type("Elsewhere", (Platform,), {"platforms": frozenset({"elsewhere"})})
    w.start()
    await w.settle()
    assert await status(w, d.id) == ("parked", "no_executor")
    w.clock.move(VALID)
    await w.service.step()
    assert await status(w, d.id) == ("held", "stale")
    assert [r for _, r in w.events.records if isinstance(r, Outcome) and r.status == "held"][0].decision_id == d.id


async def test_the_start_of_the_service_releases_what_may_go_on(w: World) -> None:
    w.start(conduct=Conduct(hold=True))
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.start()
    await w.service.start()
    async with asyncio.timeout(20):
        await w.events.grown.wait()
    await w.service.stop()
    assert await status(w, d.id) == ("verified", "")


def another(w: World, **conduct: Any) -> ActionsService:
    """A process beside that of `w`, which lives on."""
    return ActionsService(w.database, w.decisions, w.events, [w.platform], w.clock, CollectorRegistry(), Conduct(**conduct), Own(w.wall))


async def entries(w: World) -> int:
    async with w.database.reading() as connection:
        return len(await ledger.whole(connection, "main"))


async def test_what_a_process_that_holds_parks_after_the_start_of_one_that_does_not_is_carried_out(w: World) -> None:
    old, new = another(w, hold=True, owner="old"), another(w, owner="new")
    made = a_decision(), a_decision(2, path=OTHER, action=an_action(path=OTHER))
    assert await new.release() == 0
    await w.decide(*made)
    await old.step()
    assert [await status(w, d.id) for d in made] == [("parked", "actions_held")] * 2
    await new.tend()
    await old.execution.round()  # and meets them once more
    assert [await status(w, d.id) for d in made] == [("parked", "actions_held")] * 2
    for _ in range(3):
        await new.step()
        w.wall.move(10 * SECOND)
    assert [await status(w, d.id) for d in made] == [("verified", "")] * 2
    assert w.platform.journal == [(AD, "status", "paused"), (OTHER, "status", "paused")]


async def test_a_shift_that_a_process_which_holds_parked_half_way_ends_and_frees_its_objects(w: World) -> None:
    d = a_decision(path=PAIR, action=a_shift())
    await w.decide(d)
    first = w.start(Ends("actions.recorded"), Conduct(owner="first"))
    with pytest.raises(Crash):
        await first.step()
    faultpoint.disarm()
    old, new = another(w, hold=True, owner="old"), another(w, owner="new")
    await new.release()
    w.wall.move(2 * MINUTE)
    await old.step()
    assert (await status(w, d.id), len(w.platform.journal)) == (("parked", "actions_held"), 1)
    for _ in range(3):
        await new.step()
        w.wall.move(10 * SECOND)
    assert (await status(w, d.id), w.platform.journal[1:]) == (("verified", ""), [(OTHER, "daily_budget", 92 * EUR)])
    async with w.database.reading() as connection:
        assert (await connection.execute(select(in_flight))).all() == []


async def test_processes_that_may_not_carry_it_out_do_not_dispute_why(w: World) -> None:
    steps = [{"path": "elsewhere/1/2", "attribute": "unheard_of", "observed": None, "desired": "on"}]
    served, other = a_decision(), a_decision(2, path="elsewhere/1/2", action=an_action(path="elsewhere/1/2", steps=steps))
    here, old = another(w, owner="here"), another(w, hold=True, owner="old")
    w.platform.__class__ = type("Elsewhere", (Platform,), {"platforms": frozenset({"elsewhere"})})
    there = another(w, owner="there")
    w.platform.__class__ = Platform
    await w.decide(served, other)
    await old.step()
    before = await entries(w)
    await there.tend()
    await old.tend()
    assert (await entries(w), await status(w, other.id)) == (before, ("parked", "actions_held"))
    await here.tend()
    assert (await entries(w), await status(w, other.id)) == (before + 1, ("parked", "actions_held"))  # what of its workspace goes on is all that changes
    await engage(w)
    before = await entries(w)
    await here.tend()
    assert (await entries(w), await status(w, served.id)) == (before, ("parked", "kill_switch"))


async def test_a_process_looks_for_what_others_have_parked_now_and_then(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    old, new = another(w, hold=True, owner="old"), another(w, owner="new")
    await new._tend()
    await old.step()
    await new._tend()
    assert await status(w, d.id) == ("parked", "actions_held")  # not at each look at the queue: the other would park it as often
    soon = another(w, owner="soon", pace=Pace(audit=20_000))
    soon.decisions = ListLog()
    await soon.start()
    async with asyncio.timeout(20):
        await w.events.grown.wait()
        w.events.grown.clear()
        later = a_decision(2, path=OTHER, action=an_action(path=OTHER))
        await w.decide(later)
        await old.step()
        await w.events.grown.wait()
    await soon.stop()
    assert [await status(w, decided.id) for decided in (d, later)] == [("verified", "")] * 2


async def test_queues_are_counted_while_they_wait(w: World) -> None:
    w.platform.moods.append("lost_before")
    await w.decide(a_decision())
    await w.service.step()
    w.clock.move(30 * 1_000_000)
    await w.service.tend()
    names = ("actions_queued", "actions_queue_age_seconds", "platform_writes_in_doubt", "platform_writes_in_doubt_age_seconds")
    assert [w.count(f"trimtab_{name}") for name in names] == [1, 30, 1, 30]
    await w.settle()
    assert [w.count(f"trimtab_{name}") for name in names] == [0, 0, 0, 0]
    async with w.database.reading() as connection:
        assert {row.state for row in await connection.execute(select(intents))} == {"done"}
