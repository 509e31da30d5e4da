"""The reconciler makes the host agree with the rows: it alone starts, stops and removes anything.

Requests write what they want and put the sandbox's id into the queue. A worker takes it, does the one step
that `lifecycle.next_step` names, writes down what came of it, and looks again until nothing is left to do.
The queue never hands out one id twice at once, so no lock is held for a sandbox.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog

from bay.backoff import Backoff
from bay.clock import expiry
from bay.drivers.base import (
    Exited,
    Gone,
    Handle,
    Hibernated,
    Hibernates,
    Hostnames,
    NetworkControl,
    Paused,
    ShipSilent,
    Watchful,
    freezer,
)
from bay.errors import BayError, DriverUnavailable, InternalError
from bay.meters import known_label
from bay.models import Exec, Failure
from bay.server.checkpoints import policy as checkpoint_policy
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.reconciler.live_sessions import LiveSessions
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.starter import Starter
from bay.server.reconciler.step_meter import END_REASONS, measured
from bay.server.reconciler.sweep import rest
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases, shard_of
from bay.server.sandboxes.resizing import Resizing
from bay.server.sessions import lifecycle
from bay.server.sessions.core import Core
from bay.server.sessions.effective_policy import policy_of
from bay.server.sessions.lifecycle import (
    AbandonStorage,
    ApplyNetworkPolicy,
    ApplySizes,
    Begin,
    End,
    Hibernate,
    Nothing,
    Pause,
    Remove,
    Restore,
    Resume,
    ResumeStart,
    Step,
    TakeCheckpoint,
    WakeUp,
)
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.rows import handle_of, peer_of
from bay.server.sessions.shares import Shares
from bay.server.sessions.waker import Holds
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.client import ShipClient
from bay.store import cargos, checkpoints, events, execs, networks, samples, sandboxes, services, sessions
from bay.store.connection import StoreConnection
from bay.store.fences import LeaseLost
from bay.store.records import KEEPING, SandboxRecord, SessionRecord

log = structlog.get_logger("bay.reconcile")

_BACKOFF = Backoff(1.0, 60.0)
_LAST_WORDS_S = 2.0
_KILLED_S = 2.0  # a process that was killed and has not ended by then hangs in the kernel
_DYING_S, _LONG_DYING_S = 0.3, 1.0
_SUSPICIOUS_S = 2.0  # a call that takes longer makes us look whether its sandbox is still there
_LONGEST_LOOK_S = 16.0
_LEFT_S = 60.0
_SILENT_S = 15.0  # longer than a replica counts that was killed
_SILENT_LOOK_S = 0.5
_PROBE, _PROBED, _LEFT, _OVER = "probe", "probed", "left", "over"


_LOST = {
    "exited": "its container ended by itself; the files are kept, and the next call starts it again",
    "unreachable": "its runtime could not be reached and was ended; the files are kept, and the next call starts it again",
}
"""Why a session ended without a request for it, as the owner reads it."""


class Reconciler:
    """Works the queue until it is cancelled; sessions keep running then.
    `places` is how many sessions it ends at once, `retention` how long an expired sandbox stays.
    """

    _group: asyncio.TaskGroup
    """Parent of the workers and the watches, while `run` runs."""

    def __init__(
        self,
        core: Core,
        *,
        queue: WorkQueue,
        starter: Starter,
        live: LiveSessions,
        orphans: Orphans,
        storage_steps: StorageSteps,
        resizing: Resizing,
        ship: ShipClient,
        holds: Holds,
        leases: ReplicaLeases,
        bus: Bus,
        notifier: Notifier,
        places: int,
        stop_grace_s: float,
        retention: timedelta,
    ) -> None:
        self.queue = queue
        self.orphans = orphans
        self._core = core
        self._starter = starter
        self._live = live
        self._storage_steps = storage_steps
        storage_steps.request_probe = self.request_probe
        self._resizing = resizing
        self._ship = ship
        self._holds = holds
        self._leases = leases
        self._bus = bus
        bus.answer(_PROBED, self._probed_here)
        bus.answer(_LEFT, self._left_here)
        bus.hear(_PROBE, self._hear_probes)
        bus.hear(_OVER, self._hear_ended)
        self._notifier = notifier
        # Ends wait for ends only: a delete never queues behind a hundred starts. Those that were tried in
        # vain wait for one another, and no owner keeps the others waiting. Nothing else is held while a turn
        # is waited for.
        longest_s = stop_grace_s + _KILLED_S
        self._ending = Shares(places, places // 2, longest_s)
        self._ending_again = Shares(places, places // 2, longest_s)
        self._stop_grace_s = stop_grace_s
        self._retention = retention
        self._defects: set[str] = set()
        """Sandboxes of which a step failed on a defect: a start is then given up, not retried for ever."""
        self._attempts: dict[str, int] = {}
        """How often in a row a sandbox's next step has failed."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """When each of them is looked at again."""
        self._troubles: dict[str, Failure] = {}
        """The failure as the rows of such sandboxes report it."""
        self._to_probe: set[str] = set()
        """Sandboxes of which a call failed: they are probed before any other step."""
        self._patience = _ProbePatience()

    def request_probe(self, sandbox_id: str) -> None:
        """A call to the sandbox failed or takes long: see whether it is still there."""
        if not self._leases.owns(sandbox_id):
            self._bus.tell(_PROBE, [sandbox_id])
            return
        self._to_probe.add(sandbox_id)
        self.queue.put(sandbox_id)

    def _hear_probes(self, sandbox_ids: list[str]) -> None:
        for sandbox_id in filter(self._leases.owns, sandbox_ids):
            self.request_probe(sandbox_id)

    def _hear_ended(self, session_ids: list[str]) -> None:
        """Sessions that another replica has ended: calls of this one may have left connections to them."""
        for session_id in session_ids:
            self._ship.forget(session_id)

    @property
    def retrying(self) -> int:
        """How many sandboxes are looked at again later, since a step of theirs has failed."""
        return len(self._timers)

    async def settle_probe(self, sandbox_id: str) -> None:
        """The same, and return once it was probed, within a bound, so that a retry meets the true state."""
        await self._leases.ask_owner(sandbox_id, _PROBED, within_s=_SUSPICIOUS_S)

    async def _probed_here(self, sandbox_id: str) -> bool:
        await self._settle_probe_here(sandbox_id)
        return True

    async def acted_on(self, sandbox_id: str) -> None:
        """Return when the present work on the sandbox, if there is any, is over."""
        await self._leases.ask_owner(sandbox_id, _LEFT, within_s=_LEFT_S)

    async def _left_here(self, sandbox_id: str) -> bool:
        await self.queue.left(sandbox_id)
        return True

    async def _settle_probe_here(self, sandbox_id: str) -> None:
        self.request_probe(sandbox_id)

        async def is_settled() -> bool | None:
            return None if sandbox_id in self._to_probe else True

        await self._notifier.wait_for(sandbox_id, is_settled, _SUSPICIOUS_S)

    async def look_after(self) -> None:
        """Once a second: request a probe of each session that keeps calls waiting, and close idle
        connections.
        """
        self._ship.close_stale()
        for session_id in self._patience.worn_out(self._ship.long_busy(_SUSPICIOUS_S)):
            async with self._core.store.read() as db:
                sandbox_id = await sessions.sandbox_of(db, session_id)
            if sandbox_id is not None:
                self.request_probe(sandbox_id)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._live.watch_adopted(self._group)
            self._group.create_task(self._work())
            self._group.create_task(self.orphans.run())

    async def take_over(self) -> None:
        """Adopt running sessions, poke the sandboxes with a step to do, remove orphans; comes before `run`.
        Of replicas each does it with the shards that it gets. Raises DriverUnavailable when what the driver
        owns cannot be known.
        """
        found, changed = await self._adopt_all(self._leases.owns)
        for sandbox in found:
            if sandbox.id in changed or self._has_step(sandbox):
                self.queue.put(sandbox.id)
        orphans = await self.orphans.remove_all()
        phases = [sandbox.phase for sandbox in found]
        log.info(
            "bay.took_over", sandboxes=len(found), adopted=self._live.adopted(), starts_to_finish=phases.count("starting"),
            ends_to_finish=phases.count("ending"), orphans_removed=orphans, orphans_left=len(self.orphans),
        )  # fmt: skip

    async def take(self, shards: Sequence[str]) -> None:
        """Adopt the running sessions of shards that this replica has got."""
        found, _ = await self._adopt_all(lambda sandbox_id: shard_of(sandbox_id) in shards)
        log.info("shards.taken", shards=list(shards), sandboxes=len(found))

    async def recheck(self, shards: Sequence[str]) -> None:
        """Poke the sandboxes of these shards with a step to do: pokes of theirs may have been missed."""
        async with self._core.store.read() as db:
            found = await sandboxes.unsettled(db)
        for sandbox in found:
            if shard_of(sandbox.id) in shards and self._has_step(sandbox):
                self.queue.put(sandbox.id)
        self._live.syncer.tell_all_later()

    async def rest(self, shards: Sequence[str]) -> None:
        """Return once nothing is done to the sandboxes of these shards; nothing new begins."""
        for sandbox_id in self.queue.working():
            if shard_of(sandbox_id) in shards:
                await self.queue.left(sandbox_id)

    async def drop(self, shards: Sequence[str]) -> None:
        """Forget the sandboxes of these shards, which another replica looks after."""

        def is_dropped(sandbox_id: str) -> bool:
            return shard_of(sandbox_id) in shards

        await self._live.drop(is_dropped)
        for known in (self._defects, self._to_probe):
            known.difference_update(list(filter(is_dropped, known)))
        for by_id in (self._attempts, self._troubles):
            for sandbox_id in list(filter(is_dropped, by_id)):
                del by_id[sandbox_id]
        for sandbox_id in list(filter(is_dropped, self._timers)):
            self._timers.pop(sandbox_id).cancel()

    def _has_step(self, sandbox: SandboxRecord) -> bool:
        """Whether the row asks for a step, or its session may have to be named. To put thousands into the
        queue that need none would read each row again.
        """
        exited = sandbox.session is not None and sandbox.session.id in self._live.exited
        step = lifecycle.next_step(sandbox, self._core.clock(), exited=exited, retention=self._retention)
        return not isinstance(step, Nothing) or isinstance(self._core.driver, Hostnames)

    async def _adopt_all(self, is_ours: Callable[[str], bool]) -> tuple[list[SandboxRecord], set[str]]:
        """The unsettled sandboxes as they were before, and the ids of those whose rows have changed."""
        async with self._core.store.read() as db:
            found = [sandbox for sandbox in await sandboxes.unsettled(db) if is_ours(sandbox.id)]
        now = self._core.clock()
        changed: set[str] = set()
        for sandbox in found:
            with self._leases.working_on(sandbox.id):
                if sandbox.session is None and sandbox.on_expiry == "pause" and sandbox.is_over(now):
                    await rest(
                        self._core, sandbox, now, "stopped"
                    )  # or it would be started, to be paused then
                    changed.add(sandbox.id)
                if await self._adopt(sandbox):
                    changed.add(sandbox.id)
        return found, changed

    async def _adopt(self, sandbox: SandboxRecord) -> bool:
        """Follow its session, if one runs; whether its row has changed."""
        session = sandbox.session
        if session is None or session.handle is None or session.phase in ("starting", "ending"):
            return False
        handle = Handle.from_json(session.handle)
        driver = self._core.driver
        # One that is to be paused is asked whether it is: a watch sees that its container runs.
        watchful = driver if isinstance(driver, Watchful) and session.phase == "running" else None
        known = watchful and watchful.running(handle)
        try:
            observed = known or await driver.observe(handle)
        except DriverUnavailable as error:
            # Unknown is not dead: the row stays, and the watch tells when it does end.
            log.warning("session.unknown", id=session.id, error=error.message)
            observed = None
        if isinstance(observed, Hibernated):
            return await self._adopt_hibernated(sandbox, session, observed.size)
        if observed is None and session.phase == "hibernated":
            return False
        if isinstance(observed, Exited | Gone):
            await self._begin_to_end(sandbox, session, "exited")
            return True
        frozen = session.phase == "paused" if observed is None else isinstance(observed, Paused)
        self._live.adopt(sandbox.id, handle, peer_of(session), frozen=frozen)
        # A Bay that died while it froze or thawed left the row saying one thing and the host another. The
        # host is right, and the next step brings it to what is wanted. The kernel still enforces the last
        # network policy; the parts of it that lived in the dead Bay are made again.
        mended: dict[str, Any] = {"phase": "paused" if frozen else "running"}
        if isinstance(driver, NetworkControl):
            mended["network_version"] = None
        if all(getattr(session, name) == value for name, value in mended.items()):
            return False
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, **mended)
        return True

    async def _adopt_hibernated(self, sandbox: SandboxRecord, session: SessionRecord, size: int) -> bool:
        """A Bay that died between the save and the row left the row behind the host."""
        if (session.phase, session.memory_bytes) == ("hibernated", size):
            return False
        async with self._core.store.write() as db:
            if session.phase == "hibernated":
                await sessions.change(db, session.id, memory_bytes=size)
            else:
                await self._write_hibernated(db, sandbox, session, size)
        return True

    async def _work(self) -> None:
        async with self.queue.take() as sandbox_id:
            self._group.create_task(self._work())  # another caller waits for the next one
            try:
                with (
                    self._leases.working_on(sandbox_id),
                    self._core.tracing.work("reconcile", sandbox_id, self.queue.cause(sandbox_id)),
                ):
                    await self._work_on(sandbox_id)
            except LeaseLost:
                # Another replica has the row. Something may have been begun on the host that it knows not of.
                log.warning("sandbox.left_to_another", sandbox=sandbox_id)
                self.orphans.look_again()

    async def _work_on(self, sandbox_id: str) -> None:
        try:
            await self._settle(sandbox_id)
            await self._forgive(sandbox_id)
        except LeaseLost:
            raise
        except BayError as error:
            await self._put_off(sandbox_id, error)
        except Exception:
            log.exception("sandbox.reconcile_failed", sandbox=sandbox_id)
            self._defects.add(sandbox_id)
            self._retry(sandbox_id)
            self._to_probe.discard(sandbox_id)

    async def _put_off(self, sandbox_id: str, error: BayError) -> None:
        """The host refused: retry with a backoff, and write the error into a row that has none."""
        wait_s = self._retry(sandbox_id)
        log.warning(
            "sandbox.step_failed", sandbox=sandbox_id, retry_in_s=wait_s, code=error.code, error=error.message
        )
        failure = Failure(code=error.code, message=error.message, at=self._core.clock())
        try:
            async with self._core.store.write() as db:
                if await sandboxes.change_error(db, sandbox_id, old=None, new=failure):
                    self._troubles[sandbox_id] = failure
        except LeaseLost:
            raise
        except Exception:
            log.exception(
                "sandbox.trouble_not_written", sandbox=sandbox_id
            )  # the disk may be full for this, too
        self._to_probe.discard(sandbox_id)  # now that the row says why a probe failed
        self._notifier.announce(sandbox_id)

    def _retry(self, sandbox_id: str) -> float:
        """Poke it again with a doubling backoff from one second. Returns the seconds."""
        attempts = self._attempts[sandbox_id] = self._attempts.get(sandbox_id, 0) + 1
        wait_s = _BACKOFF.pause(attempts)
        if (earlier := self._timers.pop(sandbox_id, None)) is not None:
            earlier.cancel()
        loop = asyncio.get_running_loop()
        self._timers[sandbox_id] = loop.call_later(
            wait_s, self.queue.put, sandbox_id, context=contextvars.Context()
        )
        return wait_s

    async def _forgive(self, sandbox_id: str) -> None:
        """Do the steps that were put off."""
        self._attempts.pop(sandbox_id, None)
        self._timers.pop(sandbox_id, None)
        if sandbox_id in self._troubles:
            async with self._core.store.write() as db:
                await self._take_back(db, sandbox_id)
            self._notifier.announce(sandbox_id)

    async def _take_back(self, db: StoreConnection, sandbox_id: str) -> None:
        """Clear the error that the row has of a step that has now succeeded."""
        if (trouble := self._troubles.pop(sandbox_id, None)) is not None:
            await sandboxes.change_error(db, sandbox_id, old=trouble, new=None)

    async def _settle(self, sandbox_id: str) -> None:
        while True:
            async with self._core.store.read() as db:
                sandbox = await sandboxes.get(db, sandbox_id)
            if sandbox is None:
                return
            self._leases.check(sandbox_id)
            # A probe that failed is made again with each attempt, and its error stays until then.
            is_doubted = sandbox.id in self._to_probe or sandbox.id in self._attempts
            if is_doubted and await self._look_at(sandbox):
                continue
            exited = sandbox.session is not None and sandbox.session.id in self._live.exited
            now = self._core.clock()
            step = lifecycle.next_step(sandbox, now, exited=exited, retention=self._retention)
            if isinstance(step, Nothing):
                await self._name(sandbox)
                self._notifier.announce(sandbox_id)  # wake those who wait for a target that was changed back
                return
            self._leases.check(sandbox_id)
            with measured(self._core, step, sandbox_id):
                await self._take(sandbox, step)
            self._defects.discard(sandbox_id)
            self._notifier.announce(sandbox_id)

    async def _look_at(self, sandbox: SandboxRecord) -> bool:
        """Probe the session and correct its row; returns whether the row has changed. A probe that fails is
        over once its error is written.
        """
        session = sandbox.session
        has_changed = False
        if session is not None and session.phase == "running":
            has_changed = await self._mend(sandbox, session)
        self._to_probe.discard(sandbox.id)
        return has_changed

    async def _mend(self, sandbox: SandboxRecord, session: SessionRecord) -> bool:
        """Only a Ship that cannot be reached at all is given up: one that is slow may be at work."""
        handle = handle_of(session)
        try:
            observed = await self._core.driver.observe(handle)
        except ShipSilent:
            observed = None  # it has not ended; whether it can be reached is seen next
        if isinstance(observed, Exited | Gone):
            self._live.exited.add(session.id)
        elif isinstance(observed, Paused):
            log.warning("session.thawed", id=session.id)  # another call froze it
            await freezer(self._core.driver).resume(handle)
        elif await self._ends_within(_DYING_S, handle):
            await self._begin_to_end(sandbox, session, "exited")
            return True
        elif (peer := peer_of(session)) is None or not await self._ship.can_connect(peer):
            reason = "exited" if await self._ends_within(_LONG_DYING_S, handle) else "unreachable"
            await self._begin_to_end(sandbox, session, reason)
            return True
        return False

    async def _ends_within(self, seconds: float, handle: Handle) -> bool:
        """Whether its first process is ending: its connections break a moment before the kernel says so."""
        try:
            async with asyncio.timeout(seconds):
                await self._core.driver.wait(handle)
        except (TimeoutError, DriverUnavailable, OSError):  # not to know is no end
            return False
        return True

    async def _take(self, sandbox: SandboxRecord, step: Step) -> None:
        match step:
            case Begin():
                await self._starter.begin(sandbox)
            case ResumeStart(session) if sandbox.id in self._defects:
                await self._starter.give_up(sandbox, session, _defect("the start"))
            case ResumeStart(session):
                await self._starter.resume(sandbox, session)
            case ApplyNetworkPolicy(session):
                await self._apply_network(sandbox, session)
            case ApplySizes(session):
                await self._resizing.apply(sandbox, session)
            case Pause(session):
                await self._pause(sandbox, session)
            case Resume(session):
                await self._resume(sandbox, session)
            case Hibernate(session):
                await self._hibernate(sandbox, session)
            case WakeUp(session):
                await self._wake_up(sandbox, session)
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

    async def _name(self, sandbox: SandboxRecord) -> None:
        """Set the session's host name to the sandbox's, which was renamed, or just claimed from the pool."""
        session, wanted = sandbox.session, lifecycle.hostname_of(sandbox)
        if session is None or session.phase not in ("running", "paused"):
            return
        if not isinstance(self._core.driver, Hostnames) or self._live.hostnames.get(session.id) == wanted:
            return
        try:
            await self._core.driver.set_hostname(handle_of(session), wanted)
        except BayError as error:  # nothing depends on it
            log.warning("session.not_named", id=session.id, error=error.message)
        self._live.hostnames[session.id] = wanted

    async def _apply_network(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Apply the row's present policy to the session; a policy written meanwhile comes next."""
        async with self._core.store.read() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            profile = self._core.profiles.get(present.profile)
            policy = await policy_of(db, present, profile, self._core.driver.capabilities)
        driver = self._core.driver
        if isinstance(driver, NetworkControl):
            await driver.set_network(handle_of(session), policy)
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, network_version=present.network_version)
        if isinstance(driver, NetworkControl):  # a session of another keeps what it began with
            log.info(
                "network.held",
                sandbox=sandbox.id,
                session=session.id,
                mode=policy.mode,
                rules=len(policy.rules),
            )

    async def _pause(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Freeze it, unless a call is under way; its owner's word counts more than a follower of output.
        The row first: a call from here on reads that it must be thawed, and one that came before is seen.
        """
        now = self._core.clock()
        async with self._core.store.write() as db:
            until = expiry(now, sandbox.warm_timeout)
            if not await sandboxes.begin_warm(db, sandbox.id, until):
                return  # it was wanted again meanwhile
            await sessions.change(db, session.id, phase="paused", memory_refused=None)
        is_idled = lifecycle.is_idled(sandbox, now)
        if await (self._holds.any(sandbox.id) if is_idled else self._is_called(sandbox)):
            await self._unpause(sandbox, session)
            return
        await self._learn_meta(session)
        try:
            await freezer(self._core.driver).pause(handle_of(session))
            self._live.froze(session.id)
        except BayError as error:
            log.warning("sandbox.not_paused", sandbox=sandbox.id, code=error.code, error=error.message)
            self._to_probe.add(sandbox.id)
            await self._unpause(sandbox, session)
            return
        async with self._core.store.write() as db:
            await sandboxes.end_lifetime(db, sandbox.id, now)
            await events.add(db, sandbox, "sandbox.paused", self._core.clock(), session_id=session.id)
        log.info("sandbox.paused", sandbox=sandbox.id, session=session.id)

    async def _is_called(self, sandbox: SandboxRecord) -> bool:
        """Whether a call that cannot wait is under way. While a replica says nothing that may have one, this
        waits until it answers or counts no more, or the sandbox is wanted again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _SILENT_S
        while True:
            found = await self._holds.any_caller(sandbox.id)
            if found is not None or loop.time() > until:
                return found is not False
            await asyncio.sleep(_SILENT_LOOK_S)
            async with self._core.store.read() as db:
                present = await sandboxes.get(db, sandbox.id)
            if present is None or present.target not in ("paused", "hibernated"):
                return True

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
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, phase="running")
            await sandboxes.change_target(
                db, sandbox.id, old=("paused", "hibernated"), new="running",
                idle_expires_at=expiry(self._core.clock(), sandbox.idle_timeout), warm_expires_at=None,
                paused_at=None,
            )  # fmt: skip

    async def _resume(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        handle = handle_of(session)
        try:
            await freezer(self._core.driver).resume(handle)
        except BayError as error:
            log.warning("session.not_resumed", id=session.id, code=error.code, error=error.message)
            with suppress(ShipSilent):
                await self._core.driver.observe(handle)  # raises where nothing is known: that is no end
            await self._begin_to_end(sandbox, session, "unreachable")
            return
        self._live.syncer.thawed(session.id)
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, phase="running")
            await events.add(db, sandbox, "sandbox.resumed", self._core.clock(), session_id=session.id)
        self._live.feeds.thawed(session.id)

    async def _hibernate(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Write its memory to disk. No call comes meanwhile: one that is made waits for the next step.
        Where that fails it stays frozen, or is stopped if the host wants its memory back.
        """
        driver, handle = self._core.driver, handle_of(session)
        if not isinstance(driver, Hibernates):  # a Bay with another driver took it over
            await self._not_hibernated(sandbox, session, "this host cannot save the memory of sandboxes")
            return
        await self._live.end(session.id)  # nobody follows a Ship that is to have no connection
        try:
            size = await driver.hibernate(handle, session.token)
        except BayError as error:
            saved = await self._saved(handle)
            log.warning("sandbox.not_hibernated", sandbox=sandbox.id, code=error.code, error=error.message)
            if saved is None:
                self._live.adopt(sandbox.id, handle, peer_of(session), frozen=True)
                await self._not_hibernated(sandbox, session, error.message)
                return
            size = saved.size  # remains of it on the host go with its next start or its end
        await self._core.deferred.settle()
        async with self._core.store.write() as db:
            await self._write_hibernated(db, sandbox, session, size)
        self._live.forget(session.id)
        self._bus.tell(_OVER, [session.id])
        log.info("sandbox.hibernated", sandbox=sandbox.id, session=session.id, bytes=size)

    async def _write_hibernated(
        self, db: StoreConnection, sandbox: SandboxRecord, session: SessionRecord, size: int
    ) -> None:
        await sessions.change(
            db, session.id, phase="hibernated", memory_bytes=size, memory_refused=None, network_version=None
        )  # fmt: skip
        self._ship.forget(session.id)
        await sandboxes.stop_clocks(db, sandbox.id)
        now = self._core.clock()
        await sandboxes.end_lifetime(db, sandbox.id, now)
        await events.add(db, sandbox, "sandbox.hibernated", now, session_id=session.id, bytes=size)

    async def _saved(self, handle: Handle) -> Hibernated | None:
        try:
            observed = await self._core.driver.observe(handle)
        except BayError:  # unknown is not gone: it stays frozen in its row, and is looked at again
            return None
        return observed if isinstance(observed, Hibernated) else None

    async def _not_hibernated(self, sandbox: SandboxRecord, session: SessionRecord, reason: str) -> None:
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, memory_refused=reason)
            await sandboxes.change_target(db, sandbox.id, old=("hibernated",), new="paused")
            await events.add(
                db, sandbox, "sandbox.not_hibernated", self._core.clock(), session_id=session.id, message=reason
            )  # fmt: skip

    async def _wake_up(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """The start of a session that hibernates is one from its memory: the next step."""
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, phase="starting")
            await events.add(db, sandbox, "sandbox.starting", self._core.clock(), session_id=session.id)
        self._notifier.announce(sandbox.id)

    async def _end(
        self, sandbox: SandboxRecord, session: SessionRecord, reason: str, *, graceful: bool
    ) -> None:
        """Take a session down and write down that it is over, with the fate of its execs."""
        if lifecycle.is_idled(sandbox, self._core.clock()) and await self._holds.any(sandbox.id):
            # A call came just before its idle sandbox was taken: let it be, and start its clock again.
            async with self._core.store.write() as db:
                until = expiry(self._core.clock(), sandbox.idle_timeout)
                await sandboxes.change_target(
                    db, sandbox.id, old=("stopped",), new="running", idle_expires_at=until, paused_at=None
                )
            return
        await self._end_now(sandbox, session, reason, graceful=graceful)

    async def _end_now(
        self, sandbox: SandboxRecord, session: SessionRecord, reason: str, *, graceful: bool
    ) -> None:
        await self._live.end(session.id)
        await self._begin_to_end(sandbox, session, reason)
        ending = self._ending_again if sandbox.id in self._attempts else self._ending
        async with ending.take(sandbox.owner):
            finals = await self._take_down(session, graceful=graceful)
        await self._core.deferred.settle()  # collect the known ends of its execs, before the rest become lost
        async with self._core.store.write() as db:
            for item in finals:
                await execs.save(db, session.id, item)
            now = self._core.clock()
            await sessions.change(db, session.id, phase="ended", ended_at=now, end_reason=reason)
            await execs.lose_running(db, session.id, now)
            self._ship.forget(session.id)
            await sandboxes.stop_clocks(db, sandbox.id)
            await sandboxes.end_lifetime(db, sandbox.id, now)
            await self._take_back(db, sandbox.id)
            if (
                session.handle is not None
            ):  # else nothing of it has begun, and its memory is as good as before
                await _forgo_memory(db, sandbox.id, session.id, now)
            await events.add(db, sandbox, "sandbox.stopped", now, session_id=session.id, reason=reason)
            db.tally(lambda meters: meters.session_ends.labels(known_label(reason, END_REASONS)).inc())
            if reason == "stopped":
                await checkpoint_policy.before_stop(db, sandbox.id, now)
        if sandbox.memory_id is not None:
            self._storage_steps.discard()
        self._live.forget(session.id)
        self._bus.tell(_OVER, [session.id])
        log.info("sandbox.stopped", sandbox=sandbox.id, session=session.id, reason=reason)

    async def _restore(self, sandbox: SandboxRecord, checkpoint_id: str) -> None:
        """Put a checkpoint back. Its copy is made first: when that fails, what runs has not been touched."""
        if not await self._storage_steps.prepare_restore(sandbox, checkpoint_id):
            return
        if sandbox.session is not None:
            await self._end_now(sandbox, sandbox.session, "restored", graceful=False)
        await self._storage_steps.restore(sandbox, checkpoint_id)

    async def _take_down(self, session: SessionRecord, *, graceful: bool) -> list[Exec]:
        handle = handle_of(session)
        finals: list[Exec] = []
        if graceful:
            if session.phase == "paused":
                await freezer(self._core.driver).resume(handle)  # so that it can say its last words
            finals = await self._final_execs(session)
            await self._core.driver.stop(handle, self._stop_grace_s)
        await self._core.driver.destroy(handle)
        return finals

    async def _begin_to_end(self, sandbox: SandboxRecord, session: SessionRecord, reason: str) -> None:
        """No call may be sent to it from here on, also when the sandbox is wanted again before it has ended.
        One that ended by itself is started again by the next call only, which may come at once.
        """
        if session.phase == "ending":
            return
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason=reason)
            if reason in _LOST:
                failure = Failure(code=f"session_{reason}", message=_LOST[reason], at=self._core.clock())
                await sandboxes.change_target(db, sandbox.id, old=KEEPING, new="stopped", error=failure)
                await events.add(
                    db, sandbox, f"sandbox.{reason}", self._core.clock(), session_id=session.id, message=failure.message
                )  # fmt: skip
        self._notifier.announce(sandbox.id)

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

    async def _remove(self, sandbox: SandboxRecord) -> None:
        """Its cargo's row goes first, so that no sandbox gets it; its own last, so that a step is left."""
        now = self._core.clock()
        async with self._core.store.write() as db:
            cargo_id = await cargos.drop_managed(db, sandbox.id, now)
        if cargo_id is not None:
            await self._core.cargo.remove(cargo_id)
        now = self._core.clock()
        async with self._core.store.write() as db:
            await sandboxes.change(db, sandbox.id, deleted_at=now, env={})
            await execs.remove_all(db, sandbox.id)
            await checkpoints.hide_all(db, sandbox.id, now)
            await networks.remove(db, sandbox.id)
            await services.remove_all(db, sandbox.id)
            await samples.remove_all(db, sandbox.id)
            await events.add(db, sandbox, "sandbox.deleted", now)
        self._storage_steps.discard()
        log.info("sandbox.deleted", sandbox=sandbox.id)


async def _forgo_memory(db: StoreConnection, sandbox_id: str, session_id: str, now: datetime) -> None:
    """A session that ended before it ran may have used the memory that it began with, and it is used once."""
    present = await sandboxes.get(db, sandbox_id)
    if present is None or present.memory_id is None:
        return
    await sandboxes.change(db, sandbox_id, memory_id=None)
    reason = "its start ended before it ran; restore the checkpoint again to have its memory"
    await events.add(db, present, "sandbox.memory_lost", now, session_id=session_id, message=reason)


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
