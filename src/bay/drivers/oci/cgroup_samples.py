"""The counters of many sessions' control groups, in one pass: version 2, or the hierarchies of version 1.

A pass opens four to five files a session and looks for none: where the files are is found once, by those of
the group that all sessions are below.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bay.drivers.base import SessionSample
from bay.drivers.oci.cgroups import MOUNT, directories

_BYTES = 64 << 10
_IO_1 = "blkio.throttle.io_service_bytes_recursive"
_FILES = (
    "cpuacct.usage",
    "cpu.stat",
    "memory.usage_in_bytes",
    "memory.current",
    "memory.stat",
    _IO_1,
    "io.stat",
)
_UNITS = {b"read": 0, b"write": 1, b"rbytes": 0, b"wbytes": 1}


def read_all(parent: str, sessions: Iterable[str], mount: Path = MOUNT) -> Mapping[str, SessionSample]:
    """The samples of the groups of those names directly below `parent`, without those that are gone. Blocks.

    A file that is missing is no error, and its figures are unknown. So are the bytes of devices where version
    1 counts none: since Linux 6.10 it counts those of devices with a limit alone. Where it counts, it has the
    bytes that programs read, and those that they write and wait for; the kernel's later writes are nobody's.
    """
    places = _places(parent, mount)
    return {name: sample for name in sessions if (sample := _read(name, places)) is not None}


def _places(parent: str, mount: Path) -> dict[str, str]:
    """The directory that has each of the files for `parent`. `cpu.stat` of version 1 has no time."""
    found: dict[str, str] = {}
    for directory in directories(parent, mount):
        found |= {name: str(directory) for name in _FILES if (directory / name).exists()}
    if "cpuacct.usage" in found:
        found.pop("cpu.stat", None)
    return found


def _read(session: str, places: Mapping[str, str]) -> SessionSample | None:
    taken_s = time.monotonic()
    found: dict[str, bytes] = {}
    for name, directory in places.items():
        if (content := _content(f"{directory}/{session}/{name}")) is not None:
            found[name] = content
    if not found:
        return None
    read_bytes, written_bytes = _io(found)
    return SessionSample(
        taken_s=taken_s,
        cpu_usec=_cpu_usec(found),
        memory_bytes=_first(found, "memory.usage_in_bytes", "memory.current"),
        memory_cache_bytes=_cache(found),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


def _cpu_usec(found: Mapping[str, bytes]) -> int | None:
    if "cpuacct.usage" in found:
        return int(found["cpuacct.usage"]) // 1000
    return _keyed(found.get("cpu.stat", b""), b"usage_usec")


def _first(found: Mapping[str, bytes], *names: str) -> int | None:
    return next((int(found[name]) for name in names if name in found), None)


def _cache(found: Mapping[str, bytes]) -> int | None:
    """The page cache without the files of a tmpfs."""
    stat = found.get("memory.stat", b"")
    for cached, shared in ((b"total_cache", b"total_shmem"), (b"file", b"shmem")):
        cache, shmem = _keyed(stat, cached), _keyed(stat, shared)
        if cache is not None and shmem is not None:
            return max(0, cache - shmem)
    return None


def _keyed(text: bytes, key: bytes) -> int | None:
    """The number of the line `key number`."""
    _, found, rest = b"\n".join((b"", text)).partition(b"\n%s " % key)
    return int(rest.partition(b"\n")[0]) if found else None


def _io(found: Mapping[str, bytes]) -> tuple[int | None, int | None]:
    """Bytes read and written, of all devices together. A group of version 2 without any has an empty file."""
    parts: dict[str, Callable[[bytes], Iterable[tuple[bytes, bytes]]]] = {
        _IO_1: _parts_1,
        "io.stat": _parts_2,
    }
    for name, parts_of in parts.items():
        if name in found:
            counted = [(_UNITS.get(key.lower()), int(number)) for key, number in parts_of(found[name])]
            if not counted and name == _IO_1:
                return None, None
            read, written = (sum(number for unit, number in counted if unit == one) for one in (0, 1))
            return read, written
    return None, None


def _parts_1(text: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Of lines such as `8:0 Read 4096`; the last one is a total."""
    for line in text.splitlines():
        if len(words := line.split()) == 3:
            yield words[1], words[2]


def _parts_2(text: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Of lines such as `8:0 rbytes=4096 wbytes=0 rios=1`; a device may have no figures."""
    for line in text.splitlines():
        for word in line.split()[1:]:
            key, _, number = word.partition(b"=")
            yield key, number


def _content(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _BYTES)
    except OSError:  # the group is being removed
        return None
    finally:
        os.close(descriptor)
