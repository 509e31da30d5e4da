"""Rows say why a live session could not have other sizes, and which request for them that was."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type, json_type

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None
BESIDE = True


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("resize_number", integer_type(), nullable=False, server_default="0"))
    op.add_column("sandboxes", sa.Column("resize_failures", json_type(), nullable=False, server_default="[]"))
