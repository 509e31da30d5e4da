"""The routes `…/files/*`: all files of a sandbox, by paths that are absolute or relative to the workspace."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from email.utils import formatdate
from typing import Annotated, Literal, TypeVar
from urllib.parse import parse_qs

from fastapi import Depends, Header, Query, Request, WebSocket
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import StreamingResponse

from bay.errors import BadRequest
from bay.models import FileInfo, SearchResult, to_wire
from bay.server.files.service import SandboxFiles, Watch
from bay.server.files.ship_client import ListEnd, Owners, ShipDownload, Unpacked, Wanted
from bay.server.web.bodies import Body, raw_body
from bay.server.web.concurrency import while_connected
from bay.server.web.dependencies import Accept, Reader, SocketReader, Writer, noun_router, service
from bay.server.web.replies import HeldResponse, Ok, WireResponse, download_headers
from bay.server.web.websocket_close import Goodbye, accepted, pump, send_json
from ship_protocol import LISTED_DEPTH, LISTED_ENTRIES, CloseCode

router = noun_router("files", "/v1/sandboxes/{sandbox_id}/files")

SandboxFilesDep = Annotated[SandboxFiles, service(SandboxFiles)]

NDJSON = "application/x-ndjson"
_PIECE = 64 << 10
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_TAG = re.compile(r'"([^"]*)"')
_LONGEST = 256
_MAX_BYTES = 10**18 - 1

# Made once: a list has a hundred thousand of them.
_FIELDS = tuple(field.name for field in fields(FileInfo))
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

T = TypeVar("T")
PathText = Annotated[str, Field(max_length=8192)]
ArchiveFormat = Annotated[Literal["tar", "tar.gz"], Query(description="A tar, with or without gzip")]
Octal = Annotated[str, Field(pattern=r"^[0-7]{1,4}$")]
Name = Annotated[str, Field(min_length=1, max_length=32)]
Id = Annotated[int, Field(ge=0, le=65_535, description="An id of the sandbox")]


async def _path(
    request: Request,
    path: Annotated[str, Query(max_length=8192, description="Absolute, or relative to /workspace")],
) -> str:
    """The query's `path` as the bytes that were sent: the framework would put U+FFFD for invalid UTF-8."""
    return raw_path(request, path)


async def _path_or_workspace(
    request: Request,
    path: Annotated[str, Query(max_length=8192, description="Absolute, or relative to /workspace")] = ".",
) -> str:
    return raw_path(request, path)


def raw_path(request: HTTPConnection, path: str) -> str:
    """The query's `path` as its bytes say, escaped or not; else `path`."""
    query = request.scope["query_string"].decode("utf-8", "surrogateescape")
    given = parse_qs(query, keep_blank_values=True, errors="surrogateescape").get("path")
    # One character may be half escaped and half not.
    return given[-1].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") if given else path


FilePath = Annotated[str, Depends(_path)]
FolderPath = Annotated[str, Depends(_path_or_workspace)]


class Listed(BaseModel):
    """Entries below a directory, each directory before its contents; `truncated`: there are more."""

    entries: list[FileInfo]
    truncated: bool


class Carry(Body):
    """The source and the destination of a move or a copy."""

    source: PathText
    destination: PathText
    overwrite: Annotated[bool, Field(description="Replace an existing destination")] = False


class MakeDirectory(Body):
    """A directory to make."""

    path: PathText
    mode: Annotated[Octal, Field(description="Octal")] = "0755"
    parents: Annotated[bool, Field(description="Make its parent directories too")] = True


class ChangeMode(Body):
    """A mode to set."""

    path: PathText
    mode: Annotated[Octal, Field(description="Octal")]
    recursive: Annotated[bool, Field(description="Also for the contents of the directory")] = False


class ChangeOwners(Body):
    """An owner, a group or both to set. `user` and `group` are names of the sandbox's /etc/passwd and
    /etc/group.
    """

    path: PathText
    user: Annotated[Name | None, Field(description="Instead of `uid`")] = None
    uid: Id | None = None
    group: Annotated[Name | None, Field(description="Instead of `gid`")] = None
    gid: Id | None = None
    recursive: Annotated[bool, Field(description="Also for the contents of the directory")] = False

    def owners(self) -> Owners:
        """The same, as it is wanted. Raises BadRequest for a name and a number together."""
        for name, number, field in ((self.user, self.uid, "user"), (self.group, self.gid, "group")):
            if name is not None and number is not None:
                problem = f"{field} and its number are both given; give one of them"
                raise BadRequest(problem, details={"field": field})
        return Owners(
            self.uid if self.user is None else self.user, self.gid if self.group is None else self.group
        )


