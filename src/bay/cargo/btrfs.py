"""The btrfs backend keeps cargos as subvolumes: a copy is a snapshot, without time or space, and limits hold.

Each cargo has a quota group, of its subvolume and those made inside. A restore keeps the group, so bytes that
a checkpoint still holds go on to count: else checkpoint, restore and write, again and again, would take the
neighbours' disk. Blocks that a fork shares with its origin count at the origin.
"""

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

import structlog

from bay.cargo.base_backend import BaseBackend, host_errors
from bay.cargo.pool import BtrfsPool
from bay.errors import BayError
from bay.linux import btrfs
from bay.models import CheckpointKind

_PERIOD_S = 5.0
_GROUPS_EACH = 12

log = structlog.get_logger("bay.cargo")


class BtrfsCargo(BaseBackend):
    """Below `root`, which is on btrfs already, or where `pool` is mounted. Has `SizeLimits`."""

    name = "btrfs"
    checkpoint_kind: CheckpointKind = "snapshot"

    def __init__(self, root: Path, pool: BtrfsPool | None = None, *, shared: bool = False) -> None:
        super().__init__(root, shared=shared)
        self._pool = pool
        self._limits = pool is not None

    @property
    def enforced(self) -> bool:
        """On a file system that is not Bay's own, only when its quotas are on."""
        return self._limits

    async def aclose(self) -> None:
        """Unmounts the pool, which goes on for sandboxes that run."""
        if self._pool is not None:
            await asyncio.to_thread(self._pool.close)

    async def check_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """A limit of any size can be set, also one below what is used."""
        self._checked(cargo_id)

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        cargo = self._checked(cargo_id)
        if self._limits:
            await self._blocking(lambda: self._limit(cargo, limit_bytes), cargo, "limit")

    async def settle(self, cargo_id: str) -> None:
        """A snapshot flushes its source and nothing else: one is made and dropped."""
        cargo = self._checked(cargo_id)
        await self._blocking(lambda: self._write_out(cargo), cargo, "write out")

    async def charged(self, cargo_id: str) -> int | None:
        cargo = self._checked(cargo_id)
        return await self._blocking(lambda: self._charged(cargo), cargo, "look at")

    def _prepare(self) -> None:
        if self._pool is not None:
            self._pool.open()
        else:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._limits = btrfs.are_quotas_on(self._root)

    async def _make(self, target: Path) -> None:
        await asyncio.to_thread(btrfs.create, target)

    async def _copy(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(btrfs.snapshot, source, target)

    async def _count(self, made: Path, cargo: Path | None, limit_bytes: int | None) -> None:
        if self._limits:
            await asyncio.to_thread(self._join, made, cargo, limit_bytes)

    async def _preserve(self, source: Path, checkpoint: Path) -> None:
        await self._urgently(lambda: _preserve(source, checkpoint))

    async def _adopt(self, made: Path, checkpoint: Path) -> None:
        await asyncio.to_thread(_preserve, made, checkpoint)

    async def _withdraw(self, checkpoint: Path) -> None:
        # At once, not by the trash: a read-only subvolume cannot be moved, and must not become writable.
        await asyncio.to_thread(self._destroy, checkpoint)

    async def _discard(self, path: Path) -> None:
        with host_errors(path, "remove"):
            if await asyncio.to_thread(btrfs.is_subvolume, path):
                return await asyncio.to_thread(self._destroy, path)
        return await super()._discard(path)

    async def _look_after(self) -> None:
        """Refit the pool, and forget groups of subvolumes that are gone."""
        for turn in range(1 << 62):
            await asyncio.sleep(_PERIOD_S)
            try:
                await self._tend(groups=turn % _GROUPS_EACH == 0)
            except (OSError, BayError) as error:
                log.warning("cargo.not_tended", error=str(error))

    async def _tend(self, *, groups: bool) -> None:
        while self._pool is not None and await asyncio.to_thread(self._pool.refit):
            pass
        if groups and self._limits:
            await asyncio.to_thread(btrfs.remove_stale_groups, self._root)

    def _commit(self) -> None:
        btrfs.commit(self._root)

    def _loosen(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if btrfs.is_subvolume(path):
                btrfs.set_read_only(path, False)

    def _lacks_backing(self) -> bool:
        return self._pool is not None and self._pool.lacks_backing()

    def _join(self, made: Path, cargo: Path | None, limit_bytes: int | None) -> None:
        group = self._group(cargo) if cargo and os.path.lexists(cargo) else None
        group = group or btrfs.group_of(btrfs.subvolume_id(made))
        btrfs.join_group(made, group)
        btrfs.limit_group(self._root, group, limit_bytes)

    def _group(self, cargo: Path) -> int | None:
        return next(iter(btrfs.groups_above(cargo)), None)

    def _limit(self, cargo: Path, limit_bytes: int | None) -> None:
        if (group := self._group(cargo)) is None:  # as where quotas were turned on later
            group = btrfs.group_of(btrfs.subvolume_id(cargo))
            btrfs.join_group(cargo, group)
        btrfs.limit_group(self._root, group, limit_bytes)

    def _charged(self, cargo: Path) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            group = self._group(cargo) if self._limits else None
            return None if group is None else btrfs.usage_of_group(self._root, group)
        return None

    def _destroy(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            btrfs.destroy(path)
            btrfs.begin_commit(self._root)  # a caller that removes something at its limit waits for the room

    def _write_out(self, cargo: Path) -> None:
        passing = self._making / f"{cargo.name}.{secrets.token_hex(6)}"
        btrfs.snapshot(cargo, passing, read_only=True)
        btrfs.destroy(passing)


def _preserve(source: Path, checkpoint: Path) -> None:
    with contextlib.suppress(FileExistsError):  # another was quicker, and that one is it
        btrfs.snapshot(source, checkpoint, read_only=True)
