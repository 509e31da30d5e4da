"""`/v1/admin/*`: what an operator looks at. Admin keys only."""

from fastapi import APIRouter
from pydantic import BaseModel

from bay.models import PoolState
from bay.server.api.deps import ERRORS, Admin, Svc
from bay.server.replies import WireResponse

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ERRORS, default_response_class=WireResponse)


class PoolList(BaseModel):
    """Every profile that has a pool."""

    items: list[PoolState]


@router.get("/pool", response_model=PoolList)
async def get_pool(_caller: Admin, services: Svc) -> WireResponse:
    """How full the pools are, and what keeps them from being full."""
    return WireResponse({"items": await services.pool.state()})
