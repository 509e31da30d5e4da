"""Further names of templates."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "template_aliases",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("tag", sa.String(63), nullable=False),
        sa.Column("template_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_template_aliases")),
        sa.UniqueConstraint("owner", "name", "tag", name=op.f("uq_template_aliases_owner_name_tag")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_template_aliases_template_id", "template_aliases", ["template_id"])
