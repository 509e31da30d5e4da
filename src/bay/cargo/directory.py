"""Cargos as plain directories: the backend that works on any file system.

A copy reads and writes every file, unless the file system shares blocks (xfs, btrfs), and a limit does not hold.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Literal

from bay.cargo.base_backend import MACHINE, WORKSPACE, Shelf
from bay.cargo.trash import make_private
from bay.ids import is_id
from bay.linux import renames

_SAID = 4096


class DirectoryCargo(Shelf):
    """One directory per cargo and checkpoint below `root`."""

    name: Literal["btrfs", "directory"] = "directory"
    instant = False
    limits = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._swapping = root / ".swapping"

    async def aclose(self) -> None:
        """See `CargoBackend.aclose`: nothing was taken."""

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """See `CargoBackend.set_limit`: does nothing but look at the id."""
        self._checked(cargo_id)

    async def settle(self, cargo_id: str) -> None:
        """See `CargoBackend.settle`. Has the whole file system written out: it cannot do that for one directory."""
        cargo = self._checked(cargo_id)
        await self._blocking(lambda: renames.sync_file_system(cargo), cargo, "write out")

    async def charged(self, cargo_id: str) -> int | None:
        """See `CargoBackend.charged`: None."""
        self._checked(cargo_id)

    def _prepare(self) -> None:
        make_private(self._root)
        _Layout(self._root).bring_up()
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
        """See `Shelf._swap`. Where two names cannot be exchanged, the old one waits in a place that `open` puts it back from."""
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


class _Layout:
    """Turns what an earlier Bay made, the files directly in `ws-…`, into what this one makes: `ws-…/workspace`.

    All are collected in a place of their own first, so that a crash at any point leaves it decidable which are which. Blocks.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._done = root / ".layout"
        self._collected = root / ".converting"

    def bring_up(self) -> None:
        """Do what is still to do."""
        if not self._done.exists():
            for name in filter(is_id, os.listdir(self._root)):
                self._collect(self._root / name)
            self._done.write_text("2\n")
            renames.sync_directory(self._root)
        if self._collected.exists():
            for name in os.listdir(self._collected):
                self._furnish(self._collected / name)
            self._collected.rmdir()

    def _collect(self, cargo: Path) -> None:
        if _is_of_today(cargo):  # as in a data directory that a backup was restored to
            return
        make_private(self._collected)
        make_private(self._collected / cargo.name)
        cargo.rename(self._collected / cargo.name / WORKSPACE)

    def _furnish(self, cargo: Path) -> None:
        if not (cargo / WORKSPACE).exists():  # the crash was before anything was moved
            cargo.rmdir()
            return
        make_private(cargo / MACHINE)
        cargo.rename(self._root / cargo.name)


def _is_of_today(cargo: Path) -> bool:
    """Whether it has both parts and is private, which none was that had the files in it: a sandbox's user owned those."""
    facts = cargo.lstat()
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        return False
    with os.scandir(cargo) as entries:
        return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)} == {
            WORKSPACE,
            MACHINE,
        }


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
