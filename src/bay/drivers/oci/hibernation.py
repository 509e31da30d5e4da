"""Saves the memory of a session that stands still: what CRIU must find, and what it makes of it."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from bay.drivers.base import MemoryLost, MemoryNotSaved
from bay.drivers.oci import cgroups
from bay.drivers.oci.criu import Clocks, Criu, CriuFailed
from bay.drivers.oci.launch import locked
from bay.drivers.oci.memory_image import ImageDirectory, MemoryManifest
from bay.drivers.oci.rootfs import EMPTY_MASK
from bay.drivers.oci.userns import USER_LIMITS, limit
from bay.errors import StorageFull
from bay.linux import mounts
from bay.linux.processes import closing_fd

# CRIU makes mount namespaces of its own inside, one at a time, beside the session's.
_MOUNT_NAMESPACES = USER_LIMITS["max_mnt_namespaces"] + 2
_FORKING_S = 2.0
_PAUSES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
# clone, vfork and clone3, of which CRIU's own machines have these numbers.
_FORKS = {"x86_64": ("56", "58", "435"), "aarch64": ("220", "435")}.get(os.uname().machine, ())
_ITS_OWN = ("proc", "tmpfs", "devpts", "mqueue")
"""The file systems that a container mounts anew, whole. A part of a tmpfs is the host's, as of its /run."""
NO_DISK = ("no space left on device", "disk quota exceeded")
"""Words of programs in lower case."""
DISK_IS_FULL = "the disk is full: its memory cannot be saved; delete files, checkpoints or sandboxes"
_REASONS = (
    (
        "unsupported stop signal",
        "a background job has stopped and waits for the terminal; bring it to the front, or end it",
    ),
    ("link-remap", "a program has a file open whose name is gone, while the file has other names"),
    ("of that type", "a program holds a file of a kind that cannot be saved, such as a POSIX message queue"),
    (
        "Can't lookup mount=",
        "a program holds a POSIX message queue, or another file of no file system of its own",
    ),
    ("Unix socket", "a connection to the sandbox was open at that moment"),
    ("unix:", "a connection to the sandbox was open at that moment"),
)


def stand_still(cgroup: str, ship: int) -> None:
    """Freeze every process of `cgroup`, at a moment when none waits in vfork(2) for its child, which lets no
    tracer attach, and when Ship, the process `ship`, shows its memory. Programs start others all the time,
    and a thread of Ship that changes its ids hides Ship; they are over it at once.

    Blocks. Raises MemoryNotSaved when one is not over it in time, or OSError; it may be frozen then.
    """
    until, pauses = time.monotonic() + _FORKING_S, iter(_PAUSES_S)
    cgroups.freeze(cgroup)
    while (reason := _unsavable(cgroup, ship)) is not None:
        if time.monotonic() > until:
            raise MemoryNotSaved(reason)
        cgroups.thaw(cgroup)
        time.sleep(next(pauses, _PAUSES_S[-1]))  # no event tells of the end of either
        cgroups.freeze(cgroup)


def _unsavable(cgroup: str, ship: int) -> str | None:
    """Why what is frozen cannot be saved as it stands, and could a moment later."""
    if (number := _forking(cgroup)) is not None:
        return f"process {number} in it waits in vfork for a program that does not start; end one of the two"
    return "its runtime hides its memory; stop it and start it" if _hides(ship) else None


def _hides(pid: int) -> bool:
    """Whether a process hides its memory so that its own user namespace has no power over it."""
    process = Path(f"/proc/{pid}")
    return (process / "environ").stat().st_uid != process.stat().st_uid


def _forking(cgroup: str) -> str | None:
    """The number, in the sandbox, of a frozen process of which a thread waits in vfork(2)."""
    for pid in cgroups.processes(cgroup):
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            # All that version 1 has frozen have this state; those at the end of a call say where they stand.
            if _state(thread) == "D" and _call(thread) in _FORKS and _place(thread) != "__refrigerator":
                return _number(pid)
    return None


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text(errors="replace").rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _call(thread: Path) -> str:
    """The number of the system call in which a thread waits."""
    return _word(thread / "syscall")


def _place(thread: Path) -> str:
    """The function of the kernel in which a thread waits."""
    return _word(thread / "wchan")


def _word(file: Path) -> str:
    try:
        return file.read_text().partition(" ")[0]
    except OSError:
        return ""


