"""The contract of a cargo backend: where the files of cargos and checkpoints live, how they are copied, and what they weigh.

A cargo is a directory with two parts: `workspace`, which becomes /workspace, and `machine`, which holds the writable layers of
the root file system where a profile keeps them. A checkpoint is a copy of both that nobody writes to again. All that can
take long or fail half-way is made beside what is there and put in place by one rename, so each call here leaves either what was
there before or what was asked for, and may be repeated after a crash.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bay.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The newest session of a sandbox that was let onto a cargo, as the host remembers it whatever the database says."""

    sandbox_id: str
    generation: int
    session_id: str


class StaleGeneration(Conflict):
    """A newer session than the one that asks has had the cargo. Take a generation above the fence's and ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What a cargo or a checkpoint weighs. Bytes on disk and inodes of all that is in it, whoever else shares it.

    `exclusive_bytes` are those that only it holds: what its removal would give back.
    """

    used_bytes: int
    used_inodes: int
    exclusive_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much the file system of all cargos holds, and how much of that is free, in bytes."""

    total_bytes: int
    free_bytes: int


class CargoBackend(Protocol):
    """Keeps the files of cargos and checkpoints. Files are stored with the ids that the sandbox sees.

    Raises StorageFull when there is no room, DriverUnavailable when the host refuses, InvalidArgument for what is no id.
    """

    name: Literal["btrfs", "directory"]

    @property
    def limits(self) -> bool:
        """Whether a size limit holds: whether the writer is refused beyond it."""
        ...

    async def open(self) -> None:
        """Make what all cargos share, mount it where it must be, and throw away what was half made."""
        ...

    async def aclose(self) -> None:
        """Let go of what `open` took. Sandboxes that run keep their files."""
        ...

    async def run(self) -> None:
        """Do what `remove` put off and look after the room, until cancelled; what is left then is done after the next `open`."""
        ...

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        """Make a cargo, empty or with the files of the checkpoint `origin`, its workspace owned by the sandbox's user. Idempotent.

        Raises NotFound when there is no such checkpoint, and StorageFull early: while there is still room for what is there.
        """
        ...

    def path(self, cargo_id: str) -> Path:
        """The directory that becomes /workspace."""
        ...

    def machine(self, cargo_id: str) -> Path:
        """The directory for the writable layers of the root file system; it exists, empty at first."""
        ...

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """Change how much the cargo may hold; None is no limit. Does nothing where limits do not hold."""
        ...

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        """Copy the cargo as it is now; whoever writes to it should be standing still. Idempotent: what is there stays."""
        ...

    async def settle(self, cargo_id: str) -> None:
        """Have what was written to the cargo reach the disk, so that a `checkpoint` right after this is quick."""
        ...

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        """Make what `restore` will put in place, beside the cargo, which stays as it is. Again is fine. Raises NotFound."""
        ...

    async def restore(self, cargo_id: str) -> None:
        """Put in place what `prepare_restore` made; nobody may be using the cargo. What was there is removed later."""
        ...

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        """Remove a checkpoint; idempotent. Its name is free at once, its space a little later. What was made of it stays."""
        ...

    async def list_checkpoints(self) -> set[str]:
        """Ids of every checkpoint that is whole."""
        ...

    def checkpoint_path(self, checkpoint_id: str) -> Path:
        """The directory of a checkpoint, with `workspace` and `machine` in it. Nobody writes there."""
        ...

    async def begin_import(self, checkpoint_id: str, *, limit_bytes: int | None) -> Path:
        """A new empty directory for the files of a checkpoint that comes from elsewhere; gone after a restart unless kept."""
        ...

    async def keep_import(self, checkpoint_id: str) -> None:
        """What `begin_import` gave is the checkpoint from now on, on the disk; nobody writes there again."""
        ...

    async def drop_import(self, checkpoint_id: str) -> None:
        """Throw away what `begin_import` gave; nothing there is fine."""
        ...

    async def weigh(self, ids: Sequence[str]) -> dict[str, Weight]:
        """What those cargos and checkpoints weigh, measured by walking through them in a process that gives way to others.

        What is not there, or takes too long, is not in the answer.
        """
        ...

    async def charged(self, cargo_id: str) -> int | None:
        """Bytes that count against the cargo's limit, known without measuring; None where limits do not hold."""
        ...

    async def check_room(self, what: str) -> None:
        """Raises StorageFull when nothing new may begin, as each call that makes something does; `what` is what would begin."""
        ...

    async def room(self) -> Room:
        """What is free for all cargos together."""
        ...

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        """Write down, on the disk and before the session may start, that from now on it is this sandbox's one on the cargo.

        Again for the same session is fine. Raises StaleGeneration when the host remembers a newer generation of
        this sandbox, or another session of the same one: then the database is older than the host. Sandboxes that share a cargo
        have a fence each.
        """
        ...

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        """What the last `fence` for that sandbox wrote; None when there was none, or it cannot be read."""
        ...

    async def remove(self, cargo_id: str) -> None:
        """Take the cargo away, with its fences; idempotent. Its name is free at once, its space as soon as `run` gets there."""
        ...

    async def list_ids(self) -> set[str]:
        """Ids of every cargo that has something on the host."""
        ...
