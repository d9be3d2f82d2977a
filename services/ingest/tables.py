"""What ingest keeps beside the log: what it could not normalize, and the little it has to remember to tell a change from a first sight."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, Text

from services.adapters.db.metadata import Micros, Serial, Words, metadata

quarantined_deliveries = Table(  # the bytes as received, once, however many of its parts are in quarantine
    "quarantined_deliveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("workspace", String(128), nullable=False),
    Column("source", String(64), nullable=False),
    Column("route", String(16), nullable=False),  # events | webhooks | reports
    Column("body", LargeBinary, nullable=False),
    Column("headers", Text, nullable=False),  # JSON of pairs, redacted
    Column("method", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("received_at", Micros, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("position", Serial, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("workspace", String(128), nullable=False),
    Column("source", String(64), nullable=False),
    Column("delivery_id", String(32), nullable=False),
    Column("pointer", Text, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("received_at", Micros, nullable=False),
    Column("state", String(16), nullable=False),  # waiting | redriven
    Column("redriven_at", Micros),
    Column("redriven_by", Words(256), nullable=False),
    Index(None, "workspace", "state", "position"),  # the list, newest first
    Index(None, "delivery_id"),  # what else came with it
)

known_attributes = Table(  # the last value of each watched attribute
    "known_attributes",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("path", String(1024), primary_key=True),
    Column("what", String(32), primary_key=True),
    Column("value", Text, nullable=False),
    Column("occurred_at", Micros, nullable=False),
)

declared_levels = Table(  # the level at which a source reports a measure
    "declared_levels",
    metadata,
    Column("workspace", String(128), primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("measure", String(300), primary_key=True),
    Column("level", Text, nullable=False),
)

outcome_positions = Table(  # how far the events log has been read for outcomes of ours
    "outcome_positions",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", Micros, nullable=False),  # the next one to read
)
