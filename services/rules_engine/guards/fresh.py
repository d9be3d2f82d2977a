"""Freshness: do not act on old news.

Looks at the newest event of each source that the condition reads, in the object's account; the source that has been silent longest decides. Silence never
changes what is true, it only keeps the rule from acting.
"""

from typing import ClassVar

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked


class Fresh:
    name = "fresh"
    parameters: ClassVar[dict[str, Parameter]] = {"within": Parameter("duration", "how old the newest data may be", sole=True, least=1)}
    refusals: ClassVar[dict[str, str]] = {"stale": "nothing from {source} for {age} (microseconds)", "never_heard": "nothing was ever heard from {source}"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        if of.freshest == 0:
            return Verdict(self.name, "never_heard", (("source", of.stalest),))
        age, within = of.now - of.freshest, asked.integer("within")
        return Verdict(self.name, "" if age <= within else "stale", (("age", age), ("source", of.stalest), ("within", within)))

    def refuses(self, cells: Cells) -> Bools:
        freshest = cells.freshest
        refused: Bools = (freshest == 0) | (cells.now - freshest > cells.parameter(self.name, "within"))
        return refused


GUARD = Fresh()
