"""The door: who may ask on a listening socket, how many at once, and how its connections end."""

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Iterable

from ship import log
from ship.errors import Conflict, Forbidden, InternalError, PayloadTooLarge, ShipError
from ship.http.connection import Connection, PeerGone
from ship.http.conversation import (
    BadRequest,
    Conversation,
    Handler,
    ProtocolSwitch,
    Request,
    TruncatedAnswer,
    WebSocketUpgrade,
)
from ship_protocol import session_proof

_CLOSING_S = 1.0
TURNS = 8
"""Turns of the event loop until a connection that it has accepted is served."""


class Door:
    """Serves one listening socket's connections. Without a `token` it asks for none and signs nothing."""

    def __init__(
        self, answer: Handler, limit: int, token: str | None, welcome: Callable[[Connection], bool]
    ) -> None:
        self._answer = answer
        self._limit = limit
        self._bearer: bytes | None = None
        self._session: str | None = None
        if token is not None:
            self.change_token(token)
        self._welcome = welcome
        self._open: set[Connection] = set()
        self._kept: set[Connection] = set()
        """Those whose file is open: one that is served no more may have bytes left to send."""
        self._busy: set[Connection] = set()
        self._bound: set[Connection] = set()
        """Those of the busy ones whose client cannot ask again; see `Request.may_break`."""
        self._answered = asyncio.Event()
        self._closing = False

    def accept(self) -> Connection:
        """A new connection, for asyncio's servers."""
        return Connection(self.serve)

    async def close(self) -> None:
        """End every connection; an answer that is under way has a second to be finished."""
        self._closing = True
        for wire in self._open - self._busy:
            wire.close()
        await self._wait_closed()
        for wire in self._open:
            wire.abort()
        await self._wait_closed()  # unfinished work is undone: an upload removes its temporary file

    def others(self, wire: Connection) -> list[Connection]:
        """Every connection but `wire` whose file is open, also one that only has bytes left to send."""
        return [other for other in self._kept if other is not wire and not other.lost.done()]

    async def wait_answered(self, wire: Connection) -> None:
        """Return once no request is under way but those that may break, and that of `wire`."""
        while self._bound - {wire}:
            self._answered.clear()
            await self._answered.wait()

    def change_token(self, token: str) -> str:
        """Serve requests with `token` alone from now on; the proof that answers carry then. The answer to a
        request that has been let in carries the one before, unless its conversation is told.
        """
        self._bearer = f"Bearer {token}".encode()
        self._session = session_proof(token)
        return self._session

    async def _wait_closed(self) -> None:
        await wait_closed(set(self._open))

    async def serve(self, wire: Connection) -> None:
        """Serve a connection to its end."""
        if len(self._open) >= self._limit:
            wire.abort()
            return
        self._open.add(wire)
        self._kept.add(wire)
        wire.lost.add_done_callback(lambda _lost: self._kept.discard(wire))
        try:
            await self._converse(Conversation(wire, self._session))
        except (PeerGone, TimeoutError):
            return
        except TruncatedAnswer:
            wire.abort()
        finally:
            self._open.discard(wire)
            self._rest(wire)
            wire.close()

    def _rest(self, wire: Connection) -> None:
        self._busy.discard(wire)
        self._bound.discard(wire)
        self._answered.set()

    async def _converse(self, talk: Conversation) -> None:
        if not self._welcome(talk.wire):
            await talk.refuse(Forbidden("only the host may ask here"), signed=False)
            return
        try:
            while (request := await talk.next_request()) is not None:
                self._busy.add(talk.wire)
                if not request.may_break:
                    self._bound.add(talk.wire)
                if not await self._reply(talk, request) or self._closing:
                    return
                self._rest(talk.wire)
        except (BadRequest, PayloadTooLarge) as error:
            await talk.refuse(error, signed=False)  # any client may have sent that

    async def _reply(self, talk: Conversation, request: Request) -> bool:
        """Answer one request; False when the connection must close."""
        if not self._may_ask(request):
            await talk.refuse(Forbidden("the token is missing or wrong"), signed=False)
            return False
        talk.wire.is_trusted = True
        try:
            self._check_room(request)
            answer = await self._answer(request)
            if isinstance(answer, WebSocketUpgrade):
                await answer.serve(await talk.upgrade(request.websocket_key or b""))
                return False
            if isinstance(answer, ProtocolSwitch):
                await _switch(talk, answer)
                return False
            await talk.answer(answer)
        except ShipError as error:
            await talk.refuse(error)
        except (PeerGone, TimeoutError, TruncatedAnswer):
            raise
        except Exception as error:  # noqa: BLE001 - the request edge: one bad request must not end the sandbox
            log.note(f"request.failed {log.describe(error)}")
            await talk.refuse(InternalError(f"Ship failed ({type(error).__name__})"))
            return False
        return await talk.recycle()

    def _check_room(self, request: Request) -> None:
        # Else long requests could take all connections, and none would be left to end their execs.
        most = self._limit - self._limit // 8
        if request.stays and len(self._open) > most:
            problem = f"more than {most} connections are open; close one that follows, waits or is attached"
            raise Conflict(problem)

    def _may_ask(self, request: Request) -> bool:
        if self._bearer is None:
            return True
        return request.authorization is not None and hmac.compare_digest(request.authorization, self._bearer)


async def wait_closed(wires: Iterable[Connection]) -> None:
    """Return when nothing serves these any more, or after a second. They have been closed or aborted."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSING_S):
            for wire in wires:
                await wire.wait_closed()


async def _switch(talk: Conversation, answer: ProtocolSwitch) -> None:
    try:
        await answer.serve(talk.wire, await talk.switch(answer.protocol))
    finally:
        answer.close()
