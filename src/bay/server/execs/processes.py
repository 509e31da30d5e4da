"""The processes of a sandbox, however they were started."""

from bay.errors import NotFound
from bay.models import Process
from bay.server.sessions.waker import Waker
from bay.server.ship.client import ShipClient
from bay.server.web.auth import Caller


class Processes:
    """The service behind `…/processes`. Thaws a frozen sandbox, and never starts a cold one."""

    def __init__(self, *, waker: Waker, ship: ShipClient) -> None:
        self._waker = waker
        self._ship = ship

    async def list(self, caller: Caller, ref: str) -> list[Process]:
        """Every process, its parent by `ppid`; none without compute."""
        async with self._waker.holding(caller, ref) as sandbox:
            if not sandbox.has_compute:
                return []
            async with self._waker.reach(sandbox) as (_, peer):
                return await self._ship.processes(peer)

    async def signal(self, caller: Caller, ref: str, pid: int, name: str) -> None:
        """Send a signal to one process. Raises NotFound, and Forbidden for the first one."""
        async with self._waker.holding(caller, ref) as sandbox:
            if not sandbox.has_compute:
                raise NotFound(f"there is no process {pid} in this sandbox")
            async with self._waker.reach(sandbox) as (_, peer):
                await self._ship.signal_process(peer, pid, name)
