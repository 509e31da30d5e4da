"""The end of a lifetime, since when a sandbox is paused, and the labels of execs."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("on_expiry", sa.String(16), nullable=False, server_default="delete"))
    op.add_column("sandboxes", sa.Column("paused_at", sa.DateTime(timezone=True)))
    op.add_column("execs", sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
