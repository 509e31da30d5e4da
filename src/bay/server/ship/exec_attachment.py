"""An exec's live output and input, over a WebSocket to its Ship. The frames are in docs/ship-protocol.md."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from bay.errors import (
    BadRequest,
    BayError,
    Conflict,
    OutputGone,
    PayloadTooLarge,
    QuotaExceeded,
    ShipError,
)
from bay.server.ship.answers import Attached, Exit, OutputEnd, parse
from bay.server.ship.websocket import Closed, ShipWebSocket
from ship_protocol import STDERR, STDOUT, CloseCode, first_offset_in

_REFUSALS: dict[int, type[BayError]] = {
    CloseCode.TOO_LARGE: PayloadTooLarge,
    CloseCode.BAD_MESSAGE: BadRequest,
    CloseCode.CONFLICT: Conflict,
    CloseCode.TOO_MANY: QuotaExceeded,
}


class Attachment:
    """One attachment to an exec. `next_offset` is the offset of the first byte of `frames`."""

    def __init__(self, socket: ShipWebSocket, attached: Attached) -> None:
        self.exec = attached.exec.to_exec()
        self.next_offset = attached.next_offset
        self._socket = socket

    @classmethod
    async def begin(cls, socket: ShipWebSocket, exec_id: str) -> "Attachment":
        """Read the first message. Raises ShipError when it is none, or of another exec."""
        first = await socket.receive()
        if not isinstance(first, str):
            raise ShipError("the sandbox's runtime did not name the exec it attached to")
        attached = parse(Attached, first.encode())
        if attached.exec.id != exec_id:
            raise ShipError("the sandbox's runtime attached to another exec")
        return cls(socket, attached)

    async def frames(self) -> AsyncGenerator[bytes | OutputEnd, None]:
        """Binary frames as they come, marker included, and an OutputEnd at last. One task may read.

        A sandbox that is frozen is silent, for as long as it is. Raises ShipError when the sandbox's side broke,
        OutputGone when this reader fell behind what is kept, and for what was sent: Conflict when stdin is not
        open, BadRequest, PayloadTooLarge or QuotaExceeded when Ship would not have it. The process lives on.
        """
        while isinstance(message := await self._socket.receive(), bytes):
            if message[:1] not in (STDOUT, STDERR):
                raise ShipError("the sandbox's runtime sent a frame of an unknown kind")
            yield message
        if isinstance(message, Closed):
            raise _refusal_of(message)
        yield parse(Exit, message.encode()).to_end()

    async def send(self, frame: bytes) -> None:
        """Send one binary frame, marker included; returns when there is room for more. Raises ShipError."""
        await self._socket.send(frame)

    async def send_json(self, message: Mapping[str, Any]) -> None:
        """Send a control message, as `send` does."""
        await self._socket.send(json.dumps(message))


def _refusal_of(closed: Closed) -> BayError:
    if closed.code == CloseCode.OUTPUT_GONE and (offset := first_offset_in(closed.reason)) is not None:
        message = "this reader fell behind the output buffer; continue from first_offset"
        return OutputGone(message, details={"first_offset": offset})
    refusal = _REFUSALS.get(closed.code, ShipError)
    return refusal(closed.reason or f"the sandbox's runtime ended the attachment ({closed.code})")
