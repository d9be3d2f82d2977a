"""How far an execution has come, and the one thing to do next. Read from the attempts alone, so a restart goes on where the last process ended.

apply 0 -> apply 1 -> ... -> done (verified)
             |
             a definite failure: restore what was applied, last first -> done (failed); a restore that is known to have done nothing is tried again
             not known: leave all as it is -> done (unknown); restoring could add a change to one that is there after all
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from services.actions.executors.contract import Observed, Step, Value

VERIFIED, FAILED, UNKNOWN = "verified", "failed", "unknown"
APPLY = "apply"
RESTORES = ("restore", "restore 2", "restore 3")  # an absolute value may be set again where it is known not to be there: a half is worse
NOTHING_DONE = ("refused", "not_applied", "unreachable")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call: committed before it was made, so a row with an empty answer may or may not have been sent."""

    step: int
    role: str  # apply | restore | restore 2 | restore 3
    path: str
    attribute: str
    observed: Value | None  # what the platform said just before
    desired: Value
    answer: str = ""  # "" | accepted | refused | unclear | unsent
    detail: str = ""
    seen: tuple[Value | None, ...] = ()  # read back so far
    status: str = ""  # "" while in doubt
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """Set a step now. A restore sets what the platform said before the first change."""

    index: int
    role: str
    step: Step


@dataclass(frozen=True, slots=True)
class Settle:
    """Something may have been sent: read, and only read, until it is known."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Effect:
    """What is known at the end of one step: for an outcome."""

    path: str
    attribute: str
    status: str
    reason: str
    value: Value


@dataclass(frozen=True, slots=True)
class Done:
    status: str
    reason: str
    effects: tuple[Effect, ...]


Next: TypeAlias = Write | Settle | Done


def next_move(steps: tuple[Step, ...], attempts: tuple[Attempt, ...]) -> Next:
    by = {(a.step, a.role): a for a in attempts}
    for index, step in enumerate(steps):
        tried = by.get((index, APPLY))
        if tried is None:
            return Write(index, APPLY, step)
        if not tried.status:
            return Settle(tried)
        if tried.status == FAILED:
            return _restore(steps, by, tried)
        if tried.status == UNKNOWN:
            return _done(steps, by, UNKNOWN, tried.reason)
    return _done(steps, by, VERIFIED, next((a.reason for a in attempts if a.reason), ""))


def given_up(steps: tuple[Step, ...], attempts: tuple[Attempt, ...], reason: str) -> Done:
    """The end of an execution that cannot go on for a fault of ours: failed where nothing was sent, else unknown, with what is known of each step."""
    has_sent = any(a.answer != "unsent" for a in attempts)
    return _done(steps, {(a.step, a.role): a for a in attempts}, UNKNOWN if has_sent else FAILED, reason)


def standing(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """The changes of ours that are, or may be, at the platform in the end: without what was restored, which is not ours any more."""
    by = {(a.step, a.role): a for a in attempts}
    sent = (a for a in attempts if a.role == APPLY and a.answer != "unsent" and a.status in (VERIFIED, UNKNOWN))
    return tuple(a for a in sent if (restored := _restored(by, a.step)) is None or restored.status != VERIFIED)


def _restore(steps: tuple[Step, ...], by: dict[tuple[int, str], Attempt], failed: Attempt) -> Next:
    reason = failed.reason
    for index in reversed(range(failed.step)):
        applied = by[index, APPLY]
        if applied.answer == "unsent":  # it was as desired before we came: there is nothing of ours to take back
            continue
        restored = _restored(by, index)
        if restored is not None and not restored.status:
            return Settle(restored)
        if restored is not None and restored.status == VERIFIED:
            continue
        role = _next_restore(restored)
        if role is None or applied.observed is None:
            return _done(steps, by, UNKNOWN, "half_done")
        return Write(index, role, Step(applied.path, applied.attribute, applied.desired, applied.observed))
    return _done(steps, by, FAILED, reason)


def _restored(by: dict[tuple[int, str], Attempt], index: int) -> Attempt | None:
    """The last attempt to restore the step."""
    return next((by[index, role] for role in reversed(RESTORES) if (index, role) in by), None)


def _next_restore(last: Attempt | None) -> str | None:
    """None where it has been tried often enough, or may have been done."""
    if last is None:
        return RESTORES[0]
    if last.status != FAILED or last.reason not in NOTHING_DONE or last.role == RESTORES[-1]:
        return None
    return RESTORES[RESTORES.index(last.role) + 1]


def _done(steps: tuple[Step, ...], by: dict[tuple[int, str], Attempt], status: str, reason: str) -> Done:
    """The effects carry, for each step tried, what is there now; the one that names the decision's own status comes first."""
    effects = []
    for index in range(len(steps)):
        applied, restored = by.get((index, APPLY)), _restored(by, index)
        if applied is None:
            continue
        if restored is None or restored.status == FAILED:
            effects.append(Effect(applied.path, applied.attribute, applied.status or UNKNOWN, applied.reason, applied.desired))
        else:
            effects.append(Effect(restored.path, restored.attribute, restored.status or UNKNOWN, "restored", restored.desired))
    effects.sort(key=lambda e: e.status != status)
    return Done(status, reason, tuple(effects))


def is_as_decided(step: Step, now: Observed) -> str:
    """ "" where the step may go ahead, else why not. A step that never saw a value has nothing to compare."""
    if now.value is None:
        return "no_such_object"
    if step.observed is not None and now.value != step.observed:
        return "precondition"
    return ""


def settle(attempt: Attempt, enough: int) -> Attempt:
    """What the values read back so far say (None: could not be read); status "" asks for another look, `enough` looks end the asking.

    Seen as desired, twice in a row where the platform never said yes: verified. A value that is taken back may be read once more from before the change
    that is being undone. As it was before, every time, though the platform never said yes: not applied. Anything else: unknown, for people.
    """
    sure = 1 if attempt.answer == "accepted" else 2
    if attempt.seen[-sure:] == (attempt.desired,) * sure:
        return replace(attempt, status=VERIFIED)
    if len(attempt.seen) < enough or attempt.seen[-1] == attempt.desired:
        return attempt
    readable = [value for value in attempt.seen if value is not None]
    if not readable:
        return replace(attempt, status=UNKNOWN, reason="unreadable")
    if any(value != attempt.observed for value in readable):
        return replace(attempt, status=UNKNOWN, reason="changed_meanwhile")
    if attempt.answer == "accepted" or len(readable) < 2:
        return replace(attempt, status=UNKNOWN, reason="not_seen")
    return replace(attempt, status=FAILED, reason="not_applied")
