"""From a decision on the log to an outcome on the log, with people and the kill switch in between."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from services.actions.core.letter import canonical
from services.actions.execute import Pace
from services.actions.executors.contract import Answer, Observed, Step
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Broken
from services.actions.tables import attempts, decisions, escalations, in_flight, outbox, quarantined
from services.actions.worker import BATCH, ActionsService, Conduct, by_platform
from services.adapters.db.clock import Own
from services.kernel.decision import Decision
from services.kernel.errors import Conflict, Misconfigured, NotFound, RejectedInput, Unavailable
from services.kernel.ids import digest
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
    ListLog,
    Platform,
    World,
    a_decision,
    a_refusal,
    a_shift,
    an_action,
    status,
    story,
    world,
)

BY = "pause-weak-creatives"


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, url=database_url) as made:
        yield made


async def asked(w: World) -> str:
    async with w.database.reading() as connection:
        return str(await connection.scalar(select(escalations.c.id).order_by(escalations.c.position.desc())))


async def test_a_pause_is_executed_verified_and_told_to_the_engine(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert w.platform.journal == [(AD, "status", "paused")]
    assert await status(w, d.id) == ("verified", "")
    [outcome] = w.outcomes()
    assert (outcome.workspace, outcome.decision_id, outcome.status) == ("main", d.id, "verified")
    assert (outcome.path, outcome.action, outcome.value, outcome.by) == (AD, "status", "paused", BY)
    assert await story(w, d.id) == ["decision.executing", "intent", "result", "outcome"]
    assert w.count("trimtab_actions_total", status="verified", reason="") == 1
    assert w.count("trimtab_ledger_entries_total") == 4


async def test_a_set_budget_is_told_in_micro_units(w: World) -> None:
    steps = [{"path": AD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 68 * EUR}]
    await w.decide(a_decision(action=an_action(do="set_budget", steps=steps)))
    await w.service.step()
    assert w.told() == [("verified", AD, "68000000", "")]


async def test_what_does_not_act_is_recorded_and_not_told(w: World) -> None:
    refused, cleared, shadow = a_refusal(1), a_decision(2, kind="cleared", action=""), a_decision(3, mode="shadow")
    await w.decide(refused, cleared, shadow)
    await w.service.step()
    assert [await status(w, d.id) for d in (refused, cleared, shadow)] == [("recorded", "refused"), ("recorded", "cleared"), ("recorded", "shadow")]
    assert (w.platform.journal, w.told()) == ([], [])
    assert await story(w, shadow.id) == ["decision.recorded"]


async def test_a_notice_changes_nothing_and_is_done_at_once(w: World) -> None:
    d = a_decision(action=an_action(do="notify", steps=[]))
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("verified", "notified")
    assert (w.platform.journal, w.told()) == ([], [("verified", "", "", "notified")])


async def test_a_decision_delivered_again_acts_once(w: World) -> None:
    d = a_decision()
    await w.decide(d, d)
    await w.service.step()
    await w.decide(d)
    await w.settle()
    assert w.platform.journal == [(AD, "status", "paused")]
    assert len(w.outcomes()) == 1


async def test_the_database_itself_keeps_a_decision_once(w: World) -> None:
    await w.decide(a_decision())
    await w.service.step()
    async with w.database.reading() as connection:
        row = (await connection.execute(select(decisions))).one()._mapping
    with pytest.raises(IntegrityError):
        async with w.database.writing() as tx:
            await tx.execute(decisions.insert().values({name: value for name, value in row.items() if name != "position"}))


async def test_one_id_with_two_contents_is_parked_and_counted(w: World) -> None:
    d = a_decision()
    other = replace(d, evidence=1)
    assert other.id == d.id
    await w.decide(d)
    await w.service.step()
    await w.decide(other)
    await w.settle()
    async with w.database.reading() as connection:
        [row] = (await connection.execute(select(quarantined))).all()
    assert (row.decision_id, row.reason) == (d.id, "two_builds_disagree")
    assert w.count("trimtab_decisions_quarantined_total", reason="two_builds_disagree") == 1
    assert "decision.quarantined" in await story(w, d.id)
    assert w.platform.journal == [(AD, "status", "paused")]


async def test_an_action_nobody_can_read_is_parked_and_the_next_decision_goes_on(w: World) -> None:
    broken, good = a_decision(1, action='{"do":"delete"}'), a_decision(2, path=OTHER)
    await w.decide(broken, good)
    await w.service.step()
    assert await status(w, broken.id) == ("failed", "malformed_action")
    assert await status(w, good.id) == ("verified", "")
    assert w.told()[0] == ("failed", AD, "", "malformed_action")


async def test_a_stale_decision_moves_nothing(w: World) -> None:
    d = a_decision()
    w.clock.move(15 * MINUTE + 1)
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal, w.told()) == (("held", "stale"), [], [("held", AD, "", "stale")])


async def test_a_decision_that_grew_stale_in_the_queue_moves_nothing(w: World) -> None:
    w.platform.unreadable = 1
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.clock.move(16 * MINUTE)
    await w.settle()
    assert (await status(w, d.id), w.platform.journal) == (("held", "stale"), [])


async def test_a_decision_whose_time_ends_between_reading_and_writing_moves_nothing(w: World) -> None:
    class Slow(Platform):
        async def read(self, step):  # type: ignore[no-untyped-def]
            w.clock.move(16 * MINUTE)
            return await super().read(step)

    w.platform.__class__ = Slow
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.keys) == (("held", "stale"), [])


async def test_a_held_installation_holds(tmp_path: Path) -> None:
    async with world(tmp_path, Conduct(hold=True)) as w:
        d = a_decision()
        await w.decide(d)
        await w.service.step()
        assert (await status(w, d.id), w.platform.journal) == (("parked", "actions_held"), [])


async def test_a_platform_changed_since_the_decision_is_left_alone(w: World) -> None:
    w.platform.objects[AD, "status"] = "archived"
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal) == (("failed", "precondition"), [])
    assert w.told() == [("failed", AD, "", "precondition")]


async def test_an_object_the_platform_does_not_know_is_a_failure_not_a_guess(w: World) -> None:
    del w.platform.objects[AD, "status"]
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("failed", "no_such_object")


async def test_what_is_already_so_is_verified_without_a_call(w: World) -> None:
    w.platform.objects[AD, "status"] = "paused"
    steps = [{"path": AD, "attribute": "status", "observed": None, "desired": "paused"}]
    d = a_decision(action=an_action(steps=steps))
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.keys) == (("verified", "already_there"), [])


async def test_what_was_decided_to_be_as_it_is_needs_no_call(w: World) -> None:
    """Its effect could not be told from its absence."""
    steps = [{"path": AD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 80 * EUR}]
    d = a_decision(action=an_action(do="set_budget", steps=steps))
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.keys) == (("verified", "already_there"), [])


async def test_a_refusal_by_the_platform_is_a_failure(w: World) -> None:
    w.platform.moods.append("refused")
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.told()) == (("failed", "refused"), [("failed", AD, "", "refused")])


async def test_a_lost_answer_is_settled_by_reading_back(w: World) -> None:
    w.platform.moods.append("lost_after")
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("executing", "within_bounds")
    w.wall.move(10 * SECOND)
    await w.service.step()
    assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 1)


async def test_a_value_from_before_the_change_that_is_undone_is_not_taken_for_the_undo(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.settle()
    w.platform.moods.append("lost_before")
    undo = await w.service.people.undo(REVIEWER, d.id, "a mistake")
    await w.service.step()
    w.platform.stale = 1
    await w.settle()
    assert (await status(w, undo), w.platform.journal) == (("unknown", "changed_meanwhile"), [(AD, "status", "paused")])


@pytest.mark.parametrize(("mood", "expected"), [("lost_before", ("failed", "not_applied")), ("raises", ("failed", "not_applied"))])
async def test_a_call_that_never_arrived_is_never_sent_again(w: World, mood: str, expected: tuple[str, str]) -> None:
    w.platform.moods.append(mood)
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("executing", "within_bounds")
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys), w.platform.journal) == (expected, 1, [])


async def test_a_platform_that_shows_old_values_for_a_while_is_waited_for(w: World) -> None:
    w.platform.moods.append("lost_after")
    w.platform.stale = 3
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 1)


async def test_a_yes_that_never_shows_is_unknown(w: World) -> None:
    w.platform.stale = 100
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("unknown", "not_seen"), 1)
    assert w.told() == [("unknown", AD, "paused", "not_seen")]


async def test_a_platform_that_is_away_is_asked_again_before_anything_is_sent(w: World) -> None:
    w.platform.unreadable = 2
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("verified", ""), 1)


async def test_a_platform_that_stays_away_is_a_failure_that_sent_nothing(w: World) -> None:
    w.platform.unreadable = 1_000
    d = a_decision()
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), w.platform.keys) == (("failed", "unreachable"), [])


async def test_one_object_has_one_change_in_flight(w: World) -> None:
    w.platform.moods.append("lost_before")
    budget = [{"path": AD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 68 * EUR}]
    first, second = a_decision(1), a_decision(2, action=an_action(do="set_budget", steps=budget))
    await w.decide(first, second)
    await w.service.step()
    assert len(w.platform.keys) == 1
    assert (await status(w, second.id))[0] == "executing"
    await w.settle()
    assert await status(w, second.id) == ("verified", "")
    async with w.database.reading() as connection:
        assert (await connection.execute(select(in_flight))).all() == []


async def test_a_shift_conserves_the_sum(w: World) -> None:
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.service.step()
    assert w.platform.journal == [(AD, "daily_budget", 68 * EUR), (OTHER, "daily_budget", 92 * EUR)]
    assert w.told() == [("verified", AD, "68000000", ""), ("verified", OTHER, "92000000", "")]


@pytest.mark.parametrize("mood", ["refused", "lost_before"])
async def test_a_shift_whose_second_step_fails_restores_the_first_and_says_so(w: World, mood: str) -> None:
    w.platform.moods.extend(["ok", mood])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.settle()
    assert w.platform.journal == [(AD, "daily_budget", 68 * EUR), (AD, "daily_budget", 80 * EUR)]
    reason = "refused" if mood == "refused" else "not_applied"
    assert await status(w, d.id) == ("failed", reason)
    assert w.told() == [("failed", OTHER, "", reason), ("verified", AD, "80000000", "restored")]


async def test_a_shift_whose_restore_fails_says_what_is_really_there(w: World) -> None:
    w.platform.moods.extend(["ok", *["refused"] * 4])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.settle()
    assert await status(w, d.id) == ("unknown", "half_done")
    assert w.told() == [("unknown", d.path, "", "half_done"), ("verified", AD, "68000000", ""), ("failed", OTHER, "", "refused")]


async def test_a_restore_that_was_refused_is_tried_again_later(w: World) -> None:
    w.platform.moods.extend(["ok", "refused", "refused"])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.service.step()
    assert w.platform.objects[AD, "daily_budget"] == 68 * EUR
    await w.settle()
    assert w.platform.objects[AD, "daily_budget"] == w.platform.objects[OTHER, "daily_budget"] == 80 * EUR
    assert (await status(w, d.id), len(set(w.platform.keys))) == (("failed", "refused"), 4)


@pytest.mark.parametrize("away", [0, 5])
async def test_a_restore_does_not_believe_a_value_from_before_the_change(w: World, away: int) -> None:
    """Nor if the platform could not be read, five times, before the change was made."""
    w.platform.unreadable = away
    w.platform.moods.extend(["ok", "refused"])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    w.platform.__class__ = Forgetful
    await w.settle()
    assert w.platform.objects[AD, "daily_budget"] == w.platform.objects[OTHER, "daily_budget"] == 80 * EUR
    assert await status(w, d.id) == ("failed", "refused")
    assert w.told() == [("failed", OTHER, "", "refused"), ("verified", AD, "80000000", "restored")]


class Forgetful(Platform):
    """Shows what was before a change from its first refusal on, for four reads."""

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        answer = await super().write(step, observed, idempotency_key)
        if answer.kind == "refused":
            self.stale = 4
        return answer


async def test_a_restore_that_somebody_has_made_already_is_believed_after_a_while(w: World) -> None:
    class Helped(Platform):
        async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
            answer = await super().write(step, observed, idempotency_key)
            if answer.kind == "refused":
                self.objects[AD, "daily_budget"] = 80 * EUR
            return answer

    w.platform.__class__ = Helped
    w.platform.moods.extend(["ok", "refused"])
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.service.step()
    assert await status(w, d.id) == ("executing", "within_bounds")
    await w.settle()
    assert (await status(w, d.id), len(w.platform.keys)) == (("failed", "refused"), 2)


async def test_an_approved_escalation_is_executed(w: World) -> None:
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift(approve={"always": True}))
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal) == (("waiting", "approval_always"), [])
    assert w.count("trimtab_escalations_waiting") == 1
    w.clock.move(200 * MINUTE)
    await w.service.tend()
    assert w.count("trimtab_escalations_age_seconds") == 200 * 60
    assert w.count("trimtab_escalations_time_used_ratio") == pytest.approx(200 / 240)
    await w.service.people.approve(REVIEWER, await asked(w), "go")
    await w.service.step()
    assert await status(w, d.id) == ("verified", "")
    assert [o.status for o in w.outcomes()] == ["approved", "verified", "verified"]
    assert w.count("trimtab_escalations_waiting") == w.count("trimtab_escalations_time_used_ratio") == 0


async def test_each_escalation_is_measured_by_its_own_time(w: World) -> None:
    for path, within in ((AD, 24 * 60 * MINUTE), (OTHER, 60 * MINUTE)):
        await w.decide(a_decision(path=path, action=an_action(path=path, approve={"always": True, "within": within})))
    await w.service.step()
    w.clock.move(48 * MINUTE)
    await w.service.tend()
    assert (w.count("trimtab_escalations_waiting"), w.count("trimtab_escalations_time_used_ratio")) == (2, pytest.approx(0.8))
    w.clock.move(12 * MINUTE + 1)
    await w.service.tend()
    assert (w.count("trimtab_escalations_waiting"), w.count("trimtab_escalations_time_used_ratio")) == (1, pytest.approx(1 / 24))


async def test_an_approval_is_valid_for_its_time_only(w: World) -> None:
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    await w.service.step()
    w.clock.move(200 * MINUTE)
    await w.service.people.approve(REVIEWER, await asked(w), "go")
    w.clock.move(15 * MINUTE + 1)
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal) == (("held", "stale"), [])


async def test_approving_re_checks_the_platform(w: World) -> None:
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    await w.service.step()
    w.platform.objects[AD, "status"] = "archived"
    await w.service.people.approve(REVIEWER, await asked(w), "go")
    await w.service.step()
    assert (await status(w, d.id), w.platform.journal) == (("failed", "precondition"), [])


async def test_a_rejection_needs_a_reason_and_ends_the_wait(w: World) -> None:
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    await w.service.step()
    escalation = await asked(w)
    with pytest.raises(RejectedInput):
        await w.service.people.reject(REVIEWER, escalation, "  ")
    await w.service.people.reject(REVIEWER, escalation, "it is our best seller")
    await w.service.step()
    assert (await status(w, d.id), w.told()) == (("rejected", "rejected"), [("rejected", AD, "", "rejected")])
    with pytest.raises(Conflict) as late:
        await w.service.people.approve(REVIEWER, escalation, "")
    assert late.value.reason == "already_rejected"


async def test_of_people_who_answer_at_once_one_wins(w: World) -> None:
    await w.decide(a_decision(action=an_action(risk="high")))
    await w.service.step()
    escalation, people = await asked(w), w.service.people
    answers = await asyncio.gather(
        *(people.approve(REVIEWER, escalation, "") for _ in range(8)), *(people.reject(REVIEWER, escalation, "no") for _ in range(8)), return_exceptions=True
    )
    assert [a for a in answers if a is not None and not isinstance(a, Conflict)] == []
    assert answers.count(None) == 1
    await w.settle()
    assert len(w.platform.journal) <= 1


async def test_silence_ends_in_the_safe_default(w: World) -> None:
    d = a_decision(action=an_action(risk="high"))
    await w.decide(d)
    w.clock.move(240 * MINUTE)
    await w.service.step()
    assert (await status(w, d.id))[0] == "held"  # it came too late to be asked about

    waiting = a_decision(2, now=w.clock.now(), valid_until=w.clock.now() + 15 * MINUTE, action=an_action(risk="high"))
    await w.decide(waiting)
    await w.service.step()
    escalation = await asked(w)
    w.clock.move(240 * MINUTE)
    await w.service.step()
    assert (await status(w, waiting.id))[0] == "waiting"
    w.clock.move(1)
    with pytest.raises(Conflict):
        await w.service.people.approve(REVIEWER, escalation, "")
    await w.service.step()
    assert await status(w, waiting.id) == ("expired", "no_answer")
    assert w.told()[-1] == ("expired", AD, "", "no_answer")
    assert w.platform.journal == []


async def test_an_undo_restores_what_was_there_as_a_decision_of_its_own(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    undo_id = await w.service.people.undo(REVIEWER, d.id, "it sells")
    assert undo_id == digest("undo", d.id)
    await w.service.step()
    assert w.platform.objects[AD, "status"] == "active"
    outcome = w.outcomes()[-1]
    assert (outcome.decision_id, outcome.status, outcome.path, outcome.action) == (undo_id, "verified", AD, "status")
    assert (outcome.value, outcome.by) == ("active", "rita")
    assert (await story(w, undo_id))[0] == "undo.requested"
    with pytest.raises(Conflict) as twice:
        await w.service.people.undo(REVIEWER, d.id, "")
    assert twice.value.reason == "already_undone"


async def test_an_undone_shift_takes_back_the_increase_first(w: World) -> None:
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.service.step()
    await w.service.people.undo(REVIEWER, d.id, "")
    await w.service.step()
    assert w.platform.journal[2:] == [(OTHER, "daily_budget", 80 * EUR), (AD, "daily_budget", 80 * EUR)]


async def test_an_undo_leaves_alone_what_someone_changed_since(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    w.platform.objects[AD, "status"] = "archived"
    undo_id = await w.service.people.undo(REVIEWER, d.id, "")
    await w.service.step()
    assert (await status(w, undo_id), w.platform.objects[AD, "status"]) == (("failed", "precondition"), "archived")
    w.platform.objects[AD, "status"] = "paused"
    again = await w.service.people.undo(REVIEWER, d.id, "")
    await w.service.step()
    assert (await status(w, again), again != undo_id, w.platform.objects[AD, "status"]) == (("verified", ""), True, "active")


class Claims(Platform):
    """Says yes to these of its writes, counted from one, and does nothing."""

    only_said: tuple[int, ...] = ()

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        if len(self.keys) + 1 in self.only_said:
            self.keys.append(idempotency_key)
            return Answer("accepted")
        return await super().write(step, observed, idempotency_key)


def claims(w: World, *only_said: int) -> None:
    w.platform.__class__ = type("Claiming", (Claims,), {"only_said": only_said})


def budgets(w: World, *paths: str) -> list[float]:
    return [int(w.platform.objects[path, "daily_budget"]) / EUR for path in paths]


async def test_the_undo_of_a_shift_whose_second_step_never_happened_takes_back_the_first(w: World) -> None:
    claims(w, 2)
    d = a_decision(path=f"{AD}|{OTHER}", action=a_shift())
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), budgets(w, AD, OTHER)) == (("unknown", "not_seen"), [68, 80])
    undo = await w.service.people.undo(REVIEWER, d.id, "it is only half there")
    await w.settle()
    assert (await status(w, undo), budgets(w, AD, OTHER)) == (("verified", "already_there"), [80, 80])
    assert w.told()[-2:] == [("verified", OTHER, "80000000", "already_there"), ("verified", AD, "80000000", "")]


async def test_an_undo_does_not_believe_a_value_from_before_the_change(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.settle()
    w.platform.stale = 4
    undo = await w.service.people.undo(REVIEWER, d.id, "a mistake")
    await w.settle()
    assert (await status(w, undo), w.platform.objects[AD, "status"]) == (("verified", ""), "active")


THIRD = "sandbox/acme/prospecting/men/summer"
OF_THREE = [
    {"path": AD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 60 * EUR},
    {"path": OTHER, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 90 * EUR},
    {"path": THIRD, "attribute": "daily_budget", "observed": 80 * EUR, "desired": 90 * EUR},
]


@pytest.mark.parametrize("late", [False, True])
async def test_the_undo_of_a_half_that_was_partly_restored_takes_back_the_rest(w: World, late: bool) -> None:
    """The restore of the second was done, or shows only after it was given up; the first was left as it is."""
    w.platform.objects[THIRD, "daily_budget"] = 80 * EUR
    w.platform.moods.extend(["ok", "ok", "refused", *([] if late else ["ok", "refused", "refused", "refused"])])
    if late:
        claims(w, 4)
    d = a_decision(path=f"{AD}|{OTHER}|{THIRD}", action=a_shift(path=f"{AD}|{OTHER}|{THIRD}", steps=OF_THREE))
    await w.decide(d)
    await w.settle()
    assert (await status(w, d.id), budgets(w, AD, OTHER, THIRD)) == (("unknown", "half_done"), [60, 90 if late else 80, 80])
    w.platform.objects[OTHER, "daily_budget"] = 80 * EUR if late else 70 * EUR  # what was restored is whoever's it is now
    undo = await w.service.people.undo(REVIEWER, d.id, "")
    await w.settle()
    assert (await status(w, undo))[0] == "verified"
    assert budgets(w, AD, OTHER, THIRD) == [80, 80 if late else 70, 80]


async def test_what_never_ran_cannot_be_undone(w: World) -> None:
    d = a_refusal()
    await w.decide(d)
    await w.service.step()
    with pytest.raises(Conflict):
        await w.service.people.undo(REVIEWER, d.id, "")
    with pytest.raises(NotFound):
        await w.service.people.undo(Principal("eve", "reviewer", "other"), d.id, "")


async def test_the_kill_switch_stops_a_change_between_reading_and_writing(w: World) -> None:
    d = a_decision()

    class Slow(Platform):
        async def read(self, step):  # type: ignore[no-untyped-def]
            await w.service.people.set_kill_switch(ADMIN, True, "now")
            return await super().read(step)

    w.platform.__class__ = Slow
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.keys) == (("parked", "kill_switch"), [])
    async with w.database.reading() as connection:
        assert (await connection.execute(select(in_flight))).all() == []


async def test_under_the_kill_switch_nothing_is_approved_or_undone(w: World) -> None:
    done, waiting = a_decision(1), a_decision(2, path=OTHER, action=an_action(path=OTHER, risk="high"))
    await w.decide(done, waiting)
    await w.service.step()
    await w.service.people.set_kill_switch(ADMIN, True, "now")
    with pytest.raises(Conflict) as approving:
        await w.service.people.approve(REVIEWER, await asked(w), "")
    with pytest.raises(Conflict) as undoing:
        await w.service.people.undo(REVIEWER, done.id, "")
    assert (approving.value.reason, undoing.value.reason) == ("kill_switch", "kill_switch")
    assert (await status(w, waiting.id))[0] == "waiting"
    await w.service.people.set_kill_switch(ADMIN, False, "")
    await w.service.people.approve(REVIEWER, await asked(w), "")
    await w.service.step()
    assert (await status(w, waiting.id))[0] == "verified"


async def test_a_kill_switch_is_of_one_workspace(w: World) -> None:
    await w.service.people.set_kill_switch(Principal("adam", "admin", "other"), True, "theirs")
    d = a_decision()
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id))[0] == "verified"


async def test_a_simulated_clock_never_reaches_a_real_platform(w: World) -> None:
    class Real(Platform):
        is_practice = False

    w.platform.__class__ = Real
    w.start()
    d = a_decision(simulated=True)
    await w.decide(d)
    await w.service.step()
    assert (await status(w, d.id), w.platform.keys) == (("parked", "simulated_clock_real_executor"), [])


async def test_every_call_has_a_committed_intent_with_what_was_read_and_what_was_asked(w: World) -> None:
    rows = []

    class Nosy(Platform):
        async def write(self, step, observed, idempotency_key):  # type: ignore[no-untyped-def]
            async with w.database.reading() as connection:
                rows.extend((await connection.execute(select(attempts))).all())
                assert (await ledger.read(connection, "main"))[-1].kind == "intent"
            return await super().write(step, observed, idempotency_key)

    w.platform.__class__ = Nosy
    await w.decide(a_decision())
    await w.service.step()
    [row] = rows
    assert (json.loads(row.observed), json.loads(row.desired), row.answer, row.key) == ("active", "paused", "", w.platform.keys[0])


async def test_a_ledger_taken_away_whole_is_missed(w: World) -> None:
    await w.decide(a_refusal())
    await w.service.step()
    async with w.database.writing() as tx:
        await tx.exec_driver_sql("DROP TRIGGER ledger_no_DELETE" if w.database.is_sqlite else "DROP TRIGGER ledger_no_change ON ledger")
        await tx.exec_driver_sql("DELETE FROM ledger")
        await tx.exec_driver_sql("DELETE FROM ledger_heads")
    async with w.database.reading() as connection:
        assert isinstance(await ledger.check(connection, "main"), Broken)


async def test_two_executors_for_one_platform_are_refused() -> None:
    with pytest.raises(Misconfigured):
        by_platform([Platform(), Platform()])


class Slow(Platform):
    """Reads nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may = 0, asyncio.Event()

    async def read(self, step: Step) -> Observed:
        self.asked += 1
        await self.may.wait()
        return await super().read(step)


