"""The engine against the reference evaluator: the same decisions over the same log, or a readable difference.

    python -m tests.reference.compare --seeds 0:1000      every seed whose decisions differ, each with the smallest log that still shows it

The engine is fed in one piece, in pieces of any size, restored from its dumped state between pieces, or as a worker feeds it: record by record, rebuilt
whenever an activation asks for more than is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

from services.kernel.decision import Decision
from services.kernel.record import Activation, EventBatch, Record, Stamped
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.core.program import Program
from services.rules_engine.core.state import dump, joined, load
from tests.core.world import GUARDS
from tests.reference.evaluator import evaluate
from tests.reference.generate import Log, generate

Feed = Callable[[Sequence[Stamped[Record]], random.Random], list[Decision]]
NEAR = 1e-9  # of log E: the engine reckons it in floats


# ------------------------------------------------------------------------------------------------------------------- the engine


def in_one_piece(records: Sequence[Stamped[Record]], rng: random.Random) -> list[Decision]:
    return Partition(GUARDS, demand_of(records), skips_of(records)).step(records)


def in_pieces(records: Sequence[Stamped[Record]], rng: random.Random) -> list[Decision]:
    partition, decisions, rest = Partition(GUARDS, demand_of(records), skips_of(records)), [], list(records)
    while rest:
        cut = rng.choice([1, 1, 2, 5, 20])
        decisions += partition.step(rest[:cut])
        rest = rest[cut:]
    return decisions


def as_a_worker(records: Sequence[Stamped[Record]], rng: random.Random) -> list[Decision]:
    """One record at a time, rebuilt from the beginning whenever an activation needs more than is kept."""
    skipped = skips_of(records)
    partition, decisions = Partition(GUARDS, None, skipped), []
    for i, stamped in enumerate(records):
        if (demand := partition.lacks(stamped.record)) is not None:
            partition = Partition(GUARDS, demand, skipped)
            partition.step(records[:i])
        decisions += partition.step([stamped])
    return decisions


def with_restarts(records: Sequence[Stamped[Record]], rng: random.Random) -> list[Decision]:
    """Restored from a dump of its own state, as JSON and arrays, wherever a piece ends."""
    skipped = skips_of(records)
    partition, decisions, rest = Partition(GUARDS, demand_of(records), skipped), [], list(records)
    while rest:
        cut = rng.choice([1, 2, 5, 10])
        decisions += partition.step(rest[:cut])
        rest = rest[cut:]
        plain, pieces = dump(partition)
        partition = load(json.loads(json.dumps(plain)), joined(pieces), GUARDS)
        partition.skipped = skipped
    return decisions


def in_stretches(records: Sequence[Stamped[Record]], rng: random.Random) -> list[Decision]:
    """Events of one workspace that follow one another are fed together, whatever else there is by itself."""
    partition, decisions = Partition(GUARDS, demand_of(records), skips_of(records)), []
    for _, of in groupby(records, lambda s: s.record.workspace if isinstance(s.record, EventBatch) else s.offset):
        decisions += partition.step(list(of))
    return decisions


FEEDS: tuple[Feed, ...] = (in_one_piece, in_pieces, as_a_worker, with_restarts, in_stretches)


# ------------------------------------------------------------------------------------------------------------------- two readings


def said(d: Decision) -> dict[str, Any]:
    """What both must say; figures of guards are the engine's own."""
    plain = {f.name: getattr(d, f.name) for f in fields(d)}
    plain["verdicts"] = tuple((v.guard, bool(v.refusal)) for v in d.verdicts)
    return {"id": d.id, **plain}


def is_same(a: Decision, b: Decision) -> bool:
    x, y = said(a), said(b)
    e, f = x.pop("evidence"), y.pop("evidence")
    close = e == f if e is None or f is None else abs(e - f) <= 1 + NEAR * abs(e)
    return close and x == y


def ordered(decisions: Sequence[Decision]) -> list[Decision]:
    return sorted(decisions, key=lambda d: (d.boundary, d.workspace, d.rule_id, d.mode, d.path, d.kind))


@dataclass(frozen=True, slots=True)
class Difference:
    """The first boundary at which the two differ."""

    boundary: int
    reference: tuple[Decision, ...]
    engine: tuple[Decision, ...]


