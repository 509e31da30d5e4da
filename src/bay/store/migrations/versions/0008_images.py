"""Images, their layers, and which image a sandbox and a checkpoint are of."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("image_id", sa.String(64)))
    op.add_column("checkpoints", sa.Column("image_id", sa.String(64)))
    alive = sa.text("deleted_at IS NULL")
    op.create_index("ix_sandboxes_image_id", "sandboxes", ["image_id"], sqlite_where=alive)
    op.create_index("ix_checkpoints_image_id", "checkpoints", ["image_id"])
    op.create_table(
        "images",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("ref", sa.String(512), nullable=False),
        sa.Column("digest", sa.String(128)),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True)),
        sa.Column("facts", sa.JSON(none_as_null=True)),
        sa.Column("layers", sa.Integer()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_images")),
        sa.UniqueConstraint("id", name=op.f("uq_images_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_images_owner_ref", "images", ["owner", "ref"])
    op.create_index("ix_images_state", "images", ["state"], sqlite_where=alive)
    op.create_table(
        "image_layers",
        sa.Column("image_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(128), nullable=False),
        sa.Column("diff_id", sa.String(128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "position", name=op.f("pk_image_layers")),
    )
    op.create_index("ix_image_layers_diff_id", "image_layers", ["diff_id"])
