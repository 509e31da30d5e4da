"""The sandbox service: each call writes what is wanted in one transaction; the reconciler does the rest."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy.exc import IntegrityError

from bay.cargo.base import checkpoint_store, machine_layers
from bay.clock import expiry
from bay.drivers.base import Capabilities, NamedImages
from bay.errors import (
    BadRequest,
    BayError,
    CapabilityNotSupported,
    Conflict,
    InvalidArgument,
    NotFound,
    SandboxTtlInfinite,
    StorageFull,
    Timeout,
)
from bay.ids import is_name, new_id
from bay.images.accounts import OF_IMAGE
from bay.models import (
    CheckpointPolicy,
    Container,
    EntrypointUse,
    NetworkPolicy,
    OnExpiry,
    PortSettings,
    Profile,
    Pull,
    Sandbox,
    SandboxSecret,
    ServiceSpec,
    Sizes,
    Volume,
    from_wire,
    to_wire,
)
from bay.server.checkpoints import policy
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.images import entrypoints, named
from bay.server.images.puller import Puller
from bay.server.images.requests import HOST, ImageRequests
from bay.server.managed_services import rules
from bay.server.managed_services.syncer import ServiceSyncer
from bay.server.networks.service import check_injected, check_offered, checked_policy
from bay.server.ports.gate import host_of
from bay.server.sandboxes import volumes
from bay.server.sandboxes.pool import Pool, add_cargo
from bay.server.sandboxes.pool_kinds import PoolKind, fresh_record
from bay.server.sandboxes.resizing import RESIZED, ResizeRequest, Resizing
from bay.server.secrets import rules as secret_rules
from bay.server.sessions import sizes
from bay.server.sessions.core import DEFAULT_PROFILE, Core
from bay.server.sessions.effective_policy import has_headers
from bay.server.sessions.lifecycle import OWN_LABELS
from bay.server.sessions.memory import (
    check_can_fork,
    check_can_hibernate,
    check_can_save,
    settle_hibernation,
)
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.rows import peer_of
from bay.server.sessions.sizes import PROFILES_OWN
from bay.server.sessions.waker import Waker, is_frozen
from bay.server.ship.answers import ShipMeta
from bay.server.ship.client import ShipClient
from bay.server.templates.services import MAIN, template_services
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.store import audit, cargos, events, networks, sandboxes, secrets, services, sessions, templates
from bay.store.connection import StoreConnection
from bay.store.records import (
    HAVING,
    KEEPING,
    CheckpointRecord,
    Claim,
    Filters,
    ImageRecord,
    Page,
    SandboxRecord,
    SessionRecord,
    TemplateRecord,
)
from bay.store.sandboxes import KEEP
from bay.tracing import about

_SETTLE_S = 60.0
_MAX_TTL = 10 * 365 * 86400
_STORED_AS_WIRE = frozenset(("checkpoint_policy", "url", "ports"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """The parameters of a create; None means the profile's own."""

    profile: str | None
    """None is its template's, or the default one."""
    template: str | None = None
    """Id, name or `name:tag` of a template: its image, its files and its options, below those given here."""
    cargo_id: str | None = None
    ttl: int | None = None
    on_expiry: OnExpiry | None = None
    name: str | None = None
    image: str | None = None
    """`host`, or the id or reference of an image."""
    pull: Pull = "missing"
    entrypoint: EntrypointUse | None = None
    isolation: str | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    idle_timeout: int | None = None
    warm_timeout: int | None = None
    from_checkpoint: str | None = None
    """Id of a checkpoint, of any sandbox of the same owner, whose files it begins with."""
    memory: bool = False
    """Whether it begins with the memory of `from_checkpoint`, too."""
    checkpoint_policy: CheckpointPolicy | None = None
    network_policy: NetworkPolicy | None = None
    url: PortSettings | None = None
    ports: tuple[PortSettings, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    secrets: tuple[SandboxSecret, ...] = ()
    volumes: tuple[Volume, ...] = ()
    sizes: Sizes = PROFILES_OWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    """The parameters of a fork. Without `checkpoint` (an id or a name) the files are those of now."""

    count: int = 1
    checkpoint: str | None = None
    name: str | None = None
    ttl: int | None = None
    """Seconds that they live; 0 is for ever, and None the profile's."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """Labels beside those of the source, of which Bay's own are not inherited."""
    memory: bool = False
    """Whether each goes on with the processes of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxChanges:
    """The changes to a sandbox: only the fields that `given` names."""

    given: frozenset[str]
    name: str | None = None
    labels: dict[str, str] | None = None
    idle_timeout: int | None = None
    warm_timeout: int | None = None
    ttl: int | None = None
    """Seconds from now; None and 0 are never."""
    on_expiry: OnExpiry | None = None
    """None is the profile's."""
    checkpoint_policy: CheckpointPolicy | None = None
    url: PortSettings | None = None
    url_access: PortSettings | None = None
    """The access of its URL, which keeps its port; of one that it has not had, the port too."""
    ports: tuple[PortSettings, ...] = ()
    cpus: float | None = None
    memory_mb: int | None = None
    pids: int | None = None


@dataclass(kw_only=True, eq=False)
class Sandboxes:
    """The service behind `/v1/sandboxes`."""

    core: Core
    waker: Waker
    snapshots: CheckpointRequests
    pool: Pool
    quotas: Quotas
    images: ImageRequests
    puller: Puller
    resizing: Resizing
    syncer: ServiceSyncer
    ship: ShipClient
    request_probe: Callable[[str], None]
    view: Callable[[SandboxRecord], Sandbox]
    private: Sequence[IPv4Network | IPv6Network]

    async def create(
        self, caller: Caller, new: NewSandbox, idempotency_key: str | None, wait_s: float
    ) -> Sandbox:
        """Make a sandbox; answers once it is ready or failed, or after `wait_s`. Raises StorageFull."""
        request = idempotency.request(caller, idempotency_key, "POST /v1/sandboxes", to_wire(new))
        asked, template = new, None
        if new.template is not None:
            if (claim := await self._claim_of(request)) is not None:
                return from_wire(Sandbox, claim.answer)
            template = await self._template(caller, new, new.template)
            new = _laid_over(template, new)
        mounted = volumes.checked(new.volumes, new.cargo_id)
        new = replace(new, secrets=secret_rules.checked(new.secrets, new.env), volumes=mounted)
        profile = self._profile(new)
        kept = rules.checked(new.services, root=profile.root)
        new = replace(new, services=kept, sizes=sizes.checked(new.sizes, profile))
        if new.network_policy is not None:
            able = self.core.driver.capabilities.of(new.isolation or profile.isolation)
            wanted = await checked_policy(new.network_policy, able, self.private)
            new = replace(new, network_policy=wanted)
        if isinstance(here := self.core.driver.capabilities.other_images, NamedImages):
            new = replace(new, image=named.checked(new.image, new.pull, profile, here))
        kind = self.pool.kind_of(profile.id, template and template.id)
        if kind is not None and not _fits(kind, asked, new):
            kind = None
        if new.cargo_id is None and not (kind is not None and self.pool.may_have(kind)):
            await self._check_room("a sandbox", request)
        try:
            async with self.core.store.write() as db:
                earlier = await self._earlier(db, request)
                sandbox = earlier or await self._insert(db, caller, new, profile, kind, waits=wait_s > 0)
                audit.about(sandbox.id)
                about(sandbox.id)
                if request and earlier is None:
                    await request.claim(db, sandbox.id, to_wire(sandbox), self.core.clock())
        except IntegrityError as error:
            raise _taken(new.name) from error
        if sandbox.image_id is not None:
            self.puller.poke()
        is_claimed = earlier is None and sandbox.compute == "running"
        if not is_claimed or new.name:  # one from the pool runs, and lacks a name at most
            self.waker.poke(sandbox.id)
        if earlier is None and kind is not None:
            self.pool.count(kind, hit=is_claimed)
        is_ready = earlier is None and sandbox.status == "ready"  # it was claimed from the pool
        if (is_ready and not _checked_main(new)) or not wait_s:
            return sandbox
        return await self._settled(sandbox, wait_s, serving=_checked_main(new))

    async def _template(self, caller: Caller, new: NewSandbox, ref: str) -> TemplateRecord:
        """The template of a create. Raises NotFound, and Conflict for one that is not ready."""
        async with self.core.store.read() as db:
            template = await templates.find(db, caller.owner, ref)
        if template is None:
            raise NotFound(f"you have no template {ref}; see `bay template ls`")
        if new.image is not None:
            raise BadRequest("give template or image, not both: a template has an image of its own")
        if template.state != "ready":
            why = f": {template.error.message}" if template.error else "; wait for it"
            raise Conflict(f"template {template.ref} is {template.state}{why}")
        return template

    async def fork(
        self, caller: Caller, ref: str, forks: Forks, idempotency_key: str | None
    ) -> list[Sandbox]:
        """New sandboxes like that one, all starting, each with a copy of a checkpoint or the present files.
        The copies are made as each starts; changes of the source after the answer are in none of them.
        Raises CapabilityNotSupported where the cargo backend has no checkpoints.
        """
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        checkpoint_store(self.core.cargo)
        call = f"POST /v1/sandboxes/{record.id}/fork"
        request = idempotency.request(caller, idempotency_key, call, to_wire(forks))
        names = _fork_names(forks)
        for name in names:
            _check_name(name)
        if (claim := await self._claim_of(request)) is not None:
            return _forks_of(claim)
        await self.core.cargo.check_room("a fork")
        if forks.memory and forks.checkpoint is None:
            check_can_save(self.core, record)
            async with self.core.store.read() as db:
                await self.quotas.admit_files(db, caller)  # its memory is written before the rows
        async with self.snapshots.origin(record, forks.checkpoint, memory=forks.memory) as origin:
            if forks.memory:
                await check_can_fork(self.core, record, origin, volumes.of_fork(record.volumes))
            made = await self._fork_from(caller, record, origin, forks, names, request)
        for sandbox in made:
            self.waker.poke(sandbox.id)
        return made

    async def get(self, caller: Caller, ref: str) -> Sandbox:
        """One sandbox, with its container when it has a live one."""
        await self.core.deferred.flush()
        record = await self.waker.find(caller, ref)
        return replace(self.view(record), containers=await self._containers(record))

    async def page(
        self, caller: Caller, filters: Filters, *, after: int, limit: int, newest_first: bool = False
    ) -> Page[Sandbox]:
        """Part of the caller's sandboxes, oldest first, or `newest_first`."""
        now = self.core.clock()
        async with self.core.store.read() as db:
            found = await sandboxes.page(
                db, caller.owner, filters, now=now, after=after, limit=limit, newest_first=newest_first
            )
        return Page(items=tuple(self.view(r) for r in found.items), next_cursor=found.next_cursor)

    async def start(self, caller: Caller, ref: str, wait_s: float) -> Sandbox:
        """Ask for compute; with `wait_s` answer when it is there. Raises SandboxExpired."""
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        await self.waker.want_running(record)
        if wait_s:
            await self.waker.settled(record.id, wait_s)
        return self.view(await self.waker.find(caller, record.id))

    async def stop(self, caller: Caller, ref: str) -> None:
        """Give compute back and keep everything else; returns when it is given back. Idempotent."""
        record = await self.waker.find(caller, ref)
        async with self.core.store.write() as db:
            await sandboxes.change_target(
                db, record.id, old=KEEPING, new="stopped", error=KEEP, idle_expires_at=None
            )
        await self._settle(record, lambda r: r.session is None or r.target != "stopped")

    async def restart(self, caller: Caller, ref: str) -> Sandbox:
        """End its compute with all that runs in it, and start anew; returns once the start was asked for."""
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        await self.stop(caller, record.id)
        return await self.start(caller, record.id, 0)

    async def pause(
        self, caller: Caller, ref: str, *, cold_too: bool = False, for_good: bool = False
    ) -> Sandbox:
        """Freeze it in memory, with all that runs in it; returns when it is frozen. Idempotent.
        Followers of output wait. Raises Conflict while calls are under way, and without compute to freeze:
        with `cold_too` such a one is marked as paused. `for_good`: its lifetime has no end from then on.
        While a replica says nothing that may have a call, such as one that was killed just now, it waits
        until that answers or counts no more.
        """
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        self._check_can_pause(record, cold_too=cold_too)
        async with self.core.store.write() as db:
            await sandboxes.change_target(
                db, record.id, old=("running",), new="paused", error=KEEP, idle_expires_at=None
            )
            await sandboxes.mark_paused(db, record.id, self.core.clock(), for_good=for_good)
        await self._settle(record, lambda r: is_frozen(r) or r.target != "paused")
        await self._acted_on(record)  # the row says paused before the host has frozen it
        present = await self.waker.find(caller, record.id)
        if for_good and present.target == "running":
            present = await self._live_on(record)
        if not is_frozen(present) and await self.waker.is_called(record.id):
            raise Conflict(f"calls to sandbox {record.id} are in progress; wait for them, or stop it")
        return self.view(present)

    async def hibernate(self, caller: Caller, ref: str) -> Sandbox:
        """Write its memory to disk, with all that runs in it; returns when that is done. Idempotent.

        Raises Conflict while calls are under way, without compute, and where something in it cannot be saved:
        it is frozen then.
        """
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        check_can_hibernate(self.core, record)
        if record.target not in KEEPING or record.session is None:
            raise Conflict(f"sandbox {record.id} is cold already; there is no memory to save")
        async with self.core.store.write() as db:
            await sessions.change(db, record.session.id, memory_refused=None)
            await sandboxes.change_target(
                db, record.id, old=HAVING, new="hibernated", error=KEEP, idle_expires_at=None
            )
            await sandboxes.mark_paused(db, record.id, self.core.clock(), for_good=False)
        await settle_hibernation(self.waker, record)
        return self.view(await self.waker.find(caller, record.id))

    async def _live_on(self, before: SandboxRecord) -> SandboxRecord:
        """It was not paused: its lifetime ends as before, unless it was set anew meanwhile."""
        async with self.core.store.write() as db:
            present = await sandboxes.get(db, before.id) or before
            if present.expires_at is None and present.target == "running":
                await sandboxes.change(db, before.id, expires_at=before.expires_at)
            return await sandboxes.get(db, before.id) or before

    async def update(self, caller: Caller, ref: str, new: SandboxChanges) -> Sandbox:
        """Change its name, labels, sizes or timeouts, which count from now; a live session has the sizes when
        this returns. Raises Conflict for a taken name, or for less memory than is in use.
        """
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        _check_name(new.name)
        self._check_policy(new.checkpoint_policy)
        changed = {name: getattr(new, name) for name in new.given}
        resize: ResizeRequest | None = None
        try:
            async with self.core.store.write() as db:
                if changed:
                    resize = await self._change(db, record, changed)
        except IntegrityError as error:
            raise _taken(new.name) from error
        if "name" in changed:
            self.waker.poke(record.id)
        if resize is not None:
            await self.resizing.settled(self.waker, record)
        present = await self.waker.find(caller, record.id)
        if resize is not None:
            self.resizing.check(present, resize)
        return self.view(present)

    async def _change(
        self, db: StoreConnection, record: SandboxRecord, changed: dict[str, Any]
    ) -> ResizeRequest | None:
        """Write the changes. Returns the sizes that a live session must take."""
        present = await sandboxes.get(db, record.id) or record
        if (wanted := changed.pop("url_access", None)) is not None:
            changed["url"] = replace(present.url or wanted, access=wanted.access)
        values = {**changed, **self._clocks(present, changed), **await self._resized(db, present, changed)}
        values.update(self._lifetime(present, values))
        for field_name in changed.keys() & _STORED_AS_WIRE:
            values[field_name] = to_wire(values[field_name])
        if "name" in changed:
            values["host"] = await sandboxes.free_host(db, host_of(changed["name"]), record.id)
        resize = None
        if changed.keys() & set(RESIZED):
            wanted_sizes = replace(
                present.sizes, **{name: values[name] for name in RESIZED if name in values}
            )
            resize = ResizeRequest(present.resize_number + 1, wanted_sizes)
            values["resize_number"] = resize.number
        await sandboxes.change(db, record.id, **values)
        await events.add(db, record, "sandbox.updated", self.core.clock(), fields=sorted(changed))
        return resize

    def _lifetime(self, present: SandboxRecord, values: dict[str, Any]) -> dict[str, Any]:
        """How a changed lifetime is stored. Raises SandboxExpired when it has ended meanwhile."""
        stored = dict[str, Any]()
        if "ttl" in values:
            self.waker.refuse_expired(present)
            stored["expires_at"] = expiry(self.core.clock(), values.pop("ttl") or None)
        if "on_expiry" in values and values["on_expiry"] is None:
            stored["on_expiry"] = self._profile_named(present.profile).on_expiry
        return stored

    async def _resized(
        self, db: StoreConnection, present: SandboxRecord, changed: dict[str, Any]
    ) -> dict[str, float | None]:
        """The sizes among what is changed, as they are stored. Raises InvalidArgument or QuotaExceeded."""
        asked = {name: value for name, value in changed.items() if name in RESIZED}
        if not asked:
            return {}
        profile = self._profile_named(present.profile)
        stored = sizes.checked(Sizes(**asked), profile)
        values = {name: getattr(stored, name) for name in asked}
        after = sizes.resources_of(replace(present.sizes, **values), profile)
        await self.quotas.admit_resize(db, present, sizes.resources_of(present.sizes, profile), after)
        return values

    async def delete(self, caller: Caller, ref: str) -> None:
        """Remove a sandbox and its managed cargo; returns when it is removed. Idempotent."""
        async with self.core.store.read() as db:
            record = await sandboxes.find(db, caller.owner, ref)
        if record is None:
            raise NotFound(f"there is no sandbox {ref}")
        audit.about(record.id)
        about(record.id)
        if record.deleted_at is not None:
            return
        async with self.core.store.write() as db:
            await sandboxes.change(db, record.id, target="deleted")
        await self._settle(record, lambda r: r.deleted_at is not None)

    async def extend_ttl(
        self, caller: Caller, ref: str, extend_by: int, idempotency_key: str | None
    ) -> Sandbox:
        """Push `expires_at` to `max(old, now) + extend_by` seconds."""
        record = await self.waker.find(caller, ref)
        call = f"POST /v1/sandboxes/{record.id}/extend_ttl"
        request = idempotency.request(caller, idempotency_key, call, extend_by)
        async with self.core.store.write() as db:
            if (earlier := await self._earlier(db, request)) is not None:
                return earlier
            present = await sandboxes.get(db, record.id) or record
            later = self._extended(present, extend_by)
            await sandboxes.change(db, record.id, expires_at=later)
            sandbox = self.view(replace(present, expires_at=later))
            if request:
                await request.claim(db, sandbox.id, to_wire(sandbox), self.core.clock())
        return sandbox

    async def keepalive(self, caller: Caller, ref: str) -> None:
        """Push the clock that runs now: the idle one, or of a frozen sandbox the warm one. Starts nothing."""
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        await self.waker.keep(record)

    async def _fork_from(
        self,
        caller: Caller,
        source: SandboxRecord,
        origin: CheckpointRecord,
        forks: Forks,
        names: list[str | None],
        request: idempotency.Request | None,
    ) -> list[Sandbox]:
        profile = self._profile(_like(source, None, None, None, ()))
        try:
            async with self.core.store.write() as db:
                if request is not None and (claim := await request.earlier(db)) is not None:
                    return _forks_of(claim)
                network = await networks.get(db, source.id)
                kept = tuple(await services.all_of(db, source.id))
                like = _like(source, None, origin.id, network, kept)
                like = replace(like, ttl=forks.ttl, labels=like.labels | forks.labels, memory=forks.memory)
                likes = [replace(like, name=name) for name in names]
                made = [await self._insert(db, caller, like, profile, None, waits=True) for like in likes]
                if request is not None:
                    answer = {"items": to_wire(made)}
                    await request.claim(db, source.id, answer, self.core.clock())
                return made
        except IntegrityError as error:
            raise Conflict(
                f"you have a sandbox named {' or '.join(str(name) for name in names[:3])}; choose another name"
            ) from error

    def _profile(self, new: NewSandbox) -> Profile:
        """The profile, once everything that only Bay can judge about the request is found good."""
        profile = self._profile_named(new.profile or DEFAULT_PROFILE)
        here = self.core.driver.capabilities
        if (new.image or profile.image) != HOST:
            _check_image(new, profile, here)
        _check_offered("isolation", new.isolation or profile.isolation, here.isolation)
        _check_offered("persist", profile.persist, here.persist)
        if new.network_policy is None and (here.egress != "enforced" or not here.network_rules):
            check_offered(profile.network_policy, here)
        if profile.persist == "machine":
            machine_layers(self.core.cargo)
        if new.from_checkpoint is not None:
            checkpoint_store(self.core.cargo)
        self._check_policy(new.checkpoint_policy)
        if new.volumes and not here.volumes:
            raise CapabilityNotSupported(
                "this server's driver mounts no volumes; give cargo_id, which is the workspace",
                details={"capability": "volumes", "available": []},
            )
        if not here.secret_files and any(one.file is not None for one in new.secrets):
            raise CapabilityNotSupported(
                "the driver cannot keep a secret's file in memory; give it as env instead",
                details={"capability": "secret_files", "available": []},
            )
        _check_name(new.name)
        if new.entrypoint is not None:
            _check_entrypoint(new, profile)
        if new.from_checkpoint is not None and new.cargo_id is not None:
            raise BadRequest("give cargo_id or from_checkpoint, not both: a fork gets a new cargo")
        if new.sizes.disk_mb is not None and new.cargo_id is not None:
            raise BadRequest("give cargo_id or disk_mb, not both: an external cargo has a limit of its own")
        return profile

    def _profile_named(self, name: str) -> Profile:
        profile = self.core.profiles.get(name)
        if profile is None:
            there = sorted(self.core.profiles)
            raise BadRequest(
                f"there is no profile {name}; there is {' or '.join(there)}", details={"available": there}
            )
        return profile

    def _check_policy(self, wanted: CheckpointPolicy | None) -> None:
        """Raises CapabilityNotSupported for automatic checkpoints that the cargo backend cannot make."""
        if wanted is None or (wanted.every is None and not wanted.before_stop):
            return
        checkpoint_store(self.core.cargo)

    def _check_can_pause(self, record: SandboxRecord, *, cold_too: bool) -> None:
        if not self.core.driver.capabilities.pause:
            raise CapabilityNotSupported(
                "the driver cannot pause sandboxes; stop it instead",
                details={"capability": "pause", "available": []},
            )
        if record.target == "hibernated" and not cold_too:
            raise Conflict(f"sandbox {record.id} hibernates already; resume it first")
        if record.target not in HAVING and not cold_too:
            raise Conflict(f"sandbox {record.id} is cold already; there is nothing to pause")

    def _clocks(self, present: SandboxRecord, changed: dict[str, Any]) -> dict[str, datetime | None]:
        """Where the clocks of changed timeouts stand now."""
        now, clocks = self.core.clock(), dict[str, datetime | None]()
        if "idle_timeout" in changed and present.target == "running":
            clocks["idle_expires_at"] = expiry(now, changed["idle_timeout"])
        if "warm_timeout" in changed and present.phase == "paused":
            clocks["warm_expires_at"] = expiry(now, changed["warm_timeout"])
        if "checkpoint_policy" in changed:
            clocks["checkpoint_at"] = policy.next_at(changed["checkpoint_policy"], now)
        return clocks

    async def _check_room(self, what: str, request: idempotency.Request | None) -> None:
        """Raises StorageFull: it would be there, and never start. A repeated call makes nothing more."""
        try:
            await self.core.cargo.check_room(what)
        except StorageFull:
            if await self._claim_of(request) is None:
                raise

    async def _claim_of(self, request: idempotency.Request | None) -> Claim | None:
        """The result of an earlier call with the same key."""
        if request is None:
            return None
        async with self.core.store.read() as db:
            return await request.earlier(db)

    async def _earlier(self, db: StoreConnection, request: idempotency.Request | None) -> Sandbox | None:
        claim = await request.earlier(db) if request else None
        return from_wire(Sandbox, claim.answer) if claim else None

    async def _insert(
        self,
        db: StoreConnection,
        caller: Caller,
        new: NewSandbox,
        profile: Profile,
        kind: PoolKind | None,
        *,
        waits: bool,
    ) -> Sandbox:
        """Make the sandbox, or claim one of that kind from the pool."""
        now = self.core.clock()
        await _check_secrets(db, caller, new.secrets)
        await check_injected(db, caller.owner, new.network_policy)
        for volume in new.volumes:
            await self._check_cargo(db, caller, volume.cargo)
        # A caller that waits for compute wants it from the start: a quota must refuse the create and not a
        # later step.
        starts = waits or profile.start == "eager"
        origin = new.from_checkpoint and await self.snapshots.usable(db, caller, new.from_checkpoint)
        image = await self._image(db, caller, new, profile, origin or None)
        pooled = None if kind is None else await self.pool.claim(db, kind, image and image.id)
        resources = sizes.resources_of(new.sizes, profile)
        await self.quotas.admit_create(db, caller, resources, starts=starts or pooled is not None)
        if pooled is not None:
            made = self._record(caller, new, profile, image, now)
            return await self._claim(db, made, pooled, starts=starts)
        if origin and new.network_policy is None:  # the fork's network may reach no more than its source's
            new = replace(new, network_policy=await networks.get(db, origin.sandbox_id))
        record = self._record(caller, new, profile, image, now)
        if new.cargo_id is None:
            limit_mb = sizes.sizes_of(new.sizes, profile).disk_mb
            await add_cargo(db, record, self.core.cargo.name, limit_mb, new.from_checkpoint)
        else:
            await self._check_cargo(db, caller, new.cargo_id)
        host = await sandboxes.free_host(db, host_of(new.name), record.id)
        record = replace(record, host=host, target="running" if starts else "stopped")
        if origin:  # one that was made for a fork of the present is hidden
            record = replace(record, checkpoint_id=origin.parent_id if origin.hidden else origin.id)
            record = replace(record, memory_id=origin.id if new.memory else None)
        await sandboxes.add(db, record)
        if new.network_policy is not None:
            await networks.put(db, record.id, new.network_policy)
        for spec in new.services:
            await services.put(db, record.id, spec)
        if new.entrypoint is not None and image is not None and image.state == "ready":
            await services.put(db, record.id, entrypoints.service_of(image, profile))
        await events.add(db, record, "sandbox.created", now)
        return self.view(record)

    async def _claim(
        self, db: StoreConnection, made: SandboxRecord, pooled: SandboxRecord, *, starts: bool
    ) -> Sandbox:
        """Give the sandbox that the create would have made the pool's row, files and session."""
        record = replace(
            made,
            id=pooled.id,
            image=pooled.image,  # with the digest that it runs by now
            cargo_id=pooled.cargo_id,
            generation=pooled.generation,
            session=pooled.session,
            # It waited under its profile's policy; one that says the same has no row of its own.
            network_version=0,
            network_mode=None,
            network_brokers=False,
            host=await sandboxes.free_host(db, host_of(made.name), pooled.id),
            last_active_at=made.last_active_at
            if starts
            else None,  # as one that is not there yet would show it
        )
        await sandboxes.claim(db, record)
        await cargos.change(db, record.cargo_id, owner=record.owner, created_at=record.created_at)
        session_id = record.session.id if record.session else None
        await events.add(db, record, "sandbox.created", record.created_at)
        await events.add(db, record, "sandbox.ready", record.created_at, session_id=session_id, pooled=True)
        return self.view(record)

    async def _check_cargo(self, db: StoreConnection, caller: Caller, cargo_id: str) -> None:
        cargo = await cargos.find(db, caller.owner, cargo_id)
        if cargo is None:
            raise NotFound(f"there is no cargo {cargo_id}")
        if cargo.managed_by_sandbox_id is not None:
            raise Conflict(
                f"cargo {cargo_id} belongs to {cargo.managed_by_sandbox_id} and is deleted with it; give the "
                "id of an external cargo"
            )

    async def _image(
        self,
        db: StoreConnection,
        caller: Caller,
        new: NewSandbox,
        profile: Profile,
        origin: CheckpointRecord | None,
    ) -> ImageRecord | None:
        """The image that the sandbox will have; None is `host`. Changes of a root file system hold for the
        image alone that they were made to. Raises Conflict for another, or as `ImageRequests.choose`.
        """
        if not self.core.driver.capabilities.layered:
            return None
        lasting = origin if origin and origin.persist == profile.persist == "machine" else None
        if lasting is not None and lasting.image_id is None and lasting.image != HOST:
            raise Conflict(
                f"checkpoint {lasting.id} was imported into a sandbox of another image, and has changes to the "
                f"root of image {lasting.image}; import it into a sandbox of that image"
            )
        if lasting is not None and new.image is None:
            return (
                await self.images.choose(db, caller, lasting.image_id, "missing")
                if lasting.image_id
                else None
            )
        if new.image is None:
            image = None if profile.image == HOST else await self.images.of_profile(db, profile.image)
        else:
            image = None if new.image == HOST else await self.images.choose(db, caller, new.image, new.pull)
        if lasting is not None and lasting.image_id != (image and image.id):
            raise Conflict(
                f"checkpoint {lasting.id} has changes to the root of image {lasting.image}, and of no other; "
                "leave `image` out"
            )
        return image

    def _name_of(self, new: NewSandbox, profile: Profile) -> str:
        """The image of a sandbox that no row stands for."""
        return HOST if self.core.driver.capabilities.layered else named.full(new.image or profile.image)

    def _record(
        self, caller: Caller, new: NewSandbox, profile: Profile, image: ImageRecord | None, now: datetime
    ) -> SandboxRecord:
        ttl = profile.ttl if new.ttl is None else new.ttl
        idle_timeout = new.idle_timeout if new.idle_timeout is not None else profile.idle_timeout
        warm_timeout = new.warm_timeout if new.warm_timeout is not None else profile.warm_timeout
        return replace(
            fresh_record(profile, caller.owner, new.cargo_id or new_id("ws"), now),
            key_id=caller.key_id,
            name=new.name,
            image=image.ref if image else self._name_of(new, profile),
            image_id=image and image.id,
            image_state=image and image.state,
            entrypoint=new.entrypoint if image and image.state != "ready" else None,
            isolation=new.isolation or profile.isolation,
            checkpoint_policy=new.checkpoint_policy,
            checkpoint_at=policy.next_at(new.checkpoint_policy, now),
            network_version=0 if new.network_policy is None else 1,
            network_mode=new.network_policy and new.network_policy.mode,
            network_brokers=has_headers(new.network_policy),
            url=new.url,
            ports=new.ports,
            cpus=new.sizes.cpus,
            memory_mb=new.sizes.memory_mb,
            disk_mb=new.sizes.disk_mb,
            pids=new.sizes.pids,
            env=new.env,
            secrets=new.secrets,
            volumes=new.volumes,
            labels=new.labels,
            idle_timeout=idle_timeout,
            idle_expires_at=expiry(now, idle_timeout),
            warm_timeout=warm_timeout,
            last_active_at=now,
            expires_at=expiry(now, ttl or None),
            on_expiry=new.on_expiry or profile.on_expiry,
        )

    def _extended(self, record: SandboxRecord, extend_by: int) -> datetime:
        self.waker.refuse_expired(record)
        if record.expires_at is None:
            raise SandboxTtlInfinite(f"sandbox {record.id} never expires, so there is nothing to extend")
        now = self.core.clock()
        later = max(record.expires_at, now) + timedelta(seconds=extend_by)
        if later - now > timedelta(seconds=_MAX_TTL):
            raise InvalidArgument("a sandbox may live for ten years at most from now")
        return later

    async def _settled(self, sandbox: Sandbox, wait_s: float, *, serving: bool) -> Sandbox:
        """The sandbox once its start has ended, and with `serving` once its template's service is healthy or
        has ended for good; or as it is when the seconds are over.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        record = await self.waker.settled(sandbox.id, wait_s)
        if record is not None and serving:
            record = await self._serving(sandbox.id, until - loop.time())
        if record is None:
            async with self.core.store.read() as db:
                record = await sandboxes.get(db, sandbox.id)
        is_there = record is not None and record.deleted_at is None and record.target != "deleted"
        return self.view(record) if record and is_there else sandbox

    async def _serving(self, sandbox_id: str, wait_s: float) -> SandboxRecord | None:
        """The sandbox once there is nothing more to wait for of its `main`, which has a health check."""

        async def read() -> SandboxRecord | None:
            async with self.core.store.read() as db:
                found = await sandboxes.get(db, sandbox_id)
            return found if found is not None and await self._serves(found) else None

        return await self.waker.wait_for(sandbox_id, read, wait_s)

    async def _serves(self, record: SandboxRecord) -> bool:
        if record.session is None or record.session.phase != "running":
            return True
        main = (await self.syncer.report(record.id, record.session.id)).seen.get(MAIN)
        return main is not None and (main.healthy is True or main.state in ("failed", "exited"))

    async def _containers(self, record: SandboxRecord) -> tuple[Container, ...] | None:
        """The live session's container, once in use, unhealthy if it is silent; a frozen one as it was."""
        session = record.session
        if session is None or session.phase not in ("running", "paused") or not record.is_called:
            return None
        frozen = session.phase == "paused"
        meta = self.ship.last_meta(session.id) if frozen else await self._meta(record, session)
        offered = (
            self.view(record).capabilities if frozen else ()
        )  # as far as it is known when Bay was restarted since
        return (
            Container(
                name="ship",
                runtime_type="ship",
                status=session.phase,
                version=meta.version if meta else None,
                capabilities=tuple(meta.capabilities) if meta else offered,
                healthy=frozen or meta is not None,
            ),
        )

    async def _meta(self, record: SandboxRecord, session: SessionRecord) -> ShipMeta | None:
        peer = peer_of(session)
        try:
            return await self.ship.meta(peer) if peer else None
        except BayError:
            self.request_probe(record.id)
            return None

    async def _settle(self, before: SandboxRecord, done: Callable[[SandboxRecord], bool]) -> None:
        """Poke the reconciler and wait until `done`; `before` is the row before something else was wanted.
        Raises DriverUnavailable when the host would not do it, and Timeout; the reconciler goes on.
        """
        await self.waker.settle(before, done, lambda r: _is_refused(r, before), _late(before), _SETTLE_S)

    async def _acted_on(self, record: SandboxRecord) -> None:
        """Return when the host has done what the row says already. Raises Timeout."""
        try:
            async with asyncio.timeout(_SETTLE_S):
                await self.waker.acted_on(record.id)
        except TimeoutError:
            raise _late(record) from None


def _late(record: SandboxRecord) -> Timeout:
    return Timeout(f"sandbox {record.id} takes longer than {_SETTLE_S:g} s; Bay continues in the background")


def _check_offered(what: str, wanted: str, offered: tuple[str, ...]) -> None:
    if wanted not in offered:
        raise BadRequest(
            f"{what} {wanted} is not available here; there is {' or '.join(offered)}. `bay doctor` says why",
            details={"available": list(offered)},
        )


def _laid_over(template: TemplateRecord, new: NewSandbox) -> NewSandbox:
    """The create with what the template says, where it says nothing else itself."""
    named = {spec.name for spec in new.services}
    if new.entrypoint is not None:
        named.add(entrypoints.NAME)
    kept = (spec for spec in template_services(template) if spec.name not in named)
    return replace(
        new,
        profile=new.profile or template.profile,
        image=template.image_id,
        pull="missing",
        from_checkpoint=new.from_checkpoint or (None if new.cargo_id else template.checkpoint_id),
        env={**template.env, **new.env},
        sizes=new.sizes if new.profile else sizes.over(new.sizes, template.sizes),
        services=(*kept, *new.services),
    )


def _checked_main(new: NewSandbox) -> bool:
    """Whether its template has it start with a service that says when it is ready."""
    has_check = any(spec.name == MAIN and spec.health is not None for spec in new.services)
    return new.template is not None and has_check


def _check_image(new: NewSandbox, profile: Profile, here: Capabilities) -> None:
    """Raises for a driver with no such image, or whose host does not tell what is in one."""
    if here.other_images is None:
        raise BadRequest("this server's driver has the image host alone", details={"available": [HOST]})
    if here.layered:
        return
    if new.entrypoint is not None:
        raise CapabilityNotSupported(
            "the ENTRYPOINT of an image is not known here; give a service with its command in `services`",
            details={"capability": "entrypoint", "available": []},
        )
    if profile.user == OF_IMAGE:
        raise CapabilityNotSupported(
            f"the USER of an image is not known here, and profile {profile.id} has programs run as it; use a profile "
            "with another `user`",
            details={"capability": "user", "available": []},
        )


def _check_entrypoint(new: NewSandbox, profile: Profile) -> None:
    if (new.image or profile.image) == HOST:
        raise BadRequest("image host has no ENTRYPOINT; name another image, or define a service of your own")
    if any(spec.name == entrypoints.NAME for spec in new.services):
        raise BadRequest(f"`entrypoint` makes a service {entrypoints.NAME}; give yours another name")
    if len(new.services) >= rules.MAX_SERVICES:
        raise BadRequest(
            f"a sandbox may have at most {rules.MAX_SERVICES} services, and `entrypoint` makes one"
        )


def _fits_pool(new: NewSandbox, profile: Profile) -> bool:
    """Whether the pool's sandboxes fit the request: env, labels, name and limits come after the start."""
    wants_other = new.image not in (None, profile.image) or new.isolation not in (None, profile.isolation)
    wants_other = wants_other or new.network_policy not in (None, profile.network_policy)
    wants_other = wants_other or new.sizes != PROFILES_OWN
    has_files = any(one.file is not None for one in new.secrets)
    is_plain = new.cargo_id is None and new.from_checkpoint is None and not new.services and not has_files
    is_plain = is_plain and not new.volumes and not new.entrypoint
    is_plain = is_plain and not (new.env and profile.env_file)  # its file is there already, without those
    # The pool's run for nobody, who has no secrets.
    return is_plain and not wants_other and not has_headers(profile.network_policy)


def _fits(kind: PoolKind, asked: NewSandbox, new: NewSandbox) -> bool:
    """Whether the kind's sandboxes fit the request `asked`, which is `new` with what the template says. The
    service of a template has been given its variables, and no secrets: it may run already.
    """
    if (template := kind.template) is None:
        return _fits_pool(new, kind.profile)
    own = {name: getattr(asked, name) for name in ("image", "from_checkpoint", "services")}
    is_plain = _fits_pool(replace(new, **own, sizes=PROFILES_OWN), kind.profile)
    has_sizes = new.sizes == sizes.checked(template.sizes, kind.profile)
    comes_later = template.start_command is None or (new.env == template.env and not new.secrets)
    return is_plain and has_sizes and comes_later


def _like(
    source: SandboxRecord,
    name: str | None,
    from_checkpoint: str | None,
    network: NetworkPolicy | None,
    kept: tuple[ServiceSpec, ...],
) -> NewSandbox:
    """The create of a sandbox like `source`, of which public ports are not inherited, nor Bay's own labels:
    one may say that ports are public, or that the sandbox goes with its build.
    """
    labels = {key: value for key, value in source.labels.items() if not key.startswith(OWN_LABELS)}
    url = source.url and replace(source.url, access="owner")
    ports = tuple(replace(port, access="owner") for port in source.ports)
    return NewSandbox(
        profile=source.profile, name=name, image=source.image_id or source.image, isolation=source.isolation, env=source.env,
        labels=labels, idle_timeout=source.idle_timeout, warm_timeout=source.warm_timeout,
        on_expiry=source.on_expiry,
        from_checkpoint=from_checkpoint, checkpoint_policy=source.checkpoint_policy, network_policy=network,
        url=url, ports=ports, services=kept, secrets=source.secrets, sizes=source.sizes,
        volumes=volumes.of_fork(source.volumes),
    )  # fmt: skip


async def _check_secrets(db: StoreConnection, caller: Caller, given: Sequence[SandboxSecret]) -> None:
    if not given:
        return
    there = await secrets.named(db, caller.owner, {one.name for one in given})
    for one in given:
        if one.name not in there:
            raise NotFound(f"there is no secret {one.name}; set it first")


def _fork_names(forks: Forks) -> list[str | None]:
    if forks.name is None or forks.count == 1:
        return [forks.name] * forks.count
    return [f"{forks.name}-{number}" for number in range(1, forks.count + 1)]


def _forks_of(claim: Claim) -> list[Sandbox]:
    answer = claim.answer or {"items": []}
    return [from_wire(Sandbox, item) for item in answer["items"]]


def _is_refused(record: SandboxRecord, before: SandboxRecord) -> bool:
    """Whether the host has refused to end it: its row says something that it did not say before."""
    error = record.error
    said = error is not None and error != before.error and not error.code.startswith("session_")
    return said and record.target in ("stopped", "deleted")


def _check_name(name: str | None) -> None:
    if name is not None and not is_name(name):
        raise InvalidArgument(
            "a name must have 1 to 63 characters of a-z, 0-9 and inner hyphens, and must not look like an id"
        )


def _taken(name: str | None) -> Conflict:
    return Conflict(f"you have a sandbox named {name}; delete it or choose another name")
