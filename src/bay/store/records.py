"""Records: the rows as they are stored. `bay.server.sessions.lifecycle` computes the public view of them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar

from bay.errors import BY_CODE, BayError
from bay.models import (
    CheckpointContent,
    CheckpointPolicy,
    Compute,
    EntrypointUse,
    ExecType,
    Failure,
    ImageState,
    KeyScope,
    NetworkMode,
    OnExpiry,
    Persist,
    PortSettings,
    PushState,
    SandboxSecret,
    Sizes,
    Status,
    TemplateState,
    Volume,
)

T = TypeVar("T")

NOBODY = ""
"""The owner of pooled sandboxes. No key has it."""

Target = Literal["running", "paused", "hibernated", "stopped", "deleted"]
"""The state that the owner wants; the reconciler makes it so."""

HAVING: tuple[Target, ...] = ("running", "paused")
"""Targets that keep a session: it answers, or it waits frozen in memory."""

KEEPING: tuple[Target, ...] = (*HAVING, "hibernated")
"""Targets that keep what runs, in memory or on disk."""

Phase = Literal["starting", "running", "paused", "hibernated", "ending", "ended"]
"""How far a session has come. From `ending` there is no way back: a wanted sandbox gets a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One incarnation of compute. `generation` grows with each of a sandbox and fences off older ones."""

    id: str
    sandbox_id: str
    generation: int
    driver: str
    phase: Phase
    token: str = field(repr=False)
    handle: dict[str, Any] | None
    """The handle that the driver yielded last, as JSON."""
    network_version: int | None = None
    """The version of the policy that holds for its network; None when that has yet to be seen to."""
    cpus: float | None = None
    memory_mb: int | None = None
    pids: int | None = None
    memory_bytes: int | None = None
    """The bytes of its memory on disk while it hibernates."""
    memory_refused: str | None = None
    """Why its memory could not be saved, since it was last frozen."""
    end_reason: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def sizes(self) -> Sizes:
        """The sizes of its sandbox that it has taken, None for the profile's."""
        return Sizes(cpus=self.cpus, memory_mb=self.memory_mb, pids=self.pids)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFailure(Failure):
    """An error as a row keeps it for requests that wait, in whichever process: all that an answer says."""

    status: int
    details: dict[str, Any]

    @classmethod
    def of(cls, error: BayError, at: datetime) -> Self:
        """`error`, which came at `at`."""
        return cls(code=error.code, message=error.message, at=at, status=error.status, details=error.details)

    def error(self) -> BayError:
        """The error again, to be raised."""
        error = BY_CODE.get(self.code, BayError)(self.message, details=self.details)
        error.status = self.status  # classes may share a code
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFailure:
    """Why a restore failed; `number` is its place among those that the sandbox was asked for, from 1 on."""

    number: int
    failure: KeptFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeFailure:
    """Why a live session could not have the `sizes`, which the requests up to `number` have asked for that
    wanted the same.
    """

    number: int
    sizes: Sizes
    failure: KeptFailure


