"""What must be so after every schedule, whatever befell it. Nothing here asks the services: it reads the logs, the database, the platform's journal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from services.actions.core.letter import whole
from services.actions.core.progress import RESTORES
from services.actions.execute import Pace
from services.actions.intake import content_hash
from services.actions.ledger.chain import Entry, Head, Verified, verify
from services.actions.store import FINAL
from services.adapters.log.codec import DECISIONS, EVENTS
from services.kernel.decision import Decision
from services.kernel.record import Activation, EventBatch, Outcome, Record, Stamped
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from tests.core.world import GUARDS
from tests.reference.compare import Difference, decision_text, difference
from tests.reference.evaluator import evaluate
from tests.simulation.account import WORKSPACE
from tests.simulation.world import World

STATUS_OF = {"escalation.approved": "executing", "undo.requested": "executing"}


def violations(world: World) -> list[str]:
    """Each thing that is not as it must be, in words; empty where all is well."""
    found = list(world.violations) + world.loop.complaints
    records = [Stamped(i, stamp, EVENTS.decode(data)) for i, (stamp, data) in enumerate(world.events.kept)]
    decided = [DECISIONS.decode(data) for _, data in world.decisions.kept]
    for check in (decisions_are_those_of_the_reference, acknowledged_events_are_there, the_state_is_that_of_an_undisturbed_engine):
        found += check(world, records, decided)
    for look in (
        the_inbox_holds_every_decision_once, nothing_is_changed_twice, nothing_is_changed_without_authority, outcomes_are_true, caps_hold,
        the_ledger_verifies_and_agrees, outcomes_reach_the_engine, ingest_knows_what_we_did, people_are_told_the_truth,
    ):  # fmt: skip
        found += look(world, records, decided)
    return found


Records = list[Stamped[Record]]
Decisions = list[Decision]


def first_of_each(decided: Decisions) -> dict[str, Decision]:
    first: dict[str, Decision] = {}
    for decision in decided:
        first.setdefault(decision.id, decision)
    return first


def decisions_are_those_of_the_reference(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    expected = evaluate(records)
    ours = list(first_of_each(decided).values())
    found = difference(expected, ours)
    if found is not None:
        yield f"decisions differ from the reference's: {told(found)}"


def told(found: Difference) -> str:
    reference, engine = ("; ".join(decision_text(d, 0).strip() for d in side) or "nothing" for side in (found.reference, found.engine))
    return f"at boundary {found.boundary} the reference says {reference}, the log {engine}"


def acknowledged_events_are_there(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    there = {bytes(row).hex() for s in records if isinstance(s.record, EventBatch) for row in s.record.event_id.view("u1").reshape(-1, 16)}
    for lost in sorted(world.told.acknowledged - there):
        yield f"event {lost} was acknowledged and is not on the log"


def the_state_is_that_of_an_undisturbed_engine(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    """Also says that every event was folded once, however often it was sent and whoever was killed."""
    whole_log = Partition(GUARDS, demand_of(records), skips_of(records))
    whole_log.step(records)
    if world.state and world.state != whole_log.digest():
        yield "the engine's state is not that of one that was never disturbed"


def rows(world: World, query: str, *values: Any) -> list[Any]:
    cursor = world.eyes.execute(query, values)
    names = [c[0] for c in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def the_inbox_holds_every_decision_once(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    first = first_of_each(decided)
    inbox = {r["id"]: r for r in rows(world, "SELECT * FROM decisions")}
    for missing in sorted(first.keys() - inbox.keys()):
        yield f"decision {missing} is on the log and not in the inbox"
    for row in inbox.values():
        known = first.get(row["id"])
        if known is None and not row["undoes"]:
            yield f"decision {row['id']} is in the inbox and not on the log"
        elif known is not None and row["body_hash"] != content_hash(whole(known)):
            yield f"decision {row['id']} is not what the log said first"
        if row["status"] not in (*FINAL, "recorded"):
            yield f"decision {row['id']} ended as {row['status']} ({row['reason']})"
    differing = {i for i, d in enumerate(decided) if d != first[d.id]}
    parked = {r["offset"] for r in rows(world, "SELECT * FROM parked WHERE reason = 'two_builds_disagree'")}
    if parked != differing:
        yield f"decisions at {sorted(differing)} disagree with what was said before, and those at {sorted(parked)} were parked"


def nothing_is_changed_twice(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    for key, times in Counter(world.platform.sent).items():
        if times > 1:
            yield f"the call {key} was sent {times} times"
    attempts = {r["key"]: r for r in rows(world, "SELECT * FROM attempts WHERE key != ''")}
    per_step: dict[tuple[str, int, str], int] = Counter()
    for applied in world.platform.journal:
        if applied.key:
            made = attempts.get(applied.key)
            if made is None:
                yield f"{applied.path} was changed by {applied.key}, which is no attempt"
            else:
                per_step[made["decision_id"], made["step"], made["role"]] += 1
    for (decision, step, role), times in per_step.items():
        if times > 1:
            yield f"step {step} ({role}) of decision {decision} was carried out {times} times"


def nothing_is_changed_without_authority(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    """Each attempt is a step of what the log decided, for which policy needed nobody or a person agreed in time; the switch was off at its intent."""
    first = first_of_each(decided)
    asked = {r["decision_id"]: r for r in rows(world, "SELECT * FROM escalations")}
    actions = {i: json.loads(d.action) for i, d in first.items() if d.kind == "fired"}
    for made in rows(world, "SELECT * FROM attempts WHERE key != ''"):
        decision = first.get(made["decision_id"])
        if decision is None:
            yield f"an attempt belongs to {made['decision_id']}, which nobody decided"
            continue
        action = actions[decision.id]
        step = action["steps"][made["step"]]
        wanted = step["desired"] if made["role"] == "apply" else None
        if (made["path"], made["attribute"]) != (step["path"], step["attribute"]) or (wanted is not None and json.loads(made["desired"]) != wanted):
            yield f"{made['path']} {made['attribute']} = {made['desired']} is not what decision {decision.id} says"
        if made["role"] == "apply" and step["observed"] is not None and json.loads(made["observed"]) != step["observed"]:
            yield f"{made['path']} {made['attribute']} was {made['observed']} and decision {decision.id} had seen {step['observed']}: it was written over"
        if decision.mode != "active":
            yield f"decision {decision.id} is a shadow's and was carried out"
        needs_people = action["approve"]["always"] or action["risk"] == "high"
        answer = asked.get(decision.id)
        if needs_people and (answer is None or answer["status"] != "approved"):
            yield f"decision {decision.id} was carried out and nobody had approved it"
        if answer is not None and answer["status"] == "approved" and answer["answered_at"] > answer["expires_at"]:
            yield f"decision {decision.id} was approved after its time"
    stopped = False
    for entry in ledger(world):
        stopped = {"kill_switch.engaged": True, "kill_switch.released": False}.get(entry.kind, stopped)
        if stopped and entry.kind == "intent":
            yield f"{entry.subject} was begun while the switch was on"
    calls = {r["key"] for r in rows(world, "SELECT key FROM attempts WHERE key != '' AND answer != 'unsent'")}
    for key in set(world.platform.sent) - calls:
        yield f"the call {key} is not recorded as sent"


def outcomes_are_true(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    """Verified was there to be seen; failed changed nothing that was not taken back."""
    applied = {a.key for i, a in enumerate(world.platform.journal) if a.key and not was_taken_back(world, i)}
    by: dict[str, list[Any]] = defaultdict(list)
    for made in rows(world, "SELECT a.*, d.status AS ended FROM attempts a JOIN decisions d ON d.id = a.decision_id"):
        by[made["decision_id"]].append(made)
        desired = json.loads(made["desired"])
        if made["status"] == "verified" and made["key"] and made["key"] not in applied:
            values = {a.value for a in world.platform.journal if (a.path, a.attribute) == (made["path"], made["attribute"])}
            if desired not in values and world.platform.objects[made["path"], made["attribute"]] != desired:
                yield f"{made['path']} {made['attribute']} = {desired} is said to be verified and never was so"
        if made["status"] == "failed" and made["key"] in applied:
            yield f"{made['path']} {made['attribute']} = {desired} is said to have failed ({made['reason']}) and was carried out"
        if made["reason"] in ("not_seen", "not_applied", "unreadable") and len(json.loads(made["seen"])) < Pace().looks:
            yield f"{made['path']} {made['attribute']} = {desired} is {made['status']} after {len(json.loads(made['seen']))} looks"
        if not made["status"]:
            yield f"an attempt of {made['decision_id']} is still in doubt"
    for decision, made_ in by.items():
        if made_[0]["ended"] == "failed":
            changed = {m["step"] for m in made_ if m["role"] == "apply" and m["key"] in applied}
            back = {m["step"] for m in made_ if m["role"] in RESTORES and m["status"] == "verified"}
            if changed - back:
                yield f"decision {decision} failed and step {sorted(changed - back)} of it stays"


def was_taken_back(world: World, index: int) -> bool:
    """Whether somebody at the platform changed the same thing afterwards: whoever reads it then cannot know that it had been done."""
    done = world.platform.journal[index]
    return any((a.path, a.attribute, a.key) == (done.path, done.attribute, "") for a in world.platform.journal[index + 1 :])


def caps_hold(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    """In every prefix of the platform's journal at least one ad stays on beside what rules switch off; budgets are shifted, not made."""
    if world.faults.happened["human.change"] or any(r["status"] == "unknown" for r in rows(world, "SELECT status FROM decisions")):
        return  # what people do at the platform, and what nobody knows, is not the rules' doing
    if any_outcome_came_after_its_deadline(records, decided):
        return  # docs/semantics.md, 5.5: what the engine no longer waits for it does not count as under way
    on = dict.fromkeys(world.account.ads, True)
    for applied in world.platform.journal:
        if applied.attribute == "status":
            on[applied.path] = applied.value == "active"
            if not any(on.values()):
                yield f"the last ad, {applied.path}, was switched off"
    if not any(p.rule == "cap-budget" for p in world.account.programs):
        total = sum(world.platform.objects[ad, "daily_budget"] for ad in world.account.ads)
        if total != 80_000_000 * len(world.account.ads):
            yield f"the budgets add up to {total}"


