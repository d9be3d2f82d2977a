"""Confidence: act only once it is proven, however often one looks.

The promise is anytime-valid: an object whose true value is on the allowed side is EVER acted on by this rule in at most 1 - `level` of cases, whenever,
however often and for whatever reason one looks. `effect: 10%` tests ten percent beyond the threshold: differences smaller than that are not worth acting on.
For costs, `dispersion` is the day-to-day variation of the true rate that is allowed for (default 20 %); that correction is calibrated, not a theorem.
"""

from typing import ClassVar

from services.kernel.decision import Verdict
from services.rules_engine.core.cells import Cells
from services.rules_engine.core.guard import Circumstance, Parameter
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.program import Asked


class Confidence:
    name = "confidence"
    parameters: ClassVar[dict[str, Parameter]] = {
        "level": Parameter("percent", "how sure: 90%, 95% or 99%", 950_000, choices=("90%", "95%", "99%"), sole=True),
        "effect": Parameter("percent", "a margin beyond the threshold: this much further is what is tested", 0, least=0),
        "both": Parameter("flag", "in a rule on pairs: both sides must be proven (they always are)", 0),
        "dispersion": Parameter("percent", "day-to-day variation of the true rate that is allowed for, in rules on costs", 200_000, least=0),
    }
    refusals: ClassVar[dict[str, str]] = {
        "not_proven": "evidence {evidence} micro-nats of {needed} needed",
        "not_measured": "there is nothing yet that evidence could be measured on",
    }

    def ask(self, asked: Asked, of: Circumstance) -> Verdict:
        """Opens when log E reaches ln(1/alpha), both in micro-nats; the totals behind it are recorded."""
        if of.evidence is None:
            return Verdict(self.name, "not_measured", (("needed", of.needed),))
        figures = {"evidence": of.evidence, "needed": of.needed} | dict(of.totals)
        return Verdict(self.name, "" if of.evidence >= of.needed else "not_proven", tuple(sorted(figures.items())))

    def refuses(self, cells: Cells) -> Bools | None:
        return cells.not_proven()


GUARD = Confidence()
