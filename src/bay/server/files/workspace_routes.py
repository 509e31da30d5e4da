"""The routes `…/filesystem/*`: the files of a workspace, by paths relative to it."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from bay.errors import BadRequest
from bay.hints import unknown
from bay.models import FileEntry
from bay.server.files.service import Files
from bay.server.web.auth import Caller
from bay.server.web.bodies import Body
from bay.server.web.concurrency import while_connected
from bay.server.web.dependencies import Reader, Writer, noun_router, refusal, service
from bay.server.web.multipart import Form
from bay.server.web.replies import HeldResponse, Ok, WireResponse, download_headers

router = noun_router("filesystem", "/v1/sandboxes/{sandbox_id}/filesystem")

FilesDep = Annotated[Files, service(Files)]

FilePath = Annotated[str, Query(max_length=8192, description="Relative to /workspace")]
_PARTS = ("path", "file")
_PATH_BYTES = 4 * 8192
_UPLOAD = {
    "type": "object",
    "required": ["path", "file"],
    "properties": {
        "path": {"type": "string", "maxLength": 8192, "description": "Relative to /workspace"},
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
}


class WriteFile(Body):
    """A text file and where it goes."""

    path: Annotated[str, Field(max_length=8192)]
    content: Annotated[str, Field(max_length=1 << 30)]  # a bound, so that lone surrogates are refused


class FileContent(BaseModel):
    """A text file's content."""

    content: str


class Directory(BaseModel):
    """A directory's entries, directories first."""

    entries: list[FileEntry]


class Uploaded(BaseModel):
    """The file's absolute path inside and its size in bytes."""

    status: str
    path: str
    size: int


@router.get("/files", response_model=FileContent)
async def read_file(
    caller: Reader, files: FilesDep, sandbox_id: str, request: Request, path: FilePath
) -> WireResponse:
    """A UTF-8 text file."""
    return WireResponse(
        {"content": await while_connected(request, files.read_text(caller, sandbox_id, path))}
    )


@router.put("/files", response_model=Ok)
async def write_file(caller: Writer, files: FilesDep, sandbox_id: str, body: WriteFile) -> WireResponse:
    """Replace a text file atomically, making its directories."""
    await files.write(caller, sandbox_id, body.path, body.content.encode())
    return WireResponse({"status": "ok"})


@router.delete("/files", response_model=Ok)
async def delete_file(
    caller: Writer, files: FilesDep, sandbox_id: str, request: Request, path: FilePath
) -> WireResponse:
    """Remove a file, or a directory with its contents."""
    await while_connected(request, files.delete(caller, sandbox_id, path))
    return WireResponse({"status": "ok"})


@router.get("/directories", response_model=Directory)
async def list_directory(
    caller: Reader, files: FilesDep, sandbox_id: str, request: Request, path: FilePath = "."
) -> WireResponse:
    """The entries of a directory."""
    return WireResponse({"entries": await while_connected(request, files.list(caller, sandbox_id, path))})


@router.post(
    "/upload",
    response_model=Uploaded,
    openapi_extra={
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}
    },
)
async def upload_file(caller: Writer, files: FilesDep, sandbox_id: str, request: Request) -> WireResponse:
    """Replace a file of any size and kind, atomically. The body is streamed when `path` is before `file`."""
    await files.check(caller, sandbox_id)
    form = Form(request.headers.get("content-type", ""), request.stream())
    try:
        where, size = await _upload(files, caller, sandbox_id, form)
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; nothing was written") from error
    return WireResponse({"status": "ok", "path": where, "size": size})


async def _upload(files: Files, caller: Caller, sandbox_id: str, form: Form) -> tuple[str, int]:
    """Take the parts `path` and `file`, in either order."""
    if not form.is_one:
        raise _missing(*_PARTS)
    if await _next_of(form, _PARTS) == "path":
        path = await form.text(_PATH_BYTES)
        await _next_of(form, ("file",))
        return await files.write(caller, sandbox_id, path, _to_the_end(form))
    async with files.spool.holding(caller.owner, form.data()) as content:
        await _next_of(form, ("path",))
        path = await form.text(_PATH_BYTES)
        await _check_end(form)
        return await files.write(caller, sandbox_id, path, content)


async def _to_the_end(form: Form) -> AsyncGenerator[bytes]:
    """The bytes of the part, which has to be the last: an error keeps the file from being put in place."""
    async for piece in form.data():
        yield piece
    await _check_end(form)


async def _check_end(form: Form) -> None:
    if (name := await form.next_part()) is not None:
        raise _refusal(name)


async def _next_of(form: Form, wanted: tuple[str, ...]) -> str:
    name = await form.next_part()
    if name is None:
        raise _missing(*wanted)
    if name not in wanted:
        raise _refusal(name)
    return name


def _refusal(name: str) -> RequestValidationError:
    twice = f"{name} comes twice; send it once"
    return refusal(("body", name), twice if name in _PARTS else unknown("field of this form", name, _PARTS))


def _missing(*names: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "missing", "loc": ("body", name), "msg": "Field required"} for name in names]
    )


@router.get("/download", response_class=StreamingResponse)
async def download_file(
    caller: Reader, files: FilesDep, sandbox_id: str, path: FilePath
) -> StreamingResponse:
    """A file's bytes."""
    stack = AsyncExitStack()
    chunks, size = await stack.enter_async_context(files.download(caller, sandbox_id, path))
    headers = download_headers(PurePosixPath(path).name) | {"Content-Length": str(size)}
    return HeldResponse(stack, chunks, media_type="application/octet-stream", headers=headers)
