"""Large trees, which take minutes, are moved aside at once and removed one by one in the background."""

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from bay.errors import DriverUnavailable

_AGAIN_S = 60.0

log = structlog.get_logger("bay.cargo")


class Trash:
    """A directory on the file system of what is thrown into it. `remove` takes one thing off the disk."""

    def __init__(self, directory: Path, remove: Callable[[Path], Awaitable[None]]) -> None:
        self._directory = directory
        self._remove_now = remove
        self._filled = asyncio.Event()

    def open(self) -> None:
        """Make the private directory; `run` removes the things that an earlier Bay left in it. Blocks."""
        make_private(self._directory)
        self._filled.set()

    def wake(self) -> None:
        """Have `run` look, after a `move`."""
        self._filled.set()

    async def run(self) -> None:
        """Remove what is there and what comes, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            if not await self._empty():
                # The host refused something, and says nothing when it no longer would.
                asyncio.get_running_loop().call_later(_AGAIN_S, self._filled.set)

    def move(self, path: Path) -> None:
        """Move the tree, link or file `path` here, if any. Blocks; raises OSError; does not wake `run`."""
        try:
            # Never a name that is taken: a cargo may be thrown away, restored, and thrown away again.
            path.rename(self._directory / f"{path.name}.{secrets.token_hex(6)}")
        except FileNotFoundError:
            if os.path.lexists(path):  # then it is the trash that is lost
                raise

    async def _empty(self) -> bool:
        """Remove everything; False when something stays."""
        try:
            names = await asyncio.to_thread(os.listdir, self._directory)
        except OSError as error:
            log.warning("trash.unreadable", error=str(error))
            return False
        return all([await self._remove(name) for name in names])

    async def _remove(self, name: str) -> bool:
        try:
            await self._remove_now(self._directory / name)
        except (DriverUnavailable, OSError) as error:  # the host may have no process left for it
            log.warning("trash.stays", name=name, error=str(error))
            return False
        return True


def make_private(directory: Path) -> None:
    """Make `directory`, open to its owner alone. Blocks; NotADirectoryError for anything else there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is a link, and must be a directory", str(directory))
    directory.chmod(0o700)  # a copy or a restore may have opened it
