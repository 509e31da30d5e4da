"""Checkpoints as archives, of whichever cargo backend: by itself, or by the files that it gives Bay."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable

from bay.cargo.base import CargoStore, CheckpointArchives, CheckpointFiles, checkpoint_store
from bay.cargo.export_import import export_stream, import_stream
from bay.cargo.manifest import Manifest
from bay.errors import CapabilityNotSupported


class ArchivesOfFiles:
    """The archives of a backend whose files Bay reads itself, each packed or unpacked by a process."""

    def __init__(self, files: CheckpointFiles) -> None:
        self._files = files

    def export_archive(
        self, checkpoint_id: str, facts: Manifest, counts: dict[str, int]
    ) -> AsyncGenerator[bytes]:
        """See `CheckpointArchives`."""
        return export_stream(self._files.checkpoint_path(checkpoint_id), facts, counts)

    async def import_archive(
        self,
        cargo_id: str,
        checkpoint_id: str,
        archive: AsyncIterable[bytes],
        *,
        limit_bytes: int | None,
        check: Callable[[Manifest], None],
    ) -> Manifest:
        """See `CheckpointArchives`."""
        path = await self._files.begin_import(checkpoint_id, limit_bytes=limit_bytes)
        try:
            facts = await import_stream(archive, path, limit_bytes)
            check(facts)
            await self._files.keep_import(checkpoint_id)
        except BaseException:
            await asyncio.shield(self._files.drop_import(checkpoint_id))
            raise
        return facts


def checkpoint_archives(cargo: CargoStore) -> CheckpointArchives:
    """The backend's. Raises CapabilityNotSupported."""
    checkpoint_store(cargo)
    if isinstance(cargo, CheckpointArchives):
        return cargo
    if isinstance(cargo, CheckpointFiles):
        return ArchivesOfFiles(cargo)
    raise CapabilityNotSupported(
        f"cargo backend {cargo.name} gives Bay no archives of checkpoints, so there are no exports, imports, pushes "
        "and pulls; checkpoints, restores and forks work",
        details={"capability": "checkpoint_files", "available": ["checkpoints"]},
    )
