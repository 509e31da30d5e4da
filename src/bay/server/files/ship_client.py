"""The client of a Ship's file routes. Answers are checked and bounded here."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, Field, FiniteFloat

from bay.errors import BadRequest, BayError, Conflict, FileMissing, Forbidden, PayloadTooLarge, ShipError
from bay.models import FileEvent, FileEventType, FileInfo, FileType, SearchMatch, SearchResult
from bay.server.ship.answers import Count, Text, collect, parse
from bay.server.ship.client import ShipClient, lines
from bay.server.ship.connection import Peer
from bay.server.ship.counted_bytes import CountedBytes
from bay.server.ship.websocket import Closed, ShipWebSocket
from ship_protocol import CloseCode, Feature

_SILENCE_S = 120.0
"""For a Ship that neither gives nor takes. Longer than a disk takes to come back."""
_WORK_S = 3600.0
"""For what says nothing until it is done, such as a copy."""
_SEARCH_S = 75.0
"""Ship searches for 30 s at most, after it has waited for its turn as long."""
_SMALL = 1 << 20
_LINE = 256 << 10
_MAX_ENTRIES = 10_000
_MAX_LISTING_CHARS = 8 << 20
_SIGNS = 16
"""Signs of life that a list may have, besides one for each second that it takes."""
_MATCH_LINE = 1 << 20
"""Six bytes for each of a path's characters, and for those of a text."""
_MATCHES_BYTES = 16 << 20

Mode = Annotated[str, Field(pattern=r"^[0-7]{4}$")]
Owner = Annotated[int, Field(ge=0, lt=2**32)]
LongText = Annotated[str, Field(max_length=65536)]
DeepPath = Annotated[str, Field(max_length=1 << 17)]
"""Ship descends 400 directories, each with a name of up to 255 characters, below the start."""
Carrying = Literal["move", "copy"]
_REFUSALS: dict[int, type[BayError]] = {
    CloseCode.BAD_MESSAGE: BadRequest,
    CloseCode.FORBIDDEN: Forbidden,
    CloseCode.NOT_FOUND: FileMissing,
    CloseCode.CONFLICT: Conflict,
}


class _Info(BaseModel):
    name: Text
    path: LongText
    type: FileType
    size: Count | None
    mode: Mode
    uid: Owner
    gid: Owner
    mtime: FiniteFloat  # any: file systems keep years that no calendar has
    target: LongText | None = None

    def to_info(self) -> FileInfo:
        return FileInfo(**dict(self))


class _Part(BaseModel):
    size: Count
    first: Count
    length: Count
    partial: bool
    etag: Annotated[str, Field(pattern=r"^[0-9a-f-]{1,80}$")]
    mode: Mode
    mtime: FiniteFloat


class _Changed(_Info):
    changed: Count


class ListEnd(BaseModel):
    """The last line of a list: whether there is more than it shows."""

    truncated: bool


class _Replaced(BaseModel):
    replaced: Count


class _Done(BaseModel):
    status: Text


@dataclass(frozen=True, slots=True)
class Acting:
    """In whose name files are touched: the sandbox's own user, or `user`. With `from_home` a relative path
    begins at that user's home, which `~` is, and not in the workspace.
    """

    user: str | None = None
    from_home: bool = False

    def query(self) -> dict[str, object]:
        """The same as Ship reads it."""
        user: dict[str, object] = {} if self.user is None else {"user": self.user}
        return user | ({"home": "true"} if self.from_home else {})


OWN = Acting()
"""The sandbox's own user, whose relative paths lie in the workspace."""
ROOT = Acting("root")
"""Root of the sandbox, for a profile that allows it."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Whom files are to belong to: a user and a group, by name or number; None leaves the old one."""

    user: str | int | None = None
    group: str | int | None = None


