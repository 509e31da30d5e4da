"""The store of layers: what is whole appears at once and stays, and nothing else is ever seen."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import Layer
from layer_files import TIME, directory, entry, gzipped, names_in, plain, store, symlink, tar, zstandarded

from bay.errors import ImageInvalid
from bay.images.layer_store import LayerLimits, LayerStore, StoredLayer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts"),
]

SMALL = tar(directory("etc"), entry("etc/name", b"small\n", uid=7, gid=8), symlink("link", "etc/name"))
LIMITS = LayerLimits()


async def added(
    layers: LayerStore, layer: Layer, tmp_path: Path, limits: LayerLimits = LIMITS
) -> StoredLayer:
    blob = tmp_path / "blob"
    blob.write_bytes(layer.blob)
    async with asyncio.timeout(60):
        return await layers.add(blob, layer.media_type, layer.diff_id, limits)


@pytest.mark.parametrize("compress", [gzipped, zstandarded, plain])
async def test_a_layer_becomes_a_directory(compress: Callable[[bytes], Layer], tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), compress(SMALL)
    assert layers.path(layer.diff_id) is None
    assert await added(layers, layer, tmp_path) == StoredLayer(layer.diff_id, len(SMALL), 3, 0)
    tree = layers.path(layer.diff_id)
    assert tree is not None
    assert names_in(tree) == {"etc": "directory", "etc/name": "file", "link": "symlink"}
    facts = (tree / "etc/name").stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode), facts.st_mtime) == (7, 8, 0o644, TIME)
    assert (tree / "etc/name").read_text() == "small\n"
    assert layers.diff_ids() == {layer.diff_id}


async def test_content_that_is_not_its_diff_id_is_refused(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(SMALL)
    other = Layer(layer.blob, f"sha256:{'0' * 64}", layer.media_type)
    with pytest.raises(ImageInvalid, match="not what the image says"):
        await added(layers, other, tmp_path)
    assert names_in(tmp_path / "images") == {"layers": "directory", "tmp": "directory", "trash": "directory"}


async def test_a_layer_that_is_there_is_not_given_for_another_blob(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(SMALL)
    await added(layers, layer, tmp_path)
    with pytest.raises(ImageInvalid, match="not what the image says"):
        await added(layers, Layer(gzipped(b"\0" * 1024).blob, layer.diff_id, layer.media_type), tmp_path)
    assert layers.diff_ids() == {layer.diff_id}


async def test_a_layer_that_is_removed_is_gone_and_can_come_back(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(SMALL)
    first = await added(layers, layer, tmp_path)
    await layers.remove(layer.diff_id)
    await layers.remove(layer.diff_id)
    assert layers.diff_ids() == set()
    assert list((tmp_path / "images/trash").iterdir()) == []
    assert await added(layers, layer, tmp_path) == first
