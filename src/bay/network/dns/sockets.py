"""A sandbox's two DNS sockets, read and written from the host; they were made in its network namespace.

Few datagrams are read at a time, and none just after a flood: the kernel drops them, which costs Bay nothing.
A connection has one question at a time and an idle timeout.
"""

import asyncio
import contextlib
import socket
from functools import partial
from typing import Any

from bay.network.dns.limits import DnsLimits
from bay.network.dns.sandbox_resolver import SandboxResolver, Tasks
from bay.network.dns.upstream import receive_exactly


class Sockets:
    """Serves `resolver` on `udp` and `tcp`, a bound socket and a listening one; it owns both."""

    def __init__(
        self, resolver: SandboxResolver, udp: socket.socket, tcp: socket.socket, limits: DnsLimits
    ) -> None:
        self.resolver, self._udp, self._tcp, self._limits = resolver, udp, tcp, limits
        self._pause: asyncio.TimerHandle | None = None
        self._accepting, self._connections = Tasks(), Tasks()

    def open(self) -> None:
        """Serve from now on."""
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        self._listen()
        self._accepting.start(self._accept())

    async def aclose(self) -> None:
        """Stop serving; connections are cut."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        if self._pause is not None:
            self._pause.cancel()
        await self._accepting.aclose()
        await self._connections.aclose()
        self._udp.close()
        self._tcp.close()

    def _listen(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._udp, self._read)

    def _read(self) -> None:
        """Read a few datagrams; the rest waits for the next turn of the event loop."""
        for _ in range(self._limits.datagrams):
            try:
                message, sender = self._udp.recvfrom(self._limits.query_bytes)
            except OSError:  # none left, or the ICMP error of an earlier answer
                return
            if not self.resolver.receive(message, stream=False, deliver=partial(self._send, sender)):
                self._rest()
                return

    def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        self._pause = loop.call_later(self._limits.pause_s, self._listen)

    def _send(self, receiver: Any, message: bytes | None) -> None:
        # A datagram may be lost, also when its client does not read.
        if message is not None:
            with contextlib.suppress(OSError):
                self._udp.sendto(message, receiver)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._tcp)
            except OSError:  # given up before it was taken, or no descriptors are left
                await asyncio.sleep(self._limits.pause_s)
                continue
            if len(self._connections) < self._limits.connections:
                self._connections.start(self._serve(connection))
            else:
                connection.close()
                await asyncio.sleep(self._limits.pause_s)

    async def _serve(self, connection: socket.socket) -> None:
        """Questions on one connection, until it ends, is silent, or is a flood's."""
        with connection, contextlib.suppress(OSError):  # TimeoutError is one
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (question := await self._question(connection)) is not None:
                answer = await self._answer(question)
                if answer is None:
                    return
                async with asyncio.timeout(self._limits.idle_s):
                    message = len(answer).to_bytes(2, "big") + answer
                    await asyncio.get_running_loop().sock_sendall(connection, message)

    async def _question(self, connection: socket.socket) -> bytes | None:
        """The next message; None for one that is too long for a question."""
        async with asyncio.timeout(self._limits.idle_s):
            length = int.from_bytes(await receive_exactly(connection, 2), "big")
            return await receive_exactly(connection, length) if length <= self._limits.query_bytes else None

    async def _answer(self, question: bytes) -> bytes | None:
        told: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def deliver(reply: bytes | None) -> None:
            if not told.done():  # the connection may have ended meanwhile
                told.set_result(reply)

        self.resolver.receive(question, stream=True, deliver=deliver)
        return await told
