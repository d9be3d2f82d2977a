"""How many events a second the engine folds and judges on one core: decoding, deduplication, three windows, four levels, truth, lifecycle, guards."""

from __future__ import annotations

import gc
import sys
import time

from benchmarks.account import START, deltas, reports, rules, span
from services.adapters.codec.record import decode
from services.kernel.extension import found
from services.kernel.record import Activation, Ready, Stamped
from services.rules_engine import guards as guard_folder
from services.rules_engine.core.partition import Partition, demand_of

GUARDS = found(guard_folder, "guard", "GUARD")


def prepared(count: int, interval: int, guarded: bool = False) -> Partition:
    """A partition in which the rules are in effect from the next boundary."""
    records = []
    for p in rules(count, interval, guarded=guarded):
        records.append(Stamped(len(records), START - 1_000, Activation("acme", p.rule, p.version, "active", p.to_json())))
        records.append(Stamped(len(records), START - 1_000, Ready("acme", p.version)))
    partition = Partition(GUARDS, demand_of(records))
    partition.step(records)
    return partition


def run(count: int, per_record: int, tick: int, events: int, creatives: int, source=deltas, guarded: bool = False) -> tuple[float, int]:
    """(events a second, decisions)."""
    records = list(source(events, per_record, creatives))
    partition = prepared(count, span(events) * tick, guarded)
    pages = max(1, tick // per_record)
    gc.collect()
    gc.freeze()
    decided, offset = 0, partition.offset
    began = time.perf_counter()
    for i in range(0, len(records), pages):
        page = records[i : i + pages]
        stamp = page[-1][0]  # one boundary a page: its records are stamped alike
        decided += len(partition.step([Stamped(offset + i + j, stamp, decode(data)) for j, (_, data) in enumerate(page)]))
    took = time.perf_counter() - began
    gc.unfreeze()
    return events / took, decided


if __name__ == "__main__":
    count, per_record, tick, events, creatives = [int(a) for a in sys.argv[1:6]] + [100, 100, 10_000, 1_000_000, 1_000][len(sys.argv) - 1 :]
    rate, decided = run(count, per_record, tick, events, creatives, guarded="guarded" in sys.argv, source=reports if "reports" in sys.argv else deltas)
    print(f"{rate:,.0f} events/s, {decided} decisions")
