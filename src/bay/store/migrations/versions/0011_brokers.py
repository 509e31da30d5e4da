"""Whether a sandbox's own network policy has headers added to its requests."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the mark, which no policy of before has."""
    op.add_column(
        "sandboxes", sa.Column("network_brokers", sa.Boolean(), nullable=False, server_default=sa.false())
    )
