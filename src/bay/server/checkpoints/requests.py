"""Requests for checkpoints: the row that asks for one, and the wait until the reconciler has made it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.exc import IntegrityError

from bay.clock import Clock
from bay.errors import Conflict, NotFound, Timeout
from bay.server.checkpoints import policy
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.idempotency import Request
from bay.store import audit, checkpoints, sandboxes, templates
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import KEPT_FAILURES, CheckpointRecord, SandboxRecord

LIMIT = 1000
"""Checkpoints of one sandbox."""

_MAKE_S = 600.0  # without btrfs it is a copy of every file


class CheckpointRequests:
    """Makes checkpoints for the services that need one; calls `discard` when files may be garbage."""

    def __init__(self, *, store: Store, waker: Waker, discard: Callable[[], None], clock: Clock) -> None:
        self._store = store
        self._waker = waker
        self._discard = discard
        self._clock = clock

    async def make(
        self, sandbox: SandboxRecord, wanted: CheckpointRecord, request: Request | None = None
    ) -> CheckpointRecord:
        """Have `wanted`, or what an earlier `request` wanted, made. Raises its failure, Conflict, Timeout."""
        checkpoint_id = await self._ask(sandbox, wanted, request)
        made = await self._made(sandbox.id, checkpoint_id)
        if made is not None and made.failure is not None:
            raise made.failure.error()
        if made is None or made.deleted_at is not None:
            raise Conflict(f"checkpoint {checkpoint_id} could not be made, or was deleted meanwhile")
        return made

    async def _ask(self, sandbox: SandboxRecord, wanted: CheckpointRecord, request: Request | None) -> str:
        """Write the request; the id of the checkpoint to wait for."""
        try:
            async with self._store.write() as db:
                if request is not None and (claim := await request.earlier(db)) is not None:
                    return claim.resource_id
                await self.admit(db, sandbox, wanted.name)
                await checkpoints.add(db, wanted)
                if request is not None:
                    await request.claim(db, wanted.id, None, self._clock())
                if not wanted.hidden:
                    audit.about(wanted.id)
                return wanted.id
        except IntegrityError as error:
            raise _taken(sandbox, wanted.name) from error

    async def admit(self, db: StoreConnection, sandbox: SandboxRecord, name: str | None) -> None:
        """Raises Conflict for too many checkpoints, a name in use, or a sandbox that is being restored."""
        present = await sandboxes.get(db, sandbox.id)
        if present is None or present.deleted_at is not None or present.target == "deleted":
            raise NotFound(f"there is no sandbox {sandbox.id}; it was deleted")
        if present.restore_id is not None:
            raise Conflict(f"sandbox {sandbox.id} is being restored; wait for it")
        if await checkpoints.count(db, sandbox.id) >= LIMIT:
            raise Conflict(f"sandbox {sandbox.id} has {LIMIT} checkpoints, the limit; delete some")
        if name is not None and await checkpoints.find(db, sandbox.id, name) is not None:
            raise _taken(sandbox, name)

    @asynccontextmanager
    async def origin(
        self, sandbox: SandboxRecord, ref: str | None, *, memory: bool = False
    ) -> AsyncGenerator[CheckpointRecord, None]:
        """A checkpoint of `sandbox` by id or name; for None a temporary one of now, with its `memory` or
        without, kept while in use. Raises NotFound, or as `make` does.
        """
        if ref is not None:
            yield await self.find(sandbox, ref)
            return
        wanted = policy.asked(sandbox, self._clock(), hidden=True, memory=memory)
        try:
            yield await self.make(sandbox, wanted)
        finally:  # also when its request broke off: it is still made then, and removed
            async with self._store.write() as db:
                await checkpoints.change(db, wanted.id, deleted_at=self._clock())
            self._discard()

    async def find(self, sandbox: SandboxRecord, ref: str | int) -> CheckpointRecord:
        """The sandbox's checkpoint by id or name, or by number. Raises NotFound."""
        async with self._store.read() as db:
            found = await checkpoints.find(db, sandbox.id, ref)
        if found is None:
            raise NotFound(f"there is no checkpoint {ref} of sandbox {sandbox.id}")
        return found

    async def restorable(self, sandbox: SandboxRecord, ref: str | int) -> CheckpointRecord:
        """The checkpoint to restore: one of the sandbox by id, name or number, or of its owner by id.
        Raises NotFound, and Conflict for one without the root file system that the sandbox would lose.
        """
        async with self._store.read() as db:
            found = await checkpoints.find(db, sandbox.id, ref)
            if found is None and isinstance(ref, str):
                found = await checkpoints.find_owned(db, sandbox.owner, ref)
        if found is None:
            raise NotFound(
                f"there is no checkpoint {ref} of sandbox {sandbox.id}; name one of another sandbox by its id"
            )
        if sandbox.persist == "machine" and found.persist == "workspace":
            raise Conflict(
                f"checkpoint {found.id} has only /workspace, and sandbox {sandbox.id} would lose its other "
                "files; create a sandbox from it instead (from_checkpoint)"
            )
        of_one_image = sandbox.image_id == found.image_id and (found.image_id or found.image == sandbox.image)
        if sandbox.persist == found.persist == "machine" and not of_one_image:
            raise Conflict(
                f"checkpoint {found.id} has changes to the root of image {found.image}, and sandbox {sandbox.id} "
                f"has image {sandbox.image}; create a sandbox from it instead (from_checkpoint)"
            )
        return found

    async def usable(self, db: StoreConnection, caller: Caller, checkpoint_id: str) -> CheckpointRecord:
        """The checkpoint, if something of the caller's may be made of it. Raises NotFound."""
        found = await checkpoints.get(db, checkpoint_id)  # also a hidden one, which a fork begins from
        if found is None or (found.deleted_at, found.state) != (None, "ready"):
            raise NotFound(f"there is no checkpoint {checkpoint_id}")
        if found.owner != caller.owner and not await templates.shares(db, checkpoint_id):
            raise NotFound(f"there is no checkpoint {checkpoint_id}")
        return found

    async def _made(self, sandbox_id: str, checkpoint_id: str) -> CheckpointRecord | None:
        """The row once it is no longer being made; None when it was removed."""
        self._waker.poke(sandbox_id)

        async def read() -> tuple[CheckpointRecord | None] | None:
            async with self._store.read() as db:
                found = await checkpoints.get(db, checkpoint_id)
            return None if found is not None and found.state == "making" else (found,)

        found = await self._waker.wait_for(sandbox_id, read, _MAKE_S)
        if found is None:
            raise Timeout(
                f"checkpoint {checkpoint_id} takes longer than {_MAKE_S:g} s; Bay continues in the background"
            )
        return found[0]

    async def restore(
        self, sandbox: SandboxRecord, checkpoint: CheckpointRecord, *, memory: bool = False
    ) -> None:
        """Put the checkpoint back; returns when it is, with compute on its way if the sandbox had some. With
        `memory` its next session begins with that of the checkpoint.
        Raises what it failed with, after which all is as before, and Conflict while another restore runs.
        """
        number = await self._ask_restore(sandbox, checkpoint, memory=memory)
        self._waker.poke(sandbox.id)
        settled = await self._waker.wait_until(sandbox.id, lambda r: _is_over(r, number), _MAKE_S)
        if settled is None:
            raise Timeout(
                f"the restore of sandbox {sandbox.id} takes longer than {_MAKE_S:g} s; Bay continues in the "
                "background"
            )
        for failure in settled.restore_failures:
            if failure.number == number:
                raise failure.failure.error()
        if settled.restore_number - number >= KEPT_FAILURES:
            raise Conflict(
                f"sandbox {sandbox.id} was restored so often meanwhile that Bay no longer knows how this restore "
                "ended; its events say so"
            )
        if settled.deleted_at is not None:
            raise NotFound(f"sandbox {sandbox.id} was deleted while it was restored")

    async def _ask_restore(
        self, sandbox: SandboxRecord, checkpoint: CheckpointRecord, *, memory: bool
    ) -> int:
        """Write the request; the number of the restore to wait for."""
        async with self._store.write() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            if present.restore_id is not None:
                raise Conflict(f"another checkpoint is being restored into sandbox {sandbox.id}; wait for it")
            if await sandboxes.is_restored_elsewhere(db, (present.cargo_id,), sandbox.id):
                raise Conflict(
                    f"another sandbox is restoring a checkpoint into cargo {present.cargo_id}; wait for it"
                )
            if await checkpoints.find_owned(db, sandbox.owner, checkpoint.id) is None:
                raise Conflict(f"checkpoint {checkpoint.id} was deleted during the restore")
            number = present.restore_number + 1
            await sandboxes.change(
                db, sandbox.id, restore_id=checkpoint.id, restore_number=number, restore_memory=memory
            )
            return number


def _is_over(sandbox: SandboxRecord, number: int) -> bool:
    """Whether that restore is: none is under way, or a later one."""
    return sandbox.restore_id is None or sandbox.restore_number != number or sandbox.deleted_at is not None


def _taken(sandbox: SandboxRecord, name: str | None) -> Conflict:
    return Conflict(f"sandbox {sandbox.id} has a checkpoint named {name}; delete it or choose another name")
