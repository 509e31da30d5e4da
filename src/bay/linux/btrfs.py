"""The ioctls of btrfs: subvolumes, snapshots, their quotas and the size of the file system.

A program for each call would take longer than the call. Everything blocks and raises OSError. Paths are
Bay's own, and a link as the last part of one is never followed. Nested and read-only subvolumes, which a
sandbox may make at any depth, are found by number and opened by handle: no path of theirs is resolved.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bay.linux.processes import closing_fd

# From linux/btrfs.h.
_SUBVOL_CREATE, _SNAP_CREATE_V2, _SNAP_DESTROY = 0x5000_940E, 0x5000_9417, 0x5000_940F
_GETFLAGS, _SETFLAGS, _INO_LOOKUP, _TREE_SEARCH = 0x8008_9419, 0x4008_941A, 0xD000_9412, 0xD000_9411
_QUOTA_CTL, _QGROUP_ASSIGN, _QGROUP_CREATE, _QGROUP_LIMIT = 0xC010_9428, 0x4018_9429, 0x4010_942A, 0x8030_942B
_RESIZE, _DEV_INFO, _DEV_STATS = 0x5000_9403, 0xD000_941E, 0xC408_9434
_START_SYNC, _WAIT_SYNC = 0x8008_9418, 0x4008_9416
_LATE_S = 0.1
_READ_ONLY = 2
_QUOTA_ENABLE, _QUOTA_ENABLE_SIMPLE = 1, 4
_LIMIT_MAX_RFER = 1
_NO_LIMIT = (1 << 64) - 1
# From linux/btrfs_tree.h.
_ROOT_TREE, _QUOTA_TREE = 1, 8
_ROOT_ITEM, _ROOT_REF, _QGROUP_INFO, _QGROUP_RELATION = 132, 156, 242, 246
_FIRST_FREE_OBJECT = 256
_LAST = (1 << 64) - 1
_LEVEL = 1 << 48
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCH = struct.Struct("=7Q4L4Q")
_ITEM = struct.Struct("=3Q2L")
_SEARCH_SIZE = 4096
_HANDLE_KIND = 0x4D
_MAGIC = 0x9123_683E

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of one of the trees that btrfs is made of."""

    objectid: int
    kind: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Nested:
    """A subvolume inside another: its number, and under which name in which directory of its parent it is."""

    subvolume: int
    parent: int
    directory: int
    name: str


def is_btrfs(path: Path) -> bool:
    """Whether `path` lies on btrfs."""
    facts = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), facts):
        raise _last_error(path)
    return struct.unpack_from("=q", facts)[0] == _MAGIC


def is_refused(error: OSError) -> bool:
    """Whether the file system is not btrfs, or lacks the call."""
    return error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)


def is_subvolume(path: Path) -> bool:
    """Whether the directory `path`, on btrfs, is the top of a subvolume."""
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_ino == _FIRST_FREE_OBJECT
    return False


def create(path: Path) -> None:
    """Make an empty subvolume."""
    with opened(path.parent) as parent:
        fcntl.ioctl(parent, _SUBVOL_CREATE, _named(path.name))


