"""Execs: commands that run in a sandbox and outlive the connection that started them.

The row is written before Ship is told, so that an exec can be asked for from its first moment, whatever
becomes of the call that started it. Ship holds the running exec and its output; the row remembers how it ended.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from bay.clock import Clock
from bay.errors import CallerError, Conflict, Forbidden, InvalidArgument, NotFound, OutputGone
from bay.ids import new_id
from bay.models import Exec, OutputChunk, ShellResult, to_wire
from bay.server import idempotency
from bay.server.auth import Caller
from bay.server.paths import workspace_path
from bay.server.peers import peer_of
from bay.server.ship_link import OutputEnd, ShipLink, encode_stdin
from bay.server.ship_wire import Peer
from bay.server.wake import Awake, Waker
from bay.store import claims, execs
from bay.store.engine import Store
from bay.store.records import Page, SandboxRecord

_KILL_GRACE_S = 5.0
_TOLD_WITHIN = timedelta(seconds=30)  # Ship is told of a planned exec well within this, or never


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExec:
    """What to run: either `command`, by a login shell, or `argv` as it is."""

    id: str | None = None
    command: str | None = None
    argv: tuple[str, ...] | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    user: str | None = None
    stdin: str | None = None
    stdin_base64: str | None = None
    timeout_s: float | None = None


class Execs:
    """The service behind `…/execs` and `…/shell/exec`."""

    def __init__(self, *, store: Store, waker: Waker, link: ShipLink, clock: Clock) -> None:
        self._store = store
        self._waker = waker
        self._link = link
        self._clock = clock

    async def create(
        self, caller: Caller, ref: str, new: NewExec, idempotency_key: str | None, wait_s: float | None
    ) -> Exec:
        """Start an exec, waking the sandbox; with `wait_s` answer when it ended or the seconds are over."""
        checked = _checked(new)
        awake = await self._waker.awake(caller, ref, "exec")
        self._check_user(awake, new.user)
        call = f"POST /v1/sandboxes/{awake.sandbox.id}/execs"
        request = idempotency.request(caller, idempotency_key, call, to_wire(new))
        planned = await self._plan(awake, checked, request)
        if planned.state != "running" or self._clock() - planned.started_at >= _TOLD_WITHIN:
            # An earlier call's, and no longer in doubt: Ship may have forgotten it, and must not run it again.
            return await self.get(caller, awake.sandbox.id, planned.id, wait_s)
        return await self._run(awake, planned, checked, wait_s, is_repeatable=request is not None)

    async def shell(
        self, caller: Caller, ref: str, command: str, timeout_s: float, cwd: str | None, *, include_code: bool
    ) -> ShellResult:
        """Run a command to its end, or to `timeout_s`, and return what it printed."""
        new = _checked(NewExec(command=command, cwd=cwd, timeout_s=timeout_s))
        awake = await self._waker.awake(caller, ref, "shell")
        planned = await self._plan(awake, new, None)
        item = await self._run(awake, planned, new, timeout_s + _KILL_GRACE_S, is_repeatable=False)
        return _shell_result(item, command if include_code else None)

    async def page(self, caller: Caller, ref: str, *, after: int, limit: int) -> Page[Exec]:
        """Part of a sandbox's execs, oldest first, as last seen."""
        sandbox = await self._waker.find(caller, ref)
        async with self._store.read() as db:
            found = await execs.page(db, sandbox.id, after=after, limit=limit)
        items = tuple(_as_it_is(item, session_id, sandbox) for item, session_id in found.items)
        return Page(items=items, next_cursor=found.next_cursor)

    async def get(self, caller: Caller, ref: str, exec_id: str, wait_s: float | None) -> Exec:
        """One exec as it stands; never starts compute."""
        item, peer = await self._locate(caller, ref, exec_id)
        if peer is None:
            return item
        return await self._refreshed(item, peer, wait_s)

    async def delete(self, caller: Caller, ref: str, exec_id: str) -> Exec:
        """End an exec's whole process tree, and return how it ended. Idempotent."""
        item, peer = await self._locate(caller, ref, exec_id)
        if peer is None or item.state != "running":
            return item
        ended = await self._link.kill_exec(peer, exec_id)
        await self._save(peer, ended)
        return ended

    @asynccontextmanager
    async def output(
        self, caller: Caller, ref: str, exec_id: str, since: int, *, follow: bool
    ) -> AsyncGenerator[AsyncIterator[OutputChunk | OutputEnd], None]:
        """The output from byte `since` on. Raises OutputGone when it is no longer, or not any more, buffered."""
        item, peer = await self._locate(caller, ref, exec_id)
        if peer is None:
            raise OutputGone(
                f"the session that ran {exec_id} is over, and its output with it",
                details={"first_offset": item.output_bytes},
            )
        async with self._link.output(peer, exec_id, since, follow) as chunks:
            yield chunks

    def _check_user(self, awake: Awake, user: str | None) -> None:
        if user == "root" and not awake.profile.root:
            raise Forbidden(f"profile {awake.profile.id} does not allow commands as root")
        if user not in (None, "root", "ship"):
            raise InvalidArgument("user is ship (the default) or root")

    async def _plan(self, awake: Awake, new: NewExec, request: idempotency.Request | None) -> Exec:
        """Write down what is about to run, before it does, or find what an earlier call with this key wrote.

        From here on the exec can be asked for, whatever becomes of this call and of Bay. Raises Conflict
        when the client's id is taken in this sandbox.
        """
        sandbox_id = awake.sandbox.id
        planned = _planned(new, self._clock())
        async with self._store.write(only_execs=True) as db:
            if request and (claim := await request.earlier(db)) is not None:
                found = await execs.get(db, sandbox_id, claim.resource_id)
                return found[0] if found else replace(planned, id=claim.resource_id)
            if new.id and await execs.get(db, sandbox_id, new.id) is not None:
                raise Conflict(f"this sandbox has an exec {new.id}; choose another id")
            await execs.add(db, sandbox_id, awake.peer.session_id, planned)
            if request:
                await request.claim(db, planned.id, None, self._clock())
        return planned

    async def _run(
        self, awake: Awake, planned: Exec, new: NewExec, wait_s: float | None, *, is_repeatable: bool
    ) -> Exec:
        """Start it in Ship, or find it there when an earlier call with the same key did; then write what came of it."""
        peer, exec_id = awake.peer, planned.id
        try:
            item = await self._link.run(peer, exec_id, _ship_body(awake, exec_id, new), wait_s)
        except Conflict:
            if not is_repeatable:
                await self._withdraw(awake, exec_id)
                raise
            item = await self._link.get_exec(peer, exec_id, wait_s)
        except CallerError:
            await self._withdraw(awake, exec_id)
            raise
        await self._save(peer, item)
        await self._waker.touch(awake.sandbox)
        return item

    async def _withdraw(self, awake: Awake, exec_id: str) -> None:
        """Ship refused it, so it never was; a repeat of the call may be tried afresh."""
        async with self._store.write(only_execs=True) as db:
            await execs.remove(db, awake.sandbox.id, exec_id)
            await claims.forget_resource(db, awake.sandbox.owner, exec_id)

    async def _locate(self, caller: Caller, ref: str, exec_id: str) -> tuple[Exec, Peer | None]:
        """The exec's row, and its Ship while the session it ran in lives."""
        sandbox = await self._waker.find(caller, ref)
        async with self._store.read() as db:
            found = await execs.get(db, sandbox.id, exec_id)
        if found is None:
            raise NotFound(f"there is no exec {exec_id} in this sandbox")
        item, session_id = found
        session = sandbox.session
        alive = session is not None and session.id == session_id and session.phase == "running"
        return _as_it_is(item, session_id, sandbox), peer_of(session) if session and alive else None

    async def _refreshed(self, item: Exec, peer: Peer, wait_s: float | None) -> Exec:
        try:
            fresh = await self._link.get_exec(peer, item.id, wait_s)
        except NotFound:
            return await self._unknown_to_ship(item, peer)
        if item.state == "running" and fresh.state != "running":
            await self._save(peer, fresh)
        return fresh

    async def _unknown_to_ship(self, item: Exec, peer: Peer) -> Exec:
        """Ship forgets execs some minutes after their end, which the row does not; or it was never told of this one."""
        if item.state != "running" or self._clock() - item.started_at < _TOLD_WITHIN:
            return item
        lost = replace(item, state="lost", ended_at=self._clock())
        await self._save(peer, lost)
        return lost

    async def _save(self, peer: Peer, item: Exec) -> None:
        async with self._store.write(only_execs=True) as db:
            await execs.save(db, peer.session_id, item)


