"""Files of a sprite, as its own user, by paths that are absolute or begin in a working directory."""

import posixpath
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from bay.errors import BadRequest, Conflict, FileMissing
from bay.models import FileEvent, FileInfo, Profile
from bay.server.compat.sprites.file_errors import about
from bay.server.files.service import SandboxFiles, Watch
from bay.server.files.ship_client import (
    OWN,
    ROOT,
    Acting,
    Carrying,
    ListEnd,
    Owners,
    ShipDownload,
    Wanted,
)
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason
from ship_protocol import LISTED_DEPTH, LISTED_ENTRIES

WORKSPACE = "/workspace"
KEEP = ".keep"
"""Clients make a directory by writing a file of this name into it, and removing it again."""

MAX_WATCHED = 64
"""Paths of one connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A path of a sprite as its client says it; `working_dir` None is the home of the sprite's user.
    It is touched as that user, or as root of the sprite.
    """

    sprite: str
    path: str
    working_dir: str | None = None
    as_root: bool = False

    @property
    def acting(self) -> Acting:
        """In whose name it is touched."""
        return ROOT if self.as_root else OWN


@dataclass(frozen=True, slots=True)
class Carried:
    """A file or directory that was renamed or copied, with how many files it has, and their bytes."""

    found: FileInfo
    count: int
    total_bytes: int


@dataclass(kw_only=True, eq=False)
class SpriteFiles:
    """The service behind `…/fs`; each call is one or a few of Bay's own on files."""

    files: SandboxFiles
    waker: Waker
    connections: OpenConnections
    profiles: Mapping[str, Profile]

    @asynccontextmanager
    async def read(self, caller: Caller, spot: Spot) -> AsyncGenerator[ShipDownload]:
        """A file being read. Raises FileMissing before the first byte."""
        path = await self._path(caller, spot)
        async with AsyncExitStack() as stack:
            with about(spot.path):
                opened = self.files.download(caller, spot.sprite, path, Wanted(), acting=spot.acting)
                download = await stack.enter_async_context(opened)
            yield download

    async def write(
        self, caller: Caller, spot: Spot, body: AsyncIterator[bytes], *, mode: str | None, mkdir: bool
    ) -> FileInfo:
        """Replace a file atomically."""
        path = await self._path(caller, spot)
        mkdir = mkdir or posixpath.basename(path) == KEEP
        with about(spot.path):
            return await self.files.upload(
                caller, spot.sprite, path, body, mode=mode, mtime=None, mkdir=mkdir, acting=spot.acting
            )

    @asynccontextmanager
    async def list(
        self, caller: Caller, spot: Spot, *, recursive: bool, pattern: str
    ) -> AsyncGenerator[tuple[FileInfo, AsyncIterator[FileInfo | ListEnd]]]:
        """The file at a path, and the entries of its list: those of a directory, or the file alone."""
        path = await self._path(caller, spot)
        depth, glob = (LISTED_DEPTH if recursive else 1), _glob(pattern, recursive=recursive)
        async with AsyncExitStack() as stack:
            with about(spot.path):
                found = await self._look(caller, spot, path, follow=True)
                opened = self.files.list(
                    caller,
                    spot.sprite,
                    path,
                    depth=depth,
                    glob=glob,
                    limit=LISTED_ENTRIES,
                    acting=spot.acting,
                )
                entries = await stack.enter_async_context(opened) if found.is_dir else _alone(found)
            yield found, entries

    async def delete(self, caller: Caller, spot: Spot, *, recursive: bool) -> str:
        """Remove what is at a path, a directory with all in it only when `recursive`; its whole path."""
        path = await self._path(caller, spot)
        with about(spot.path):
            found = await self._look(caller, spot, path, follow=False)
            await self.files.delete(caller, spot.sprite, path, recursive=recursive, acting=spot.acting)
        return found.path

    async def carry(
        self, caller: Caller, how: Carrying, spot: Spot, dest: str, *, recursive: bool
    ) -> Carried:
        """Rename or copy, over what is there where rename(2) would. Raises BadRequest for a directory that
        is copied and not `recursive`, and Conflict for one in the place of the destination.
        """
        path = await self._path(caller, spot)
        there = await self._path(caller, replace(spot, path=dest))
        with about(spot.path):
            source = await self._look(caller, spot, path, follow=False)
            if how == "copy" and source.is_dir and not recursive:
                raise BadRequest(f"{spot.path} is a directory", details={"reason": "is_directory"})
        with about(dest):
            await self._check_place(caller, spot, there, source)
        with about(spot.path):
            found = await self.files.carry(
                caller, spot.sprite, how, path, there, overwrite=True, acting=spot.acting
            )
            return await self._counted(caller, spot, found)

    async def change_mode(
        self, caller: Caller, spot: Spot, mode: str, *, recursive: bool
    ) -> tuple[FileInfo, int]:
        """The file with its new mode, and how many have it now."""
        path = await self._path(caller, spot)
        with about(spot.path):
            found = await self.files.change_mode(
                caller, spot.sprite, path, mode, recursive=recursive, acting=spot.acting
            )
            if not (recursive and found.is_dir):
                return found, 1
            counted = await self._counted(caller, spot, found)
        return found, counted.count

    async def change_owners(
        self, caller: Caller, spot: Spot, owners: Owners, *, recursive: bool
    ) -> tuple[FileInfo, int]:
        """The file with its new owners, and how many have them now. Raises Forbidden without root."""
        path = await self._path(caller, spot)
        with about(spot.path):
            return await self.files.change_owners(caller, spot.sprite, path, owners, recursive=recursive)

    @asynccontextmanager
    async def watching(self, caller: Caller, sprite: str) -> AsyncGenerator["FileWatches"]:
        """A connection that may watch. Takes its place among the caller's first. Raises NotFound."""
        with self.connections.place(caller.owner):
            sandbox = await self.waker.find(caller, sprite)
            yield FileWatches(self, caller, sandbox.id)

    async def path_in(self, caller: Caller, spot: Spot) -> str:
        """The path as Bay's own calls take it."""
        return await self._path(caller, spot)

    async def _path(self, caller: Caller, spot: Spot) -> str:
        if not spot.path:
            raise BadRequest("path is empty; name a file", details={"about_file": ""})
        if spot.path.startswith("/"):
            return spot.path
        sandbox = await self.waker.find(caller, spot.sprite)
        profile = self.profiles.get(sandbox.profile)
        home = profile.home if profile else WORKSPACE
        path = posixpath.join(home, spot.working_dir or "", spot.path)
        return path.removeprefix(f"{WORKSPACE}/")  # where Bay's own paths begin

    async def _look(self, caller: Caller, spot: Spot, path: str, *, follow: bool) -> FileInfo:
        return await self.files.stat(caller, spot.sprite, path, follow=follow, acting=spot.acting)

    async def _check_place(self, caller: Caller, spot: Spot, path: str, source: FileInfo) -> None:
        """Raises what rename(2) refuses for the sake of what is at `path` already."""
        try:
            there = await self._look(caller, spot, path, follow=False)
        except FileMissing:
            return
        if there.is_dir and not source.is_dir:
            raise BadRequest(f"{path} is a directory", details={"reason": "is_directory"})
        if source.is_dir and not there.is_dir:
            raise BadRequest(f"{path} is not a directory", details={"reason": "not_directory"})
        if there.is_dir:
            counted = await self._counted(caller, spot, there)
            if counted.count > 1:
                raise Conflict(f"{path} is not empty", details={"reason": "not_empty"})

    async def _counted(self, caller: Caller, spot: Spot, found: FileInfo) -> Carried:
        """How much there is at a path, itself included, as far as a list goes."""
        count, total = 1, found.size or 0
        if found.is_dir:
            opened = self.files.list(
                caller, spot.sprite, found.path, depth=LISTED_DEPTH, glob=None, limit=LISTED_ENTRIES,
                acting=spot.acting,
            )  # fmt: skip
            async with opened as entries:
                async for entry in entries:
                    if isinstance(entry, FileInfo):
                        count, total = count + 1, total + (entry.size or 0)
        return Carried(found, count, total)


