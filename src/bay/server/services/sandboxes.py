"""Sandboxes: create, find, list, start, stop, delete, and their time limits.

Each call writes what is wanted in one transaction and pokes the queue; the reconciler does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.clock import Clock
from bay.drivers.base import Capabilities
from bay.errors import (
    BadRequest,
    BayError,
    Conflict,
    InvalidArgument,
    NotFound,
    SandboxTtlInfinite,
    Timeout,
)
from bay.ids import is_name, new_id
from bay.models import Container, Profile, Sandbox, from_wire, to_wire
from bay.server import idempotency, lifecycle
from bay.server.auth import Caller
from bay.server.peers import peer_of
from bay.server.ship_link import ShipLink
from bay.server.wake import Waker
from bay.server.workqueue import WorkQueue
from bay.store import cargos, events, sandboxes
from bay.store.engine import Store
from bay.store.records import Filters, Page, SandboxRecord, Target

_SETTLE_S = 60.0
_MAX_TTL = 10 * 365 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """What a create asks for; None means the profile's own."""

    profile: str
    cargo_id: str | None = None
    ttl: int | None = None
    name: str | None = None
    image: str | None = None
    isolation: str | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    idle_timeout: int | None = None


class Sandboxes:
    """The service behind `/v1/sandboxes`."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        waker: Waker,
        link: ShipLink,
        profiles: dict[str, Profile],
        driver: Capabilities,
        cargo_backend: str,
        clock: Clock,
    ) -> None:
        self._store = store
        self._queue = queue
        self._waker = waker
        self._link = link
        self._profiles = profiles
        self._driver = driver
        self._cargo_backend = cargo_backend
        self._clock = clock

    async def create(
        self, caller: Caller, new: NewSandbox, idempotency_key: str | None, wait_s: float
    ) -> Sandbox:
        """Make a sandbox; with `wait_s` answer when it is ready or failed, or the seconds are over."""
        request = idempotency.request(caller, idempotency_key, "POST /v1/sandboxes", to_wire(new))
        profile = self._profile(new)
        try:
            async with self._store.write() as db:
                earlier = await self._earlier(db, request)
                sandbox = earlier or await self._insert(db, caller, new, profile)
                if request and earlier is None:
                    await request.claim(db, sandbox.id, to_wire(sandbox), self._clock())
        except IntegrityError as error:
            raise Conflict(
                f"you have a sandbox named {new.name}; delete it or choose another name"
            ) from error
        self._queue.put(sandbox.id)
        return await self._after_wait(caller, sandbox, wait_s) if wait_s else sandbox

    async def get(self, caller: Caller, ref: str) -> Sandbox:
        """One sandbox, with its container when it has a live one."""
        record = await self._waker.find(caller, ref)
        return replace(self._view(record), containers=await self._containers(record))

    async def page(self, caller: Caller, filters: Filters, *, after: int, limit: int) -> Page[Sandbox]:
        """Part of the caller's sandboxes, oldest first."""
        async with self._store.read() as db:
            found = await sandboxes.page(
                db, caller.owner, filters, now=self._clock(), after=after, limit=limit
            )
        return Page(items=tuple(self._view(r) for r in found.items), next_cursor=found.next_cursor)

    async def start(self, caller: Caller, ref: str, wait_s: float) -> Sandbox:
        """Ask for compute; with `wait_s` answer when it is there. Raises SandboxExpired."""
        record = await self._waker.find(caller, ref)
        self._waker.refuse_expired(record)
        await self._waker.want_running(record)
        if wait_s:
            await self._waker.settled(record.id, wait_s)
        return self._view(await self._waker.find(caller, record.id))

    async def stop(self, caller: Caller, ref: str) -> None:
        """Give compute back and keep everything else; returns when it is given back. Idempotent."""
        record = await self._waker.find(caller, ref)
        async with self._store.write() as db:
            await sandboxes.change_target(db, record.id, old="running", new="stopped", error=record.error)
        await self._settle(record.id, lambda r: r.session is None or r.target != "stopped")

    async def delete(self, caller: Caller, ref: str) -> None:
        """Remove a sandbox and its managed cargo; returns when it is gone. Also when it already is."""
        async with self._store.read() as db:
            record = await sandboxes.find(db, caller.owner, ref)
        if record is None:
            raise NotFound(f"there is no sandbox {ref}")
        if record.deleted_at is not None:
            return
        async with self._store.write() as db:
            await sandboxes.change(db, record.id, target="deleted")
        await self._settle(record.id, lambda r: r.deleted_at is not None)

    async def extend_ttl(
        self, caller: Caller, ref: str, extend_by: int, idempotency_key: str | None
    ) -> Sandbox:
        """Push `expires_at` to `max(old, now) + extend_by` seconds."""
        record = await self._waker.find(caller, ref)
        call = f"POST /v1/sandboxes/{record.id}/extend_ttl"
        request = idempotency.request(caller, idempotency_key, call, extend_by)
        async with self._store.write() as db:
            if (earlier := await self._earlier(db, request)) is not None:
                return earlier
            present = await sandboxes.get(db, record.id) or record
            later = self._extended(present, extend_by)
            await sandboxes.change(db, record.id, expires_at=later)
            sandbox = self._view(replace(present, expires_at=later))
            if request:
                await request.claim(db, sandbox.id, to_wire(sandbox), self._clock())
        return sandbox

    async def keepalive(self, caller: Caller, ref: str) -> None:
        """Push the idle clock; never starts compute."""
        record = await self._waker.find(caller, ref)
        self._waker.refuse_expired(record)
        await self._waker.keep(record)

    def _profile(self, new: NewSandbox) -> Profile:
        """The profile, once everything that only Bay can judge about the request is found good."""
        profile = self._profiles.get(new.profile)
        if profile is None:
            raise BadRequest(
                f"there is no profile {new.profile}", details={"available": sorted(self._profiles)}
            )
        self._check_offered("image", new.image or profile.image, self._driver.images)
        self._check_offered("isolation", new.isolation or profile.isolation, self._driver.isolation)
        if new.name is not None and not is_name(new.name):
            raise InvalidArgument("a name is 1 to 63 characters of a-z, 0-9 and inner hyphens, and no id")
        return profile

    def _check_offered(self, what: str, wanted: str, offered: tuple[str, ...]) -> None:
        if wanted not in offered:
            raise BadRequest(f"{what} {wanted} is not available here", details={"available": list(offered)})

    async def _earlier(self, db: AsyncConnection, request: idempotency.Request | None) -> Sandbox | None:
        claim = await request.earlier(db) if request else None
        return from_wire(Sandbox, claim.answer) if claim else None

    async def _insert(
        self, db: AsyncConnection, caller: Caller, new: NewSandbox, profile: Profile
    ) -> Sandbox:
        now = self._clock()
        sandbox_id = new_id("sandbox")
        cargo_id = new.cargo_id or new_id("ws")
        if new.cargo_id is None:
            await self._insert_cargo(db, caller, cargo_id, sandbox_id, now)
        else:
            await self._check_cargo(db, caller, cargo_id)
        record = self._record(caller, new, profile, sandbox_id, cargo_id, now)
        await sandboxes.add(db, record)
        await events.add(db, record, "sandbox.created", now)
        return self._view(record)

    async def _insert_cargo(
        self, db: AsyncConnection, caller: Caller, cargo_id: str, sandbox_id: str, now: datetime
    ) -> None:
        await cargos.add(
            db,
            {"id": cargo_id, "owner": caller.owner, "managed_by_sandbox_id": sandbox_id,
             "backend": self._cargo_backend, "created_at": now, "last_accessed_at": now},
        )  # fmt: skip

    async def _check_cargo(self, db: AsyncConnection, caller: Caller, cargo_id: str) -> None:
        cargo = await cargos.find(db, caller.owner, cargo_id)
        if cargo is None:
            raise NotFound(f"there is no cargo {cargo_id}")
        if cargo.managed_by_sandbox_id is not None:
            raise Conflict(
                f"cargo {cargo_id} belongs to {cargo.managed_by_sandbox_id} and goes when that does"
            )

    def _record(
        self, caller: Caller, new: NewSandbox, profile: Profile, sandbox_id: str, cargo_id: str, now: datetime
    ) -> SandboxRecord:
        ttl = profile.ttl if new.ttl is None else new.ttl
        idle_timeout = new.idle_timeout if new.idle_timeout is not None else profile.idle_timeout
        target: Target = "running" if profile.start == "eager" else "stopped"
        return SandboxRecord(
            seq=0,
            id=sandbox_id,
            owner=caller.owner,
            name=new.name,
            profile=profile.id,
            image=new.image or profile.image,
            isolation=new.isolation or profile.isolation,
            cargo_id=cargo_id,
            env=new.env,
            labels=new.labels,
            target=target,
            generation=0,
            error=None,
            idle_timeout=idle_timeout,
            idle_expires_at=now + timedelta(seconds=idle_timeout) if idle_timeout else None,
            expires_at=now + timedelta(seconds=ttl) if ttl else None,
            created_at=now,
            deleted_at=None,
            session=None,
        )

    def _extended(self, record: SandboxRecord, extend_by: int) -> datetime:
        self._waker.refuse_expired(record)
        if record.expires_at is None:
            raise SandboxTtlInfinite(f"sandbox {record.id} never expires, so there is nothing to extend")
        now = self._clock()
        later = max(record.expires_at, now) + timedelta(seconds=extend_by)
        if later - now > timedelta(seconds=_MAX_TTL):
            raise InvalidArgument("a sandbox may live for ten years at most from now")
        return later

    def _view(self, record: SandboxRecord) -> Sandbox:
        profile = self._profiles.get(record.profile)
        return lifecycle.view(record, self._clock(), profile.capabilities if profile else ())

    async def _after_wait(self, caller: Caller, sandbox: Sandbox, wait_s: float) -> Sandbox:
        record = await self._waker.find(caller, sandbox.id)
        await self._waker.want_running(record)
        settled = await self._waker.settled(sandbox.id, wait_s)
        return self._view(settled or await self._waker.find(caller, sandbox.id))

    async def _containers(self, record: SandboxRecord) -> tuple[Container, ...] | None:
        """The live session's container as Ship describes itself; unhealthy when it does not answer."""
        session = record.session
        if session is None:
            return None
        peer = peer_of(session) if session.phase == "running" else None
        try:
            meta = await self._link.meta(peer) if peer else None
        except BayError:
            meta = None
        return (
            Container(
                name="ship",
                runtime_type="ship",
                status=session.phase,
                version=meta.version if meta else None,
                capabilities=tuple(meta.capabilities) if meta else (),
                healthy=meta is not None,
            ),
        )

    async def _settle(self, sandbox_id: str, done: Callable[[SandboxRecord], bool]) -> None:
        """Poke the queue and wait until `done`. Raises Timeout; the reconciler goes on all the same."""
        self._queue.put(sandbox_id)
        if await self._waker.wait_until(sandbox_id, done, _SETTLE_S) is None:
            raise Timeout(f"sandbox {sandbox_id} takes longer than {_SETTLE_S:g} s; it goes on by itself")
