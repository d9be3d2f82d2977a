"""What a rule proposes for its object: absolute values, and what was observed when it decided."""

from __future__ import annotations

from typing import Protocol

from services.rules_engine.core.program import Program, canonical

MILLION = 1_000_000
CENT = 10_000  # micro-units
STATUS = {"pause": "paused", "resume": "active"}
SPEND_UNKNOWN = 3  # the semantics from which on a spend that is unknown is not taken for a number


class Observed(Protocol):
    def attribute(self, name: str, row: int) -> str | int | None: ...
    def spend_per_day(self, row: int) -> tuple[int, bool]: ...


def step(path: str, attribute: str, observed: str | int | None, desired: str | int) -> dict[str, str | int | None]:
    return {"path": path, "attribute": attribute, "observed": observed, "desired": desired}


def propose(program: Program, path: str, rows: tuple[int, ...], view: Observed) -> str | None:
    """The action as canonical JSON, or None where there is nothing that may be moved."""
    steps = _steps(program, path.split("|"), rows, view)
    if steps is None:
        return None
    approve = program.approve
    return canonical(
        {
            "do": program.action.kind,
            "path": path,
            "risk": program.risk,
            "approve": {"always": approve.always, "above": approve.above, "by": approve.by, "within": approve.within, "otherwise": approve.otherwise},
            "spend_per_day": _spend_per_day(program, rows, view),
            "currency": program.currency,
            "valid_for": program.valid_for,
            "steps": steps,
        }
    )


def _spend_per_day(program: Program, rows: tuple[int, ...], view: Observed) -> int | None:
    """What the object spends a day, of two the larger; None where what one of them spends is unknown."""
    each = [view.spend_per_day(row) for row in rows]
    if program.semantics >= SPEND_UNKNOWN and any(unknown for _, unknown in each):
        return None
    return max(spent for spent, _ in each)


def _steps(program: Program, paths: list[str], rows: tuple[int, ...], view: Observed) -> list[dict[str, str | int | None]] | None:
    action = program.action
    if action.kind in STATUS:
        return [step(paths[0], "status", view.attribute("status", rows[0]), STATUS[action.kind])]
    if action.kind == "notify":
        return []
    observed = [view.attribute("daily_budget", row) for row in rows]
    if action.kind == "set_budget":
        return [step(paths[0], "daily_budget", observed[0], action.integer("amount"))]
    giver, taker = observed
    if not isinstance(giver, int) or not isinstance(taker, int):
        return None
    moved = min(giver * action.integer("share") // MILLION, giver - action.integer("floor"), taker * action.integer("to_at_most", MILLION) // MILLION)
    moved -= moved % CENT
    if moved <= 0:
        return None
    return [step(paths[0], "daily_budget", giver, giver - moved), step(paths[1], "daily_budget", taker, taker + moved)]
