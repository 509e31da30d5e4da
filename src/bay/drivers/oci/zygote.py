"""Bay's side of the zygote, the process that forks the Ships of new sandboxes (see `ship.zygote`).

A fork takes a few milliseconds and shares most of its memory, where an interpreter that starts takes a
hundred and shares nothing. The zygote ends when its socket closes, so with Bay.
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import structlog

from bay.drivers.oci.rlimits import limits
from bay.drivers.oci.spec import CAPABILITIES, CLOSURE, OOM_SCORE_ADJ, ship_command
from bay.drivers.oci.userns import USER_LIMITS, write_maps
from bay.errors import DriverUnavailable, SandboxNotReady
from bay.linux import mounts
from bay.linux.libseccomp import compile_profile
from bay.linux.processes import bare_environment, closing_fd, ends_within, start_time

T = TypeVar("T")

log = structlog.get_logger("bay.drivers.oci")

_MAX_FORKS = 2000  # then a new one: its children share an address layout
_TRIES = 3
_ANSWER_S = 5.0
_READY_S = 15.0
_MESSAGE_BYTES = 4096
_KINDS = ("mnt", "cgroup", "uts", "ipc")
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
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
            started = start_time(pid)
            if started is None or ends_within(pidfd, 0):  # then the number may be another's
                raise SandboxNotReady("the first process of the session ended at once")
        return pid, started

    def order(self, holder: int, environment: Mapping[str, str], output: int) -> None:
        """Have it enter the namespaces that the process `holder` is in, and be Ship.

        `output` is where it says that it is ready, or why it cannot be. Raises SandboxNotReady, OSError.
        """
        capabilities = sum(1 << number for number in CAPABILITIES.values())
        message = json.dumps({"environment": dict(environment), "capabilities": capabilities}).encode()
        with contextlib.ExitStack() as held:
            namespaces = [
                held.enter_context(closing_fd(os.open(f"/proc/{holder}/ns/{kind}", _READ))) for kind in _KINDS
            ]
            text = held.enter_context(closing_fd(_memory("bay-order", message)))
            try:
                socket.send_fds(self._channel, [b"order"], [*namespaces, output, self._filters, text])
            except BrokenPipeError:
                raise SandboxNotReady("the first process of the session ended at once") from None

    def close(self) -> None:
        """Let go of it: without an order it ends."""
        self._channel.close()
        os.close(self.users)
        os.close(self._filters)


class ReapedCommand:
    """A command that the zygote runs, in a process that also reaps what the command leaves behind."""

    def __init__(self, channel: socket.socket, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._channel = channel
        self._pidfd = pidfd

    def ended_within(self, timeout_s: float) -> bool:
        """Wait until it has ended; False after `timeout_s`. Blocks."""
        return ends_within(self._pidfd, timeout_s)

    def exit_code(self) -> int:
        """To be asked once, after its end; 1 when the process that waited for it was killed."""
        with closing(self._channel), closing_fd(self._pidfd), contextlib.suppress(TimeoutError):
            word, _, code = self._channel.recv(_MESSAGE_BYTES).decode().partition(" ")
            if word == "exit":
                return int(code)
        return 1


class Zygote:
    """Keeps one zygote running from `closure`, and asks it for Ships under the seccomp `profile`.

    `stage` is an empty directory. Threads may share it.
    """

    def __init__(self, closure: Path, stage: Path, machine: str, profile: Mapping[str, Any]) -> None:
        self._closure = closure
        self._stage = stage
        self._command = ship_command(machine, "ship.zygote")
        self._filters = _memory("bay-seccomp", compile_profile(profile))
        self._lock = threading.Lock()
        # A thread that stays in the host's namespaces: those that launch sessions have left them.
        self._host = ThreadPoolExecutor(1, thread_name_prefix="bay-zygote")
        self._current: _ZygoteProcess | None = None
        self._closed = False

    def open(self, id_base: int) -> None:
        """Start the first, and try it with a process of the ids from `id_base` on.

        Blocks; raises DriverUnavailable, SandboxNotReady or OSError.
        """
        with (
            closing_fd(os.open("/proc/thread-self/ns/net", _READ)) as network,
            closing(self.fork(network, id_base)) as first,
        ):
            first.born()

    def close(self) -> None:
        """End it. Ships that it forked go on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._current is not None:
                self._current.end()
            os.close(self._filters)
        self._host.shutdown()

    def fork(self, network: int, id_base: int) -> FirstProcess:
        """The first process of a new session, in that network namespace and in user and pid namespaces of its
        own, in which ids 0 to 65535 are `id_base` and up outside.

        Blocks. A zygote that has ended or does not answer is replaced. Raises DriverUnavailable or OSError.
        """
        channel, users = self._asked(lambda running: running.fork(network, id_base))
        with self._lock:
            if not self._closed:
                return FirstProcess(channel, users, os.dup(self._filters))
        channel.close()
        os.close(users)
        raise DriverUnavailable("Bay is ending")

    def run(self, command: list[str], network: int, output: int, lock: int) -> ReapedCommand:
        """Run `command` in the calling thread's mount namespace and that network namespace.

        It gets `output` as stdout and stderr, and `lock` stays open in it alone. Blocks until it runs.
        Raises as `fork` does.
        """
        with closing_fd(os.open("/proc/thread-self/ns/mnt", _READ)) as mount_namespace:
            descriptors = [mount_namespace, network, output, lock]
            return self._asked(lambda running: running.run(command, descriptors))

    def _asked(self, ask: Callable[["_ZygoteProcess"], T]) -> T:
        for _ in range(_TRIES):
            running = self._running()
            try:
                return ask(running)
            except _Lost as lost:
                log.warning("zygote.lost", pid=running.pid, reason=str(lost))
                self._drop(running)
        raise DriverUnavailable("the process that starts sandboxes ends again and again; see Bay's log")

    def _running(self) -> "_ZygoteProcess":
        with self._lock:
            if self._closed:
                raise DriverUnavailable("Bay is ending")
            worn = self._current
            if worn is not None and worn.forks < _MAX_FORKS:
                return worn
            self._current = self._host.submit(self._start).result()
            if worn is not None:
                worn.retire()
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
        request = {"owner": id_base, "oom_score_adj": OOM_SCORE_ADJ, "user_limits": USER_LIMITS}
        with self._asked(request, [network]) as channel:
            pid, users = _answer(channel, "users")
            try:
                # Not another's, if the process has just ended and its number is used again.
                if not os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), os.fstat(users)):
                    raise _Lost("it ended")
                write_maps(pid, id_base)
                channel.send(b"mapped")
            except (BrokenPipeError, FileNotFoundError) as error:
                os.close(users)
                raise _Lost("it ended") from error
            except BaseException:
                os.close(users)
                raise
            return channel, users

    def run(self, command: list[str], descriptors: list[int]) -> ReapedCommand:
        """See `Zygote.run`. Raises _Lost, DriverUnavailable, OSError."""
        request = {"command": command, "environment": bare_environment()}
        with self._asked(request, descriptors) as channel:
            _expect(channel, "ready")
            channel.send(b"go")
            try:
                return ReapedCommand(channel, *_answer(channel, "pid"))
            except _Lost as lost:  # it may run: no second one beside it
                raise DriverUnavailable(f"the command that starts sandboxes was lost: {lost}") from lost

    @contextlib.contextmanager
    def _asked(self, request: dict[str, Any], descriptors: list[int]) -> Generator[socket.socket]:
        """The channel to the process that does it; closed when the block fails."""
        self.forks += 1
        channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.settimeout(_ANSWER_S)
        message = json.dumps({**request, "rlimits": limits()}).encode()
        try:
            with its:
                socket.send_fds(self._bay, [message], [its.fileno(), *descriptors])
        except OSError as error:
            channel.close()
            raise _Lost(f"it takes no request: {error}") from error
        try:
            yield channel
        except BaseException:
            channel.close()
            raise

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


