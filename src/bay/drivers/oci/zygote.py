"""Bay's side of the zygote, the process that forks the Ships of new sandboxes (see `ship.zygote`).

A fork takes a few milliseconds and shares most of its memory, where an interpreter that starts takes a
hundred and shares nothing. The zygote ends when its socket closes, so with Bay.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from bay.drivers.oci.rlimits import limits
from bay.drivers.oci.spec import CAPABILITIES, CLOSURE, OOM_SCORE_ADJ, ship_command
from bay.drivers.oci.userns import USER_LIMITS, write_maps
from bay.errors import DriverUnavailable, SandboxNotReady
from bay.linux import mounts
from bay.linux.libseccomp import compile_profile
from bay.linux.processes import closing_fd, ends_within, start_time

log = structlog.get_logger("bay.drivers.oci")

_MAX_FORKS = 2000  # then a new one: its children share an address layout
_TRIES = 3
_ANSWER_S = 5.0
_READY_S = 15.0
_MESSAGE_BYTES = 4096
_KINDS = ("mnt", "cgroup", "uts", "ipc")
_READ = os.O_RDONLY | os.O_CLOEXEC


class _Lost(Exception):
    """The zygote ended, or does not answer."""


class FirstProcess:
    """The first process of a session, which is being forked.

    `users` is a descriptor of its user namespace.
    """

    def __init__(self, channel: socket.socket, users: int, filters: int) -> None:
        self.users = users
        self._channel = channel
        self._filters = filters

    def born(self) -> tuple[int, int]:
        """Its pid and start time. Blocks; raises SandboxNotReady, DriverUnavailable."""
        try:
            pid, pidfd = _answer(self._channel, "pid")
        except _Lost as lost:
            raise SandboxNotReady(f"the first process of the session was not made: {lost}") from lost
        with closing_fd(pidfd):
            started = start_time(int(pid))
            if started is None or ends_within(pidfd, 0):  # then the number may be another's
                raise SandboxNotReady("the first process of the session ended at once")
        return int(pid), started

    def order(self, holder: int, environment: Mapping[str, str], output: int) -> None:
        """Have it enter the namespaces that the process `holder` is in, and be Ship.

        `output` is where it says that it is ready, or why it cannot be. Raises SandboxNotReady, OSError.
        """
        message = {
            "environment": dict(environment),
            "capabilities": sum(1 << number for number in CAPABILITIES.values()),
        }
        with contextlib.ExitStack() as held:
            descriptors = [
                held.enter_context(closing_fd(os.open(f"/proc/{holder}/ns/{kind}", _READ))) for kind in _KINDS
            ]
            try:
                socket.send_fds(
                    self._channel, [json.dumps(message).encode()], [*descriptors, output, self._filters]
                )
            except BrokenPipeError:
                raise SandboxNotReady("the first process of the session ended at once") from None

    def close(self) -> None:
        """Let go of it: without an order it ends."""
        self._channel.close()
        os.close(self.users)


class Zygote:
    """Keeps one zygote running from `closure`, and asks it for Ships under the seccomp `profile`.

    `stage` is an empty directory. Threads may share it.
    """

    def __init__(self, closure: Path, stage: Path, machine: str, profile: Mapping[str, Any]) -> None:
        self._closure = closure
        self._stage = stage
        self._command = ship_command(machine, "ship.zygote")
        self._profile = profile
        self._filters = os.memfd_create("bay-seccomp")
        self._lock = threading.Lock()
        # A thread that stays in the host's namespaces: those that launch sessions have left them.
        self._host = ThreadPoolExecutor(1, thread_name_prefix="bay-zygote")
        self._current: _ZygoteProcess | None = None

    def open(self) -> None:
        """Start the first. Blocks; raises DriverUnavailable or OSError."""
        os.write(self._filters, compile_profile(self._profile))
        self._running()

    def close(self) -> None:
        """End it. Ships that it forked go on."""
        with self._lock:
            if self._current is not None:
                self._current.end()
                self._current = None
        self._host.shutdown()
        os.close(self._filters)

    def fork(self, network: int, id_base: int) -> FirstProcess:
        """The first process of a new session, in that network namespace and in user and pid namespaces of its
        own, in which ids 0 to 65535 are `id_base` and up outside.

        Blocks. A zygote that has ended or does not answer is replaced. Raises DriverUnavailable or OSError.
        """
        for _ in range(_TRIES):
            running = self._running()
            try:
                return FirstProcess(*running.fork(network, id_base), self._filters)
            except _Lost as lost:
                log.warning("zygote.lost", pid=running.pid, reason=str(lost))
                self._drop(running)
        raise DriverUnavailable("the process that starts sandboxes ends again and again; see Bay's log")

    def _running(self) -> "_ZygoteProcess":
        with self._lock:
            if self._current is not None and self._current.forks < _MAX_FORKS:
                return self._current
            if self._current is not None:
                self._current.retire()
            self._current = self._host.submit(self._start).result()
            return self._current

    def _drop(self, lost: "_ZygoteProcess") -> None:
        with self._lock:
            if self._current is lost:
                self._current = None
                lost.end()

    def _start(self) -> "_ZygoteProcess":
        """Started by a thread of its own, which leaves its namespaces behind for the zygote."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        started: list[subprocess.Popen[bytes]] = []
        failed: list[OSError] = []

        def spawn() -> None:
            try:
                started.append(self._spawn(its))
            except OSError as error:
                failed.append(error)

        with its:
            thread = threading.Thread(target=spawn)
            thread.start()
            thread.join()
        if failed:
            ours.close()
            raise failed[0]
        process = _ZygoteProcess(started[0], ours)
        process.expect_ready()
        return process

    def _spawn(self, its: socket.socket) -> subprocess.Popen[bytes]:
        with closing_fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
            self._enter_root()
            return subprocess.Popen(
                self._command,
                stdin=its.fileno(),
                stdout=null,
                stderr=null,
                cwd="/",
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # Ctrl-C ends Bay, and starts that are under way come first
            )

    def _enter_root(self) -> None:
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_FS)
        mounts.make_all_private()
        with closing_fd(mounts.new_mount("tmpfs", [("size", "64k"), ("mode", "0755")])) as root:
            _attach(root, self._stage)
        place = self._stage / CLOSURE.lstrip("/")
        place.mkdir()
        with closing_fd(mounts.open_tree(self._closure)) as closure:
            mounts.set_attributes(closure, mounts.NOSUID | mounts.NODEV | mounts.RDONLY)
            _attach(closure, place)
        (self._stage / "proc").mkdir()
        hidden = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
        with closing_fd(mounts.new_mount("proc", [], hidden)) as proc:
            _attach(proc, self._stage / "proc")
        mounts.make_read_only(str(self._stage))
        mounts.change_root(self._stage)


