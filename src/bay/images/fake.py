"""The fake image library, for tests and the fake driver. IT FETCHES NOTHING: every reference names an image.

A test can say what an image is, make a pull fail, wait at a step, or lose files; it never does so by itself.
With a directory it shares the names with other processes.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bay.drivers.base import ImageRoot, ImageUser
from bay.images.base import BroughtImage, FrozenRoot, Held, HeldLayer, ImageSource, OnProgress
from bay.models import PullProgress
from tree_tar.headers import END, FILE, header

_CONFIG: dict[str, Any] = {
    "os": "linux", "architecture": "amd64", "variant": None, "env": {}, "user": "", "working_dir": "", "entrypoint": [],
    "cmd": ["/bin/sh"], "stop_signal": None, "healthcheck": None, "exposed_ports": [], "labels": {}, "created": None,
}  # fmt: skip


class FakeLibrary:
    """Images that are nothing but names. See `ImageLibrary`."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self.here: dict[str, tuple[str, ...]] = {}
        """The diff-ids of each image that was brought."""
        self.layers: set[str] = set()
        self.digests: dict[str, str] = {}
        """The digest that a reference names, where it is not made of the reference."""
        self.contents: dict[str, tuple[str, ...]] = {}
        """The layers that a reference has, where it is not one of its own."""
        self.config: dict[str, Any] = {}
        """More of the config of every image."""
        self.fail: Exception | None = None
        """The error of every pull, until a test sets it to None."""
        self.let_go = asyncio.Event()
        """While it is not set, pulls wait. A test clears it to hold them."""
        self.let_go.set()
        self.fetched: list[tuple[str, str]] = []
        """Each layer that was fetched, and not held already, with the reference it came with."""
        self.sources: list[ImageSource] = []
        self.frozen: list[FrozenRoot] = []
        """Each root whose freeze was begun."""
        self._pinned: dict[str, set[str]] = {}
        self.uploads: dict[str, bytes] = {}
        """The archives that are kept."""

    async def open(self) -> None:
        """Make the directory, if it shares one."""
        if self._directory is not None:
            await asyncio.to_thread(self._directory.mkdir, exist_ok=True)

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    @asynccontextmanager
    async def bring(
        self, image_id: str, source: ImageSource, held: Held, on_progress: OnProgress
    ) -> AsyncGenerator[BroughtImage]:
        """Waits for `let_go` half-way, and then fails where a test said so."""
        self.sources.append(source)
        names = self.contents.get(source.ref, (_hash(f"layer of {source.ref}"),))
        self._pinned[image_id] = set(names)
        try:
            known = {layer.diff_id for layer in await held()}
            on_progress(PullProgress(step="fetching", bytes_total=1024 * len(names), layers_total=len(names)))
            await self.let_go.wait()
            if self.fail is not None:
                raise self.fail
            on_progress(PullProgress(step="unpacking", layers_done=len(names), layers_total=len(names)))
            self.fetched += [(source.ref, name) for name in names if name not in known]
            self.layers |= set(names)
            self.here[image_id] = names
            yield BroughtImage(
                digest=source.digest or self.digests.get(source.ref, _hash(source.ref)),
                config={**_CONFIG, **self.config, "diff_ids": list(names)}, facts={},
                layers=tuple(HeldLayer(digest=name, diff_id=name, size_bytes=1024) for name in names),
            )  # fmt: skip
            await asyncio.to_thread(self._tell, image_id, names)
        finally:
            del self._pinned[image_id]

    @asynccontextmanager
    async def freeze(
        self, image_id: str, root: FrozenRoot, config: Mapping[str, Any]
    ) -> AsyncGenerator[BroughtImage]:
        """Waits for `let_go` before it makes something, and then fails where a test said so."""
        layer = HeldLayer(digest=root.layer_id, diff_id=root.layer_id, size_bytes=0)
        layers = (*root.base, layer)
        names = tuple(one.diff_id for one in layers)
        self._pinned[image_id] = set(names)
        try:
            self.frozen.append(root)
            await self.let_go.wait()
            if self.fail is not None:
                raise self.fail
            self.layers |= set(names)
            self.here[image_id] = names
            yield BroughtImage(
                digest=root.layer_id, config={**config, "diff_ids": list(names)}, facts={}, layers=layers
            )
            await asyncio.to_thread(self._tell, image_id, names)
        finally:
            del self._pinned[image_id]

    @asynccontextmanager
    async def keep_upload(self, image_id: str, body: AsyncIterator[bytes]) -> AsyncGenerator[int]:
        self.uploads[image_id] = b"".join([piece async for piece in body])
        try:
            yield len(self.uploads[image_id])
        except BaseException:
            del self.uploads[image_id]
            raise

    async def drop_upload(self, image_id: str) -> None:
        self.uploads.pop(image_id, None)

    async def is_whole(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        told = await asyncio.to_thread(self._told)
        is_here = image_id in self.here or image_id in told
        return is_here and set(diff_ids) <= self.layers.union(*told.values())

    def root(
        self,
        image_id: str,
        diff_ids: Sequence[str],
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        as_user: bool,
    ) -> ImageRoot:
        user = ImageUser(name="ship", uid=1000, gid=1000, home="/workspace")
        return ImageRoot(
            user=user, layers=(Path("/nonexistent", image_id), *(Path("/nonexistent", d) for d in diff_ids))
        )

    async def export(
        self, ref: str, diff_ids: Sequence[str], config: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        yield header("index.json", FILE, mode=0o644) + END

    async def collect(self, needed: Callable[[], Awaitable[tuple[set[str], set[str]]]]) -> None:
        pinned = dict(self._pinned)
        ids, diff_ids = await needed()
        ids |= pinned.keys()
        diff_ids = diff_ids.union(*pinned.values())
        self.here = {image_id: names for image_id, names in self.here.items() if image_id in ids}
        self.layers &= diff_ids
        await asyncio.to_thread(self._keep_only, ids)

    def _tell(self, image_id: str, names: Sequence[str]) -> None:
        """Once its row is there: another process that collects keeps it then."""
        if self._directory is not None:
            (self._directory / image_id).write_text(json.dumps(names))

    def _told(self) -> dict[str, list[str]]:
        """The layers of all images that any process has brought."""
        files = self._directory.iterdir() if self._directory is not None else ()
        return {file.name: json.loads(file.read_text()) for file in files}

    def _keep_only(self, image_ids: set[str]) -> None:
        for image_id in self._told().keys() - image_ids:
            if self._directory is not None:
                (self._directory / image_id).unlink(missing_ok=True)


def _hash(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
