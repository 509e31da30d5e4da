"""Traces of what a browser did, in the rows of its executions."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("execs", sa.Column("payload_ref", sa.String(64)))
    op.add_column("execs", sa.Column("learn_enabled", sa.Boolean()))
    op.add_column("execs", sa.Column("learn_status", sa.String(16)))
