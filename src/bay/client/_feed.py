"""Feeds a request's body piece by piece while it is under way, for event loops and for threads.

`scripts/generate_sync.py` turns `AsyncFeed` into `Feed`.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import anyio

from bay.client._calls import Json
from bay.client._seam import CLEANUP_S
from bay.errors import BayError

if TYPE_CHECKING:
    import anyio.abc
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

NOT_OPEN = "this is not open: use it as a context manager"


class AsyncFeed:
    """Sends what `put` is given. Without `finish` the body breaks off, and nothing comes of it."""

    def __init__(self, send: Callable[[Callable[[], AsyncIterator[bytes]]], Awaitable[Json]]) -> None:
        self._send = send
        self._group: anyio.abc.TaskGroup | None = None
        self._ended = anyio.Event()
        self._answer: Json | Exception = BayError(NOT_OPEN)
        self._in: MemoryObjectSendStream[bytes] | None = None
        self._out: MemoryObjectReceiveStream[bytes] | None = None

    async def start(self) -> None:
        """Begin the request."""
        self._in, self._out = anyio.create_memory_object_stream[bytes](0)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run, self._out)

    async def put(self, data: bytes) -> None:
        """Send more; waits while the other side takes nothing. Raises what the request was refused with."""
        if self._in is None:
            raise BayError(NOT_OPEN)
        try:
            await self._in.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._ended.wait()
            self._result()
            raise BayError("the server answered before it had the whole body") from None

    async def finish(self) -> Json:
        """That was all; gives the answer."""
        if self._in is None:
            raise BayError(NOT_OPEN)
        self._in.close()
        await self._ended.wait()
        return self._result()

    async def stop(self) -> None:
        """Break off what is not finished. Must be called, by the task that called `start`."""
        group, self._group = self._group, None
        if group is not None and self._in is not None:
            group.cancel_scope.cancel()
            with self._in:
                # Without the caller's own exception: the group would wrap it into another.
                await group.__aexit__(None, None, None)

    async def _run(self, out: "MemoryObjectReceiveStream[bytes]") -> None:
        with out:
            try:
                self._answer = await self._send(lambda: _pieces(out))
            except Exception as error:  # noqa: BLE001 — it is raised where the caller waits
                self._answer = error
            finally:
                self._ended.set()

    def _result(self) -> Json:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def _pieces(out: "MemoryObjectReceiveStream[bytes]") -> AsyncIterator[bytes]:
    async for piece in out:
        yield piece


class _BrokenOff(Exception):
    """The caller gave up; the body's iterator raises this, so that the body never comes to its end."""


class Feed:
    """Sends what `put` is given. Without `finish` the body breaks off, and nothing comes of it."""

    def __init__(self, send: Callable[[Callable[[], Iterator[bytes]]], Json]) -> None:
        self._send = send
        self._thread = threading.Thread(target=self._run, name="bay-upload", daemon=True)
        self._changed = threading.Condition()
        """Guards what follows; nothing else is held with it."""
        self._piece = b""
        self._last = False
        self._stopped = False
        self._ended = False
        self._answer: Json | Exception = BayError(NOT_OPEN)

    def start(self) -> None:
        """Begin the request."""
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Send more; waits while the other side takes nothing. Raises what the request was refused with."""
        with self._changed:
            if self._thread.ident is None:
                raise BayError(NOT_OPEN)
            self._changed.wait_for(lambda: self._ended or not self._piece)
            if self._ended:
                self._result()
                raise BayError("the server answered before it had the whole body")
            self._piece = data
            self._changed.notify_all()

    def finish(self) -> Json:
        """That was all; gives the answer."""
        with self._changed:
            if self._thread.ident is None:
                raise BayError(NOT_OPEN)
            self._last = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended)
            return self._result()

    def stop(self) -> None:
        """Break off what is not finished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLEANUP_S)

    def _run(self) -> None:
        try:
            answer = self._send(self._pieces)
        except Exception as error:  # noqa: BLE001 — it is raised where the caller waits
            answer = error
        with self._changed:
            self._answer, self._ended = answer, True
            self._changed.notify_all()

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        """The next piece, empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._piece or self._last or self._stopped)
            if self._stopped:
                raise _BrokenOff
            piece, self._piece = self._piece, b""
            self._changed.notify_all()
            return piece

    def _result(self) -> Json:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
