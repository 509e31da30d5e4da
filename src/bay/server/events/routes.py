"""The routes `/v1/events` and `…/events`: an owner's events, in pages, or live as server-sent events."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated

from fastapi import Header, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bay.models import Event, to_wire
from bay.server.events.service import EventFollower, Events
from bay.server.web.auth import Caller
from bay.server.web.dependencies import Accept, Cursor, Limit, Reader, noun_router, service
from bay.server.web.replies import PageOf, WireResponse

_SSE = "text/event-stream"

router = noun_router("events")

EventsDep = Annotated[Events, service(Events)]

Since = Annotated[
    str | None, Query(max_length=64, description="Continue after the event of this id; 0 = all")
]
Follow = Annotated[bool, Query(description="Server-sent events, as with `Accept: text/event-stream`")]
LastEventId = Annotated[str | None, Header(max_length=64, description="As `since`, which it overrides")]


class EventList(PageOf[Event]):
    """A page of events, oldest first."""


class EventStream(StreamingResponse):
    """Server-sent events (WHATWG HTML, section 9.2), written as fast as they are read and no faster."""

    media_type = _SSE

    def __init__(self, stream: EventFollower) -> None:
        self._stream = stream
        # Proxies that gather answers before they pass them on are asked not to.
        super().__init__(_blocks(stream), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream.room():
            await super().__call__(scope, receive, send)


@router.get("/v1/events", response_model=EventList)
async def list_events(
    caller: Reader,
    events: EventsDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    since: Since = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> Response:
    """The events of your sandboxes, oldest first; or a live stream from now on or after an id."""
    if follow or _SSE in accept:
        return await _followed(events, caller, None, last_event_id or since)
    return await _page(events, caller, None, cursor or since, limit)


@router.get("/v1/sandboxes/{sandbox_id}/events", response_model=EventList)
async def list_sandbox_events(
    caller: Reader,
    events: EventsDep,
    sandbox_id: str,
    limit: Limit = 50,
    cursor: Cursor = None,
    since: Since = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> Response:
    """The events of one sandbox, also of a deleted one by its id. A live stream ends with the sandbox."""
    if follow or _SSE in accept:
        return await _followed(events, caller, sandbox_id, last_event_id or since)
    return await _page(events, caller, sandbox_id, cursor or since, limit)


async def _page(events: Events, caller: Caller, ref: str | None, after: str | None, limit: int) -> Response:
    items, more = await events.page(caller, ref, after, limit)
    return WireResponse({"items": items, "has_more": more is not None, "next_cursor": more})


async def _followed(events: Events, caller: Caller, ref: str | None, since: str | None) -> Response:
    stream = await events.follow(caller, ref, since)
    if await stream.is_over():
        return Response(status_code=204)  # which tells a browser's EventSource not to come again
    return EventStream(stream)


async def _blocks(stream: EventFollower) -> AsyncGenerator[bytes, None]:
    # An id alone is no event, but moves the reader's Last-Event-ID: a reader that is cut off at once misses
    # nothing.
    yield f"id: {stream.place}\n\n".encode()
    async with aclosing(stream.events()) as batches:
        async for batch in batches:
            yield _text(batch)


def _text(batch: Sequence[Event]) -> bytes:
    return b"".join(map(_block, batch)) or b": ping\n\n"


def _block(event: Event) -> bytes:
    data = json.dumps(to_wire(event), separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode()
