"""Hands requests at `/mcp` to the protocol's library, which is loaded when the first one comes."""

import asyncio
import importlib
from collections import Counter
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bay.errors import Unauthorized
from bay.server.ports.gate import PortHosts
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, one_place

if TYPE_CHECKING:
    from bay.server.compat.mcp.transport import McpTransport


PLACES = 200
"""Requests of one owner that are answered at once: each may have its body in memory."""


class McpMessages:
    """The service behind `/mcp`."""

    def __init__(self, *, hosts: PortHosts, connections: OpenConnections) -> None:
        self._hosts = hosts
        self._connections = connections
        self._places: Counter[str] = Counter()
        self._wanted = asyncio.Event()
        self._opened: asyncio.Future[McpTransport] | None = None

    async def run(self) -> None:
        """Have the transport work from the first request on, until this is cancelled."""
        await self._wanted.wait()
        # In a thread: it takes a second, in which others are to be served.
        kind: type[McpTransport] = (
            await asyncio.to_thread(importlib.import_module, "bay.server.compat.mcp.transport")
        ).McpTransport
        async with kind(self._hosts.own_url).running() as transport:
            self._transport_place().set_result(transport)
            await asyncio.Event().wait()

    def answer(self, caller: Caller) -> Response:
        """The answer to a request of `caller`, which ends with the key and with Bay."""
        return _McpAnswer(self, caller)

    async def serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Unauthorized or Timeout when the caller must go meanwhile."""
        self._wanted.set()
        transport = await asyncio.shield(self._transport_place())
        doing = "requests of this owner to /mcp are answered, the limit; wait for one"
        with one_place(self._places, caller.owner, PLACES, doing):
            try:
                await self._connections.during(caller, transport.serve(caller, scope, receive, send))
            except Unauthorized:
                await transport.end_of_key(caller)
                raise

    def _transport_place(self) -> "asyncio.Future[McpTransport]":
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
        return self._opened


class _McpAnswer(Response):
    """An answer that the protocol's library writes."""

    def __init__(self, messages: McpMessages, caller: Caller) -> None:
        super().__init__()
        self._messages = messages
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._messages.serve(self._caller, scope, receive, send)
