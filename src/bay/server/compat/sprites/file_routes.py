"""Files of a sprite, and the WebSocket that tells of their changes."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from bay.clock import utc_now
from bay.errors import BadRequest, BayError
from bay.models import FileInfo
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.files_service import MAX_WATCHED, FileWatches, Spot, SpriteFiles, told
from bay.server.compat.sprites.wire import PREFIX, time_of
from bay.server.files.routes import raw_path
from bay.server.files.service import Watch
from bay.server.files.ship_client import ListEnd, Owners
from bay.server.web.bodies import Most
from bay.server.web.concurrency import while_connected
from bay.server.web.dependencies import Reader, SocketReader, Writer, service
from bay.server.web.replies import HeldResponse
from bay.server.web.websocket_close import Goodbye, accepted, pump, send_json

router = format_router(PREFIX + "/{name}/fs")

SpriteFilesDep = Annotated[SpriteFiles, service(SpriteFiles)]

PathText = Annotated[str, Field(max_length=8192)]
Mode = Annotated[str, Field(pattern="^[0-7]{1,4}$")]
Id = Annotated[int, Field(ge=0, lt=2**16)] | Annotated[str, Field(max_length=64)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PIECE = 64 << 10
_MAX_MESSAGE = 64 << 10


class _Paths(BaseModel):
    """The fields that calls on files share."""

    working_dir: Annotated[PathText | None, Field(alias="workingDir")] = None
    recursive: bool | None = None
    as_root: Annotated[bool | None, Field(alias="asRoot")] = None

    def at(self, sprite: str, path: str) -> Spot:
        """The path that is meant."""
        return Spot(sprite=sprite, path=path, working_dir=self.working_dir, as_root=bool(self.as_root))


class CarryFile(_Paths):
    """A rename or a copy. A copy always keeps modes and times (`preserveAttrs`)."""

    source: PathText
    dest: PathText


class ChangeFileMode(_Paths):
    """A mode for a file, or for a directory and all in it."""

    path: PathText
    mode: Mode


class ChangeFileOwner(_Paths):
    """An owner, a group, or both, by number or name. Root changes them, also without `asRoot`."""

    path: PathText
    uid: Id | None = None
    gid: Id | None = None


class Subscribe(_Paths):
    """The message of a client that wants to be told of changes."""

    type: str
    paths: Annotated[tuple[PathText, ...], Field(min_length=1), Most(64)]


async def _spot(
    request: Request,
    name: str,
    path: Annotated[str, Query(max_length=8192)],
    working_dir: Annotated[str | None, Query(alias="workingDir", max_length=8192)] = None,
    as_root: Annotated[bool, Query(alias="asRoot")] = False,
) -> Spot:
    return Spot(sprite=name, path=raw_path(request, path), working_dir=working_dir, as_root=as_root)


SpotDep = Annotated[Spot, Depends(_spot)]


@router.get("/read")
async def read_file(caller: Reader, files: SpriteFilesDep, spot: SpotDep) -> Response:
    """The bytes of a file."""
    stack = AsyncExitStack()
    download = await stack.enter_async_context(files.read(caller, spot))
    headers = {"Content-Length": str(download.length)}
    return HeldResponse(stack, download.chunks, headers=headers, media_type="application/octet-stream")


@router.put("/write")
async def write_file(
    caller: Writer,
    files: SpriteFilesDep,
    request: Request,
    spot: SpotDep,
    mode: Annotated[str | None, Query(pattern="^[0-7]{1,4}$")] = None,
    mkdir: Annotated[bool, Query(alias="mkdirParents")] = False,
) -> Response:
    """Replace a file by the body, atomically when it is complete."""
    try:
        written = await files.write(caller, spot, request.stream(), mode=mode, mkdir=mkdir)
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; nothing was written") from error
    return JSONResponse({"path": written.path, "size": written.size or 0, "mode": written.mode})


@router.get("/list")
async def list_files(
    caller: Reader,
    files: SpriteFilesDep,
    spot: SpotDep,
    recursive: Annotated[bool, Query()] = False,
    pattern: Annotated[str, Query(max_length=1024)] = "",
) -> Response:
    """The entries of a directory; a file lists itself."""
    stack = AsyncExitStack()
    opened = files.list(caller, spot, recursive=recursive, pattern=pattern)
    found, entries = await stack.enter_async_context(opened)
    return HeldResponse(stack, _listed(found, entries), media_type="application/json")


@router.delete("/delete")
async def delete_file(
    caller: Writer,
    files: SpriteFilesDep,
    request: Request,
    spot: SpotDep,
    recursive: Annotated[bool, Query()] = False,
) -> Response:
    """Remove a file, or a directory."""
    path = await while_connected(request, files.delete(caller, spot, recursive=recursive))
    return JSONResponse({"deleted": [path], "count": 1})


@router.post("/rename")
async def rename_file(
    caller: Writer, files: SpriteFilesDep, request: Request, name: str, body: CarryFile
) -> Response:
    """Rename a file or directory."""
    spot = body.at(name, body.source)
    done = await while_connected(request, files.carry(caller, "move", spot, body.dest, recursive=True))
    return JSONResponse({"source": body.source, "dest": done.found.path})


@router.post("/copy")
async def copy_file(
    caller: Writer, files: SpriteFilesDep, request: Request, name: str, body: CarryFile
) -> Response:
    """Copy a file, or with `recursive` a directory."""
    spot, recursive = body.at(name, body.source), bool(body.recursive)
    done = await while_connected(request, files.carry(caller, "copy", spot, body.dest, recursive=recursive))
    path, count = done.found.path, done.count
    told = {"source": body.source, "dest": path, "copied": [path], "count": count}
    return JSONResponse(told | {"totalBytes": done.total_bytes})


@router.post("/chmod")
async def change_mode(
    caller: Writer, files: SpriteFilesDep, request: Request, name: str, body: ChangeFileMode
) -> Response:
    """Set the mode of a file, or with `recursive` of a directory and all in it."""
    spot, recursive = body.at(name, body.path), bool(body.recursive)
    changing = files.change_mode(caller, spot, body.mode.zfill(4), recursive=recursive)
    found, count = await while_connected(request, changing)
    told = {"path": found.path, "mode": found.mode, "affected": [found.path], "count": count}
    return JSONResponse(told)


@router.post("/chown")
async def change_owner(
    caller: Writer, files: SpriteFilesDep, request: Request, name: str, body: ChangeFileOwner
) -> Response:
    """Give a file, or with `recursive` a directory and all in it, to another user or group."""
    spot, recursive = body.at(name, body.path), bool(body.recursive)
    changing = files.change_owners(caller, spot, Owners(body.uid, body.gid), recursive=recursive)
    found, count = await while_connected(request, changing)
    told = {"path": found.path, "uid": found.uid, "gid": found.gid, "affected": [found.path]}
    return JSONResponse(told | {"count": count})


@router.websocket("/watch")
async def watch_files(socket: WebSocket, caller: SocketReader, files: SpriteFilesDep, name: str) -> None:
    """Tell of changes of the paths that the client subscribes to."""
    async with files.watching(caller, name) as watcher:
        if await accepted(socket):
            connection = FileSubscriptions(socket, watcher)
            await pump(socket, connection.down(), connection.up(), watcher.must_leave())


class FileSubscriptions:
    """Subscriptions come, and events go. Each subscription sends by itself, one message at a time."""

    def __init__(self, socket: WebSocket, watcher: FileWatches) -> None:
        self._socket = socket
        self._watcher = watcher
        self._asked: asyncio.Queue[Subscribe] = asyncio.Queue(1)
        self._room = asyncio.Semaphore(MAX_WATCHED + 1)  # one more, which is refused
        self._sending = asyncio.Lock()

    async def up(self) -> Goodbye | None:
        """Take subscriptions until the client leaves."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            try:
                await self._asked.put(_subscription(message.get("text") or ""))
            except BadRequest as error:
                await self._refuse(error)
        return None

    async def down(self) -> Goodbye | None:
        """Serve each subscription. A bounded number at once: a client may send many, and read no refusal."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._room.acquire()
                serving = group.create_task(self._serve(await self._asked.get()))
                serving.add_done_callback(lambda _: self._room.release())

    async def _serve(self, asked: Subscribe) -> None:
        async with AsyncExitStack() as stack:
            watches: list[Watch] = []
            try:
                for path in asked.paths:
                    spot = asked.at(self._watcher.sandbox_id, path)
                    opened = self._watcher.watch(spot, recursive=bool(asked.recursive))
                    watches.append(await stack.enter_async_context(opened))
            except BayError as error:
                await self._refuse(error)
                return
            await self._send(type="subscribed", paths=[watch.path for watch in watches])
            async with asyncio.TaskGroup() as group:
                for watch in watches:
                    group.create_task(self._tell(watch))

    async def _tell(self, watch: Watch) -> None:
        try:
            async for event in watch.events():
                if event.type == "overflow":
                    await self._send(type="error", message="events were lost; list the files again")
                for path, kind, size in told(event):
                    facts = {"timestamp": time_of(utc_now()), "size": size, "isDir": bool(event.is_dir)}
                    await self._send(type="event", path=path, event=kind, **facts)
        except BayError as error:
            await self._refuse(error)

    async def _refuse(self, error: BayError) -> None:
        await self._send(type="error", message=error.message, error=error.message)

    async def _send(self, **message: object) -> None:
        async with self._sending:
            with suppress(WebSocketDisconnect):  # `up` hears of it too, and ends all
                await send_json(self._socket, message)


def _subscription(text: str) -> Subscribe:
    """Raises BadRequest."""
    try:
        asked = Subscribe.model_validate_json(text) if len(text) <= _MAX_MESSAGE else None
    except ValidationError:
        asked = None
    if asked is None or asked.type != "subscribe":
        raise BadRequest('send {"type": "subscribe", "paths": [...]}, with at most 64 paths')
    return asked


async def _listed(found: FileInfo, entries: AsyncIterator[FileInfo | ListEnd]) -> AsyncGenerator[bytes]:
    """One JSON object, in pieces that are worth sending."""
    held = b'{"path":' + json.dumps(found.path).encode() + b',"entries":['
    count = 0
    async for entry in entries:
        if isinstance(entry, ListEnd):
            end = {"count": count, "truncated": entry.truncated}
            yield held + b"]," + json.dumps(end).encode()[1:]
            return
        held += (b"," if count else b"") + json.dumps(_entry(entry), separators=(",", ":")).encode()
        count += 1
        if len(held) >= _PIECE:
            yield held
            held = b""


def _entry(found: FileInfo) -> dict[str, Any]:
    is_plain = found.type not in ("directory", "symlink")
    return {
        "name": found.name,
        "path": found.path,
        "type": "file" if is_plain else found.type,
        "size": found.size or 0,
        "mode": found.mode,
        "modTime": time_of(_moment(found.mtime)),
        "isDir": found.is_dir,
    }


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # not in the years 1 to 9999
        return _EPOCH
