"""The engine against others on the events of one account: the bare loop, a per-event engine in Python, rule libraries, stream frameworks' own windows.

Each contestant is a process of its own, prepared beforehand, of which the seconds of processor are counted; they take turns, so that what else the machine
does meanwhile falls on all alike, and a ratio is the median of those of its rounds. The others judge the entities of an event at every event; the engine
judges all at every boundary, here of 10,000 events. What decisions that allows to compare is compared, with their instants: on logs without late events, each
alone in its boundary, and of whom can be asked at the engine's boundaries over all that is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.figure import Figure

ROOT = Path(__file__).parents[2]
BENCH = Path(os.environ.get("BENCH_PYTHON") or ROOT / ".venv-bench" / "bin" / "python")
ROUNDS = 3
UNIT = "events/s of processor"
ENGINES = ("engine 100", "engine 1000")  # events a record
KNOWN, FEW_KNOWN = 20_000_000, 500_000  # ids that the engines hold


@dataclass(frozen=True, slots=True)
class Rival:
    name: str
    told: str
    events: int  # a run
    checked: int = 0  # events of the small log on which decisions are compared
    streamed: int = 0  # and of what is timed, each alone in its boundary; of fewer nothing would hold
    is_asked: bool = False  # whether it can judge at the engine's boundaries, over all that is timed
    goals: tuple[float | None, float | None] = (None, None)  # of the engine's ratio to it, by ENGINES
    foreign: bool = True  # needs what only .venv-bench holds
    module: str = ""
    like: str = "engine"  # whose decisions it must share

    @property
    def small(self) -> Rival:
        """The same for a comparison of two trees."""
        return replace(self, events=max(self.events // 10, min(self.events, 100)), checked=min(self.checked, 300), streamed=0, is_asked=False)


PYTHON = "per event, no rolls"
RIVALS = (
    Rival("bare protobuf", "bare loop, protobuf, one event a record", 200_000, goals=(0.8, 1.2), foreign=False),
    Rival("bare published", "bare loop, msgspec JSON of an event as trimtab.events.each has it", 200_000, goals=(0.8, 1.2), foreign=False),
    Rival("bare json", "bare loop, msgspec JSON of seven texts and integers", 200_000, goals=(0.8, 1.2), foreign=False),
    Rival("per event", "per-event engine in Python", 100_000, 1_000, 40_000, True, foreign=False),
    Rival("datalogic", "datalogic, the rules of a level", 20_000, 1_000, 40_000, True, (20, None), module="datalogic_py"),
    Rival("zen", "zen-engine, the rules of a level", 10_000, 1_000, 40_000, True, (20, None), module="zen"),
    Rival("datalogic, indexed", "datalogic, only rules that read what came", 40_000, 1_000, 40_000, module="datalogic_py"),
    Rival("zen, indexed", "zen-engine, only rules that read what came", 20_000, 1_000, 40_000, module="zen"),
    Rival("bytewax sliding", "bytewax, sliding windows", 300, 300, goals=(10, None), module="bytewax", like=PYTHON),
    Rival("bytewax panes", "bytewax, tumbling windows as panes", 6_000, 1_000, 40_000, goals=(10, None), module="bytewax", like=PYTHON),
    Rival("quixstreams sliding", "quixstreams, hopping windows", 80, 100, goals=(10, None), module="quixstreams", like=PYTHON),
    Rival("quixstreams panes", "quixstreams, tumbling windows as panes", 2_000, 1_000, 40_000, goals=(10, None), module="quixstreams", like=PYTHON),
    Rival("bytewax around per event", "bytewax around the per-event engine", 40_000, module="bytewax"),
)
Held: TypeAlias = frozenset[tuple[str | int, ...]]


class Process:
    """`skipped` says why it cannot take part, or nothing."""

    def __init__(self, name: str, events: int, python: str) -> None:
        arguments = [python, "-m", "benchmarks.rivals", name, str(events)]
        self.process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.skipped = "" if self._line() == "ready" else self._reason()

    def run(self) -> float:
        return float(self._ask("run")["rate"])  # type: ignore[arg-type]

    def held(self, log: str) -> Held:
        """What held, and when: of `check N`, `stream N` or `boundaries`."""
        return frozenset(tuple(each) for each in self._ask(log)["held"])  # type: ignore[attr-defined]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def _ask(self, what: str) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        line = self._line()
        if not line:
            raise RuntimeError(self._reason())
        told: dict[str, object] = json.loads(line)
        return told

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _reason(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(30)
        return ([line.strip() for line in self.process.stderr.read().splitlines() if line.strip()] or ["it ended without a word"])[-1]


def figures(quick: bool = False) -> Iterator[Figure]:
    print(f"{__doc__}", file=sys.stderr)
    rivals = [r.small for r in RIVALS] if quick else RIVALS
    engines = [Process(name, FEW_KNOWN if quick else KNOWN, sys.executable) for name in ENGINES]
    running = []
    for rival in rivals:
        process = Process(rival.name, rival.events, str(BENCH) if rival.foreign and BENCH.exists() else sys.executable)
        if process.skipped:
            hint = "" if BENCH.exists() or not rival.foreign else "; `make bench` installs what it needs into .venv-bench"
            print(f"rivals   {rival.told}: skipped, {process.skipped}{hint}", file=sys.stderr)
            continue
        running.append((rival, process))
    try:
        yield from _speeds(engines, running, 1 if quick else ROUNDS)
        yield from _decisions(engines[0], running)
    finally:
        for process in [*engines, *(p for _, p in running)]:
            process.stop()


def _speeds(engines: list[Process], running: list[tuple[Rival, Process]], rounds: int) -> Iterator[Figure]:
    ours: list[list[float]] = [[] for _ in engines]
    theirs: list[list[float]] = [[] for _ in running]
    ratios: list[tuple[list[float], ...]] = [tuple([] for _ in engines) for _ in running]
    for _ in range(rounds):
        for i, (_, process) in enumerate(running):
            if i % 4 == 0:  # the engine again, so that it is compared with what ran next to it
                now = [e.run() for e in engines]
                for values, value in zip(ours, now, strict=True):
                    values.append(value)
            theirs[i].append(process.run())
            for values, value in zip(ratios[i], now, strict=True):
                values.append(value / theirs[i][-1])
    for name, values in zip(ENGINES, ours, strict=True):
        yield Figure("rivals", f"{name} events a record, judged every 10,000", median(values), UNIT)
    for (rival, _), values, by_engine in zip(running, theirs, ratios, strict=True):
        judged = "" if rival.name.startswith("bare") else ", judged at every event"
        yield Figure("rivals", f"{rival.told}{judged}", median(values), UNIT)
        for name, goal, engine, r in zip(ENGINES, rival.goals, ours, by_engine, strict=True):
            if name != ENGINES[0] and not goal:
                continue
            yield Figure("rivals", f"{name} events a record, against {rival.name}", median(engine), UNIT, None, median(r), rival.told, goal)


def _decisions(engine: Process, running: list[tuple[Rival, Process]]) -> Iterator[Figure]:
    """What share of what held for one of two held for both, from the same event or boundary on."""
    python = Process(PYTHON, 100, sys.executable)
    by_name = {"engine": engine, PYTHON: python}
    known: dict[tuple[str, str], Held] = {}

    def of(name: str, log: str) -> Held:
        if (name, log) not in known:
            known[name, log] = by_name[name].held(log)
        return known[name, log]

    try:
        for rival, process in running:
            logs = [(f"small log, {rival.checked} events", f"check {rival.checked}")] if rival.checked else []
            logs += [(f"timed stream, its first {rival.streamed}, a boundary an event", f"stream {rival.streamed}")] if rival.streamed else []
            logs += [("timed stream, whole, at its boundaries", "boundaries")] if rival.is_asked else []
            for told, log in logs:
                yield from compared(rival, f"{rival.told}: {told}", process.held(log), of(rival.like, log), of("engine", log))
    finally:
        python.stop()


def compared(rival: Rival, case: str, got: Held, wanted: Held, engines: Held) -> Iterator[Figure]:
    """One that judges an entity at its events alone may find later what the engine finds when a pane leaves; whatever it finds the engine must find as well."""
    of = "the engine" if rival.like == "engine" else "the per-event engine"
    yield Figure("rivals", f"{case}: as {of}, instants too, of {len(wanted)}", shared(got, wanted), "shared", 1)
    if rival.like != "engine":
        own, theirs = {each[:2] for each in got}, {each[:2] for each in engines}
        yield Figure("rivals", f"{case}: also the engine's, of {len(engines)}", len(own & theirs) / max(len(own), 1), "of its own", 1)
        yield Figure("rivals", f"{case}: also the engine's, from the same event on", len(got & engines) / max(len(got), 1), "of its own")


def shared(one: Held, other: Held) -> float:
    """Of all that either has, what both have; 0 where neither has anything, for then nothing was compared."""
    return len(one & other) / len(one | other) if one | other else 0.0
