"""The kernel service. Only `python/exec` writes rows, for the history; all else is asked of Ship."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from bay.clock import Clock
from bay.errors import CallerError, NotFound, ShipError, Timeout
from bay.ids import new_id
from bay.models import CellEvent, Exec, Kernel, KernelSpec, PythonResult, to_wire
from bay.server.kernels.cells import begun_row, write_end
from bay.server.kernels.ship_client import Action, KernelClient, read_all
from bay.server.sessions.waker import Awake, Waker
from bay.server.ship.connection import Peer
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.bodies import check_allowed, check_user
from bay.server.web.open_connections import OpenConnections
from bay.server.web.workspace_paths import working_directory
from bay.store import execs
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HistoryNote, SandboxRecord
from bay.tracing import environment

DEFAULT = "default"
"""The kernel that is made by the first code that is run in it."""

_KERNEL_ID = re.compile(r"kern-[0-9a-f]{24}")
_CELL_ID = re.compile(r"(?:cell|exec)-[0-9a-f]{24}")
_QUEUE_S = 3600.0
"""How long `python/exec` waits for the cells before its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKernel:
    """The spec of a new kernel, and the directory in which it starts."""

    spec: str = "python3"
    cwd: str | None = None
    env: dict[str, str] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCell:
    """Code for a kernel. `env` is set while it runs, over the sandbox's and the kernel's own. An attached
    cell is interrupted when its follower leaves.
    """

    id: str
    code: str
    timeout_s: float = 300
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    attached: bool = False
    describe: bool = False
    """Whether figures and tables are described as data too."""
    default_cwd: str | None = None
    """The directory in which the kernel `default` begins if this code makes it."""


