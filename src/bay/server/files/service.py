"""The file services work through Ship, as the sandbox's own user; every call wakes it, and is activity."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bay.errors import BadRequest, Forbidden, OutputGone, PayloadTooLarge
from bay.models import FileEntry, FileEvent, FileInfo, SearchResult
from bay.server.files.ship_client import (
    OWN,
    Acting,
    Carrying,
    FileClient,
    FileDetails,
    ListEnd,
    Owners,
    ShipDownload,
    Unpacked,
    Wanted,
    Watching,
)  # fmt: skip
from bay.server.sessions.session_stream import SessionStream
from bay.server.sessions.waker import Awake, Waker
from bay.server.ship.answers import collect
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.server.web.bodies import check_allowed, check_user
from bay.server.web.open_connections import OpenConnections
from bay.server.web.upload_spool import Spool
from bay.server.web.workspace_paths import sandbox_path, workspace_path


class Files:
    """The service behind `…/filesystem/*`: paths, and links on their way, stay in the workspace."""

    def __init__(self, *, waker: Waker, ship: FileClient, spool: Spool, max_text_bytes: int) -> None:
        self._waker = waker
        self.spool = spool
        self._ship = ship
        self._max_text_bytes = max_text_bytes

    async def check(self, caller: Caller, ref: str) -> None:
        """Raises NotFound unless there is such a sandbox: before anything is read for it."""
        await self._waker.find(caller, ref)

    async def read_text(self, caller: Caller, ref: str, path: str) -> str:
        """A whole UTF-8 file. Raises FileMissing, PayloadTooLarge, or BadRequest when it is not text."""
        async with self.download(caller, ref, path) as (chunks, size):
            if size > self._max_text_bytes:
                raise PayloadTooLarge(
                    f"{path} has {size} bytes, and this call reads at most {self._max_text_bytes}; download it"
                )
            data = await collect(chunks, self._max_text_bytes)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"{path} is not UTF-8 text; download it") from error

    async def write(
        self, caller: Caller, ref: str, path: str, body: bytes | AsyncIterator[bytes]
    ) -> tuple[str, int]:
        """Replace a file atomically, making its directories; returns its absolute path and size in bytes."""
        async with self._reach(caller, ref, path) as (normal, peer):
            written = await self._ship.upload(peer, normal, body, beneath=True)
        return written.path, written.size or 0

    async def delete(self, caller: Caller, ref: str, path: str) -> None:
        """Remove a file, or a directory with everything in it. Raises FileMissing."""
        async with self._reach(caller, ref, path) as (normal, peer):
            await self._ship.delete(peer, normal, beneath=True)

    async def list(self, caller: Caller, ref: str, path: str) -> list[FileEntry]:
        """The entries of a directory, directories first."""
        async with self._reach(caller, ref, path) as (normal, peer):
            found = await self._ship.list_workspace(peer, normal)
        return sorted(map(_to_entry, found), key=lambda entry: not entry.is_dir)

    @asynccontextmanager
    async def download(
        self, caller: Caller, ref: str, path: str
    ) -> AsyncGenerator[tuple[AsyncIterator[bytes], int], None]:
        """A file's bytes as they come, and how many there will be. Raises FileMissing before the first."""
        async with (
            self._reach(caller, ref, path) as (normal, peer),
            self._ship.download(peer, normal, Wanted(), beneath=True) as opened,
        ):
            yield opened.chunks, opened.length

    @asynccontextmanager
    async def _reach(self, caller: Caller, ref: str, path: str) -> AsyncGenerator[tuple[str, Peer], None]:
        normal = workspace_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            yield normal, awake.peer


@dataclass(kw_only=True)
class Watch(SessionStream):
    """A client's watch of files."""

    watching: Watching

    @property
    def path(self) -> str:
        """The watched path, in full."""
        return self.watching.path

    def events(self) -> AsyncGenerator[FileEvent]:
        """Changes until the path is removed. Raises OutputGone or, while the session lives, ShipError."""
        return self.until_over(self.watching.events(), _stopped)


