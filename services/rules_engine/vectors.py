"""The guards' formulas against published cases: per family how many agree and the largest error; a family that is not built is named, never passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.kernel.errors import RejectedInput
from services.rules_engine.core import evidence
from services.rules_engine.core.claims import arrived

MILLION = 1_000_000
HOUR = 3_600_000_000
GRIDS = dict(evidence.default_coefficients())
TOLERANCES = {"log_e": (1e-8, 1e-9), "m": (0.0, 1e-12)}  # absolute, relative
BOUND = (0.0, 1e-8)
LARGEST = 1e300
MOST_SHOWN = 5  # disagreements of one family
Figures = dict[str, Any]
Wanted = dict[str, float | None | list[float]]


class Malformed(RejectedInput):
    """A file of cases that cannot be read as one."""

    reason = "malformed"


@dataclass(frozen=True, slots=True)
class Family:
    """`agree` of `cases`; `largest` is the largest error, in the figures' own units. A family that is not built agrees with nothing and counts for nothing."""

    name: str
    built: bool
    cases: int
    agree: int
    largest: float
    disagreements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    families: tuple[Family, ...]

    @property
    def agrees(self) -> bool:
        """Something was checked, and no built family disagrees."""
        built = [f for f in self.families if f.built]
        return bool(built) and all(f.agree == f.cases for f in built)


def read(raw: bytes, filename: str) -> Any:
    """What the file holds. Raises Malformed where it is no JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{filename}: not JSON: {error}") from None


def check(cases: Any) -> Report:
    """Every case computed anew by the engine's own formulas. Raises Malformed with the case and the field that cannot be read."""
    listed = cases.get("cases") if isinstance(cases, dict) else cases
    if not isinstance(listed, list) or not listed:
        raise Malformed('a file of cases is {"cases": [{"id", "family", "inputs", "expect"}, ...]} with at least one case')
    by_family: dict[str, list[Case]] = {}
    for i, case in enumerate(listed):
        one = Case(case, f"case {i + 1}")
        by_family.setdefault(one.family, []).append(one)
    return Report(tuple(family(name, of) for name, of in by_family.items()))


def render(report: Report) -> str:
    """One line a family, then what disagrees, then what is not built yet."""
    width = max(len(f.name) for f in report.families)
    lines = [f"{f.name:{width}}  {f.agree:3} of {f.cases} agree, largest error {f.largest:.1e}" for f in report.families if f.built]
    lines += [f"  {d}" for f in report.families for d in f.disagreements]
    missing = [f"{f.name} ({f.cases})" for f in report.families if not f.built]
    if missing:
        lines.append(f"not built yet: {', '.join(missing)}")
    if not any(f.built for f in report.families):
        lines.append("nothing was checked: no family of this file is built")
    return "\n".join(lines)


