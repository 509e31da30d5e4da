-- The schema 0022, with which Bay's first databases on PostgreSQL were made. It is never changed.
CREATE TABLE keys (
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    quotas JSON,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_keys PRIMARY KEY (id),
    CONSTRAINT uq_keys_hash UNIQUE (hash)
);
CREATE TABLE cargos (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    managed_by_sandbox_id TEXT COLLATE "C",
    backend TEXT COLLATE "C" NOT NULL,
    size_limit_mb BIGINT,
    used_bytes BIGINT,
    used_inodes BIGINT,
    charged_bytes BIGINT,
    origin_id TEXT COLLATE "C",
    measured_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_accessed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_cargos PRIMARY KEY (seq),
    CONSTRAINT uq_cargos_id UNIQUE (id)
);
CREATE TABLE checkpoints (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    sandbox_id TEXT COLLATE "C" NOT NULL,
    number BIGINT,
    name TEXT COLLATE "C",
    comment TEXT COLLATE "C",
    kind TEXT COLLATE "C" NOT NULL,
    auto BOOLEAN NOT NULL,
    hidden BOOLEAN NOT NULL,
    persist TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C" NOT NULL,
    image_id TEXT COLLATE "C",
    parent_id TEXT COLLATE "C",
    state TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT,
    exclusive_bytes BIGINT,
    inodes BIGINT,
    measured_at TIMESTAMP WITH TIME ZONE,
    build_key TEXT COLLATE "C",
    used_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_checkpoints PRIMARY KEY (seq),
    CONSTRAINT uq_checkpoints_id UNIQUE (id)
);
CREATE INDEX ix_checkpoints_image_id ON checkpoints (image_id);
CREATE UNIQUE INDEX uq_checkpoints_sandbox_id_number ON checkpoints (sandbox_id, number);
CREATE UNIQUE INDEX uq_checkpoints_sandbox_id_name ON checkpoints (sandbox_id, name) WHERE deleted_at IS NULL;
CREATE INDEX ix_checkpoints_build_key ON checkpoints (owner, build_key) WHERE deleted_at IS NULL AND build_key IS NOT NULL;
CREATE INDEX ix_checkpoints_state ON checkpoints (state);
CREATE INDEX ix_checkpoints_sandbox_id_seq ON checkpoints (sandbox_id, seq);
CREATE INDEX ix_checkpoints_owner ON checkpoints (owner);
CREATE TABLE claims (
    owner TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_hash TEXT COLLATE "C" NOT NULL,
    resource_id TEXT COLLATE "C" NOT NULL,
    answer JSON,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_claims PRIMARY KEY (owner, key)
);
CREATE INDEX ix_claims_created_at ON claims (created_at);
CREATE TABLE events (
    seq BIGSERIAL NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    sandbox_id TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    data JSON NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_events PRIMARY KEY (seq)
);
CREATE INDEX ix_events_sandbox_id_seq ON events (sandbox_id, seq);
CREATE INDEX ix_events_owner_seq ON events (owner, seq);
CREATE INDEX ix_events_at ON events (at);
CREATE TABLE audit (
    seq BIGSERIAL NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    owner TEXT COLLATE "C",
    key_id TEXT COLLATE "C",
    method TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    resource_id TEXT COLLATE "C",
    request_id TEXT COLLATE "C" NOT NULL,
    status BIGINT,
    code TEXT COLLATE "C",
    CONSTRAINT pk_audit PRIMARY KEY (seq)
);
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_audit_owner_seq ON audit (owner, seq);
CREATE INDEX ix_audit_request_id ON audit (request_id);
CREATE TABLE webhooks (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    url TEXT COLLATE "C" NOT NULL,
    secret TEXT COLLATE "C" NOT NULL,
    types JSON NOT NULL,
    after_seq BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    last_error TEXT COLLATE "C",
    next_attempt_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_webhooks PRIMARY KEY (seq),
    CONSTRAINT uq_webhooks_id UNIQUE (id)
);
CREATE INDEX ix_webhooks_owner_seq ON webhooks (owner, seq);
CREATE TABLE network_policies (
    sandbox_id TEXT COLLATE "C" NOT NULL,
    policy JSON NOT NULL,
    CONSTRAINT pk_network_policies PRIMARY KEY (sandbox_id)
);
CREATE TABLE services (
    seq BIGSERIAL NOT NULL,
    sandbox_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    spec JSON NOT NULL,
    CONSTRAINT pk_services PRIMARY KEY (seq),
    CONSTRAINT uq_services_sandbox_id_name UNIQUE (sandbox_id, name)
);
CREATE TABLE secrets (
    seq BIGSERIAL NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    sealed BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_secrets PRIMARY KEY (seq),
    CONSTRAINT uq_secrets_owner_name UNIQUE (owner, name)
);
CREATE TABLE registry_logins (
    seq BIGSERIAL NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    host TEXT COLLATE "C" NOT NULL,
    sealed BYTEA NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_registry_logins PRIMARY KEY (seq),
    CONSTRAINT uq_registry_logins_owner_host UNIQUE (owner, host)
);
CREATE TABLE used_links (
    id TEXT COLLATE "C" NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_used_links PRIMARY KEY (id)
);
CREATE INDEX ix_used_links_expires_at ON used_links (expires_at);
CREATE TABLE images (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    shared BOOLEAN NOT NULL,
    ref TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C",
    source TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    config JSON,
    facts JSON,
    layers BIGINT,
    size_bytes BIGINT,
    error JSON,
    attempts BIGINT NOT NULL,
    retry_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_images PRIMARY KEY (seq),
    CONSTRAINT uq_images_id UNIQUE (id)
);
CREATE INDEX ix_images_owner_ref ON images (owner, ref);
CREATE INDEX ix_images_state ON images (state) WHERE deleted_at IS NULL;
CREATE TABLE image_layers (
    image_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    diff_id TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT NOT NULL,
    CONSTRAINT pk_image_layers PRIMARY KEY (image_id, position)
);
CREATE INDEX ix_image_layers_diff_id ON image_layers (diff_id);
CREATE TABLE templates (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C",
    shared BOOLEAN NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    error JSON,
    sandbox_id TEXT COLLATE "C",
    image_id TEXT COLLATE "C",
    checkpoint_id TEXT COLLATE "C",
    profile TEXT COLLATE "C" NOT NULL,
    start_command JSON,
    ready_command JSON,
    cpus FLOAT,
    memory_mb BIGINT,
    disk_mb BIGINT,
    pids BIGINT,
    env JSON NOT NULL,
    "user" TEXT COLLATE "C",
    working_dir TEXT COLLATE "C",
    config JSON,
    build JSON,
    pool_size BIGINT DEFAULT '0' NOT NULL,
    pool_max BIGINT,
    pool_key_id TEXT COLLATE "C",
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_templates PRIMARY KEY (seq),
    CONSTRAINT uq_templates_id UNIQUE (id)
);
CREATE INDEX ix_templates_checkpoint_id ON templates (checkpoint_id) WHERE deleted_at IS NULL;
CREATE INDEX ix_templates_image_id ON templates (image_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX uq_templates_owner_name_tag ON templates (owner, name, tag) WHERE deleted_at IS NULL AND state = 'ready';
CREATE INDEX ix_templates_pool ON templates (owner) WHERE deleted_at IS NULL AND (pool_size > 0 OR pool_max > 0);
CREATE TABLE template_aliases (
    seq BIGSERIAL NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C" NOT NULL,
    template_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_template_aliases PRIMARY KEY (seq),
    CONSTRAINT uq_template_aliases_owner_name_tag UNIQUE (owner, name, tag)
);
CREATE INDEX ix_template_aliases_template_id ON template_aliases (template_id);
CREATE TABLE skill_payloads (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_skill_payloads PRIMARY KEY (seq),
    CONSTRAINT uq_skill_payloads_id UNIQUE (id)
);
CREATE INDEX ix_skill_payloads_created_at ON skill_payloads (created_at);
CREATE INDEX ix_skill_payloads_owner_size_bytes ON skill_payloads (owner, size_bytes);
CREATE TABLE skill_candidates (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    skill_key TEXT COLLATE "C" NOT NULL,
    scenario_key TEXT COLLATE "C",
    skill_type TEXT COLLATE "C" NOT NULL,
    source_execution_ids JSON NOT NULL,
    payload_ref TEXT COLLATE "C",
    summary TEXT COLLATE "C",
    usage_notes TEXT COLLATE "C",
    preconditions JSON,
    postconditions JSON,
    status TEXT COLLATE "C" NOT NULL,
    latest_score FLOAT,
    latest_pass BOOLEAN,
    promotion_release_id TEXT COLLATE "C",
    created_by TEXT COLLATE "C",
    deleted_by TEXT COLLATE "C",
    delete_reason TEXT COLLATE "C",
    size_bytes BIGINT NOT NULL,
    last_evaluated_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_skill_candidates PRIMARY KEY (seq),
    CONSTRAINT uq_skill_candidates_id UNIQUE (id)
);
CREATE INDEX ix_skill_candidates_owner_size_bytes ON skill_candidates (owner, size_bytes);
CREATE INDEX ix_skill_candidates_owner_payload_ref ON skill_candidates (owner, payload_ref) WHERE deleted_at IS NULL;
CREATE INDEX ix_skill_candidates_owner_skill_key_seq ON skill_candidates (owner, skill_key, seq);
CREATE INDEX ix_skill_candidates_deleted_at ON skill_candidates (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX ix_skill_candidates_owner_seq ON skill_candidates (owner, seq) WHERE deleted_at IS NULL;
CREATE TABLE skill_evaluations (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    candidate_id TEXT COLLATE "C" NOT NULL,
    benchmark_id TEXT COLLATE "C",
    score FLOAT,
    passed BOOLEAN NOT NULL,
    report TEXT COLLATE "C",
    evaluated_by TEXT COLLATE "C",
    size_bytes BIGINT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_skill_evaluations PRIMARY KEY (seq),
    CONSTRAINT uq_skill_evaluations_id UNIQUE (id)
);
CREATE INDEX ix_skill_evaluations_candidate_id_seq ON skill_evaluations (candidate_id, seq);
CREATE INDEX ix_skill_evaluations_owner_size_bytes ON skill_evaluations (owner, size_bytes);
CREATE TABLE skill_releases (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    skill_key TEXT COLLATE "C" NOT NULL,
    candidate_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    is_active BOOLEAN NOT NULL,
    release_mode TEXT COLLATE "C" NOT NULL,
    promoted_by TEXT COLLATE "C",
    rollback_of TEXT COLLATE "C",
    upgrade_of_release_id TEXT COLLATE "C",
    upgrade_reason TEXT COLLATE "C",
    change_summary TEXT COLLATE "C",
    deleted_by TEXT COLLATE "C",
    delete_reason TEXT COLLATE "C",
    size_bytes BIGINT NOT NULL,
    promoted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    health_window_end_at TIMESTAMP WITH TIME ZONE,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_skill_releases PRIMARY KEY (seq),
    CONSTRAINT uq_skill_releases_owner_skill_key_version UNIQUE (owner, skill_key, version),
    CONSTRAINT uq_skill_releases_id UNIQUE (id)
);
CREATE INDEX ix_skill_releases_deleted_at ON skill_releases (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX ix_skill_releases_owner_size_bytes ON skill_releases (owner, size_bytes);
CREATE INDEX ix_skill_releases_owner_seq ON skill_releases (owner, seq) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX uq_skill_releases_active ON skill_releases (owner, skill_key) WHERE is_active AND deleted_at IS NULL;
CREATE INDEX ix_skill_releases_candidate_id ON skill_releases (candidate_id);
CREATE TABLE skill_runs (
    seq BIGSERIAL NOT NULL,
    release_id TEXT COLLATE "C" NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    success BOOLEAN NOT NULL,
    execution_time_ms BIGINT,
    CONSTRAINT pk_skill_runs PRIMARY KEY (seq)
);
CREATE INDEX ix_skill_runs_started_at ON skill_runs (started_at);
CREATE INDEX ix_skill_runs_release_id ON skill_runs (release_id, started_at, success, execution_time_ms);
CREATE TABLE facts (
    name TEXT COLLATE "C" NOT NULL,
    value JSON NOT NULL,
    CONSTRAINT pk_facts PRIMARY KEY (name)
);
CREATE TABLE sandboxes (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C",
    name TEXT COLLATE "C",
    profile TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C" NOT NULL,
    image_id TEXT COLLATE "C",
    entrypoint TEXT COLLATE "C",
    isolation TEXT COLLATE "C" NOT NULL,
    cargo_id TEXT COLLATE "C" NOT NULL,
    persist TEXT COLLATE "C" DEFAULT 'workspace' NOT NULL,
    checkpoint_id TEXT COLLATE "C",
    restore_id TEXT COLLATE "C",
    checkpoint_policy JSON,
    checkpoint_at TIMESTAMP WITH TIME ZONE,
    network_version BIGINT DEFAULT '0' NOT NULL,
    network_mode TEXT COLLATE "C",
    network_brokers BOOLEAN DEFAULT false NOT NULL,
    url JSON,
    ports JSON DEFAULT '[]' NOT NULL,
    cpus FLOAT,
    memory_mb BIGINT,
    disk_mb BIGINT,
    pids BIGINT,
    volumes JSON DEFAULT '[]' NOT NULL,
    host TEXT COLLATE "C",
    env JSON NOT NULL,
    secrets JSON DEFAULT '[]' NOT NULL,
    labels JSON NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    error JSON,
    pool TEXT COLLATE "C",
    idle_timeout BIGINT,
    idle_expires_at TIMESTAMP WITH TIME ZONE,
    warm_timeout BIGINT,
    warm_expires_at TIMESTAMP WITH TIME ZONE,
    last_active_at TIMESTAMP WITH TIME ZONE,
    expires_at TIMESTAMP WITH TIME ZONE,
    on_expiry TEXT COLLATE "C" DEFAULT 'delete' NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_sandboxes PRIMARY KEY (seq),
    CONSTRAINT uq_sandboxes_id UNIQUE (id),
    CONSTRAINT fk_sandboxes_cargo_id_cargos FOREIGN KEY(cargo_id) REFERENCES cargos (id)
);
CREATE INDEX ix_sandboxes_checkpoint_at ON sandboxes (checkpoint_at) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_deleted_at ON sandboxes (deleted_at);
CREATE UNIQUE INDEX uq_sandboxes_host ON sandboxes (host) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_idle_expires_at ON sandboxes (idle_expires_at) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_expires_at ON sandboxes (expires_at) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_owner_created_at ON sandboxes (owner, created_at);
CREATE INDEX ix_sandboxes_warm_expires_at ON sandboxes (warm_expires_at) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_owner_seq ON sandboxes (owner, seq);
CREATE UNIQUE INDEX uq_sandboxes_owner_name ON sandboxes (owner, name) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_cargo_id ON sandboxes (cargo_id);
CREATE INDEX ix_sandboxes_image_id ON sandboxes (image_id) WHERE deleted_at IS NULL;
CREATE INDEX ix_sandboxes_pool ON sandboxes (pool) WHERE pool IS NOT NULL;
CREATE INDEX ix_sandboxes_volumes ON sandboxes (seq) WHERE CAST(volumes AS TEXT) != '[]' AND deleted_at IS NULL;
CREATE TABLE sessions (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    sandbox_id TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    driver TEXT COLLATE "C" NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    token TEXT COLLATE "C" NOT NULL,
    handle JSON,
    network_version BIGINT,
    cpus FLOAT,
    memory_mb BIGINT,
    pids BIGINT,
    end_reason TEXT COLLATE "C",
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_sessions PRIMARY KEY (seq),
    CONSTRAINT uq_sessions_id UNIQUE (id),
    CONSTRAINT fk_sessions_sandbox_id_sandboxes FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id)
);
CREATE INDEX ix_sessions_sandbox_id ON sessions (sandbox_id);
CREATE UNIQUE INDEX uq_sessions_live ON sessions (sandbox_id) WHERE ended_at IS NULL;
CREATE TABLE execs (
    seq BIGSERIAL NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    sandbox_id TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    argv JSON NOT NULL,
    tty BOOLEAN NOT NULL,
    pid BIGINT,
    state TEXT COLLATE "C" NOT NULL,
    exit_code BIGINT,
    signal BIGINT,
    timed_out BOOLEAN NOT NULL,
    output_bytes BIGINT NOT NULL,
    first_offset BIGINT NOT NULL,
    keep_alive BOOLEAN DEFAULT true NOT NULL,
    labels JSON DEFAULT '{}' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    request_hash TEXT COLLATE "C",
    exec_type TEXT COLLATE "C",
    code TEXT COLLATE "C",
    success BOOLEAN,
    execution_time_ms BIGINT,
    output TEXT COLLATE "C",
    error TEXT COLLATE "C",
    description TEXT COLLATE "C",
    tags TEXT COLLATE "C",
    notes TEXT COLLATE "C",
    release_id TEXT COLLATE "C",
    payload_ref TEXT COLLATE "C",
    learn_enabled BOOLEAN,
    learn_status TEXT COLLATE "C",
    CONSTRAINT pk_execs PRIMARY KEY (seq),
    CONSTRAINT uq_execs_sandbox_id_id UNIQUE (sandbox_id, id),
    CONSTRAINT fk_execs_sandbox_id_sandboxes FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id),
    CONSTRAINT fk_execs_session_id_sessions FOREIGN KEY(session_id) REFERENCES sessions (id)
);
CREATE INDEX ix_execs_session_id_state ON execs (session_id, state);
CREATE INDEX ix_execs_sandbox_id_seq ON execs (sandbox_id, seq);
CREATE INDEX ix_execs_sandbox_id_exec_type_seq ON execs (sandbox_id, exec_type, seq);
CREATE INDEX ix_execs_release_id ON execs (release_id, started_at, state, success, exit_code, timed_out, execution_time_ms) WHERE release_id IS NOT NULL;
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0022');
