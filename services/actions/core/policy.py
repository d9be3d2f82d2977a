"""What happens to a decision: recorded only, held, parked, put to people, or executed. Every answer has a reason that is also a metric's label.

decision --not fired, or shadow--> Record
         --too old--> Hold: for good
         --switch, hold mode, clock, no way to do it--> Park: asked again once that is over, and held where its time is over first
         --risk, money, confidence, the rule's own wish--> Escalate
         --otherwise--> Execute
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.actions.core.letter import Action
from services.actions.executors.contract import Step

HOLDS = ("stale",)
PARKS = ("kill_switch", "actions_held", "simulated_clock_real_executor", "no_executor", "unsupported")
ESCALATIONS = ("approval_always", "risk_high", "above_amount", "amount_unknown", "low_confidence")
ROOM = 2_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class Proposal:
    """A decision as policy sees it."""

    kind: str  # fired | refused | cleared
    mode: str  # active | shadow
    simulated: bool
    evidence: int | None  # micro-nats
    valid_until: int
    action: Action | None  # None unless fired


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is so when policy is asked."""

    now: int
    kill_switch: bool = False
    hold: bool = False  # the operator's TRIMTAB_ACTIONS=hold
    executors: tuple[tuple[str, frozenset[str], bool], ...] = ()  # (platform, attributes it can set, is practice)
    evidence_at_least: int = 0  # micro-nats; 0: evidence is the rule's affair alone
    stale_before: int = 0  # what was decided before this instant may have been done already: the database was restored then

    def executor(self, path: str) -> tuple[frozenset[str], bool] | None:
        platform = path.split("/", 1)[0]
        return next(((attributes, practice) for name, attributes, practice in self.executors if name == platform), None)


@dataclass(frozen=True, slots=True)
class Record:
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    reason: str


@dataclass(frozen=True, slots=True)
class Park:
    reason: str


@dataclass(frozen=True, slots=True)
class Escalate:
    reason: str


@dataclass(frozen=True, slots=True)
class Execute:
    reason: str = "within_bounds"


Answer: TypeAlias = Record | Hold | Park | Escalate | Execute


def route(proposal: Proposal, so: Circumstances) -> Answer:
    """The one thing to do with a decision that has just arrived."""
    if proposal.kind != "fired" or proposal.action is None:
        return Record(proposal.kind)
    if proposal.mode == "shadow":
        return Record("shadow")
    if proposal.action.do == "notify":
        return Execute("notify")  # changes nothing anywhere, so nothing needs to hold it
    if so.now > last_call(proposal.valid_until, proposal.action.valid_for):
        return Hold("stale")
    if parked := why_parked(proposal.action.steps, proposal.simulated, so):
        return Park(parked)
    if asked := why_asked(proposal.action, proposal.evidence, so):
        return Escalate(asked)
    return Execute()


def last_call(valid_until: int, valid_for: int) -> int:
    """The last instant at which an action may begin: what is held after it is on the log before the engine, at valid_until, waits no more."""
    return valid_until - min(ROOM, valid_for // 4)


def why_parked(steps: Sequence[Step], simulated: bool, so: Circumstances) -> str:
    """Why nothing may be changed now, approved or not; "" where it may."""
    if not steps:
        return ""  # a notice changes nothing anywhere
    if so.kill_switch:
        return "kill_switch"
    if so.hold:
        return "actions_held"
    for step in steps:
        executor = so.executor(step.path)
        if executor is None:
            return "no_executor"
        attributes, practice = executor
        if simulated and not practice:
            return "simulated_clock_real_executor"
        if step.attribute not in attributes:
            return "unsupported"
    return ""


def why_asked(action: Action, evidence: int | None, so: Circumstances) -> str:
    """Why people have to agree first; "" where they need not."""
    if action.approve.always:
        return "approval_always"
    if action.risk == "high":
        return "risk_high"
    if action.approve.above >= 0:
        if action.spend_per_day is None:
            return "amount_unknown"
        if action.spend_per_day > action.approve.above:
            return "above_amount"
    if so.evidence_at_least > 0 and (evidence is None or evidence < so.evidence_at_least):
        return "low_confidence"
    return ""
