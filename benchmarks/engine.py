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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks.account import START, deltas, everyone, reports, rules, span
from benchmarks.figure import Figure
from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.adapters.codec.record import decode
from services.adapters.log.codec import EVENTS, Codec
from services.kernel.decision import Decision
from services.kernel.extension import found
from services.kernel.record import Activation, Ready, Stamped
from services.rules_engine import guards as guard_folder
from services.rules_engine.core.demand import HORIZON
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.judgement import Judgement
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.seen import Table

GUARDS = found(guard_folder, "guard", "GUARD")
HELD = 20_000_000  # ids known beforehand
PAGE = 100  # records read at once where a boundary has fewer; the worker reads more where more are there
STAGES = (
    (Codec, "decode_all"), (Facts, "_events"), (Facts, "_accept"), (Facts, "_learn"), (Facts, "_count"), (Facts, "roll"), (Judgement, "judge"),
    (Judgement, "admit"),
)  # fmt: skip
NAMES = {"decode_all": "decode", "_events": "rows", "_accept": "deduplicate", "_learn": "attributes, freshness", "_count": "fold"}


@dataclass(frozen=True, slots=True)
class Case:
    rules: int = 100
    per_record: int = 100
    tick: int = 10_000  # events a boundary
    creatives: int = 1_000
    events: int = 1_000_000
    reports: bool = False  # report rows with four amounts instead of one amount an event
    guarded: bool = False
    held: int = HELD
    goal: float | None = None

    def __str__(self) -> str:
        text = f"rules={self.rules} per_record={self.per_record} tick={self.tick} entities={round(self.creatives * 1.255)}"
        return text + (" four amounts" if self.reports else "") + (" guards" if self.guarded else "")


CASES = (
    *(Case(rules=n, goal=goal) for n, goal in ((10, 900e3), (100, 900e3), (1_000, 800e3), (10_000, 500e3))),
    Case(per_record=1_000, goal=1.3e6),
    Case(per_record=10, goal=550e3, events=300_000),
    Case(per_record=1, goal=200e3, events=100_000),
    Case(tick=100, goal=150e3, events=100_000),
    Case(creatives=48_000, goal=350e3),
    Case(creatives=400_000, goal=200e3, held=0),
    Case(reports=True, events=300_000),
)


def known_ids(count: int) -> Table:
    """Ids of events that were accepted before, in a table that is not growing: that of a period is made as large as the one before it became."""
    table, rng = Table(), np.random.default_rng(1)
    for start in range(0, count, 500_000):
        n = min(500_000, count - start)
        table.add(rng.integers(-(2**63), 2**63, (n, 2), dtype=np.int64), np.zeros(n, np.int32))
    table.ids.settle()
    return table


def prepared(case: Case, held: Table | None) -> Partition:
    """A partition in which the rules have been in effect for a boundary, and every entity is live."""
    interval = span(case.events) * case.tick
    records: list[Stamped[Any]] = []
    for p in rules(case.rules, interval, guarded=case.guarded):
        records.append(Stamped(len(records), START - 2 * interval, Activation("acme", p.rule, p.version, "active", p.to_json())))
        records.append(Stamped(len(records), START - 2 * interval, Ready("acme", p.version)))
    partition = Partition(GUARDS, demand_of(records))
    partition.step(records)
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


