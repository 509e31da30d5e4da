"""Checkpoints with memory."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import text_type

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

BESIDE = True


def upgrade() -> None:
    restore_memory = sa.Column("restore_memory", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("sandboxes", restore_memory)
    op.add_column("sandboxes", sa.Column("memory_id", text_type(64)))
    op.add_column("checkpoints", sa.Column("memory_bytes", sa.BigInteger))
