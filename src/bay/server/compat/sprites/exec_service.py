"""Sessions of Sprites: each is an exec of Bay, by the same id."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect

from bay.errors import BayError, CallerError, Conflict, NotFound, OutputGone
from bay.models import Exec, OutputChunk
from bay.server.execs.attachments import Attached, Attachments
from bay.server.execs.service import Execs, NewExec, checked_exec
from bay.server.ports.watching import PortWatch, PortWatches
from bay.server.sessions.waker import Waker
from bay.server.ship.client import OutputEnd
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason

FAILED = 255
"""The exit code of a command that Bay could not run, or whose end it cannot know: that of ssh(1)."""

Opening = Callable[[int], AbstractAsyncContextManager[Attached]]
Output = AsyncIterator[OutputChunk | OutputEnd]


class SessionOver(CallerError, status=410):
    """The session has ended already."""


@dataclass(kw_only=True)
class SpriteSession:
    """A client's hold on a session, which may not have begun. It has its place among the connections."""

    opens: Opening
    """Attaches from an output offset on; 0 is the oldest that is kept."""
    takes_input: bool
    is_new: bool
    ports: PortWatch
    """The ports of its sprite, which clients of terminals are told of."""
    attached: asyncio.Future[Attached] = field(default_factory=asyncio.Future[Attached])
    """Its present attachment."""
    deaf: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its command takes no more input."""

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self.ports.must_leave()

    async def frames(self) -> AsyncGenerator[Exec | bytes | OutputEnd]:
        """The exec, its output after the stream's mark, and its end. A command that closes its stdin is
        attached to anew: input that it does not want costs no output.
        """
        offset = 0
        while True:
            async with self.opens(offset) as attached:
                is_first, self.attached = not self.attached.done(), _done(self.attached, attached)
                offset = attached.next_offset
                if is_first:
                    yield attached.exec
                else:
                    self.deaf.set()
                try:
                    async for frame in attached.frames():
                        yield frame
                        offset += 0 if isinstance(frame, OutputEnd) else len(frame) - 1
                    return
                except Conflict:
                    if self.deaf.is_set():
                        raise
                    self.takes_input = False


@dataclass(frozen=True, slots=True)
class FedSession:
    """The output of a session, and the end of its input: it is fed until then."""

    output: Output
    fed: asyncio.Future[None]


class SpriteExecs:
    """The service behind `…/exec`. Sessions that have ended are none."""

    def __init__(
        self,
        *,
        waker: Waker,
        execs: Execs,
        attachments: Attachments,
        ports: PortWatches,
        connections: OpenConnections,
    ) -> None:
        self._waker = waker
        self._execs = execs
        self._attachments = attachments
        self._ports = ports
        self._connections = connections

    async def all(self, caller: Caller, ref: str) -> list[Exec]:
        """The sessions that run now, oldest first. Wakes nothing."""
        return await self._execs.running(caller, ref)

    async def get(self, caller: Caller, ref: str, session_id: str) -> Exec:
        """One that runs. Raises NotFound."""
        sandbox = await self._waker.find(caller, ref)
        item = await self._item(caller, sandbox.id, session_id)
        if item.state != "running":
            raise _missing(session_id)
        return item

    @asynccontextmanager
    async def start(self, caller: Caller, ref: str, new: NewExec) -> AsyncGenerator[SpriteSession]:
        """A session that begins with its `frames`, and outlives this block. Raises all that can be known
        before anything wakes.
        """
        new = checked_exec(new)
        sandbox = await self._waker.find(caller, ref)
        self._waker.refuse_expired(sandbox)
        with self._connections.place(caller.owner):
            begun = _Begun(self._execs, self._attachments, caller, sandbox.id, new)
            takes_input = new.tty or new.stdin_open
            ports = PortWatch(self._ports, caller, sandbox.id)
            yield SpriteSession(opens=begun.opened, takes_input=takes_input, is_new=True, ports=ports)

    @asynccontextmanager
    async def attach(self, caller: Caller, ref: str, session_id: str) -> AsyncGenerator[SpriteSession]:
        """A session that runs. Raises NotFound."""
        found = await self.get(caller, ref, session_id)
        sandbox = await self._waker.find(caller, ref)
        with self._connections.place(caller.owner):
            opens = partial(_opened, self._attachments, caller, sandbox.id, found.id)
            ports = PortWatch(self._ports, caller, sandbox.id)
            yield SpriteSession(opens=opens, takes_input=True, is_new=False, ports=ports)

    @asynccontextmanager
    async def run(
        self, caller: Caller, ref: str, new: NewExec, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[FedSession]:
        """Start a session and feed it `body`, if it takes input; its output and its end. Both directions are
        one connection among the owner's, and a command that finds no place for it does not begin.
        """
        sandbox = await self._waker.find(caller, ref)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._connections.place(caller.owner))
            made = await self._execs.create(caller, sandbox.id, new, None, None)
            taken = body if new.stdin_open else None
            feeding = asyncio.create_task(self._feed(caller, sandbox.id, made.id, taken))
            stack.callback(feeding.cancel)
            opened = self._execs.output(caller, sandbox.id, made.id, 0, follow=True, claims=True, placed=True)
            yield FedSession(await stack.enter_async_context(opened), feeding)

    async def kill(
        self, caller: Caller, ref: str, session_id: str, signal: str, timeout_s: float
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Signal a session; then what becomes of it. One that runs on after `timeout_s` is ended. Raises
        NotFound and SessionOver.
        """
        sandbox = await self._waker.find(caller, ref)
        item = await self._item(caller, sandbox.id, session_id)
        if item.state != "running":
            raise _over(session_id)
        try:
            item = await self._execs.signal(caller, sandbox.id, session_id, signal)
        except Conflict as error:
            raise _over(session_id) from error
        return self._dying(caller, sandbox.id, item, signal, timeout_s)

    async def _dying(
        self, caller: Caller, sandbox_id: str, item: Exec, signal: str, timeout_s: float
    ) -> AsyncGenerator[Mapping[str, Any]]:
        yield {"type": "signal", "message": f"sent {signal}", "signal": signal, "pid": item.pid}
        try:
            ended = await self._execs.get(caller, sandbox_id, item.id, timeout_s)
            if ended.state == "running":
                yield {"type": "timeout", "message": f"it runs on after {timeout_s:g} s", "pid": item.pid}
                ended = await self._execs.delete(caller, sandbox_id, item.id)
                yield {"type": "killed", "message": "its processes were killed", "pid": item.pid}
            else:
                yield {"type": "exited", "message": f"it is {ended.state}", "pid": item.pid}
        except BayError as error:
            yield {"type": "error", "message": error.message, "error": error.message}
            return
        yield {"type": "complete", "exit_code": exit_code(ended.exit_code, ended.signal)}

    async def _feed(
        self, caller: Caller, sandbox_id: str, exec_id: str, body: AsyncIterator[bytes] | None
    ) -> None:
        # A command need not read all that it is given; how it ends is told by its output.
        with suppress(BayError, ClientDisconnect):
            if body is not None:
                await self._execs.write_stdin(caller, sandbox_id, exec_id, body, eof=True, placed=True)

    async def _item(self, caller: Caller, sandbox_id: str, session_id: str) -> Exec:
        try:
            return await self._execs.get(caller, sandbox_id, session_id, None)
        except (NotFound, OutputGone) as error:
            raise _missing(session_id) from error


