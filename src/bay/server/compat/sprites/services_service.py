"""Services of a sprite: acts on them wake it, and are answered by what the service then does for a while."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from bay.errors import BayError, Conflict
from bay.models import OutputChunk, Service, ServiceSpec
from bay.server.compat.sprites.wire import URL_PORT
from bay.server.managed_services.service import SandboxServices
from bay.server.sessions.waker import Waker
from bay.server.ship.answers import OutputEnd
from bay.server.web.auth import Caller

Output = AsyncIterator[OutputChunk | OutputEnd]
Act = Callable[[], Awaitable[Service]]

_MOST_BYTES = 4 << 20
"""Of a service's newest output, of which lines are counted."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that a service did: `kind` is the word of the format, `text` what it printed or said."""

    kind: str
    text: str | None = None
    exit_code: int | None = None


@dataclass(kw_only=True, eq=False)
class SpriteServices:
    """The service behind `…/services` where its answer is a stream."""

    services: SandboxServices
    waker: Waker

    @asynccontextmanager
    async def put(
        self, caller: Caller, ref: str, spec: ServiceSpec, for_s: float
    ) -> AsyncGenerator[AsyncIterator[Happening]]:
        """Make or replace a service, and follow it. Raises Conflict for a second one with an `http_port`."""

        async def act() -> Service:
            service, _ = await self.services.put(caller, ref, spec, url_port=URL_PORT)
            return service

        async with self._acting(caller, ref, spec.name, act, for_s) as happenings:
            yield happenings

    @asynccontextmanager
    async def start(
        self, caller: Caller, ref: str, name: str, for_s: float
    ) -> AsyncGenerator[AsyncIterator[Happening]]:
        """Have it run, and follow it. Raises NotFound."""

        async def act() -> Service:
            return await self.services.start(caller, ref, name)

        async with self._acting(caller, ref, name, act, for_s) as happenings:
            yield happenings

    @asynccontextmanager
    async def restart(
        self, caller: Caller, ref: str, name: str, for_s: float
    ) -> AsyncGenerator[AsyncIterator[Happening]]:
        """End it and start it anew, and follow it. Raises NotFound."""

        async def act() -> Service:
            return await self.services.restart(caller, ref, name)

        ended = (Happening("stopping"), Happening("stopped"))
        async with self._acting(caller, ref, name, act, for_s, before=ended) as happenings:
            yield happenings

    async def delete(self, caller: Caller, ref: str, name: str) -> None:
        """End and forget it. Raises NotFound, and Conflict while another service needs it."""
        await self.services.delete(caller, ref, name, url_port=URL_PORT)

    async def stop(self, caller: Caller, ref: str, name: str) -> list[Happening]:
        """End it, and leave it ended; all that there is to tell. Raises NotFound, and Conflict for one that
        is stopped.
        """
        if not (await self.services.get(caller, ref, name)).enabled:
            raise Conflict(f"service {name} is not running")
        stopped = await self.services.stop(caller, ref, name)
        ended = [] if stopped.exit_code is None else [Happening("exit", exit_code=stopped.exit_code)]
        return [Happening("stopping"), *ended, Happening("stopped"), Happening("complete")]

    @asynccontextmanager
    async def logs(
        self, caller: Caller, ref: str, name: str, lines: int | None, for_s: float
    ) -> AsyncGenerator[AsyncIterator[Happening]]:
        """Its output, or the last `lines` of it, and for `for_s` seconds what it prints. Raises NotFound."""
        service = await self.services.get(caller, ref, name)
        async with AsyncExitStack() as stack:
            opened = self.services.logs(caller, ref, name, service.first_offset, follow=False)
            kept = await _newest(await stack.enter_async_context(opened), lines)
            since = kept.next_offset
            chunks = None
            if for_s > 0:
                following = self.services.logs(caller, ref, name, since, follow=True)
                chunks = await stack.enter_async_context(following)
            yield _told((*kept.happenings,), chunks, for_s)

    @asynccontextmanager
    async def _acting(
        self, caller: Caller, ref: str, name: str, act: Act, for_s: float, before: tuple[Happening, ...] = ()
    ) -> AsyncGenerator[AsyncIterator[Happening]]:
        """Wake the sprite, act, and follow what the service prints from then on."""
        async with self.waker.holding(caller, ref, follower=True) as sandbox, AsyncExitStack() as stack:
            known = 0
            if sandbox.has_compute:
                await stack.enter_async_context(self.waker.reach(sandbox))
                known = await self._offset(caller, ref, name)
            await act()
            if not sandbox.has_compute:  # after the act, whose refusals shall start nothing
                await stack.enter_async_context(self.waker.reach(sandbox))
                # Another call may have started it: its runtime had the services of before the act.
                await self.services.tell(caller, sandbox.id)
            service = await self.services.get(caller, ref, name)
            opened = self.services.logs(caller, ref, name, max(known, service.first_offset), follow=True)
            chunks = await stack.enter_async_context(opened)
            yield _told((*before, Happening("started"), *_trouble(service)), chunks, for_s)

    async def _offset(self, caller: Caller, ref: str, name: str) -> int:
        """How much it has printed so far."""
        known = await self.services.list(caller, ref)
        return next((one.output_bytes for one in known if one.name == name), 0)


