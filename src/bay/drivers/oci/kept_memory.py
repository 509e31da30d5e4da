"""The memory of checkpoints on disk: the image of a session's memory, and a copy of its layers.

Any number of sessions begin with it: each has links to the files of the image, and layers of its own. All
here blocks.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bay.drivers.base import SessionSpec
from bay.drivers.oci import layers
from bay.drivers.oci.layout import Layout, SessionPlaces
from bay.drivers.oci.memory_image import ImageDirectory
from bay.linux import remove_tree


@dataclass(frozen=True, slots=True)
class KeptMemory:
    """The memory of one checkpoint, or its place."""

    image: ImageDirectory
    """It comes last; without a valid one there is no memory."""
    layers: Path

    @classmethod
    def of(cls, layout: Layout, checkpoint_id: str) -> "KeptMemory":
        """Raises InvalidArgument for an id that could be a path."""
        image, kept = layout.checkpoint(checkpoint_id)
        return cls(ImageDirectory(image), kept)

    def take(self, places: SessionPlaces) -> None:
        """Take over the image that a frozen session has left, with a copy of its layers. Raises OSError."""
        self._copy_layers(places)
        ImageDirectory(places.memory).keep_as(self.image)

    def share(self, places: SessionPlaces) -> None:
        """The same of a session that hibernates, and keeps its own."""
        self._copy_layers(places)
        ImageDirectory(places.memory).copy_to(self.image)

    def size(self) -> int:
        """The bytes on disk. Raises OSError."""
        return (self.image.size() or 0) + layers.used_bytes(self.layers)

    def lay_down(self, places: SessionPlaces, sandbox_id: str, layer_bytes: int | None) -> None:
        """Give a session that has not begun all of it. Raises OSError."""
        places.make_from(self.layers, sandbox_id, layer_bytes)
        self.image.copy_to(ImageDirectory(places.memory))

    def remove(self) -> None:
        """Remove all of it, also half of it; idempotent. Raises OSError, DriverUnavailable."""
        self.image.forget()
        layers.destroy(self.layers)
        for place in (self.image.path, self.image.half_made, self.layers):
            remove_tree.remove_now(place)

    def _copy_layers(self, places: SessionPlaces) -> None:
        for directory in (self.image.path.parent, self.layers.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        layers.copy(places.data, self.layers, None)


def rights_of(spec: SessionSpec, seccomp: Mapping[str, Any]) -> str:
    """A digest of what a session's programs may do beyond its own limits. Its Ship and its processes keep
    these for as long as they run, also in each copy: memory is for sessions with the same alone.
    """
    user = None if spec.root is None else (spec.root.user.name, spec.root.user.uid, spec.root.user.gid)
    facts = (spec.user, spec.home, spec.users, spec.allow_root, user, seccomp)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
