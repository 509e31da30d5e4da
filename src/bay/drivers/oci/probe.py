"""The host requirements of the `oci` driver: checked at `open`, and shown by `bay doctor`.

A feature is tried, by the code that a start uses, in namespaces of a thread that ends; versions are only read
where a version is the question.
"""

import contextlib
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from bay.drivers.host_check import HostCheck
from bay.drivers.oci import netns
from bay.drivers.oci.cgroups import MOUNT
from bay.drivers.oci.host_image import USR
from bay.drivers.oci.rootfs import Layer, Rootfs, assemble, prepare_writable
from bay.drivers.oci.runc import RUNC, is_patched, runtime_version
from bay.drivers.oci.runsc import ISOLATION, RUNSC, trial, trial_with_network
from bay.drivers.oci.seccomp import profile
from bay.drivers.oci.spec import TERMINALS
from bay.drivers.oci.userns import USER_LIMITS, user_namespace
from bay.linux import btrfs, mounts
from bay.linux.directories import nearest_directory
from bay.linux.libseccomp import compile_profile
from bay.linux.overlays import LAYER_NAMES, LayerNames
from bay.linux.processes import closing_fd
from bay.network.firewalls import FIX, dropping
from bay.network.manager import NetworkManager

T = TypeVar("T")

_CONTROLLERS = ("cpu", "memory", "pids")
_ENOUGH_INOTIFY_INSTANCES = USER_LIMITS["max_inotify_instances"]
_ENOUGH_FILES = _ENOUGH_TERMINALS = 8192
_EXAMPLES = 3
_LAYERS_FOUND: dict[LayerNames, str] = {
    "options": "works; each layer is an option (Linux 6.8)",
    "text": "works; all layers are named in one page of text (before Linux 6.8)",
}
_ID_BASE = 1_879_048_192
FIXES_OF_MEMORY = {
    "container": "install CRIU 4.2 or newer (Debian: apt install criu), or name it with BAY_CRIU; 4.1 cannot save a "
    "TCP socket on Linux 6.16 and newer: docs/memory.md has the way out",
    ISOLATION: "name another runsc with BAY_RUNSC; 20240729 is known to work",
}
"""By isolation."""
_OLDEST_RUNC = (1, 1, 12)  # CVE-2024-21626: a descriptor of the host's that leaks into the container
# CVE-2025-31133, -52565 and -52881: writes through masked paths, /dev/console and redirected /proc.
_FIXED_RUNC: dict[tuple[int, ...], int] = {(1, 2): 8, (1, 3): 3}


def checks(
    runc: str = "runc", *, runsc: str | None = None, scratch: Path | None = None, id_base: int = _ID_BASE
) -> list[HostCheck]:
    """All checks, in the order in which to mend them. Blocks for about a second and leaves nothing behind.
    With `runsc` a sandbox of gVisor is started.
    `scratch` is where the sessions' layers will be, or will be made (default: the system's directory).
    Without root that is the only finding: other checks may then fail for want of it.
    """
    if not _root().ok:
        return [_root()]
    if scratch is not None:
        scratch = nearest_directory(scratch)
    found = [*requirements(runc, scratch, id_base), *_limits(), *_extras(scratch), *_network()]
    return found if runsc is None else [*found, *_gvisor(runsc, id_base)]


def requirements(runc: str, scratch: Path | None, id_base: int = _ID_BASE) -> list[HostCheck]:
    """Those of `checks` that are about whether the driver opens."""
    return [_root(), *_runc(runc), *_kernel(), _cgroups(), *_trials(scratch, id_base)]


def _root() -> HostCheck:
    return HostCheck("root", os.geteuid() == 0, True, f"uid {os.geteuid()}", "run it as root, or with sudo")


def _runc(binary: str) -> list[HostCheck]:
    version = runtime_version(binary)
    fix = "install runc 1.1.12 or newer (Debian: apt install runc), or name it with BAY_RUNC"
    if version is None:
        return [HostCheck("runc", False, True, f"{binary} does not run", fix)]
    text = f"{binary} is {version.name} {version.text}"
    if version.name == RUNSC:
        return [HostCheck("runc", False, True, text, f"{fix}; name {binary} with BAY_RUNSC")]
    if version.name != RUNC:
        about = f"`bay doctor --runtime {binary}` tries it on this host; no list of its CVEs is known here"
        other = HostCheck(
            "runtime", False, False, f"{text}, and Bay's own tests run with runc", about, risk=True
        )
        return [HostCheck("runc", True, True, text, fix), other]
    numbers = version.numbers
    fit = numbers >= _OLDEST_RUNC or (numbers >= (1, 1, 0) and is_patched(binary))
    known = HostCheck(
        "runc-cves",
        numbers[:2] >= (1, 4) or numbers >= (*numbers[:2], _FIXED_RUNC.get(numbers[:2], 1 << 30)),
        False,
        f"{text}; CVE-2025-31133 and its siblings are fixed in 1.2.8 and 1.3.3",
        "upgrade runc; until then: Bay mounts /dev and /proc itself and never from a tenant's files, which these need",
        risk=True,
    )
    return [HostCheck("runc", fit, True, text, fix), known]


