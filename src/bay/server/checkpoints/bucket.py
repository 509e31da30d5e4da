"""The object store as checkpoints see it: a folder for each owner, and in it one for each pushed checkpoint.

    PREFIX/bay.json                              the salt of the owners' folders
    PREFIX/OWNER/CHECKPOINT/manifest.json        written last: without it there is nothing to pull
    PREFIX/OWNER/CHECKPOINT/RUN-NUMBER           the archive, in parts

OWNER is a keyed digest of the owner's name, so that a list of the bucket names nobody, and all Bays of one
store find the same. An archive is many plain objects and not one of the multipart interface: that leaves
uploads behind that no list shows and that cost money, while a part is there or is not, can be checked before
anything is unpacked, and needs no more memory than itself. RUN is of one attempt: parts of two do not mix.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncGenerator, Callable

from bay.cargo.export_import import CHUNK
from bay.errors import BadRequest, Conflict, ObjectStoreRefused, ObjectStoreUnavailable
from bay.object_store.base import ObjectMissing, ObjectStore
from bay.object_store.manifest import LONGEST, MOST_PARTS, ArchivePart, PushManifest

PART_BYTES = 8 << 20
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

    def begin(self, owner: str, checkpoint_id: str) -> "PartWriter":
        """A new attempt at an archive."""
        return PartWriter(self, owner, checkpoint_id)

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
        whole = hashlib.sha256()
        for number, part in enumerate(manifest.parts, 1):
            try:
                data = await store.get(folder + part.name, part.size)
            except ObjectMissing:
                data = b""
            digest = await asyncio.to_thread(_digest, data, whole)
            if len(data) != part.size or digest != part.sha256:
                raise BadRequest(
                    f"part {number} of {manifest.checkpoint_id} in the object store is missing or damaged; "
                    "push the checkpoint again"
                )
            for at in range(0, len(data), CHUNK):
                yield data[at : at + CHUNK]
        if whole.hexdigest() != manifest.sha256:
            raise BadRequest(
                f"{manifest.checkpoint_id} in the object store does not have the SHA-256 of its manifest; "
                "push the checkpoint again"
            )

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


class PartWriter:
    """Cuts an archive into parts, and writes each once it is full. It has one part in memory."""

    def __init__(self, bucket: CheckpointBucket, owner: str, checkpoint_id: str) -> None:
        self._bucket = bucket
        self._owner = owner
        self._id = checkpoint_id
        self._run = secrets.token_hex(4)
        self._whole = hashlib.sha256()
        self._pending = bytearray()
        self.parts: list[ArchivePart] = []
        self.bytes = 0
        """Of the parts that are written."""

    @property
    def sha256(self) -> str:
        """The digest of the archive, once it is finished."""
        return self._whole.hexdigest()

    async def add(self, data: bytes) -> bool:
        """Take more of the archive; whether that completed a part. Raises BadRequest for one too large."""
        self._pending += data
        if len(self._pending) < PART_BYTES:
            return False
        while len(self._pending) >= PART_BYTES:
            await self._write(PART_BYTES)
        return True

    async def finish(self) -> None:
        """Write what is left."""
        if self._pending:
            await self._write(len(self._pending))

    async def _write(self, size: int) -> None:
        if len(self.parts) >= MOST_PARTS:
            raise BadRequest(
                f"the archive has more than {MOST_PARTS * PART_BYTES} bytes, the limit of a push"
            )
        data = bytes(self._pending[:size])
        del self._pending[:size]
        digest = await asyncio.to_thread(_digest, data, self._whole)
        name = f"{self._run}-{len(self.parts) + 1:05}"
        await self._bucket.put_part(self._owner, self._id, name, data)
        self.parts.append(ArchivePart(name=name, size=len(data), sha256=digest))
        self.bytes += len(data)


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


def _digest(data: bytes, whole: "hashlib._Hash") -> str:
    whole.update(data)
    return hashlib.sha256(data).hexdigest()
