"""What a sandbox does at the end of its lifetime, and since when it is paused."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("on_expiry", sa.String(16), nullable=False, server_default="delete"))
    op.add_column("sandboxes", sa.Column("paused_at", sa.DateTime(timezone=True)))
