"""`/v1/admin/*`: what an operator looks at. Admin keys only."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel

from bay.models import GarbageRun, GarbageState, GarbageTask, PoolState
from bay.server.maintenance.garbage_collection import TASKS, Garbage
from bay.server.sandboxes.pool import Pool
from bay.server.web.bodies import Body, Most
from bay.server.web.dependencies import ERRORS, Admin, service
from bay.server.web.replies import WireResponse

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ERRORS, default_response_class=WireResponse)

PoolDep = Annotated[Pool, service(Pool)]
GarbageDep = Annotated[Garbage, service(Garbage)]


class Collect(Body):
    """What to look for; all of it unless said."""

    tasks: Annotated[tuple[GarbageTask, ...], Most(len(TASKS))] | None = None


class PoolList(BaseModel):
    """Every profile that has a pool."""

    items: list[PoolState]


@router.get("/pool", response_model=PoolList)
async def get_pool(_caller: Admin, pool: PoolDep) -> WireResponse:
    """How full the pools are, and what keeps them from being full."""
    return WireResponse({"items": await pool.state()})


@router.get("/gc/status", response_model=GarbageState)
async def garbage_status(_caller: Admin, garbage: GarbageDep) -> WireResponse:
    """Whether a collection is under way, and what the last one did."""
    return WireResponse(garbage.state())


@router.post("/gc/run", response_model=GarbageRun)
async def collect_garbage(_caller: Admin, garbage: GarbageDep, body: Collect | None = None) -> WireResponse:
    """Collect now what Bay collects by itself, frozen sandboxes too, and answer when it is done."""
    tasks = TASKS if body is None or body.tasks is None else body.tasks
    return WireResponse(await garbage.run(tasks))
