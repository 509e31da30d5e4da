"""The ports of a sandbox, and their access."""

import time
from collections.abc import Mapping
from json import dumps
from typing import Any

import httpx

from bay.client._async.http import AsyncSandboxNoun
from bay.client._calls import Call, Method
from bay.client._paths import app_call, checked_port
from bay.client._seam import async_sleep
from bay.client._waits import POLL_S
from bay.errors import Timeout
from bay.models import Port, PortAccess, PortLink, PortSettings

Listening = list[Port]


class AsyncPorts(AsyncSandboxNoun):
    """The ports of one sandbox. None of this starts compute."""

    _noun = ("ports",)

    async def list(self) -> Listening:
        """Where something listens now, with a URL that leads there; empty for a sandbox that does not run."""
        return await self._http.all(Port, Call.get(self._path()))

    async def wait_for(self, port: int, timeout_s: float = 60.0) -> Port:
        """The listener on a port, once there is one; asks about five times a second. Wakes nothing.

        Raises Timeout when nothing does within `timeout_s` seconds.
        """
        checked_port(port)
        deadline = time.monotonic() + timeout_s
        while True:
            if (found := next((one for one in await self.list() if one.port == port), None)) is not None:
                return found
            if time.monotonic() > deadline:
                raise Timeout(
                    f"nothing listens on port {port} after {timeout_s:g} s; see the program's output"
                )
            await async_sleep(POLL_S)

    async def fetch(
        self,
        port: int,
        path: str = "/",
        *,
        method: Method = "GET",
        headers: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        json: Any = None,
        timeout_s: float = 60.0,
    ) -> httpx.Response:
        """Ask an app inside by HTTP; see `AsyncBox.fetch`."""
        body = content.encode() if isinstance(content, str) else content
        if json is not None:
            body = dumps(json).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        call = app_call(method, self._sandbox_id, port, path, headers or {})
        return await self._http.fetch(call, body, timeout_s)

    async def link(self, port: int, expires_in: int | str = 3600, *, once: bool = False) -> PortLink:
        """A URL that opens the port to its bearer, for `expires_in` seconds (or ``"10m"``).

        With `once` it opens once. It ends with the key that made it. Nothing needs to listen there yet.
        """
        body = {"expires_in": expires_in, "once": once}
        call = Call("POST", self._path(checked_port(port), "links"), body=body, safe=True)
        return await self._http.one(PortLink, call)

    async def set_access(self, port: int, access: PortAccess) -> PortSettings:
        """Say who may reach it: its ``"owner"``, or everybody (``"public"``)."""
        call = Call("PUT", self._path(checked_port(port)), body={"access": access}, safe=True)
        return await self._http.one(PortSettings, call)

    async def forget(self, port: int) -> None:
        """Undo its settings: it is its owner's, listed only while something listens. Again is no error."""
        await self._http.json(Call("DELETE", self._path(checked_port(port)), safe=True))
