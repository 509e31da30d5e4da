"""A bench for the tests of one driver: starts sessions, runs commands in them, lists their traces here."""

import asyncio
import base64
import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bay.drivers.base import Driver, Endpoint, Handle, ImageRoot, SessionSpec
from bay.drivers.ship_socket import open_connection
from bay.linux.nftables import Nft
from bay.models import NetworkPolicy, Resources
from bay.places import directory_of

TOKEN = secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command: both streams as text, and its exit."""

    exit_code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class DriverBench:
    """One open driver with all it uses, in temporary directories and under a name of its own."""

    driver: Driver
    workspaces: Path
    kept: tuple[Path, ...]
    """The directories the driver was given; what it leaves there counts as left over."""
    instance: str
    """A name that is in the mounts and control groups of this driver's sessions alone."""
    workspace_owner: int | None = None
    """Owner and group of workspaces, for a driver that maps ids; None leaves them to the caller."""
    root: ImageRoot | None = None
    """The root of sessions, for a driver that takes one; None for its own image."""
    isolation: str = "container"
    """The isolation of sessions."""
    started: list[str] = field(default_factory=list[str])

    @property
    def has_network(self) -> bool:
        """Whether its sessions can have more than loopback."""
        return self.isolation not in self.driver.capabilities.without_network

    def spec(self, **changes: Any) -> SessionSpec:
        """A session nobody has started, with a workspace of its own that belongs to the inside user."""
        session_id = f"sess-{secrets.token_hex(8)}"
        workspace = self.workspaces / session_id
        workspace.mkdir()
        if self.workspace_owner is not None:
            os.chown(workspace, self.workspace_owner, self.workspace_owner)
        self.started.append(session_id)
        given: dict[str, Any] = {
            "session_id": session_id,
            "sandbox_id": f"sandbox-{session_id[5:]}",
            "image": "host",
            "isolation": self.isolation,
            "resources": Resources(),
            "workspace": workspace,
            "token": TOKEN,
            "network": NetworkPolicy() if self.has_network else NetworkPolicy(mode="none"),
            "root": self.root,
        }
        return SessionSpec(**{**given, **changes})

    def handle(self, session_id: str) -> Handle:
        """A handle with nothing but the session's id."""
        return Handle(driver=self.driver.name, session_id=session_id)

    async def start(self, spec: SessionSpec) -> Handle:
        """The last handle of a start."""
        async with asyncio.timeout(30):
            return [handle async for handle in self.driver.start(spec, None)][-1]

    @asynccontextmanager
    async def session(self, **changes: Any) -> AsyncGenerator[Handle]:
        """A running session, destroyed at the end."""
        spec = self.spec(**changes)
        try:
            yield await self.start(spec)
        finally:
            await self.driver.destroy(self.handle(spec.session_id))

    async def read(self, spec: SessionSpec, name: str) -> str:
        """A file of the workspace, whether the session runs or not."""
        return (directory_of(spec.workspace) / name).read_text()

    async def touch(self, spec: SessionSpec, name: str) -> None:
        """Make an empty file in the workspace from outside, also of a session that is frozen."""
        (directory_of(spec.workspace) / name).touch()

    async def kill_first(self, handle: Handle) -> None:
        """Kill the first process of a session, frozen or not, from outside."""
        pid = endpoint_of(handle).peer_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def traces(self) -> dict[str, object]:
        """All that the driver could leave behind: the same before a session and after it, but for the files
        of its workspace.
        """
        return host_fingerprint(self)

    async def ships(self) -> int:
        """How many Ships of this driver there are now."""
        return sum(1 for kept in self.kept for _ in kept.rglob("ship.sock"))

    async def clear(self) -> None:
        """Destroy whatever a test left."""
        for session_id in self.started:
            await self.driver.destroy(self.handle(session_id))


async def run(
    handle: Handle,
    command: str,
    *,
    user: str | None = None,
    timeout_s: float = 60,
    token: str = TOKEN,
    **more: Any,
) -> Answer:
    """Run a shell command in a session, through Ship, and wait for it."""
    exec_id = f"exec-{secrets.token_hex(8)}"
    order = {"id": exec_id, "command": command, "user": user, "timeout_s": timeout_s, **more}
    async with asyncio.timeout(timeout_s + 10):
        answer = await call(endpoint_of(handle), "POST", f"/execs?wait={timeout_s + 5:g}", order, token)
    assert "exit_code" in answer, answer
    return Answer(answer["exit_code"], _text(answer["stdout"]), _text(answer["stderr"]))


