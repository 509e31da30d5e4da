"""Files of a workspace, through Ship, which opens them as the sandbox's own user."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from bay.errors import BadRequest, PayloadTooLarge
from bay.models import FileEntry
from bay.server.auth import Caller
from bay.server.paths import workspace_path
from bay.server.ship_link import ShipLink
from bay.server.ship_wire import Peer
from bay.server.wake import Waker


class Files:
    """The service behind `…/filesystem/*`. Every call wakes the sandbox and counts as activity."""

    def __init__(self, *, waker: Waker, link: ShipLink, max_text_bytes: int) -> None:
        self._waker = waker
        self._link = link
        self._max_text_bytes = max_text_bytes

    async def read_text(self, caller: Caller, ref: str, path: str) -> str:
        """A whole UTF-8 file. Raises FileMissing, PayloadTooLarge, or BadRequest when it is not text."""
        async with self.download(caller, ref, path) as (chunks, size):
            if size is not None and size > self._max_text_bytes:
                raise PayloadTooLarge(
                    f"{path} has {size} bytes and this call reads {self._max_text_bytes} at most; download it"
                )
            data = b"".join([chunk async for chunk in _capped(chunks, self._max_text_bytes)])
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"{path} is not UTF-8 text; download it") from error

    async def write(
        self, caller: Caller, ref: str, path: str, body: bytes | AsyncIterator[bytes]
    ) -> tuple[str, int]:
        """Replace a file atomically, making its directories; returns its absolute path and size in bytes."""
        async with self._reach(caller, ref, path) as (normal, peer):
            return await self._link.write_file(peer, normal, body)

    async def delete(self, caller: Caller, ref: str, path: str) -> None:
        """Remove a file, or a directory with everything in it. Raises FileMissing."""
        async with self._reach(caller, ref, path) as (normal, peer):
            await self._link.delete_file(peer, normal)

    async def list(self, caller: Caller, ref: str, path: str) -> list[FileEntry]:
        """What a directory holds, directories first."""
        async with self._reach(caller, ref, path) as (normal, peer):
            return await self._link.list_files(peer, normal)

    @asynccontextmanager
    async def download(
        self, caller: Caller, ref: str, path: str
    ) -> AsyncGenerator[tuple[AsyncIterator[bytes], int | None], None]:
        """A file's bytes as they come, and how many there will be. Raises FileMissing before the first."""
        async with (
            self._reach(caller, ref, path) as (normal, peer),
            self._link.download(peer, normal) as opened,
        ):
            yield opened

    @asynccontextmanager
    async def _reach(self, caller: Caller, ref: str, path: str) -> AsyncGenerator[tuple[str, Peer], None]:
        normal = workspace_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            yield normal, awake.peer


async def _capped(chunks: AsyncIterator[bytes], cap: int) -> AsyncGenerator[bytes, None]:
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > cap:
            raise PayloadTooLarge(f"the file has more than {cap} bytes; download it")
        yield chunk