def run(case: Case, held: Table | None = None) -> tuple[float, list[Decision]]:
    """(events a second, decisions). Records are read a page at a time."""
    records = at_boundaries(case)
    partition = prepared(case, held)
    page = max(1, case.tick // case.per_record, PAGE)
    gc.collect()
    gc.freeze()
    decisions: list[Decision] = []
    offset = partition.offset
    began = time.perf_counter()
    for i in range(0, len(records), page):
        part = records[i : i + page]
        read = EVENTS.decode_all([data for _, data in part])
        decisions += partition.step([Stamped(offset + i + j, stamp, record) for j, ((stamp, _), record) in enumerate(zip(part, read, strict=True))])
    took = time.perf_counter() - began
    gc.unfreeze()
    return case.events / took, decisions


def bare(events: int = 200_000) -> float:
    """Events a second of a loop that only parses one event a record with the generated class and reads the fields that an engine needs."""
    records = [data for _, data in deltas(events, 1, 1_000)]
    began = time.perf_counter()
    total = 0
    for data in records:
        batch = pb.Record.FromString(data).batch
        path, at, key = batch.paths[0], batch.occurred_at[0], (batch.event_id[0], batch.event_id[1])
        measure = batch.measures[batch.amount_measure[0] if batch.amount_measure else 0]
        total += batch.amount[0] + len(path) + len(measure) + (at & 1) + (key[0] & 1)
    assert total
    return events / (time.perf_counter() - began)


def figures() -> Iterator[Figure]:
    """Each case beside the bare loop, measured right before and after it."""
    held = known_ids(HELD)
    by_case: dict[Case, float] = {}
    for case in CASES:
        before = bare()
        rate, decisions = run(case, held)
        base = median((before, bare()))
        by_case[case] = rate
        least = {(100, 100): 0.8, (100, 1_000): 1.2}.get((case.rules, case.per_record)) if case.creatives == 1_000 and case.tick == 10_000 else None
        yield Figure("engine", str(case), rate, "events/s", case.goal, rate / base, "bare loop, protobuf, one event a record", least)
        yield Figure("engine", f"{case}: decisions", 1000 * len(decisions) / case.events, "per 1,000 events")
    ten, thousand = (by_case[c] for c in (CASES[1], CASES[2]))
    yield Figure("engine", "cost of ten times more rules, 100 to 1,000", ten / thousand, "x", 1.7, at_most=True)
    shares = []
    for turn in range(6):  # in changing order: whoever comes first meets memory that nobody has touched yet
        rate = {guarded: run(Case(guarded=guarded, events=500_000), held)[0] for guarded in (turn % 2 == 0, turn % 2 == 1)}
        shares.append(rate[True] / rate[False])
    yield Figure("engine", "rules=100, guards on against off", median(shares), "x", 0.85)
    yield from memory()


def memory() -> Iterator[Figure]:
    """Bytes of a live entity with four measures over three windows, in a process of its own; ids apart."""
    told = subprocess.run([sys.executable, "-m", "benchmarks.engine", "memory"], capture_output=True, text=True, check=True, env={**os.environ, "JSON": ""})
    entities, total = (float(x) for x in told.stdout.split())
    yield Figure("engine", f"memory of a live entity, {entities:,.0f} of them", total / entities, "bytes", 3_000, at_most=True)
    yield Figure("engine", f"memory of {entities:,.0f} live entities, ids apart", total / 1e9, "GB", 1.5, at_most=True)
    table = known_ids(2_000_000)
    size = table.ids.nbytes + 16 * len(table.ids) + 4 * len(table.ids)
    yield Figure("engine", "memory of a known id", size / len(table.ids), "bytes", 32, at_most=True)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weigh() -> None:
    """Prints (live entities, bytes they take)."""
    case = Case(creatives=400_000, per_record=1_000, events=2_000_000, held=0)
    prepared(replace(case, creatives=1), None)  # what is imported and made once
    before = resident()
    partition = prepared(case, None)
    for i, (stamp, data) in enumerate(deltas(case.events, case.per_record, case.creatives)):
        partition.step([Stamped(i, stamp, decode(data))])
    facts = partition.workspaces["acme"].facts
    ids = sum(t.ids.nbytes + t.ids.key.nbytes + t.body.nbytes for t in facts.seen.tables)
    gc.collect()
    print(len(facts.entities), resident() - before - ids)


def stages() -> None:
    """Microseconds an event by stage."""
    spent: dict[str, float] = {}
    for owner, name in STAGES:
        setattr(owner, name, timed(getattr(owner, name), name, spent))
    held = known_ids(HELD)
    for case in CASES:
        spent.clear()
        rate, _ = run(case, held)
        whole = 1e6 / rate
        shown = {NAMES.get(n, n): s / case.events * 1e6 for n, s in spent.items()}
        rest = whole - sum(shown.values())
        print(f"{case}: {whole:.2f} us an event: " + ", ".join(f"{n} {t:.2f}" for n, t in shown.items()) + f", the rest {rest:.2f}")


def timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def inner(*a: Any, **k: Any) -> Any:
        began = time.perf_counter()
        result = function(*a, **k)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        return result

    return inner


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        weigh()
    elif sys.argv[1:] == ["stages"]:
        stages()
    else:
        for figure in figures():
            print(figure.to_json() if os.environ.get("JSON") else figure, flush=True)


if __name__ == "__main__":
    main()
