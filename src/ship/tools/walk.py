"""A walk enters trees by directory descriptors only: it follows no link, and stays below the top."""

import os
from collections.abc import Iterator
from operator import attrgetter

from tree_tar.beneath import OPEN_FILE, closing, open_directory

DEEPEST = 400  # a directory on the way is a descriptor, of which a process commonly has 1024
_MOUNTS_BYTES = 4 << 20
_MADE_UP = frozenset(
    (
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl"),
        *("mqueue", "nsfs", "proc", "pstore", "securityfs", "sysfs", "tracefs"),
    )
)


def made_up() -> frozenset[int]:
    """The devices of file systems whose files the kernel makes up. Source: proc_pid_mountinfo(5)."""
    try:
        descriptor = os.open("/proc/self/mountinfo", OPEN_FILE)
    except OSError:
        return frozenset()
    with closing(descriptor):
        return frozenset(_devices(_read(descriptor)))


def enter(parent: int, name: str, refused: frozenset[int]) -> int:
    """A descriptor of a directory. Raises OSError, also when it is on one of the devices `refused`."""
    found = open_directory(parent, name)
    if os.fstat(found).st_dev in refused:
        os.close(found)
        raise PermissionError(name)
    return found


def entries(directory: int) -> list[os.DirEntry[str]]:
    """The entries of a directory, by name."""
    with os.scandir(directory) as scan:
        return sorted(scan, key=attrgetter("name"))


def _read(descriptor: int) -> bytes:
    read = b""
    while len(read) < _MOUNTS_BYTES and (data := os.read(descriptor, 1 << 16)):
        read += data
    return read


def _devices(text: bytes) -> Iterator[int]:
    for line in text.decode("utf-8", "replace").splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in _MADE_UP:
            major, _, minor = before.split(" ")[2].partition(":")
            yield os.makedev(int(major), int(minor))
