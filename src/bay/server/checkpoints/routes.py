"""`…/checkpoints`: copies of a sandbox's files as they were, and `…/fork`, new sandboxes made of them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from bay.models import Checkpoint, Sandbox
from bay.server.checkpoints.service import NewCheckpoint
from bay.server.sandboxes.service import Forks
from bay.server.web.bodies import Body, raw_body
from bay.server.web.dependencies import ERRORS, After, IdempotencyKey, Limit, Reader, Svc, Writer, listing
from bay.server.web.replies import WireResponse

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}",
    tags=["checkpoints"],
    responses=ERRORS,
    default_response_class=WireResponse,
)

Name = Annotated[str | None, Field(max_length=63, description="Unique among the checkpoints of the sandbox")]
Comment = Annotated[str | None, Field(max_length=4096, pattern=r"^[^\x00]*$")]


class CreateCheckpoint(Body):
    """What to call it, if it should be called something."""

    name: Name = None
    comment: Comment = None


class ForkSandbox(Body):
    """How many, made of what, and called what."""

    count: Annotated[int, Field(ge=1, le=100)] = 1
    checkpoint: Annotated[
        str | None, Field(max_length=64, description="Id or name of one of its checkpoints; else of now")
    ] = None
    name: Annotated[
        str | None,
        Field(max_length=63, description="Of the new sandbox; of several `name-1`, `name-2` and so on"),
    ] = None


class CheckpointList(BaseModel):
    """A page of checkpoints, oldest first."""

    items: list[Checkpoint]
    has_more: bool
    next_cursor: str | None


class ForkList(BaseModel):
    """The new sandboxes."""

    items: list[Sandbox]


@router.post("/checkpoints", status_code=201, response_model=Checkpoint)
async def create_checkpoint(
    caller: Writer,
    services: Svc,
    sandbox_id: str,
    body: CreateCheckpoint | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Keep the files as they are now; what runs stands still for that moment and goes on."""
    new = NewCheckpoint(**(body or CreateCheckpoint()).model_dump())
    return WireResponse(await services.checkpoints.create(caller, sandbox_id, new, idempotency_key), 201)


@router.get("/checkpoints", response_model=CheckpointList)
async def list_checkpoints(
    caller: Reader,
    services: Svc,
    sandbox_id: str,
    after: After,
    limit: Limit = 50,
    auto: Annotated[bool | None, Query(description="Only those of the policy, or only the others")] = None,
) -> WireResponse:
    """The sandbox's checkpoints, oldest first; `parent_id` says which grew from which."""
    page = await services.checkpoints.page(caller, sandbox_id, auto=auto, after=after, limit=limit)
    return WireResponse(listing(services, caller, page))


@router.post(
    "/checkpoints/import",
    status_code=201,
    response_model=Checkpoint,
    openapi_extra=raw_body("application/zstd", "What an export gave"),
)
async def import_checkpoint(
    caller: Writer,
    services: Svc,
    sandbox_id: str,
    request: Request,
    name: Annotated[str | None, Query(max_length=63)] = None,
    comment: Annotated[str | None, Query(max_length=4096)] = None,
) -> WireResponse:
    """A checkpoint of this sandbox from what an export gave, of any Bay: the body as it is."""
    new = NewCheckpoint(name=name, comment=comment)
    made = await services.checkpoints.import_(caller, sandbox_id, new, request.stream())
    return WireResponse(made, 201)


@router.get("/checkpoints/{checkpoint_id}", response_model=Checkpoint)
async def get_checkpoint(caller: Reader, services: Svc, sandbox_id: str, checkpoint_id: str) -> WireResponse:
    """One checkpoint, by id or name."""
    return WireResponse(await services.checkpoints.get(caller, sandbox_id, checkpoint_id))


@router.delete("/checkpoints/{checkpoint_id}", status_code=204)
async def delete_checkpoint(caller: Writer, services: Svc, sandbox_id: str, checkpoint_id: str) -> Response:
    """Remove a checkpoint; what was made of it stays."""
    await services.checkpoints.delete(caller, sandbox_id, checkpoint_id)
    return Response(status_code=204)


@router.post("/checkpoints/{checkpoint_id}/restore", response_model=Sandbox)
async def restore_checkpoint(
    caller: Writer, services: Svc, sandbox_id: str, checkpoint_id: str
) -> WireResponse:
    """Put the files back as they were; what runs ends, and compute starts again if there was some."""
    return WireResponse(await services.checkpoints.restore(caller, sandbox_id, checkpoint_id))


@router.get("/checkpoints/{checkpoint_id}/export", response_class=StreamingResponse)
async def export_checkpoint(
    caller: Reader, services: Svc, sandbox_id: str, checkpoint_id: str
) -> StreamingResponse:
    """The checkpoint as one compressed archive, which an import takes back and checks."""
    stack = AsyncExitStack()
    export = services.checkpoints.export(caller, sandbox_id, checkpoint_id)
    found, chunks = await stack.enter_async_context(export)
    name = quote(f"{found.name or found.id}.tar.zst", safe="")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_body(stack, chunks), media_type="application/zstd", headers=headers)


@router.post("/fork", status_code=201, response_model=ForkList)
async def fork_sandbox(
    caller: Writer,
    services: Svc,
    sandbox_id: str,
    body: ForkSandbox | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """New sandboxes like this one, each with its own copy of the files of a checkpoint or of now; all are starting."""
    forks = Forks(**(body or ForkSandbox()).model_dump())
    made = await services.sandboxes.fork(caller, sandbox_id, forks, idempotency_key)
    return WireResponse({"items": made}, 201)


async def _body(stack: AsyncExitStack, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for chunk in chunks:
            yield chunk