def _checked(new: NewExec) -> NewExec:
    return new if new.cwd is None else replace(new, cwd=workspace_path(new.cwd, "cwd"))


def _planned(new: NewExec, now: datetime) -> Exec:
    argv = new.argv or ("bash", "-lc", new.command or "")
    return Exec(
        id=new.id or new_id("exec"), argv=argv, pid=None, tty=False, state="running", exit_code=None, signal=None,
        started_at=now, ended_at=None, output_bytes=0, first_offset=0,
    )  # fmt: skip


def _ship_body(awake: Awake, exec_id: str, new: NewExec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": exec_id,
        "command": new.command,
        "argv": new.argv,
        "cwd": new.cwd,
        "env": {**awake.env, **(new.env or {})},
        "user": new.user,
        "stdin": encode_stdin(new.stdin, new.stdin_base64),
        "timeout_s": new.timeout_s,
    }
    return {name: value for name, value in body.items() if value is not None}


def _as_it_is(item: Exec, session_id: str, sandbox: SandboxRecord) -> Exec:
    """The exec, lost if its row says it runs in a session that is over.

    Rows are marked when their session ends; one that is written just after that is told here.
    """
    over = sandbox.session is None or sandbox.session.id != session_id
    return replace(item, state="lost") if over and item.state == "running" else item


def _shell_result(item: Exec, command: str | None) -> ShellResult:
    """Part A's answer. After a timeout the output so far is kept and the exit code is -1."""
    ended = item.ended_at or item.started_at
    exit_code = -1 if item.timed_out or item.state == "running" else item.exit_code
    error = "Command timed out" if exit_code == -1 else item.stderr or None
    if exit_code is None and item.signal is not None:
        exit_code = 128 + item.signal
        error = error or f"killed by signal {item.signal}"
    return ShellResult(
        success=exit_code == 0,
        output=item.stdout or "",
        error=error,
        exit_code=exit_code,
        execution_id=item.id,
        execution_time_ms=round((ended - item.started_at).total_seconds() * 1000),
        command=command,
        truncated=item.truncated,
    )