@dataclass(eq=False, kw_only=True)
class Kernels:
    """The service behind `…/kernels`, `…/kernelspecs` and `…/python/exec`."""

    store: Store
    deferred: DeferredWrites
    waker: Waker
    ship: KernelClient
    connections: OpenConnections
    clock: Clock

    async def create(
        self,
        caller: Caller,
        ref: str,
        new: NewKernel,
        idempotency_key: str | None,
        fixed_id: str | None = None,
    ) -> Kernel:
        """Make a kernel, waking the sandbox. Under one key a repeated call finds the kernel of the first;
        with a `fixed_id` it finds the one of that id.
        """
        checked = _checked(new)
        sandbox = await self.waker.find(caller, ref)
        call = f"POST /v1/sandboxes/{sandbox.id}/kernels"
        request = idempotency.request(caller, idempotency_key, call, to_wire(new))
        async with self.waker.awake(caller, sandbox.id, "python") as awake:
            check_allowed(new.user, root=awake.profile.root)
            kernel_id, is_new = (fixed_id, False) if fixed_id else await self._claim(request)
            try:
                return await self.ship.create(awake.peer, kernel_id, _kernel_body(awake, checked))
            except CallerError as error:
                if not is_new:
                    return await self._found(awake.peer, kernel_id, error)
                if request is not None:
                    return await self._found_or_withdrawn(awake.peer, kernel_id, request, error)
                raise

    async def every(self, caller: Caller, ref: str) -> list[Kernel]:
        """The kernels there are: none in a sandbox without compute, which is not started for that."""
        async with self.waker.holding(caller, ref) as sandbox:
            if not sandbox.has_compute:
                return []
            async with self.waker.reach(sandbox) as (_, peer):
                return await self.ship.every(peer)

    async def get(self, caller: Caller, ref: str, kernel_id: str) -> Kernel:
        """One kernel. Raises NotFound when it ended with its session."""
        async with self._locate(caller, ref, kernel_id) as peer:
            return await self.ship.get(peer, kernel_id)

    async def delete(self, caller: Caller, ref: str, kernel_id: str) -> None:
        """End a kernel and everything it started."""
        async with self._locate(caller, ref, kernel_id) as peer:
            await self.ship.delete(peer, kernel_id)

    async def act(self, caller: Caller, ref: str, kernel_id: str, action: Action) -> Kernel:
        """Interrupt the cell that runs, or restart the kernel without variables, which loses that cell."""
        async with self._locate(caller, ref, kernel_id) as peer:
            return await self.ship.act(peer, kernel_id, action)

    async def specs(self, caller: Caller, ref: str) -> list[KernelSpec]:
        """The kernel specs of the image; wakes the sandbox to look."""
        async with self.waker.awake(caller, ref, "python") as awake:
            return await self.ship.specs(awake.peer)

    @asynccontextmanager
    async def run(
        self, caller: Caller, ref: str, kernel_id: str, cell: NewCell
    ) -> AsyncGenerator[AsyncIterator[CellEvent], None]:
        """Run code, which goes on without a follower unless it is attached; the same id again follows it from
        its beginning. The last event says if it is lost with its session; none comes when the key is revoked
        or Bay ends.
        """
        if kernel_id != DEFAULT:
            _refuse_gone(await self.waker.find(caller, ref), kernel_id)
        with self.connections.place(caller.owner):
            async with (
                self.waker.awake(caller, ref, "python", follower=True) as awake,
                self.ship.run(
                    awake.peer, kernel_id, _cell_body(awake, cell), attached=cell.attached
                ) as events,
            ):
                yield self._followed(caller, awake.sandbox.id, awake.peer, events)

    @asynccontextmanager
    async def events(
        self, caller: Caller, ref: str, kernel_id: str, cell_id: str, since: int, *, follow: bool
    ) -> AsyncGenerator[AsyncIterator[CellEvent], None]:
        """The events of a cell, from event `since` on. Raises NotFound when it is no longer known."""
        sandbox = await self.waker.find(caller, ref)
        if _CELL_ID.fullmatch(cell_id) is None:
            raise NotFound(f"there is no cell {cell_id} in this kernel")
        with self.connections.place(caller.owner) if follow else nullcontext():
            async with (
                self._locate(caller, ref, kernel_id, follower=follow) as peer,
                self.ship.events(peer, kernel_id, cell_id, since, follow=follow) as events,
            ):
                yield self._followed(caller, sandbox.id, peer, events) if follow else events

    async def python(
        self, caller: Caller, ref: str, note: HistoryNote, timeout_s: float, *, include_code: bool
    ) -> PythonResult:
        """Run `note.code` in the default kernel to its end or to `timeout_s`, and keep the result."""
        async with self.waker.awake(caller, ref, "python") as awake:
            planned = await self._plan(awake, note)
            events = await self._run_to_end(awake, planned.id, note.code, timeout_s)
            session_id, now = awake.peer.session_id, self.clock()
            result = write_end(self.deferred, session_id, planned, events, events[-1].status, now)
        return replace(result, code=note.code if include_code else None)

    async def _run_to_end(
        self, awake: Awake, execution_id: str, code: str, timeout_s: float
    ) -> list[CellEvent]:
        body = {
            "id": execution_id,
            "code": code,
            "timeout_s": timeout_s,
            "env": awake.env,
            "trace": environment(),
        }
        try:
            async with (
                asyncio.timeout(timeout_s + _QUEUE_S),
                self.ship.run(awake.peer, DEFAULT, body) as events,
            ):
                whole = self._until_lost(awake.sandbox.id, awake.peer, events)
                found = await read_all(whole)
        except TimeoutError as error:
            raise Timeout(
                f"the code waited {_QUEUE_S:g} s in this kernel's queue; interrupt the running code, or use "
                "another kernel"
            ) from error
        except CallerError:
            async with self.store.write() as db:
                await execs.remove(db, awake.sandbox.id, execution_id)  # refused: it never was
            raise
        if not found or found[-1].type != "end":
            raise ShipError("the sandbox's runtime did not report how the code ended")
        return found

    async def _plan(self, awake: Awake, note: HistoryNote) -> Exec:
        """Write down what is about to run, before it does."""
        planned = begun_row(new_id("exec"), self.clock())
        async with self.store.write() as db:
            await execs.add(db, awake.sandbox.id, awake.peer.session_id, planned, note)
        return planned

    async def _followed(
        self, caller: Caller, sandbox_id: str, peer: Peer, events: AsyncIterator[CellEvent]
    ) -> AsyncGenerator[CellEvent, None]:
        """The events, for as long as the caller may follow."""
        async with aclosing(self.connections.allowed(caller, events)) as allowed:
            async for event in self._until_lost(sandbox_id, peer, allowed):
                yield event

    async def _until_lost(
        self, sandbox_id: str, peer: Peer, events: AsyncIterator[CellEvent]
    ) -> AsyncGenerator[CellEvent, None]:
        """The events, with an end of Bay's own when the session ended before the cell did."""
        last = -1
        whole = self.waker.until_over(sandbox_id, peer.session_id, events, lambda: _lost(last + 1))
        async with aclosing(whole):
            async for event in whole:
                last = event.seq
                yield event
                if event.type == "end":
                    return

    @asynccontextmanager
    async def _locate(
        self, caller: Caller, ref: str, kernel_id: str, *, follower: bool = False
    ) -> AsyncGenerator[Peer, None]:
        """The Ship that may know the kernel. Nothing is started for it: a kernel ends with its session."""
        async with self.waker.holding(caller, ref, follower=follower) as sandbox:
            _refuse_gone(sandbox, kernel_id)
            async with self.waker.reach(sandbox) as (_, peer):
                yield peer

    async def _claim(self, request: idempotency.Request | None) -> tuple[str, bool]:
        """The id of the kernel to make, written down first when the call may come again, and whether this
        call has chosen it.
        """
        kernel_id = new_id("kern")
        if request is None:
            return kernel_id, True
        async with self.store.write() as db:
            if (claim := await request.earlier(db)) is not None:
                return claim.resource_id, False
            await request.claim(db, kernel_id, None, self.clock())
        return kernel_id, True

    async def _found(self, peer: Peer, kernel_id: str, refusal: CallerError) -> Kernel:
        """The kernel of an earlier call, which exists whatever a repeated one is refused for. Raises the
        refusal without one.
        """
        try:
            return await self.ship.get(peer, kernel_id)
        except NotFound:
            raise refusal from None

    async def _found_or_withdrawn(
        self, peer: Peer, kernel_id: str, request: idempotency.Request, refusal: CallerError
    ) -> Kernel:
        """The kernel that a repeated call has made meanwhile; without one the claim is withdrawn, by the call
        that made it alone.
        """
        try:
            return await self._found(peer, kernel_id, refusal)
        except CallerError:
            async with self.store.write() as db:
                await request.withdraw(db)
            raise


