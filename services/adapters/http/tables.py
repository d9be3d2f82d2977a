"""Who may come in: keys, one-time login links and sessions. Only digests are kept, so a stolen copy of the database opens nothing."""

from __future__ import annotations

from sqlalchemy import Column, Index, String, Table

from services.adapters.db.metadata import Micros, Words, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("workspace", String(128), nullable=False),
    Column("name", Words(256), nullable=False),
    Column("role", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Micros, nullable=False),
    Column("revoked_at", Micros),
    Index(None, "workspace"),  # a workspace's keys, listed
)

login_links = Table(
    "login_links",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("workspace", String(128), nullable=False),
    Column("name", Words(256), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires_at", Micros, nullable=False),
    Column("used_at", Micros),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("workspace", String(128), nullable=False),
    Column("name", Words(256), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", Micros, nullable=False),
    Column("expires_at", Micros, nullable=False),
    Column("revoked_at", Micros),
)
