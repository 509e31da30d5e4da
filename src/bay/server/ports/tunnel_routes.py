"""The routes `…/tunnel`: the bytes of a TCP connection to a port of a sandbox, by WebSocket.

The socket closes with 1000 once both directions have ended, and with another code when the connection broke.
"""

from typing import Annotated

from fastapi import Query, WebSocket

from bay.server.ports.tunnel_relay import TunnelRelay
from bay.server.ports.tunnels import Tunnels
from bay.server.web.dependencies import SocketWriter, noun_router, service
from bay.server.web.websocket_close import accepted

router = noun_router("ports", "/v1/sandboxes/{sandbox_id}")

TunnelsDep = Annotated[Tunnels, service(Tunnels)]

Port = Annotated[int, Query(ge=1, le=65_535, description="On which a program in the sandbox listens")]


@router.websocket("/tunnel")
async def tunnel(
    socket: WebSocket, caller: SocketWriter, tunnels: TunnelsDep, sandbox_id: str, port: Port
) -> None:
    """A connection to the port.

    Binary messages are its bytes, the text `{"type": "eof"}` is the end of one direction.
    """
    async with tunnels.open(caller, sandbox_id, port) as opened:
        if await accepted(socket):
            await TunnelRelay(socket, opened).run()
