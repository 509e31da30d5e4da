"""Connections to the apps in sandboxes, over HTTP/1.1. The app's bytes are hostile.

A reused connection is where requests get smuggled and answers mixed up. So it is kept only when both sides
are done and nothing came behind, for seconds, and for requests that can be sent again.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import h11

from bay.errors import BadRequest, PortClosed
from bay.server.ports.ship_client import PortClient, PortStream
from bay.server.ship.connection import Peer
from bay.server.ship.http11 import AnswerHead, Headers, Http11Client

IDLE_S = 3.0
"""How long a connection waits for the next request: less than what most app servers wait."""

_MAX_IDLE = 64
_READ_BYTES = 256 * 1024
_MAX_HEAD = 64 * 1024
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Bytes that h11 takes in a header and the server does not."""
_LOOK_S = 1.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 0.5


class Stale(Exception):
    """A connection that had waited was closed before anything was answered: another one is to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequest:
    """A request as the app gets it; `has_body` says whether parts of a body follow."""

    method: str
    target: bytes
    headers: Headers
    has_body: bool

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again when a connection turns out to be closed."""
        return self.method in ("GET", "HEAD", "OPTIONS") and not self.has_body


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection to a port of a sandbox, until it is closed."""

    port: int
    stream: PortStream
    _closing: AsyncExitStack

    async def aclose(self) -> None:
        """Drop it at once."""
        self.stream.abort()
        await self._closing.aclose()


class AppConnection:
    """HTTP on one connection to an app. One task may send while another reads the answer."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._stream = opened.stream
        self._http = Http11Client(_MAX_HEAD)
        self.idle_since: float | None = None
        """When it began to wait for another request; None in its first."""

    async def ask(self, request: AppRequest) -> None:
        """Send the head, and the end if there is no body. Raises BadRequest, and ConnectionError."""
        method, target, headers = request.method, request.target, request.headers
        try:
            if request.has_body:
                parts = self._http.encode(h11.Request(method=method, target=target, headers=headers))
            else:
                parts = self._http.ask(method, target, headers)
        except h11.LocalProtocolError as error:
            raise BadRequest(f"the request cannot be forwarded: {error}") from error
        await self._stream.write(b"".join(parts))

    async def send(self, data: bytes) -> None:
        """Send a part of the body, as fast as the app takes it. Raises ConnectionError."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """Say that the body has ended. Raises ConnectionError."""
        await self._send(h11.EndOfMessage())

    async def answer(self) -> AnswerHead:
        """The head of the answer. Raises PortClosed, or Stale where another connection may do better."""
        try:
            while (answer := await self._http.answer(self._read)).status < 200:
                if answer.status == 101:
                    raise h11.RemoteProtocolError("no answer")
            return _checked(answer)
        except (h11.RemoteProtocolError, ConnectionError) as error:
            if self.idle_since is not None and not self._http.heard:
                raise Stale from error
            raise self._broken(
                "did not answer with HTTP" if self._http.heard else "gave no answer"
            ) from error

    def body(self) -> AsyncGenerator[bytes]:
        """The rest of the answer, as it comes. Raises PortClosed when the app breaks off before its end."""
        return self._http.body(self._next_part)

    def recycle(self) -> bool:
        """Make ready for another request; False when it is used up."""
        return self._http.recycle()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, without unsolicited bytes."""
        return self._stream.is_quiet

    async def aclose(self) -> None:
        """Drop it at once."""
        await self._opened.aclose()

    async def _send(self, event: h11.Data | h11.EndOfMessage) -> None:
        try:
            parts = self._http.encode(event)
        except h11.LocalProtocolError as error:
            raise BadRequest(f"the body cannot be forwarded: {error}") from error
        for data in parts:
            await self._stream.write(data)

    async def _next_part(self) -> bytes:
        try:
            return await self._http.part(self._read)
        except (h11.RemoteProtocolError, ConnectionError) as error:
            raise self._broken("ended its answer early") from error

    async def _read(self) -> bytes:
        return await self._stream.read(_READ_BYTES)

    def _broken(self, what: str) -> PortClosed:
        return PortClosed(f"the program that listens on port {self._opened.port} {what}")


