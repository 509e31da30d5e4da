"""Makes rows come true: the only place that starts, stops and removes anything.

Requests write what they want and put the sandbox's id into the queue; a worker takes it, asks
`lifecycle.next_step` what brings the row nearer to its target, does that one thing, writes down what
came of it, and looks again until nothing is left to do. The queue never hands out one id twice at
once, so a sandbox has one hand on it at a time, and no lock is held for it.
"""

import asyncio
import secrets
from collections.abc import Coroutine
from contextlib import aclosing
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.cargo.base import CargoBackend
from bay.clock import Clock
from bay.drivers.base import Driver, Exited, Gone, Handle, SessionSpec
from bay.errors import BayError, DriverUnavailable, InternalError
from bay.ids import new_id
from bay.models import Exec, Failure, Profile
from bay.server import lifecycle
from bay.server.changes import Changes
from bay.server.lifecycle import Begin, End, GoOn, Nothing, Remove, Resume, Step
from bay.server.peers import peer_of
from bay.server.ship_link import ShipLink
from bay.server.workqueue import WorkQueue
from bay.store import cargos, events, execs, sandboxes, sessions
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord

log = structlog.get_logger("bay.reconcile")

_RETRY_S = 5.0
_LAST_WORDS_S = 2.0


class Reconciler:
    """Works the queue until it is cancelled; sessions keep running then."""

    _group: asyncio.TaskGroup
    """Parent of the workers and the watches, while `run` runs."""

    def __init__(
        self,
        *,
        store: Store,
        driver: Driver,
        cargo: CargoBackend,
        link: ShipLink,
        profiles: dict[str, Profile],
        changes: Changes,
        clock: Clock,
        workers: int,
        stop_grace_s: float,
        retention: timedelta,
    ) -> None:
        self.queue = WorkQueue()
        self._store = store
        self._driver = driver
        self._cargo = cargo
        self._link = link
        self._profiles = profiles
        self._changes = changes
        self._clock = clock
        self._workers = workers
        self._stop_grace_s = stop_grace_s
        self._retention = retention
        self._exited: set[str] = set()
        """Sessions whose container was seen to end; guarded by being touched on the event loop only."""
        self._adopted: list[tuple[str, Handle]] = []
        """Sandboxes and sessions of an earlier run, to be watched from the start."""
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._defects: set[str] = set()
        """Sandboxes on which a step failed in a way nobody foresaw; a start is then given up, not tried for ever."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for sandbox_id, handle in self._adopted:
                self._watch(sandbox_id, handle)
            for _ in range(self._workers):
                self._group.create_task(self._work())

    async def take_over(self) -> None:
        """Adopt running sessions, put everything unsettled into the queue, remove what nobody owns.

        Comes before `run`. Raises DriverUnavailable when what the driver owns cannot be known.
        """
        async with self._store.read() as db:
            found = await sandboxes.unsettled(db)
        for sandbox in found:
            await self._adopt(sandbox)
            self.queue.put(sandbox.id)
        orphans = await self._remove_orphans()
        log.info("bay.took_over", sandboxes=len(found), orphans_removed=orphans)

    async def _adopt(self, sandbox: SandboxRecord) -> None:
        session = sandbox.session
        if session is None or session.handle is None or session.phase in ("starting", "ending"):
            return
        handle = Handle.from_json(session.handle)
        try:
            observed = await self._driver.observe(handle)
        except DriverUnavailable as error:
            # Unknown is not dead: the row stays, and the watch tells when it does end.
            log.warning("session.unknown", id=session.id, error=error.message)
            observed = None
        if isinstance(observed, Exited | Gone):
            await self._begin_to_end(sandbox, session, "exited")
        else:
            self._adopted.append((sandbox.id, handle))

    async def _remove_orphans(self) -> int:
        async with self._store.read() as db:
            owned_sessions = await sessions.live_ids(db)
            owned_cargos = await cargos.live_ids(db)
        orphans = [o async for o in self._driver.list_owned() if o.session_id not in owned_sessions]
        removed = [await self._remove_orphan(orphan.handle) for orphan in orphans]
        strays = await self._cargo.list_ids() - owned_cargos
        for cargo_id in strays:
            await self._cargo.remove(cargo_id)
        return sum(removed) + len(strays)

    async def _remove_orphan(self, handle: Handle) -> bool:
        try:
            await self._driver.destroy(handle)
        except BayError as error:
            log.warning("session.orphan_stays", id=handle.session_id, error=error.message)
            return False
        return True

    async def _work(self) -> None:
        while True:
            async with self.queue.take() as sandbox_id:
                try:
                    await self._settle(sandbox_id)
                except Exception:
                    log.exception("sandbox.reconcile_failed", id=sandbox_id)
                    self._defects.add(sandbox_id)
                    asyncio.get_running_loop().call_later(_RETRY_S, self.queue.put, sandbox_id)

    async def _settle(self, sandbox_id: str) -> None:
        while True:
            sandbox = await self._read(sandbox_id)
            if sandbox is None:
                return
            step = self._next_step(sandbox)
            if isinstance(step, Nothing):
                self._changes.announce(sandbox_id)  # whoever waits for a target that was changed back
                return
            await self._take(sandbox, step)
            self._defects.discard(sandbox_id)
            self._changes.announce(sandbox_id)

    async def _read(self, sandbox_id: str) -> SandboxRecord | None:
        async with self._store.read() as db:
            return await sandboxes.get(db, sandbox_id)

    def _next_step(self, sandbox: SandboxRecord) -> Step:
        exited = sandbox.session is not None and sandbox.session.id in self._exited
        return lifecycle.next_step(sandbox, self._clock(), exited=exited, retention=self._retention)

    async def _take(self, sandbox: SandboxRecord, step: Step) -> None:
        match step:
            case Begin():
                await self._start(sandbox, await self._new_session(sandbox))
            case GoOn(session) if sandbox.id in self._defects:
                await self._give_up(
                    sandbox, session, InternalError("the start failed on a defect in Bay; see its log")
                )
            case GoOn(session):
                await self._start(sandbox, session)
            case Resume(session):
                await self._resume(sandbox, session)
            case End(session, reason, graceful):
                await self._end(sandbox, session, reason, graceful=graceful)
            case Remove():
                await self._remove(sandbox)
            case Nothing():
                pass

    async def _new_session(self, sandbox: SandboxRecord) -> SessionRecord:
        """Write down that a session begins, before anything of it exists."""
        session = SessionRecord(
            id=new_id("sess"), sandbox_id=sandbox.id, generation=sandbox.generation + 1, driver=self._driver.name,
            phase="starting", token=secrets.token_hex(32), handle=None, end_reason=None, created_at=self._clock(),
            started_at=None, ended_at=None,
        )  # fmt: skip
        async with self._store.write() as db:
            await sessions.add(db, session)
            await sandboxes.change(db, sandbox.id, generation=session.generation)
            await events.add(db, sandbox, "sandbox.starting", self._clock(), session_id=session.id)
        self._changes.announce(sandbox.id)
        return session

    async def _start(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        try:
            handle = await self._unless_unwanted(sandbox.id, self._drive_start(sandbox, session))
        except BayError as error:
            await self._give_up(sandbox, session, error)
            return
        if handle is None:
            return
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="running", started_at=self._clock())
            await sandboxes.change(db, sandbox.id, error=None)
            await events.add(db, sandbox, "sandbox.ready", self._clock(), session_id=session.id)
        log.info("sandbox.started", id=sandbox.id, session=session.id, driver=self._driver.name)
        self._watch(sandbox.id, handle)

    async def _unless_unwanted(
        self, sandbox_id: str, start: Coroutine[None, None, Handle | None]
    ) -> Handle | None:
        """What `start` gives; None when the sandbox is no longer wanted, and the start was left where it stood."""
        starting = asyncio.create_task(start)
        unwanted = asyncio.create_task(self._wait_unwanted(sandbox_id))
        try:
            await asyncio.wait((starting, unwanted), return_when=asyncio.FIRST_COMPLETED)
            return await starting if starting.done() else None
        finally:
            starting.cancel()
            unwanted.cancel()
            await asyncio.wait((starting, unwanted))

    async def _wait_unwanted(self, sandbox_id: str) -> None:
        while True:
            await self.queue.put_again(sandbox_id)
            sandbox = await self._read(sandbox_id)
            if sandbox is None or sandbox.target != "running" or lifecycle.is_expired(sandbox, self._clock()):
                return

    async def _drive_start(self, sandbox: SandboxRecord, session: SessionRecord) -> Handle | None:
        """Save each handle as it appears; None when the target changed on the way and the start was left."""
        await self._cargo.create(sandbox.cargo_id)
        before = Handle.from_json(session.handle) if session.handle else None
        last: Handle | None = None
        async with aclosing(self._driver.start(self._spec(sandbox, session), before)) as handles:
            async for handle in handles:
                last = handle
                async with self._store.write() as db:
                    target = await sessions.save_handle(db, session.id, handle.to_json())
                if target != "running":
                    return None
        if last is None or last.endpoint is None:
            raise DriverUnavailable(f"driver {self._driver.name} ended its start without an endpoint")
        return last

    def _spec(self, sandbox: SandboxRecord, session: SessionRecord) -> SessionSpec:
        profile = self._profiles.get(sandbox.profile)
        if profile is None:
            raise DriverUnavailable(
                f"profile {sandbox.profile} is no longer configured; restore it, or delete the sandbox"
            )
        return SessionSpec(
            session_id=session.id,
            sandbox_id=sandbox.id,
            image=sandbox.image,
            isolation=sandbox.isolation,
            resources=profile.resources,
            workspace=self._cargo.path(sandbox.cargo_id),
            token=session.token,
            hostname=sandbox.name or "sandbox",
            allow_root=profile.root,
        )

    async def _give_up(self, sandbox: SandboxRecord, session: SessionRecord, error: BayError) -> None:
        """The start failed: say why in the row, so that nobody waits longer; what exists of it is ended next."""
        failure = Failure(code=error.code, message=error.message, at=self._clock())
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason="failed")
            await sandboxes.change_target(db, sandbox.id, old="running", new="stopped", error=failure)
            await events.add(
                db, sandbox, "sandbox.failed", failure.at, code=error.code, message=error.message
            )
        log.warning("sandbox.failed", id=sandbox.id, session=session.id, code=error.code, error=error.message)

    async def _resume(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        await self._driver.resume(self._handle_of(session))
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="running")
            await events.add(db, sandbox, "sandbox.resumed", self._clock(), session_id=session.id)

    async def _end(
        self, sandbox: SandboxRecord, session: SessionRecord, reason: str, *, graceful: bool
    ) -> None:
        """Take a session down and write down that it is over, with the fate of its execs."""
        await self._unwatch(session.id)
        await self._begin_to_end(sandbox, session, reason)
        handle = self._handle_of(session)
        finals = await self._final_execs(session) if graceful else []
        if graceful:
            await self._driver.stop(handle, self._stop_grace_s)
        await self._driver.destroy(handle)
        async with self._store.write() as db:
            for item in finals:
                await execs.save(db, session.id, item)
            await self._close_session(db, session, reason)
            await events.add(
                db, sandbox, "sandbox.stopped", self._clock(), session_id=session.id, reason=reason
            )
        self._exited.discard(session.id)
        log.info("sandbox.stopped", id=sandbox.id, session=session.id, reason=reason)

    async def _begin_to_end(self, sandbox: SandboxRecord, session: SessionRecord, reason: str) -> None:
        """No call may be sent to it from here on, also when the sandbox is wanted again before it has ended.

        A session that ended by itself is not started again by itself, but by the next call, which may come at once.
        """
        if session.phase == "ending":
            return
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason=reason)
            if reason == "exited":
                await sandboxes.change_target(db, sandbox.id, old="running", new="stopped")
        self._changes.announce(sandbox.id)

    async def _final_execs(self, session: SessionRecord) -> list[Exec]:
        """What Ship knows of the execs that ended and whose end nobody has asked for yet; best effort."""
        peer = peer_of(session)
        if peer is None:
            return []
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                return [item for item in await self._link.list_execs(peer) if item.state != "running"]
        except (BayError, TimeoutError) as error:
            log.info("session.silent", id=session.id, error=str(error))
            return []

    async def _close_session(self, db: AsyncConnection, session: SessionRecord, reason: str) -> None:
        now = self._clock()
        await sessions.change(db, session.id, phase="ended", ended_at=now, end_reason=reason)
        await execs.lose_running(db, session.id, now)
        self._link.forget(session.id)

    async def _remove(self, sandbox: SandboxRecord) -> None:
        """Remove the files first: if we die between, the row still says that something is left to do."""
        async with self._store.read() as db:
            cargo = await cargos.get(db, sandbox.cargo_id)
        managed = cargo.managed_by_sandbox_id == sandbox.id
        if managed:
            await self._cargo.remove(cargo.id)
        now = self._clock()
        async with self._store.write() as db:
            await sandboxes.change(db, sandbox.id, deleted_at=now, env={})
            await execs.remove_all(db, sandbox.id)
            if managed:
                await cargos.change(db, cargo.id, deleted_at=now)
            await events.add(db, sandbox, "sandbox.deleted", now)
        log.info("sandbox.deleted", id=sandbox.id)

    def _handle_of(self, session: SessionRecord) -> Handle:
        """The saved handle, or the bare one that every driver understands."""
        if session.handle is not None:
            return Handle.from_json(session.handle)
        return Handle(driver=self._driver.name, session_id=session.id)

    def _watch(self, sandbox_id: str, handle: Handle) -> None:
        """Notice at once when the session's first process ends."""
        self._watches[handle.session_id] = self._group.create_task(self._wait_for_end(sandbox_id, handle))

    async def _unwatch(self, session_id: str) -> None:
        if watch := self._watches.pop(session_id, None):
            watch.cancel()
            await asyncio.wait([watch])

    async def _wait_for_end(self, sandbox_id: str, handle: Handle) -> None:
        ended = await self._ended(handle)
        log.warning("session.exited", id=handle.session_id, observed=repr(ended))
        self._watches.pop(handle.session_id, None)
        self._exited.add(handle.session_id)
        self.queue.put(sandbox_id)

    async def _ended(self, handle: Handle) -> Exited | Gone:
        """How the session ended, once it has; a driver that cannot tell for the time being is asked again."""
        while True:
            try:
                return await self._driver.wait(handle)
            except DriverUnavailable as error:
                log.warning("session.unknown", id=handle.session_id, error=error.message)
            await asyncio.sleep(_RETRY_S)
