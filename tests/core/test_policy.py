"""What happens to a decision, as a table: one line is one case."""

import json
from dataclasses import replace

import pytest

from services.actions.core.letter import action_of, canonical, rfc3339
from services.actions.core.policy import ROOM, Circumstances, Escalate, Execute, Hold, Park, Proposal, Record, last_call, route
from services.kernel.errors import RejectedInput
from tests.shell.acting import EUR, NOON, a_shift, an_action

SANDBOX = ("sandbox", frozenset({"status", "daily_budget"}), True)
REAL = ("sandbox", frozenset({"status", "daily_budget"}), False)
SO = Circumstances(NOON, executors=(SANDBOX,))
FIRED = Proposal("fired", "active", False, 3_000_000, NOON + ROOM, action_of(an_action()))


def fired(**changes: object) -> Proposal:
    return replace(FIRED, action=action_of(an_action(**changes)))


@pytest.mark.parametrize(
    ("proposal", "so", "expected"),
    [
        (FIRED, SO, Execute()),
        (replace(FIRED, kind="refused", action=None), SO, Record("refused")),
        (replace(FIRED, kind="cleared", action=None), SO, Record("cleared")),
        (replace(FIRED, mode="shadow"), SO, Record("shadow")),
        (replace(FIRED, mode="shadow"), replace(SO, kill_switch=True), Record("shadow")),
        (FIRED, replace(SO, kill_switch=True), Park("kill_switch")),
        (FIRED, replace(SO, hold=True), Park("actions_held")),
        (replace(FIRED, valid_until=NOON + ROOM), SO, Execute()),
        (replace(FIRED, valid_until=NOON + ROOM - 1), SO, Hold("stale")),
        (replace(FIRED, valid_until=NOON + ROOM - 1), replace(SO, kill_switch=True), Hold("stale")),
        (replace(FIRED, simulated=True), SO, Execute()),
        (replace(FIRED, simulated=True), replace(SO, executors=(REAL,)), Park("simulated_clock_real_executor")),
        (FIRED, replace(SO, executors=(REAL,)), Execute()),
        (FIRED, replace(SO, executors=()), Park("no_executor")),
        (FIRED, replace(SO, executors=(("sandbox", frozenset({"daily_budget"}), True),)), Park("unsupported")),
        (fired(approve={"always": True}), SO, Escalate("approval_always")),
        (fired(risk="high"), SO, Escalate("risk_high")),
        (fired(risk="medium"), SO, Execute()),
        (fired(approve={"above": 240 * EUR}), SO, Execute()),
        (fired(approve={"above": 240 * EUR - 1}), SO, Escalate("above_amount")),
        (fired(approve={"above": 0}, spend_per_day=None), SO, Escalate("amount_unknown")),
        (FIRED, replace(SO, evidence_at_least=3_000_000), Execute()),
        (FIRED, replace(SO, evidence_at_least=3_000_001), Escalate("low_confidence")),
        (replace(FIRED, evidence=None), replace(SO, evidence_at_least=1), Escalate("low_confidence")),
        (replace(FIRED, evidence=None), SO, Execute()),
        (fired(do="notify", steps=[]), replace(SO, kill_switch=True, executors=()), Execute("notify")),
        (fired(risk="high"), replace(SO, kill_switch=True), Park("kill_switch")),
    ],
)
def test_policy_answers(proposal: Proposal, so: Circumstances, expected: object) -> None:
    assert route(proposal, so) == expected


@pytest.mark.parametrize("valid_for", [1, 3, 1_000_000, 900_000_000])
def test_a_last_call_leaves_room_for_the_engine_to_hear_and_most_of_the_time_to_act(valid_for: int) -> None:
    left = NOON - last_call(NOON, valid_for)
    assert left <= ROOM and 4 * left <= valid_for
    assert left == ROOM or 4 * (left + 1) > valid_for


def test_a_shift_is_read_with_both_steps_in_order() -> None:
    action = action_of(a_shift())
    assert [(s.observed, s.desired) for s in action.steps] == [(80 * EUR, 68 * EUR), (80 * EUR, 92 * EUR)]
    assert len(action.objects) == 2


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        an_action(do="delete"),
        an_action(risk="some"),
        an_action(steps=[]),
        an_action(steps=[{"path": "p", "attribute": "status", "observed": "active"}]),
        an_action(steps=[{"path": "p", "attribute": "daily_budget", "observed": 1, "desired": 1.5}]),
        an_action(steps=[{"path": "p", "attribute": "daily_budget", "observed": 1, "desired": True}]),
        an_action(spend_per_day=1.0),
        an_action(valid_for="15m"),
        an_action(approve={"always": 1}),
    ],
)
def test_an_action_that_cannot_be_read_is_refused_with_one_reason(broken: str) -> None:
    with pytest.raises(RejectedInput) as refused:
        action_of(broken)
    assert refused.value.reason == "malformed_action"


def test_equal_values_have_equal_spelling_and_floats_have_none() -> None:
    assert canonical({"b": 1, "a": ["é", None]}) == '{"a":["\\u00e9",null],"b":1}'
    assert json.loads(canonical({"a": "\u2028"})) == {"a": "\u2028"}
    with pytest.raises(TypeError):
        canonical({"a": [{"b": 0.5}]})


def test_instants_are_told_to_the_microsecond() -> None:
    assert rfc3339(1_790_000_000_000_001) == "2026-09-21T14:13:20.000001Z"