def any_outcome_came_after_its_deadline(records: Records, decided: Decisions) -> bool:
    ended = {s.record.decision_id: s.stamp for s in reversed(records) if isinstance(s.record, Outcome) and s.record.status != "approved"}
    for decision in decided:
        if decision.kind == "fired":
            action = json.loads(decision.action)
            if ended.get(decision.id, 0) > decision.now + action["approve"]["within"] + action["valid_for"]:
                return True
    return False


def ledger(world: World) -> list[Entry]:
    return [Entry(**row) for row in rows(world, "SELECT workspace, sequence, at, kind, subject, by, body, previous, hash FROM ledger ORDER BY sequence")]


def the_ledger_verifies_and_agrees(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    entries = ledger(world)
    heads = rows(world, "SELECT * FROM ledger_heads WHERE workspace = ?", WORKSPACE)
    head = Head(WORKSPACE, heads[0]["sequence"], heads[0]["hash"]) if heads else Head(WORKSPACE)
    result = verify(WORKSPACE, entries, head)
    if not isinstance(result, Verified):
        yield f"the ledger is broken at {result.sequence}: {result.why}"
    of: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        of[entry.subject].append(entry)
    for row in rows(world, "SELECT * FROM decisions"):
        mine = of[row["id"]]
        if not mine:
            yield f"decision {row['id']} has no entry in the ledger"
            continue
        ends = [json.loads(e.body) for e in mine if e.kind == "outcome" and json.loads(e.body)["status"] != "approved"]
        if row["status"] in FINAL and (not ends or ends[0]["status"] != row["status"]):
            yield f"decision {row['id']} is {row['status']}, the ledger says {ends[:1]}"
        if row["status"] not in FINAL:
            last = [e.kind for e in mine if (e.kind.startswith("decision.") and e.kind != "decision.quarantined") or e.kind in STATUS_OF]
            if row["status"] == "recorded" and last[:1] != ["decision.recorded"]:
                yield f"decision {row['id']} is recorded, the ledger says {last}"
    for made in rows(world, "SELECT * FROM attempts WHERE key != ''"):
        kinds = [e.kind for e in of[made["decision_id"]] if _is_of(e, made)]
        intents = kinds.count("intent") - kinds.count("intent.withdrawn")
        if intents != 1:
            yield f"step {made['step']} ({made['role']}) of {made['decision_id']} has {intents} intents in the ledger"


def _is_of(entry: Entry, made: dict[str, Any]) -> bool:
    if not entry.kind.startswith("intent"):
        return False
    body = json.loads(entry.body)
    return bool(body["step"] == made["step"] and body["role"] == made["role"] and body["desired"] == made["desired"])


def outcomes_reach_the_engine(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    on_log = {(s.record.decision_id, s.record.status) for s in records if isinstance(s.record, Outcome)}
    for row in rows(world, "SELECT id, status FROM decisions"):
        if row["status"] in FINAL and (row["id"], row["status"]) not in on_log:
            yield f"decision {row['id']} is {row['status']} and the engine was not told"
    followed = {r["offset"] for r in rows(world, "SELECT offset FROM rule_events")}
    activations = {s.offset for s in records if isinstance(s.record, Activation)}
    if followed != activations:
        yield f"the table of rules has the activations at {sorted(followed)}, the log those at {sorted(activations)}"


def ingest_knows_what_we_did(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    """Or it would take our own change, once it is reported, for one by hand."""
    known = {(r["path"], r["what"]): r["occurred_at"] for r in rows(world, "SELECT * FROM known_attributes")}
    for stamped in records:
        outcome = stamped.record
        if isinstance(outcome, Outcome) and outcome.status == "verified" and outcome.action and known.get((outcome.path, outcome.action), 0) < stamped.stamp:
            yield f"ingest does not know that {outcome.path} {outcome.action} was set to {outcome.value} by us"


def people_are_told_the_truth(world: World, records: Records, decided: Decisions) -> Iterator[str]:
    stands = {r["id"]: (r["status"], r["answered_by"]) for r in rows(world, "SELECT * FROM escalations")}
    past = {"approve": "approved", "reject": "rejected"}
    for name, act, escalation in world.told.answered:
        if stands[escalation] != (past[act], name):
            yield f"{name} was told that {escalation} is {past[act]}, and it is {stands[escalation]}"
