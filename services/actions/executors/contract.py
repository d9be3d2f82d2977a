"""What a platform must be able to do for us: be read, and be set to an absolute value. One file of this folder is one platform.

    step --read--> Observed --(equals what the decision saw?)--> write --> Answer --read--> Observed --(equals what was desired?)--> outcome

The worker commits its intent between the first read and the write, never repeats a write by itself, and believes only what it reads back.
An executor file defines a class `Platform` whose class attributes `name` and `platforms` say what it is and which first parts of a path it serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

UNDER_WAY = 1.5  # seconds
Value = str | int  # a status is a text, a budget an integer of micro-units


@dataclass(frozen=True, slots=True)
class Step:
    """Set `attribute` of `path` to `desired`, an absolute value; `observed` is what the decision saw (None: it never saw one)."""

    path: str
    attribute: str  # status | daily_budget
    observed: Value | None
    desired: Value


@dataclass(frozen=True, slots=True)
class Observed:
    """What the platform says now; `value` None: it has no such object or attribute. `version` is its ETag or revision, where it has one."""

    value: Value | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the platform said to a write.

    accepted  a definite yes
    refused   a definite no that changed nothing: a 4xx, a failed precondition, a rate limit
    unsent    nothing of it went out: no connection was made, or it was not under way in time; it may be made again
    unclear   anything else: a timeout, a reset, a 5xx, a redirect, a body that cannot be read; the change may or may not be there
    """

    kind: Literal["accepted", "refused", "unsent", "unclear"]
    detail: str = ""  # short, for people; never a secret


class Executor(Protocol):
    name: ClassVar[str]
    platforms: ClassVar[frozenset[str]]  # first parts of the paths it serves
    attributes: ClassVar[frozenset[str]]  # what it can set
    is_practice: ClassVar[bool]  # True only where nothing real can be changed: the one kind a simulated clock may drive

    async def read(self, step: Step) -> Observed:
        """What the platform now says of the step's path and attribute. Raises Unavailable where it cannot be asked; never guesses."""
        ...

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        """One call, at most once: sets the absolute value, on condition of `observed.version` where the platform can.

        Never retries, and never raises for what a platform does. What is not under way `UNDER_WAY` seconds after this was called, however it comes, is not
        sent any more: the kill switch was looked at before.
        """
        ...

    async def close(self) -> None: ...
