"""What must be so after a run, whatever it was killed at: held against the log, the files, the platform's journal and what everyone was told.

    I1  every event that was answered 2xx is counted exactly once         I4  no call without a committed intent and its entry before it
    I2  the decisions are those of the reference evaluator                I5  what people had to agree to was agreed to before it was done
    I3  at most one effect of each step of a decision                     I6  the ledger holds, and maps onto what the tables say
    I7  a restored state is the uninterrupted one                         I8  offsets are dense, each decision is in the inbox once
    I9  everything has come to its end

Comparisons are of multisets of ids, not of counts.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from services.actions.core.letter import canonical
from services.actions.ledger.chain import Entry, Head, Verified, verify
from services.adapters.clock import SystemClock
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.sqlite import SqliteLog
from services.kernel.decision import Decision
from services.kernel.ids import event_id
from services.kernel.record import Activation, EventBatch, Outcome, Record, Stamped
from services.rules_engine.checkpoint import Checkpoints, Kept
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from services.rules_engine.language.pack import guards
from tests.e2e.plug.story import FINAL, Told
from tests.reference.compare import difference
from tests.reference.evaluator import evaluate

INTERVAL = 100_000
TABLES = ("decisions", "intents", "attempts", "escalations", "ledger", "ledger_heads", "outbox", "offsets", "parked", "in_flight", "quarantine")
TABLES = (*TABLES, "rule_versions", "rule_events")
SAID = {"differing decisions": ("decided: ",), "lost": (" lost: ", " is lost"), "doubled": (" too many: ", " times")}  # first that fits
GUARDS = guards()


@dataclass
class Left:
    """All that a run leaves behind."""

    told: Told
    data: Path  # folder of its checkpoints and, in one process, of its logs and its database
    errors: str  # of its log
    records: list[Stamped[Record]]
    decisions: list[Stamped[Decision]]
    tables: dict[str, list[Any]]  # rows by column
    applied: list[dict[str, Any]]
    sent: list[dict[str, Any]]
    workspace: str = "main"
    partition: int = 0

    @cached_property
    def said(self) -> list[Stamped[Decision]]:
        """Each decision where it stands first: of two processes that believed a partition theirs each says it."""
        first: dict[str, Stamped[Decision]] = {}
        for stamped in self.decisions:
            first.setdefault(stamped.record.id, stamped)
        return list(first.values())

    @cached_property
    def uninterrupted(self) -> Partition:
        """The state that the whole log makes, in one piece."""
        partition = Partition(GUARDS, demand_of(self.records), skips_of(self.records))
        partition.step(self.records)
        return partition


def left_by(told: Told, data: Path, log: Path, journal: dict[str, Any]) -> Left:
    with closing(sqlite3.connect(f"file:{data / 'trimtab.db'}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        tables = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    errors = "\n".join(line for line in log.read_text().splitlines() if "level=error" in line or line.startswith(("Traceback", "  File")))
    records, decisions = asyncio.run(_logs(data))
    return Left(told, data, errors, records, decisions, tables, journal["applied"], journal["sent"])


async def _logs(data: Path) -> tuple[list[Stamped[Record]], list[Stamped[Decision]]]:
    events: SqliteLog[Record] = SqliteLog(data / "events.db", EVENTS, SystemClock())
    decisions: SqliteLog[Decision] = SqliteLog(data / "decisions.db", DECISIONS, SystemClock())
    try:
        return await _whole(events), await _whole(decisions)
    finally:
        await events.close()
        await decisions.close()


async def _whole(log: SqliteLog[Any]) -> list[Stamped[Any]]:
    found: list[Stamped[Any]] = []
    while page := await log.read(0, len(found)):
        found += page
    return found


def faults_of(left: Left) -> list[str]:
    """What is not as it must be, in words; nothing where all is well."""
    found = [f"its log: {left.errors[:1500]}"] if left.errors else []
    for ask in (counted, decided, done_once, intended, agreed, held_together, restored, in_order, sound, at_rest, in_effect):
        found += [f"{ask.__name__}: {fault}" for fault in ask(left)]
    return found


def tally(faults: Sequence[str]) -> str:
    """How many of them say that something was lost, doubled or decided differently."""
    found = Counter(next((name for name, marks in SAID.items() if any(mark in fault for mark in marks)), "otherwise wrong") for fault in faults)
    return ", ".join(f"{name} {found[name]}" for name in (*SAID, "otherwise wrong"))


def differing(name: str, wanted: Counter[Any], found: Counter[Any]) -> Iterator[str]:
    for what, more in (("lost", wanted - found), ("too many", found - wanted)):
        if more:
            yield f"{name} {what}: {dict(list(more.items())[:5])}"


# -- I1 -------------------------------------------------------------------------------------------------------------------


def counted(left: Left) -> Iterator[str]:
    sent = {event_id("sandbox", name): name for name in left.told.rows}
    batches = [s.record for s in left.records if isinstance(s.record, EventBatch)]
    there = {i.tobytes() for b in batches for i in b.event_id}
    yield from differing("events", Counter(sent.keys()), Counter(there))
    known = left.uninterrupted.workspaces[left.workspace].facts.counts
    if known["accepted"] != len(sent):
        yield f"{len(sent)} events were accepted, {known['accepted']} counted: {dict(known)}"
    if known["conflicting"] < left.told.conflicts:
        yield f"{left.told.conflicts} ids were used twice for different things, {known['conflicting']} were noticed"
    if len(left.tables["quarantine"]) != left.told.refused:
        yield f"{left.told.refused} rows were refused, {len(left.tables['quarantine'])} are in quarantine"


# -- I2 -------------------------------------------------------------------------------------------------------------------


def decided(left: Left) -> Iterator[str]:
    wanted, found = evaluate(left.records, INTERVAL), [s.record for s in left.said]
    yield from differing("decisions", Counter(d.id for d in wanted), Counter(d.id for d in found))
    apart = difference(wanted, found)
    if apart is not None:
        yield f"decisions differ at boundary {apart.boundary}: {apart.reference} / {apart.engine}"


# -- I3, I4, I5 -------------------------------------------------------------------------------------------------------------


def done_once(left: Left) -> Iterator[str]:
    """By the platform: no write was sent twice, and what is said of each decision is what the platform's journal shows."""
    for key, count in Counter(e["key"] for e in left.sent).items():
        if count > 1:
            yield f"write {key} was sent {count} times"
    for key, count in Counter(e["key"] for e in left.applied if e["key"]).items():
        if count > 1:
            yield f"write {key} was applied {count} times"
    applied = {e["key"] for e in left.applied if e["key"]}
    for a in left.tables["attempts"]:
        is_there = a["key"] in applied
        if is_there and a["status"] == "failed" and not _taken_back(left, a):
            yield f"{a['decision_id']} step {a['step']} {a['role']} is called {a['reason']}, and the platform applied it"
        if a["status"] == "verified" and a["answer"] != "unsent" and not is_there and not _by_others(left, a):
            yield f"{a['decision_id']} step {a['step']} {a['role']} is called verified, and the platform never applied it"
        if a["status"] == "":
            yield f"{a['decision_id']} step {a['step']} {a['role']} is still in doubt"