def _checked(answer: AnswerHead) -> AnswerHead:
    size = sum(len(name) + len(value) for name, value in answer.headers)
    is_odd = any(_CONTROL.search(value) for _, value in answer.headers)
    if answer.status > 599 or size > _MAX_HEAD or is_odd:
        raise h11.RemoteProtocolError("no head that may be forwarded")
    return answer


class AppConnections:
    """Makes connections, and keeps those that can serve another request for `IDLE_S`, while `run` runs."""

    def __init__(self, ship: PortClient) -> None:
        self._ship = ship
        self._idle: defaultdict[tuple[str, int], list[AppConnection]] = defaultdict(list)
        self._looking: dict[tuple[str, int], asyncio.Future[bool]] = {}
        """The wait for a listener on each port: one caller looks, and all get the result."""

    async def take(self, peer: Peer, port: int) -> AppConnection | None:
        """One that waits for a request, if there is any."""
        waiting = self._idle.get((peer.session_id, port), [])
        while waiting:
            connection = waiting.pop()
            if connection.is_quiet:
                return connection
            await connection.aclose()  # unsolicited bytes would be taken for the next answer
        return None

    async def open(self, peer: Peer, port: int, wait_s: float) -> Opened:
        """A new one, tried for `wait_s` seconds. Raises PortClosed, ShipError and Timeout."""
        began = asyncio.get_running_loop().time()
        while True:
            try:
                return await self._open(peer, port)
            except PortClosed:
                if not await self._listens(peer, port, began + wait_s):
                    raise

    async def give_back(self, peer: Peer, port: int, connection: AppConnection) -> None:
        """Keep it for another request, or drop it."""
        waiting = self._idle[peer.session_id, port]
        if len(waiting) < _MAX_IDLE and connection.recycle():
            connection.idle_since = asyncio.get_running_loop().time()
            waiting.append(connection)
        else:
            await connection.aclose()

    async def run(self) -> None:
        """Drop what has waited for too long, until cancelled; then all."""
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                await self._drop(asyncio.get_running_loop().time() - IDLE_S)
        finally:
            await self._drop(float("inf"))

    async def _listens(self, peer: Peer, port: int, until: float) -> bool:
        """Wait until it may be that something listens; False when time is up. One looks for all who wait."""
        key, loop = (peer.session_id, port), asyncio.get_running_loop()
        while (left_s := until - loop.time()) > 0:
            if (looking := self._looking.get(key)) is not None:
                await asyncio.wait((looking,), timeout=left_s)
                if looking.done() and not looking.cancelled() and looking.result():
                    return True
            elif await self._look(peer, port, until):
                return True
        return False

    async def _look(self, peer: Peer, port: int, until: float) -> bool:
        key, loop = (peer.session_id, port), asyncio.get_running_loop()
        looking = self._looking[key] = loop.create_future()
        pause_s, found = _FIRST_PAUSE_S, False
        try:
            while not found and (left_s := until - loop.time()) > 0:
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)
                found = await self._is_open(peer, port)
        finally:
            del self._looking[key]
            looking.set_result(found)
        return found

    async def _is_open(self, peer: Peer, port: int) -> bool:
        try:
            await (await self._open(peer, port)).aclose()
        except PortClosed:
            return False
        return True

    async def _open(self, peer: Peer, port: int) -> Opened:
        stack = AsyncExitStack()
        stream = await stack.enter_async_context(self._ship.open(peer, port))
        return Opened(port, stream, stack)

    async def _drop(self, before: float) -> None:
        for key, waiting in list(self._idle.items()):
            late = [connection for connection in waiting if (connection.idle_since or 0) <= before]
            waiting[:] = [connection for connection in waiting if connection not in late]
            if not waiting:
                del self._idle[key]
            for connection in late:
                await connection.aclose()
