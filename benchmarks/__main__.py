"""Runs the benchmarks: python -m benchmarks [--quick] [engine] [ingest] [latency] [actions]; JSON=1 prints one line of JSON a figure.

    python -m benchmarks against [REVISION] [NAME ...]    this tree and REVISION (default HEAD~1) in turns, in one run

The second names what got slower than 0.9 of what it was, and ends with 1 where anything did. Each figure is the median of its turns, so that what else
the machine does meanwhile falls on both alike.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path

from benchmarks.figure import Figure

ROOT = Path(__file__).parents[1]
NAMES = ("engine", "ingest", "latency", "actions", "rivals")
TURNS = 3
SLOWER = 0.9


def run(names: Sequence[str], quick: bool) -> Iterator[Figure]:
    for name in names:
        figures = getattr(import_module(f"benchmarks.{name}"), "figures", None)
        if figures is not None:
            yield from figures(quick=True) if quick and "quick" in signature(figures).parameters else figures()


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["against"]:
        revision = next((a for a in arguments[1:] if a not in NAMES), "HEAD~1")
        return against(revision, [a for a in arguments[1:] if a in NAMES] or NAMES)
    unknown = [a for a in arguments if a not in (*NAMES, "--quick")]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    missed = 0
    for figure in run([a for a in arguments if a in NAMES] or NAMES, "--quick" in arguments):
        print(figure.to_json() if os.environ.get("JSON") else figure, flush=True)
        missed += not figure.reached
    if not os.environ.get("JSON"):
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors" + (f"; {missed} goals missed" if missed else ""))
    return 0


def against(revision: str, names: Sequence[str]) -> int:
    """0 where nothing got slower; what the older tree cannot run is named, and compared with nothing."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(before), revision], cwd=ROOT, check=True)
        try:
            shutil.rmtree(before / "benchmarks", ignore_errors=True)
            shutil.copytree(ROOT / "benchmarks", before / "benchmarks")  # both are measured by the same benchmarks
            slower = [found for name in names for found in _compared(name, before, revision)]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    for line in slower:
        print(f"SLOWER {line}")
    return 1 if slower else 0


def _compared(name: str, before: Path, revision: str) -> Iterator[str]:
    values: dict[str, tuple[dict[str, object], list[float], list[float]]] = {}
    for turn in range(TURNS):
        for place, tree in ((0, ROOT), (1, before)) if turn % 2 == 0 else ((1, before), (0, ROOT)):
            told = _figures(name, tree)
            if told is None:
                print(f"{name}: {'this tree' if tree == ROOT else revision} cannot run it", flush=True)
                return
            for figure in told:
                values.setdefault(str(figure["case"]), (figure, [], []))[1 + place].append(float(str(figure["value"])))
    for case, (figure, here, there) in values.items():
        if not here or not there:
            continue
        now, then = statistics.median(here), statistics.median(there)
        ratio = then / now if figure.get("at_most") else now / then
        print(f"{name:<8} {case:<64} {then:>14,.4g} -> {now:>12,.4g} {figure['unit']}   {ratio:.2f}", flush=True)
        if ratio < SLOWER:
            yield f"{name} {case}: {ratio:.2f} of what it was at {revision}"


def _figures(name: str, tree: Path) -> list[dict[str, object]] | None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JSON": "1"}
    ran = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", name], cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(ran.stderr[-500:], file=sys.stderr)
        return None
    return [json.loads(line) for line in ran.stdout.splitlines()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
