"""The routes of a pause by processes, for a Ship that no freezer of the host reaches.

While the programs stand still, Ship says so and can be asked how it is. Every other request waits for the end
of the pause, as it would at a frozen Ship: a copy of the files may be made meanwhile, of which callers know
nothing.

Such a copy is one request. The programs stand still for as long as its answer lasts, and no longer than its
connection: they go on also when the caller is lost, or stalls.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from ship.http.connection import Connection, PeerGone
from ship.http.conversation import Answer, Handler, Reply, Request, json_answer
from ship.process.standstill import Standstill
from ship.waiting import Timer
from ship.writing_down import write_down

_STALL_S = 60.0
"""For a caller that takes nothing of a copy."""


class PauseRoutes:
    """Answers those, and hands the others on to `answer`. `copy` answers with the files of a sandbox whose
    programs stand still.
    """

    def __init__(
        self,
        standstill: Standstill,
        answer: Handler,
        copy: Callable[[Request], Awaitable[Answer]],
        *,
        stall_s: float = _STALL_S,
        written: str | None = None,
    ) -> None:
        """`written` is a directory whose files are on their disk at each pause."""
        self._standstill = standstill
        self._answer = answer
        self._copy = copy
        self._stall_s = stall_s
        self._written = written

    async def answer(self, request: Request) -> Reply:
        """Raises ShipError, and PeerGone for a caller that leaves during a pause."""
        match request.method, request.segments:
            case "GET", ("pause",):
                return self._describe()
            case "POST", ("pause",):
                await self._standstill.begin()
                if self._written is not None:
                    await write_down(self._written)
                return self._describe()
            case "POST", ("resume",):
                await self._standstill.end()
                return self._describe()
            case "GET", ("checkpoint",):
                return await self._copied(request)
            case "GET", ("healthz",) | ("meta",) | ("feed",) | ("usage",):
                return await self._answer(request)
            case _:
                await self._wait_over(request)
                return await self._answer(request)

    def _describe(self) -> Answer:
        return json_answer(200, {"paused": self._standstill.is_pause})

    async def _copied(self, request: Request) -> Answer:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._standstill.lasting())
            answer = await self._copy(request)
            if answer.close is not None:
                stack.push_async_callback(answer.close)
            held = stack.pop_all()
        if not isinstance(answer.body, bytes):
            answer = replace(answer, body=_bounded(answer.body, request.talk.wire, self._stall_s))
        return replace(answer, close=held.aclose)

    async def _wait_over(self, request: Request) -> None:
        await self._standstill.wait_over(request.gone)
        if self._standstill.over is not None:
            raise PeerGone


async def _bounded(body: AsyncGenerator[bytes], wire: Connection, stall_s: float) -> AsyncGenerator[bytes]:
    """The same body, whose connection ends when a part of it is not taken in time."""
    stall = Timer()
    try:
        async with aclosing(body):
            async for data in body:
                stall.set(stall_s, wire.abort)
                yield data
                stall.cancel()
    finally:
        stall.cancel()
