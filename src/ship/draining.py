"""The rest in which gVisor can save Ship's memory: no socket of the host's is open.

gVisor saves neither the listener, which is bound on the host, nor a connection that came in by it, and it
hands no open file to the host. So Ship ends all connections and listens no more. It listens again at the same
place once USR1 comes from outside: the Ship that goes on, and each restored copy of it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from ship import log
from ship.errors import Conflict, InvalidArgument
from ship.http.connection import Connection
from ship.http.conversation import Handler, ProtocolSwitch, Reply, Request
from ship.http.door import TURNS, Door, wait_closed
from ship.waiting import Interruption
from ship_protocol.handover import HANDED_ALL

_ANSWER_S = 2.0
"""For requests that must be answered; see `Request.may_break`."""
_LEAVE_S = 1.0
"""For attachments whose peers take their output."""


class Draining:
    """Answers `POST /drain`. `door` is where all requests come in, from when `listen` is called to when
    `close` is, and `say_ready` tells that it listens again.
    """

    door: Door

    def __init__(
        self,
        listen: Callable[[Door], Awaitable[None]],
        close: Callable[[], None],
        say_ready: Callable[[], None],
    ) -> None:
        self._listen = listen
        self._close = close
        self._say_ready = say_ready
        self._opening: asyncio.Task[None] | None = None
        self.interruption = Interruption()
        """Lasts from a drain until Ship listens again."""

    async def answer(self, others: Handler, request: Request) -> Reply:
        """`others` answers all other requests. Raises ShipError."""
        if (request.method, request.segments) != ("POST", ("drain",)):
            return await others(request)
        if request.protocol != b"drain":
            raise InvalidArgument("send Connection: upgrade and Upgrade: drain")
        await self._stop_listening(request.talk.wire)
        caller = request.talk.wire.borrow()
        return ProtocolSwitch("drain", partial(self._end_others, caller), caller.close)

    def end(self) -> None:
        """Listen anew, also where Ship listens yet, whose socket may be gone."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._listen_again())

    async def _stop_listening(self, wire: Connection) -> None:
        """Raises Conflict where others must be answered and take too long; then Ship listens as before."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.interruption.begin()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self.door.wait_answered(wire)
                await self._end_attachments(wire)
                await self.door.wait_answered(wire)  # those that have come meanwhile
        except TimeoutError:
            self.interruption.end()
            raise Conflict("requests are under way; let them end first") from None
        self._close()

    async def _end_attachments(self, wire: Connection) -> None:
        """Those that take longer are aborted with the other connections."""
        if leaving := [other.lost for other in self.door.others(wire) if other.ask_to_leave()]:
            await asyncio.wait(leaving, timeout=_LEAVE_S)

    async def _end_others(self, caller: socket.socket, wire: Connection, _received: bytes) -> None:
        others = self.door.others(wire)
        for one in others:
            one.abort()
        await wait_closed(others)
        caller.send(HANDED_ALL)  # one byte, into an empty buffer

    async def _listen_again(self) -> None:
        self._close()
        try:
            await self._listen(self.door)
            self.interruption.end()
            self._say_ready()
        except OSError as error:
            log.note(f"listener.failed {error.strerror}")
        finally:
            self._opening = None
