"""The layers on this host: one directory for each, named by its content, and shared by all images.

    layers/sha256-…/{fs,layer.json}    whole layers, never written again
    tmp/…                              what is being made, in the shape of the above
    trash/…                            what is going

A layer appears by one rename, after it has reached the disk; a Bay that dies before leaves a part in `tmp`,
which `open` empties. On btrfs each is a subvolume in a limited group. All of it is closed to the host's
users: the set-uid files of images are real ones here.

The blob of a layer that is there already is still decompressed and compared: else a manifest that names
another owner's layer, above a blob of anything, would be given that layer.
"""

import asyncio
import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from bay.errors import DriverUnavailable, ImageInvalid, StorageFull
from bay.images.layer_cage import Cage, CageParts, UnpackerReport, UnpackOrder
from bay.linux import btrfs, remove_tree, renames
from bay.linux.processes import closing_fd, kill_and_wait, owned_by
from bay.linux.threads import in_new_thread, uninterrupted
from tree_tar.openat2 import openat2

log = structlog.get_logger("bay.images")

_TREE, _FACTS = "fs", "layer.json"
_CODECS = {".tar": None, ".tar+gzip": "gzip", ".tar.gzip": "gzip", ".tar+zstd": "zstd", ".tar.zstd": "zstd"}
_ID = re.compile(r"[a-z0-9]{1,16}:[A-Za-z0-9_-]{1,128}")
_NAME = re.compile(r"[a-z0-9]{1,16}-[A-Za-z0-9_-]{1,128}")
_OPAQUE = "trusted.overlay.opaque"
_SPARE_BYTES = 64 << 20
_KILL_S = 20.0


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """The most that one layer may have. `max_bytes` are of its tar, uncompressed."""

    max_bytes: int = 16 << 30
    max_entries: int = 2_000_000


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer that is whole. `bytes` are of its tar, uncompressed; `skipped` counts the devices left out."""

    diff_id: str
    bytes: int
    entries: int
    skipped: int


class LayerStore:
    """Below `root`, on any file system with overlayfs's needs; `concurrency` layers are unpacked at once, and
    one owner's never in the last place, unless there is only one.
    """

    def __init__(self, root: Path, parts: CageParts, *, concurrency: int = 3) -> None:
        self._layers, self._tmp, self._trash = root / "layers", root / "tmp", root / "trash"
        self._root = root
        self._parts = parts
        self._slots = asyncio.Semaphore(concurrency)
        self._slots_of_owner = max(1, concurrency - 1)
        self._of_owner: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        # Of layers that are put in place or removed, and of those that an owner unpacks. One that is not
        # compared yet holds no other owner's: a stranger could claim a popular layer, and be slow.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def open(self) -> None:
        """Make the directories, and remove what an earlier Bay left half made or half removed. Blocks."""
        for directory in (self._root, self._layers, self._tmp, self._trash):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._end_unpackers()
        parts = [place for place in self._layers.iterdir() if not (place / _TREE).exists()]
        for left in (*parts, *self._tmp.iterdir(), *self._trash.iterdir()):
            try:
                _remove_now(left)
            except (OSError, DriverUnavailable) as error:
                log.warning("layer.remains", name=left.name, error=str(error))

    def _end_unpackers(self) -> None:
        """End those of a killed Bay, which may still write, and free their ids."""
        ids = self._parts.ids
        for number, holder in ids.holders().items():
            if holder.parent != self._tmp:
                continue
            if kill_and_wait(owned_by(range(ids.first_of(number), ids.first_of(number + 1))), _KILL_S):
                ids.release(holder)
            else:
                log.error("layer.unpacker_survives", name=holder.name)

    def path(self, diff_id: str) -> Path | None:
        """The tree of a layer that is whole, for a lower layer of an overlay."""
        tree = self._place(diff_id) / _TREE
        return tree if tree.is_dir() else None

    def diff_ids(self) -> set[str]:
        """All that are whole."""
        ids = {name.replace("-", ":", 1) for name in os.listdir(self._layers) if _NAME.fullmatch(name)}
        return {found for found in ids if self.path(found)}

    def facts(self, diff_id: str) -> StoredLayer | None:
        """A layer that is whole. Blocks for a moment."""
        if self.path(diff_id) is None:
            return None
        return StoredLayer(**json.loads((self._place(diff_id) / _FACTS).read_bytes()))

    async def add(
        self,
        blob: Path,
        media_type: str,
        diff_id: str,
        limits: LayerLimits,
        on_progress: Callable[[int], None] | None = None,
        *,
        owner: str = "",
    ) -> StoredLayer:
        """Unpack `blob`, or only compare it where the layer is there. `on_progress` gets the number of its
        bytes that were read. When cancelled it kills the unpacker, and leaves nothing, as with an error.

        Raises ImageInvalid, ImageTooLarge, StorageFull or DriverUnavailable.
        """
        codec = codec_of(media_type)
        async with self._lock(f"{owner}/{diff_id}"), self._turn(owner), self._slots, self._making() as made:
            known = await asyncio.to_thread(self.facts, diff_id)
            tree = None if known else made / _TREE
            order = UnpackOrder(blob, codec, tree, made, limits.max_bytes, limits.max_entries)
            found = await self._unpacked(order, diff_id, on_progress)
            if known is not None:
                return known
            layer = StoredLayer(diff_id, found.bytes, found.entries, found.skipped)
            async with self._lock(diff_id):
                await in_new_thread(lambda: self._finish(made, layer, found.opaque))
            return layer

    async def adopt(self, source: Path, tree: str, content_id: str) -> StoredLayer:
        """Make the finished directory `tree` of `source` the layer `content_id`, with its overlay marks.
        A subvolume is snapshotted and stays; of anything else the directory is taken away by a rename, so it
        must lie on the store's file system. Raises StorageFull or DriverUnavailable.
        """
        async with self._lock(content_id), self._making() as made:
            known = await asyncio.to_thread(self.facts, content_id)
            if known is not None:
                return known
            layer = StoredLayer(content_id, 0, 0, 0)
            await in_new_thread(lambda: self._adopt(source, tree, made, layer))
            return layer

    async def remove(self, diff_id: str) -> None:
        """Remove the layer, if it is there; at once out of sight, whatever comes then."""
        await self.clear(await self.hide(diff_id))

    async def hide(self, diff_id: str) -> Path:
        """Take the layer out of sight, if it is there; gives what `clear` removes."""
        going = self._trash / f"{_name(diff_id)}.{secrets.token_hex(6)}"
        async with self._lock(diff_id):
            await asyncio.to_thread(_move, self._place(diff_id), going)
        return going

    async def clear(self, hidden: Path) -> None:
        """Remove a hidden layer, which takes a while where it is no subvolume. Raises DriverUnavailable."""
        await _removed(hidden)

    async def _unpacked(
        self, order: UnpackOrder, diff_id: str, on_progress: Callable[[int], None] | None
    ) -> UnpackerReport:
        loop = asyncio.get_running_loop()

        def tell(at: int) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, at)

        cage = Cage(self._parts, order, tell)

        def run() -> UnpackerReport:
            with _host_errors():
                self._prepare(order)
                return cage.run()

        try:
            found = await in_new_thread(run, cage.kill)
        finally:
            await uninterrupted(asyncio.ensure_future(in_new_thread(cage.release)))
        if found.digest != diff_id:
            raise ImageInvalid(f"a layer is not what the image says: the digest of its tar is not {diff_id}")
        return found

    def _prepare(self, order: UnpackOrder) -> None:
        if order.layer is None:
            return order.holder.mkdir(mode=0o700)
        _make(order.holder, order.max_bytes + order.max_bytes // 8 + _SPARE_BYTES)
        order.layer.mkdir(mode=0o755)
        return order.layer.chmod(0o755)  # whatever Bay's umask is

    def _finish(self, made: Path, layer: StoredLayer, opaque: list[str]) -> None:
        with _host_errors():
            _mark_opaque(made / _TREE, opaque)
            self._publish(made, layer)

    def _publish(self, made: Path, layer: StoredLayer) -> None:
        (made / _FACTS).write_text(json.dumps(asdict(layer)))
        renames.sync_file_system(made)
        # Where another Bay was quicker, its copy is as good.
        renames.place(made, self._place(layer.diff_id))
        renames.sync_directory(self._layers)

    def _adopt(self, source: Path, tree: str, made: Path, layer: StoredLayer) -> None:
        with _host_errors():
            if btrfs.is_btrfs(source) and btrfs.is_subvolume(source):
                self._freeze(source, tree, made, layer)
            else:
                self._take_over(source / tree, made, layer)

    def _freeze(self, source: Path, tree: str, made: Path, layer: StoredLayer) -> None:
        btrfs.snapshot(source, made)
        made.chmod(0o700)
        (made / tree).rename(made / _TREE)
        for name in set(os.listdir(made)) - {_TREE}:
            remove_tree.remove_now(made / name)
        self._publish(made, layer)

    def _take_over(self, tree: Path, made: Path, layer: StoredLayer) -> None:
        """The tree comes last: were Bay killed while it is in `tmp`, the next start would remove it."""
        made.mkdir(mode=0o700)
        self._publish(made, layer)
        place = self._place(layer.diff_id)
        tree.rename(place / _TREE)
        renames.sync_directory(place)

    @asynccontextmanager
    async def _making(self) -> AsyncGenerator[Path]:
        """A name in `tmp` for a layer. Where none has come of it, what is there is removed."""
        made = self._tmp / secrets.token_hex(8)
        try:
            yield made
        finally:
            await _removed(made)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _turn(self, owner: str) -> asyncio.Semaphore:
        return self._of_owner.setdefault(owner, asyncio.Semaphore(self._slots_of_owner))

    def _place(self, diff_id: str) -> Path:
        return self._layers / _name(diff_id)


def hides_all(tree: Path) -> bool:
    """Whether a layer hides all that are below it: overlayfs does not look for the mark on a layer's top."""
    try:
        return os.getxattr(tree, _OPAQUE) == b"y"
    except OSError:
        return False