def difference(reference: Sequence[Decision], engine: Sequence[Decision]) -> Difference | None:
    a, b = ordered(reference), ordered(engine)
    for i in range(max(len(a), len(b))):
        if i < len(a) and i < len(b) and is_same(a[i], b[i]):
            continue
        k = min(d.boundary for d in (*a[i : i + 1], *b[i : i + 1]))
        return Difference(k, tuple(d for d in a if d.boundary == k), tuple(d for d in b if d.boundary == k))
    return None


def compared(log: Log, feed: Feed = in_one_piece, seed: int = 0) -> Difference | None:
    return difference(evaluate(log.records, log.interval), feed(log.records, random.Random(seed)))


def compare(seed: int, rounds: int = 50) -> str | None:
    """None where engine and evaluator say the same of the seed's log, else what differs, on the smallest log found that shows it."""
    return disagreement(generate(seed, rounds), seed)


def disagreement(log: Log, seed: int) -> str | None:
    """The same for a log as it was written."""
    feed = FEEDS[seed % len(FEEDS)]
    if difference(log.told, feed(log.records, random.Random(seed))) is None:
        return None
    small = shrunk(log, lambda smaller: compared(smaller, feed, seed) is not None)
    found = compared(small, feed, seed)
    assert found is not None
    return f"seed {seed}, fed {feed.__name__.replace('_', ' ')}\n{shown(small, found)}"


# ------------------------------------------------------------------------------------------------------------------- a smaller log


