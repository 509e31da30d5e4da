"""The object store as checkpoints see it: a folder for each owner, and in it one for each pushed checkpoint.

    PREFIX/bay.json                              the salt of the owners' folders
    PREFIX/OWNER/CHECKPOINT/manifest.json        written last: without it there is nothing to pull
    PREFIX/OWNER/CHECKPOINT/RUN-NUMBER           the archive, in parts

OWNER is a keyed digest of the owner's name, so that a list of the bucket names nobody, and all Bays of one
store find the same. `bay.object_store.archive` says what parts are. Checkpoints of volume claims are beside
the owners, in `claims/`: see `bay.cargo.claim_archives`.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from bay.errors import Conflict, ObjectStoreRefused, ObjectStoreUnavailable
from bay.object_store.archive import PartWriter, read_parts
from bay.object_store.base import ObjectMissing, ObjectStore
from bay.object_store.manifest import LONGEST, PushManifest

_FORMAT = 1
_SALT = "bay.json"
_SALT_BYTES = 32
_MANIFEST = "manifest.json"


class CheckpointBucket:
    """Reads and writes pushed checkpoints. `make` is None where the settings have no object store."""

    def __init__(self, make: Callable[[], ObjectStore] | None) -> None:
        self._make = make
        self._store: ObjectStore | None = None
        self._salt: bytes | None = None
        self._opening = asyncio.Lock()
        """Held while the library is loaded, which takes half a second, and the salt is read."""

    @property
    def is_on(self) -> bool:
        """Whether there is one."""
        return self._make is not None

    def check_on(self) -> None:
        """Raises Conflict where there is none."""
        if self._make is None:
            raise Conflict(
                "this Bay has no object store; its operator names a bucket in the settings, as [object_store]"
            )

    async def manifest(self, owner: str, checkpoint_id: str) -> PushManifest | None:
        """The manifest of a pushed checkpoint, None without one. Raises BadRequest if it is damaged."""
        store, folder = await self._folder(owner, checkpoint_id)
        try:
            text = await store.get(folder + _MANIFEST, LONGEST)
        except ObjectMissing:
            return None
        return PushManifest.from_json(text, checkpoint_id)

    async def ids(self, owner: str, *, after: str, limit: int) -> list[str]:
        """Names of up to `limit` of the owner's folders after `after`, in order."""
        store, folder = await self._folder(owner)
        return await store.folders(folder, after=after, limit=limit)

    def begin(self, owner: str, checkpoint_id: str) -> PartWriter:
        """A new attempt at an archive."""
        return PartWriter(partial(self.put_part, owner, checkpoint_id))

    async def put_part(self, owner: str, checkpoint_id: str, name: str, data: bytes) -> None:
        store, folder = await self._folder(owner, checkpoint_id)
        await store.put(folder + name, data)

    async def publish(self, owner: str, manifest: PushManifest) -> PushManifest:
        """Write the manifest, when all parts are there; the one that is there, if another push was first.
        Raises ObjectStoreUnavailable when a part is not.
        """
        store, folder = await self._folder(owner, manifest.checkpoint_id)
        there = await store.keys(folder)
        if any(there.get(folder + part.name) != part.size for part in manifest.parts):
            raise ObjectStoreUnavailable(
                f"parts of {manifest.checkpoint_id} are no longer in the object store; Bay pushes it again"
            )
        if await store.put(folder + _MANIFEST, manifest.to_json(), only_new=True):
            return manifest
        return await self.manifest(owner, manifest.checkpoint_id) or manifest

    async def sweep(self, owner: str, checkpoint_id: str) -> None:
        """Remove what earlier pushes left beside what the manifest names; all, where there is no manifest."""
        store, folder = await self._folder(owner, checkpoint_id)
        there = await store.keys(folder)
        found = await self.manifest(owner, checkpoint_id) if folder + _MANIFEST in there else None
        kept = {folder + part.name for part in found.parts} | {folder + _MANIFEST} if found else set[str]()
        await store.delete(there.keys() - kept)

    async def remove(self, owner: str, checkpoint_id: str) -> None:
        """Remove all of it, the manifest first, so that no pull begins meanwhile; idempotent."""
        store, folder = await self._folder(owner, checkpoint_id)
        await store.delete([folder + _MANIFEST])
        await store.delete((await store.keys(folder)).keys())

    async def archive(self, owner: str, manifest: PushManifest) -> AsyncGenerator[bytes]:
        """The archive, by 64 KiB at most. Each part is in memory whole, and checked before a byte of it is
        given. Raises BadRequest for one that is missing or is not what the manifest says.
        """
        store, folder = await self._folder(owner, manifest.checkpoint_id)
        chunks = read_parts(store, folder, manifest.parts, manifest.sha256, manifest.checkpoint_id)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _folder(self, owner: str, checkpoint_id: str | None = None) -> tuple[ObjectStore, str]:
        self.check_on()
        async with self._opening:
            if self._store is None and self._make is not None:
                self._store = await asyncio.to_thread(self._make)
            assert self._store is not None  # noqa: S101
            if self._salt is None:
                self._salt = await _salt_of(self._store)
        name = hmac.new(self._salt, owner.encode(), hashlib.sha256).hexdigest()[:32]
        return self._store, f"{name}/" if checkpoint_id is None else f"{name}/{checkpoint_id}/"


async def _salt_of(store: ObjectStore) -> bytes:
    """The salt of the store, made by the first Bay that uses it. Of two at once one wins; both read it."""
    try:
        return _read_salt(store, await store.get(_SALT, 4096))
    except ObjectMissing:
        made = {"format": _FORMAT, "salt": secrets.token_hex(_SALT_BYTES)}
        await store.put(_SALT, json.dumps(made).encode(), only_new=True)
    try:
        return _read_salt(store, await store.get(_SALT, 4096))
    except ObjectMissing:
        raise ObjectStoreUnavailable(f"{store.place} loses what is written; try again later") from None


def _read_salt(store: ObjectStore, text: bytes) -> bytes:
    try:
        found = json.loads(text)
        salt = bytes.fromhex(found["salt"])
        if found["format"] == _FORMAT and len(salt) == _SALT_BYTES:
            return salt
    except (ValueError, KeyError, TypeError):
        pass
    raise ObjectStoreRefused(
        f"{store.place}/{_SALT} is damaged or of a newer Bay; use another prefix in object_store.url"
    )
