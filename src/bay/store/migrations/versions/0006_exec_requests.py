"""An exec whose id its client chose is the claim of its idempotency key."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the hash of the call that made an exec."""
    op.add_column("execs", sa.Column("request_hash", sa.String(64)))
