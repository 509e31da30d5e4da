"""An attachment to an exec: its output as it comes and its input, on one WebSocket.

It is a cursor in the exec's ring and has no queue of its own. The program waits for the one that claims the
output (see `claim`), and a little for another that is about to lose its place (see `patience`); one that is
slower gets the ring's first offset and is disconnected.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import cast

from ship.errors import Conflict, Forbidden, InvalidArgument
from ship.execs import output, request
from ship.execs.execs import Exec
from ship.execs.ring import Piece
from ship.http.connection import PeerGone
from ship.http.websocket import Closing, WebSocket
from ship.waiting import first_of
from ship_protocol import (
    CONTROLS_PER_S,
    END_OF_STDIN,
    LEAVE,
    STDERR,
    STDIN,
    STDOUT,
    CloseCode,
    first_offset_reason,
)

_OUTPUT_MARKERS = {"stdout": STDOUT, "tty": STDOUT, "stderr": STDERR}
_FRAME_BYTES = 128 * 1024  # a few of them and the buffers of a socket are less than a ring
_SLICE_BYTES = 64 * 1024
_INPUT_BYTES = 1 << 20
_LEFT_BEHIND_S = 2.0
_ENDING_S = 1.0


class Attachment:
    """Without `since` it begins at the oldest kept byte. The program waits for one that `claims`."""

    def __init__(self, socket: WebSocket, found: Exec, since: int | None, *, claims: bool) -> None:
        self._socket = socket
        self._exec = found
        self._since = since
        self._claims = claims
        self._leave = socket.wire.asked_to_leave()
        self._next = 0
        self._input = _Input(found)
        self._controls: list[float] = []

    async def run(self) -> None:
        """Serve it to its end, whichever side that comes from."""
        closing = Closing(CloseCode.NORMAL, "")
        try:
            with self._exec.watched():
                async with asyncio.TaskGroup() as tasks:
                    for part in (self._give_output(), self._take_messages(), self._input.run()):
                        tasks.create_task(part)
        except* Closing as group:
            closing = next(each for each in group.exceptions if isinstance(each, Closing))
        await self._socket.close(closing.code, closing.reason)

    async def _give_output(self) -> None:
        with suppress(PeerGone):
            await self._give_all()
            # It closes, and `_take_messages` answers that, or it is cut off.
            await first_of((self._socket.wire.gone,), None)
        # It has left. Its last message may still be on its way in, for a moment.
        await asyncio.sleep(_LEFT_BEHIND_S)
        raise Closing(CloseCode.NORMAL, "")

    async def _give_all(self) -> None:
        gone = self._socket.wire.gone
        # Read as late as this: in a flood, the oldest byte of a moment ago is overwritten.
        self._next = self._exec.ring.first_offset if self._since is None else self._since
        self._check_kept()  # again: the call was checked before the protocol was changed
        with output.reading(self._exec.transcript, self._next, claims=self._claims) as reader:
            first = {"type": "attached", "exec": self._exec.to_wire(), "next_offset": self._next}
            await self._socket.send_text(json.dumps(first))
            await self._give_from_here(reader, gone)
        if self._leave.done():
            await self._socket.send_text(LEAVE)

    async def _give_from_here(self, reader: output.ReadProgress, gone: asyncio.Future[None]) -> None:
        while not gone.done() and not self._leave.done():
            # In this order: output that comes between the two lines belongs before the last message.
            ended = not self._exec.running
            self._check_kept()
            if not await self._give_some(reader):
                if ended:
                    await self._socket.send_text(json.dumps({"type": "exit", **self._exec.end_to_wire()}))
                    raise Closing(CloseCode.NORMAL, "")
                await self._exec.news.wait(gone, ending=self._leave)

    def _check_kept(self) -> None:
        if self._next < self._exec.ring.first_offset:
            raise Closing(CloseCode.OUTPUT_GONE, first_offset_reason(self._exec.ring.first_offset))

    async def _give_some(self, reader: output.ReadProgress) -> bool:
        pieces = list(self._exec.ring.read(self._next, _FRAME_BYTES))
        for marker, run in _frames(pieces):
            self._socket.write_bytes(marker, *(bytes(piece.data) for piece in run))
            reader.earn(run[-1].end - self._next)
            self._next = run[-1].end
            with reader.while_giving(self._next):
                while (room := self._socket.wire.room) is not None and not self._leave.done():
                    await first_of((room, self._leave), None)
        if not pieces:
            reader.renew()
        return bool(pieces)

    async def _take_messages(self) -> None:
        with suppress(PeerGone):  # when the peer that a pong is for has left
            await self._take_all()
        await self._input.wait_taken()
        # The peer that was asked to leave learns by the code that the program has all of its input.
        raise Closing(CloseCode.SERVICE_RESTART if self._leave.done() else CloseCode.NORMAL, "")

    async def _take_all(self) -> None:
        async for message in self._socket.messages():
            if isinstance(message, bytes):
                await self._take_frame(message)
            else:
                self._count_control()
                if isinstance(message, str):
                    self._take_control(message)

    async def _take_frame(self, frame: bytes) -> None:
        if len(frame) > 1 and frame[:1] == STDIN:
            await self._input.put(frame[1:])
            return
        self._count_control()
        if frame == END_OF_STDIN:
            await self._input.end()
        elif frame != STDIN:
            problem = "a binary message must be byte 0 and data for stdin, or byte 4 alone to end stdin"
            raise Closing(CloseCode.BAD_MESSAGE, problem)

    def _count_control(self) -> None:
        now = asyncio.get_running_loop().time()
        self._controls = [*(at for at in self._controls if now - at < 1), now]
        if len(self._controls) > CONTROLS_PER_S:
            raise Closing(CloseCode.TOO_MANY, f"more than {CONTROLS_PER_S} control messages in a second")

    def _take_control(self, text: str) -> None:
        message = _parse_control(text)
        try:
            match message.get("type"):
                case "resize":
                    self._exec.resize(*request.size(message.get("rows"), message.get("cols")))
                case "signal":
                    self._exec.send_signal(request.signal_number(message.get("signal")))
                case _:
                    problem = "the type of a text message must be resize or signal"
                    raise Closing(CloseCode.BAD_MESSAGE, problem)
        except Conflict as error:
            if message["type"] == "resize" and not self._exec.tty:
                raise Closing(CloseCode.BAD_MESSAGE, error.message) from error
            # Else it is ending, and the end is the next message.
        except (Forbidden, InvalidArgument) as error:
            raise Closing(CloseCode.BAD_MESSAGE, error.message) from error


class _Input:
    """A little input on its way: a signal behind it comes through when the program does not read."""

    def __init__(self, found: Exec) -> None:
        self._exec = found
        self._waiting = bytearray()
        self._end_due = False
        """To be sent after the waiting input."""
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        """Add `data`; returns when there is room for it. Raises Closing after the end of input."""
        if self._closed:
            raise Closing(CloseCode.CONFLICT, "stdin is closed")
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._waiting) < _INPUT_BYTES and not self._end_due)
            self._waiting += data
            self._changed.notify_all()

    async def end(self) -> None:
        """The end of input. After it only a terminal takes more: for the program that reads just then."""
        if self._closed:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: not self._end_due)
            self._end_due = True
            self._closed = not self._exec.tty
            self._changed.notify_all()

    async def wait_taken(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and not self._end_due)

    async def run(self) -> None:
        """Feed the input to the program. Raises Closing when it does not take it."""
        try:
            while await self._give_slice() or self._exec.tty:
                continue
        except Conflict as error:
            # A program closes its stdin a moment before it ends, and then its end is the news.
            await self._exec.wait_end(asyncio.get_running_loop().create_future(), _ENDING_S)
            if self._exec.running:
                raise Closing(CloseCode.CONFLICT, error.message) from error

    async def _give_slice(self) -> bool:
        """Feed the oldest input; False when that was the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._end_due)
            part = bytes(self._waiting[:_SLICE_BYTES])
        if part:
            await self._exec.write_input(part)
        else:
            await self._exec.close_input()
        async with self._changed:
            del self._waiting[: len(part)]
            self._end_due = self._end_due and bool(part)
            self._changed.notify_all()
        return bool(part)


def _frames(pieces: Iterable[Piece]) -> Iterator[tuple[bytes, list[Piece]]]:
    for marker, run in groupby(pieces, key=lambda piece: _OUTPUT_MARKERS[piece.stream]):
        yield marker, list(run)


def _parse_control(text: str) -> dict[str, object]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Closing(CloseCode.BAD_MESSAGE, "a text message must be JSON") from error
    if not isinstance(message, dict):
        raise Closing(CloseCode.BAD_MESSAGE, "a text message must be a JSON object")
    return cast("dict[str, object]", message)
