"""The rules engine over HTTP: rules and their versions, targets, and the answers that people want of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from services.adapters.faultpoint import faultpoint
from services.adapters.http.auth import require
from services.kernel.entity import LEVELS
from services.kernel.errors import Conflict, Forbidden, NotFound, RejectedInput
from services.kernel.ports import Clock, Log
from services.kernel.principal import Principal
from services.kernel.record import Activation, Record, Target
from services.rules_engine.answers import Answers, resolve
from services.rules_engine.core.program import Program
from services.rules_engine.language.pack import Pack, PackTarget, definitions, load_pack
from services.rules_engine.language.problem import nearest
from services.rules_engine.store import RuleStore, Version

Viewer = Annotated[Principal, Depends(require("viewer"))]
Editor = Annotated[Principal, Depends(require("editor"))]
Admin = Annotated[Principal, Depends(require("admin"))]


class PackText(BaseModel):
    pack: str = Field(max_length=200_000, description="the pack's YAML text")
    filename: str = Field("pack.yaml", max_length=200)


class Applied(PackText):
    state: Literal["active", "shadow"] = "active"


class Wanted(BaseModel):
    version: str = Field("", max_length=64, description="v3, or at least six digits of the hash; the newest by default")
    state: Literal["active", "shadow"] = "active"


class TargetWanted(BaseModel):
    name: str = Field(max_length=64)
    path: str = Field("", max_length=1000, description='a path; "" for the account\'s default')
    amount: int = Field(gt=0, le=1 << 53, description="micro-units")
    unit: str = Field(pattern="^(ratio|[A-Z]{3})$")
    valid_from: int = Field(0, ge=0, le=1 << 62, description="microseconds since 1970; 0: always")
    valid_until: int = Field(0, ge=0, le=1 << 62, description="exclusive; 0: for ever")


class Skipped(BaseModel):
    offset: int = Field(ge=0, description="of the record at which the partition stopped")
    reason: str = Field(min_length=1, max_length=500, description="why, for everyone who reads it later")


def router(store: RuleStore, of: Callable[[str], Answers], events: Log[Record], clock: Clock) -> APIRouter:
    """/v1/rules..., /v1/targets, /v1/explain, /v1/series, /v1/decisions/{id}/replay, /v1/engine, /v1/partition/skip.

    `of` gives what answers for a workspace, or raises Unavailable while there is nothing that could.
    """
    api = APIRouter(prefix="/v1", tags=["rules"])

    def in_step(who: Principal, interval: int) -> None:
        """Raises Conflict where the workspace's boundaries are further or closer apart: how far is settled by its first activation."""
        known = of(who.workspace).worker.partition.workspaces.get(who.workspace)
        if known is not None and known.interval not in (0, interval):
            apart = known.interval // 1000
            told = f"boundaries here are {apart} ms apart since the first activation, not {interval // 1000} ms"
            raise Conflict(f"{told}: write `interval: {apart}ms` in the account", reason="interval")

    async def switch(who: Principal, version: Version, state: str) -> dict[str, Any]:
        """The log decides: from its next boundary on the engine works by what this record says."""
        if state != "retired":
            in_step(who, Program.from_json(version.program).interval)
        record = Activation(who.workspace, version.rule, version.version, state, version.program if state != "retired" else "", who.name)
        [(_, offset)] = await events.append([(who.workspace, record)])
        faultpoint("rules.activated")
        await of(who.workspace).worker.caught_up(offset + 1)
        return summary(await store.find(who.workspace, version.rule, version.version))

    @api.post("/rules/validate", operation_id="validate_rules", summary="Checks a pack and changes nothing")
    async def validate(body: PackText, who: Viewer) -> dict[str, Any]:
        pack = await checked(body)
        return {"valid": True, "pack": pack.name, "rules": [{"rule": r.program.rule, "version": r.program.version, "tests": len(r.tests)} for r in pack.rules]}

    @api.post("/rules", status_code=201, operation_id="draft_rules", summary="Keeps each rule of a pack as a draft version")
    async def draft(body: PackText, who: Editor) -> dict[str, Any]:
        versions = await store.draft(who.workspace, [r.program for r in (await checked(body)).rules], who.name, clock.now())
        return {"rules": [summary(v) for v in versions]}

    @api.post("/rules/apply", operation_id="apply_pack", summary="Drafts a pack, sets its targets and activates its rules")
    async def apply(body: Applied, who: Editor) -> dict[str, Any]:
        pack = await checked(body)
        in_step(who, pack.account.interval)
        targets = [target for t in pack.targets if (target := placed(t, pack, who))]
        versions = await store.draft(who.workspace, [r.program for r in pack.rules], who.name, clock.now())
        faultpoint("rules.drafted")
        if targets:
            await set_down(targets)
            faultpoint("rules.targeted")
        applied = [summary(v) if v.state == body.state else await switch(who, v, body.state) for v in versions]
        return {"rules": applied, "targets": len(targets)}

    async def set_down(targets: list[Target]) -> None:
        """The targets are on the log, and the engine has read them."""
        places = await events.append([(t.workspace, t) for t in targets])
        await of(targets[0].workspace).worker.caught_up(places[-1][1] + 1)

    def placed(t: PackTarget, pack: Pack, who: Principal) -> Target:
        """A target's selector as a path; what fits nothing or several things is refused by name."""
        if not t.selector:
            return Target(who.workspace, t.name, "", t.amount, t.unit, owner=who.name)
        level, _, name = t.selector.partition(":")
        known = of(who.workspace).worker.partition.workspaces.get(who.workspace)
        path = resolve(known, name, LEVELS.index(level)) if known else None
        if path is None:
            raise NotFound(f"target {t.name} of {t.selector!r} ({pack.filename}:{t.place.line}): no {level} of this name is known yet; ingest it first")
        return Target(who.workspace, t.name, path, t.amount, t.unit, owner=who.name)

    @api.get("/rules", operation_id="list_rules", summary="Every rule with its versions, newest first")
    async def rules(who: Viewer) -> dict[str, Any]:
        by_rule: dict[str, list[dict[str, Any]]] = {}
        for v in await store.versions(who.workspace):
            by_rule.setdefault(v.rule, []).append(summary(v))
        return {"rules": [{"rule": rule, "versions": versions} for rule, versions in by_rule.items()]}

    @api.get("/rules/{rule}", operation_id="list_versions", summary="One rule's versions, newest first")
    async def versions(rule: str, who: Viewer) -> dict[str, Any]:
        found = await store.versions(who.workspace, rule)
        if not found:
            raise NotFound(f"there is no rule {rule!r} here")
        return {"rule": rule, "versions": [summary(v) for v in found]}

    @api.get("/rules/{rule}/versions/{version}", operation_id="get_version", summary="One version with its program")
    async def version(rule: str, version: str, who: Viewer) -> dict[str, Any]:
        found = await store.find(who.workspace, rule, version)
        return summary(found) | {"program": found.program}

    @api.post("/rules/{rule}/activate", operation_id="activate_rule", summary="Makes a version the active or the shadow one")
    async def activate(rule: str, body: Wanted, who: Editor) -> dict[str, Any]:
        return await switch(who, await store.find(who.workspace, rule, body.version), body.state)

    @api.post("/rules/{rule}/retire", operation_id="retire_rule", summary="Switches the active (or shadow) version off")
    async def retire(rule: str, who: Editor) -> dict[str, Any]:
        found = [v for v in await store.versions(who.workspace, rule) if v.state in ("active", "shadow")]
        if not found:
            raise Conflict(f"no version of {rule!r} is active")
        return {"retired": [await switch(who, v, "retired") for v in found]}

    @api.post("/rules/{rule}/rollback", operation_id="roll_back_rule", summary="Activates the version that was active before")
    async def rollback(rule: str, who: Editor) -> dict[str, Any]:
        return await switch(who, await store.before(who.workspace, rule), "active")

    @api.get("/targets", operation_id="list_targets", summary="Targets as the engine holds them")
    async def targets(who: Viewer) -> dict[str, Any]:
        known = of(who.workspace).worker.partition.workspaces.get(who.workspace)
        held = [t for by_path in known.targets.values() for many in by_path.values() for t in many] if known else []
        fields = ("name", "path", "amount", "unit", "valid_from", "valid_until", "owner")
        return {"targets": [{f: getattr(t, f) for f in fields} for t in held]}

    @api.post("/targets", status_code=201, operation_id="set_targets", summary="Sets numbers that the account wants")
    async def set_targets(body: list[TargetWanted], who: Editor) -> dict[str, Any]:
        if not body:
            raise RejectedInput("send at least one target", reason="empty")
        for i, t in enumerate(body):
            sensible(i, t)
        await set_down([Target(who.workspace, **t.model_dump(), owner=who.name) for t in body])
        return {"targets": len(body)}

    @api.get("/explain", operation_id="explain", summary="A decision, or why there was none, in words")
    async def explain(who: Viewer, name: str = "", rule: str = "", decision: str = "", at: str = "") -> dict[str, Any]:
        if decision:
            return await of(who.workspace).explain_decision(who.workspace, decision)
        if not name:
            raise RejectedInput("give `decision`, or `name`: an object's name, platform id or path", reason="empty")
        return await of(who.workspace).explain_name(who.workspace, name, rule, instant(at) if at else None)

    @api.get("/series", operation_id="get_series", summary="The metric behind a decision, against its threshold")
    async def series(who: Viewer, decision: Annotated[str, Query(min_length=6)]) -> dict[str, Any]:
        return await of(who.workspace).series(who.workspace, decision)

    @api.get("/decisions/{decision_id}/replay", operation_id="replay_decision", summary="Recomputes a decision from the log and compares it bit for bit")
    async def replayed(decision_id: str, who: Viewer) -> dict[str, Any]:
        return await of(who.workspace).replay(who.workspace, decision_id)

    @api.get("/engine", operation_id="get_engine", summary="Where the engine stands")
    async def engine(who: Viewer) -> dict[str, Any]:
        return of(who.workspace).status(who.workspace)

    @api.post("/partition/skip", operation_id="skip_record", summary="Passes over the record at which the partition stopped, now and in every replay")
    async def skip(body: Skipped, who: Admin) -> dict[str, Any]:
        worker = of(who.workspace).worker
        poisoned = await worker.events.read(worker.number, body.offset, 1) if worker.poisoned == body.offset else ()
        if any(getattr(s.record, "workspace", "") not in ("", who.workspace) for s in poisoned):
            raise Forbidden("the record at which the partition stopped is of another workspace: an admin of that one may pass over it")
        await worker.skip(body.offset, body.reason, who.name)
        return of(who.workspace).status(who.workspace)

    return api