class Quick(Platform):
    name = "house_ads"
    platforms = frozenset({"house_ads", "house_tv"})


async def test_a_platform_that_does_not_answer_keeps_no_other_platforms_decisions_waiting(w: World) -> None:
    """Though more of its decisions came first than are carried out at the same time."""
    slow, quick = Slow(), Quick()
    of_slow = [a_decision(i, path=f"sandbox/a/c/g/s{i}") for i in range(12)]
    of_quick = [a_decision(i, path=f"house_{('ads', 'tv')[i % 2]}/a/c/g/\"path\":\"sandbox/q{i}") for i in range(4)]
    nowhere = a_decision(path="elsewhere/a/c/g/x")
    for platform, made in ((slow, of_slow), (quick, of_quick)):
        platform.objects |= {(d.path, "status"): "active" for d in made}
    conduct = Conduct(pace=Pace(call=10 * MINUTE, lease=30 * MINUTE))  # it is waited for
    service = ActionsService(w.database, w.decisions, w.events, [slow, quick], w.clock, CollectorRegistry(), conduct, Own(w.wall))
    await w.decide(*of_slow, nowhere, *of_quick)
    await service.take_in(0, await w.decisions.read(0, 0))
    await service.start()

    async def all_verified(made: Sequence[Decision]) -> None:
        while True:
            w.events.grown.clear()
            if {await status(w, d.id) for d in made} == {("verified", "")}:
                return
            await w.events.grown.wait()

    async with asyncio.timeout(100):
        await all_verified(of_quick)
        assert {(await status(w, d.id))[0] for d in of_slow} == {"executing"} and slow.asked == 8
        assert await status(w, nowhere.id) == ("parked", "no_executor")
        slow.may.set()
        await all_verified(of_slow)
    await service.stop()
    assert sorted(path for path, _, _ in (*slow.journal, *quick.journal)) == sorted(d.path for d in (*of_slow, *of_quick))


