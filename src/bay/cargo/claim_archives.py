"""Checkpoints of volume claims in the object store: archives as an export writes them.

    PREFIX/claims/DATABASE/CHECKPOINT/manifest.json     written last: without it there is no checkpoint
    PREFIX/claims/DATABASE/CHECKPOINT/RUN-NUMBER        the archive, in parts

DATABASE is the id of the database that knows them, since a Bay removes what no row of its own knows. Owners
have no folders here: a checkpoint is found by its id alone, of which the rows say whose it is.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import structlog
import zstandard

from bay.cargo.export_process import DIGEST, FACTS, LAST_BYTES, facts_bytes, is_end
from bay.cargo.manifest import Manifest
from bay.errors import BadRequest, BayError, ObjectStoreUnavailable
from bay.ids import is_id_of
from bay.object_store.archive import PartWriter, read_parts
from bay.object_store.base import ObjectMissing, ObjectStore
from bay.object_store.manifest import LONGEST, MOST_PARTS, ArchivePart, is_digest, part_of
from tree_tar.headers import BLOCK, END, FILE, header, padding
from tree_tar.reader import BadArchive

log = structlog.get_logger("bay.cargo")

_FORMAT = 1
_MANIFEST = "manifest.json"
_LEVEL = 3
_LARGEST_WINDOW = 8 << 20
_LITTLE = 2048
"""Bytes that are decompressed at once: they become sixty megabytes at most."""
_PIECE = 1 << 20
_HELD_BACK = 4096
"""The end of a tar is given last of all: nothing is put in place before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveManifest:
    """A checkpoint in the object store. `sha256` and `size` (bytes) are those of the archive, `file_bytes`
    those of its files without their holes. There are `entries` files, directories and links.
    """

    bay: str
    checkpoint_id: str
    cargo_id: str
    sha256: str
    size: int
    file_bytes: int
    entries: int
    parts: tuple[ArchivePart, ...]

    @property
    def room_bytes(self) -> int:
        """The least that its files take."""
        return self.file_bytes + 512 * self.entries

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: bytes, checkpoint_id: str) -> "ArchiveManifest":
        """The manifest of that checkpoint. Raises BadRequest for what no Bay writes, or only a newer one."""
        try:
            found: Any = json.loads(text) if len(text) <= LONGEST else None
        except (ValueError, RecursionError):
            found = None
        values = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        version = values.pop("format", None)
        if type(version) is int and version > _FORMAT:
            raise BadRequest(f"{checkpoint_id} was made by a newer Bay; use it with that one")
        try:
            if version != _FORMAT or values["checkpoint_id"] != checkpoint_id:
                raise ValueError(version)
            parts = tuple(part_of(one) for one in values.pop("parts"))
            return cls(**values, parts=parts)._checked()
        except (ValueError, KeyError, TypeError):
            raise BadRequest(
                f"the manifest of {checkpoint_id} in the object store is damaged; delete the checkpoint"
            ) from None

    def _checked(self) -> "ArchiveManifest":
        numbers = (self.size, self.file_bytes, self.entries)
        is_right = (
            all(type(one) is int and 0 <= one < 1 << 53 for one in numbers)
            and 0 < len(self.parts) <= MOST_PARTS
            and sum(part.size for part in self.parts) == self.size
            and is_digest(self.sha256)
            and is_id_of("ws", self.cargo_id)
        )
        if not is_right:
            raise ValueError("the manifest")
        return self


