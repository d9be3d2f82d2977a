"""State is demand-driven: only the windows, levels and measures that an active rule reads are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.kernel.record import Activation
from services.rules_engine.core.program import Measure, Program
from services.rules_engine.core.truth import references

DAY = 86_400_000_000
HORIZON, AHEAD = 7 * DAY, 3_600_000_000
DAY_PANE = 300_000_000  # of a rule that reads no window of a day: what an entity spends a day is asked for all the same


@dataclass(frozen=True, slots=True)
class Demand:
    windows: tuple[tuple[int, int], ...] = ()  # (width, pane), microseconds, sorted
    depths: tuple[int, ...] = ()  # of the entities judged, sorted
    measures: tuple[tuple[str, str], ...] = ()  # (source, name without its currency), sorted
    evidence: bool = False  # whether [since change] is read
    horizon: int = 0  # of deduplication, microseconds, and how far ahead an event may be dated: those of the first activation, 0 before it
    ahead: int = 0

    def with_activation(self, activation: Activation) -> Demand:
        """What is needed once this is active too. Horizons never change after the first activation."""
        wider = self._with_program(activation.program)
        return wider if self.horizon else replace(wider, horizon=activation.horizon or HORIZON, ahead=activation.ahead or AHEAD)

    def _with_program(self, text: str) -> Demand:
        program = Program.from_json(text)
        judged = references(program.when) + (references(program.pair.to) if program.pair else [])
        windows = [r.window for r in judged + references(program.clear)]
        measures = {m for metric in program.metrics for m in (metric.numerator, metric.denominator) if m is not None} | {spend_of(program)}
        return Demand(
            tuple(sorted({*self.windows, *program.panes, day_of(program)})),
            tuple(sorted({*self.depths, program.depth})),
            tuple(sorted({*self.measures, *((m.source, base(m.name)) for m in measures)})),
            self.evidence or 0 in windows or not judged,  # without a window a sample is counted since the change
            self.horizon,
            self.ahead,
        )


def base(measure: str) -> str:
    """The measure's name without its currency."""
    return measure.partition("@")[0]


def spend_of(program: Program) -> Measure:
    return Measure(program.platform, f"spend@{program.currency}")


def day_of(program: Program) -> tuple[int, int]:
    """(width, pane) of the window over which an entity's spend a day is read."""
    return DAY, dict(program.panes).get(DAY, DAY_PANE)
