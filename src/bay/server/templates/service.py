"""The template service: make, list, change and delete the templates of an owner."""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bay.cargo.base import CargoStore, checkpoint_files
from bay.clock import Clock
from bay.errors import BadRequest, Conflict, Forbidden, InvalidArgument, NotFound, QuotaExceeded, Timeout
from bay.ids import is_id, is_name, new_id
from bay.linux.threads import in_new_thread
from bay.models import Profile, Sizes, Template, to_wire
from bay.server.images.requests import HOST
from bay.server.sessions import sizes
from bay.server.sessions.core import DEFAULT_PROFILE
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.sizes import PROFILES_OWN
from bay.server.sessions.waker import Waker
from bay.server.templates.build_spec import BuildSpec
from bay.server.templates.freezing import changes_of
from bay.server.templates.maker import TemplateMaker
from bay.server.templates.services import can_have_pool
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.store import audit, events, images, sandboxes, templates
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import Page, SandboxRecord, TemplateRecord

LATEST = "latest"
MAX_ALIASES = 100
"""Further names of one template."""
MAX_POOL = 100
"""Sandboxes in the pool of one template."""
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_SHOWN = 20
_MAX_BUILDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTemplate:
    """The parameters of a template, made of `sandbox` or by `build`. `profile` and `sizes` of None are those
    of the sandbox.
    """

    name: str
    tag: str = LATEST
    sandbox: str | None = None
    build: BuildSpec | None = None
    shared: bool = False
    profile: str | None = None
    start_command: tuple[str, ...] | None = None
    ready_command: tuple[str, ...] | None = None
    sizes: Sizes = PROFILES_OWN
    env: dict[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    working_dir: str | None = None
    config: dict[str, Any] | None = field(default=None, repr=False)
    """Changes to the config of its image, in the form of an OCI image's."""
    pool_size: int = 0
    pool_max: int | None = None


@dataclass(kw_only=True, eq=False)
class Templates:
    """The service behind `/v1/templates`."""

    store: Store
    waker: Waker
    cargo: CargoStore
    maker: TemplateMaker
    notifier: Notifier
    quotas: Quotas
    profiles: dict[str, Profile]
    seen_pool: Callable[[str], tuple[int, str | None]]
    """How many wait in the pool of a template, and why it is not full."""
    empty_pool: Callable[[str], Awaitable[None]]
    """Removes what waits of an image whose template keeps no pool by now."""
    clock: Clock

    async def create(
        self, caller: Caller, new: NewTemplate, *, wait_s: float, idempotency_key: str | None
    ) -> Template:
        """Have a template made of a sandbox or built; answers at once, or with `wait_s` when it is ready or
        failed. Raises NotFound, InvalidArgument, Forbidden, Conflict, QuotaExceeded, and
        CapabilityNotSupported where Bay has no files of checkpoints, of which a template is made.
        """
        checkpoint_files(self.cargo)
        request = idempotency.request(caller, idempotency_key, "POST /v1/templates", to_wire(new))
        _check_may_share(caller, new.shared)
        check_name(new.name)
        check_tag(new.tag)
        changes_of(new.config)
        if (earlier := await self._earlier(request)) is not None:
            return await self._waited(earlier, wait_s)
        if new.build is not None:
            await in_new_thread(new.build.check)
        made = self._built(caller, new, new.build) if new.build else await self._frozen(caller, new)
        self._check_pool(made)
        async with self.store.write() as db:
            if request is not None and (claim := await request.earlier(db)) is not None:
                return await self._again(db, claim.resource_id)
            await self.quotas.admit_files(db, caller)
            await self.quotas.admit_pool(db, caller, made)
            await self._check_builds(db, made)
            await self._add(db, made)
            if request is not None:
                await request.claim(db, made.id, to_wire(view_of(made)), self.clock())
        audit.about(made.id)
        self.maker.poke()
        return await self._waited(made, wait_s)

    async def take_context(
        self,
        caller: Caller,
        ref: str,
        keep: Callable[[str], AbstractAsyncContextManager[Callable[[], Awaitable[Path]]]],
    ) -> Template:
        """Begin a build whose context comes: `keep` takes it, for the template's id, and gives a function
        that puts it in its place. Raises NotFound, and Conflict for a template that waits for none.
        """
        async with self.store.read() as db:
            found = await self._own(db, caller, ref)
        spec = _awaiting(found)
        async with keep(found.id) as put, self.store.write() as db:
            _awaiting(await templates.get(db, found.id) or found)
            await put()  # here, so that of two uploads at once one is refused
            await templates.change(db, found.id, build=spec.with_context().to_row())
        audit.about(found.id)
        self.maker.poke()
        return view_of(found)

    async def page(self, caller: Caller, *, name: str | None, after: int, limit: int) -> Page[Template]:
        """Part of the templates that the caller may use, oldest first."""
        async with self.store.read() as db:
            found = await templates.page(db, caller.owner, name=name, after=after, limit=limit)
        return Page(items=tuple(map(self._view, found.items)), next_cursor=found.next_cursor)

    async def get(self, caller: Caller, ref: str, wait_s: float) -> Template:
        """One template by id, `name` or `name:tag`; with `wait_s` once it is ready or failed. Raises
        NotFound.
        """
        async with self.store.read() as db:
            found = await templates.find(db, caller.owner, ref)
        if found is None:
            raise not_found(ref)
        audit.about(found.id)
        return await self._waited(found, wait_s)

    async def update(self, caller: Caller, ref: str, changes: dict[str, Any]) -> Template:
        """Change its `tag`, which it takes from another of that name, `shared`, or its pool.
        Raises NotFound, Forbidden, InvalidArgument, Conflict or QuotaExceeded.
        """
        _check_may_share(caller, bool(changes.get("shared")))
        if "tag" in changes:
            check_tag(changes["tag"])
        async with self.store.write() as db:
            found = await self._own(db, caller, ref)
            if "tag" in changes:
                _check_ready(found)
                await templates.take_name(db, found, found.name, changes["tag"])
                found = await templates.get(db, found.id) or found
            changes = {**changes, **await self._change_of_pool(db, caller, found, changes)}
            if changes:
                await templates.change(db, found.id, **changes)
            if "shared" in changes and found.image_id is not None:
                await images.change(db, found.image_id, shared=changes["shared"])
            present = await templates.get(db, found.id) or found
        audit.about(found.id)
        self.maker.poke()
        return self._view(present)

    async def add_alias(self, caller: Caller, ref: str, name: str, tag: str) -> Template:
        """Have one of the caller's templates be found by one more name, taken from any other; one that it has
        changes nothing. Raises NotFound, Forbidden, InvalidArgument or Conflict.
        """
        check_name(name)
        check_tag(tag)
        async with self.store.write() as db:
            found = await self._own(db, caller, ref)
            _check_ready(found)
            if f"{name}:{tag}" not in (found.ref, *found.aliases):
                _check_may_have_more(found)
                await templates.add_name(db, found, name, tag)
            present = await templates.get(db, found.id) or found
        audit.about(found.id)
        self.maker.poke()  # another may have lost its last name
        return self._view(present)

    async def delete(self, caller: Caller, ref: str) -> None:
        """Remove one of the caller's templates, or only that name of one with several; idempotent by id.
        Raises Conflict while sandboxes or checkpoints need what would go.
        """
        async with self.store.write() as db:
            gone = await templates.find_own(db, caller.owner, ref)
            if gone is not None and gone.deleted_at is not None:
                return
            found = await self._own(db, caller, ref)
            if found.aliases and not is_id(ref):
                audit.about(found.id)
                await templates.drop_name(db, found, *templates.split(ref))
                return
            pooled = await sandboxes.pooled_of(db, found.image_id) if found.image_id else []
            await _check_unused(db, found, besides=pooled)
            if pooled:
                await templates.change(db, found.id, pool_size=0, pool_max=None)
            else:
                await self.maker.hide(db, found)
        audit.about(found.id)
        if pooled and found.image_id:  # they have its layers mounted
            await self.empty_pool(found.image_id)
            async with self.store.write() as db:
                if await sandboxes.pooled_of(db, found.image_id):
                    raise Timeout(
                        f"the pool of template {found.ref} takes long to go; delete it again in a while"
                    )
                present = await templates.get(db, found.id)
                if present is not None and present.deleted_at is None:
                    await _check_unused(db, found)
                    await self.maker.hide(db, found)
        self.notifier.announce(found.id)
        await self.maker.stop(found)
        await self.maker.collect()

    async def _earlier(self, request: idempotency.Request | None) -> TemplateRecord | None:
        if request is None:
            return None
        async with self.store.read() as db:
            claim = await request.earlier(db)
            return await templates.get(db, claim.resource_id) if claim else None

    async def _again(self, db: StoreConnection, template_id: str) -> Template:
        found = await templates.get(db, template_id)
        if found is None:
            raise not_found(template_id)
        return self._view(found)

    def _check_pool(self, template: TemplateRecord) -> None:
        """Raises InvalidArgument or Conflict for a pool that there cannot be."""
        if template.pool_max is not None and template.pool_max < template.pool_size:
            raise InvalidArgument(
                f"pool_max is {template.pool_max}, less than pool_size, {template.pool_size}; give {template.pool_size} "
                "or more, or null for a pool that does not grow",
                details={"field": "body.pool_max"},
            )
        if template.pool_largest and template.tag is None:
            raise Conflict(
                f"template {template.id} has lost its tag, so it keeps no pool; give it a tag as well"
            )
        if template.pool_largest and not can_have_pool(self._profile(template.profile)):
            raise Conflict(
                f"profile {template.profile} adds headers with secrets, which are an owner's, and a pool belongs to "
                "nobody; use another profile, or pool_size 0"
            )

    async def _change_of_pool(
        self, db: StoreConnection, caller: Caller, found: TemplateRecord, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """More to change with a pool that the changes make larger: the key whose quotas it counts in."""
        if not changes.keys() & {"pool_size", "pool_max"}:
            return {}
        wanted = replace(found, **changes)
        self._check_pool(wanted)
        if wanted.pool_largest <= found.pool_largest:
            return {}
        await self.quotas.admit_pool(db, caller, wanted)
        return {"pool_key_id": caller.key_id}

    async def _add(self, db: StoreConnection, made: TemplateRecord) -> None:
        await templates.add(db, made)
        await events.add_of_image(
            db,
            made.owner,
            "template.building",
            made.created_at,
            template_id=made.id,
            name=made.name,
            tag=made.tag,
        )

    async def _own(self, db: StoreConnection, caller: Caller, ref: str) -> TemplateRecord:
        found = await templates.find(db, caller.owner, ref)
        if found is None:
            raise not_found(ref)
        if found.owner != caller.owner:
            raise Forbidden(f"template {found.id} is shared by another owner, and theirs to change")
        return found

    async def _frozen(self, caller: Caller, new: NewTemplate) -> TemplateRecord:
        sandbox = await self.waker.find(caller, new.sandbox or "")
        self.waker.refuse_expired(sandbox)
        _check_can_freeze(sandbox)
        asked = new.sizes if new.sizes != PROFILES_OWN or new.profile else sandbox.sizes
        return self._record(caller, new, self._profile(new.profile or sandbox.profile), asked, sandbox.id)

    def _built(self, caller: Caller, new: NewTemplate, build: BuildSpec) -> TemplateRecord:
        profile = self._profile(new.profile or DEFAULT_PROFILE)
        if profile.persist != "machine":
            raise Conflict(
                f"profile {profile.id} keeps /workspace alone, so a build in it could not be kept; name a profile with "
                "`persist: machine`"
            )
        made = self._record(caller, new, profile, new.sizes, None)
        return replace(made, build=replace(build, key_id=caller.key_id, scope=caller.scope).to_row())

    def _record(
        self, caller: Caller, new: NewTemplate, profile: Profile, asked: Sizes, sandbox_id: str | None
    ) -> TemplateRecord:
        own = sizes.checked(asked, profile)
        return TemplateRecord(
            id=new_id("tmpl"), owner=caller.owner, name=new.name, tag=new.tag, shared=new.shared, sandbox_id=sandbox_id,
            profile=profile.id, start_command=new.start_command, ready_command=new.ready_command,
            cpus=own.cpus, memory_mb=own.memory_mb, disk_mb=own.disk_mb, pids=own.pids, env=new.env, user=new.user,
            working_dir=new.working_dir, config=new.config, pool_size=new.pool_size, pool_max=new.pool_max,
            pool_key_id=caller.key_id, created_at=self.clock(),
        )  # fmt: skip

    async def _check_builds(self, db: StoreConnection, made: TemplateRecord) -> None:
        """Raises QuotaExceeded for too many builds that wait or run: each may have a context on the disk."""
        if made.build is None:
            return
        waiting = [one for one in await templates.building(db) if one.owner == made.owner and one.build]
        if len(waiting) >= _MAX_BUILDS:
            raise QuotaExceeded(
                f"{_MAX_BUILDS} builds of this owner wait or run, the limit; wait for one, or delete its template"
            )

    def _profile(self, name: str) -> Profile:
        if (profile := self.profiles.get(name)) is None:
            there = sorted(self.profiles)
            raise BadRequest(
                f"there is no profile {name}; there is {' or '.join(there)}", details={"available": there}
            )
        return profile

    async def _waited(self, template: TemplateRecord, wait_s: float) -> Template:
        async def ended() -> TemplateRecord | None:
            async with self.store.read() as db:
                found = await templates.get(db, template.id)
            return found if found is None or found.state != "building" or found.deleted_at else None

        found = await self.notifier.wait_for(template.id, ended, wait_s) if wait_s else None
        return self._view(found or template)

    def _view(self, record: TemplateRecord) -> Template:
        ready, error = self.seen_pool(record.id)
        return replace(view_of(record), pool_ready=ready, pool_error=error)


def view_of(record: TemplateRecord) -> Template:
    """A template as its owner sees it, but for the present state of its pool."""
    return Template(
        id=record.id, name=record.name, tag=record.tag, aliases=record.aliases, state=record.state, shared=record.shared, profile=record.profile,
        sandbox_id=record.sandbox_id, image_id=record.image_id, has_files=record.checkpoint_id is not None,
        start_command=record.start_command, ready_command=record.ready_command, cpus=record.cpus,
        memory_mb=record.memory_mb, disk_mb=record.disk_mb, pids=record.pids, env=dict.fromkeys(record.env, "***"),
        user=record.user, working_dir=record.working_dir, pool_size=record.pool_size, pool_max=record.pool_max,
        error=record.error,
        created_at=record.created_at,
    )  # fmt: skip


def not_found(ref: str) -> NotFound:
    """The error for a template that is not there, or another owner's."""
    return NotFound(f"you have no template {ref[:100]}; see `bay template ls`")


def _awaiting(template: TemplateRecord) -> BuildSpec:
    spec = BuildSpec.of_row(template.build) if template.build and template.deleted_at is None else None
    if spec is None or spec.context != "awaited":
        raise Conflict(
            f"template {template.id} waits for no context; ask for a build with `context: true`, and send it once"
        )
    return spec


def check_name(name: str) -> None:
    """Raises InvalidArgument for what cannot name a template."""
    if not is_name(name):
        raise InvalidArgument(
            "a template's name must have 1 to 63 characters of a-z, 0-9 and inner hyphens, and must not look "
            "like an id"
        )


def check_tag(tag: str) -> None:
    """Raises InvalidArgument for what cannot be a tag."""
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(
            "a tag must have 1 to 63 characters of A-Z, a-z, 0-9, '_', and later '.' and '-'"
        )


def _check_can_freeze(sandbox: SandboxRecord) -> None:
    if sandbox.image_id is None and sandbox.image == HOST:
        raise Conflict(
            f"sandbox {sandbox.id} runs on this host's own /usr, which changes with every upgrade, so no template can "
            "be made of it; make one of a sandbox with an image, such as `image: debian:13`"
        )
    if sandbox.persist != "machine":
        raise Conflict(
            f"profile {sandbox.profile} of sandbox {sandbox.id} keeps /workspace alone, so its other files cannot be "
            "frozen; use a profile with `persist: machine`"
        )


def _check_ready(template: TemplateRecord) -> None:
    if template.state != "ready":
        raise Conflict(f"template {template.id} is {template.state}; only one that is ready can take a tag")


def _check_may_have_more(template: TemplateRecord) -> None:
    if len(template.aliases) >= MAX_ALIASES:
        raise Conflict(
            f"template {template.ref} has {MAX_ALIASES} aliases, the limit; delete some by their names"
        )


def _check_may_share(caller: Caller, shared: bool) -> None:
    if shared and caller.scope != "admin":
        raise Forbidden(
            "only a key with scope admin may share a template with all owners; leave `shared` out"
        )


async def _check_unused(db: StoreConnection, template: TemplateRecord, besides: Sequence[str] = ()) -> None:
    found = await images.users(db, template.image_id) if template.image_id else []
    users = [one for one in found if one != template.id and one not in besides]
    if users:
        shown = ", ".join(users[:_SHOWN])
        raise Conflict(
            f"template {template.ref} is used by {shown}{' and others' if len(users) > _SHOWN else ''}; delete those "
            "first",
            details={"users": users[:_SHOWN], "count": len(users)},
        )
