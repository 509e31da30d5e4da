"""Sandboxes whose image's command is a service of theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("sandboxes", sa.Column("entrypoint", sa.String(16)))
