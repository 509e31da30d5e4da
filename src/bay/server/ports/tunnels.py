"""Tunnels to ports of a sandbox wake it and keep it awake while they are open."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bay.errors import ShipError
from bay.server.ports.ship_client import PortClient, PortStream
from bay.server.sessions.session_stream import SessionStream
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason
from bay.store.records import SandboxRecord


@dataclass(kw_only=True)
class Tunnel(SessionStream):
    """A client's connection to a port. `stream` has what the program sends."""

    stream: PortStream

    async def why_broken(self) -> ShipError:
        """The error of a connection that broke. Raises NotFound when the sandbox was deleted."""
        found = await self.waker.find(self.caller, self.sandbox_id)
        session = found.session
        if session is None or session.id != self.session_id or session.phase in ("ending", "ended"):
            return ShipError("the sandbox was stopped")
        return ShipError("the program reset the connection")


@dataclass(kw_only=True, eq=False)
class Tunnels:
    """The service behind `…/tunnel`."""

    waker: Waker
    ship: PortClient
    connections: OpenConnections

    @asynccontextmanager
    async def open(self, caller: Caller, ref: str, port: int) -> AsyncGenerator[Tunnel]:
        """A connection to what listens on that port; starts the sandbox if it must, and keeps it in use.
        Its owner may pause it. Leaving the block breaks off what has not ended. Raises PortClosed when
        nothing listens there, and what waking raises.
        """
        async with self.expect(caller, ref) as expected, expected.open(port) as tunnel:
            yield tunnel

    @asynccontextmanager
    async def expect(self, caller: Caller, ref: str) -> AsyncGenerator["ExpectedTunnel"]:
        """The place of a tunnel whose port is not known yet; wakes nothing. May raise QuotaExceeded."""
        with self.connections.place(caller.owner):
            async with self.waker.holding(caller, ref, follower=True) as sandbox:
                self.waker.refuse_expired(sandbox)
                yield ExpectedTunnel(tunnels=self, caller=caller, sandbox=sandbox)


@dataclass(kw_only=True, eq=False)
class ExpectedTunnel:
    """A tunnel that has its place, and is not open yet."""

    tunnels: Tunnels
    caller: Caller
    sandbox: SandboxRecord

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self.tunnels.connections.over(self.caller)

    @asynccontextmanager
    async def open(self, port: int) -> AsyncGenerator[Tunnel]:
        """As `Tunnels.open`."""
        waker, ship = self.tunnels.waker, self.tunnels.ship
        async with waker.reach(self.sandbox) as (ready, peer), ship.open(peer, port, "tunnel") as stream:
            yield Tunnel(
                caller=self.caller,
                sandbox_id=ready.id,
                session_id=peer.session_id,
                waker=waker,
                connections=self.tunnels.connections,
                stream=stream,
            )
