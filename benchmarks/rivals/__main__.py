"""One contestant in a process of its own: python -m benchmarks.rivals NAME EVENTS. It says `ready`, then answers each line that it reads with one.

    run      {"rate": events a second of processor}
    check N  {"held": [[rule, entity], ...]} whose condition ever held over the first N events of a log without late ones, each of them fiftyfold and alone
             in its boundary. Of several rules on one entity at once the engine fires one and refuses the others as outranked, which no other does
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.account import MEASURES, deltas, span
from benchmarks.rivals import bare, frameworks, libraries
from benchmarks.rivals.per_event import Fired, PerEvent, compiled
from benchmarks.rivals.plain import MICRO, NAMES, Event, Rule, events, plain_rules

ACCOUNT, CREATIVES, RULES = 500_000, 1_000, 100
CHECKED, CHECKED_CREATIVES, FOLD = 25_920, 40, 50  # one every five seconds, which divides every pane
Contestant = tuple[Callable[[], float], Callable[[Sequence[Event]], list[Fired]]]


def engine(per_record: int, count: int) -> Contestant:
    from benchmarks.engine import Case, known_ids, prepared
    from services.adapters.codec.record import decode
    from services.adapters.log.codec import EVENTS
    from services.kernel.record import EventBatch, Stamped, Tick

    case = Case(rules=RULES, per_record=per_record, creatives=CREATIVES, events=count)
    held, records, page = known_ids(case.held), list(deltas(count, per_record, CREATIVES)), case.tick // per_record

    def run() -> float:
        partition = prepared(case, held)
        offset = partition.offset
        gc.collect()
        gc.freeze()
        began = time.process_time()
        for i in range(0, count // per_record, page):
            part = records[i : i + page]
            stamp = part[-1][0]
            read = EVENTS.decode_all([data for _, data in part])
            partition.step([Stamped(offset + i + j, stamp, record) for j, record in enumerate(read)])
        took = time.process_time() - began
        gc.unfreeze()
        return count / took

    def check(checked: Sequence[Event]) -> list[Fired]:
        partition = prepared(replace(case, per_record=1, tick=1, events=CHECKED, held=0), None)
        decisions, offset, stamp = [], partition.offset, 0
        for (stamp, data), _ in zip(deltas(CHECKED, 1, CHECKED_CREATIVES), checked, strict=False):
            batch = decode(data)
            assert isinstance(batch, EventBatch)
            decisions += partition.step([Stamped(offset, stamp, replace(batch, amount=batch.amount * FOLD))])
            offset += 1
        decisions += partition.step([Stamped(offset, stamp + span(CHECKED), Tick())])
        return [(d.rule_id, d.path) for d in decisions if d.kind == "fired" or d.refusals == ("outranked",)]

    return run, check


def loop(prepare: Callable[[Sequence[Event]], Callable[[], float]], count: int) -> Contestant:
    once = prepare(list(events(ACCOUNT, CREATIVES, count)))
    return lambda: count / once(), lambda checked: []


def per_event(make: Callable[[Sequence[Rule], bool], PerEvent], count: int, on_roll: bool = True) -> Contestant:
    """It reads JSON, which parses faster than protobuf; the first half of the events warms it up."""
    from msgspec.json import Decoder

    records, half, rules = bare.as_json(list(events(ACCOUNT, CREATIVES, count))), count // 2, plain_rules(RULES)
    parse, measures = Decoder(bare.Json).decode, {name: i for i, name in enumerate(MEASURES)}
    make(rules, False)  # a library that is not installed is noticed here

    def feed(to: PerEvent, these: Sequence[bytes]) -> None:
        take = to.feed
        for record in these:
            e = parse(record)
            take(e.id, e.entity, e.occurred_at, measures[e.measure], e.amount)

    def once() -> float:
        to = make(rules, False)
        feed(to, records[:half])
        gc.collect()
        gc.freeze()
        began = time.process_time()
        feed(to, records[half:])
        took = time.process_time() - began
        gc.unfreeze()
        return (count - half) / took

    def check(checked: Sequence[Event]) -> list[Fired]:
        to = make(rules, on_roll)
        to.ahead = span(CHECKED)
        feed(to, bare.as_json(checked))
        return to.fired

    return once, check


def framework(made: Callable[[Sequence[Event], Sequence[Rule]], frameworks.Ran], count: int) -> Contestant:
    rules = plain_rules(RULES)
    run = made(list(events(ACCOUNT, CREATIVES, count)), rules)
    return lambda: (count - count // 2) / run()[0], lambda checked: made(checked, rules)()[1]


def plain(rules: Sequence[Rule], on_roll: bool) -> PerEvent:
    return PerEvent(rules, compiled, range(12), on_roll=on_roll)


def library(of: Callable[[Sequence[Rule]], libraries.Judge], indexed: bool) -> Callable[[Sequence[Rule], bool], PerEvent]:
    return lambda rules, on_roll: PerEvent(rules, of, NAMES, MICRO, on_roll=on_roll, indexed=indexed)


CONTESTANTS: dict[str, Callable[[int], Contestant]] = {
    "engine 100": lambda n: engine(100, n),
    "engine 1000": lambda n: engine(1_000, n),
    "bare protobuf": lambda n: loop(bare.protobuf, n),
    "bare json": lambda n: loop(bare.json, n),
    "per event": lambda n: per_event(plain, n),
    "per event, no rolls": lambda n: per_event(plain, n, on_roll=False),
    "datalogic": lambda n: per_event(library(libraries.datalogic, False), n),
    "datalogic, indexed": lambda n: per_event(library(libraries.datalogic, True), n),
    "zen": lambda n: per_event(library(libraries.zen, False), n),
    "zen, indexed": lambda n: per_event(library(libraries.zen, True), n),
    "bytewax sliding": lambda n: framework(frameworks.bytewax, n),
    "bytewax panes": lambda n: framework(lambda e, r: frameworks.bytewax(e, r, panes=True), n),
    "bytewax around per event": lambda n: framework(frameworks.bytewax_of_ours, n),
    "quixstreams sliding": lambda n: framework(frameworks.quixstreams, n),
    "quixstreams panes": lambda n: framework(lambda e, r: frameworks.quixstreams(e, r, panes=True), n),
}


def main(name: str, count: int) -> None:
    run, check = CONTESTANTS[name](count)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("check"):
            checked = [replace(e, amount=e.amount * FOLD) for e in events(CHECKED, CHECKED_CREATIVES, int(line.split()[1]))]
            print(json.dumps({"held": sorted(set(check(checked)))}), flush=True)
        else:
            print(json.dumps({"rate": run()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
