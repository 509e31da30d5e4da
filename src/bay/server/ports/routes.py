"""The routes `…/ports`: listeners, their access, and links. Paths below a port are the app's, see `gate`."""

from typing import Annotated

from fastapi import Path, Response
from pydantic import Field

from bay.models import Port, PortAccess, PortLink, PortSettings
from bay.server.ports.service import Ports
from bay.server.web.bodies import DURATION, Body
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import Items, WireResponse

router = noun_router("ports", "/v1/sandboxes/{sandbox_id}/ports")

PortsDep = Annotated[Ports, service(Ports)]

PortNumber = Annotated[int, Path(ge=1, le=65535)]
_DAY_S = 86400


class PortList(Items[Port]):
    """The listening ports of a sandbox."""


class Access(Body):
    """The access to a port: its owner, or everybody."""

    access: PortAccess


class NewLink(Body):
    """A link's lifetime in seconds, and whether it is for a single use."""

    expires_in: Annotated[int, Field(ge=1, le=30 * _DAY_S), DURATION] = 3600
    once: bool = False


@router.get("", response_model=PortList)
async def list_ports(caller: Reader, ports: PortsDep, sandbox_id: str) -> WireResponse:
    """The ports with a listener now, each with its URL. Wakes nothing."""
    return WireResponse({"items": await ports.list(caller, sandbox_id)})


@router.put("/{port}", response_model=PortSettings)
async def put_port(
    caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber, body: Access
) -> WireResponse:
    """Set the access to a port, with or without a listener."""
    return WireResponse(await ports.set_access(caller, sandbox_id, port, body.access))


@router.delete("/{port}", status_code=204)
async def delete_port(caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber) -> Response:
    """Reset a port to its owner's access; a second call succeeds too."""
    await ports.forget(caller, sandbox_id, port)
    return Response(status_code=204)


@router.post("/{port}/links", status_code=201, response_model=PortLink)
async def create_link(
    caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber, body: NewLink | None = None
) -> WireResponse:
    """A URL that opens the port to its holders, while its key is valid."""
    body = body or NewLink()
    link = await ports.make_link(caller, sandbox_id, port, body.expires_in, once=body.once)
    return WireResponse(link, 201)
