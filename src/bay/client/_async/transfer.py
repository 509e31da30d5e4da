"""Transfers: a body sent piece by piece, and a file fetched over as many requests as it takes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import httpx

from bay.client._async.http import AsyncHttp, Body, tried
from bay.client._calls import Call
from bay.client._content import Fetch, said_length
from bay.client._local import CHUNK_BYTES, Download, Meter, Progress, Source, Target, pieces
from bay.client._seam import async_cleanup, async_in_thread, async_sleep
from bay.errors import BayError


async def fetched(http: AsyncHttp, fetch: Fetch) -> AsyncGenerator[bytes, None]:
    """The bytes that `fetch` is about. When it has to begin anew, `fetch.rewind` is called first."""
    while not fetch.ended:
        try:
            async with http.stream(fetch.call()) as response:
                if fetch.begin(response):
                    await async_in_thread(fetch.rewind)
                async for data in response.aiter_bytes(CHUNK_BYTES):
                    if piece := fetch.take(data):
                        yield piece
                fetch.finish()
        except BayError as error:
            await async_sleep(fetch.pause(error))


@asynccontextmanager
async def opened(http: AsyncHttp, call: Call) -> AsyncGenerator[httpx.Response, None]:
    """The answer to `call` while it arrives, asked for again until it begins. It is read once."""
    async with AsyncExitStack() as stack:
        yield await tried(call, http.config.retry_s, lambda: stack.enter_async_context(http.stream(call)))


def body(source: Source | bytes, meter: Meter) -> Body:
    """The body that has the bytes of `source`."""
    return streamed(lambda: pieces(source), meter, counted=True)


def streamed(begin: Callable[[], Generator[bytes, None, None]], meter: Meter, *, counted: bool) -> Body:
    """A body of the pieces of `begin`, made off the event loop. `counted`: each piece counts whole."""

    async def parts() -> AsyncIterator[bytes]:
        meter.done = 0
        with closing(begin()) as data:
            while piece := await async_in_thread(next, data, b""):
                yield piece
                if counted:
                    meter.add(len(piece))

    return parts


async def save(http: AsyncHttp, fetch: Fetch, local: Download, progress: Progress | None) -> int:
    """Fetch a file to its local place; its size."""
    meter = Meter(progress, None)
    async for piece in fetched(http, fetch):
        await async_in_thread(local.write, piece)
        meter.total = fetch.total
        meter.at(fetch.done)
    await async_in_thread(local.keep, fetch.headers.get("x-bay-mode"), fetch.headers.get("x-bay-mtime"))
    return fetch.done


async def save_once(
    http: AsyncHttp,
    call: Call,
    target: Target,
    name: str,
    progress: Progress | None,
    check: Callable[[bytes], None],
) -> int:
    """Bring what `call` streams to its place, in one attempt; `check` sees each piece, b"" at the end."""
    local, meter = Download(target, name), Meter(progress, None)
    try:
        async with opened(http, call) as response:
            await async_in_thread(local.open)
            meter.total = said_length(response)
            async for data in response.aiter_bytes(CHUNK_BYTES):
                check(data)
                await async_in_thread(local.write, data)
                meter.add(len(data))
        check(b"")
        await async_in_thread(local.keep)
    finally:
        with async_cleanup():
            await async_in_thread(local.discard)
    return meter.done
