"""The ports of a sandbox, and who may reach them."""

from bay.client._async.http import AsyncHttp
from bay.client._tunneling import checked_port
from bay.client._wire import Call, items, model, sandbox_path
from bay.models import Port, PortAccess, PortLink, PortSettings

Listening = list[Port]


class AsyncPorts:
    """The ports of one sandbox. None of this starts compute."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def list(self) -> Listening:
        """Where something listens now, with a URL that leads there; empty for a sandbox that does not run."""
        page = await self._http.json(Call(method="GET", path=self._path(), safe=True))
        return [model(Port, item) for item in items(page)]

    async def link(self, port: int, expires_in: int = 3600, *, once: bool = False) -> PortLink:
        """A URL that opens the port to whoever has it, for `expires_in` seconds; with `once` to the first who opens it.

        It ends with the key that made it. Nothing needs to listen there yet.
        """
        body = {"expires_in": expires_in, "once": once}
        call = Call(method="POST", path=self._path(checked_port(port), "links"), body=body)
        return model(PortLink, await self._http.json(call))

    async def set_access(self, port: int, access: PortAccess) -> PortSettings:
        """Say who may reach it: its ``"owner"``, or everybody (``"public"``)."""
        call = Call(method="PUT", path=self._path(checked_port(port)), body={"access": access}, safe=True)
        return model(PortSettings, await self._http.json(call))

    async def forget(self, port: int) -> None:
        """Take back what was set for it: it is its owner's, and is listed only while something listens. Again is no error."""
        await self._http.json(Call(method="DELETE", path=self._path(checked_port(port)), safe=True))

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, "ports", *rest)
