"""Cargos as plain directories: the backend that works on any file system.

The directory above them is closed to every host user but root, because the files inside carry the
sandbox's own ids: a set-uid root program that a sandbox makes must be out of a host user's reach.
"""

import asyncio
import errno
import os
from pathlib import Path

from bay import trees
from bay.errors import DriverUnavailable, StorageFull
from bay.ids import is_id

SANDBOX_UID = SANDBOX_GID = 1000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryCargo:
    """One directory per cargo below `root`."""

    name = "directory"

    def __init__(self, root: Path) -> None:
        self._root = root

    async def open(self) -> None:
        await asyncio.to_thread(self._root.mkdir, mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(self._root.chmod, 0o700)  # a copy or a restore may have opened it

    async def create(self, cargo_id: str) -> None:
        await asyncio.to_thread(self._create, cargo_id)

    def path(self, cargo_id: str) -> Path:
        return self._root / cargo_id

    async def remove(self, cargo_id: str) -> None:
        await trees.remove(self.path(cargo_id))

    async def list_ids(self) -> set[str]:
        return {name for name in await asyncio.to_thread(os.listdir, self._root) if is_id(name)}

    def _create(self, cargo_id: str) -> None:
        path = self.path(cargo_id)
        try:
            path.mkdir(mode=0o755, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(path, SANDBOX_UID, SANDBOX_GID)
        except OSError as error:
            raise _as_bay_error(error, path) from error


def _as_bay_error(error: OSError, path: Path) -> StorageFull | DriverUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no space left for {path}; free space on its file system")
    return DriverUnavailable(f"cannot make {path}: {error.strerror}")
