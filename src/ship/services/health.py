"""Health checks of a service, repeated from inside the sandbox."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import h11

from ship.services.specs import Health

_FIRST_PAUSE_S = 0.05
_HEAD_BYTES = 32 * 1024
_ADDRESSES = ("127.0.0.1", "::1")


class HealthTracker:
    """The health by recent checks: one success is healthy; only repeated failure is unhealthy."""

    def __init__(self, health: Health) -> None:
        self.healthy: bool | None = None
        self._health = health
        self._failures = 0
        self._failing_since = 0.0

    def hear(self, works: bool, now: float) -> None:
        if works:
            self.healthy, self._failures = True, 0
            return
        self._failing_since = self._failing_since if self._failures else now
        self._failures += 1
        # One that starts is asked more often than every interval, and would be called unhealthy before it
        # could answer.
        long_enough = now - self._failing_since >= (self._health.retries - 1) * self._health.interval_s
        if self._failures >= self._health.retries and long_enough:
            self.healthy = False


async def watch(
    health: Health,
    check: Callable[[], Awaitable[str | None]],
    heard: Callable[[bool | None, str | None], None],
) -> None:
    """Check until cancelled; `heard` gets the health, and the problem if there is one."""
    verdict = HealthTracker(health)
    pause_s = _FIRST_PAUSE_S
    while True:
        problem = await check()
        verdict.hear(problem is None, time.monotonic())
        heard(verdict.healthy, problem)
        # Until the first success it is checked more often: its dependents need not wait for a whole interval.
        pause_s = min(2 * pause_s, health.interval_s) if verdict.healthy is None else health.interval_s
        await asyncio.sleep(pause_s)


async def probe(port: int, health: Health) -> str | None:
    """The problem of a service that is asked at a port, None when it works."""
    try:
        async with asyncio.timeout(health.timeout_s):
            return await _ask(port, health.path)
    except TimeoutError:
        return f"port {port} did not answer within {health.timeout_s:g} s"
    except OSError as error:
        return f"port {port}: {os.strerror(error.errno or 0)}"


async def _ask(port: int, path: str | None) -> str | None:
    reader, writer = await _connect(port)
    try:
        return None if path is None else await _get(reader, writer, port, path)
    finally:
        writer.transport.abort()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(_ADDRESSES[0], port)
    except ConnectionError as error:
        try:
            return await asyncio.open_connection(_ADDRESSES[1], port)
        except OSError:
            raise error from None  # the sandbox may have no IPv6, which is no problem of the service


async def _get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, path: str
) -> str | None:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    headers = [("Host", f"localhost:{port}"), ("User-Agent", "bay-health"), ("Connection", "close")]
    writer.write(http.send(h11.Request(method="GET", target=path, headers=headers)) or b"")
    writer.write(http.send(h11.EndOfMessage()) or b"")
    try:
        while not isinstance(event := http.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_HEAD_BYTES))
    except h11.RemoteProtocolError:
        return f"port {port} does not answer with HTTP"
    return None if 200 <= event.status_code <= 399 else f"GET {path} answered {event.status_code}"
