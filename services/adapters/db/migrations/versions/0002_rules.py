"""Rule versions and their history.

Revision ID: 0002_rules
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_rules"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "rule_versions",
        sa.Column("id", serial, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("rule", sa.String(256), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("program", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rule_versions")),
        sa.UniqueConstraint("workspace", "rule", "version", name=op.f("uq_rule_versions_workspace_rule_version")),
        sa.UniqueConstraint("workspace", "rule", "number", name=op.f("uq_rule_versions_workspace_rule_number")),
    )
    op.create_index(op.f("ix_rule_versions_workspace_version"), "rule_versions", ["workspace", "version"])
    op.create_table(
        "rule_events",
        sa.Column("id", serial, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("rule", sa.String(256), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rule_events")),
        sa.UniqueConstraint("partition", "offset", name=op.f("uq_rule_events_partition_offset")),
    )
    op.create_index(op.f("ix_rule_events_workspace_rule_id"), "rule_events", ["workspace", "rule", "id"])


def downgrade() -> None:
    op.drop_table("rule_events")
    op.drop_table("rule_versions")