def snapshot(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Make `target` a copy of the subvolume `source` as it is now; it is on the disk when this returns."""
    name = os.fsencode(target.name)
    with opened(source) as origin, opened(target.parent) as parent:
        flags = _READ_ONLY if read_only else 0
        order = struct.pack("=q2Q32s4040s", origin, 0, flags, b"", name)
        fcntl.ioctl(parent, _SNAP_CREATE_V2, bytearray(order))


def set_read_only(path: Path, read_only: bool) -> None:
    """Whether anything in the subvolume can be changed."""
    with opened(path.parent) as parent, opened(path) as fd:
        if _is_read_only(fd) != read_only:
            with _uncounted(parent, [_subvolume_id(fd)]):
                _set_read_only(fd, read_only)


def is_read_only(path: Path) -> bool:
    """Whether nothing in the subvolume can be changed."""
    with opened(path) as fd:
        return _is_read_only(fd)


def subvolume_id(path: Path) -> int:
    """The number of the subvolume that `path` lies in. Numbers are never used again."""
    with opened(path) as fd:
        return _subvolume_id(fd)


def destroy(path: Path) -> None:
    """Remove a subvolume with all nested in it, deepest first. Its space comes back later."""
    with opened(path.parent) as parent:
        with opened(path) as top:
            _destroy_all_nested(parent, top)
        fcntl.ioctl(parent, _SNAP_DESTROY, _named(path.name))


def commit(path: Path) -> None:
    """Have every change of names, subvolumes and quotas so far reach the disk, not the files' content."""
    with opened(path) as fd:
        fcntl.ioctl(fd, _WAIT_SYNC, _started(fd))


def begin_commit(path: Path) -> None:
    """Start a commit, which gives back the space of deleted subvolumes; else that takes half a minute."""
    with opened(path) as fd:
        _started(fd)


def _started(fd: int) -> bytearray:
    """The transaction whose commit has begun. Blocks.

    The kernel's thread of transactions does not see a request that comes while it ends a commit: it sleeps
    until the next one is due, half a minute later. Another request wakes it, so one follows a late answer.
    """
    transaction, is_begun = bytearray(8), threading.Event()

    def ask_again() -> None:
        late_s = _LATE_S
        while not is_begun.wait(late_s):
            threading.Thread(target=_ask, args=(os.dup(fd),), name="bay-commit", daemon=True).start()
            late_s *= 2  # where it is the disk that is slow

    asking = threading.Thread(target=ask_again, name="bay-commit", daemon=True)
    asking.start()
    try:
        fcntl.ioctl(fd, _START_SYNC, transaction)
    finally:
        is_begun.set()
        asking.join()
    return transaction


def _ask(fd: int) -> None:
    with closing_fd(fd), contextlib.suppress(OSError):
        fcntl.ioctl(fd, _START_SYNC, bytearray(8))


def enable_quotas(path: Path) -> None:
    """Turn quotas on; from Linux 6.7 simple ones, which cost nothing when a snapshot is removed."""
    if are_quotas_on(path):
        return
    with opened(path) as fd:
        try:
            _quota_ctl(fd, _QUOTA_ENABLE_SIMPLE)
        except OSError as error:
            if not is_refused(error):
                raise
            _quota_ctl(fd, _QUOTA_ENABLE)


def are_quotas_on(path: Path) -> bool:
    """Whether limits would hold on that file system; false also where it is not btrfs."""
    try:
        with opened(path) as fd:
            # A limit that changes nothing, on a group that is not there: the errors differ.
            _limit(fd, _LEVEL - 1, 0, 0)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def group_of(subvolume: int) -> int:
    """The number of a level-1 group, for the subvolume with all subvolumes made inside it."""
    return _LEVEL | subvolume


def join_group(path: Path, group: int) -> None:
    """Count the subvolume `path` in `group`, which is made when it is not there."""
    number = subvolume_id(path)
    with opened(path.parent) as fd:  # a call through a subvolume that is at its limit is refused
        with contextlib.suppress(FileExistsError):
            fcntl.ioctl(fd, _QGROUP_CREATE, bytearray(struct.pack("=2Q", 1, group)))
        _assign(fd, 1, number, group)


def limit_group(path: Path, group: int, limit_bytes: int | None) -> None:
    """Let the group hold that much; None is no limit. `path` is in no subvolume with a limit."""
    with opened(path) as fd:
        _limit(fd, group, _LIMIT_MAX_RFER, _NO_LIMIT if limit_bytes is None else limit_bytes)


def groups_above(path: Path) -> list[int]:
    """The groups that the subvolume `path` is counted in."""
    with opened(path) as fd:
        return _groups_above(fd, _subvolume_id(fd))


def usage_of_group(path: Path, group: int) -> int | None:
    """Bytes of the group as of the last commit, half a minute ago at most; None without such a group."""
    with opened(path) as fd:
        for item in _search(fd, _QUOTA_TREE, (0, _QGROUP_INFO, group), (0, _QGROUP_INFO, group)):
            return int(struct.unpack_from("=Q", item.data, 8)[0])
    return None


def remove_stale_groups(path: Path) -> int:
    """Remove the groups of deleted subvolumes in which no data is counted; returns how many."""
    with opened(path) as fd:
        alive = {item.objectid for item in _search(fd, _ROOT_TREE, (5, _ROOT_ITEM, 0), (_LAST, _ROOT_ITEM, _LAST))
                 if item.kind == _ROOT_ITEM}  # fmt: skip
        groups = [item.offset for item in _items(fd, _QUOTA_TREE, _QGROUP_INFO, 0)]
        # Those of level 0 first: a group of level 1 can only go when nothing is counted in it.
        stale = [group for group in groups if group % _LEVEL not in alive]
        return sum(_remove_group(fd, group) for group in sorted(stale))


def size(path: Path) -> int:
    """The bytes of the file system's only device."""
    with opened(path) as fd:
        facts = bytearray(4096)
        struct.pack_into("=Q", facts, 0, 1)
        fcntl.ioctl(fd, _DEV_INFO, facts)
        return int(struct.unpack_from("=Q", facts, 32)[0])


def device_errors(path: Path) -> dict[str, int]:
    """The first device's errors since the file system was made: counts of each kind that is not zero."""
    kinds = ("write", "read", "flush", "corruption", "generation")
    with opened(path) as fd:
        stats = bytearray(1032)
        struct.pack_into("=2Q", stats, 0, 1, len(kinds))
        fcntl.ioctl(fd, _DEV_STATS, stats)
        found = struct.unpack_from(f"={len(kinds)}Q", stats, 24)
    return {kind: count for kind, count in zip(kinds, found, strict=True) if count}


def resize(path: Path, size_bytes: int) -> None:
    """Resize the file system on its only device. Shrinking moves data, and may take long."""
    with opened(path) as fd:
        fcntl.ioctl(fd, _RESIZE, _named(f"1:{size_bytes}"))


def opened(directory: Path) -> AbstractContextManager[int]:
    """A descriptor of `directory`, closed at the end."""
    return closing_fd(os.open(directory, _DIRECTORY))


def _named(name: str) -> bytearray:
    return bytearray(struct.pack("=q4088s", 0, os.fsencode(name)))


def _subvolume_id(fd: int) -> int:
    lookup = bytearray(struct.pack("=2Q4080s", 0, _FIRST_FREE_OBJECT, b""))
    fcntl.ioctl(fd, _INO_LOOKUP, lookup)
    return int(struct.unpack_from("=Q", lookup)[0])


def _flags(fd: int) -> int:
    flags = bytearray(8)
    fcntl.ioctl(fd, _GETFLAGS, flags)
    return int(struct.unpack("=Q", flags)[0])


def _is_read_only(fd: int) -> bool:
    return bool(_flags(fd) & _READ_ONLY)


def _set_read_only(fd: int, read_only: bool) -> None:
    now = _flags(fd)
    wanted = now | _READ_ONLY if read_only else now & ~_READ_ONLY
    if now != wanted:
        fcntl.ioctl(fd, _SETFLAGS, bytearray(struct.pack("=Q", wanted)))


def _quota_ctl(fd: int, command: int) -> None:
    fcntl.ioctl(fd, _QUOTA_CTL, bytearray(struct.pack("=2Q", command, 0)))


def _limit(fd: int, group: int, flags: int, limit_bytes: int) -> None:
    fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(struct.pack("=6Q", group, flags, limit_bytes, 0, 0, 0)))


