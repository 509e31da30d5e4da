"""Runs the tools of `ship.tools`: each a process of the sandbox's user that ends with its caller."""

import asyncio
import errno
import fcntl
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from ship.errors import Conflict, Forbidden
from ship.process.identity import Identity
from ship.process.init import Nursery, Program
from ship.process.interpreter import tool_command
from ship.process.pipes import InputPipe
from ship.waiting import readable

_READ_BYTES = 256 * 1024
_PIPE_BYTES = 1 << 20
_LINE_BYTES = 64 * 1024
_GRACE_S = 2.0
_DYING_S = 5.0
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ: fcntl(2); not in every Python that this runs with


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tool works: descriptors of the directory it begins in, and of a file that is its stdin."""

    directory: int
    file: int | None = None

    def close(self) -> None:
        os.close(self.directory)
        if self.file is not None:
            os.close(self.file)


class Output:
    """A tool's output, read on demand: a tool with a slow reader waits."""

    def __init__(self) -> None:
        self._fd, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        with suppress(OSError):  # more than this user may have: a smaller one does as well
            fcntl.fcntl(self._fd, _SET_PIPE_SIZE, _PIPE_BYTES)
        self._rest = b""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        while True:
            try:
                return os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                await readable(self._fd)

    async def line(self) -> bytes:
        """The next line, without its newline; a part when the output ends before, or the line is too long."""
        line = bytearray()
        while b"\n" not in line and len(line) < _LINE_BYTES and (data := await self.read()):
            line += data
        found, _, self._rest = bytes(line).partition(b"\n")
        return found

    def close(self) -> None:
        os.close(self._fd)


class Tool:
    def __init__(self, output: Output, given: InputPipe | None, *, tidies: bool) -> None:
        self.output = output
        self.given = given
        """Its stdin, when it is fed."""
        self._tidies = tidies
        self.pid: int | None = None
        self._status: int | None = None
        self._ended = asyncio.Event()

    def ended(self, status: int) -> None:
        self._status = status
        self._ended.set()

    def kill(self) -> None:
        """At once; its output can still be read."""
        self._send(signal.SIGKILL)

    def leave(self) -> None:
        """Its caller has left: kill it, or have it tidy up."""
        self._send(signal.SIGTERM if self._tidies else signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.pid is not None and not self._ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def succeeded(self) -> bool:
        """Whether it came to its end, which is waited for."""
        await self._ended.wait()
        return self._status == 0

    async def end(self) -> None:
        """Make it end. A tool with a body gets the end of its input, one that tidies up a signal, and both a
        moment for that.
        """
        if self.given is not None:
            self.given.feed.stop()
            await self._wait_ended(_GRACE_S)
        elif self._tidies:
            self.leave()
            await self._wait_ended(_GRACE_S)
        self.kill()
        await self._wait_ended(_DYING_S)

    async def _wait_ended(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._ended.wait()


class ToolRuns:
    def __init__(self, nursery: Nursery, identity: Identity, *, local: bool) -> None:
        self._nursery = nursery
        self._identity = identity
        self._local = local

    @asynccontextmanager
    async def run(
        self,
        tool: str,
        order: Mapping[str, object],
        place: Place,
        gone: asyncio.Future[None],
        *,
        limit_s: float | None = None,
        fed: bool = False,
        tidies: bool = False,
        still: bool = False,
    ) -> AsyncGenerator[Tool]:
        """A tool, killed after `limit_s`, once `gone` is done unless `fed`, and at the end of the block. One
        that `tidies` up is asked by TERM first. With `still` it runs while all programs stand still. Raises
        Forbidden when the user may not enter the directory, Conflict when there is no room for it.
        """
        running = await self._start(tool, order, place, fed=fed, tidies=tidies, still=still)

        def leave(_gone: object = None) -> None:
            running.leave()

        timer = None if limit_s is None else asyncio.get_running_loop().call_later(limit_s, leave)
        if not fed:
            gone.add_done_callback(leave)
        try:
            yield running
        finally:
            gone.remove_done_callback(leave)
            if timer is not None:
                timer.cancel()
            await running.end()
            running.output.close()

    async def _start(
        self, tool: str, order: Mapping[str, object], place: Place, *, fed: bool, tidies: bool, still: bool
    ) -> Tool:
        with ExitStack() as undo:
            output = Output()
            undo.callback(output.close)
            silence = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            given = InputPipe(b"", stays_open=True) if fed else None
            if given is not None:
                undo.callback(given.abandon)
            running = Tool(output, given, tidies=tidies)
            stdin = place.file if given is None else given.reading_end
            argv, stdio = [*tool_command(tool, self._local), json.dumps(order)], (output.writing_end, silence)
            program = Program(argv, {}, self._identity, place.directory, stdin, *stdio)
            try:
                running.pid = await self._nursery.start(program, running.ended, still=still)
            except OSError as error:
                raise _refusal(error) from error
            finally:
                os.close(output.writing_end)
                os.close(silence)
            undo.pop_all()
        if given is not None:
            given.start()
        return running


def _refusal(error: OSError) -> Conflict | Forbidden:
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden("the sandbox's user may not enter that directory")
    return Conflict(f"the sandbox has no room for another program now: {error.strerror}")
