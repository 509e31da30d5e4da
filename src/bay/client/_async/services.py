"""The services of a sandbox: commands that are started with it and kept running."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from bay.client._async.http import AsyncHttp
from bay.client._async.output import read_output
from bay.client._follow import Lined
from bay.client._wire import Call, items, model, sandbox_path, service_body
from bay.models import OutputChunk, Service, ServiceSpec

Known = list[Service]


class AsyncServices:
    """The services of one sandbox, each called by its name. They are kept with it, and started with every session."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def list(self) -> Known:
        """All, and how they are."""
        page = await self._http.json(Call(method="GET", path=self._path(), safe=True))
        return [model(Service, item) for item in items(page)]

    async def get(self, name: str) -> Service:
        """One of them. Raises NotFound."""
        return await self._ask(Call(method="GET", path=self._path(name), safe=True))

    async def put(self, spec: ServiceSpec) -> Service:
        """Have a service be what `spec` says, a new one or in place of the one of that name, which is restarted if it differs.

        Raises InvalidArgument for what cannot be, such as services that need each other.
        """
        body = service_body(spec)
        return await self._ask(Call(method="PUT", path=self._path(spec.name), body=body, safe=True))

    async def delete(self, name: str) -> None:
        """End it and forget it, with its output. Raises NotFound, and Conflict while another service needs it."""
        await self._http.json(Call(method="DELETE", path=self._path(name)))

    async def start(self, name: str) -> Service:
        """Have it run, now and with every session to come. Again is no error."""
        return await self._ask(Call(method="POST", path=self._path(name, "start"), safe=True))

    async def stop(self, name: str) -> Service:
        """End it, and leave it ended until `start`. Again is no error."""
        return await self._ask(Call(method="POST", path=self._path(name, "stop"), safe=True))

    async def restart(self, name: str) -> Service:
        """End it and start it anew."""
        return await self._ask(Call(method="POST", path=self._path(name, "restart")))

    async def logs(
        self, name: str, since: int | None = None, *, follow: bool = False
    ) -> AsyncGenerator[OutputChunk, None]:
        """What it printed, as far back as it is kept, and with `follow` what it prints from now on.

        Offsets go on over its restarts. `since` and dropped connections are as for `AsyncProc.output`.
        """
        place = Lined(f"the service {name}", since, self._http.config.retry_s)
        call_from = partial(self._logs_call, name, follow)
        async with aclosing(read_output(self._http, place, call_from, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _logs_call(self, name: str, follow: bool, since: int) -> Call:
        params: dict[str, str | int] = {"since": since, "follow": "true" if follow else "false"}
        return Call(method="GET", path=self._path(name, "logs"), params=params, safe=True)

    async def _ask(self, call: Call) -> Service:
        return model(Service, await self._http.json(call))

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, "services", *rest)
