"""The nouns of Bay as every part sees them: store, API, SDK and CLI share these frozen classes.

Times are aware UTC datetimes here and RFC 3339 text ending in ``Z`` on the wire; sizes are bytes
and durations seconds unless the name says otherwise; bytes are base64 on the wire. `from_wire` and `to_wire` are the two
directions; fields that a newer server adds are ignored.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache, partial
from reprlib import Repr
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from bay.clock import from_rfc3339, to_rfc3339

__all__ = [
    "AuditEntry",
    "Cargo",
    "CellEvent",
    "Checkpoint",
    "CheckpointPolicy",
    "Container",
    "Event",
    "Exec",
    "Failure",
    "FileEntry",
    "FileEvent",
    "FileInfo",
    "GarbageRun",
    "GarbageState",
    "GarbageTaskResult",
    "HistoryEntry",
    "Kernel",
    "KernelSpec",
    "Key",
    "Limits",
    "NetworkCounter",
    "NetworkPolicy",
    "NetworkRule",
    "NetworkState",
    "NewKey",
    "OutputChunk",
    "PoolState",
    "Port",
    "PortLink",
    "PortSettings",
    "Process",
    "Profile",
    "PythonResult",
    "RefusedName",
    "Resources",
    "Sandbox",
    "SandboxUrl",
    "Screen",
    "SearchMatch",
    "SearchResult",
    "Service",
    "ServiceHealth",
    "ServiceSpec",
    "ShellResult",
    "Webhook",
]

Status = Literal["idle", "starting", "ready", "failed", "expired"]
"""What a sandbox is doing."""

Compute = Literal["cold", "warming", "warm", "running"]
"""What the next call will cost: cold = no container, warm = frozen in memory, running = answers now."""

ExecState = Literal["running", "exited", "killed", "lost"]
"""`killed` ended by a signal, `lost` when its session ended first."""

Stream = Literal["stdout", "stderr", "tty"]
Capability = Literal["python", "shell", "filesystem", "exec"]
ALL_CAPABILITIES: tuple[Capability, ...] = ("python", "shell", "filesystem", "exec")


_BRIEF = Repr()
_BRIEF.maxstring, _BRIEF.maxother = 200, 400
_BRIEF.maxtuple = _BRIEF.maxlist = _BRIEF.maxdict = 20


class Brief:
    """Something that may carry megabytes of output or of images; its `repr`, which a REPL prints, shows their ends alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        values = ((f.name, getattr(self, f.name)) for f in fields(cast("Any", self)))
        return f"{type(self).__name__}({', '.join(f'{name}={_BRIEF.repr(value)}' for name, value in values)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a sandbox has no compute: `code` for programs, `message` for people, `at` when."""

    code: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a profile grants one session: cores, bytes of memory, and processes."""

    cpus: float = 1.0
    memory: int = 1 << 30
    pids: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The container of a live session, as the single GET of a sandbox shows it."""

    name: str
    runtime_type: str
    status: str
    version: str | None
    capabilities: tuple[str, ...]
    healthy: bool


Persist = Literal["workspace", "machine"]
"""What outlives a session: the files under /workspace, or those and every change to the root file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are made without being asked for: `every` so many seconds while there is activity, `before_stop`.

    Of those the newest `keep_last` are kept.
    """

    every: int | None = None
    keep_last: int = 10
    before_stop: bool = False


NetworkMode = Literal["none", "allowlist", "open"]
"""What a sandbox's network reaches: nothing, only what rules allow, or every public address but what rules deny."""