@dataclass(frozen=True, slots=True)
class FileDetails:
    """The file or link at a path, as such, with the names of its owner and group, and its attributes (user
    xattrs). `end` is where a link leads in the end: the path and the type there; None: nowhere.
    """

    info: FileInfo
    owner: str
    group: str
    attributes: Mapping[str, str]
    end: tuple[str, FileType] | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes `first` to `last` (None: the end), or the last `suffix`; all, unless it has tag `if_range`."""

    first: int | None = None
    last: int | None = None
    suffix: int | None = None
    if_range: str | None = None


@dataclass(frozen=True, slots=True)
class ShipDownload:
    """A file, or a part of it, being read: `length` bytes from `first` on of `size`."""

    size: int
    first: int
    length: int
    partial: bool
    etag: str
    mode: str
    mtime: float
    chunks: AsyncIterator[bytes]


Line = TypeVar("Line", bound=_Info)


class _LinkEnd(BaseModel):
    path: LongText
    type: FileType


class _CloseInfo(_Info):
    owner: Text
    group: Text
    attributes: Annotated[dict[Text, Text], Field(max_length=64)]
    end: _LinkEnd | None

    def to_details(self) -> FileDetails:
        own = {"owner", "group", "attributes", "end"}
        info = FileInfo(**{name: value for name, value in dict(self).items() if name not in own})
        end = None if self.end is None else (self.end.path, self.end.type)
        return FileDetails(info, self.owner, self.group, self.attributes, end)


class _Match(BaseModel):
    path: DeepPath
    line: Count | None
    column: Count | None
    text: Annotated[str, Field(max_length=4096)] | None


class _Counts(BaseModel):
    files_searched: Count
    files_skipped: Count
    truncated: bool


class _WatchReply(BaseModel):
    type: Literal["watching"]
    path: DeepPath


class _WatchEvent(BaseModel):
    type: FileEventType
    content: Literal["new", "replaced"] | None = None
    path: DeepPath | None = None
    to: DeepPath | None = None
    is_dir: bool | None = None
    size: Count | None = None


class Unpacked(BaseModel):
    """The counts of an unpacked archive: everything but directories, and the bytes of files."""

    files: Count
    bytes: Count


@dataclass(frozen=True, slots=True)
class Watching:
    """Files that are watched; `path` is what is, in full."""

    socket: ShipWebSocket
    path: str

    async def events(self) -> AsyncGenerator[FileEvent, None]:
        """Changes, until the watched path is removed. Raises what Ship ends it with, and ShipError."""
        while not isinstance(message := await self.socket.receive(), Closed):
            yield _event(message)
        if message.code != CloseCode.NORMAL:
            refusal = _REFUSALS.get(message.code, ShipError)
            raise refusal(message.reason or "the sandbox's runtime ended the watch")


class FileClient:
    """Bay's file calls to every session's Ship, over the connections of `ship`.
    `silence_s` bounds a Ship's silence, `work_s` that of one that works. With `beneath` Ship confines a path,
    and every link on its way, to the workspace.
    """

    def __init__(self, ship: ShipClient, *, silence_s: float = _SILENCE_S, work_s: float = _WORK_S) -> None:
        self._ship = ship
        self._in = ship.meters.file_bytes.labels("in")
        self._out = ship.meters.file_bytes.labels("out")
        self._silence_s = silence_s
        self._work_s = work_s

    async def require(self, peer: Peer, acting: Acting) -> None:
        """Raises CapabilityNotSupported unless the session's Ship can act so."""
        if acting != OWN:
            await self._ship.require(peer, Feature.ACTING)

    @asynccontextmanager
    async def download(
        self, peer: Peer, path: str, wanted: Wanted, *, beneath: bool = False, acting: Acting = OWN
    ) -> AsyncGenerator[ShipDownload, None]:
        """A file's bytes as they come, for as long as they do. Raises FileMissing, RangeNotSatisfiable."""
        query = _query(
            path, first=wanted.first, last=wanted.last, suffix=wanted.suffix, if_range=wanted.if_range,
            beneath=_flag(beneath), **acting.query(),
        )  # fmt: skip
        opened = self._ship.open(peer, "GET", "/fs/content", query, deadline_s=self._silence_s)
        async with opened as (wire, head):
            part = parse(_Part, head.file.encode())
            if head.content_length != part.length or part.first + part.length > part.size:
                raise ShipError("the sandbox's runtime sent contradictory facts of a file")
            yield ShipDownload(**dict(part), chunks=CountedBytes(wire.body(self._silence_s), self._out))

    async def upload(
        self,
        peer: Peer,
        path: str,
        body: bytes | AsyncIterator[bytes],
        *,
        mode: str | None = None,
        mtime: float | None = None,
        mkdir: bool = True,
        beneath: bool = False,
        attributes: Mapping[str, str] | None = None,
        acting: Acting = OWN,
    ) -> FileInfo:
        """Replace a file atomically. When `body` raises, the old one stays."""
        if attributes:
            await self._ship.require(peer, Feature.ATTRIBUTES)
        kept = json.dumps(attributes) if attributes else None
        query = _query(
            path, mode=mode, mtime=mtime, mkdir=_flag(mkdir), beneath=_flag(beneath), attributes=kept,
            **acting.query(),
        )  # fmt: skip
        async with self._ship.open(
            peer, "PUT", "/fs/content", query, self._counted(body), "application/octet-stream",
            deadline_s=self._silence_s, while_moving=True,
        ) as (wire, _):  # fmt: skip
            return parse(_Info, await collect(wire.body(), _SMALL)).to_info()

    async def stat(self, peer: Peer, path: str, *, follow: bool, acting: Acting = OWN) -> FileInfo:
        """The file at a path."""
        query = _query(path, follow=_flag(follow), **acting.query())
        return (await self._ship.call(peer, _Info, "GET", "/fs/stat", query)).to_info()

    async def look(self, peer: Peer, path: str, *, acting: Acting = OWN) -> FileDetails:
        """All that is known of the file or link at a path."""
        query = _query(path, closely="true", **acting.query())
        return (await self._ship.call(peer, _CloseInfo, "GET", "/fs/stat", query)).to_details()

    async def list_closely(
        self, peer: Peer, path: str, *, depth: int, limit: int, acting: Acting = OWN
    ) -> list[FileDetails]:
        """The same of the entries below a directory. Raises PayloadTooLarge when there are more."""
        query = _query(path, depth=depth, limit=limit, closely="true", **acting.query())
        async with self._ship.open(peer, "GET", "/fs/list", query, deadline_s=self._silence_s) as (wire, _):
            items = _lines_of(wire.body(self._silence_s), limit, _CloseInfo)
            return await _all_of(path, items)

    async def list_workspace(self, peer: Peer, path: str) -> list[FileInfo]:
        """The first entries of a directory of the workspace, directories first, a link as its target."""
        query = _query(path, limit=_MAX_ENTRIES, beneath="true", follow="true", directories_first="true")
        # One deadline for all of it: the caller has nothing until the list is whole.
        async with self._ship.open(peer, "GET", "/fs/list", query, deadline_s=self._silence_s) as (wire, _):
            return await _first_of(_entries(wire.body(), _MAX_ENTRIES))

    @asynccontextmanager
    async def list(
        self, peer: Peer, path: str, *, depth: int, glob: str | None, limit: int, acting: Acting = OWN
    ) -> AsyncGenerator[AsyncIterator[FileInfo | ListEnd], None]:
        """The entries below a directory, as a stream; the last item is a ListEnd."""
        query = _query(path, depth=depth, glob=glob, limit=limit, **acting.query())
        opened = self._ship.open(peer, "GET", "/fs/list", query, deadline_s=self._silence_s)
        async with opened as (wire, _):
            yield _entries(wire.body(self._silence_s), limit)

    async def carry(
        self,
        peer: Peer,
        how: Carrying,
        source: str,
        destination: str,
        *,
        overwrite: bool,
        acting: Acting = OWN,
    ) -> FileInfo:
        """Rename, also to another file system, or copy; a directory with all in it."""
        body = {"source": source, "destination": destination, "overwrite": overwrite}
        return await self._work(peer, f"/fs/{how}", body, acting)

    async def make_directory(
        self, peer: Peer, path: str, *, mode: str, parents: bool, acting: Acting = OWN
    ) -> FileInfo:
        """A directory that is there afterwards."""
        return await self._work(peer, "/fs/mkdir", {"path": path, "mode": mode, "parents": parents}, acting)

    async def change_mode(
        self, peer: Peer, path: str, mode: str, *, recursive: bool, acting: Acting = OWN
    ) -> FileInfo:
        """Another mode for a file, or for a directory and all in it."""
        body = {"path": path, "mode": mode, "recursive": recursive}
        return await self._work(peer, "/fs/chmod", body, acting)

    async def change_owners(
        self, peer: Peer, path: str, owners: Owners, *, recursive: bool
    ) -> tuple[FileInfo, int]:
        """Another owner, as root, for a file, or for a directory and all in it; and how many it has now."""
        body = {"path": path, "user": owners.user, "group": owners.group, "recursive": recursive}
        await self.require(peer, ROOT)
        query = ROOT.query()
        found = await self._ship.call(peer, _Changed, "POST", "/fs/chown", query, body, self._work_s)
        return FileInfo(**found.model_dump(exclude={"changed"})), found.changed

    async def edit(self, peer: Peer, path: str, old: str, new: str, *, everywhere: bool) -> int:
        """Replace a text in a file; how many times. Raises Conflict with `details.matches`."""
        body = {"path": path, "old": old, "new": new, "all": everywhere}
        return (await self._ship.call(peer, _Replaced, "POST", "/fs/edit", None, body)).replaced

    async def delete(
        self, peer: Peer, path: str, *, recursive: bool = True, beneath: bool = False, acting: Acting = OWN
    ) -> None:
        """Remove a file, or a directory."""
        query = _query(path, recursive=_flag(recursive), beneath=_flag(beneath), **acting.query())
        await self._ship.call(peer, _Done, "DELETE", "/fs", query, deadline_s=self._work_s)

    async def search(self, peer: Peer, path: str, asked: Mapping[str, object], limit: int) -> SearchResult:
        """The matches of a search. Raises BadRequest for an invalid expression or glob."""
        query = _query(path, **asked, limit=limit)
        async with self._ship.open(peer, "GET", "/fs/search", query, deadline_s=_SEARCH_S) as (wire, _):
            return await _result(wire.body(), limit)

    @asynccontextmanager
    async def pack(self, peer: Peer, path: str, kind: str) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """A directory or file as an archive, as it comes."""
        query = _query(path, format=kind)
        opened = self._ship.open(peer, "GET", "/fs/archive", query, deadline_s=self._silence_s)
        async with opened as (wire, _):
            yield CountedBytes(wire.body(self._silence_s), self._out)

    async def unpack(self, peer: Peer, path: str, kind: str, body: AsyncIterator[bytes]) -> Unpacked:
        """Unpack an archive below a directory. Raises BadRequest for a bad one, part of which may be made."""
        async with self._ship.open(
            peer, "PUT", "/fs/archive", _query(path, format=kind), self._counted(body), "application/octet-stream",
            deadline_s=self._silence_s, while_moving=True,
        ) as (wire, _):  # fmt: skip
            return parse(Unpacked, await collect(wire.body(), _SMALL))

    @asynccontextmanager
    async def watch(
        self, peer: Peer, path: str, *, recursive: bool, sizes: bool = False, acting: Acting = OWN
    ) -> AsyncGenerator[Watching, None]:
        """Watch a directory or a file; with `sizes` its events have those of files. Raises FileMissing,
        Forbidden, and Conflict when too many watch.
        """
        if sizes:
            await self._ship.require(peer, Feature.WATCH_SIZES)
        query = urlencode(
            _query(path, recursive=_flag(recursive), sizes="true" if sizes else None, **acting.query())
        )
        async with self._ship.open_socket(peer, f"/fs/watch?{query}") as (wire, socket):
            first = await socket.receive()
            if isinstance(first, Closed):
                raise _REFUSALS.get(first.code, ShipError)(first.reason)
            if not isinstance(first, str):
                raise ShipError("the sandbox's runtime did not name what it watches")
            watching = parse(_WatchReply, first.encode())
            wire.set_deadline(None)  # nothing may happen for days
            yield Watching(socket, watching.path)

    def _counted(self, body: bytes | AsyncIterator[bytes]) -> bytes | AsyncIterator[bytes]:
        if isinstance(body, bytes):
            self._in.inc(len(body))
            return body
        return CountedBytes(body, self._in)

    async def _work(self, peer: Peer, path: str, body: Mapping[str, Any], acting: Acting = OWN) -> FileInfo:
        query = acting.query() or None
        found = await self._ship.call(peer, _Info, "POST", path, query, body, self._work_s)
        return found.to_info()


