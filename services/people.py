"""What people do at the command line: look at decisions, answer escalations, undo, stop everything, mend what waits in quarantine."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from services.adapters.clock import instant
from services.client import client
from services.rules_engine.words import ago

escalations = typer.Typer(invoke_without_command=True, help="Actions that wait for people; without a command those that wait now.")
quarantine = typer.Typer(invoke_without_command=True, help="What could not be normalized; without a command what waits now.")
Limit = Annotated[int, typer.Option(min=1, max=500, help="how many at most")]
Reason = Annotated[str, typer.Option(help="why, for everyone who reads it later")]


def install(app: typer.Typer) -> None:
    """`app` has these commands from now on."""
    app.command()(decisions)
    app.command()(undo)
    app.command()(cancel)
    app.command("kill-switch")(kill_switch)
    app.add_typer(escalations, name="escalations")
    app.add_typer(quarantine, name="quarantine")


def decisions(
    status: Annotated[str, typer.Option(help="recorded, executing, waiting, parked, verified, failed, unknown, held, rejected, expired or cancelled")] = "",
    kind: Annotated[str, typer.Option(help="fired, refused or cleared")] = "",
    rule: Annotated[str, typer.Option(help="a rule's name")] = "",
    entity: Annotated[str, typer.Option(help="a path: it and everything below it")] = "",
    limit: Limit = 50,
) -> None:
    """Decisions, newest first: when, what became of it and why, rule, object, id."""
    found = client().get("/v1/decisions", status=status, kind=kind, rule=rule, entity=entity, limit=limit)
    for d in found["decisions"]:
        typer.echo(f"{d['at'][:19]}Z  {d['kind']:7}  {outcome(d):32}  {d['rule']}  {d['path']}  {d['id']}")
    told_of_more(found, len(found["decisions"]))


def outcome(d: dict[str, Any]) -> str:
    """verified, held: stale, recorded: confidence, sample."""
    why = ", ".join(d["refusals"]) or ("" if d["reason"] == d["kind"] else d["reason"])
    return f"{d['status']}: {why}" if why else str(d["status"])


def undo(decision: str, reason: Reason = "") -> None:
    """Restores what the platform said before a decision (a whole id), as a decision of its own."""
    d = client().post(f"/v1/decisions/{decision}/undo", {"reason": reason})
    typer.echo(f"{d['id']} undoes {d['undoes']}: {d['status']}")


def cancel(
    reason: Annotated[str, typer.Option(help="why: the rule's owner will read it")],
    decision: Annotated[str, typer.Argument(help="a whole id")] = "",
    rule: Annotated[str, typer.Option(help="all that this rule has decided so far, instead of one")] = "",
) -> None:
    """A decision that is queued, parked or waits for people is not carried out; what is under way goes on."""
    if bool(decision) == bool(rule):
        raise typer.BadParameter("name one decision, or a rule with --rule")
    if rule:
        said = client().post("/v1/decisions/cancel", {"rule": rule, "reason": reason})
        go_on = f"; {said['under_way']} under way, which go on: undo them once they have ended" if said["under_way"] else ""
        typer.echo(f"{said['cancelled']} cancelled{go_on}")
        return
    d = client().post(f"/v1/decisions/{decision}/cancel", {"reason": reason})
    typer.echo(f"{d['id']} is {d['status']}" + ("" if d["undoes"] else f"; {d['rule']} decides anew while its condition is true, unless it is retired"))


def kill_switch(
    state: Annotated[Literal["on", "off", "show"], typer.Argument(help="on stops everything, off allows it again")] = "show", reason: Reason = ""
) -> None:
    """Stops (on) or allows (off) every action of the workspace; what is parked while it is on is carried out after it, if still valid."""
    c = client()
    typer.echo(switch(c.get("/v1/kill-switch") if state == "show" else c.put("/v1/kill-switch", {"engaged": state == "on", "reason": reason})))


def partition(p: dict[str, Any]) -> str:
    """A line on where a partition stands."""
    at = f", record {p['offset']}, {p['lag']} behind the log's end" if "offset" in p else ""
    time = f", time {instant(p['engine_time']) if p['engine_time'] else 'not begun'}" if "engine_time" in p else ""
    time += f", {p['delay_seconds']:.1f} s behind the clock" if p.get("delay_seconds") is not None else ""
    saved = _saved(p)
    why, owner = f": {p['why']}" if p["why"] else "", f" by {p['owner']}" if p["owner"] else ""
    return f"partition {p['partition']:<2} {p['state']}{owner}{at}{time}{saved}{why}"


def _saved(p: dict[str, Any]) -> str:
    """Of when the newest checkpoint is, which is how old the oldest record is that a start would have to fold."""
    if "checkpoint" not in p:
        return ""
    at, age = p["checkpoint"], p.get("checkpoint_age_seconds")  # None: a server of the version before
    old = f"{ago(round(age * 1e6))} old" if age else ""
    if not at:
        return f", no checkpoint, the first record {old}" if old else ", no checkpoint"
    return f", checkpoint at {at}" + ("" if age is None else f", the first record after it {old}" if old else ", nothing after it")


def switch(s: dict[str, Any]) -> str:
    """The kill switch in words."""
    if not s["at"]:
        return "kill switch off"
    kept = s.get("kept")  # None, or not said by a server of the version before
    told = f"kill switch {'ON' if s['engaged'] else 'off'} since {s['at'][:19]}Z by {s['by']}" + (f": {s['reason']}" if s["reason"] else "")
    return told + (f"; beneath it, and remaining after it, since {kept['at'][:19]}Z by {kept['by']}: {kept['reason']}" if kept else "")


# -- escalations ----------------------------------------------------------------------------------------------------------


@escalations.callback()
def escalations_waiting(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_escalations()


@escalations.command("list")
def list_escalations(
    status: Annotated[Literal["waiting", "approved", "rejected", "expired", "cancelled"], typer.Option(help="which of them")] = "waiting", limit: Limit = 100
) -> None:
    """Who is asked what, until when, and what happens otherwise; the oldest that waits first."""
    found = client().get("/v1/escalations", status=status, limit=limit)
    for e in found["escalations"]:
        d, answered = e["decision"], f"  by {e['answered_by']}: {e['comment']}" if e["answered_by"] else ""
        typer.echo(f"{e['id']}  {e['status']}  {d['action']['do']} {d['path']}  ({d['rule']}, {e['reason']})")
        typer.echo(f"    asks {e['by'] or 'a reviewer'} until {e['expires_at'][:19]}Z, otherwise {e['otherwise'] or 'nothing is changed'}{answered}")
    told_of_more(found, len(found["escalations"]))


@escalations.command()
def approve(escalation: str, reason: Reason = "") -> None:
    """The action is queued; the platform is looked at once more before anything is changed."""
    e = client().post(f"/v1/escalations/{escalation}/approve", {"reason": reason})
    typer.echo(f"{e['id']} is {e['status']}: {e['decision']['action']['do']} {e['decision']['path']}")


@escalations.command()
def reject(escalation: str, reason: Annotated[str, typer.Option(help="why: the rule's owner will read it")]) -> None:
    """The action will not run."""
    e = client().post(f"/v1/escalations/{escalation}/reject", {"reason": reason})
    typer.echo(f"{e['id']} is {e['status']}: {e['decision']['action']['do']} {e['decision']['path']}")


# -- quarantine -----------------------------------------------------------------------------------------------------------


@quarantine.callback()
def quarantine_waiting(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_quarantine()


@quarantine.command("list")
def list_quarantine(
    state: Annotated[Literal["waiting", "redriven"], typer.Option(help="which of them")] = "waiting",
    source: Annotated[str, typer.Option(help="of one source")] = "",
    reason: Annotated[str, typer.Option(help="for one reason")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200, help="how many at most")] = 50,
) -> None:
    """What could not be normalized, where in its delivery it stands and why, newest first."""
    found = client().get("/v1/quarantine", state=state, source=source, reason=reason, limit=limit)
    for q in found["quarantine"]:
        typer.echo(f"{q['received_at'][:19]}Z  {q['source']}  {q['pointer'] or '/'}  {q['reason']}: {q['detail']}  {q['id']}")
    told_of_more(found, len(found["quarantine"]))


@quarantine.command("show")
def show_quarantined(id: str) -> None:
    """One of them as JSON, with the delivery as it was received."""
    typer.echo(json.dumps(client().get(f"/v1/quarantine/{id}"), ensure_ascii=False, indent=2))


@quarantine.command()
def redrive(id: str) -> None:
    """Drives its delivery again, with today's sources."""
    r = client().post(f"/v1/quarantine/{id}/redrive")
    typer.echo(f"{r['redriven']} redriven, {r['waiting']} still waiting")


def told_of_more(found: dict[str, Any], shown: int) -> None:
    if not shown:
        typer.echo("none")
    if found["next"]:
        typer.echo(f"... and more: only {shown} are shown, see --limit")