KEPT_FAILURES = 8
"""Restores of a sandbox of which its row says why they failed, and changes of its sizes: the next one may be
over before a request that waits for this one has read the row.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRecord:
    """A sandbox's row with its live session, if any."""

    seq: int
    id: str
    owner: str
    key_id: str | None = None
    """The key that made it, for that key's quotas."""
    name: str | None
    profile: str
    image: str
    image_id: str | None = None
    """The image that it starts from; None for the image `host`."""
    image_state: ImageState | None = None
    entrypoint: EntrypointUse | None = None
    """`service`: the image's command is to be its service, once the image is here."""
    isolation: str
    cargo_id: str
    persist: Persist = "workspace"
    checkpoint_id: str | None = None
    """The checkpoint that its present files grew from."""
    restore_id: str | None = None
    """The checkpoint that is being put back."""
    restore_number: int = 0
    """The number of the last restore that was asked for, from 1 on."""
    restore_failures: tuple[RestoreFailure, ...] = ()
    """Why those among its last `KEPT_FAILURES` restores failed that did, the oldest first."""
    restore_memory: bool = False
    """Whether the memory of that checkpoint comes back as well."""
    memory_id: str | None = None
    """The checkpoint whose memory its next session begins with."""
    resize_number: int = 0
    """The number of the last request for other sizes of a live session, from 1 on."""
    resize_failures: tuple[ResizeFailure, ...] = ()
    """Why those among the last `KEPT_FAILURES` of them were refused that were, the oldest first."""
    checkpoint_due: str | None = None
    """The oldest checkpoint that was asked for and is not made yet."""
    checkpoint_policy: CheckpointPolicy | None = None
    checkpoint_at: datetime | None = None
    """When the next checkpoint of its policy is due."""
    network_version: int = 0
    """Which network policy it has: 0 is its profile's. Grows with each change."""
    network_mode: NetworkMode | None = None
    """The mode of its own policy; None while it has its profile's."""
    network_brokers: bool = False
    """Whether a rule of its own policy has a header added."""
    url: PortSettings | None = None
    """Where its URL leads."""
    ports: tuple[PortSettings, ...] = ()
    host: str | None = None
    """Its label in host names beside its id: its name, unless another sandbox had that first."""
    cpus: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None
    env: dict[str, str] = field(repr=False)
    secrets: tuple[SandboxSecret, ...] = ()
    volumes: tuple[Volume, ...] = ()
    labels: dict[str, str]
    target: Target
    generation: int
    error: Failure | None
    pool: str | None = None
    """While it waits in the pool: the fingerprint of the profile or the template that it was started for."""
    idle_timeout: int | None
    idle_expires_at: datetime | None
    warm_timeout: int | None = None
    warm_expires_at: datetime | None = None
    """When a frozen sandbox gives its memory back; set by the freezing."""
    last_active_at: datetime | None = None
    expires_at: datetime | None
    on_expiry: OnExpiry = "delete"
    paused_at: datetime | None = None
    """Since when it is at rest by its owner's word, or by the end of its lifetime."""
    created_at: datetime
    deleted_at: datetime | None
    session: SessionRecord | None

    def is_expired(self, now: datetime) -> bool:
        """Whether it is past its `expires_at`, and not to be paused then."""
        return self.on_expiry == "delete" and self.is_over(now)

    def is_over(self, now: datetime) -> bool:
        """Whether its lifetime has ended."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def phase(self) -> Phase | None:
        """The phase of the live session, None without one."""
        return self.session.phase if self.session else None

    @property
    def sizes(self) -> Sizes:
        """Its own sizes, None for the profile's."""
        return Sizes(cpus=self.cpus, memory_mb=self.memory_mb, disk_mb=self.disk_mb, pids=self.pids)

    @property
    def written_cargos(self) -> tuple[str, ...]:
        """The cargos that a session of it writes to: its workspace, and volumes that are not read-only."""
        return (self.cargo_id, *(volume.cargo for volume in self.volumes if not volume.read_only))

    @property
    def cargos(self) -> tuple[str, ...]:
        """All cargos that a session of it has mounted, its workspace first."""
        return (self.cargo_id, *(volume.cargo for volume in self.volumes))

    @property
    def is_called(self) -> bool:
        """Whether its owner has used it yet: a lazy one from the pool still rests until the first call."""
        return self.last_active_at is not None

    @property
    def has_compute(self) -> bool:
        """Whether programs of its session run, are frozen or hibernate, and the owner wants to keep them."""
        session = self.session
        if session is None or self.target not in KEEPING:
            return False
        wakes = session.memory_bytes is not None or self.memory_id is not None
        return session.phase in ("running", "paused", "hibernated") or (session.phase == "starting" and wakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CargoRecord:
    """A cargo's row."""

    id: str
    owner: str
    managed_by_sandbox_id: str | None
    backend: str
    size_limit_mb: int | None
    used_bytes: int | None = None
    """Bytes on disk at `measured_at`, None before the first measurement."""
    used_inodes: int | None = None
    charged_bytes: int | None = None
    """Bytes counted against its limit at `measured_at`; None where limits are not enforced."""
    origin_id: str | None = None
    """The checkpoint whose files it begins with, until they are there."""
    measured_at: datetime | None = None
    created_at: datetime
    last_accessed_at: datetime
    deleted_at: datetime | None


CheckpointState = Literal["making", "ready", "gone"]
"""`gone`: its files are removed, or will be soon; `deleted_at` is when it became invisible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint's row."""

    id: str
    owner: str
    sandbox_id: str
    number: int | None = None
    """Its place among all that the sandbox ever had, from 1 on; the store gives it. None for hidden ones."""
    name: str | None
    comment: str | None
    kind: CheckpointContent = "files"
    auto: bool = False
    hidden: bool = False
    """Made for a fork of the present alone, or after a step of a build, and never listed."""
    persist: Persist
    image: str
    image_id: str | None = None
    parent_id: str | None
    state: CheckpointState = "making"
    failure: KeptFailure | None = None
    """Why it could not be made."""
    size_bytes: int | None = None
    exclusive_bytes: int | None = None
    inodes: int | None = None
    memory_bytes: int | None = None
    """The bytes on disk of its memory."""
    measured_at: datetime | None = None
    build_key: str | None = None
    """The step of a build that this is the result of; None for other checkpoints."""
    used_at: datetime | None = None
    """When a build last made this, or began with it."""
    created_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image's row. `config` and `facts` are JSON of `bay.images`, None until it is ready."""

    id: str
    owner: str
    shared: bool = False
    ref: str
    digest: str | None = None
    source: Literal["registry", "upload", "template"]
    state: ImageState = "pulling"
    config: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None
    layers: int | None = None
    size_bytes: int | None = None
    error: Failure | None = None
    attempts: int = 0
    retry_at: datetime | None = None
    created_at: datetime
    last_used_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLoginRecord:
    """A login of an owner to a registry, sealed by the vault."""

    owner: str
    host: str
    sealed: bytes = field(repr=False)
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayer:
    """A layer of an image: `digest` names it as it is fetched, `diff_id` its content."""

    image_id: str
    position: int
    """0 is the lowest."""
    digest: str
    diff_id: str
    size_bytes: int
    """On disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRecord:
    """The row of a checkpoint that is pushed, or was. A deleted one is to have nothing in the store."""

    checkpoint_id: str
    owner: str
    state: PushState = "pushing"
    bytes: int = 0
    """Of the archive, as far as it is there."""
    attempts: int = 0
    """That have failed."""
    retry_at: datetime | None = None
    is_littered: bool = False
    """Whether objects may be there that belong to nothing."""
    failure: KeptFailure | None = None
    created_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """A template's row. `image_id` and `checkpoint_id` are known when it is ready."""

    id: str
    owner: str
    name: str
    tag: str | None
    """None once another template has taken the last of its names."""
    aliases: tuple[str, ...] = ()
    """Further names, each `name:tag`, the oldest first."""
    shared: bool = False
    state: TemplateState = "building"
    error: Failure | None = None
    sandbox_id: str | None = None
    """The sandbox that it is frozen from; None for one that is built."""
    image_id: str | None = None
    checkpoint_id: str | None = None
    """The files of /workspace; None where there are none."""
    profile: str
    start_command: tuple[str, ...] | None = None
    ready_command: tuple[str, ...] | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None
    env: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    user: str | None = None
    """The image's USER; None is that of the image it was made from."""
    working_dir: str | None = None
    config: dict[str, Any] | None = field(default=None, repr=False)
    """Changes to the config of its image, in the form of an OCI image's; None for none."""
    build: dict[str, Any] | None = field(default=None, repr=False)
    """The steps that it is built of, while it is; None for one that is frozen from a sandbox."""
    pool_size: int = 0
    pool_max: int | None = None
    pool_key_id: str | None = None
    """The key that asked for the pool, for that key's quotas."""
    created_at: datetime
    deleted_at: datetime | None = None

    @property
    def is_building(self) -> bool:
        """Whether it is wanted and not there yet."""
        return self.state == "building" and self.deleted_at is None

    @property
    def ref(self) -> str:
        """Its name to people: `name:tag`, or its id once another has the tag."""
        return self.id if self.tag is None else f"{self.name}:{self.tag}"

    @property
    def sizes(self) -> Sizes:
        """The sizes of its sandboxes, None for the profile's."""
        return Sizes(cpus=self.cpus, memory_mb=self.memory_mb, disk_mb=self.disk_mb, pids=self.pids)

    @property
    def pool_largest(self) -> int:
        """The most sandboxes that its pool holds."""
        return self.pool_size if self.pool_max is None else self.pool_max


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key's row, with the SHA-256 of its secret: 256 random bits need no slow hash."""

    id: str
    owner: str
    name: str
    hash: str = field(repr=False)
    scope: KeyScope
    quotas: dict[str, int | float] | None = None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRecord:
    """A secret's row. `sealed` is its encrypted value, other bytes with each change."""

    owner: str
    name: str
    sealed: bytes = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A used idempotency key: its request, and the resource and answer of it."""

    owner: str
    key: str
    request_hash: str
    resource_id: str
    answer: dict[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event's row. `seq` grows with each event of any owner."""

    seq: int
    owner: str
    sandbox_id: str
    type: str
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRecord:
    """A webhook's row: `after_seq` is the last event delivered or given up, `attempts` failures since."""

    id: str
    owner: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    types: tuple[str, ...]
    after_seq: int
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The filters of a list; None and empty mean all."""

    status: Status | None = None
    compute: Compute | None = None
    profile: str | None = None
    name_prefix: str | None = None
    named: bool = False
    """Whether those without a name are left out."""
    paused: bool | None = None
    """Whether they are at rest by their owner's word, or by the end of their lifetime."""
    since: datetime | None = None
    """Those made then or later."""
    labels: tuple[tuple[str, str], ...] = ()
    """Pairs that must all hold; the same key twice with two values holds for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilters:
    """The filters of the audit log; None means all. `since` is included, `until` is not.

    `path` is the beginning of a path. `status` is a number such as ``404``, or ``4xx`` for a hundred of them.
    """

    owner: str | None = None
    key_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: str | None = None
    request_id: str | None = None
    resource_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryNote:
    """The history's facts of an execution from its beginning. `tags` in their normal form."""

    exec_type: ExecType
    code: str = field(repr=False)
    description: str | None = None
    tags: str | None = None
    learn_enabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilters:
    """The filters of the history. `tags`: entries with any of them, whatever their case; empty means all."""

    exec_type: ExecType | None = None
    success_only: bool = False
    failed_only: bool = False
    tags: tuple[str, ...] = ()
    has_notes: bool = False
    has_description: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """An exec whose end or whose output is not stored yet."""

    id: str
    exec_type: ExecType | None
    has_ended: bool
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """How the runs of a release went; 95 of 100 took `p95_ms` or less."""

    samples: int
    successes: int
    p95_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many rows, and bytes of them, of one kind a sandbox may have."""

    count: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Part of a list. `next_cursor` is the `seq` to go on after, None at the end."""

    items: tuple[T, ...]
    next_cursor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTotal:
    """How many sandboxes have that status and compute, in a pool or not, and how many of them a session."""

    pooled: bool
    status: str
    compute: str
    sandboxes: int
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A process that shares the database. `url` is where its own host reaches it."""

    id: str
    url: str
    version: str
    started_at: datetime
    beat_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A part of the work and the replica that does it until `until`, None while none does."""

    name: str
    holder: str | None
    epoch: int
    until: datetime
