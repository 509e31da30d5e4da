"""Database queries on an owner's usage, or one key's, counted in the transaction that wants more."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from bay.store.connection import StoreConnection
from bay.store.dialects import Larger, whole_sum
from bay.store.records import NOBODY
from bay.store.sandboxes import has_volume
from bay.store.schema import (
    cargos,
    checkpoints,
    image_layers,
    images,
    pushes,
    sandboxes,
    sessions,
    templates,
)
from bay.store.templates import HAS_POOL

_S = sandboxes.c
_T = templates.c


@dataclass(frozen=True, slots=True)
class UsageScope:
    """All resources of an owner, or with `key_id` only those made with that key."""

    owner: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProfileUsage:
    """The usage of one profile, in sandboxes of the same sizes (None is the profile's). A sandbox under
    deletion is not in `sandboxes`, but counts in the others.
    """

    profile: str
    cpus: float | None
    memory_mb: int | None
    held_cpus: float | None
    """The sizes that their sessions have, while others are wanted."""
    held_memory_mb: int | None
    sandboxes: int
    running: int
    """Have or want compute, and are not frozen."""
    holding: int
    """Those and the frozen ones."""


async def by_profile(
    db: StoreConnection, whose: UsageScope, now: datetime, besides: str | None
) -> list[ProfileUsage]:
    """The usage of each profile and size, without the sandbox `besides`."""
    live = and_(sessions.c.sandbox_id == _S.id, sessions.c.ended_at.is_(None))
    wants = and_(
        _S.target == "running", or_(_S.expires_at.is_(None), _S.expires_at > now, _S.on_expiry == "pause")
    )
    sizes = (_S.cpus, _S.memory_mb, *(_held(name) for name in ("cpus", "memory_mb")))
    query = (
        select(
            _S.profile,
            *sizes,
            _count(_S.target != "deleted"),
            _count(or_(sessions.c.phase.not_in(("paused", "hibernated")), wants)),
            _count(or_(sessions.c.phase != "hibernated", wants)),
        )
        .outerjoin(sessions, live)
        .where(*_of(whose), _S.deleted_at.is_(None), _S.id != (besides or ""))
        .group_by(_S.profile, *sizes)
    )
    return [ProfileUsage(*row) for row in await db.execute(query)]


async def pools(db: StoreConnection, whose: UsageScope, besides: str | None) -> list[ProfileUsage]:
    """The pools of templates, as if each were full; without that of the template `besides`."""
    size = whole_sum(func.coalesce(_T.pool_max, _T.pool_size))
    sizes = _T.cpus, _T.memory_mb
    query = (
        select(_T.profile, *sizes, *sizes, size, size, size)
        .where(HAS_POOL, *_pools_of(whose), _T.state != "failed", _T.id != (besides or ""))
        .group_by(_T.profile, *sizes)
    )
    return [ProfileUsage(*row) for row in await db.execute(query)]


async def disk_bytes(db: StoreConnection, whose: UsageScope) -> int:
    """Bytes of the cargos (a key's: of its sandboxes), also in the pools of templates, of what only
    checkpoints hold, as measured, of memory on disk, of archives in the object store, and of an owner's
    images. A layer of two images counts once, and an archive until it is an image.
    """
    held = Larger(func.coalesce(cargos.c.used_bytes, 0), func.coalesce(cargos.c.charged_bytes, 0))
    files = select(func.coalesce(whole_sum(held), 0)).where(cargos.c.deleted_at.is_(None))
    copies = select(func.coalesce(whole_sum(checkpoints.c.exclusive_bytes), 0))
    # The figure of a cargo with an enforced limit includes its checkpoints.
    counted = select(_S.id).join(cargos, cargos.c.id == _S.cargo_id)
    counted = counted.where(cargos.c.charged_bytes.is_not(None))
    copies = copies.where(checkpoints.c.deleted_at.is_(None), checkpoints.c.sandbox_id.not_in(counted))
    layers = select(func.max(image_layers.c.size_bytes).label("size")).join(
        images, images.c.id == image_layers.c.image_id
    )
    own = and_(
        images.c.owner == (whose.owner if whose.key_id is None else None), images.c.deleted_at.is_(None)
    )
    layers = layers.where(own)
    archives = select(func.coalesce(whole_sum(images.c.size_bytes), 0)).where(own, images.c.state != "ready")
    each = layers.group_by(image_layers.c.diff_id).subquery()
    kept = select(func.coalesce(whole_sum(each.c.size), 0))
    if whose.key_id is None:
        files = files.where(cargos.c.owner == whose.owner)
        copies = copies.where(checkpoints.c.owner == whose.owner)
    else:
        its = and_(*_of(whose), _S.deleted_at.is_(None))
        files = files.where(cargos.c.id.in_(select(_S.cargo_id).where(its)))
        copies = copies.where(checkpoints.c.sandbox_id.in_(select(_S.id).where(its)))
    its_images = select(_T.image_id).where(*_pools_of(whose), _T.image_id.is_not(None))
    in_pools = select(_S.id).where(_S.owner == NOBODY, _S.pool.is_not(None), _S.image_id.in_(its_images))
    pushed = select(func.coalesce(whole_sum(pushes.c.bytes), 0)).where(pushes.c.deleted_at.is_(None))
    pushed = pushed.where(pushes.c.owner == whose.owner, pushes.c.state != "failed")
    if whose.key_id is not None:
        its = select(checkpoints.c.id).where(checkpoints.c.sandbox_id.in_(select(_S.id).where(*_of(whose))))
        pushed = pushed.where(pushes.c.checkpoint_id.in_(its))
    waiting = select(func.coalesce(whole_sum(held), 0))
    waiting = waiting.where(cargos.c.deleted_at.is_(None), cargos.c.managed_by_sandbox_id.in_(in_pools))
    memory = select(func.coalesce(whole_sum(sessions.c.memory_bytes), 0)).where(
        sessions.c.ended_at.is_(None), sessions.c.sandbox_id.in_(select(_S.id).where(*_of(whose)))
    )
    begun_with = select(_S.memory_id).where(_S.memory_id.is_not(None), _S.deleted_at.is_(None))
    saved = select(func.coalesce(whole_sum(checkpoints.c.memory_bytes), 0)).where(
        or_(checkpoints.c.deleted_at.is_(None), checkpoints.c.id.in_(begun_with)),
        checkpoints.c.sandbox_id.in_(select(_S.id).where(*_of(whose))),
    )
    queries = (files, waiting, copies, kept, archives, pushed, memory, saved)
    return sum([(await db.execute(query)).scalar_one() for query in queries])


async def external_cargos(db: StoreConnection, owner: str) -> int:
    """Cargos of the owner that belong to no sandbox."""
    external = cargos.c.deleted_at.is_(None), cargos.c.managed_by_sandbox_id.is_(None)
    return (await db.execute(select(func.count()).where(cargos.c.owner == owner, *external))).scalar_one()


async def created_since(db: StoreConnection, whose: UsageScope, since: datetime) -> int:
    """Sandboxes made after `since`, deleted ones too."""
    return (await db.execute(select(func.count()).where(*_of(whose), _S.created_at > since))).scalar_one()


async def nth_newest(db: StoreConnection, whose: UsageScope, n: int) -> datetime | None:
    """When the `n`th newest sandbox was made, counted from 1."""
    query = select(_S.created_at).where(*_of(whose)).order_by(_S.created_at.desc()).offset(n - 1).limit(1)
    return (await db.execute(query)).scalar_one_or_none()


async def unmeasured(db: StoreConnection, stale: datetime) -> list[str]:
    """Ids of the cargos that may have changed since they were measured, the longest ago first.
    Their sandboxes were active or lost their session since, or run and were measured before `stale`.
    """
    at = cargos.c.measured_at
    changed = or_(
        _S.last_active_at >= at,
        sessions.c.ended_at >= at,
        and_(sessions.c.ended_at.is_(None), sessions.c.phase == "running", at < stale),
    )
    using = select(_S.id).outerjoin(sessions, sessions.c.sandbox_id == _S.id)
    its = or_(_S.cargo_id == cargos.c.id, has_volume(cargos.c.id))
    using = using.where(its, _S.deleted_at.is_(None), changed)
    query = select(cargos.c.id).where(cargos.c.deleted_at.is_(None), or_(at.is_(None), using.exists()))
    return list((await db.execute(query.order_by(at.nulls_first()))).scalars())


def _of(whose: UsageScope) -> list[ColumnElement[bool]]:
    # The owner also where the key would do: the index is on that.
    mine = [_S.owner == whose.owner]
    return mine if whose.key_id is None else [*mine, _S.key_id == whose.key_id]


def _pools_of(whose: UsageScope) -> list[ColumnElement[bool]]:
    mine = [_T.owner == whose.owner]
    return mine if whose.key_id is None else [*mine, _T.pool_key_id == whose.key_id]


def _held(name: str) -> ColumnElement[Any]:
    return case((sessions.c.id.is_(None), _S[name]), else_=sessions.c[name])


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)
