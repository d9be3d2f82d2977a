"""A good per-event engine in plain Python: every event is added to the running sums of its four entities, which are then judged.

What makes it good: sums are kept, not computed; a pane that leaves is subtracted; only rules that read the measure of the event are judged; conditions
are compiled. What it leaves out: entities are judged when an event touches them, not when a pane leaves (`on_roll` adds that, for the comparison of
decisions), there are no guards, no evidence, nothing explains a decision and nothing could be restored.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from benchmarks.account import WINDOWS
from benchmarks.rivals.plain import LEVELS, Clause, Event, Rule

Fired = tuple[str, str, int]  # rule, entity, the instant of the event at which it came to hold; microseconds
Stretch = tuple[str, str, int, int]  # rule, entity, the boundary at which it came to hold, and that at which it held no more, -1 where it holds to the end
SIDES = range(len(WINDOWS))


class Judge(Protocol):
    """The names of a group's rules that hold for these sums."""

    def __call__(self, sums: Any) -> Sequence[str]: ...


class Entity:
    __slots__ = ("path", "depth", "sums", "on")

    def __init__(self, path: str, depth: int, sums: Any) -> None:
        self.path, self.depth, self.sums = path, depth, sums
        self.on: set[str] = set()  # rules that hold


class PerEvent:
    """`judge_of` makes one judge of a group of rules; `slots` are the keys of an entity's sums and `unit` what one of an amount counts.

    Not `indexed`, all rules of an entity's level are judged at each of its events.
    """

    def __init__(
        self, rules: Sequence[Rule], judge_of: Callable[[Sequence[Rule]], Judge], slots: Sequence[Hashable], unit: int = 1, ahead: int = 1,
        on_roll: bool = False, indexed: bool = True,
    ) -> None:  # fmt: skip
        self.unit, self.ahead, self.on_roll = unit, ahead, on_roll
        self.keys = [[slots[w * 4 + m] for w in SIDES] for m in range(4)]
        self.empty = dict.fromkeys(slots, 0) if isinstance(slots[0], str) else [0] * len(slots)
        whole = [self._group(rules, judge_of, depth, None) for depth in LEVELS]
        parts = [[self._group(rules, judge_of, depth, measure) for measure in range(4)] if indexed else [w] * 4 for depth, w in zip(LEVELS, whole, strict=True)]
        self.groups = [[*p, w] for p, w in zip(parts, whole, strict=True)]  # by measure, and all of the level
        self.seen: set[Hashable] = set()
        self.entities: dict[str, Entity] = {}
        self.lineages: dict[str, tuple[Entity, ...]] = {}
        self.panes: dict[int, dict[int, dict[tuple[str, int], float]]] = {width: {} for _, width in WINDOWS}
        self.oldest = [0 for _ in WINDOWS]
        self.roll_at = self.at = 0
        self.fired: list[Fired] = []

    @staticmethod
    def _group(rules: Sequence[Rule], judge_of: Callable[[Sequence[Rule]], Judge], depth: int, measure: int | None) -> tuple[frozenset[str], Judge] | None:
        these = [r for r in rules if r.depth == depth and (measure is None or r.reads(measure))]
        return (frozenset(r.name for r in these), judge_of(these)) if these else None

    def feed(self, id: Hashable, path: str, at: int, measure: int, amount: float) -> None:
        if id in self.seen:
            return
        self.seen.add(id)
        self.at = at
        if self.unit != 1:
            amount /= self.unit
        now = at + self.ahead
        left = self._roll(now) if now >= self.roll_at else ()
        lineage = self.lineages.get(path) or self._meet(path)
        cell = (path, measure)
        for width, panes in self.panes.items():
            pane = panes.get(at // width)
            if pane is None:
                pane = panes[at // width] = {}
            pane[cell] = pane.get(cell, 0) + amount
        a, b, c = self.keys[measure]
        for entity in lineage:
            sums = entity.sums
            sums[a] += amount
            sums[b] += amount
            sums[c] += amount
            self.judge(entity, measure)
        if self.on_roll:
            for entity in left:
                self.judge(entity, 4)

    def at_boundaries(self, events: Iterable[Event], interval: int) -> list[Stretch]:
        """Judged as the engine judges, all entities at every boundary and none between two; each boundary is `interval` after the one before."""
        judge, self.judge = self.judge, lambda *_: None  # type: ignore[method-assign]
        begun: dict[tuple[str, str], int] = {}
        stretches: list[Stretch] = []

        def boundary(now: int) -> None:
            self._roll(now)
            for entity in self.entities.values():
                before = set(entity.on)
                judge(entity, 4)
                stretches.extend((name, entity.path, begun.pop((name, entity.path)), now) for name in before - entity.on)
                begun.update(((name, entity.path), now) for name in entity.on - before)

        now = 0
        for e in events:
            due = (e.at // interval + 1) * interval
            while now and now < due:
                boundary(now)
                now += interval
            now = due
            self.feed(e.id, e.entity, e.at, e.measure, e.amount)
        boundary(now)
        self.judge = judge  # type: ignore[method-assign]
        return stretches + [(*key, since, -1) for key, since in begun.items()]

    def judge(self, entity: Entity, measure: int) -> None:
        group = self.groups[entity.depth - 1][measure]
        if group is not None:
            held = group[1](entity.sums)
            if held or entity.on:
                self.fired += [(name, entity.path, self.at) for name in held if name not in entity.on]
                entity.on -= group[0]
                entity.on.update(held)

    def _meet(self, path: str) -> tuple[Entity, ...]:
        parts = path.split("/")
        lineage = []
        for depth in LEVELS:
            above = "/".join(parts[: depth + 1])
            if above not in self.entities:
                self.entities[above] = Entity(above, depth, self.empty.copy())
            lineage.append(self.entities[above])
        self.lineages[path] = tuple(lineage)
        return self.lineages[path]

    def _roll(self, now: int) -> Iterable[Entity]:
        """Those whose sums lost a pane: a window covers [floor((now - w) / pane) * pane, now)."""
        left: dict[Entity, None] = {}
        soon = []
        for w, (width, pane) in enumerate(WINDOWS):
            oldest = (now - width) // pane
            soon.append((oldest + 1) * pane + width)
            held = self.panes[pane]
            for p in range(max(self.oldest[w], min(held, default=oldest)), oldest):
                for (path, measure), amount in held.get(p, {}).items():
                    for entity in self.lineages[path]:
                        entity.sums[self.keys[measure][w]] -= amount
                        left[entity] = None
            self.oldest[w] = oldest
        for pane, held in self.panes.items():
            needed = min(self.oldest[w] for w, (_, p) in enumerate(WINDOWS) if p == pane)
            for p in [p for p in held if p < needed]:
                del held[p]
        self.roll_at = min(soon)
        return left


def compiled(rules: Sequence[Rule]) -> Judge:
    """One function of a group's rules over exact integers, written out: an `if` a rule."""
    lines = [f"    if {' and '.join(_python(c) for c in r.clauses)}: held += ({r.name!r},)" for r in rules]
    made: dict[str, Judge] = {}
    exec("\n".join(["def judge(s):", "    held = ()", *lines, "    return held"]), made)
    return made["judge"]


def _python(c: Clause) -> str:
    right = str(c.right[0]) if c.right[1] is None else f"s[{c.right[1]}] * {c.right[0]}"
    left = f"s[{c.left[1]}]" + ("" if c.left[0] == 1 else f" * {c.left[0]}")
    if c.right[1] is None and c.right[0] % c.left[0] == 0:
        left, right = f"s[{c.left[1]}]", str(c.right[0] // c.left[0])
    return f"{left} {c.op} {right}"
