"""What a guard is: a reason not to act even though the condition holds. Every guard is asked, every answer recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from services.kernel.decision import Verdict
from services.rules_engine.core.program import Asked, Program


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting of a guard as the author writes it.

    kind: duration (24h) | percent (95%) | number (2) | word (any change) | level (ad_group) | flag (true).
    A guard whose YAML value may be a single scalar (`min_runtime: 24h`) marks that parameter `sole`.
    """

    kind: str
    help: str
    default: int | str | None = None  # None: must be written. Durations in microseconds, percents in parts per million, flags 0 or 1
    choices: tuple[str, ...] = ()
    sole: bool = False
    least: int | None = None


@dataclass(frozen=True, slots=True)
class Circumstance:
    """All that a guard may know of one candidate at one boundary; every figure an integer, every instant engine time in microseconds."""

    program: Program
    path: str
    now: int
    since: int  # start of [since change]
    first_event: int  # stamp of the entity's first accepted event
    sums: tuple[int | None, ...]  # of program.minimums, micro-units; None is unknown
    evidence: int | None  # log E in micro-nats, the smallest over the condition
    needed: int  # ln(1/alpha) in micro-nats
    totals: tuple[tuple[str, int | str], ...]  # what the evidence was computed from
    freshest: int  # the stalest source's newest occurred_at or as_of; 0 where a source was never heard
    stalest: str  # its name
    changed_at: int  # last change by rules or by hand, 0 for none
    changed_by: str
    changed_by_us_at: int  # last change by an action of ours, 0 for none
    status: str  # "" where unknown
    survivors: Mapping[str, int] = field(default_factory=dict)  # level -> siblings below that ancestor that would stay on


class Guard(Protocol):
    """One file of `guards/`. `ask` returns a Verdict whose `refusal` is a key of `refusals`, or "".

    It may also have `refuses(cells: Cells) -> Bools | None`: whether it refuses, of many cells at once; the same answers, or None where it cannot say.
    A guard without it is asked cell by cell.
    """

    name: ClassVar[str]
    parameters: ClassVar[dict[str, Parameter]]
    refusals: ClassVar[dict[str, str]]

    def ask(self, asked: Asked, of: Circumstance) -> Verdict: ...
