"""The contract of an image library: it brings images to this host, and says which layers a root has.

Vocabulary
    image       A manifest with its config and layers. Its id is `img-…`, that of the row that asked for it.
    layer       A tree of files, named by its diff-id: the hash of its uncompressed tar. Images share layers.
    top         A small layer of Bay's own, above those of an image: mount points, and files below /etc.
    pin         A pull pins the layers that it needs and no row names yet: a collector leaves those alone.

Call sequence
    async with library.bring("img-1", source, held, on_progress) as brought:
        save(brought)                                   # its layers are pinned until the block is left
    root = library.root("img-1", brought.diff_ids, brought.config, brought.facts)
    async with library.freeze("img-2", FrozenRoot(...), brought.config) as frozen:
        save(frozen)                                    # an image of a sandbox's root as it was
    await library.collect(needed)                       # removes what no row names, and no pull pins

After a crash at any point `open` removes what was half done. `bay.testing.images` has a fake that passes the
same suite.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bay.drivers.base import ImageRoot
from bay.images.registries import Credentials
from bay.models import PullProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Where an image comes from: a registry, or with `is_upload` the archive that was kept for its id."""

    ref: str
    owner: str = ""
    """Who asked for it, and takes turns with others."""
    digest: str | None = None
    """The digest to fetch, whatever the tag names by now; None asks the registry."""
    is_upload: bool = False
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLayer:
    """A layer that is here: `digest` names it in a registry, `size_bytes` is its size on disk."""

    digest: str
    diff_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtImage:
    """An image that is here. `config` and `facts` are JSON; `layers` begin with the lowest."""

    digest: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    layers: tuple[HeldLayer, ...]

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The names of its layers, the lowest first."""
        return tuple(layer.diff_id for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """The size of its layers on disk: one that is named twice is there once."""
        return sum({layer.diff_id: layer.size_bytes for layer in self.layers}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenRoot:
    """The root file system of a sandbox at one moment: the layers of its image, the lowest first, and its own
    changes, which are to be the layer `layer_id`.
    """

    base: tuple[HeldLayer, ...]
    layer_id: str
    directory: Path
    """A copy of the sandbox's files that nothing else uses, with `machine` in it. It may lose the changes."""


Held = Callable[[], Awaitable[Sequence[HeldLayer]]]
"""The layers whose content the owner of a pull may have without fetching it."""

OnProgress = Callable[[PullProgress], None]


class ImageLibrary(Protocol):
    """Images on one host."""

    async def open(self) -> None:
        """Make the directories, and remove what an earlier Bay left half done. Raises DriverUnavailable."""

    async def aclose(self) -> None:
        """Let go of what `open` took."""

    def bring(
        self, image_id: str, source: ImageSource, held: Held, on_progress: OnProgress
    ) -> AbstractAsyncContextManager[BroughtImage]:
        """Have the image here, with its layers pinned in the block. A cancelled call leaves nothing.

        Raises ImageNotFound, ImageDenied, ImageInvalid, ImageTooLarge, RegistryUnavailable, StorageFull or
        DriverUnavailable.
        """
        ...

    def freeze(
        self, image_id: str, root: FrozenRoot, config: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[BroughtImage]:
        """Have an image of that root, with its layers pinned in the block; `config` is as in `BroughtImage`.
        The size of the new layer is not measured. Raises ImageInvalid, StorageFull or DriverUnavailable.
        """
        ...

    def keep_upload(self, image_id: str, body: AsyncIterator[bytes]) -> AbstractAsyncContextManager[int]:
        """Keep an archive for the pull of that id, and give its bytes; in the block no collector removes it,
        and afterwards only where no row has the id. Raises ImageTooLarge or StorageFull.
        """
        ...

    async def drop_upload(self, image_id: str) -> None:
        """Remove the archive of that id, if there is one: a row says that the image is ready, or failed."""

    async def is_whole(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        """Whether all layers of an image are here, and its top."""
        ...

    def root(
        self,
        image_id: str,
        diff_ids: Sequence[str],
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        as_user: bool,
    ) -> ImageRoot:
        """The root of a session of that image. `as_user`: its programs run as the image's own user.
        Raises DriverUnavailable for a lost layer, and ImageInvalid where that user is none.
        """
        ...

    def export(
        self, ref: str, diff_ids: Sequence[str], config: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """An image as a tar of an OCI layout, named `ref`; its layers stay until the generator is closed.
        Raises BadRequest, StorageFull or DriverUnavailable: what was given has no end then.
        """
        ...

    async def collect(self, needed: Callable[[], Awaitable[tuple[set[str], set[str]]]]) -> None:
        """Remove everything but the images and the diff-ids of `needed`, and what a pull pins.
        `needed` is asked while no pull can pin another layer.
        """