class ClaimArchives:
    """Reads and writes them. `make` gives the object store, a real one if `are_kept`, and takes a moment."""

    def __init__(self, make: Callable[[], ObjectStore], *, are_kept: bool = True) -> None:
        self._make = make
        self.are_kept = are_kept
        self._store: ObjectStore | None = None
        self._opening = asyncio.Lock()
        """Held while the library is loaded."""
        self._writing: set[str] = set()
        """The checkpoints that are being written, of which there are parts and no manifest."""
        self.database_id = ""

    async def manifest(self, checkpoint_id: str) -> ArchiveManifest | None:
        """The manifest of a whole checkpoint. Raises BadRequest for a damaged one."""
        store, folder = await self._folder(checkpoint_id)
        try:
            text = await store.get(folder + _MANIFEST, LONGEST)
        except ObjectMissing:
            return None
        return ArchiveManifest.from_json(text, checkpoint_id)

    async def ids(self) -> set[str]:
        """Ids of all whole checkpoints."""
        return (await self._names())[1]

    async def unfinished(self) -> set[str]:
        """Ids of those of which there are parts alone, and that nobody here is writing."""
        begun, whole = await self._names()
        return begun - whole - self._writing

    async def remove_unfinished(self) -> None:
        """Remove those, but for one that somebody here has begun to write meanwhile."""
        for checkpoint_id in await self.unfinished():
            if checkpoint_id not in self._writing:
                await self.remove(checkpoint_id)

    async def _names(self) -> tuple[set[str], set[str]]:
        store, top = await self._folder()
        keys = [key.removeprefix(top).split("/") for key in await store.keys(top)]
        known = [key for key in keys if len(key) == 2 and is_id_of("ckpt", key[0])]
        return {key[0] for key in known}, {key[0] for key in known if key[1] == _MANIFEST}

    async def write(
        self, wanted: ArchiveManifest, archive: AsyncIterator[bytes], counts: dict[str, int]
    ) -> None:
        """Write the archive, and then the manifest `wanted` with what the archive turned out to be. `counts`
        has its `bytes` and `entries` then. Leaves nothing of one that fails, if the object store lets it.
        """
        self._writing.add(wanted.checkpoint_id)
        try:
            await self.remove(wanted.checkpoint_id)
            await self._write(wanted, archive, counts)
        finally:
            self._writing.discard(wanted.checkpoint_id)

    async def _write(
        self, wanted: ArchiveManifest, archive: AsyncIterator[bytes], counts: dict[str, int]
    ) -> None:
        store, folder = await self._folder(wanted.checkpoint_id)

        async def put(name: str, data: bytes) -> None:
            await store.put(folder + name, data)

        writer = PartWriter(put)
        try:
            async for chunk in archive:
                await writer.add(chunk)
            await writer.finish()
            made = replace(
                wanted, sha256=writer.sha256, size=writer.bytes, parts=tuple(writer.parts),
                file_bytes=counts["bytes"], entries=counts["entries"],
            )  # fmt: skip
            await self._publish(store, folder, made)
        except BaseException:
            await asyncio.shield(self._drop(store, [folder + part.name for part in writer.parts]))
            raise

    async def read(self, manifest: ArchiveManifest) -> AsyncGenerator[bytes]:
        """The archive, each byte of it checked. Raises BadRequest for a damaged one."""
        store, folder = await self._folder(manifest.checkpoint_id)
        chunks = read_parts(store, folder, manifest.parts, manifest.sha256, manifest.checkpoint_id)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def remove(self, checkpoint_id: str) -> None:
        """Remove all of it, the manifest first; idempotent."""
        store, folder = await self._folder(checkpoint_id)
        there = await store.keys(folder)
        if folder + _MANIFEST in there:
            await store.delete([folder + _MANIFEST])
        await store.delete(there.keys() - {folder + _MANIFEST})

    async def _publish(self, store: ObjectStore, folder: str, made: ArchiveManifest) -> None:
        there = await store.keys(folder)
        if any(there.get(folder + part.name) != part.size for part in made.parts):
            raise ObjectStoreUnavailable(
                f"parts of {made.checkpoint_id} are no longer in the object store; make the checkpoint again"
            )
        await store.put(folder + _MANIFEST, made.to_json().encode())

    async def _drop(self, store: ObjectStore, keys: list[str]) -> None:
        try:
            await store.delete(keys)
        except BayError as error:  # the collector removes the rest
            log.warning("checkpoint.parts_stay", error=error.message)

    async def _folder(self, checkpoint_id: str | None = None) -> tuple[ObjectStore, str]:
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._make)
        top = f"claims/{self.database_id or 'none'}/"
        return self._store, top if checkpoint_id is None else f"{top}{checkpoint_id}/"


