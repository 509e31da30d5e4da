"""A client's connection into one session of a sandbox: the base of attachments, tunnels and watches."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from bay.errors import QuotaExceeded, SandboxNotReady
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason

T = TypeVar("T")


@dataclass(kw_only=True)
class SessionStream:
    """A caller's connection into a session. It lets the sandbox be frozen, and ends with the session."""

    caller: Caller
    sandbox_id: str
    session_id: str
    waker: Waker
    connections: OpenConnections

    async def thaw(self) -> bool:
        """Have the session take what is sent next, which counts as activity; False when it is over. Raises
        SandboxNotReady when a frozen sandbox cannot wake.
        """
        try:
            return await self.waker.thaw(self.caller, self.sandbox_id, self.session_id)
        except QuotaExceeded as error:
            raise SandboxNotReady(f"sandbox {self.sandbox_id} cannot wake: {error.message}") from error

    def until_over(self, items: AsyncIterator[T], lost: Callable[[], T]) -> AsyncGenerator[T]:
        """A stream from the session's Ship; `lost()` is its end when the session is over before it."""
        return self.waker.until_over(self.sandbox_id, self.session_id, items, lost)

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self.connections.over(self.caller)
