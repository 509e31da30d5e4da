"""The checkpoint service: make, list, restore, delete, export and import checkpoints of a sandbox."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from bay.cargo.base import CargoStore, CheckpointArchives, CheckpointFiles, checkpoint_files, checkpoint_store
from bay.cargo.checkpoint_archives import checkpoint_archives
from bay.cargo.manifest import Manifest
from bay.cargo.tree_diff import TreePair, tree_changes
from bay.cargo.tree_file import read_file
from bay.clock import Clock
from bay.errors import BadRequest, Conflict, InvalidArgument
from bay.ids import is_name
from bay.models import Checkpoint, FileChange, Sandbox, to_wire
from bay.server.checkpoints import policy
from bay.server.checkpoints.pushing import facts_of
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.sessions.core import Core
from bay.server.sessions.memory import check_can_restore, check_can_save
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.waker import Holds, Waker
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.open_connections import one_place
from bay.server.web.replies import begun
from bay.server.web.workspace_paths import sandbox_path
from bay.store import audit, cargos, checkpoints, events, sandboxes
from bay.store.engine import Store
from bay.store.lost_commits import may_be_there
from bay.store.records import CheckpointRecord, Page, SandboxRecord
from bay.units import MIB

_MAX_COMMENT = 4096
_MAX_TRANSFERS = 4
"""Exports, imports and comparisons of one owner at once: each is a process and a file system's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCheckpoint:
    """The parameters of a create."""

    name: str | None = None
    comment: str | None = None
    memory: bool = False


