"""Words the ports of a sprite, and each that opens or closes."""

from collections.abc import AsyncGenerator
from typing import Any

from bay.models import Port
from bay.server.ports.watching import PortWatch

PORT_LIST = "port_list"


async def port_messages(watch: PortWatch) -> AsyncGenerator[dict[str, Any]]:
    """A list of the open ports, then a message for each change."""
    before: dict[int, Port] | None = None
    async for ports in watch.open_ports():
        now = {port.port: port for port in ports}
        if before is None:
            yield {"type": PORT_LIST, "ports": [_told("port_opened", port) for port in ports]}
        else:
            for number in sorted(before.keys() - now.keys()):
                yield _told("port_closed", before[number])
            for number in sorted(now.keys() - before.keys()):
                yield _told("port_opened", now[number])
        before = now


def _told(kind: str, port: Port) -> dict[str, object]:
    address = port.addresses[0] if port.addresses else ""
    return {"type": kind, "port": port.port, "address": address, "pid": port.pid or 0}