def _kernel() -> list[HostCheck]:
    users = _number("/proc/sys/user/max_user_namespaces")
    seccomp = _text("/proc/sys/kernel/seccomp/actions_avail")
    helpers = {name: shutil.which(name) for name in ("prlimit", "setpriv", "unshare")}
    missing = [name for name, path in helpers.items() if path is None]
    found = f"not on PATH: {', '.join(missing)}" if missing else str(helpers["unshare"])
    more_users, filters = (
        "sysctl -w user.max_user_namespaces=65536",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
    merged = Path("/bin").is_symlink()
    kind = f"/bin is {'a link' if merged else 'a directory of its own'}"
    return [
        HostCheck("util-linux", not missing, True, found, "install util-linux 2.36 or newer"),
        HostCheck("user-namespaces", users > 0, True, f"at most {users}", more_users),
        HostCheck("seccomp", "errno" in seccomp, True, seccomp or "none", filters),
        _tried("openat2", _try_openat2, "use Linux 5.6 or newer"),
        HostCheck("merged-usr", merged, True, kind, "merge /usr (usrmerge)"),
    ]


def _cgroups() -> HostCheck:
    unified = MOUNT / "cgroup.controllers"
    if unified.is_file():
        found, version = set(unified.read_text().split()), "2"
    else:
        found, version = {path.name for path in MOUNT.iterdir()} if MOUNT.is_dir() else set[str](), "1"
    missing = [name for name in _CONTROLLERS if name not in found]
    text = f"version {version}" + (f" without {', '.join(missing)}" if missing else "")
    fix = "boot with cgroup v2 and the cpu, memory and pids controllers"
    return HostCheck("cgroups", not missing, True, text, fix)


def _trials(scratch: Path | None, id_base: int) -> list[HostCheck]:
    mapped = "use Linux 5.19 or newer, data on ext4, xfs or btrfs"
    overlaid = "use Linux 5.19 or newer with overlayfs, data on ext4, xfs or btrfs"
    return [
        _tried("id-mapped-mounts", lambda: _try_idmap(scratch, id_base), mapped),
        _tried("overlay-on-id-mapped", lambda: _overlay_found(scratch, id_base), overlaid),
        _tried("network-namespaces", _try_network, "use a kernel with CONFIG_NET_NS"),
    ]


def _limits() -> list[HostCheck]:
    instances = _number("/proc/sys/fs/inotify/max_user_instances")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    terminals = _number("/proc/sys/kernel/pty/max") - _number("/proc/sys/kernel/pty/reserve")
    watched = f"{instances} instances for each sandbox, and for Bay"
    more_watched = "sysctl -w fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=1048576"
    shared = f"{terminals} for all sandboxes together, of which one takes up to {TERMINALS}"
    more_terminals = f"sysctl -w kernel.pty.max={16 * _ENOUGH_TERMINALS}"
    more_files = "raise LimitNOFILE (ulimit -n) to 65536"
    return [
        HostCheck("inotify", instances >= _ENOUGH_INOTIFY_INSTANCES, False, watched, more_watched),
        HostCheck("terminals", terminals >= _ENOUGH_TERMINALS, False, shared, more_terminals),
        HostCheck("open-files", files >= _ENOUGH_FILES, False, f"{files}", more_files),
        _core_dumps(_text("/proc/sys/kernel/core_pattern"), resource.getrlimit(resource.RLIMIT_CORE)[1]),
        _closed_files(),
    ]


def _core_dumps(pattern: str, hard: int) -> HostCheck:
    """Whether a crash inside reaches a host's program; RLIMIT_CORE 1 (`rlimits`) stops no connection."""
    connects, starts = pattern.startswith("@"), pattern.startswith("|")
    ok = not connects and (hard != 0 or not starts)
    limit = "any size" if hard < 0 else str(hard)
    fix = "sysctl -w kernel.core_pattern=core" if connects else "raise LimitCORE (ulimit -H -c) to infinity"
    return HostCheck("core-dumps", ok, False, f"{pattern}, with a hard limit of {limit}", fix, risk=True)


def _extras(scratch: Path | None) -> list[HostCheck]:
    lacking = _lacking_for_limits(scratch or Path(tempfile.gettempdir()))
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    found = (
        f"one sandbox can fill this machine's disk: {'; '.join(lacking)}" if lacking else "btrfs can be used"
    )
    fix = (
        "apt install btrfs-progs; modprobe btrfs loop; then use a new data directory. Until then give Bay's a "
        "file system of its own"
    )
    virtual = "enable virtualisation, for isolation by virtual machines"
    return [
        HostCheck("disk-limits", not lacking, False, found, fix, risk=True),
        _tried(
            "libseccomp",
            lambda: compile_profile(profile(os.uname().machine)),
            "install libseccomp 2.5 or newer (Debian: apt install libseccomp2); until then starts take longer",
            required=False,
        ),
        HostCheck("kvm", kvm, False, "usable" if kvm else "none", virtual),
    ]


def _gvisor(binary: str, id_base: int) -> Iterator[HostCheck]:
    fix = (
        f"install gVisor (Debian: apt install runsc), or name its runtime with BAY_RUNSC, until `{binary} do true` works "
        "as root; until then no profile may ask for isolation `gvisor`"
    )
    yield (alone := _tried("gvisor", lambda: trial(binary, id_base), fix, required=False))
    if alone.ok:
        fix = "see the row `network`; until then a profile with isolation `gvisor` has no network"
        yield _tried("gvisor-network", lambda: trial_with_network(binary, id_base), fix, required=False)


def _closed_files() -> HostCheck:
    """Files that the image `host` shows and the host's own users may not read: root inside may, by its ids.
    Not programs: packages close those that have special rights, and nothing in them is secret.
    """
    found = sorted(_closed_below(USR))
    more = f" and {len(found) - _EXAMPLES} more" if len(found) > _EXAMPLES else ""
    text = (", ".join(found[:_EXAMPLES]) or "none") + more
    fix = "move it out of /usr: root inside a sandbox of the image `host` reads it, whatever its mode"
    return HostCheck("closed-files", not found, False, text, fix, risk=True)


def _closed_below(top: Path) -> Iterator[str]:
    for directory, below, files in os.walk(top):
        for name in (*below, *files):
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):  # a package is being changed
                if _is_closed(path):
                    yield path


