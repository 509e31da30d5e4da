"""The schema of the database. Migrations build it; a test compares their sum with these tables.

Every row that belongs to someone has an `owner`. Lists page by `seq`, which only grows. Times are UTC. A
deleted row is kept with `deleted_at`, so that a second delete can be told from one of an id that never was.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Table,
    TypeDecorator,
    UniqueConstraint,
    and_,
    false,
    text,
    true,
)

from bay.store.dialects import HasElements, integer_type, json_type, partial_index, text_type

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
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _seq() -> Column[int]:
    return Column("seq", integer_type(), primary_key=True, autoincrement=True)


def _when(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, UtcDateTime, nullable=nullable)


keys = Table(
    "keys",
    metadata,
    Column("id", text_type(64), primary_key=True),
    Column("owner", text_type(128), nullable=False),
    Column("name", text_type(128), nullable=False),
    Column("hash", text_type(64), nullable=False, unique=True),
    Column("scope", text_type(16), nullable=False),
    Column("quotas", json_type(none_as_null=True)),
    _when("created_at", nullable=False),
    _when("expires_at"),
    _when("revoked_at"),
)

cargos = Table(
    "cargos",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("managed_by_sandbox_id", text_type(64)),
    Column("backend", text_type(32), nullable=False),
    Column("size_limit_mb", integer_type()),
    Column("used_bytes", BigInteger),
    Column("used_inodes", BigInteger),
    Column("charged_bytes", BigInteger),
    # The checkpoint whose files it begins with, until they are there: that checkpoint is kept as long.
    Column("origin_id", text_type(64)),
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
    Column("id", text_type(64), nullable=False, unique=True),
    # Empty while the sandbox waits in the pool: no key has that owner, so no list shows it.
    Column("owner", text_type(128), nullable=False),
    Column("key_id", text_type(64)),
    Column("name", text_type(63)),
    Column("profile", text_type(128), nullable=False),
    Column("image", text_type(512), nullable=False),
    Column("image_id", text_type(64)),
    # `service`: its image's command is to be a service of it, once the image is here.
    Column("entrypoint", text_type(16)),
    Column("isolation", text_type(32), nullable=False),
    Column("cargo_id", text_type(64), ForeignKey("cargos.id"), nullable=False),
    Column("persist", text_type(16), nullable=False, server_default="workspace"),
    # The checkpoint that the present files grew from, and the one that is being put back.
    Column("checkpoint_id", text_type(64)),
    Column("restore_id", text_type(64)),
    # How many restores were asked for, and why the last of those that failed did.
    Column("restore_number", integer_type(), nullable=False, server_default="0"),
    Column("restore_failures", json_type(), nullable=False, server_default="[]"),
    # Whether the memory of that checkpoint comes back too; and the one whose memory its next session has.
    Column("restore_memory", Boolean, nullable=False, server_default=false()),
    Column("memory_id", text_type(64)),
    # The same of the requests for other sizes of a live session.
    Column("resize_number", integer_type(), nullable=False, server_default="0"),
    Column("resize_failures", json_type(), nullable=False, server_default="[]"),
    Column("checkpoint_policy", json_type(none_as_null=True)),
    _when("checkpoint_at"),
    # Which network policy it has: 0 is its profile's, else that in `network_policies`; each change adds 1.
    Column("network_version", integer_type(), nullable=False, server_default="0"),
    Column("network_mode", text_type(16)),
    Column("network_brokers", Boolean, nullable=False, server_default=false()),
    Column("url", json_type(none_as_null=True)),
    Column("ports", json_type(), nullable=False, server_default="[]"),
    # Its own sizes; null is its profile's.
    Column("cpus", Float),
    Column("memory_mb", integer_type()),
    Column("disk_mb", integer_type()),
    Column("pids", integer_type()),
    # External cargos beside its workspace, each with its path.
    Column("volumes", json_type(), nullable=False, server_default="[]"),
    # Its label in host names: its name, if no other sandbox, of whatever owner, had it first.
    Column("host", text_type(63)),
    Column("env", json_type(), nullable=False),
    # The secrets that it is given, by name and place, never by value.
    Column("secrets", json_type(), nullable=False, server_default="[]"),
    Column("labels", json_type(), nullable=False),
    Column("target", text_type(16), nullable=False),
    Column("generation", integer_type(), nullable=False),
    Column("error", json_type(none_as_null=True)),
    # The fingerprint of the profile for which a pooled sandbox was started. Null for owned ones.
    Column("pool", text_type(64)),
    Column("idle_timeout", integer_type()),
    _when("idle_expires_at"),
    Column("warm_timeout", integer_type()),
    _when("warm_expires_at"),
    _when("last_active_at"),
    _when("expires_at"),
    # At that time it is deleted, or paused.
    Column("on_expiry", text_type(16), nullable=False, server_default="delete"),
    # Since when it is at rest by its owner's word or by the end of its lifetime; null once it was woken.
    _when("paused_at"),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
Index("ix_sandboxes_owner_seq", sandboxes.c.owner, sandboxes.c.seq)
partial_index("ix_sandboxes_expires_at", sandboxes.c.expires_at, where=_ALIVE)
partial_index("ix_sandboxes_idle_expires_at", sandboxes.c.idle_expires_at, where=_ALIVE)
partial_index("ix_sandboxes_warm_expires_at", sandboxes.c.warm_expires_at, where=_ALIVE)
partial_index("ix_sandboxes_pool", sandboxes.c.pool, where=text("pool IS NOT NULL"))
Index("ix_sandboxes_owner_created_at", sandboxes.c.owner, sandboxes.c.created_at)
Index("ix_sandboxes_deleted_at", sandboxes.c.deleted_at)
Index("ix_sandboxes_cargo_id", sandboxes.c.cargo_id)
partial_index("uq_sandboxes_owner_name", sandboxes.c.owner, sandboxes.c.name, unique=True, where=_ALIVE)
partial_index("uq_sandboxes_host", sandboxes.c.host, unique=True, where=_ALIVE)
partial_index("ix_sandboxes_image_id", sandboxes.c.image_id, where=_ALIVE)
_HAS_VOLUMES = and_(HasElements(sandboxes.c.volumes), sandboxes.c.deleted_at.is_(None))
partial_index("ix_sandboxes_volumes", sandboxes.c.seq, where=_HAS_VOLUMES)
partial_index("ix_sandboxes_checkpoint_at", sandboxes.c.checkpoint_at, where=_ALIVE)

checkpoints = Table(
    "checkpoints",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("sandbox_id", text_type(64), nullable=False),
    # From 1 on in each sandbox; null for hidden ones.
    Column("number", integer_type()),
    Column("name", text_type(63)),
    Column("comment", text_type()),
    Column("kind", text_type(16), nullable=False),
    Column("auto", Boolean, nullable=False),
    # Made for a fork of the present alone, and never listed.
    Column("hidden", Boolean, nullable=False),
    Column("persist", text_type(16), nullable=False),
    Column("image", text_type(512), nullable=False),
    Column("image_id", text_type(64)),
    Column("parent_id", text_type(64)),
    Column("state", text_type(16), nullable=False),
    # Why it could not be made; null for others.
    Column("failure", json_type(none_as_null=True)),
    Column("size_bytes", BigInteger),
    Column("exclusive_bytes", BigInteger),
    Column("inodes", BigInteger),
    Column("memory_bytes", BigInteger),
    _when("measured_at"),
    # The step of a build that this is the result of, and when a build last began with it; null for others.
    Column("build_key", text_type(64)),
    _when("used_at"),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
_STEPS = text("deleted_at IS NULL AND build_key IS NOT NULL")
partial_index("ix_checkpoints_build_key", checkpoints.c.owner, checkpoints.c.build_key, where=_STEPS)
Index("ix_checkpoints_sandbox_id_seq", checkpoints.c.sandbox_id, checkpoints.c.seq)
_numbered = checkpoints.c.sandbox_id, checkpoints.c.number
Index("uq_checkpoints_sandbox_id_number", *_numbered, unique=True)
Index("ix_checkpoints_owner", checkpoints.c.owner)
Index("ix_checkpoints_image_id", checkpoints.c.image_id)
Index("ix_checkpoints_state", checkpoints.c.state)
_named = checkpoints.c.sandbox_id, checkpoints.c.name
partial_index("uq_checkpoints_sandbox_id_name", *_named, unique=True, where=_ALIVE)

sessions = Table(
    "sessions",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("sandbox_id", text_type(64), ForeignKey("sandboxes.id"), nullable=False),
    Column("generation", integer_type(), nullable=False),
    Column("driver", text_type(32), nullable=False),
    Column("phase", text_type(16), nullable=False),
    Column("token", text_type(128), nullable=False),
    Column("handle", json_type(none_as_null=True)),
    # The policy version of its network; null: a Bay took the session over and has yet to see to it.
    Column("network_version", integer_type()),
    # The sizes of its sandbox that it has taken; null was the profile's.
    Column("cpus", Float),
    Column("memory_mb", integer_type()),
    Column("pids", integer_type()),
    # The size of its memory on disk, and why that could not be saved the last time.
    Column("memory_bytes", integer_type()),
    Column("memory_refused", text_type()),
    Column("end_reason", text_type()),
    _when("created_at", nullable=False),
    _when("started_at"),
    _when("ended_at"),
    sqlite_autoincrement=True,
)
Index("ix_sessions_sandbox_id", sessions.c.sandbox_id)
# At most one live session for each sandbox, held by the database and not by care alone.
partial_index("uq_sessions_live", sessions.c.sandbox_id, unique=True, where=text("ended_at IS NULL"))

execs = Table(
    "execs",
    metadata,
    _seq(),
    # Chosen by the client, optionally: unique in its sandbox, so that no client learns of another's.
    Column("id", text_type(64), nullable=False),
    Column("sandbox_id", text_type(64), ForeignKey("sandboxes.id"), nullable=False),
    Column("session_id", text_type(64), ForeignKey("sessions.id"), nullable=False),
    Column("argv", json_type(), nullable=False),
    Column("tty", Boolean, nullable=False),
    Column("pid", integer_type()),
    Column("state", text_type(16), nullable=False),
    Column("exit_code", integer_type()),
    Column("signal", integer_type()),
    Column("timed_out", Boolean, nullable=False),
    Column("output_bytes", integer_type(), nullable=False),
    Column("first_offset", integer_type(), nullable=False),
    Column("keep_alive", Boolean, nullable=False, server_default=true()),
    Column("labels", json_type(), nullable=False, server_default="{}"),
    _when("started_at", nullable=False),
    _when("ended_at"),
    # Of the call that made it, when that had an idempotency key and chose the id: the row is its claim.
    Column("request_hash", text_type(64)),
    # The history of `shell/exec` and `python/exec`; null for plain execs.
    Column("exec_type", text_type(16)),
    Column("code", text_type()),
    Column("success", Boolean),
    Column("execution_time_ms", integer_type()),
    Column("output", text_type()),
    Column("error", text_type()),
    Column("description", text_type()),
    Column("tags", text_type()),
    Column("notes", text_type()),
    # The release of a skill that its tags name as `release:…`.
    Column("release_id", text_type(64)),
    # The trace of what a browser did.
    Column("payload_ref", text_type(64)),
    Column("learn_enabled", Boolean),
    Column("learn_status", text_type(16)),
    UniqueConstraint("sandbox_id", "id"),
    sqlite_autoincrement=True,
)
Index("ix_execs_sandbox_id_seq", execs.c.sandbox_id, execs.c.seq)
Index("ix_execs_sandbox_id_exec_type_seq", execs.c.sandbox_id, execs.c.exec_type, execs.c.seq)
Index("ix_execs_session_id_state", execs.c.session_id, execs.c.state)
# All that the health of a release is computed from, so that no entry with its texts is read for it.
partial_index(
    "ix_execs_release_id",
    *(execs.c[name] for name in ("release_id", "started_at", "state", "success")),
    *(execs.c[name] for name in ("exit_code", "timed_out", "execution_time_ms")),
    where=text("release_id IS NOT NULL"),
)

claims = Table(
    "claims",
    metadata,
    Column("owner", text_type(128), primary_key=True),
    Column("key", text_type(128), primary_key=True),
    Column("request_hash", text_type(64), nullable=False),
    Column("resource_id", text_type(64), nullable=False),
    Column("answer", json_type(none_as_null=True)),
    _when("created_at", nullable=False),
)
Index("ix_claims_created_at", claims.c.created_at)

events = Table(
    "events",
    metadata,
    _seq(),
    Column("owner", text_type(128), nullable=False),
    Column("sandbox_id", text_type(64), nullable=False),
    Column("type", text_type(64), nullable=False),
    Column("data", json_type(), nullable=False),
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
    Column("owner", text_type(128)),
    Column("key_id", text_type(64)),
    Column("method", text_type(16), nullable=False),
    Column("path", text_type(1024), nullable=False),
    Column("resource_id", text_type(64)),
    Column("request_id", text_type(128), nullable=False),
    # Null until the answer is known: a row that stays so is of a call in which Bay ended.
    Column("status", integer_type()),
    Column("code", text_type(64)),
    sqlite_autoincrement=True,
)
Index("ix_audit_owner_seq", audit.c.owner, audit.c.seq)
Index("ix_audit_at", audit.c.at)
Index("ix_audit_request_id", audit.c.request_id)

webhooks = Table(
    "webhooks",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("url", text_type(2048), nullable=False),
    Column("secret", text_type(128), nullable=False),
    Column("types", json_type(), nullable=False),
    # The last event that was delivered or given up: deliveries are in order, and a restart resumes behind it.
    Column("after_seq", integer_type(), nullable=False),
    Column("attempts", integer_type(), nullable=False),
    Column("last_error", text_type()),
    _when("next_attempt_at"),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_webhooks_owner_seq", webhooks.c.owner, webhooks.c.seq)

# Apart from the sandboxes' rows, which every call reads: a policy may have thousands of rules.
network_policies = Table(
    "network_policies",
    metadata,
    Column("sandbox_id", text_type(64), primary_key=True),
    Column("policy", json_type(), nullable=False),
)

services = Table(
    "services",
    metadata,
    _seq(),
    Column("sandbox_id", text_type(64), nullable=False),
    Column("name", text_type(63), nullable=False),
    Column("spec", json_type(), nullable=False),
    UniqueConstraint("sandbox_id", "name"),
    sqlite_autoincrement=True,
)

# Values that an owner gave Bay to keep, encrypted by a key that is not in the database.
secrets = Table(
    "secrets",
    metadata,
    _seq(),
    Column("owner", text_type(128), nullable=False),
    Column("name", text_type(64), nullable=False),
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
    Column("owner", text_type(128), nullable=False),
    Column("host", text_type(255), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    _when("updated_at", nullable=False),
    UniqueConstraint("owner", "host"),
    sqlite_autoincrement=True,
)

# Links that open a port once, and were opened; kept until they would have expired.
used_links = Table(
    "used_links", metadata, Column("id", text_type(64), primary_key=True), _when("expires_at", nullable=False)
)
Index("ix_used_links_expires_at", used_links.c.expires_at)

images = Table(
    "images",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    # Empty for those that the profiles of the settings name.
    Column("owner", text_type(128), nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("ref", text_type(512), nullable=False),
    Column("digest", text_type(128)),
    Column("source", text_type(16), nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("config", json_type(none_as_null=True)),
    Column("facts", json_type(none_as_null=True)),
    Column("layers", integer_type()),
    Column("size_bytes", BigInteger),
    Column("error", json_type(none_as_null=True)),
    Column("attempts", integer_type(), nullable=False),
    _when("retry_at"),
    _when("created_at", nullable=False),
    _when("last_used_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
Index("ix_images_owner_ref", images.c.owner, images.c.ref)
partial_index("ix_images_state", images.c.state, where=_ALIVE)

image_layers = Table(
    "image_layers",
    metadata,
    Column("image_id", text_type(64), primary_key=True),
    Column("position", integer_type(), primary_key=True),
    Column("digest", text_type(128), nullable=False),
    Column("diff_id", text_type(128), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
Index("ix_image_layers_diff_id", image_layers.c.diff_id)

templates = Table(
    "templates",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("name", text_type(63), nullable=False),
    # Null once another template has taken it.
    Column("tag", text_type(63)),
    Column("shared", Boolean, nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("error", json_type(none_as_null=True)),
    # The sandbox that it is frozen from; null for one that is built.
    Column("sandbox_id", text_type(64)),
    Column("image_id", text_type(64)),
    # The files of /workspace; null where there are none.
    Column("checkpoint_id", text_type(64)),
    Column("profile", text_type(128), nullable=False),
    Column("start_command", json_type(none_as_null=True)),
    Column("ready_command", json_type(none_as_null=True)),
    Column("cpus", Float),
    Column("memory_mb", integer_type()),
    Column("disk_mb", integer_type()),
    Column("pids", integer_type()),
    Column("env", json_type(), nullable=False),
    Column("user", text_type(256)),
    Column("working_dir", text_type(4096)),
    # The changes that a build makes to the config of its image, in the form of OCI; null for none.
    Column("config", json_type(none_as_null=True)),
    # The steps that it is built of, while it is; null for one that is frozen from a sandbox.
    Column("build", json_type(none_as_null=True)),
    Column("pool_size", integer_type(), nullable=False, server_default="0"),
    Column("pool_max", integer_type()),
    # The key that asked for the pool, for that key's quotas.
    Column("pool_key_id", text_type(64)),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
partial_index("ix_templates_image_id", templates.c.image_id, where=_ALIVE)
partial_index("ix_templates_checkpoint_id", templates.c.checkpoint_id, where=_ALIVE)
_HAS_POOL = text("deleted_at IS NULL AND (pool_size > 0 OR pool_max > 0)")
partial_index("ix_templates_pool", templates.c.owner, where=_HAS_POOL)
_tagged = templates.c.owner, templates.c.name, templates.c.tag
_READY = text("deleted_at IS NULL AND state = 'ready'")
partial_index("uq_templates_owner_name_tag", *_tagged, unique=True, where=_READY)

# Further names of templates: a name and tag of an owner is in one row, here or of a ready template.
template_aliases = Table(
    "template_aliases",
    metadata,
    _seq(),
    Column("owner", text_type(128), nullable=False),
    Column("name", text_type(63), nullable=False),
    Column("tag", text_type(63), nullable=False),
    Column("template_id", text_type(64), nullable=False),
    UniqueConstraint("owner", "name", "tag"),
    sqlite_autoincrement=True,
)
Index("ix_template_aliases_template_id", template_aliases.c.template_id)

# The JSON that skills consist of, of whatever form, and the traces of browsers.
skill_payloads = Table(
    "skill_payloads",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("kind", text_type(128), nullable=False),
    Column("payload", text_type(), nullable=False),
    # The bytes that a row counts for in the limit of its owner; so in each table of skills.
    Column("size_bytes", integer_type(), nullable=False),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_skill_payloads_owner_size_bytes", skill_payloads.c.owner, skill_payloads.c.size_bytes)
Index("ix_skill_payloads_created_at", skill_payloads.c.created_at)

skill_candidates = Table(
    "skill_candidates",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("skill_key", text_type(255), nullable=False),
    Column("scenario_key", text_type(255)),
    Column("skill_type", text_type(16), nullable=False),
    Column("source_execution_ids", json_type(), nullable=False),
    Column("payload_ref", text_type(1024)),
    Column("summary", text_type()),
    Column("usage_notes", text_type()),
    Column("preconditions", json_type(none_as_null=True)),
    Column("postconditions", json_type(none_as_null=True)),
    Column("status", text_type(32), nullable=False),
    Column("latest_score", Float),
    Column("latest_pass", Boolean),
    Column("promotion_release_id", text_type(64)),
    Column("created_by", text_type(128)),
    Column("deleted_by", text_type(128)),
    Column("delete_reason", text_type()),
    Column("size_bytes", integer_type(), nullable=False),
    _when("last_evaluated_at"),
    _when("created_at", nullable=False),
    _when("updated_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
_own = skill_candidates.c.owner
partial_index("ix_skill_candidates_owner_seq", _own, skill_candidates.c.seq, where=_ALIVE)
Index("ix_skill_candidates_owner_skill_key_seq", _own, skill_candidates.c.skill_key, skill_candidates.c.seq)
partial_index("ix_skill_candidates_owner_payload_ref", _own, skill_candidates.c.payload_ref, where=_ALIVE)
Index("ix_skill_candidates_owner_size_bytes", _own, skill_candidates.c.size_bytes)
_DELETED = text("deleted_at IS NOT NULL")
partial_index("ix_skill_candidates_deleted_at", skill_candidates.c.deleted_at, where=_DELETED)

skill_evaluations = Table(
    "skill_evaluations",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("candidate_id", text_type(64), nullable=False),
    Column("benchmark_id", text_type(255)),
    Column("score", Float),
    Column("passed", Boolean, nullable=False),
    Column("report", text_type()),
    Column("evaluated_by", text_type(128)),
    Column("size_bytes", integer_type(), nullable=False),
    _when("created_at", nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_skill_evaluations_candidate_id_seq", skill_evaluations.c.candidate_id, skill_evaluations.c.seq)
Index("ix_skill_evaluations_owner_size_bytes", skill_evaluations.c.owner, skill_evaluations.c.size_bytes)

skill_releases = Table(
    "skill_releases",
    metadata,
    _seq(),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("skill_key", text_type(255), nullable=False),
    Column("candidate_id", text_type(64), nullable=False),
    Column("version", integer_type(), nullable=False),
    Column("stage", text_type(16), nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("release_mode", text_type(16), nullable=False),
    Column("promoted_by", text_type(128)),
    Column("rollback_of", text_type(64)),
    Column("upgrade_of_release_id", text_type(64)),
    Column("upgrade_reason", text_type()),
    Column("change_summary", text_type()),
    Column("deleted_by", text_type(128)),
    Column("delete_reason", text_type()),
    Column("size_bytes", integer_type(), nullable=False),
    _when("promoted_at", nullable=False),
    _when("health_window_end_at"),
    _when("deleted_at"),
    UniqueConstraint("owner", "skill_key", "version"),
    sqlite_autoincrement=True,
)
_own = skill_releases.c.owner
# At most one release of a skill is active, held by the database and not by care alone.
_ACTIVE = text("is_active AND deleted_at IS NULL")
partial_index("uq_skill_releases_active", _own, skill_releases.c.skill_key, unique=True, where=_ACTIVE)
partial_index("ix_skill_releases_owner_seq", _own, skill_releases.c.seq, where=_ALIVE)
Index("ix_skill_releases_candidate_id", skill_releases.c.candidate_id)
Index("ix_skill_releases_owner_size_bytes", _own, skill_releases.c.size_bytes)
partial_index("ix_skill_releases_deleted_at", skill_releases.c.deleted_at, where=_DELETED)

# The runs of releases whose entries of the history are gone: how each went, and nothing that it printed.
skill_runs = Table(
    "skill_runs",
    metadata,
    _seq(),
    Column("release_id", text_type(64), nullable=False),
    _when("started_at", nullable=False),
    Column("success", Boolean, nullable=False),
    Column("execution_time_ms", integer_type()),
    sqlite_autoincrement=True,
)
_run = skill_runs.c
Index("ix_skill_runs_release_id", _run.release_id, _run.started_at, _run.success, _run.execution_time_ms)
Index("ix_skill_runs_started_at", _run.started_at)

# Checkpoints that are pushed to the object store, or were: the store itself has what is there.
pushes = Table(
    "pushes",
    metadata,
    _seq(),
    Column("checkpoint_id", text_type(64), nullable=False, unique=True),
    Column("owner", text_type(128), nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("attempts", integer_type(), nullable=False),
    _when("retry_at"),
    # Whether a push that failed, or a delete, may have left objects.
    Column("is_littered", Boolean, nullable=False),
    Column("failure", json_type(none_as_null=True)),
    _when("created_at", nullable=False),
    _when("deleted_at"),
    sqlite_autoincrement=True,
)
partial_index("ix_pushes_owner", pushes.c.owner, where=_ALIVE)
Index("ix_pushes_state", pushes.c.state)

# The use of resources over time: in each row some points of a sandbox (`bay.server.samples.points`).
samples = Table(
    "samples",
    metadata,
    Column("sandbox_seq", BigInteger, primary_key=True, autoincrement=False),
    # Seconds between the points.
    Column("step", integer_type(), primary_key=True, autoincrement=False),
    # Seconds since 1970, of the first of them.
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("points", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_samples_step_at", samples.c.step, samples.c.at)

facts = Table(
    "facts",
    metadata,
    Column("name", text_type(64), primary_key=True),
    Column("value", json_type(), nullable=False),
)

# The processes that share this database, on PostgreSQL alone. Times here are the database's own.
replicas = Table(
    "replicas",
    metadata,
    Column("id", text_type(64), primary_key=True),
    Column("url", text_type(256), nullable=False),
    Column("version", text_type(64), nullable=False),
    _when("started_at", nullable=False),
    _when("beat_at", nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", text_type(64), primary_key=True),
    Column("holder", text_type(64)),
    Column("epoch", BigInteger, nullable=False),
    _when("until", nullable=False),
)
