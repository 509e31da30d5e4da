"""Counts the bytes of a stream as its pieces pass."""

from collections.abc import AsyncIterator

from prometheus_client import Counter


class CountedBytes(AsyncIterator[bytes]):
    """The same pieces. No generator, which would have to be closed before the stream below it."""

    def __init__(self, pieces: AsyncIterator[bytes], counter: Counter) -> None:
        self._pieces = pieces
        self._counter = counter

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self._counter.inc(len(piece))
        return piece