PARTITIONS = "/v1/partitions"  # not of a workspace: any process tells of all of them


def partitions(tell: Callable[[Request, bool], Awaitable[list[dict[str, Any]]]]) -> APIRouter:
    """GET /v1/partitions; `tell` says where they stand, only those of its own process where it is asked so."""
    api = APIRouter(tags=["rules"])

    @api.get(PARTITIONS, operation_id="list_partitions", summary="Where each partition of the log stands, and who follows it")
    async def list_partitions(request: Request, who: Admin, own: bool = False) -> dict[str, Any]:
        return {"partitions": await tell(request, own)}

    return api


async def checked(body: PackText) -> Pack:
    """The pack, read beside the loop: a long one takes a second. Raises RuleError with every fault."""
    return await asyncio.to_thread(load_pack, body.pack, body.filename)


def sensible(index: int, t: TargetWanted) -> None:
    """Refuses a target that no rule could ever read."""
    known = {name: d for name, d in definitions().items() if d.denominator}
    if t.name not in known:
        raise RejectedInput(f"there is no target {t.name!r}: targets are set for rates and costs; {nearest(t.name, known)}", reason="unknown_target")
    wanted = "ratio" if known[t.name].unit == "ratio" else "a currency"
    if (wanted == "ratio") != (t.unit == "ratio"):
        raise RejectedInput(f"target {index + 1}: the unit of {t.name} is {wanted}, not {t.unit}", reason="unit")
    if t.valid_until and t.valid_until <= t.valid_from:
        raise RejectedInput(f"target {index + 1}: it ends before it begins", reason="interval")


def summary(v: Version) -> dict[str, Any]:
    made = datetime.fromtimestamp(v.created_at / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    return {"rule": v.rule, "number": v.number, "version": v.version, "state": v.state, "by": v.by, "created_at": made}


def instant(text: str) -> int:
    """Microseconds of an RFC 3339 instant."""
    try:
        parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise RejectedInput(f"{text!r} is not an instant", reason="malformed")
    return round(parsed.timestamp() * 1_000_000)
