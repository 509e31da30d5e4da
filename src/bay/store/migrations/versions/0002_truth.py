"""Freezing, the pool, history, quotas, audit, webhooks and facts of Bay's own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = {
    "keys": [sa.Column("quotas", sa.JSON(none_as_null=True), nullable=True)],
    "cargos": [
        sa.Column("used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
    ],
    "sandboxes": [
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("pool", sa.String(length=64), nullable=True),
        sa.Column("warm_timeout", sa.Integer(), nullable=True),
        sa.Column("warm_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_active_at", sa.DateTime(timezone=True), nullable=True),
    ],
    "execs": [
        sa.Column("keep_alive", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("exec_type", sa.String(length=16), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("success", sa.Boolean(), nullable=True),
        sa.Column("execution_time_ms", sa.Integer(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
    ],
}


def upgrade() -> None:
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    op.create_index(
        "ix_sandboxes_warm_expires_at",
        "sandboxes",
        ["warm_expires_at"],
        sqlite_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("ix_sandboxes_pool", "sandboxes", ["pool"], sqlite_where=sa.text("pool IS NOT NULL"))
    op.create_index("ix_sandboxes_owner_created_at", "sandboxes", ["owner", "created_at"])
    op.create_index("ix_sandboxes_deleted_at", "sandboxes", ["deleted_at"])
    op.create_index("ix_sandboxes_cargo_id", "sandboxes", ["cargo_id"])
    op.create_index("ix_sessions_sandbox_id", "sessions", ["sandbox_id"])
    op.create_index("ix_execs_sandbox_id_exec_type_seq", "execs", ["sandbox_id", "exec_type", "seq"])
    op.create_index("ix_events_at", "events", ["at"])
    _create_audit()
    _create_webhooks()
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_facts")),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("resource_id", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_owner_seq", "audit", ["owner", "seq"])
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_request_id", "audit", ["request_id"])


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=False),
        sa.Column("types", sa.JSON(), nullable=False),
        sa.Column("after_seq", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("id", name=op.f("uq_webhooks_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhooks_owner_seq", "webhooks", ["owner", "seq"])