def save(
    criu: Criu,
    pid: int,
    owner: int,
    cgroup: str,
    image: ImageDirectory,
    describe: Callable[[dict[str, str], Clocks], MemoryManifest],
    lock: Path,
) -> int:
    """Write the frozen session of the first process `pid` into `image`, which is there and empty; the bytes
    that it takes. `describe` makes the manifest, of the mounts of the host's making and the clocks.

    The session's ids begin at `owner`. It stays frozen, with other limits of its user namespace (see
    `userns.limit`). Blocks; the calling thread is in another network namespace afterwards, and must end.
    Raises MemoryNotSaved, StorageFull or OSError.
    """
    freezer = cgroups.freeze_for_tracer(cgroup)
    if (blocking := _blocking(freezer)) is not None:
        raise MemoryNotSaved(blocking)
    with closing_fd(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as network:
        mounts.setns(network, mounts.CLONE_NEWNET)
    limit(pid, max_mnt_namespaces=_MOUNT_NAMESPACES)
    external = _external_mounts(pid)
    manifest = describe(external, _clocks_of(pid))
    try:
        with locked(lock) as held:
            criu.dump(pid, owner, image.path, freezer, external, held)
            return image.finish(manifest)
    except CriuFailed as error:
        raise _refusal(error) from error


def loss(error: CriuFailed) -> MemoryLost:
    """That CRIU cannot make the processes of a session again."""
    if error.was_killed:
        return MemoryLost("the sandbox, or this host, has too little memory to make its processes again")
    return MemoryLost(f"CRIU cannot make the sandbox's processes again: {error}")


def _refusal(error: CriuFailed) -> Exception:
    said = "\n".join(error.lines)
    if any(words in said.lower() for words in NO_DISK):
        return StorageFull(DISK_IS_FULL)
    known = next((reason for words, reason in _REASONS if words in said), None)
    return MemoryNotSaved(known or f"CRIU cannot save its processes: {error}")


def _blocking(freezer: Path) -> str | None:
    """Why CRIU could not attach to a process of the frozen group; None when it can to all."""
    by_version_1 = (freezer / "freezer.state").exists()
    for pid in cgroups.processes_in(freezer):
        status = _lines(f"/proc/{pid}/status")
        if status.get("TracerPid", "0") != "0":
            return f"process {_number(pid)} in it is being traced by a debugger, which cannot be saved"
        if by_version_1 and _is_stopped(pid):
            return f"process {_number(pid)} in it is stopped by a signal; continue it, or end it"
    return None


def _number(pid: int) -> str:
    """The number that a process has in its sandbox."""
    return _lines(f"/proc/{pid}/status").get("NSpid", "?").split()[-1]


def _is_stopped(pid: int) -> bool:
    """Whether a frozen process waits in the kernel for its SIGCONT."""
    try:
        return "do_signal_stop" in Path(f"/proc/{pid}/stack").read_text()
    except OSError:
        return False


def _lines(path: str) -> dict[str, str]:
    try:
        pairs = (line.partition(":") for line in Path(path).read_text(errors="replace").splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in pairs}


def _external_mounts(pid: int) -> dict[str, str]:
    """The mounts of the host's making in the session, with the key that names each to a restore."""
    found: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        _, _, _, root, place, *_ = map(_unescaped, fields.split(" "))
        fstype = kind.split(" ")[0]
        if root.startswith("/dev/") and fstype in ("tmpfs", "devtmpfs"):
            found[place] = root
        elif place.startswith("/proc/") and fstype == "tmpfs":
            found[place] = EMPTY_MASK
        elif place != "/" and (fstype not in _ITS_OWN or (fstype == "tmpfs" and root != "/")):
            found[place] = place
    return found


def _unescaped(text: str) -> str:
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def _clocks_of(pid: int) -> Clocks:
    """The clocks as the session's programs see them, rounded up."""
    offsets = {name: int(value.split()[0]) for name, value in _offsets(pid).items()}
    return Clocks(
        monotonic=int(time.clock_gettime(time.CLOCK_MONOTONIC)) + offsets.get("monotonic", 0) + 1,
        boottime=int(time.clock_gettime(time.CLOCK_BOOTTIME)) + offsets.get("boottime", 0) + 1,
    )


def _offsets(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/timens_offsets").read_text().splitlines()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        return {}  # a kernel without time namespaces
    return dict(line.split(maxsplit=1) for line in lines)
