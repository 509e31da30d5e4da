"""The schema of the database. Migrations build it; a test compares their sum with these tables.

Every row that belongs to someone has an `owner`. Lists page by `seq`, which only grows. Times are UTC. A
deleted row is kept with `deleted_at`, so that a second delete can be told from one of an id that never was.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)
_ALIVE = text("deleted_at IS NULL")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes in Python, naive UTC in SQLite, which has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _seq() -> Column[int]:
    return Column("seq", Integer, primary_key=True, autoincrement=True)


def _when(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, UtcDateTime, nullable=nullable)


keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scope", String(16), nullable=False),
    Column("quotas", JSON(none_as_null=True)),
    _when("created_at", nullable=False),
    _when("expires_at"),
    _when("revoked_at"),
)

cargos = Table(
    "cargos",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("managed_by_sandbox_id", String(64)),
    Column("backend", String(32), nullable=False),
    Column("size_limit_mb", Integer),
    Column("used_bytes", BigInteger),
    Column("used_inodes", BigInteger),
    Column("charged_bytes", BigInteger),
    # The checkpoint whose files it begins with, until they are there: that checkpoint is kept as long.
    Column("origin_id", String(64)),
    _when("measured_at"),
    _when("created_at", nullable=False),
    _when("last_accessed_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)

sandboxes = Table(
    "sandboxes",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    # Empty while the sandbox waits in the pool: no key has that owner, so no list shows it.
    Column("owner", String(128), nullable=False),
    Column("key_id", String(64)),
    Column("name", String(63)),
    Column("profile", String(128), nullable=False),
    Column("image", String(512), nullable=False),
    Column("image_id", String(64)),
    # `service`: its image's command is to be a service of it, once the image is here.
    Column("entrypoint", String(16)),
    Column("isolation", String(32), nullable=False),
    Column("cargo_id", String(64), ForeignKey("cargos.id"), nullable=False),
    Column("persist", String(16), nullable=False, server_default="workspace"),
    # The checkpoint that the present files grew from, and the one that is being put back.
    Column("checkpoint_id", String(64)),
    Column("restore_id", String(64)),
    Column("checkpoint_policy", JSON(none_as_null=True)),
    _when("checkpoint_at"),
    # Which network policy it has: 0 is its profile's, else that in `network_policies`; each change adds 1.
    Column("network_version", Integer, nullable=False, server_default="0"),
    Column("network_mode", String(16)),
    Column("network_brokers", Boolean, nullable=False, server_default=false()),
    Column("url", JSON(none_as_null=True)),
    Column("ports", JSON, nullable=False, server_default="[]"),
    # Its own sizes; null is its profile's.
    Column("cpus", Float),
    Column("memory_mb", Integer),
    Column("disk_mb", Integer),
    Column("pids", Integer),
    # External cargos beside its workspace, each with its path.
    Column("volumes", JSON, nullable=False, server_default="[]"),
    # Its label in host names: its name, if no other sandbox, of whatever owner, had it first.
    Column("host", String(63)),
    Column("env", JSON, nullable=False),
    # The secrets that it is given, by name and place, never by value.
    Column("secrets", JSON, nullable=False, server_default="[]"),
    Column("labels", JSON, nullable=False),
    Column("target", String(16), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("error", JSON(none_as_null=True)),
    # The fingerprint of the profile for which a pooled sandbox was started. Null for owned ones.
    Column("pool", String(64)),
    Column("idle_timeout", Integer),
    _when("idle_expires_at"),
    Column("warm_timeout", Integer),
    _when("warm_expires_at"),
    _when("last_active_at"),
    _when("expires_at"),
    # At that time it is deleted, or paused.
    Column("on_expiry", String(16), nullable=False, server_default="delete"),
    # Since when it is at rest by its owner's word or by the end of its lifetime; null once it was woken.
    _when("paused_at"),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
Index("ix_sandboxes_owner_seq", sandboxes.c.owner, sandboxes.c.seq)
Index("ix_sandboxes_expires_at", sandboxes.c.expires_at, sqlite_where=_ALIVE)
Index("ix_sandboxes_idle_expires_at", sandboxes.c.idle_expires_at, sqlite_where=_ALIVE)
Index("ix_sandboxes_warm_expires_at", sandboxes.c.warm_expires_at, sqlite_where=_ALIVE)
Index("ix_sandboxes_pool", sandboxes.c.pool, sqlite_where=text("pool IS NOT NULL"))
Index("ix_sandboxes_owner_created_at", sandboxes.c.owner, sandboxes.c.created_at)
Index("ix_sandboxes_deleted_at", sandboxes.c.deleted_at)
Index("ix_sandboxes_cargo_id", sandboxes.c.cargo_id)
Index("uq_sandboxes_owner_name", sandboxes.c.owner, sandboxes.c.name, unique=True, sqlite_where=_ALIVE)
Index("uq_sandboxes_host", sandboxes.c.host, unique=True, sqlite_where=_ALIVE)
Index("ix_sandboxes_image_id", sandboxes.c.image_id, sqlite_where=_ALIVE)
_HAS_VOLUMES = text("volumes != '[]' AND deleted_at IS NULL")
Index("ix_sandboxes_volumes", sandboxes.c.seq, sqlite_where=_HAS_VOLUMES)
Index("ix_sandboxes_checkpoint_at", sandboxes.c.checkpoint_at, sqlite_where=_ALIVE)

checkpoints = Table(
    "checkpoints",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("sandbox_id", String(64), nullable=False),
    # From 1 on in each sandbox; null for hidden ones.
    Column("number", Integer),
    Column("name", String(63)),
    Column("comment", Text),
    Column("kind", String(16), nullable=False),
    Column("auto", Boolean, nullable=False),
    # Made for a fork of the present alone, and never listed.
    Column("hidden", Boolean, nullable=False),
    Column("persist", String(16), nullable=False),
    Column("image", String(512), nullable=False),
    Column("image_id", String(64)),
    Column("parent_id", String(64)),
    Column("state", String(16), nullable=False),
    Column("size_bytes", BigInteger),
    Column("exclusive_bytes", BigInteger),
    Column("inodes", BigInteger),
    _when("measured_at"),
    # The step of a build that this is the result of, and when a build last began with it; null for others.
    Column("build_key", String(64)),
    _when("used_at"),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
_STEPS = text("deleted_at IS NULL AND build_key IS NOT NULL")
Index("ix_checkpoints_build_key", checkpoints.c.owner, checkpoints.c.build_key, sqlite_where=_STEPS)
Index("ix_checkpoints_sandbox_id_seq", checkpoints.c.sandbox_id, checkpoints.c.seq)
_numbered = checkpoints.c.sandbox_id, checkpoints.c.number
Index("uq_checkpoints_sandbox_id_number", *_numbered, unique=True)
Index("ix_checkpoints_owner", checkpoints.c.owner)
Index("ix_checkpoints_image_id", checkpoints.c.image_id)
Index("ix_checkpoints_state", checkpoints.c.state)
_named = checkpoints.c.sandbox_id, checkpoints.c.name
Index("uq_checkpoints_sandbox_id_name", *_named, unique=True, sqlite_where=_ALIVE)

sessions = Table(
    "sessions",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("sandbox_id", String(64), ForeignKey("sandboxes.id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("driver", String(32), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("token", String(128), nullable=False),
    Column("handle", JSON(none_as_null=True)),
    # The policy version of its network; null: a Bay took the session over and has yet to see to it.
    Column("network_version", Integer),
    # The sizes of its sandbox that it has taken; null was the profile's.
    Column("cpus", Float),
    Column("memory_mb", Integer),
    Column("pids", Integer),
    Column("end_reason", Text),
    _when("created_at", nullable=False),
    _when("started_at"),
    _when("ended_at"),
    sqlite_autoincrement=True,
)
Index("ix_sessions_sandbox_id", sessions.c.sandbox_id)
# At most one live session for each sandbox, held by the database and not by care alone.
Index("uq_sessions_live", sessions.c.sandbox_id, unique=True, sqlite_where=text("ended_at IS NULL"))

execs = Table(
    "execs",
    metadata,
    _seq(),
    # Chosen by the client, optionally: unique in its sandbox, so that no client learns of another's.
    Column("id", String(64), nullable=False),
    Column("sandbox_id", String(64), ForeignKey("sandboxes.id"), nullable=False),
    Column("session_id", String(64), ForeignKey("sessions.id"), nullable=False),
    Column("argv", JSON, nullable=False),
    Column("tty", Boolean, nullable=False),
    Column("pid", Integer),
    Column("state", String(16), nullable=False),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("timed_out", Boolean, nullable=False),
    Column("output_bytes", Integer, nullable=False),
    Column("first_offset", Integer, nullable=False),
    Column("keep_alive", Boolean, nullable=False, server_default=true()),
    Column("labels", JSON, nullable=False, server_default="{}"),
    _when("started_at", nullable=False),
    _when("ended_at"),
    # Of the call that made it, when that had an idempotency key and chose the id: the row is its claim.
    Column("request_hash", String(64)),
    # The history of `shell/exec` and `python/exec`; null for plain execs.
    Column("exec_type", String(16)),
    Column("code", Text),
    Column("success", Boolean),
    Column("execution_time_ms", Integer),
    Column("output", Text),
    Column("error", Text),
    Column("description", Text),
    Column("tags", Text),
    Column("notes", Text),
    # The release of a skill that its tags name as `release:…`.
    Column("release_id", String(64)),
    # The trace of what a browser did.
    Column("payload_ref", String(64)),
    Column("learn_enabled", Boolean),
    Column("learn_status", String(16)),
    UniqueConstraint("sandbox_id", "id"),
    sqlite_autoincrement=True,
)
Index("ix_execs_sandbox_id_seq", execs.c.sandbox_id, execs.c.seq)
Index("ix_execs_sandbox_id_exec_type_seq", execs.c.sandbox_id, execs.c.exec_type, execs.c.seq)
Index("ix_execs_session_id_state", execs.c.session_id, execs.c.state)
# All that the health of a release is computed from, so that no entry with its texts is read for it.
Index(
    "ix_execs_release_id",
    *(execs.c[name] for name in ("release_id", "started_at", "state", "success")),
    *(execs.c[name] for name in ("exit_code", "timed_out", "execution_time_ms")),
    sqlite_where=text("release_id IS NOT NULL"),
)

claims = Table(
    "claims",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("resource_id", String(64), nullable=False),
    Column("answer", JSON(none_as_null=True)),
    _when("created_at", nullable=False),
)
Index("ix_claims_created_at", claims.c.created_at)

events = Table(
    "events",
    metadata,
    _seq(),
    Column("owner", String(128), nullable=False),
    Column("sandbox_id", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("data", JSON, nullable=False),
    _when("at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_events_sandbox_id_seq", events.c.sandbox_id, events.c.seq)
Index("ix_events_owner_seq", events.c.owner, events.c.seq)
Index("ix_events_at", events.c.at)

audit = Table(
    "audit",
    metadata,
    _seq(),
    _when("at", nullable=False),
    Column("owner", String(128)),
    Column("key_id", String(64)),
    Column("method", String(16), nullable=False),
    Column("path", String(1024), nullable=False),
    Column("resource_id", String(64)),
    Column("request_id", String(128), nullable=False),
    # Null until the answer is known: a row that stays so is of a call in which Bay ended.
    Column("status", Integer),
    Column("code", String(64)),
    sqlite_autoincrement=True,
)
Index("ix_audit_owner_seq", audit.c.owner, audit.c.seq)
Index("ix_audit_at", audit.c.at)
Index("ix_audit_request_id", audit.c.request_id)

webhooks = Table(
    "webhooks",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("url", String(2048), nullable=False),
    Column("secret", String(128), nullable=False),
    Column("types", JSON, nullable=False),
    # The last event that was delivered or given up: deliveries are in order, and a restart resumes behind it.
    Column("after_seq", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text),
    _when("next_attempt_at"),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_webhooks_owner_seq", webhooks.c.owner, webhooks.c.seq)

# Apart from the sandboxes' rows, which every call reads: a policy may have thousands of rules.
network_policies = Table(
    "network_policies",
    metadata,
    Column("sandbox_id", String(64), primary_key=True),
    Column("policy", JSON, nullable=False),
)

services = Table(
    "services",
    metadata,
    _seq(),
    Column("sandbox_id", String(64), nullable=False),
    Column("name", String(63), nullable=False),
    Column("spec", JSON, nullable=False),
    UniqueConstraint("sandbox_id", "name"),
    sqlite_autoincrement=True,
)

# Values that an owner gave Bay to keep, encrypted by a key that is not in the database.
secrets = Table(
    "secrets",
    metadata,
    _seq(),
    Column("owner", String(128), nullable=False),
    Column("name", String(64), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    _when("created_at", nullable=False),
    _when("updated_at", nullable=False),
    UniqueConstraint("owner", "name"),
    sqlite_autoincrement=True,
)

# User names and passwords for registries, encrypted as the values of secrets are.
registry_logins = Table(
    "registry_logins",
    metadata,
    _seq(),
    Column("owner", String(128), nullable=False),
    Column("host", String(255), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    _when("updated_at", nullable=False),
    UniqueConstraint("owner", "host"),
    sqlite_autoincrement=True,
)

# Links that open a port once, and were opened; kept until they would have expired.
used_links = Table(
    "used_links", metadata, Column("id", String(64), primary_key=True), _when("expires_at", nullable=False)
)
Index("ix_used_links_expires_at", used_links.c.expires_at)

images = Table(
    "images",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    # Empty for those that the profiles of the settings name.
    Column("owner", String(128), nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("ref", String(512), nullable=False),
    Column("digest", String(128)),
    Column("source", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("config", JSON(none_as_null=True)),
    Column("facts", JSON(none_as_null=True)),
    Column("layers", Integer),
    Column("size_bytes", BigInteger),
    Column("error", JSON(none_as_null=True)),
    Column("attempts", Integer, nullable=False),
    _when("retry_at"),
    _when("created_at", nullable=False),
    _when("last_used_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
Index("ix_images_owner_ref", images.c.owner, images.c.ref)
Index("ix_images_state", images.c.state, sqlite_where=_ALIVE)

image_layers = Table(
    "image_layers",
    metadata,
    Column("image_id", String(64), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(128), nullable=False),
    Column("diff_id", String(128), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
Index("ix_image_layers_diff_id", image_layers.c.diff_id)

templates = Table(
    "templates",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("name", String(63), nullable=False),
    # Null once another template has taken it.
    Column("tag", String(63)),
    Column("shared", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("error", JSON(none_as_null=True)),
    # The sandbox that it is frozen from; null for one that is built.
    Column("sandbox_id", String(64)),
    Column("image_id", String(64)),
    # The files of /workspace; null where there are none.
    Column("checkpoint_id", String(64)),
    Column("profile", String(128), nullable=False),
    Column("start_command", JSON(none_as_null=True)),
    Column("ready_command", JSON(none_as_null=True)),
    Column("cpus", Float),
    Column("memory_mb", Integer),
    Column("disk_mb", Integer),
    Column("pids", Integer),
    Column("env", JSON, nullable=False),
    Column("user", String(256)),
    Column("working_dir", String(4096)),
    # The changes that a build makes to the config of its image, in the form of OCI; null for none.
    Column("config", JSON(none_as_null=True)),
    # The steps that it is built of, while it is; null for one that is frozen from a sandbox.
    Column("build", JSON(none_as_null=True)),
    Column("pool_size", Integer, nullable=False, server_default="0"),
    Column("pool_max", Integer),
    # The key that asked for the pool, for that key's quotas.
    Column("pool_key_id", String(64)),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
Index("ix_templates_image_id", templates.c.image_id, sqlite_where=_ALIVE)
Index("ix_templates_checkpoint_id", templates.c.checkpoint_id, sqlite_where=_ALIVE)
_HAS_POOL = text("deleted_at IS NULL AND (pool_size > 0 OR pool_max > 0)")
Index("ix_templates_pool", templates.c.owner, sqlite_where=_HAS_POOL)
_tagged = templates.c.owner, templates.c.name, templates.c.tag
_READY = text("deleted_at IS NULL AND state = 'ready'")
Index("uq_templates_owner_name_tag", *_tagged, unique=True, sqlite_where=_READY)

# Further names of templates: a name and tag of an owner is in one row, here or of a ready template.
template_aliases = Table(
    "template_aliases",
    metadata,
    _seq(),
    Column("owner", String(128), nullable=False),
    Column("name", String(63), nullable=False),
    Column("tag", String(63), nullable=False),
    Column("template_id", String(64), nullable=False),
    UniqueConstraint("owner", "name", "tag"),
    sqlite_autoincrement=True,
)
Index("ix_template_aliases_template_id", template_aliases.c.template_id)

# The JSON that skills consist of, of whatever form, and the traces of browsers.
skill_payloads = Table(
    "skill_payloads",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("kind", String(128), nullable=False),
    Column("payload", Text, nullable=False),
    # The bytes that a row counts for in the limit of its owner; so in each table of skills.
    Column("size_bytes", Integer, nullable=False),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_skill_payloads_owner_size_bytes", skill_payloads.c.owner, skill_payloads.c.size_bytes)
Index("ix_skill_payloads_created_at", skill_payloads.c.created_at)

skill_candidates = Table(
    "skill_candidates",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("skill_key", String(255), nullable=False),
    Column("scenario_key", String(255)),
    Column("skill_type", String(16), nullable=False),
    Column("source_execution_ids", JSON, nullable=False),
    Column("payload_ref", String(1024)),
    Column("summary", Text),
    Column("usage_notes", Text),
    Column("preconditions", JSON(none_as_null=True)),
    Column("postconditions", JSON(none_as_null=True)),
    Column("status", String(32), nullable=False),
    Column("latest_score", Float),
    Column("latest_pass", Boolean),
    Column("promotion_release_id", String(64)),
    Column("created_by", String(128)),
    Column("deleted_by", String(128)),
    Column("delete_reason", Text),
    Column("size_bytes", Integer, nullable=False),
    _when("last_evaluated_at"),
    _when("created_at", nullable=False),
    _when("updated_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
_own = skill_candidates.c.owner
Index("ix_skill_candidates_owner_seq", _own, skill_candidates.c.seq, sqlite_where=_ALIVE)
Index("ix_skill_candidates_owner_skill_key_seq", _own, skill_candidates.c.skill_key, skill_candidates.c.seq)
Index("ix_skill_candidates_owner_payload_ref", _own, skill_candidates.c.payload_ref, sqlite_where=_ALIVE)
Index("ix_skill_candidates_owner_size_bytes", _own, skill_candidates.c.size_bytes)
_DELETED = text("deleted_at IS NOT NULL")
Index("ix_skill_candidates_deleted_at", skill_candidates.c.deleted_at, sqlite_where=_DELETED)

skill_evaluations = Table(
    "skill_evaluations",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("candidate_id", String(64), nullable=False),
    Column("benchmark_id", String(255)),
    Column("score", Float),
    Column("passed", Boolean, nullable=False),
    Column("report", Text),
    Column("evaluated_by", String(128)),
    Column("size_bytes", Integer, nullable=False),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_skill_evaluations_candidate_id_seq", skill_evaluations.c.candidate_id, skill_evaluations.c.seq)
Index("ix_skill_evaluations_owner_size_bytes", skill_evaluations.c.owner, skill_evaluations.c.size_bytes)

skill_releases = Table(
    "skill_releases",
    metadata,
    _seq(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(128), nullable=False),
    Column("skill_key", String(255), nullable=False),
    Column("candidate_id", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("release_mode", String(16), nullable=False),
    Column("promoted_by", String(128)),
    Column("rollback_of", String(64)),
    Column("upgrade_of_release_id", String(64)),
    Column("upgrade_reason", Text),
    Column("change_summary", Text),
    Column("deleted_by", String(128)),
    Column("delete_reason", Text),
    Column("size_bytes", Integer, nullable=False),
    _when("promoted_at", nullable=False),
    _when("health_window_end_at"),
    _when("deleted_at"),
    UniqueConstraint("owner", "skill_key", "version"),
    sqlite_autoincrement=True,
)
_own = skill_releases.c.owner
# At most one release of a skill is active, held by the database and not by care alone.
_ACTIVE = text("is_active AND deleted_at IS NULL")
Index("uq_skill_releases_active", _own, skill_releases.c.skill_key, unique=True, sqlite_where=_ACTIVE)
Index("ix_skill_releases_owner_seq", _own, skill_releases.c.seq, sqlite_where=_ALIVE)
Index("ix_skill_releases_candidate_id", skill_releases.c.candidate_id)
Index("ix_skill_releases_owner_size_bytes", _own, skill_releases.c.size_bytes)
Index("ix_skill_releases_deleted_at", skill_releases.c.deleted_at, sqlite_where=_DELETED)

# The runs of releases whose entries of the history are gone: how each went, and nothing that it printed.
skill_runs = Table(
    "skill_runs",
    metadata,
    _seq(),
    Column("release_id", String(64), nullable=False),
    _when("started_at", nullable=False),
    Column("success", Boolean, nullable=False),
    Column("execution_time_ms", Integer),
    sqlite_autoincrement=True,
)
_run = skill_runs.c
Index("ix_skill_runs_release_id", _run.release_id, _run.started_at, _run.success, _run.execution_time_ms)
Index("ix_skill_runs_started_at", _run.started_at)

facts = Table(
    "facts", metadata, Column("name", String(64), primary_key=True), Column("value", JSON, nullable=False)
)
