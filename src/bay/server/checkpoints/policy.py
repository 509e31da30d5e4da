"""The checkpoint policy of a sandbox: which checkpoints are due, and the rows that ask for them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bay.clock import Clock
from bay.ids import new_id
from bay.models import CheckpointPolicy, Persist
from bay.store import checkpoints, sandboxes, sessions
from bay.store.engine import Store
from bay.store.records import CheckpointRecord, SandboxRecord


def next_at(policy: CheckpointPolicy | None, now: datetime) -> datetime | None:
    """When the next checkpoint of `policy` is due."""
    return now + timedelta(seconds=policy.every) if policy and policy.every else None


def asked(
    sandbox: SandboxRecord, now: datetime, *, auto: bool = False, hidden: bool = False,
    name: str | None = None, comment: str | None = None,
) -> CheckpointRecord:  # fmt: skip
    """The row of a checkpoint of `sandbox` that the reconciler makes next."""
    return CheckpointRecord(
        id=new_id("ckpt"), owner=sandbox.owner, sandbox_id=sandbox.id, name=name, comment=comment, auto=auto, hidden=hidden,
        persist=sandbox.persist, image=sandbox.image, parent_id=sandbox.checkpoint_id, created_at=now,
    )  # fmt: skip


def imported(
    wanted: CheckpointRecord, persist: Persist, image: str, comment: str | None, created_at: datetime
) -> CheckpointRecord:
    """The row of an imported checkpoint, whose files date from `created_at`: it has no ancestor here."""
    return replace(
        wanted, persist=persist, image=image, comment=wanted.comment or comment, parent_id=None, state="ready",
        created_at=created_at,
    )  # fmt: skip


async def before_stop(db: AsyncConnection, sandbox_id: str, now: datetime) -> None:
    """Ask for a checkpoint of a sandbox that has just stopped, if its policy says so."""
    sandbox = await sandboxes.get(db, sandbox_id)
    if sandbox and sandbox.checkpoint_policy and sandbox.checkpoint_policy.before_stop:
        await checkpoints.add(db, asked(sandbox, now, auto=True))


async def ask(store: Store, clock: Clock, poke: Callable[[str], None]) -> None:
    """Ask for the checkpoints that are due, and have the reconciler make them."""
    async with store.read() as db:
        if not await sandboxes.due_checkpoints(db, clock()):
            return
    async with store.write() as db:
        sandbox_ids = await ask_for_due(db, clock())
    for sandbox_id in sandbox_ids:
        poke(sandbox_id)


async def ask_for_due(db: AsyncConnection, now: datetime) -> list[str]:
    """Ask for every checkpoint that is due; ids of their sandboxes.

    A sandbox that was not used since its last is passed over.
    """
    found = await sandboxes.due_checkpoints(db, now)
    asking = [sandbox for sandbox in found if _is_free(sandbox) and await _may_have_changed(db, sandbox)]
    for sandbox in found:
        await sandboxes.change(db, sandbox.id, checkpoint_at=next_at(sandbox.checkpoint_policy, now))
    for sandbox in asking:
        await checkpoints.add(db, asked(sandbox, now, auto=True))
    return [sandbox.id for sandbox in asking]


def _is_free(sandbox: SandboxRecord) -> bool:
    """Whether its files are at rest.

    A checkpoint that takes longer than `every` is not asked for again meanwhile.
    """
    return sandbox.checkpoint_due is None and sandbox.restore_id is None


async def _may_have_changed(db: AsyncConnection, sandbox: SandboxRecord) -> bool:
    """Whether something ran in it since its last checkpoint."""
    newest = await checkpoints.newest_at(db, sandbox.id)
    if newest is None:
        return True
    if sandbox.session is None:
        ended = await sessions.last_end(db, sandbox.id)
        return ended is not None and ended > newest
    if sandbox.session.phase != "paused":
        return True
    # Calls push the clock of activity only so often (see `Waker.touch`).
    active, slack = sandbox.last_active_at, timedelta(seconds=max(30.0, 0.05 * (sandbox.idle_timeout or 0)))
    return active is None or active + slack > newest
