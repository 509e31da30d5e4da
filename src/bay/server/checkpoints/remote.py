"""The service of remote checkpoints: pushes to the object store, a list of them, deletes and pulls."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from bay.cargo.base import CargoStore
from bay.cargo.checkpoint_archives import checkpoint_archives
from bay.cargo.manifest import Manifest
from bay.clock import Clock
from bay.errors import BadRequest, NotFound
from bay.ids import is_id_of
from bay.models import Checkpoint, Failure, RemoteCheckpoint
from bay.object_store.manifest import PushManifest
from bay.server.checkpoints.bucket import CheckpointBucket
from bay.server.checkpoints.pushing import Pusher
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.checkpoints.service import Checkpoints, NewCheckpoint
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import audit, checkpoints, pushes, sandboxes
from bay.store.engine import Store
from bay.store.records import CheckpointRecord, Page, PushRecord, SandboxRecord

_READS = 8
"""Manifests read at once for a page."""
_DIGITS = 12
"""Of an id, which a cursor has as a number."""


@dataclass(kw_only=True, eq=False)
class RemoteCheckpoints:
    """The service behind `…/checkpoints/…/push`, `…/checkpoints/pull` and `/v1/remote-checkpoints`."""

    store: Store
    waker: Waker
    cargo: CargoStore
    snapshots: CheckpointRequests
    checkpoints: Checkpoints
    bucket: CheckpointBucket
    pusher: Pusher
    notifier: Notifier
    quotas: Quotas
    clock: Clock

    async def push(self, caller: Caller, ref: str, checkpoint: str, wait_s: float) -> RemoteCheckpoint:
        """Have a checkpoint in the object store; answers at once, or with `wait_s` when the push has ended.
        Idempotent. Raises NotFound, Conflict without an object store, QuotaExceeded, and
        CapabilityNotSupported where Bay has no archives of checkpoints.
        """
        self.bucket.check_on()
        sandbox = await self.waker.find(caller, ref)
        checkpoint_archives(self.cargo)
        record = await self.snapshots.find(sandbox, checkpoint)
        audit.about(record.id)
        if (there := await self._ready(caller.owner, record.id)) is not None:
            return _of_manifest(there)
        async with self.store.write() as db:
            present = await checkpoints.find(db, sandbox.id, record.id)
            if present is None:  # from here on the row keeps its files
                raise NotFound(f"there is no checkpoint {checkpoint} of sandbox {sandbox.id}")
            before = await pushes.get(db, record.id)
            if before is None or before.state != "pushing" or before.deleted_at is not None:
                await self.quotas.admit_files(db, caller)
            wanted = PushRecord(
                checkpoint_id=record.id, owner=caller.owner, is_littered=True, created_at=self.clock()
            )
            await pushes.want(db, wanted)
        self.pusher.poke()
        await self._waited(record.id, wait_s)
        return await self.get(caller, record.id, 0)

    async def get(self, caller: Caller, key: str, wait_s: float) -> RemoteCheckpoint:
        """One of the caller's, by its key; with `wait_s` once its push has ended. Raises NotFound."""
        self.bucket.check_on()
        _check_key(key)
        await self._waited(key, wait_s)
        async with self.store.read() as db:
            push = await pushes.get(db, key)
        if (
            push is not None
            and push.owner == caller.owner
            and push.deleted_at is None
            and push.state != "ready"
        ):
            return await self._of_push(push)
        return _of_manifest(await self._manifest(caller, key))

    async def page(
        self, caller: Caller, sandbox: str | None, *, after: int, limit: int
    ) -> Page[RemoteCheckpoint]:
        """Part of the caller's, by key: those of the store, whichever Bay pushed them, and those on their
        way there. With `sandbox`, the id or name of the sandbox that they were made of, those alone.
        """
        self.bucket.check_on()
        start = f"ckpt-{after:0{_DIGITS}x}{'f' * _DIGITS}" if after else ""
        there = await self.bucket.ids(caller.owner, after=start, limit=limit + 1)
        async with self.store.read() as db:
            here = {p.checkpoint_id: p for p in await pushes.unfinished(db, caller.owner)}
        keys = sorted({key for key in (*there, *here) if key > start and is_id_of("ckpt", key)})
        places = asyncio.Semaphore(_READS)

        async def one(key: str) -> RemoteCheckpoint | None:
            if key in here:
                return await self._of_push(here[key])
            async with places:
                return await self._listed(caller.owner, key)

        found = [item for item in await asyncio.gather(*map(one, keys[:limit])) if item is not None]
        items = tuple(item for item in found if sandbox in (None, item.sandbox_id, item.sandbox_name))
        return Page(items=items, next_cursor=_number(keys[limit - 1]) if len(keys) > limit else None)

    async def delete(self, caller: Caller, key: str) -> None:
        """Remove one of the caller's from the object store, and cancel its push. Raises NotFound."""
        self.bucket.check_on()
        _check_key(key)
        async with self.store.write() as db:
            push = await pushes.get(db, key)
            own = push if push is not None and push.owner == caller.owner else None
            if own is not None:
                await pushes.hide(db, key, self.clock())
        if own is None:
            await self._any_manifest(caller, key)
        audit.about(key)
        await self.bucket.remove(caller.owner, key)
        if own is not None and own.state != "pushing":  # else the pusher may write a part after this
            async with self.store.write() as db:
                await pushes.cleared(db, key)
        self.notifier.announce(key)
        self.pusher.poke()

    async def pull(self, caller: Caller, ref: str, key: str, new: NewCheckpoint) -> Checkpoint:
        """A checkpoint of the sandbox from the caller's object of that key. Raises NotFound, BadRequest for
        one that is damaged, StorageFull, QuotaExceeded, Conflict when its name is taken, and
        CapabilityNotSupported where Bay has no archives of checkpoints.
        """
        self.bucket.check_on()
        sandbox = await self.waker.find(caller, ref)
        checkpoint_archives(self.cargo)
        _check_key(key)
        manifest = await self._manifest(caller, key)

        def check(facts: Manifest) -> None:
            said = manifest.persist, manifest.image, manifest.sandbox_id, manifest.created_at
            if said != (facts.persist, facts.image, facts.sandbox_id, facts.created_at):
                raise BadRequest(
                    f"the archive of {key} is not the one of its manifest; push the checkpoint again"
                )

        async with aclosing(self.bucket.archive(caller.owner, manifest)) as body:
            return await self.checkpoints.import_(caller, sandbox.id, new, body, check)

    async def _ready(self, owner: str, key: str) -> PushManifest | None:
        """The manifest, if the row says that it is there, and it is."""
        async with self.store.read() as db:
            push = await pushes.get(db, key)
        if push is None or push.state != "ready" or push.deleted_at is not None:
            return None
        found = await self.bucket.manifest(owner, key)
        if found is None:  # it was removed behind Bay's back
            async with self.store.write() as db:
                await pushes.hide(db, key, self.clock())
        return found

    async def _manifest(self, caller: Caller, key: str) -> PushManifest:
        found = await self.bucket.manifest(caller.owner, key)
        if found is None:
            raise NotFound(f"there is no remote checkpoint {key}; see `bay checkpoint remote`")
        audit.about(key)
        return found

    async def _any_manifest(self, caller: Caller, key: str) -> None:
        """Raises NotFound when nothing is there, not even a damaged manifest."""
        try:
            await self._manifest(caller, key)
        except BadRequest:
            return

    async def _listed(self, owner: str, key: str) -> RemoteCheckpoint | None:
        try:
            found = await self.bucket.manifest(owner, key)
        except BadRequest:  # it would hide all others of the page
            return None
        return None if found is None else _of_manifest(found)

    async def _waited(self, key: str, wait_s: float) -> None:
        async def ended() -> bool | None:
            async with self.store.read() as db:
                found = await pushes.get(db, key)
            return None if found and found.state == "pushing" and found.deleted_at is None else True

        if wait_s:
            await self.notifier.wait_for(key, ended, wait_s)

    async def _of_push(self, push: PushRecord) -> RemoteCheckpoint:
        async with self.store.read() as db:
            record = await checkpoints.get(db, push.checkpoint_id)
            sandbox = await sandboxes.get(db, record.sandbox_id) if record else None
        if record is None:
            raise NotFound(f"there is no remote checkpoint {push.checkpoint_id}")
        return _of_row(push, record, sandbox)


