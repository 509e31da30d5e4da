"""The OCI runtime specification of a session: a pure function of its spec and the places of its parts.

runc does as little as possible: all of the root file system is assembled before (see `launch`), the network
namespace is the one runc runs in, and nothing here names a path that a caller chose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bay.drivers.base import SessionSpec
from bay.drivers.oci.cgroup_limits import CPU_PERIOD_US, cpu_quota
from bay.drivers.oci.userns import IDS
from bay.drivers.ship_settings import ship_settings
from bay.models import Resources

OOM_SCORE_ADJ = 100
"""The host that is short of memory loses a sandbox first, not Bay."""

TERMINALS = 128
"""The most pseudo-terminals of one session: the kernel counts them for the whole host."""

SOCKET_DIR = "/.ship-run"
SOCKET_NAME = "ship.sock"
CLOSURE = "/.ship"

# The capabilities that root inside needs to install packages and to become another user, each over the
# session's own ids only. SYS_CHROOT: apk runs the scripts of packages in a chroot; the session's own root is
# that of a mount namespace, out of which no chroot leads. Not: SETFCAP (file capabilities are void under
# no_new_privs, and those it writes would be real on the host), MKNOD, NET_* (the network is the host's),
# AUDIT_WRITE (void outside the first user namespace), SYS_PTRACE and everything that rules the kernel.
CAPABILITIES = {  # and their numbers: see capability.h
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETPCAP": 8,  # lets Ship and tools give capabilities up, also from the bounding set
    "CAP_SETUID": 7,
    "CAP_SYS_CHROOT": 18,
}

# Of CRIU, its helpers and the place holder.
_RESTORING_BYTES, _RESTORING_PROCESSES = 64 << 20, 16

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Files of procfs that are about the host: writable ones and ones that block, and those that show disks,
# hardware, boot arguments, loaded code or other people's files. SECURITY.md lists the rest.
_MASKED = tuple(
    f"/proc/{name}"
    for name in (
        *("acpi", "asound", "bus", "cmdline", "config.gz", "diskstats", "driver", "fs", "interrupts", "irq"),
        *("kallsyms", "kcore", "keys", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "locks"),
        *(
            "modules",
            "mtrr",
            "partitions",
            "sched_debug",
            "scsi",
            "sysrq-trigger",
            "timer_list",
            "timer_stats",
        ),
        "pressure",  # a trigger keeps its process from ending until the kernel has waited for all processors
        "sys/kernel/core_pattern",
    )
)
_READ_ONLY = ("/proc/sys",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePlacement:
    """The host's choices for a session: its root's place, its user namespace, the architecture."""

    rootfs: Path
    userns: str
    cgroup: str
    machine: str
    seccomp: dict[str, Any]
    pid_namespace: str | None = None
    """The path of one that has its first process already; None has runc make one."""
    huge_pages: tuple[str, ...] = ()
    """The sizes that a control group here can limit."""
    told_id_base: int | None = None
    """The first outside id, for a runc that needs the mapping in the spec (see `runc.reads_mappings`)."""


def build(spec: SessionSpec, place: RuntimePlacement) -> dict[str, Any]:
    """The contents of `config.json`."""
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": {"path": str(place.rootfs), "readonly": False},
        "process": _process(spec, place),
        "mounts": [*_mounts(spec), *_secrets(spec)],
        "linux": {
            **_namespaces(place),
            "cgroupsPath": place.cgroup,
            "resources": _resources(spec.resources, place.huge_pages),
            "seccomp": place.seccomp,
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def build_place_holder(spec: SessionSpec, place: RuntimePlacement) -> dict[str, Any]:
    """The contents of `config.json` of a container that is created and never started: runc makes the control
    groups for it, with all limits, and CRIU's processes join them. Its root has `proc` and `wait`.

    There is room for these, which they must have beside those of a session at its limits.
    """
    given = spec.resources
    roomy = replace(given, memory=given.memory + _RESTORING_BYTES, pids=given.pids + _RESTORING_PROCESSES)
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(place.rootfs), "readonly": False},
        "process": {**_process(spec, place), "args": ["/wait"], "env": []},
        "mounts": [_mount("/proc", "proc", "nosuid", "noexec", "nodev")],
        "linux": {
            **_namespaces(place),
            "cgroupsPath": place.cgroup,
            "resources": _resources(roomy, place.huge_pages),
        },
    }


def ship_command(machine: str, module: str = "ship") -> list[str]:
    """How Ship is started from its closure: nothing of the image is needed, not even a loader."""
    loader = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}[machine]
    lib, python = f"{CLOSURE}/lib", f"{CLOSURE}/bin/python3"
    return [f"{lib}/{loader}", "--library-path", lib, python, "-I", "-S", "-B", "-m", module]


def _process(spec: SessionSpec, place: RuntimePlacement) -> dict[str, Any]:
    granted = list(CAPABILITIES)
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ship_command(place.machine),
        "env": [f"{name}={value}" for name, value in environment(spec).items()],
        "cwd": "/",
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted),
        "oomScoreAdj": OOM_SCORE_ADJ,
    }


def environment(spec: SessionSpec) -> Mapping[str, str]:
    """The environment that Ship begins with: its settings, and what its programs inherit."""
    own = {"PATH": _PATH, "LANG": "C.UTF-8", "SHIP_SOCKET": f"{SOCKET_DIR}/{SOCKET_NAME}"}
    return {**own, **ship_settings(spec)}


def _namespaces(place: RuntimePlacement) -> dict[str, Any]:
    # No "network": see netns. A joined user namespace has its mapping; an old runc needs it again.
    new = [{"type": kind} for kind in ("mount", "ipc", "uts", "cgroup")]
    pid = {"type": "pid"} if place.pid_namespace is None else {"type": "pid", "path": place.pid_namespace}
    joined = {"namespaces": [*new, pid, {"type": "user", "path": place.userns}]}
    if place.told_id_base is None:
        return joined
    mapping = [{"containerID": 0, "hostID": place.told_id_base, "size": IDS}]
    return {**joined, "uidMappings": mapping, "gidMappings": mapping}


def _mounts(spec: SessionSpec) -> list[dict[str, Any]]:
    half = spec.resources.memory // 2  # data in a tmpfs is charged to the session's memory as well
    terminals = ("newinstance", f"max={TERMINALS}", "ptmxmode=0666", "mode=0620", "gid=5")
    tmp = _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={half}")  # noqa: S108 - inside
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "mode=755", "size=64k", "nr_inodes=64"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", *terminals),
        _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "noexec", "mode=1777", f"size={half}"),  # noqa: S108 - inside
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        *([] if spec.tmp_on_disk else [tmp]),
    ]


def _mount(destination: str, fstype: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": fstype, "options": list(options)}


def _secrets(spec: SessionSpec) -> list[dict[str, Any]]:
    # Never on disk: a tmpfs goes with its session, and no layer or checkpoint has what is in it.
    if not spec.secret_files:
        return []
    uid, gid = (1000, 1000) if spec.root is None else (spec.root.user.uid, spec.root.user.gid)
    private = ("nosuid", "nodev", "noexec", "mode=700", f"uid={uid}", f"gid={gid}", "size=2m")
    return [_mount("/run/secrets", "tmpfs", *private)]


def _resources(resources: Resources, huge_pages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "cpu": {"quota": cpu_quota(resources.cpus), "period": CPU_PERIOD_US},
        "memory": {"limit": resources.memory, "swap": resources.memory},
        "pids": {"limit": resources.pids},
        "devices": [{"allow": False, "access": "rwm"}],
        "hugepageLimits": [{"pageSize": size, "limit": 0} for size in huge_pages],  # no part of `memory`
    }
