"""Execs: commands that run in a sandbox and outlive the connection that started them.

Ship holds a running exec and its output; the row remembers how it ended once somebody has seen that.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from bay.clock import Clock
from bay.errors import Conflict, Forbidden, InvalidArgument, NotFound, OutputGone
from bay.ids import new_id
from bay.models import Exec, OutputChunk, ShellResult
from bay.server import idempotency
from bay.server.auth import Caller
from bay.server.paths import workspace_path
from bay.server.peers import peer_of
from bay.server.ship_link import OutputEnd, ShipLink, encode_stdin
from bay.server.ship_wire import Peer
from bay.server.wake import Awake, Waker
from bay.store import execs
from bay.store.engine import Store
from bay.store.records import Page, SandboxRecord

_KILL_GRACE_S = 5.0


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
        cwd = None if new.cwd is None else workspace_path(new.cwd, "cwd")
        awake = await self._waker.awake(caller, ref, "exec")
        self._check_user(awake, new.user)
        exec_id, is_known = await self._identify(caller, awake.sandbox, new, idempotency_key)
        if is_known:
            return await self.get(caller, awake.sandbox.id, exec_id, wait_s)
        body = self._ship_body(awake, replace(new, id=exec_id, cwd=cwd))
        return await self._run(awake, exec_id, body, wait_s, has_key=idempotency_key is not None)

    async def shell(
        self, caller: Caller, ref: str, command: str, timeout_s: float, cwd: str | None, *, include_code: bool
    ) -> ShellResult:
        """Run a command to its end, or to `timeout_s`, and return what it printed."""
        new = NewExec(
            command=command, cwd=None if cwd is None else workspace_path(cwd, "cwd"), timeout_s=timeout_s
        )
        awake = await self._waker.awake(caller, ref, "shell")
        exec_id = new_id("exec")
        body = self._ship_body(awake, replace(new, id=exec_id))
        item = await self._run(awake, exec_id, body, timeout_s + _KILL_GRACE_S, has_key=False)
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

    async def _identify(
        self, caller: Caller, sandbox: SandboxRecord, new: NewExec, key: str | None
    ) -> tuple[str, bool]:
        """The exec's id, and whether an earlier call with the same idempotency key has left its row already.

        Raises Conflict when the client's choice is taken in this sandbox.
        """
        wanted = {name: getattr(new, name) for name in new.__slots__}
        request = idempotency.request(caller, key, f"POST /v1/sandboxes/{sandbox.id}/execs", wanted)
        exec_id = new.id or new_id("exec")
        if request is None and new.id is None:
            return exec_id, False
        async with self._store.write() as db:
            if request and (claim := await request.earlier(db)) is not None:
                found = await execs.get(db, sandbox.id, claim.resource_id)
                return claim.resource_id, found is not None
            if await execs.get(db, sandbox.id, exec_id) is not None:
                raise Conflict(f"this sandbox has an exec {exec_id}; choose another id")
            if request:
                await request.claim(db, exec_id, None, self._clock())
        return exec_id, False

    def _ship_body(self, awake: Awake, new: NewExec) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": new.id,
            "command": new.command,
            "argv": new.argv,
            "cwd": new.cwd,
            "env": {**awake.env, **(new.env or {})},
            "user": new.user,
            "stdin": encode_stdin(new.stdin, new.stdin_base64),
            "timeout_s": new.timeout_s,
        }
        return {name: value for name, value in body.items() if value is not None}

    async def _run(
        self, awake: Awake, exec_id: str, body: dict[str, Any], wait_s: float | None, *, has_key: bool
    ) -> Exec:
        """Start it in Ship, or find it there when a call with the same key came first; then write the row."""
        try:
            item = await self._link.run(awake.peer, exec_id, body, wait_s)
        except Conflict:
            if not has_key:
                raise
            item = await self._link.get_exec(awake.peer, exec_id, wait_s)
        async with self._store.write() as db:
            if await execs.get(db, awake.sandbox.id, exec_id) is None:
                await execs.add(db, awake.sandbox.id, awake.peer.session_id, item)
        await self._waker.touch(awake.sandbox)
        return item

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
            return item  # Ship forgets execs some minutes after their end; the row does not
        if item.state == "running" and fresh.state != "running":
            await self._save(peer, fresh)
        return fresh

    async def _save(self, peer: Peer, item: Exec) -> None:
        async with self._store.write() as db:
            await execs.save(db, peer.session_id, item)


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
