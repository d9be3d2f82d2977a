"""A small world to write logs in: readable defaults, one call a record; hours since midnight of a Tuesday, UTC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from services.kernel.extension import found
from services.kernel.ids import event_id
from services.kernel.page import coalesced
from services.kernel.record import Activation, Change, EventBatch, Outcome, Ready, Record, Stamped, Target, Tick
from services.rules_engine import guards as guard_folder
from services.rules_engine.core.evidence import default_coefficients
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Action, Approval, Asked, AttributeRef, Compare, Measure, Metric, MetricRef, Minimum, Number, Program, Text

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
START = 20_000 * DAY + 4 * DAY
GUARDS = found(guard_folder, "guard", "GUARD")
META = "meta_ads"
GROUP = "meta_ads/act/cmp/grp"
IMPRESSIONS, CLICKS, SPEND = (Measure(META, m) for m in ("impressions", "clicks", "spend@EUR"))
CTR = Metric("ctr", 1, "ratio", CLICKS, IMPRESSIONS, 1, "proportion")
SHOWN = Metric("impressions", 1, "count", IMPRESSIONS, None, 1, "")
CHEAP_TO_ACT = Approval(False, -1, "", 0, "")
ACTIVE = Compare("=", AttributeRef("status", "text"), Text("active"), 'status = "active"')


def ctr_below(ppm: int, window: int = 0) -> Compare:
    return Compare("<", MetricRef(0, window, "ctr"), Number(ppm, 1_000_000, "ratio", f"{ppm / 1e4}%"), f"ctr < {ppm / 1e4}%")


def asked(guard: str, **parameters: int | str) -> Asked:
    return Asked(guard, tuple(sorted(parameters.items())))


def pause_rule(**other: Any) -> Program:
    """Pause an active creative whose ctr since the last change is below 0.8 %, without any guard but those given."""
    base = Program(
        rule="pause-weak", owner="jana@acme.example", objective="", platform=META, currency="EUR", zone="Europe/Berlin", depth=4, where=ACTIVE, unless=None,
        when=ctr_below(8000), clear=None, pair=None, hold=0, metrics=(CTR, SHOWN), minimums=(), guards=(), lag=None, action=Action("pause"),
        approve=CHEAP_TO_ACT, risk="low", priority=0, valid_for=15 * MINUTE, panes=((DAY, 5 * MINUTE),), interval=SECOND,
        coefficients=default_coefficients(),
    )  # fmt: skip
    return replace(base, **other)


def minimum(impressions: int) -> tuple[Minimum, ...]:
    return (Minimum(1, impressions * 1_000_000, f"{impressions} impressions"),)


def batch(*events: dict[str, Any], workspace: str = "acme") -> EventBatch:
    """Events as dicts: id, path, at (us), amounts {measure: micro}, attributes {name: text or micro}; as_of, interval, row for a snapshot; source."""
    paths, sources = (sorted({e.get(k, META) for e in events}) for k in ("path", "source"))
    measures = sorted({m for e in events for m in e.get("amounts", {})})
    amounts = [(i, measures.index(m), a) for i, e in enumerate(events) for m, a in e.get("amounts", {}).items()]
    attributes = [(i, n, v) for i, e in enumerate(events) for n, v in e.get("attributes", {}).items()]
    names = sorted({n for _, n, _ in attributes})
    texts = sorted({v for _, _, v in attributes if isinstance(v, str)})

    def key(text: str) -> np.ndarray:
        return np.frombuffer(event_id("key", text), "<i8") if text else np.zeros(2, np.int64)

    def wide(keys: list[np.ndarray]) -> np.ndarray:
        return np.array(keys, np.int64).reshape(-1, 2)

    def small(values: list[int]) -> np.ndarray:
        return np.array(values, np.uint32)

    def big(values: list[int]) -> np.ndarray:
        return np.array(values, np.int64)

    return EventBatch(
        workspace, tuple(paths), tuple(sources), ("report",), tuple(measures), tuple(names), tuple(texts),
        wide([key(e["id"]) for e in events]), small([paths.index(e["path"]) for e in events]),
        small([sources.index(e.get("source", META)) for e in events]), small([0] * len(events)), big([e["at"] for e in events]),
        big([e.get("interval", (0, 0))[0] for e in events]), big([e.get("interval", (0, 0))[1] for e in events]),
        big([e.get("as_of", 0) for e in events]), wide([key(e.get("row", "")) for e in events]),
        small([a[0] for a in amounts]), small([a[1] for a in amounts]), big([a[2] for a in amounts]),
        small([a[0] for a in attributes]), small([names.index(a[1]) for a in attributes]),
        small([texts.index(a[2]) + 1 if isinstance(a[2], str) else 0 for a in attributes]),
        big([0 if isinstance(a[2], str) else a[2] for a in attributes]),
    )  # fmt: skip


def fold(facts: Facts, stamp: int, said: EventBatch) -> None:
    """Accepts and folds one record."""
    facts.fold(facts.read(coalesced([(stamp, said)])), 0, 1)


class World:
    """Records in the order of the calls, stamped at hours since START (or at the time of the call before)."""

    def __init__(self, workspace: str = "acme") -> None:
        self.workspace = workspace
        self.records: list[Stamped[Record]] = []
        self.now = START

    def at(self, hours: float) -> World:
        self.now = START + round(hours * HOUR)
        return self

    def put(self, record: Record) -> World:
        self.records.append(Stamped(len(self.records), self.now, record))
        return self

    def activate(self, program: Program, state: str = "active") -> World:
        self.put(Activation(self.workspace, program.rule, program.version, state, program.to_json()))
        return self if state == "retired" else self.put(Ready(self.workspace, program.version))

    def report(self, ad: str, impressions: int = 0, clicks: int = 0, spend: float = 0, **attributes: str | int) -> World:
        amounts = {"impressions": impressions * 1_000_000, "clicks": clicks * 1_000_000, "spend@EUR": round(spend * 1_000_000)}
        event = {
            "id": f"{len(self.records)}",
            "path": f"{GROUP}/{ad}",
            "at": self.now,
            "attributes": attributes,
            "amounts": {m: a for m, a in amounts.items() if a},
        }
        return self.put(batch(event, workspace=self.workspace))

    def outcome(self, decision_id: str, status: str, ad: str = "", **other: str) -> World:
        return self.put(Outcome(self.workspace, decision_id, status, f"{GROUP}/{ad}" if ad else "", **other))

    def change(self, ad: str, what: str = "status", before: str = "", after: str = "", by: str = "tom", ago: float = 0) -> World:
        return self.put(Change(self.workspace, f"{GROUP}/{ad}", what, before, after, self.now - round(ago * HOUR), by))

    def target(self, name: str, amount: int, path: str = "", unit: str = "EUR", valid_from: int = 0, valid_until: int = 0) -> World:
        return self.put(Target(self.workspace, name, path, amount, unit, valid_from, valid_until))

    def tick(self) -> World:
        return self.put(Tick())

    def partition(self) -> Partition:
        return Partition(GUARDS, demand_of(self.records))

    def decisions(self):
        return self.partition().step(self.records)

    def told(self) -> list[tuple[float, str, str, tuple[str, ...]]]:
        """(hours, ad, kind, refusals) of each decision."""
        return [((d.now - START) / HOUR, d.path.rpartition("/")[2], d.kind, d.refusals) for d in self.decisions()]
