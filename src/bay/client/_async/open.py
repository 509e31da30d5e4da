"""An open file of a sandbox: random reads, or a sequential write."""

import os
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from bay.client._answers import model
from bay.client._async.http import AsyncHttp
from bay.client._async.transfer import fetched
from bay.client._calls import Call
from bay.client._content import Fetch, changed
from bay.client._feed import AsyncFeed
from bay.client._file_parts import OpenFile
from bay.client._local import CHUNK_BYTES
from bay.errors import BayError, InvalidArgument
from bay.models import FileInfo

Bytes = AsyncGenerator[bytes, None]


class AsyncFileReader(OpenFile):
    """A file that is open for reading bytes; use it as a context manager, or close it.

    Sequential reads share one request; `seek` begins another where it leads elsewhere. All of it is of one
    and the same file: raises Conflict when that was changed meanwhile.
    """

    _reads = True

    def __init__(self, http: AsyncHttp, call: Call, path: str) -> None:
        super().__init__(path)
        self._http = http
        self._call = call
        self._fetch: Fetch | None = None
        self._pieces: Bytes | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._fill()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of it. Again is no error."""
        self._closed = True
        await self._leave()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    async def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer only at the end; all that are left without a size."""
        wanted = None if size is None or size < 0 else size
        while (wanted is None or len(self._buffer) < wanted) and await self._fill():
            pass
        return self._taken(len(self._buffer) if wanted is None else wanted)

    async def readline(self) -> bytes:
        """The next line with its newline, empty at the end."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if not await self._fill():
                return self._taken(seen)
        return self._taken(end + 1)

    def __aiter__(self) -> Bytes:
        return self._lines()

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on at `offset`, from the start, the position or the end; gives the position from the start."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        place = offset + (await self._size() if start is None else start)
        if place < 0:
            raise InvalidArgument(f"offset {place} is before the start of the file")
        if 0 <= place - self._at <= len(self._buffer):
            self._taken(place - self._at)
        else:
            await self._leave()
            self._at = place
        return place

    async def _lines(self) -> Bytes:
        while line := await self.readline():
            yield line

    async def _size(self) -> int:
        if self._fetch is None:
            await self._fill()
        if self._fetch is None or self._fetch.size is None:
            raise BayError(f"the server did not send the size of {self.name}")
        return self._fetch.size

    async def _fill(self) -> bool:
        """Have more in the buffer; False at the end."""
        if self._closed:
            raise ValueError(f"{self.name} is closed")
        if self._pieces is None:
            self._fetch = self._fetch_from(self._at + len(self._buffer))
            self._pieces = fetched(self._http, self._fetch)
        piece = await anext(self._pieces, b"")
        self._buffer += piece
        return bool(piece)

    def _fetch_from(self, start: int) -> Fetch:
        before = self._fetch
        etag = before.etag if before else None
        fetch = Fetch(self._call, self._http.config.retry_s, start=start, etag=etag, rewind=self._refuse)
        fetch.size = before.size if before else None
        return fetch

    def _refuse(self) -> None:
        raise changed(self.name)

    def _taken(self, size: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._at += len(piece)
        return piece

    async def _leave(self) -> None:
        pieces, self._pieces = self._pieces, None
        self._buffer.clear()
        if pieces is not None:
            await pieces.aclose()


class AsyncFileWriter(OpenFile):
    """A file that is open for writing bytes, from the front; use it as a context manager.

    Bytes written are sent at once, and replace the file when this is closed. When the block is left by an
    exception, the file stays as it was.
    """

    _reads = False

    def __init__(self, http: AsyncHttp, call: Call, path: str) -> None:
        super().__init__(path)
        self.info: FileInfo | None = None
        """The file as it became; None before it is closed."""
        self._feed = AsyncFeed(lambda body: http.json(call, body))

    async def __aenter__(self) -> Self:
        await self._feed.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.aclose()
        finally:
            await self._feed.stop()

    async def aclose(self) -> None:
        """All is written: put it in place. Again is no error. Raises what the server refused it with."""
        if self.info is None:
            await self.flush()
            self.info = model(FileInfo, await self._feed.finish())

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.info is not None

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add bytes; waits while the way to the server is full. Gives how many."""
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            self._buffer += view[start : start + CHUNK_BYTES]
            if len(self._buffer) >= CHUNK_BYTES:
                await self.flush()
        self._at += len(view)
        return len(view)

    async def flush(self) -> None:
        """Send what was held back to make larger pieces."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            await self._feed.put(data)
