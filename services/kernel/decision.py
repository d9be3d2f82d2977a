"""What the engine concluded about (rule version, entity) at a boundary, with everything needed to explain it."""

from __future__ import annotations

from dataclasses import dataclass

from services.kernel.ids import digest


@dataclass(frozen=True, slots=True)
class Reading:
    """One comparison of the condition: its text, the totals, the exact ratio as two integers, and its truth."""

    text: str
    metric: str
    window: str
    numerator: int  # micro-units
    denominator: int  # micro-units; 0 for a plain amount
    threshold: int  # nano-units of the metric
    truth: str  # true | false | unknown


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guard answered: agreed, or refused with a typed reason and its figures (integers, sorted by name)."""

    guard: str
    refusal: str  # "" when it agreed
    figures: tuple[tuple[str, int | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    workspace: str
    rule_id: str
    version: str
    path: str
    boundary: int  # k: engine time is k * interval
    now: int  # microseconds
    kind: str  # fired | refused | cleared
    mode: str  # active | shadow
    action: str  # canonical JSON of the proposed action, "" unless fired
    readings: tuple[Reading, ...]
    verdicts: tuple[Verdict, ...]
    evidence: int | None  # log E in micro-nats, the smallest over the condition
    valid_until: int
    simulated: bool = False

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(v.guard for v in self.verdicts if v.refusal)

    @property
    def id(self) -> str:
        return digest("decision", self.workspace, self.version, self.path, str(self.boundary))
