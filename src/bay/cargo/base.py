"""The contract of a cargo backend: it keeps the files of cargos and checkpoints, copies and measures them.

Vocabulary
    cargo       Files that a sandbox writes to. Its `workspace` becomes /workspace. On a host it has a second
                part, `machine`, with the writable layers of the root file system where a profile keeps them.
                Its id is `ws-…`, and no two cargos ever have the same.
    place       The thing that a session mounts at /workspace: a directory of Bay's host, or a volume claim of
                a cluster, whose files only the session has.
    checkpoint  A copy of a cargo that is never written again. Its id is `ckpt-…`.
    origin      The checkpoint that a new cargo begins as a copy of: a fork.
    import      A checkpoint whose files come from outside of the backend, not from a cargo.
    fence       A record beside the files of the newest session that was let onto a cargo, whatever the
                database says.
    trash       Removed trees. Their names are free at once, their space once `run` has deleted them.

The life of a cargo
    absent → `create` → present → `remove` → absent. A checkpoint or an import becomes present whole, or not
    at all. Slow work, and work that can fail half-way, is done beside the present files and put in place by
    one rename. So each call leaves the state before it or the state that was asked for, and can be repeated
    after a crash. `open` discards the half-made things of a crash, prepared restores and imports included.

Call sequences
    A sandbox starts and is deleted:

        await cargo.open()
        await cargo.create("ws-…", limit_bytes=1 << 30)
        await cargo.fence("ws-…", "sandbox-…", 1, "sess-…")   # durable before the session may start
        mount(cargo.place("ws-…"))
        await cargo.remove("ws-…")

    A cargo is checkpointed, goes back to that, and a second one forks from it:

        store = checkpoint_store(cargo)                       # a CheckpointStore, or it raises
        await store.settle("ws-…")                            # the session still runs
        await store.checkpoint("ws-…", "ckpt-…")              # the session is frozen
        await store.prepare_restore("ws-…", "ckpt-…", limit_bytes=None)   # the session still runs
        await store.restore("ws-…")                                       # no session uses the cargo
        await cargo.create("ws-2…", origin="ckpt-…")
        await store.remove_checkpoint("ckpt-…")                           # both cargos keep their files

    A checkpoint comes from an archive:

        files = checkpoint_files(cargo)                       # CheckpointFiles, or it raises
        directory = await files.begin_import("ckpt-…", limit_bytes=None)
        unpack(archive, directory)                            # makes `workspace` and `machine` there
        await files.keep_import("ckpt-…")                     # or drop_import, when the archive is bad

A server needs a `CargoBackend`. `MachineLayers`, `CheckpointStore`, `CheckpointFiles`, `SizeLimits`,
`DiskUsage`, `CopiesBySessions`, `CheckpointsInTwoSteps`, `CheckpointArchives`, `KindsOfCheckpoints` and
`KeptElsewhere` are optional: Bay finds them with `isinstance`. Without one of the first three it refuses,
before anything is begun, each call that needs it. Without `SizeLimits` it reports limits as not enforced, and
without `DiskUsage` sizes as unknown. `bay.testing.cargo` is the suite that every backend passes.

All calls raise StorageFull when there is no room, DriverUnavailable when the host refuses, and
InvalidArgument for text that is no id. Files are stored with the owner ids that the sandbox sees.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from bay.cargo.manifest import Manifest
from bay.errors import CapabilityNotSupported, Conflict
from bay.models import CheckpointKind
from bay.places import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The newest session of a sandbox that the host let onto a cargo."""

    sandbox_id: str
    generation: int
    session_id: str


class StaleGeneration(Conflict):
    """A newer session has had the cargo. Take a generation above the fence's and ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """All bytes and inodes of a cargo or checkpoint; its removal frees the `exclusive_bytes` alone. None: a
    storage that is not Bay's does not tell.
    """

    used_bytes: int
    used_inodes: int | None
    exclusive_bytes: int | None


class CargoStore(Protocol):
    """The core of a backend: cargos are made, found and removed."""

    name: str
    """Stored with each cargo, at most 32 characters."""

    async def open(self, *, beside_others: bool = False) -> None:
        """Make and mount what all cargos share, and discard what a crash left half-made: nothing while there
        are other processes `beside_others`, which may be making it.
        """

    async def aclose(self) -> None:
        """Release what `open` took. Running sandboxes keep their files."""

    async def run(self) -> None:
        """Delete removed trees and maintain free space, until cancelled; the next `run` continues."""

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        """Make a cargo, empty or a copy of the checkpoint `origin`; its workspace is uid 1000's. Idempotent.
        Raises NotFound when the checkpoint is absent, CapabilityNotSupported for an `origin` where there are
        none, and StorageFull while present cargos have a reserve.
        """

    def place(self, cargo_id: str) -> Place:
        """The thing that becomes /workspace; no call is needed to know it."""
        ...

    async def remove(self, cargo_id: str) -> None:
        """Remove a cargo and its fences; idempotent. It is in no list from then on, and its space is free
        after a while.
        """

    async def list_ids(self) -> set[str]:
        """Ids of every cargo that there is something of."""
        ...

    async def check_room(self, what: str) -> None:
        """Raise StorageFull if `create` would, with `what` in the message as the thing that cannot begin."""


class CargoFences(Protocol):
    """Fences keep an old session off a cargo when the database was put back to an older state."""

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        """Write the sandbox's fence on the cargo durably; the session may start after that. Idempotent.
        Raises StaleGeneration when the cargo has a newer generation of this sandbox, or another session of
        the same one: the database is older than the cargo. Sandboxes that share a cargo have a fence each.
        """

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        """The sandbox's last fence on the cargo; None when there is none, or it cannot be read."""
        ...


