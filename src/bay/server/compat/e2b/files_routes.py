"""envd's plain HTTP: the bytes of files both ways, and the sandbox's variables.

An upload is a form whose parts carry full paths as their file names, or one file as the body. Either may be
packed with gzip, which is unpacked a piece at a time, to no more than an upload may have.
"""

import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from bay.errors import BadRequest, PayloadTooLarge, Unauthorized
from bay.server.compat.e2b.connect import RpcError
from bay.server.compat.e2b.envd_requests import ENVD, user_of
from bay.server.compat.e2b.file_service import EnvdFiles
from bay.server.compat.e2b.planes import signed_in
from bay.server.compat.routers import format_router
from bay.server.files.routes import content_headers, raw_path, wanted_of
from bay.server.web.dependencies import Reader, Writer, service
from bay.server.web.multipart import Form
from bay.server.web.replies import HeldResponse

router = format_router(ENVD)

EnvdFilesDep = Annotated[EnvdFiles, service(EnvdFiles)]

_OCTETS = "application/octet-stream"
_METADATA = "x-metadata-"
_MOST_PARTS = 1024
_UNPACKED_BYTES = 64 << 10
_MOST_UNPACKED = 16 << 30

Upload = AsyncIterator[tuple[str, AsyncIterator[bytes]]]


@router.get("/files", response_class=StreamingResponse)
async def envd_read_file(
    caller: Reader,
    files: EnvdFilesDep,
    sandbox_id: str,
    request: Request,
    path: str = "",
    username: str = "",
    range_: Annotated[str, Header(alias="Range")] = "",
    if_range: Annotated[str, Header(alias="If-Range")] = "",
) -> StreamingResponse:
    """A file's bytes, or with `Range` a part of them."""
    stack = AsyncExitStack()
    asked = _asked(request, path, username)
    path = asked.path or "."
    opened = files.download(caller, sandbox_id, asked.user, path, wanted_of(range_, if_range))
    download = await stack.enter_async_context(opened)
    status = 206 if download.partial else 200
    return HeldResponse(stack, download.chunks, status, content_headers(path, download), _OCTETS)


@router.post("/files")
async def envd_write_files(
    caller: Writer,
    files: EnvdFilesDep,
    sandbox_id: str,
    request: Request,
    path: str = "",
    username: str = "",
) -> Response:
    """Write the files of a form, or the body as one file."""
    asked = _asked(request, path, username)
    metadata = _metadata(request)
    written = await files.upload(caller, sandbox_id, asked.user, _given(request, asked), metadata)
    if not written:
        raise BadRequest("the form has no part `file`")
    return JSONResponse([_written(one, metadata) for one in written])


@router.get("/envs")
async def envd_variables(caller: Writer, files: EnvdFilesDep, sandbox_id: str) -> Response:
    """The variables of the sandbox, which often are secrets: Bay's own API shows them to nobody."""
    return JSONResponse(dict(await files.envs(caller, sandbox_id)))


@dataclass(frozen=True, slots=True)
class _FilesCall:
    """The path of a call, and the user it acts as."""

    path: str
    user: str | None
    """None for the profile's user."""
    signed: bool


def _asked(request: Request, path: str, username: str) -> _FilesCall:
    """Path and user of a call: by a signature those that were signed, else those of query and headers."""
    if (signed := signed_in(request.scope)) is not None:
        return _FilesCall(signed.path, signed.user or None, signed=True)
    return _FilesCall(raw_path(request, path), username or _user(request), signed=False)


def _user(request: Request) -> str | None:
    try:
        return user_of(request)
    except RpcError as error:
        raise Unauthorized(error.message) from error


def _metadata(request: Request) -> dict[str, str]:
    headers = request.headers.items()
    return {name.removeprefix(_METADATA): value for name, value in headers if name.startswith(_METADATA)}


def _given(request: Request, asked: _FilesCall) -> Upload:
    """The files of a request, in their order. Raises BadRequest."""
    kind = request.headers.get("content-type", "")
    form = Form(kind, _body(request), most_parts=_MOST_PARTS)
    if form.is_one:
        return _of_form(form, asked)
    if not asked.path:
        raise BadRequest("an upload that is no multipart/form-data needs the query parameter path")
    return _of_body(asked.path, _body(request))


async def _of_body(path: str, body: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
    yield path, body


async def _of_form(form: Form, asked: _FilesCall) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
    while (name := await form.next_part()) is not None:
        if name == "file":
            if not (asked.path or form.filename):
                raise BadRequest("a part `file` has no file name, and the query no path")
            if asked.signed and not asked.path and not _is_below(form.filename):
                raise BadRequest(
                    f"this URL was signed without a path, so the file name {form.filename[:80]!r} must be one "
                    "below the home directory; sign a URL with the path"
                )
            yield asked.path or form.filename, form.data()


def _is_below(name: str) -> bool:
    """Whether a relative path stays in the directory where it begins."""
    return not name.startswith(("/", "~")) and ".." not in name.split("/")


async def _body(request: Request) -> AsyncGenerator[bytes]:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", ""):
        raise BadRequest(f"Content-Encoding {coding[:40]} is not served; send gzip or identity")
    try:
        async for data in _unpacked(request.stream()) if coding == "gzip" else request.stream():
            yield data
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; the file was not written") from error


async def _unpacked(body: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    size = 0
    async for packed in body:
        while packed:
            try:
                data = unpacker.decompress(packed, _UNPACKED_BYTES)
            except zlib.error as error:
                raise BadRequest("the body is not gzip") from error
            size += len(data)
            if size > _MOST_UNPACKED:
                raise PayloadTooLarge(f"the body has more than {_MOST_UNPACKED} bytes once it is unpacked")
            if data:
                yield data
            packed = unpacker.unconsumed_tail
        if unpacker.unused_data:  # all that follows would be kept there
            raise BadRequest("bytes follow the end of the gzip body; send one gzip stream")
    if not unpacker.eof:
        raise BadRequest("the gzip body broke off")


def _written(path: str, metadata: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {"path": path, "name": path.rpartition("/")[2], "type": "file"}
    return told | ({"metadata": metadata} if metadata else {})
