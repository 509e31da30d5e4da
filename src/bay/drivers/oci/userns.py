"""The session's user namespace, made before the container so that its mounts and its limits can use it.

A thread cannot leave its process's user namespace, so a helper process (`unshare`) holds the new one while it
is set up. The kernel charges pending signals, message queues, locked memory and inotify instances of a
namespace to its creator as well, so the helper runs as the session's own first id and not as root: else one
sandbox could use up the accounts of every other and of the host's root. The helper has all capabilities in
the namespace, and sets its limits before a program of the sandbox runs there.
"""

import errno
import os
import select
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bay.linux.processes import closing_fd

IDS = 65_536
_ALL_IDS = 2**32 - 1
_LIMIT_S = 5.0

USER_LIMITS = {
    "max_fanotify_groups": 0,
    "max_fanotify_marks": 0,
    "max_inotify_instances": 64,
    "max_inotify_watches": 32_768,
    # The container's own, and none after it.
    **dict.fromkeys((f"max_{kind}_namespaces" for kind in ("cgroup", "ipc", "mnt", "pid", "uts")), 1),
    **dict.fromkeys((f"max_{kind}_namespaces" for kind in ("net", "time", "user")), 0),
}

_SETTINGS = "; ".join(f"[ ! -e {name} ] || echo {value} > {name}" for name, value in USER_LIMITS.items())
_SCRIPT = f"echo made; read -r go; set -e; cd /proc/sys/user; {_SETTINGS}; echo limited; read -r go"


@contextmanager
def user_namespace(id_base: int, timeout_s: float = 5.0) -> Generator[int]:
    """A descriptor of a new user namespace in which ids 0 to 65535 are `id_base` and up outside.
    Blocks; raises OSError or TimeoutError. The namespace lives as long as a process or a mount uses it.
    """
    with _helper(id_base) as (helper, said, go):
        _expect(said, b"made\n", timeout_s)
        write_maps(helper.pid, id_base)
        os.write(go, b"go\n")
        _expect(said, b"limited\n", timeout_s)
        namespace = os.open(f"/proc/{helper.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    with closing_fd(namespace):
        yield namespace


@contextmanager
def owned_namespace(owner: int, timeout_s: float = 5.0) -> Generator[int]:
    """A descriptor of a new user namespace of `owner` in which every id is itself; it has no limits yet.

    Blocks; raises OSError or TimeoutError.
    """
    with _helper(owner, "echo made; read -r go") as (helper, said, _go):
        _expect(said, b"made\n", timeout_s)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{helper.pid}/{name}").write_text(f"0 0 {_ALL_IDS}\n")
        namespace = os.open(f"/proc/{helper.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    with closing_fd(namespace):
        yield namespace


def limit(pid: int, **other: int) -> None:
    """Write the limits of a session, with `other` ones in their place, into the user namespace of the process
    `pid`. Blocks; raises OSError. A process that has lost its namespace's rights cannot do it by itself.
    """
    settings = "; ".join(
        f"[ ! -e {name} ] || echo {value} > {name}" for name, value in {**USER_LIMITS, **other}.items()
    )
    script = f"set -e; cd /proc/sys/user; {settings}"
    command = ["nsenter", "--target", str(pid), "--user", "--", "sh", "-c", script]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            f"the limits of a user namespace were not written within {_LIMIT_S:g} s"
        ) from error
    if ran.returncode:
        raise OSError(
            errno.EPERM, f"the limits of a user namespace: {ran.stderr.decode(errors='replace').strip()}"
        )


@contextmanager
def _helper(owner: int, script: str = _SCRIPT) -> Generator[tuple[subprocess.Popen[bytes], int, int]]:
    making = ["unshare", "--user", "--keep-caps", "--", "sh", "-c", script]
    command = [*as_owner(owner, ("sys_admin",)), *making]
    said, its_said = os.pipe2(os.O_CLOEXEC)
    its_go, go = os.pipe2(os.O_CLOEXEC)
    try:
        with subprocess.Popen(command, stdin=its_go, stdout=its_said, stderr=subprocess.DEVNULL) as helper:
            os.close(its_said)  # so that the end of a silent helper is seen
            its_said = -1
            try:
                yield helper, said, go
            finally:
                helper.kill()
    finally:
        for fd in (said, its_said, its_go, go):
            if fd >= 0:
                os.close(fd)


def as_owner(owner: int, capabilities: Sequence[str]) -> list[str]:
    """The beginning of a command line that runs the rest as the id `owner`, with these capabilities alone."""
    # To make a user namespace takes CAP_SYS_ADMIN on some hosts; `unshare` leaves it behind.
    ids = ["--reuid", str(owner), "--regid", str(owner), "--clear-groups"]
    kept = ",".join(f"+{name}" for name in capabilities)
    return ["setpriv", *ids, "--inh-caps", kept, "--ambient-caps", kept, "--"]


def write_maps(pid: int, id_base: int) -> None:
    """Map the ids of the new user namespace that the process `pid` made. Raises OSError."""
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {id_base} {IDS}\n")


def _expect(said: int, line: bytes, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(said, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError(f"the user namespace helper did not say {line!r} within {timeout_s:g} s")
    if (heard := os.read(said, 64)) != line:
        raise OSError(f"the user namespace helper failed: it said {heard!r} instead of {line!r}")
