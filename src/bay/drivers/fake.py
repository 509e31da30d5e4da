"""The fake driver, for tests and for trying Bay without root. IT ISOLATES NOTHING: sessions run as you.

Each session is a real Ship as a child process, on the real workspace directory, behind a real socket, so that
everything above the driver is tested for real. A test can make it fail at a step, wait at a step, refuse,
report wrongly, or lose a session; it never does so by itself.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bay.drivers.base import (
    Capabilities,
    Endpoint,
    Exited,
    Gone,
    Handle,
    Hibernated,
    MemoryInUse,
    MemoryLost,
    MemoryNotSaved,
    MountedVolume,
    NamedImages,
    Observed,
    Owned,
    Paused,
    Running,
    SessionSpec,
    SessionUsage,
)
from bay.drivers.health import check_health
from bay.drivers.start_output import StartOutput
from bay.errors import DriverUnavailable, ImageNotFound, SandboxNotReady
from bay.linux.processes import (
    closing_fd,
    cpu_usec,
    descendants,
    is_stopped,
    kill_and_wait,
    open_process,
    resident_bytes,
    send_signal,
    start_time,
    thread_count,
)
from bay.linux.readiness import wait_readable
from bay.linux.threads import in_new_thread, opened_in_thread
from bay.models import NetworkMode, NetworkPolicy, NetworkState, Resources
from bay.places import directory_of
from bay.units import MIB

SessionState = dict[str, str | int]
"""A session as its directory has it: the sandbox, a token of the start that made it, and its process."""

_READY_S = 15.0
_END_S = 5.0

STEPS = (
    *("claim", "launch", "ready"),
    *(
        "observe",
        "pause",
        "resume",
        "hibernate",
        "make_durable",
        "save_memory",
        "resize",
        "usage",
        "stop",
        "destroy",
        "set_network",
        "list_owned",
    ),
    "refused_packets",
)
"""Where the driver can fail or be held: three steps of `start`, and every other call."""


class ChildProcess(Protocol):
    """A process of this one's."""

    pid: int

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it, once it has ended. Called by several threads."""
        ...


def start_ship(environment: Mapping[str, str], directory: Path, output: int) -> ChildProcess:
    """A Ship in a session of its own, whose output goes to the descriptor `output`. Raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-m", "ship"],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class FakeDriver:
    """Runs sessions as plain processes of the calling user. No isolation at all; see the module.
    `run_dir` belongs to this driver, is short enough for a socket's path, and is all it needs to find its
    sessions again: a second FakeDriver on it takes over from a first one that was dropped.
    """

    name = "fake"

    def __init__(
        self,
        *,
        run_dir: Path,
        fail_at: str | None = None,
        hold_at: str | None = None,
        refuse: bool = False,
        network: tuple[NetworkMode, ...] = ("none", "allowlist", "open"),
        volumes: bool = False,
        registry: Mapping[str, str] | None = None,
        admitted: tuple[str, ...] = (),
        memory: bool = False,
    ) -> None:
        kinds = ("container",)
        self.capabilities = Capabilities(
            isolation=kinds, pause="freezer", images=("host",), network=network, volumes=volumes,
            broker="allowlist" in network, shared=True, memory=kinds if memory else (),
            other_images="layers" if registry is None else NamedImages(admitted=admitted),
        )  # fmt: skip
        self.registry = dict(registry or {})
        """The digests of the references that a session may name, where it is made with some. No session has
        the files of an image."""
        self.images: dict[str, str] = {}
        """The image that each session was started with."""
        self.volumes: dict[str, tuple[MountedVolume, ...]] = {}
        """The volumes of each session, which are mounted nowhere, also with `volumes`."""
        self._run_dir = run_dir
        self._children: dict[int, ChildProcess] = {}
        self.fail_at = fail_at
        """The step that raises DriverUnavailable, until a test sets it to None."""
        self.hold_at = hold_at
        """The step that waits for `let_go`."""
        self.refuse = refuse
        """Whether every call raises DriverUnavailable, as when a host is out of reach."""
        self.let_go = asyncio.Event()
        """Set by the test: the held step continues."""
        self.held = asyncio.Event()
        """Set by the driver: it waits at `hold_at`."""
        self.hung: set[str] = set()
        """Sessions whose processes do not end: killing them waits for `let_go`, and fails."""
        self.unsavable: dict[str, str] = {}
        """Why the memory of a session cannot be saved."""
        self.lost: dict[str, str] = {}
        """Why the memory of a session that hibernates, or of a checkpoint, cannot be used."""
        self.begun: dict[str, str] = {}
        """The checkpoint whose memory each session was to begin with; none has it."""
        self.lies: dict[str, Observed] = {}
        """The result of `observe` for a session id, true or not."""
        self.networks: dict[str, NetworkPolicy] = {}
        self.refusals: dict[str, int] = {}
        """The latest policy of each session, which nothing enforces."""
        self.sizes: dict[str, Resources] = {}
        """The latest resources of each session, which nothing enforces."""
        self.hostnames: dict[str, str] = {}
        """The host name that each session was last given."""

    async def open(self) -> None:
        await in_new_thread(lambda: self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700))

    async def aclose(self) -> None:
        """Sessions keep running."""

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        """The steps are `claim`, `launch` and `ready`; each is reached before it is done."""
        if handle is not None and await in_new_thread(self._hibernated(handle).exists):
            await self._reach("claim")
        if handle is not None and spec.session_id in self.lost:
            raise MemoryLost(self.lost[spec.session_id])
        if handle is not None and (ready := await self._still_ready(spec, handle)):
            await in_new_thread(lambda: self._hibernated(handle).unlink(missing_ok=True))
            yield ready
            return
        for place in (spec.workspace, *(volume.source for volume in spec.volumes)):
            directory_of(place)
        await self._reach("claim")
        if spec.memory is not None:
            await self.check_memory(spec.memory)
            self.begun[spec.session_id] = spec.memory
        self._check_image(spec.image)
        self.images[spec.session_id] = spec.image
        self.networks[spec.session_id] = spec.network
        self.hostnames[spec.session_id] = spec.hostname
        self.sizes[spec.session_id] = spec.resources
        self.volumes[spec.session_id] = spec.volumes
        await self._remove(spec.session_id)
        claim = await in_new_thread(lambda: self._claim(spec))
        await in_new_thread(lambda: self._save_network(spec.session_id, spec.network))
        claimed = Handle(driver=self.name, session_id=spec.session_id, data={"step": "claimed"})
        yield claimed
        await self._reach("launch")
        with StartOutput() as output:
            launched = replace(
                claimed, data=await in_new_thread(lambda: self._launch(spec, claim, output.writer))
            )
            output.close_writer()
            yield launched
            await self._reach("ready")
            await output.wait_ready(spec.session_id, _READY_S)
        endpoint = self._endpoint(launched)
        await check_health(endpoint, spec.token)
        ready_at = {**launched.data, "step": "ready"}
        yield replace(launched, data=ready_at, endpoint=endpoint, image=self._fetched(spec.image))

    async def observe(self, handle: Handle) -> Observed:
        """`lies` come first."""
        await self._reach("observe")
        return self.lies.get(handle.session_id) or await in_new_thread(lambda: self._observe(handle))

    async def wait(self, handle: Handle) -> Exited | Gone:
        if (pidfd := await opened_in_thread(lambda: self._open(handle))) is not None:
            with closing_fd(pidfd):
                await wait_readable(pidfd)
        return await in_new_thread(lambda: self._ended(handle))

    async def pause(self, handle: Handle) -> None:
        """By SIGSTOP to every process."""
        await self._reach("pause")
        await in_new_thread(lambda: self._signal_all(handle, signal.SIGSTOP))

    async def hibernate(self, handle: Handle, token: str) -> int:
        """As `pause`, with a note that it is more: the processes wait in memory, and not on a disk."""
        await self.pause(handle)
        await self._reach("hibernate")
        if (reason := self.unsavable.get(handle.session_id)) is not None:
            raise MemoryNotSaved(reason)
        await in_new_thread(self._hibernated(handle).touch)
        return MIB

    async def make_durable(self, directories: Sequence[Path]) -> set[str]:
        """Of what hibernates, but for `lost`: the processes wait in memory, and outlive no boot."""
        await self._reach("make_durable")
        found = await in_new_thread(self._owned)
        bare = (Handle(driver=self.name, session_id=name) for name, _ in found)
        resting = {one.session_id for one in bare if await in_new_thread(self._hibernated(one).exists)}
        return resting - self.lost.keys()

    async def save_memory(
        self, handle: Handle, token: str, checkpoint_id: str, copy_files: Callable[[], Awaitable[None]]
    ) -> int:
        """A note alone: sessions that begin with it begin anew."""
        await self._reach("save_memory")
        frozen = isinstance(await in_new_thread(lambda: self._observe(handle)), Paused | Hibernated)
        await in_new_thread(lambda: self._signal_all(handle, signal.SIGSTOP))
        try:
            await copy_files()
            if (reason := self.unsavable.get(handle.session_id)) is not None:
                raise MemoryNotSaved(reason)
            kept = self._memories / checkpoint_id
            await in_new_thread(lambda: (self._memories.mkdir(exist_ok=True), kept.touch()))
        finally:
            if not frozen:
                await in_new_thread(lambda: self._signal_all(handle, signal.SIGCONT))
        return MIB

    async def check_memory(self, checkpoint_id: str) -> None:
        if (reason := self.lost.get(checkpoint_id)) is not None:
            raise MemoryLost(reason)
        if not await in_new_thread((self._memories / checkpoint_id).exists):
            raise MemoryLost(f"the memory of checkpoint {checkpoint_id} is not on this host")

    async def remove_memory(self, checkpoint_id: str) -> None:
        await in_new_thread(lambda: (self._memories / checkpoint_id).unlink(missing_ok=True))

    async def list_memories(self) -> set[str]:
        kept = self._memories
        return await in_new_thread(lambda: set(os.listdir(kept)) if kept.is_dir() else set())

    @property
    def _memories(self) -> Path:
        return self._run_dir / ".memories"

    async def resume(self, handle: Handle) -> None:
        """By SIGCONT to every process."""
        await self._reach("resume")
        await in_new_thread(lambda: self._hibernated(handle).unlink(missing_ok=True))
        await in_new_thread(lambda: self._signal_all(handle, signal.SIGCONT))

    async def resize(self, handle: Handle, resources: Resources) -> None:
        """Remember them, unless its processes hold more memory already: nothing here holds them back."""
        await self._reach("resize")
        held = await in_new_thread(lambda: sum(map(resident_bytes, self._everyone(handle))))
        if held > resources.memory:
            raise MemoryInUse(
                f"its processes hold {held // MIB} MiB of memory, which leaves no way to give it "
                f"{resources.memory // MIB} MiB; end some of them, or ask for more",
                details={"used_bytes": held},
            )
        if handle.session_id in self.sizes:
            self.sizes[handle.session_id] = resources

    async def resources(self, handle: Handle) -> Resources | None:
        return self.sizes.get(handle.session_id)

    async def usage(self, handle: Handle) -> SessionUsage | None:
        """Of the processes that descend from its first one. Memory that they share counts for each of them,
        and the host's page cache for none.
        """
        await self._reach("usage")
        return await in_new_thread(lambda: self._usage(handle))

    async def stop(self, handle: Handle, grace_s: float) -> None:
        await self._reach("stop")
        await self._wait_if_hung(handle.session_id)
        await self._end(handle, grace_s)

    async def destroy(self, handle: Handle) -> None:
        await self._reach("destroy")
        await self._wait_if_hung(handle.session_id)
        await self._remove(handle.session_id)
        self.sizes.pop(handle.session_id, None)

    async def set_network(self, handle: Handle, policy: NetworkPolicy) -> None:
        """Remember it: a process of this host has the host's network, and nothing here holds it back."""
        await self._reach("set_network")
        self.networks[handle.session_id] = policy
        await in_new_thread(lambda: self._save_network(handle.session_id, policy))

    async def refused_packets(self) -> Mapping[str, int]:
        """The numbers of `refusals`, which a test sets: nothing here refuses any."""
        await self._reach("refused_packets")
        return dict(self.refusals)

    async def set_hostname(self, handle: Handle, hostname: str) -> None:
        """Remember it: a process of this host has the host's name."""
        self.hostnames[handle.session_id] = hostname

    async def network_state(self, handle: Handle) -> NetworkState:
        """The policy that was asked for, of whichever replica, and that it is not enforced."""
        mode: NetworkMode = await in_new_thread(partial(self._network, handle.session_id))
        return NetworkState(
            mode=mode, enforced=False, counters=(), refused=(), received_bytes=0, sent_bytes=0
        )

    async def list_owned(self) -> AsyncIterator[Owned]:
        await self._reach("list_owned")
        for session_id, sandbox_id in await in_new_thread(self._owned):
            yield Owned(session_id, sandbox_id, Handle(driver=self.name, session_id=session_id))

    async def vanish(self, session_id: str) -> None:
        """Lose a session as a host does that loses power: its processes and all that is known of it."""
        await self._remove(session_id, grace_s=0)

    async def crash(self, session_id: str) -> None:
        """Kill a session's processes; that it was there can still be seen."""
        await self._end(Handle(driver=self.name, session_id=session_id), 0)

    async def _reach(self, step: str) -> None:
        if self.refuse:
            raise DriverUnavailable("the fake driver was told to refuse")
        if self.hold_at == step:
            self.held.set()
            await self.let_go.wait()
        if self.fail_at == step:
            raise DriverUnavailable(f"the fake driver was told to fail at {step}")

    async def _wait_if_hung(self, session_id: str) -> None:
        if session_id in self.hung:
            self.held.set()
            await self.let_go.wait()
        if session_id in self.hung:
            raise DriverUnavailable(f"processes of session {session_id} survive SIGKILL")

    async def _still_ready(self, spec: SessionSpec, handle: Handle) -> Handle | None:
        seen = await in_new_thread(lambda: self._observe(handle))
        if handle.endpoint is None or isinstance(seen, Exited | Gone):
            return None
        await in_new_thread(lambda: self._signal_all(handle, signal.SIGCONT))
        try:
            await check_health(handle.endpoint, spec.token)
        except SandboxNotReady:
            return None
        return handle

    def _check_image(self, image: str) -> None:
        is_pinned = image.rpartition("@")[2] in self.registry.values()
        if isinstance(self.capabilities.other_images, NamedImages) and not (
            image in (*self.capabilities.images, *self.registry) or is_pinned
        ):
            raise ImageNotFound(f"the fake driver's registry has no {image}")

    def _fetched(self, image: str) -> str | None:
        digest = self.registry.get(image)
        return digest and f"{image.rpartition(':')[0]}@{digest}"

    def _claim(self, spec: SessionSpec) -> SessionState:
        claim: SessionState = {"sandbox_id": spec.sandbox_id, "claim": secrets.token_hex(8)}
        try:
            self._directory(spec.session_id).mkdir(mode=0o700)
        except FileExistsError:
            raise self._begun_anew(spec.session_id) from None
        self._save(spec.session_id, claim)
        return claim

    def _launch(self, spec: SessionSpec, claim: SessionState, output: int) -> SessionState:
        self._check_claim(spec.session_id, claim)
        child = start_ship(self._environment(spec), self._directory(spec.session_id), output)
        self._children[child.pid] = child
        threading.Thread(target=child.wait, name="bay-fake-reaper", daemon=True).start()
        started = start_time(child.pid) or 0
        process: SessionState = {"step": "launched", "pid": child.pid, "started": started}
        try:
            self._check_claim(spec.session_id, claim)
        except DriverUnavailable:
            kill_and_wait([child.pid], _END_S)
            raise
        self._save(spec.session_id, {**claim, **process})
        return process

    def _check_claim(self, session_id: str, claim: SessionState) -> None:
        if self._state(session_id) != claim:
            raise self._begun_anew(session_id)

    def _begun_anew(self, session_id: str) -> DriverUnavailable:
        """A Bay that was stopped in the middle of a start goes on after another has begun it anew."""
        return DriverUnavailable(f"another Bay has begun the start of session {session_id} anew")

    def _environment(self, spec: SessionSpec) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(_parent_of("ship")),
            "SHIP_LOCAL": "1",
            "SHIP_SOCKET": str(self._directory(spec.session_id) / "ship.sock"),
            "SHIP_TOKEN": spec.token,
            "SHIP_WORKSPACE": str(directory_of(spec.workspace)),
            "SHIP_UID": str(os.getuid()),
            "SHIP_GID": str(os.getgid()),
            "SHIP_USER": spec.user,
            "SHIP_ALLOW_ROOT": "1" if spec.allow_root else "0",
            "SHIP_KERNEL": spec.kernel,
            "SHIP_KERNEL_ENV": json.dumps(dict(spec.kernel_env)),
            "SHIP_ENV_FILE": "1" if spec.env_file else "0",
            "SHIP_SKILLS": ",".join(spec.skills),
        }

    def _endpoint(self, handle: Handle) -> Endpoint:
        return Endpoint(
            socket_path=str(self._directory(handle.session_id) / "ship.sock"),
            peer_uid=os.getuid(),
            peer_pid=int(handle.data["pid"]),
        )

    def _observe(self, handle: Handle) -> Observed:
        process = self._process(handle)
        if process is None:
            return Gone()
        if (pidfd := open_process(*process)) is None:
            return self._ended(handle)
        os.close(pidfd)
        if self._hibernated(handle).exists():
            return Hibernated(MIB)
        endpoint = self._endpoint(replace(handle, data={"pid": process[0]}))
        return Paused(endpoint) if is_stopped(process[0]) else Running(endpoint)

    def _ended(self, handle: Handle) -> Exited | Gone:
        process = self._process(handle)
        if process is None:
            return Gone()
        child = self._children.get(process[0])
        return Exited(child.wait() if child else None)

    def _hibernated(self, handle: Handle) -> Path:
        return self._directory(handle.session_id) / "hibernated"

    def _owned(self) -> list[tuple[str, str | None]]:
        states = {name: self._state(name) for name in sorted(os.listdir(self._run_dir))}
        states.pop(self._memories.name, None)
        return [(name, str(state["sandbox_id"]) if state else None) for name, state in states.items()]

    async def _end(self, handle: Handle, grace_s: float) -> None:
        if (pidfd := await opened_in_thread(lambda: self._open(handle))) is None:
            return
        with closing_fd(pidfd):
            everyone = await in_new_thread(lambda: self._woken(handle))
            send_signal(pidfd, signal.SIGTERM if grace_s else signal.SIGKILL)
            try:
                async with asyncio.timeout(grace_s or _END_S):
                    await wait_readable(pidfd)
            except TimeoutError:
                send_signal(pidfd, signal.SIGKILL)
                await wait_readable(pidfd)
        # Ship ends its commands when it is asked to; killed, it leaves them behind.
        await in_new_thread(lambda: kill_and_wait(everyone, _END_S))

    def _woken(self, handle: Handle) -> list[int]:
        self._signal_all(handle, signal.SIGCONT)
        return self._everyone(handle)

    async def _remove(self, session_id: str, grace_s: float = _END_S) -> None:
        await self._end(Handle(driver=self.name, session_id=session_id), grace_s)
        directory = self._directory(session_id)
        await in_new_thread(lambda: self._remove_state(session_id, directory))

    def _remove_state(self, session_id: str, directory: Path) -> None:
        state = self._state(session_id)
        if state is not None and "pid" not in state:
            # Killed or stopped between the launch and its record, a Bay leaves a Ship that no file names.
            kill_and_wait(_processes_in(directory), _END_S)
        _remove_tree(directory)

    def _everyone(self, handle: Handle) -> list[int]:
        process = self._process(handle)
        if process is None or start_time(process[0]) != process[1]:
            return []
        return [process[0], *descendants(process[0])]

    def _signal_all(self, handle: Handle, number: signal.Signals) -> None:
        everyone = self._everyone(handle)
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if everyone and number == signal.SIGSTOP:
            _wait_stopped(everyone[0])

    def _usage(self, handle: Handle) -> SessionUsage | None:
        taken_s, everyone = time.monotonic(), self._everyone(handle)
        if not everyone:
            return None
        return SessionUsage(
            taken_s=taken_s,
            cpu_usec=sum(map(cpu_usec, everyone)),
            memory_bytes=sum(map(resident_bytes, everyone)),
            pids=sum(map(thread_count, everyone)),
            limits=self.sizes.get(handle.session_id),
        )

    def _open(self, handle: Handle) -> int | None:
        process = self._process(handle)
        return None if process is None else open_process(*process)

    def _process(self, handle: Handle) -> tuple[int, int] | None:
        state = self._state(handle.session_id)
        return (int(state["pid"]), int(state["started"])) if state and "pid" in state else None

    def _directory(self, session_id: str) -> Path:
        return self._run_dir / session_id

    def _save(self, session_id: str, state: SessionState) -> None:
        (self._directory(session_id) / "state.json").write_text(json.dumps(state))

    def _save_network(self, session_id: str, policy: NetworkPolicy) -> None:
        with contextlib.suppress(FileNotFoundError):  # the session is being removed
            (self._directory(session_id) / "network").write_text(policy.mode)

    def _network(self, session_id: str) -> NetworkMode:
        try:
            found = (self._directory(session_id) / "network").read_text()
        except FileNotFoundError:
            found = ""
        return "none" if found == "none" else "allowlist" if found == "allowlist" else "open"

    def _state(self, session_id: str) -> SessionState | None:
        try:
            return json.loads((self._directory(session_id) / "state.json").read_text())
        except (FileNotFoundError, ValueError):
            return None


def _wait_stopped(pid: int) -> None:
    # A stop takes effect when the process next runs, and the kernel tells its parent alone.
    deadline = time.monotonic() + _END_S
    while not is_stopped(pid) and time.monotonic() < deadline:
        time.sleep(0.001)


def _processes_in(directory: Path) -> list[int]:
    """The processes whose working directory that is."""
    return [int(one) for one in os.listdir("/proc") if one.isdecimal() and _working_dir(one) == directory]


def _working_dir(pid: str) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def _parent_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DriverUnavailable(f"the package {package} is not installed beside Bay")
    return Path(spec.origin).parent.parent


def _remove_tree(directory: Path) -> None:
    """Remove the tree, though others may remove it at the same time."""
    while directory.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
