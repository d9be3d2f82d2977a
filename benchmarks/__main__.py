"""Runs the benchmarks: python -m benchmarks [--quick] [engine] [ingest] [latency] [actions] [restore] [upkeep] [kafka]; JSON=1 prints a line of JSON each.

    python -m benchmarks against [REVISION] [NAME ...]    this tree and REVISION (default HEAD~1) in turns, in one run

The second names what got slower than 0.9 of what it was, and ends with 1 where anything did.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature

from benchmarks.against import against
from benchmarks.figure import Figure

NAMES = ("engine", "ingest", "latency", "actions", "restore", "upkeep", "kafka", "rivals")


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
