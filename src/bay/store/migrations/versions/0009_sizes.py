"""Sandboxes have sizes of their own, and sessions those that they have taken."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the sizes; null is the profile's."""
    for table in ("sandboxes", "sessions"):
        op.add_column(table, sa.Column("cpus", sa.Float))
        op.add_column(table, sa.Column("memory_mb", sa.Integer))
        op.add_column(table, sa.Column("pids", sa.Integer))
    op.add_column("sandboxes", sa.Column("disk_mb", sa.Integer))