def _is_closed(path: str) -> bool:
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        return not mode & stat.S_IXOTH and bool(os.listdir(path))
    return stat.S_ISREG(mode) and not mode & (stat.S_IROTH | stat.S_IXUSR)


def _lacking_for_limits(scratch: Path) -> list[str]:
    """Why files of sandboxes would have no limit: Bay makes a btrfs of its own where it can."""
    if btrfs.are_quotas_on(scratch):
        return []
    modules = _text(f"/lib/modules/{os.uname().release}/modules.dep")
    known = "btrfs" in _text("/proc/filesystems").split() or "/btrfs.ko" in modules
    needs = {
        "mkfs.btrfs is not installed": shutil.which("mkfs.btrfs") is not None,
        "the kernel has no btrfs": known,
        "there is no /dev/loop-control": Path("/dev/loop-control").exists(),
    }
    return [problem for problem, is_met in needs.items() if not is_met]


def _network() -> list[HostCheck]:
    problems = NetworkManager(instance="0000").probe()
    fix = 'fix it, or set network = "off"; until then sandboxes have loopback only'
    usable = HostCheck("network", not problems, False, "; ".join(problems) or "works", fix)
    if problems:
        return [usable]
    firewalls = dropping()
    found = f"dropped by {', '.join(firewalls)}" if firewalls else "nothing in the way"
    return [usable, HostCheck("forwarding", not firewalls, False, found, FIX)]


def _try_openat2() -> None:
    with closing_fd(mounts.open_directory("/")) as root:
        os.close(mounts.open_beneath(root, "proc"))


def _try_idmap(scratch: Path | None, id_base: int) -> None:
    with (
        tempfile.TemporaryDirectory(dir=scratch) as directory,
        user_namespace(id_base) as userns,
        closing_fd(mounts.open_tree(directory)) as mount,
    ):
        mounts.set_attributes(mount, mounts.NODEV, userns=userns)


def _overlay_found(scratch: Path | None, id_base: int) -> str:
    return _LAYERS_FOUND[layer_names(scratch, id_base)]


def layer_names(scratch: Path | None, id_base: int = _ID_BASE) -> LayerNames:
    """The best way of naming an overlay's layers that works here. Raises OSError."""
    *better, last = LAYER_NAMES
    for names in better:
        with contextlib.suppress(OSError):
            return _in_thread(names, partial(_try_overlay, scratch, id_base, names))
    return _in_thread(last, partial(_try_overlay, scratch, id_base, last))


def _try_overlay(scratch: Path | None, id_base: int, names: LayerNames) -> LayerNames:
    with tempfile.TemporaryDirectory(dir=scratch) as directory, user_namespace(id_base) as userns:
        top = Path(directory)
        (top / "lower").mkdir()
        (top / "stage").mkdir()
        tried = Rootfs((Layer("/", (top / "lower",), top / "writable"),), (), names)
        prepare_writable(tried)
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_FS)
        try:
            assemble(tried, top / "stage", userns, id_base)
        finally:
            os.chdir("/")
            mounts.detach(top / "stage")
    return names


def _try_network() -> None:
    mounts.unshare(mounts.CLONE_NEWNET)
    netns.set_up_loopback()


def _tried(name: str, trial: Callable[[], object], fix: str, *, required: bool = True) -> HostCheck:
    """Whether `trial` works; text that it returns is what was found."""
    try:
        found = _in_thread(name, trial)
    except OSError as error:
        return HostCheck(name, False, required, str(error), fix)
    return HostCheck(name, True, required, found if isinstance(found, str) else "works", fix)


def _in_thread(name: str, trial: Callable[[], T]) -> T:
    """The result of `trial`, in a thread that may go into other namespaces, and ends."""
    with ThreadPoolExecutor(1, f"bay-probe-{name}") as thread:
        return thread.submit(trial).result()


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0
