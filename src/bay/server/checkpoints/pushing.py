"""The pusher takes checkpoints to the object store, and removes what pushes have left there.

A push is a row in state `pushing`: a Bay that ends begins it again when it starts. A deleted row cancels it.
The row keeps the files of its checkpoint, also of one that is deleted meanwhile.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from bay import __version__
from bay.backoff import Backoff
from bay.cargo.base import CargoStore, CheckpointArchives, CheckpointFiles
from bay.cargo.checkpoint_archives import checkpoint_archives
from bay.cargo.manifest import Manifest
from bay.clock import Clock
from bay.errors import BayError, DatabaseUnavailable, InternalError, NotFound
from bay.object_store.manifest import PushManifest
from bay.server.checkpoints.bucket import CheckpointBucket
from bay.server.sessions.notifier import Notifier
from bay.store import checkpoints, pushes, sandboxes
from bay.store.engine import Store
from bay.store.records import CheckpointRecord, KeptFailure, PushRecord

log = structlog.get_logger("bay.pushes")

_PLACES = 2
_ATTEMPTS = 6
_BACKOFF = Backoff(2.0, 120.0)
_AGAIN_S = 5.0
"""After a failure of Bay's own database."""
_COLLECT_S = 300.0
_KEPT = timedelta(days=7)
"""How long a push that failed is shown."""


class _NoLongerWanted(Exception):
    """The push was deleted."""


