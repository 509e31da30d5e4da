"""The exec service: commands that run in a sandbox and outlive the connection that started them.

The row is written before Ship gets the command, so that an exec can be asked for whatever becomes of the call
that started it. Ship holds the running exec and its output; the row remembers how it ended.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from bay.clock import Clock
from bay.errors import BadRequest, BayError, CallerError, Conflict, NotFound, ShipError, Timeout
from bay.ids import new_id
from bay.models import Exec, OutputChunk, ShellResult, to_wire
from bay.server.execs.locator import LOST, ExecLocator, Located, as_it_is
from bay.server.execs.results import TOLD_WITHIN, shell_result
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Awake, Waker
from bay.server.ship.client import OutputEnd, ShipClient, encode_stdin
from bay.server.ship.connection import Peer
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.bodies import check_allowed, check_user
from bay.server.web.open_connections import OpenConnections
from bay.server.web.workspace_paths import working_directory
from bay.store import execs, history
from bay.store.connection import StoreConnection
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HistoryNote, Page, SandboxRecord
from bay.tracing import environment

log = structlog.get_logger("bay.execs")

READER_S = 30.0
"""How long an exec that was started for a reader waits for it, at first and when its connection broke."""

_KILL_GRACE_S = 5.0
_ENV_FILE = "/workspace/.bay_env.sh"
_ENDING_S = 30.0
_SHOWN_CHARS = 64 << 10
_LIST_S = 2.0  # a list is looked at, so it must not keep anybody
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExec:
    """The command to run: either `command`, by a shell, or `argv` as it is. With `tool` it is that tool of
    Ship's with the arguments `argv`, which needs nothing of the image.
    """

    id: str | None = None
    command: str | None = None
    argv: tuple[str, ...] | None = None
    tool: str | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    user: str | None = None
    stdin: str | None = None
    stdin_base64: str | None = None
    timeout_s: float | None = None
    keep_alive: bool = True
    labels: dict[str, str] = field(default_factory=dict[str, str])
    tty: bool = False
    rows: int | None = None
    cols: int | None = None
    stdin_open: bool = False
    max_run_after_disconnect_s: float | None = None
    wait_for_reader: bool = False


class Execs:
    """The service behind `…/execs` and `…/shell/exec`."""

    def __init__(
        self,
        *,
        store: Store,
        deferred: DeferredWrites,
        waker: Waker,
        locator: ExecLocator,
        ship: ShipClient,
        connections: OpenConnections,
        clock: Clock,
    ) -> None:
        self._store = store
        self._deferred = deferred
        self._waker = waker
        self._locator = locator
        self._connections = connections
        self._ship = ship
        self._clock = clock

    async def create(
        self,
        caller: Caller,
        ref: str,
        new: NewExec,
        idempotency_key: str | None,
        wait_s: float | None,
        *,
        chunks: bool = False,
    ) -> Exec:
        """Start an exec, waking the sandbox; with `wait_s` answer when it ended or the seconds are over. One
        that waits for a reader is answered once it stands still for want of that, too.
        """
        checked = checked_exec(new)
        sandbox = await self._waker.find(caller, ref)
        request = None
        if idempotency_key is not None:
            call = f"POST /v1/sandboxes/{sandbox.id}/execs"
            request = idempotency.request(caller, idempotency_key, call, to_wire(new))
            if request and (earlier := await self._earlier(request, sandbox, new.id)) is not None:
                # No longer in doubt: Ship may have forgotten it, and must not run it again.
                return await self.get(caller, sandbox.id, earlier.id, wait_s, chunks=chunks)
        async with self._waker.awake(caller, sandbox.id, "exec") as awake:
            check_allowed(new.user, root=awake.profile.root)
            planned = await self._plan(awake, checked, request)
            return await self._run(awake, planned, checked, wait_s, request, chunks=chunks)

    async def _earlier(
        self, request: idempotency.Request, sandbox: SandboxRecord, exec_id: str | None
    ) -> Exec | None:
        """The exec of an earlier call with this key, once that is past doubt; it needs no compute."""
        async with self._store.read() as db:
            claimed = await _claimed(db, request, sandbox.id, exec_id)
            found = await execs.get(db, sandbox.id, claimed) if claimed else None
        if found is None:
            return None
        item = as_it_is(found[0], found[1], sandbox)
        is_past = item.state != "running" or self._clock() - item.started_at >= TOLD_WITHIN
        return item if is_past else None

    async def shell(
        self,
        caller: Caller,
        ref: str,
        note: HistoryNote,
        timeout_s: float,
        cwd: str | None,
        *,
        include_code: bool,
    ) -> ShellResult:
        """Run `note.code` to its end, or to `timeout_s`; its output is returned, and kept in the history."""
        new = checked_exec(NewExec(command=note.code, cwd=cwd, timeout_s=timeout_s))
        async with self._waker.awake(caller, ref, "shell") as awake:
            new = _reading_env_file(awake, new)
            planned = await self._plan(awake, new, None, note)
            item = await self._run(awake, planned, new, timeout_s + _KILL_GRACE_S, None)
            result = shell_result(item)
            outcome = history.outcome_of(result)
            self._deferred.put(lambda db: history.finish(db, awake.peer.session_id, outcome))
        return replace(result, command=note.code if include_code else None)

    async def run_in(self, awake: Awake, new: NewExec, note: HistoryNote | None, wait_s: float) -> Exec:
        """Run a command in a sandbox that is awake, and wait for its end; for services whose calls are
        commands. When the call is cancelled the command is ended.
        """
        checked = checked_exec(new)
        planned = await self._plan(awake, checked, None, note)
        try:
            return await self._run(awake, planned, checked, wait_s, None)
        except asyncio.CancelledError:
            await self._end_abandoned(awake.peer, planned)
            raise

    async def _end_abandoned(self, peer: Peer, item: Exec) -> None:
        try:
            async with asyncio.timeout(_KILL_GRACE_S):
                ended = await self._ship.kill_exec(peer, item.id)
        except (BayError, TimeoutError) as error:  # its time limit ends it, or its session did
            log.info("exec.not_ended", id=item.id, error=str(error))
        else:
            self._save(peer, replace(ended, keep_alive=item.keep_alive))

    async def page(self, caller: Caller, ref: str, *, after: int, limit: int) -> Page[Exec]:
        """A page of execs, oldest first, as last seen where Ship does not answer in time. Wakes nothing."""
        sandbox = await self._waker.find(caller, ref)
        await self._deferred.flush()
        async with self._store.read() as db:
            found = await execs.page(db, sandbox.id, after=after, limit=limit)
        items = tuple(as_it_is(item, session_id, sandbox) for item, session_id in found.items)
        return Page(items=await self._asked(sandbox, items), next_cursor=found.next_cursor)

    async def get(
        self, caller: Caller, ref: str, exec_id: str, wait_s: float | None, *, chunks: bool = False
    ) -> Exec:
        """One exec as it stands. Never starts compute; to wait for its end thaws a frozen sandbox."""
        async with self._locator.locate(caller, ref, exec_id, thaw=wait_s is not None) as found:
            if found.peer is None:
                return found.item
            try:
                return await self._refreshed(found.item, found.peer, wait_s, chunks=chunks)
            except (ShipError, Timeout):  # as when a stop or a restore ends what it runs in
                if not await self._waker.is_over(found.sandbox_id, found.peer.session_id):
                    raise
        return await self._after_session(caller, found.sandbox_id, found.peer.session_id, exec_id)

    async def _after_session(self, caller: Caller, sandbox_id: str, session_id: str, exec_id: str) -> Exec:
        """The row's state once the session that is ending has ended."""
        await self._waker.wait_until(
            sandbox_id, lambda r: r.session is None or r.session.id != session_id, _ENDING_S
        )
        async with self._locator.locate(caller, sandbox_id, exec_id, thaw=False) as found:
            return found.item

    async def running(self, caller: Caller, ref: str) -> list[Exec]:
        """The execs that run now, oldest first, as last seen where Ship does not answer in time."""
        sandbox = await self._waker.find(caller, ref)
        if sandbox.session is None:
            return []
        await self._deferred.flush()
        async with self._store.read() as db:
            found = await execs.running(db, sandbox.session.id)
        return [item for item in await self._asked(sandbox, tuple(found)) if item.state == "running"]

    async def of_process(
        self, caller: Caller, ref: str, pid: int | None, label: tuple[str, str] | None = None
    ) -> Exec | None:
        """The newest exec of the present session whose first process has or had that number, or that has a
        label with that value.
        """
        sandbox = await self._waker.find(caller, ref)
        if sandbox.session is None:
            return None
        await self._deferred.flush()
        async with self._store.read() as db:
            return await execs.of_process(db, sandbox.session.id, pid, label)

    async def delete(self, caller: Caller, ref: str, exec_id: str) -> Exec:
        """End an exec's whole process tree, and return how it ended. Idempotent."""
        async with self._locator.locate(caller, ref, exec_id, thaw=True) as found:
            item, peer = found.item, found.peer
            if peer is None or item.state != "running":
                return item
            ended = as_asked(await self._ship.kill_exec(peer, exec_id), item)
            self._save(peer, ended)
            return ended

    @asynccontextmanager
    async def output(
        self,
        caller: Caller,
        ref: str,
        exec_id: str,
        since: int,
        *,
        follow: bool,
        claims: bool = False,
        placed: bool = False,
    ) -> AsyncGenerator[AsyncIterator[OutputChunk | OutputEnd], None]:
        """The output from byte `since` on. Raises OutputGone when it is not yet, or no longer, buffered. With
        `claims` this is the reader that the exec waits for, if the caller may write: a reader with a
        read-only key delays no program. Followed, it ends with how the exec ended; without that when the key
        is revoked or the server shuts down. A reader that is `placed` is counted among the owner's
        connections already.
        """
        with ExitStack() as held:
            if follow and not placed:
                held.enter_context(self._connections.place(caller.owner))
            async with (
                self._locator.locate(caller, ref, exec_id, thaw=True, follower=follow) as found,
                self._ship.output(
                    found.live_peer, exec_id, since, follow, claims=claims and caller.may("write")
                ) as chunks,
            ):
                yield self._followed(caller, found, chunks) if follow else chunks

    @asynccontextmanager
    async def unattended_output(
        self, caller: Caller, ref: str, exec_id: str
    ) -> AsyncGenerator[AsyncIterator[OutputChunk | OutputEnd], None]:
        """All output to the end, for work of Bay's own: it is the reader that the exec waits for, and neither
        a revoked key nor the owner's other followers end it.
        """
        async with (
            self._locator.locate(caller, ref, exec_id, thaw=True, follower=True) as found,
            self._ship.output(found.live_peer, exec_id, 0, True, claims=True) as chunks,
            aclosing(self._until_over(found, chunks)) as items,
        ):
            yield items

    def _until_over(
        self, found: Located, chunks: AsyncIterator[OutputChunk | OutputEnd]
    ) -> AsyncGenerator[OutputChunk | OutputEnd]:
        """The chunks, and that the exec is lost when they break off because its session is over."""
        return self._waker.until_over(found.sandbox_id, found.live_peer.session_id, chunks, lambda: LOST)

    async def _followed(
        self, caller: Caller, found: Located, chunks: AsyncIterator[OutputChunk | OutputEnd]
    ) -> AsyncGenerator[OutputChunk | OutputEnd]:
        """The same while the caller's key is valid."""
        async with (
            aclosing(self._connections.allowed(caller, chunks)) as allowed,
            aclosing(self._until_over(found, allowed)) as items,
        ):
            async for chunk in items:
                yield chunk

    async def write_stdin(
        self,
        caller: Caller,
        ref: str,
        exec_id: str,
        body: AsyncIterator[bytes],
        *,
        eof: bool,
        placed: bool = False,
    ) -> int:
        """Feed a running exec as it reads; returns the bytes it took. Raises Conflict on a closed stdin.
        `placed` as for `output`.
        """
        with nullcontext() if placed else self._connections.place(caller.owner):
            return await self._connections.during(caller, self._feed(caller, ref, exec_id, body, eof=eof))

    async def _feed(
        self, caller: Caller, ref: str, exec_id: str, body: AsyncIterator[bytes], *, eof: bool
    ) -> int:
        async with self._running(caller, ref, exec_id, follower=True) as (_, peer):
            return await self._ship.write_stdin(peer, exec_id, body, eof=eof)

    async def signal(self, caller: Caller, ref: str, exec_id: str, name: str) -> Exec:
        """Signal its process group, on a terminal the foreground one. Raises Conflict once it has ended."""
        async with self._running(caller, ref, exec_id) as (item, peer):
            told = await self._ship.signal_exec(peer, exec_id, name)
            return as_asked(told, item)

    async def resize(self, caller: Caller, ref: str, exec_id: str, rows: int, cols: int) -> Exec:
        """Change the size of its terminal. Raises Conflict when it has none, or has ended."""
        async with self._running(caller, ref, exec_id) as (item, peer):
            told = await self._ship.resize_exec(peer, exec_id, rows, cols)
            return as_asked(told, item)

    @asynccontextmanager
    async def _running(
        self, caller: Caller, ref: str, exec_id: str, *, follower: bool = False
    ) -> AsyncGenerator[tuple[Exec, Peer]]:
        """An exec whose session is not over, and its Ship."""
        async with self._locator.locate(caller, ref, exec_id, thaw=True, follower=follower) as found:
            if found.peer is None:
                raise Conflict(f"exec {exec_id} has ended with its session")
            yield found.item, found.peer

    async def _plan(
        self, awake: Awake, new: NewExec, request: idempotency.Request | None, note: HistoryNote | None = None
    ) -> Exec:
        """Write down what is about to run, before it does, or find what an earlier call with this key wrote.
        Raises Conflict when the client's id is taken in this sandbox.
        """
        sandbox_id = awake.sandbox.id
        planned = _planned(new, self._clock())
        own = request.hash if request and new.id else None
        async with self._store.write() as db:
            # A key that equals the exec's id, as the SDK sends it, names this exec alone: it needs no look.
            claim = await request.earlier(db) if request and request.key != new.id else None
            if claim is not None and own is None:
                found = await execs.get(db, sandbox_id, claim.resource_id)
                return found[0] if found else replace(planned, id=claim.resource_id)
            if not await execs.add(db, sandbox_id, awake.peer.session_id, planned, note, own):
                found = await execs.get(db, sandbox_id, planned.id)
                if (
                    own is None
                    or await execs.request_hash(db, sandbox_id, planned.id) != own
                    or found is None
                ):
                    raise Conflict(f"this sandbox has an exec {planned.id}; choose another id")
                return found[0]
            if request and own is None:
                await request.claim(db, planned.id, None, self._clock())
        return planned

    async def _run(
        self,
        awake: Awake,
        planned: Exec,
        new: NewExec,
        wait_s: float | None,
        request: idempotency.Request | None,
        *,
        chunks: bool = False,
    ) -> Exec:
        """Start it in Ship, or find the one of an earlier call with the same key; then write the outcome."""
        peer, exec_id = awake.peer, planned.id
        try:
            item = await self._ship.run(peer, exec_id, _ship_body(awake, exec_id, new), wait_s, chunks=chunks)
        except Conflict as conflict:
            item = await self._known(awake, exec_id, wait_s, request, conflict, chunks=chunks)
        except CallerError:
            await self._withdraw(awake, exec_id, request)
            raise
        item = as_asked(item, planned)
        self._save(peer, item)
        return item

    async def _known(
        self,
        awake: Awake,
        exec_id: str,
        wait_s: float | None,
        request: idempotency.Request | None,
        conflict: Conflict,
        *,
        chunks: bool,
    ) -> Exec:
        """The exec of an earlier call with the key. Raises `conflict`, and runs nothing, for another kind."""
        if request is not None:
            with suppress(NotFound):
                return await self._ship.get_exec(awake.peer, exec_id, wait_s, chunks=chunks)
        await self._withdraw(awake, exec_id, request)
        raise conflict

    async def _withdraw(self, awake: Awake, exec_id: str, request: idempotency.Request | None) -> None:
        """Ship refused it, so it never was; a repeat of the call may be tried afresh."""
        async with self._store.write() as db:
            await execs.remove(db, awake.sandbox.id, exec_id)
            if request is not None:
                await request.withdraw(db)

    async def _refreshed(self, item: Exec, peer: Peer, wait_s: float | None, *, chunks: bool) -> Exec:
        try:
            fresh = await self._ship.get_exec(peer, item.id, wait_s, chunks=chunks)
        except NotFound:
            return self._unknown_to_ship(item, peer)
        return self._seen(peer, item, fresh)

    def _seen(self, peer: Peer, item: Exec, fresh: Exec) -> Exec:
        """Ship's present view of an exec; an end is written to its row."""
        fresh = as_asked(fresh, item)
        if item.state == "running" and fresh.state != "running":
            self._save(peer, fresh)
        return fresh

    async def _asked(self, sandbox: SandboxRecord, items: tuple[Exec, ...]) -> tuple[Exec, ...]:
        """The same, with Ship's view of those that count as running: an end may be in no row yet."""
        session = sandbox.session
        peer = peer_of(session) if session and session.phase == "running" else None
        if peer is None or not any(item.state == "running" for item in items):
            return items
        try:
            async with asyncio.timeout(_LIST_S):
                known = {item.id: item for item in await self._ship.list_execs(peer)}
        except (BayError, TimeoutError):
            return items
        asked = {item.id for item in items if item.state == "running"} & known.keys()
        return tuple(self._seen(peer, item, known[item.id]) if item.id in asked else item for item in items)

    def _unknown_to_ship(self, item: Exec, peer: Peer) -> Exec:
        """Ship drops execs some minutes after their end, which the row does not; or it never got this one."""
        if item.state != "running" or self._clock() - item.started_at < TOLD_WITHIN:
            return item
        lost = replace(item, state="lost", ended_at=self._clock())
        self._save(peer, lost)
        return lost

    def _save(self, peer: Peer, item: Exec) -> None:
        """Write its progress as a deferred write: after a crash Ship still knows it."""
        bare = replace(
            item, stdout=None, stderr=None, output=None
        )  # which may be large, and wait for long when the disk is full
        self._deferred.put(lambda db: execs.save(db, peer.session_id, bare))


