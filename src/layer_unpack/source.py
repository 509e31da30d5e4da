"""The bytes of a layer's tar: counted, hashed and bounded as they come."""

import hashlib
import os
import time
from collections.abc import Callable

from layer_unpack.refusals import TOO_LARGE, Refused

_CHUNK = 1 << 17
_TELL_S = 0.25


class Source:
    """Reads from the descriptor `fd`, and calls `tell` now and then."""

    def __init__(self, fd: int, max_bytes: int, tell: Callable[[], None]) -> None:
        self.bytes = 0
        self._fd = fd
        self._most = max_bytes
        self._tell = tell
        self._seen = hashlib.sha256()
        self._buffer = bytearray(_CHUNK)
        self._told = time.monotonic()

    def read(self) -> memoryview:
        """The next bytes, valid until the next call; none at the end. Raises Refused past the limit."""
        size = os.readv(self._fd, [self._buffer])
        self.bytes += size
        if self.bytes > self._most:
            raise Refused(TOO_LARGE, f"the layer has more than {self._most} bytes, which is the limit")
        data = memoryview(self._buffer)[:size]
        self._seen.update(data)
        if (now := time.monotonic()) - self._told >= _TELL_S:
            self._told = now
            self._tell()
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass

    @property
    def digest(self) -> str:
        """Of all that was read, as OCI writes it."""
        return f"sha256:{self._seen.hexdigest()}"
