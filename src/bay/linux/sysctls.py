"""The sysctls of the host's network that sandboxes need, and the guards that keep them from opening more."""

from collections.abc import Iterator
from pathlib import Path

_NET = Path("/proc/sys/net")
_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_REFLECT = {4: "ipv4/fwmark_reflect", 6: "ipv6/fwmark_reflect"}


def read(name: str) -> str:
    """The value of the sysctl `name` (below /proc/sys/net) in the calling thread's network namespace."""
    return (_NET / name).read_text().strip()


def write(name: str, value: str) -> None:
    """Set the switch `name`; a kernel that does not have it (as without IPv6) needs no setting."""
    path = _NET / name
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)


def write_all(directory: str, values: dict[str, str]) -> None:
    """Set several switches of one directory."""
    for name, value in values.items():
        write(f"{directory}/{name}", value)


def devices() -> list[str]:
    """The network devices of the calling thread's network namespace."""
    return [path.name for path in (_NET / "ipv4/conf").iterdir() if path.name not in ("all", "default")]


def forwards(version: int) -> bool:
    """Whether the host forwards packets of IP `version`."""
    return read(_FORWARDING[version]) == "1"


def forward(version: int) -> None:
    """Let the host forward.
    A router ignores router advertisements (RFC 4861, 6.2.2): devices that follow them are set to go on.
    """
    if version == 6:
        for device in (_NET / "ipv6/conf").iterdir():
            if device.name not in ("all", "default") and read(f"ipv6/conf/{device.name}/accept_ra") == "1":
                write(f"ipv6/conf/{device.name}/accept_ra", "2")
    write(_FORWARDING[version], "1")


def reflect_marks(version: int) -> None:
    """Let refusals (TCP resets, ICMP errors) carry their packet's mark, which routes them to its sandbox."""
    write(_REFLECT[version], "1")


def unwritable(*, ipv6: bool) -> Iterator[str]:
    """The switches that this process cannot set, and that are not set."""
    for version in (4, 6) if ipv6 else (4,):
        for name in (_FORWARDING[version], _REFLECT[version]):
            path = _NET / name
            if not path.exists() or (read(name) != "1" and not _is_writable(path)):
                yield f"net.{name.replace('/', '.')}"


def _is_writable(path: Path) -> bool:
    try:
        path.open("r+").close()
    except OSError:
        return False
    return True