def shrunk(log: Log, still: Callable[[Log], bool], patience: float = 60) -> Log:
    """Fewer records, and fewer events in each, as long as the two still differ; offsets stay."""
    end = time.monotonic() + patience
    size = max(1, len(log.records) // 2)
    while size and time.monotonic() < end:
        i, dropped = 0, False
        while i < len(log.records) and time.monotonic() < end:
            smaller = replace(log, records=log.records[:i] + log.records[i + size :])
            if fails(smaller, still):
                log, dropped = smaller, True
            else:
                i += size
        if not dropped or size > 1:
            size //= 2
    for i, stamped in enumerate(log.records):
        if not isinstance(stamped.record, EventBatch):
            continue
        j = 0
        while j < len(log.records[i].record.event_id) > 1 and time.monotonic() < end:  # type: ignore[union-attr]
            fewer = replace(stamped, record=without(log.records[i].record, j))
            smaller = replace(log, records=(*log.records[:i], fewer, *log.records[i + 1 :]))
            if fails(smaller, still):
                log = smaller
            else:
                j += 1
    return log


def fails(log: Log, still: Callable[[Log], bool]) -> bool:
    return bool(log.records) and still(log)


def without(b: EventBatch, event: int) -> EventBatch:
    keep = [i for i in range(len(b.event_id)) if i != event]
    part: dict[str, Any] = {name: getattr(b, name)[keep] for name in ("event_id", "entity", "source", "kind", "occurred_at", "interval_start", "interval_end")}
    part |= {name: getattr(b, name)[keep] for name in ("as_of", "row_id")}
    for table, names in (("amount_event", ("amount_measure", "amount")), ("attribute_event", ("attribute_name", "attribute_text", "attribute_number"))):
        of = getattr(b, table)
        here = of != event
        part[table] = (of[here] - (of[here] > event)).astype(of.dtype)
        part |= {name: getattr(b, name)[here] for name in names}
    return replace(b, **part)


# ------------------------------------------------------------------------------------------------------------------- in words


def shown(log: Log, found: Difference) -> str:
    start = log.records[0].stamp // log.interval * log.interval
    lines = [f"interval {log.interval / 1e6:g} s; instants in seconds after {start}; they differ at boundary {found.boundary}"]
    lines += [f"  {s.offset:3} {clock(s.stamp, start)} {record_text(s.record, start)}" for s in log.records]
    for title, decisions in (("reference", found.reference), ("engine", found.engine)):
        lines += [f"{title}:"] + ([decision_text(d, start) for d in decisions] or ["    nothing"])
    return "\n".join(lines)


def clock(instant: int, start: int) -> str:
    return f"{(instant - start) / 1e6:.6f}".rstrip("0").rstrip(".") if abs(instant - start) < 10**14 else str(instant)


def decision_text(d: Decision, start: int) -> str:
    readings = "".join(f"\n        {r.text}: {r.numerator} / {r.denominator} against {r.threshold} is {r.truth} ({r.metric} {r.window})" for r in d.readings)
    asked = ", ".join(("!" if v.refusal else "") + v.guard for v in d.verdicts)
    return (
        f"    {clock(d.now, start)} {d.workspace} {d.rule_id} {d.version[:6]} {d.mode} {d.path} {d.kind}; guards [{asked}]; evidence {d.evidence}; "
        f"valid {clock(d.valid_until, start) if d.valid_until else '-'}; {'simulated; ' if d.simulated else ''}{d.action}{readings}"
    )


def record_text(record: Record, start: int) -> str:
    match record:
        case EventBatch():
            return f"events {record.workspace}" + "".join(f"\n{'':12}{line}" for line in event_texts(record, start))
        case Activation():
            program = "" if not record.program else f"\n{'':12}{program_text(Program.from_json(record.program))}"
            return f"activation {record.workspace} {record.rule_id} {record.version[:6]} {record.state}{program}"
    return repr(record)


def event_texts(b: EventBatch, start: int) -> list[str]:
    lines = []
    for i in range(len(b.event_id)):
        amounts = {b.measures[m]: a / 1e6 for e, m, a in zip(b.amount_event.tolist(), b.amount_measure.tolist(), b.amount.tolist(), strict=True) if e == i}
        columns = (b.attribute_event, b.attribute_name, b.attribute_text, b.attribute_number)
        said = {b.names[n]: b.texts[t - 1] if t else v for e, n, t, v in zip(*(c.tolist() for c in columns), strict=True) if e == i}
        row = ""
        if b.as_of[i]:
            row = f" row {b.row_id[i, 0] & 0xFFFF:04x} of [{clock(int(b.interval_start[i]), start)}, {clock(int(b.interval_end[i]), start)})"
            row += f" as of {clock(int(b.as_of[i]), start)}"
        at = clock(int(b.occurred_at[i]), start)
        lines.append(f"{b.event_id[i, 0] & 0xFFFF:04x} {b.sources[b.source[i]]} {b.paths[b.entity[i]]} at {at}{row} {amounts or ''} {said or ''}")
    return lines


def program_text(p: Program) -> str:
    def short(condition: Any) -> str:
        if condition is None:
            return "-"
        if hasattr(condition, "text"):
            return str(condition.text)
        if hasattr(condition, "term"):
            return f"not ({short(condition.term)})"
        return "(" + f" {type(condition).__name__.lower()} ".join(short(t) for t in condition.terms) + ")"

    pair = f" pair within {p.pair.within} same {p.pair.same} to {short(p.pair.to)};" if p.pair else ""
    guards = ", ".join(f"{a.guard}{dict(a.parameters)}" for a in p.guards)
    least = ", ".join(f"{m.text} {m.least / 1e6:g}" for m in p.minimums)
    return (
        f"{p.platform} {p.currency} {p.zone} depth {p.depth} where {short(p.where)} except {short(p.unless)} when {short(p.when)};{pair} "
        f"clear {short(p.clear)}; "
        f"for {p.hold / 1e6:g} s; guards {guards}; sample {least}; lag {p.lag and p.lag.points}; {p.action.kind} {dict(p.action.parameters)}; "
        f"approve {p.approve.always} {p.approve.above} within {p.approve.within / 1e6:g} s; priority {p.priority}; valid {p.valid_for / 1e6:g} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reference.compare", description="Compares the engine with the reference evaluator.")
    parser.add_argument("--seeds", default="0:1000", help="first:end, or one seed")
    parser.add_argument("--rounds", type=int, default=50, help="records written a log, about")
    parser.add_argument("--stop", type=int, default=1, help="differences after which to stop")
    asked = parser.parse_args()
    first, _, end = asked.seeds.partition(":")
    seeds = range(int(first), int(end) if end else int(first) + 1)
    differing, begun = 0, time.monotonic()
    for seed in seeds:
        try:
            found = compare(seed, asked.rounds)
        except Exception as error:
            found = f"seed {seed} raised {type(error).__name__}: {error}"
            if asked.stop == 1:
                raise
        if found is not None:
            differing += 1
            print(found, flush=True)
            if differing >= asked.stop:
                break
    print(f"{seed - seeds[0] + 1} seeds in {time.monotonic() - begun:.0f} s, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
