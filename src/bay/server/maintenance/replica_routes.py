"""The route `/v1/replicas`: the Bays of one database. Admin keys only."""

from typing import Annotated

from bay.models import ReplicaState
from bay.server.maintenance.replicas import Replicas
from bay.server.web.dependencies import Admin, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("admin", "/v1/replicas")

ReplicasDep = Annotated[Replicas, service(Replicas)]


@router.get("", response_model=ReplicaState)
async def list_replicas(_caller: Admin, replicas: ReplicasDep) -> WireResponse:
    """The Bays that share the database, with the parts of the work that each does, and that none does."""
    return WireResponse(await replicas.state())
