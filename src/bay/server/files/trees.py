"""The service of whole trees, through Ship: search, watches and archives."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bay.errors import OutputGone
from bay.models import FileEvent, SearchResult
from bay.server.files.ship_trees import TreeClient, Unpacked, Watching
from bay.server.sessions.session_stream import SessionStream
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections
from bay.server.web.workspace_paths import sandbox_path


@dataclass(kw_only=True)
class Watch(SessionStream):
    """A client's watch of files."""

    watching: Watching

    @property
    def path(self) -> str:
        """The watched path, in full."""
        return self.watching.path

    def events(self) -> AsyncGenerator[FileEvent]:
        """Changes, until the watched path is removed.

        Raises OutputGone once the session is over, else ShipError.
        """
        return self.until_over(self.watching.events(), _stopped)


class FileTrees:
    """The service behind `…/files/search`, `…/files/watch` and `…/files/archive`.

    Every call wakes the sandbox.
    """

    def __init__(self, *, waker: Waker, ship: TreeClient, connections: OpenConnections) -> None:
        self._waker = waker
        self._ship = ship
        self._connections = connections

    async def search(
        self, caller: Caller, ref: str, path: str, asked: Mapping[str, object], limit: int
    ) -> SearchResult:
        """The matches of a search within 30 s. Raises FileMissing, and BadRequest for an invalid pattern."""
        sandbox_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            return await self._ship.search(awake.peer, path, asked, limit)

    @asynccontextmanager
    async def pack(
        self, caller: Caller, ref: str, path: str, kind: str
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A directory or file as an archive, as it comes.

        Raises FileMissing and Forbidden before the first byte.
        """
        sandbox_path(path)
        async with (
            self._waker.awake(caller, ref, "filesystem") as awake,
            self._ship.pack(awake.peer, path, kind) as chunks,
        ):
            yield chunks

    async def unpack(
        self, caller: Caller, ref: str, path: str, kind: str, body: AsyncIterator[bytes]
    ) -> Unpacked:
        """Unpack an archive below a directory. Files made before an error stay."""
        sandbox_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            return await self._ship.unpack(awake.peer, path, kind, body)

    @asynccontextmanager
    async def watch(self, caller: Caller, ref: str, path: str, *, recursive: bool) -> AsyncGenerator[Watch]:
        """Watch files.

        The sandbox may freeze meanwhile, and is silent then. Raises FileMissing and Conflict.
        """
        sandbox_path(path)
        with self._connections.place(caller.owner):
            async with (
                self._waker.awake(caller, ref, "filesystem", follower=True) as awake,
                self._ship.watch(awake.peer, path, recursive=recursive) as watching,
            ):
                yield Watch(
                    caller=caller,
                    sandbox_id=awake.sandbox.id,
                    session_id=awake.peer.session_id,
                    waker=self._waker,
                    connections=self._connections,
                    watching=watching,
                )


def _stopped() -> FileEvent:
    raise OutputGone("the sandbox was stopped; start it and watch again")