def _expect(channel: socket.socket, word: str) -> None:
    """Return once it has said `word`. Raises _Lost, DriverUnavailable."""
    said, _, descriptors = _heard(channel)
    _close(descriptors)
    if said != word:
        raise _Lost("it ended")


def _answer(channel: socket.socket, word: str) -> tuple[int, int]:
    """The number and the descriptor of the answer `word`. Raises _Lost, DriverUnavailable."""
    said, rest, descriptors = _heard(channel)
    if said == word and descriptors:
        return int(rest), descriptors[0]
    _close(descriptors)
    raise _Lost("it ended")


def _heard(channel: socket.socket) -> tuple[str, str, list[int]]:
    """The word that it says, what follows, and a descriptor. Raises _Lost; DriverUnavailable for an error."""
    try:
        message, descriptors, _flags, _address = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
    except TimeoutError:
        raise _Lost(f"it did not answer within {_ANSWER_S:g} s") from None
    said, _, rest = message.decode().partition(" ")
    if said == "error":
        _close(descriptors)
        raise DriverUnavailable(f"the host refused a step of the start: {rest}; see `bay doctor`")
    return said, rest, descriptors


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _memory(name: str, content: bytes) -> int:
    """A descriptor of `content`, which nobody can change."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(file, content)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return file


def _attach(mount: int, path: Path) -> None:
    with closing_fd(mounts.open_directory(path)) as directory:
        mounts.attach(mount, directory)