def codec_of(media_type: str) -> str | None:
    """How a layer of that media type is compressed. Raises ImageInvalid for one that is no tar."""
    for ending, codec in _CODECS.items():
        if media_type.endswith(ending):
            return codec
    raise ImageInvalid(
        f"the image has a layer of the type {media_type[:100]!r}; tar, gzip and zstd are known"
    )


def _name(content_id: str) -> str:
    """The name of a directory, without colons, which separate layers in mount options."""
    if not _ID.fullmatch(content_id):
        raise ImageInvalid(f"{content_id[:100]!r} is no id of a layer")
    return content_id.replace(":", "-", 1)


def _make(made: Path, limit_bytes: int) -> None:
    try:
        btrfs.create(made)
    except OSError as error:
        if not btrfs.is_refused(error):
            raise
        made.mkdir(mode=0o700)
        return
    made.chmod(0o700)
    if btrfs.are_quotas_on(made.parent):
        group = btrfs.group_of(btrfs.subvolume_id(made))
        btrfs.join_group(made, group)
        btrfs.limit_group(made.parent, group, limit_bytes)


def _mark_opaque(tree: Path, places: list[str]) -> None:
    """Set the mark, which needs rights over the host's file system, beneath the layer's top alone."""
    with closing_fd(os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as top:
        for place in places:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            with closing_fd(openat2(top, os.fsencode(place or "."), flags, links=False)) as directory:
                os.setxattr(directory, _OPAQUE, b"y")


async def _removed(path: Path) -> None:
    if not await in_new_thread(lambda: _destroyed(path)):
        await remove_tree.remove(path)


def _remove_now(path: Path) -> None:
    if not _destroyed(path):
        remove_tree.remove_now(path)


def _destroyed(path: Path) -> bool:
    """Remove a subvolume, which takes no time; False where something else is there."""
    with _host_errors(), contextlib.suppress(FileNotFoundError):
        if not (stat.S_ISDIR(path.lstat().st_mode) and btrfs.is_btrfs(path) and btrfs.is_subvolume(path)):
            return False
        btrfs.destroy(path)
        btrfs.begin_commit(path.parent)  # else the room comes back after half a minute
    return True


def _move(path: Path, target: Path) -> None:
    with _host_errors(), contextlib.suppress(FileNotFoundError):
        path.rename(target)


@contextlib.contextmanager
def _host_errors() -> Generator[None]:
    """The kernel's errors as Bay's. Owners read the text: no paths."""
    try:
        yield
    except OSError as error:
        log.warning("layer.refused_by_host", error=str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no space is left for images; remove images that nobody uses") from error
        raise DriverUnavailable(f"the host refused a step of the unpacking: {error.strerror}") from error
