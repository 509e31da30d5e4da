"""Database queries on images. A deleted one is invisible; its layers go once no image has them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, Row, Text, and_, cast, delete, func, insert, or_, select, update

from bay.models import Failure, from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.records import ImageLayer, ImageRecord, Page
from bay.store.rows import columns_of, page_of, values_of, without_seq
from bay.store.schema import checkpoints, image_layers, images, sandboxes, templates
from bay.units import MIB

_I = images.c
_L = image_layers.c
_COLUMNS = columns_of(images)
_ALIVE = _I.deleted_at.is_(None)
_PAGE_BYTES = 2 * MIB
"""Of configs in a page: their authors chose them, and all other calls wait while Bay decodes them."""
_WAITING = and_(sandboxes.c.deleted_at.is_(None), sandboxes.c.target.in_(("running", "paused")))


async def add(db: StoreConnection, record: ImageRecord) -> None:
    """Insert one image."""
    row = values_of(images, record)
    await db.execute(insert(images).values({**row, "error": record.error and to_wire(record.error)}))


async def change(db: StoreConnection, image_id: str, *, error: Failure | None = None, **values: Any) -> None:
    """Set columns of one image; without `error` it has none from then on."""
    row = {**values, "error": to_wire(error) if error else None}
    await db.execute(update(images).where(_I.id == image_id).values(**row))


async def touch(db: StoreConnection, image_id: str, now: datetime) -> None:
    """A sandbox starts from it."""
    await db.execute(update(images).where(_I.id == image_id).values(last_used_at=now))


async def get(db: StoreConnection, image_id: str) -> ImageRecord | None:
    """The image, of any owner, deleted or not."""
    return await _first(db, select(*_COLUMNS).where(_I.id == image_id))


async def find(db: StoreConnection, owner: str, ref: str) -> ImageRecord | None:
    """The newest image with that id or reference that the owner may use; one that failed comes last."""
    named = or_(_I.id == ref, _I.ref == ref)
    query = select(*_COLUMNS).where(named, _ALIVE, _may_use(owner))
    return await _first(db, query.order_by(_I.state == "failed", _I.owner != owner, _I.seq.desc()).limit(1))


async def find_own(db: StoreConnection, owner: str, image_id: str) -> ImageRecord | None:
    """The owner's own image with that id, deleted or not."""
    return await _first(db, select(*_COLUMNS).where(_I.id == image_id, _I.owner == owner))


async def page(db: StoreConnection, owner: str, *, after: int, limit: int) -> Page[ImageRecord]:
    """Up to `limit` images with `seq` > `after` that the owner may use, oldest first. Fewer, but one at
    least, where their configs are large.
    """
    shown = and_(_ALIVE, _may_use(owner), _I.seq > after)
    size = func.coalesce(func.length(cast(_I.config, Text)), 0)
    sizes = (await db.execute(select(size).where(shown).order_by(_I.seq).limit(limit))).scalars()
    fitting = sum(so_far <= _PAGE_BYTES for so_far in accumulate(sizes))
    limit = max(1, fitting)
    rows = (await db.execute(select(_I.seq, *_COLUMNS).where(shown).order_by(_I.seq).limit(limit + 1))).all()
    return page_of(rows, limit, _record)


async def pulling(db: StoreConnection) -> list[ImageRecord]:
    """Every image that is wanted and not there yet, oldest first."""
    query = select(*_COLUMNS).where(_ALIVE, _I.state == "pulling").order_by(_I.seq)
    return [_record(row) for row in await db.execute(query)]


async def count(db: StoreConnection, owner: str) -> int:
    """How many images the owner has."""
    query = select(func.count()).select_from(images).where(_I.owner == owner, _ALIVE)
    return (await db.execute(query)).scalar_one()


async def deleted(db: StoreConnection, image_ids: Collection[str]) -> set[str]:
    """Those of the images that were deleted."""
    query = select(_I.id).where(_I.id.in_(image_ids), _I.deleted_at.is_not(None))
    return set((await db.execute(query)).scalars())


async def ready(db: StoreConnection) -> list[ImageRecord]:
    """Every image that is there."""
    return [_record(row) for row in await db.execute(select(*_COLUMNS).where(_ALIVE, _I.state == "ready"))]


async def set_layers(db: StoreConnection, image_id: str, layers: Sequence[ImageLayer]) -> None:
    """Write down the layers of an image that has none yet."""
    for layer in layers:
        await db.execute(insert(image_layers).values(values_of(image_layers, layer)))


async def measure(db: StoreConnection, image_id: str, diff_id: str, size_bytes: int) -> None:
    """Write down the size of a layer that was not known."""
    unknown = and_(_L.image_id == image_id, _L.diff_id == diff_id, _L.size_bytes == 0)
    measured = await db.execute(update(image_layers).where(unknown).values(size_bytes=size_bytes))
    if measured.rowcount:
        await db.execute(
            update(images).where(_I.id == image_id).values(size_bytes=_I.size_bytes + size_bytes)
        )