@dataclass
class _Begun:
    """The session of a new command, which is started once."""

    execs: Execs
    attachments: Attachments
    caller: Caller
    sandbox_id: str
    new: NewExec
    made: Exec | None = None

    @asynccontextmanager
    async def opened(self, offset: int) -> AsyncGenerator[Attached]:
        if self.made is None:
            self.made = await self.execs.create(self.caller, self.sandbox_id, self.new, None, None)
        opened = _opened(self.attachments, self.caller, self.sandbox_id, self.made.id, offset)
        async with opened as attached:
            yield attached


def _opened(
    attachments: Attachments, caller: Caller, sandbox_id: str, exec_id: str, offset: int
) -> AbstractAsyncContextManager[Attached]:
    # Without an offset, as the oldest byte of a moment ago may be gone when Ship reads the request.
    return attachments.attach(caller, sandbox_id, exec_id, offset or None, claims=True, placed=True)


def exit_code(code: int | None, signal: int | None) -> int:
    """One byte, as shells have it: 128 and the signal's number for a command that a signal ended."""
    if code is not None:
        return code & 0xFF
    return FAILED if signal is None else (128 + signal) & 0xFF


def _done(present: asyncio.Future[Attached], attached: Attached) -> asyncio.Future[Attached]:
    """A future with the attachment; the same one for those who wait for the first."""
    future = asyncio.Future[Attached]() if present.done() else present
    future.set_result(attached)
    return future


def _missing(session_id: str) -> NotFound:
    return NotFound(f"session {session_id} not found")


def _over(session_id: str) -> SessionOver:
    return SessionOver(f"session {session_id} has ended")
