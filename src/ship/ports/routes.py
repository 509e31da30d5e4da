"""HTTP routes of ports: the listeners, and a connection to one."""

from ship.errors import InvalidArgument, NotFound, PortClosed
from ship.http.conversation import Answer, ProtocolSwitch, Request, json_answer
from ship.ports import tunnel
from ship.ports.ports import Ports

_LAST_PORT = 65_535


class PortRoutes:
    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def answer(self, request: Request) -> Answer | ProtocolSwitch:
        """Raises ShipError."""
        match request.method, request.segments:
            case "GET", ("ports",):
                return json_answer(200, {"items": await self._ports.items()})
            case "GET", ("tunnel",):
                return await self._open(request)
            case _:
                raise NotFound("there is no such route")

    async def _open(self, request: Request) -> ProtocolSwitch:
        port = _port(request)
        if request.protocol != b"tcp":
            raise InvalidArgument("a tunnel needs an upgrade; send Connection: upgrade and Upgrade: tcp")
        app = None if self._ports.is_own(port) else await tunnel.connect(port)
        if app is None:
            problem = f"nothing in the sandbox listens on port {port} of the loopback device"
            raise PortClosed(problem, listening=await self._ports.numbers())
        opened = tunnel.Tunnel(app, self._ports.ending)
        return ProtocolSwitch("tcp", opened.serve, opened.close)


def _port(request: Request) -> int:
    text = request.query.get("port", "")
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= _LAST_PORT:
        return int(text)
    raise InvalidArgument(f"port must be a number from 1 to {_LAST_PORT}", field="port")
