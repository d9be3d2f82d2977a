"""Quarantine, and what ingest remembers.

Revision ID: 0003_ingest
"""

import sqlalchemy as sa
from alembic import op

revision = "0003_ingest"
down_revision = "0002_rules"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quarantined_deliveries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("route", sa.String(16), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantined_deliveries")),
    )
    op.create_table(
        "quarantine",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("delivery_id", sa.String(32), nullable=False),
        sa.Column("pointer", sa.Text, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("redriven_at", sa.BigInteger),
        sa.Column("redriven_by", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("id", name=op.f("uq_quarantine_id")),
    )
    op.create_index(op.f("ix_quarantine_workspace_state_position"), "quarantine", ["workspace", "state", "position"])
    op.create_index(op.f("ix_quarantine_delivery_id"), "quarantine", ["delivery_id"])
    op.create_table(
        "known_attributes",
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "path", "what", name=op.f("pk_known_attributes")),
    )
    op.create_table(
        "declared_levels",
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("measure", sa.String(300), nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "source", "measure", name=op.f("pk_declared_levels")),
    )
    op.create_table(
        "outcome_positions",
        sa.Column("partition", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_outcome_positions")),
    )


def downgrade() -> None:
    for table in ("outcome_positions", "declared_levels", "known_attributes", "quarantine", "quarantined_deliveries"):
        op.drop_table(table)
