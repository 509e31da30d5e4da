"""The reconciler's steps on files, with the sandbox's key held, so that no two happen at once to one sandbox.

Each may be repeated after a crash: the row says what is wanted until it is done.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

import structlog

from bay.cargo.base import (
    CargoStore,
    CheckpointsInTwoSteps,
    CopiesBySessions,
    PackedFiles,
    SizeLimits,
    checkpoint_store,
)
from bay.clock import Clock
from bay.drivers.base import Driver, Handle, MemoryNotSaved, SavesMemory, freezer
from bay.errors import BayError, Conflict, DatabaseUnavailable, NotFound, SandboxExpired
from bay.models import to_wire
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.rows import handle_of, peer_of
from bay.server.ship.carriers import session_files
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.store import cargos, checkpoints, claims, events, sandboxes
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import (
    KEPT_FAILURES,
    CargoRecord,
    CheckpointRecord,
    KeptFailure,
    RestoreFailure,
    SandboxRecord,
)
from bay.units import MIB

log = structlog.get_logger("bay.checkpoints")

_COPIES = 4
_TURN_LOOK_S = 2.0


class StorageSteps:
    """Makes cargos, makes and restores checkpoints; calls `discard` when files may have become garbage."""

    def __init__(
        self,
        *,
        store: Store,
        driver: Driver,
        cargo: CargoStore,
        clock: Clock,
        notifier: Notifier,
        discard: Callable[[], None],
        ship: ShipClient,
        files_of: Callable[[Peer], AbstractAsyncContextManager[PackedFiles]] = session_files,
    ) -> None:
        self._store = store
        self._driver = driver
        self._cargo = cargo
        self._clock = clock
        self._notifier = notifier
        self._ship = ship
        self._files_of = files_of
        self.discard = discard
        self.request_probe: Callable[[str], None] = lambda _sandbox_id: None
        """Called with the id of a sandbox that could not be thawed; the reconciler sees to it."""
        # Without btrfs a copy takes disk and processor: more at once only makes each slower.
        self._copying = asyncio.Semaphore(_COPIES)
        # Held for one write of a limit, so that the row that was read is still the newest.
        self._limiting = asyncio.Lock()

    async def make_cargo(self, cargo_id: str) -> None:
        """Have the cargo there, with its files and limit. Raises StorageFull, NotFound, DriverUnavailable."""
        cargo = await self._present(cargo_id)
        limit = _bytes(cargo.size_limit_mb)
        async with self._copying:
            await self._cargo.create(cargo_id, limit_bytes=limit, origin=cargo.origin_id)
        try:
            async with self._limiting:
                cargo = await self._present(cargo_id)
                # Also of one that was there: its limit was changed, or a backup has brought it without one.
                if isinstance(self._cargo, SizeLimits):
                    await self._cargo.set_limit(cargo_id, _bytes(cargo.size_limit_mb))
        except NotFound:
            await self._cargo.remove(cargo_id)  # it was deleted while it was made
            raise
        if cargo.origin_id is not None:
            async with self._store.write() as db:
                await cargos.change(db, cargo_id, origin_id=None)
            self.discard()

    async def _present(self, cargo_id: str) -> CargoRecord:
        async with self._store.read() as db:
            cargo = await cargos.get(db, cargo_id)
        if cargo.deleted_at is not None:
            raise NotFound(f"there is no cargo {cargo_id}; it was deleted")
        return cargo

    async def take(self, sandbox: SandboxRecord, checkpoint_id: str) -> None:
        """Make a requested checkpoint; running programs are frozen while it is copied. Nothing is done yet
        while another sandbox of the cargo waits for an earlier one.
        """
        if isinstance(self._cargo, CopiesBySessions) and not await self._comes_next(sandbox, checkpoint_id):
            return
        try:
            await self.make_cargo(sandbox.cargo_id)
            now, saved = await self._copy_all(sandbox, checkpoint_id)
            if isinstance(self._cargo, CheckpointsInTwoSteps):
                await self._cargo.complete(checkpoint_id)
        except DatabaseUnavailable:
            raise  # no fault of the checkpoint, which the reconciler makes later
        except BayError as error:
            await self.give_up_checkpoint(sandbox, checkpoint_id, error)
            return
        async with self._store.write() as db:
            await self._made(db, sandbox, checkpoint_id, now, saved)
        self.discard()
        log.info("checkpoint.made", id=checkpoint_id, sandbox=sandbox.id)

    async def _comes_next(self, sandbox: SandboxRecord, checkpoint_id: str) -> bool:
        """Whether no other sandbox with the same workspace waits for an earlier checkpoint, after a while.
        Another replica may make that one, and of one cargo there is one copy at a time.
        """

        async def found() -> str | None:
            async with self._store.read() as db:
                return await sandboxes.copied_before(db, sandbox, checkpoint_id)

        async def is_made() -> bool | None:
            return await found() is None or None

        if (other := await found()) is None:
            return True
        return await self._notifier.wait_for(other, is_made, _TURN_LOOK_S) or False

    async def _copy_all(
        self, sandbox: SandboxRecord, checkpoint_id: str
    ) -> tuple[datetime, dict[str, str | int]]:
        """Copy the files and, where that is asked for, save the memory; the moment of it, and the columns
        that say what was saved.
        """
        async with self._store.read() as db:
            record = await _known(db, checkpoint_id)
        if record.kind == "files":
            return await self._copy(sandbox, checkpoint_id), {}
        try:
            now, size = await self._copy_with_memory(sandbox, checkpoint_id)
        except BayError as error:
            if not record.auto or isinstance(error, DatabaseUnavailable):
                raise
            log.warning("checkpoint.without_memory", id=checkpoint_id, reason=error.message)
            await self._begin_again(sandbox, checkpoint_id)
            return await self._copy(sandbox, checkpoint_id), {"kind": "files"}
        return now, {"memory_bytes": size}

    async def _copy_with_memory(self, sandbox: SandboxRecord, checkpoint_id: str) -> tuple[datetime, int]:
        """The moment of the copy, and the bytes of the memory. A crash may have left files of an earlier
        moment, which go first.
        """
        store, session = checkpoint_store(self._cargo), sandbox.session
        if session is None or session.handle is None or not isinstance(self._driver, SavesMemory):
            raise MemoryNotSaved(f"sandbox {sandbox.id} has no compute any more, so it has no memory to save")
        await self._begin_again(sandbox, checkpoint_id)
        moment = self._clock()

        async def copy_files() -> None:
            nonlocal moment
            moment = self._clock()
            await store.checkpoint(sandbox.cargo_id, checkpoint_id)

        handle = handle_of(session)
        async with self._ship.without_new(session.id):
            try:
                size = await self._driver.save_memory(handle, session.token, checkpoint_id, copy_files)
            except BayError:
                if session.phase == "running":
                    self.request_probe(sandbox.id)
                raise
        return moment, size

    async def _begin_again(self, sandbox: SandboxRecord, checkpoint_id: str) -> None:
        """Remove what a copy that was not completed has left: its files are of another moment."""
        store = checkpoint_store(self._cargo)
        await store.remove_checkpoint(checkpoint_id)
        await store.settle(sandbox.cargo_id)

    async def _copy(self, sandbox: SandboxRecord, checkpoint_id: str) -> datetime:
        """Copy the files as they are at some moment, which this gives."""
        store, session = checkpoint_store(self._cargo), sandbox.session
        if isinstance(store, CopiesBySessions):
            await self._check_unchanging(sandbox)
            if session is not None and (peer := peer_of(session)) is not None:
                async with self._files_of(peer) as files:
                    now = self._clock()
                    await store.checkpoint_by_session(sandbox.cargo_id, checkpoint_id, files)
                    return now
        async with self._standing_still(sandbox):
            now = self._clock()
            await store.checkpoint(sandbox.cargo_id, checkpoint_id)
            return now

    async def prepare_restore(self, sandbox: SandboxRecord, checkpoint_id: str) -> bool:
        """Make the files to restore, while the sandbox goes on. False when that fails, which is reported."""
        try:
            await self._check_alone(sandbox)
            await self.make_cargo(sandbox.cargo_id)
            async with self._store.read() as db:
                limit = _bytes((await cargos.get(db, sandbox.cargo_id)).size_limit_mb)
            store = checkpoint_store(self._cargo)
            await store.prepare_restore(sandbox.cargo_id, checkpoint_id, limit_bytes=limit)
        except DatabaseUnavailable:
            raise
        except BayError as error:
            await self.give_up_restore(sandbox, error)
            return False
        return True

    async def restore(self, sandbox: SandboxRecord, checkpoint_id: str) -> None:
        """Put the files in place; the sandbox has no session by now."""
        try:
            await checkpoint_store(self._cargo).restore(sandbox.cargo_id)
        except BayError as error:
            await self.give_up_restore(sandbox, error)
            return
        async with self._store.write() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            memory_id = checkpoint_id if present.restore_memory else None
            await sandboxes.change(
                db, sandbox.id, restore_id=None, checkpoint_id=checkpoint_id, memory_id=memory_id
            )
            await events.add(db, sandbox, "sandbox.restored", self._clock(), checkpoint_id=checkpoint_id)
            db.tally(lambda meters: meters.restores.labels("done").inc())
        self.discard()
        log.info("sandbox.restored", sandbox=sandbox.id, checkpoint=checkpoint_id)

    async def forgo(self, sandbox: SandboxRecord) -> None:
        """The sandbox has expired: drop all requests for its files."""
        error = SandboxExpired(f"sandbox {sandbox.id} expired at {sandbox.expires_at}; create a new one")
        if sandbox.checkpoint_due is not None:
            await self.give_up_checkpoint(sandbox, sandbox.checkpoint_due, error)
        if sandbox.restore_id is not None:
            await self.give_up_restore(sandbox, error)

    async def give_up_checkpoint(self, sandbox: SandboxRecord, checkpoint_id: str, error: BayError) -> None:
        """Give it up. Its row tells those who wait, and they may retry with the same idempotency key."""
        now = self._clock()
        async with self._store.write() as db:
            record = await _known(db, checkpoint_id)
            # As ready: the backend may have a part of it, which is collected with the other hidden ones.
            await checkpoints.change(
                db, checkpoint_id, state="ready", deleted_at=now, failure=to_wire(KeptFailure.of(error, now))
            )
            await claims.forget_resource(db, record.owner, checkpoint_id)
            if record.auto:
                await events.add(
                    db, sandbox, "sandbox.checkpoint_failed", now, code=error.code, message=error.message
                )
            db.tally(lambda meters: meters.checkpoints.labels("failed").inc())
        self.discard()
        log.warning("checkpoint.failed", id=checkpoint_id, code=error.code, error=error.message)

    async def give_up_restore(self, sandbox: SandboxRecord, error: BayError) -> None:
        """The files stay as they are, and the sandbox goes on with them; its row has the error for those who
        wait. `sandbox` is as it is during the restore.
        """
        now, number = self._clock(), sandbox.restore_number
        kept = [one for one in sandbox.restore_failures if one.number > number - KEPT_FAILURES]
        failures = to_wire([*kept, RestoreFailure(number=number, failure=KeptFailure.of(error, now))])
        async with self._store.write() as db:
            await sandboxes.change(db, sandbox.id, restore_id=None, restore_failures=failures)
            await events.add(
                db, sandbox, "sandbox.restore_failed", now, code=error.code, message=error.message
            )
            db.tally(lambda meters: meters.restores.labels("failed").inc())
        self.discard()
        log.warning("sandbox.restore_failed", sandbox=sandbox.id, code=error.code, error=error.message)

    @asynccontextmanager
    async def _standing_still(self, sandbox: SandboxRecord) -> AsyncGenerator[None, None]:
        session = sandbox.session
        if session is None or session.phase != "running" or not self._driver.capabilities.pause:
            yield
            return
        # Bytes that are on the disk already need not be waited for frozen.
        await checkpoint_store(self._cargo).settle(sandbox.cargo_id)
        handle = handle_of(session)
        try:
            await freezer(self._driver).pause(handle)
            yield
        finally:
            await self._thaw(sandbox, handle)

    async def _thaw(self, sandbox: SandboxRecord, handle: Handle) -> None:
        try:
            await freezer(self._driver).resume(handle)
        except BayError as error:  # the copy is none the worse for it
            log.warning("sandbox.not_thawed", sandbox=sandbox.id, code=error.code, error=error.message)
            self.request_probe(sandbox.id)

    async def _made(
        self,
        db: StoreConnection,
        sandbox: SandboxRecord,
        checkpoint_id: str,
        now: datetime,
        saved: Mapping[str, str | int],
    ) -> None:
        record = await _known(db, checkpoint_id)
        present = await sandboxes.get(db, sandbox.id) or sandbox
        await checkpoints.change(
            db, checkpoint_id, state="ready", created_at=now, parent_id=present.checkpoint_id, **saved
        )
        db.tally(lambda meters: meters.checkpoints.labels("made").inc())
        if record.hidden:
            return
        await sandboxes.change(db, sandbox.id, checkpoint_id=checkpoint_id)
        await events.add(
            db, sandbox, "sandbox.checkpointed", now, checkpoint_id=checkpoint_id, auto=record.auto
        )
        if record.auto and present.checkpoint_policy:
            surplus = await checkpoints.surplus(db, sandbox.id, present.checkpoint_policy.keep_last)
            await checkpoints.hide(db, [one for one in surplus if one != present.restore_id], now)

    async def _check_alone(self, sandbox: SandboxRecord) -> None:
        """No other sandbox has the cargo mounted; none begins to, since it sees this restore."""
        async with self._store.read() as db:
            found = await sandboxes.sharing(db, sandbox.cargo_id)
        copies = isinstance(self._cargo, CopiesBySessions)
        users = (one for one in found if one.session or (copies and one.checkpoint_due))
        _refuse(sandbox, users)

    async def _check_unchanging(self, sandbox: SandboxRecord) -> None:
        """No other sandbox changes the cargo; none begins to, since it sees the checkpoint that is made."""
        async with self._store.read() as db:
            found = await sandboxes.sharing(db, sandbox.cargo_id)
        writers = (one for one in found if one.session is not None and sandbox.cargo_id in one.written_cargos)
        _refuse(sandbox, (*writers, *(one for one in found if one.restore_id is not None)))


def _refuse(sandbox: SandboxRecord, users: Iterable[SandboxRecord]) -> None:
    """Raises Conflict while others than `sandbox` are among them."""
    others = sorted({one.id for one in users if one.id != sandbox.id})
    if others:
        raise Conflict(
            f"cargo {sandbox.cargo_id} is also in use by {', '.join(others)}; stop that first",
            details={"active_sandbox_ids": others},
        )


async def _known(db: StoreConnection, checkpoint_id: str) -> CheckpointRecord:
    record = await checkpoints.get(db, checkpoint_id)
    if record is None:
        raise NotFound(f"there is no checkpoint {checkpoint_id}")
    return record


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes * MIB
