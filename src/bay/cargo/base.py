"""The contract of a cargo backend: it gives each cargo a directory, and takes it away again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bay.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The newest session that was let onto a cargo, as the host remembers it whatever the database says."""

    sandbox_id: str
    generation: int
    session_id: str


class StaleGeneration(Conflict):
    """A newer session than the one that asks has had the cargo. Take a generation above the fence's and ask again."""


class CargoBackend(Protocol):
    """Keeps the files of cargos. Files are stored with the ids that the sandbox sees."""

    name: str

    async def open(self) -> None:
        """Make what all cargos share. Raises StorageFull or DriverUnavailable."""
        ...

    async def run(self) -> None:
        """Do what `remove` put off, until cancelled; what is left then is done after the next `open`."""
        ...

    async def create(self, cargo_id: str) -> None:
        """Make an empty workspace owned by the sandbox's user; idempotent."""
        ...

    def path(self, cargo_id: str) -> Path:
        """The directory that becomes /workspace."""
        ...

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        """Write down, on the disk and before the session may start, that from now on it is the one that owns the cargo.

        Again for the same session is fine. Raises StaleGeneration when the host remembers a newer generation of
        this sandbox, or another session of the same one: then the database is older than the host.
        """
        ...

    async def fenced(self, cargo_id: str) -> Fence | None:
        """What the last `fence` wrote; None when there was none, or it cannot be read."""
        ...

    async def remove(self, cargo_id: str) -> None:
        """Take the workspace away, with its fence; idempotent. Its name is free at once, its space as soon as `run` gets there."""
        ...

    async def list_ids(self) -> set[str]:
        """Ids of every cargo that has something on the host."""
        ...
