"""The common half of the cargo backends: the layout below the root, and the order of its changes.

    ws-…/{workspace,machine}                 cargos
    .checkpoints/ckpt-…/{workspace,machine}  read-only copies
    .making/                                 work in progress, or waiting for its rename; emptied by `open`
    .layers/                                 files of sessions outside of their workspaces, kept by the driver
    .images/                                 layers of images, kept by `bay.images`
    .fences/ .trash/

All of it is on one file system, so that one rename puts a thing in place. The directory above is root's
alone, as the files inside carry the sandbox's own ids: no host user may reach a set-uid root program there.
"""

import asyncio
import errno
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from bay.cargo import disk_usage
from bay.cargo.base import CargoRoom, Fence, Weight
from bay.cargo.fences import Fences
from bay.cargo.pool_sizing import pool_reserve
from bay.cargo.trash import Trash, make_private
from bay.errors import DriverUnavailable, InvalidArgument, NotFound, StorageFull
from bay.ids import is_id
from bay.linux import remove_tree, renames
from bay.models import CheckpointKind
from bay.units import MIB

T = TypeVar("T")
SANDBOX_UID = SANDBOX_GID = 1000
WORKSPACE, MACHINE = "workspace", "machine"
LAYERS, IMAGES = ".layers", ".images"
_ABANDONED_S = 86_400.0
"""After so many seconds no process works on what it has begun to make."""
_URGENT = 4
"""Threads for what is quick and waited for."""

log = structlog.get_logger("bay.cargo")