class SandboxFiles:
    """The service behind `…/files/*`: any path that the sandbox's user may touch."""

    def __init__(self, *, waker: Waker, ship: FileClient, connections: OpenConnections) -> None:
        self._waker = waker
        self._ship = ship
        self._connections = connections

    @asynccontextmanager
    async def download(
        self, caller: Caller, ref: str, path: str, wanted: Wanted, *, acting: Acting = OWN
    ) -> AsyncGenerator[ShipDownload, None]:
        """The wanted bytes of a file. Raises FileMissing and RangeNotSatisfiable before the first."""
        async with (
            self._reach(caller, ref, acting, path=path) as peer,
            self._ship.download(peer, path, wanted, acting=acting) as opened,
        ):
            yield opened

    async def upload(
        self,
        caller: Caller,
        ref: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        mode: str | None,
        mtime: float | None,
        mkdir: bool,
        attributes: Mapping[str, str] | None = None,
        acting: Acting = OWN,
    ) -> FileInfo:
        """Replace a file atomically. When `body` raises, the old one stays."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.upload(
                peer, path, body, mode=mode, mtime=mtime, mkdir=mkdir, attributes=attributes, acting=acting
            )

    async def stat(
        self, caller: Caller, ref: str, path: str, *, follow: bool, acting: Acting = OWN
    ) -> FileInfo:
        """The file at a path. Raises FileMissing."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.stat(peer, path, follow=follow, acting=acting)

    async def look(self, caller: Caller, ref: str, path: str, *, acting: Acting = OWN) -> FileDetails:
        """All that is known of the file or link at a path. Raises FileMissing."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.look(peer, path, acting=acting)

    async def list_closely(
        self, caller: Caller, ref: str, path: str, *, depth: int, limit: int, acting: Acting = OWN
    ) -> list[FileDetails]:
        """The same of the entries below a directory. Raises FileMissing, and PayloadTooLarge for more."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.list_closely(peer, path, depth=depth, limit=limit, acting=acting)

    @asynccontextmanager
    async def list(
        self,
        caller: Caller,
        ref: str,
        path: str,
        *,
        depth: int,
        glob: str | None,
        limit: int,
        acting: Acting = OWN,
    ) -> AsyncGenerator[AsyncIterator[FileInfo | ListEnd], None]:
        """The entries below a directory, then a ListEnd. Raises FileMissing before the first."""
        async with (
            self._reach(caller, ref, acting, path=path) as peer,
            self._ship.list(peer, path, depth=depth, glob=glob, limit=limit, acting=acting) as items,
        ):
            yield items

    async def carry(
        self,
        caller: Caller,
        ref: str,
        how: Carrying,
        source: str,
        destination: str,
        *,
        overwrite: bool,
        acting: Acting = OWN,
    ) -> FileInfo:
        """Rename or copy, a directory with all in it. Raises Conflict instead of overwriting unasked."""
        async with self._reach(caller, ref, acting, source=source, destination=destination) as peer:
            return await self._ship.carry(peer, how, source, destination, overwrite=overwrite, acting=acting)

    async def make_directory(
        self,
        caller: Caller,
        ref: str,
        path: str,
        *,
        mode: str,
        parents: bool,
        acting: Acting = OWN,
    ) -> FileInfo:
        """A directory that is there afterwards."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.make_directory(peer, path, mode=mode, parents=parents, acting=acting)

    async def change_mode(
        self, caller: Caller, ref: str, path: str, mode: str, *, recursive: bool, acting: Acting = OWN
    ) -> FileInfo:
        """Another mode for a file, or for a directory and all in it."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            return await self._ship.change_mode(peer, path, mode, recursive=recursive, acting=acting)

    async def change_owners(
        self, caller: Caller, ref: str, path: str, owners: Owners, *, recursive: bool
    ) -> tuple[FileInfo, int]:
        """Another owner for a file, or for a directory and all in it, and how many files that are. Root of
        the sandbox does it. Raises Forbidden where the profile does not allow root.
        """
        if owners == Owners():
            raise BadRequest("name a user, a group or both for the files", details={"field": "user"})
        sandbox_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            if not awake.profile.root:
                problem = "a change of owners needs root, which the sandbox's profile does not allow"
                raise Forbidden(problem, details={"field": "user"})
            return await self._ship.change_owners(awake.peer, path, owners, recursive=recursive)

    async def edit(self, caller: Caller, ref: str, path: str, old: str, new: str, *, everywhere: bool) -> int:
        """How often a text was replaced in a file, atomically. Raises Conflict unless it is there once."""
        async with self._reach(caller, ref, path=path) as peer:
            return await self._ship.edit(peer, path, old, new, everywhere=everywhere)

    async def delete(
        self, caller: Caller, ref: str, path: str, *, recursive: bool, acting: Acting = OWN
    ) -> None:
        """Remove a file, or a directory. Raises Conflict when that is not empty, unless `recursive`."""
        async with self._reach(caller, ref, acting, path=path) as peer:
            await self._ship.delete(peer, path, recursive=recursive, acting=acting)

    async def search(
        self, caller: Caller, ref: str, path: str, asked: Mapping[str, object], limit: int
    ) -> SearchResult:
        """The matches of a search within 30 s. Raises FileMissing, and BadRequest for an invalid pattern."""
        async with self._reach(caller, ref, path=path) as peer:
            return await self._ship.search(peer, path, asked, limit)

    @asynccontextmanager
    async def pack(
        self, caller: Caller, ref: str, path: str, kind: str
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A directory or file as an archive. Raises FileMissing and Forbidden before the first byte."""
        async with (
            self._reach(caller, ref, path=path) as peer,
            self._ship.pack(peer, path, kind) as chunks,
        ):
            yield chunks

    async def unpack(
        self, caller: Caller, ref: str, path: str, kind: str, body: AsyncIterator[bytes]
    ) -> Unpacked:
        """Unpack an archive below a directory. Files made before an error stay."""
        async with self._reach(caller, ref, path=path) as peer:
            return await self._ship.unpack(peer, path, kind, body)

    @asynccontextmanager
    async def watch(
        self,
        caller: Caller,
        ref: str,
        path: str,
        *,
        recursive: bool,
        sizes: bool = False,
        acting: Acting = OWN,
    ) -> AsyncGenerator[Watch]:
        """Watch files; with `sizes` the events tell those of files. The sandbox may freeze meanwhile, and is
        silent then. Raises FileMissing, Conflict.
        """
        sandbox_path(path)
        with self._connections.place(caller.owner):
            async with (
                self._awake(caller, ref, acting, follower=True) as awake,
                self._ship.watch(
                    awake.peer, path, recursive=recursive, sizes=sizes, acting=acting
                ) as watching,
            ):
                yield Watch(
                    caller=caller, sandbox_id=awake.sandbox.id, session_id=awake.peer.session_id,
                    waker=self._waker, connections=self._connections, watching=watching,
                )  # fmt: skip

    @asynccontextmanager
    async def _reach(
        self, caller: Caller, ref: str, acting: Acting = OWN, **paths: str
    ) -> AsyncGenerator[Peer, None]:
        for field, path in paths.items():
            sandbox_path(path, field)
        async with self._awake(caller, ref, acting) as awake:
            yield awake.peer

    @asynccontextmanager
    async def _awake(
        self, caller: Caller, ref: str, acting: Acting, *, follower: bool = False
    ) -> AsyncGenerator[Awake, None]:
        """The sandbox, where files may be touched so."""
        check_user(acting.user)
        async with self._waker.awake(caller, ref, "filesystem", follower=follower) as awake:
            check_allowed(acting.user, root=awake.profile.root)
            await self._ship.require(awake.peer, acting)
            yield awake


def _to_entry(found: FileInfo) -> FileEntry:
    return FileEntry(
        name=found.name, path=found.path, is_file=found.is_file, is_dir=found.is_dir, size=found.size,
        modified_time=found.mtime,
    )  # fmt: skip


def _stopped() -> FileEvent:
    raise OutputGone("the sandbox was stopped; start it and watch again")
