"""Copies a tree exactly, in a process of its own: `python -m bay.cargo.tree_copy SOURCE TARGET PARENT`.

Hard links, holes, modes, owners, times, access lists, capabilities and overlayfs's marks come along; where
the file system shares blocks, no byte is copied. Files that a sandbox is changing are copied as found, and
those that vanish are passed over. All is on the disk when this ends with 0; else the last line on stderr is
the number of the error and its subject. Rejected: `cp -a`, which a concurrent rename leads out of the tree.
"""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator

from bay.cargo.tree_walk import Node, opened, unless_changed
from bay.linux import renames
from tree_tar.beneath import NEW_FILE, OPEN_DIRECTORY, OPEN_FILE, closing

_BUFFER = 1 << 20
_MEMORY = 1 << 30
_CLONE = 0x4004_9409
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_XATTRS = ("user.", "trusted.overlay.", "security.capability", "system.posix_acl_")
_SET_PDEATHSIG = 1
_WHITEOUT = os.makedev(0, 0)


class _Copier:
    """Copies what is below the directory `source` into the empty directory `target`. Both are descriptors."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._device = os.fstat(source).st_dev
        self._links: dict[int, Node] = {}
        self._directories: list[tuple[Node | None, os.stat_result]] = []
        self._may_clone = True
        self._may_copy = True

    def run(self) -> None:
        """Copy everything."""
        pending: list[Node | None] = [None]
        while pending:
            node = pending.pop()
            with unless_changed(), opened(self._source, node) as source:
                facts = os.fstat(source)
                # Else it is a mount, or a subvolume inside, which is not part of the tree.
                if facts.st_dev == self._device:
                    pending += self._directory(node, source, facts)
        # Last, because what is made inside changes their times.
        for node, facts in reversed(self._directories):
            with opened(self._target, node) as target:
                _finish(target, facts)

    def _directory(self, node: Node | None, source: int, facts: os.stat_result) -> list[Node]:
        """Copy a directory and what is in it, but for the directories, which are the answer."""
        with opened(self._target, node) as target:
            _copy_xattrs(source, target)
            self._directories.append((node, facts))
            with os.scandir(source) as entries:
                names = [one.name for one in entries if self._entry(node, source, target, one.name)]
        return [Node(node, name) for name in names]

    def _entry(self, node: Node | None, source: int, target: int, name: str) -> bool:
        with unless_changed():
            facts = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                return True
            if not self._link(facts, target, name):
                self._make(facts, source, target, name)
                if facts.st_nlink > 1:
                    self._links[facts.st_ino] = Node(node, name)
        return False

    def _link(self, facts: os.stat_result, target: int, name: str) -> bool:
        """Make a further name for what is copied already; False when it is not."""
        if facts.st_nlink < 2 or (first := self._links.get(facts.st_ino)) is None:
            return False
        with opened(self._target, first.above) as directory:
            os.link(first.name, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        return True

    def _make(self, facts: os.stat_result, source: int, target: int, name: str) -> None:
        if stat.S_ISREG(facts.st_mode):
            return self._file(source, target, name)
        if stat.S_ISLNK(facts.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif (stat.S_ISCHR(facts.st_mode) and facts.st_rdev != _WHITEOUT) or stat.S_ISBLK(facts.st_mode):
            raise FileNotFoundError(errno.ENOENT, "a device, which no sandbox can make", name)
        else:
            os.mknod(name, stat.S_IFMT(facts.st_mode) | 0o600, facts.st_rdev, dir_fd=target)
        return _finish_by_name(source, target, name, facts)

    def _file(self, source: int, target: int, name: str) -> None:
        with closing(os.open(name, OPEN_FILE, dir_fd=source)) as old:
            facts = os.fstat(old)
            if not stat.S_ISREG(facts.st_mode):
                raise FileNotFoundError(errno.ENOENT, "the file no longer exists", name)
            with closing(os.open(name, NEW_FILE, 0o600, dir_fd=target)) as new:
                self._content(old, new, facts.st_size)
                _finish(new, facts, xattrs_of=old)

    def _content(self, old: int, new: int, size: int) -> None:
        if self._may_clone:
            try:
                fcntl.ioctl(new, _CLONE, old)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self._may_clone = False
            else:
                return
        for start, end in _segments(old, size):
            self._segment(old, new, start, end)
        os.ftruncate(new, size)

    def _segment(self, old: int, new: int, start: int, end: int) -> None:
        while start < end and (done := self._some(old, new, start, end - start)):
            start += done

    def _some(self, old: int, new: int, place: int, wanted: int) -> int:
        if self._may_copy:
            try:
                return os.copy_file_range(old, new, wanted, place, place)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self._may_copy = False
        return os.pwrite(new, os.pread(old, min(wanted, _BUFFER), place), place)


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # the rest is a hole
            return
        end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, end


def _finish(new: int, facts: os.stat_result, *, xattrs_of: int | None = None) -> None:
    """Owner, mode, marks and times, in this order: each but the last changes one of those before."""
    if os.geteuid() == 0:
        os.fchown(new, facts.st_uid, facts.st_gid)
    os.fchmod(new, stat.S_IMODE(facts.st_mode))
    if xattrs_of is not None:
        _copy_xattrs(xattrs_of, new)
    os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _finish_by_name(source: int, target: int, name: str, facts: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(name, facts.st_uid, facts.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(facts.st_mode):
        os.chmod(name, stat.S_IMODE(facts.st_mode), dir_fd=target)
    _copy_xattrs(f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}")
    os.utime(name, ns=(facts.st_atime_ns, facts.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_xattrs(old: int | str, new: int | str) -> None:
    by_name = {"follow_symlinks": False} if isinstance(old, str) else {}
    try:
        names = os.listxattr(old, **by_name)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return
    for name in names:
        if name.startswith(_XATTRS):
            os.setxattr(new, name, os.getxattr(old, name, **by_name), **by_name)


def copy(source: str, target: str) -> None:
    """Copy the tree `source` to the new `target`, on the disk when this returns. Raises OSError."""
    with closing(os.open(source, OPEN_DIRECTORY)) as old:
        os.mkdir(target, 0o700)
        with closing(os.open(target, OPEN_DIRECTORY)) as new:
            _Copier(old, new).run()
            renames.sync_open_file_system(new)


def main(source: str, target: str, parent: str) -> int:
    """`copy`, for a command line. Ends with the process `parent`, which alone would use the copy."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before it could be asked for
        return 1
    # It remembers directories and files with several names, and a sandbox decides how many there are.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        copy(source, target)
    except MemoryError:
        sys.stderr.write(f"\n{errno.ENOMEM} too many directories and hard links to be copied in one piece")
        return 1
    except OSError as error:
        sys.stderr.write(f"\n{error.errno} {error.strerror} {error.filename or ''}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
