"""Checkpoints, what a sandbox keeps, and where a cargo's files come from."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = {
    "cargos": [
        sa.Column("used_inodes", sa.BigInteger(), nullable=True),
        sa.Column("charged_bytes", sa.BigInteger(), nullable=True),
        sa.Column("origin_id", sa.String(length=64), nullable=True),
    ],
    "sandboxes": [
        sa.Column("persist", sa.String(length=16), nullable=False, server_default="workspace"),
        sa.Column("checkpoint_id", sa.String(length=64), nullable=True),
        sa.Column("restore_id", sa.String(length=64), nullable=True),
        sa.Column("checkpoint_policy", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("checkpoint_at", sa.DateTime(timezone=True), nullable=True),
    ],
}


def upgrade() -> None:
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    live = sa.text("deleted_at IS NULL")
    op.create_index("ix_sandboxes_checkpoint_at", "sandboxes", ["checkpoint_at"], sqlite_where=live)
    op.create_table(
        "checkpoints",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("sandbox_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("auto", sa.Boolean(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("persist", sa.String(length=16), nullable=False),
        sa.Column("image", sa.String(length=512), nullable=False),
        sa.Column("parent_id", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("exclusive_bytes", sa.BigInteger(), nullable=True),
        sa.Column("inodes", sa.BigInteger(), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("id", name=op.f("uq_checkpoints_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_checkpoints_sandbox_id_seq", "checkpoints", ["sandbox_id", "seq"])
    op.create_index("ix_checkpoints_owner", "checkpoints", ["owner"])
    op.create_index("ix_checkpoints_state", "checkpoints", ["state"])
    op.create_index(
        "uq_checkpoints_sandbox_id_name",
        "checkpoints",
        ["sandbox_id", "name"],
        unique=True,
        sqlite_where=live,
    )