async def call(
    endpoint: Endpoint, method: str, path: str, body: object = None, token: str = TOKEN
) -> dict[str, Any]:
    """One request to a Ship, and its answer's JSON."""
    reader, writer = await open_connection(endpoint, limit=1 << 24)
    try:
        payload = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + payload)
        answer = await reader.read()
    finally:
        writer.close()
    return cast("dict[str, Any]", json.loads(answer.partition(b"\r\n\r\n")[2]))


def endpoint_of(handle: Handle) -> Endpoint:
    """Where the session of a complete handle answers."""
    assert handle.endpoint is not None
    return handle.endpoint


def host_fingerprint(bench: DriverBench) -> dict[str, object]:
    """The traces that a driver could leave on the host: the same before a session and after it."""
    return {
        "mounts": [line for line in _lines("/proc/self/mountinfo") if _mentions(line, bench)],
        "processes": sorted(_processes(bench)),
        "cgroups": sorted(map(str, cgroups_of(bench))),
        "files": sorted(str(path) for kept in bench.kept for path in _below(kept)),
        "claims": sorted(path.read_text() for path in bench.kept[-1].glob("[0-9]*")),
        "descriptors": sorted(_descriptors()),
        "workspaces": sorted(os.listdir(bench.workspaces)),
        "network": _network(),
    }


def mounts_of_the_host() -> list[str]:
    """Every mount that tests see, but for loop disks, which other tests mount and unmount meanwhile."""
    return [line for line in _lines("/proc/self/mountinfo") if " /dev/loop" not in line]


def cgroups_of(bench: DriverBench) -> list[Path]:
    """The control groups of sessions of the bench, in every hierarchy."""
    # Version 2 and each hierarchy of version 1; not by `**`, as other Bays remove groups meanwhile.
    root = Path("/sys/fs/cgroup")
    return [path for prefix in ("", "*/") for path in root.glob(f"{prefix}bay/{bench.instance}/*/")]


def _mentions(line: str, bench: DriverBench) -> bool:
    return bench.instance in line or any(str(kept) in line for kept in bench.kept)


def _processes(bench: DriverBench) -> list[str]:
    # By control group, so that those of other people on this host do not count; and Bay's own children.
    found: list[str] = []
    for pid in (name for name in os.listdir("/proc") if name.isdecimal()):
        groups, stat = _lines(f"/proc/{pid}/cgroup"), "".join(_lines(f"/proc/{pid}/stat"))
        state, parent, *_ = [*stat.rpartition(")")[2].split(), "", ""]
        if state == "Z":  # ended; whoever adopted it will notice
            continue
        of_a_session = any(f"/bay/{bench.instance}/" in group for group in groups)
        if of_a_session or (parent == str(os.getpid()) and not _is_zygote(pid)):
            found.append(stat.rpartition(")")[0])
    return found


def _is_zygote(pid: str) -> bool:
    # A driver has one as long as it is open, and may replace it.
    return any("ship.zygote" in line for line in _lines(f"/proc/{pid}/cmdline"))


def _network() -> list[str]:
    """Devices, rules and nftables of this test run's own network namespace."""
    if os.getuid() != 0:
        return []
    devices = [path.name for path in Path("/proc/sys/net/ipv4/conf").iterdir()]
    with closing(Nft()) as nft:
        rules = nft.run("list ruleset").splitlines()
    return sorted([*devices, *_said("ip", "rule"), *rules])


def _said(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def _descriptors() -> list[str]:
    kinds = ("mnt:", "net:", "user:", "[pidfd", "pipe:")
    links = [_link(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return [link.split(":")[0] for link in links if any(kind in link for kind in kinds)]


def _below(directory: Path) -> list[Path]:
    # Not what is made once for all sessions: it may appear at the first start. `.cache` has crun's filters.
    shared = {"closures", "images", ".lock", ".cache"}
    return [path for path in directory.rglob("*") if not shared & set(path.relative_to(directory).parts)]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _text(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")
