"""Launching a session's container: all the work of the one launching thread, in order.

The thread has its policy put in place, leaves the host's mount and network namespaces, connects the network,
brings up loopback, assembles the root file system, runs runc there, and ends. runc and the container inherit
the namespaces, and the kernel drops the thread's own mounts, also when Bay is killed on the way.
"""

import errno
import fcntl
import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from bay.drivers.base import SessionSpec
from bay.drivers.oci import cgroup_limits, cgroups, hostname, netns, rootfs
from bay.drivers.oci.criu import Clocks, Criu
from bay.drivers.oci.layout import SessionPlaces
from bay.drivers.oci.memory_image import ImageDirectory, ImageUnusable
from bay.drivers.oci.runc import Runc, RuncProcess
from bay.drivers.oci.runsc import Runsc, build_spec
from bay.drivers.oci.spec import (
    SOCKET_DIR,
    RuntimePlacement,
    build,
    build_place_holder,
    environment,
)
from bay.drivers.oci.userns import user_namespace
from bay.drivers.oci.zygote import ReapedCommand, Zygote
from bay.drivers.start_output import StartOutput
from bay.errors import DriverUnavailable, SandboxNotReady, StorageFull
from bay.linux import mounts
from bay.linux.processes import closing_fd, holders, kill_tree, start_time
from bay.models import NetworkPolicy
from bay.network import sentry_link
from bay.network.manager import RESOLVER, NetworkManager
from bay.network.slots import NetworkSlot

log = structlog.get_logger("bay.drivers.oci")


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """The slot of a session that begins, and the policy that it begins with.
    The policy is in place before the device, that before the first process, and DNS before the first command.
    """

    network: NetworkManager
    slot: NetworkSlot
    policy: NetworkPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMemory:
    """The image to start from, and what its manifest has for that: `external` are keys of mounts."""

    image: ImageDirectory
    criu: Criu | None
    """None for gVisor's."""
    external: frozenset[str]
    clocks: Clocks
    files: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One container to start."""

    spec: SessionSpec
    places: SessionPlaces
    stage: Path
    rootfs: rootfs.Rootfs
    cgroup: str
    id_base: int
    runc: Runc
    tell_mapping: bool
    seccomp: dict[str, Any]
    zygote: Zygote | None
    """Forks the session's Ship; without one runc starts it."""
    line: NetworkAttachment | None
    """To the network; without one the session has loopback only."""
    runsc: Runsc | None = None
    """Runs the session in gVisor, in the place of `runc` and `zygote`."""
    memory: SavedMemory | None = None
    """The session's processes as they were saved; without them it begins anew."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The first process of a container, as the host sees it."""

    pid: int
    started: int


def launch(order: LaunchRequest, output: StartOutput) -> Launched:
    """Start the container with `output` as stdout and stderr of its first process.
    Blocks. The calling thread is in other namespaces afterwards and must end.
    Raises DriverUnavailable, StorageFull or SandboxNotReady, and ImageUnusable or CriuFailed for memory.
    """
    with host_errors(), locked(order.places.lock) as lock:
        if (line := order.line) is not None:
            line.network.admit(line.slot, line.policy)
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWNET | mounts.CLONE_FS)
        netns.set_up_loopback()
        with closing_fd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as network:
            if line is not None:
                line.network.offer() if line.slot.sentry else line.network.connect(line.slot, network)
            if order.runsc is not None:
                return _start_in_gvisor(order, order.runsc, network, output, lock)
            if order.memory is not None and order.memory.criu is not None:
                return _start_from_memory(order, order.memory, order.memory.criu, output, lock)
            if order.zygote is not None:
                return _start_by_fork(order, order.zygote, network, output, lock)
        return _start_by_runc(order, output, lock)


def _start_by_runc(order: LaunchRequest, output: StartOutput, lock: int) -> Launched:
    with user_namespace(order.id_base) as userns:
        root = rootfs.assemble(order.rootfs, order.stage, userns, order.id_base)
        _write_bundle(order, root, userns)
        return _noted(order, _run(order, output, lock))


