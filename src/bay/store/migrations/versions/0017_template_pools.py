"""Pools of started sandboxes of a template."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("templates", sa.Column("pool_size", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("templates", sa.Column("pool_max", sa.Integer()))
    op.add_column("templates", sa.Column("pool_key_id", sa.String(64)))
    has_pool = sa.text("deleted_at IS NULL AND (pool_size > 0 OR pool_max > 0)")
    op.create_index("ix_templates_pool", "templates", ["owner"], sqlite_where=has_pool)
