"""The routes `/v1/remote-checkpoints`: checkpoints in the object store."""

from typing import Annotated

from fastapi import Query, Response

from bay.models import RemoteCheckpoint
from bay.server.checkpoints.remote import RemoteCheckpoints
from bay.server.web.dependencies import Limit, Paging, Reader, Wait, Writer, noun_router, service
from bay.server.web.replies import PageOf, WireResponse

router = noun_router("checkpoints", "/v1/remote-checkpoints")

RemoteDep = Annotated[RemoteCheckpoints, service(RemoteCheckpoints)]


class RemoteCheckpointList(PageOf[RemoteCheckpoint]):
    """A page of remote checkpoints, by key."""


@router.get("", response_model=RemoteCheckpointList)
async def list_remote_checkpoints(
    caller: Reader,
    remote: RemoteDep,
    paging: Paging,
    limit: Limit = 50,
    sandbox: Annotated[
        str | None, Query(max_length=64, description="Id or name of the sandbox that they were made of")
    ] = None,
) -> WireResponse:
    """Your checkpoints in the object store, whichever Bay pushed them, and those on their way there."""
    page = await remote.page(caller, sandbox, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.get("/{key}", response_model=RemoteCheckpoint)
async def get_remote_checkpoint(
    caller: Reader, remote: RemoteDep, key: str, wait: Wait = None
) -> WireResponse:
    """One remote checkpoint. With `wait`, once its push has ended."""
    return WireResponse(await remote.get(caller, key, wait or 0))


@router.delete("/{key}", status_code=204)
async def delete_remote_checkpoint(caller: Writer, remote: RemoteDep, key: str) -> Response:
    """Remove a checkpoint from the object store, and cancel its push; the checkpoint here stays."""
    await remote.delete(caller, key)
    return Response(status_code=204)