@dataclass(eq=False, kw_only=True)
class Checkpoints:
    """The service behind `…/checkpoints`. None of it needs compute, and only a restore changes what runs."""

    core: Core
    store: Store
    waker: Waker
    snapshots: CheckpointRequests
    cargo: CargoStore
    holds: Holds
    quotas: Quotas
    discard: Callable[[], None]
    view: Callable[[SandboxRecord], Sandbox]
    clock: Clock
    _transfers: Counter[str] = field(init=False, default_factory=Counter[str])

    async def create(
        self, caller: Caller, ref: str, new: NewCheckpoint, idempotency_key: str | None
    ) -> Checkpoint:
        """A checkpoint of the files as they are now, or also of the memory. Raises Conflict when its name is
        taken, or the memory cannot be saved, StorageFull, QuotaExceeded for memory, and
        CapabilityNotSupported where the cargo backend has no checkpoints, or the sandbox no memory that can
        be saved.
        """
        sandbox = await self._find(caller, ref)
        checkpoint_store(self.cargo)
        _check(new)
        call = f"POST /v1/sandboxes/{sandbox.id}/checkpoints"
        request = idempotency.request(caller, idempotency_key, call, to_wire(new))
        if new.memory:
            async with self.store.write() as db:
                if request is None or await request.earlier(db) is None:
                    check_can_save(self.core, sandbox)
                    await self.quotas.admit_files(db, caller)
        wanted = policy.asked(sandbox, self.clock(), name=new.name, comment=new.comment, memory=new.memory)
        made = await self.snapshots.make(sandbox, wanted, request)
        return _view(made, (await self.waker.find(caller, sandbox.id)).checkpoint_id)

    async def page(
        self, caller: Caller, ref: str, *, auto: bool | None, after: int, limit: int
    ) -> Page[Checkpoint]:
        """Part of the sandbox's checkpoints, oldest first."""
        sandbox = await self.waker.find(caller, ref)
        async with self.store.read() as db:
            found = await checkpoints.page(db, sandbox.id, auto=auto, after=after, limit=limit)
        items = tuple(_view(record, sandbox.checkpoint_id) for record in found.items)
        return Page(items=items, next_cursor=found.next_cursor)

    async def page_of_owner(
        self, caller: Caller, sandbox: str | None, *, ref: str | None, after: int, limit: int
    ) -> Page[Checkpoint]:
        """Part of the caller's checkpoints, of one sandbox or of all, of the id or name `ref` or all, oldest
        first.
        """
        sandbox_id = None if sandbox is None else (await self.waker.find(caller, sandbox)).id
        async with self.store.read() as db:
            found = await checkpoints.page_of_owner(
                db, caller.owner, sandbox_id=sandbox_id, ref=ref, after=after, limit=limit
            )
        items = tuple(_view(record, record.id if current else None) for record, current in found.items)
        return Page(items=items, next_cursor=found.next_cursor)

    async def get(self, caller: Caller, ref: str, checkpoint: str | int) -> Checkpoint:
        """One checkpoint, by id or name, or by number."""
        sandbox = await self.waker.find(caller, ref)
        return _view(await self.snapshots.find(sandbox, checkpoint), sandbox.checkpoint_id)

    async def changes(
        self, caller: Caller, ref: str, checkpoint: str, to: str | None, *, after: int, limit: int
    ) -> Page[FileChange]:
        """Part of the differences between a checkpoint and another of the sandbox, or its present files.
        Raises QuotaExceeded, Timeout, BadRequest for trees too large to compare, and CapabilityNotSupported.
        """
        sandbox = await self.waker.find(caller, ref)
        files = checkpoint_files(self.cargo)
        with ExitStack() as stack:
            stack.enter_context(self._transferring(caller.owner))
            before = await self._held(stack, files, sandbox, checkpoint)
            present = files.present_path(sandbox.cargo_id)
            later = present if to is None else await self._held(stack, files, sandbox, to)
            found = await tree_changes(_pairs(before, later), skip=after, limit=limit + 1)
        cursor = after + limit if len(found) > limit else None
        return Page(items=tuple(found[:limit]), next_cursor=cursor)

    async def file(self, caller: Caller, ref: str, checkpoint: str, path: str) -> bytes:
        """The bytes of one file of a checkpoint. Raises FileMissing, PayloadTooLarge, InvalidPath,
        QuotaExceeded and CapabilityNotSupported.
        """
        sandbox = await self.waker.find(caller, ref)
        files = checkpoint_files(self.cargo)
        with ExitStack() as stack:
            stack.enter_context(self._transferring(caller.owner))
            top = await self._held(stack, files, sandbox, checkpoint)
            return await asyncio.to_thread(read_file, top, sandbox_path(path))

    async def _held(
        self, stack: ExitStack, files: CheckpointFiles, sandbox: SandboxRecord, checkpoint: str
    ) -> Path:
        """The directory of a checkpoint, which stays until `stack` ends."""
        record = await self.snapshots.find(sandbox, checkpoint)
        stack.callback(self.discard)
        stack.enter_context(self.holds.hold(record.id))
        record = await self.snapshots.find(sandbox, record.id)  # held from here on
        return files.checkpoint_path(record.id)

    async def delete(self, caller: Caller, ref: str, checkpoint: str | int) -> None:
        """Remove a checkpoint; idempotent. Forks of it stay. Raises NotFound, Conflict during a restore."""
        sandbox = await self.waker.find(caller, ref)
        async with self.store.write() as db:
            found = await checkpoints.find(db, sandbox.id, checkpoint)
            known = found or (await checkpoints.get(db, checkpoint) if isinstance(checkpoint, str) else None)
            if known is not None and known.sandbox_id == sandbox.id and known.deleted_at is not None:
                return
            found = found or await self.snapshots.find(sandbox, checkpoint)
            present = await sandboxes.get(db, sandbox.id)
            if present is not None and present.restore_id == found.id:
                raise Conflict(f"checkpoint {checkpoint} is being restored; delete it after the restore")
            await checkpoints.hide(db, [found.id], self.clock())
            await events.add(db, sandbox, "sandbox.checkpoint_deleted", self.clock(), checkpoint_id=found.id)
        audit.about(found.id)
        self.discard()

    async def restore(
        self, caller: Caller, ref: str, checkpoint: str | int, *, memory: bool | None = None
    ) -> Sandbox:
        """Restore one of the caller's checkpoints. Programs end, and compute that was there starts again:
        with `memory`, or if the checkpoint has some and None is given, as it was then.
        When it fails all is as before. Raises Conflict while another restore is under way, and when the cargo
        is in use in another sandbox, and CapabilityNotSupported where the cargo backend has no checkpoints.
        """
        sandbox = await self._find(caller, ref)
        checkpoint_store(self.cargo)
        found = await self.snapshots.restorable(sandbox, checkpoint)
        if memory is None:
            memory = found.kind == "memory"
        if memory:
            await check_can_restore(self.core, sandbox, found)
        await self.snapshots.restore(sandbox, found, memory=memory)
        return self.view(await self.waker.find(caller, sandbox.id))

    @asynccontextmanager
    async def export(
        self, caller: Caller, ref: str, checkpoint: str
    ) -> AsyncGenerator[tuple[Checkpoint, AsyncIterator[bytes]], None]:
        """The checkpoint, kept while it is read, and a stream of its archive. Raises QuotaExceeded, and
        CapabilityNotSupported where Bay has no archives of checkpoints.
        """
        sandbox = await self.waker.find(caller, ref)
        archives = checkpoint_archives(self.cargo)
        record = await self.snapshots.find(sandbox, checkpoint)
        with self._transferring(caller.owner), self.holds.hold(record.id):
            try:
                record = await self.snapshots.find(sandbox, record.id)  # held from here on
                facts = facts_of(record)
                async with aclosing(archives.export_archive(record.id, facts, {})) as chunks:
                    yield _view(record, sandbox.checkpoint_id), await begun(chunks)
            finally:
                self.discard()

    async def import_(
        self, caller: Caller, ref: str, new: NewCheckpoint, body: AsyncIterator[bytes],
        check: Callable[[Manifest], None] = lambda _: None,
    ) -> Checkpoint:  # fmt: skip
        """A checkpoint from an export of any Bay, when `check` raises nothing about it. Raises BadRequest,
        StorageFull, QuotaExceeded, Conflict when there is no room or name for it, and CapabilityNotSupported
        where Bay has no archives of checkpoints.
        """
        sandbox = await self._find(caller, ref)
        archives = checkpoint_archives(self.cargo)
        _check(new)
        wanted = policy.asked(sandbox, self.clock(), name=new.name, comment=new.comment)
        async with self.store.write() as db:
            await self.quotas.admit_files(db, caller)
            await self.snapshots.admit(db, sandbox, new.name)
            limit_mb = (await cargos.get(db, sandbox.cargo_id)).size_limit_mb
        with self._transferring(caller.owner):
            limit = None if limit_mb is None else limit_mb * MIB
            made = await self._import(archives, sandbox, wanted, body, limit, check)
        return _view(made, sandbox.checkpoint_id)

    async def _import(
        self, archives: CheckpointArchives, sandbox: SandboxRecord, wanted: CheckpointRecord,
        body: AsyncIterator[bytes], limit: int | None, check: Callable[[Manifest], None],
    ) -> CheckpointRecord:  # fmt: skip
        try:
            facts = await archives.import_archive(
                sandbox.cargo_id, wanted.id, body, limit_bytes=limit, check=check
            )
            return await self._imported(sandbox, wanted, facts)
        except BaseException as error:
            await asyncio.shield(self._drop(wanted.id, error))
            raise

    async def _drop(self, checkpoint_id: str, error: BaseException) -> None:
        if not await may_be_there(self.store, error, lambda db: checkpoints.get(db, checkpoint_id)):
            await checkpoint_store(self.cargo).remove_checkpoint(checkpoint_id)

    async def _imported(
        self, sandbox: SandboxRecord, wanted: CheckpointRecord, facts: Manifest
    ) -> CheckpointRecord:
        made = replace(
            wanted, persist=facts.persist, image=facts.image, comment=wanted.comment or facts.comment,
            image_id=sandbox.image_id if facts.image == sandbox.image else None,
            parent_id=None, state="ready", created_at=facts.created_at,
        )  # fmt: skip
        try:
            async with self.store.write() as db:
                await self.snapshots.admit(db, sandbox, made.name)
                made = await checkpoints.add(db, made)
                await events.add(
                    db, sandbox, "sandbox.checkpointed", self.clock(), checkpoint_id=made.id, auto=False
                )
        except IntegrityError as error:
            raise Conflict(
                f"sandbox {sandbox.id} has a checkpoint named {made.name}; choose another"
            ) from error
        audit.about(made.id)
        return made

    def _transferring(self, owner: str) -> AbstractContextManager[None]:
        doing = (
            "exports, imports and comparisons of this owner are in progress, the limit; wait for one to end"
        )
        return one_place(self._transfers, owner, _MAX_TRANSFERS, doing)

    async def _find(self, caller: Caller, ref: str) -> SandboxRecord:
        sandbox = await self.waker.find(caller, ref)
        self.waker.refuse_expired(sandbox)
        return sandbox