async def test_a_workspace_with_many_decisions_leaves_places_for_the_others(w: World) -> None:
    """Of three workspaces two have more than there are places."""
    made = [a_decision(i, path=f"sandbox/a/c/g/{i}") for i in range(20)]
    made += [a_decision(i, workspace="second", path=f"sandbox/b/c/g/{i}") for i in range(20)] + [a_decision(1, workspace="third", path="sandbox/c/c/g/1")]
    w.platform.objects |= {(d.path, "status"): "active" for d in made}
    await w.decide(*made)
    await w.service.take_in(0, await w.decisions.read(0, 0))
    counts = []
    for _ in range(2):
        before = len(w.platform.journal)
        await w.service.execution.round()
        counts.append(dict(sorted(Counter(path.split("/")[1] for path, _, _ in w.platform.journal[before:]).items())))
    assert counts == [{"a": 3, "b": 3, "c": 1}, {"a": 4, "b": 4}]


async def test_the_service_runs_by_itself_and_ends_cleanly(w: World) -> None:
    d = a_decision()
    await w.decide(d)
    await w.service.start()
    async with asyncio.timeout(20):
        await w.events.grown.wait()
    await w.service.stop()
    assert (await status(w, d.id), w.platform.closed) == (("verified", ""), True)


async def test_outcomes_wait_for_a_log_that_is_away(w: World) -> None:
    w.events.fails = 1
    await w.decide(a_decision())
    await w.service.start()
    async with asyncio.timeout(20):
        await w.events.grown.wait()
    await w.service.stop()
    assert (w.told(), w.events.fails) == ([("verified", AD, "paused", "")], 0)


