"""The rows of an image's layers, and the layers that rows name."""

from collections.abc import Iterable

from bay.images.base import BroughtImage, HeldLayer
from bay.store.records import ImageLayer


def rows_of(image_id: str, brought: BroughtImage) -> list[ImageLayer]:
    """The rows that make the layers of an image count."""
    return [
        ImageLayer(
            image_id=image_id, position=n, digest=one.digest, diff_id=one.diff_id, size_bytes=one.size_bytes
        )
        for n, one in enumerate(brought.layers)
    ]


def held_by(rows: Iterable[ImageLayer]) -> tuple[HeldLayer, ...]:
    """The layers that these rows say are here."""
    return tuple(HeldLayer(digest=one.digest, diff_id=one.diff_id, size_bytes=one.size_bytes) for one in rows)
