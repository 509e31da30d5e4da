"""The memory of sessions on disk."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type, text_type

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

BESIDE = True


def upgrade() -> None:
    op.add_column("sessions", sa.Column("memory_bytes", integer_type()))
    op.add_column("sessions", sa.Column("memory_refused", text_type()))
