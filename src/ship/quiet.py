"""The quiet before Ship's memory is saved: no connection of the host is open, and Ship can be looked at.

A connection belongs to both of its ends, so one that is open cannot be saved with Ship alone. The caller of
`/quiet` gets the files of all others, and Ship has placeholders for them: a Ship that goes on gets the files
back by `/loud`, and its requests under way go on where they stood. A restored copy never gets them. Any other
request ends the quiet, and with it the connections that were handed over.

A process that hides from debuggers cannot be saved once it was restored: its memory then belongs to a user
namespace above its own.
"""

import asyncio
import random
import re
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from selectors import BaseSelector

from ship.errors import Conflict, InvalidArgument
from ship.http.connection import Connection, PeerGone
from ship.http.conversation import Answer, Handler, ProtocolSwitch, Reply, Request, json_answer
from ship.http.door import TURNS, Door, wait_closed
from ship.parking import Parking, close_all
from ship.process import syscalls
from ship.waiting import readable, writable
from ship_protocol.handover import HANDED, HANDED_ALL, HANDED_AT_ONCE, HANDED_OVER, HANDED_WRONG, receive

_HANDOVER_S = 5.0
_TOKEN = re.compile(r"[!-~]{32,1024}")

_Serve = Callable[[socket.socket, Connection, bytes], Awaitable[None]]


class _Wrong(Exception):
    """The caller of `/loud` does not send what it should."""


class Quiet:
    """Answers `POST /quiet`, `/loud` and `/adopt`, and hands the others on to `answer`. `door` is where all
    of them come in, and `selector` is the event loop's.
    """

    door: Door

    def __init__(self, selector: BaseSelector, answer: Handler) -> None:
        self._answer = answer
        self._parking = Parking(selector)
        self._changing = asyncio.Lock()  # held while connections are handed over or end
        self._is_quiet = False

    async def answer(self, request: Request) -> Reply:
        """Raises ShipError."""
        wire = request.talk.wire
        asked = request.method, request.segments, request.protocol
        if asked == ("POST", ("loud",), b"loud") and self._is_quiet and wire not in self._parking:
            return _switch("loud", wire, self._take_back)
        await self._end(wire)
        match asked:
            case "POST", ("quiet" | "loud" | "adopt",), _ if wire in self._parking:
                raise Conflict("this connection has been handed over")
            case "POST", ("quiet",), b"quiet":
                if len(self.door.others(wire)) > HANDED_OVER:
                    raise Conflict(f"more than {HANDED_OVER} connections are open; close some")
                return _switch("quiet", wire, self._hand_over)
            case "POST", ("loud",), b"loud":
                raise Conflict("Ship is not quiet")
            case "POST", ("quiet" | "loud" as name,), _:
                raise InvalidArgument(f"send Connection: upgrade and Upgrade: {name}")
            case "POST", ("adopt",), _:
                return await self._adopt(request)
            case _:
                return await self._answer(request)

    async def _hand_over(self, caller: socket.socket, wire: Connection, _received: bytes) -> None:
        """Raises PeerGone for a caller that does not take all; then all connections go on."""
        async with self._changing:
            if wire in self._parking or wire.transport.get_write_buffer_size():
                raise PeerGone
            if self._is_quiet:
                await self._drop()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            files = self._parking.park(self.door.others(wire))
            try:
                async with asyncio.timeout(_HANDOVER_S):
                    await _send_all(caller, files)
            except BaseException as error:
                self._parking.put_back(files)
                syscalls.hide_from_debuggers()
                if isinstance(error, OSError):
                    raise PeerGone from error
                raise
            self._is_quiet = True
            close_all(files)

    async def _take_back(self, caller: socket.socket, _wire: Connection, received: bytes) -> None:
        async with self._changing:
            files: list[int] = []
            try:
                async with asyncio.timeout(_HANDOVER_S):
                    await _receive_all(caller, received, files)
                is_right = self._is_quiet and self._parking.fits(files)
            except (OSError, _Wrong):
                is_right = False
            if is_right:
                self._parking.put_back(files)
                self._is_quiet = False
                syscalls.hide_from_debuggers()
            else:
                close_all(files)
                await self._drop()
            try:
                async with asyncio.timeout(_HANDOVER_S):
                    await _send(caller, HANDED_ALL if is_right else HANDED_WRONG)
            except OSError as error:
                raise PeerGone from error

    async def _adopt(self, request: Request) -> Answer:
        """This is a copy of a Ship, and has a secret of its own from now on."""
        token = _token_in(await request.read_object())
        proof = self.door.change_token(token)  # first, so that no request of the old one comes in any more
        others = self.door.others(request.talk.wire)
        for wire in others:
            wire.abort()
        await wait_closed(others)
        random.seed()
        request.talk.sign_as(proof)
        return json_answer(200, {"status": "adopted"})

    async def _end(self, wire: Connection) -> None:
        """End the quiet, if there is one, unless the request of `wire` had come before."""
        if self._is_quiet or self._changing.locked():
            async with self._changing:
                if wire not in self._parking:
                    await self._drop()

    async def _drop(self) -> None:
        if self._is_quiet:
            self._is_quiet = False
            syscalls.hide_from_debuggers()
            await wait_closed(self._parking.abort())


def _switch(protocol: str, wire: Connection, serve: _Serve) -> ProtocolSwitch:
    # Now: once the caller has the answer, a read of the transport could drop the files that follow.
    caller = wire.borrow()
    return ProtocolSwitch(protocol, partial(serve, caller), caller.close)


def _token_in(told: dict[str, object]) -> str:
    """Raises InvalidArgument."""
    for name in told:
        if name != "token":
            raise InvalidArgument(f"there is no field {name[:64]!a}", field=name[:64])
    token = told.get("token")
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise InvalidArgument("token must be 32 to 1024 characters of ASCII without spaces", field="token")
    return token


async def _send_all(caller: socket.socket, files: Sequence[int]) -> None:
    for start in range(0, len(files), HANDED_AT_ONCE):
        await _send(caller, HANDED, files[start : start + HANDED_AT_ONCE])
    syscalls.show_to_debuggers()
    await _send(caller, HANDED_ALL)
    await _taken(caller)


async def _taken(caller: socket.socket) -> None:
    """Return when the caller has all, which it says by the end of its direction. Raises OSError for one that
    has left: what it had not read went with it.
    """
    await readable(caller.fileno())
    ends = select.poll()
    ends.register(caller, 0)
    if caller.recv(1) or ends.poll(0):  # both directions have ended, or it failed
        raise ConnectionAbortedError


async def _send(caller: socket.socket, message: bytes, files: Sequence[int] = ()) -> None:
    while True:
        try:
            socket.send_fds(caller, [message], files) if files else caller.send(message)
        except BlockingIOError:
            await writable(caller.fileno())
        else:
            return


async def _receive_all(caller: socket.socket, received: bytes, files: list[int]) -> None:
    """Add all that come to `files`. Raises _Wrong, or OSError."""
    if received:
        raise _Wrong  # before the answer, so that files may be lost
    while len(files) <= HANDED_OVER:
        count = len(files)
        try:
            message = receive(caller, files)
        except BlockingIOError:
            await readable(caller.fileno())
            continue
        if message == HANDED_ALL and len(files) == count:
            return
        if message != HANDED or len(files) == count:
            break
    raise _Wrong
