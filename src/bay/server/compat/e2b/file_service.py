"""Files as envd has them: those of the sandbox, touched as the user whom a call names."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from bay.errors import BadRequest, FileMissing, InvalidArgument, NotFound, OutputGone, Unauthorized
from bay.models import FileEvent
from bay.server.compat.e2b.connect import RpcError, SandboxGone
from bay.server.compat.e2b.entries import entry_of, steps_of
from bay.server.files.service import SandboxFiles
from bay.server.files.ship_client import Acting, FileDetails, ShipDownload, Wanted
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller

KEEPALIVE: Mapping[str, Any] = {"keepalive": {}}
LOST: Mapping[str, Any] = {"lost": {}}
"""In place of events that were lost."""
_MOST_ENTRIES = 50_000


class EnvdFiles:
    """The service behind `filesystem.Filesystem` and `/files`. A relative path begins at the user's home.
    Raises SandboxGone for a sandbox that the caller does not have, and RpcError or BayError for all else.
    """

    def __init__(self, *, waker: Waker, files: SandboxFiles) -> None:
        self._waker = waker
        self._files = files

    async def stat(self, caller: Caller, ref: str, user: str | None, path: str) -> FileDetails:
        """The file or link at a path."""
        async with self._of(caller, ref, user, path) as (sandbox_id, acting):
            return await self._files.look(caller, sandbox_id, path, acting=acting)

    async def list_directory(
        self, caller: Caller, ref: str, user: str | None, path: str, depth: int
    ) -> list[FileDetails]:
        """The entries below a directory, a directory before its contents; links are not followed."""
        async with self._of(caller, ref, user, path) as (sandbox_id, acting):
            return await self._files.list_closely(
                caller, sandbox_id, path, depth=depth, limit=_MOST_ENTRIES, acting=acting
            )

    async def make_directory(self, caller: Caller, ref: str, user: str | None, path: str) -> FileDetails:
        """A new directory with its parents. Raises RpcError when something is there."""
        async with self._of(caller, ref, user, path) as (sandbox_id, acting):
            if (there := await self._there(caller, sandbox_id, path, acting)) is not None:
                raise _taken(path, there)
            await self._files.make_directory(
                caller, sandbox_id, path, mode="0755", parents=True, acting=acting
            )
            return await self._files.look(caller, sandbox_id, path, acting=acting)

    async def move(
        self, caller: Caller, ref: str, user: str | None, source: str, destination: str
    ) -> FileDetails:
        """Rename, with the parents of the destination made."""
        async with self._of(caller, ref, user, source) as (sandbox_id, acting):
            above = destination.rstrip("/").rpartition("/")[0]
            if above:
                await self._files.make_directory(
                    caller, sandbox_id, above, mode="0755", parents=True, acting=acting
                )
            await self._files.carry(
                caller, sandbox_id, "move", source, destination, overwrite=True, acting=acting
            )
            return await self._files.look(caller, sandbox_id, destination, acting=acting)

    async def remove(self, caller: Caller, ref: str, user: str | None, path: str) -> None:
        """Remove a file, or a directory with its contents; a missing one is as good as removed."""
        async with self._of(caller, ref, user, path) as (sandbox_id, acting):
            try:
                await self._files.delete(caller, sandbox_id, path, recursive=True, acting=acting)
            except FileMissing:
                return

    @asynccontextmanager
    async def watch(
        self,
        caller: Caller,
        ref: str,
        user: str | None,
        path: str,
        *,
        recursive: bool,
        entries: bool,
        goes_on: bool = False,
    ) -> AsyncGenerator[AsyncIterator[Mapping[str, Any]]]:
        """The events of a directory, each with its entry if `entries`. Where some were lost it raises
        RpcError or, if it `goes_on`, has LOST among them.
        """
        async with self._of(caller, ref, user, path) as (sandbox_id, acting):
            there = await self._files.look(caller, sandbox_id, path, acting=acting)
            if not is_directory(there):
                raise RpcError("invalid_argument", f"path {path} is not a directory")
            async with self._files.watch(
                caller, sandbox_id, path, recursive=recursive, acting=acting
            ) as watch:
                found = watch.connections.allowed(caller, watch.events())
                async with aclosing(found) as events:
                    told = self._told(caller, sandbox_id, watch.path, events, entries=entries)
                    yield told if goes_on else _whole(told)

    @asynccontextmanager
    async def download(
        self, caller: Caller, ref: str, user: str | None, path: str, wanted: Wanted
    ) -> AsyncGenerator[ShipDownload]:
        """The bytes of a file, or a part of them."""
        async with (
            self._of(caller, ref, user, path) as (sandbox_id, acting),
            self._files.download(caller, sandbox_id, path, wanted, acting=acting) as opened,
        ):
            yield opened

    async def upload(
        self,
        caller: Caller,
        ref: str,
        user: str | None,
        given: AsyncIterator[tuple[str, AsyncIterator[bytes]]],
        metadata: Mapping[str, str],
    ) -> list[str]:
        """Replace files, each atomically, with their parents made; their paths in full. Those before one that
        cannot be written stay.
        """
        written: list[str] = []
        async for path, body in given:
            async with self._of(caller, ref, user, path) as (sandbox_id, acting):
                made = await self._files.upload(
                    caller, sandbox_id, path, body, mode=None, mtime=None, mkdir=True, attributes=metadata,
                    acting=acting,
                )  # fmt: skip
            written.append(made.path)
        return written

    async def envs(self, caller: Caller, ref: str) -> Mapping[str, str]:
        """The variables that the sandbox was created with."""
        async with self._of(caller, ref, None, "") as (sandbox_id, _):
            return (await self._waker.find(caller, sandbox_id)).env

    async def _told(
        self,
        caller: Caller,
        sandbox_id: str,
        top: str,
        events: AsyncIterator[FileEvent],
        *,
        entries: bool,
    ) -> AsyncGenerator[Mapping[str, Any]]:
        yield {"start": {}}
        async for event in events:
            if event.type == "overflow":
                yield LOST
                continue
            for kind, path in steps_of(event):
                told: dict[str, Any] = {"name": path.removeprefix(top.rstrip("/") + "/"), "type": kind}
                if entries and kind not in ("EVENT_TYPE_REMOVE", "EVENT_TYPE_RENAME"):
                    there = await self._there(caller, sandbox_id, path, Acting())
                    told |= {} if there is None else {"entry": entry_of(there)}
                if path.rstrip("/") != top.rstrip("/"):
                    yield {"filesystem": told}

    async def _there(self, caller: Caller, sandbox_id: str, path: str, acting: Acting) -> FileDetails | None:
        try:
            return await self._files.look(caller, sandbox_id, path, acting=acting)
        except FileMissing:
            return None

    @asynccontextmanager
    async def _of(
        self, caller: Caller, ref: str, user: str | None, path: str
    ) -> AsyncGenerator[tuple[str, Acting]]:
        """The sandbox's id and who acts. Errors inside come out in the words of envd."""
        try:
            sandbox = await self._waker.find(caller, ref)
        except NotFound as error:
            raise SandboxGone(error.message) from error
        try:
            yield sandbox.id, Acting(user=user, from_home=True)
        except FileMissing as error:
            raise FileMissing(f"path '{path}' does not exist") from error
        except OutputGone as error:
            raise RpcError("unavailable", error.message) from error
        except InvalidArgument as error:
            if user is not None and error.details.get("field") == "user":
                raise Unauthorized(f"invalid username: '{user}'") from error
            if error.details.get("reason") == "is_directory":
                raise BadRequest(f"path '{path}' is a directory") from error
            raise


async def _whole(told: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[Mapping[str, Any]]:
    async for message in told:
        if message == LOST:
            raise RpcError("resource_exhausted", "events were lost; list the directory and watch it again")
        yield message


def is_directory(found: FileDetails) -> bool:
    """Whether it is a directory, or a link that leads to one."""
    return (found.end[1] if found.end else found.info.type) == "directory"


def _taken(path: str, there: FileDetails) -> RpcError:
    if is_directory(there):
        return RpcError("already_exists", f"directory already exists: {path}")
    return RpcError("invalid_argument", f"path already exists but it is not a directory: {path}")
