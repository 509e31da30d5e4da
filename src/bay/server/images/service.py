"""The image service: pull, upload, list, delete and prune the images of an owner."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from bay.clock import Clock
from bay.drivers.base import Driver
from bay.errors import Conflict, DatabaseUnavailable, Forbidden, ImageNotFound
from bay.ids import new_id
from bay.images import references, scratch
from bay.images.base import ImageLibrary
from bay.models import ContainerImage, Pull, PullProgress, from_wire, to_wire
from bay.server.images import named
from bay.server.images.puller import Puller
from bay.server.images.requests import ImageRequests, full_reference
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.open_connections import one_place
from bay.server.web.replies import begun
from bay.store import audit, events, images
from bay.store.engine import Store
from bay.store.lost_commits import may_be_there
from bay.store.records import ImageRecord, Page

_SHOWN = 20
_MAX_EXPORTS = 2
_MAX_UPLOADS = 2
"""Of one owner at once: only an archive that is whole counts against a quota."""
_UPLOADING = "uploads of images of this owner are in progress, the limit; wait for one to end"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImage:
    """The parameters of a pull."""

    ref: str
    pull: Pull = "always"
    shared: bool = False


@dataclass(kw_only=True, eq=False)
class Images:
    """The service behind `/v1/images`."""

    store: Store
    driver: Driver
    library: ImageLibrary
    puller: Puller
    requests: ImageRequests
    notifier: Notifier
    quotas: Quotas
    clock: Clock
    _exports: Counter[str] = field(init=False, default_factory=Counter[str])
    _uploads: Counter[str] = field(init=False, default_factory=Counter[str])
    _making_scratch: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    async def pull(
        self, caller: Caller, wanted: WantedImage, *, wait_s: float, idempotency_key: str | None
    ) -> ContainerImage:
        """Have an image; answers at once, or with `wait_s` when its pull has ended. Raises InvalidArgument,
        CapabilityNotSupported, ImageNotFound, Forbidden or QuotaExceeded.
        """
        self._check_layered()
        _check_may_share(caller, wanted.shared)
        request = idempotency.request(caller, idempotency_key, "POST /v1/images", to_wire(wanted))
        async with self.store.write() as db:
            if request is not None and (claim := await request.earlier(db)) is not None:
                return from_wire(ContainerImage, claim.answer)
            image = await self.requests.choose(db, caller, wanted.ref, wanted.pull, shared=wanted.shared)
            if request is not None:
                await request.claim(db, image.id, to_wire(self._view(image)), self.clock())
        audit.about(image.id)
        self.puller.poke()
        return await self._waited(image, wait_s)

    async def upload(
        self, caller: Caller, ref: str, body: AsyncIterator[bytes], *, shared: bool, wait_s: float
    ) -> ContainerImage:
        """An image from an archive of `docker save`, `podman save` or an OCI layout, under the name `ref`.
        Raises InvalidArgument, ImageTooLarge, StorageFull or QuotaExceeded.
        """
        self._check_layered()
        _check_may_share(caller, shared)
        full = str(references.parse(ref))
        with one_place(self._uploads, caller.owner, _MAX_UPLOADS, _UPLOADING):
            made = await self._keep(caller, full, body, shared=shared)
        return await self._waited(made, wait_s)

    async def scratch(self, caller: Caller, wait_s: float) -> ContainerImage:
        """The caller's image without a file, made where it is missing. Raises as `upload` does."""

        async def body() -> AsyncIterator[bytes]:
            yield scratch.archive()

        async with self._making_scratch:
            async with self.store.read() as db:
                found = await images.find(db, caller.owner, scratch.REF)
            if found is None or found.state == "failed":
                found = await self._keep(caller, scratch.REF, body(), shared=False)
        return await self._waited(found, wait_s)

    async def _keep(
        self, caller: Caller, ref: str, body: AsyncIterator[bytes], *, shared: bool
    ) -> ImageRecord:
        """Take an archive whole, which the puller then makes an image of."""
        now = self.clock()
        made = ImageRecord(
            id=new_id("img"), owner=caller.owner, shared=shared, ref=ref, source="upload", created_at=now,
            last_used_at=now,
        )  # fmt: skip
        async with self.store.write() as db:
            await self.requests.admit(db, caller)
        async with self.library.keep_upload(made.id, body) as size:
            made = replace(made, size_bytes=size)
            lost = await self._add(made)
        self.puller.poke()
        if lost is not None:
            raise lost
        audit.about(made.id)
        return made

    async def _add(self, made: ImageRecord) -> DatabaseUnavailable | None:
        """Write the row. Returns the error when nobody knows whether it is there: its archive must stay."""
        try:
            async with self.store.write() as db:
                await images.add(db, made)
                await events.add_of_image(
                    db, made.owner, "image.pulling", made.created_at, image_id=made.id, ref=made.ref
                )
        except DatabaseUnavailable as error:
            if await may_be_there(self.store, error, lambda db: images.get(db, made.id)):
                return error
            raise
        return None

    async def page(self, caller: Caller, *, after: int, limit: int) -> Page[ContainerImage]:
        """Part of the images that the caller may use, oldest first."""
        async with self.store.read() as db:
            found = await images.page(db, caller.owner, after=after, limit=limit)
        return Page(items=tuple(await self._shown(found.items)), next_cursor=found.next_cursor)

    async def get(self, caller: Caller, ref: str, wait_s: float) -> ContainerImage:
        """One image, by id or reference, with `wait_s` once its pull has ended. Raises ImageNotFound."""
        return await self._waited(await self._find(caller, ref), wait_s)

    @asynccontextmanager
    async def export(
        self, caller: Caller, ref: str
    ) -> AsyncGenerator[tuple[ImageRecord, AsyncIterator[bytes]], None]:
        """The image, kept while it is read, and a stream of its archive. Raises Conflict, QuotaExceeded."""
        image = await self._find(caller, ref)
        if image.state != "ready" or image.config is None:
            raise Conflict(f"image {image.id} is {image.state}; only one that is ready can be exported")
        async with self.store.read() as db:
            layers = await images.layers_of(db, image.id)
        doing = "exports of images of this owner are in progress, the limit; wait for one to end"
        export = self.library.export(image.ref, [layer.diff_id for layer in layers], image.config)
        with one_place(self._exports, caller.owner, _MAX_EXPORTS, doing):
            async with aclosing(export) as chunks:
                yield image, await begun(chunks)

    async def delete(self, caller: Caller, ref: str) -> None:
        """Remove one of the caller's images, and cancel its pull; idempotent by id. Raises Conflict while
        sandboxes or checkpoints need it.
        """
        async with self.store.write() as db:
            known = await images.find_own(db, caller.owner, ref)
            if known is not None and known.deleted_at is not None:
                return
            found = known or await images.find(db, caller.owner, full_reference(ref))
            if found is None:
                raise ImageNotFound(f"you have no image {ref}; see `bay image ls`")
            if found.owner != caller.owner:
                raise Forbidden(f"image {found.id} is shared by another owner, and theirs to delete")
            _check_unused(found, await images.users(db, found.id))
            await self.puller.hide(db, found)
        audit.about(found.id)
        self.notifier.announce(found.id)
        self.puller.poke()
        await self.puller.collect()

    async def prune(self, caller: Caller, unused_for: int) -> list[ContainerImage]:
        """Remove those of the caller that nothing uses, and nothing started from for that many seconds."""
        async with self.store.write() as db:
            gone = await images.unused(db, self.clock() - timedelta(seconds=unused_for), owner=caller.owner)
            for image in gone:
                await self.puller.hide(db, image)
        await self.puller.collect()
        return await self._shown(gone)

    def _check_layered(self) -> None:
        """Raises CapabilityNotSupported where no sandbox could run an image of Bay's."""
        here = self.driver.capabilities
        if not here.layered:
            raise named.no_rows(self.driver.name, here.other_images)

    async def _find(self, caller: Caller, ref: str) -> ImageRecord:
        async with self.store.read() as db:
            found = await images.find(db, caller.owner, full_reference(ref))
        if found is None:
            raise ImageNotFound(f"you have no image {ref}; see `bay image ls`")
        audit.about(found.id)
        return found

    async def _waited(self, image: ImageRecord, wait_s: float) -> ContainerImage:
        async def ended() -> ImageRecord | None:
            async with self.store.read() as db:
                found = await images.get(db, image.id)
            return found if found is None or found.state != "pulling" or found.deleted_at else None

        found = await self.notifier.wait_for(image.id, ended, wait_s) if wait_s else None
        return (await self._shown([found or image]))[0]

    async def _shown(self, records: Sequence[ImageRecord]) -> list[ContainerImage]:
        under_way = await self.puller.progress([one.id for one in records if one.state == "pulling"])
        return [self._view(one, under_way.get(one.id)) for one in records]

    def _view(self, record: ImageRecord, progress: PullProgress | None = None) -> ContainerImage:
        config = record.config or {}
        platform = [config[key] for key in ("os", "architecture", "variant") if config.get(key)]
        image = ContainerImage(
            id=record.id, ref=record.ref, digest=record.digest, source=record.source, state=record.state,
            shared=record.shared, size_bytes=record.size_bytes, layers=record.layers, error=record.error,
            platform="/".join(platform) or None, attempts=record.attempts, progress=progress,
            created_at=record.created_at, last_used_at=record.last_used_at,
        )  # fmt: skip
        if record.config is None:
            return image
        return replace(
            image, env=config["env"], user=config["user"] or None, working_dir=config["working_dir"] or None,
            entrypoint=tuple(config["entrypoint"]), cmd=tuple(config["cmd"]),
            exposed_ports=tuple(config["exposed_ports"]), labels=config["labels"],
        )  # fmt: skip


def _check_may_share(caller: Caller, shared: bool) -> None:
    if shared and caller.scope != "admin":
        raise Forbidden("only a key with scope admin may share an image with all owners; leave `shared` out")


def _check_unused(image: ImageRecord, users: list[str]) -> None:
    if users:
        shown = ", ".join(users[:_SHOWN])
        raise Conflict(
            f"image {image.id} is used by {shown}{' and others' if len(users) > _SHOWN else ''}; delete those first",
            details={"users": users[:_SHOWN], "count": len(users)},
        )
