"""Encodes output for clients: lines of JSON, or server-sent events (WHATWG HTML, section 9.2)."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Annotated, Any

from fastapi import Header, Query
from starlette.responses import StreamingResponse

from bay.errors import BayError
from bay.models import OutputChunk, to_wire
from bay.server.ship.client import OutputEnd
from bay.server.web.replies import HeldResponse

_SSE = "text/event-stream"
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Asks proxies that gather answers before they pass them on not to."""

Since = Annotated[int, Query(ge=0, lt=2**63, description="Byte offset to read from")]
LastEventId = Annotated[int | None, Header(ge=0, lt=2**63, description="As `since`, which it overrides")]
WaitForReader = Annotated[
    bool, Query(description="Become the reader that the command waits for; none of its output is dropped")
]

Output = AsyncIterator[OutputChunk | OutputEnd]


async def output_reply(opened: AbstractAsyncContextManager[Output], accept: str) -> StreamingResponse:
    """The output that `opened` gives, as events if `accept` has their type, else as lines."""
    stack = AsyncExitStack()
    chunks = await stack.enter_async_context(opened)
    if _SSE in accept:
        return HeldResponse(stack, _events(chunks), media_type=_SSE, headers=_UNBUFFERED)
    return HeldResponse(stack, _lines(chunks), media_type="application/x-ndjson")


async def _lines(chunks: Output) -> AsyncGenerator[bytes]:
    """A line for each chunk; how the exec ended is the last one."""
    async for item in chunks:
        yield _json(_wire(item)) + b"\n"


async def _events(chunks: Output) -> AsyncGenerator[bytes]:
    """Events `output`, then `end` with how the exec ended, or `error`. The id is the offset to go on from."""
    try:
        async for item in chunks:
            yield _event(item)
    except BayError as error:
        wire = {"code": error.code, "message": error.message, "details": error.details}
        yield b"event: error\ndata: " + _json(wire) + b"\n\n"


def _event(item: OutputChunk | OutputEnd) -> bytes:
    data = _json(_wire(item))
    if isinstance(item, OutputEnd):
        return b"event: end\ndata: " + data + b"\n\n"
    return b"id: %d\nevent: output\ndata: %s\n\n" % (item.offset + len(item.data), data)


def _wire(item: OutputChunk | OutputEnd) -> dict[str, Any]:
    return item.model_dump() if isinstance(item, OutputEnd) else to_wire(item)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