def _start_in_gvisor(
    order: LaunchRequest, runsc: Runsc, network: int, output: StartOutput, lock: int
) -> Launched:
    line = order.line
    with user_namespace(order.id_base) as userns:
        root = rootfs.assemble(order.rootfs, order.stage, userns, order.id_base)
        resolver = sentry_link.RESOLVER if line is not None else RESOLVER
        hostname.write_down(order.spec.hostname, order.id_base, root, resolver)
        _write_bundle(order, root, userns, network=None if line is None else network)
        session, places = order.spec.session_id, order.places
        image = None if order.memory is None else _taken(order.memory)
        pid = runsc.run(
            session,
            places.bundle,
            places.sandbox_state,
            output=output,
            lock=lock,
            network=line is not None,
            image=image,
        )
        if line is not None:
            line.network.attend()
            line.network.connect(line.slot, network)
        if image is not None:
            cgroups.freeze(order.cgroup)  # until it is settled; see `OciDriver`
        shutil.rmtree(places.bundle)  # Ship's token is in it
        return _noted(order, pid)


def _taken(memory: SavedMemory) -> Path:
    """The image, which no later start may use. Raises ImageUnusable."""
    memory.image.check(memory.files)
    memory.image.take()
    return memory.image.path


def _noted(order: LaunchRequest, pid: int) -> Launched:
    started = start_time(pid)
    if started is None:
        raise SandboxNotReady(f"the first process of session {order.spec.session_id} ended at once")
    order.places.note_first_process(pid, started)
    return Launched(pid, started)


def _start_by_fork(
    order: LaunchRequest, zygote: Zygote, network: int, output: StartOutput, lock: int
) -> Launched:
    """Have the zygote fork Ship, and runc make the container around it: runc's own process never starts."""

    def create(command: list[str]) -> ReapedCommand:
        return zygote.run(command, network, output.writer, lock)

    with closing(zygote.fork(network, order.id_base)) as first:
        root = rootfs.assemble(order.rootfs, order.stage, first.users, order.id_base)
        pid, started = first.born()
        _write_bundle(order, root, first.users, pid)
        holder = _run(order, output, lock, create)
        order.places.note_first_process(pid, started)
        cgroups.join(order.cgroup, pid, like=holder)
        first.order(holder, {**environment(order.spec), "HOME": "/root"}, output.writer)  # runc adds it too
    return Launched(pid, started)


def _start_from_memory(
    order: LaunchRequest, memory: SavedMemory, criu: Criu, output: StartOutput, lock: int
) -> Launched:
    """Have CRIU make the processes again, in control groups that runc made for a container that never runs.

    Raises CriuFailed and ImageUnusable beside the errors of `launch`; nothing of the session has run then.
    """
    with ThreadPoolExecutor(1) as beside, user_namespace(order.id_base) as userns:
        checked = beside.submit(memory.image.check, memory.files)  # takes as long as runc, for some 50 MB
        mounted = rootfs.assemble_apart(order.rootfs, order.stage, userns, order.id_base)
        holder = _hold_place(order, userns, output, lock)
        try:
            if missing := sorted(memory.external - mounted.keys()):
                raise ImageUnusable(f"mounts are gone that it had: {', '.join(missing)}")
            checked.result()
            memory.image.give_to(order.id_base)
            memory.image.take()
            pid = criu.restore(
                order.id_base,
                memory.image.path,
                mounted["/"],
                {key: mounted[key] for key in memory.external},
                memory.clocks,
                lambda waiting: cgroups.join(order.cgroup, waiting, like=holder),
                lambda: cgroups.was_short_of_memory(order.cgroup),
            )
            cgroups.freeze(order.cgroup)  # until it is settled; see `OciDriver`
            cgroup_limits.change(order.cgroup, order.spec.resources)
        finally:
            os.kill(holder, signal.SIGKILL)
    started = start_time(pid)
    if started is None:
        raise SandboxNotReady(f"the first process of session {order.spec.session_id} ended at once")
    order.places.note_first_process(pid, started)
    return Launched(pid, started)


def _hold_place(order: LaunchRequest, userns: int, output: StartOutput, lock: int) -> int:
    """The first process of a container that has the session's control groups, and waits."""
    root = order.stage / "holder"
    for directory in (root, root / "proc", root / "dev"):
        directory.mkdir(mode=0o755)
        os.chown(directory, order.id_base, order.id_base)
    (root / "wait").touch(mode=0o755)
    _write_bundle(order, root, userns, describe=build_place_holder)
    return _run(order, output, lock, lambda command: order.runc.spawn(command, output, lock))


