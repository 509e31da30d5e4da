"""`…/filesystem/*`: the files of a workspace, with paths relative to it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from bay.models import FileEntry
from bay.server.api.deps import ERRORS, Reader, Svc, Writer
from bay.server.api.sandboxes import Ok
from bay.server.replies import WireResponse

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/filesystem",
    tags=["filesystem"],
    responses=ERRORS,
    default_response_class=WireResponse,
)

FilePath = Annotated[str, Query(max_length=8192, description="Relative to /workspace")]
_CHUNK = 256 * 1024


class WriteFile(BaseModel):
    """A text file and where it goes."""

    path: Annotated[str, Field(max_length=8192)]
    content: Annotated[str, Field(max_length=1 << 30)]  # a bound, so that lone surrogates are refused


class FileContent(BaseModel):
    """A text file's content."""

    content: str


class Directory(BaseModel):
    """What a directory holds, directories first."""

    entries: list[FileEntry]


class Uploaded(BaseModel):
    """Where the file is now (absolute, inside) and its size in bytes."""

    status: str
    path: str
    size: int


@router.get("/files", response_model=FileContent)
async def read_file(caller: Reader, services: Svc, sandbox_id: str, path: FilePath) -> WireResponse:
    """A UTF-8 text file."""
    return WireResponse({"content": await services.files.read_text(caller, sandbox_id, path)})


@router.put("/files", response_model=Ok)
async def write_file(caller: Writer, services: Svc, sandbox_id: str, body: WriteFile) -> WireResponse:
    """Replace a text file atomically, making its directories."""
    await services.files.write(caller, sandbox_id, body.path, body.content.encode())
    return WireResponse({"status": "ok"})


@router.delete("/files", response_model=Ok)
async def delete_file(caller: Writer, services: Svc, sandbox_id: str, path: FilePath) -> WireResponse:
    """Remove a file, or a directory with everything in it."""
    await services.files.delete(caller, sandbox_id, path)
    return WireResponse({"status": "ok"})


@router.get("/directories", response_model=Directory)
async def list_directory(
    caller: Reader, services: Svc, sandbox_id: str, path: FilePath = "."
) -> WireResponse:
    """What a directory holds."""
    return WireResponse({"entries": await services.files.list(caller, sandbox_id, path)})


@router.post("/upload", response_model=Uploaded)
async def upload_file(
    caller: Writer,
    services: Svc,
    sandbox_id: str,
    file: Annotated[UploadFile, File()],
    path: Annotated[str, Form(max_length=8192)],
) -> WireResponse:
    """Replace a file of any size and kind, atomically."""
    where, size = await services.files.write(caller, sandbox_id, path, _chunks(file))
    return WireResponse({"status": "ok", "path": where, "size": size})


@router.get("/download", response_class=StreamingResponse)
async def download_file(caller: Reader, services: Svc, sandbox_id: str, path: FilePath) -> StreamingResponse:
    """A file's bytes."""
    stack = AsyncExitStack()
    chunks, size = await stack.enter_async_context(services.files.download(caller, sandbox_id, path))
    name = quote(PurePosixPath(path).name, safe="")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
    }
    if size is not None:
        headers["Content-Length"] = str(size)
    return StreamingResponse(_body(stack, chunks), media_type="application/octet-stream", headers=headers)


async def _chunks(file: UploadFile) -> AsyncGenerator[bytes, None]:
    while chunk := await file.read(_CHUNK):
        yield chunk


async def _body(stack: AsyncExitStack, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for chunk in chunks:
            yield chunk
