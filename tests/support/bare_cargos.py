"""A cargo backend with what a server needs and no more: cargos and fences, in directories of this host."""

from pathlib import Path

from bay.cargo.base import Fence, checkpoint_store
from bay.cargo.directory import DirectoryCargo


class BareCargos:
    """Without checkpoints, layers, limits and measurements."""

    name = "bare"

    def __init__(self, root: Path) -> None:
        self._kept = DirectoryCargo(root)
        self.open = self._kept.open
        self.aclose = self._kept.aclose
        self.run = self._kept.run
        self.place = self._kept.place
        self.remove = self._kept.remove
        self.list_ids = self._kept.list_ids
        self.check_room = self._kept.check_room

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        if origin is not None:
            checkpoint_store(self)
        await self._kept.create(cargo_id, limit_bytes=limit_bytes)

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        await self._kept.fence(cargo_id, sandbox_id, generation, session_id)

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        return await self._kept.fenced(cargo_id, sandbox_id)
