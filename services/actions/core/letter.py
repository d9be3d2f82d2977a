"""Decisions and their actions as canonical text: one value has one spelling, so that equal content has equal bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.actions.executors.contract import Step, Value
from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VERBS = frozenset({"pause", "resume", "set_budget", "shift_budget", "notify"})
RISKS = frozenset({"low", "medium", "high"})


@dataclass(frozen=True, slots=True)
class Approval:
    always: bool
    above: int  # micro-units a day; -1: no amount asks for people
    by: str
    within: int  # microseconds
    otherwise: str


@dataclass(frozen=True, slots=True)
class Action:
    do: str
    path: str
    risk: str
    approve: Approval
    spend_per_day: int | None  # micro-units; None: not known
    valid_for: int  # microseconds
    steps: tuple[Step, ...]  # empty for notify

    @property
    def objects(self) -> tuple[str, ...]:
        """The paths it would change, each once."""
        return tuple(sorted({s.path for s in self.steps}))


def canonical(value: Any) -> str:
    """JSON in ASCII with sorted keys and no spaces; refuses floats, which have many spellings."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def whole(decision: Decision) -> str:
    """The whole decision, canonical."""
    return canonical({"id": decision.id, **asdict(decision)})


def action_of(text: str) -> Action:
    """The action a fired decision proposes; RejectedInput (malformed_action) names what is missing or of the wrong kind."""
    try:
        raw = json.loads(text)
        approve = raw["approve"]
        action = Action(
            do=_one_of(raw["do"], VERBS),
            path=_typed(raw["path"], str),
            risk=_one_of(raw["risk"], RISKS),
            approve=Approval(
                always=_typed(approve["always"], bool),
                above=_typed(approve["above"], int),
                by=_typed(approve["by"], str),
                within=_typed(approve["within"], int),
                otherwise=_typed(approve["otherwise"], str),
            ),
            spend_per_day=None if raw.get("spend_per_day") is None else _typed(raw["spend_per_day"], int),
            valid_for=_typed(raw["valid_for"], int),
            steps=steps_of(raw["steps"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RejectedInput(f"the action cannot be read: {type(error).__name__} {error}", reason="malformed_action") from error
    if not action.steps and action.do != "notify":
        raise RejectedInput(f"an action that does {action.do} has no steps", reason="malformed_action")
    return action


def steps_of(raw: list[dict[str, Any]]) -> tuple[Step, ...]:
    return tuple(Step(_typed(s["path"], str), _typed(s["attribute"], str), _value(s.get("observed")), _required(_value(s["desired"]))) for s in raw)


def steps_text(steps: tuple[Step, ...]) -> str:
    return canonical([asdict(s) for s in steps])


def rfc3339(micros: int) -> str:
    """2026-11-24T08:00:00.000000Z"""
    return (EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:  # exactly: True is not the number 1
        raise TypeError(f"expected {kind.__name__}")
    return value


def _one_of(value: Any, allowed: frozenset[str]) -> str:
    if value not in allowed:
        raise ValueError(f"expected one of {', '.join(sorted(allowed))}")
    return str(value)


def _value(value: Any) -> Value | None:
    if value is None or type(value) in (str, int):
        return value  # type: ignore[no-any-return]  # checked in this line
    raise TypeError("a value is a text or an integer")


def _required(value: Value | None) -> Value:
    if value is None:
        raise TypeError("desired is missing")
    return value


def _refuse_floats(value: Any) -> None:
    match value:
        case float():
            raise TypeError("a float has no canonical spelling")
        case dict():
            for one in value.values():
                _refuse_floats(one)
        case list() | tuple():
            for one in value:
                _refuse_floats(one)
