"""`…/ports`: where something listens in a sandbox, who may reach it, and links. What is below a port is the app's, see `port_gate`."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from bay.models import Port, PortAccess, PortLink, PortSettings
from bay.server.ports.service import Ports
from bay.server.web.bodies import DURATION, Body
from bay.server.web.dependencies import ERRORS, Reader, Writer, service
from bay.server.web.replies import WireResponse

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/ports",
    tags=["ports"],
    responses=ERRORS,
    default_response_class=WireResponse,
)

PortsDep = Annotated[Ports, service(Ports)]

PortNumber = Annotated[int, Path(ge=1, le=65535)]
_DAY_S = 86400


class PortList(BaseModel):
    """Where something listens."""

    items: list[Port]


class Access(Body):
    """Who may reach the port: its owner, or everybody."""

    access: PortAccess


class NewLink(Body):
    """How long the link opens the port, in seconds, and whether only to the first who follows it."""

    expires_in: Annotated[int, Field(ge=1, le=30 * _DAY_S), DURATION] = 3600
    once: bool = False


@router.get("", response_model=PortList)
async def list_ports(caller: Reader, ports: PortsDep, sandbox_id: str) -> WireResponse:
    """Where something listens now, with a URL that leads there. Wakes nothing."""
    return WireResponse({"items": await ports.list(caller, sandbox_id)})


@router.put("/{port}", response_model=PortSettings)
async def put_port(
    caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber, body: Access
) -> WireResponse:
    """Say who may reach the port, whether or not anything listens there."""
    return WireResponse(await ports.set_access(caller, sandbox_id, port, body.access))


@router.delete("/{port}", status_code=204)
async def delete_port(caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber) -> Response:
    """Take back what was set: the port is its owner's. Again is no error."""
    await ports.forget(caller, sandbox_id, port)
    return Response(status_code=204)


@router.post("/{port}/links", status_code=201, response_model=PortLink)
async def create_link(
    caller: Writer, ports: PortsDep, sandbox_id: str, port: PortNumber, body: NewLink | None = None
) -> WireResponse:
    """A URL that opens the port to whoever has it, as long as the key that made it is valid."""
    body = body or NewLink()
    link = await ports.make_link(caller, sandbox_id, port, body.expires_in, once=body.once)
    return WireResponse(link, 201)
