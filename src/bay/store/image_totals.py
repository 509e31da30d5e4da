"""Sums over all images of a Bay, and over those that nothing uses."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from bay.store import checkpoints as checkpoint_queries
from bay.store import images as image_queries
from bay.store.connection import StoreConnection
from bay.store.dialects import whole_sum
from bay.store.records import NOBODY
from bay.store.schema import checkpoints, image_layers, images, templates

_I = images.c


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTotals:
    """Counts, and bytes as quotas count them: of each layer once, however many images have it.

    `images` are those that are ready and no template's; `pulling` ones are not there yet. `workspace_bytes`
    are of the templates' files. The `unused` ones are those that `bay image prune` would remove, and
    `unused_bytes` those of their layers that no other image has. `cached_steps` are snapshots after steps of
    builds, and blocks that these share count for each of them in `cached_bytes`.
    """

    images: int
    pulling: int
    templates: int
    layers: int
    layer_bytes: int
    workspace_bytes: int
    unused: int
    unused_bytes: int
    cached_steps: int
    cached_bytes: int


async def totals(db: StoreConnection, now: datetime) -> ImageTotals:
    """Those of all owners together."""
    ready = (_I.deleted_at.is_(None), _I.state == "ready", _I.source != "template")
    pulling = (_I.deleted_at.is_(None), _I.state == "pulling")
    made = (templates.c.deleted_at.is_(None), templates.c.state == "ready")
    files = select(func.coalesce(whole_sum(checkpoints.c.size_bytes), 0)).where(
        checkpoints.c.id.in_(select(templates.c.checkpoint_id).where(*made))
    )
    # The profiles' own images are no owner's to prune: they go, like all, when they were unused for long.
    unused = {one.id for one in await image_queries.unused(db, now) if one.owner != NOBODY}
    all_layers, kept_layers = await _layers(db, unused)
    cached_steps, cached_bytes = await checkpoint_queries.step_totals(db)
    return ImageTotals(
        images=(await db.execute(select(func.count()).select_from(images).where(*ready))).scalar_one(),
        pulling=(await db.execute(select(func.count()).select_from(images).where(*pulling))).scalar_one(),
        templates=(await db.execute(select(func.count()).select_from(templates).where(*made))).scalar_one(),
        layers=len(all_layers),
        layer_bytes=sum(all_layers.values()),
        workspace_bytes=(await db.execute(files)).scalar_one(),
        unused=len(unused),
        unused_bytes=sum(size for diff_id, size in all_layers.items() if diff_id not in kept_layers),
        cached_steps=cached_steps,
        cached_bytes=cached_bytes,
    )


async def _layers(db: StoreConnection, unused: Collection[str]) -> tuple[dict[str, int], set[str]]:
    """The layers with their bytes, and those of them that images other than the `unused` have."""
    query = select(image_layers.c.image_id, image_layers.c.diff_id, image_layers.c.size_bytes)
    query = query.join(images, _I.id == image_layers.c.image_id).where(_I.deleted_at.is_(None))
    sizes, kept = dict[str, int](), set[str]()
    for image_id, diff_id, size in await db.execute(query):
        sizes[diff_id] = max(size, sizes.get(diff_id, 0))  # of a template it is 0 until it was measured
        if image_id not in unused:
            kept.add(diff_id)
    return sizes, kept
