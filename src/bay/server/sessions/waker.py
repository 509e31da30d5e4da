"""The waker resolves a caller's reference to a sandbox that answers now, and starts it if it must."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog

from bay.clock import Clock
from bay.errors import (
    BayError,
    CapabilityNotSupported,
    DriverUnavailable,
    NotFound,
    SandboxExpired,
    SandboxNotReady,
    ShipError,
    Timeout,
)
from bay.models import Capability, Profile
from bay.server.replicas.bus import Bus
from bay.server.sessions.effective_policy import has_headers
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.rows import SandboxRows, peer_of, proxy_of
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.store import audit, sandboxes
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HAVING, SandboxRecord
from bay.tracing import Tracing, about

T = TypeVar("T")

log = structlog.get_logger("bay.waker")

_RETRY_AFTER_MS = 1000
_TOUCH = 0.05  # of the idle timeout
_TOUCH_S = 30.0  # without one
_HELD, _CALLED = "held", "called"


@dataclass(frozen=True, slots=True)
class Awake:
    """A running sandbox and the Ship that answers for it."""

    sandbox: SandboxRecord
    profile: Profile
    peer: Peer
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The variables that hold secrets, or lead to them, as they are now."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command, from the profile and the create."""
        return {**self.profile.env, **self.sandbox.env, **self.secrets}


class Holds:
    """Counts of calls under way, by the id of the sandbox or checkpoint that they hold.
    docs/garbage-collection.md has them among the reasons for which something is kept. A call takes its hold
    first and reads the row after that; a collector writes the row first and looks for holds after that, in
    all replicas. So one of the two sees the other. A follower's hold (output, a watch, a tunnel)
    keeps a sandbox from idling, and yields to its owner's pause.
    """

    def __init__(self, bus: Bus, deferred: DeferredWrites) -> None:
        self._deferred = deferred
        self._callers: Counter[str] = Counter()
        self._followers: Counter[str] = Counter()
        self._bus = bus
        bus.answer(_HELD, self._is_held)
        bus.answer(_CALLED, self._is_called)

    async def _is_held(self, held_id: str) -> bool:
        return await self._answer(self.any_here(held_id))

    async def _is_called(self, held_id: str) -> bool:
        return await self._answer(self.any_here(held_id, followers=False))

    async def _answer(self, is_held: bool) -> bool:
        if not is_held:
            # A call that has just ended pushed the idle clock, and who asks reads that next.
            try:
                await self._deferred.flush()
            except BayError as error:
                log.warning("holds.unknown", error=error.message)
                return True  # unknown is not idle, and who asks may have written half of what it does
        return is_held

    @contextmanager
    def hold(self, held_id: str, *, follower: bool = False) -> Generator[None]:
        """Keep what has that id from being collected until the block is left."""
        counts = self._followers if follower else self._callers
        counts[held_id] += 1
        try:
            yield
        finally:
            counts[held_id] -= 1
            if not counts[held_id]:
                del counts[held_id]

    def any_here(self, held_id: str, *, followers: bool = True) -> bool:
        """Whether a call to this replica holds that id; `followers` as in `any`."""
        return held_id in self._callers or (followers and held_id in self._followers)

    async def any(self, held_id: str, *, followers: bool = True) -> bool:
        """Whether a call holds that id; without `followers` only those that an owner's pause waits for.
        A replica that does not answer may hold it.
        """
        return await self._bus.any(_HELD if followers else _CALLED, held_id)

    async def any_caller(self, held_id: str) -> bool | None:
        """The same without `followers`, but None while that depends on a replica that does not answer."""
        return await self._bus.whether(_CALLED, held_id)