class Partitioned(ListLog[Any]):
    """Takes what it can, as Kafka does, and then says that some of it is not there."""

    def __init__(self, away: str) -> None:
        super().__init__()
        self.away = away

    async def append(self, records: Sequence[tuple[str, Any]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        there = await super().append([r for r in records if r[0] != self.away], partition)
        if len(there) < len(records):
            raise Unavailable("a partition has no leader", reason="log_refused")
        return there


async def put(w: World, workspace: str, *numbers: int) -> None:
    rows = [{"workspace": workspace, "body": canonical(asdict(Outcome(workspace, f"{n}", "verified", AD)))} for n in numbers]
    async with w.database.writing() as tx:
        await tx.execute(insert(outbox), rows)


async def test_while_a_partition_is_away_the_outcomes_of_others_are_sent_once(w: World) -> None:
    w.events = Partitioned("b")
    w.start()
    await put(w, "b", 1, 2)
    await put(w, "main", 1)
    await put(w, "b", 3)
    await put(w, "c", 1)
    for _ in range(3):
        with pytest.raises(Unavailable, match="no leader"):
            await w.service.tend()
    assert sorted((o.workspace, o.decision_id) for o in w.outcomes()) == [("c", "1"), ("main", "1")]
    assert w.count("trimtab_outcomes_unsent") == 3
    w.events.away = ""
    await w.service.tend()
    assert [o.decision_id for o in w.outcomes() if o.workspace == "b"] == ["1", "2", "3"]
    assert (len(w.outcomes()), w.count("trimtab_outcomes_unsent")) == (5, 0)


async def test_a_workspace_whose_partition_is_away_does_not_fill_the_page_of_what_is_sent(w: World) -> None:
    w.events = Partitioned("b")
    w.start()
    await put(w, "b", *range(BATCH + 10))
    await put(w, "main", *range(BATCH + 10))
    await put(w, "b", BATCH + 10)
    with pytest.raises(Unavailable):
        await w.service.publish()
    assert [o.decision_id for o in w.outcomes()] == [f"{n}" for n in range(BATCH + 10)]
    w.events.away = ""
    assert await w.service.publish() == BATCH + 11
    assert [o.decision_id for o in w.outcomes() if o.workspace == "b"] == [f"{n}" for n in range(BATCH + 11)]


async def test_a_partition_that_does_not_answer_keeps_nothing_of_another_unsent(w: World) -> None:
    class Silent(ListLog[Any]):
        asked, answers = asyncio.Event(), asyncio.Event()

        async def append(self, records: Sequence[tuple[str, Any]], partition: int | None = None) -> Sequence[tuple[int, int]]:
            if records[0][0] == "b":
                self.asked.set()
                await self.answers.wait()
            return await super().append(records, partition)

    w.events = Silent()
    w.start()
    await put(w, "b", *range(BATCH))
    await put(w, "main", 1)
    publishing = asyncio.create_task(w.service.publish())
    async with asyncio.timeout(20):
        await w.events.grown.wait()
    assert ([o.workspace for o in w.outcomes()], publishing.done()) == (["main"], False)
    w.events.answers.set()
    assert await publishing == BATCH + 1


async def test_escalated_decisions_name_who_is_asked_and_until_when(w: World) -> None:
    await w.decide(a_decision(action=an_action(approve={"above": 100 * EUR})))
    await w.service.step()
    async with w.database.reading() as connection:
        row = (await connection.execute(select(escalations))).one()
    assert (row.by, row.otherwise, row.reason, row.expires_at) == ("media-lead", "leave running", "above_amount", w.clock.now() + 240 * 60 * SECOND)