def _taken_back(left: Left, attempt: sqlite3.Row) -> bool:
    """Whether somebody else set it back to what it was before we looked: by values alone nobody can tell that from a write that was never applied."""
    before = json.loads(attempt["observed"])
    ours = next(i for i, e in enumerate(left.applied) if e["key"] == attempt["key"])
    after = [e for e in left.applied[ours + 1 :] if e["path"] == attempt["path"] and e["key"] != attempt["key"]]
    return attempt["reason"] == "not_applied" and any(e["after"].get(attempt["attribute"]) == before for e in after)


def _by_others(left: Left, attempt: sqlite3.Row) -> bool:
    """Whether somebody else, or another decision, set the same value."""
    wanted = json.loads(attempt["desired"])
    return any(e["path"] == attempt["path"] and e["after"].get(attempt["attribute"]) == wanted and e["key"] != attempt["key"] for e in left.applied)


def intended(left: Left) -> Iterator[str]:
    """Every call was written down before it was made, in the ledger too, and none was while the switch was on."""
    by_key = {a["key"]: a for a in left.tables["attempts"] if a["key"]}
    entries = {(e["subject"], b["step"], b["role"]): e["sequence"] for e, b in _entries(left) if e["kind"] == "intent"}
    for call in left.sent:
        attempt = by_key.get(call["key"])
        if attempt is None:
            yield f"a write of {call['path']} was sent without an intent"
        elif attempt["intended_at"] > call["at"]:
            yield f"write {call['key']} was sent before it was intended"
        elif (attempt["decision_id"], attempt["step"], attempt["role"]) not in entries:
            yield f"write {call['key']} has no entry in the ledger"
    on = False
    for entry, _ in _entries(left):
        on = {"kill_switch.engaged": True, "kill_switch.released": False}.get(entry["kind"], on)
        if on and entry["kind"] == "intent":
            yield f"entry {entry['sequence']} is an intent while the switch was on"


