"""The starter starts a session, whole: start slot, fence, the driver's steps, and the row that it runs.

Each handle is saved as it appears. It leaves a start when the target changes.
"""

import asyncio
import json
import secrets
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import structlog

from bay import tracing
from bay.cargo.base import CopiesBySessions, machine_layers
from bay.drivers.base import (
    Driver,
    Handle,
    Hibernated,
    Hibernates,
    ImageRoot,
    MemoryLost,
    MountedVolume,
    NamedImages,
    SessionSpec,
)
from bay.errors import (
    BY_CODE,
    BayError,
    Conflict,
    DatabaseUnavailable,
    DriverUnavailable,
    ImageInvalid,
    Timeout,
)
from bay.ids import is_id_of, new_id
from bay.images import names
from bay.images.accounts import OF_IMAGE, WORKSPACE
from bay.meters import Meters, known_label
from bay.models import Exec, Failure, Profile
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.reconciler.live_sessions import LiveSessions
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.start_phases import StartPhases
from bay.server.reconciler.start_slots import StartSlots
from bay.server.replicas.leases import ReplicaLeases
from bay.server.secrets.delivery import SecretDelivery
from bay.server.sessions import lifecycle
from bay.server.sessions.core import Core
from bay.server.sessions.effective_policy import policy_of
from bay.server.sessions.memory import can_hibernate
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.rows import peer_of
from bay.server.sessions.sizes import resources_of, sizes_of
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.client import ShipClient
from bay.store import cargos, checkpoints, events, execs, images, sandboxes, sessions
from bay.store.connection import StoreConnection
from bay.store.records import HAVING, KEEPING, SandboxRecord, SessionRecord, Target

log = structlog.get_logger("bay.reconcile")

_OWN_USER = "ship"
"""The `user` of a profile that says nothing else; in an image, uid 1000 by the image's own name for it."""

_COPY_LOOK_S = 2.0
"""So soon a start that waits for a copy notices that it is not wanted any more."""
_MAX_KERNEL_ENV = 96 << 10
"""Bytes of JSON: they go into one variable, which has 128 KiB at most (execve(2))."""


