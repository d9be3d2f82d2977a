"""Two trees measured in turns, and which figures got slower: what else the machine does meanwhile must not be taken for it.

Each turn measures both trees, one right after the other, in changing order; a figure's ratio is that of its turn, and the median of the turns counts. What
seems slower is measured again as often, and again twice as often unless every turn says so: among a hundred figures some seem slower by chance. It is named
only if it still is over all the turns, and was slower in most of them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # with what the engine is measured against; a tree that is checked out has none
TURNS = 3
SLOWER = 0.9
MOST_TURNS = 0.75  # of them must say so

Told: TypeAlias = list[dict[str, Any]]  # a figure each
Measure: TypeAlias = Callable[[], Told | None]  # the figures of one run, None where it cannot be run


@dataclass
class Case:
    """One figure of two trees."""

    name: str
    unit: str
    at_most: bool  # less is better
    pairs: list[tuple[float, float]] = field(default_factory=list)  # (now, before), a turn each

    @property
    def ratios(self) -> list[float]:
        """How fast it is to how fast it was, a turn each."""
        ordered = [(before, now) if self.at_most else (now, before) for now, before in self.pairs]
        return [better / worse if worse else 1.0 for better, worse in ordered]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_slower(self) -> bool:
        return bool(self.pairs) and self.ratio < SLOWER and sum(r < 1 for r in self.ratios) >= MOST_TURNS * len(self.pairs)

    @property
    def is_clear(self) -> bool:
        """Slower in every turn."""
        return all(r < SLOWER for r in self.ratios)

    @property
    def is_compared(self) -> bool:
        return bool(self.pairs)

    def __str__(self) -> str:
        before, now = (statistics.median(pair[i] for pair in self.pairs) for i in (1, 0))
        return f"{self.name:<64} {before:>14,.4g} -> {now:>12,.4g} {self.unit}   {self.ratio:.2f}"


class CannotRun(Exception):
    """One of the trees cannot run the benchmark."""


def compared(here: Measure, there: Measure, turns: int = TURNS) -> list[Case]:
    """The figures that both trees have, measured in turns; raises CannotRun. Where anything seems slower there are more turns."""
    return [case for case in measured(here, there, turns) if case.is_compared]


def measured(here: Measure, there: Measure, turns: int = TURNS) -> list[Case]:
    """The same, and the figures that only one of the trees has, which are compared with nothing."""
    cases: dict[str, Case] = {}
    _measure(cases, here, there, range(turns))
    if any(case.is_slower for case in cases.values()):
        _measure(cases, here, there, range(turns, 2 * turns))
    if any(case.is_slower and not case.is_clear for case in cases.values()):
        _measure(cases, here, there, range(2 * turns, 4 * turns))
    return list(cases.values())


def _measure(cases: dict[str, Case], here: Measure, there: Measure, turns: Sequence[int]) -> None:
    for turn in turns:
        told: dict[Measure, Told | None] = {}
        for measure in (here, there) if turn % 2 == 0 else (there, here):
            told[measure] = measure()
        now, before = told[here], told[there]
        if now is None or before is None:
            raise CannotRun("this tree" if now is None else "the tree before")
        values = {key_of(figure): float(figure["value"]) for figure in before}
        for figure in now + before:
            cases.setdefault(key_of(figure), Case(figure["case"], figure["unit"], bool(figure.get("at_most"))))
        for figure in now:
            if key_of(figure) in values:
                cases[key_of(figure)].pairs.append((float(figure["value"]), values[key_of(figure)]))


def key_of(figure: Mapping[str, Any]) -> str:
    """One case may be told in events a second and in those of processor."""
    return f"{figure['case']} {figure['unit']}"


def against(revision: str, names: Sequence[str]) -> int:
    """0 where nothing got slower, 1 where something did or this tree cannot run a benchmark; what is not compared is named."""
    slower, apart, failed = list[str](), list[str](), False
    with checked_out(revision) as (own, ours):
        for name in names:
            skipped: dict[str, None] = {}
            try:
                cases = measured(partial(_figures, name, skipped, ROOT), partial(_figures, name, skipped, ours, own))
            except CannotRun as error:
                failed = failed or str(error) == "this tree"
                apart += [f"{name}: {error} cannot run it"]
                print(apart[-1], flush=True)
                continue
            for case in (c for c in cases if c.is_compared):
                print(f"{name:<8} {case}", flush=True)
            apart += [*skipped, *(f"{name} {case.name}: only one of the trees has it" for case in cases if not case.is_compared)]
            slower += [f"{name} {case.name}: {case.ratio:.2f} of what it was at {revision}" for case in cases if case.is_slower]
    for line in apart:
        print(f"NOT COMPARED {line}")
    for line in slower:
        print(f"SLOWER {line}")
    return int(failed or bool(slower))


@contextmanager
def checked_out(revision: str) -> Iterator[tuple[Path, Path]]:
    """(the revision as it is, the same with this tree's benchmarks): both are measured by the same benchmarks, unless its code is too old for them."""
    with TemporaryDirectory() as folder:
        own, ours = Path(folder) / "own", Path(folder) / "ours"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(own), revision], cwd=ROOT, check=True)
        try:
            ours.mkdir()
            for one in own.iterdir():
                if one.name not in ("benchmarks", ".git"):
                    (ours / one.name).symlink_to(one)
            shutil.copytree(ROOT / "benchmarks", ours / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
            yield own, ours
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(own)], cwd=ROOT, check=True)


def _figures(name: str, skipped: dict[str, None], *trees: Path) -> Told | None:
    """Of the first of the trees that can run the benchmark, in small sizes; what it skips is added to `skipped`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JSON": "1", "BENCH_PYTHON": str(BENCH_PYTHON)}
    for tree in trees:
        ran = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", name], cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if not ran.returncode:
            skipped |= dict.fromkeys(line for line in ran.stderr.splitlines() if ": skipped, " in line)
            return [json.loads(line) for line in ran.stdout.splitlines()]
        print(ran.stderr[-500:], file=sys.stderr)
    return None