async def archived(members: AsyncIterator[bytes], facts: Manifest) -> AsyncGenerator[bytes]:
    """The archive of a checkpoint with these members of a tar, in which each name begins with `workspace`."""
    zipped = _TarZip()
    told = facts.to_json().encode()
    head = header(FACTS, FILE, mode=0o600, size=len(told)) + told + padding(len(told))
    if out := zipped.add(head):
        yield out
    async for chunk in _gathered(members):
        if out := await asyncio.to_thread(zipped.add, chunk):
            yield out
    yield await asyncio.to_thread(zipped.end)


async def tar_of(archive: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The tar in an archive. Its last bytes are not given before all of the archive was read without error.
    Raises BadRequest for a damaged one.
    """
    unzipped = _GradualUnzip()
    held = b""
    async for chunk in _gathered(archive):
        unzipped.take(chunk)
        while data := await asyncio.to_thread(unzipped.more):
            for at in range(0, len(data), _PIECE):
                held += data[at : at + _PIECE]
                if len(held) > _HELD_BACK:
                    ready, held = held[:-_HELD_BACK], held[-_HELD_BACK:]
                    yield ready
    unzipped.check_end()
    yield held


async def members_of(tar: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The members of the workspace in the tar of an archive, as `archived` takes them. Raises BadRequest for
    a tar that no Bay wrote.
    """
    held, left = bytearray(), -1
    async for chunk in tar:
        held += chunk
        if left < 0 and len(held) >= BLOCK:
            left = _facts_bytes(bytes(held[:BLOCK]))
        if left >= 0:
            dropped = min(left, len(held))
            del held[:dropped]
            left -= dropped
        if left == 0 and len(held) > LAST_BYTES:
            yield bytes(held[:-LAST_BYTES])
            del held[:-LAST_BYTES]
    if left != 0 or not is_end(bytes(held)):
        raise _unlike_bays()


def _facts_bytes(first: bytes) -> int:
    try:
        return facts_bytes(first)
    except BadArchive:
        raise _unlike_bays() from None


def _unlike_bays() -> BadRequest:
    return BadRequest("the archive is damaged; make the checkpoint again")


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The same in pieces of a megabyte, each of which a thread works on."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if len(pending) >= _PIECE:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)


class _TarZip:
    """Compresses a tar, and ends it with the digest of all before."""

    def __init__(self) -> None:
        self._seen = hashlib.sha256()
        self._zip = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()

    def add(self, data: bytes) -> bytes:
        self._seen.update(data)
        return self._zip.compress(data)

    def end(self) -> bytes:
        digest = self._seen.hexdigest().encode()
        last = header(DIGEST, FILE, mode=0o600, size=len(digest)) + digest + padding(len(digest)) + END
        return self._zip.compress(last) + self._zip.flush()


class _GradualUnzip:
    """Decompresses a little at a time, so that an archive of zeros takes time and no memory."""

    def __init__(self) -> None:
        self._unzip = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        self._pending = memoryview(b"")

    def take(self, data: bytes) -> None:
        """Take bytes that `more` is to decompress, once it has given all of those before."""
        self._pending = memoryview(data)

    def more(self) -> bytes:
        """The next megabyte or so; none when there is no more. Raises BadRequest."""
        found: list[bytes] = []
        size = 0
        try:
            while size < _PIECE and self._pending:
                piece, self._pending = self._pending[:_LITTLE], self._pending[_LITTLE:]
                found.append(self._unzip.decompress(piece))
                size += len(found[-1])
        except zstandard.ZstdError:
            raise BadRequest("the archive is damaged; make the checkpoint again") from None
        return b"".join(found)

    def check_end(self) -> None:
        """Raises BadRequest when the end is missing."""
        if not self._unzip.eof or self._unzip.unused_data:
            raise BadRequest("the archive has no end; make the checkpoint again")
