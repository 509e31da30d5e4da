"""Checkpoints that are pushed to an object store."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type, json_type, text_type

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pushes",
        sa.Column("seq", integer_type(), autoincrement=True, nullable=False),
        sa.Column("checkpoint_id", text_type(64), nullable=False),
        sa.Column("owner", text_type(128), nullable=False),
        sa.Column("state", text_type(16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("attempts", integer_type(), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("is_littered", sa.Boolean(), nullable=False),
        sa.Column("failure", json_type(none_as_null=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_pushes")),
        sa.UniqueConstraint("checkpoint_id", name=op.f("uq_pushes_checkpoint_id")),
        sqlite_autoincrement=True,
    )
    alive = sa.text("deleted_at IS NULL")
    op.create_index("ix_pushes_owner", "pushes", ["owner"], sqlite_where=alive, postgresql_where=alive)
    op.create_index("ix_pushes_state", "pushes", ["state"])
