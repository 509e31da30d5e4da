"""The life cycle decides a sandbox's status and its next step from the stored facts.

Pure: no I/O, no clock of its own.

The public `status` and `compute` and the reconciler's next step are all functions of the same few
facts (target, error, times, the live session's phase), so they can never disagree with the row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from bay.models import Compute, NetworkMode, Sandbox, Sizes, Status
from bay.store.records import HAVING, SandboxRecord, SessionRecord

OWN_LABELS = "bay."
"""The names of labels by which Bay itself knows sandboxes begin so."""
BUILD_LABEL = OWN_LABELS + "build"
"""The label of a build's sandbox; its value is the template's id."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The row is as it should be."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Make a new session and start it."""


@dataclass(frozen=True, slots=True)
class ResumeStart:
    """A start was interrupted: go on from the session's last handle."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class Pause:
    """The session runs and should be frozen."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class Resume:
    """The session is frozen and should run."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class Hibernate:
    """The session is frozen, and its memory should go to disk."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The session's memory is on disk, and it should run."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class ApplyNetworkPolicy:
    """The session's network is not known to be held to the policy that the row has."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class ApplySizes:
    """The session has other sizes than the row wants for it."""

    session: SessionRecord


@dataclass(frozen=True, slots=True)
class End:
    """Stop and destroy the session. `graceful` gives its processes time to end by themselves."""

    session: SessionRecord
    reason: str
    graceful: bool


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Copy the files as they are now, with what runs standing still for that moment."""

    checkpoint_id: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Put the files of a checkpoint back; the session, if there is one, ends for it."""

    checkpoint_id: str


@dataclass(frozen=True, slots=True)
class AbandonStorage:
    """No step touches the files of an expired sandbox; those who wait for one get the error."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the sandbox with its managed cargo and its checkpoints."""


Step = (
    Nothing
    | Begin
    | ResumeStart
    | ApplyNetworkPolicy
    | ApplySizes
    | Pause
    | Resume
    | Hibernate
    | WakeUp
    | End
    | TakeCheckpoint
    | Restore
    | AbandonStorage
    | Remove
)


def is_idled(sandbox: SandboxRecord, now: datetime) -> bool:
    """Whether its compute is being taken for want of activity, and not because its owner said so."""
    clock = sandbox.idle_expires_at
    return sandbox.target in ("paused", "hibernated", "stopped") and clock is not None and clock <= now


def hostname_of(sandbox: SandboxRecord) -> str:
    """The host name that programs inside see."""
    return sandbox.name or "sandbox"


def status_of(sandbox: SandboxRecord, now: datetime) -> Status:
    """The public status of the sandbox."""
    phase = sandbox.phase
    if sandbox.is_expired(now):
        return "expired"
    if phase is None and sandbox.target in HAVING and sandbox.image_state == "pulling":
        return "starting"
    if phase is None or sandbox.target not in HAVING:
        return "failed" if sandbox.error else "idle"
    if phase in ("starting", "ending", "hibernated"):
        return "starting"
    return "ready" if sandbox.is_called else "idle"


def compute_of(sandbox: SandboxRecord) -> Compute:
    """The cost of the next call."""
    match sandbox.phase:
        case None if sandbox.target in HAVING and sandbox.image_state == "pulling":
            return "warming"
        case "starting":
            return "warming"
        case "paused":
            return "warm"
        case "running":
            return "running"
        case "hibernated":
            return "hibernated"
        case _:
            return "cold"


def next_step(
    sandbox: SandboxRecord, now: datetime, *, exited: bool = False, retention: timedelta = timedelta(0)
) -> Step:
    """The step that brings `sandbox` nearer to its target. `exited`: its container is known to have ended.
    `retention`: how long an expired sandbox is still shown, with its cargo, before it is removed.
    """
    if sandbox.deleted_at is not None:
        return Nothing()
    if sandbox.session is not None:
        return _step_with_session(sandbox, sandbox.session, now, exited=exited)
    if sandbox.target == "deleted":
        return Remove()
    if sandbox.is_expired(now):
        if sandbox.is_expired(now - retention):
            return Remove()
        return Nothing() if _step_of_files(sandbox) is None else AbandonStorage()
    if (step := _step_of_files(sandbox)) is not None:
        return step
    if sandbox.target not in HAVING or sandbox.image_state == "pulling":  # poked again once it is there
        return Nothing()
    return Begin()


