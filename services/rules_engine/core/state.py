"""A partition's state as plain values and columns, and back: what a checkpoint holds. Free of layout: no table's size and no cache is part of it.

    plain    JSON: engine time, the next offset, the demand; of each workspace its dictionaries, activations, targets, flights
    columns  the rest, as arrays named `workspace/what`, each in pieces to be joined along the first axis

Shapes, the tables by which keys are found, and caches are made anew by `load`: after it every rule is judged for every object at the next boundary,
which decides what judging only what changed would have. `STATE` counts the forms; another one's state is rebuilt from the log, never guessed at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64, Activation, Target
from services.rules_engine.core.attributes import Column
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.entities import SPARSE, Entities
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.keys import FEW, FULLEST, Keys
from services.rules_engine.core.lifecycle import Life
from services.rules_engine.core.partition import Partition
from services.rules_engine.core.program import Program
from services.rules_engine.core.running import Running
from services.rules_engine.core.seen import Seen
from services.rules_engine.core.snapshots import Snapshots
from services.rules_engine.core.sums import Since
from services.rules_engine.core.window import SLOT_BITS, Windows, total
from services.rules_engine.core.workspace import Changed, Flight, Workspace

STATE = 5
NONE = -1  # in a column of numbers that point somewhere
ON, SPENT, OUTLIVED, MISSED = 1, 2, 4, 8

Array: TypeAlias = NDArray[Any]
Pieces: TypeAlias = dict[str, list[Array]]


class Columns:
    """Arrays by name under one prefix."""

    def __init__(self, prefix: str, pieces: Pieces | None = None, whole: Mapping[str, Array] | None = None) -> None:
        self.prefix, self.pieces, self.whole = prefix, {} if pieces is None else pieces, {} if whole is None else whole

    def put(self, name: str, *pieces: Array) -> None:
        """Keeps arrays that nobody will change."""
        self.pieces[self.prefix + name] = list(pieces)

    def copy(self, name: str, array: Array) -> None:
        self.put(name, array.copy())

    def texts(self, name: str, texts: Sequence[str]) -> None:
        self.put(f"{name}.text", np.frombuffer("".join(texts).encode("utf-8", "surrogatepass"), np.uint8))
        self.put(f"{name}.size", np.fromiter(map(len, texts), np.int64, len(texts)))

    def take(self, name: str) -> Array:
        return self.whole[self.prefix + name]

    def take_texts(self, name: str) -> list[str]:
        text = self.take(f"{name}.text").tobytes().decode("utf-8", "surrogatepass")
        ends = np.cumsum(self.take(f"{name}.size")).tolist()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def dump(partition: Partition) -> tuple[dict[str, Any], Pieces]:
    """The whole state. The arrays stay as they are when the partition goes on, so they may be written meanwhile."""
    pieces: Pieces = {}
    names = sorted(partition.workspaces)
    plain = {
        "state": STATE,
        "now": partition.now,
        "offset": partition.offset,
        "simulated": partition.simulated,
        "demand": _plain_demand(partition.demand),
        "skipped": sorted(partition.skipped),
        "workspaces": {name: _dump_workspace(partition.workspaces[name], Columns(f"{i}/", pieces)) for i, name in enumerate(names)},
    }
    return plain, pieces


def load(plain: Mapping[str, Any], arrays: Mapping[str, Array], guards: dict[str, Guard]) -> Partition:
    """The partition that `dump` was given, deciding from now on what that one decides. It takes the arrays over; they are writable."""
    partition = Partition(guards, _demand(plain["demand"]), frozenset(plain["skipped"]))
    partition.now, partition.offset, partition.simulated = plain["now"], plain["offset"], plain["simulated"]
    for i, (name, of) in enumerate(sorted(plain["workspaces"].items())):
        workspace = partition.workspaces[name] = Workspace(name, guards, partition.demand, of["simulated"])
        _load_workspace(workspace, of, Columns(f"{i}/", whole=arrays))
    return partition


def joined(pieces: Pieces) -> dict[str, Array]:
    """The columns whole, none of them shared with the partition that they came from."""
    return {name: np.concatenate(many) for name, many in pieces.items()}


def _plain_demand(demand: Demand) -> list[Any]:
    return [[list(w) for w in demand.windows], list(demand.depths), [list(m) for m in demand.measures], demand.evidence, demand.horizon, demand.ahead]


def _demand(plain: Sequence[Any]) -> Demand:
    windows, depths, measures, evidence, horizon, ahead = plain
    return Demand(tuple((w, p) for w, p in windows), tuple(depths), tuple((s, m) for s, m in measures), evidence, horizon, ahead)


# -- a workspace ----------------------------------------------------------------------------------------------------------


def _dump_workspace(w: Workspace, columns: Columns) -> dict[str, Any]:
    assert w._arrivals is None  # `Partition.step` leaves nothing unfolded
    by: dict[str, int] = {}
    changed = [(row, c.when, by.setdefault(c.by, len(by)), c.ours) for row, c in w.changed.items()]
    columns.put("changed", _table(changed, 4))
    columns.put("ours", _table(w.ours.items(), 2))
    return {
        "simulated": w.simulated,
        "facts": _dump_facts(w.facts, columns),
        "rules": _dump_rules(w, columns),
        "changed_by": list(by),
        "targets": [[name, path, [list(astuple(t)) for t in many]] for name, by_path in w.targets.items() for path, many in by_path.items()],
        "activated": [list(astuple(a)) for a in w.activated.values()],
        "effective": [list(astuple(a)) for a in w.effective],
        "born": [[anchor, since.born] for anchor, since in w.born.items()],
        "deadlines": [list(d) for d in w.deadlines],
        "held": list(w.held.items()),
        "interval": w.interval,
        "judged": w.judged,
        "fresh": w.fresh,
        "turn": w.turn,
    }


def _load_workspace(w: Workspace, plain: Mapping[str, Any], columns: Columns) -> None:
    w.facts = _load_facts(plain["facts"], w.facts.demand, columns)
    w._room()
    for row, when, by, ours in columns.take("changed").tolist():
        w.changed[row], w.changed_at[row] = Changed(when, plain["changed_by"][by], bool(ours)), when
    for row, when in columns.take("ours").tolist():
        w.ours[row] = w.ours_at[row] = when
    for name, path, many in plain["targets"]:
        w.targets.setdefault(name, {})[path] = [Target(*t) for t in many]
    w.activated = {a.version: a for a in (Activation(*a) for a in plain["activated"])}
    w.effective = [Activation(*a) for a in plain["effective"]]
    w.born = {anchor: w.facts.sinces[born] for anchor, born in plain["born"]}
    w.deadlines = [(at, decision) for at, decision in plain["deadlines"]]
    w.held = dict(plain["held"])
    w.interval, w.judged, w.fresh, w.turn = plain["interval"], plain["judged"], plain["fresh"], plain["turn"]
    _load_rules(w, plain["rules"], columns)
    w._arrange()
    w._goals_until = w._next_goal(w.judged * w.interval)


def _dump_rules(w: Workspace, columns: Columns) -> dict[str, Any]:
    """The rules in effect, and behind them those that left while a decision of theirs is still waited for."""
    rules = [r for _, r in sorted(w.rules.items())]
    number = {r: i for i, r in enumerate(rules)}
    for flight in w.flights.values():
        if flight.rule not in number:
            number[flight.rule] = len(rules)
            rules.append(flight.rule)
    decisions: dict[str, int] = {}
    told: dict[tuple[str, ...], int] = {}
    lives = []
    for i, rule in enumerate(rules):
        for subject, life in rule.lives.items():
            flags = ON * life.on | SPENT * life.spent | OUTLIVED * life.outlived | MISSED * bool(life.missed)
            decision = life.flight or life.missed  # never both
            waits_for = decisions.setdefault(decision, len(decisions)) if decision else NONE
            emitted = NONE if life.emitted is None else told.setdefault(life.emitted, len(told))
            lives.append((i, subject[0], subject[1] if len(subject) > 1 else NONE, life.since, flags, waits_for, emitted, life.wake))
    columns.put("lives", _table(lives, 8))
    columns.texts("programs", [r.text for r in rules])
    return {
        "versions": [[r.version, r.mode] for r in rules],
        "in_effect": len(w.rules),
        "decisions": list(decisions),
        "told": [list(t) for t in told],
        "flights": [[d, number[f.rule], list(f.subject), list(f.paths), f.deadline] for d, f in w.flights.items()],
    }


def _load_rules(w: Workspace, plain: Mapping[str, Any], columns: Columns) -> None:
    rules = []
    for text, (version, mode) in zip(columns.take_texts("programs"), plain["versions"], strict=True):
        program = Program.from_json(text)
        rules.append(Running(program, version, mode, w.born[program.anchor], text))
    w.rules = {(r.program.rule, r.mode): r for r in rules[: plain["in_effect"]]}
    told = [tuple(t) for t in plain["told"]]
    for i, row, other, since, flags, waits_for, emitted, wake in columns.take("lives").tolist():
        decision, subject = "" if waits_for == NONE else plain["decisions"][waits_for], (row,) if other == NONE else (row, other)
        flight, missed = ("", decision) if flags & MISSED else (decision, "")
        life = Life(
            since, bool(flags & ON), bool(flags & SPENT), flight, bool(flags & OUTLIVED), None if emitted == NONE else told[emitted], missed, wake,
        )  # fmt: skip
        rules[i].lives[subject] = life
        if missed:
            w.lapsed[missed] = Flight(rules[i], subject, (), 0)
    w.flights = {d: Flight(rules[i], tuple(subject), tuple(paths), deadline) for d, i, subject, paths, deadline in plain["flights"]}


# -- facts ----------------------------------------------------------------------------------------------------------------


def _dump_facts(f: Facts, columns: Columns) -> dict[str, Any]:
    n = len(f.entities)
    _dump_entities(f.entities, columns)
    _dump_windows(f.windows, n, columns)
    for i, since in enumerate(f.sinces.values()):
        columns.copy(f"since.{i}.start", since.start[:n])
        columns.copy(f"since.{i}.sums", since.sums[:n])
    for i in range(5):
        columns.put(f"history.{i}", f.history.sorted[i], *(loose[i] for loose in f.history.loose))
    for i, table in enumerate(f.seen.tables):
        columns.put(f"seen.{i}.ids", table.ids.key[: len(table.ids)])
        columns.put(f"seen.{i}.body", table.body[: len(table.ids)])
    kept = len(f.snapshots)
    columns.put("snapshots.keys", f.snapshots.keys.key[:kept])
    columns.put("snapshots.ids", f.snapshots.ids[:kept])
    columns.copy("snapshots.kept", f.snapshots.kept[:kept])
    for i, column in enumerate(f.attributes.columns.values()):
        for name in ("when", "text", "number"):
            columns.copy(f"attribute.{i}.{name}", getattr(column, name)[:n])
    for i, newest in enumerate(f.newest):
        columns.copy(f"newest.{i}", newest[:n])
    columns.texts("words", f.attributes.words)
    return {
        "slots": [list(s) for s, _ in sorted(f.slot.items(), key=lambda item: item[1])],
        "sources": list(f.sources),
        "counts": dict(sorted(f.counts.items())),
        "latest": f.latest,
        "first": [[list(key), w.first] for key, w in sorted(f.windows.windows.items())],
        "sinces": [[s.born, s.latest] for s in f.sinces.values()],
        "period": f.seen.period,
        "attributes": list(f.attributes.columns),
    }


def _load_facts(plain: Mapping[str, Any], demand: Demand, columns: Columns) -> Facts:
    f = Facts(demand)
    f.entities = _load_entities(columns)
    n = len(f.entities)
    f._room()
    f.slot = {(source, measure): i for i, (source, measure) in enumerate(plain["slots"])}
    f.sources = {name: i for i, name in enumerate(plain["sources"])}
    f.newest = [_filled(columns.take(f"newest.{i}"), len(f.dirty), 0) for i in range(len(f.sources))]
    f.counts = Counter(plain["counts"])
    f.latest = plain["latest"]
    _load_windows(f.windows, plain["first"], n, columns)
    for i, (born, latest) in enumerate(plain["sinces"]):
        since = f.sinces[born] = Since(born)
        since.latest, since.start, since._sums.table = latest, columns.take(f"since.{i}.start"), columns.take(f"since.{i}.sums")
    f.history.loose = [np.stack([columns.take(f"history.{i}") for i in range(5)])]
    f.history._waiting = f.history.loose[0].shape[1]
    _load_seen(f.seen, plain["period"], columns)
    _load_snapshots(f.snapshots, columns)
    f.attributes.words = columns.take_texts("words")
    f.attributes.vocabulary = {word: i for i, word in enumerate(f.attributes.words) if i}
    for i, name in enumerate(plain["attributes"]):
        column = f.attributes.columns[name] = Column()
        column.when, column.text, column.number = (columns.take(f"attribute.{i}.{part}") for part in ("when", "text", "number"))
    return f


def _dump_entities(e: Entities, columns: Columns) -> None:
    n = len(e)
    columns.texts("paths", e.path)
    columns.put("keys", e.keys.key[:n])
    columns.put("lineage", e.lineage[:n])  # what a row is below never changes
    columns.copy("first_event", e.first_event[:n])


def _load_entities(columns: Columns) -> Entities:
    e = Entities()
    e.path = columns.take_texts("paths")
    e.row = {path: row for row, path in enumerate(e.path)}
    keys = columns.take("keys")
    e.keys, e.word = _keys(keys, SPARSE), keys[:, 0].copy()
    e.lineage, e.first_event = columns.take("lineage"), columns.take("first_event")
    e.depth = (e.lineage >= 0).sum(axis=1, dtype=np.int64) - 1
    return e


def _dump_windows(windows: Windows, rows: int, columns: Columns) -> None:
    for width, panes in sorted(windows.panes.items()):
        held = panes.order
        parts = [part for pane in held for part in panes.parts[pane]]
        columns.put(f"panes.{width}", _table([(pane, sum(len(cell) for cell, _ in panes.parts[pane])) for pane in held], 2))
        columns.put(f"panes.{width}.cell", _EMPTY, *(cell for cell, _ in parts))
        columns.put(f"panes.{width}.amount", _EMPTY, *(amount for _, amount in parts))
    for i, (_, window) in enumerate(sorted(windows.windows.items())):
        columns.copy(f"window.{i}", window.sums.table[:rows])


def _load_windows(windows: Windows, first: Iterable[tuple[list[int], int]], rows: int, columns: Columns) -> None:
    for width, panes in windows.panes.items():
        cell, amount, at = columns.take(f"panes.{width}.cell"), columns.take(f"panes.{width}.amount"), 0
        for pane, size in columns.take(f"panes.{width}").tolist():
            mine = slice(at, at + size)
            panes.put(pane, total(cell[mine].copy(), amount[mine].copy(), rows), rows)
            at += size
    for i, ((width, pane), oldest) in enumerate(first):
        window = windows.windows[width, pane]
        window.first, window.sums.table = oldest, columns.take(f"window.{i}")


def _load_seen(seen: Seen, period: int, columns: Columns) -> None:
    seen.period = period
    for i, table in enumerate(seen.tables):
        table.ids, table.body = _keys(columns.take(f"seen.{i}.ids")), columns.take(f"seen.{i}.body")


def _load_snapshots(snapshots: Snapshots, columns: Columns) -> None:
    snapshots.keys = _keys(columns.take("snapshots.keys"))
    snapshots.ids, snapshots.kept = columns.take("snapshots.ids"), columns.take("snapshots.kept")


_EMPTY: I64 = np.zeros(0, np.int64)
assert SLOT_BITS == 16  # a pane's cells are kept as they are: another layout is another form of the state


def _table(rows: Iterable[Sequence[int]], width: int) -> I64:
    return np.array(list(rows), np.int64).reshape(-1, width)


def _filled(column: I64, size: int, rest: int) -> I64:
    whole = np.full(size, rest, np.int64)
    whole[: len(column)] = column
    return whole


def _keys(keys: I64, fullest: float = FULLEST) -> Keys:
    """The same keys under the same numbers."""
    made = Keys(len(keys), fullest)
    for start in range(0, len(keys), FEW):
        made.add(keys[start : start + FEW])
    return made
