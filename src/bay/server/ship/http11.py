"""HTTP/1.1 on a connection into a sandbox, to its Ship or to an app: h11 parses and frames for both.

Rejected: httpx and httpcore, which bound no head and no whole call, and give no connection away after an
upgrade.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import h11

_TURN = 64  # pieces that are handed out before others get a turn


class Http11Client:
    """An HTTP client sends one request after another, and reads their answers. Its caller bounds the time."""

    def __init__(self, max_head_bytes: int) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_head_bytes)
        self.heard = False
        """Whether a byte of the answer has come."""

    def encode(self, *events: h11.Request | h11.Data | h11.EndOfMessage) -> list[bytes]:
        """The parts to send for `events`. Raises h11.LocalProtocolError when they are no HTTP."""
        return [data for event in events if (data := self._h11.send(event))]

    async def next_event(self, read: Callable[[], Awaitable[bytes]]) -> object:
        """The next event of the answer; `read` gives bytes, none at the end.

        Raises h11.RemoteProtocolError.
        """
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            data = await read()
            self.heard = self.heard or bool(data)
            self._h11.receive_data(data)
        return event

    async def body(self, next_event: Callable[[], Awaitable[object]]) -> AsyncGenerator[bytes, None]:
        """The rest of the answer, piece by piece, by the caller's bounded `next_event`."""
        count = 0
        while isinstance(event := await next_event(), h11.Data):
            yield bytes(event.data)
            count += 1
            if count % _TURN == 0:  # chunks of one byte that are all here would keep others out
                await asyncio.sleep(0)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError("the answer broke off")

    @property
    def is_broken(self) -> bool:
        """Whether the peer broke HTTP, or broke off."""
        return self._h11.their_state is h11.ERROR

    @property
    def rest(self) -> bytes:
        """The bytes behind the answer, as after an upgrade."""
        return self._h11.trailing_data[0]

    def recycle(self) -> bool:
        """Make ready for the next request; False when this connection is used up."""
        is_done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        unasked, ended = self._h11.trailing_data
        if not is_done or unasked or ended:
            return False
        self._h11.start_next_cycle()
        self.heard = False
        return True