class Case:
    """One case, read with its name at hand; every look at a field either succeeds or says which field of which case is wrong."""

    def __init__(self, raw: Any, place: str) -> None:
        self.id = str(raw.get("id", place)) if isinstance(raw, dict) else place
        self.family = self._of(raw, "family", str)
        self.inputs: Figures = self._of(raw, "inputs", dict)
        self.expect: Figures = self._of(raw, "expect", dict)

    def _of(self, raw: Any, name: str, kind: type) -> Any:
        value = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(value, kind):
            raise Malformed(f"{self.id}: `{name}` is missing or no {'text' if kind is str else 'mapping'}")
        return value

    def number(self, name: str) -> float:
        return self._number(self.inputs.get(name), f"inputs.{name}")

    def wanted(self, name: str) -> float:
        return self._number(self.expect.get(name), f"expect.{name}")

    def _number(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise Malformed(f"{self.id}: `{name}` is not a number")
        return float(value)

    def side(self) -> str:
        direction = self.inputs.get("direction")
        if direction not in ("low", "high"):
            raise Malformed(f"{self.id}: `inputs.direction` is low or high")
        return str(direction)

    def rows(self, name: str, width: int) -> list[list[float]]:
        rows = self.inputs.get(name)
        if not isinstance(rows, list) or any(not isinstance(r, list) or len(r) != width for r in rows):
            raise Malformed(f"{self.id}: `inputs.{name}` is a list of rows of {width} numbers")
        return [[self._number(v, f"inputs.{name}") for v in r] for r in rows]


def family(name: str, cases: list[Case]) -> Family:
    compute = BUILT.get(name)
    if compute is None:
        return Family(name, False, len(cases), 0, 0.0, ())
    agree, largest, wrong = 0, 0.0, []
    for case in cases:
        try:
            faults, error = compared(case, compute(case))
        except (ValueError, ArithmeticError) as refused:
            raise Malformed(f"{case.id}: {refused}") from None
        largest = max(largest, error)
        agree += not faults
        wrong += faults
    return Family(name, True, len(cases), agree, largest, tuple(wrong[:MOST_SHOWN]))


def compared(case: Case, computed: Wanted) -> tuple[list[str], float]:
    """What disagrees, and the largest error of the case."""
    faults, largest = [], 0.0
    for name, ours in computed.items():
        if name not in case.expect:
            raise Malformed(f"{case.id}: `expect.{name}` is missing")
        theirs = case.expect[name]
        if ours is None or theirs is None:
            faults += [] if ours is theirs else [f"{case.id}: {name} is {ours}, expected {theirs}"]
            continue
        pairs = list(zip(ours, in_full(case, name, theirs, len(ours)), strict=True)) if isinstance(ours, list) else [(ours, case.wanted(name))]
        absolute, relative = TOLERANCES.get(name, BOUND)
        for mine, yours in pairs:
            error = abs(mine - yours)
            largest = max(largest, error)
            if not error <= absolute + relative * abs(yours):
                faults.append(f"{case.id}: {name} is {mine!r}, expected {yours!r}")
    log_e = computed.get("log_e")
    if isinstance(log_e, float):
        faults += opening(case, log_e)
    return faults, largest


def in_full(case: Case, name: str, theirs: Any, count: int) -> list[float]:
    if not isinstance(theirs, list) or len(theirs) != count:
        raise Malformed(f"{case.id}: `expect.{name}` is a list of {count} numbers")
    return [case._number(v, f"expect.{name}") for v in theirs]


def opening(case: Case, log_e: float) -> list[str]:
    """Whether the guard opens at each level named, as it compares: in micro-nats."""
    ours = int(evidence.micro_nats(evidence.one(log_e))[0])
    faults = []
    levels = case.expect.get("fires", {})
    if not isinstance(levels, dict):
        raise Malformed(f"{case.id}: `expect.fires` is a mapping of levels")
    for alpha, fires in levels.items():
        try:
            needed = evidence.threshold_micro_nats(round(float(alpha) * MILLION))
        except ValueError:
            raise Malformed(f"{case.id}: `expect.fires` names {alpha!r}, which is no level") from None
        if (ours >= needed) is not fires:
            faults.append(f"{case.id}: at alpha {alpha} the guard {'opens' if ours >= needed else 'stays shut'}")
    return faults


# -- the families, as the engine computes them ----------------------------------------------------------------------------


def proportion(n: float, k: float, p0: float, side: str) -> float:
    return float(evidence.proportion_nats(evidence.one(n), evidence.one(k), evidence.one(p0), side, GRIDS[side])[0])


def rate(events: float, m: float, phi: float, side: str) -> float:
    return float(evidence.rate_nats(evidence.one(events), evidence.one(m), evidence.one(phi), side, GRIDS[side])[0])


def proportion_grid(c: Case) -> Wanted:
    return {"log_e": proportion(c.number("n"), c.number("k"), c.number("threshold"), c.side())}


def rate_grid(c: Case) -> Wanted:
    return {"log_e": rate(c.number("events"), c.number("expected_at_threshold"), c.number("dispersion"), c.side())}


def stream_proportion_low(c: Case) -> Wanted:
    series = [proportion(n, k, c.number("threshold"), "low") for n, k in c.rows("cumulative_n_k", 2)]
    needed = evidence.threshold_micro_nats(round(c.number("alpha") * MILLION))
    opens = (i for i, e in enumerate(series) if evidence.micro_nats(evidence.one(e))[0] >= needed)
    return {"log_e": list(series), "first_fire_index": next(opens, None)}


def maturity_weighted_cpa(c: Case) -> Wanted:
    """Spend counts only as far as its conversions could have arrived; at a dispersion of 1."""
    points = tuple((round(age * HOUR), round(share * MILLION)) for age, share in c.rows("lag_cdf_points_linear", 2))
    now, target = c.number("now"), c.number("target_cpa")
    m = math.fsum(spend * float(arrived(round((now - start) * HOUR), points)) for start, spend in c.rows("buckets_start_spend", 2)) / target
    return {"m": m, "log_e": rate(c.number("conversions_observed"), m, 1.0, "low")}


def proportion_bounds(c: Case) -> Wanted:
    """The thresholds at which each side's evidence is just enough."""
    n, k, needed = c.number("n"), c.number("k"), -math.log(c.number("alpha_each_side"))
    middle = min(max(k / n, 1e-300), 1 - 1e-15)
    upper = evidence.crossing(lambda p: proportion(n, k, p, "low") >= needed, middle, 1 - 1e-15)
    return {"lower": evidence.crossing(lambda p: p > 0 and proportion(n, k, p, "high") >= needed, middle, 1e-300 if k else 0.0), "upper": upper}


def rate_bounds(c: Case) -> Wanted:
    events, exposure, phi, needed = c.number("events"), c.number("exposure"), c.number("dispersion"), -math.log(c.number("alpha_each_side"))
    middle = max(events, 1e-300) / exposure
    upper = evidence.crossing(lambda r: rate(events, r * exposure, phi, "low") >= needed, middle, (events + 1000 * phi * (1 + needed)) / exposure)
    lower = evidence.crossing(lambda r: r > 0 and rate(events, r * exposure, phi, "high") >= needed, middle, 1e-300 if events else 0.0)
    return {"rate_lower": lower, "rate_upper": upper, "cpa_lower": 1 / upper, "cpa_upper": 1 / lower if lower else None}


BUILT: dict[str, Callable[[Case], Wanted]] = {
    f.__name__: f for f in (proportion_grid, rate_grid, stream_proportion_low, maturity_weighted_cpa, proportion_bounds, rate_bounds)
}
