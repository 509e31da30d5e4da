"""The image library of a host: fetcher, layer store and top layers in one. See `bay.images.base`."""

import asyncio
import errno
import shutil
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from bay.drivers.base import ImageRoot
from bay.errors import BayError, DriverUnavailable, ImageInvalid, ImageNotFound, ImageTooLarge, StorageFull
from bay.images import frozen_root, oci_layout, references, tops
from bay.images.base import BroughtImage, FrozenRoot, Held, HeldLayer, ImageSource, OnProgress
from bay.images.config import MAX_LAYERS, ImageConfig
from bay.images.exporting import export_stream
from bay.images.fetching import ArchiveFile, Fetcher, FetchProgress, ImageOrigin
from bay.images.layer_store import LayerLimits, LayerStore, StoredLayer, hides_all
from bay.images.oci_layout import ImageManifest, LayerBlob
from bay.images.tops import ImageFacts
from bay.linux import remove_tree
from bay.linux.threads import in_new_thread, uninterrupted
from bay.models import PullProgress
from bay.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """The most that an image may have; `archive_bytes` is the size of an upload."""

    archive_bytes: int
    layer: LayerLimits = field(default_factory=LayerLimits)

    @property
    def unpacked_bytes(self) -> int:
        """Of all layers that a pull unpacks: compressed zeros are a thousandth of what they become."""
        return 4 * self.archive_bytes


