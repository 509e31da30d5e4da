"""The route `…/metrics`: the resources that a sandbox used over time."""

from typing import Annotated

from fastapi import Query

from bay.models import SandboxMetrics
from bay.server.samples.history import SampleHistory
from bay.server.web.bodies import DURATION, Moment
from bay.server.web.dependencies import Reader, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("sandboxes", "/v1/sandboxes/{sandbox_id}/metrics")

HistoryDep = Annotated[SampleHistory, service(SampleHistory)]
Since = Annotated[
    Moment | None, Query(alias="from", description="The beginning; default: an hour before `to`")
]
Until = Annotated[Moment | None, Query(alias="to", description="The end, which is not in it; default: now")]
Step = Annotated[
    int | None,
    Query(ge=1, le=86_400, description="Seconds between points, at least: 10, 60 or 900"),
    DURATION,
]


@router.get("", response_model=SandboxMetrics)
async def get_metrics(
    caller: Reader,
    history: HistoryDep,
    sandbox_id: str,
    since: Since = None,
    until: Until = None,
    step: Step = None,
) -> WireResponse:
    """Its use of processors, memory, devices, disk and network over time, and its execs, in bytes and cores.

    The answer has at most 3,000 points, and its `step` may be coarser than the one that was asked for: ten
    seconds are kept for an hour, minutes for a day, and quarters of an hour for 31 days. A time in which it
    did not run has no points. Wakes nothing, and is no activity.
    """
    return WireResponse(await history.get(caller, sandbox_id, since, until, step))
