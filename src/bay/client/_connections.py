"""The two connections of the websockets library, which note the last frame's time and follow no redirect.

Loaded when the first one is opened, as the library is.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection as AsyncClientConnection
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.sync.client import ClientConnection


class Refused(WebSocketException):
    """A plain answer instead of the upgrade; the library's own exception would follow a redirect."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.response = response


class AsyncConnection(AsyncClientConnection):
    """For event loops. `heard_at` (`time.monotonic`) counts every frame, also the library's hidden pings."""

    heard_at = 0.0

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        with _refusing():
            await super().handshake(*args, **kwargs)

    def process_event(self, event: Event) -> None:
        self.heard_at = time.monotonic()
        super().process_event(event)


class Connection(ClientConnection):
    """For threads; `heard_at` as above."""

    heard_at = 0.0

    def handshake(self, *args: Any, **kwargs: Any) -> None:
        with _refusing():
            super().handshake(*args, **kwargs)

    def process_event(self, event: Event) -> None:
        self.heard_at = time.monotonic()
        super().process_event(event)


@contextmanager
def _refusing() -> Generator[None, None, None]:
    try:
        yield
    except InvalidStatus as error:
        raise Refused(error.response) from error
