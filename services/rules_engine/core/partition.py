"""One partition of the log, folded in order: step(records) -> decisions, and nothing else goes in or comes out."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput
from services.kernel.record import Activation, Change, Clock, EventBatch, Outcome, Poisoned, Ready, Record, Skip, Stamped, Target, Tick
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.program import canonical
from services.rules_engine.core.workspace import Workspace

NEVER = 1 << 62


class Partition:
    """`now` is engine time: the largest stamp so far. Workspaces are independent of one another."""

    def __init__(self, guards: dict[str, Guard], demand: Demand | None = None, skipped: frozenset[int] = frozenset()) -> None:
        self.guards, self.demand = guards, demand or Demand()
        self.skipped = skipped  # offsets of poisoned records: they move time and say nothing
        self.workspaces: dict[str, Workspace] = {}
        self.now, self.offset, self.simulated = 0, 0, False
        self._soon = 0  # the instant of the next boundary of any workspace

    def step(self, records: Sequence[Stamped[Record]]) -> list[Decision]:
        """The decisions that these records bring about, in order of (workspace, boundary, admission) as time reaches them."""
        decisions: list[Decision] = []
        i = read = 0  # records before `read` have been read
        alone: Workspace | None = None  # whose events all of them are
        while i < len(records):
            if i == read:
                read, alone = self._read(records, i)
            if alone is not None and (end := self._before_boundary(records, i, read)) > i:
                alone.take(end - i)
                self.offset, i = records[end - 1].offset + 1, end
                continue
            stamped = records[i]
            if stamped.stamp > self.now:
                self.now = stamped.stamp
            if self.now >= self._soon:
                for name in sorted(self.workspaces):
                    decisions += self.workspaces[name].advance(self.now)
                self._soon = self._next()
            record = stamped.record
            if stamped.offset in self.skipped:
                pass
            elif isinstance(record, Poisoned):
                raise RejectedInput(f"record {stamped.offset}: {record.why}", reason="poisoned")
            elif isinstance(record, EventBatch):
                self.workspaces[record.workspace].take()
            else:
                self._apply(record)
                self._soon = self._next()
            self.offset, i = stamped.offset + 1, i + 1
        for workspace in self.workspaces.values():
            workspace.settle()
        return decisions

    def _read(self, records: Sequence[Stamped[Record]], first: int) -> tuple[int, Workspace | None]:
        """Reads the events of records from the first on, up to the first that may say what other records mean.

        Returns where that is, or past the first, and the workspace whose events all of them are, if they are.
        """
        of: dict[str, list[tuple[int, EventBatch]]] = {}
        now, at, skipped = self.now, first, self.skipped
        name, batches = "", list[tuple[int, EventBatch]]()
        for at in range(first, len(records)):
            stamped = records[at]
            record = stamped.record
            if stamped.stamp > now:
                now = stamped.stamp
            if isinstance(record, EventBatch):
                if skipped and stamped.offset in skipped:
                    continue
                if record.workspace != name:
                    name = record.workspace
                    batches = of.setdefault(name, [])
                batches.append((now, record))
            elif not isinstance(record, Tick):
                break
        else:
            at = len(records)
        for each, these in of.items():
            self._workspace(each).read(these)
        end = max(at, first + 1)
        return end, self.workspaces[name] if len(batches) == end - first else None

    def _before_boundary(self, records: Sequence[Stamped[Record]], first: int, end: int) -> int:
        """Where, between the first and the end, the first record is that moves time to a boundary; time is that of the record before it."""
        now, soon = self.now, self._soon
        if now >= soon:
            return first
        for at in range(first, end):
            stamp = records[at].stamp
            if stamp > now:
                if stamp >= soon:
                    end = at
                    break
                now = stamp
        self.now = now
        return end

    def _next(self) -> int:
        return min((at for w in self.workspaces.values() if (at := w.soon()) is not None), default=NEVER)

    def _apply(self, record: Activation | Ready | Target | Outcome | Change | Tick | Skip | Clock) -> None:
        match record:
            case Tick() | Skip():
                return
            case Clock():
                self.simulated = record.simulated
            case _:
                self._workspace(record.workspace).apply(self.now, record)

    def _workspace(self, name: str) -> Workspace:
        if name not in self.workspaces:
            self.workspaces[name] = Workspace(name, self.guards, self.demand, self.simulated)
        return self.workspaces[name]

    def due(self) -> int | None:
        """The earliest instant at which a boundary that may not be a no-op is due, or None: until then no tick is needed."""
        return min((at for w in self.workspaces.values() if (at := w.due()) is not None), default=None)

    def lacks(self, record: object) -> Demand | None:
        """The demand to rebuild with before this activation is fed, or None where all it needs is kept."""
        if not isinstance(record, Activation) or record.state == "retired":
            return None
        wider = self.demand.with_activation(record)
        return None if wider == self.demand else wider

    def digest(self) -> str:
        """A hash of the state, free of layout: neither row order nor array sizes show."""
        state = [self.now, self.simulated, [[name, self.workspaces[name].canonical()] for name in sorted(self.workspaces)]]
        return blake2b(canonical(state).encode(), digest_size=16).hexdigest()


def skips_of(records: Sequence[Stamped[Record]]) -> frozenset[int]:
    """The offsets that skip records of this stretch of log name, wherever they stand."""
    return frozenset(s.record.offset for s in records if isinstance(s.record, Skip))


def demand_of(records: Sequence[Stamped[Record]]) -> Demand:
    """What every activation of a stretch of log asks for."""
    demand, skipped = Demand(), skips_of(records)
    for stamped in records:
        if isinstance(stamped.record, Activation) and stamped.record.state != "retired" and stamped.offset not in skipped:
            demand = demand.with_activation(stamped.record)
    return demand
