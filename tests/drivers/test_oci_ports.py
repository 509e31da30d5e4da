"""Ports of a sandbox of the `oci` driver: its own network, its seccomp profile, programs of two users, and a
way in though none leads out.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.errors import PortClosed
from bay.models import Port
from bay.server.ports.ship_client import PortClient, ports_of
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of

pytestmark = [pytest.mark.host, pytest.mark.anyio]

ANY = "0.0.0.0"  # noqa: S104 - of the sandbox

SERVE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
while True:
    client, _ = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(data.upper())
"""


async def start(handle: Handle, host: str, port: int, **order: Any) -> str:
    argv = ["python3", "-c", SERVE, host, str(port)]
    body = {"id": f"exec-{secrets.token_hex(8)}", "argv": argv, **order}
    return (await call(endpoint_of(handle), "POST", "/execs", body))["id"]


@pytest.fixture
async def ships() -> AsyncGenerator[ShipClient]:
    made = ShipClient()
    yield made
    made.close()


@pytest.fixture
def link(ships: ShipClient) -> PortClient:
    return PortClient(ships)


async def until(feed: AsyncGenerator[tuple[Port, ...]], numbers: list[int]) -> tuple[Port, ...]:
    """What is told once these are the ports."""
    async with asyncio.timeout(20):
        async for found in feed:
            if [item.port for item in found] == numbers:
                return found
    raise AssertionError("the feed ended")


async def test_ports_are_told_and_reached_in_a_sandbox_whose_filter_forbids_netlink(
    oci: DriverBench, ships: ShipClient, link: PortClient
) -> None:
    async with oci.session() as handle:
        peer = Peer(session_id=handle.session_id, endpoint=endpoint_of(handle), token=TOKEN)
        feed = (ports_of(line) async for kind, line in ships.feed(peer) if kind == "ports")
        assert await until(feed, []) == ()
        await start(handle, ANY, 4000)
        await until(feed, [4000])
        as_root = await start(handle, "::1", 4001, user="root")
        found = await until(feed, [4000, 4001])
        assert found == await link.listening(peer)
        assert [item.addresses for item in found] == [(ANY,), ("::1",)]
        assert [item.process for item in found] == ["python3", "python3"]
        for port in (4000, 4001):
            assert await echoed(link, peer, port) == b"HELLO"
        await call(endpoint_of(handle), "DELETE", f"/execs/{as_root}?grace_s=0")
        await until(feed, [4000])
        with pytest.raises(PortClosed) as caught:
            await echoed(link, peer, 4001)
        assert caught.value.details == {"listening": [4000]}
        await feed.aclose()


async def echoed(link: PortClient, peer: Peer, port: int) -> bytes:
    async with asyncio.timeout(20), link.open(peer, port) as stream:
        await stream.write(b"hello")
        await stream.write_eof()
        read = bytearray()
        while data := await stream.read(65536):
            read += data
        return bytes(read)
