"""The HTTP client of one Bay has a pool of connections.

It retries calls where that is safe, and raises Bay's errors.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import httpx

from bay.client._answers import check, check_own, decode
from bay.client._calls import Call, Json
from bay.client._config import CONNECT_S, Config, http_options
from bay.client._failures import Attempts, http_errors
from bay.client._lines import Lines
from bay.client._seam import async_sleep
from bay.errors import BayError

Body = Callable[[], AsyncIterator[bytes]]
T = TypeVar("T")
Item = TypeVar("Item", covariant=True)


class Reading(Protocol[Item]):
    """A place in a stream of lines.

    `accept` gives what is new on one, None where nothing is; then `ended` may be true.
    """

    ended: bool

    def accept(self, line: bytes) -> Item | None: ...


async def accepted(response: httpx.Response, reading: Reading[T]) -> AsyncGenerator[T, None]:
    """The new lines of a streamed answer, until the reader or the answer has ended."""
    lines = Lines()
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
        return decode(await self._answer(call, content), self.config.url)

    async def _answer(self, call: Call, content: Body | None) -> httpx.Response:
        attempts = Attempts(call, self.config.retry_s)
        while True:
            try:
                return await self._once(call, content)
            except BayError as error:
                pause = attempts.pause(error)
            await async_sleep(pause)

    async def _once(self, call: Call, content: Body | None) -> httpx.Response:
        with http_errors(self.config.url):
            response = await self._client.request(
                call.method,
                call.address,
                content=content() if content else call.json_content,
                headers=call.all_headers,
                timeout=self._timeout(call),
            )
        check(response, self.config.url)
        return response

    async def fetch(self, call: Call, content: bytes | None, timeout_s: float) -> httpx.Response:
        """The answer of an app in a sandbox, whatever its status. Bay's own error in its place is raised."""
        attempts = Attempts(call, self.config.retry_s)
        while True:
            try:
                with http_errors(self.config.url):
                    response = await self._client.request(
                        call.method,
                        call.address,
                        content=call.json_content if content is None else content,
                        headers=call.all_headers,
                        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
                    )
                check_own(response, self.config.url)
                return response
            except BayError as error:
                pause = attempts.pause(error)
            await async_sleep(pause)

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