def agreed(left: Left) -> Iterator[str]:
    ends = {e["decision_id"]: e["status"] for e in left.tables["escalations"]}
    begun = {e["subject"]: e["sequence"] for e, _ in reversed(list(_entries(left))) if e["kind"] == "intent"}
    approved = {e["subject"]: e["sequence"] for e, _ in _entries(left) if e["kind"] == "escalation.approved"}
    for d in left.tables["decisions"]:
        asks = d["rule"].startswith("ask-") and not d["undoes"] and d["mode"] == "active" and d["kind"] == "fired"
        if asks and d["id"] in begun and not approved.get(d["id"], 1 << 60) < begun[d["id"]]:
            yield f"{d['id']} was begun without the approval that its rule asks for"
        if d["id"] in ends and ends[d["id"]] != "approved" and d["id"] in begun:
            yield f"{d['id']} was {ends[d['id']]}, and begun"
    by_id = {e["id"]: e["status"] for e in left.tables["escalations"]}
    for escalation, status in left.told.answers.items():
        if by_id.get(escalation) != status:
            yield f"escalation {escalation} was told to be {status} and is {by_id.get(escalation)}"
    by_decision = {d["id"]: d["status"] for d in left.tables["decisions"]}
    for cancelled in left.told.cancelled:
        if by_decision.get(cancelled) != "cancelled":
            yield f"the cancelling of {cancelled} was accepted and is lost: it is {by_decision.get(cancelled)}"
    for attempt in left.tables["attempts"]:
        if by_decision[attempt["decision_id"]] == "cancelled" and attempt["answer"] != "unsent":
            yield f"{attempt['decision_id']} was cancelled, and begun"
    undoing = Counter(d["undoes"] for d in left.tables["decisions"] if d["undoes"])
    for undone in left.told.undone:
        if not undoing[undone]:
            yield f"the undo of {undone} was accepted and is lost"


# -- I6 -------------------------------------------------------------------------------------------------------------------


def held_together(left: Left) -> Iterator[str]:
    """The chain holds, and says of every decision, call, answer and outcome what the tables say, once."""
    chain = [Entry(**{k: e[k] for k in e.keys()}) for e in sorted(left.tables["ledger"], key=lambda e: e["sequence"])]  # noqa: SIM118  a Row's keys
    [head] = left.tables["ledger_heads"]
    end = Head(head["workspace"], head["sequence"], head["hash"])
    result = verify(left.workspace, chain, end)
    if result != Verified(end):
        yield f"the ledger does not hold: {result}"
    entries = list(_entries(left))
    arrivals = Counter(e["subject"] for e, b in entries if e["kind"].startswith("decision.") and "content" in b)
    yield from differing("arrivals in the ledger", Counter(d["id"] for d in left.tables["decisions"] if not d["undoes"]), arrivals)
    undos = Counter(e["subject"] for e, _ in entries if e["kind"] == "undo.requested")
    yield from differing("undos in the ledger", Counter(d["id"] for d in left.tables["decisions"] if d["undoes"]), undos)
    calls = Counter((a["decision_id"], a["step"], a["role"]) for a in left.tables["attempts"] if a["answer"] != "unsent")
    withdrawn = Counter((e["subject"], b["step"], b["role"]) for e, b in entries if e["kind"] == "intent.withdrawn")
    intended = Counter((e["subject"], b["step"], b["role"]) for e, b in entries if e["kind"] == "intent")
    yield from differing("intents in the ledger", calls + withdrawn, intended)
    results = Counter((a["decision_id"], a["step"], a["role"]) for a in left.tables["attempts"])
    yield from differing("results in the ledger", results, Counter((e["subject"], b["step"], b["role"]) for e, b in entries if e["kind"] == "result"))
    answers = Counter((e["decision_id"], e["status"]) for e in left.tables["escalations"])
    answered = Counter((e["subject"], e["kind"].removeprefix("escalation.")) for e, _ in entries if e["kind"].startswith("escalation."))
    yield from differing("answers in the ledger", answers, answered)
    outcomes = Counter(row["body"] for row in left.tables["outbox"])
    told = [canonical(b | {"workspace": e["workspace"], "decision_id": e["subject"], "by": e["by"]}) for e, b in entries if e["kind"] == "outcome"]
    yield from differing("outcomes in the ledger", outcomes, Counter(told))
    on_log = {canonical(asdict(s.record)) for s in left.records if isinstance(s.record, Outcome)}
    if on_log != set(outcomes):
        yield f"outcomes on the log and in the outbox differ: {list(on_log ^ set(outcomes))[:3]}"


