"""The pipes between Ship and a program. A turn of the loop moves one slice: a flood cannot starve others."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress

from ship.errors import Conflict
from ship.execs.ring import Stream
from ship.execs.stdin import SLICE_BYTES, InputFeed

_FLOOD_BYTES = 256 * 1024
"""The pipe size for a program that fills it: with less, it and Ship wake each other all the time."""

_FIONREAD = 0x541B  # asm-generic/ioctls.h


class OutputPipe:
    """Reads a program's output, for as long as any process holds the other end."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._fd, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._take: Callable[[bytes], None] | None = take
        self._most = SLICE_BYTES
        """The most that one turn reads."""
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Call when the program has its end: from now on Ship holds none."""
        os.close(self.writing_end)
        self._loop.add_reader(self._fd, self._ready)

    def pause(self) -> None:
        """Read nothing until `resume`, so that the program waits when the pipe is full."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._ready)

    def abandon(self) -> None:
        """Call when no program was started."""
        os.close(self.writing_end)
        os.close(self._fd)
        self._fd = -1

    def drain(self) -> None:
        """Read the bytes in the pipe at this moment."""
        left = _readable_bytes(self._fd) if self._fd >= 0 else 0
        while left > 0 and (data := self._read(min(left, SLICE_BYTES))):
            left -= len(data)
            self._give(data)

    def finish(self) -> None:
        """Read the pipe's bytes, drop later ones: a background child neither blocks this nor gets SIGPIPE."""
        self.drain()
        self._take = None
        self.resume()

    def _ready(self) -> None:
        data = self._read(self._most)
        if data is None:
            return
        if len(data) == SLICE_BYTES:
            self._grow()
        self._give(data)

    def _grow(self) -> None:
        self._most = _FLOOD_BYTES
        with suppress(OSError):  # the kernel bounds a user's pipe buffers, and a small one does as well
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _FLOOD_BYTES)

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
    """A program's stdin. A pipe and not a file: some programs insist on one."""

    def __init__(self, data: bytes, *, stays_open: bool) -> None:
        self.reading_end, self._fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._first = data
        self._stays_open = stays_open
        self.feed = InputFeed(self._fd, self._close)

    def start(self) -> None:
        """Call when the program has its end: sends the first input, then the end unless more may come."""
        os.close(self.reading_end)
        if self._first or not self._stays_open:
            self.feed.give(self._first, last=not self._stays_open)
        self._first = b""

    def abandon(self) -> None:
        """Call when no program was started."""
        os.close(self.reading_end)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pipes:
    """A program's stdio as pipes; no stdin (`given` None) is an empty one. Raises OSError without room."""

    tty = False

    def __init__(
        self, take: Callable[[Stream, bytes], None], given: bytes | None, *, stays_open: bool
    ) -> None:
        with ExitStack() as undo:
            self._stdin: InputPipe | None = None
            if given or stays_open:
                self._stdin = InputPipe(given or b"", stays_open=stays_open)
                undo.callback(self._stdin.abandon)
            self._stdout = OutputPipe(lambda data: take("stdout", data))
            undo.callback(self._stdout.abandon)
            self._stderr = OutputPipe(lambda data: take("stderr", data))
            undo.pop_all()

    @property
    def descriptors(self) -> tuple[int | None, int, int]:
        stdin = None if self._stdin is None else self._stdin.reading_end
        return stdin, self._stdout.writing_end, self._stderr.writing_end

    def start(self) -> None:
        for pipe in self._all():
            pipe.start()

    def abandon(self) -> None:
        for pipe in self._all():
            pipe.abandon()

    def pause(self) -> None:
        self._stdout.pause()
        self._stderr.pause()

    def resume(self) -> None:
        self._stdout.resume()
        self._stderr.resume()

    def finish(self) -> None:
        """Read the bytes in the pipes at this moment, drop later ones, and send no more."""
        self._stdout.finish()
        self._stderr.finish()
        if self._stdin is not None:
            self._stdin.feed.stop()

    async def write(self, data: bytes, gone: asyncio.Future[None] | None) -> None:
        """Write to stdin. Raises Conflict when it is not open."""
        await self._open_stdin().feed.write(data, gone)

    async def end(self, gone: asyncio.Future[None] | None) -> None:
        """End stdin. Raises Conflict when it was never open."""
        await self._open_stdin().feed.end(gone)

    def resize(self, rows: int, cols: int) -> None:
        """Raises Conflict."""
        raise Conflict(f"there is no terminal to resize to {rows} by {cols}; start the exec with tty")

    def foreground(self) -> int:
        """There is no group in front."""
        return 0

    def _all(self) -> tuple[InputPipe | OutputPipe, ...]:
        return (*(() if self._stdin is None else (self._stdin,)), self._stdout, self._stderr)

    def _open_stdin(self) -> InputPipe:
        if self._stdin is None:
            raise Conflict("stdin is not open; start the exec with stdin_open or tty")
        return self._stdin


def _readable_bytes(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, _FIONREAD, b"\0\0\0\0"), "little")
