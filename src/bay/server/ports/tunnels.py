"""Connections to ports of a sandbox, which wake it and keep it from being idled away while they are open."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bay.errors import QuotaExceeded, SandboxNotReady, ShipError
from bay.server.execs.locator import Locator
from bay.server.ports.ship_client import PortLink, PortStream
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import Reason, Stays


class Tunnel:
    """One connection. `stream` has what the program sends."""

    def __init__(
        self,
        caller: Caller,
        sandbox_id: str,
        session_id: str,
        stream: PortStream,
        *,
        waker: Waker,
        locator: Locator,
        stays: Stays,
    ) -> None:
        self.stream = stream
        self._caller = caller
        self._sandbox_id = sandbox_id
        self._session_id = session_id
        self._waker = waker
        self._locator = locator
        self._stays = stays

    async def thaw(self) -> None:
        """What is sent next is to be taken: wakes a sandbox that its owner has paused. Raises SandboxNotReady when it cannot."""
        try:
            await self._locator.thaw(self._caller, self._sandbox_id, self._session_id)
        except QuotaExceeded as error:
            raise SandboxNotReady(f"sandbox {self._sandbox_id} cannot wake: {error.message}") from error

    async def why_broken(self) -> ShipError:
        """What to say of a connection that broke. Raises NotFound when the sandbox is gone."""
        found = await self._waker.find(self._caller, self._sandbox_id)
        session = found.session
        if session is None or session.id != self._session_id or session.phase in ("ending", "ended"):
            return ShipError("the sandbox was stopped")
        return ShipError("the program reset the connection")

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self._stays.over(self._caller)


class Tunnels:
    """The service behind `…/tunnel`."""

    def __init__(self, *, waker: Waker, locator: Locator, link: PortLink, stays: Stays) -> None:
        self._waker = waker
        self._locator = locator
        self._link = link
        self._stays = stays

    @asynccontextmanager
    async def open(self, caller: Caller, ref: str, port: int) -> AsyncGenerator[Tunnel]:
        """A connection to what listens on that port; starts the sandbox if it must.

        While it is open the sandbox is in use, but its owner may pause it. Leaving the block breaks off what has not ended. Raises
        PortClosed when nothing listens there, and what waking raises.
        """
        with self._stays.place(caller.owner):
            async with self._waker.holding(caller, ref, follower=True) as sandbox:
                self._waker.refuse_expired(sandbox)
                async with (
                    self._waker.reach(sandbox) as (ready, peer),
                    self._link.open(peer, port) as stream,
                ):
                    yield Tunnel(
                        caller, ready.id, peer.session_id, stream,
                        waker=self._waker, locator=self._locator, stays=self._stays,
                    )  # fmt: skip
