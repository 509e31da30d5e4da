"""Runs a program from a sealed copy in memory, which is made once.

A container could come by a descriptor of runc's file and write to it (CVE-2019-5736), so runc runs from a
sealed copy of itself. It makes one for each container, a quarter of its processor time, unless it is sealed.
"""

import errno
import fcntl
import os
import shutil
import threading

_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, _SHRINK, _GROW and _WRITE: runc checks exactly these
_F_ADD_SEALS = 1033
_MFD_EXEC = 0x10  # since Linux 6.3; some hosts require it
_ELF = b"\x7fELF"


class SealedCopy:
    """The copy of `program` (on PATH, or a path), for any thread; a change of the file makes a new one."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._lock = threading.Lock()  # guards all below; held while the file is copied, some milliseconds
        self._copies: list[int] = []  # of before as well: another thread may be about to run it
        self._of: tuple[int, int, int] | None = None
        self._path = program

    def path(self) -> str:
        """The path to run: the copy's, or the file's own for a script or where memory files cannot run.
        Blocks. Raises OSError when there is no such program.
        """
        file = shutil.which(self._program)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._program)
        info = os.stat(file)
        seen = (info.st_ino, info.st_size, info.st_mtime_ns)
        with self._lock:
            if seen != self._of:
                self._path, self._of = self._copied(file), seen
            return self._path

    def close(self) -> None:
        """Drop the copies; `path` makes another."""
        with self._lock:
            while self._copies:
                os.close(self._copies.pop())
            self._of = None

    def _copied(self, file: str) -> str:
        with open(file, "rb") as source:
            if source.read(len(_ELF)) != _ELF:
                return file
            try:
                copy = _memory_to_run()
            except OSError:  # vm.memfd_noexec forbids it
                return file
            self._copies.append(copy)
            _fill(copy, source.fileno())
        return f"/proc/{os.getpid()}/fd/{copy}"


def _memory_to_run() -> int:
    flags = os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC
    try:
        return os.memfd_create("runc", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("runc", flags)


def _fill(copy: int, source: int) -> None:
    done, size = 0, os.fstat(source).st_size
    while done < size and (sent := os.sendfile(copy, source, done, size - done)):
        done += sent
    os.fchmod(copy, 0o500)
    fcntl.fcntl(copy, _F_ADD_SEALS, _SEALS)
