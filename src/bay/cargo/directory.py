"""Cargos as directories of any file system, copied in full or as shared blocks; a limit does not hold."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from bay.cargo.base_backend import BaseBackend
from bay.cargo.trash import make_private
from bay.linux import renames
from bay.models import CheckpointKind

_SAID = 4096


class DirectoryCargo(BaseBackend):
    """One directory per cargo and checkpoint below `root`."""

    name = "directory"
    checkpoint_kind: CheckpointKind = "copy"

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        super().__init__(root, shared=shared)
        self._swapping = root / ".swapping"

    async def aclose(self) -> None:
        """Nothing was taken."""

    async def settle(self, cargo_id: str) -> None:
        """Has the whole file system written out: that cannot be done for one directory."""
        cargo = self._checked(cargo_id)
        await self._blocking(lambda: renames.sync_file_system(cargo), cargo, "write out")

    def _prepare(self) -> None:
        make_private(self._root)
        make_private(self._swapping)
        for name in os.listdir(self._swapping):
            self._end_swap(name)

    async def _make(self, target: Path) -> None:
        await asyncio.to_thread(target.mkdir, 0o700)

    async def _copy(self, source: Path, target: Path) -> None:
        await _copy(source, target)

    async def _count(self, made: Path, cargo: Path | None, limit_bytes: int | None) -> None:
        pass

    async def _preserve(self, source: Path, checkpoint: Path) -> None:
        async with self._made(checkpoint.name) as made:
            await _copy(source, made)
            await self._put_in_place(made, checkpoint)

    async def _adopt(self, made: Path, checkpoint: Path) -> None:
        await asyncio.to_thread(renames.sync_file_system, made)
        await self._put_in_place(made, checkpoint)

    async def _withdraw(self, checkpoint: Path) -> None:
        await self._drop(checkpoint)

    async def _look_after(self) -> None:
        """There is nothing to look after."""

    async def _put_in_place(self, made: Path, target: Path) -> None:
        await asyncio.to_thread(renames.place, made, target)
        await asyncio.to_thread(renames.sync_directory, target.parent)

    def _commit(self) -> None:
        renames.sync_directory(self._root)
        renames.sync_directory(self._making)

    def _swap(self, prepared: Path, cargo: Path) -> None:
        """Where two names cannot be exchanged, the old one waits in a place that `open` puts it back from."""
        prepared.lstat()
        if not (os.path.lexists(cargo) and renames.exchange(prepared, cargo)):
            waiting = self._swapping / cargo.name
            with contextlib.suppress(FileNotFoundError):
                cargo.rename(waiting)
            prepared.rename(cargo)
            self._move_to_trash(waiting)
        self._commit()

    def _end_swap(self, name: str) -> None:
        if not renames.place(self._swapping / name, self._root / name):
            self._trash.open()
            self._move_to_trash(self._swapping / name)


async def _copy(source: Path, target: Path) -> None:
    """Copy a tree in a process of its own, which a cancellation ends. Raises OSError."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    command = [sys.executable, "-P", "-m", "bay.cargo.tree_copy", str(source), str(target), str(os.getpid())]
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=pipe)
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _error_from(said)


def _error_from(said: bytes) -> OSError:
    last = said[-_SAID:].decode(errors="replace").rpartition("\n")[2]
    number, _, message = last.partition(" ")
    return OSError(int(number), message) if number.isdigit() else OSError(f"the copy ended with: {last}")
