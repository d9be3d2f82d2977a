"""The inbox knows the decision that it took last, so that a log that has stepped back is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0005_last_decision"
down_revision = "0004_many_processes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offsets", sa.Column("last", sa.String(32), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("offsets") as table:
        table.drop_column("last")
