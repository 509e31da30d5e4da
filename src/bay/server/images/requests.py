"""Requests for images: the row that asks for one, which the puller brings here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from bay.clock import Clock
from bay.errors import Conflict, Forbidden, ImageNotFound
from bay.ids import is_id_of, new_id
from bay.images import references
from bay.models import Pull
from bay.server.sessions.quotas import Quotas
from bay.server.web.auth import Caller
from bay.store import events, images
from bay.store.connection import StoreConnection
from bay.store.records import NOBODY, ImageRecord

MAX_IMAGES = 1000
"""Of one owner: each is a row of up to a megabyte, whatever its layers have."""
HOST = "host"
"""The name of the image that is this host's own /usr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequests:
    """Chooses an image for those who name one, and asks for it where it is not here."""

    allowed: Sequence[str]
    """Patterns of the references that keys without the scope `admin` may pull."""
    quotas: Quotas
    clock: Clock

    async def choose(
        self, db: StoreConnection, caller: Caller, wanted: str, pull: Pull, *, shared: bool = False
    ) -> ImageRecord:
        """The image that `wanted`, an id or a reference, names now. Raises ImageNotFound, Forbidden,
        InvalidArgument or QuotaExceeded.
        """
        ref = full_reference(wanted)
        found = await images.find(db, caller.owner, ref)
        if found is not None and (ref == found.id or _serves(found, pull)):
            return found
        if is_id_of("img", ref):
            raise ImageNotFound(f"you have no image {wanted}; see `bay image ls`")
        if pull == "never":
            raise ImageNotFound(
                f"image {ref} is not here, and is not to be pulled; pull it first: `bay image pull {ref}`"
            )
        return await self._want(db, caller, ref, shared=shared)

    async def admit(self, db: StoreConnection, caller: Caller) -> None:
        """Let the caller ask for one more image. Raises Conflict or QuotaExceeded."""
        await self.quotas.admit_files(db, caller)
        if await images.count(db, caller.owner) >= MAX_IMAGES:
            raise Conflict(
                f"you have {MAX_IMAGES} images, the limit; remove those that nothing uses: `bay image prune`"
            )

    async def of_profile(self, db: StoreConnection, wanted: str) -> ImageRecord:
        """The image of a profile, which the settings' author chose for every owner."""
        ref = str(references.parse(wanted))
        found = await images.find(db, NOBODY, ref)
        if found is not None and found.state != "failed":
            return found
        if found is not None and found.owner == NOBODY:
            return await self._again(db, found)
        return await self._add(db, NOBODY, ref, shared=True)

    async def ready_for(self, db: StoreConnection, wanted: str) -> ImageRecord | None:
        """The image of a profile, if it is here."""
        found = await images.find(db, NOBODY, str(references.parse(wanted)))
        return found if found is not None and found.state == "ready" else None

    async def _want(self, db: StoreConnection, caller: Caller, ref: str, *, shared: bool) -> ImageRecord:
        """Ask for the image that `ref` names in its registry now; one row is used for a pull under way."""
        self._check_allowed(caller, ref)
        await self.admit(db, caller)
        found = await images.find(db, caller.owner, ref)
        is_a_pull = found is not None and found.owner == caller.owner and found.source == "registry"
        if found is None or not is_a_pull or found.state == "ready":
            return await self._add(db, caller.owner, ref, shared=shared)
        return found if found.state == "pulling" else await self._again(db, found)

    async def _again(self, db: StoreConnection, failed: ImageRecord) -> ImageRecord:
        await images.change(db, failed.id, state="pulling", attempts=0, retry_at=None)
        return replace(failed, state="pulling", attempts=0, retry_at=None, error=None)

    async def _add(self, db: StoreConnection, owner: str, ref: str, *, shared: bool) -> ImageRecord:
        now = self.clock()
        made = ImageRecord(
            id=new_id("img"), owner=owner, shared=shared, ref=ref, source="registry", created_at=now, last_used_at=now,
        )  # fmt: skip
        await images.add(db, made)
        await events.add_of_image(db, owner, "image.pulling", now, image_id=made.id, ref=ref)
        return made

    def _check_allowed(self, caller: Caller, ref: str) -> None:
        if caller.scope == "admin" or any(fnmatchcase(ref, pattern) for pattern in self.allowed):
            return
        raise Forbidden(
            f"this key may not pull {ref}: it matches no pattern of the setting images_allow. Use an image that "
            "was shared (`bay image ls`), upload one, or have the server's operator allow it",
            details={"ref": ref},
        )


def full_reference(ref: str) -> str:
    """The reference in its full form; an id stays. Raises InvalidArgument."""
    return ref if is_id_of("img", ref) else str(references.parse(ref))


def _serves(found: ImageRecord, pull: Pull) -> bool:
    match pull:
        case "missing":
            return found.state != "failed"
        case "never":
            return found.state == "ready"
        case "always":
            return False
