"""Minimum sample: wait until enough has been counted to speak of a rate at all.

Of a rate the sample is its denominator (`sample: {impressions: 3000}`); of a cost it is the money spent (`sample: {spend: 90 EUR}`), never a number of
purchases: an ad that spends and never sells is just what a cost rule is for. It is counted over the window that the condition reads. Other amounts may stand
beside it; what is weighed itself (clicks, for `ctr`) may not, since what has none of it would never be judged.
"""

from typing import ClassVar

import numpy as np

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked


class Sample:
    name = "sample"
    parameters: ClassVar[dict[str, Parameter]] = {}  # written as {metric: amount}; the language turns them into the program's minimums
    refusals: ClassVar[dict[str, str]] = {"too_small": "{counted} of {least} counted", "unknown": "what was counted is unknown"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        """Every minimum must be reached; figures in micro-units of the one that is furthest from it."""
        pairs = list(zip(of.program.minimums, of.sums, strict=True))
        if any(counted is None for _, counted in pairs):
            return Verdict(self.name, "unknown")
        short = [(m.least, counted) for m, counted in pairs if counted is not None and counted < m.least]
        shown = short or [(m.least, counted) for m, counted in pairs if counted is not None]
        least, counted = shown[0] if shown else (0, 0)
        return Verdict(self.name, "too_small" if short else "", (("counted", counted), ("least", least)))

    def refuses(self, cells: Cells) -> Bools:
        refused = np.zeros(len(cells.rows), np.bool_)
        for i in range(len(cells.shape.least)):
            counted, unknown, least = cells.sample(i)
            refused |= unknown | (counted < least)
        return refused


GUARD = Sample()
