"""A fence records which session owns a cargo, beside the cargos and not in the database.

A restored backup puts the database back, which then counts generations anew: an old session and a new one
could both believe that the files are theirs. A fence is never older than the newest session on the files.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bay.cargo.base import Fence, StaleGeneration

_LARGEST = 4096
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Fences:
    """One small file for each cargo and sandbox in `directory`. All here blocks, and raises OSError."""

    directory: Path

    def raise_to(self, cargo_id: str, fence: Fence) -> None:
        """Make `fence` the one of its sandbox on the cargo. Raises StaleGeneration if that is newer."""
        before = self.read(cargo_id, fence.sandbox_id)
        if before == fence:
            return
        if before is not None:
            check_newer(cargo_id, before, fence)
        self._write(cargo_id, fence)

    def read(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        """The sandbox's fence on the cargo; None when there is none or it is not to be understood."""
        found = self._read(_name(cargo_id, sandbox_id))
        return found if found is not None and found.sandbox_id == sandbox_id else None

    def remove(self, cargo_id: str) -> None:
        """Forget all fences of the cargo; none is fine."""
        for name in os.listdir(self.directory):
            if name.partition(".")[0] == cargo_id:
                (self.directory / name).unlink(missing_ok=True)

    def keep_only(self, cargo_ids: Callable[[], set[str]]) -> None:
        """Remove what belongs to no cargo: a crash left it, between the removal of one and of the other."""
        names = os.listdir(self.directory)
        there = cargo_ids()  # after that: another process may make a cargo, and its fence then
        for name in names:
            if name.partition(".")[0] not in there:
                with contextlib.suppress(IsADirectoryError):  # not ours
                    (self.directory / name).unlink(missing_ok=True)

    def _read(self, name: str) -> Fence | None:
        try:
            with open(os.open(self.directory / name, _READ), "rb") as file:
                return fence_of(json.loads(file.read(_LARGEST)))
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def _write(self, cargo_id: str, fence: Fence) -> None:
        new = self.directory / f".{cargo_id}.{secrets.token_hex(4)}"
        try:
            with open(os.open(new, _WRITE, 0o600), "w") as file:
                json.dump(asdict(fence), file)
            new.rename(self.directory / _name(cargo_id, fence.sandbox_id))
        finally:
            new.unlink(missing_ok=True)


def _name(cargo_id: str, sandbox_id: str) -> str:
    return f"{cargo_id}.{sandbox_id}"


def check_newer(cargo_id: str, before: Fence, fence: Fence) -> None:
    """Raises StaleGeneration for a fence that is not newer than the one before it."""
    if fence.generation > before.generation:
        return
    raise StaleGeneration(
        f"cargo {cargo_id} was last owned by generation {before.generation} of {before.sandbox_id} "
        f"({before.session_id}), and {fence.session_id} would be generation {fence.generation}: the database is older "
        "than this host, as after a restored backup; start the sandbox again, or restore a newer backup with "
        "`bay admin restore`",
        details={"generation": before.generation},
    )


def fence_of(found: object) -> Fence | None:
    """The fence that parsed JSON is; None for what is none."""
    match found:
        case {"sandbox_id": str(sandbox_id), "generation": int(generation), "session_id": str(session_id)}:
            return Fence(sandbox_id=sandbox_id, generation=generation, session_id=session_id)
        case _:
            return None
