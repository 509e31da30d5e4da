"""The checkpoint policy of a sandbox: which checkpoints are due, and the rows that ask for them."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from bay.clock import Clock
from bay.errors import QuotaExceeded
from bay.ids import new_id
from bay.models import CheckpointPolicy
from bay.store import checkpoints, sandboxes, sessions
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import CheckpointRecord, SandboxRecord

_AT_ONCE = 16
"""Checkpoints of policies that are made at once: each takes memory, a disk or a network. After an outage all
are due.
"""
_LOOKED_AT = 256
"""Due sandboxes that one look asks the database about: all of thousands would hold up other writes."""


def next_at(policy: CheckpointPolicy | None, now: datetime) -> datetime | None:
    """When the next checkpoint of `policy` is due."""
    return now + timedelta(seconds=policy.every) if policy and policy.every else None


def asked(
    sandbox: SandboxRecord, now: datetime, *, auto: bool = False, hidden: bool = False,
    name: str | None = None, comment: str | None = None, memory: bool = False,
) -> CheckpointRecord:  # fmt: skip
    """The row of a checkpoint of `sandbox`, with its `memory` or without, that the reconciler makes next."""
    return CheckpointRecord(
        id=new_id("ckpt"), owner=sandbox.owner, sandbox_id=sandbox.id, name=name, comment=comment, auto=auto, hidden=hidden,
        kind="memory" if memory else "files",
        persist=sandbox.persist, image=sandbox.image, image_id=sandbox.image_id, parent_id=sandbox.checkpoint_id, created_at=now,
    )  # fmt: skip


async def before_stop(db: StoreConnection, sandbox_id: str, now: datetime) -> None:
    """Ask for a checkpoint of a sandbox that has just stopped, if its policy says so."""
    sandbox = await sandboxes.get(db, sandbox_id)
    if sandbox and sandbox.checkpoint_policy and sandbox.checkpoint_policy.before_stop:
        await checkpoints.add(db, asked(sandbox, now, auto=True))


async def ask(
    store: Store,
    clock: Clock,
    poke: Callable[[str], None],
    can_save: Callable[[SandboxRecord], bool],
    admit_memory: Callable[[StoreConnection, SandboxRecord], Awaitable[None]],
) -> None:
    """Have the reconciler make the checkpoints that are due, but none of a sandbox unused since its last. Of
    many those that have been due for longest come first; the others stay due. `can_save` says of which the
    memory is saved, where the policy wants that. Beyond a quota, for which `admit_memory` raises
    QuotaExceeded, it is of files alone.
    """
    async with store.read() as db:
        if not await sandboxes.due_checkpoints(db, clock(), 1) or await checkpoints.making(db) >= _AT_ONCE:
            return
    async with store.write() as db:
        now = clock()
        found = await sandboxes.due_checkpoints(db, now, _LOOKED_AT)
        room = _AT_ONCE - await checkpoints.making(db)
        asking: list[SandboxRecord] = []
        for sandbox in found:
            if len(asking) >= room:
                break
            if _is_free(sandbox) and await _may_have_changed(db, sandbox):
                asking.append(sandbox)
                memory = _with_memory(sandbox, can_save) and await _is_admitted(admit_memory(db, sandbox))
                await checkpoints.add(db, asked(sandbox, now, auto=True, memory=memory))
            await sandboxes.change(db, sandbox.id, checkpoint_at=next_at(sandbox.checkpoint_policy, now))
    for sandbox in asking:
        poke(sandbox.id)


def _with_memory(sandbox: SandboxRecord, can_save: Callable[[SandboxRecord], bool]) -> bool:
    policy, session = sandbox.checkpoint_policy, sandbox.session
    lives = session is not None and session.phase in ("running", "paused", "hibernated")
    return policy is not None and policy.memory and lives and can_save(sandbox)


async def _is_admitted(admission: Awaitable[None]) -> bool:
    try:
        await admission
    except QuotaExceeded:
        return False
    return True


def _is_free(sandbox: SandboxRecord) -> bool:
    """Whether its files are at rest: a checkpoint that takes longer than `every` is not asked for twice."""
    return sandbox.checkpoint_due is None and sandbox.restore_id is None


async def _may_have_changed(db: StoreConnection, sandbox: SandboxRecord) -> bool:
    """Whether something ran in it since its last checkpoint."""
    newest = await checkpoints.newest_at(db, sandbox.id)
    if newest is None:
        return True
    if sandbox.session is None:
        ended = await sessions.last_end(db, sandbox.id)
        return ended is not None and ended > newest
    if sandbox.session.phase not in ("paused", "hibernated"):
        return True
    # Calls push the clock of activity only so often (see `Waker.touch`).
    active, slack = sandbox.last_active_at, timedelta(seconds=max(30.0, 0.05 * (sandbox.idle_timeout or 0)))
    return active is None or active + slack > newest
