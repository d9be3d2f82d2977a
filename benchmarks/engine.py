"""How many events a second the engine folds and judges on one core: decoding, deduplication, three windows, four levels, truth, lifecycle, guards.

    python -m benchmarks.engine             every case, beside a bare loop that only parses one event a record and reads its fields
    python -m benchmarks.engine stages      where the time goes
"""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from benchmarks.account import ALL_GUARDS, START, USUAL_GUARDS, deltas, everyone, reports, rules, span
from benchmarks.figure import Figure
from benchmarks.stages import Clock, Stages, watched
from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.adapters.codec.record import decode
from services.adapters.log.codec import DECISIONS, EVENTS, Codec
from services.kernel.decision import Decision
from services.kernel.extension import found
from services.kernel.record import Activation, Ready, Stamped
from services.rules_engine import guards as guard_folder
from services.rules_engine.core import ahead
from services.rules_engine.core.demand import HORIZON
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.judgement import Judgement
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Asked
from services.rules_engine.core.seen import Table

GUARDS = found(guard_folder, "guard", "GUARD")
HELD = 20_000_000  # ids known beforehand
FEW_HELD = 500_000  # where only two trees are compared
DECISIONS_GOAL = 1.0  # per 1,000 events
FAR = 0.9
PAGE = 100  # records read at once where a boundary has fewer; the worker reads more where more are there
STAGES: Stages = (
    ("decode", Codec, "decode_all"), ("rows", Facts, "_events"), ("deduplicate", Facts, "_accept"), ("attributes, freshness", Facts, "_learn"),
    ("fold", Facts, "_count"), ("fold", ahead, "worked_out"), ("fold", ahead.Ahead, "show"), ("roll", Facts, "roll"), ("judge", Judgement, "judge"),
    ("admit", Judgement, "admit"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    rules: int = 100
    per_record: int = 100
    tick: int = 10_000  # events a boundary
    creatives: int = 1_000
    events: int = 1_000_000
    reports: bool = False  # report rows with four amounts instead of one amount an event
    guards: tuple[Asked, ...] = USUAL_GUARDS
    far: float = FAR  # how far from the usual thresholds lie: so far that one event in a thousand brings about a decision
    page: int = PAGE
    held: int = HELD
    goal: float | None = None

    def __str__(self) -> str:
        text = f"rules={self.rules} per_record={self.per_record} tick={self.tick} entities={round(self.creatives * 1.255)}"
        text += (" four amounts" if self.reports else "") + ("" if self.guards == USUAL_GUARDS else f" guards={len(self.guards)}")
        text += f" {self.at_once} boundaries at once" if self.at_once > 1 else " one boundary at a time" if self.page < PAGE else ""
        return text + ("" if self.held == HELD else f" held={self.held}")

    @property
    def at_once(self) -> int:
        """Boundaries whose records are read together."""
        return max(1, self.page * self.per_record // self.tick)

    @property
    def small(self) -> Case:
        """The same for a comparison of two trees: a tenth of the events, a quarter of many entities, fewer known ids."""
        creatives = self.creatives if self.creatives <= 1_000 else self.creatives // 4
        return replace(self, events=max(20_000, self.events // 10), creatives=creatives, held=FEW_HELD, goal=None)


CASES = (
    *(Case(rules=n, goal=goal) for n, goal in ((10, 900e3), (100, 900e3), (1_000, 800e3), (10_000, 500e3))),
    Case(per_record=1_000, goal=1.3e6),
    Case(per_record=10, goal=550e3, events=300_000),
    Case(per_record=1, goal=200e3, events=100_000, far=0.8),
    Case(tick=100, goal=150e3, events=100_000),
    Case(tick=100, page=1, events=100_000),
    Case(creatives=48_000, goal=350e3),
    Case(creatives=400_000, goal=200e3),
    Case(reports=True, events=300_000, far=0.6),
)
SHOWN = (CASES[1], CASES[6], CASES[7], CASES[-2], CASES[-1])  # of which it is told where the time goes


def known_ids(count: int) -> Table:
    """Ids of events that were accepted before, in a table that is not growing: that of a period is made as large as the one before it became."""
    table, rng = Table(), np.random.default_rng(1)
    for start in range(0, count, 500_000):
        n = min(500_000, count - start)
        table.add(rng.integers(-(2**63), 2**63, (n, 2), dtype=np.int64), np.zeros(n, np.int32))
    table.ids.settle()
    return table


def prepared(case: Case, held: Table | None, is_live: bool = True) -> Partition:
    """A partition in which the rules have been in effect for a boundary, and every entity is live unless told otherwise."""
    interval = span(case.events) * case.tick
    records: list[Stamped[Any]] = []
    for p in rules(case.rules, interval, guards=case.guards, far=case.far):
        records.append(Stamped(len(records), START - 2 * interval, Activation("acme", p.rule, p.version, "active", p.to_json())))
        records.append(Stamped(len(records), START - 2 * interval, Ready("acme", p.version)))
    partition = Partition(GUARDS, demand_of(records))
    partition.step(records)
    if is_live:
        partition.step([Stamped(partition.offset + i, at, decode(data)) for i, (at, data) in enumerate(everyone(case.creatives, START - interval))])
    partition.workspaces["acme"].advance(START - 1)
    if held is not None and case.held:
        seen = partition.workspaces["acme"].facts.seen
        seen.period = START // HORIZON
        seen.tables[seen.period & 1] = copy.deepcopy(held)
    return partition


def at_boundaries(case: Case, seed: int = 5) -> list[tuple[int, bytes]]:
    """(stamp, encoded record), stamped alike within a boundary, so that one boundary holds `tick` events."""
    records = list((reports if case.reports else deltas)(case.events, case.per_record, case.creatives, seed))
    together = max(1, case.tick // case.per_record)
    return [(records[min(i // together * together + together, len(records)) - 1][0], data) for i, (_, data) in enumerate(records)]


def run(case: Case, held: Table | None = None, clock: Clock = time.perf_counter) -> tuple[float, list[Decision]]:
    """(events a second by the clock, decisions). Records are read a page at a time."""
    seconds, decisions, _ = timed(case, held, clock)
    return case.events / seconds, decisions


def timed(case: Case, held: Table | None, clock: Clock, shown: Stages = ()) -> tuple[float, list[Decision], dict[str, float]]:
    """(seconds by the clock, decisions, the seconds of the stages that are shown)."""
    records = at_boundaries(case)
    partition = prepared(case, held)
    page = max(1, case.tick // case.per_record, case.page)
    gc.collect()
    gc.freeze()
    decisions: list[Decision] = []
    offset = partition.offset
    with watched(shown, clock) as spent:
        began = clock()
        for i in range(0, len(records), page):
            part = records[i : i + page]
            read = EVENTS.decode_all([data for _, data in part])
            decisions += partition.step([Stamped(offset + i + j, stamp, record) for j, ((stamp, _), record) in enumerate(zip(part, read, strict=True))])
        took = clock() - began
    gc.unfreeze()
    return took, decisions, spent


@cache
def single(events: int) -> Sequence[bytes]:
    """One event a record."""
    return [data for _, data in deltas(events, 1, 1_000)]


def bare(events: int = 200_000) -> float:
    """Events a second of a loop that only parses one event a record with the generated class and reads the fields that an engine needs."""
    records = single(events)
    began = time.perf_counter()
    total = 0
    for data in records:
        batch = pb.Record.FromString(data).batch
        path, at, key = batch.paths[0], batch.occurred_at[0], (batch.event_id[0], batch.event_id[1])
        measure = batch.measures[batch.amount_measure[0] if batch.amount_measure else 0]
        total += batch.amount[0] + len(path) + len(measure) + (at & 1) + (key[0] & 1)
    assert total
    return events / (time.perf_counter() - began)


def figures(quick: bool = False) -> Iterator[Figure]:
    """Each case beside the bare loop, measured right before and after it."""
    cases, singles = ([case.small for case in CASES], 20_000) if quick else (CASES, 200_000)
    held = known_ids(cases[0].held)
    by_case: dict[Case, float] = {}
    for case in cases:
        before = bare(singles)
        rate, decisions = run(case, held)
        base = median((before, bare(singles)))
        by_case[case] = rate
        yield Figure("engine", str(case), rate, "events/s", case.goal, rate / base, "bare loop, protobuf, one event a record", _least(case))
        yield decided(case, len(decisions))
        if case in SHOWN:
            yield from stages(case, held)
    ten, thousand = (by_case[c] for c in (cases[1], cases[2]))
    yield Figure("engine", "cost of ten times more rules, 100 to 1,000", ten / thousand, "x", 1.7, at_most=True)
    yield guards(held, *((2, 50_000) if quick else (6, 500_000)))
    if quick:
        print("engine   where the time goes: skipped, it is told in whole sizes only", file=sys.stderr)
    yield from memory(*(("20000", "100000") if quick else ()))


def _least(case: Case) -> float | None:
    """What it must do of the bare loop."""
    goals = {(100, 100): 0.8, (100, 1_000): 1.2}
    is_usual = case.creatives == 1_000 and case.tick == 10_000 and case.held == HELD and not case.reports
    return goals.get((case.rules, case.per_record)) if is_usual else None


def decided(case: Case, decisions: int) -> Figure:
    goal = DECISIONS_GOAL if case.held == HELD else None
    return Figure("engine", f"{case}: decisions", 1000 * decisions / case.events, "per 1,000 events", goal)


def guards(held: Table, turns: int, events: int) -> Figure:
    """All five against none, in seconds of processor: what fires is the same, since the minimum sample is a clause of every condition, too."""
    shares = []
    on, off = Case(guards=ALL_GUARDS, events=events, held=len(held.ids)), Case(guards=(), events=events, held=len(held.ids))
    for turn in range(turns):  # in changing order: whoever comes first meets memory that nobody has touched yet
        rate = {case: run(case, held, time.process_time)[0] for case in ((on, off) if turn % 2 else (off, on))}
        shares.append(rate[on] / rate[off])
    return Figure("engine", f"rules=100, {len(ALL_GUARDS)} guards a rule against none, of processor", median(shares), "x", 0.85)


def memory(*size: str) -> Iterator[Figure]:
    """Bytes of a live entity with four measures over three windows, in a process of its own; ids apart."""
    command = [sys.executable, "-m", "benchmarks.engine", "memory", *size]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "JSON": ""})
    entities, total = (float(x) for x in told.stdout.split())
    yield Figure("engine", f"memory of a live entity, {entities:,.0f} of them", total / entities, "bytes", 3_000, at_most=True)
    yield Figure("engine", f"memory of {entities:,.0f} live entities, ids apart", total / 1e9, "GB", 1.5, at_most=True)
    table = known_ids(FEW_HELD if size else 2_000_000)
    taken = table.ids.nbytes + 16 * len(table.ids) + 4 * len(table.ids)
    yield Figure("engine", "memory of a known id", taken / len(table.ids), "bytes", 32, at_most=True)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weigh(creatives: int = 400_000, events: int = 2_000_000) -> None:
    """Prints (live entities, bytes they take)."""
    case = Case(creatives=creatives, per_record=1_000, events=events, held=0)
    prepared(replace(case, creatives=1), None)  # what is imported and made once
    before = resident()
    partition = prepared(case, None)
    for i, (stamp, data) in enumerate(deltas(case.events, case.per_record, case.creatives)):
        partition.step([Stamped(i, stamp, decode(data))])
    facts = partition.workspaces["acme"].facts
    ids = sum(t.ids.nbytes + t.ids.key.nbytes + t.body.nbytes for t in facts.seen.tables)
    gc.collect()
    print(len(facts.entities), resident() - before - ids)


def stages(case: Case, held: Table) -> Iterator[Figure]:
    """Microseconds of processor an event by stage, in a run of its own; what is decided is written as bytes afterwards, which the figure does not contain."""
    case = replace(case, events=min(case.events, 200_000))
    seconds, decisions, spent = timed(case, held, time.process_time, STAGES)
    spent["the rest"] = seconds - sum(spent.values())
    began = time.process_time()
    for decision in decisions:
        DECISIONS.encode(decision)
    spent["decisions written as bytes, behind it"] = time.process_time() - began
    for name, seconds in spent.items():
        yield Figure("engine", f"{case}: stage {name}", 1e6 * seconds / case.events, "us an event", at_most=True)


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        weigh(*map(int, sys.argv[2:]))
        return
    held = known_ids(HELD) if sys.argv[1:] == ["stages"] else None
    for figure in figures() if held is None else chain.from_iterable(stages(case, held) for case in CASES):
        print(figure.to_json() if os.environ.get("JSON") else figure, flush=True)


if __name__ == "__main__":
    main()
