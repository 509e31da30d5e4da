"""Checks that a tar has its end, without reading it."""

from bay.errors import BayError

_END_BYTES = 1024


class TarEnd:
    """Sees a tar that comes piece by piece. Raises BayError where its end is missing."""

    def __init__(self) -> None:
        self._last = b""

    def feed(self, data: bytes) -> None:
        """The next piece; an empty one is the end."""
        if data:
            self._last = (self._last + data)[-_END_BYTES:]
        elif self._last != bytes(_END_BYTES):
            raise BayError("the server's image is truncated; export it again")
