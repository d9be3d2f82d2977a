"""Minimum run time: let a whole daily cycle pass before judging.

The time runs from the later of the last change and the object's first event. An ad started at night and judged before noon is judged by its sleep.
"""

from typing import ClassVar

import numpy as np

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked

DAY = 86_400_000_000


class MinRuntime:
    name = "min_runtime"
    parameters: ClassVar[dict[str, Parameter]] = {
        "at_least": Parameter("duration", "run time since the last change or the first event", DAY, sole=True, least=0),
    }
    refusals: ClassVar[dict[str, str]] = {"too_young": "running for {running}, {at_least} asked for (microseconds)"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        running, least = of.now - max(of.since, of.first_event), asked.integer("at_least", DAY)
        return Verdict(self.name, "" if running >= least else "too_young", (("at_least", least), ("running", running)))

    def refuses(self, cells: Cells) -> Bools:
        return cells.now - np.maximum(cells.since, cells.first_event) < cells.parameter(self.name, "at_least", DAY)


GUARD = MinRuntime()