def _lost(seq: int) -> CellEvent:
    return CellEvent(
        seq=seq, type="end", status="lost", restarted=False, truncated=False,
        message="the sandbox's session ended before the code did; the kernel and its variables are lost",
    )  # fmt: skip


def _refuse_gone(sandbox: SandboxRecord, kernel_id: str) -> None:
    """Raises NotFound for what names no kernel, so that nothing else becomes part of a path in Ship."""
    if kernel_id != DEFAULT and _KERNEL_ID.fullmatch(kernel_id) is None:
        raise NotFound(f"there is no kernel {kernel_id} in this sandbox")
    if not sandbox.has_compute:
        raise NotFound(
            f"there is no kernel {kernel_id} in this sandbox: the sandbox is cold, and kernels end with "
            "their session; create a new one"
        )


def _checked(new: NewKernel) -> NewKernel:
    """Checks that need no sandbox. Raises BadRequest or InvalidPath."""
    check_user(new.user)
    return new if new.cwd is None else replace(new, cwd=working_directory(new.cwd))


def _cell_body(awake: Awake, cell: NewCell) -> dict[str, Any]:
    named = {"id": cell.id, "code": cell.code, "timeout_s": cell.timeout_s}
    more = {} if cell.default_cwd is None else {"cwd": cell.default_cwd}
    given = {"env": awake.env, "own_env": dict(cell.env), "trace": environment()}
    return {**named, **given, "describe": cell.describe, **more}


def _kernel_body(awake: Awake, new: NewKernel) -> dict[str, Any]:
    # `env` is what code in it finds; `own_env` alone is the kernel's own, which later cells cannot change.
    own = new.env or {}
    body = {"spec": new.spec, "cwd": new.cwd, "env": awake.env | own, "own_env": own, "user": new.user}
    return {name: value for name, value in body.items() if value is not None}
