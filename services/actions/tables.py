"""What the actions service keeps. All values that enter a hash are canonical text, so that no database may reformat them."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, String, Table, Text, UniqueConstraint

from services.adapters.db.metadata import Micros, Serial, Words, metadata

decisions = Table(  # the inbox: every decision ever read from the log, and what became of it
    "decisions",
    metadata,
    Column("position", Serial, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False),
    Column("workspace", String(128), nullable=False),
    Column("rule", Words(256), nullable=False),
    Column("version", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("kind", String(16), nullable=False),  # fired | refused | cleared
    Column("mode", String(16), nullable=False),  # active | shadow
    Column("boundary", Micros, nullable=False),
    Column("at", Micros, nullable=False),  # the boundary's instant
    Column("valid_until", Micros, nullable=False),
    Column("action", Text, nullable=False),  # canonical JSON, "" without one
    Column("refusals", Text, nullable=False),  # guard names joined by commas
    Column("evidence", Micros),
    Column("simulated", Boolean, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON of the whole decision
    Column("body_hash", String(64), nullable=False),
    Column("by", Words(256), nullable=False),  # "" for a rule; the person for an undo
    Column("undoes", String(32), nullable=False),  # "" or the decision it undoes
    Column("status", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("partition", Integer),
    Column("offset", Micros),
    Column("changed_at", Micros, nullable=False),
    UniqueConstraint("id"),
    Index(None, "workspace", "position"),  # newest first
    Index(None, "workspace", "status", "position"),
    Index(None, "workspace", "rule", "position"),
    Index(None, "workspace", "path", "position"),
)

quarantined = Table(  # what two builds disagree about, and what nobody could read: someone has to look; named before actions could be parked
    "parked",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("workspace", String(128), nullable=False),
    Column("decision_id", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", Micros, nullable=False),
    Column("at", Micros, nullable=False),
    UniqueConstraint("partition", "offset"),
)

intents = Table(  # decisions to execute; one row until its end
    "intents",
    metadata,
    Column("decision_id", String(32), primary_key=True),
    Column("position", Micros, nullable=False),  # of the decision: first come, first served
    Column("workspace", String(128), nullable=False),
    Column("steps", Text, nullable=False),  # canonical JSON
    Column("valid_until", Micros, nullable=False),  # the last instant at which it may begin
    Column("by", Words(256), nullable=False),
    Column("state", String(16), nullable=False),  # queued | parked | running | done
    Column("owner", Words(128), nullable=False),
    Column("token", Integer, nullable=False),  # fences a worker that lost its lease
    Column("lease_until", Micros, nullable=False),
    Column("due_at", Micros, nullable=False),
    Column("tries", Integer, nullable=False),
    Index(None, "state", "due_at", "position"),  # what may be claimed now
)

in_flight = Table(  # at most one change per object
    "in_flight",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("path", String(1024), primary_key=True),
    Column("decision_id", String(32), nullable=False),
    Index(None, "decision_id"),  # freed with its decision
)

attempts = Table(  # one row per call, committed before the call; the unique key is why no step is ever sent twice
    "attempts",
    metadata,
    Column("decision_id", String(32), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("role", String(16), primary_key=True),  # apply | restore | restore 2 | restore 3
    Column("workspace", String(128), nullable=False),
    Column("path", Text, nullable=False),
    Column("attribute", String(64), nullable=False),
    Column("observed", Text, nullable=False),  # JSON: what the platform said just before
    Column("desired", Text, nullable=False),  # JSON: the absolute value asked for
    Column("key", String(32), nullable=False),
    Column("answer", String(16), nullable=False),  # "" | accepted | refused | unclear | unsent
    Column("detail", Text, nullable=False),
    Column("seen", Text, nullable=False),  # JSON: the values read back so far
    Column("status", String(16), nullable=False),  # "" while in doubt | verified | failed | unknown
    Column("reason", String(64), nullable=False),
    Column("intended_at", Micros, nullable=False),
    Column("finished_at", Micros),
)

escalations = Table(
    "escalations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("position", Micros, nullable=False),
    Column("decision_id", String(32), nullable=False),
    Column("workspace", String(128), nullable=False),
    Column("by", Words(256), nullable=False),  # who is asked
    Column("otherwise", Words(256), nullable=False),  # the safe default, in words
    Column("reason", String(64), nullable=False),  # why people are asked
    Column("status", String(16), nullable=False),  # waiting | approved | rejected | expired
    Column("opened_at", Micros, nullable=False),
    Column("expires_at", Micros, nullable=False),
    Column("answered_by", Words(256), nullable=False),
    Column("answered_at", Micros),
    Column("comment", Text, nullable=False),
    UniqueConstraint("decision_id"),
    Index(None, "workspace", "status", "position"),  # the queue of a workspace
    Index(None, "status", "expires_at"),  # what expires next
)

ledger = Table(
    "ledger",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("sequence", Micros, primary_key=True, autoincrement=False),
    Column("at", Micros, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("subject", String(64), nullable=False),  # most often a decision's id
    Column("by", Words(256), nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index(None, "workspace", "subject", "sequence"),  # the story of one decision
)

ledger_heads = Table(  # also the lock that puts a workspace's writers in a row
    "ledger_heads",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("sequence", Micros, nullable=False),
    Column("hash", String(64), nullable=False),
)

ledger_checks = Table(  # how far each chain was verified in the background, and what of it does not hold
    "ledger_checks",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("sequence", Micros, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("whole_at", Micros, nullable=False),  # when it was last verified from its first entry
    Column("witnessed", Micros, nullable=False),
    Column("broken", Micros, nullable=False),  # the sequence of the first link that does not hold, 0 where all do
    Column("why", Text, nullable=False),
)

kill_switches = Table(
    "kill_switches",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("engaged", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", Words(256), nullable=False),
    Column("at", Micros, nullable=False),
    Column("cause", String(16), nullable=False, server_default=""),  # "" for a person | witness: two people release it
    Column("first", Text, nullable=False, server_default=""),  # who was the first of them
    Column("kept_reason", Text, nullable=False, server_default=""),  # beneath the witness's hold: a person's own switch, which remains once that is released
    Column("kept_by", Text, nullable=False, server_default=""),
    Column("kept_at", Micros, nullable=False, server_default="0"),  # 0: there is none
)

outbox = Table(  # outcomes on their way to the events log
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("workspace", String(128), nullable=False),
    Column("body", Text, nullable=False),
    Column("sent_at", Micros),
    Index(None, "sent_at", "id"),  # what is still to be sent
)

offsets = Table(
    "offsets",
    metadata,
    Column("log", String(64), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", Micros, nullable=False),  # the next one to read
    Column("last", String(32), nullable=False, server_default=""),  # the decision before it; "" where that is not known
)
