"""Reads output by offset, across reconnects."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from bay.client._async.http import AsyncHttp, accepted
from bay.client._calls import Call
from bay.client._follow import Lined
from bay.client._seam import async_sleep
from bay.errors import BayError, ConnectionFailed, HostError, OutputGone, Timeout
from bay.models import OutputChunk

CallFrom = Callable[[int], Call]
"""The call that gives the output from an offset on."""


async def read_output(
    http: AsyncHttp, place: Lined, call_from: CallFrom, *, follow: bool
) -> AsyncGenerator[OutputChunk, None]:
    """The output from `place` on, until its end; with `follow=False` only the present part."""
    while not place.ended:
        async with aclosing(_connection(http, place, call_from, follow)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _connection(
    http: AsyncHttp, place: Lined, call_from: CallFrom, follow: bool
) -> AsyncGenerator[OutputChunk, None]:
    """The output of one connection; returns when a new one should be made."""
    connected = False
    error: BayError
    try:
        async with http.stream(call_from(place.next), place.limit.left_s()) as response:
            connected = True
            place.opened()
            async with aclosing(accepted(response, place)) as chunks:
                async for chunk in chunks:
                    yield chunk
        place.ended = place.ended or not follow
        if place.ended:
            return
        error = ConnectionFailed(f"the output of {place.what} ended before its end")
    except OutputGone as gone:
        place.skip(gone)
        return
    except (HostError, ConnectionFailed) as failed:
        # A silent program looks like a timeout: ask again, it costs nothing.
        if isinstance(failed, Timeout):
            place.limit.left_s()
            if connected:
                return
        error = failed
    await async_sleep(place.pause(error))
