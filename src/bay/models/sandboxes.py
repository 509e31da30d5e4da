"""Sandboxes, their profiles, and what a session of one has."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bay.models.network import NetworkMode, NetworkPolicy, PortSettings, SandboxUrl
from bay.models.secrets import SandboxSecret
from bay.models.storage import CheckpointPolicy, Persist, Volume

Status = Literal["idle", "starting", "ready", "failed", "expired"]
"""The public status of a sandbox."""

Compute = Literal["cold", "hibernated", "warming", "warm", "running"]
"""The cost of the next call: cold = no container, hibernated = memory on disk, warm = frozen in memory,
running = answers now. Warming is on the way there.
"""

OnExpiry = Literal["delete", "pause"]
"""The end of a lifetime: the sandbox expires and is deleted, or it is paused and stays."""

Capability = Literal["python", "shell", "filesystem", "exec", "browser"]

DEFAULT_CAPABILITIES: tuple[Capability, ...] = ("python", "shell", "filesystem", "exec")
"""Those of a profile that names none. A browser needs programs that an image may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a sandbox has no compute: `code` for programs, `message` for people, `at` when."""

    code: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources of one session: cores, bytes of memory, and processes."""

    cpus: float = 1.0
    memory: int = 1 << 30
    pids: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one sandbox: cores, MiB of memory and of files, and processes; None is its profile's."""

    cpus: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The container of a live session, as the single GET of a sandbox shows it."""

    name: str
    runtime_type: str
    status: str
    version: str | None
    capabilities: tuple[str, ...]
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as its owner sees it. `status` and `compute` are computed from stored facts."""

    id: str
    name: str | None
    status: Status
    compute: Compute
    profile: str
    image: str
    image_id: str | None = None
    """The image that `image` named when it was created; null for `host`."""
    isolation: str
    cargo_id: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    created_at: datetime
    expires_at: datetime | None
    on_expiry: OnExpiry = "delete"
    """Whether it is deleted at `expires_at`, or paused."""
    paused_at: datetime | None = None
    """Since when it is paused by its owner, or by the end of its lifetime; null once anything woke it."""
    idle_timeout: int | None
    idle_expires_at: datetime | None
    """When its compute is frozen for want of activity; null while none runs."""
    warm_timeout: int | None = None
    warm_expires_at: datetime | None = None
    """When its frozen memory is given back; null while it is not frozen."""
    containers: tuple[Container, ...] | None = None
    error: Failure | None = None
    persist: Persist = "workspace"
    checkpoint_id: str | None = None
    """The checkpoint that its present files grew from."""
    checkpoint_policy: CheckpointPolicy | None = None
    network: NetworkMode = "open"
    """The mode of its network policy."""
    url: SandboxUrl | None = None
    ports: tuple[PortSettings, ...] = ()
    """Ports that others than the owner may reach, or that were named."""
    secrets: tuple[SandboxSecret, ...] = ()
    """The secrets that it is given, by name."""
    volumes: tuple[Volume, ...] = ()
    """External cargos beside its workspace."""
    cpus: float | None = None
    """Cores; this and the next three are null only when its profile is no longer there."""
    memory_mb: int | None = None
    disk_mb: int | None = None
    """How much its own files may hold, MiB, and as much again outside of its workspace; null = no limit."""
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The template of a create. `start`: compute begins with the create (eager) or the first call (lazy)."""

    id: str
    image: str = "host"
    isolation: str = "container"
    resources: Resources = field(default_factory=Resources)
    capabilities: tuple[Capability, ...] = DEFAULT_CAPABILITIES
    env: dict[str, str] = field(default_factory=dict[str, str])
    idle_timeout: int | None = 1800
    warm_timeout: int | None = 3600
    hibernate: bool = False
    """Whether memory goes to disk, in the place of being thrown away, where the host can save it."""
    pool_size: int = 0
    """How many started sandboxes wait for a create."""
    pool_max: int | None = None
    """How many at most, when creates come fast; None = `pool_size`."""
    output_buffer_mb: int = 1
    """How much of the newest output of each exec is kept, MiB."""
    ttl: int | None = None
    on_expiry: OnExpiry = "delete"
    """The end of the lifetime of a sandbox that says nothing else."""
    persist: Persist = "workspace"
    disk_mb: int | None = 10_240
    """How much its files may hold, MiB, where the host can hold to that; None = no limit."""
    max_cpus: float | None = None
    """The most `cpus` of a sandbox; None, as for the next three, is the profile's own."""
    max_memory_mb: int | None = None
    max_disk_mb: int | None = None
    max_pids: int | None = None
    start: Literal["eager", "lazy"] = "eager"
    kernel: Literal["eager", "lazy"] = "lazy"
    """Whether the default kernel starts with the session, or with the first code that is run in it."""
    root: bool = True
    """Whether an exec may ask for `user: root` (root of the sandbox's user namespace, not outside)."""
    user: str = "ship"
    """The name of uid 1000, whom commands run as."""
    home: str = "/workspace"
    """The HOME of that user."""
    skills: bool = False
    """Whether Bay's own skills are put below `/workspace/skills` at each start."""
    env_file: bool = False
    """Whether `/workspace/.bay_env.sh` has the environment, and `shell/exec` reads it."""
    users: tuple[str, ...] | None = None
    """Who else an exec may ask for where `root` is false; None = every user of /etc/passwd."""
    network_policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    """The network policy of a create without one."""
    description: str = ""
