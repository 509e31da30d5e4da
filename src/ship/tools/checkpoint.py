"""The tool packs all of `workspace` in the working directory, or that directory itself under this name, as a
tar without its end, behind a line of JSON that says whether it can. No program runs there meanwhile: in a
carrier there is none, and in a sandbox all stand still.

Unlike `pack` it leaves nothing out but sockets: a file that it cannot read ends it. So the last bytes, a
`CHECKPOINT_TRAILER` of JSON filled up with zeros, have the numbers of entries, and of bytes of files without
their holes; or the reason why there is no more.
"""

import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

from ship.files.temporaries import is_temporary
from ship.process.syscalls import hide_from_debuggers
from ship.tools import settle
from ship.tools.pack import Level, Packer, Plain
from ship_protocol import CHECKPOINT_TRAILER
from tree_tar.beneath import OPEN_DIRECTORY, open_or_make
from tree_tar.headers import header_of
from tree_tar.xattr_records import to_records

WORKSPACE = "workspace"
REPLACED = "replaced"
"""The former workspace, where a file system cannot exchange two names: see `restore`."""
_MEMORY_BYTES = 512 << 20
_USER = "user."
_WHITEOUT = os.makedev(0, 0)
_MESSAGE = 500
_TIMES = 4
"""The content of all files is so many times the size of their file system at most. More than once it is by
shared blocks, and by holes that are too many to be kept: a few such files would be copied for hours.
"""


class Left(BaseException):
    """The caller has left."""


class WholePacker(Packer):
    """Packs everything; a file or directory that its owner may not read gets that right for a moment."""

    most_links = 500_000

    def __init__(self, out: Plain, *, beside_ship: bool = False, most_bytes: int | None = None) -> None:
        """`beside_ship`: a Ship is at work, and what it has half-made is left out. `most_bytes` of content
        are packed.
        """
        super().__init__(out)
        self._most_bytes = most_bytes
        self._beside_ship = beside_ship
        self.entries = 1
        self.bytes = 0
        self._modes: dict[int, tuple[int, str, int]] = {}
        """By the descriptor of a directory that is read: the one above it, its name, and its own mode."""

    def add_entry(self, level: Level, entry: str) -> None:
        if self._beside_ship and is_temporary(entry):
            return
        self.entries += 1
        try:
            self.add(level, entry, os.stat(entry, dir_fd=level.directory, follow_symlinks=False))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise OSError(error.errno, error.strerror, level.prefix + entry) from error

    def add(self, level: Level, entry: str, facts: os.stat_result) -> None:
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _WHITEOUT:
            self.out.write(header_of(level.prefix + entry, facts))
        else:
            super().add(level, entry, facts)

    def enter(self, level: Level, entry: str) -> int:
        with _opened(level.directory, entry, 0o500) as mode:
            directory = super().enter(level, entry)
        if mode is not None:  # it is searched until all of it is written
            os.chmod(entry, mode | 0o500, dir_fd=level.directory)
            self._modes[directory] = (level.directory, entry, mode)
        return directory

    def leave(self, level: Level) -> None:
        os.close(level.directory)
        if (changed := self._modes.pop(level.directory, None)) is not None:
            parent, entry, mode = changed
            os.chmod(entry, mode, dir_fd=parent)

    def put_back(self) -> None:
        """Give the directories their modes, in the middle of the tree."""
        for parent, entry, mode in reversed(self._modes.values()):
            with suppress(OSError):
                os.chmod(entry, mode, dir_fd=parent)

    def open_file(self, level: Level, entry: str) -> int:
        with _opened(level.directory, entry, 0o400):
            return super().open_file(level, entry)

    def content(self, descriptor: int, offset: int, size: int) -> None:
        self.bytes += size
        if self._most_bytes is not None and self.bytes > self._most_bytes:
            raise SystemExit(
                f"with its shared blocks and small holes it comes to more than {_TIMES} times its file system; delete "
                "such files"
            )
        super().content(descriptor, offset, size)

    def records(self, descriptor: int) -> Mapping[str, str]:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o400:
            return _attributes(descriptor)
        os.fchmod(descriptor, mode | 0o400)  # which attributes need, also of a file that is open
        try:
            return _attributes(descriptor)
        finally:
            os.fchmod(descriptor, mode)


@contextmanager
def _opened(parent: int, entry: str, needed: int) -> Generator[int | None]:
    """Have its owner be able to open it in the block; its mode where that had to be changed."""
    mode = stat.S_IMODE(os.stat(entry, dir_fd=parent, follow_symlinks=False).st_mode)
    if mode & needed == needed:
        yield None
        return
    os.chmod(entry, mode | needed, dir_fd=parent)
    try:
        yield mode
    finally:
        os.chmod(entry, mode, dir_fd=parent)


def _attributes(descriptor: int) -> Mapping[str, str]:
    try:
        found = [name for name in os.listxattr(descriptor) if name.startswith(_USER)]
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return {}
    return to_records({name: os.getxattr(descriptor, name) for name in found})


def _most_content(directory: int) -> int | None:
    facts = os.fstatvfs(directory)
    return _TIMES * facts.f_blocks * facts.f_frsize or None  # some file systems tell no size


def open_workspace(top: int) -> int:
    """A descriptor of the workspace, which is made where it is missing."""
    with suppress(FileNotFoundError):
        if not _is_there(top, WORKSPACE):
            os.rename(REPLACED, WORKSPACE, src_dir_fd=top, dst_dir_fd=top)
    return open_or_make(top, WORKSPACE)


def _is_there(directory: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "a directory has too many files for the memory of the archiver"
    if isinstance(error, OSError):
        named = str(error.filename or "").encode("utf-8", "surrogateescape")[:200].decode("utf-8", "replace")
        return f"{named!r} cannot be read: {error.strerror}"
    return str(error.__cause__ or error)


def _leave(_number: int, _frame: object) -> None:
    raise Left


def _keep_to_itself() -> None:
    """Be the first to be killed for want of memory, and hidden from the programs beside it."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    hide_from_debuggers()


def main() -> None:
    """Run. A reader who goes away ends it, and so does TERM."""
    settle(_MEMORY_BYTES)
    _keep_to_itself()
    order = json.loads(sys.argv[1])
    out = Plain()
    is_workspace = order.get("is_workspace") is True
    try:
        top = os.open(".", OPEN_DIRECTORY)
        workspace = top if is_workspace else open_workspace(top)
        packer = WholePacker(out, beside_ship=is_workspace, most_bytes=_most_content(workspace))
    except OSError as error:
        sys.stdout.write(json.dumps({"error": str(error.strerror), "errno": error.errno}) + "\n")
        return
    os.write(1, b"{}\n")
    said: dict[str, object]
    signal.signal(signal.SIGTERM, _leave)
    try:
        packer.add_directory(workspace, WORKSPACE)
        said = {"entries": packer.entries, "bytes": packer.bytes}
    except (BrokenPipeError, Left):
        packer.put_back()
        os._exit(1)
    except (OSError, MemoryError, SystemExit) as error:
        said = {"error": _reason(error)[:_MESSAGE]}
    out.write(json.dumps(said).encode().ljust(CHECKPOINT_TRAILER, b"\0"))
    out.end()
