"""A person's kill switch is kept beneath the hold of the ledger's witness. What the version before writes leaves these columns as they are."""

import sqlalchemy as sa
from alembic import op

revision = "0007_kept_switch"
down_revision = "0006_ledger_checks"
branch_labels = None
depends_on = None

# Once a process of the version before has released a hold, what remains is engaged only by these columns.
REMAINS = 'UPDATE kill_switches SET engaged = true, reason = kept_reason, "by" = kept_by, at = kept_at WHERE NOT engaged AND kept_at <> 0'


def upgrade() -> None:
    op.add_column("kill_switches", sa.Column("kept_reason", sa.Text, nullable=False, server_default=""))
    op.add_column("kill_switches", sa.Column("kept_by", sa.Text, nullable=False, server_default=""))
    op.add_column("kill_switches", sa.Column("kept_at", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    op.execute(REMAINS)
    with op.batch_alter_table("kill_switches") as table:
        table.drop_column("kept_at")
        table.drop_column("kept_by")
        table.drop_column("kept_reason")
