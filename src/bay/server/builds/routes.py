"""The routes `/v1/templates/{ref}/context` and `…/log`: the files of a build, and what its steps print."""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from bay.errors import BadRequest
from bay.models import Template
from bay.server.builds.service import Builds
from bay.server.web.bodies import raw_body
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import HeldResponse, WireResponse

router = noun_router("templates", "/v1/templates")

BuildsDep = Annotated[Builds, service(Builds)]


@router.put(
    "/{template_ref}/context",
    response_model=Template,
    openapi_extra=raw_body("application/x-tar", "A tar of the files that steps may copy"),
)
async def write_context(
    caller: Writer, builds: BuildsDep, template_ref: str, request: Request
) -> WireResponse:
    """Send the files of a build that was asked for with `context`, which begins with that."""
    try:
        return WireResponse(await builds.take_context(caller, template_ref, request.stream()))
    except ClientDisconnect as error:
        raise BadRequest("the request body ended early; send the whole context again") from error


@router.get("/{template_ref}/log", response_class=StreamingResponse)
async def read_log(
    caller: Reader,
    builds: BuildsDep,
    template_ref: str,
    since: Annotated[int, Query(ge=0, le=1 << 40, description="The byte to begin with")] = 0,
    follow: Annotated[bool, Query(description="Go on until the build has ended")] = False,
) -> StreamingResponse:
    """The log of a template's build, as text."""
    stack = AsyncExitStack()
    chunks = await stack.enter_async_context(builds.log(caller, template_ref, since, follow=follow))
    return HeldResponse(stack, chunks, media_type="text/plain; charset=utf-8")
