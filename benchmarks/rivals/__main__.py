"""One contestant in a process of its own: python -m benchmarks.rivals NAME EVENTS, of the engine the ids that are known instead of the events of a run.

It says `ready`, then answers each line that it reads with one.

    run         {"rate": events a second of processor}
    check N     {"held": [[rule, entity, event], ...]}, the number of the event at whose boundary the condition first held, over the first N events of a log
                without late ones, each of them fiftyfold and alone in its boundary
    stream N    the same over the first N events of the very stream that is timed, as they are, each alone in its boundary
    boundaries  {"held": [[rule, entity, from, until], ...]} over the whole of that stream, judged at the boundaries that are timed, of 10,000 events each:
                the number of the boundary at which the condition came to hold, and at which it held no more, -1 where it holds to the end

Of several rules on one entity at once the engine fires one and refuses the others as outranked, which no other does; both are told.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice

from benchmarks.account import MEASURES, START, deltas, span
from benchmarks.rivals import bare, frameworks, libraries
from benchmarks.rivals.per_event import Fired, Judge, PerEvent, Stretch, compiled
from benchmarks.rivals.plain import MICRO, NAMES, Event, Rule, events, everyone_of, plain_rules

ACCOUNT, CREATIVES, RULES, TICK = 500_000, 1_000, 100, 10_000
CHECKED, CHECKED_CREATIVES, FOLD = 25_920, 40, 50  # one every five seconds, which divides every pane


@dataclass(frozen=True, slots=True)
class Contestant:
    """`check` is given events, each alone in its boundary, and how far they are apart; `stretches` judges all that is timed, where it can."""

    run: Callable[[], float]
    check: Callable[[Log], list[Fired]]
    stretches: Callable[[], list[Stretch]] | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The first `first` of the `total` events of so many creatives, each amount `fold` times."""

    total: int
    creatives: int
    first: int
    fold: int = 1

    @property
    def events(self) -> list[Event]:
        return [replace(e, amount=e.amount * self.fold) for e in events(self.total, self.creatives, self.first)]

    @property
    def apart(self) -> int:
        return span(self.total)


def engine(per_record: int, known: int) -> Contestant:
    """It judges the whole account, with so many ids known."""
    from benchmarks.engine import Case, known_ids, prepared
    from services.adapters.codec.record import decode
    from services.adapters.log.codec import EVENTS
    from services.kernel.decision import Decision
    from services.kernel.record import EventBatch, Stamped, Tick

    count = ACCOUNT
    case = Case(rules=RULES, per_record=per_record, tick=TICK, creatives=CREATIVES, events=count, held=known)
    held, page = known_ids(known), TICK // per_record

    @cache
    def timed() -> list[tuple[int, bytes]]:
        return list(deltas(count, per_record, CREATIVES))

    def run() -> float:
        records, partition = timed(), prepared(case, held)
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

    def check(log: Log) -> list[Fired]:
        partition = prepared(replace(case, per_record=1, tick=1, events=log.total, held=0), None, is_live=False)
        decisions, offset, stamp = [], partition.offset, 0
        for stamp, data in islice(deltas(log.total, 1, log.creatives), log.first):
            batch = decode(data)
            assert isinstance(batch, EventBatch)
            decisions += partition.step([Stamped(offset, stamp, replace(batch, amount=batch.amount * log.fold))])
            offset += 1
        decisions += partition.step([Stamped(offset, stamp + log.apart, Tick())])
        return [(d.rule_id, d.path, d.now - log.apart) for d in decisions if d.kind == "fired" or d.refusals == ("outranked",)]

    def stretches() -> list[Stretch]:
        records, partition = timed(), prepared(replace(case, held=0), None)
        decisions, offset, begun = list[Decision](), partition.offset, dict[tuple[str, str], int]()
        for i in range(0, count // per_record, page):
            part = records[i : i + page]
            decisions += partition.step([Stamped(offset + i + j, part[-1][0], decode(data)) for j, (_, data) in enumerate(part)])
        decisions += partition.step([Stamped(offset + len(records), records[-1][0] + span(count), Tick())])
        found: list[Stretch] = []
        for d in decisions:
            if d.kind == "cleared":
                found.append((d.rule_id, d.path, begun.pop((d.rule_id, d.path)), d.now))
            else:
                begun.setdefault((d.rule_id, d.path), d.now)
        return found + [(*key, since, -1) for key, since in begun.items()]

    return Contestant(run, check, stretches)


def loop(prepare: Callable[[Sequence[Event]], Callable[[], float]], count: int) -> Contestant:
    once = prepare(list(events(ACCOUNT, CREATIVES, count)))
    return Contestant(lambda: count / once(), lambda log: [])


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

    def check(log: Log) -> list[Fired]:
        to = make(rules, on_roll)
        to.ahead = log.apart
        feed(to, bare.as_json(log.events))
        return to.fired

    def stretches() -> list[Stretch]:
        interval = TICK * span(ACCOUNT)
        return make(rules, False).at_boundaries(chain(everyone_of(CREATIVES, START - interval), events(ACCOUNT, CREATIVES)), interval)

    return Contestant(once, check, stretches)


def framework(made: Callable[[Sequence[Event], Sequence[Rule]], frameworks.Ran], count: int) -> Contestant:
    rules = plain_rules(RULES)
    run = made(list(events(ACCOUNT, CREATIVES, count)), rules)
    return Contestant(lambda: (count - count // 2) / run()[0], lambda log: made(log.events, rules)()[1])


def plain(rules: Sequence[Rule], on_roll: bool) -> PerEvent:
    return PerEvent(rules, compiled, range(12), on_roll=on_roll)


def library(of: Callable[[Sequence[Rule]], Judge], indexed: bool) -> Callable[[Sequence[Rule], bool], PerEvent]:
    return lambda rules, on_roll: PerEvent(rules, of, NAMES, MICRO, on_roll=on_roll, indexed=indexed)


CONTESTANTS: dict[str, Callable[[int], Contestant]] = {
    "engine 100": lambda n: engine(100, n),
    "engine 1000": lambda n: engine(1_000, n),
    "bare protobuf": lambda n: loop(bare.protobuf, n),
    "bare published": lambda n: loop(bare.published, n),
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


def firsts(fired: Sequence[Fired], apart: int) -> list[tuple[str, str, int]]:
    """Of each rule and entity the number of the event at which it first held; quixstreams tells instants in milliseconds only."""
    found: dict[tuple[str, str], int] = {}
    for rule, path, at in fired:
        found[rule, path] = min(at, found.get((rule, path), at))
    return sorted((rule, path, round((at - START) / apart)) for (rule, path), at in found.items())


def numbered(stretches: Sequence[Stretch]) -> list[Stretch]:
    interval = TICK * span(ACCOUNT)
    return sorted((rule, path, (since - START) // interval, -1 if until < 0 else (until - START) // interval) for rule, path, since, until in stretches)


def main(name: str, count: int) -> None:
    contestant = CONTESTANTS[name](count)
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["check", first]:
                log = Log(CHECKED, CHECKED_CREATIVES, int(first), FOLD)
                print(json.dumps({"held": firsts(contestant.check(log), log.apart)}), flush=True)
            case ["stream", first]:
                log = Log(ACCOUNT, CREATIVES, int(first))
                print(json.dumps({"held": firsts(contestant.check(log), log.apart)}), flush=True)
            case ["boundaries"]:
                assert contestant.stretches is not None
                print(json.dumps({"held": numbered(contestant.stretches())}), flush=True)
            case _:
                print(json.dumps({"rate": contestant.run()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