NetworkProtocol = Literal["tcp", "udp", "icmp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRule:
    """One rule of a network policy: `domain` (`api.example.com`, `*.example.com` or `*`) or `cidr`, never both.

    `ports` are numbers or ranges such as ``"8000-8100"``; None is every port. `protocol` None is TCP, UDP and ICMP, and with
    `ports` TCP and UDP.
    """

    action: Literal["allow", "deny"]
    domain: str | None = None
    cidr: str | None = None
    ports: tuple[int | str, ...] | None = None
    protocol: NetworkProtocol | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """What a sandbox's network may reach. The most specific rule decides, and of two equally specific ones the deny."""

    mode: NetworkMode = "open"
    rules: tuple[NetworkRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPolicy(NetworkPolicy):
    """The policy that a sandbox has: its own, or its profile's. `version` grows with each change.

    `enforced` False: this host cannot hold sandboxes to its mode, and they have no network instead.
    """

    version: int
    source: Literal["sandbox", "profile"]
    enforced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCounter:
    """How often a rule decided, since the session began: `rule` is its place in the policy, or None for what no rule decided.

    `reason` then says what did: `default` (the mode), `reserved` (never reachable addresses), `flood`, `protocol`. Counted are
    connections (for UDP and ICMP their first packets), and for rules with a domain the names asked for as well.
    """

    rule: int | None
    reason: str | None
    allowed_connections: int
    refused_connections: int
    allowed_names: int
    refused_names: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedName:
    """A name that was not answered. `reason`: `policy`, `private_answer`, `rate`, `entropy`, `type`, `upstream` or `loop`."""

    name: str
    type: str
    reason: str
    rule: int | None
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """What a sandbox's network is and did since its session began; counters and names are empty without a session.

    `enforced` False: this host cannot hold a network back, and `mode` is what was asked for. Bytes count what crossed the
    boundary of the sandbox, as seen from inside.
    """

    mode: NetworkMode
    enforced: bool
    counters: tuple[NetworkCounter, ...]
    refused: tuple[RefusedName, ...]
    """Newest last, 200 at most."""
    received_bytes: int
    sent_bytes: int


PortAccess = Literal["owner", "public"]
"""Who may reach a port through Bay: its owner (a key, a link or the cookie that a link sets), or everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSettings:
    """Who may reach one port."""

    port: int
    access: PortAccess = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUrl:
    """Where a sandbox is reached by HTTP: `href` leads to `port`; null while there is none."""

    href: str | None
    port: int | None
    access: PortAccess = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port on which something in the sandbox listens. `addresses` are local ones, as seen inside.

    `process` and `pid` are of a program that listens there, None when that cannot be told; `url` leads there.
    """

    port: int
    addresses: tuple[str, ...]
    pid: int | None = None
    process: str | None = None
    access: PortAccess = "owner"
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLink:
    """A URL that opens a port to whoever has it, until `expires_at`; `once`: to the first who opens it."""

    url: str
    expires_at: datetime
    once: bool


ServiceState = Literal["stopped", "waiting", "running", "backoff", "failed", "exited"]
"""`waiting` for what it needs, `backoff` until it is started again, `failed` too often, `exited` and not to be restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """How it is found out whether a service works: a TCP connection to `port`, or with `path` a GET that answers 200 to 399.

    `interval_s` seconds apart, `timeout_s` each; `retries` failures in a row make it unhealthy.
    """

    port: int
    path: str | None = None
    interval_s: float = 5.0
    timeout_s: float = 2.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """What a service is: a command that is started with every session, after the services in `needs`.

    `restart`: `always`, `on-failure` (exit code other than 0, or a signal) or `never`. `http_port` is where it serves HTTP.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    user: str | None = None
    needs: tuple[str, ...] = ()
    http_port: int | None = None
    restart: Literal["always", "on-failure", "never"] = "always"
    health: ServiceHealth | None = None
    enabled: bool = True
    """Whether it is started with the session; `stop` turns that off and `start` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(ServiceSpec):
    """A service and how it is; without a session it is `stopped`. `healthy` None: not known, or nothing says how to find out."""

    state: ServiceState = "stopped"
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    healthy: bool | None = None
    message: str | None = None
    started_at: datetime | None = None
    next_start_at: datetime | None = None
    output_bytes: int = 0
    first_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as its owner sees it. `status` and `compute` are computed from stored facts."""

    id: str
    name: str | None
    status: Status
    compute: Compute
    profile: str
    image: str
    isolation: str
    cargo_id: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    created_at: datetime
    expires_at: datetime | None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What kind of sandbox a create gives. `start`: eager = compute begins with the create, lazy = with the first call."""

    id: str
    image: str = "host"
    isolation: str = "container"
    resources: Resources = field(default_factory=Resources)
    capabilities: tuple[Capability, ...] = ALL_CAPABILITIES
    env: dict[str, str] = field(default_factory=dict[str, str])
    idle_timeout: int | None = 1800
    warm_timeout: int | None = 3600
    pool_size: int = 0
    """How many started sandboxes wait for a create."""
    output_buffer_mb: int = 1
    """How much of the newest output of each exec is kept, MiB."""
    ttl: int | None = None
    persist: Persist = "workspace"
    disk_mb: int | None = 10_240
    """How much its files may hold, MiB, where the host can hold to that; None = no limit."""
    start: Literal["eager", "lazy"] = "eager"
    kernel: Literal["eager", "lazy"] = "lazy"
    """Whether the default kernel starts with the session, or with the first code that is run in it."""
    root: bool = True
    """Whether an exec may ask for `user: root` (root of the sandbox's user namespace, nobody outside)."""
    user: str = "ship"
    """The name of uid 1000, whom commands run as."""
    users: tuple[str, ...] | None = None
    """Who else an exec may ask for where `root` is false; None = every user of /etc/passwd."""
    network_policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    """What its network may reach, when the create does not say."""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """How full the pool of one profile is. The counts of hits, misses and failures are since Bay started.

    `refill_at` is set after failed starts: nothing is started before.
    """

    profile: str
    size: int
    ready: int
    starting: int
    oldest_at: datetime | None
    hits: int
    misses: int
    failures: int
    last_error: str | None
    refill_at: datetime | None


GarbageTask = Literal["idle_session", "expired_sandbox", "orphan_cargo", "orphan_container"]
"""What a collection looks for: idle or frozen compute, expired sandboxes, and files and containers of nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageTaskResult:
    """What one task of a collection did. Skipped is what was idle by its clock and is at work all the same."""

    task_name: GarbageTask
    cleaned_count: int
    skipped_count: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageRun:
    """What a collection did, task by task and in all."""

    results: tuple[GarbageTaskResult, ...]
    total_cleaned: int
    total_errors: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageState(GarbageRun):
    """Whether a collection is under way, and what the last one that was asked for did at `ran_at`.

    `interval_seconds`: how often Bay looks by itself for what is idle and what has expired.
    """

    enabled: bool
    is_running: bool
    interval_seconds: float
    tasks: tuple[GarbageTask, ...]
    ran_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Exec(Brief):
    """A process started through Bay. Offsets count bytes of output from the start of the exec, both streams together."""

    id: str
    argv: tuple[str, ...]
    pid: int | None
    tty: bool
    state: ExecState
    exit_code: int | None
    signal: int | None
    started_at: datetime
    ended_at: datetime | None
    output_bytes: int
    first_offset: int
    keep_alive: bool = True
    """Whether the sandbox counts as active while this runs."""
    timed_out: bool = False
    rows: int | None = None
    cols: int | None = None
    """The size of its terminal now; null without one."""
    reason: str | None = None
    """Why the session of a `lost` exec ended: `stopped`, `restored`, `exited` and so on."""
    wait_for_reader: bool = False
    """Whether it was started to wait for the reader of its output."""
    stdout: str | None = None
    stderr: str | None = None
    output: "tuple[OutputChunk, ...] | None" = None
    """Both streams in their order, in place of the two texts, where that was asked for."""
    truncated: bool = False
    """Whether the output above is not all that there was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the sandbox. `cpu_s` counts seconds on a processor, `rss_bytes` memory held now.

    `exec_id` is the exec whose tree it belongs to; null for Ship itself and for what no exec started.
    """

    pid: int
    ppid: int
    uid: int | None
    state: str
    command: str
    rss_bytes: int
    cpu_s: float
    started_at: datetime
    exec_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ShellResult(Brief):
    """The answer of `shell/exec`. `exit_code` is -1 after a timeout; `output` then holds what was printed so far."""

    success: bool
    output: str
    error: str | None
    exit_code: int | None
    execution_id: str
    execution_time_ms: int
    command: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PythonOutput(Brief):
    """What code printed and gave, as text, and the images it showed: each ``{"image/png": base64}``."""

    text: str
    images: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonData:
    """The structured half of the answer of `python/exec`."""

    execution_count: int | None
    output: PythonOutput


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PythonResult(Brief):
    """The answer of `python/exec`. `error` is the traceback, or why the code did not come to its end."""

    success: bool
    output: str
    error: str | None
    data: PythonData
    execution_id: str
    execution_time_ms: int
    code: str | None = None
    truncated: bool = False


KernelState = Literal["starting", "idle", "busy", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A process that runs code cell by cell and remembers its variables. It ends with the session it is in.

    `queued` cells wait for the one that runs. `message` says why a dead one is dead.
    """

    id: str
    spec: str
    language: str | None
    state: KernelState
    pid: int | None
    version: str | None
    execution_count: int | None
    queued: int
    started_at: datetime | None
    last_active_at: datetime | None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A kind of kernel that the image has."""

    name: str
    display_name: str
    language: str | None


CellEventType = Literal["start", "stdout", "stderr", "display", "clear", "result", "error", "end"]
CellStatus = Literal["ok", "error", "timeout", "interrupted", "lost"]
"""How a cell ended: `error` by an exception, `lost` with its kernel, whose variables are gone."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CellEvent(Brief):
    """Something that a cell did. `seq` counts its events; which other fields are set follows from `type`.

    `data` is a MIME bundle: content types, each with its text, or base64 where the type is binary. A
    `display` with `update` replaces what was shown under its `display_id`; `clear` takes away what was shown,
    with `wait` when the next output comes. `end` is always the last.
    """

    seq: int
    type: CellEventType
    text: str | None = None
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: str | None = None
    update: bool | None = None
    wait: bool | None = None
    execution_count: int | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: tuple[str, ...] | None = None
    status: CellStatus | None = None
    restarted: bool | None = None
    """Whether there is a new kernel process in the place of the one that ran the cell."""
    message: str | None = None
    duration_ms: float | None = None
    truncated: bool | None = None
    """Whether output was dropped because there was too much of it."""


CELL_EVENT_FIELDS: dict[CellEventType, tuple[str, ...]] = {
    "start": ("execution_count",),
    "stdout": ("text",),
    "stderr": ("text",),
    "display": ("data", "metadata", "display_id", "update"),
    "clear": ("wait",),
    "result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
    "end": ("status", "execution_count", "restarted", "message", "duration_ms", "truncated"),
}
"""What an event of each type has beside `seq` and `type`."""


ExecType = Literal["python", "shell", "browser", "browser_batch"]
"""The calls that make entries of the history. Those of browsers are words of the API that nothing here makes entries of."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HistoryEntry(Brief):
    """A `shell/exec` or `python/exec` that is over, as the history of its sandbox keeps it.

    Long output lacks its middle and says so there; `output` is None when it is not known. `tags` are sorted and separated by commas.
    `payload_ref` is always None: the entry holds all its text. Clients of this list read the key.
    """

    id: str
    session_id: str
    exec_type: ExecType
    code: str
    success: bool
    execution_time_ms: int
    output: str | None
    error: str | None
    payload_ref: str | None = None
    description: str | None
    tags: str | None
    notes: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutputChunk(Brief):
    """Bytes of one stream of an exec; `offset` is the absolute byte offset of the first of them."""

    offset: int
    stream: Stream
    data: bytes
    t: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What a terminal shows. Lines come without the blanks at their ends; rows and columns of the cursor count from 0.

    `scrollback` are the lines that have left at the top, oldest first, `alternate` whether a program draws on the second
    screen, as editors do, and `offset` the byte offset of the output that is not in it yet.
    """

    rows: int
    cols: int
    lines: tuple[str, ...]
    scrollback: tuple[str, ...]
    cursor_row: int
    cursor_col: int
    cursor_visible: bool
    alternate: bool
    title: str
    offset: int


FileType = Literal["file", "directory", "symlink", "fifo", "socket", "device"]
FileEventType = Literal["created", "modified", "deleted", "moved", "attributes", "overflow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One name in a directory listing. `path` is absolute inside the sandbox, `modified_time` seconds since the epoch."""

    name: str
    path: str
    is_file: bool
    is_dir: bool
    size: int | None
    modified_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What is at a path. `path` is absolute inside the sandbox, `mode` four octal digits, `mtime` seconds since the epoch.

    `size` is in bytes, of a regular file; `target` is what a symbolic link says.
    """

    name: str
    path: str
    type: FileType
    size: int | None
    mode: str
    uid: int
    gid: int
    mtime: float
    target: str | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.type == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type == "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMatch:
    """A place where a search found something. `line` and `column` count from 1; null when names were searched.

    `text` is the line, cut where it is long; `column` counts characters.
    """

    path: str
    line: int | None = None
    column: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found. `truncated`: there is more than was asked for, or than there was time for."""

    matches: tuple[SearchMatch, ...]
    truncated: bool
    files_searched: int
    files_skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent:
    """Something that happened to a file that is watched. `overflow`: events were lost, look again.

    `to` is the new path of what was moved within what is watched.
    """

    type: FileEventType
    path: str | None = None
    to: str | None = None
    is_dir: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """Persistent files, mounted at /workspace. Managed: lives and dies with its sandbox. Sizes are bytes on disk.

    `charged_bytes` is what counts against `size_limit_mb`, which holds only where `size_limit_enforced`.
    """

    id: str
    managed: bool
    managed_by_sandbox_id: str | None
    backend: str
    size_limit_mb: int | None
    created_at: datetime
    last_accessed_at: datetime
    size_limit_enforced: bool = False
    used_bytes: int | None = None
    used_inodes: int | None = None
    charged_bytes: int | None = None
    measured_at: datetime | None = None
    sandbox_ids: tuple[str, ...] = ()
    """The sandboxes that have it as their workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of a sandbox as they were at `created_at`. Sizes are bytes on disk, null until they are measured.

    `exclusive_bytes` are held by nothing but this checkpoint. `parent_id` is the checkpoint that its files grew from; `current`
    says that the present files grew from this one. `auto` ones are made, and removed again, by the sandbox's policy.
    """

    id: str
    sandbox_id: str
    name: str | None
    comment: str | None
    created_at: datetime
    kind: Literal["files"]
    auto: bool
    parent_id: str | None
    current: bool
    persist: Persist
    size_bytes: int | None
    exclusive_bytes: int | None
    inodes: int | None
    measured_at: datetime | None


KeyScope = Literal["admin", "write", "read"]
"""What a key may do: read = look only, write = everything of its owner's, admin = also keys, audit and the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a key, or all keys of an owner together, may use at once; None = no limit. Sizes are MiB."""

    sandboxes: int | None = None
    running: int | None = None
    """Sandboxes that have or want compute and are not frozen."""
    cpus: float | None = None
    """Cores of those."""
    memory_mb: int | None = None
    """Memory of those and of the frozen ones."""
    disk_mb: int | None = None
    """Files, as last measured."""
    cargos: int | None = None
    """Cargos that belong to no sandbox."""
    creates_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Who calls: whose sandboxes a key sees, and what it may do to them. The secret is stored nowhere."""

    id: str
    name: str
    owner: str
    scope: KeyScope
    quotas: Limits | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey(Key):
    """A key as its create answers it. `secret` is shown this once; a repeated create has None there."""

    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One call that was meant to change something, and what came of it.

    `status` is None while the call is under way, and for ever when Bay ended during it. `owner` and
    `key_id` are None when nobody was authenticated; `code` is the error's, None on success.
    """

    at: datetime
    owner: str | None
    key_id: str | None
    method: str
    path: str
    resource_id: str | None
    request_id: str
    status: int | None
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `id` is the place in the stream to go on from; it has a meaning only to its owner."""

    id: str
    type: str
    sandbox_id: str | None
    at: datetime
    data: dict[str, Any] = field(default_factory=dict[str, Any])


GAP = "events.gap"
"""The type of an event that is not stored: it stands where older ones are no longer kept."""

EVENT_TYPES: tuple[str, ...] = (
    "sandbox.created",
    "sandbox.updated",
    "sandbox.starting",
    "sandbox.ready",
    "sandbox.failed",
    "sandbox.idle",
    "sandbox.paused",
    "sandbox.resumed",
    "sandbox.cooled",
    "sandbox.exited",
    "sandbox.unreachable",
    "sandbox.stopped",
    "sandbox.checkpointed",
    "sandbox.checkpoint_failed",
    "sandbox.checkpoint_deleted",
    "sandbox.restored",
    "sandbox.restore_failed",
    "sandbox.deleted",
    "network.changed",
    "port.opened",
    "port.closed",
    "service.failed",
    "service.unhealthy",
)
"""What is stored, and what a webhook can be told of; docs/events.md says when each happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where events are sent. `types` empty means all; `secret` signs, and is there only in the answer of the create."""

    id: str
    url: str
    types: tuple[str, ...]
    created_at: datetime
    attempts: int = 0
    """Failed attempts in a row, 0 while all is well."""
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    secret: str | None = field(default=None, repr=False)


Model = TypeVar("Model")


def to_wire(value: object) -> Any:
    """`value` (a model, or anything made of models) as JSON-ready data."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if names := _names(kind):
        return {name: to_wire(getattr(value, name)) for name in names}
    if isinstance(value, datetime):
        return to_rfc3339(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(k): to_wire(v) for k, v in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [to_wire(v) for v in cast("list[object]", value)]
    return value


_PLAIN = frozenset((str, int, float, bool, type(None)))


@cache
def _names(kind: type[object]) -> tuple[str, ...]:
    """The fields of a model; none of what is no model."""
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()


def from_wire(cls: type[Model], data: object) -> Model:
    """A `cls` from decoded JSON. Raises TypeError or ValueError when `data` does not describe one."""
    if not isinstance(data, dict):
        raise TypeError(f"expected an object for {cls.__name__}, got {type(data).__name__}")
    given = cast("dict[str, Any]", data)
    decoders = _decoders(cls)
    return cls(**{n: _decoded(decoders[n], value) for n, value in given.items() if n in decoders})


Decoder = Callable[[Any], Any]


def _decoded(decode: Decoder | None, value: Any) -> Any:
    return value if decode is None or value is None else decode(value)


@cache
def _decoders(cls: type[object]) -> dict[str, Decoder | None]:
    """How each field is decoded, found out once a class; None for what stays as it came."""
    return {name: _decoder(hint) for name, hint in get_type_hints(cls).items()}


def _decoder(hint: Any) -> Decoder | None:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _decoder(next(a for a in get_args(hint) if a is not type(None)))
    if origin is tuple:
        each = _decoder(get_args(hint)[0])
        return tuple if each is None else lambda items: tuple(_decoded(each, item) for item in items)
    if hint is datetime:
        return from_rfc3339
    if hint is bytes:
        return partial(b64decode, validate=True)
    return partial(from_wire, cast("type[Any]", hint)) if is_dataclass(hint) else None
