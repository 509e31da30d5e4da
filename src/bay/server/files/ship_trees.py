"""The client of a Ship's routes for whole trees: search, watches and archives.

Answers are checked and bounded here.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from bay.errors import BadRequest, BayError, Conflict, FileMissing, Forbidden, ShipError
from bay.models import FileEvent, FileEventType, SearchMatch, SearchResult
from bay.server.ship.answers import Count, collect, parse
from bay.server.ship.client import ShipClient, lines
from bay.server.ship.connection import Peer
from bay.server.ship.websocket import Closed, ShipWebSocket
from ship_protocol import CloseCode

_SILENCE_S = 120.0
_SEARCH_S = 75.0
"""Ship searches for 30 s at most, after it has waited for its turn as long."""
_SMALL = 1 << 20
_LINE = 1 << 20
"""Six bytes for each of a path's characters, and for those of a text."""
_FOUND = 16 << 20

LongText = Annotated[str, Field(max_length=1 << 17)]
"""Ship descends 400 directories, each with a name of up to 255 characters, below the start."""
_REFUSALS: dict[int, type[BayError]] = {
    CloseCode.BAD_MESSAGE: BadRequest,
    CloseCode.FORBIDDEN: Forbidden,
    CloseCode.NOT_FOUND: FileMissing,
    CloseCode.CONFLICT: Conflict,
}


class _Match(BaseModel):
    path: LongText
    line: Count | None
    column: Count | None
    text: Annotated[str, Field(max_length=4096)] | None


class _Counts(BaseModel):
    files_searched: Count
    files_skipped: Count
    truncated: bool


class _WatchReply(BaseModel):
    type: Literal["watching"]
    path: LongText


class _WatchEvent(BaseModel):
    type: FileEventType
    path: LongText | None = None
    to: LongText | None = None
    is_dir: bool | None = None


class Unpacked(BaseModel):
    """The counts of an unpacked archive: everything but directories, and the bytes of files."""

    files: Count
    bytes: Count


class Watching:
    """Files that are watched; `path` is what is, in full."""

    def __init__(self, socket: ShipWebSocket, path: str) -> None:
        self.path = path
        self._socket = socket

    async def events(self) -> AsyncGenerator[FileEvent, None]:
        """Changes, until the watched path is removed. A frozen sandbox is silent.

        Raises ShipError when the sandbox's side broke or says nonsense, and what Ship ends it with.
        """
        while not isinstance(message := await self._socket.receive(), Closed):
            yield _event(message)
        if message.code != CloseCode.NORMAL:
            refusal = _REFUSALS.get(message.code, ShipError)
            raise refusal(message.reason or "the sandbox's runtime ended the watch")


class TreeClient:
    """The trees of all sessions, over the connections of `link`.

    `silence_s` bounds how long a Ship may keep still.
    """

    def __init__(self, ship: ShipClient, *, silence_s: float = _SILENCE_S) -> None:
        self._ship = ship
        self._silence_s = silence_s

    async def search(self, peer: Peer, path: str, asked: Mapping[str, object], limit: int) -> SearchResult:
        """The matches of a search. Raises BadRequest for an invalid expression or glob."""
        query = _query(path, **asked, limit=limit)
        async with self._ship.open(peer, "GET", "/fs/search", query, deadline_s=_SEARCH_S) as (wire, _):
            return await _result(wire.body(), limit)

    @asynccontextmanager
    async def pack(self, peer: Peer, path: str, kind: str) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """A directory or file as an archive, as it comes."""
        opened = self._ship.open(
            peer, "GET", "/fs/archive", _query(path, format=kind), deadline_s=self._silence_s
        )
        async with opened as (wire, _):
            yield wire.body(self._silence_s)

    async def unpack(self, peer: Peer, path: str, kind: str, body: AsyncIterator[bytes]) -> Unpacked:
        """Make what is in an archive below a directory.

        Raises BadRequest for one that is refused, part of which may be made.
        """
        async with self._ship.open(
            peer, "PUT", "/fs/archive", _query(path, format=kind), body, "application/octet-stream",
            deadline_s=self._silence_s, while_moving=True,
        ) as (wire, _):  # fmt: skip
            return parse(Unpacked, await collect(wire.body(), _SMALL))

    @asynccontextmanager
    async def watch(self, peer: Peer, path: str, *, recursive: bool) -> AsyncGenerator[Watching, None]:
        """Watch a directory or a file. Raises FileMissing, Forbidden, and Conflict when too many watch."""
        query = urlencode(_query(path, recursive="true" if recursive else "false"))
        async with self._ship.open_socket(peer, f"/fs/watch?{query}") as (wire, socket):
            first = await socket.receive()
            if isinstance(first, Closed):
                raise _REFUSALS.get(first.code, ShipError)(first.reason)
            if not isinstance(first, str):
                raise ShipError("the sandbox's runtime did not name what it watches")
            watching = parse(_WatchReply, first.encode())
            wire.set_deadline(None)  # nothing may happen for days
            yield Watching(socket, watching.path)


def _query(path: str, **given: object) -> dict[str, object]:
    # As bytes: a name need not be UTF-8.
    return {"path": path.encode("utf-8", "surrogateescape")} | given


def _event(message: str | bytes) -> FileEvent:
    if isinstance(message, bytes):
        raise ShipError("the sandbox's runtime sent a file event in a binary message")
    found = parse(_WatchEvent, message.encode("utf-8", "replace"))
    if found.type != "overflow" and found.path is None:
        raise ShipError("the sandbox's runtime sent an event without a file")
    return FileEvent(**dict(found))


async def _result(chunks: AsyncGenerator[bytes, None], limit: int) -> SearchResult:
    matches: list[SearchMatch] = []
    room = _FOUND
    async for line in lines(chunks, _LINE):
        room -= len(line)
        if room < 0 or len(matches) > limit:
            raise ShipError("the sandbox's runtime sent more matches than requested")
        if not line.startswith(b'{"path"'):
            return SearchResult(matches=tuple(matches), **dict(parse(_Counts, line)))
        matches.append(SearchMatch(**dict(parse(_Match, line))))
    raise ShipError("the sandbox's runtime ended a search early")
