"""The pipes between Ship and a program. Each turn of the loop moves one slice, so that a flood is no more than a busy neighbour."""

import asyncio
import fcntl
import os
from collections.abc import Callable

_SLICE_BYTES = 64 * 1024
_FIONREAD = 0x541B  # asm-generic/ioctls.h


class OutputPipe:
    """Reads what a program writes, for as long as anything holds the other end."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._fd, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._take: Callable[[bytes], None] | None = take
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Call when the program has its end: from now on Ship holds none."""
        os.close(self.writing_end)
        self._loop.add_reader(self._fd, self._ready)

    def abandon(self) -> None:
        """Call when no program was started."""
        os.close(self.writing_end)
        os.close(self._fd)
        self._fd = -1

    def finish(self) -> None:
        """Take what lies in the pipe at this moment, and drop whatever comes later.

        A background child that holds the pipe neither blocks nor is killed by SIGPIPE.
        """
        left = _readable_bytes(self._fd) if self._fd >= 0 else 0
        while left > 0 and (data := self._read(min(left, _SLICE_BYTES))):
            left -= len(data)
            self._give(data)
        self._take = None

    def _ready(self) -> None:
        data = self._read(_SLICE_BYTES)
        if data is not None:
            self._give(data)

    def _give(self, data: bytes) -> None:
        if not data:
            self._close()
        elif self._take is not None:
            self._take(data)

    def _read(self, limit: int) -> bytes | None:
        try:
            return os.read(self._fd, limit)
        except (BlockingIOError, InterruptedError):
            return None

    def _close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1


class InputPipe:
    """Writes bytes to a program's stdin as it takes them, then closes. A pipe and not a file: some programs insist on one."""

    def __init__(self, data: bytes) -> None:
        self.reading_end, self._fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._left = memoryview(data)
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Call when the program has its end."""
        os.close(self.reading_end)
        self._loop.add_writer(self._fd, self._ready)

    def abandon(self) -> None:
        """Call when no program was started."""
        os.close(self.reading_end)
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Give no more, and let go of what was not taken."""
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._left = memoryview(b"")

    def _ready(self) -> None:
        try:
            self._left = self._left[os.write(self._fd, self._left[:_SLICE_BYTES]) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # nobody reads any more
            self._left = self._left[:0]
        if not self._left:
            self.close()


def _readable_bytes(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, _FIONREAD, b"\0\0\0\0"), "little")
