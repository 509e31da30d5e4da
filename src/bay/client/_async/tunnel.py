"""A tunnel: a TCP connection to a port of a sandbox, through Bay."""

from contextlib import suppress
from functools import partial
from typing import Self

from bay.client._async.http import AsyncHttp, tried
from bay.client._calls import Call
from bay.client._frames import is_end
from bay.client._paths import checked_port, sandbox_path
from bay.client._socket import AsyncSocket
from bay.client._tunneling import EOF_FRAME, frames, is_eof, meaning
from bay.errors import BayError, Conflict


class AsyncTunnel:
    """A connection to whatever listens on a port of the sandbox; use it as a context manager.

    Bytes go as they are, and each direction ends by itself, as with TCP. A broken tunnel does not reconnect:
    it is unknown which bytes had arrived. Leaving the block closes the connection and drops unread bytes.
    """

    def __init__(self, http: AsyncHttp, sandbox_id: str, port: int) -> None:
        self.port = port
        self._http = http
        self._params = {"port": checked_port(port)}
        self._path = sandbox_path(sandbox_id, "tunnel")
        self._socket: AsyncSocket | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        self._socket = await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. Again is no error."""
        if self._socket is not None:
            await self._socket.aclose()

    async def receive(self) -> bytes:
        """The next bytes, as they come; empty once the program there has ended its direction.

        Raises PortClosed or ConnectionFailed when the connection broke; the bytes received until then may not
        be all.
        """
        socket = self._open_socket()
        while not self._ended:
            try:
                frame = await socket.receive()
            except BayError as error:
                if not is_end(error):
                    raise meaning(error, self.port) from error
                self._ended = True
            else:
                if isinstance(frame, str):
                    self._ended = is_eof(frame)
                elif frame:
                    return frame
        return b""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; waits while the other side takes nothing.

        Raises Conflict when it has closed the connection. Raises ConnectionFailed when the connection broke;
        some of `data` may have arrived.
        """
        for frame in frames(data):
            await self._send(frame)

    async def send_eof(self) -> None:
        """End this direction; the other can still be received. No error once the connection was closed."""
        with suppress(Conflict):
            await self._send(EOF_FRAME)

    async def _send(self, frame: str | bytes) -> None:
        socket = self._open_socket()
        try:
            await socket.send(frame)
        except BayError as error:
            raise meaning(error, self.port) from error

    async def _connect(self) -> AsyncSocket:
        """A new connection. Nothing was sent over it yet, so that it may be tried again."""
        config = self._http.config
        # As long as any other answer: the sandbox may have to be started.
        opening = partial(AsyncSocket.open, config, self._path, self._params, config.timeout_s)
        return await tried(Call.get(self._path), config.retry_s, opening)

    def _open_socket(self) -> AsyncSocket:
        if self._socket is None:
            raise BayError("this tunnel is not open yet: use it as a context manager")
        return self._socket
