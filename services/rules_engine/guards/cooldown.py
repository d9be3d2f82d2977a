"""Cooldown: leave an object alone for a while after anyone changed it.

A change is a confirmed action of any rule, or one by hand in the platform's own tool. Platforms need hours to settle after one: what is measured before
then describes the old world. With `after: own change` only our own actions count.
"""

from typing import ClassVar

import numpy as np

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked


class Cooldown:
    name = "cooldown"
    parameters: ClassVar[dict[str, Parameter]] = {
        "after": Parameter("word", "which changes count", "any change", choices=("any change", "own change")),
        "for": Parameter("duration", "time since the last change", sole=True, least=0),
    }
    refusals: ClassVar[dict[str, str]] = {"recently_changed": "changed {ago} ago by {by}; asked again in {remaining} (microseconds)"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        own = asked.get("after", "any change") == "own change"
        when, by = (of.changed_by_us_at, "a rule") if own else (of.changed_at, of.changed_by)
        if when == 0:
            return Verdict(self.name, "", ())
        ago, wait = of.now - when, asked.integer("for")
        figures: tuple[tuple[str, int | str], ...] = (("ago", ago), ("by", by), ("for", wait), ("remaining", max(0, wait - ago)))
        return Verdict(self.name, "recently_changed" if ago < wait else "", figures)

    def refuses(self, cells: Cells) -> Bools:
        own = cells.words(self.name, "after", "any change") == "own change"
        when = np.where(own, cells.changed_by_us_at, cells.changed_at)
        refused: Bools = (when != 0) & (cells.now - when < cells.parameter(self.name, "for"))
        return refused


GUARD = Cooldown()
