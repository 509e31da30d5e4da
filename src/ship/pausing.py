"""The routes of a pause by processes, for a Ship that no freezer of the host reaches.

While the programs stand still, Ship says so and can be asked how it is. Every other request waits for the end
of the pause, as it would at a frozen Ship: a copy of the files may be made meanwhile, of which callers know
nothing.
"""

from ship.http.connection import PeerGone
from ship.http.conversation import Answer, Handler, Reply, Request, json_answer
from ship.process.standstill import Standstill


class PauseRoutes:
    """Answers those, and hands the others on to `answer`."""

    def __init__(self, standstill: Standstill, answer: Handler) -> None:
        self._standstill = standstill
        self._answer = answer

    async def answer(self, request: Request) -> Reply:
        """Raises ShipError, and PeerGone for a caller that leaves during a pause."""
        match request.method, request.segments:
            case "GET", ("pause",):
                return self._describe()
            case "POST", ("pause",):
                await self._standstill.begin()
                return self._describe()
            case "POST", ("resume",):
                await self._standstill.end()
                return self._describe()
            case "GET", ("healthz",) | ("meta",) | ("feed",) | ("usage",):
                return await self._answer(request)
            case _:
                await self._wait_over(request)
                return await self._answer(request)

    def _describe(self) -> Answer:
        return json_answer(200, {"paused": self._standstill.is_on})

    async def _wait_over(self, request: Request) -> None:
        await self._standstill.wait_over(request.gone)
        if self._standstill.over is not None:
            raise PeerGone