def _run(
    order: LaunchRequest,
    output: StartOutput,
    lock: int,
    create: Callable[[list[str]], RuncProcess] | None = None,
) -> int:
    """The process that runc starts, or only creates."""
    log = order.places.run / "runc.log"
    session, bundle = order.spec.session_id, order.places.bundle
    pid = order.runc.run(session, bundle, log=log, output=output, lock=lock, create=create)
    shutil.rmtree(bundle)  # runc has read it, and Ship's token is in it
    return pid


def seal_socket_dir(pidfd: int) -> None:
    """Make the directory of Ship's socket read-only inside, now that the socket is there.
    Root inside could fill the host's /run there, or put another socket in Ship's place. Blocks; the calling
    thread is in other namespaces afterwards and must end.
    """
    with host_errors():
        _enter_mounts(pidfd)
        mounts.make_read_only(SOCKET_DIR)


def unseal_socket_dir(pidfd: int) -> None:
    """Undo `seal_socket_dir`, of a session that stands still; as that does."""
    with host_errors():
        _enter_mounts(pidfd)
        mounts.make_writable(SOCKET_DIR)


def _enter_mounts(pidfd: int) -> None:
    mounts.unshare(mounts.CLONE_FS)
    mounts.setns(pidfd, mounts.CLONE_NEWNS)


@contextmanager
def locked(file: Path) -> Generator[int]:
    """Hold a session's lock, as does each process that inherits it, until it ends or runs a program."""
    with closing_fd(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd


def wait_unlocked(file: Path, timeout_s: float, patience_s: float = 2.0) -> None:
    """Return once the lock is free. Blocks. Raises DriverUnavailable after `timeout_s`.
    A start that a killed Bay left has `patience_s` to finish, which takes a runc some hundredths of a second.
    Processes that hold the lock after that count as hung, and are killed.
    """
    began = time.monotonic()
    with closing_fd(os.open(file, os.O_RDWR | os.O_CLOEXEC)) as fd:
        while not _try_lock(fd):
            # The kernel has no flock with a time limit, and a runc that hangs would hold it for ever.
            waited = time.monotonic() - began
            if waited > timeout_s:
                raise DriverUnavailable(f"{file} is locked by a start that does not end")
            if waited > patience_s:
                for pid in holders(file):
                    kill_tree(pid, patience_s)
            time.sleep(0.01)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def host_errors() -> Generator[None]:
    """The kernel's errors as Bay's: a full disk, or a host that cannot. Owners read the text: no paths."""
    try:
        yield
    except OSError as error:
        log.warning("driver.refused_by_host", error=str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"the disk of all sandboxes is full: {error.strerror}; delete files, checkpoints or "
                "sandboxes, or enlarge it"
            ) from error
        why = error.strerror or error
        raise DriverUnavailable(f"the host refused a step of the start: {why}; see `bay doctor`") from error


@contextmanager
def told(problem: str) -> Generator[None]:
    """The kernel's errors as a DriverUnavailable that says `problem` and why."""
    try:
        yield
    except OSError as error:
        raise DriverUnavailable(f"{problem}: {error}") from error


def _write_bundle(
    order: LaunchRequest,
    root: Path,
    userns: int,
    first: int | None = None,
    describe: Callable[[SessionSpec, RuntimePlacement], dict[str, Any]] = build,
    network: int | None = None,
) -> None:
    place = RuntimePlacement(
        pid_namespace=None if first is None else f"/proc/{first}/ns/pid",
        rootfs=root,
        userns=f"/proc/{os.getpid()}/fd/{userns}",
        cgroup=order.cgroup,
        machine=platform.machine(),
        seccomp=order.seccomp,
        huge_pages=cgroups.huge_page_sizes(),
        told_id_base=order.id_base if order.tell_mapping else None,
    )
    order.places.bundle.mkdir(mode=0o700)
    if order.runsc is None:
        made = describe(order.spec, place)
    else:
        joined = None if network is None else f"/proc/{os.getpid()}/fd/{network}"
        made = build_spec(order.spec, place, order.id_base, joined)
    (order.places.bundle / "config.json").write_text(json.dumps(made))
