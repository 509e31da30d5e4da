"""Relays: connections that a fetch makes inside its namespace go on from the host to one fixed place.

The relay copies bytes and looks at none of them. It is how a fetch reaches a registry on the host's loopback
or on a private address, which its own network policy keeps from it.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from contextlib import closing
from typing import cast

from bay.errors import DriverUnavailable
from bay.images.registries import RelayWay
from bay.linux import namespaces
from bay.linux.netlink import CREATE, REPLACE, Netlink, NetlinkRequest, attribute
from bay.linux.threads import in_new_thread
from bay.network.reserved_ranges import Address

_PIECE = 1 << 16
_MAX_CONNECTIONS = 64
_CONNECT_S = 15.0
_NEWADDR, _IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _NODAD = 20, 1, 2, 8, 0x2
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class RegistryRelay:
    """The relays of one fetch, from `open` to `aclose`."""

    def __init__(self, ways: Sequence[RelayWay]) -> None:
        self._ways = ways
        self._servers: list[asyncio.Server] = []
        self._carrying: set[asyncio.Task[None]] = set()

    async def open(self, netns_fd: int) -> None:
        """Listen inside the namespace. Raises DriverUnavailable."""
        listeners: list[socket.socket] = []
        try:
            await in_new_thread(
                lambda: namespaces.inside(netns_fd, lambda: listeners.extend(map(_listener, self._ways)))
            )
            for way, listener in zip(self._ways, listeners, strict=True):
                self._servers.append(await self._serve(way, listener))
        except OSError as error:
            raise DriverUnavailable(f"this host cannot relay to a registry: {error.strerror}") from error
        finally:
            for listener in listeners[len(self._servers) :]:
                listener.close()

    async def aclose(self) -> None:
        """Close the listeners and every connection."""
        for server in self._servers:
            server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    async def _serve(self, way: RelayWay, listener: socket.socket) -> asyncio.Server:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            self._carrying.add(task)
            try:
                if len(self._carrying) <= _MAX_CONNECTIONS:
                    await _carry(way, reader, writer)
            finally:
                self._carrying.discard(task)
                writer.transport.abort()

        return await asyncio.start_server(carry, sock=listener, limit=_PIECE)


async def _carry(way: RelayWay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there = await _connected(way)
    if there is None:
        return
    its_reader, its_writer = there
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, its_writer))
            both.create_task(_copy(its_reader, writer))
    finally:
        its_writer.transport.abort()


async def _connected(way: RelayWay) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    for target in way.targets:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(str(target), way.port, limit=_PIECE)
    return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _listener(way: RelayWay) -> socket.socket:
    if not way.inside.is_loopback:
        _add_to_loopback(way.inside)
    listener = socket.socket(_FAMILY[way.inside.version], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(way.inside), way.port))
        listener.listen(_MAX_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _add_to_loopback(address: Address) -> None:
    """Give `lo` of the calling thread's namespace the address, so that it leads to a listener there."""
    index = socket.if_nametoindex("lo")
    body = struct.pack("=BBBBI", _FAMILY[address.version], address.max_prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    body += attribute(_IFA_FLAGS, _NODAD)
    with closing(Netlink()) as netlink:
        netlink.send([NetlinkRequest(f"give lo {address}", _NEWADDR, CREATE | REPLACE, body)])
