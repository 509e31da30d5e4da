"""The HTTP client of one Bay: a pool of connections, retries where they are safe, and Bay's errors."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import ClassVar, TypeVar

import httpx

from bay.client._answers import check, check_own, decode, items, model, next_cursor
from bay.client._calls import Call, Json, list_params
from bay.client._config import CONNECT_S, Config, http_options
from bay.client._failures import Attempts, http_errors
from bay.client._follow import Followed, Reading
from bay.client._lines import Lines
from bay.client._paths import sandbox_path
from bay.client._seam import async_sleep
from bay.errors import BayError, ConnectionFailed, HostError, NotFound, OutputGone, Timeout

Body = Callable[[], AsyncIterator[bytes]]
Check = Callable[[httpx.Response, str], None]
T = TypeVar("T")


async def tried(call: Call, retry_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of `attempt`, which makes `call`, made again for as long as `Attempts` has it."""
    attempts = Attempts(call, retry_s)
    while True:
        try:
            return await attempt()
        except BayError as error:
            pause = attempts.pause(error)
        await async_sleep(pause)


async def accepted(
    response: httpx.Response, reading: Reading[T], lines: Lines | None = None
) -> AsyncGenerator[T, None]:
    """The new lines of a streamed answer, until the reader or the answer has ended."""
    lines = lines or Lines()
    async for data in response.aiter_bytes():
        for line in lines.feed(data):
            item = reading.accept(line)
            if item is not None:
                yield item
        if reading.ended:
            return


class AsyncHttp:
    """The transport of the SDK's nouns."""

    def __init__(self, config: Config, transport: httpx.AsyncBaseTransport | None) -> None:
        self.config = config
        self._client = httpx.AsyncClient(**http_options(config), transport=transport)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def json(self, call: Call, content: Body | None = None) -> Json:
        """The JSON object that `call` answers. `content` makes the body anew for each attempt."""
        once = partial(self._once, call, content, self._timeout(call), check)
        return decode(await tried(call, self.config.retry_s, once), self.config.url)

    async def one(self, kind: type[T], call: Call, content: Body | None = None) -> T:
        """The `kind` that `call` answers."""
        return model(kind, await self.json(call, content))

    async def all(self, kind: type[T], call: Call) -> list[T]:
        """The items of a list that is one page."""
        return [model(kind, item) for item in items(await self.json(call))]

    async def paged(
        self, kind: type[T], path: str, filters: Mapping[str, object], cursor: str | None = None
    ) -> AsyncGenerator[T, None]:
        """The items of the list at `path` that match; each page is asked for after the one before."""
        more = True
        while more:
            page = await self.json(Call.get(path, list_params(filters, cursor)))
            for item in items(page):
                yield model(kind, item)
            cursor = next_cursor(page)
            more = cursor is not None

    async def fetch(self, call: Call, content: bytes | None, timeout_s: float) -> httpx.Response:
        """The answer of an app in a sandbox, whatever its status. Bay's own error in its place is raised."""
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
        return await tried(call, self.config.retry_s, partial(self._once, call, content, timeout, check_own))

    async def _once(
        self, call: Call, content: Body | bytes | None, timeout: httpx.Timeout, checked: Check
    ) -> httpx.Response:
        with http_errors(self.config.url):
            response = await self._client.request(
                call.method,
                call.address,
                content=content() if callable(content) else call.json_content if content is None else content,
                headers=call.all_headers,
                timeout=timeout,
            )
        checked(response, self.config.url)
        return response

    async def followed(self, place: Followed[T]) -> AsyncGenerator[T, None]:
        """The items from `place` on, over as many connections as it takes, until it has ended."""
        while not place.ended:
            async with aclosing(self._connection(place)) as found:
                async for item in found:
                    yield item

    async def _connection(self, place: Followed[T]) -> AsyncGenerator[T, None]:
        """The items of one connection; returns when a new one should be made."""
        connected = False
        error: BayError
        try:
            async with self.stream(place.call(), place.silence_s()) as response:
                connected = True
                place.opened(response)
                async with aclosing(accepted(response, place, place.lines())) as found:
                    async for item in found:
                        yield item
            place.closed()
            if place.ended:
                return
            error = ConnectionFailed(place.early)
        except (NotFound, OutputGone, HostError, ConnectionFailed) as failed:
            # A stream that is silent for a while looks like a timeout: ask again, it costs nothing.
            if isinstance(failed, Timeout):
                place.silence_s()
                if connected:
                    return
            error = failed
        await async_sleep(place.pause(error))

    @asynccontextmanager
    async def stream(
        self, call: Call, silence_s: float | None = None
    ) -> AsyncGenerator[httpx.Response, None]:
        """The answer to `call` while it arrives. One attempt: only the reader knows where to go on.

        Raises Timeout when nothing comes for `silence_s`, or for as long as any call may take.
        """
        with http_errors(self.config.url):
            request = self._client.stream(
                call.method,
                call.address,
                content=call.json_content,
                headers=call.all_headers,
                timeout=self._timeout(call, silence_s),
            )
            async with request as response:
                if not response.is_success:
                    await response.aread()
                check(response, self.config.url)
                yield response

    def _timeout(self, call: Call, silence_s: float | None = None) -> httpx.Timeout:
        timeout_s = self.config.timeout_s
        longer_s = timeout_s + call.wait_s
        read_s = longer_s if silence_s is None else min(longer_s, silence_s)
        return httpx.Timeout(timeout_s, read=read_s, write=longer_s, connect=min(timeout_s, CONNECT_S))


class AsyncNoun:
    """The calls about one kind of thing."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http


class AsyncSandboxNoun(AsyncNoun):
    """The calls about one kind of thing of one sandbox, below the path `_noun` of it."""

    _noun: ClassVar[tuple[str, ...]] = ()

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        super().__init__(http)
        self._sandbox_id = sandbox_id

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, *self._noun, *rest)
