"""The routes `…/checkpoints`: copies of a sandbox's files at one moment."""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from bay.models import Checkpoint, FileChange, RemoteCheckpoint, Sandbox
from bay.server.checkpoints.remote import RemoteCheckpoints
from bay.server.checkpoints.service import Checkpoints, NewCheckpoint
from bay.server.web.bodies import Body, raw_body
from bay.server.web.dependencies import (
    IdempotencyKey,
    Limit,
    Paging,
    Reader,
    Wait,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import HeldResponse, PageOf, WireResponse, download_headers

router = noun_router("checkpoints", "/v1/sandboxes/{sandbox_id}")

CheckpointsDep = Annotated[Checkpoints, service(Checkpoints)]
RemoteDep = Annotated[RemoteCheckpoints, service(RemoteCheckpoints)]

Name = Annotated[str | None, Field(max_length=63, description="Unique among the checkpoints of the sandbox")]
Comment = Annotated[str | None, Field(max_length=4096, pattern=r"^[^\x00]*$")]


class CreateCheckpoint(Body):
    """The optional name and comment of a checkpoint, and whether it has memory."""

    name: Name = None
    comment: Comment = None
    memory: Annotated[bool, Field(description="Save what runs as well, with its memory")] = False


class RestoreCheckpoint(Body):
    """Whether memory comes back as well."""

    memory: Annotated[
        bool | None, Field(description="Go on with what ran then; default: if the checkpoint has it")
    ] = None


class PullCheckpoint(Body):
    """The checkpoint to pull, and the name and comment of the one that is made of it."""

    key: Annotated[str, Field(min_length=1, max_length=64, description="Of a remote checkpoint")]
    name: Name = None
    comment: Comment = None


class CheckpointList(PageOf[Checkpoint]):
    """A page of checkpoints, oldest first."""


class FileChangeList(PageOf[FileChange]):
    """A page of differences, a directory before what is in it."""


@router.post("/checkpoints", status_code=201, response_model=Checkpoint)
async def create_checkpoint(
    caller: Writer,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    body: CreateCheckpoint | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Make a checkpoint of the present files, or also of what runs, which freezes for a moment."""
    new = NewCheckpoint(**(body or CreateCheckpoint()).model_dump())
    return WireResponse(await checkpoints.create(caller, sandbox_id, new, idempotency_key), 201)


@router.get("/checkpoints", response_model=CheckpointList)
async def list_checkpoints(
    caller: Reader,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    paging: Paging,
    limit: Limit = 50,
    auto: Annotated[bool | None, Query(description="Only automatic ones, or only the others")] = None,
) -> WireResponse:
    """The sandbox's checkpoints, oldest first; `parent_id` is each one's parent."""
    page = await checkpoints.page(caller, sandbox_id, auto=auto, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.post(
    "/checkpoints/import",
    status_code=201,
    response_model=Checkpoint,
    openapi_extra=raw_body("application/zstd", "What an export gave"),
)
async def import_checkpoint(
    caller: Writer,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    request: Request,
    name: Annotated[str | None, Query(max_length=63)] = None,
    comment: Annotated[str | None, Query(max_length=4096)] = None,
) -> WireResponse:
    """Import the body, an export of any Bay, as a checkpoint of this sandbox."""
    new = NewCheckpoint(name=name, comment=comment)
    made = await checkpoints.import_(caller, sandbox_id, new, request.stream())
    return WireResponse(made, 201)


@router.post("/checkpoints/pull", status_code=201, response_model=Checkpoint)
async def pull_checkpoint(
    caller: Writer, remote: RemoteDep, sandbox_id: str, body: PullCheckpoint
) -> WireResponse:
    """Make a checkpoint of this sandbox from one in the object store, of whichever Bay."""
    new = NewCheckpoint(name=body.name, comment=body.comment)
    return WireResponse(await remote.pull(caller, sandbox_id, body.key, new), 201)


@router.get("/checkpoints/{checkpoint_id}", response_model=Checkpoint)
async def get_checkpoint(
    caller: Reader, checkpoints: CheckpointsDep, sandbox_id: str, checkpoint_id: str
) -> WireResponse:
    """One checkpoint, by id or name."""
    return WireResponse(await checkpoints.get(caller, sandbox_id, checkpoint_id))


@router.get("/checkpoints/{checkpoint_id}/diff", response_model=FileChangeList)
async def diff_checkpoint(
    caller: Reader,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    checkpoint_id: str,
    paging: Paging,
    to: Annotated[
        str | None, Query(max_length=64, description="Another checkpoint; default: the present files")
    ] = None,
    limit: Limit = 200,
) -> WireResponse:
    """The files that differ between the checkpoint and another one, or the present ones; wakes nothing."""
    page = await checkpoints.changes(caller, sandbox_id, checkpoint_id, to, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.get("/checkpoints/{checkpoint_id}/files/content", response_class=Response)
async def read_checkpoint_file(
    caller: Reader,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    checkpoint_id: str,
    path: Annotated[str, Query(description="Absolute, or relative to `/workspace`")],
) -> Response:
    """The bytes of one file as the checkpoint has it, up to 8 MiB; no link is followed."""
    content = await checkpoints.file(caller, sandbox_id, checkpoint_id, path)
    headers = download_headers(path.rpartition("/")[2])
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.delete("/checkpoints/{checkpoint_id}", status_code=204)
async def delete_checkpoint(
    caller: Writer, checkpoints: CheckpointsDep, sandbox_id: str, checkpoint_id: str
) -> Response:
    """Remove a checkpoint; forks and restores of it stay."""
    await checkpoints.delete(caller, sandbox_id, checkpoint_id)
    return Response(status_code=204)


@router.post("/checkpoints/{checkpoint_id}/restore", response_model=Sandbox)
async def restore_checkpoint(
    caller: Writer,
    checkpoints: CheckpointsDep,
    sandbox_id: str,
    checkpoint_id: str,
    body: RestoreCheckpoint | None = None,
) -> WireResponse:
    """Restore the files; processes end, and compute starts again if there was some, with the checkpoint's
    memory if it has that.
    """
    memory = None if body is None else body.memory
    return WireResponse(await checkpoints.restore(caller, sandbox_id, checkpoint_id, memory=memory))


@router.post("/checkpoints/{checkpoint_id}/push", status_code=201, response_model=RemoteCheckpoint)
async def push_checkpoint(
    caller: Writer, remote: RemoteDep, sandbox_id: str, checkpoint_id: str, wait: Wait = None
) -> WireResponse:
    """Have the checkpoint in the object store; a repeated call changes nothing. Answers at once, or with
    `wait` when it is there or the push has failed.
    """
    return WireResponse(await remote.push(caller, sandbox_id, checkpoint_id, wait or 0), 201)


@router.get("/checkpoints/{checkpoint_id}/export", response_class=StreamingResponse)
async def export_checkpoint(
    caller: Reader, checkpoints: CheckpointsDep, sandbox_id: str, checkpoint_id: str
) -> StreamingResponse:
    """The checkpoint as one compressed archive, which an import checks."""
    stack = AsyncExitStack()
    export = checkpoints.export(caller, sandbox_id, checkpoint_id)
    found, chunks = await stack.enter_async_context(export)
    headers = download_headers(f"{found.name or found.id}.tar.zst")
    return HeldResponse(stack, chunks, media_type="application/zstd", headers=headers)
