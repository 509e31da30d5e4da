"""Runs CRIU, which writes the processes of a session to images and makes them again from these.

It is run directly: `runc checkpoint` knows neither the mounts that Bay assembles nor a network namespace that
the host owns. Both times it has power over files of the host as root has, and must be trusted:

- A dump runs as the session's first id, which owns the session's user namespace, with the capabilities that
  reading other processes takes.
- A restore runs in a user namespace that this id owns and in which every id is itself. The session's new user
  namespace is a child of that one, so the kernel charges what the session takes (inotify instances, pending
  signals, locked memory) to the session's first id, as before, and to nobody else.
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from bay.drivers.oci.rlimits import limited
from bay.drivers.oci.spec import OOM_SCORE_ADJ
from bay.drivers.oci.userns import as_owner, owned_namespace
from bay.linux.processes import bare_environment, closing_fd, ends_within, has_ended, kill_tree

log = structlog.get_logger("bay.drivers.oci")

_VERSION_S = 10.0
_END_S = 5.0
_LOOK_S = 0.2
_KILLED = "killed by signal 9"
_SAID_BYTES = 4096
_NULL = subprocess.DEVNULL
_TIME = Path("/proc/self/ns/time")

# To read memory, descriptors and namespaces of the session.
_DUMP_CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "kill", "setgid", "setuid"),
    *("setpcap", "sys_admin", "sys_chroot", "sys_ptrace", "checkpoint_restore"),
)
# Neither connections nor the firewall: the network is the host's, and a clone has another.
_BOTH = ("--manage-cgroups=ignore", "--tcp-close", "--file-locks", "--unprivileged")

# Moved into its control groups while it waits; then it is `criu`, in the namespaces that come before.
_JOINED = f'echo {OOM_SCORE_ADJ} > /proc/self/oom_score_adj && echo waiting && read -r go && exec "$@"'


_NO_ERRORS = ("net: Unexpected error: -1(", "rlimit: Can't setup RLIMIT_NOFILE for self")
"""Lines of every restore: it has fewer rights than CRIU tries."""


class CriuFailed(Exception):
    """CRIU gave up. `lines` are the errors of its log."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines[0] if lines else "it logged no error")
        self.lines = lines

    @property
    def was_killed(self) -> bool:
        """Whether a process was killed that it made, as the kernel does for want of memory."""
        return any(_KILLED in line for line in self.lines)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds that the clocks of a session's programs show, which no restore may turn back."""

    monotonic: int
    boottime: int


