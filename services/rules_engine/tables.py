"""What the rules engine keeps beside the log: drafts, and which version is what. Activations are on the log; `state` here follows it."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text, UniqueConstraint

from services.adapters.db.metadata import Micros, Serial, Words, metadata

rule_versions = Table(  # immutable but for `state`
    "rule_versions",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("workspace", String(128), nullable=False),
    Column("rule", Words(256), nullable=False),
    Column("number", Integer, nullable=False),  # v1, v2 ... within the rule
    Column("version", String(64), nullable=False),  # the content's hash
    Column("program", Text, nullable=False),  # canonical JSON
    Column("state", String(16), nullable=False),  # draft | shadow | active | retired
    Column("by", Words(256), nullable=False),
    Column("created_at", Micros, nullable=False),
    UniqueConstraint("workspace", "rule", "version"),
    UniqueConstraint("workspace", "rule", "number"),
    Index(None, "workspace", "version"),  # a decision names its version
)

rule_events = Table(  # who switched what, in the order of the log
    "rule_events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("workspace", String(128), nullable=False),
    Column("rule", Words(256), nullable=False),
    Column("version", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("by", Words(256), nullable=False),
    Column("at", Micros, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", Micros, nullable=False),
    UniqueConstraint("partition", "offset"),
    Index(None, "workspace", "rule", "id"),  # a rule's history, newest first
)
