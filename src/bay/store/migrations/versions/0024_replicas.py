"""The processes that share a database, and the leases under which each does its part of the work."""

import sqlalchemy as sa
from alembic import op

from bay.store.dialects import text_type

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", text_type(64), nullable=False),
        sa.Column("url", text_type(256), nullable=False),
        sa.Column("version", text_type(64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "leases",
        sa.Column("name", text_type(64), nullable=False),
        sa.Column("holder", text_type(64)),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