@dataclass(frozen=True, slots=True)
class Criu:
    """CRIU as `binary`, given `timeout_s`. `cache` is a directory where it keeps what it found out about the
    kernel; on a tmpfs, else it finds out each time.
    """

    binary: str
    cache: Path
    timeout_s: float = 120.0

    def dump(
        self, pid: int, owner: int, images: Path, freezer: Path, external: Mapping[str, str], lock: int
    ) -> None:
        """Write the frozen processes below `pid` into the directory `images` of `owner`; they stay frozen.

        `freezer` is their frozen control group, `external` has the mounts of the host's making by their mount
        points, and `lock` stays open in CRIU. Blocks, in the calling thread's network namespace, which must
        be theirs. Raises CriuFailed, OSError.
        """
        command = [
            *_in_time_of(pid),
            *as_owner(owner, _DUMP_CAPABILITIES),
            *(self.binary, "dump", "--tree", str(pid), "--images-dir", str(images), "--leave-running"),
            # Without --link-remap: CRIU removes the names that it gives such files once it is done.
            *(
                "--freeze-cgroup",
                str(freezer),
                "--network-lock",
                "skip",
                "--ghost-limit",
                "1G",
            ),
            *(*_BOTH, "-o", "dump.log", "-v2"),
            *(f"--external=mnt[{place}]:{key}" for place, key in external.items()),
        ]
        with self._started(command, "save", _NULL, _NULL, [lock]) as process:
            self._wait(process, images / "dump.log")

    def restore(
        self,
        owner: int,
        images: Path,
        root: Path,
        external: Mapping[str, Path],
        clocks: Clocks,
        join: Callable[[int], None],
        is_short: Callable[[], bool],
    ) -> int:
        """Make the processes of `images` again, and return the pid of the first.

        `root` is their root file system, with no mount beneath; `external` has the mounts that a dump called
        external, by its keys. `join` moves a process into the session's control groups, and `is_short` says
        whether the kernel has killed one there for want of memory. Blocks, in the calling thread's mount and
        network namespaces. Raises CriuFailed, OSError.
        """
        pid_file = images / "pid"
        with owned_namespace(owner) as outer:
            command = [
                *("sh", "-c", _JOINED, "sh"),
                *("nsenter", f"--user=/proc/{os.getpid()}/fd/{outer}", "--"),
                # Of cgroups too: CRIU leaves control groups alone, and so makes no namespace of them.
                *("unshare", "--cgroup", "--mount", "--propagation", "unchanged", *_clocks(clocks), "--"),
                *(self.binary, "restore", "--images-dir", str(images), "--root", str(root)),
                *("--restore-detached", "--pidfile", str(pid_file)),
                *(*_BOTH, "-o", "restore.log", "-v2"),
                *(f"--external=mnt[{key}]:{place}" for key, place in external.items()),
            ]
            with self._joining(limited(command)) as (process, waiting, go):
                _expect(waiting, process.pid)
                join(process.pid)
                os.write(go, b"go\n")
                self._wait(process, images / "restore.log", is_short)
        try:
            return int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            raise CriuFailed(["it reported success, but no process"]) from None

    def _started(
        self, command: list[str], purpose: str, stdin: int, stdout: int, kept: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        # Each purpose has other rights, and CRIU finds out other things with them.
        cache = self.cache / purpose
        cache.mkdir(parents=True, exist_ok=True)
        environment = {**bare_environment(), "XDG_RUNTIME_DIR": str(cache)}
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=_NULL, cwd="/", env=environment, pass_fds=kept
        )

    @contextmanager
    def _joining(self, command: list[str]) -> Generator[tuple[subprocess.Popen[bytes], int, int]]:
        waiting, its_waiting = os.pipe2(os.O_CLOEXEC)
        its_go, go = os.pipe2(os.O_CLOEXEC)
        with closing_fd(waiting), closing_fd(go):
            try:
                process = self._started(command, "restore", its_go, its_waiting)
            finally:
                os.close(its_waiting)
                os.close(its_go)
            with process:
                try:
                    yield process, waiting, go
                except BaseException:
                    kill_tree(process.pid, _END_S)
                    raise

    def _wait(
        self, process: subprocess.Popen[bytes], log_file: Path, is_short: Callable[[], bool] = lambda: False
    ) -> None:
        until = time.monotonic() + self.timeout_s
        while not has_ended(process.pid, min(_LOOK_S, max(0.0, until - time.monotonic()))):
            # CRIU waits for a process that the kernel has killed, for ever.
            if (short := is_short()) or time.monotonic() > until:
                kill_tree(process.pid, _END_S)
                process.wait()
                raise CriuFailed([_KILLED if short else f"it did not end within {self.timeout_s:g} s"])
        if process.wait():
            lines = errors_of(log_file)
            log.warning("criu.failed", code=process.returncode, errors=lines)
            raise CriuFailed(lines)


def criu_version(binary: str) -> str | None:
    """The version that `binary` prints; None when it fails, hangs or prints none. Blocks."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, timeout=_VERSION_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^Version: (\S+)", said.stdout.decode(errors="replace"), re.MULTILINE)
    return found[1] if found else None


def errors_of(log_file: Path) -> list[str]:
    """The errors in a log of CRIU's, first ones first, without the times and places of its source."""
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        return []
    lines = (found.strip() for found in re.findall(r"Error \(\S+\): (.*)", text))
    return [line for line in lines if not line.startswith(_NO_ERRORS)]


def _in_time_of(pid: int) -> list[str]:
    # A restored session's is of the user namespace above its own: it is none of what is dumped.
    return ["nsenter", f"--time=/proc/{pid}/ns/time", "--"] if _TIME.exists() else []


def _clocks(clocks: Clocks) -> list[str]:
    if not _TIME.exists():
        return []
    monotonic = clocks.monotonic - int(time.clock_gettime(time.CLOCK_MONOTONIC))
    boottime = clocks.boottime - int(time.clock_gettime(time.CLOCK_BOOTTIME))
    return ["--time", "--monotonic", str(monotonic), "--boottime", str(boottime)]


def _expect(waiting: int, pid: int) -> None:
    poll = select.poll()
    poll.register(waiting, select.POLLIN)
    if not poll.poll(_END_S * 1000) or not os.read(waiting, _SAID_BYTES):
        with closing_fd(os.pidfd_open(pid)) as pidfd:
            ends_within(pidfd, 0.1)
        raise CriuFailed(["the process that was to become it ended, or did not start"])
