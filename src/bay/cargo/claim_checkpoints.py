"""Checkpoints of volume claims, as archives in an object store.

Bay's process never sees the files of a claim. Where no session has it, a carrier, a pod without programs,
mounts it and packs or unpacks; while a carrier has a cargo no session has it. Else the session's own Ship
packs, and its programs stand still for as long. So nothing changes in the middle of a copy. The bytes go
through Bay, so that no pod has credentials of the object store. A checkpoint takes as long as a copy of all
files.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog

from bay import __version__
from bay.backoff import Backoff
from bay.cargo.base import PackedFiles, Weight
from bay.cargo.claim_archives import ArchiveManifest, ClaimArchives, archived, members_of, tar_of
from bay.cargo.export_import import CHUNK, checked_stream
from bay.cargo.manifest import Manifest
from bay.cargo.volume_claims import (
    ORIGIN,
    ClaimApi,
    ClaimSettings,
    VolumeClaimCargo,
    claim_name,
    is_terminating,
    metadata_of,
    name_of,
    size_of,
)
from bay.drivers.kubernetes.kube import CLAIM, as_dict
from bay.errors import BadRequest, BayError, DriverUnavailable, InvalidArgument, NotFound, StorageFull
from bay.ids import is_id_of
from bay.models import CheckpointKind
from bay.places import VolumeClaim
from bay.units import MIB

log = structlog.get_logger("bay.cargo")

_GONE = Backoff(0.2, 5.0)
_GONE_S = 60.0


class CarriedFiles(PackedFiles, Protocol):
    """The files of a claim, which nothing else has mounted."""

    async def put_back(self, tar: AsyncGenerator[bytes], *, most_bytes: int, room_bytes: int) -> None:
        """Have the workspace of the tar of an export in the place of the present one, durably. Raises
        StorageFull without that room, BadRequest for a bad tar: then the workspace is as before.
        """


class Carriers(Protocol):
    """The pods that reach the files of claims; one for a cargo at a time."""

    def open(self, cargo_id: str, claim: VolumeClaim) -> AbstractAsyncContextManager[CarriedFiles]:
        """A carrier, which has ended when this is left. Raises Conflict while a session has the claim, and
        DriverUnavailable or SandboxNotReady where no pod starts.
        """
        ...

    async def clear(self, cargo_id: str) -> None:
        """See to it that no carrier of a Bay that has ended has the cargo. Raises DriverUnavailable."""


class ArchivedClaims(VolumeClaimCargo):
    """Volume claims with a `CheckpointStore`, `KindsOfCheckpoints`, and `DiskUsage` of checkpoints."""

    checkpoint_kind: CheckpointKind = "archive"
    seen_kinds: frozenset[CheckpointKind] = frozenset(("archive",))
    _elsewhere = "in the object store; if it is a VolumeSnapshot, set snapshot_class of [kubernetes] again"
    """The end of the answer about a checkpoint that is not there."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[ClaimApi]],
        settings: ClaimSettings,
        archives: ClaimArchives,
        carriers: Carriers,
    ) -> None:
        super().__init__(connect, settings)
        self._archives = archives
        self._carriers = carriers
        self._prepared: dict[str, str] = {}
        """The checkpoint that each cargo is to go back to. A Bay that was killed prepares again."""

    def belong_to(self, database_id: str) -> None:
        super().belong_to(database_id)
        self._archives.database_id = database_id

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        """With `origin` it has the files when this returns, and until then the claim says so."""
        found = None if origin is None else await self._found(cargo_id)
        if origin is None or (
            found is not None and ORIGIN not in as_dict(metadata_of(found).get("annotations"))
        ):
            await super().create(cargo_id, limit_bytes=limit_bytes)
            return
        manifest = await self._known(origin)
        self._check_fits(cargo_id, manifest, limit_bytes)
        await self._make(cargo_id, self._manifest(cargo_id, limit_bytes, origin))
        try:
            await self._put_back(cargo_id, manifest)
        except BayError:
            if found is None:
                await self.remove(cargo_id)
            raise
        made = await self._own(cargo_id)
        done = {"metadata": {"uid": metadata_of(made)["uid"], "annotations": {ORIGIN: None}}}
        await self._kube.patch(CLAIM, name_of(made), done)

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        claim_name(cargo_id)
        await self._carriers.clear(cargo_id)
        await super().fence(cargo_id, sandbox_id, generation, session_id)

    async def settle(self, cargo_id: str) -> None:
        """Nothing: a copy reads what programs see, on the disk or not."""
        claim_name(cargo_id)

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        await self._archive(
            cargo_id, checkpoint_id, lambda: self._carriers.open(cargo_id, self.place(cargo_id))
        )

    async def _archive(
        self,
        cargo_id: str,
        checkpoint_id: str,
        open_files: Callable[[], AbstractAsyncContextManager[PackedFiles]],
    ) -> None:
        claim_name(cargo_id)
        if await self._archives.manifest(checked(checkpoint_id)) is not None:
            return
        await self._own(cargo_id)
        facts = Manifest(bay=__version__, persist="workspace", image="host", created_at=datetime.now(UTC))
        counts: dict[str, int] = {}
        async with (
            open_files() as files,
            aclosing(archived(files.pack(counts), facts)) as archive,
        ):
            await self._archives.write(_wanted(cargo_id, checkpoint_id), archive, counts)

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        """Look whether the checkpoint is there and fits; its files are brought by `restore`, when no session
        has the cargo.
        """
        claim_name(cargo_id)
        manifest = await self._known(checkpoint_id)
        self._check_fits(cargo_id, manifest, limit_bytes)
        await self._wait_gone(cargo_id)
        await super().create(cargo_id, limit_bytes=limit_bytes)
        self._prepared[cargo_id] = checkpoint_id

    async def restore(self, cargo_id: str) -> None:
        claim_name(cargo_id)
        if (checkpoint_id := self._prepared.get(cargo_id)) is None:
            raise NotFound(f"nothing is prepared for cargo {cargo_id}")
        await self._put_back(cargo_id, await self._known(checkpoint_id))
        self._prepared.pop(cargo_id, None)

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        await self._archives.remove(checked(checkpoint_id))

    async def list_checkpoints(self) -> set[str]:
        return await self._archives.ids()

    async def weigh(self, ids: Sequence[str]) -> dict[str, Weight]:
        """Of checkpoints alone, as their manifests say; `exclusive_bytes` are those of the archive."""
        found: dict[str, Weight] = {}
        for one in ids:
            if is_id_of("ckpt", one):
                with suppress(BadRequest):
                    if (manifest := await self._archives.manifest(one)) is not None:
                        found[one] = Weight(
                            used_bytes=manifest.file_bytes,
                            used_inodes=manifest.entries,
                            exclusive_bytes=manifest.size,
                        )
            else:
                claim_name(one)
        return found

    async def _put_back(self, cargo_id: str, manifest: ArchiveManifest) -> None:
        found = await self._own(cargo_id)
        size = max(size_of(found), MIB)
        try:
            async with (
                self._carriers.open(cargo_id, self.place(cargo_id)) as files,
                aclosing(self._archives.read(manifest)) as archive,
                aclosing(tar_of(archive)) as tar,
            ):
                await files.put_back(tar, most_bytes=size, room_bytes=manifest.room_bytes)
        except StorageFull:
            raise _full(cargo_id, manifest) from None

    async def _known(self, checkpoint_id: str) -> ArchiveManifest:
        found = await self._archives.manifest(checked(checkpoint_id))
        if found is None:
            raise self._missing(checkpoint_id)
        return found

    def _missing(self, checkpoint_id: str) -> NotFound:
        return NotFound(f"there is no checkpoint {checkpoint_id} {self._elsewhere}")

    def _check_fits(self, cargo_id: str, manifest: ArchiveManifest, limit_bytes: int | None) -> None:
        if manifest.file_bytes > self._rounded(limit_bytes):
            raise _full(cargo_id, manifest)

    async def _wait_gone(self, cargo_id: str) -> None:
        """Return once a claim that was removed has gone, which pods that end may hold up for a while."""
        try:
            async with asyncio.timeout(_GONE_S):
                for attempt in itertools.count(1):
                    found = await self._found(cargo_id)
                    if found is None or not is_terminating(found):
                        return
                    await asyncio.sleep(_GONE.pause(attempt))
        except TimeoutError as error:
            raise DriverUnavailable(
                f"the former volume claim of cargo {cargo_id} is still there, since a pod uses it; try again later"
            ) from error


