"""State is demand-driven: only the windows that an active rule reads are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.rules_engine.core.program import Program


@dataclass(frozen=True, slots=True)
class Demand:
    windows: tuple[tuple[int, int], ...] = ()  # (width, pane), microseconds, sorted

    def with_program(self, program: str) -> Demand:
        return replace(self, windows=tuple(sorted({*self.windows, *Program.from_json(program).panes})))
