"""What many processes on one database need: who committed, and who alone does something. On PostgreSQL, texts that people chose may be long."""

import sqlalchemy as sa
from alembic import op

revision = "0004_many_processes"
down_revision = "0003_ingest"
branch_labels = None
depends_on = None

WORDS = (
    ("decisions", "rule", 256),
    ("decisions", "by", 256),
    ("intents", "by", 256),
    ("intents", "owner", 128),
    ("escalations", "by", 256),
    ("escalations", "otherwise", 256),
    ("escalations", "answered_by", 256),
    ("ledger", "by", 256),
    ("kill_switches", "by", 256),
    ("rule_versions", "rule", 256),
    ("rule_versions", "by", 256),
    ("rule_events", "rule", 256),
    ("rule_events", "by", 256),
    ("api_keys", "name", 256),
    ("login_links", "name", 256),
    ("sessions", "name", 256),
    ("quarantine", "redriven_by", 256),
)


def upgrade() -> None:
    op.create_table(
        "commits",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commits")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, column, _ in WORDS:
            op.alter_column(table, column, type_=sa.Text())


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column, length in WORDS:
            op.alter_column(table, column, type_=sa.String(length), postgresql_using=f'left("{column}", {length})')
    op.drop_table("leases")
    op.drop_table("commits")
