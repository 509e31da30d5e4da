"""Archives as plain objects of one folder: parts of one size, each with its digest, in an order that their
manifest has.

They are not of the multipart interface: that leaves uploads behind that no list shows and that cost money,
while a part is there or is not, can be checked before anything is unpacked, and needs no more memory than
itself. The first half of a name is of one attempt: parts of two do not mix.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from bay.errors import BadRequest
from bay.object_store.base import ObjectMissing, ObjectStore
from bay.object_store.manifest import MOST_PARTS, ArchivePart

PART_BYTES = 8 << 20
_CHUNK = 1 << 16


class PartWriter:
    """Cuts an archive into parts, and has `put` write each, by its name, once it is full. It has one part in
    memory.
    """

    def __init__(self, put: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._put = put
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
        await self._put(name, data)
        self.parts.append(ArchivePart(name=name, size=len(data), sha256=digest))
        self.bytes += len(data)


async def read_parts(
    store: ObjectStore, folder: str, parts: Sequence[ArchivePart], sha256: str, what: str
) -> AsyncGenerator[bytes]:
    """The archive, by 64 KiB at most. Each part is in memory whole, and checked before a byte of it is given.
    Raises BadRequest, with `what` in the message, for one that is missing or is not what the manifest says.
    """
    whole = hashlib.sha256()
    for number, part in enumerate(parts, 1):
        try:
            data = await store.get(folder + part.name, part.size)
        except ObjectMissing:
            data = b""
        digest = await asyncio.to_thread(_digest, data, whole)
        if len(data) != part.size or digest != part.sha256:
            raise BadRequest(
                f"part {number} of {what} in the object store is missing or damaged; push the checkpoint again"
            )
        for at in range(0, len(data), _CHUNK):
            yield data[at : at + _CHUNK]
    if whole.hexdigest() != sha256:
        raise BadRequest(
            f"{what} in the object store does not have the SHA-256 of its manifest; push the checkpoint again"
        )


def _digest(data: bytes, whole: "hashlib._Hash") -> str:
    whole.update(data)
    return hashlib.sha256(data).hexdigest()
