"""One measured figure: a line for people, and with JSON=1 one for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`goal` is the least `value` to reach (the most, where `at_most`); `ratio` is value over that of `against`, measured in the same run."""

    benchmark: str  # engine | ingest | latency | actions | restore | upkeep | kafka
    case: str  # "rules=100 per_record=100 tick=10000 entities=1250"
    value: float
    unit: str
    goal: float | None = None
    ratio: float | None = None
    against: str = ""
    ratio_goal: float | None = None
    at_most: bool = False  # less is better: seconds, bytes

    @property
    def reached(self) -> bool:
        """Whether both goals are met, where there are any."""
        enough = self.goal is None or (self.value <= self.goal if self.at_most else self.value >= self.goal)
        return enough and (self.ratio is None or self.ratio_goal is None or (self.ratio <= self.ratio_goal if self.at_most else self.ratio >= self.ratio_goal))

    def to_json(self) -> str:
        told: dict[str, object] = {"benchmark": self.benchmark, "case": self.case, "value": round(self.value, 6), "unit": self.unit}
        optional = {"goal": self.goal, "ratio": None if self.ratio is None else round(self.ratio, 3), "ratio_goal": self.ratio_goal}
        told |= {name: value for name, value in optional.items() if value is not None}
        if self.against:
            told["against"] = self.against
        if self.at_most:
            told["at_most"] = True
        return json.dumps(told)

    def __str__(self) -> str:
        value = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:,.3g}"
        bound = "at most" if self.at_most else "at least"
        goal = "" if self.goal is None else f"   {bound} {self.goal:,g}"
        ratio = "" if self.ratio is None else f"   {self.ratio:.2f} x {self.against}"
        ratio += "" if self.ratio_goal is None else f" ({bound} {self.ratio_goal:g})"
        missed = "" if self.reached else "   MISSED"
        return f"{self.benchmark:<8} {self.case:<58} {value:>12} {self.unit}{goal}{ratio}{missed}"
