"""Templates: images made of sandboxes, with what sandboxes from them begin with."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "templates",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("tag", sa.String(63)),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("sandbox_id", sa.String(64)),
        sa.Column("image_id", sa.String(64)),
        sa.Column("checkpoint_id", sa.String(64)),
        sa.Column("profile", sa.String(128), nullable=False),
        sa.Column("start_command", sa.JSON(none_as_null=True)),
        sa.Column("ready_command", sa.JSON(none_as_null=True)),
        sa.Column("cpus", sa.Float()),
        sa.Column("memory_mb", sa.Integer()),
        sa.Column("disk_mb", sa.Integer()),
        sa.Column("pids", sa.Integer()),
        sa.Column("env", sa.JSON(), nullable=False),
        sa.Column("user", sa.String(256)),
        sa.Column("working_dir", sa.String(4096)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_templates")),
        sa.UniqueConstraint("id", name=op.f("uq_templates_id")),
        sqlite_autoincrement=True,
    )
    alive = sa.text("deleted_at IS NULL")
    op.create_index("ix_templates_image_id", "templates", ["image_id"], sqlite_where=alive)
    op.create_index("ix_templates_checkpoint_id", "templates", ["checkpoint_id"], sqlite_where=alive)
    ready = sa.text("deleted_at IS NULL AND state = 'ready'")
    op.create_index(
        "uq_templates_owner_name_tag", "templates", ["owner", "name", "tag"], unique=True, sqlite_where=ready
    )