def _query(path: str, **given: object) -> dict[str, object]:
    # As bytes: a name need not be UTF-8.
    asked: dict[str, object] = {"path": path.encode("utf-8", "surrogateescape")}
    return asked | {name: value for name, value in given.items() if value is not None}


def _flag(value: bool) -> str:
    return "true" if value else "false"


async def _first_of(items: AsyncIterator[FileInfo | ListEnd]) -> list[FileInfo]:
    found: list[FileInfo] = []
    room = _MAX_LISTING_CHARS
    async for item in items:
        if isinstance(item, FileInfo) and (room := room - len(item.name) - len(item.path)) >= 0:
            found.append(replace(item, target=None))  # no list shows it, and it may be long
    return found


async def _all_of(path: str, items: AsyncIterator[_CloseInfo | ListEnd]) -> list[FileDetails]:
    found: list[FileDetails] = []
    room = _MAX_LISTING_CHARS
    async for item in items:
        if isinstance(item, ListEnd):
            if item.truncated:
                raise PayloadTooLarge(f"there is more below {path} than one answer can list")
        elif (room := room - len(item.path) - sum(map(len, item.attributes.values()))) < 0:
            raise PayloadTooLarge(f"there is more below {path} than one answer can list")
        else:
            found.append(item.to_details())
    return found