class Waker:
    """Finds sandboxes for their owners and wakes them for the calls that need compute."""

    def __init__(
        self,
        *,
        store: Store,
        rows: SandboxRows,
        deferred: DeferredWrites,
        queue: WorkQueue,
        holds: Holds,
        settle_probe: Callable[[str], Awaitable[None]],
        acted_on: Callable[[str], Awaitable[None]],
        changes: Notifier,
        bring_secrets: Callable[[SandboxRecord, Peer], Awaitable[Mapping[str, str]]],
        quotas: Quotas,
        profiles: dict[str, Profile],
        clock: Clock,
        start_timeout_s: float,
        tracing: Tracing,
        waits_for_copies: bool = False,
    ) -> None:
        """`waits_for_copies`: while files are copied, programs may stand still for longer than a call waits
        for Ship.
        """
        self._store = store
        self._deferred = deferred
        self._queue = queue
        self._holds = holds
        self._settle_probe = settle_probe
        self._acted_on = acted_on
        self._changes = changes
        self._bring_secrets = bring_secrets
        self._quotas = quotas
        self._profiles = profiles
        self._brokered = {name for name, profile in profiles.items() if has_headers(profile.network_policy)}
        self._clock = clock
        self._start_timeout_s = start_timeout_s
        self._tracing = tracing
        self._waits_for_copies = waits_for_copies
        self._rows = rows

    async def find(self, caller: Caller, ref: str) -> SandboxRecord:
        """The caller's sandbox with that id or name, named in the audit. Raises NotFound, also for another
        owner's.
        """
        owner = caller.owner
        sandbox = await self._rows.get((owner, ref), lambda db: sandboxes.find(db, owner, ref))
        if sandbox is None or sandbox.target == "deleted" or sandbox.deleted_at is not None:
            raise NotFound(f"there is no sandbox {ref}")
        audit.about(sandbox.id)
        about(sandbox.id)
        return sandbox

    @asynccontextmanager
    async def awake(
        self, caller: Caller, ref: str, capability: Capability, *, follower: bool = False
    ) -> AsyncGenerator[Awake, None]:
        """The sandbox, running, and not idled away while the block lasts; started within the start timeout.
        `follower` as in `Holds.hold`. Raises NotFound, SandboxExpired, CapabilityNotSupported before anything
        starts, SandboxNotReady when the start failed or takes longer, and SecretMissing.
        """
        async with self.holding(caller, ref, follower=follower) as sandbox:
            profile = self._checked_profile(sandbox, capability)
            async with self.reach(sandbox) as (ready, peer):
                awake = Awake(ready, profile, peer)
                if self._has_more_env(ready):
                    awake = replace(awake, secrets=await self._bring_secrets(ready, peer))
                yield awake

    def _has_more_env(self, sandbox: SandboxRecord) -> bool:
        is_brokered = sandbox.network_brokers or sandbox.profile in self._brokered
        return bool(sandbox.secrets) or is_brokered or proxy_of(sandbox) is not None

    @asynccontextmanager
    async def holding(
        self, caller: Caller, ref: str, *, follower: bool = False
    ) -> AsyncGenerator[SandboxRecord, None]:
        """The caller's sandbox as it is, not idled away in the block. `follower` as in `Holds.hold`."""
        found = await self.find(caller, ref)
        with self._holds.hold(found.id, follower=follower):
            # Read again now that it is held (see `Holds`); from memory, unless it was written meanwhile.
            yield await self.find(caller, found.id)

    @asynccontextmanager
    async def reach(self, sandbox: SandboxRecord) -> AsyncGenerator[tuple[SandboxRecord, Peer], None]:
        """A held sandbox's Ship, woken or started if it must be; leaving the block counts as activity. Raises
        as `start` does. A call that fails in the block is a probe: the reconciler looks what became of it.
        """
        if self._waits_for_copies and sandbox.checkpoint_due is not None:
            sandbox = await self._copied(sandbox)
        ready = sandbox if _is_running(sandbox) else await self.start(sandbox, self._start_timeout_s)
        peer = ready.session and peer_of(ready.session)
        if peer is None:
            raise _not_ready(ready, "is starting")
        if not ready.is_called:
            self.touch(ready)
        try:
            yield ready, peer
        except (ShipError, Timeout) as error:
            await self._settle_probe(sandbox.id)
            if (reason := await self._why_unknown(sandbox.id)) is not None:
                kind = ShipError if isinstance(error, ShipError) else Timeout
                raise kind(f"{error.message}: {reason}", details=error.details) from error
            raise
        finally:
            self.touch(ready)

    async def _copied(self, sandbox: SandboxRecord) -> SandboxRecord:
        """The sandbox once its checkpoint is made, or after a while."""

        def is_over(found: SandboxRecord) -> bool:
            return found.checkpoint_due is None or not _is_running(found)

        return await self.wait_until(sandbox.id, is_over, self._start_timeout_s) or sandbox

    async def _why_unknown(self, sandbox_id: str) -> str | None:
        """The driver's words, when it cannot know what became of a session that is not over."""
        async with self._store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        if found is None or found.phase not in ("running", "paused") or found.error is None:
            return None
        return found.error.message if found.error.code == DriverUnavailable.code else None

    @asynccontextmanager
    async def reach_session(
        self, sandbox: SandboxRecord, session_id: str, *, thaw: bool
    ) -> AsyncGenerator[Peer | None]:
        """The Ship of that session of a held sandbox; None when over, or frozen or hibernated and not to be
        woken. One whose memory does not come back is over.
        """
        session = sandbox.session if sandbox.session and sandbox.session.id == session_id else None
        if session is None:
            yield None
        elif thaw and sandbox.has_compute:
            async with self.reach(sandbox) as (_, peer):
                yield peer if peer.session_id == session_id else None
        else:
            yield peer_of(session) if session.phase == "running" else None

    async def thaw(self, caller: Caller, sandbox_id: str, session_id: str) -> bool:
        """Have the session answer, which counts as activity; False when it is over."""
        try:
            async with (
                self.holding(caller, sandbox_id) as sandbox,
                self.reach_session(sandbox, session_id, thaw=True) as peer,
            ):
                return peer is not None
        except NotFound:
            return False

    async def start(self, sandbox: SandboxRecord, timeout_s: float) -> SandboxRecord:
        """Ask for compute and wait until it is there. Raises SandboxNotReady with the reason if it is not."""
        self.refuse_expired(sandbox)
        with self._tracing.work("wake", sandbox.id):
            return await self._woken(sandbox, timeout_s)

    async def _woken(self, sandbox: SandboxRecord, timeout_s: float) -> SandboxRecord:
        await self.want_running(sandbox)
        settled = await self.settled(sandbox.id, timeout_s)
        if settled is None:
            reason = await self._why_unknown(sandbox.id)
            late = f"is still starting after {timeout_s:g} s"
            raise _not_ready(sandbox, late if reason is None else f"{late}: {reason}")
        if not _is_running(settled):
            reason = settled.error.message if settled.error else "it was stopped meanwhile"
            raise _not_ready(settled, f"did not start: {reason}")
        return settled

    async def settle(
        self,
        before: SandboxRecord,
        done: Callable[[SandboxRecord], bool],
        is_refused: Callable[[SandboxRecord], bool],
        late: Timeout,
        within_s: float,
    ) -> None:
        """Poke the reconciler and wait until `done`; it goes on whatever is raised. Raises DriverUnavailable
        when the host would not do it, and `late`.
        """
        self.poke(before.id)
        settled = await self.wait_until(before.id, lambda r: done(r) or is_refused(r), within_s)
        if settled is None:
            raise late
        if settled.error is not None and not done(settled):
            raise DriverUnavailable(f"{settled.error.message}; Bay tries again by itself")

    async def until_over(
        self, sandbox_id: str, session_id: str, items: AsyncIterator[T], lost: Callable[[], T]
    ) -> AsyncGenerator[T]:
        """A stream from the session's Ship; `lost()` is its end when the session is over before it."""
        try:
            async for item in items:
                yield item
        except (
            ShipError,
            Timeout,
            OSError,
        ):  # an OSError has not been translated: the call's block is elsewhere
            if not await self.is_over(sandbox_id, session_id):
                raise
            yield lost()

    async def is_over(self, sandbox_id: str, session_id: str) -> bool:
        """Whether a session to which the connection broke is known to have ended, after a bounded probe."""
        await self._settle_probe(sandbox_id)
        async with self._store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        session = found.session if found else None
        return session is None or session.id != session_id or session.phase in ("ending", "ended")

    async def want_running(self, sandbox: SandboxRecord) -> None:
        """Write target `running`, which also clears an earlier failure, and poke the sandbox.

        Nothing is written for one that is about to start: the call that wanted it wrote the same.
        """
        if sandbox.target == "running" and sandbox.phase in (None, "starting") and sandbox.error is None:
            self._queue.put_idle(sandbox.id)
            return
        now = self._clock()
        clocks: dict[str, Any] = {
            "idle_expires_at": self._idle_after(sandbox),
            "warm_expires_at": None,
            "paused_at": None,
            "last_active_at": now,
        }
        async with self._store.write() as db:
            await self._quotas.admit_running(db, sandbox)
            moved = await sandboxes.change_target(
                db, sandbox.id, old=("stopped", "paused", "hibernated"), new="running", **clocks
            )
            if not moved:
                await sandboxes.change(db, sandbox.id, error=None, **clocks)
        self.poke(sandbox.id)

    async def is_called(self, sandbox_id: str) -> bool:
        """Whether a call that cannot wait is under way."""
        return await self._holds.any(sandbox_id, followers=False)

    def poke(self, sandbox_id: str) -> None:
        """Poke the sandbox and wake all who wait for its row. Call after the commit."""
        self._queue.put(sandbox_id)
        self._changes.announce(sandbox_id)

    async def acted_on(self, sandbox_id: str) -> None:
        """Return when the host has done what the sandbox's row says already, as far as that is under way."""
        await self._acted_on(sandbox_id)

    async def settled(self, sandbox_id: str, timeout_s: float) -> SandboxRecord | None:
        """The sandbox once it neither starts nor is about to; None after more than `timeout_s`."""
        return await self.wait_until(sandbox_id, lambda found: not self._is_on_its_way(found), timeout_s)

    async def wait_until(
        self, sandbox_id: str, done: Callable[[SandboxRecord], bool], timeout_s: float
    ) -> SandboxRecord | None:
        """The sandbox once `done` holds for its row, looked at after each change; None when time is up."""

        async def read() -> SandboxRecord | None:
            async with self._store.read() as db:
                found = await sandboxes.get(db, sandbox_id)
            return found if found is not None and done(found) else None

        return await self.wait_for(sandbox_id, read, timeout_s)

    async def wait_for(
        self, sandbox_id: str, read: Callable[[], Awaitable[T | None]], timeout_s: float
    ) -> T | None:
        """The result of `read`, called after each change of the sandbox until not None; None on timeout."""
        return await self._changes.wait_for(sandbox_id, read, timeout_s)

    def touch(self, sandbox: SandboxRecord) -> None:
        """Push the idle clock for a call that counts as activity. Small pushes are not worth a write."""
        now = self._clock()
        step = _TOUCH * sandbox.idle_timeout if sandbox.idle_timeout else _TOUCH_S
        before = sandbox.last_active_at
        if before is None or not 0 <= (now - before).total_seconds() < step:
            self._deferred.put(lambda db: sandboxes.touch(db, sandbox.id, now))

    async def keep(self, sandbox: SandboxRecord) -> None:
        """Push the idle clock, or the warm one of a frozen sandbox, however little."""
        now = self._clock()
        async with self._store.write() as db:
            await sandboxes.touch(db, sandbox.id, now)
            await sandboxes.keep_warm(db, sandbox.id, now)

    def refuse_expired(self, sandbox: SandboxRecord) -> None:
        """Raises SandboxExpired once `expires_at` has passed, whether or not the sweep came by."""
        if sandbox.is_expired(self._clock()):
            raise SandboxExpired(f"sandbox {sandbox.id} expired at {sandbox.expires_at}; create a new one")

    def _idle_after(self, sandbox: SandboxRecord) -> datetime | None:
        seconds = sandbox.idle_timeout
        return None if seconds is None else self._clock() + timedelta(seconds=seconds)

    def _checked_profile(self, sandbox: SandboxRecord, capability: Capability) -> Profile:
        self.refuse_expired(sandbox)
        profile = self._profiles.get(sandbox.profile)
        available = profile.capabilities if profile else ()
        if profile is None or capability not in available:
            raise CapabilityNotSupported(
                f"profile {sandbox.profile} does not offer {capability}",
                details={"capability": capability, "available": list(available)},
            )
        return profile

    def _is_on_its_way(self, sandbox: SandboxRecord) -> bool:
        if sandbox.deleted_at is not None or sandbox.is_expired(self._clock()):
            return False
        if sandbox.session is None and sandbox.error is not None:
            return False  # the host would not even let it begin
        return sandbox.target in HAVING and not _is_running(sandbox) and not is_frozen(sandbox)


def _is_running(sandbox: SandboxRecord) -> bool:
    return sandbox.target == "running" and sandbox.phase == "running"


def is_frozen(sandbox: SandboxRecord) -> bool:
    """Whether it waits frozen in memory, as it should."""
    return sandbox.target == "paused" and sandbox.phase == "paused"


def _not_ready(sandbox: SandboxRecord, what: str) -> SandboxNotReady:
    details = {"sandbox_id": sandbox.id, "retry_after_ms": _RETRY_AFTER_MS}
    return SandboxNotReady(f"sandbox {sandbox.id} {what}", details=details)
