"""Sandboxes have external cargos beside their workspace."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the volumes of a sandbox, and the index that finds those who have some."""
    op.add_column("sandboxes", sa.Column("volumes", sa.JSON(), nullable=False, server_default="[]"))
    having = sa.text("volumes != '[]' AND deleted_at IS NULL")
    op.create_index("ix_sandboxes_volumes", "sandboxes", ["seq"], sqlite_where=having)