class CargoBackend(CargoStore, CargoFences, Protocol):
    """The parts of a backend that a server needs."""


@runtime_checkable
class KeptElsewhere(Protocol):
    """Optional: the cargos are not in the data directory, and stay when that is lost. Without this a Bay that
    has lost its database would take each of them for an orphan, and remove it.
    """

    def belong_to(self, database_id: str) -> None:
        """Called before `open`. Cargos of another database are neither listed nor taken nor removed; `open`
        raises DriverUnavailable while there are such of this Bay's name.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CargoRoom:
    """The size of a file system and what is free in it for Bay, in bytes."""

    total: int
    free: int


@runtime_checkable
class Roomy(Protocol):
    """Optional: all cargos are in one file system of this host."""

    async def room(self) -> CargoRoom:
        """How much room it has, by one statvfs(2)."""
        ...


@runtime_checkable
class MachineLayers(Protocol):
    """Optional: a cargo also keeps the layers that a session writes outside of its workspace."""

    def machine(self, cargo_id: str) -> Path:
        """The existing host directory for the writable layers of the root file system, empty at first."""
        ...


@runtime_checkable
class CheckpointStore(Protocol):
    """Optional: checkpoints are taken from cargos, and cargos go back to them."""

    @property
    def checkpoint_kind(self) -> CheckpointKind:
        """How new ones are made. All but `snapshot` take as long and as much room as a copy of all files."""
        ...

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        """Copy the cargo, whose writers the caller has frozen. Idempotent: a present one stays as it is."""

    async def settle(self, cargo_id: str) -> None:
        """Write the cargo's dirty pages to the disk, so that a `checkpoint` right after this is quick."""

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        """Make beside the cargo what `restore` puts in place. Repeatable. Raises NotFound."""

    async def restore(self, cargo_id: str) -> None:
        """Put the prepared files in place, while no session uses the cargo; the old ones go to the trash.
        Raises NotFound when nothing was prepared.
        """

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        """Remove a checkpoint; idempotent. Cargos that were made from it keep their files."""

    async def list_checkpoints(self) -> set[str]:
        """Ids of every whole checkpoint."""
        ...


class PackedFiles(Protocol):
    """The files of a cargo, as a Ship gives them that has them."""

    def pack(self, counts: dict[str, int]) -> AsyncGenerator[bytes]:
        """The members of a tar of the workspace, without its end; then `counts` has `entries` and `bytes`.
        Raises BadRequest for files that cannot be carried, and Conflict while programs cannot be stopped.
        """
        ...


@runtime_checkable
class CopiesBySessions(Protocol):
    """Optional, beside a `CheckpointStore`: only sessions and the backend's own carriers have the files of a
    cargo. `checkpoint` and `restore` are for cargos that no session uses, and raise Conflict otherwise;
    `prepare_restore` may come while one does. No session may begin to write to a cargo while it is copied.
    """

    copies_by_sessions: Literal[True]

    async def checkpoint_by_session(self, cargo_id: str, checkpoint_id: str, files: PackedFiles) -> None:
        """The same as `checkpoint`, of a cargo that a session has, which gives its `files`."""


@runtime_checkable
class KindsOfCheckpoints(Protocol):
    """Optional, beside a `CheckpointStore`: the settings say which kinds of checkpoints it sees. One of
    another kind is not lost: it is there again with the settings of before.
    """

    @property
    def seen_kinds(self) -> frozenset[CheckpointKind]:
        """The kinds that `list_checkpoints` has."""
        ...


@runtime_checkable
class CheckpointsInTwoSteps(Protocol):
    """Optional, beside a `CheckpointStore`: `checkpoint` returns once the moment of the files is fixed, and
    writers may go on. The copy may be used after `complete`.
    """

    async def complete(self, checkpoint_id: str) -> None:
        """Return once the checkpoint is whole; repeatable. Raises NotFound for one that is gone, and
        DriverUnavailable with the reason of one that will never be whole.
        """


