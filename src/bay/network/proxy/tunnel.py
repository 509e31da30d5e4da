"""A tunnel carries bytes both ways between two connections, until both sides have ended."""

import asyncio
from typing import Final

from bay.network.http_passage import PIECE, Stream

_LOOK_S: Final = 1.0
"""A limit is not put off more often."""


async def tunnel(client: Stream, host: Stream, idle_s: float) -> None:
    """Carry all that comes, and the end of each side. Raises OSError, and TimeoutError once neither side has
    said anything for `idle_s`.
    """
    async with asyncio.timeout(idle_s) as limit:
        idle = _Idle(limit, idle_s)
        ways = [asyncio.ensure_future(idle.carry(*pair)) for pair in ((client, host), (host, client))]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


class _Idle:
    """The limit of a tunnel, which both ways put off."""

    def __init__(self, limit: asyncio.Timeout, idle_s: float) -> None:
        self._limit, self._idle_s = limit, idle_s
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()

    async def carry(self, source: Stream, target: Stream) -> None:
        """One way, to the end of `source`."""
        data = source.http.trailing_data[0]
        while True:
            if data:
                await target.put(data)
                await target.writer.drain()
            if not (data := await source.reader.read(PIECE)):
                break
            source.heard += len(data)
            self._put_off()
        target.writer.write_eof()

    def _put_off(self) -> None:
        if (now := self._loop.time()) - self._at > _LOOK_S:
            self._at = now
            self._limit.reschedule(now + self._idle_s)
