"""Skills: payloads, candidates, evaluations, releases, and which release an execution was a run of."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_RUNS = ["release_id", "started_at", "state", "success", "exit_code", "timed_out", "execution_time_ms"]


def upgrade() -> None:
    op.add_column("execs", sa.Column("release_id", sa.String(64)))
    is_run = sa.text("release_id IS NOT NULL")
    op.create_index("ix_execs_release_id", "execs", _RUNS, sqlite_where=is_run)
    _payloads()
    _candidates()
    _evaluations()
    _releases()
    _past_runs()


def _payloads() -> None:
    name = "skill_payloads"
    _create(
        name,
        sa.Column("kind", sa.String(128), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_skill_payloads_created_at", name, ["created_at"])


def _candidates() -> None:
    name = "skill_candidates"
    _create(
        name,
        sa.Column("skill_key", sa.String(255), nullable=False),
        sa.Column("scenario_key", sa.String(255)),
        sa.Column("skill_type", sa.String(16), nullable=False),
        sa.Column("source_execution_ids", sa.JSON(), nullable=False),
        sa.Column("payload_ref", sa.String(1024)),
        sa.Column("summary", sa.Text()),
        sa.Column("usage_notes", sa.Text()),
        sa.Column("preconditions", sa.JSON(none_as_null=True)),
        sa.Column("postconditions", sa.JSON(none_as_null=True)),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("latest_score", sa.Float()),
        sa.Column("latest_pass", sa.Boolean()),
        sa.Column("promotion_release_id", sa.String(64)),
        sa.Column("created_by", sa.String(128)),
        sa.Column("deleted_by", sa.String(128)),
        sa.Column("delete_reason", sa.Text()),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("last_evaluated_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
    )
    alive, deleted = sa.text("deleted_at IS NULL"), sa.text("deleted_at IS NOT NULL")
    op.create_index("ix_skill_candidates_owner_seq", name, ["owner", "seq"], sqlite_where=alive)
    op.create_index("ix_skill_candidates_owner_skill_key_seq", name, ["owner", "skill_key", "seq"])
    by_payload = ["owner", "payload_ref"]
    op.create_index("ix_skill_candidates_owner_payload_ref", name, by_payload, sqlite_where=alive)
    op.create_index("ix_skill_candidates_deleted_at", name, ["deleted_at"], sqlite_where=deleted)


def _evaluations() -> None:
    name = "skill_evaluations"
    _create(
        name,
        sa.Column("candidate_id", sa.String(64), nullable=False),
        sa.Column("benchmark_id", sa.String(255)),
        sa.Column("score", sa.Float()),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("report", sa.Text()),
        sa.Column("evaluated_by", sa.String(128)),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_skill_evaluations_candidate_id_seq", name, ["candidate_id", "seq"])


def _releases() -> None:
    name = "skill_releases"
    versions = op.f("uq_skill_releases_owner_skill_key_version")
    _create(
        name,
        sa.Column("skill_key", sa.String(255), nullable=False),
        sa.Column("candidate_id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("release_mode", sa.String(16), nullable=False),
        sa.Column("promoted_by", sa.String(128)),
        sa.Column("rollback_of", sa.String(64)),
        sa.Column("upgrade_of_release_id", sa.String(64)),
        sa.Column("upgrade_reason", sa.Text()),
        sa.Column("change_summary", sa.Text()),
        sa.Column("deleted_by", sa.String(128)),
        sa.Column("delete_reason", sa.Text()),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("health_window_end_at", sa.DateTime(timezone=True)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("owner", "skill_key", "version", name=versions),
    )
    alive, deleted = sa.text("deleted_at IS NULL"), sa.text("deleted_at IS NOT NULL")
    active = sa.text("is_active AND deleted_at IS NULL")
    op.create_index(
        "uq_skill_releases_active", name, ["owner", "skill_key"], unique=True, sqlite_where=active
    )
    op.create_index("ix_skill_releases_owner_seq", name, ["owner", "seq"], sqlite_where=alive)
    op.create_index("ix_skill_releases_candidate_id", name, ["candidate_id"])
    op.create_index("ix_skill_releases_deleted_at", name, ["deleted_at"], sqlite_where=deleted)


def _past_runs() -> None:
    name = "skill_runs"
    op.create_table(
        name,
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("release_id", sa.String(64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("execution_time_ms", sa.Integer()),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_skill_runs")),
        sqlite_autoincrement=True,
    )
    read = ["release_id", "started_at", "success", "execution_time_ms"]
    op.create_index("ix_skill_runs_release_id", name, read)
    op.create_index("ix_skill_runs_started_at", name, ["started_at"])


def _create(name: str, *columns: sa.Column[object] | sa.UniqueConstraint) -> None:
    """A table of rows with an id, an owner and a size that counts for the owner."""
    op.create_table(
        name,
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("seq", name=op.f(f"pk_{name}")),
        sa.UniqueConstraint("id", name=op.f(f"uq_{name}_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{name}_owner_size_bytes", name, ["owner", "size_bytes"])