def _assign(fd: int, assign: int, subvolume: int, group: int) -> None:
    with contextlib.suppress(FileExistsError):
        fcntl.ioctl(fd, _QGROUP_ASSIGN, bytearray(struct.pack("=3Q", assign, subvolume, group)))


def _groups_above(fd: int, subvolume: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):  # there are no quotas
        related = _items(fd, _QUOTA_TREE, _QGROUP_RELATION, subvolume)
        return [item.offset for item in related if item.offset > subvolume]
    return []


def _remove_group(fd: int, group: int) -> bool:
    try:
        fcntl.ioctl(fd, _QGROUP_CREATE, bytearray(struct.pack("=2Q", 0, group)))
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):  # still counted, or the kernel was quicker
            raise
        return False
    return True


def _destroy_all_nested(parent: int, top: int) -> None:
    number = _subvolume_id(top)
    found = _nested(top, number)
    if not found and not _is_read_only(top):
        return
    with _uncounted(parent, [number, *(nested.subvolume for nested in found)]):
        _set_read_only(top, False)  # else nothing in it could be removed
        for nested in found:
            _destroy_nested(top, nested)


@contextlib.contextmanager
def _uncounted(fd: int, subvolumes: list[int]) -> Generator[None]:
    """Take subvolumes out of their groups, as at its limit one is refused even a removal.
    The first comes back at the end. `fd` is in none of them.
    """
    above = {number: _groups_above(fd, number) for number in subvolumes}
    for number, groups in above.items():
        for group in groups:
            _assign(fd, 0, number, group)
    try:
        yield
    finally:
        for group in above[subvolumes[0]]:
            _assign(fd, 1, subvolumes[0], group)


