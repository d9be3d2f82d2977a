"""Last survivor: never switch off the last ones.

Counts the object's siblings below the same ancestor (`per: ad_group`) whose status is known to be active and that no pausing action in flight is about to
switch off. Of several candidates at one moment each counts at once for those after it.
"""

from typing import ClassVar

import numpy as np

from services.kernel.decision import Verdict
from services.kernel.entity import LEVELS
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked


class KeepActive:
    name = "keep_active"
    parameters: ClassVar[dict[str, Parameter]] = {
        "at_least": Parameter("number", "how many others must stay on", 1, least=1),
        "per": Parameter("level", "below which ancestor they are counted", choices=LEVELS),
    }
    refusals: ClassVar[dict[str, str]] = {"last_survivors": "{others} others would stay on, {at_least} asked for"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        others, least = of.survivors.get(str(asked.get("per")), 0), asked.integer("at_least", 1)
        return Verdict(self.name, "" if others >= least else "last_survivors", (("at_least", least), ("others", others), ("per", str(asked.get("per")))))

    def refuses(self, cells: Cells) -> Bools:
        levels = cells.words(self.name, "per", "")
        others = np.zeros(len(levels), np.int64)
        for level in np.unique(levels).tolist():
            others[levels == level] = cells.others_staying(level)[levels == level]
        return others < cells.parameter(self.name, "at_least", 1)


GUARD = KeepActive()
