"""Pseudo-terminals: a terminal for the program, and a pipe both ways for Ship."""

import asyncio
import errno
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Callable
from typing import Any

from ship.errors import Conflict
from ship.execs.ring import Stream
from ship.execs.stdin import SLICE_BYTES, InputFeed
from ship.process import syscalls
from ship.process.identity import Identity
from tree_tar.beneath import closing_on_error

# asm-generic/ioctls.h
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCGPGRP = 0x540F
_TIOCGPTN = 0x80045430

_UNKNOWN_CALL = frozenset((errno.ENOTTY, errno.EINVAL, errno.ENOSYS))
_SLAVES = "/dev/pts"
_SLAVE_MAJOR, _OF_ONE_MAJOR = 136, 256  # devices.txt of Linux: majors 136 to 143

_IUTF8 = 0o40000  # asm-generic/termbits.h; erasing a character takes all of its bytes
_IFLAG, _LFLAG, _CC = 0, 3, 6
_LEFT_BYTES = 256 * 1024  # more than the kernel holds for a terminal
_HUNG_UP = "the terminal is closed: its program has ended"


class Pty:
    """A terminal whose slave side becomes a program's stdio and controlling terminal; `given` is typed at
    first.

    Ship holds the slave side too: a program that closes its three for a while has not lost its terminal. When
    the session leader ends, the kernel hangs the terminal up for all its users.
    """

    tty = True

    def __init__(
        self,
        take: Callable[[Stream, bytes], None],
        given: bytes | None,
        identity: Identity,
        size: tuple[int, int],
    ) -> None:
        self._master, self._slave = _open(identity)
        self._take = take
        self._given = given
        self._loop = asyncio.get_running_loop()
        self._feed = InputFeed(self._master, lambda: None)
        self._line_begun = False
        self._reading = False
        _make_utf8(self._slave)
        self.resize(*size)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        return self._slave, self._slave, self._slave

    def start(self) -> None:
        """Call when the program has its end; the initial input is typed at once."""
        self.resume()
        if self._given:
            self._note(self._given)
            self._feed.give(self._given)
        self._given = None

    def pause(self) -> None:
        """Read nothing until `resume`, so that the program waits when the terminal is full."""
        if self._reading:
            self._loop.remove_reader(self._master)
            self._reading = False

    def resume(self) -> None:
        if self._master >= 0 and not self._reading:
            self._loop.add_reader(self._master, self._ready)
            self._reading = True

    def abandon(self) -> None:
        """Call when no program was started, and at the end."""
        self.pause()
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

    def finish(self) -> None:
        """Read the output up to now, and hang up, also on programs that still have the terminal open."""
        if self._master < 0:
            return
        left = _LEFT_BYTES
        while left > 0 and (data := self._read()):
            left -= len(data)
            self._take("tty", data)
        self._feed.stop(_HUNG_UP)
        self.abandon()

    async def write(self, data: bytes, gone: asyncio.Future[None] | None) -> None:
        """Type. Returns when the terminal has taken all of it. Raises Conflict when it is closed."""
        self._note(data)
        await self._feed.write(data, gone)

    async def end(self, gone: asyncio.Future[None] | None) -> None:
        """Type the end of input: ctrl-D, or the program's own setting for it; within a line twice, as the
        first only hands the line over (POSIX.1-2017, 11.1.9, EOF).
        """
        mode = self._mode()
        end: bytes = mode[_CC][termios.VEOF]
        by_lines = bool(mode[_LFLAG] & termios.ICANON)
        await self.write(end * 2 if by_lines and self._line_begun else end, gone)
        self._line_begun = False

    def resize(self, rows: int, cols: int) -> None:
        """Change the size; the program in front gets SIGWINCH."""
        if self._master < 0:
            raise Conflict(_HUNG_UP)
        termios.tcsetwinsize(self._master, (rows, cols))

    def foreground(self) -> int:
        """The process group in front; 0 when there is none, or the kernel does not tell, as gVisor's."""
        if self._master < 0:
            return 0
        try:
            return struct.unpack("i", fcntl.ioctl(self._master, _TIOCGPGRP, bytes(4)))[0]
        except OSError:  # hung up
            return 0

    def _mode(self) -> list[Any]:
        try:
            return termios.tcgetattr(self._master)
        except termios.error as error:
            raise Conflict(_HUNG_UP) from error

    def _note(self, data: bytes) -> None:
        if data:
            self._line_begun = data[-1:] not in (b"\n", b"\r", b"\x04")

    def _ready(self) -> None:
        if data := self._read():
            self._take("tty", data)

    def _read(self) -> bytes:
        # The kernel gives 4 KiB at once at most, too little for a turn of the loop each.
        found = bytearray()
        try:
            while len(found) < SLICE_BYTES and (data := os.read(self._master, SLICE_BYTES)):
                found += data
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.pause()  # hung up; the end of the leader is about to be reported
        return bytes(found)


def _open(identity: Identity) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with identity.using_files():  # so that the slave is the user's
            master = os.open("/dev/ptmx", flags | os.O_NONBLOCK)
    except OSError as error:
        problem = f"the sandbox has no free terminal ({error.strerror}); end an exec with a tty"
        raise Conflict(problem) from error
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        return master, _open_slave(master, flags)
    except OSError:
        os.close(master)
        raise


def _open_slave(master: int, flags: int) -> int:
    try:
        # By the master and not by a name: root inside may have put anything at /dev/pts.
        return fcntl.ioctl(master, _TIOCGPTPEER, flags)
    except OSError as error:
        if error.errno not in _UNKNOWN_CALL:
            raise
        return open_slave_by_name(master, flags)


def open_slave_by_name(master: int, flags: int) -> int:
    """The other side of a terminal on a kernel without TIOCGPTPEER, as gVisor's: by its name, if that is what
    the kernel has there. Leaves an odd size. Raises OSError.
    """
    number: int = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
    with closing_on_error(os.open(f"{_SLAVES}/{number}", flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as slave:
        if not _is_terminal(slave, number) or not _are_sides_of_one(master, slave):
            raise OSError(errno.ENXIO, f"{_SLAVES}/{number} is not the terminal's")
        os.set_blocking(slave, True)
    return slave


def _is_terminal(slave: int, number: int) -> bool:
    found = os.fstat(slave)
    device = os.makedev(_SLAVE_MAJOR + number // _OF_ONE_MAJOR, number % _OF_ONE_MAJOR)
    is_device = stat.S_ISCHR(found.st_mode) and found.st_rdev == device
    return is_device and syscalls.filesystem_of(slave) == syscalls.DEVPTS


def _are_sides_of_one(master: int, slave: int) -> bool:
    # Each mount of devpts has numbers of its own. Both sides of a terminal have one size.
    size = struct.unpack("HH", os.urandom(4))
    termios.tcsetwinsize(master, size)
    return termios.tcgetwinsize(slave) == size


def _make_utf8(descriptor: int) -> None:
    mode = termios.tcgetattr(descriptor)
    mode[_IFLAG] |= _IUTF8
    termios.tcsetattr(descriptor, termios.TCSANOW, mode)