def _nested(fd: int, subvolume: int) -> list[Nested]:
    """Every subvolume below that one, deepest first."""
    found: list[Nested] = []
    pending = [subvolume]
    while pending:
        parent = pending.pop()
        inside = [_nested_from(item) for item in _items(fd, _ROOT_TREE, _ROOT_REF, parent)]
        found += inside
        pending += [nested.subvolume for nested in inside]
    return found[::-1]


def _nested_from(item: Item) -> Nested:
    directory, _sequence, length = struct.unpack_from("=2QH", item.data)
    name = os.fsdecode(item.data[18 : 18 + length])
    return Nested(subvolume=item.offset, parent=item.objectid, directory=directory, name=name)


def _destroy_nested(top: int, nested: Nested) -> None:
    with _by_number(top, nested.subvolume, _FIRST_FREE_OBJECT) as itself:
        _set_read_only(itself, False)
    with _by_number(top, nested.parent, _FIRST_FREE_OBJECT) as parent:
        _set_read_only(parent, False)
    with _by_number(top, nested.parent, nested.directory) as directory:
        fcntl.ioctl(directory, _SNAP_DESTROY, _named(nested.name))


def _by_number(anywhere: int, subvolume: int, inode: int) -> AbstractContextManager[int]:
    """A descriptor of the directory with that inode, however long its path is."""
    handle = struct.pack("=IiQQI", 20, _HANDLE_KIND, inode, subvolume, 0)
    fd = int(_libc.open_by_handle_at(anywhere, handle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    if fd < 0:
        raise _last_error(f"subvolume {subvolume}")
    return closing_fd(fd)


def _last_error(what: object) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(what))


def _items(fd: int, tree: int, kind: int, objectid: int) -> Iterator[Item]:
    return _search(fd, tree, (objectid, kind, 0), (objectid, kind, _LAST))


def _search(fd: int, tree: int, low: tuple[int, int, int], high: tuple[int, int, int]) -> Iterator[Item]:
    """The items between two keys of object, kind and offset; of every kind where the objects differ."""
    while low <= high:
        # The kernel compares the parts of a key one by one, so the bound of each part is the widest.
        # nr_items is 4096: as many as fit.
        same = low[0] == high[0]
        bounds = (low[0], high[0], low[2], high[2], 0, _LAST, low[1], high[1])
        key = _SEARCH.pack(tree, *bounds, 4096, 0, 0, 0, 0, 0)
        found = bytearray(key.ljust(_SEARCH_SIZE, b"\0"))
        fcntl.ioctl(fd, _TREE_SEARCH, found)
        items = list(_parsed(found))
        if not items:
            return
        yield from (item for item in items if low[1] <= item.kind <= high[1] or not same)
        low = _after(items[-1])


def _after(item: Item) -> tuple[int, int, int]:
    if item.offset < _LAST:
        return item.objectid, item.kind, item.offset + 1
    return item.objectid + 1, 0, 0


def _parsed(found: bytearray) -> Iterator[Item]:
    (count,) = struct.unpack_from("=L", found, 64)
    place = _SEARCH.size
    for _ in range(count):
        _transaction, objectid, offset, kind, length = _ITEM.unpack_from(found, place)
        place += _ITEM.size
        yield Item(objectid, kind, offset, bytes(found[place : place + length]))
        place += length
