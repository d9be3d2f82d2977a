"""What comes next in an execution follows from its attempts alone."""

import pytest

from services.actions.core.progress import APPLY, RESTORES, Attempt, Done, Effect, Settle, Write, next_move, settle
from services.actions.executors.contract import Step

A = Step("p/a", "daily_budget", 80, 68)
B = Step("p/b", "daily_budget", 80, 92)


RESTORE = RESTORES[0]


def tried(index: int, role: str, observed: int, desired: int, status: str, reason: str = "", answer: str = "accepted") -> Attempt:
    return Attempt(index, role, ("p/a", "p/b")[index], "daily_budget", observed, desired, answer, status=status, reason=reason)


APPLIED = tried(0, APPLY, 80, 68, "verified")
REFUSED = tried(1, APPLY, 80, 92, "failed", "refused", "refused")


def test_a_shift_takes_its_steps_in_order() -> None:
    assert next_move((A, B), ()) == Write(0, APPLY, A)
    assert next_move((A, B), (APPLIED,)) == Write(1, APPLY, B)
    assert next_move((A, B), (APPLIED, tried(1, APPLY, 80, 92, "verified"))) == Done(
        "verified", "", (Effect("p/a", "daily_budget", "verified", "", 68), Effect("p/b", "daily_budget", "verified", "", 92))
    )


def test_an_attempt_without_an_end_is_only_ever_read() -> None:
    doubtful = tried(0, APPLY, 80, 68, "", answer="")
    assert next_move((A, B), (doubtful,)) == Settle(doubtful)


def test_a_failed_second_step_restores_the_first_to_the_amount_read_before() -> None:
    assert next_move((A, B), (APPLIED, REFUSED)) == Write(0, RESTORE, Step("p/a", "daily_budget", 68, 80))
    done = next_move((A, B), (APPLIED, REFUSED, tried(0, RESTORE, 68, 80, "verified")))
    assert done == Done(
        "failed", "refused", (Effect("p/b", "daily_budget", "failed", "refused", 92), Effect("p/a", "daily_budget", "verified", "restored", 80))
    )


def test_a_first_step_that_failed_leaves_nothing_to_restore() -> None:
    failed = tried(0, APPLY, 80, 68, "failed", "precondition", "unsent")
    assert next_move((A, B), (failed,)) == Done("failed", "precondition", (Effect("p/a", "daily_budget", "failed", "precondition", 68),))


@pytest.mark.parametrize("reason", ["refused", "not_applied", "unreachable"])
def test_a_restore_that_is_known_to_have_done_nothing_is_tried_again_twice(reason: str) -> None:
    tries = [tried(0, role, 68, 80, "failed", reason) for role in RESTORES]
    assert next_move((A, B), (APPLIED, REFUSED, *tries[:1])) == Write(0, "restore 2", Step("p/a", "daily_budget", 68, 80))
    assert next_move((A, B), (APPLIED, REFUSED, *tries[:2])) == Write(0, "restore 3", Step("p/a", "daily_budget", 68, 80))
    done = next_move((A, B), (APPLIED, REFUSED, *tries[:2], tried(0, "restore 3", 68, 80, "verified")))
    assert isinstance(done, Done) and (done.status, done.effects[-1]) == ("failed", Effect("p/a", "daily_budget", "verified", "restored", 80))
    assert isinstance(half := next_move((A, B), (APPLIED, REFUSED, *tries)), Done) and half.reason == "half_done"


@pytest.mark.parametrize(("status", "reason"), [("failed", "precondition"), ("unknown", "not_seen"), ("unknown", "changed_meanwhile")])
def test_a_restore_that_somebody_else_met_or_that_may_be_there_is_not_tried_again(status: str, reason: str) -> None:
    done = next_move((A, B), (APPLIED, REFUSED, tried(0, RESTORE, 68, 80, status, reason)))
    assert isinstance(done, Done) and done.reason == "half_done"


def test_a_restore_that_failed_is_said_to_be_half_done_with_what_is_really_there() -> None:
    done = next_move((A, B), (APPLIED, REFUSED, tried(0, RESTORE, 68, 80, "failed", "precondition")))
    assert isinstance(done, Done) and (done.status, done.reason) == ("unknown", "half_done")
    assert Effect("p/a", "daily_budget", "verified", "", 68) in done.effects


def test_an_unknown_second_step_restores_nothing() -> None:
    unknown = tried(1, APPLY, 80, 92, "unknown", "unreadable", "unclear")
    done = next_move((A, B), (APPLIED, unknown))
    assert isinstance(done, Done) and (done.status, done.reason, done.effects[0].path) == ("unknown", "unreadable", "p/b")


@pytest.mark.parametrize(
    ("answer", "seen", "expected"),
    [
        ("accepted", (92,), ("verified", "")),
        ("accepted", (80, 80, 92), ("verified", "")),
        ("unclear", (92,), ("", "")),
        ("unclear", (92, 92), ("verified", "")),
        ("", (80, 92, 92), ("verified", "")),
        ("", (80, 80, 92), ("", "")),
        ("", (80, 80, 92, 92), ("verified", "")),
        ("unclear", (80, 92, 80), ("unknown", "changed_meanwhile")),
        ("unclear", (92, None), ("", "")),
        ("unclear", (92, None, 92), ("", "")),
        ("unclear", (80, 80), ("", "")),
        ("unclear", (80, 80, 80), ("failed", "not_applied")),
        ("", (80, None, 80), ("failed", "not_applied")),
        ("accepted", (80, 80, 80), ("unknown", "not_seen")),
        ("unclear", (80, None, None), ("unknown", "not_seen")),
        ("unclear", (None, None, None), ("unknown", "unreadable")),
        ("accepted", (75, 75, 75), ("unknown", "changed_meanwhile")),
    ],
)
def test_doubt_ends_by_what_was_read_back(answer: str, seen: tuple[int | None, ...], expected: tuple[str, str]) -> None:
    known = settle(Attempt(1, APPLY, "p/b", "daily_budget", 80, 92, answer, seen=seen), enough=3)
    assert (known.status, known.reason) == expected
