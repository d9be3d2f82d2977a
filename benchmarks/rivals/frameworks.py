"""Two stream frameworks' own windows. An event is handed over already parsed, four times, keyed by each of its entities; nothing is deduplicated.

    sliding  windows as wide as the engine's that hop by its panes: all that is ours is what is done with a window's four sums. Of the windows that an
             event falls into the oldest is judged, which covers exactly what the engine's covers. An event falls into 255 of them at each level
    panes    their tumbling windows, one for each pane width; adding up the panes of a window is ours. What one would do after having seen the first
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from benchmarks.account import WINDOWS
from benchmarks.rivals.per_event import Fired, Judge, PerEvent, compiled
from benchmarks.rivals.plain import LEVELS, Event, Rule

Ran = Callable[[], tuple[float, list[Fired]]]


BATCH = 50


class Laps:
    """Hands events on, and notes when the second half began: the first one warms up what is made for an entity when it is first met."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events, self.began = events, 0.0

    def __iter__(self) -> Iterator[Event]:
        half = len(self.events) // 2
        yield from self.events[:half]
        self.began = time.process_time()
        yield from self.events[half:]

    @property
    def seconds(self) -> float:
        return time.process_time() - self.began


class Rules:
    """The rules over one window, judged over its four sums; what holds already is remembered."""

    def __init__(self, rules: Sequence[Rule], window: int) -> None:
        these = [self._narrow(r) for r in rules if r.window == window]
        self.groups: dict[tuple[int, int], tuple[frozenset[str], Judge]] = {}
        for depth in LEVELS:
            for measure in range(4):
                group = [r for r in these if r.depth == depth and r.reads(measure)]
                if group:
                    self.groups[depth, measure] = (frozenset(r.name for r in group), compiled(group))
        self.on: dict[str, set[str]] = {}

    @staticmethod
    def _narrow(rule: Rule) -> Rule:
        def of(side: tuple[int, Any]) -> tuple[int, Any]:
            return side[0], None if side[1] is None else side[1] % 4

        return replace(rule, clauses=tuple(replace(c, left=of(c.left), right=of(c.right)) for c in rule.clauses))

    def judge(self, path: str, at: int, measure: int, sums: Sequence[int]) -> list[Fired]:
        group = self.groups.get((path.count("/"), measure))
        if group is None:
            return []
        held, on = group[1](sums), self.on.setdefault(path, set())
        if not held and not on:
            return []
        fired = [(name, path, at) for name in held if name not in on]
        on -= group[0]
        on.update(held)
        return fired


@dataclass(slots=True)
class Held:
    """What is known of one entity: the sums of its panes, and of each window over them."""

    panes: dict[int, Sequence[int]] = field(default_factory=dict)
    inside: list[deque[int]] = field(default_factory=lambda: [deque(), deque()])
    totals: list[list[int]] = field(default_factory=lambda: [[0, 0, 0, 0], [0, 0, 0, 0]])


class Panes:
    """Windows added up from the panes of one width that a framework keeps."""

    def __init__(self, rules: Sequence[Rule], width: int) -> None:
        self.width = width
        self.windows = [(wide, Rules(rules, i)) for i, (wide, pane) in enumerate(WINDOWS) if pane == width]
        self.held: dict[str, Held] = {}

    def judge(self, path: str, at: int, measure: int, sums: Sequence[int]) -> list[Fired]:
        """`sums` are those of the pane that `at` falls into, microseconds."""
        held = self.held.get(path) or self.held.setdefault(path, Held())
        pane, fired = at // self.width, []
        before = held.panes.get(pane)
        added = sums[measure] - (before[measure] if before else 0)
        for (wide, rules), inside, total in zip(self.windows, held.inside, held.totals, strict=False):
            if before is None:
                inside.append(pane)
            while inside[0] < (at + 1 - wide) // self.width:
                gone = held.panes[inside.popleft()]
                for i in range(4):
                    total[i] -= gone[i]
            total[measure] += added
            fired += rules.judge(path, at, measure, total)
        held.panes[pane] = sums
        return fired


def _entities(path: str) -> Iterator[str]:
    parts = path.split("/")
    for depth in LEVELS:
        yield "/".join(parts[: depth + 1])