class BaseBackend(ABC):
    """The common half: all but `SizeLimits`. Each adds how trees are made, copied and removed."""

    name: str
    checkpoint_kind: CheckpointKind

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        """`shared`: other processes may work below `root`, now and when this one opens it."""
        self._root = root
        self._is_shared = shared
        self._urgent = ThreadPoolExecutor(_URGENT, "bay-cargo")
        self._checkpoints = root / ".checkpoints"
        self._making = root / ".making"
        self._fences = Fences(root / ".fences")
        self._trash = Trash(root / ".trash", self._discard)

    @abstractmethod
    def _prepare(self) -> None:
        """Make the root be there, before anything below it is looked at. Blocks."""

    @abstractmethod
    async def _make(self, target: Path) -> None:
        """Make an empty tree."""

    @abstractmethod
    async def _copy(self, source: Path, target: Path) -> None:
        """Make `target` a writable copy of the tree; when this returns, its files are on the disk."""

    @abstractmethod
    async def _count(self, made: Path, cargo: Path | None, limit_bytes: int | None) -> None:
        """Have what is written to `made` count against a limit: that of `cargo`, or one of its own."""

    @abstractmethod
    async def _preserve(self, source: Path, checkpoint: Path) -> None:
        """Make `checkpoint` a read-only copy of the tree, whole or not at all, and on the disk."""

    @abstractmethod
    async def _adopt(self, made: Path, checkpoint: Path) -> None:
        """Make `made` itself that checkpoint."""

    @abstractmethod
    async def _withdraw(self, checkpoint: Path) -> None:
        """Take a checkpoint that is there away."""

    @abstractmethod
    def _commit(self) -> None:
        """Have the names in the root reach the disk. Blocks."""

    @abstractmethod
    async def _look_after(self) -> None:
        """Look after the room, until cancelled."""

    async def _discard(self, path: Path) -> None:
        """Remove a tree for good."""
        await remove_tree.remove(path)

    def _loosen(self, path: Path) -> None:  # noqa: B027 - most have nothing to do
        """Let the tree be moved, whatever a sandbox did to it. Blocks."""

    def _lacks_backing(self) -> bool:
        """Whether more was promised than the host can give. Blocks."""
        return False

    async def open(self, *, beside_others: bool = False) -> None:
        """Does not wait for what an earlier Bay left in the trash."""
        await self._blocking(lambda: self._open(beside_others=beside_others), self._root, "open")

    @abstractmethod
    async def aclose(self) -> None: ...

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._trash.run())
            tasks.create_task(self._look_after())

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        cargo = self._checked(cargo_id)
        with host_errors(cargo, "make"):
            if await asyncio.to_thread(os.path.lexists, cargo):
                return
            async with self._made(cargo_id) as made:
                await self._fill(made, origin)
                await self._count(made, None, limit_bytes)
                await asyncio.to_thread(renames.place, made, cargo)  # if another was quicker, that one is it
                await asyncio.to_thread(self._commit)

    def place(self, cargo_id: str) -> Path:
        return self._root / cargo_id / WORKSPACE

    def machine(self, cargo_id: str) -> Path:
        return self._root / cargo_id / MACHINE

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        cargo, target = self._checked(cargo_id), self.checkpoint_path(checkpoint_id)
        with host_errors(target, "make"):
            if await self._urgently(lambda: os.path.lexists(target)):
                return
            await self._refuse_if_full("a checkpoint")
            with _missing(f"there is no cargo {cargo_id} on this host"):
                await self._preserve(cargo, target)

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        cargo = self._checked(cargo_id)
        with host_errors(cargo, "prepare a restore of"):
            async with self._made(cargo_id) as made:
                await self._fill(made, self._named(checkpoint_id))
                await self._count(made, cargo, limit_bytes)
                await self._drop(self._prepared(cargo_id))
                await asyncio.to_thread(made.rename, self._prepared(cargo_id))

    async def restore(self, cargo_id: str) -> None:
        cargo, prepared = self._checked(cargo_id), self._prepared(cargo_id)
        with host_errors(cargo, "restore"), _missing(f"nothing is prepared to be put in place of {cargo_id}"):
            await asyncio.to_thread(self._swap, prepared, cargo)
            await self._drop(prepared)

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        target = self.checkpoint_path(checkpoint_id)
        with host_errors(target, "remove"):
            if await asyncio.to_thread(os.path.lexists, target):
                await self._withdraw(target)

    async def list_checkpoints(self) -> set[str]:
        return await self._blocking(lambda: _ids(self._checkpoints), self._checkpoints, "list")

    def checkpoint_path(self, checkpoint_id: str) -> Path:
        return self._checkpoints / self._named(checkpoint_id)

    def present_path(self, cargo_id: str) -> Path:
        return self._checked(cargo_id)

    async def begin_import(
        self, checkpoint_id: str, *, limit_bytes: int | None, origin: str | None = None
    ) -> Path:
        target = self._imported(checkpoint_id)
        with host_errors(target, "make"):
            await self._refuse_if_full("an import")
            await self._drop(target)
            async with self._made(checkpoint_id) as made:
                await (self._make(made) if origin is None else self._fill(made, origin))
                await self._count(made, None, limit_bytes)
                await asyncio.to_thread(made.rename, target)
        return target

    async def keep_import(self, checkpoint_id: str) -> None:
        made, target = self._imported(checkpoint_id), self.checkpoint_path(checkpoint_id)
        with host_errors(target, "make"), _missing(f"no import of {checkpoint_id} was begun"):
            if not await asyncio.to_thread(os.path.lexists, target):
                await self._adopt(made, target)
            await self._drop(made)

    async def drop_import(self, checkpoint_id: str) -> None:
        target = self._imported(checkpoint_id)
        with host_errors(target, "remove"):
            await self._drop(target)

    async def weigh(self, ids: Sequence[str]) -> dict[str, Weight]:
        places = {name: self._directory(name) for name in ids}
        with host_errors(self._root, "weigh what is in"):
            found = await disk_usage.weigh(list(places.values()))
        return {name: found[place] for name, place in places.items() if place in found}

    async def check_room(self, what: str) -> None:
        with host_errors(self._root, "look at"):
            await self._refuse_if_full(what)

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        fence = Fence(sandbox_id=self._named(sandbox_id), generation=generation, session_id=session_id)
        cargo = self._checked(cargo_id)
        await self._blocking(lambda: self._fences.raise_to(cargo_id, fence), cargo, "fence")

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        cargo, sandbox = self._checked(cargo_id), self._named(sandbox_id)
        return await self._blocking(lambda: self._fences.read(cargo_id, sandbox), cargo, "read the fence of")

    async def remove(self, cargo_id: str) -> None:
        """The files go first: the parts that a crash leaves are harmless."""
        cargo = self._checked(cargo_id)
        with host_errors(cargo, "remove"):
            await self._drop(cargo)
            await self._drop(self._prepared(cargo_id))
            await asyncio.to_thread(self._fences.remove, cargo_id)

    async def list_ids(self) -> set[str]:
        return await self._blocking(lambda: _ids(self._root), self._root, "list")

    def _open(self, *, beside_others: bool) -> None:
        self._prepare()
        for directory in (self._root, self._fences.directory, self._checkpoints, self._making):
            make_private(directory)
        self._trash.open()
        if beside_others:
            return  # whose work is under way
        for name in os.listdir(self._making):
            if not self._is_shared or _is_old(self._making / name):
                self._move_to_trash(self._making / name)
        self._fences.keep_only(lambda: _ids(self._root))

    async def _fill(self, made: Path, origin: str | None) -> None:
        if origin is None:
            await self._refuse_if_full("a cargo")
            await self._make(made)
            return await asyncio.to_thread(_furnish, made)
        source = self.checkpoint_path(origin)
        await self._refuse_if_full("a copy of a checkpoint")
        with _missing(f"there is no checkpoint {origin} on this host"):
            return await self._copy(source, made)

    @asynccontextmanager
    async def _made(self, name: str) -> AsyncGenerator[Path]:
        """A directory for work in progress, whose remains are removed at the end, also when cancelled."""
        made = self._making / f"{name}.{secrets.token_hex(6)}"
        try:
            yield made
        finally:
            await asyncio.shield(self._drop(made))

    async def _drop(self, path: Path) -> None:
        await asyncio.to_thread(self._move_to_trash, path)
        self._trash.wake()

    def _move_to_trash(self, path: Path) -> None:
        self._loosen(path)
        self._trash.move(path)

    def _swap(self, prepared: Path, cargo: Path) -> None:
        """Put `prepared` in the place of `cargo`, and that in its. A crash leaves one or the other."""
        prepared.lstat()
        self._loosen(cargo)
        if not (os.path.lexists(cargo) and renames.exchange(prepared, cargo)):
            self._move_to_trash(cargo)
            prepared.rename(cargo)
        self._commit()

    async def _refuse_if_full(self, what: str) -> None:
        room, lacks = await self._urgently(lambda: (shutil.disk_usage(self._root), self._lacks_backing()))
        reserve = pool_reserve(room.total)
        if room.free < reserve or lacks:
            log.warning("cargo.full", path=str(self._root), free_mib=room.free // MIB)
            raise StorageFull(
                f"the disk of all sandboxes has {room.free // MIB} MiB left, and the last "
                f"{reserve // MIB} MiB are reserved for existing sandboxes, so {what} is refused; "
                "delete files, checkpoints or sandboxes, or enlarge it",
                details={"free_bytes": room.free, "total_bytes": room.total},
            )

    async def room(self) -> CargoRoom:
        """How much room the file system of all cargos has."""
        disk = await self._urgently(lambda: shutil.disk_usage(self._root))
        return CargoRoom(total=disk.total, free=disk.free)

    async def _urgently(self, work: Callable[[], T]) -> T:
        """In threads of their own: a frozen sandbox does not wait behind flushes and removals."""
        return await asyncio.get_running_loop().run_in_executor(self._urgent, work)

    async def _blocking(self, work: Callable[[], T], path: Path, verb: str) -> T:
        with host_errors(path, verb):
            return await asyncio.to_thread(work)

    def _checked(self, cargo_id: str) -> Path:
        if not is_id(cargo_id):
            raise InvalidArgument(f"{cargo_id!r} is not the id of a cargo")
        return self._root / cargo_id

    def _named(self, name: str) -> str:
        if not is_id(name):
            raise InvalidArgument(f"{name!r} is not an id")
        return name

    def _directory(self, name: str) -> Path:
        return self.checkpoint_path(name) if name.startswith("ckpt-") else self._checked(name)

    def _prepared(self, cargo_id: str) -> Path:
        return self._making / f"{cargo_id}.restore"

    def _imported(self, checkpoint_id: str) -> Path:
        return self._making / f"{self._named(checkpoint_id)}.import"


def _is_old(made: Path) -> bool:
    try:
        return made.lstat().st_ctime < time.time() - _ABANDONED_S
    except FileNotFoundError:
        return False


def _ids(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if is_id(name)}


def _furnish(made: Path) -> None:
    made.chmod(0o700)
    for name, mode in ((WORKSPACE, 0o755), (MACHINE, 0o700)):
        (made / name).mkdir()
        (made / name).chmod(mode)
    if os.geteuid() == 0:
        os.chown(made / WORKSPACE, SANDBOX_UID, SANDBOX_GID)


@contextmanager
def _missing(message: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(message) from error


@contextmanager
def host_errors(path: Path, verb: str) -> Generator[None]:
    """The host's error in Bay's words. Owners read it, so only the log has paths of the host."""
    try:
        yield
    except OSError as error:
        log.warning("cargo.refused_by_host", verb=verb, path=str(path), error=str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "delete files, checkpoints or sandboxes, or enlarge the disk"
            raise StorageFull(f"no space left for {path.name}; {advice}") from error
        raise DriverUnavailable(f"cannot {verb} {path.name}: {error.strerror or error}") from error
