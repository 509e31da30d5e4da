"""Processes as envd has them: each is an exec of Bay, found by its pid or by its tag."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bay.errors import BayError, Conflict, FileMissing, InvalidArgument, NotFound
from bay.models import Exec
from bay.server.compat.e2b.connect import RpcError, SandboxGone
from bay.server.execs.attachments import Attached, Attachments
from bay.server.execs.processes import Processes
from bay.server.execs.service import Execs, NewExec
from bay.server.sessions.waker import Waker
from bay.server.ship.client import OutputEnd
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections
from bay.store.records import HAVING, SandboxRecord
from ship_protocol import STDERR

TAG = "e2b.tag"
"""The label of an exec that has a tag."""
KEEPALIVE: Mapping[str, Any] = {"event": {"keepalive": {}}}
_PIPE_BYTES, _PTY_BYTES = 32 << 10, 16 << 10
"""The most output in one event, as envd reads it."""
_GRACE_S = 1.0
"""By how much Ship's limit on a command is later than the client's, which shall get the first word."""
_SIGNALS = {
    1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 6: "aborted", 7: "bus error",
    8: "floating point exception", 9: "killed", 11: "segmentation fault", 13: "broken pipe", 14: "alarm clock",
    15: "terminated",
}  # fmt: skip
"""The words of Go's runtime, which envd's clients show."""

Events = AsyncIterator[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvdCommand:
    """A process to start. `size` is that of its terminal, in rows and columns; None without one."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: str
    tag: str | None
    stdin: bool
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class ProcessSelector:
    """A process by its pid or, without one, by its tag."""

    pid: int | None
    tag: str

    def __str__(self) -> str:
        return f"pid {self.pid}" if self.pid is not None else f"tag {self.tag}"


class EnvdProcesses:
    """The service behind `process.Process`. Raises SandboxGone for a sandbox that the caller does not have,
    and RpcError or BayError for all else.
    """

    def __init__(
        self,
        *,
        waker: Waker,
        execs: Execs,
        attachments: Attachments,
        processes: Processes,
        connections: OpenConnections,
    ) -> None:
        self._waker = waker
        self._connections = connections
        self._execs = execs
        self._attachments = attachments
        self._processes = processes

    async def list(self, caller: Caller, ref: str) -> list[Exec]:
        """The processes that run now."""
        sandbox = await self._sandbox(caller, ref)
        return await self._execs.running(caller, sandbox.id)

    @asynccontextmanager
    async def start(
        self, caller: Caller, ref: str, command: EnvdCommand, user: str | None, timeout_s: float | None
    ) -> AsyncGenerator[Events]:
        """Start a process; its events. It outlives them, for `timeout_s` at most and a second more."""
        sandbox = await self._sandbox(caller, ref)
        until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        with self._connections.place(caller.owner):  # without one for its reader no process begins
            made = await self._create(caller, sandbox, command, user, timeout_s)
            async with self._attachments.attach(
                caller, sandbox.id, made.id, 0, claims=True, placed=True
            ) as attached:
                stream = _ProcessStream(attached, until)
                yield stream.events()
                if stream.is_late:
                    await self._execs.delete(caller, sandbox.id, made.id)

    @asynccontextmanager
    async def connect(self, caller: Caller, ref: str, selector: ProcessSelector) -> AsyncGenerator[Events]:
        """The events of a process from now on; of one that has ended, how it did while Ship knows that."""
        sandbox = await self._sandbox(caller, ref)
        found = await self._found(caller, sandbox.id, selector)
        now = await self._execs.get(caller, sandbox.id, found.id, None)
        try:
            async with self._attachments.attach(
                caller, sandbox.id, found.id, now.output_bytes, claims=True
            ) as attached:
                yield _ProcessStream(attached, None).events()
        except NotFound as error:
            raise _missing(selector) from error

    async def resize(self, caller: Caller, ref: str, selector: ProcessSelector, rows: int, cols: int) -> None:
        """Give its terminal another size."""
        sandbox = await self._sandbox(caller, ref)
        found = await self._running(caller, sandbox.id, selector)
        await self._execs.resize(caller, sandbox.id, found.id, rows, cols)

    async def send(
        self, caller: Caller, ref: str, selector: ProcessSelector, data: AsyncIterator[bytes]
    ) -> None:
        """Input as it comes; returns when the process has taken all of it."""
        await self._feed(caller, ref, selector, data, eof=False)

    async def close_stdin(self, caller: Caller, ref: str, selector: ProcessSelector) -> None:
        """The end of its input."""
        await self._feed(caller, ref, selector, _nothing(), eof=True)

    async def signal(self, caller: Caller, ref: str, selector: ProcessSelector, name: str) -> None:
        """Send a signal to the process alone, and not to its children."""
        sandbox = await self._sandbox(caller, ref)
        found = await self._running(caller, sandbox.id, selector)
        try:
            await self._processes.signal(caller, sandbox.id, found.pid or 0, name)
        except NotFound as error:
            raise _missing(selector) from error

    async def _feed(
        self, caller: Caller, ref: str, selector: ProcessSelector, data: AsyncIterator[bytes], *, eof: bool
    ) -> None:
        sandbox = await self._sandbox(caller, ref)
        found = await self._running(caller, sandbox.id, selector)
        try:
            await self._execs.write_stdin(caller, sandbox.id, found.id, data, eof=eof)
        except Conflict as error:
            if (await self._execs.get(caller, sandbox.id, found.id, None)).state != "running":
                raise _missing(selector) from error
            raise RpcError("internal", f"error writing to stdin: {error.message}") from error

    async def _create(
        self,
        caller: Caller,
        sandbox: SandboxRecord,
        command: EnvdCommand,
        user: str | None,
        timeout_s: float | None,
    ) -> Exec:
        rows, cols = command.size or (None, None)
        new = NewExec(
            argv=command.argv, cwd=_below_home(command.cwd), env={**sandbox_facts(sandbox), **command.env}, user=user,
            timeout_s=None if timeout_s is None else timeout_s + _GRACE_S, tty=command.size is not None, rows=rows,
            cols=cols, stdin_open=command.stdin, wait_for_reader=True,
            labels={} if command.tag is None else {TAG: command.tag},
        )  # fmt: skip
        try:
            return await self._execs.create(caller, sandbox.id, new, None, None)
        except FileMissing as error:
            raise RpcError("invalid_argument", f"cwd '{command.cwd}' does not exist") from error
        except InvalidArgument as error:
            raise _refusal(error, user) from error

    async def _running(self, caller: Caller, sandbox_id: str, selector: ProcessSelector) -> Exec:
        found = await self._found(caller, sandbox_id, selector)
        if found.state != "running":
            raise _missing(selector)
        return found

    async def _found(self, caller: Caller, sandbox_id: str, selector: ProcessSelector) -> Exec:
        label = None if selector.pid is not None else (TAG, selector.tag)
        found = await self._execs.of_process(caller, sandbox_id, selector.pid, label)
        if found is None:
            raise _missing(selector)
        return found

    async def _sandbox(self, caller: Caller, ref: str) -> SandboxRecord:
        try:
            return await self._waker.find(caller, ref)
        except NotFound as error:
            raise SandboxGone(error.message) from error