def bytewax(events: Sequence[Event], rules: Sequence[Rule], panes: bool = False) -> Ran:
    """`window` with a logic of ours: it sums, and emits for the first of the windows that an event falls into."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.operators.windowing import EventClock, SlidingWindower, TumblingWindower, WindowLogic, window
    from bytewax.testing import TestingSink, TestingSource, run_main

    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    class Value:
        __slots__ = ("at", "micros", "measure", "amount", "emitted")

        def __init__(self, e: Event) -> None:
            self.at, self.micros, self.measure, self.amount = epoch + timedelta(microseconds=e.at), e.at, e.measure, e.amount
            self.emitted = [False, False, False]

    class Summing(WindowLogic):  # type: ignore[misc]
        def __init__(self, index: int, sums: Any) -> None:
            self.index, self.sums = index, sums or [0, 0, 0, 0]

        def on_value(self, value: Any) -> Any:
            self.sums[value.measure] += value.amount
            if value.emitted[self.index]:
                return ()
            value.emitted[self.index] = True
            return ((value.micros, value.measure, tuple(self.sums)),)

        def on_merge(self, original: Any) -> Any:
            return ()

        def on_close(self) -> Any:
            return ()

        def snapshot(self) -> Any:
            return list(self.sums)

    def run() -> tuple[float, list[Fired]]:
        fired: list[Fired] = []
        laps, flow = Laps(events), Dataflow("account")
        source = op.input("in", flow, TestingSource(laps, batch_size=BATCH))
        keyed = op.flat_map("levels", source, lambda e: [(path, Value(e)) for path in _entities(e.entity)])
        # time is the events' alone: by the system's clock every window is over, and every key would be woken at every batch
        clock = EventClock(lambda v: v.at, timedelta(0), now_getter=lambda: epoch, to_system_utc=lambda _: None)
        for i, (wide, width) in enumerate(WINDOWS):
            pane = timedelta(microseconds=width)
            judge = Rules(rules, i).judge
            windower: Any = SlidingWindower(timedelta(microseconds=wide) + pane, pane, epoch)
            if panes:
                if width == WINDOWS[i - 1][1]:
                    continue
                judge, windower = Panes(rules, width).judge, TumblingWindower(length=pane, align_to=epoch)
            out = window(f"sum{i}", keyed, clock, windower, lambda sums, i=i: Summing(i, sums), ordered=False)
            judged = op.flat_map(f"judge{i}", out.down, lambda kv, judge=judge: judge(kv[0], *kv[1][1]))
            op.output(f"out{i}", judged, TestingSink(fired))
        run_main(flow)
        return laps.seconds, fired

    return run


def bytewax_of_ours(events: Sequence[Event], rules: Sequence[Rule]) -> Ran:
    """The per-event engine of plain Python inside a flow that does no more than carry events to it."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    def run() -> tuple[float, list[Fired]]:
        engine = PerEvent(rules, compiled, range(12))
        laps, flow = Laps(events), Dataflow("account")

        def fed(e: Event) -> Sequence[Event]:
            engine.feed(e.id, e.entity, e.at, e.measure, e.amount)
            return ()

        carried = op.input("in", flow, TestingSource(laps, batch_size=BATCH))
        judged = op.flat_map("engine", carried, fed)
        op.output("out", judged, TestingSink([]))
        run_main(flow)
        return laps.seconds, engine.fired

    return run


def _oldest(fired: list[Fired], rules: Rules, length: int, hop: int, row: Any, key: Any, stamp: int, headers: Any) -> None:
    *sums, at, measure = row["value"]
    if row["start"] == ((at - length) // hop + 1) * hop:
        fired.extend(rules.judge(key, at * 1000, measure, sums))


def _pane(fired: list[Fired], panes: Panes, row: Any, key: Any, stamp: int, headers: Any) -> None:
    *sums, at, measure = row["value"]
    fired.extend(panes.judge(key, at * 1000, measure, sums))


def quixstreams(events: Sequence[Event], rules: Sequence[Rule], panes: bool = False) -> Ran:
    """`hopping_window` or `tumbling_window`, `.reduce(...).current()`, over its RocksDB store.

    Its application consumes from Kafka alone, so the composed pipeline is called for every message, as its own tests do: there is no consumer, no commit and
    no changelog.
    """
    from quixstreams.context import copy_context, set_message_context
    from quixstreams.dataframe import DataFrameRegistry, StreamingDataFrame
    from quixstreams.models import MessageContext, Topic, TopicConfig, TopicManager
    from quixstreams.processing import ProcessingContext
    from quixstreams.state import StateStoreManager

    logging.getLogger("quixstreams").setLevel(logging.ERROR)

    def first(value: Any) -> list[Any]:
        return step([0, 0, 0, 0, 0, 0], value)

    def step(state: list[Any], value: Any) -> list[Any]:
        at, measure, amount = value
        state[measure] += amount
        state[4], state[5] = at, measure
        return state

    def run() -> tuple[float, list[Fired]]:
        fired: list[Fired] = []
        laps = Laps(events)
        with tempfile.TemporaryDirectory() as folder:
            registry, states, none = DataFrameRegistry(), StateStoreManager("account", folder), cast(Any, None)
            context = ProcessingContext(5.0, none, none, states, none, registry)
            kept = TopicConfig(1, 1, {"retention.ms": "-1", "retention.bytes": "-1"})
            topic = Topic("events", key_deserializer="str", create_config=kept)
            topic.broker_config = kept
            frame = StreamingDataFrame(topic, topic_manager=TopicManager(none, "account"), registry=registry, processing_context=context)
            registry.register_root(frame)
            for i, (wide, width) in enumerate(WINDOWS):
                length, hop = (wide + width) // 1000, width // 1000
                if not panes:
                    windows = frame.hopping_window(length, hop, name=f"sum{i}")
                    judge = partial(_oldest, fired, Rules(rules, i), length, hop)
                elif width == WINDOWS[i - 1][1]:
                    continue
                else:
                    windows = frame.tumbling_window(hop, name=f"sum{i}")
                    judge = partial(_pane, fired, Panes(rules, width))
                windows.reduce(reducer=step, initializer=first).current().update(judge, metadata=True)
            states.init()
            states.on_partition_assign(frame.stream_id, 0, {})
            context.init_checkpoint()
            call = registry.compose_all()[topic.name]
            around = copy_context()
            around.run(set_message_context, MessageContext(topic.name, 0, 0, 0))
            try:
                for e in laps:
                    at = e.at // 1000
                    for path in _entities(e.entity):
                        around.run(call, [at, e.measure, e.amount], path, at, [])
                seconds = laps.seconds
            finally:
                states.on_partition_revoke(frame.stream_id, 0)
                states.close()
        return seconds, fired

    return run
