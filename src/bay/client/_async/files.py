"""The files of a sandbox. A path is absolute, or relative to /workspace."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal, overload

from bay.client._answers import model
from bay.client._async.http import AsyncSandboxNoun, accepted
from bay.client._async.open import AsyncFileReader, AsyncFileWriter
from bay.client._async.transfer import body, fetched, opened, save, streamed
from bay.client._async.watch import AsyncWatch
from bay.client._calls import COPY_S, Call, Json, flags, given
from bay.client._content import Fetch
from bay.client._file_parts import Listing
from bay.client._local import (
    CHUNK_BYTES,
    Download,
    LeftOut,
    LocalFacts,
    Meter,
    Progress,
    Source,
    Target,
    facts,
    is_directory,
)
from bay.client._options import octal, owners
from bay.client._pack import packed, weight
from bay.client._seam import async_cleanup, async_in_thread
from bay.client._unpack import Unpacking
from bay.client._waits import SEARCH_S
from bay.errors import BayError, FileMissing, InvalidArgument, PayloadTooLarge
from bay.models import FileInfo, SearchResult
from ship_protocol import LISTED_DEPTH, LISTED_ENTRIES

Infos = list[FileInfo]
Found = AsyncGenerator[FileInfo, None]


_FORMATS = {False: "tar", True: "tar.gz"}


class AsyncFiles(AsyncSandboxNoun):
    """The files of one sandbox: whatever its user may touch.

    Raises FileMissing for what is not there, Forbidden for what its user may not do, StorageFull when there
    is no room; a write that fails leaves the file that was there. `progress` is called with the bytes that
    have gone, and with how many there are in all or None.
    """

    _noun = ("files",)

    # Content

    async def read(self, path: str, offset: int | None = None, length: int | None = None) -> bytes:
        """A file's bytes in memory, or `length` from `offset`, fewer at its end. Large ones: `download`."""
        if (offset or 0) < 0 or (length or 0) < 0:
            raise InvalidArgument("offset and length are numbers of bytes and may not be negative")
        data = bytearray()
        fetch = self._fetch(path, data.clear, offset or 0, length)
        async for piece in fetched(self._http, fetch):
            data += piece
        return bytes(data)

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """A file as text. Raises UnicodeDecodeError when it is not in `encoding`."""
        return (await self.read(path)).decode(encoding)

    async def write(self, path: str, data: str | bytes, mode: int | str | None = None) -> int:
        """Write a file whole (text as UTF-8), with its parent directories; returns its size in bytes.

        It is replaced in one step. One that was there keeps its mode unless a `mode` (0o644, or ``"0644"``)
        is given.
        """
        content = data.encode() if isinstance(data, str) else data
        return await self._upload(content, path, LocalFacts(len(content)), mode, None)

    @overload
    def open(self, path: str, mode: Literal["rb"] = "rb") -> AsyncFileReader: ...
    @overload
    def open(self, path: str, mode: Literal["wb"]) -> AsyncFileWriter: ...
    def open(self, path: str, mode: Literal["rb", "wb"] = "rb") -> AsyncFileReader | AsyncFileWriter:
        """A file to read here and there (``"rb"``), or to write from the front (``"wb"``), with `with`."""
        if mode == "rb":
            return AsyncFileReader(self._http, self._content(path), path)
        if mode == "wb":
            return AsyncFileWriter(self._http, self._put(path, LocalFacts(), None, repeatable=False), path)
        raise InvalidArgument(f"the mode of a file is 'rb' or 'wb', not {mode!r}")

    async def edit(self, path: str, old: str, new: str, all: bool = False) -> int:  # noqa: A002 — as in the API
        """Put `new` in place of `old` in a text file; returns how many times.

        Raises Conflict when `old` is not there, or more than once without `all`; `details["matches"]` says
        how often.
        """
        answer = await self._post("edit", {"path": path, "old": old, "new": new, "all": all})
        return int(answer.get("replaced", 0))

    # Up and down

    async def upload(
        self, source: Source, remote: str, *, mode: int | str | None = None, progress: Progress | None = None
    ) -> int:
        """Upload a local file, an open binary file, or a directory with all its content; returns its bytes.

        Uses constant memory. A local file brings its mode and mtime along. A directory becomes `remote`
        itself; see `upload_dir`.
        """
        if await async_in_thread(is_directory, source):
            assert isinstance(source, str | PathLike)  # noqa: S101 — only a path is a directory
            return await self.upload_dir(source, remote, progress=progress)
        return await self._upload(source, remote, await async_in_thread(facts, source), mode, progress)

    async def download(self, remote: str, target: Target, *, progress: Progress | None = None) -> int:
        """Bring a file to a local path or into an open binary file; returns its size in bytes.

        Uses constant memory. The local path is replaced only when all has arrived; it gets mode and mtime of
        the file, but never set-id bits, nor more than reading for others. A connection that breaks is taken
        up where it broke.
        """
        local = Download(target, remote)
        fetch = self._fetch(remote, local.rewind)
        await async_in_thread(local.open)
        try:
            return await save(self._http, fetch, local, progress)
        finally:
            with async_cleanup():
                await async_in_thread(local.discard)

    async def upload_dir(
        self,
        source: str | PathLike[str],
        remote: str,
        *,
        progress: Progress | None = None,
        left_out: LeftOut | None = None,
    ) -> int:
        """Upload the content of a local directory to `remote`, as one stream; returns the bytes of its files.

        Other files in `remote` stay. A symbolic link that leads out of the directory is taken for the file it
        leads to; `left_out` gets the name of each thing that is neither file, directory nor such a link.
        Files that came before a failure stay.
        """
        root = Path(source)
        meter = Meter(progress, await async_in_thread(weight, root) if progress else None)
        content = streamed(lambda: packed(root, meter, left_out), meter, counted=False)
        call = self._call("PUT", "archive", path=remote, format="tar")
        await self._http.json(call, content)
        return meter.done

    async def download_dir(
        self,
        remote: str,
        target: str | PathLike[str],
        *,
        progress: Progress | None = None,
        left_out: LeftOut | None = None,
    ) -> int:
        """Download a directory's content to a local one, made if missing; returns the bytes of its files.

        Nothing outside of the local directory is written, whatever the sandbox sends: no link is followed,
        and links that lead out, fifos and devices are left out and reported to `left_out`. Files that came
        before a failure stay.
        """
        unpacking = Unpacking(Path(target), meter := Meter(progress, None), left_out)
        try:
            async with opened(
                self._http, self._call("GET", "archive", path=remote, format="tar")
            ) as response:
                await async_in_thread(unpacking.open)
                async for data in response.aiter_bytes(CHUNK_BYTES):
                    await async_in_thread(unpacking.feed, data)
            unpacking.finish()
        finally:
            with async_cleanup():
                await async_in_thread(unpacking.close)
        return meter.done

    async def read_archive(self, path: str = ".", *, gzip: bool = False) -> bytes:
        """A directory with everything in it, or a file, as a tar in memory. `download_dir` is for large ones.

        Files that the user may not read, sockets and devices are left out.
        """
        data = bytearray()
        call = self._call("GET", "archive", path=path, format=_FORMATS[gzip])
        async with opened(self._http, call) as response:
            async for piece in response.aiter_bytes(CHUNK_BYTES):
                data += piece
        return bytes(data)

    async def write_archive(self, source: Source | bytes, path: str = ".", *, gzip: bool = False) -> int:
        """Unpack a tar (bytes, a local file or an open one) below a directory, which is made.

        Returns the bytes of its files. Other files there stay. Raises BadRequest for a damaged archive or one
        that leads out of `path`; files that came before stay.
        """
        call = self._call("PUT", "archive", path=path, format=_FORMATS[gzip])
        call = replace(call, repeatable=isinstance(source, str | bytes | PathLike))
        answer = await self._http.json(call, body(source, Meter(None, None)))
        return int(answer.get("bytes", 0))

    # Metadata

    async def stat(self, path: str, *, follow: bool = True) -> FileInfo:
        """The file at a path; of a symbolic link its target, unless `follow` is False."""
        call = self._call("GET", "stat", path=path, **flags(follow=follow))
        return await self._http.one(FileInfo, call)

    async def exists(self, path: str) -> bool:
        """Whether there is something at a path. A link that leads nowhere is nothing."""
        try:
            await self.stat(path)
        except FileMissing:
            return False
        return True

    async def list(
        self, path: str = ".", depth: int = 1, glob: str | None = None, limit: int | None = None
    ) -> Infos:
        """The entries of a directory, by name, and those below it to `depth` (64 at most), parents first.

        `glob` (``*``, ``?``, ``[…]``, ``**``) is matched against the path relative to `path`. Links are not
        followed. With `limit` it gives the first so many; without, it raises PayloadTooLarge when there are
        more than 200,000.
        """
        return [info async for info in self.walk(path, depth, glob, limit)]

    async def walk(
        self, path: str = ".", depth: int = LISTED_DEPTH, glob: str | None = None, limit: int | None = None
    ) -> Found:
        """As `list`, but everything below, one after the other as it comes, in constant memory."""
        params = given(path=path, depth=depth, glob=glob, limit=limit or LISTED_ENTRIES)
        call = replace(self._call("GET", "list", **params), headers={"Accept": "application/x-ndjson"})
        reading = Listing()
        async with opened(self._http, call) as response:
            async for info in accepted(response, reading):
                yield info
        if not reading.ended:
            raise BayError(f"the listing of {path} ended early; try again")
        if reading.truncated and limit is None:
            raise PayloadTooLarge(
                f"{path} has more than {LISTED_ENTRIES} entries down to depth {depth}; list parts of it"
            )

    async def glob(self, pattern: str, path: str = ".") -> Infos:
        """The paths below `path` that match: ``*.py`` in it, ``**/*.py`` at any depth."""
        return await self.list(path, LISTED_DEPTH, pattern)

    async def search(
        self,
        query: str | None = None,
        path: str = ".",
        *,
        glob: str | None = None,
        regex: bool = False,
        ignore_case: bool = False,
        hidden: bool = False,
        gitignore: bool = True,
        limit: int = 1000,
    ) -> SearchResult:
        """Lines of text files below `path` that contain `query`; without a query, names that match `glob`.

        Files that `.gitignore` excludes, hidden files and binary files are passed over. `regex` is Python's
        `re`. Bounded in time: the result says whether it is `truncated`, and how many files were searched and
        skipped.
        """
        options = flags(regex=regex, ignore_case=ignore_case, hidden=hidden, gitignore=gitignore)
        call = self._call("GET", "search", **given(path=path, query=query, glob=glob, limit=limit), **options)
        return await self._http.one(SearchResult, replace(call, wait_s=SEARCH_S))

    def watch(self, path: str = ".", *, recursive: bool = True) -> AsyncWatch:
        """Watch a file, or a directory and all below it; with `with`, and iterated for `bay.FileEvent`."""
        params = {"path": path, **flags(recursive=recursive)}
        return AsyncWatch(self._http, self._path("watch"), params)

    # Changes

    async def move(self, source: str, destination: str, overwrite: bool = False) -> FileInfo:
        """Give it another path. Raises Conflict when something is there, unless `overwrite`."""
        return await self._changed("move", source=source, destination=destination, overwrite=overwrite)

    async def copy(self, source: str, destination: str, overwrite: bool = False) -> FileInfo:
        """Copy a file, or a directory with everything in it. Raises Conflict as `move` does."""
        return await self._changed("copy", source=source, destination=destination, overwrite=overwrite)

    async def mkdir(self, path: str, mode: int | str = 0o755, parents: bool = True) -> FileInfo:
        """Make a directory. One that is there already is no error."""
        return await self._changed("mkdir", safe=True, path=path, mode=octal(mode), parents=parents)

    async def chmod(self, path: str, mode: int | str, recursive: bool = False) -> FileInfo:
        """Change the permissions: 0o755, or ``"0755"``."""
        return await self._changed("chmod", safe=True, path=path, mode=octal(mode), recursive=recursive)

    async def chown(
        self,
        path: str,
        user: str | int | None = None,
        group: str | int | None = None,
        recursive: bool = False,
    ) -> FileInfo:
        """Give it to a user, a group or both, by name or number, where the profile allows root (else
        Forbidden).
        """
        fields = owners(user, group)
        return await self._changed("chown", safe=True, path=path, recursive=recursive, **fields)

    async def delete(self, path: str, recursive: bool = True) -> None:
        """Remove a file, or a directory with its content; Conflict if not empty and not `recursive`."""
        await self._http.json(self._call("DELETE", path=path, **flags(recursive=recursive)))

    async def _changed(self, what: str, *, safe: bool = False, **fields: object) -> FileInfo:
        return model(FileInfo, await self._post(what, fields, safe=safe))

    async def _post(self, what: str, fields: Json, *, safe: bool = False) -> Json:
        return await self._http.json(Call("POST", self._path(what), body=fields, safe=safe, wait_s=COPY_S))

    async def _upload(
        self,
        source: Source | bytes,
        remote: str,
        about: LocalFacts,
        mode: int | str | None,
        progress: Progress | None,
    ) -> int:
        call = self._put(remote, about, mode, repeatable=isinstance(source, str | bytes | PathLike))
        info = await self._http.one(FileInfo, call, body(source, Meter(progress, about.size)))
        return info.size or 0

    def _put(self, path: str, about: LocalFacts, mode: int | str | None, *, repeatable: bool) -> Call:
        wanted = about.mode if mode is None else mode
        return Call(
            "PUT",
            self._path("content"),
            params=given(path=path, mode=octal(wanted), mtime=about.mtime),
            headers={"Content-Type": "application/octet-stream"},
            safe=True,
            repeatable=repeatable,
        )

    def _content(self, path: str) -> Call:
        return self._call("GET", "content", path=path)

    def _fetch(
        self, path: str, rewind: Callable[[], None], start: int = 0, length: int | None = None
    ) -> Fetch:
        retry_s = self._http.config.retry_s
        return Fetch(self._content(path), retry_s, start=start, length=length, rewind=rewind)

    def _call(self, method: Literal["GET", "PUT", "DELETE"], *what: str, **params: str | int) -> Call:
        return Call(method, self._path(*what), params=params, safe=method != "DELETE")
