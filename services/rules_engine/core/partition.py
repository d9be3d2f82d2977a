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
        read = 0  # records before this one have been read
        for i, stamped in enumerate(records):
            if i == read:
                read = self._read(records, i)
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
            self.offset = stamped.offset + 1
        for workspace in self.workspaces.values():
            workspace.settle()
        return decisions

    def _read(self, records: Sequence[Stamped[Record]], first: int) -> int:
        """Reads the events of records from the first on, up to the first that may say what other records mean; returns where that is, or past the first."""
        of: dict[str, list[tuple[int, EventBatch]]] = {}
        now, at = self.now, first
        for at in range(first, len(records)):
            stamped = records[at]
            now = max(now, stamped.stamp)
            if isinstance(stamped.record, EventBatch):
                if stamped.offset not in self.skipped:
                    of.setdefault(stamped.record.workspace, []).append((now, stamped.record))
            elif not isinstance(stamped.record, Tick):
                break
        else:
            at = len(records)
        for name, batches in of.items():
            self._workspace(name).read(batches)
        return max(at, first + 1)

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
