"""What a metric is: a named, versioned definition over measures. One file of `metrics/` defines one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Definition:
    """`numerator` and `denominator` are measure kinds; those in OF_CONVERSION are resolved by a conversion definition named in the rule.

    unit: ratio | count | money. family: proportion | rate | "" (no evidence is built for it).
    """

    name: str
    version: int
    owner: str
    unit: str
    aggregation: str
    numerator: str
    denominator: str = ""
    factor: int = 1
    family: str = ""

    @property
    def takes_conversion(self) -> bool:
        """Whether it must be told which conversions: cpa(purchases)."""
        return bool(OF_CONVERSION & {self.numerator, self.denominator})

    @property
    def may_take_conversion(self) -> bool:
        """Leads may come from the platform or from a named definition."""
        return self.takes_conversion or "leads" in (self.numerator, self.denominator)


OF_CONVERSION = {"conversions", "revenue"}
MONEY = {"spend", "revenue"}