class _ZygoteProcess:
    """One zygote."""

    def __init__(self, process: subprocess.Popen[bytes], bay: socket.socket) -> None:
        self.pid = process.pid
        self.forks = 0
        self._process = process
        self._bay = bay

    def expect_ready(self) -> None:
        """Return once it has Ship loaded. Raises DriverUnavailable."""
        self._bay.settimeout(_READY_S)
        with contextlib.suppress(TimeoutError):
            if self._bay.recv(_MESSAGE_BYTES) == b"ready":
                self._bay.settimeout(_ANSWER_S)
                return
        self.end()
        raise DriverUnavailable("the process that starts sandboxes does not start")

    def fork(self, network: int, id_base: int) -> tuple[socket.socket, int]:
        """The channel and the user namespace of a first process. Raises _Lost, DriverUnavailable, OSError."""
        self.forks += 1
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        try:
            with its:
                self._ask([its.fileno(), network], id_base)
            pid, users = _answer(ours, "users")
            write_maps(int(pid), id_base)
            ours.send(b"mapped")
        except BaseException:
            ours.close()
            raise
        return ours, users

    def _ask(self, descriptors: list[int], id_base: int) -> None:
        request = {
            "owner": id_base,
            "rlimits": limits(),
            "oom_score_adj": OOM_SCORE_ADJ,
            "user_limits": USER_LIMITS,
        }
        try:
            socket.send_fds(self._bay, [json.dumps(request).encode()], descriptors)
        except OSError as error:
            raise _Lost(f"it takes no request: {error}") from error

    def retire(self) -> None:
        """Let it end after the requests that are under way."""
        self._bay.shutdown(socket.SHUT_WR)
        self._bay.close()
        threading.Thread(target=self._process.wait, daemon=True).start()

    def end(self) -> None:
        """Kill it."""
        self._bay.close()
        self._process.kill()
        self._process.wait()


def _answer(channel: socket.socket, word: str) -> tuple[str, int]:
    """The text and the descriptor of the answer `word`. Raises _Lost, DriverUnavailable."""
    try:
        message, descriptors, _flags, _address = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
    except TimeoutError:
        raise _Lost(f"it did not answer within {_ANSWER_S:g} s") from None
    said, _, rest = message.decode().partition(" ")
    if said == word and descriptors:
        return rest, descriptors[0]
    for descriptor in descriptors:
        os.close(descriptor)
    if said == "error":
        raise DriverUnavailable(f"the host refused a step of the start: {rest}; see `bay doctor`")
    raise _Lost("it ended")


def _attach(mount: int, path: Path) -> None:
    with closing_fd(mounts.open_directory(path)) as directory:
        mounts.attach(mount, directory)
