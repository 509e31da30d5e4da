"""Rows say why a checkpoint or a restore failed, and which of the sandbox's restores that was."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type, json_type

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("failure", json_type()))
    op.add_column(
        "sandboxes", sa.Column("restore_number", integer_type(), nullable=False, server_default="0")
    )
    op.add_column(
        "sandboxes", sa.Column("restore_failures", json_type(), nullable=False, server_default="[]")
    )
