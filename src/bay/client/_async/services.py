"""The services of a sandbox: commands that start with it and are kept running."""

import time
from collections.abc import AsyncGenerator
from functools import partial

from bay.client._async.http import AsyncSandboxNoun
from bay.client._async.ports import AsyncPorts
from bay.client._calls import Call
from bay.client._follow import Lined
from bay.client._options import service_body
from bay.client._paths import sandbox_path
from bay.client._seam import async_sleep
from bay.client._waits import POLL_S, is_ready, said_of
from bay.errors import Timeout
from bay.models import OutputChunk, Service, ServiceSpec

Known = list[Service]


class AsyncServices(AsyncSandboxNoun):
    """The services of one sandbox, by name. They are kept with it, and started with every session."""

    _noun = ("services",)

    async def list(self) -> Known:
        """All, and how they are."""
        return await self._http.all(Service, Call.get(self._path()))

    async def get(self, name: str) -> Service:
        """One of them. Raises NotFound."""
        return await self._http.one(Service, Call.get(self._path(name)))

    async def put(self, spec: ServiceSpec, *, wait: float | None = None) -> Service:
        """Define a service as `spec`: a new one, or in place of one of that name, restarted if it differs.

        With `wait` it answers once the service is ready, as `wait_ready` does within so many seconds. Raises
        InvalidArgument for what cannot be, such as services that need each other.
        """
        call = Call("PUT", self._path(spec.name), body=service_body(spec), safe=True)
        made = await self._http.one(Service, call)
        return await self.wait_ready(spec.name, wait) if wait else made

    async def wait_ready(self, name: str, timeout_s: float = 60.0) -> Service:
        """The service once it is ready; starts its sandbox if need be.

        Ready means running, healthy where `health` says how to find out, and listening on its `http_port` if
        it has one; one that is not restarted is also ready when it has exited with 0. Raises Conflict when it
        has failed or is stopped, with what it says, and Timeout after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        path = sandbox_path(self._sandbox_id, "start")
        await self._http.json(Call("POST", path, params={"wait": timeout_s}, safe=True, wait_s=timeout_s))
        while not is_ready(service := await self.get(name)) or not await self._listens(service):
            if time.monotonic() > deadline:
                raise Timeout(f"the service {name} is not ready after {timeout_s:g} s: {said_of(service)}")
            await async_sleep(POLL_S)
        return service

    async def _listens(self, service: Service) -> bool:
        ports = AsyncPorts(self._http, self._sandbox_id)
        done = service.http_port is None or service.state == "exited"
        return done or any(port.port == service.http_port for port in await ports.list())

    async def delete(self, name: str) -> None:
        """End it and forget it, with its output. Raises NotFound, and Conflict while another needs it."""
        await self._http.json(Call("DELETE", self._path(name)))

    async def start(self, name: str) -> Service:
        """Have it run, now and with every session to come. Again is no error."""
        return await self._post(name, "start", safe=True)

    async def stop(self, name: str) -> Service:
        """End it, and leave it ended until `start`. Again is no error."""
        return await self._post(name, "stop", safe=True)

    async def restart(self, name: str) -> Service:
        """End it and start it anew."""
        return await self._post(name, "restart", safe=False)

    async def signal(self, name: str, signal: str | int) -> Service:
        """Send a signal (`HUP`, `SIGHUP` or 1) to its process group. Raises Conflict unless it runs."""
        call = Call("POST", self._path(name, "signal"), body={"signal": signal})
        return await self._http.one(Service, call)

    def logs(
        self, name: str, since: int | None = None, *, follow: bool = False
    ) -> AsyncGenerator[OutputChunk, None]:
        """Its output, as far back as it is kept, and with `follow` also the future.

        Offsets go on over its restarts. `since` and dropped connections are as for `AsyncProc.output`.
        """
        call_from = partial(self._logs_call, name, follow)
        retry_s = self._http.config.retry_s
        return self._http.followed(Lined(f"the service {name}", since, retry_s, call_from, follow=follow))

    def _logs_call(self, name: str, follow: bool, since: int) -> Call:
        return Call.get(self._path(name, "logs"), {"since": since, "follow": follow})

    async def _post(self, name: str, what: str, *, safe: bool) -> Service:
        return await self._http.one(Service, Call("POST", self._path(name, what), safe=safe))
