"""The session's user namespace, made before the container so that its mounts and its limits can use it.

A thread cannot leave its process's user namespace, so a helper process (`unshare`) holds the new one while it
is set up. The kernel charges pending signals, message queues, locked memory and inotify instances of a
namespace to its creator as well, so the helper runs as the session's own first id and not as root: else one
sandbox could use up the accounts of every other and of the host's root. The helper has all capabilities in
the namespace, and sets its limits before a program of the sandbox runs there.
"""

import os
import select
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bay.linux.processes import closing_fd

IDS = 65_536

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
def _helper(owner: int) -> Generator[tuple[subprocess.Popen[bytes], int, int]]:
    command = [*_becoming(owner), "unshare", "--user", "--keep-caps", "--", "sh", "-c", _SCRIPT]
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


def _becoming(owner: int) -> list[str]:
    # Some hosts let only CAP_SYS_ADMIN make user namespaces, so it is kept until `unshare` leaves it behind.
    ids = ["--reuid", str(owner), "--regid", str(owner), "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin", "--"]


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