async def drop_layers(db: StoreConnection, image_id: str) -> None:
    """Forget the layers of an image that has lost them."""
    await db.execute(delete(image_layers).where(_L.image_id == image_id))


async def layers_of(db: StoreConnection, image_id: str) -> list[ImageLayer]:
    """The image's layers, the lowest first."""
    query = select(image_layers).where(_L.image_id == image_id).order_by(_L.position)
    return [ImageLayer(**row._mapping) for row in await db.execute(query)]


async def layers_for(db: StoreConnection, owner: str) -> list[ImageLayer]:
    """The layers of all images that the owner may use: no others are given for a digest alone."""
    query = select(image_layers).join(images, _I.id == _L.image_id).where(_ALIVE, _may_use(owner))
    return [ImageLayer(**row._mapping) for row in await db.execute(query)]


async def needed(db: StoreConnection) -> tuple[set[str], set[str]]:
    """The ids of the images whose files are needed, and the diff-ids of their layers."""
    ids = set((await db.execute(select(_I.id).where(_ALIVE))).scalars())
    query = select(_L.diff_id).join(images, _I.id == _L.image_id).where(_ALIVE).distinct()
    return ids, set((await db.execute(query)).scalars())


async def users(db: StoreConnection, image_id: str) -> list[str]:
    """Ids of the sandboxes, the checkpoints of root file systems and the templates that need the image."""
    made = select(templates.c.id).where(templates.c.image_id == image_id, templates.c.deleted_at.is_(None))
    boxes = select(sandboxes.c.id).where(sandboxes.c.image_id == image_id, sandboxes.c.deleted_at.is_(None))
    copies = select(checkpoints.c.id).where(checkpoints.c.image_id == image_id, _is_kept())
    return [one for query in (boxes, copies, made) for one in (await db.execute(query)).scalars()]


async def waiting(db: StoreConnection, image_id: str) -> list[str]:
    """Ids of the sandboxes that want to run from the image."""
    query = select(sandboxes.c.id).where(sandboxes.c.image_id == image_id, _WAITING)
    return list((await db.execute(query)).scalars())


async def wanting_service(db: StoreConnection, image_id: str) -> list[str]:
    """Ids of the sandboxes that want the image's command as their service."""
    own = sandboxes.c.image_id == image_id, sandboxes.c.deleted_at.is_(None)
    query = select(sandboxes.c.id).where(*own, sandboxes.c.entrypoint.is_not(None))
    return list((await db.execute(query)).scalars())


async def unused(db: StoreConnection, before: datetime, *, owner: str | None = None) -> list[ImageRecord]:
    """Images, of one owner or of all, that nothing uses, and no sandbox has started from since `before`."""
    taken = select(sandboxes.c.image_id).where(
        sandboxes.c.image_id.is_not(None), sandboxes.c.deleted_at.is_(None)
    )
    kept = select(checkpoints.c.image_id).where(checkpoints.c.image_id.is_not(None), _is_kept())
    made = select(templates.c.image_id).where(
        templates.c.image_id.is_not(None), templates.c.deleted_at.is_(None)
    )
    query = select(*_COLUMNS).where(_ALIVE, _I.state != "pulling", _I.last_used_at <= before)
    query = query.where(_I.id.not_in(taken), _I.id.not_in(kept), _I.id.not_in(made))
    if owner is not None:
        query = query.where(_I.owner == owner)
    return [_record(row) for row in await db.execute(query.order_by(_I.seq))]


async def older(db: StoreConnection, image: ImageRecord) -> list[ImageRecord]:
    """The owner's earlier images of the same reference and digest, which say nothing more than `image`."""
    same = and_(_I.owner == image.owner, _I.ref == image.ref, _I.digest == image.digest)
    query = select(*_COLUMNS).where(same, _ALIVE, _I.state == "ready", _I.id != image.id)
    return [_record(row) for row in await db.execute(query)]


def _may_use(owner: str) -> ColumnElement[bool]:
    return or_(_I.owner == owner, _I.shared.is_(True))


def _is_kept() -> ColumnElement[bool]:
    """A snapshot after a step of a build keeps nothing: it goes with its image."""
    alive = and_(checkpoints.c.deleted_at.is_(None), checkpoints.c.build_key.is_(None))
    return and_(alive, checkpoints.c.persist == "machine")


def _record(row: Row[Any]) -> ImageRecord:
    values = without_seq(row)
    error = values.pop("error")
    return ImageRecord(**values, error=from_wire(Failure, error) if error else None)


async def _first(db: StoreConnection, query: Any) -> ImageRecord | None:
    row = (await db.execute(query)).first()
    return _record(row) if row else None
