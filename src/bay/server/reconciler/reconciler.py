"""The reconciler makes the host agree with the rows: it alone starts, stops and removes anything.

Requests write what they want and put the sandbox's id into the queue; a worker takes it, asks
`lifecycle.next_step` what brings the row nearer to its target, does that one thing, writes down what
came of it, and looks again until nothing is left to do. The queue never hands out one id twice at
once, so a sandbox has one hand on it at a time, and no lock is held for it.
"""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.backoff import Backoff
from bay.cargo.base import CargoBackend
from bay.clock import Clock, expiry
from bay.drivers.base import Driver, Exited, Gone, Handle, Hostnames, NetworkControl, Paused, Running, freezer
from bay.errors import BayError, DriverUnavailable, InternalError
from bay.models import Exec, Failure, Profile
from bay.server.checkpoints import policy as checkpoint_policy
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.managed_services.syncer import ServiceSyncer
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.start_slots import Shares
from bay.server.reconciler.starter import Starter
from bay.server.sessions import lifecycle
from bay.server.sessions.effective_policy import policy_of
from bay.server.sessions.feeds import SessionFeeds
from bay.server.sessions.handles import handle_of, peer_of
from bay.server.sessions.holds import Holds
from bay.server.sessions.lifecycle import (
    AbandonStorage,
    ApplyNetworkPolicy,
    Begin,
    End,
    Nothing,
    Pause,
    Remove,
    Restore,
    Resume,
    ResumeStart,
    Step,
    TakeCheckpoint,
)
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.client import ShipClient
from bay.store import cargos, checkpoints, events, execs, networks, sandboxes, services, sessions
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HAVING, Phase, SandboxRecord, SessionRecord

log = structlog.get_logger("bay.reconcile")

_BACKOFF = Backoff(1.0, 60.0)
_WATCH_RETRY_S = 5.0
_LAST_WORDS_S = 2.0
_KILLED_S = 2.0  # a process that was killed and has not ended by then hangs in the kernel
_DYING_S, _LONG_DYING_S = 0.3, 1.0
_SUSPICIOUS_S = 2.0  # a call that takes longer makes us look whether its sandbox is still there
_LONGEST_LOOK_S = 16.0


_LOST = {
    "exited": "its container ended by itself; the files are kept, and the next call starts it again",
    "unreachable": "its runtime could not be reached and was ended; the files are kept, and the next call starts it again",
}
"""Why a session ended without a request for it, as the owner reads it."""


