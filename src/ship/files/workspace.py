"""Ship writes and removes files as the sandbox's user would.

All of it blocks and runs in the threads of `FileThreads`, which have that user's identity for files and no
other. Every descriptor comes from openat2 or `path_walk`, which keep it in the workspace.
"""

import asyncio
import math
import os
import stat
import time
from collections.abc import Callable, Generator, Mapping
from concurrent import futures
from contextlib import nullcontext, suppress
from typing import ParamSpec, TypeVar

from ship.errors import Conflict
from ship.files.attributes import set_attribute
from ship.files.info import describe
from ship.files.replacing import is_anothers, look_at_replaced, write_over
from ship.files.temporaries import temporary
from ship.files.workspace_paths import Workspace, need_regular, not_directory
from ship.process.identity import Identity
from ship.process.standstill import Standstill
from tree_tar.beneath import closing

_THREADS = 4
_SLICE_S = 0.05
_NEW_FILE_MODE = 0o644

P = ParamSpec("P")
R = TypeVar("R")


class FileThreads:
    """Where file calls run. The threads start with the first call."""

    def __init__(self, identity: Identity, standstill: Standstill | None = None) -> None:
        """No call of `change` runs within the `standstill`."""
        self._identity = identity
        self._standstill = standstill
        self._pool: futures.ThreadPoolExecutor | None = None

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call`'s result, with the user's identity. When cancelled it still waits for the call to end."""
        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(_THREADS, initializer=self._identity.become_for_files)
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Files opened by the call would otherwise leak.
            await asyncio.wait({future})
            raise

    async def change(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for a call that changes files: one that comes in a standstill waits for its end."""
        async with nullcontext() if self._standstill is None else self._standstill.acting():
            return await self.run(call, *args, **kwargs)

    def close(self) -> None:
        """Let the threads end with the calls that they have. A later call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    async def run_steps(self, steps: Generator[None, None, R], gone: asyncio.Future[None]) -> R:
        """The result of `steps`, run in slices, so that long work does not keep a thread from others.
        Raises Conflict, the steps closed, once the peer is `gone`.
        """
        try:
            while not gone.done():
                ended = await self.change(_advance, steps)
                if ended is not None:
                    return ended.value
            raise Conflict("the client disconnected")
        finally:
            await self.change(steps.close)


def _advance(steps: Generator[None, None, R]) -> StopIteration | None:
    until = time.monotonic() + _SLICE_S
    while time.monotonic() < until:
        try:
            next(steps)
        except StopIteration as ended:
            return ended
    return None


class Upload:
    """A file being written: a temporary one that `commit` renames over it, or written over another user's."""

    def __init__(
        self,
        workspace: Workspace,
        path: str,
        *,
        mode: int | None = None,
        mtime: float | None = None,
        make: bool = True,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self.path = workspace.check_name(path)
        self.size = 0
        self._mode = mode
        self._mtime = mtime
        self._make = make
        self._workspace = workspace
        self._name = os.path.basename(self.path)
        self._temporary = ""
        self._attributes = attributes or {}
        self._is_anothers = False
        self._parent = -1
        self._fd = -1

    def open(self) -> None:
        """Make the parents and the temporary file."""
        with self._workspace.translated(self.path):
            target = self._workspace.check_name(self._workspace.follow_links(self.path))
            self._name = os.path.basename(target)
            self._parent = self._open_parent(target)
            there = look_at_replaced(self._parent, self._name, self.path)
            if there is not None:
                need_regular(there.st_mode, self.path, "replaced")
            self._temporary = temporary("upload" if there is None else "upload-over")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, 0o600, dir_fd=self._parent)
            self._is_anothers = there is not None and is_anothers(there, self._fd)
            kept = _NEW_FILE_MODE if there is None else stat.S_IMODE(there.st_mode) & 0o777
            os.fchmod(self._fd, kept if self._mode is None else self._mode)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        with self._workspace.translated(self.path):
            while left:
                left = left[os.write(self._fd, left) :]
        self.size += len(data)

    def commit(self) -> dict[str, object]:
        """Put the file in place; returns its FileInfo, also when another program has moved it by now.
        It is as durable as what a program of the sandbox writes: the kernel decides when it is on the disk.
        """
        with self._workspace.translated(self.path):
            if self._is_anothers:
                found = self._write_over()
            else:
                found = self._finish(self._fd)
                os.rename(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
                os.close(self._fd)
                self._fd = -1
        return describe(self._workspace.absolute(self.path), found)

    def _write_over(self) -> os.stat_result:
        """As a program would that opens the file; `close` removes the temporary one."""
        with closing(write_over(self._fd, self._parent, self._name)) as target:
            return self._finish(target)

    def _finish(self, descriptor: int) -> os.stat_result:
        if self._mode is not None:
            os.fchmod(descriptor, self._mode)  # again: writing takes the set-user bits away
        for name, value in self._attributes.items():
            set_attribute(descriptor, name, value)
        if self._mtime is not None:
            os.utime(descriptor, ns=(time.time_ns(), _nanoseconds(self._mtime)))
        return os.fstat(descriptor)

    def close(self) -> None:
        """Call in any case. Without a `commit` before, nothing has changed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._parent)
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    def _open_parent(self, path: str) -> int:
        try:
            return self._workspace.open_parent(path, make=self._make)
        except NotADirectoryError as error:
            raise not_directory(os.path.dirname(path)) from error


def _nanoseconds(moment: float) -> int:
    whole = math.floor(moment)  # apart, since a float has too few digits for both
    return whole * 10**9 + round((moment - whole) * 1e9)
