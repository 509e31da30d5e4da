"""An attachment to a command: live output and input, over one WebSocket that reconnects by itself."""

from collections.abc import AsyncGenerator
from typing import Self

from bay.client._async.http import AsyncHttp
from bay.client._follow import Limit
from bay.client._frames import (
    Door,
    FrameReading,
    Progress,
    attached,
    input_frames,
    not_for_sure,
    resize_frame,
    signal_frame,
)
from bay.client._seam import async_lock, async_sleep
from bay.client._socket import AsyncSocket
from bay.errors import BayError, Conflict, ConnectionFailed, HostError, OutputGone
from bay.models import Exec, OutputChunk
from ship_protocol import END_OF_STDIN


class _AsyncLine:
    """One connection, and its place in the output."""

    def __init__(self, socket: AsyncSocket, reading: FrameReading) -> None:
        self.socket = socket
        self.reading = reading


class AsyncAttachment:
    """A command that one is attached to; use it as a context manager. Leaving it leaves the command running.

    Iterate it for the output, in the order in which it came, until the command ends. A dropped connection is
    taken up again where it broke, for as long as the client's `retry_s`. Output that is no longer kept then
    shows as a jump of `offset`; when a `since` was given it is OutputGone; after a `repaint` the screen is
    drawn anew. Input that was on its way when a connection broke may be lost; it is never written twice.
    """

    def __init__(self, http: AsyncHttp, door: Door, progress: Progress) -> None:
        self._http = http
        self._door = door
        self._progress = progress
        self._line: _AsyncLine | None = None
        self._closed = False
        self._mending = async_lock()
        """Held during a reconnect, by the first task that needs one."""

    async def __aenter__(self) -> Self:
        await self._mend(None, None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave. Iterations over it end. Idempotent."""
        self._closed = True
        if self._line is not None:
            await self._line.socket.aclose()

    @property
    def info(self) -> Exec:
        """The last known state of the command."""
        if self._progress.info is None:
            raise BayError("this attachment is not open yet: use it as a context manager")
        return self._progress.info

    @property
    def exit(self) -> Exec | None:
        """How it ended, None while it runs."""
        return self._progress.info if self._progress.ended else None

    @property
    def offset(self) -> int:
        """The offset of the first byte of output not given yet; attach with it as `since` to go on."""
        return self._progress.next

    def __aiter__(self) -> AsyncGenerator[OutputChunk, None]:
        return self._chunks()

    async def read(self, timeout_s: float | None = None) -> OutputChunk | None:
        """The next output, None after its end. Raises Timeout when nothing comes for `timeout_s` seconds."""
        limit = Limit(timeout_s, f"{self.info.id} has printed nothing for {timeout_s} s")
        while not (self._progress.ended or self._closed):
            chunk = await self._next(self._open_line(), limit)
            if chunk is not None:
                return chunk
        return None

    async def write(self, data: str | bytes) -> None:
        """Give it input; waits while the way to it is full. Raises Conflict when it has ended.

        Raises ConnectionFailed when the connection broke meanwhile; the next call makes a new one.
        """
        for frame in input_frames(data):
            await self._send(frame)

    async def send_eof(self) -> None:
        """Close its input, after what was written before."""
        await self._send(END_OF_STDIN)

    async def resize(self, rows: int, cols: int) -> None:
        """Say how large its terminal is now."""
        await self._send(resize_frame(rows, cols))

    async def signal(self, signal: str | int) -> None:
        """Send it a signal, by name (``"INT"``) or number."""
        await self._send(signal_frame(signal))

    async def _chunks(self) -> AsyncGenerator[OutputChunk, None]:
        while (chunk := await self.read()) is not None:
            yield chunk

    async def _next(self, line: _AsyncLine, limit: Limit) -> OutputChunk | None:
        try:
            frame = await line.socket.receive(limit.left_s())
        except (OutputGone, HostError, ConnectionFailed) as error:
            limit.left_s()
            if not self._closed:
                await self._mend(line, error)
            return None
        return self._progress.accept(line.reading, frame)

    async def _send(self, frame: str | bytes) -> None:
        if self._closed or self._progress.ended:
            raise Conflict(f"{self.info.id} has ended, or the attachment is closed; nothing more can be sent")
        line = self._open_line()
        if line.socket.broken:
            await self._mend(line, ConnectionFailed(f"the connection to {self.info.id} broke"))
            line = self._open_line()
        try:
            await line.socket.send(frame)
        except ConnectionFailed as error:
            raise not_for_sure(error) from error

    def _open_line(self) -> _AsyncLine:
        if self._line is None:
            raise BayError("this attachment is not open yet: use it as a context manager")
        return self._line

    async def _mend(self, broken: _AsyncLine | None, error: BayError | None) -> None:
        """A new connection in place of `broken`, unless another task has made one."""
        async with self._mending:
            while self._line is broken and not self._closed:
                if error is not None:
                    await async_sleep(self._progress.broke(error))
                try:
                    self._line = await self._connect()
                except (OutputGone, HostError, ConnectionFailed) as failed:
                    error = self._unless_it_may_have_started(failed)
        if broken is not None:
            await broken.socket.aclose()
        if self._closed:
            await self.aclose()

    async def _connect(self) -> _AsyncLine:
        params = self._door.params(self._progress.since)
        socket = await AsyncSocket.open(self._http.config, self._door.path(), params)
        try:
            info, offset = attached(await socket.receive(self._http.config.timeout_s))
            self._door.opened(info.id)
            return _AsyncLine(socket, self._progress.begin(info, offset))
        except BaseException:
            await socket.aclose()
            raise

    def _unless_it_may_have_started(self, error: BayError) -> BayError:
        """`error`, to try again after; raises it when that could start a second shell."""
        if self._door.starts_a_shell and error.details.get("sent", True) and error.status != 503:
            raise error
        return error