@runtime_checkable
class CheckpointFiles(Protocol):
    """Optional, beside a `CheckpointStore`: Bay reads the files of checkpoints itself, for exports, and makes
    checkpoints of files from outside of the backend.
    """

    def checkpoint_path(self, checkpoint_id: str) -> Path:
        """The read-only host directory of a checkpoint, with `workspace` and `machine` in it."""
        ...

    def present_path(self, cargo_id: str) -> Path:
        """The same of a cargo's present files, which may change while they are read."""
        ...

    async def begin_import(
        self, checkpoint_id: str, *, limit_bytes: int | None, origin: str | None = None
    ) -> Path:
        """A new directory for the import's files, empty or a copy of the checkpoint `origin`; `open`
        discards it unless it was kept. Raises NotFound when that checkpoint is absent.
        """
        ...

    async def keep_import(self, checkpoint_id: str) -> None:
        """Make the import the checkpoint, durably. Repeatable. Raises NotFound when none was begun."""

    async def drop_import(self, checkpoint_id: str) -> None:
        """Discard an import; idempotent."""


@runtime_checkable
class CheckpointArchives(Protocol):
    """Optional, beside a `CheckpointStore`: checkpoints leave and come as archives, in the format of exports.
    A backend with `CheckpointFiles` needs none of this.
    """

    def export_archive(
        self, checkpoint_id: str, facts: Manifest, counts: dict[str, int]
    ) -> AsyncGenerator[bytes]:
        """The archive of a checkpoint, with those facts; at the end `counts` has the number of `entries`.
        Raises NotFound, and BadRequest for one that is damaged: then what was given has no end.
        """
        ...

    async def import_archive(
        self,
        cargo_id: str,
        checkpoint_id: str,
        archive: AsyncIterable[bytes],
        *,
        limit_bytes: int | None,
        check: Callable[[Manifest], None],
    ) -> Manifest:
        """Make the archive a checkpoint for that cargo, durably, when `check` raises nothing about its facts,
        which this gives. Raises BadRequest for a damaged or foreign one and StorageFull for more than the
        limit, and leaves nothing then.
        """
        ...


@runtime_checkable
class SizeLimits(Protocol):
    """Optional: a cargo's writers are refused (EDQUOT) beyond its limit."""

    @property
    def enforced(self) -> bool:
        """Whether limits hold on this host."""
        ...

    async def check_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """Raises Conflict when the cargo cannot have that limit, as where sizes only grow. Bay asks before it
        writes down what its owner wants.
        """

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """Change the cargo's limit; None is no limit. Does nothing where limits are not enforced, and leaves
        a cargo that cannot be made smaller as it is. Raises NotFound.
        """

    async def charged(self, cargo_id: str) -> int | None:
        """Bytes that count against the limit, without a measurement; None where limits are not enforced, or
        only a session knows.
        """
        ...


@runtime_checkable
class DiskUsage(Protocol):
    """Optional: cargos and checkpoints are measured."""

    async def weigh(self, ids: Sequence[str]) -> dict[str, Weight]:
        """Weights by id, from a walk of low priority; without ids that are absent or take too long."""
        ...


def checkpoint_store(cargo: CargoStore) -> CheckpointStore:
    """The backend as a `CheckpointStore`. Raises CapabilityNotSupported."""
    if isinstance(cargo, CheckpointStore):
        return cargo
    raise CapabilityNotSupported(
        f"cargo backend {cargo.name} has no checkpoints, and so no restores, forks or templates; copy files with "
        "`bay cp`, or use a Bay that keeps cargos on its host's disk",
        details={"capability": "checkpoints", "available": []},
    )


def checkpoint_files(cargo: CargoStore) -> CheckpointFiles:
    """The backend as `CheckpointFiles`. Raises CapabilityNotSupported."""
    checkpoint_store(cargo)
    if isinstance(cargo, CheckpointFiles):
        return cargo
    raise CapabilityNotSupported(
        f"cargo backend {cargo.name} gives Bay no access to the files of checkpoints, so there are no templates "
        "and no comparisons; checkpoints, restores and forks work",
        details={"capability": "checkpoint_files", "available": ["checkpoints"]},
    )


def machine_layers(cargo: CargoStore) -> MachineLayers:
    """The backend as `MachineLayers`. Raises CapabilityNotSupported."""
    if isinstance(cargo, MachineLayers):
        return cargo
    raise CapabilityNotSupported(
        f"cargo backend {cargo.name} keeps /workspace alone; use a profile with `persist: workspace`",
        details={"capability": "persist", "available": ["workspace"]},
    )
