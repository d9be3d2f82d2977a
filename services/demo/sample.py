"""The bundled tests, and their views in seeded random order: the archive keeps totals, so the order within a test is drawn, without replacement."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BUNDLED = Path(__file__).parent / "data" / "upworthy_sample.csv"
DOUBTFUL = 0.001  # a sample ratio this unlikely says that the assignment was broken


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    headline: str
    impressions: int
    clicks: int

    @property
    def ctr(self) -> float:
        return self.clicks / self.impressions if self.impressions else 0.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One A/B test. `target` is what the account wants of its creatives, in parts per million of clicks per view."""

    name: str
    arms: tuple[Arm, ...]
    target: int
    is_doubtful: bool

    @property
    def pooled(self) -> float:
        return sum(a.clicks for a in self.arms) / max(1, sum(a.impressions for a in self.arms))

    @property
    def winner(self) -> Arm:
        """The arm with the highest rate at the end; of equals the first."""
        return max(self.arms, key=lambda a: a.ctr)


def bundled() -> list[Experiment]:
    """The sample that comes with Trimtab; each test's target stands in the file."""
    with BUNDLED.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [_test(name, group, round(float(group[0]["target_ctr_percent"]) * 10_000)) for name, group in grouped(rows, "test")]


def archive(path: Path) -> list[Experiment]:
    """All tests of the archive's file; the target is the test's pooled rate."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{**r, "arm": r["package_row"]} for r in csv.DictReader(file)]
    tests = []
    for name, group in grouped(rows, "clickability_test_id"):
        clicks, views = (sum(int(r[k]) for r in group) for k in ("clicks", "impressions"))
        if views:
            tests.append(_test(name, group, round(clicks / views * 1_000_000)))
    return tests


def grouped(rows: Iterable[dict[str, str]], by: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    yield from groups.items()


def _test(name: str, rows: list[dict[str, str]], target: int) -> Experiment:
    arms = tuple(Arm(r["arm"], r["headline"], int(r["impressions"]), int(r["clicks"])) for r in rows)
    return Experiment(name, arms, target, float(rows[0].get("srm_p") or 1) < DOUBTFUL)


def order(arm: Arm, rounds: int, seed: int) -> list[tuple[int, int]]:
    """(views, clicks) of each round: the arm's views in random order, cut into `rounds` equal parts."""
    rng = np.random.default_rng([seed, *arm.name.encode()])
    left, hits, drawn = arm.impressions, arm.clicks, []
    for i in range(rounds):
        views = arm.impressions * (i + 1) // rounds - arm.impressions * i // rounds
        clicks = int(rng.hypergeometric(hits, left - hits, views)) if views else 0
        left, hits = left - views, hits - clicks
        drawn.append((views, clicks))
    return drawn