def _of_manifest(found: PushManifest) -> RemoteCheckpoint:
    return RemoteCheckpoint(
        key=found.checkpoint_id, state="ready", sandbox_id=found.sandbox_id, sandbox_name=found.sandbox_name,
        name=found.name, comment=found.comment, persist=found.persist, image=found.image, created_at=found.created_at,
        bytes=found.size, sha256=found.sha256, files=found.files, pushed_at=found.pushed_at, bay=found.bay,
    )  # fmt: skip


def _of_row(push: PushRecord, record: CheckpointRecord, sandbox: SandboxRecord | None) -> RemoteCheckpoint:
    failure = push.failure
    return RemoteCheckpoint(
        key=record.id, state=push.state, sandbox_id=record.sandbox_id, sandbox_name=sandbox and sandbox.name,
        name=record.name, comment=record.comment, persist=record.persist, image=record.image,
        created_at=record.created_at, bytes=push.bytes, attempts=push.attempts,
        error=failure and Failure(code=failure.code, message=failure.message, at=failure.at),
    )  # fmt: skip


def _number(key: str) -> int:
    return int(key.removeprefix("ckpt-")[:_DIGITS], 16)


def _check_key(key: str) -> None:
    if not is_id_of("ckpt", key):
        raise NotFound(f"there is no remote checkpoint {key}; a key is the id of a checkpoint, as `ckpt-…`")