@dataclass(kw_only=True, eq=False)
class Starter:
    """Starts sessions, each when a slot is free; each is given up after `limit_s` seconds of its own."""

    core: Core
    queue: WorkQueue
    live: LiveSessions
    orphans: Orphans
    storage_steps: StorageSteps
    ship: ShipClient
    secrets: SecretDelivery
    notifier: Notifier
    slots: StartSlots
    leases: ReplicaLeases
    limit_s: float

    async def begin(self, sandbox: SandboxRecord) -> None:
        """Start a new session; if the target changes on the way, what exists by then is left to be ended."""
        if sandbox.image_state == "failed":
            await self._refuse(sandbox)
            return
        session = await self._new_session(sandbox)
        while isinstance(session, str):
            await self._wait_copied(session)
            session = await self._new_session(sandbox)
        if session is None:
            return
        self.notifier.announce(sandbox.id)
        if _has_run_since(sandbox, session.generation - 1):
            sandbox = replace(sandbox, memory_id=None)
        await self._run(sandbox, session)

    async def resume(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Go on with an interrupted start, of whose network it is unknown how much exists."""
        await self._run(sandbox, session, network_version=None)

    async def give_up(self, sandbox: SandboxRecord, session: SessionRecord, error: BayError) -> None:
        """The start failed: write why into the row, which ends all waits; its remains are ended next."""
        tracing.fail(error.code)
        failure = Failure(code=error.code, message=error.message, at=self.core.clock())
        kept = await self._hibernates(session)
        async with self.core.store.write() as db:
            if kept:  # nothing of it has run, so its memory is as good as before
                await sessions.change(db, session.id, phase="hibernated")
            else:
                await sessions.change(db, session.id, phase="ending", end_reason="failed")
            new: Target = "hibernated" if kept else "stopped"
            await sandboxes.change_target(db, sandbox.id, old=KEEPING, new=new, error=failure)
            await events.add(
                db, sandbox, "sandbox.failed", failure.at, code=error.code, message=error.message
            )
            db.tally(partial(_count_failure, error.code))
        log.warning(
            "sandbox.failed", sandbox=sandbox.id, session=session.id, code=error.code, error=error.message
        )

    async def _hibernates(self, session: SessionRecord) -> bool:
        if not isinstance(self.core.driver, Hibernates):
            return False
        try:
            handle = Handle(driver=self.core.driver.name, session_id=session.id)
            return isinstance(await self.core.driver.observe(handle), Hibernated)
        except BayError:
            return False

    async def _begin_anew(self, sandbox: SandboxRecord, session: SessionRecord, error: MemoryLost) -> None:
        """Its memory cannot be had: the session ends, and the sandbox starts again from its files."""
        async with self.core.store.write() as db:
            await sessions.change(db, session.id, phase="ending", end_reason="memory_lost")
            await sandboxes.change(db, sandbox.id, memory_id=None)
            await events.add(
                db, sandbox, "sandbox.memory_lost", self.core.clock(), session_id=session.id, message=error.message
            )  # fmt: skip
        self.storage_steps.discard()  # that of a fork may have been its alone
        log.warning("sandbox.memory_lost", sandbox=sandbox.id, session=session.id, error=error.message)

    async def _refuse(self, sandbox: SandboxRecord) -> None:
        """Its image could not be had: nothing begins."""
        async with self.core.store.write() as db:
            image = await images.get(db, sandbox.image_id or "")
            cause = image.error if image else None
            failure = Failure(
                code=cause.code if cause else "image_not_found",
                message=f"image {sandbox.image}: {cause.message if cause else 'it was removed'}",
                at=self.core.clock(),
            )
            await sandboxes.change_target(db, sandbox.id, old=HAVING, new="stopped", error=failure)
            await events.add(
                db, sandbox, "sandbox.failed", failure.at, code=failure.code, message=failure.message
            )
            db.tally(partial(_count_failure, failure.code))
        tracing.fail(failure.code)
        log.warning("sandbox.failed", sandbox=sandbox.id, code=failure.code, error=failure.message)

    async def _wait_copied(self, sandbox_id: str) -> None:
        """Return once no checkpoint of that sandbox is to be made, or after a while."""

        async def read() -> bool | None:
            async with self.core.store.read() as db:
                found = await sandboxes.get(db, sandbox_id)
            return True if found is None or found.checkpoint_due is None else None

        await self.notifier.wait_for(sandbox_id, read, _COPY_LOOK_S)

    async def _new_session(self, sandbox: SandboxRecord) -> SessionRecord | str | None:
        """Write down that a session begins, before anything of it exists; None when it is not wanted any
        more: who asked for the stop may have its answer already, since there was no session to end. The id
        of another sandbox while a cargo is copied for that, which this one would change meanwhile.
        """
        # A database from a backup may be behind what has been on these cargos since.
        fences = [await self.core.cargo.fenced(one, sandbox.id) for one in sandbox.written_cargos]
        seen = max(fence.generation if fence else 0 for fence in fences)
        session = SessionRecord(
            id=new_id("sess"), sandbox_id=sandbox.id, generation=max(sandbox.generation, seen) + 1, driver=self.core.driver.name,
            phase="starting", token=secrets.token_hex(32), handle=None, end_reason=None, created_at=self.core.clock(),
            network_version=sandbox.network_version, cpus=sandbox.cpus, memory_mb=sandbox.memory_mb, pids=sandbox.pids,
            started_at=None, ended_at=None,
        )  # fmt: skip
        async with self.core.store.write() as db:
            if self._is_unwanted(await sandboxes.get(db, sandbox.id)):
                return None
            if isinstance(self.core.cargo, CopiesBySessions) and (
                other := await sandboxes.copied_elsewhere(db, sandbox)
            ):
                return other
            if sandbox.volumes or await sandboxes.is_contended(db, sandbox):
                await _check_cargos(db, sandbox)
            await sessions.add(db, session)
            await sandboxes.change(db, sandbox.id, generation=session.generation)
            if sandbox.memory_id is not None and _has_run_since(sandbox, seen):
                await sandboxes.change(db, sandbox.id, memory_id=None)
                reason = "its files have changed since: the database is older than they are"
                await events.add(
                    db, sandbox, "sandbox.memory_lost", self.core.clock(), session_id=session.id, message=reason
                )  # fmt: skip
            await events.add(db, sandbox, "sandbox.starting", self.core.clock(), session_id=session.id)
        return session

    async def _run(self, sandbox: SandboxRecord, session: SessionRecord, **held: None) -> None:
        """Start it and write down that it runs, with `held` in the session's row."""
        phases = StartPhases(self.core.meters, self.core.tracing)
        await self.live.syncer.expect(sandbox.id, session.id)
        try:
            handle = await self._unless_unwanted(sandbox.id, self._in_turn(sandbox, session, phases))
            live = replace(session, handle=handle.to_json() if handle else None)
            peer, brought = peer_of(live), list[Exec]()
            if peer is not None:
                await self.secrets.bring(replace(sandbox, session=live), peer)
                brought = await self.ship.list_execs(peer) if sandbox.memory_id else []
        except DatabaseUnavailable:
            raise  # no fault of the start, which goes on from its last handle
        except MemoryLost as error:
            await self._begin_anew(sandbox, session, error)
            return
        except BayError as error:
            await self.give_up(sandbox, session, error)
            return
        if handle is None or peer is None:
            self.core.meters.starts.labels("left").inc()
            return
        await self.live.syncer.begin(peer)
        ready = {"phase": "running", "handle": handle.to_json(), "memory_bytes": None, **held}
        async with self.core.store.write() as db:
            now = self.core.clock()
            await sessions.change(db, session.id, started_at=now, **ready)
            if sandbox.memory_id is not None:
                await _take_execs(db, sandbox, sandbox.memory_id, session.id, brought)
            await sandboxes.change(db, sandbox.id, error=None, memory_id=None, **_image_of(sandbox, handle))
            if sandbox.image_id is not None:
                await images.touch(db, sandbox.image_id, now)
            for cargo_id in sandbox.cargos:
                await cargos.change(db, cargo_id, last_accessed_at=now)
            await events.add(db, sandbox, "sandbox.ready", self.core.clock(), session_id=session.id)
            db.tally(phases.succeed)
        if sandbox.memory_id is not None:
            self.storage_steps.discard()
        log.info("sandbox.started", sandbox=sandbox.id, session=session.id, driver=self.core.driver.name)
        self.live.follow(sandbox, handle, peer)

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
            await self.queue.put_again(sandbox_id)
            async with self.core.store.read() as db:
                sandbox = await sandboxes.get(db, sandbox_id)
            if self._is_unwanted(sandbox):
                return

    def _is_unwanted(self, sandbox: SandboxRecord | None) -> bool:
        """Whether the sandbox is to have no compute by now, or its files are put back first."""
        return (
            sandbox is None
            or sandbox.target not in KEEPING
            or (sandbox.restore_id is not None and sandbox.checkpoint_due is None)
            or sandbox.is_expired(self.core.clock())
        )

    async def _in_turn(
        self, sandbox: SandboxRecord, session: SessionRecord, phases: StartPhases
    ) -> Handle | None:
        """Start it when its turn comes, within the limit. Raises Timeout beyond that.
        The files that it begins with come before: to copy them may take longer than any start.
        """
        for cargo_id in sandbox.cargos:
            await self.storage_steps.make_cargo(cargo_id)
        phases.end("files")
        async with self.slots.take(urgent=sandbox.pool is None):
            phases.end("queue")
            try:
                async with asyncio.timeout(self.limit_s):
                    return await self._step_through(sandbox, session, phases)
            except TimeoutError as error:
                raise Timeout(f"the start did not end within {self.limit_s:g} s") from error

    async def _step_through(
        self, sandbox: SandboxRecord, session: SessionRecord, phases: StartPhases
    ) -> Handle | None:
        """Save each handle as it appears, but the last, which is saved with the row that it runs.

        None when the target changed on the way and the start was left.
        """
        # It may have waited for long, and another replica may have started the same session meanwhile.
        self.leases.check(sandbox.id)
        # No older session of the sandbox writes to its cargos from here on: none is left, and none may begin.
        for cargo_id in sandbox.written_cargos:
            await self.core.cargo.fence(cargo_id, sandbox.id, session.generation, session.id)
        await self.orphans.remove_of(sandbox.id)
        before = Handle.from_json(session.handle) if session.handle else None
        last: Handle | None = None
        spec = await self._spec(sandbox, session)
        self.leases.check(sandbox.id)
        phases.end("prepare")
        async with aclosing(self.core.driver.start(spec, before)) as handles:
            async for handle in handles:
                last = handle
                phases.end_step(handle)
                if handle.endpoint is not None:
                    continue
                async with self.core.store.write() as db:
                    target = await sessions.save_handle(db, session.id, handle.to_json())
                if target not in KEEPING:
                    return None
        if last is None or last.endpoint is None:
            raise DriverUnavailable(f"driver {self.core.driver.name} ended its start without an endpoint")
        return last

    async def _spec(self, sandbox: SandboxRecord, session: SessionRecord) -> SessionSpec:
        profile = self.core.profiles.get(sandbox.profile)
        if profile is None:
            raise DriverUnavailable(
                f"profile {sandbox.profile} is no longer configured; restore it, or delete the sandbox"
            )
        _check_image(sandbox, self.core.driver)
        await self.secrets.check(sandbox)
        # Read now, and so at least as new as the version in the session's row: a newer policy is applied once
        # it runs.
        async with self.core.store.read() as db:
            network = await policy_of(db, sandbox, profile, self.core.driver.capabilities)
            root = await self._root(db, sandbox, profile)
        disk_mb = sizes_of(sandbox.sizes, profile).disk_mb
        cargo = self.core.cargo
        return SessionSpec(
            session_id=session.id,
            sandbox_id=sandbox.id,
            image=sandbox.image,
            root=root,
            isolation=sandbox.isolation,
            resources=resources_of(session.sizes, profile),
            workspace=cargo.place(sandbox.cargo_id),
            machine=machine_layers(cargo).machine(sandbox.cargo_id) if sandbox.persist == "machine" else None,
            layer_bytes=None if disk_mb is None else disk_mb << 20,
            hostname=lifecycle.hostname_of(sandbox),
            token=session.token,
            user=_OWN_USER if profile.user == OF_IMAGE else profile.user,
            home=profile.home if _has_account(profile) else None,
            users=profile.users,
            allow_root=profile.root,
            savable=can_hibernate(self.core, sandbox),
            memory=sandbox.memory_id,
            kernel=profile.kernel,
            env_file=profile.env_file,
            skills=profile.capabilities if profile.skills else (),
            kernel_env=_kernel_env(sandbox, profile),
            tmp_on_disk=lifecycle.BUILD_LABEL in sandbox.labels,
            secret_files=any(one.file is not None for one in sandbox.secrets),
            volumes=tuple(
                MountedVolume(path=one.path, source=cargo.place(one.cargo), read_only=one.read_only)
                for one in sandbox.volumes
            ),
            network=network,
        )

    async def _root(self, db: StoreConnection, sandbox: SandboxRecord, profile: Profile) -> ImageRoot | None:
        if sandbox.image_id is None:
            return None
        image = await images.get(db, sandbox.image_id)
        if image is None or image.config is None or image.facts is None:
            raise DriverUnavailable(
                f"image {sandbox.image_id} of sandbox {sandbox.id} is not here; pull it again"
            )
        layers = [layer.diff_id for layer in await images.layers_of(db, image.id)]
        root = self.core.images.root(
            image.id, layers, image.config, image.facts, as_user=profile.user == OF_IMAGE
        )
        if root.user.needs_root and not profile.root:
            raise ImageInvalid(
                f"image {image.ref} runs as root or in root's group, which profile {profile.id} does not allow; "
                "use one that does, or one with another `user`"
            )
        return root


async def _take_execs(
    db: StoreConnection, sandbox: SandboxRecord, checkpoint_id: str, session_id: str, items: list[Exec]
) -> None:
    """The execs of the memory that it began with are its own now. Ship names them, and any program inside may
    have written its memory: a name that Bay gives no exec is left out.
    """
    checkpoint = await checkpoints.get(db, checkpoint_id)
    of = sandbox.id if checkpoint is None else checkpoint.sandbox_id
    named = [one for one in items if is_id_of("exec", one.id)]
    await execs.go_on_in(db, sandbox.id, session_id, named, of=of)


def _has_run_since(sandbox: SandboxRecord, generation: int) -> bool:
    """Whether a session of that generation is newer than what its row knows of."""
    return generation > sandbox.generation


def _check_image(sandbox: SandboxRecord, driver: Driver) -> None:
    """Raises DriverUnavailable for an image that another driver has given it."""
    here = driver.capabilities
    is_own = sandbox.image_id is None and sandbox.image in here.images
    is_here = here.layered if sandbox.image_id is not None else isinstance(here.other_images, NamedImages)
    if not is_own and not is_here:
        raise DriverUnavailable(
            f"sandbox {sandbox.id} has the image {sandbox.image}, and driver {driver.name} cannot run it; use the "
            "driver that it was created with, or delete the sandbox"
        )


def _image_of(sandbox: SandboxRecord, handle: Handle) -> dict[str, str]:
    """The column of an image that has its digest from now on: the tag may name another one tomorrow."""
    image = names.pinned(sandbox.image, handle.image) if handle.image else None
    return {} if image is None else {"image": image}


def _has_account(profile: Profile) -> bool:
    """Whether its commands run as a user that no image has."""
    if profile.user == OF_IMAGE:
        return False
    return (profile.user, profile.home) != (_OWN_USER, WORKSPACE)


async def _check_cargos(db: StoreConnection, sandbox: SandboxRecord) -> None:
    """Raises Conflict while another sandbox has a checkpoint put back into one of them, or writes to one."""
    if await sandboxes.is_restored_elsewhere(db, sandbox.cargos, sandbox.id):
        raise Conflict(
            f"another sandbox is restoring a checkpoint into cargo {' or '.join(sandbox.cargos)}; try again"
        )
    if (written := await sandboxes.live_writer(db, sandbox)) is None:
        return
    cargo_id, other = written
    raise Conflict(
        f"cargo {cargo_id} is written to by {other.id}, and a volume has one writing session at a time; stop that "
        "sandbox, or mount the volume read-only",
        details={"active_sandbox_ids": [other.id]},
    )


def _kernel_env(sandbox: SandboxRecord, profile: Profile) -> dict[str, str]:
    """The set-up of an eager kernel and of `.bay_env.sh`; none if it exceeds one variable: each cell and
    command brings it then.
    """
    env = {**profile.env, **sandbox.env} if profile.kernel == "eager" or profile.env_file else {}
    return env if len(json.dumps(env)) <= _MAX_KERNEL_ENV else {}


def _count_failure(code: str, meters: Meters) -> None:
    meters.starts.labels("failed").inc()
    meters.start_failures.labels(known_label(code, BY_CODE)).inc()