class Edit(Body):
    """A text and its replacement."""

    path: PathText
    old: Annotated[str, Field(min_length=1, max_length=1 << 30, description="The text to replace, exactly")]
    new: Annotated[str, Field(max_length=1 << 30)]
    all: Annotated[bool, Field(description="Replace all occurrences; default: exactly one must exist")] = (
        False
    )


class Edited(BaseModel):
    """The number of replacements."""

    replaced: int


@router.get("/content", response_class=StreamingResponse)
async def read_content(
    caller: Reader,
    files: SandboxFilesDep,
    sandbox_id: str,
    path: FilePath,
    range_: Annotated[str, Header(alias="Range", description="One range of bytes")] = "",
    if_range: Annotated[
        str, Header(alias="If-Range", description="An ETag; another version of the file is returned whole")
    ] = "",
) -> StreamingResponse:
    """A file's bytes, or with `Range` a part: 206, or 416 when the file has none of them."""
    stack = AsyncExitStack()
    wanted = wanted_of(range_, if_range)
    opened = files.download(caller, sandbox_id, path, wanted)
    download = await stack.enter_async_context(opened)
    return HeldResponse(
        stack,
        download.chunks,
        206 if download.partial else 200,
        content_headers(path, download),
        "application/octet-stream",
    )


@router.put(
    "/content",
    response_model=FileInfo,
    openapi_extra=raw_body("application/octet-stream", "What the file is to hold"),
)
async def write_content(
    caller: Writer,
    files: SandboxFilesDep,
    sandbox_id: str,
    request: Request,
    path: FilePath,
    mode: Annotated[
        str | None, Query(pattern="^[0-7]{1,4}$", description="Octal; default: unchanged")
    ] = None,
    mtime: Annotated[
        float | None, Query(gt=-(2**33), lt=2**33, allow_inf_nan=False, description="Seconds since 1970")
    ] = None,
    mkdir: Annotated[bool, Query(description="Make its parent directories too")] = True,
) -> WireResponse:
    """Replace a file by the body, of any size, atomically when it is complete; until then the
    old file stays.
    """
    try:
        written = await files.upload(
            caller, sandbox_id, path, request.stream(), mode=mode, mtime=mtime, mkdir=mkdir
        )
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; nothing was written") from error
    return WireResponse(written)


@router.get("/stat", response_model=FileInfo)
async def stat_file(
    caller: Reader,
    files: SandboxFilesDep,
    sandbox_id: str,
    path: FilePath,
    follow: Annotated[bool, Query(description="Facts of a link's target, not of the link")] = True,
) -> WireResponse:
    """The facts of the file at a path."""
    return WireResponse(await files.stat(caller, sandbox_id, path, follow=follow))


@router.get("/list", response_model=Listed)
async def list_files(
    caller: Reader,
    files: SandboxFilesDep,
    sandbox_id: str,
    path: FolderPath,
    depth: Annotated[int, Query(ge=1, le=LISTED_DEPTH, description="1: the directory's own entries")] = 1,
    glob: Annotated[
        str | None, Query(max_length=1024, description="Pattern for the path below `path`")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=LISTED_ENTRIES, description="Most entries to return")] = 10_000,
    accept: Accept = "",
) -> StreamingResponse:
    """The entries below a directory, by name, a directory before its contents. Links are not followed.

    With `Accept: application/x-ndjson` an entry a line, and `{"truncated"}` as the last.
    """
    stack = AsyncExitStack()
    items = await stack.enter_async_context(
        files.list(caller, sandbox_id, path, depth=depth, glob=glob, limit=limit)
    )
    if NDJSON in accept:
        return HeldResponse(stack, _gathered(_as_lines(items)), media_type=NDJSON)
    return HeldResponse(stack, _gathered(_as_object(items)), media_type="application/json")


@router.post("/move", response_model=FileInfo)
async def move_file(
    caller: Writer, files: SandboxFilesDep, sandbox_id: str, request: Request, body: Carry
) -> WireResponse:
    """Rename a file or directory, also to another file system; returns the destination's facts."""
    moving = files.carry(caller, sandbox_id, "move", body.source, body.destination, overwrite=body.overwrite)
    return WireResponse(await while_connected(request, moving))


@router.post("/copy", response_model=FileInfo)
async def copy_file(
    caller: Writer, files: SandboxFilesDep, sandbox_id: str, request: Request, body: Carry
) -> WireResponse:
    """Copy a file, or a directory with its contents; it appears at the destination when it is complete."""
    copying = files.carry(caller, sandbox_id, "copy", body.source, body.destination, overwrite=body.overwrite)
    return WireResponse(await while_connected(request, copying))