@dataclass(kw_only=True, eq=False)
class HostLibrary:
    """Images below `root_dir`: `layers/` and `tops/`, and what is under way in `spools/` and `uploads/`."""

    root_dir: Path
    fetcher: Fetcher
    store: LayerStore
    limits: ImageLimits
    _pins: Counter[str] = field(init=False, default_factory=Counter[str])
    """How many pulls need a layer, or the top of an image."""
    _pinning: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    """Held to pin what is here, and to look what may go; nothing is fetched or removed in between."""

    async def open(self) -> None:
        """Also removes what the fetches of a killed Bay left on the host."""
        await in_new_thread(self._open)
        await self.fetcher.open()

    async def aclose(self) -> None:
        """Pulls have ended by now, each with its cage."""

    @asynccontextmanager
    async def bring(
        self, image_id: str, source: ImageSource, held: Held, on_progress: OnProgress
    ) -> AsyncGenerator[BroughtImage]:
        """Fetch what is missing, unpack it, and make the top layer."""
        pins = _Pins(self._pins)
        spool = self.root_dir / "spools" / image_id
        try:
            async with self._pinning:
                here = {one.digest: one for one in await held() if self.store.path(one.diff_id) is not None}
                pins.add([image_id, *(one.diff_id for one in here.values())])
            await in_new_thread(lambda: _make_empty(spool))
            manifest = await self._fetch(image_id, source, spool, here, on_progress)
            _check_held(manifest, here)
            async with self._pinning:
                pins.add([layer.diff_id for layer in manifest.layers])
            layers = await self._unpack(source.owner, manifest, spool, here, on_progress)
            if source.digest is None:  # an attempt before may have found another image under the tag
                await remove_tree.remove(self._top(image_id))
            facts = await in_new_thread(
                lambda: self._make_top(image_id, [one.diff_id for one in layers], manifest.config)
            )
            yield BroughtImage(
                digest=manifest.digest, config=manifest.config.to_json(), facts=facts.to_json(), layers=layers
            )
            await self.drop_upload(image_id)
        finally:
            try:
                await uninterrupted(asyncio.ensure_future(remove_tree.remove(spool)))
            finally:
                pins.drop()

    @asynccontextmanager
    async def freeze(
        self, image_id: str, root: FrozenRoot, config: Mapping[str, Any]
    ) -> AsyncGenerator[BroughtImage]:
        """Takes no time that grows with the files where those are on btrfs."""
        pins = _Pins(self._pins)
        try:
            async with self._pinning:
                pins.add([image_id, root.layer_id, *(one.diff_id for one in root.base)])
            layers = await self._frozen(root)
            ids = [layer.diff_id for layer in layers]
            found = ImageConfig.from_row({**config, "diff_ids": ids})
            facts = await in_new_thread(lambda: self._make_top(image_id, ids, found))
            yield BroughtImage(
                digest=root.layer_id, config=found.to_json(), facts=facts.to_json(), layers=layers
            )
        finally:
            pins.drop()

    async def _frozen(self, root: FrozenRoot) -> tuple[HeldLayer, ...]:
        """The layers of a frozen root; of one that was never written to those of its image."""
        if not await in_new_thread(lambda: frozen_root.has_changes(root.directory)):
            return root.base
        if len(root.base) >= MAX_LAYERS:
            raise ImageInvalid(
                f"the image has {len(root.base)} layers, the limit, and this would add one; begin from an image "
                "with fewer"
            )
        await self.store.adopt(root.directory, frozen_root.CHANGES, root.layer_id)
        return (*root.base, HeldLayer(digest=root.layer_id, diff_id=root.layer_id, size_bytes=0))

    @asynccontextmanager
    async def keep_upload(self, image_id: str, body: AsyncIterator[bytes]) -> AsyncGenerator[int]:
        path, pins = self._upload(image_id), _Pins(self._pins)
        try:
            async with self._pinning:
                pins.add([image_id])
            with await in_new_thread(lambda: path.open("xb")) as file:
                size = await self._save(body, file)
            yield size
        except BaseException:
            with suppress(FileNotFoundError):
                path.unlink()
            raise
        finally:
            pins.drop()

    async def drop_upload(self, image_id: str) -> None:
        await in_new_thread(lambda: self._upload(image_id).unlink(missing_ok=True))

    async def is_whole(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        return await in_new_thread(lambda: self._is_whole(image_id, diff_ids))

    def root(
        self,
        image_id: str,
        diff_ids: Sequence[str],
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        as_user: bool,
    ) -> ImageRoot:
        found = ImageFacts.from_json(facts)
        if as_user and found.user is None:
            raise ImageInvalid(
                f"the image's user {config['user']!r} is not in its /etc/passwd; use a profile with another `user`"
            )
        layers = self._stack(diff_ids)
        user = (found.user if as_user else None) or found.ship
        return replace(found.root((self._top(image_id), *layers), user), env=config["env"])

    async def export(
        self, ref: str, diff_ids: Sequence[str], config: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        pins = _Pins(self._pins)
        try:
            async with self._pinning:
                pins.add(diff_ids)
                trees = [self._layer(diff_id) for diff_id in diff_ids]
            async with aclosing(export_stream(ref, config, trees)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            pins.drop()

    async def collect(self, needed: Callable[[], Awaitable[tuple[set[str], set[str]]]]) -> None:
        async with self._pinning:
            pinned = set(self._pins)  # first: a pull may write its row, and end, while rows are read
            ids, diff_ids = await needed()
            kept = ids | diff_ids | pinned
            gone = await in_new_thread(lambda: self._unneeded(kept))
            hidden = [await self.store.hide(diff_id) for diff_id in self.store.diff_ids() - kept]
        for tree in hidden:  # no pull waits for that
            await self.store.clear(tree)
        if gone:
            await remove_tree.remove(*gone)

    async def _fetch(
        self, image_id: str, source: ImageSource, spool: Path, here: Collection[str], on_progress: OnProgress
    ) -> ImageManifest:
        def note(fetched: FetchProgress) -> None:
            on_progress(
                PullProgress(
                    step="fetching", bytes_done=fetched.bytes_done, bytes_total=fetched.bytes_total,
                    layers_total=fetched.layers_total,
                )
            )  # fmt: skip

        return await self.fetcher.fetch(
            self._origin(image_id, source), spool, credentials=source.credentials, held=here, on_progress=note
        )

    def _origin(self, image_id: str, source: ImageSource) -> ImageOrigin:
        if source.is_upload:
            path = self._upload(image_id)
            if not path.exists():
                raise ImageNotFound("the upload of this image is gone; upload it again")
            return ArchiveFile(path)
        reference = references.parse(source.ref)
        return reference if source.digest is None else reference.pinned(source.digest)

    async def _unpack(
        self,
        owner: str,
        manifest: ImageManifest,
        spool: Path,
        here: Mapping[str, HeldLayer],
        on_progress: OnProgress,
    ) -> tuple[HeldLayer, ...]:
        """Several at once, as the store allows; a layer that is there twice is unpacked once."""
        missing = {layer.digest: layer for layer in manifest.layers if layer.digest not in here}
        meter = _PullMeter(on_progress, sum(one.size for one in missing.values()), len(manifest.layers))
        meter.done = len(manifest.layers) - len(missing)
        made = dict[str, StoredLayer]()

        async def add(layer: LayerBlob) -> None:
            blob = oci_layout.blob_path(spool, layer.digest)
            meter_of = meter.of(layer.digest)
            made[layer.digest] = await self.store.add(
                blob, layer.media_type, layer.diff_id, self.limits.layer, meter_of, owner=owner
            )
            if sum(one.bytes for one in made.values()) > self.limits.unpacked_bytes:
                most = self.limits.unpacked_bytes // MIB
                raise ImageTooLarge(f"the image has more than {most} MiB unpacked, four times images_max_mb")
            await in_new_thread(blob.unlink)
            meter.finish()

        await _together([add(layer) for layer in missing.values()])
        return tuple(
            here.get(layer.digest)
            or HeldLayer(digest=layer.digest, diff_id=layer.diff_id, size_bytes=made[layer.digest].bytes)
            for layer in manifest.layers
        )

    def _make_top(self, image_id: str, diff_ids: Sequence[str], config: ImageConfig) -> ImageFacts:
        layers = self._stack(diff_ids)
        try:
            return tops.make_top(self.root_dir / "tops", image_id, layers, config)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("the disk of Bay's images is full; delete images, or enlarge it") from error
            raise DriverUnavailable(f"the top layer of an image cannot be made: {error.strerror}") from error

    def _stack(self, diff_ids: Sequence[str]) -> list[Path]:
        """The trees of the layers, topmost first, down to one that hides all below it.
        One that is there twice counts at its upper place: it decides there on all that it has, and overlayfs
        refuses it a second time.
        """
        trees: list[Path] = []
        for diff_id in dict.fromkeys(reversed(diff_ids)):
            trees.append(self._layer(diff_id))
            if hides_all(trees[-1]):
                break
        return trees

    def _layer(self, diff_id: str) -> Path:
        path = self.store.path(diff_id)
        if path is None:
            raise DriverUnavailable(f"layer {diff_id} of the image is lost; pull the image again")
        return path

    def _top(self, image_id: str) -> Path:
        return self.root_dir / "tops" / image_id

    def _upload(self, image_id: str) -> Path:
        return self.root_dir / "uploads" / image_id

    def _is_whole(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        return self._top(image_id).is_dir() and all(self.store.path(one) is not None for one in diff_ids)

    def _open(self) -> None:
        self.root_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root_dir.chmod(0o700)
        shutil.rmtree(self.root_dir / "spools", ignore_errors=True)
        for name in ("tops", "spools", "uploads"):
            (self.root_dir / name).mkdir(mode=0o700, exist_ok=True)
        tops.remove_unfinished(self.root_dir / "tops")
        self.store.open()

    def _unneeded(self, kept: Collection[str]) -> list[Path]:
        """The tops and uploads of no image, the tops out of the way already."""
        gone = [path for path in (self.root_dir / "uploads").iterdir() if path.name not in kept]
        for top in (self.root_dir / "tops").iterdir():
            if top.name not in kept and not top.name.startswith("."):
                gone.append(top.rename(self.root_dir / "spools" / f"gone-{top.name}"))
        return gone

    async def _save(self, body: AsyncIterator[bytes], file: IO[bytes]) -> int:
        taken = 0
        async for piece in body:
            taken += len(piece)
            if taken > self.limits.archive_bytes:
                most = self.limits.archive_bytes // MIB
                raise ImageTooLarge(f"the archive has more than {most} MiB, the limit of images_max_mb")
            await in_new_thread(lambda data=piece: _write(file, data))
        return taken


class _Pins:
    """The layers and tops that one pull pins."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._own = set[str]()

    def add(self, names: Sequence[str]) -> None:
        new = set(names) - self._own
        self._own |= new
        self._counts.update(new)

    def drop(self) -> None:
        for name in self._own:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]


class _PullMeter:
    """Adds up what the layers of one image have read."""

    def __init__(self, on_progress: OnProgress, total: int, layers: int) -> None:
        self._on_progress = on_progress
        self._total, self._layers = total, layers
        self._read = dict[str, int]()
        self.done = 0

    def of(self, digest: str) -> Callable[[int], None]:
        """The callback for one layer."""

        def note(count: int) -> None:
            self._read[digest] = count
            self._tell()

        return note

    def finish(self) -> None:
        """One more layer is here."""
        self.done += 1
        self._tell()

    def _tell(self) -> None:
        self._on_progress(
            PullProgress(
                step="unpacking", bytes_done=sum(self._read.values()), bytes_total=self._total,
                layers_done=self.done, layers_total=self._layers,
            )
        )  # fmt: skip


async def _together(parts: Sequence[Coroutine[None, None, None]]) -> None:
    """All of them at once; the first error ends the others, and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except* BayError as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BayError]) -> BayError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _check_held(manifest: ImageManifest, here: Mapping[str, HeldLayer]) -> None:
    """A config may not give the content of a layer that its owner has the name of another's, nor one layer
    two names: only one of them would be compared with the content.
    """
    names = {digest: layer.diff_id for digest, layer in here.items()}
    for layer in manifest.layers:
        if names.setdefault(layer.digest, layer.diff_id) != layer.diff_id:
            raise ImageInvalid(
                f"layer {layer.digest} has not the diff-id {layer.diff_id} that the config says"
            )


def _make_empty(spool: Path) -> None:
    if spool.exists():
        shutil.rmtree(spool)
    spool.mkdir(mode=0o700, parents=True)


def _write(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk of Bay's images is full; delete images, or enlarge it") from error
        raise
