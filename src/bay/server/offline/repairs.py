"""The commands that mend what `bay doctor` found: decided here, shown or run by the command line.

A sysctl's command is the `fix` of its check. Packages are named as the families of distributions name them
that /etc/os-release says this one belongs to.
"""

import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bay.drivers.host_check import HostCheck
from bay.images import fetch_cage
from bay.linux import nftables

_SYSCTL = "sysctl -w "
_NEITHER = "this system's package manager"
_SYSCTLS_KEPT, _MODULES_KEPT = "/etc/sysctl.d/60-bay.conf", "/etc/modules-load.d/bay.conf"
_PACKAGES = {
    "runc": "starts containers",
    "util-linux": "has unshare, setpriv and prlimit",
    "btrfs-progs": "makes the file system that limits and checkpoints need",
    "nftables": "has the library for networks of sandboxes",
    "skopeo": "fetches images",
    "libseccomp": "makes starts quicker",
}
"""The packages that Bay calls, by the name that most distributions give them, and why."""
_INSTALLERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "debian": (("apt-get", "update"), ("apt-get", "install", "-y", "--no-install-recommends")),
    "fedora": (("dnf", "install", "-y"),),
}
_OTHER_NAMES = {"debian": {"libseccomp": "libseccomp2"}}


@dataclass(frozen=True, slots=True)
class Repair:
    """One command, the check that asks for it, and what it does."""

    check: str
    does: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repairs:
    """The commands that mend, in order, and words about the rest."""

    commands: tuple[Repair, ...]
    by_hand: tuple[str, ...]


def plan(found: Sequence[HostCheck], release: Mapping[str, str] | None = None) -> Repairs:
    """The way to mend the checks that are not ok. `release` is /etc/os-release (default: this machine's)."""
    family = _family(_this_release() if release is None else release)
    wrong = [check for check in found if not check.ok]
    packages = {check.name: package for check in wrong if (package := _package(check)) is not None}
    commands = [*_installed(packages, family), *(repair for check in wrong for repair in _set(check))]
    mended = {name for repair in commands for name in repair.check.split(", ")}
    left = [f"{check.name}: {check.fix}" for check in wrong if check.name not in mended]
    return Repairs(tuple(commands), tuple(left))


def lacking() -> list[HostCheck]:
    """Checks that need no root: programs and libraries that are not here, as the other checks find them."""
    programs = {"runc": "runc", "util-linux": "unshare", "disk-limits": "mkfs.btrfs"}
    missing = {check: name for check, name in programs.items() if shutil.which(name, path=_path()) is None}
    found = [HostCheck(check, False, True, f"{name} does not run", "-") for check, name in missing.items()]
    if not nftables.is_installed():
        found.append(HostCheck("network", False, False, f"{nftables.LIBRARY} is missing", "-"))
    if shutil.which("skopeo", path=fetch_cage.PATH) is None:
        found.append(HostCheck("skopeo", False, False, "none", "-"))
    return found


def _path() -> str:
    """Where root looks for programs: those of administrators are not on everybody's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def _this_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _family(release: Mapping[str, str]) -> str | None:
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    aliases = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora"}
    return next((family for name in names if (family := aliases.get(name, name)) in _INSTALLERS), None)


def _package(check: HostCheck) -> str | None:
    """The package whose absence the check found; none where another thing is wrong."""
    match check.name:
        case "runc" if check.found.endswith("does not run"):
            return "runc"
        case "disk-limits" if "mkfs.btrfs" in check.found:
            return "btrfs-progs"
        case "network" if nftables.LIBRARY in check.found:
            return "nftables"
        case "skopeo" | "util-linux" | "libseccomp":
            return check.name
        case _:
            return None


def _installed(packages: Mapping[str, str], family: str | None) -> Iterator[Repair]:
    if not packages or family is None:
        return
    checks = ", ".join(packages)
    names = sorted({*packages.values()})
    why = "; ".join(f"{name} {_PACKAGES[name]}" for name in names)
    own = [_OTHER_NAMES.get(family, {}).get(name, name) for name in names]
    *before, install = _INSTALLERS[family]
    for command in before:
        yield Repair(checks, "fetches the lists of packages", command)
    yield Repair(checks, f"installs packages: {why}", (*install, *own))


def _set(check: HostCheck) -> Iterator[Repair]:
    """Settings of the kernel, its modules, and the mount of control groups."""
    if check.fix.startswith(_SYSCTL):
        settings = shlex.split(check.fix.removeprefix(_SYSCTL))
        yield Repair(check.name, f"sets {' and '.join(settings)} now", ("sysctl", "-w", *settings))
        yield _kept(check.name, settings, _SYSCTLS_KEPT)
    elif check.name == "disk-limits":
        modules = {"btrfs": "kernel has no btrfs", "loop": "loop-control"}
        for module, problem in modules.items():
            if problem in check.found:
                yield Repair(check.name, f"loads the module {module} now", ("modprobe", module))
                yield _kept(check.name, [module], _MODULES_KEPT)
    elif check.name == "cgroups" and check.found == "version 1 without cpu, memory, pids":
        mount = ("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        yield Repair(check.name, "mounts control groups of version 2", mount)


def _kept(check: str, lines: Sequence[str], file: str) -> Repair:
    write = "; ".join(f"echo {line} >> {file}" for line in lines)
    return Repair(check, f"keeps that across boots, in {file}", ("sh", "-c", write))
