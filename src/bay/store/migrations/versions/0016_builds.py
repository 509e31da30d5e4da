"""Builds: a template that is wanted of steps, and the snapshots after steps, where the next build begins."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("templates", sa.Column("build", sa.JSON(none_as_null=True)))
    op.add_column("checkpoints", sa.Column("build_key", sa.String(64)))
    op.add_column("checkpoints", sa.Column("used_at", sa.DateTime(timezone=True)))
    kept = sa.text("deleted_at IS NULL AND build_key IS NOT NULL")
    op.create_index("ix_checkpoints_build_key", "checkpoints", ["owner", "build_key"], sqlite_where=kept)
