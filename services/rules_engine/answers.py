"""Answers to people: why was this decided, why was that not, what did the metric do, does the replay agree."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

from services.adapters.codec import decision as codec
from services.kernel.decision import Decision
from services.kernel.errors import Conflict, NotFound
from services.kernel.ports import Log
from services.kernel.record import Record
from services.rules_engine.core.inspection import inspect
from services.rules_engine.core.running import Running, Subject
from services.rules_engine.core.truth import Judge
from services.rules_engine.core.view import View
from services.rules_engine.core.workspace import Workspace
from services.rules_engine.replay import Beyond, Replayer
from services.rules_engine.store import RuleStore
from services.rules_engine.told import Teller, Told
from services.rules_engine.worker import Worker

MICRO = 1_000_000
MOST_POINTS = 500
PAGE = 500  # decisions read at once


@dataclass(frozen=True, slots=True)
class Answers:
    """Asks the live state for the present and replays the log for the past."""

    worker: Worker
    events: Log[Record]
    store: RuleStore

    @property
    def _past(self) -> Replayer:
        w = self.worker
        return Replayer(self.events, w.guards, w.number, w.checkpoints, w.partition.skipped)

    async def decision(self, workspace: str, decision_id: str) -> Decision:
        """By its id, or by at least six digits of it that are only its own."""
        known = self.worker.said.place
        fitting = [decision_id] if decision_id in known else [d for d in known if len(decision_id) >= 6 and d.startswith(decision_id)]
        if len(fitting) > 1:
            raise Conflict(f"several decisions begin with {decision_id}; write more digits")
        found = await self.worker.said.decision(fitting[0]) if fitting else None
        if found is None or found.workspace != workspace:
            raise NotFound(f"there is no decision {decision_id!r} here")
        return found

    async def replay(self, workspace: str, decision_id: str) -> dict[str, Any]:
        """Recomputed from the log's beginning, or where that is gone from a checkpoint before it, and compared byte for byte."""
        recorded = await self.decision(workspace, decision_id)
        replayed = await self._past.replay(recorded)
        ours, theirs = (None if d is None else codec.encode(d) for d in (replayed.derived, recorded))
        assert theirs is not None
        return {
            "id": recorded.id,
            "identical": ours == theirs,
            "records": replayed.records,
            "begun": replayed.begun,
            "why": replayed.why,
            "hash": sha256(theirs).hexdigest(),
            "replayed_hash": None if ours is None else sha256(ours).hexdigest(),
        }

    async def explain_decision(self, workspace: str, decision_id: str) -> dict[str, Any]:
        """Told from the state as it stood at the decision's boundary."""
        decision = await self.decision(workspace, decision_id)
        state = await self._past.state_at(decision.now)
        teller = await self._teller(state.workspaces[workspace], decision.rule_id, decision.mode, decision.path, decision)
        told = teller.decision(self.worker.endings.get(decision.id)) if decision.kind == "fired" else teller.non_decision()
        return shown(decision.rule_id, told) | {"decision": decision.id, "links": links(decision)}

    async def explain_name(self, workspace: str, name: str, rule: str, at: int | None) -> dict[str, Any]:
        """What every rule of the object's level has to say of it, now or as of an instant."""
        state = self.worker.partition if at is None else await self._past.state_at(at)
        known = state.workspaces.get(workspace)
        path = resolve(known, name) if known else None
        if known is None or path is None:
            raise NotFound(f"nothing is called {name!r}; give a name, a platform id or a path")
        depth = path.count("/")
        fitting = sorted(k for k, r in known.rules.items() if r.program.depth == depth and r.program.pair is None and rule in ("", r.program.rule))
        if not fitting:
            raise NotFound(f"no active rule {rule + ' ' if rule else ''}judges {path}")
        told = []
        for rule_id, mode in fitting:
            recent = await self._last_fired(workspace, rule_id, path, at)
            beyond = ""
            if recent is not None:
                try:
                    told.append(await self.explain_decision(workspace, recent))
                    continue
                except Beyond as error:
                    beyond = f"It fired last with decision {recent[:8]}, which cannot be told from its own time any more: {error}."
            present = shown(rule_id, (await self._teller(known, rule_id, mode, path)).non_decision())
            told.append(present | {"paragraphs": [*present["paragraphs"], beyond]} if beyond else present)
        return {"path": path, "told": told, "title": told[0]["title"], "paragraphs": told[0]["paragraphs"], "links": told[0]["links"]}

    async def _last_fired(self, workspace: str, rule: str, path: str, at: int | None) -> str | None:
        """The last decision of the rule on the object, if it fired and nothing was decided since."""
        end = next(reversed(self.worker.said.place.values()), -1) + 1
        while end > 0:
            start = max(0, end - PAGE)
            for stamped in reversed(await self.worker.decisions.read(self.worker.number, start, end - start)):
                d = stamped.record
                if (d.workspace, d.rule_id, d.path) == (workspace, rule, path) and d.kind != "cleared" and (at is None or d.now <= at):
                    return d.id if d.kind == "fired" else None
            end = start
        return None

    async def _teller(self, workspace: Workspace, rule: str, mode: str, path: str, decision: Decision | None = None) -> Teller:
        running = workspace.rules.get((rule, mode))
        if running is None:
            raise NotFound(f"rule {rule!r} was not active then")
        number = next((v.number for v in await self.store.versions(workspace.name, rule) if v.version == running.version), 0)
        return Teller(workspace, inspect(workspace, running, subject_of(workspace, path)), number, decision)

    async def series(self, workspace: str, decision_id: str) -> dict[str, Any]:
        """The metric since the last change, cumulated, as it stood at the decision. Raises Beyond where no amounts were kept one by one."""
        decision = await self.decision(workspace, decision_id)
        state = await self._past.state_at(decision.now)
        if not state.demand.evidence:
            lacking = "the log's beginning is gone, and the checkpoint that was begun from keeps sums, not the amounts one by one that a chart is made of"
            raise Beyond(lacking)
        known = state.workspaces[workspace]
        running = known.rules.get((decision.rule_id, decision.mode))
        if running is None:
            raise NotFound(f"rule {decision.rule_id!r} was not active then")
        return await asyncio.to_thread(curve, known, running, subject_of(known, decision.path), decision.now)

    def status(self, workspace: str) -> dict[str, Any]:
        """Where the engine stands."""
        known = self.worker.partition.workspaces.get(workspace)
        w = self.worker
        return {
            "partition": w.number,
            "offset": w.partition.offset,
            "engine_time": w.partition.now,
            "idle_seconds": max(0.0, (w.clock.now() - w.partition.now) / MICRO) if w.partition.now else None,
            "restored": w.restored,
            "stopped": w.stopped,
            "simulated": w.partition.simulated,
            "entities": len(known.facts.entities) if known else 0,
            "events": dict(sorted(known.facts.counts.items())) if known else {},
            "rules": [{"rule": r, "mode": m, "version": x.version, "alive": len(x.lives)} for (r, m), x in sorted(known.rules.items())] if known else [],
            "in_flight": len(known.flights) if known else 0,
        }