def as_asked(told: Exec, row: Exec) -> Exec:
    """Ship's view of an exec, with what only its row knows."""
    return replace(told, keep_alive=row.keep_alive, labels=row.labels)


def checked_exec(new: NewExec) -> NewExec:
    """Checks that need no sandbox come before anything wakes. Raises BadRequest or InvalidPath."""
    check_user(new.user)
    for name, value in (new.env or {}).items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise BadRequest(f"env: {name[:64]!r} is not the name of a variable, or its value has a NUL")
    return new if new.cwd is None else replace(new, cwd=working_directory(new.cwd))


def _shown(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words as far as a row keeps them; Ship keeps as much."""
    room = _SHOWN_CHARS
    kept: list[str] = []
    for count, word in enumerate(argv):
        if len(word) >= room:
            return (*kept, f"{word[:room]}… ({len(argv) - count - 1} more words)")
        room -= len(word) + 1
        kept.append(word)
    return argv


async def _claimed(
    db: StoreConnection, request: idempotency.Request, sandbox_id: str, exec_id: str | None
) -> str | None:
    """The exec that an earlier call with this key made; the row of one with a chosen id is the claim."""
    if exec_id is not None:
        return exec_id if await execs.request_hash(db, sandbox_id, exec_id) == request.hash else None
    claim = await request.earlier(db)
    return claim.resource_id if claim else None


def _planned(new: NewExec, now: datetime) -> Exec:
    argv = _shown(new.argv or ("bash", "-c", new.command or ""))
    return Exec(
        id=new.id or new_id("exec"), argv=argv, pid=None, tty=new.tty, state="running", exit_code=None, signal=None,
        started_at=now, ended_at=None, output_bytes=0, first_offset=0,
        keep_alive=new.keep_alive, labels=new.labels,
    )  # fmt: skip


def _reading_env_file(awake: Awake, new: NewExec) -> NewExec:
    """The same, and bash reads the file of variables first, as far as it is there (bash(1), BASH_ENV)."""
    if not awake.profile.env_file or "BASH_ENV" in awake.env:
        return new
    return replace(new, env={"BASH_ENV": _ENV_FILE})


def _ship_body(awake: Awake, exec_id: str, new: NewExec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": exec_id,
        "command": new.command,
        "argv": new.argv,
        "tool": new.tool,
        "cwd": new.cwd,
        "env": {**awake.env, **environment(), **(new.env or {})},
        "user": new.user,
        "stdin": encode_stdin(new.stdin, new.stdin_base64),
        "timeout_s": new.timeout_s,
        "tty": new.tty or None,
        "rows": new.rows,
        "cols": new.cols,
        "stdin_open": new.stdin_open or None,
        "max_run_after_disconnect_s": new.max_run_after_disconnect_s,
        "wait_for_reader_s": READER_S if new.wait_for_reader else None,
        "ring_bytes": awake.profile.output_buffer_mb << 20,
    }
    return {name: value for name, value in body.items() if value is not None}