@dataclass(eq=False)
class FileWatches:
    """One connection, and the watches of it."""

    service: SpriteFiles
    caller: Caller
    sandbox_id: str
    _count: int = field(init=False, default=0)

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self.service.connections.over(self.caller)

    @asynccontextmanager
    async def watch(self, spot: Spot, *, recursive: bool) -> AsyncGenerator[Watch]:
        """One more path. Raises FileMissing, Forbidden, and Conflict for too many."""
        if self._count >= MAX_WATCHED:
            raise Conflict(f"a connection watches at most {MAX_WATCHED} paths; open another")
        self._count += 1
        full = await self.service.path_in(self.caller, spot)
        opened = self.service.files.watch(
            self.caller, spot.sprite, full, recursive=recursive, sizes=True, acting=spot.acting
        )
        async with opened as watch:
            yield watch


def told(event: FileEvent) -> list[tuple[str, str, int]]:
    """The path, the kind and the file's size of each event that clients know for one of Bay's; none for an
    overflow. All but files have size 0, as in lists.
    """
    kinds = {"created": "create", "modified": "write", "deleted": "remove", "moved": "rename"}
    if event.path is None:
        return []
    size, kind = event.size or 0, kinds.get(event.type, "chmod")
    if event.to is not None:
        return [(event.path, kind, 0), (event.to, "create", size)]
    return [(event.path, kind, size)]


async def _alone(found: FileInfo) -> AsyncGenerator[FileInfo | ListEnd]:
    yield found
    yield ListEnd(truncated=False)


def _glob(pattern: str, *, recursive: bool) -> str | None:
    if not pattern:
        return None
    return f"**/{pattern}" if recursive and "/" not in pattern else pattern
