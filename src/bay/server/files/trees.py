"""Whole trees of a sandbox's files, through Ship: searching them, watching them, and as archives."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bay.errors import OutputGone
from bay.models import FileEvent, SearchResult
from bay.server.files.ship_trees import TreeLink, Unpacked, Watching
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import Reason, Stays
from bay.server.web.workspace_paths import sandbox_path


class Watch:
    """One who watches files."""

    def __init__(
        self, caller: Caller, sandbox_id: str, session_id: str, watching: Watching, waker: Waker, stays: Stays
    ) -> None:
        self.path = watching.path
        """What is watched, in full."""
        self._caller = caller
        self._sandbox_id = sandbox_id
        self._session_id = session_id
        self._watching = watching
        self._waker = waker
        self._stays = stays

    def events(self) -> AsyncGenerator[FileEvent]:
        """What happens, until what is watched is gone. Raises OutputGone once the session is over, else ShipError."""
        events = self._watching.events()
        return self._waker.until_over(self._sandbox_id, self._session_id, events, _stopped)

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self._stays.over(self._caller)


class FileTrees:
    """The service behind `…/files/search`, `…/files/watch` and `…/files/archive`. Every call wakes the sandbox."""

    def __init__(self, *, waker: Waker, link: TreeLink, stays: Stays) -> None:
        self._waker = waker
        self._link = link
        self._stays = stays

    async def search(
        self, caller: Caller, ref: str, path: str, asked: Mapping[str, object], limit: int
    ) -> SearchResult:
        """What a search finds within 30 s. Raises FileMissing, and BadRequest for what cannot be looked for."""
        sandbox_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            return await self._link.search(awake.peer, path, asked, limit)

    @asynccontextmanager
    async def pack(
        self, caller: Caller, ref: str, path: str, kind: str
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A directory or file as an archive, as it comes. Raises FileMissing and Forbidden before the first byte."""
        sandbox_path(path)
        async with (
            self._waker.awake(caller, ref, "filesystem") as awake,
            self._link.pack(awake.peer, path, kind) as chunks,
        ):
            yield chunks

    async def unpack(
        self, caller: Caller, ref: str, path: str, kind: str, body: AsyncIterator[bytes]
    ) -> Unpacked:
        """Make what is in an archive below a directory. What was made before an error stays."""
        sandbox_path(path)
        async with self._waker.awake(caller, ref, "filesystem") as awake:
            return await self._link.unpack(awake.peer, path, kind, body)

    @asynccontextmanager
    async def watch(self, caller: Caller, ref: str, path: str, *, recursive: bool) -> AsyncGenerator[Watch]:
        """Watch files. The sandbox may freeze meanwhile, and is silent then. Raises FileMissing and Conflict."""
        sandbox_path(path)
        with self._stays.place(caller.owner):
            async with (
                self._waker.awake(caller, ref, "filesystem", follower=True) as awake,
                self._link.watch(awake.peer, path, recursive=recursive) as watching,
            ):
                peer = awake.peer
                yield Watch(caller, awake.sandbox.id, peer.session_id, watching, self._waker, self._stays)


def _stopped() -> FileEvent:
    raise OutputGone("the sandbox was stopped; start it and watch again")
