"""Has the memory of sessions and checkpoints outlive a boot of the host: all is on disk before it is marked.

A mark is true for ever. Files that nobody has written to since a sync are on their disk after any crash, and
programs write to none of these before the image is taken away. All here blocks.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bay.drivers.oci.kept_memory import KeptMemory
from bay.drivers.oci.layout import Layout, is_session_id
from bay.drivers.oci.memory_image import Fingerprint, ImageDirectory, ImageUnusable
from bay.linux.renames import sync_file_system


def make_durable(
    layout: Layout,
    hosts: Mapping[str, Fingerprint],
    directories: Iterable[Path],
    hibernates: Callable[[str], bool],
) -> set[str]:
    """Ids of the sessions and checkpoints whose memory outlives a boot now. Memory that this host cannot use
    (`hosts`, see `ImageDirectory.read`) stays as it is.

    `directories` are on all file systems beside the layout's own that have files of sandboxes. `hibernates`
    says of a session with an image whether nothing of it runs: the image of one that goes on is on its way to
    a checkpoint. Raises OSError, with all images as good as before.
    """
    images = _images(layout)
    texts = {name: text for name, image in images.items() if (text := _usable(image, hosts)) is not None}
    kept = layout.checkpoint_ids()
    resting = {name: text for name, text in texts.items() if name in kept or hibernates(name)}
    for directory in (layout.memories, layout.layers, layout.cache, *directories):
        sync_file_system(directory)
    marked = {name for name, text in resting.items() if images[name].mark_durable(text)}
    sync_file_system(layout.memories)
    return marked


def _images(layout: Layout) -> dict[str, ImageDirectory]:
    """The places of images by session or checkpoint; half-made ones are none of them."""
    sessions = filter(is_session_id, os.listdir(layout.memories))
    found = {name: ImageDirectory(layout.session(name).memory) for name in sessions}
    checkpoints = filter(is_session_id, layout.checkpoint_ids())
    return found | {name: KeptMemory.of(layout, name).image for name in checkpoints}


def _usable(image: ImageDirectory, hosts: Mapping[str, Fingerprint]) -> str | None:
    try:
        text = image.text()
        image.read(hosts)
    except (FileNotFoundError, NotADirectoryError, ImageUnusable):
        return None
    return text
