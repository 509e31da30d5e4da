"""A cargo backend of your own: plain directories and copies. A test runs `bay.testing.cargo` on it.

It has no optional protocol: Bay reports its limits as not enforced, and measures nothing.
"""

import asyncio
import os
import sys
from pathlib import Path

from bay.cargo.base import Fence
from bay.cargo.fences import Fences
from bay.errors import InvalidArgument, NotFound, StorageFull
from bay.ids import is_id
from bay.models import CheckpointKind

SANDBOX_UID = 1000


class CopyingCargo:
    """Keeps cargos in `root`, checkpoints in `.checkpoints`, and unfinished trees in `.making`."""

    name = "copying"
    checkpoint_kind: CheckpointKind = "copy"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checkpoints = root / ".checkpoints"
        self._making = root / ".making"
        self._fences = Fences(root / ".fences")

    async def open(self, *, beside_others: bool = False) -> None:
        if not beside_others:
            await run("rm", "-rf", str(self._making))
        for directory in (self._root, self._checkpoints, self._making, self._fences.directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def aclose(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()  # removals are done at once, so nothing is left to do here

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        cargo, made = self._root / named(cargo_id), self._making / f"{cargo_id}.new"
        if cargo.exists():
            return
        if origin is not None:
            await self._copy(self.checkpoint_path(origin), made, f"there is no checkpoint {origin}")
        else:
            (made / "workspace").mkdir(mode=0o755, parents=True)
            (made / "machine").mkdir(mode=0o700)
            await run("chown", f"{SANDBOX_UID}:{SANDBOX_UID}", str(made / "workspace"))
            made.chmod(0o700)
        made.rename(cargo)

    def place(self, cargo_id: str) -> Path:
        return self._root / cargo_id / "workspace"

    def machine(self, cargo_id: str) -> Path:
        return self._root / cargo_id / "machine"

    async def remove(self, cargo_id: str) -> None:
        await run("rm", "-rf", str(self._root / named(cargo_id)), str(self._prepared(cargo_id)))
        self._fences.remove(cargo_id)

    async def list_ids(self) -> set[str]:
        return {path.name for path in self._root.iterdir() if is_id(path.name)}

    async def check_room(self, what: str) -> None:
        pass  # a copy finds out

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        fence = Fence(sandbox_id=named(sandbox_id), generation=generation, session_id=session_id)
        self._fences.raise_to(named(cargo_id), fence)

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        return self._fences.read(named(cargo_id), named(sandbox_id))

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        cargo, target = self._root / named(cargo_id), self.checkpoint_path(checkpoint_id)
        if not target.exists():
            made = self._making / f"{checkpoint_id}.new"
            await self._copy(cargo, made, f"there is no cargo {cargo_id}")
            made.rename(target)

    async def settle(self, cargo_id: str) -> None:
        await run("sync", "--file-system", str(self._root / named(cargo_id)))

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        source, prepared = self.checkpoint_path(checkpoint_id), self._prepared(named(cargo_id))
        await self._copy(source, prepared, f"there is no checkpoint {checkpoint_id}")

    async def restore(self, cargo_id: str) -> None:
        cargo, prepared = self._root / named(cargo_id), self._prepared(cargo_id)
        if not prepared.exists():
            raise NotFound(f"nothing is prepared for {cargo_id}")
        if cargo.exists():
            await run("mv", "--exchange", "--no-copy", "-T", str(prepared), str(cargo))
            await run("rm", "-rf", str(prepared))
        else:
            prepared.rename(cargo)

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        await run("rm", "-rf", str(self.checkpoint_path(checkpoint_id)))

    async def list_checkpoints(self) -> set[str]:
        return {path.name for path in self._checkpoints.iterdir()}

    def checkpoint_path(self, checkpoint_id: str) -> Path:
        return self._checkpoints / named(checkpoint_id)

    async def begin_import(
        self, checkpoint_id: str, *, limit_bytes: int | None, origin: str | None = None
    ) -> Path:
        await self.drop_import(checkpoint_id)
        target = self._imported(checkpoint_id)
        if origin is None:
            target.mkdir(mode=0o700)
        else:
            await self._copy(self.checkpoint_path(origin), target, f"there is no checkpoint {origin}")
        return target

    async def keep_import(self, checkpoint_id: str) -> None:
        target, made = self.checkpoint_path(checkpoint_id), self._imported(checkpoint_id)
        if not target.exists():
            if not made.exists():
                raise NotFound(f"no import of {checkpoint_id} was begun")
            made.rename(target)

    async def drop_import(self, checkpoint_id: str) -> None:
        await run("rm", "-rf", str(self._imported(checkpoint_id)))

    def _prepared(self, cargo_id: str) -> Path:
        return self._making / f"{cargo_id}.restore"

    def _imported(self, checkpoint_id: str) -> Path:
        return self._making / f"{named(checkpoint_id)}.import"

    async def _copy(self, source: Path, target: Path, absent: str) -> None:
        if not source.exists():
            raise NotFound(absent)
        await run("rm", "-rf", str(target))
        # Not `cp`: it fails where a path is longer than 4095 bytes, and a sandbox can make one.
        await run(sys.executable, "-m", "bay.cargo.tree_copy", str(source), str(target), str(os.getpid()))
        await run("sync", "--file-system", str(target))


def named(text: str) -> str:
    """The id `text`, which is safe as a file's name. Raises InvalidArgument."""
    if not is_id(text):
        raise InvalidArgument(f"{text!r} is not an id")
    return text


async def run(*command: str) -> None:
    """Run a command. Raises StorageFull when it fails: these commands fail for lack of space."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise StorageFull(said.decode(errors="replace").strip())