class Reconciler:
    """Works the queue until it is cancelled; sessions keep running then."""

    _group: asyncio.TaskGroup
    """Parent of the workers and the watches, while `run` runs."""

    def __init__(
        self,
        *,
        store: Store,
        deferred: DeferredWrites,
        driver: Driver,
        cargo: CargoBackend,
        storage_steps: StorageSteps,
        ship: ShipClient,
        feeds: SessionFeeds,
        syncer: ServiceSyncer,
        holds: Holds,
        profiles: dict[str, Profile],
        changes: Notifier,
        clock: Clock,
        start_concurrency: int,
        start_limit_s: float,
        stop_grace_s: float,
        retention: timedelta,
    ) -> None:
        self.queue = WorkQueue()
        self._store = store
        self._deferred = deferred
        self._holds = holds
        self._driver = driver
        self._cargo = cargo
        self._storage_steps = storage_steps
        storage_steps.request_probe = self.request_probe
        self.orphans = Orphans(store=store, driver=driver, cargo=cargo)
        self._starter = Starter(
            store=store, driver=driver, cargo=cargo, storage_steps=storage_steps, orphans=self.orphans,
            queue=self.queue, profiles=profiles, clock=clock, at_once=start_concurrency, limit_s=start_limit_s,
        )  # fmt: skip
        self._profiles = profiles
        self._ship = ship
        self._feeds = feeds
        self._syncer = syncer
        self._changes = changes
        self._clock = clock
        # Ends wait for ends only: a delete never queues behind a hundred starts. Those that were tried in
        # vain wait for one another, and no owner keeps the others waiting. Nothing else is held while a turn
        # is waited for.
        places = 2 * start_concurrency
        longest_s = stop_grace_s + _KILLED_S
        self._ending = Shares(places, places // 2, longest_s)
        self._ending_again = Shares(places, places // 2, longest_s)
        self._stop_grace_s = stop_grace_s
        self._retention = retention
        self._exited: set[str] = set()
        """Sessions whose container has ended; only the event loop touches it."""
        self._adopted: list[tuple[str, Handle]] = []
        """Sandboxes and sessions of an earlier run, to be watched from the start."""
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._defects: set[str] = set()
        """Sandboxes of which a step failed with an unexpected error.

        A start is then given up, not retried for ever.
        """
        self._attempts: dict[str, int] = {}
        """How often in a row a sandbox's next step has failed."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """When each of them is looked at again."""
        self._troubles: dict[str, Failure] = {}
        """The failure as the rows of such sandboxes report it."""
        self._hostnames: dict[str, str] = {}
        """The host name that each session was last given, as far as this Bay has given it."""
        self._to_probe: set[str] = set()
        """Sandboxes of which a call failed: they are probed before any other step."""
        self._patience = _ProbePatience()

    def request_probe(self, sandbox_id: str) -> None:
        """A call to the sandbox failed or takes long: see whether it is still there."""
        self._to_probe.add(sandbox_id)
        self.queue.put(sandbox_id)

    async def settle_probe(self, sandbox_id: str) -> None:
        """The same, and return once it was probed, so that a retry of the call meets the true state.

        Bounded.
        """
        self.request_probe(sandbox_id)

        async def is_settled() -> bool | None:
            return None if sandbox_id in self._to_probe else True

        await self._changes.wait_for(sandbox_id, is_settled, _SUSPICIOUS_S)

    def starts_waiting(self) -> int:
        """How many awaited starts are waiting for a start slot."""
        return self._starter.owned_waiting()

    async def look_after(self) -> None:
        """Once a second: request a probe of each session that keeps calls waiting."""
        for session_id in self._patience.worn_out(self._ship.long_busy(_SUSPICIOUS_S)):
            async with self._store.read() as db:
                sandbox_id = await sessions.sandbox_of(db, session_id)
            if sandbox_id is not None:
                self.request_probe(sandbox_id)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for sandbox_id, handle in self._adopted:
                self._watch(sandbox_id, handle)
            self._group.create_task(self._work())
            self._group.create_task(self.orphans.run())

    async def take_over(self) -> None:
        """Adopt running sessions, poke every unsettled sandbox, remove orphans.

        Comes before `run`. Raises DriverUnavailable when what the driver owns cannot be known.
        """
        async with self._store.read() as db:
            found = await sandboxes.unsettled(db)
        for sandbox in found:
            await self._adopt(sandbox)
            self.queue.put(sandbox.id)
        orphans = await self.orphans.remove_all()
        phases = [lifecycle.phase_of(sandbox) for sandbox in found]
        log.info(
            "bay.took_over", sandboxes=len(found), adopted=len(self._adopted), starts_to_finish=phases.count("starting"),
            ends_to_finish=phases.count("ending"), orphans_removed=orphans, orphans_left=len(self.orphans),
        )  # fmt: skip

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
            return
        self._adopted.append((sandbox.id, handle))
        if (peer := peer_of(session)) is not None:
            frozen = session.phase == "paused" if observed is None else isinstance(observed, Paused)
            self._syncer.adopt(sandbox.id, peer, frozen=frozen)
            self._feeds.follow(sandbox.id, peer, frozen=frozen)
        await self._forget_network(session)
        # A Bay that died while it froze or thawed left the row saying one thing and the host another.
        # The host is right, and the next step brings it to what is wanted.
        if isinstance(observed, Paused) and session.phase == "running":
            await self._set_phase(session, "paused")
        elif isinstance(observed, Running) and session.phase == "paused":
            await self._set_phase(session, "running")

    async def _forget_network(self, session: SessionRecord) -> None:
        """The kernel still enforces the last policy; the parts that lived in the dead Bay are made again."""
        async with self._store.write() as db:
            await sessions.change(db, session.id, network_version=None)

    async def _set_phase(self, session: SessionRecord, phase: Phase) -> None:
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase=phase)

    async def _work(self) -> None:
        async with self.queue.take() as sandbox_id:
            self._group.create_task(self._work())  # another caller waits for the next one
            try:
                await self._settle(sandbox_id)
                await self._forgive(sandbox_id)
            except BayError as error:
                await self._put_off(sandbox_id, error)
            except Exception:
                log.exception("sandbox.reconcile_failed", id=sandbox_id)
                self._defects.add(sandbox_id)
                self._retry(sandbox_id)

    async def _put_off(self, sandbox_id: str, error: BayError) -> None:
        """The host refused: retry with a backoff, and write the error into the row if that is possible."""
        wait_s = self._retry(sandbox_id)
        log.warning(
            "sandbox.step_failed", id=sandbox_id, retry_in_s=wait_s, code=error.code, error=error.message
        )
        try:
            await self._complain(
                sandbox_id, Failure(code=error.code, message=error.message, at=self._clock())
            )
        except Exception:
            log.exception("sandbox.trouble_not_written", id=sandbox_id)  # the disk may be full for this, too

    def _retry(self, sandbox_id: str) -> float:
        """Poke it again with a doubling backoff from one second. Returns the seconds."""
        attempts = self._attempts[sandbox_id] = self._attempts.get(sandbox_id, 0) + 1
        wait_s = _BACKOFF.pause(attempts)
        if (earlier := self._timers.pop(sandbox_id, None)) is not None:
            earlier.cancel()
        loop = asyncio.get_running_loop()
        self._timers[sandbox_id] = loop.call_later(wait_s, self.queue.put, sandbox_id)
        return wait_s

    async def _complain(self, sandbox_id: str, failure: Failure) -> None:
        """Say it in the row, unless that says something already."""
        async with self._store.write() as db:
            if await sandboxes.change_error(db, sandbox_id, old=None, new=failure):
                self._troubles[sandbox_id] = failure
        self._changes.announce(sandbox_id)

    async def _forgive(self, sandbox_id: str) -> None:
        """Do the steps that were put off."""
        self._attempts.pop(sandbox_id, None)
        self._timers.pop(sandbox_id, None)
        if sandbox_id in self._troubles:
            async with self._store.write() as db:
                await self._take_back(db, sandbox_id)
            self._changes.announce(sandbox_id)

    async def _take_back(self, db: AsyncConnection, sandbox_id: str) -> None:
        """Clear the error that the row has of a step that has now succeeded."""
        if (trouble := self._troubles.pop(sandbox_id, None)) is not None:
            await sandboxes.change_error(db, sandbox_id, old=trouble, new=None)

    async def _settle(self, sandbox_id: str) -> None:
        while True:
            sandbox = await self._read(sandbox_id)
            if sandbox is None:
                return
            if sandbox.id in self._to_probe and await self._look_at(sandbox):
                continue
            step = self._next_step(sandbox)
            if isinstance(step, Nothing):
                await self._name(sandbox)
                self._changes.announce(sandbox_id)  # wake those who wait for a target that was changed back
                return
            await self._take(sandbox, step)
            self._defects.discard(sandbox_id)
            self._changes.announce(sandbox_id)

    async def _look_at(self, sandbox: SandboxRecord) -> bool:
        """Probe the session and correct its row; returns whether the row has changed.

        Only a Ship that cannot be reached at all is given up. One that is slow may be at work.
        """
        try:
            session = sandbox.session
            if session is None or session.phase != "running":
                return False
            return await self._mend(sandbox, session)
        finally:
            self._to_probe.discard(sandbox.id)

    async def _mend(self, sandbox: SandboxRecord, session: SessionRecord) -> bool:
        handle = handle_of(session)
        observed = await self._driver.observe(handle)
        if isinstance(observed, Exited | Gone):
            self._exited.add(session.id)
        elif isinstance(observed, Paused):
            log.warning("session.thawed", id=session.id)  # another call froze it
            await freezer(self._driver).resume(handle)
        elif await self._ends_within(_DYING_S, handle):
            await self._begin_to_end(sandbox, session, "exited")
            return True
        elif not self._is_reachable(session):
            reason = "exited" if await self._ends_within(_LONG_DYING_S, handle) else "unreachable"
            await self._begin_to_end(sandbox, session, reason)
            return True
        return False

    async def _ends_within(self, seconds: float, handle: Handle) -> bool:
        """Whether its first process is ending.

        The kernel breaks its connections a moment before it reports the end.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._driver.wait(handle)
        except (TimeoutError, DriverUnavailable, OSError):  # not to know is no end
            return False
        return True

    def _is_reachable(self, session: SessionRecord) -> bool:
        peer = peer_of(session)
        return peer is not None and self._ship.can_connect(peer)

    async def _read(self, sandbox_id: str) -> SandboxRecord | None:
        async with self._store.read() as db:
            return await sandboxes.get(db, sandbox_id)

    def _next_step(self, sandbox: SandboxRecord) -> Step:
        exited = sandbox.session is not None and sandbox.session.id in self._exited
        return lifecycle.next_step(sandbox, self._clock(), exited=exited, retention=self._retention)

    async def _take(self, sandbox: SandboxRecord, step: Step) -> None:
        match step:
            case Begin():
                session = await self._starter.new_session(sandbox)
                self._changes.announce(sandbox.id)
                await self._start(sandbox, session)
            case ResumeStart(session) if sandbox.id in self._defects:
                await self._give_up(sandbox, session, _defect("the start"))
            case ResumeStart(session):
                await self._start(sandbox, session, again=True)
            case ApplyNetworkPolicy(session):
                await self._hold_network(sandbox, session)
            case Pause(session):
                await self._pause(sandbox, session)
            case Resume(session):
                await self._resume(sandbox, session)
            case End(session, reason, graceful):
                await self._end(sandbox, session, reason, graceful=graceful)
            case TakeCheckpoint(checkpoint_id) if sandbox.id in self._defects:
                await self._storage_steps.give_up_checkpoint(
                    sandbox, checkpoint_id, _defect("the checkpoint")
                )
            case TakeCheckpoint(checkpoint_id):
                await self._storage_steps.take(sandbox, checkpoint_id)
            case Restore() if sandbox.id in self._defects:
                await self._storage_steps.give_up_restore(sandbox, _defect("the restore"))
            case Restore(checkpoint_id):
                await self._restore(sandbox, checkpoint_id)
            case AbandonStorage():
                await self._storage_steps.forgo(sandbox)
            case Remove():
                await self._remove(sandbox)
            case Nothing():
                pass

    async def _start(self, sandbox: SandboxRecord, session: SessionRecord, *, again: bool = False) -> None:
        """Start it, or go on with that `again`: then it is unknown how much of its network exists."""
        await self._syncer.expect(sandbox.id, session.id)
        try:
            handle = await self._starter.start(sandbox, session)
        except BayError as error:
            await self._give_up(sandbox, session, error)
            return
        if handle is None:
            return
        peer = peer_of(replace(session, handle=handle.to_json()))
        if peer is not None:
            await self._syncer.begin(peer)
        async with self._store.write() as db:
            now = self._clock()
            held = {"network_version": None} if again else {}
            await sessions.change(db, session.id, phase="running", started_at=now, **held)
            await sandboxes.change(db, sandbox.id, error=None)
            await cargos.change(db, sandbox.cargo_id, last_accessed_at=now)
            await events.add(db, sandbox, "sandbox.ready", self._clock(), session_id=session.id)
        self._hostnames[session.id] = lifecycle.hostname_of(sandbox)
        log.info("sandbox.started", id=sandbox.id, session=session.id, driver=self._driver.name)
        self._watch(sandbox.id, handle)
        if peer is not None:
            self._feeds.follow(sandbox.id, peer)

    async def _name(self, sandbox: SandboxRecord) -> None:
        """Set the session's host name to the sandbox's, which was renamed, or just claimed from the pool."""
        session, wanted = sandbox.session, lifecycle.hostname_of(sandbox)
        if session is None or session.phase not in ("running", "paused"):
            return
        if not isinstance(self._driver, Hostnames) or self._hostnames.get(session.id) == wanted:
            return
        try:
            await self._driver.set_hostname(handle_of(session), wanted)
        except BayError as error:  # nothing depends on it
            log.warning("session.not_named", id=session.id, error=error.message)
        self._hostnames[session.id] = wanted

    async def _give_up(self, sandbox: SandboxRecord, session: SessionRecord, error: BayError) -> None:
        """The start failed: write why into the row, which ends all waits; its remains are ended next."""
        failure = Failure(code=error.code, message=error.message, at=self._clock())
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason="failed")
            await sandboxes.change_target(db, sandbox.id, old=HAVING, new="stopped", error=failure)
            await events.add(
                db, sandbox, "sandbox.failed", failure.at, code=error.code, message=error.message
            )
        log.warning("sandbox.failed", id=sandbox.id, session=session.id, code=error.code, error=error.message)

    async def _hold_network(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Apply the row's present policy to the session; a policy written meanwhile comes next."""
        async with self._store.read() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            profile = self._profiles.get(present.profile)
            policy = await policy_of(db, present, profile, self._driver.capabilities.network)
        if isinstance(self._driver, NetworkControl):
            await self._driver.set_network(handle_of(session), policy)
        async with self._store.write() as db:
            await sessions.change(db, session.id, network_version=present.network_version)
        log.info("network.held", id=sandbox.id, session=session.id, mode=policy.mode, rules=len(policy.rules))

    async def _pause(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Freeze it, unless a call is under way.

        Its owner's word counts more than one that only follows output.

        The row first: a call that comes from here on reads that it must be thawed, and one that came before
        is seen.
        """
        now = self._clock()
        async with self._store.write() as db:
            until = expiry(now, sandbox.warm_timeout)
            if not await sandboxes.begin_warm(db, sandbox.id, until):
                return  # it was wanted again meanwhile
            await sessions.change(db, session.id, phase="paused")
        if self._holds.any(sandbox.id, followers=lifecycle.is_idled(sandbox, now)):
            await self._unpause(sandbox, session)
            return
        await self._learn_meta(session)
        try:
            await freezer(self._driver).pause(handle_of(session))
            self._syncer.froze(session.id)
            self._feeds.froze(session.id)
        except BayError as error:
            log.warning("sandbox.not_paused", id=sandbox.id, code=error.code, error=error.message)
            self._to_probe.add(sandbox.id)
            await self._unpause(sandbox, session)
            return
        async with self._store.write() as db:
            await events.add(db, sandbox, "sandbox.paused", now, session_id=session.id)
        log.info("sandbox.paused", id=sandbox.id, session=session.id)

    async def _learn_meta(self, session: SessionRecord) -> None:
        """Ask Ship for its description, if it was not asked yet: a frozen one cannot answer."""
        if (peer := peer_of(session)) is None or self._ship.last_meta(session.id) is not None:
            return
        try:
            await self._ship.meta(peer)
        except BayError as error:
            log.info("session.silent", id=session.id, error=str(error))

    async def _unpause(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """It was not frozen after all: it runs, and its idle clock starts again."""
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="running")
            await sandboxes.change_target(
                db, sandbox.id, old=("paused",), new="running",
                idle_expires_at=expiry(self._clock(), sandbox.idle_timeout), warm_expires_at=None,
            )  # fmt: skip

    async def _resume(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        try:
            await freezer(self._driver).resume(handle_of(session))
        except BayError as error:
            log.warning("session.not_resumed", id=session.id, code=error.code, error=error.message)
            await self._begin_to_end(sandbox, session, "unreachable")
            return
        self._syncer.thawed(session.id)
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="running")
            await events.add(db, sandbox, "sandbox.resumed", self._clock(), session_id=session.id)
        self._feeds.thawed(session.id)

    async def _end(
        self, sandbox: SandboxRecord, session: SessionRecord, reason: str, *, graceful: bool
    ) -> None:
        """Take a session down and write down that it is over, with the fate of its execs."""
        if lifecycle.is_idled(sandbox, self._clock()) and self._holds.any(sandbox.id):
            await self._begin_again(sandbox)
            return
        await self._end_now(sandbox, session, reason, graceful=graceful)

    async def _end_now(
        self, sandbox: SandboxRecord, session: SessionRecord, reason: str, *, graceful: bool
    ) -> None:
        await self._unwatch(session.id)
        await self._syncer.end(session.id)
        await self._begin_to_end(sandbox, session, reason)
        ending = self._ending_again if sandbox.id in self._attempts else self._ending
        async with ending.take(sandbox.owner):
            finals = await self._take_down(session, graceful=graceful)
        await self._deferred.flush()  # collect the known ends of its execs, before the rest become lost
        async with self._store.write() as db:
            for item in finals:
                await execs.save(db, session.id, item)
            await self._close_session(db, session, reason)
            await sandboxes.stop_clocks(db, sandbox.id)
            await self._take_back(db, sandbox.id)
            await events.add(
                db, sandbox, "sandbox.stopped", self._clock(), session_id=session.id, reason=reason
            )
            if reason == "stopped":
                await checkpoint_policy.before_stop(db, sandbox.id, self._clock())
        self._exited.discard(session.id)
        self._hostnames.pop(session.id, None)
        log.info("sandbox.stopped", id=sandbox.id, session=session.id, reason=reason)

    async def _restore(self, sandbox: SandboxRecord, checkpoint_id: str) -> None:
        """Put a checkpoint back. Its copy is made first: when that fails, what runs has not been touched."""
        if not await self._storage_steps.prepare_restore(sandbox, checkpoint_id):
            return
        if sandbox.session is not None:
            await self._end_now(sandbox, sandbox.session, "restored", graceful=False)
        await self._storage_steps.restore(sandbox, checkpoint_id)

    async def _begin_again(self, sandbox: SandboxRecord) -> None:
        """A call came just before its idle sandbox was taken: let it be, and start its clock again."""
        async with self._store.write() as db:
            later = expiry(self._clock(), sandbox.idle_timeout)
            await sandboxes.change_target(
                db, sandbox.id, old=("stopped",), new="running", idle_expires_at=later
            )

    async def _take_down(self, session: SessionRecord, *, graceful: bool) -> list[Exec]:
        handle = handle_of(session)
        finals: list[Exec] = []
        if graceful:
            if session.phase == "paused":
                await freezer(self._driver).resume(handle)  # so that it can say its last words
            finals = await self._final_execs(session)
            await self._driver.stop(handle, self._stop_grace_s)
        await self._driver.destroy(handle)
        return finals

    async def _begin_to_end(self, sandbox: SandboxRecord, session: SessionRecord, reason: str) -> None:
        """No call may be sent to it from here on, also when the sandbox is wanted again before it has ended.

        A session that ended by itself is not started again by itself, but by the next call, which may come at
        once.
        """
        if session.phase == "ending":
            return
        async with self._store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason=reason)
            if reason in _LOST:
                failure = Failure(code=f"session_{reason}", message=_LOST[reason], at=self._clock())
                await sandboxes.change_target(db, sandbox.id, old=HAVING, new="stopped", error=failure)
                await events.add(
                    db, sandbox, f"sandbox.{reason}", self._clock(), session_id=session.id, message=failure.message
                )  # fmt: skip
        self._changes.announce(sandbox.id)

    async def _final_execs(self, session: SessionRecord) -> list[Exec]:
        """Collect the execs' ends that Ship knows and Bay has not read yet; best effort."""
        peer = peer_of(session)
        if peer is None:
            return []
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                return [item for item in await self._ship.list_execs(peer) if item.state != "running"]
        except (BayError, TimeoutError) as error:
            log.info("session.silent", id=session.id, error=str(error))
            return []

    async def _close_session(self, db: AsyncConnection, session: SessionRecord, reason: str) -> None:
        now = self._clock()
        await sessions.change(db, session.id, phase="ended", ended_at=now, end_reason=reason)
        await execs.lose_running(db, session.id, now)
        self._ship.forget(session.id)

    async def _remove(self, sandbox: SandboxRecord) -> None:
        """Write first that its cargo goes, so that no sandbox gets it.

        Its own row goes last, so that a step is left to do.
        """
        now = self._clock()
        async with self._store.write() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            cargo = await cargos.get(db, present.cargo_id)
            managed = cargo.managed_by_sandbox_id == sandbox.id
            if managed:
                await cargos.change(db, cargo.id, deleted_at=now)
        if managed:
            await self._cargo.remove(cargo.id)
        now = self._clock()
        async with self._store.write() as db:
            await sandboxes.change(db, sandbox.id, deleted_at=now, env={})
            await execs.remove_all(db, sandbox.id)
            await checkpoints.hide_all(db, sandbox.id, now)
            await networks.remove(db, sandbox.id)
            await services.remove_all(db, sandbox.id)
            await events.add(db, sandbox, "sandbox.deleted", now)
        self._storage_steps.discard()
        log.info("sandbox.deleted", id=sandbox.id)

    def _watch(self, sandbox_id: str, handle: Handle) -> None:
        """Notice at once when the session's first process ends."""
        self._watches[handle.session_id] = self._group.create_task(self._wait_for_end(sandbox_id, handle))

    async def _unwatch(self, session_id: str) -> None:
        await self._feeds.end(session_id)
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
            except (DriverUnavailable, OSError) as error:  # such as: no descriptor is left to watch with
                log.warning("session.unknown", id=handle.session_id, error=str(error))
            await asyncio.sleep(_WATCH_RETRY_S)


class _ProbePatience:
    """The backoff of probes for sessions that keep calls waiting, as a long command may."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}
        """When each is looked at next (monotonic), and how long it was let be before."""

    def worn_out(self, waiting: list[str]) -> list[str]:
        """Those of `waiting` whose turn has come; those that wait no longer are dropped."""
        now = time.monotonic()
        self._until = {one: self._until.get(one, (now, _SUSPICIOUS_S / 2)) for one in waiting}
        due = [one for one, (at, _) in self._until.items() if at <= now]
        for one in due:
            wait_s = min(2 * self._until[one][1], _LONGEST_LOOK_S)
            self._until[one] = (now + wait_s, wait_s)
        return due


def _defect(what: str) -> InternalError:
    return InternalError(f"{what} failed on a defect in Bay; see its log")
