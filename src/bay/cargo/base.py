"""The contract of a cargo backend: it gives each cargo a directory, and takes it away again."""

from pathlib import Path
from typing import Protocol


class CargoBackend(Protocol):
    """Keeps the files of cargos. Files are stored with the ids that the sandbox sees."""

    name: str

    async def open(self) -> None:
        """Make what all cargos share. Raises StorageFull or DriverUnavailable."""
        ...

    async def create(self, cargo_id: str) -> None:
        """Make an empty workspace owned by the sandbox's user; idempotent."""
        ...

    def path(self, cargo_id: str) -> Path:
        """The directory that becomes /workspace."""
        ...

    async def remove(self, cargo_id: str) -> None:
        """Remove the workspace and all that is in it; idempotent."""
        ...

    async def list_ids(self) -> set[str]:
        """Ids of every cargo that has something on the host."""
        ...
