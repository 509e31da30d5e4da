"""An answer of a replica ends once its deferred writes are in the database: the next call may go to another
replica, whose readers cannot wait for what this one has in memory.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from bay.errors import BayError
from bay.store.deferred import DeferredWrites

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class WrittenAnswers:
    """Wraps the application of a replica."""

    def __init__(self, app: App, *, deferred: DeferredWrites) -> None:
        self._app = app
        self._deferred = deferred

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_written(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with suppress(BayError):  # the call has succeeded; these are written when they can be
                    await self._deferred.flush()
            await send(message)

        await self._app(scope, receive, send_written)