async def _entries(
    chunks: AsyncGenerator[bytes, None], limit: int
) -> AsyncGenerator[FileInfo | ListEnd, None]:
    async for item in _lines_of(chunks, limit, _Info):
        yield item if isinstance(item, ListEnd) else item.to_info()


async def _lines_of(
    chunks: AsyncGenerator[bytes, None], limit: int, model: type[Line]
) -> AsyncGenerator[Line | ListEnd, None]:
    began, count, signs = time.monotonic(), 0, 0
    async for line in lines(chunks, _LINE):
        if line.startswith(b'{"truncated"'):
            yield parse(ListEnd, line)
            return
        if not line:
            signs += 1
            if signs > _SIGNS + time.monotonic() - began:
                raise ShipError("the sandbox's runtime sent too many keep-alive lines without an entry")
            continue
        count += 1
        if count > limit:
            raise ShipError("the sandbox's runtime listed more than requested")
        yield parse(model, line)
    raise ShipError("the sandbox's runtime ended a list early")


def _event(message: str | bytes) -> FileEvent:
    if isinstance(message, bytes):
        raise ShipError("the sandbox's runtime sent a file event in a binary message")
    found = parse(_WatchEvent, message.encode("utf-8", "replace"))
    if found.type != "overflow" and found.path is None:
        raise ShipError("the sandbox's runtime sent an event without a file")
    return FileEvent(**dict(found))


async def _result(chunks: AsyncGenerator[bytes, None], limit: int) -> SearchResult:
    matches: list[SearchMatch] = []
    room = _MATCHES_BYTES
    async for line in lines(chunks, _MATCH_LINE):
        room -= len(line)
        if room < 0 or len(matches) > limit:
            raise ShipError("the sandbox's runtime sent more matches than requested")
        if not line.startswith(b'{"path"'):
            return SearchResult(matches=tuple(matches), **dict(parse(_Counts, line)))
        matches.append(SearchMatch(**dict(parse(_Match, line))))
    raise ShipError("the sandbox's runtime ended a search early")
