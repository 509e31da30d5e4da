"""A watch reports changes of files live."""

from collections.abc import AsyncGenerator
from typing import Self

from bay.client._async.http import AsyncHttp
from bay.client._calls import Params
from bay.client._file_parts import OVERFLOW, event, watching
from bay.client._follow import Patience
from bay.client._frames import is_end
from bay.client._seam import async_sleep
from bay.client._socket import AsyncSocket
from bay.errors import BayError, ConnectionFailed, HostError
from bay.models import FileEvent


class AsyncWatch:
    """A directory or a file that is watched; use it as a context manager, and iterate it for the events.

    Changes after the block was entered are reported, until the watched path is removed. An event of type
    ``overflow`` says that others were lost: look again. It also comes after a reconnect, for which the
    client's `retry_s` is the limit.
    """

    def __init__(self, http: AsyncHttp, path: str, params: Params) -> None:
        self._http = http
        self._path = path
        self._params = params
        self._socket: AsyncSocket | None = None
        self._patience = Patience(http.config.retry_s)
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching. Iterations over it end. Idempotent."""
        self._closed = True
        if self._socket is not None:
            await self._socket.aclose()

    def __aiter__(self) -> AsyncGenerator[FileEvent, None]:
        return self._events()

    async def _events(self) -> AsyncGenerator[FileEvent, None]:
        while not self._closed:
            found = await self._next()
            if found is not None:
                yield found

    async def _next(self) -> FileEvent | None:
        if self._socket is None:
            raise BayError("this watch is not open yet: use it as a context manager")
        try:
            frame = await self._socket.receive()
        except (HostError, ConnectionFailed) as error:
            self._closed = self._closed or is_end(error)
            return None if self._closed else await self._again(error)
        self._patience.renew()
        return event(frame)

    async def _again(self, error: BayError) -> FileEvent:
        """A new connection in place of one that broke. Changes meanwhile are unknown."""
        while True:
            await async_sleep(self._patience.pause(error))
            try:
                await self._connect()
            except (HostError, ConnectionFailed) as failed:
                error = failed
            else:
                return OVERFLOW

    async def _connect(self) -> None:
        if self._socket is not None:
            await self._socket.aclose()
        socket = await AsyncSocket.open(self._http.config, self._path, self._params)
        try:
            watching(await socket.receive(self._http.config.timeout_s))
        except BaseException:
            await socket.aclose()
            raise
        self._patience.opened()
        self._socket = socket
