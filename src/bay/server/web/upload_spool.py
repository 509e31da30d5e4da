"""The upload spool keeps bytes without a destination yet. Its files have no name, and it has a budget."""

import errno
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from bay.errors import PayloadTooLarge, QuotaExceeded, StorageFull
from bay.linux.threads import in_new_thread

_SHARE = 4
"""One owner may have a fourth of the budget."""

_READ_BYTES = 256 * 1024


class Spool:
    """Takes `most` bytes at once, of all owners together."""

    def __init__(self, directory: Path, most: int) -> None:
        self._directory = directory
        self._most = most
        self._used: Counter[str] = Counter()

    @property
    def used(self) -> int:
        """Bytes that wait now."""
        return self._used.total()

    @asynccontextmanager
    async def holding(self, owner: str, body: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
        """All of `body`, to be read once. Raises PayloadTooLarge, QuotaExceeded and StorageFull."""
        taken = 0
        with await in_new_thread(self._open) as file:
            try:
                async for piece in body:
                    taken += len(piece)
                    self._used[owner] += len(piece)
                    self._check(owner, taken)
                    await _wrote(file, piece)
                file.seek(0)
                yield _read(file)
            finally:
                self._used[owner] -= taken
                if not self._used[owner]:
                    del self._used[owner]

    def _open(self) -> IO[bytes]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return TemporaryFile(dir=self._directory, buffering=0)

    def _check(self, owner: str, taken: int) -> None:
        share = self._most // _SHARE
        if taken > share:
            raise PayloadTooLarge(
                f"the part `file` has more than {share} bytes and came before the part `path`, which Bay "
                "needs first; "
                "send `path` first"
            )
        if self._used[owner] > share or self.used > self._most:
            raise QuotaExceeded(
                "too many uploads are waiting for their part `path`; send it before `file`, or try again in "
                "a moment"
            )


async def _wrote(file: IO[bytes], data: bytes) -> None:
    # Cancelled, this waits for the thread: the file is closed next, and its number may be another file's at
    # once.
    await in_new_thread(lambda: _write(file, data))


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull("the disk of Bay's data directory is full") from error


async def _read(file: IO[bytes]) -> AsyncGenerator[bytes]:
    while data := await in_new_thread(lambda: os.read(file.fileno(), _READ_BYTES)):
        yield data
