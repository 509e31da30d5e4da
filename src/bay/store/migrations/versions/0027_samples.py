"""The use of resources by sandboxes over time."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

BESIDE = True


def upgrade() -> None:
    op.create_table(
        "samples",
        sa.Column("sandbox_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", integer_type(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("points", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sandbox_seq", "step", "at", name=op.f("pk_samples")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_samples_step_at", "samples", ["step", "at"])
