"""The contract of a driver: it runs sessions on one kind of host.

Vocabulary
    session     One container (or process tree) with Ship in it, for as long as it runs. Its id is `sess-…`.
    spec        All that a driver needs to start a session. It names no request, owner, row or setting.
    handle      A small versioned record of what a driver has made for a session, as JSON. Bay saves each one.
    endpoint    Where the session's Ship answers: a Unix socket, and the process that must be at its other
                end; or a TCP address, and the certificate that it must show.
    capability  Data that says what a driver can do. Bay asks before it acts.
    owned       A session's remains on the host, found by label and not by memory.

The life of a session
    gone → `start` → running ⇄ paused → `stop` → exited → `destroy` → gone. `pause` and `resume` need a
    `Freezer`. `start` yields a handle after each step that leaves something on the host. After a crash at any
    point the last saved handle, or the session id alone, is enough to continue the start or to undo it.
    Unknown is never gone: a host that cannot answer raises DriverUnavailable.

Call sequences
    A session starts, is frozen, and ends:

        async for handle in driver.start(spec, None):
            save(handle)                                # the last one has an endpoint
        watch(driver.wait(handle))
        await driver.pause(handle)                      # a Freezer
        await driver.resume(handle)
        await driver.stop(handle, grace_s=10)
        await driver.destroy(handle)

    Bay starts after a crash:

        await driver.open()
        match await driver.observe(saved):
            case Running(endpoint): ...                 # adopt the session
            case Exited() | Gone(): await driver.destroy(saved)
        async for owned in driver.list_owned():         # what no row knows
            await driver.destroy(owned.handle)

    A start was cut off after its second handle:

        async for handle in driver.start(spec, saved):  # continues, or undoes and begins again: one container
            save(handle)

`Driver` is the core. `Freezer`, `Hibernates`, `SavesMemory`, `Resizable`, `Metered`, `Sampled`,
`NetworkControl`, `CountsRefusals`, `HeaderBroker`, `Hostnames` and `AsksShip` are optional: Bay finds them
with `isinstance`.
`bay.testing.drivers` is the suite that every driver passes.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from bay.errors import CapabilityNotSupported, Conflict, DriverUnavailable
from bay.models import EgressKind, NetworkMode, NetworkPolicy, NetworkState, PauseKind, Persist, Resources
from bay.places import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImages:
    """A host that fetches images itself, by the reference in `SessionSpec.image` when a session starts."""

    admitted: tuple[str, ...] = ()
    """The images that callers may name, as `bay.images.names` reads it. A profile may name any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The abilities of a driver, which the services read before they act."""

    isolation: tuple[str, ...]
    pause: PauseKind | None
    """How it stops programs, as a `Freezer`; None without that."""
    images: tuple[str, ...]
    """The names of images that the driver has of its own."""
    other_images: Literal["layers"] | NamedImages | None = None
    """How a session gets an image that is not the driver's own: as an `ImageRoot` of layers, by its
    reference, or not at all."""
    persist: tuple[Persist, ...] = ("workspace",)
    """Files that can outlive a session; `machine` needs a driver that accepts a place for layers."""
    broker: bool = False
    """Whether a rule of a network policy can have a header added."""
    secret_files: bool = False
    """Whether a session can have a directory `/run/secrets` that is kept in memory alone."""
    volumes: bool = False
    """Whether a session can have directories mounted at paths that its owner chose."""
    memory: tuple[str, ...] = ()
    """The isolations whose sessions it can save with their memory, as a trial at `open` has shown."""
    network: tuple[NetworkMode, ...] = ("none",)
    """The network modes that a session may have."""
    egress: EgressKind = "enforced"
    """Whether sessions are held to their mode. `unenforced`: each reaches what the host's network lets it.
    `proxy`: a session with rules reaches nothing but Bay's egress proxy (`Handle.proxy`), which holds it to
    them; its programs have to use that.
    """
    network_rules: bool = True
    """Whether a policy can have rules."""
    without_network: tuple[str, ...] = ()
    """The isolations whose sessions have the network mode `none` alone."""
    shared: bool = False
    """Whether other processes of the same settings reach its sessions, and may act on them."""

    def of(self, isolation: str) -> "Capabilities":
        """The abilities for sessions of that isolation."""
        return replace(self, network=("none",), broker=False) if isolation in self.without_network else self

    @property
    def layered(self) -> bool:
        """Whether a session's root may be an `ImageRoot`."""
        return self.other_images == "layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUser:
    """Whom the programs of a session run as, by ids inside. `groups`: the supplementary ones, or None for
    those that the sandbox's /etc/group has for that name at the time.
    """

    name: str
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] | None = None

    @property
    def needs_root(self) -> bool:
        """Whether it is root or of root's group, which a profile may forbid."""
        return 0 in (self.uid, self.gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRoot:
    """A root file system of layers, in the place of an image that the driver has of its own.

    Each layer is a directory of the host that never changes, with files owned by inside ids. The topmost has
    a real directory wherever a start mounts something, as `bay.images.tops` makes it.
    """

    layers: tuple[Path, ...]
    """Topmost first."""
    user: ImageUser
    """Instead of `SessionSpec.user`; the workspace's top directory is given to it."""
    cwd: str = "/workspace"
    """Where commands run that are not told where."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Below the environment of each command (`SHIP_ENV`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedVolume:
    """The place `source`, with files owned by inside ids, at the absolute path `path` of a session.

    The mount point is made where there is none. One that a symbolic link of the session's own files leads to,
    or that is no directory, fails the start with Conflict.
    """

    path: str
    source: Place
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Everything a driver needs to start one session; nothing of it names a host path a caller chose."""

    session_id: str
    sandbox_id: str
    image: str
    """One of the driver's own, or with `NamedImages` a reference in its full form."""
    isolation: str
    resources: Resources
    workspace: Place
    """Host directory or volume claim, made by the cargo backend, to mount at /workspace; owned by inside ids.
    A driver that cannot mount that kind raises DriverUnavailable, before it leaves anything behind.
    """
    root: ImageRoot | None = None
    """The root file system; None: that of the driver's own image named `image`."""
    machine: Path | None = None
    """Host directory for the root's writable layers where they outlive the session; None: they go with it."""
    layer_bytes: int | None = None
    """Most bytes outside of the workspace, where they go with it and the host can limit them; None: any."""
    token: str = field(repr=False)
    """Shared secret of Bay and this session's Ship, at least 128 bits."""
    hostname: str = "sandbox"
    user: str = "ship"
    """The name of uid 1000, whom commands run as (`SHIP_USER`)."""
    home: str | None = None
    """The HOME of `user`, whose account and home a start makes where they are missing, also beside an image's
    own name for uid 1000. None: the workspace, or as `root.user`; then nothing is made."""
    users: tuple[str, ...] | None = None
    """Who else an exec may run as where root may not (`SHIP_USERS`); None for all of /etc/passwd."""
    allow_root: bool = True
    """Whether an exec may run as root of the sandbox's user namespace (`SHIP_ALLOW_ROOT`)."""
    savable: bool = False
    """Whether its memory may be saved: it then begins as one that can be."""
    memory: str | None = None
    """The checkpoint whose memory it begins with, as a copy with `token` and `hostname` of its own."""
    kernel: Literal["eager", "lazy"] = "lazy"
    """Whether the default kernel starts with the session, or with the first code in it (`SHIP_KERNEL`)."""
    kernel_env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The environment of the kernel that starts with the session, and of `env_file` (`SHIP_KERNEL_ENV`)."""
    env_file: bool = False
    """Whether those variables are put into `/workspace/.bay_env.sh` (`SHIP_ENV_FILE`)."""
    skills: tuple[str, ...] = ()
    """Capabilities whose built-in skills are put below `/workspace/skills` (`SHIP_SKILLS`)."""
    secret_files: bool = False
    """Whether it has `/run/secrets`, a directory in memory that the user whom commands run as alone sees."""
    tmp_on_disk: bool = False
    """Whether `/tmp` is of the root file system, and stays as that does; else it is in memory."""
    volumes: tuple[MountedVolume, ...] = ()
    """Directories beside the workspace; none overlaps another or a place of the driver's."""
    network: NetworkPolicy = field(default_factory=lambda: NetworkPolicy(mode="none"))
    """The network policy, which holds from the first packet on; its mode is one of the driver's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where Ship answers: a Unix socket, and who must be at the other end of it; or a TCP address, and the
    certificate of the Ship there. Raises ValueError for both, and for neither.

    `peer_uid` and `peer_pid` are as this host sees them; None means that the driver cannot know.
    """

    socket_path: str | None = None
    peer_uid: int | None = None
    peer_pid: int | None = None
    address: str | None = None
    """IP:PORT, or [IP]:PORT for IPv6."""
    certificate: str | None = None
    """The SHA-256 of the certificate in DER, as lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        if (self.socket_path is None) == (self.address is None):
            raise ValueError("an endpoint has either a socket or an address")
        if (self.address is None) != (self.certificate is None):
            raise ValueError("an endpoint has an address with a certificate")

    @property
    def place(self) -> str:
        """The socket's path or the address, for messages."""
        return self.socket_path or self.address or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """The facts by which a driver finds a session again. `data` is the driver's own, JSON scalars only."""

    driver: str
    session_id: str
    version: int = 1
    data: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    endpoint: Endpoint | None = None
    image: str | None = None
    """The image with its digest, `NAME@sha256:…`, that the host says it has fetched for the reference in the
    spec; None where that had a digest, or the host names none.
    """
    network: NetworkMode | None = None
    """The network mode that the session began with, where nobody can change it."""
    proxy: str | None = None
    """HOST:PORT at which a session that reaches nothing else finds Bay's egress proxy."""

    def to_json(self) -> dict[str, Any]:
        """This handle as JSON-ready data."""
        return {
            "driver": self.driver,
            "session_id": self.session_id,
            "version": self.version,
            "data": dict(self.data),
            "endpoint": _facts(self.endpoint) if self.endpoint else None,
            **({"image": self.image} if self.image else {}),
            **({"network": self.network} if self.network else {}),
            **({"proxy": self.proxy} if self.proxy else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Handle":
        """The handle that `to_json` wrote."""
        endpoint = data["endpoint"]
        return cls(
            driver=data["driver"],
            session_id=data["session_id"],
            version=data["version"],
            data=data["data"],
            endpoint=Endpoint(**endpoint) if endpoint else None,
            image=data.get("image"),
            network=data.get("network"),
            proxy=data.get("proxy"),
        )


def _facts(endpoint: Endpoint) -> dict[str, Any]:
    # Without what it does not have, so that a Bay that knows Unix sockets alone reads those of its drivers.
    found = asdict(endpoint)
    return {name: value for name, value in found.items() if value is not None or name.startswith("peer_")}


@dataclass(frozen=True, slots=True)
class Running:
    """The container runs; Ship should answer at `endpoint`."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Paused:
    """The container is frozen in memory; `resume` makes it answer at `endpoint`."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Exited:
    """The container is there, its first process is not. `code` is None when nobody saw it end."""

    code: int | None


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such container, or only half of one that never ran."""


@dataclass(frozen=True, slots=True)
class Hibernated:
    """Nothing of it runs, and its memory takes `size` bytes on disk; `start` makes it go on."""

    size: int


Observed = Running | Paused | Exited | Gone | Hibernated


@dataclass(frozen=True, slots=True)
class Owned:
    """Something on the host that this Bay made for a session: found by label, not by memory."""

    session_id: str
    sandbox_id: str | None
    handle: Handle


class Driver(Protocol):
    """The core of a driver: sessions start, end and are found again."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Check the host and make what all sessions share. Raises DriverUnavailable with the way out."""

    async def aclose(self) -> None:
        """Let go of what `open` took. Sessions keep running."""

    def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        """Start `spec`, yielding a handle after each step that leaves something behind.

        The last handle has an `endpoint` where Ship has already answered `/healthz`. With a `handle`
        from an earlier attempt it goes on from there, or undoes that and begins again: never two
        containers for one session id. On failure or `aclose` of the iterator what exists stays
        for `destroy`. Raises DriverUnavailable, StorageFull or SandboxNotReady.
        """
        ...

    async def observe(self, handle: Handle) -> Observed:
        """The state now. Raises DriverUnavailable when that cannot be known, since unknown is not gone:
        ShipSilent where it has not ended, and Ship alone could tell whether it is paused.
        """
        ...

    async def wait(self, handle: Handle) -> Exited | Gone:
        """Return when the session's first process has ended, by an event of the kernel, not by polling."""
        ...

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """Ask Ship to end (TERM), after `grace_s` seconds kill it; returns when it ended. Gone is success."""

    async def destroy(self, handle: Handle) -> None:
        """Remove the container and all that was made for it, running or not, also half of it.

        Idempotent; a handle with nothing but the session id is enough.
        """

    def list_owned(self) -> AsyncIterator[Owned]:
        """Everything on the host that carries this Bay's label, also remains of starts that died half-way."""
        ...


@runtime_checkable
class Watchful(Protocol):
    """Optional: a driver hears of the ends of all its sessions by itself. So a Bay that takes thousands of
    them over asks it for none of those that go on.
    """

    def running(self, handle: Handle) -> Running | None:
        """The session, if it ran when the driver last heard of it, and that is not long ago. It may
        be paused. None is no word: `observe` it.
        """
        ...


@runtime_checkable
class Freezer(Protocol):
    """Optional: a driver with `capabilities.pause` freezes sessions in memory."""

    async def pause(self, handle: Handle) -> None:
        """Freeze every program of the session, and return when all stand still; idempotent. Ship may go on.

        Pausing or resuming what has ended or is gone changes nothing and is no error: `observe` and `wait`
        tell of it. Files written before are kept. A frozen process that is killed may end only when it is
        resumed or destroyed. Raises DriverUnavailable, with the session running, when it cannot be done.
        """

    async def resume(self, handle: Handle) -> None:
        """Undo `pause`, within a few milliseconds; idempotent."""


class MemoryNotSaved(Conflict):
    """The memory of a session cannot be saved as it is now; the text says what is in the way."""


class MemoryLost(DriverUnavailable):
    """The memory that a session was to go on from cannot be used; the text says why. Its files are there."""


@runtime_checkable
class Hibernates(Protocol):
    """Optional: a driver with `capabilities.memory` writes the memory of sessions to disk and ends them."""

    async def hibernate(self, handle: Handle, token: str) -> int:
        """Save the session's processes as they are now, and end them; the bytes that this takes on disk.

        Until `destroy`, a `start` of the same session makes them go on, once; it raises MemoryLost when it
        cannot. Files outside of the workspace are kept for it. A paused session runs for a moment, for its
        Ship to close its connections. Raises MemoryNotSaved, StorageFull or DriverUnavailable, with the
        session paused; it has ended for nothing else that is raised.
        """
        ...

    async def make_durable(self, directories: Sequence[Path]) -> set[str]:
        """Have the memory that hibernating sessions and checkpoints have now outlive a boot of the host: a
        `start` takes that for no difference then. The ids of those for which it holds.

        `directories` are on the file systems of the workspaces and volumes. No session changes, and one that
        is woken afterwards has used its memory. Repeatable. Killed half-way, it leaves all memory as good as
        it was. Raises DriverUnavailable.
        """
        ...


@runtime_checkable
class SavesMemory(Protocol):
    """Optional, beside `Hibernates`: it keeps copies of the memory of sessions that go on, for any number of
    new ones that begin with `SessionSpec.memory`. Their `start` raises MemoryLost when that cannot be used.
    """

    async def save_memory(
        self, handle: Handle, token: str, checkpoint_id: str, copy_files: Callable[[], Awaitable[None]]
    ) -> int:
        """Save the session's processes and its files outside of the workspace as they are at one moment, at
        which `copy_files` is called as well; the bytes that the memory takes on disk. Repeatable.

        The session, running, paused or hibernating, goes on as before. Connections to Ship go on with it, or
        end where their clients can ask again; nobody may open one meanwhile. Raises MemoryNotSaved,
        StorageFull, DriverUnavailable, or as `copy_files`.
        """
        ...

    async def check_memory(self, checkpoint_id: str) -> None:
        """Raise MemoryLost, with the reason, for memory that a `start` here could not use now."""

    async def remove_memory(self, checkpoint_id: str) -> None:
        """Remove the memory of a checkpoint; idempotent. Sessions that began with it keep theirs."""

    async def list_memories(self) -> set[str]:
        """Ids of every checkpoint that there is memory of, also half of it."""
        ...


class MemoryInUse(Conflict):
    """The session's processes hold more memory than it was to have. End some, or ask for more."""


@runtime_checkable
class Resizable(Protocol):
    """Optional: a driver gives a session that lives other resources."""

    async def resize(self, handle: Handle, resources: Resources) -> None:
        """Hold the session, running or paused, to `resources` from now on; idempotent. Gone is success.
        Raises MemoryInUse, with everything as before, for less memory than is in use and cannot be freed: no
        process is killed for it. More processes than the new limit go on, and start no others. Raises
        DriverUnavailable.
        """

    async def resources(self, handle: Handle) -> Resources | None:
        """The resources that the host holds the session to; None when it is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUsage:
    """The resources that a session uses at one moment; None is one that the driver does not know."""

    taken_s: float
    """When `cpu_usec` was read, in seconds of the monotonic clock."""
    cpu_usec: int | None = None
    """Processor time of all its processes, those that ended too, since it began."""
    memory_bytes: int | None = None
    """Memory that counts against its limit, with its page cache."""
    memory_cache_bytes: int | None = None
    """Its page cache: copies of files on disk, and not the files of a tmpfs, which are nowhere else."""
    pids: int | None = None
    """Processes and threads."""
    limits: Resources | None = None
    """The resources that the host holds it to."""


@runtime_checkable
class Metered(Protocol):
    """Optional: a driver measures sessions."""

    async def usage(self, handle: Handle) -> SessionUsage | None:
        """The usage of a session, running or paused, which stays as it is; None when it is gone.
        Raises DriverUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSample:
    """The use of a session so far, as a pass over many sessions finds it; None is unknown.

    All but the memory are counters since the session began. One may begin again at 0.
    """

    taken_s: float
    """When the counters were read, in seconds of the monotonic clock."""
    cpu_usec: int | None = None
    memory_bytes: int | None = None
    memory_cache_bytes: int | None = None
    read_bytes: int | None = None
    """Bytes that block devices read for it. Devices on top of one another may each count them."""
    written_bytes: int | None = None
    received_bytes: int | None = None
    """Bytes that its network brought."""
    sent_bytes: int | None = None

    @classmethod
    def of(cls, usage: SessionUsage) -> "SessionSample":
        """The figures of a session that was measured alone, which has no bytes."""
        return cls(
            taken_s=usage.taken_s,
            cpu_usec=usage.cpu_usec,
            memory_bytes=usage.memory_bytes,
            memory_cache_bytes=usage.memory_cache_bytes,
        )


@runtime_checkable
class Sampled(Protocol):
    """Optional: a driver measures many sessions in one pass, for little."""

    async def samples(self, handles: Sequence[Handle]) -> Mapping[str, SessionSample]:
        """The samples of sessions that run, by their ids, without those that are gone. None is woken or
        changed by it. Raises DriverUnavailable.
        """
        ...


@runtime_checkable
class NetworkControl(Protocol):
    """Optional: a driver holds sessions to a network policy, in the modes of `capabilities.network`."""

    async def set_network(self, handle: Handle, policy: NetworkPolicy) -> None:
        """Hold the session to `policy` from now on, in one step: at no moment to neither; idempotent.

        A connection to an address that the policy no longer allows is cut. Also called once for every session
        that a restarted Bay takes over: then whatever is missing is made again. Gone is success. Raises
        DriverUnavailable.
        """

    async def network_state(self, handle: Handle) -> NetworkState:
        """The state and the counters of the session's network. Raises DriverUnavailable."""
        ...


@runtime_checkable
class CountsRefusals(Protocol):
    """Optional: a driver counts the packets that the network policies of its sessions refused."""

    async def refused_packets(self) -> Mapping[str, int]:
        """Packets of all sessions together, those that ended too, by reason: `rule`, or without a rule
        `default`, `reserved`, `flood` or `protocol`. They count from `open` on, and no sum falls. Reads as
        much with many sessions as with one. Raises DriverUnavailable.
        """
        ...


SessionTokens = Callable[[str], Awaitable[str | None]]
"""The token of a session's Ship, by the session's id; None for one that there is not."""


class ShipSilent(DriverUnavailable):
    """The session has not ended, as far as its host knows, and its Ship does not answer."""


@runtime_checkable
class AsksShip(Protocol):
    """Optional: a driver that has Ship do what no host does for it, or tell it."""

    def use_tokens(self, tokens: SessionTokens) -> None:
        """Take the token from there, each time one is needed."""


SecretValues = Callable[[str, Collection[str]], Awaitable[Mapping[str, str]]]
"""The values of secrets of a session's owner, by the session's id and their names; those that are there."""


@runtime_checkable
class HeaderBroker(Protocol):
    """Optional: a driver with `capabilities.broker` adds headers to requests, by rules with `inject`."""

    def use_secrets(self, values: SecretValues) -> None:
        """Take the values for headers from there, each time one is needed."""

    async def broker_certificate(self, handle: Handle) -> str | None:
        """The certificate that the session's programs have to trust, as PEM; None while no rule injects."""
        ...


@runtime_checkable
class Hostnames(Protocol):
    """Optional: a driver renames sessions that run."""

    async def set_hostname(self, handle: Handle, hostname: str) -> None:
        """Name a session, running or paused; idempotent. Gone is success. Raises DriverUnavailable."""


def freezer(driver: Driver) -> Freezer:
    """The driver as a `Freezer`. Raises CapabilityNotSupported."""
    if isinstance(driver, Freezer):
        return driver
    raise CapabilityNotSupported(
        f"driver {driver.name} cannot freeze sessions; choose one whose capabilities have pause",
        details={"capability": "pause"},
    )
