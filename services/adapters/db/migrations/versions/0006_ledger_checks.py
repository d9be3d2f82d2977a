"""How far each chain was verified; a switch that the ledger's witness has set, which two people release."""

import sqlalchemy as sa
from alembic import op

revision = "0006_ledger_checks"
down_revision = "0005_last_decision"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_checks",
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("whole_at", sa.BigInteger, nullable=False),
        sa.Column("witnessed", sa.BigInteger, nullable=False),
        sa.Column("broken", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", name=op.f("pk_ledger_checks")),
    )
    op.add_column("kill_switches", sa.Column("cause", sa.String(16), nullable=False, server_default=""))
    op.add_column("kill_switches", sa.Column("first", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("kill_switches") as table:
        table.drop_column("first")
        table.drop_column("cause")
    op.drop_table("ledger_checks")