def _pairs(before: Path, after: Path) -> list[TreePair]:
    """The workspaces, and the layers of those whose machines are kept."""
    machines = TreePair("/", before / "machine" / "upper", after / "machine" / "upper", is_layer=True)
    return [machines, TreePair("/workspace", before / "workspace", after / "workspace")]


def _view(record: CheckpointRecord, current: str | None) -> Checkpoint:
    return Checkpoint(
        id=record.id, sandbox_id=record.sandbox_id, number=record.number or 0, name=record.name, comment=record.comment,
        created_at=record.created_at, kind=record.kind, auto=record.auto, parent_id=record.parent_id,
        current=record.id == current, persist=record.persist, size_bytes=record.size_bytes,
        memory_bytes=record.memory_bytes,
        exclusive_bytes=record.exclusive_bytes, inodes=record.inodes, measured_at=record.measured_at,
    )  # fmt: skip


def _check(new: NewCheckpoint) -> None:
    if new.name is not None and not is_name(new.name):
        raise InvalidArgument(
            "a name must have 1 to 63 characters of a-z, 0-9 and inner hyphens, and must not look like an id"
        )
    if new.comment is not None and (len(new.comment) > _MAX_COMMENT or "\0" in new.comment):
        raise BadRequest(f"a comment may have at most {_MAX_COMMENT} characters and no NUL")