def _entries(left: Left) -> Iterator[tuple[sqlite3.Row, dict[str, Any]]]:
    for entry in sorted(left.tables["ledger"], key=lambda e: e["sequence"]):
        yield entry, json.loads(entry["body"])


# -- I7 -------------------------------------------------------------------------------------------------------------------


def restored(left: Left) -> Iterator[str]:
    """Every checkpoint that is kept, followed by the log after it, is the state that the whole log makes."""
    whole = left.uninterrupted
    usable = 0
    for found in Checkpoints(left.data / "checkpoints").valid(left.partition):
        if isinstance(found, Kept):
            yield f"checkpoint {found.path.name} cannot be used: {found.why}"
            continue
        partition = state.load(found.plain, found.arrays, GUARDS)
        if partition.demand != whole.demand:  # a rule that reads more came after it, and the state was made again then
            continue
        usable += 1
        partition.step(left.records[found.header.offset :])
        if partition.digest() != whole.digest():
            yield f"the checkpoint at record {found.header.offset} of {len(left.records)} leads to another state"
    if not usable:
        yield "no checkpoint is left to go on from"


# -- I8, I9 -----------------------------------------------------------------------------------------------------------------


def in_order(left: Left) -> Iterator[str]:
    """Offsets are dense, and the inbox is the decisions log, read to its end."""
    for name, log in (("events", left.records), ("decisions", left.decisions)):
        if [s.offset for s in log] != list(range(len(log))):
            yield f"the offsets of the {name} log are not dense"
    rows = {(d["offset"], d["id"]) for d in left.tables["decisions"] if not d["undoes"]}
    if rows != {(s.offset, s.record.id) for s in left.said}:
        yield f"the inbox is not what is on the decisions log: {list(rows ^ {(s.offset, s.record.id) for s in left.said})[:3]}"
    if [o["offset"] for o in left.tables["offsets"]] != [len(left.decisions)]:
        yield f"the inbox was read up to {[o['offset'] for o in left.tables['offsets']]}, the log ends at {len(left.decisions)}"


def sound(left: Left) -> Iterator[str]:
    for name in ("events.db", "decisions.db", "trimtab.db"):
        if not (left.data / name).exists():  # they are on brokers and a server
            continue
        with closing(sqlite3.connect(left.data / name)) as database:
            yield from (f"{name}: {word}" for (word,) in database.execute("PRAGMA integrity_check") if word != "ok")


def at_rest(left: Left) -> Iterator[str]:
    waiting = [(d["id"], d["status"], d["reason"]) for d in left.tables["decisions"] if d["status"] not in FINAL]
    if waiting:
        yield f"decisions without an end: {waiting[:5]}"
    for name, rest in (("intents", "done"), ("parked", None), ("in_flight", None)):
        rows = [dict(r) for r in left.tables[name] if rest is None or r["state"] != rest]
        if rows:
            yield f"{name} left: {rows[:3]}"
    if any(row["sent_at"] is None for row in left.tables["outbox"]):
        yield "outcomes are not on the events log"
    ends = Counter(json.loads(o["body"])["decision_id"] for o in left.tables["outbox"] if json.loads(o["body"])["status"] != "approved")
    for d in left.tables["decisions"]:
        if d["status"] not in ("recorded",) and not ends[d["id"]]:
            yield f"nobody told the engine how {d['id']} ended"


def in_effect(left: Left) -> Iterator[str]:
    """The table of versions says what the log says, and what people were told about their rules is so."""
    activations = [(s.offset, s.record) for s in left.records if isinstance(s.record, Activation)]
    rows = Counter((r["offset"], r["rule"], r["version"], r["state"]) for r in left.tables["rule_events"])
    yield from differing("activations in the tables", Counter((o, a.rule_id, a.version, a.state) for o, a in activations), rows)
    last = {a.rule_id: a.state for _, a in activations}
    for rule, said in dict(left.told.applied).items():
        if last.get(rule) != said:
            yield f"rule {rule} was told to be {said}, and is {last.get(rule)}"
