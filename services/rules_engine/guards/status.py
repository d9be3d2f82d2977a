"""Entity status: act only where the action makes sense.

Asked by itself for every rule that pauses, resumes or moves budgets. It refuses where the status is KNOWN and does not fit: pausing what is not active,
resuming what is not paused. An unknown status passes here, because the platform itself is read before anything is changed.
"""

from typing import ClassVar

import numpy as np

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked

WANTED = {"pause": "active", "resume": "paused", "set_budget": "active", "shift_budget": "active"}


class Status:
    name = "status"
    parameters: ClassVar[dict[str, Parameter]] = {}
    refusals: ClassVar[dict[str, str]] = {"does_not_fit": "its status is {status}, {wanted} is wanted"}

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        wanted = WANTED.get(of.program.action.kind, "")
        fits = not of.status or not wanted or of.status == wanted
        return Verdict(self.name, "" if fits else "does_not_fit", (("status", of.status), ("wanted", wanted)))

    def refuses(self, cells: Cells) -> Bools:
        wanted = WANTED.get(cells.shape.program.action.kind, "")
        if not wanted:
            return np.zeros(len(cells.rows), np.bool_)
        return cells.status_known & ~cells.has_status(wanted)


GUARD = Status()