@router.post("/mkdir", response_model=FileInfo)
async def make_directory(
    caller: Writer, files: SandboxFilesDep, sandbox_id: str, body: MakeDirectory
) -> WireResponse:
    """Make a directory. An existing one stays unchanged, and is returned."""
    made = await files.make_directory(caller, sandbox_id, body.path, mode=body.mode, parents=body.parents)
    return WireResponse(made)


@router.post("/chmod", response_model=FileInfo)
async def change_mode(
    caller: Writer, files: SandboxFilesDep, sandbox_id: str, request: Request, body: ChangeMode
) -> WireResponse:
    """Set the mode of a file, or of a directory and its contents."""
    changing = files.change_mode(caller, sandbox_id, body.path, body.mode, recursive=body.recursive)
    return WireResponse(await while_connected(request, changing))


@router.post("/chown", response_model=FileInfo)
async def change_owners(
    caller: Writer, files: SandboxFilesDep, sandbox_id: str, request: Request, body: ChangeOwners
) -> WireResponse:
    """Give a file, or a directory and its contents, to another user or group, as root of the sandbox; 403
    where the profile does not allow root.
    """
    changing = files.change_owners(caller, sandbox_id, body.path, body.owners(), recursive=body.recursive)
    found, _ = await while_connected(request, changing)
    return WireResponse(found)


@router.post("/edit", response_model=Edited)
async def edit_file(caller: Writer, files: SandboxFilesDep, sandbox_id: str, body: Edit) -> WireResponse:
    """Replace a text in a UTF-8 file, atomically; 409 with `details.matches` unless it occurs
    exactly once.
    """
    replaced = await files.edit(caller, sandbox_id, body.path, body.old, body.new, everywhere=body.all)
    return WireResponse({"replaced": replaced})


@router.get("/search", response_model=SearchResult)
async def search_files(
    caller: Reader,
    files: SandboxFilesDep,
    sandbox_id: str,
    request: Request,
    path: FolderPath,
    query: Annotated[
        str, Query(max_length=4096, description="Text within one line; default: search names only")
    ] = "",
    glob: Annotated[
        str,
        Query(
            max_length=1024, description="Pattern for the path below `path`; without a slash, for the name"
        ),
    ] = "",
    regex: Annotated[bool, Query(description="`query` is an expression of Python's `re`")] = False,
    ignore_case: Annotated[bool, Query(description="Ignore case")] = False,
    hidden: Annotated[bool, Query(description="Also names that begin with a dot")] = False,
    gitignore: Annotated[bool, Query(description="Skip files that .gitignore excludes, and .git")] = True,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Most matches to return")] = 1000,
) -> WireResponse:
    """Find lines of text, or files by their names. Links are not followed; a search ends after 30 s."""
    switches = {"regex": regex, "ignore_case": ignore_case, "hidden": hidden, "gitignore": gitignore}
    asked = {"query": query, "glob": glob} | {name: str(on).lower() for name, on in switches.items()}
    searching = files.search(caller, sandbox_id, path, asked, limit)
    return WireResponse(await while_connected(request, searching))


@router.get("/archive", response_class=StreamingResponse)
async def read_archive(
    caller: Reader,
    files: SandboxFilesDep,
    sandbox_id: str,
    path: FolderPath,
    format: ArchiveFormat = "tar",  # noqa: A002
) -> StreamingResponse:
    """A directory with its contents, or a file, as a tar, without files that the sandbox's user
    cannot read.
    """
    stack = AsyncExitStack()
    chunks = await stack.enter_async_context(files.pack(caller, sandbox_id, path, format))
    name = _shown_name(path).strip(".") or "files"
    kind = "application/gzip" if format == "tar.gz" else "application/x-tar"
    headers = download_headers(f"{name}.{format}")
    return HeldResponse(stack, chunks, headers=headers, media_type=kind)


@router.put(
    "/archive", response_model=Unpacked, openapi_extra=raw_body("application/x-tar", "A tar, or a tar.gz")
)
async def write_archive(
    caller: Writer,
    files: SandboxFilesDep,
    sandbox_id: str,
    request: Request,
    path: FolderPath,
    format: ArchiveFormat = "tar",  # noqa: A002
) -> WireResponse:
    """Unpack the body below a directory, which is created. Files unpacked before an error stay."""
    try:
        made = await files.unpack(caller, sandbox_id, path, format, request.stream())
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; files already unpacked stay") from error
    return WireResponse(made.model_dump())


