"""Which sandboxes can have their memory saved, by their profile and this host, and what becomes of a wish."""

from collections.abc import Sequence

from bay.drivers.base import MemoryLost, SavesMemory
from bay.errors import CapabilityNotSupported, Conflict, NotFound, Timeout
from bay.models import Profile, Volume
from bay.server.sessions.core import Core
from bay.server.sessions.waker import Waker
from bay.store import cargos, sandboxes
from bay.store.records import CheckpointRecord, SandboxRecord

_SETTLE_S = 60.0
_FILES = "leave its memory out (`memory: false`) to have the files"


def can_hibernate(core: Core, sandbox: SandboxRecord) -> bool:
    """Whether its memory can go to disk. Its isolation may be another one than its profile's."""
    profile = core.profiles.get(sandbox.profile)
    return _is_meant_to(profile) and sandbox.isolation in core.driver.capabilities.memory


def check_can_hibernate(core: Core, sandbox: SandboxRecord) -> None:
    """Raises CapabilityNotSupported, with the way out, unless `can_hibernate`."""
    if not _is_meant_to(core.profiles.get(sandbox.profile)):
        raise CapabilityNotSupported(
            f"profile {sandbox.profile} does not save the memory of its sandboxes; it needs `hibernate: true`. "
            "Files alone can be saved, and a sandbox can be paused",
            details={"capability": "hibernate", "available": []},
        )
    if not can_hibernate(core, sandbox):
        raise CapabilityNotSupported(
            "this host cannot save the memory of sandboxes; `bay doctor` says what is missing. Files alone can be "
            "saved, and a sandbox can be paused",
            details={"capability": "hibernate", "available": list(core.driver.capabilities.memory)},
        )


async def settle_hibernation(waker: Waker, sandbox: SandboxRecord) -> None:
    """Return once a sandbox hibernates whose target says so. Raises Conflict with the reason why it does not,
    NotFound when it was deleted meanwhile, and Timeout; the reconciler goes on then.
    """
    waker.poke(sandbox.id)
    present = await waker.wait_until(sandbox.id, _is_settled, _SETTLE_S)
    if present is None:
        raise Timeout(
            f"sandbox {sandbox.id} takes longer than {_SETTLE_S:g} s; Bay continues in the background"
        )
    if present.phase == "hibernated":
        return
    if present.target == "deleted":
        raise NotFound(f"there is no sandbox {sandbox.id}")
    if present.session is not None and (why := present.session.memory_refused) is not None:
        raise Conflict(f"sandbox {sandbox.id} is frozen, but its memory cannot be saved: {why}")
    if present.session is None:
        raise Conflict(f"sandbox {sandbox.id} is cold by now; there is no memory to save")
    raise Conflict(f"calls to sandbox {sandbox.id} are in progress; wait for them, or stop it")


def _is_settled(sandbox: SandboxRecord) -> bool:
    return sandbox.phase in (None, "hibernated") or sandbox.target != "hibernated"


def saver(core: Core) -> SavesMemory:
    """The driver as a `SavesMemory`. Raises CapabilityNotSupported."""
    if isinstance(core.driver, SavesMemory):
        return core.driver
    raise CapabilityNotSupported(
        f"driver {core.driver.name} saves no memory in checkpoints; make one of the files",
        details={"capability": "memory", "available": []},
    )


def check_can_save(core: Core, sandbox: SandboxRecord) -> None:
    """Raises CapabilityNotSupported, or Conflict for one without compute, of which there is nothing to save
    but files.
    """
    check_can_hibernate(core, sandbox)
    saver(core)
    if sandbox.session is None or sandbox.session.phase == "ending":
        raise Conflict(
            f"sandbox {sandbox.id} is cold, so there is no memory to save; start it, or leave `memory` out"
        )


async def check_can_restore(core: Core, sandbox: SandboxRecord, checkpoint: CheckpointRecord) -> None:
    """Raises Conflict unless the sandbox can go on with the memory of the checkpoint, and
    CapabilityNotSupported.
    """
    await _check_fits(core, sandbox, checkpoint, sandbox.volumes)
    async with core.store.read() as db:
        cargo = await cargos.get(db, sandbox.cargo_id)
    if cargo.managed_by_sandbox_id != sandbox.id:
        raise Conflict(
            f"cargo {cargo.id} is not of sandbox {sandbox.id} alone, and others may change it before the memory "
            f"goes on; {_FILES}, or fork the sandbox"
        )


async def check_can_fork(
    core: Core, sandbox: SandboxRecord, checkpoint: CheckpointRecord, volumes: Sequence[Volume]
) -> None:
    """The same of a fork of the sandbox, which will have those volumes."""
    await _check_fits(core, sandbox, checkpoint, volumes)


async def _check_fits(
    core: Core, sandbox: SandboxRecord, checkpoint: CheckpointRecord, volumes: Sequence[Volume]
) -> None:
    if checkpoint.kind != "memory":
        raise Conflict(f"checkpoint {checkpoint.id} has files alone, and no memory")
    check_can_hibernate(core, sandbox)
    async with core.store.read() as db:
        origin = await sandboxes.get(db, checkpoint.sandbox_id)
    if origin is None:
        raise Conflict(f"checkpoint {checkpoint.id} is of a sandbox that is gone; {_FILES}")
    # Programs have files of these open, and their Ship has the rights and the settings of its profile.
    found = (checkpoint.image, checkpoint.image_id, checkpoint.persist)
    pairs = {
        "another profile": (origin.profile, sandbox.profile),
        "another isolation": (origin.isolation, sandbox.isolation),
        "another image, or other files that are kept": (
            found,
            (sandbox.image, sandbox.image_id, sandbox.persist),
        ),
        "other volumes, or the same to read alone": (set(origin.volumes), set(volumes)),
        "secrets as files": (_has_secret_files(origin), _has_secret_files(sandbox)),
    }
    for difference, (was, will_be) in pairs.items():
        if was != will_be:
            raise Conflict(f"checkpoint {checkpoint.id} is of a sandbox with {difference}; {_FILES}")
    try:
        await saver(core).check_memory(checkpoint.id)
    except MemoryLost as error:
        raise Conflict(f"{error.message}; {_FILES}") from error


def _has_secret_files(sandbox: SandboxRecord) -> bool:
    return any(one.file is not None for one in sandbox.secrets)


def _is_meant_to(profile: Profile | None) -> bool:
    return profile is not None and profile.hibernate
