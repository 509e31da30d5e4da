"""The route `/v1/capabilities`: the abilities of this server, for every key."""

from typing import Annotated

from bay.models import ServerCapabilities
from bay.server.maintenance.capabilities import Abilities
from bay.server.web.dependencies import Reader, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("capabilities", "/v1/capabilities")

AbilitiesDep = Annotated[Abilities, service(Abilities)]


@router.get("", response_model=ServerCapabilities)
async def get_capabilities(_caller: Reader, abilities: AbilitiesDep) -> WireResponse:
    """The abilities of this server. A call for more answers `capability_not_supported`."""
    return WireResponse(abilities.get())