def _step_of_files(sandbox: SandboxRecord) -> Step | None:
    """The step that its files need before any other. A checkpoint that was asked for comes before a restore,
    which would take away what it is to keep; and after a start.
    """
    if sandbox.checkpoint_due is not None:
        return None if sandbox.phase == "starting" else TakeCheckpoint(sandbox.checkpoint_due)
    return None if sandbox.restore_id is None else Restore(sandbox.restore_id)


def _step_with_session(
    sandbox: SandboxRecord, session: SessionRecord, now: datetime, *, exited: bool
) -> Step:
    if session.phase == "ending":
        return End(session, session.end_reason or "stopped", graceful=False)
    if sandbox.target == "deleted":
        return End(session, "deleted", graceful=False)
    if sandbox.is_expired(now):
        return End(session, "expired", graceful=False)
    if exited:
        return End(session, "exited", graceful=False)
    if (step := _step_of_files(sandbox)) is not None:
        return step
    if sandbox.target == "stopped":
        return End(session, "stopped", graceful=session.phase in ("running", "paused"))
    lives = session.phase in ("running", "paused")
    if lives and session.network_version != sandbox.network_version:
        return ApplyNetworkPolicy(session)
    wanted = (sandbox.cpus, sandbox.memory_mb, sandbox.pids)
    if lives and (session.cpus, session.memory_mb, session.pids) != wanted:
        return ApplySizes(session)
    match session.phase, sandbox.target:
        case "starting", _:
            return ResumeStart(session)
        case "running", "paused" | "hibernated":
            return Pause(session)
        case "paused", "running":
            return Resume(session)
        case "paused", "hibernated":
            return Hibernate(session)
        case "hibernated", "running" | "paused":
            return WakeUp(session)
        case _:
            return Nothing()


def _counts_idleness(sandbox: SandboxRecord, now: datetime) -> bool:
    return sandbox.target == "running" and not sandbox.is_expired(now)


def view(
    sandbox: SandboxRecord,
    now: datetime,
    capabilities: tuple[str, ...],
    network: NetworkMode,
    sizes: Sizes,
) -> Sandbox:
    """The sandbox as its owner sees it."""
    return Sandbox(
        id=sandbox.id,
        name=sandbox.name,
        status=status_of(sandbox, now),
        compute=compute_of(sandbox),
        profile=sandbox.profile,
        image=sandbox.image,
        image_id=sandbox.image_id,
        isolation=sandbox.isolation,
        cargo_id=sandbox.cargo_id,
        capabilities=capabilities,
        labels=sandbox.labels,
        created_at=sandbox.created_at,
        expires_at=sandbox.expires_at,
        on_expiry=sandbox.on_expiry,
        paused_at=sandbox.paused_at,
        idle_timeout=sandbox.idle_timeout,
        idle_expires_at=sandbox.idle_expires_at if _counts_idleness(sandbox, now) else None,
        warm_timeout=sandbox.warm_timeout,
        warm_expires_at=sandbox.warm_expires_at if sandbox.phase == "paused" else None,
        error=sandbox.error,
        persist=sandbox.persist,
        checkpoint_id=sandbox.checkpoint_id,
        checkpoint_policy=sandbox.checkpoint_policy,
        network=network,
        ports=sandbox.ports,
        secrets=sandbox.secrets,
        volumes=sandbox.volumes,
        cpus=sizes.cpus,
        memory_mb=sizes.memory_mb,
        disk_mb=sizes.disk_mb,
        pids=sizes.pids,
    )