@router.websocket("/watch")
async def watch_files(
    socket: WebSocket,
    caller: SocketReader,
    files: SandboxFilesDep,
    sandbox_id: str,
    path: Annotated[str, Query(max_length=8192, description="Absolute, or relative to /workspace")] = ".",
    recursive: Annotated[bool, Query(description="Also all directories in it")] = True,
) -> None:
    """Watch a file or a directory: live file events."""
    watching = files.watch(caller, sandbox_id, raw_path(socket, path), recursive=recursive)
    async with watching as watch:
        if await accepted(socket):
            await pump(socket, _down(socket, watch), _up(socket), watch.must_leave())


@router.delete("", response_model=Ok)
async def delete_file(
    caller: Writer,
    files: SandboxFilesDep,
    sandbox_id: str,
    request: Request,
    path: FilePath,
    recursive: Annotated[bool, Query(description="Also a directory with its contents")] = True,
) -> WireResponse:
    """Remove a file, a link (and not what it leads to), or a directory."""
    await while_connected(request, files.delete(caller, sandbox_id, path, recursive=recursive))
    return WireResponse({"status": "ok"})


async def _down(socket: WebSocket, watch: Watch) -> Goodbye:
    """Events to the client, of which an upload is one."""
    await send_json(socket, {"type": "watching", "path": watch.path})
    async for event in watch.events():
        told = to_wire(replace(event, content=None))
        await send_json(socket, {name: value for name, value in told.items() if value is not None})
    return Goodbye(CloseCode.NORMAL, "the watched path was deleted")


async def _up(socket: WebSocket) -> Goodbye | None:
    """None when the client has left; a watch takes no messages."""
    if (await socket.receive())["type"] == "websocket.disconnect":
        return None
    return Goodbye(CloseCode.BAD_MESSAGE, "a watch accepts no messages")


def wanted_of(range_: str, if_range: str) -> Wanted:
    """The bytes that a request wants. RFC 9110, section 14.2: an unknown unit is ignored, and several ranges
    are answered with all.
    """
    found, state = _RANGE.fullmatch(range_.strip()), _TAG.fullmatch(if_range.strip())
    # A date, or a weak tag, is like the tag of another file.
    if not found or (if_range.strip() and not state) or max(len(range_), len(if_range)) > _LONGEST:
        return Wanted()
    start, end = found.groups()
    tag = state[1] if state else None
    if start and (not end or int(end) >= int(start)):
        return Wanted(first=_bytes(start), last=_bytes(end) if end else None, if_range=tag)
    if end and not start:
        return Wanted(suffix=_bytes(end), if_range=tag)
    return Wanted()


def _bytes(digits: str) -> int:
    return min(int(digits), _MAX_BYTES)


def content_headers(path: str, download: ShipDownload) -> dict[str, str]:
    """The headers of an answer with the bytes of a file."""
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(download.length),
        "ETag": f'"{download.etag}"',
        "X-Bay-Mode": download.mode,
        "X-Bay-Mtime": repr(download.mtime),
        **download_headers(_shown_name(path)),
        **_last_modified(download.mtime),
    }
    if download.partial:
        last = download.first + download.length - 1
        headers["Content-Range"] = f"bytes {download.first}-{last}/{download.size}"
    return headers


def _last_modified(mtime: float) -> dict[str, str]:
    try:
        return {"Last-Modified": formatdate(mtime, usegmt=True)}
    except (ValueError, OverflowError, OSError):  # not in the years 1 to 9999
        return {}


def _shown_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


async def _as_lines(items: AsyncIterator[FileInfo | ListEnd]) -> AsyncGenerator[bytes, None]:
    async for item in items:
        yield _json(item) + b"\n"


async def _as_object(items: AsyncIterator[FileInfo | ListEnd]) -> AsyncGenerator[bytes, None]:
    before = b'{"entries":['
    async for item in items:
        if isinstance(item, ListEnd):
            closing = b"" if before == b"," else before
            yield closing + b'],"truncated":' + (b"true}" if item.truncated else b"false}")
        else:
            yield before + _json(item)
            before = b","


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same in larger pieces, each of which costs the server about as much as a small one."""
    held: list[bytes] = []
    size = 0
    async for part in parts:
        held.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _json(item: FileInfo | ListEnd) -> bytes:
    value = item.model_dump() if isinstance(item, ListEnd) else {n: getattr(item, n) for n in _FIELDS}
    return _encode(value).encode()
