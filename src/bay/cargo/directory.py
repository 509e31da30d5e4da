"""Cargos as plain directories: the backend that works on any file system.

The directory above them is closed to every host user but root, because the files inside carry the
sandbox's own ids: a set-uid root program that a sandbox makes must be out of a host user's reach.
"""

import asyncio
import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bay.cargo.base import Fence
from bay.cargo.fences import Fences
from bay.cargo.trash import Trash, make_private
from bay.errors import DriverUnavailable, InvalidArgument, StorageFull
from bay.ids import is_id

SANDBOX_UID = SANDBOX_GID = 1000


class DirectoryCargo:
    """One directory per cargo below `root`, and beside them the fences and the trash, under names that are no ids."""

    name = "directory"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fences = Fences(root / ".fences")
        self._trash = Trash(root / ".trash")

    async def open(self) -> None:
        """See `CargoBackend.open`. Does not wait for what an earlier Bay left in the trash."""
        await asyncio.to_thread(self._open)

    async def run(self) -> None:
        """See `CargoBackend.run`: empties the trash."""
        await self._trash.run()

    async def create(self, cargo_id: str) -> None:
        await asyncio.to_thread(self._create, self._checked(cargo_id))

    def path(self, cargo_id: str) -> Path:
        return self._root / cargo_id

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        fence = Fence(sandbox_id=sandbox_id, generation=generation, session_id=session_id)
        with _host_errors(self._checked(cargo_id), "fence"):
            await asyncio.to_thread(self._fences.raise_to, cargo_id, fence)

    async def fenced(self, cargo_id: str) -> Fence | None:
        with _host_errors(self._checked(cargo_id), "read the fence of"):
            return await asyncio.to_thread(self._fences.read, cargo_id)

    async def remove(self, cargo_id: str) -> None:
        """See `CargoBackend.remove`. The files go first: what a crash leaves of the rest is harmless."""
        with _host_errors(self._checked(cargo_id), "remove"):
            await self._trash.put(self.path(cargo_id))
            await asyncio.to_thread(self._fences.remove, cargo_id)

    async def list_ids(self) -> set[str]:
        return await asyncio.to_thread(self._ids)

    def _open(self) -> None:
        with _host_errors(self._root, "make"):
            for directory in (self._root, self._fences.directory):
                make_private(directory)
            self._trash.open()
            self._fences.keep_only(self._ids())

    def _ids(self) -> set[str]:
        return {name for name in os.listdir(self._root) if is_id(name)}

    def _create(self, path: Path) -> None:
        with _host_errors(path, "make"):
            path.mkdir(mode=0o755, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(path, SANDBOX_UID, SANDBOX_GID)

    def _checked(self, cargo_id: str) -> Path:
        if not is_id(cargo_id):
            raise InvalidArgument(f"{cargo_id!r} is not the id of a cargo")
        return self.path(cargo_id)


@contextmanager
def _host_errors(path: Path, verb: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left for {path}; free space on its file system") from error
        raise DriverUnavailable(f"cannot {verb} {path}: {error.strerror}") from error
