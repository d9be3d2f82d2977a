"""A rule version in effect: its program, its evidence line, and the lives of the objects it has something to do with."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from services.rules_engine.core.claims import Claim, Weigher, claims_of
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.program import Program
from services.rules_engine.core.sums import Since
from services.rules_engine.core.truth import comparisons, references

if TYPE_CHECKING:
    from services.rules_engine.core.panel import Panel
    from services.rules_engine.core.shape import Shape

Subject: TypeAlias = tuple[int, ...]  # (row,) or (from row, to row)


class Running:
    shape: Shape | None = None  # None of a rule on pairs
    place: int = 0  # in the shape
    panel: Panel | None = None  # likewise
    seat: int = 0  # in the panel

    def __init__(self, program: Program, version: str, mode: str, since: Since, text: str) -> None:
        self.program, self.version, self.mode, self.since = program, version, mode, since
        self.text = text  # the program as its activation said it
        self.lives: dict[Subject, Life] = {}
        self.weighers = tuple(Weigher(program, claims) for claims in self._claims())
        self.comparisons = tuple(tuple(comparisons(c)) for c in (program.when, *((program.pair.to,) if program.pair else ())))  # a condition an object
        refs = references(program.when) + (references(program.pair.to) if program.pair else [])
        measures = [m for r in refs for m in (program.metrics[r.metric].numerator, program.metrics[r.metric].denominator) if m is not None]
        self.sources = tuple(sorted({m.source for m in measures}))
        windows = [r.window for r in refs]
        self.sample_window = 0 if 0 in windows or not windows else max(windows)
        self.measured = any(a.guard == "confidence" for a in program.guards)
        self.counts_siblings = any(a.guard == "keep_active" for a in program.guards)

    def _claims(self) -> tuple[tuple[Claim, ...], ...]:
        program = self.program
        own = claims_of(program, program.when)
        return (own,) if program.pair is None else (own, claims_of(program, program.pair.to))

    @property
    def watches_time(self) -> bool:
        """Whether the passing of time alone may change a guard's answer between two instants that are known beforehand."""
        return self.measured and any(w.ages for w in self.weighers)
