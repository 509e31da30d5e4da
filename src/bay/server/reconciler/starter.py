"""The starter starts a session: start slot, fence, the driver's steps, each saved as it appears.

It gives up when the target changes.
"""

import asyncio
import json
import secrets
from collections.abc import Coroutine
from contextlib import aclosing

from bay.cargo.base import CargoBackend
from bay.clock import Clock
from bay.drivers.base import Driver, Handle, SessionSpec
from bay.errors import Conflict, DriverUnavailable, Timeout
from bay.ids import new_id
from bay.models import Profile
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.start_slots import StartSlots
from bay.server.sessions import lifecycle
from bay.server.sessions.effective_policy import policy_of
from bay.server.sessions.work_queue import WorkQueue
from bay.store import events, sandboxes, sessions
from bay.store.engine import Store
from bay.store.records import HAVING, SandboxRecord, SessionRecord

_MAX_KERNEL_ENV = 96 << 10
"""Bytes of JSON: they go into one variable, which has 128 KiB at most (execve(2))."""


class Starter:
    """Starts sessions, `at_once` at a time; each is given up after `limit_s` seconds of its own."""

    def __init__(
        self,
        *,
        store: Store,
        driver: Driver,
        cargo: CargoBackend,
        storage_steps: StorageSteps,
        orphans: Orphans,
        queue: WorkQueue,
        profiles: dict[str, Profile],
        clock: Clock,
        at_once: int,
        limit_s: float,
    ) -> None:
        self._store = store
        self._driver = driver
        self._cargo = cargo
        self._storage_steps = storage_steps
        self._orphans = orphans
        self._queue = queue
        self._profiles = profiles
        self._clock = clock
        self._turns = StartSlots(at_once)
        self._limit_s = limit_s

    def owned_waiting(self) -> int:
        """How many awaited starts are waiting for a start slot."""
        return self._turns.urgent()

    async def new_session(self, sandbox: SandboxRecord) -> SessionRecord:
        """Write down that a session begins, before anything of it exists."""
        fence = await self._cargo.fenced(sandbox.cargo_id, sandbox.id)
        # A database from a backup may be behind what has been on this cargo since.
        seen = fence.generation if fence else 0
        session = SessionRecord(
            id=new_id("sess"), sandbox_id=sandbox.id, generation=max(sandbox.generation, seen) + 1, driver=self._driver.name,
            phase="starting", token=secrets.token_hex(32), handle=None, end_reason=None, created_at=self._clock(),
            network_version=sandbox.network_version, started_at=None, ended_at=None,
        )  # fmt: skip
        async with self._store.write() as db:
            if await sandboxes.is_restored_elsewhere(db, sandbox.cargo_id, sandbox.id):
                raise Conflict(
                    f"another sandbox is restoring a checkpoint into cargo {sandbox.cargo_id}; try again"
                )
            await sessions.add(db, session)
            await sandboxes.change(db, sandbox.id, generation=session.generation)
            await events.add(db, sandbox, "sandbox.starting", self._clock(), session_id=session.id)
        return session

    async def start(self, sandbox: SandboxRecord, session: SessionRecord) -> Handle | None:
        """Start it, or go on with an interrupted start; None when the target changes on the way.

        The caller must end the parts that exist by then. Raises the driver's errors, and Timeout.
        """
        return await self._unless_unwanted(sandbox.id, self._in_turn(sandbox, session))

    async def _unless_unwanted(
        self, sandbox_id: str, start: Coroutine[None, None, Handle | None]
    ) -> Handle | None:
        """The result of `start`; None when the target changed, and the start stays where it stood."""
        starting = asyncio.create_task(start)
        unwanted = asyncio.create_task(self._wait_unwanted(sandbox_id))
        try:
            await asyncio.wait((starting, unwanted), return_when=asyncio.FIRST_COMPLETED)
            return await starting if starting.done() else None
        finally:
            starting.cancel()
            unwanted.cancel()
            await asyncio.wait((starting, unwanted))

    async def _wait_unwanted(self, sandbox_id: str) -> None:
        while True:
            await self._queue.put_again(sandbox_id)
            sandbox = await self._read(sandbox_id)
            if (
                sandbox is None
                or sandbox.target not in HAVING
                or (sandbox.restore_id is not None and sandbox.checkpoint_due is None)
                or lifecycle.is_expired(sandbox, self._clock())
            ):
                return

    async def _in_turn(self, sandbox: SandboxRecord, session: SessionRecord) -> Handle | None:
        """Start it when its turn comes, within the limit. Raises Timeout beyond that.

        The files that it begins with come before: to copy them may take longer than any start.
        """
        await self._storage_steps.make_cargo(sandbox.cargo_id)
        async with self._turns.take(urgent=sandbox.pool is None):
            try:
                async with asyncio.timeout(self._limit_s):
                    return await self._step_through(sandbox, session)
            except TimeoutError as error:
                raise Timeout(f"the start did not end within {self._limit_s:g} s") from error

    async def _step_through(self, sandbox: SandboxRecord, session: SessionRecord) -> Handle | None:
        """Save each handle as it appears; None when the target changed on the way and the start was left."""
        await self._fence_off(sandbox, session)
        before = Handle.from_json(session.handle) if session.handle else None
        last: Handle | None = None
        spec = await self._spec(sandbox, session)
        async with aclosing(self._driver.start(spec, before)) as handles:
            async for handle in handles:
                last = handle
                async with self._store.write() as db:
                    target = await sessions.save_handle(db, session.id, handle.to_json())
                if target not in HAVING:
                    return None
        if last is None or last.endpoint is None:
            raise DriverUnavailable(f"driver {self._driver.name} ended its start without an endpoint")
        return last

    async def _fence_off(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """No older session of the sandbox writes to its cargo from here on.

        None is left, and none may begin.
        """
        await self._cargo.fence(sandbox.cargo_id, sandbox.id, session.generation, session.id)
        await self._orphans.remove_of(sandbox.id)

    async def _spec(self, sandbox: SandboxRecord, session: SessionRecord) -> SessionSpec:
        profile = self._profiles.get(sandbox.profile)
        if profile is None:
            raise DriverUnavailable(
                f"profile {sandbox.profile} is no longer configured; restore it, or delete the sandbox"
            )
        # Read now, and so at least as new as the version in the session's row: a newer policy is applied once
        # it runs.
        async with self._store.read() as db:
            network = await policy_of(db, sandbox, profile, self._driver.capabilities.network)
        return SessionSpec(
            session_id=session.id,
            sandbox_id=sandbox.id,
            image=sandbox.image,
            isolation=sandbox.isolation,
            resources=profile.resources,
            workspace=self._cargo.path(sandbox.cargo_id),
            machine=self._cargo.machine(sandbox.cargo_id) if sandbox.persist == "machine" else None,
            layer_bytes=None if profile.disk_mb is None else profile.disk_mb << 20,
            hostname=lifecycle.hostname_of(sandbox),
            token=session.token,
            user=profile.user,
            users=profile.users,
            allow_root=profile.root,
            kernel=profile.kernel,
            kernel_env=_kernel_env(sandbox, profile),
            network=network,
        )

    async def _read(self, sandbox_id: str) -> SandboxRecord | None:
        async with self._store.read() as db:
            return await sandboxes.get(db, sandbox_id)


def _kernel_env(sandbox: SandboxRecord, profile: Profile) -> dict[str, str]:
    """The set-up of an eager kernel.

    Without it, or when it exceeds one variable, the first cell brings it.
    """
    env = {**profile.env, **sandbox.env} if profile.kernel == "eager" else {}
    return env if len(json.dumps(env)) <= _MAX_KERNEL_ENV else {}
