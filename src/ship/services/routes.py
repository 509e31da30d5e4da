"""HTTP routes of services: parse, one call, answer."""

from ship.errors import NotFound
from ship.execs import output
from ship.execs.patience import ReaderAllowance
from ship.execs.request import signal_number
from ship.http.conversation import Answer, Request, json_answer
from ship.services import specs
from ship.services.service import Service
from ship.services.services import Services

_BODY_BYTES = 64 << 20


class ServiceRoutes:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def answer(self, request: Request) -> Answer:
        """Raises ShipError."""
        match request.method, request.segments:
            case "GET", ("services",):
                return json_answer(200, self._all())
            case "PUT", ("services",):
                return await self._put(request)
            case "GET", ("services", name):
                return json_answer(200, self._services.get(name).to_wire())
            case "POST", ("services", name, "restart"):
                return json_answer(200, (await self._services.restart(name)).to_wire())
            case "POST", ("services", name, "signal"):
                return await _signal(request, self._services.get(name))
            case "GET", ("services", name, "logs"):
                return _logs(request, self._services.get(name))
            case _:
                raise NotFound("there is no such route")

    async def _put(self, request: Request) -> Answer:
        await self._services.put(specs.read(await request.read_json(_BODY_BYTES)))
        return json_answer(200, self._all())

    def _all(self) -> dict[str, object]:
        return {"items": [service.to_wire() for service in self._services.list()]}


async def _signal(request: Request, service: Service) -> Answer:
    service.send_signal(signal_number((await request.read_object()).get("signal")))
    return json_answer(200, service.to_wire())


def _logs(request: Request, service: Service) -> Answer:
    since = output.offset(request)
    output.check_offset(service.transcript, since)
    reader = ReaderAllowance(service.transcript)
    return Answer(200, output.lines(request, service, since, reader), "application/x-ndjson")
