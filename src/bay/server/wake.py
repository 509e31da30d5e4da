"""From a caller and a reference to a sandbox that answers now, started on the way if it must be."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bay.clock import Clock
from bay.errors import CapabilityNotSupported, NotFound, SandboxExpired, SandboxNotReady
from bay.models import Capability, Profile
from bay.server import lifecycle
from bay.server.auth import Caller
from bay.server.changes import Changes
from bay.server.peers import peer_of
from bay.server.ship_wire import Peer
from bay.server.workqueue import WorkQueue
from bay.store import sandboxes
from bay.store.engine import Store
from bay.store.records import SandboxRecord

_RETRY_AFTER_MS = 1000
_TOUCH = 0.05  # of the idle timeout


@dataclass(frozen=True, slots=True)
class Awake:
    """A running sandbox and the Ship that answers for it."""

    sandbox: SandboxRecord
    profile: Profile
    peer: Peer

    @property
    def env(self) -> dict[str, str]:
        """What every command sees, from the profile and the create."""
        return {**self.profile.env, **self.sandbox.env}


class Waker:
    """Finds sandboxes for their owners and wakes them for the calls that need compute."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        changes: Changes,
        profiles: dict[str, Profile],
        clock: Clock,
        start_timeout_s: float,
    ) -> None:
        self._store = store
        self._queue = queue
        self._changes = changes
        self._profiles = profiles
        self._clock = clock
        self._start_timeout_s = start_timeout_s
        self._found: dict[tuple[str, str], SandboxRecord] = {}
        """Rows read at version `_found_at` of the store, by owner and id or name."""
        self._found_at = 0

    async def find(self, caller: Caller, ref: str) -> SandboxRecord:
        """The caller's sandbox with that id or name. Raises NotFound, also for another owner's."""
        sandbox = await self._find_cached(caller.owner, ref)
        if sandbox is None or sandbox.target == "deleted" or sandbox.deleted_at is not None:
            raise NotFound(f"there is no sandbox {ref}")
        return sandbox

    async def _find_cached(self, owner: str, ref: str) -> SandboxRecord | None:
        """The row as it is, read again only if anything may have changed since: most calls follow one another."""
        version = self._store.version
        if version != self._found_at:
            self._found.clear()
            self._found_at = version
        if (known := self._found.get((owner, ref))) is not None:
            return known
        async with self._store.read() as db:
            found = await sandboxes.find(db, owner, ref)
        if found is not None and self._store.version == version:
            self._found[owner, ref] = found
        return found

    async def awake(self, caller: Caller, ref: str, capability: Capability) -> Awake:
        """The sandbox, running, within the start timeout.

        Raises NotFound, SandboxExpired, CapabilityNotSupported before anything starts, and
        SandboxNotReady when the start failed or takes longer.
        """
        sandbox = await self.find(caller, ref)
        profile = self._checked_profile(sandbox, capability)
        ready = sandbox if _is_running(sandbox) else await self.start(sandbox, self._start_timeout_s)
        peer = ready.session and peer_of(ready.session)
        if peer is None:
            raise _not_ready(ready, "is starting")
        return Awake(ready, profile, peer)

    async def start(self, sandbox: SandboxRecord, timeout_s: float) -> SandboxRecord:
        """Ask for compute and wait until it is there. Raises SandboxNotReady with the reason if it is not."""
        self.refuse_expired(sandbox)
        await self.want_running(sandbox)
        settled = await self.settled(sandbox.id, timeout_s)
        if settled is None:
            raise _not_ready(sandbox, f"is still starting after {timeout_s:g} s")
        if not _is_running(settled):
            reason = settled.error.message if settled.error else "it was stopped meanwhile"
            raise _not_ready(settled, f"did not start: {reason}")
        return settled

    async def want_running(self, sandbox: SandboxRecord) -> None:
        """Write down that the sandbox should run, which also forgives an earlier failure, and poke the queue."""
        async with self._store.write() as db:
            await sandboxes.change_target(db, sandbox.id, old="stopped", new="running")
            await sandboxes.change(db, sandbox.id, idle_expires_at=self._idle_after(sandbox))
        self._queue.put(sandbox.id)
        self._changes.announce(sandbox.id)

    async def settled(self, sandbox_id: str, timeout_s: float) -> SandboxRecord | None:
        """The sandbox once it neither starts nor is about to; None when that takes longer than `timeout_s`."""
        return await self.wait_until(sandbox_id, lambda found: not self._is_on_its_way(found), timeout_s)

    async def wait_until(
        self, sandbox_id: str, done: Callable[[SandboxRecord], bool], timeout_s: float
    ) -> SandboxRecord | None:
        """The sandbox once `done` holds for its row, looked at after each change; None when time is up."""

        async def read() -> SandboxRecord | None:
            async with self._store.read() as db:
                found = await sandboxes.get(db, sandbox_id)
            return found if found is not None and done(found) else None

        return await self._changes.wait_for(sandbox_id, read, timeout_s)

    async def touch(self, sandbox: SandboxRecord) -> None:
        """Push the idle clock for a call that counts as activity. Small pushes are not worth a write."""
        later = self._idle_after(sandbox)
        before = sandbox.idle_expires_at
        if later is None or (
            before and (later - before).total_seconds() < _TOUCH * (sandbox.idle_timeout or 0)
        ):
            return
        async with self._store.write() as db:
            await sandboxes.change(db, sandbox.id, idle_expires_at=later)

    async def keep(self, sandbox: SandboxRecord) -> None:
        """Push the idle clock, however little."""
        async with self._store.write() as db:
            await sandboxes.change(db, sandbox.id, idle_expires_at=self._idle_after(sandbox))

    def refuse_expired(self, sandbox: SandboxRecord) -> None:
        """Raises SandboxExpired once `expires_at` has passed, whether or not the sweep came by."""
        if lifecycle.is_expired(sandbox, self._clock()):
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
        if sandbox.deleted_at is not None or lifecycle.is_expired(sandbox, self._clock()):
            return False
        return sandbox.target == "running" and not _is_running(sandbox)


def _is_running(sandbox: SandboxRecord) -> bool:
    return sandbox.target == "running" and lifecycle.phase_of(sandbox) == "running"


def _not_ready(sandbox: SandboxRecord, what: str) -> SandboxNotReady:
    details = {"sandbox_id": sandbox.id, "retry_after_ms": _RETRY_AFTER_MS}
    return SandboxNotReady(f"sandbox {sandbox.id} {what}", details=details)