class ClaimCheckpoints(ArchivedClaims):
    """The same with `CopiesBySessions` and `CheckpointArchives`."""

    copies_by_sessions: Literal[True] = True
    _beside_others = False

    async def open(self, *, beside_others: bool = False) -> None:
        self._beside_others = beside_others
        await super().open(beside_others=beside_others)

    async def run(self) -> None:
        """Remove once what imports have left that a Bay did not survive; other Bays may be importing."""
        if not self._beside_others:
            try:
                await self._archives.remove_unfinished()
            except BayError as error:  # the next start tries again
                log.warning("checkpoint.parts_stay", error=error.message)
        await super().run()

    async def checkpoint_by_session(self, cargo_id: str, checkpoint_id: str, files: PackedFiles) -> None:
        await self._archive(cargo_id, checkpoint_id, lambda: nullcontext(files))

    async def export_archive(
        self, checkpoint_id: str, facts: Manifest, counts: dict[str, int]
    ) -> AsyncGenerator[bytes]:
        """See `CheckpointArchives`. It is compressed anew, since its facts are at its beginning."""
        manifest = await self._known(checkpoint_id)
        async with (
            aclosing(self._archives.read(manifest)) as archive,
            aclosing(tar_of(archive)) as tar,
            aclosing(members_of(tar)) as members,
            aclosing(archived(members, facts)) as chunks,
        ):
            async for chunk in chunks:
                for at in range(0, len(chunk), CHUNK):
                    yield chunk[at : at + CHUNK]
        counts["entries"] = manifest.entries

    async def import_archive(
        self,
        cargo_id: str,
        checkpoint_id: str,
        archive: AsyncIterable[bytes],
        *,
        limit_bytes: int | None,
        check: Callable[[Manifest], None],
    ) -> Manifest:
        """See `CheckpointArchives`. A process reads it on its way to the object store."""
        claim_name(cargo_id)
        checked(checkpoint_id)
        facts: list[Manifest] = []
        counts: dict[str, int] = {}

        async def looked_at() -> AsyncGenerator[bytes]:
            stream = checked_stream(archive, facts, counts, self._rounded(limit_bytes))
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    yield chunk
            check(facts[0])

        async with aclosing(looked_at()) as chunks:
            await self._archives.write(_wanted(cargo_id, checkpoint_id), chunks, counts)
        return facts[0]


def _wanted(cargo_id: str, checkpoint_id: str) -> ArchiveManifest:
    """The manifest, before it is known what the archive is."""
    return ArchiveManifest(
        bay=__version__, checkpoint_id=checkpoint_id, cargo_id=cargo_id, sha256="", size=0, file_bytes=0, entries=0,
        parts=(),
    )  # fmt: skip


def checked(checkpoint_id: str) -> str:
    """The id of a checkpoint. Raises InvalidArgument for what is none."""
    if not is_id_of("ckpt", checkpoint_id):
        raise InvalidArgument(f"{checkpoint_id!r} is not the id of a checkpoint")
    return checkpoint_id


def _full(cargo_id: str, manifest: ArchiveManifest) -> StorageFull:
    return StorageFull(
        f"cargo {cargo_id} has no room beside its present files for the {manifest.file_bytes // MIB + 1} MiB of checkpoint "
        f"{manifest.checkpoint_id}; delete files, give it a larger disk_mb, or make a sandbox from the checkpoint"
    )
