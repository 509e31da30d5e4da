"""The cage of a fetch: its namespaces, and a root in memory with nothing but programs and certificates.

skopeo reads whatever a registry or an archive holds, so it runs as a user of its own, without capabilities,
environment, /proc or devices. It sees /usr and the certificates (read-only) and its spool; root's ids appear
as its own there, by id-mapped mounts, so no file of the host needs another owner or mode. The thread that
makes the cage ends; the descriptors of the two namespaces keep them, and go with Bay's process.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bay.drivers.oci import netns
from bay.drivers.oci.userns import user_namespace
from bay.linux import mounts
from bay.linux.processes import closing_fd
from bay.network.manager import RESOLVER

SPOOL = "/spool"
SOURCE = "/source"

PATH = "/usr/bin:/usr/sbin:/usr/local/bin"
"""Where programs are that a cage shows."""

_LINKS = ("bin", "lib", "lib32", "lib64", "sbin")
_CERTIFICATES = ("/etc/ssl/certs", "/etc/pki")
_READ_ONLY = mounts.RDONLY | mounts.NOSUID | mounts.NODEV
_NO_PROGRAMS = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
_NEWIPC, _NEWPID = 0x0800_0000, 0x2000_0000

_LIMITS = {
    "data": 1 << 30,
    "core": 1,  # at 0 the kernel still starts a core_pattern program, as root of the host: see core(5)
    "nofile": 512,
    "nproc": 256,
    "memlock": 0,
    "msgqueue": 0,
    "sigpending": 256,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCagePlan:
    """The parts of a cage. `files` are small ones, by their path inside; `private` only its user reads."""

    stage: Path
    """An empty directory; the cage is mounted there, as the making thread alone sees it."""
    user: int
    """Its user and group, the first id of a range that nothing else has."""
    spool: Path | None
    """The one directory that it may write to."""
    source: Path | None
    """A file or a directory that it may read; in the cage it is SOURCE."""
    files: Mapping[str, bytes]
    private: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class FetchCage:
    """Descriptors of the namespaces of a cage."""

    user: int
    network: int
    mounts: int

    def close(self) -> None:
        """Let the namespaces go with their last process."""
        os.close(self.network)
        os.close(self.mounts)

    def enter(self) -> None:
        """Move the calling thread into the cage; programs that it starts have a pid namespace of their own.
        The thread must end afterwards. It keeps its rights: it is the program that has none.
        """
        mounts.unshare(mounts.CLONE_FS | _NEWIPC | _NEWPID | mounts.CLONE_NEWUTS)
        mounts.setns(self.network, mounts.CLONE_NEWNET)
        mounts.setns(self.mounts, mounts.CLONE_NEWNS)


def make(plan: FetchCagePlan) -> FetchCage:
    """Make a cage without any way out of its network. Blocks; raises OSError or TimeoutError.
    The calling thread is in the cage's namespaces afterwards and must end.
    """
    mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWNET | mounts.CLONE_FS)
    namespaces = [
        os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "mnt")
    ]
    try:
        netns.set_up_loopback()
        _assemble(plan)
    except BaseException:
        for one in namespaces:
            os.close(one)
        raise
    return FetchCage(plan.user, *namespaces)


def command(user: int, largest_file: int, arguments: Sequence[str]) -> list[str]:
    """The command that gives up all rights and runs skopeo with `arguments`."""
    ids = ["--reuid", f"{user}", "--regid", f"{user}", "--clear-groups"]
    rights = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    limits = [f"--{name}={value}:{value}" for name, value in {**_LIMITS, "fsize": largest_file}.items()]
    return [
        *(_program("setpriv"), *ids, *rights, "--pdeathsig", "KILL", "--"),
        *(_program("prlimit"), *limits, "--"),
        *(_program("skopeo"), *arguments),
    ]


def is_installed() -> bool:
    """Whether this host has skopeo, where a cage shows programs."""
    return shutil.which("skopeo", path=PATH) is not None


def _program(name: str) -> str:
    return shutil.which(name, path=PATH) or f"/usr/bin/{name}"


def _assemble(plan: FetchCagePlan) -> None:
    mounts.make_all_private()
    # ramfs: never swapped out, and there are credentials in it. Only root can write here.
    _attach(mounts.new_mount("ramfs", [("mode", "0755")], _NO_PROGRAMS), plan.stage)
    root = plan.stage
    for name in _LINKS:
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    _bind(Path("/usr"), root / "usr", _READ_ONLY)
    for path in map(Path, _CERTIFICATES):
        if path.is_dir():
            _bind(path, root / path.relative_to("/"), _READ_ONLY)
    for name, content in {**_own_files(plan.user), **plan.files}.items():
        _write(root / name.lstrip("/"), content)
    for name, content in plan.private.items():
        path = root / name.lstrip("/")
        _write(path, content, 0o400)
        os.chown(path, plan.user, plan.user)
    with user_namespace(plan.user) as users:
        if plan.spool is not None:
            _bind(plan.spool, root / SPOOL.lstrip("/"), _NO_PROGRAMS, users)
        if plan.source is not None:
            _bind(plan.source, root / SOURCE.lstrip("/"), _NO_PROGRAMS | mounts.RDONLY, users)
    mounts.change_root(root)


def _own_files(user: int) -> dict[str, bytes]:
    return {
        "/etc/passwd": f"image:x:{user}:{user}::/:/usr/sbin/nologin\n".encode(),
        "/etc/group": f"image:x:{user}:\n".encode(),
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/resolv.conf": f"nameserver {RESOLVER}\n".encode(),
    }


def _make(directory: Path) -> None:
    """A directory that the cage's user may pass, whatever Bay's umask is."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def _write(path: Path, content: bytes, mode: int = 0o444) -> None:
    _make(path.parent)
    with closing_fd(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)) as fd:
        os.fchmod(fd, mode)
        os.write(fd, content)


def _bind(source: Path, target: Path, attributes: int, users: int | None = None) -> None:
    if source.is_dir():
        _make(target)
    else:
        _write(target, b"")
    mount = mounts.open_tree(source)
    try:
        mounts.set_attributes(mount, attributes, userns=users)
    except OSError:
        os.close(mount)
        raise
    _attach(mount, target)


def _attach(mount: int, target: Path) -> None:
    with closing_fd(mount), closing_fd(os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as place:
        mounts.attach(mount, place)