class _ProcessStream:
    """The events of one process, up to its end or `until` (of the event loop's clock)."""

    def __init__(self, attached: Attached, until: float | None) -> None:
        self._attached = attached
        self._until = until
        self.is_late = False
        """Whether the time was up before the process ended."""

    async def events(self) -> AsyncGenerator[Mapping[str, Any]]:
        """The start, output, and the end. Raises RpcError when the end cannot be told."""
        exec_ = self._attached.exec
        yield {"event": {"start": {"pid": exec_.pid or 0}}}
        most = _PTY_BYTES if exec_.tty else _PIPE_BYTES
        async for item in self._in_time():
            if isinstance(item, OutputEnd):
                await self._check_stands()
                yield _end(item)
                return
            name = "pty" if exec_.tty else "stderr" if item[:1] == STDERR else "stdout"
            for at in range(1, len(item), most):
                data = base64.b64encode(item[at : at + most]).decode()
                yield {"event": {"data": {name: data}}}
        raise RpcError("unavailable", "Bay is shutting down, or the key was revoked; the process goes on")

    async def _check_stands(self) -> None:
        """Raises RpcError when the sandbox is going, which ends its processes as if they were signalled."""
        attached = self._attached
        try:
            sandbox = await attached.waker.find(attached.caller, attached.sandbox_id)
        except NotFound as error:
            raise _stopped() from error
        if sandbox.target not in HAVING:
            raise _stopped()

    async def _in_time(self) -> AsyncGenerator[bytes | OutputEnd]:
        attached = self._attached
        async with (
            aclosing(attached.frames()) as frames,
            aclosing(attached.connections.allowed(attached.caller, frames)) as allowed,
        ):
            while (item := await self._next(allowed)) is not None:
                yield item

    async def _next(self, frames: AsyncGenerator[bytes | OutputEnd]) -> bytes | OutputEnd | None:
        try:
            async with asyncio.timeout_at(self._until):
                return await anext(frames, None)
        except TimeoutError as error:
            self.is_late = True
            raise _late() from error


def _below_home(cwd: str) -> str:
    """A path as Bay reads it, for which relative ones lie in the workspace."""
    return cwd if cwd.startswith(("/", "~")) else f"~/{cwd}"


def _end(end: OutputEnd) -> Mapping[str, Any]:
    if end.timed_out:
        raise _late()
    if end.state == "lost":
        raise _stopped()
    if end.signal is not None:
        status = f"signal: {_SIGNALS.get(end.signal, f'signal {end.signal}')}"
        told: dict[str, Any] = {"exitCode": -1, "exited": False, "status": status, "error": status}
    else:
        status = f"exit status {end.exit_code}"
        told = {"exitCode": end.exit_code or 0, "exited": True, "status": status}
        told |= {"error": status} if end.exit_code else {}
    return {"event": {"end": told}}


def sandbox_facts(sandbox: SandboxRecord) -> dict[str, str]:
    """The variables by which programs know where they are."""
    return {"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": sandbox.id, "E2B_TEMPLATE_ID": sandbox.profile}


def _refusal(error: InvalidArgument, user: str | None) -> BayError | RpcError:
    if user is not None and error.details.get("field") == "user":
        return RpcError("unauthenticated", f"invalid username: '{user}'")
    return error


def _missing(selector: ProcessSelector) -> RpcError:
    return RpcError("not_found", f"process with {selector} not found")


def _stopped() -> RpcError:
    return RpcError("unavailable", "the sandbox was stopped before the process ended")


def _late() -> RpcError:
    return RpcError("deadline_exceeded", "the command's time was over, and it was ended")


async def _nothing() -> AsyncGenerator[bytes]:
    for data in ():
        yield data