def standing(w: Worker) -> dict[str, Any]:
    """Where a partition stands, for those who run the installation."""
    return {
        "partition": w.number,
        "state": "stopped" if w.stopped else "followed" if w.restored else "restoring",
        "why": w.stopped or str(w.way or ""),
        "offset": w.partition.offset,
        "done": w.done,
        "engine_time": w.partition.now,
        "delay_seconds": w.delay if w.partition.now else None,
        "checkpoint": w.saved,
        "checkpoint_time": w.saved_time,
        "checkpoint_age_seconds": w.checkpoint_age,
        "workspaces": len(w.partition.workspaces),
    }


def shown(rule: str, told: Told) -> dict[str, Any]:
    return {"rule": rule, "title": told.title, "paragraphs": list(told.paragraphs), "links": []}


def links(decision: Decision) -> list[dict[str, str]]:
    """What can be done next, as the pages and the command line do it."""
    here = f"/v1/decisions/{decision.id}"
    undo = [{"name": "undo", "method": "POST", "href": f"{here}/undo"}] if decision.kind == "fired" and decision.mode == "active" else []
    numbers = {"name": "numbers", "method": "GET", "href": f"/v1/series?decision={decision.id}"}
    return [*undo, numbers, {"name": "replay", "method": "GET", "href": f"{here}/replay"}]


def subject_of(workspace: Workspace, path: str) -> Subject:
    rows = [workspace.facts.entities.row.get(p) for p in path.split("|")]
    if None in rows:
        raise NotFound(f"{path} was not known then")
    return tuple(r for r in rows if r is not None)


def resolve(workspace: Workspace, name: str, depth: int | None = None) -> str | None:
    """The path that people mean: itself, a platform id, or a name, at a depth or at any; several that fit are refused by listing them."""
    paths = workspace.facts.entities.row
    if name in paths and depth in (None, name.count("/")):
        return name
    fitting = [p for p in paths if p.rpartition("/")[2] == name]
    fitting += [workspace.facts.entities.path[r] for r in workspace.facts.attributes.having("name", name).tolist()]
    fitting = sorted(p for p in set(fitting) if depth is None or p.count("/") == depth)
    if len(fitting) > 1:
        raise Conflict(f"{len(fitting)} objects are called {name!r}: {', '.join(fitting[:5])}; give the path")
    return fitting[0] if fitting else None


def curve(workspace: Workspace, running: Running, subject: Subject, now: int) -> dict[str, Any]:
    view = View(workspace, running, now)
    judge = Judge(running.program.metrics, view)
    claims = running.weighers[0].claims
    metric = claims[0].metric if claims else next((m for m in running.program.metrics if m.denominator is not None), running.program.metrics[0])
    limit = judge.value(claims[0].threshold, subject[0]) if claims else None
    above = view.past(metric.numerator, subject[0])
    below = view.past(metric.denominator, subject[0]) if metric.denominator else None
    moments = [(t, a, 0) for t, a in zip(above.landing.tolist(), above.amount.tolist(), strict=True)]
    if below is not None:
        moments += [(t, 0, a) for t, a in zip(below.landing.tolist(), below.amount.tolist(), strict=True)]
    n = d = 0
    points: dict[int, float | None] = {}
    for at, more_n, more_d in sorted(moments):
        n, d = n + more_n, d + more_d
        points[at] = n / MICRO if below is None else metric.factor * n / d if d else None
    kept = sorted(points.items())
    stride = -(-len(kept) // MOST_POINTS) or 1
    thinned = kept[::stride] + (kept[-1:] if kept and (len(kept) - 1) % stride else [])
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "threshold": float(limit) if isinstance(limit, Fraction) else None,
        "points": [[t / MICRO, v] for t, v in thinned],
        "decided_at": now / MICRO,
    }
