"""The route `…/usage`: the resources that a sandbox uses at present."""

from typing import Annotated

from fastapi import Query

from bay.models import SandboxUsage
from bay.server.sandboxes.usages import MOST_OVER_S, SandboxUsages
from bay.server.web.bodies import DURATION
from bay.server.web.dependencies import Reader, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("sandboxes", "/v1/sandboxes/{sandbox_id}/usage")

UsagesDep = Annotated[SandboxUsages, service(SandboxUsages)]
Over = Annotated[
    float | None,
    Query(ge=0.01, le=MOST_OVER_S, description="Answer after this many seconds, with `cpus_used` of them"),
    DURATION,
]


@router.get("", response_model=SandboxUsage)
async def get_usage(caller: Reader, usages: UsagesDep, sandbox_id: str, over: Over = None) -> WireResponse:
    """Its use of processors, memory, processes and disk. Wakes nothing, and is no activity."""
    return WireResponse(await usages.get(caller, sandbox_id, over))