@dataclass(kw_only=True, eq=False)
class Pusher:
    """Works until it is cancelled."""

    store: Store
    cargo: CargoStore
    bucket: CheckpointBucket
    notifier: Notifier
    clock: Clock
    discard: Callable[[], None]
    """Called when a checkpoint's files may be garbage."""
    poked: asyncio.Event
    """Set when a row has changed."""
    _pushes: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict[str, asyncio.Task[None]])

    def poke(self) -> None:
        """A row has changed."""
        self.poked.set()

    async def run(self) -> None:
        """Work until cancelled, where there is a store, and Bay has the archives of checkpoints."""
        if not self.bucket.is_on or not isinstance(self.cargo, CheckpointFiles | CheckpointArchives):
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect_often())
            while True:
                self.poked.clear()
                wait_s = await self._looked(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self.poked.wait()

    async def collect(self) -> None:
        """Remove once what pushes that failed, or were deleted, have left. Raises as the store does."""
        async with self.store.read() as db:
            found = await pushes.littered(db)
        for push in found:
            if push.checkpoint_id in self._pushes:
                continue
            await self.clear(push)
        async with self.store.write() as db:
            await pushes.forget(db, self.clock() - _KEPT)

    async def clear(self, push: PushRecord) -> None:
        """Remove what a push that is over has left; of a deleted one all. Raises as the store does."""
        act = self.bucket.sweep if push.deleted_at is None else self.bucket.remove
        await act(push.owner, push.checkpoint_id)
        async with self.store.write() as db:
            await pushes.cleared(db, push.checkpoint_id)

    async def _looked(self, group: asyncio.TaskGroup) -> float | None:
        try:
            return await self._look(group)
        except BayError as error:
            log.warning("pushes.not_read", error=error.message)
        except Exception:
            log.exception("pushes.not_read")
        return _AGAIN_S

    async def _look(self, group: asyncio.TaskGroup) -> float | None:
        async with self.store.read() as db:
            wanted = await pushes.wanted(db)
        now = self.clock()
        idle = [push for push in wanted if push.checkpoint_id not in self._pushes]
        due = [push for push in idle if push.retry_at is None or push.retry_at <= now]
        for push in due[: max(0, _PLACES - len(self._pushes))]:
            task = self._pushes[push.checkpoint_id] = group.create_task(self._push(push))
            task.add_done_callback(lambda _, checkpoint_id=push.checkpoint_id: self._ended(checkpoint_id))
        later = [push.retry_at for push in idle if push.retry_at is not None and push.retry_at > now]
        return (min(later) - now).total_seconds() if later else None

    def _ended(self, checkpoint_id: str) -> None:
        del self._pushes[checkpoint_id]
        self.poke()

    async def _push(self, push: PushRecord) -> None:
        try:
            await self._bring(push)
        except _NoLongerWanted:
            await self._try_to_clear(push.checkpoint_id)
        except DatabaseUnavailable as error:  # no fault of the push, which begins again after a while
            log.warning("push.waits", id=push.checkpoint_id, error=error.message)
            await asyncio.sleep(_AGAIN_S)
        except BayError as error:
            await self._give_up(push, error)
        except Exception:
            log.exception("push.broken", id=push.checkpoint_id)
            await self._give_up(push, InternalError("Bay failed on an internal error; see its log"))

    async def _bring(self, push: PushRecord) -> None:
        manifest = await self.bucket.manifest(push.owner, push.checkpoint_id)
        # Before it begins too: parts of an attempt that Bay did not survive would never be found again.
        await self.bucket.sweep(push.owner, push.checkpoint_id)
        if manifest is None:
            manifest = await self._write(push)
            await self.bucket.sweep(push.owner, push.checkpoint_id)
        async with self.store.write() as db:
            is_kept = await pushes.end(
                db, push.checkpoint_id, state="ready", bytes=manifest.size, is_littered=False
            )
        if not is_kept:
            raise _NoLongerWanted
        log.info("push.ready", id=push.checkpoint_id, bytes=manifest.size)
        self._wake(push.checkpoint_id)

    async def _write(self, push: PushRecord) -> PushManifest:
        async with self.store.read() as db:
            record = await checkpoints.get(db, push.checkpoint_id)
            sandbox = await sandboxes.get(db, record.sandbox_id) if record else None
        if record is None or record.state != "ready":
            raise NotFound(f"the files of checkpoint {push.checkpoint_id} are gone")
        writer = self.bucket.begin(push.owner, push.checkpoint_id)
        counts: dict[str, int] = {}
        facts = facts_of(record)
        archives = checkpoint_archives(self.cargo)
        async with aclosing(archives.export_archive(record.id, facts, counts)) as chunks:
            async for chunk in chunks:
                if await writer.add(chunk):
                    await self._note(push.checkpoint_id, writer.bytes)
        await writer.finish()
        await self._note(push.checkpoint_id, writer.bytes)
        manifest = PushManifest(
            bay=__version__, checkpoint_id=record.id, sandbox_id=record.sandbox_id, sandbox_name=sandbox and sandbox.name,
            name=record.name, comment=record.comment, persist=record.persist, image=record.image,
            created_at=record.created_at, pushed_at=self.clock(), sha256=writer.sha256, size=writer.bytes,
            files=counts["entries"], parts=tuple(writer.parts),
        )  # fmt: skip
        return await self.bucket.publish(push.owner, manifest)

    async def _note(self, checkpoint_id: str, size: int) -> None:
        async with self.store.write() as db:
            is_wanted = await pushes.note(db, checkpoint_id, size)
        if not is_wanted:
            raise _NoLongerWanted
        self.notifier.announce(checkpoint_id)

    async def _give_up(self, push: PushRecord, error: BayError) -> None:
        try:
            await self._failed(push, error)
        except Exception:
            log.exception("push.failure_not_written", id=push.checkpoint_id)  # it begins again after a while
            await asyncio.sleep(_AGAIN_S)

    async def _failed(self, push: PushRecord, error: BayError) -> None:
        now, attempts = self.clock(), push.attempts + 1
        is_over = not error.retryable or attempts >= _ATTEMPTS
        retry_at = None if is_over else now + timedelta(seconds=_BACKOFF.pause(attempts))
        log.warning(
            "push.failed", id=push.checkpoint_id, code=error.code, error=error.message, again=not is_over
        )
        async with self.store.write() as db:
            await pushes.end(
                db, push.checkpoint_id, failure=KeptFailure.of(error, now), state="failed" if is_over else "pushing",
                attempts=attempts, retry_at=retry_at, bytes=0,
            )  # fmt: skip
        self._wake(push.checkpoint_id)
        if is_over:
            await self._try_to_clear(push.checkpoint_id)

    async def _try_to_clear(self, checkpoint_id: str) -> None:
        async with self.store.read() as db:
            push = await pushes.get(db, checkpoint_id)
        if push is None or (push.state == "pushing" and push.deleted_at is None):
            return  # it is wanted again
        try:
            await self.clear(push)
        except BayError as error:
            log.warning("push.litter_stays", id=checkpoint_id, error=error.message)
        self._wake(checkpoint_id)

    def _wake(self, checkpoint_id: str) -> None:
        self.notifier.announce(checkpoint_id)
        self.discard()

    async def _collect_often(self) -> None:
        while True:
            try:
                await self.collect()
            except BayError as error:
                log.warning("pushes.not_collected", error=error.message)
            except Exception:
                log.exception("pushes.collection_failed")
            await asyncio.sleep(_COLLECT_S)


def facts_of(record: CheckpointRecord) -> Manifest:
    """The first member of a checkpoint's archive."""
    return Manifest(
        bay=__version__, persist=record.persist, image=record.image, created_at=record.created_at,
        name=record.name, comment=record.comment, sandbox_id=record.sandbox_id,
    )  # fmt: skip
