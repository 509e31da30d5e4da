"""Files of a sandbox. Paths are relative to /workspace; absolute ones below it are understood too."""

import secrets
from collections.abc import AsyncIterator
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Literal, cast

import httpx

from bay.client._async.http import AsyncHttp, Body
from bay.client._local import CHUNK_BYTES, Download, Source, Target, child, files_below, pieces
from bay.client._seam import async_cleanup, async_in_thread
from bay.client._wire import Call, files_path, model, upload_head, upload_tail, workspace_path
from bay.errors import BayError
from bay.models import FileEntry

Entries = list[FileEntry]
Objects = list[object]


class AsyncFiles:
    """The files of one sandbox. Raises FileMissing for what is not there, InvalidPath for what leaves /workspace."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def read(self, path: str) -> bytes:
        """All bytes of a file, in memory; `download` is for large ones."""
        async with self._http.stream(self._download_call(path)) as response:
            return await response.aread()

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """A file as text. Raises UnicodeDecodeError when it is not in `encoding`."""
        return (await self.read(path)).decode(encoding)

    async def write(self, path: str, data: str | bytes) -> int:
        """Write a file whole (text as UTF-8), with its parent directories; returns its size in bytes."""
        content = data.encode() if isinstance(data, str) else data
        return await self._upload(content, path)

    async def upload(self, source: Source, remote: str) -> int:
        """Send a local file, an open binary file, or a directory with everything in it; returns the bytes sent.

        Uses constant memory. A directory becomes `remote` itself; its empty directories are left out.
        """
        below = await async_in_thread(files_below, source)
        if below is None:
            return await self._upload(source, remote)
        sizes = [await self._upload(path, f"{remote.rstrip('/')}/{name}") for path, name in below]
        return sum(sizes)

    async def download(self, remote: str, target: Target) -> int:
        """Bring a file to a local path or into an open binary file; returns its size in bytes.

        Uses constant memory. The local path is replaced only when all has arrived.
        """
        local = Download(target)
        await async_in_thread(local.open)
        try:
            async with self._http.stream(self._download_call(remote)) as response:
                size = await _save(response, local)
            await async_in_thread(local.keep)
        finally:
            with async_cleanup():
                await async_in_thread(local.discard)
        return size

    async def download_tree(self, remote: str, directory: str | Path) -> int:
        """Bring a directory and everything below it to a local directory, made where it is missing."""
        local = Path(directory)
        await async_in_thread(local.mkdir, parents=True, exist_ok=True)
        size = 0
        for entry in await self.list(remote):
            fetch = self.download_tree if entry.is_dir else self.download if entry.is_file else None
            if fetch is not None:
                size += await fetch(f"{remote.rstrip('/')}/{entry.name}", child(local, entry.name))
        return size

    async def list(self, path: str = ".") -> Entries:
        """What is in a directory, directories first."""
        call = self._call("GET", "directories", path)
        entries: object = (await self._http.json(call)).get("entries")
        if not isinstance(entries, list):
            raise BayError("the server's answer is not a directory listing; is it a Bay of another version?")
        return [model(FileEntry, entry) for entry in cast("Objects", entries)]

    async def delete(self, path: str) -> None:
        """Remove a file, or a directory with everything in it."""
        await self._http.json(self._call("DELETE", "files", path))

    async def _upload(self, source: Source | bytes, remote: str) -> int:
        boundary = secrets.token_hex(16)
        call = Call(
            method="POST",
            path=files_path(self._sandbox_id, "upload"),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            repeatable=isinstance(source, str | bytes | PathLike),
        )
        answer = await self._http.json(call, _multipart(source, workspace_path(remote), boundary))
        return int(answer.get("size", 0))

    def _download_call(self, path: str) -> Call:
        return self._call("GET", "download", path)

    def _call(
        self, method: Literal["GET", "DELETE"], what: Literal["files", "directories", "download"], path: str
    ) -> Call:
        return Call(
            method=method,
            path=files_path(self._sandbox_id, what),
            params={"path": workspace_path(path)},
            safe=method == "GET",
        )


def _multipart(source: Source | bytes, path: str, boundary: str) -> Body:
    async def parts() -> AsyncIterator[bytes]:
        yield upload_head(path, boundary)
        with closing(pieces(source)) as data:
            while piece := await async_in_thread(next, data, b""):
                yield piece
        yield upload_tail(boundary)

    return parts


async def _save(response: httpx.Response, local: Download) -> int:
    size = 0
    async for data in response.aiter_bytes(CHUNK_BYTES):
        await async_in_thread(local.write, data)
        size += len(data)
    return size
