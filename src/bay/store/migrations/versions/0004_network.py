"""Network policies, services, and who may reach a port."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = {
    "sandboxes": [
        sa.Column("network_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("network_mode", sa.String(length=16), nullable=True),
        sa.Column("url", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ports", sa.JSON(), nullable=False, server_default="[]"),
    ],
    "sessions": [sa.Column("network_version", sa.Integer(), nullable=True)],
}


def upgrade() -> None:
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "network_policies",
        sa.Column("sandbox_id", sa.String(length=64), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sandbox_id", name=op.f("pk_network_policies")),
    )
    op.create_table(
        "services",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sandbox_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_services")),
        sa.UniqueConstraint("sandbox_id", "name", name=op.f("uq_services_sandbox_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "used_links",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_used_links")),
    )
    op.create_index("ix_used_links_expires_at", "used_links", ["expires_at"])
