"""Events of all sandboxes or of one, past and live."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from bay.client._answers import items, model, next_cursor
from bay.client._async.http import AsyncHttp
from bay.client._calls import Call, list_params
from bay.client._events import EventPlace
from bay.client._lines import Blocks
from bay.client._seam import async_sleep
from bay.errors import ConnectionFailed, HostError, Timeout
from bay.models import Event


class AsyncEvents:
    """The events at one path of the API."""

    def __init__(self, http: AsyncHttp, path: str, *, one_sandbox: bool) -> None:
        self._http = http
        self._path = path
        self._one_sandbox = one_sandbox

    async def kept(self, since: str | None) -> AsyncGenerator[Event, None]:
        """The stored events after the event `since`, read page by page."""
        cursor, more = since, True
        while more:
            params = list_params({"limit": 200}, cursor)
            page = await self._http.json(Call(method="GET", path=self._path, params=params, safe=True))
            for item in items(page):
                yield model(Event, item)
            cursor = next_cursor(page)
            more = cursor is not None

    async def follow(self, since: str | None) -> AsyncGenerator[Event, None]:
        """Live events, across reconnects; ends only with the one sandbox it is of."""
        place = EventPlace(since, self._http.config.retry_s, one_sandbox=self._one_sandbox)
        while not place.ended:
            async with aclosing(self._connection(place)) as events:
                async for event in events:
                    yield event

    async def _connection(self, place: EventPlace) -> AsyncGenerator[Event, None]:
        """The events of one connection; returns when a new one should be made."""
        connected = False
        try:
            async with self._http.stream(self._call(place)) as response:
                connected = True
                place.ended = (
                    response.status_code == 204
                )  # the sandbox was deleted, and all its events were read
                blocks = Blocks()
                async for data in response.aiter_bytes():
                    for block in blocks.feed(data):
                        event = place.accept(block)
                        if event is not None:
                            yield event
            if place.ended:
                return
            error = ConnectionFailed(f"the events of {self._http.config.url} ended early")
        except (HostError, ConnectionFailed) as failed:
            if connected and isinstance(
                failed, Timeout
            ):  # a time limit shorter than the server's sign of life
                return
            error = failed
        await async_sleep(place.pause(error))

    def _call(self, place: EventPlace) -> Call:
        params = list_params({"follow": "true", "since": place.last_id}, None)
        return Call(method="GET", path=self._path, params=params, safe=True)