@dataclass(slots=True)
class _KeptOutput:
    """The newest output of a service."""

    happenings: deque[Happening] = field(default_factory=deque[Happening])
    next_offset: int = 0


async def _newest(chunks: Output, lines: int | None) -> _KeptOutput:
    """The last `lines` of what is there; without a number all of it, within a bound."""
    found: deque[OutputChunk] = deque()
    size = 0
    kept = _KeptOutput()
    async for chunk in chunks:
        if isinstance(chunk, OutputEnd):
            break
        found.append(chunk)
        size += len(chunk.data)
        kept.next_offset = chunk.offset + len(chunk.data)
        while size > _MOST_BYTES:
            size -= len(found.popleft().data)
    left = lines
    while found and (left is None or left > 0):
        chunk = found.pop()
        data = chunk.data if left is None else _last_lines(chunk.data, left)
        left = None if left is None else left - data.count(b"\n")
        kept.happenings.appendleft(Happening(chunk.stream, data.decode("utf-8", "replace")))
    return kept


def _last_lines(data: bytes, count: int) -> bytes:
    return b"".join(data.splitlines(keepends=True)[-count:])


def _trouble(service: Service) -> tuple[Happening, ...]:
    """Why a service does not run that should."""
    if service.state in ("backoff", "failed") and service.message is not None:
        return (Happening("error", f"service {service.name} {service.message}"),)
    return ()


async def _told(
    before: tuple[Happening, ...], chunks: Output | None, for_s: float
) -> AsyncGenerator[Happening]:
    """The happenings so far, those within that time, and that it is complete."""
    for happening in before:
        yield happening
    until = time.monotonic() + for_s
    while chunks is not None and (item := await _next(chunks, until - time.monotonic())) is not None:
        yield item
        if item.kind not in ("stdout", "stderr"):
            break
    yield Happening("complete")


async def _next(chunks: Output, left_s: float) -> Happening | None:
    """The next thing that the service prints, or its end; None when time is up."""
    if left_s <= 0:
        return None
    try:
        async with asyncio.timeout(left_s):
            item = await anext(chunks, None)
    except TimeoutError:
        return None
    except BayError as error:
        return Happening("error", error.message)
    if isinstance(item, OutputChunk):
        return Happening(item.stream, item.data.decode("utf-8", "replace"))
    if item is None or item.state == "lost":
        return None
    code = item.exit_code if item.exit_code is not None else 128 + (item.signal or 0)
    return Happening("exit", exit_code=code)
