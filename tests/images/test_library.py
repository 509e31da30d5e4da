"""The library of this host: a real registry, a real skopeo, cages and layers on a real file system."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from image_files import ImageFile, Layer, layer_of
from libraries import bring, no_rows, nothing, pieces, unseen
from registry import Registry

from bay.errors import ImageInvalid, ImageNotFound, ImageTooLarge
from bay.images.base import FrozenRoot, HeldLayer, ImageSource
from bay.images.config import MAX_LAYERS
from bay.images.library import HostLibrary
from bay.linux import remove_tree
from bay.models import PullProgress
from bay.units import MIB

pytestmark = [pytest.mark.host, pytest.mark.anyio]

BASE = layer_of({"etc/os-release": b"ID=base\n"})
APP = layer_of({"app": b"app"})


async def test_an_image_of_a_registry_becomes_layers_and_a_top(
    library: HostLibrary, plain_registry: Registry
) -> None:
    ref = plain_registry.push(ImageFile(layers=(BASE, APP)), "lib/app", "1")
    seen: list[PullProgress] = []
    async with library.bring("img-1", ImageSource(ref=ref), nothing, seen.append) as brought:
        assert brought.diff_ids == (BASE.diff_id, APP.diff_id)
    assert await library.is_whole("img-1", brought.diff_ids)
    root = library.root("img-1", brought.diff_ids, brought.config, brought.facts, as_user=False)
    assert root.layers[0].name == "img-1"
    assert [(layer / "app").exists() for layer in root.layers] == [False, True, False]
    assert (root.user.uid, root.env["PATH"]) == (1000, "/bin")
    assert (seen[-1].layers_done, seen[-1].layers_total) == (2, 2)
    assert list((library.root_dir / "spools").iterdir()) == []
    assert json.loads(json.dumps(brought.facts)) == brought.facts


async def test_nothing_below_a_layer_that_hides_all_is_mounted(
    library: HostLibrary, plain_registry: Registry
) -> None:
    anew = layer_of({".wh..wh..opq": b"", "new": b"x"})
    ref = plain_registry.push(ImageFile(layers=(BASE, anew, APP)), "lib/anew", "1")
    brought = await bring(library, "img-1", ref)
    root = library.root("img-1", brought.diff_ids, brought.config, brought.facts, as_user=False)
    assert [(layer / "etc/os-release").exists() for layer in root.layers] == [False, False, False]
    assert [(layer / "new").exists() for layer in root.layers] == [False, False, True]


async def test_a_layer_that_is_there_twice_counts_at_its_upper_place(
    library: HostLibrary, plain_registry: Registry
) -> None:
    other = layer_of({"etc/os-release": b"ID=other\n", "more": b"x"})
    ref = plain_registry.push(ImageFile(layers=(BASE, other, BASE)), "lib/twice", "1")
    brought = await bring(library, "img-1", ref)
    assert brought.diff_ids == (BASE.diff_id, other.diff_id, BASE.diff_id)
    root = library.root("img-1", brought.diff_ids, brought.config, brought.facts, as_user=False)
    assert root.layers[1:] == (library.store.path(BASE.diff_id), library.store.path(other.diff_id))


async def test_a_held_layer_is_not_fetched_and_its_digest_must_be_its_own(
    library: HostLibrary, plain_registry: Registry
) -> None:
    first = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "lib/held", "1"))
    wanted = ImageFile(layers=(BASE, APP))
    ref = plain_registry.push(wanted, "lib/held", "2")
    second = await bring(library, "img-2", ref, *first.layers)
    assert second.layers[0] == first.layers[0]
    private = layer_of({"secret": b"of another owner"})
    await bring(library, "img-3", plain_registry.push(ImageFile(layers=(private,)), "lib/private", "1"))
    lie = ImageFile(layers=(BASE,), config={"rootfs": {"type": "layers", "diff_ids": [private.diff_id]}})
    for held in ((), first.layers):
        with pytest.raises(ImageInvalid):
            await bring(library, "img-4", plain_registry.push(lie, "lib/lie", "1"), *held)
    assert not (library.root_dir / "tops/img-4").exists()


async def test_an_image_that_grows_without_bound_as_it_is_unpacked_is_refused(
    library: HostLibrary, plain_registry: Registry
) -> None:
    layers = tuple(layer_of({f"zeros{n}": bytes(4 * MIB)}) for n in range(8))
    ref = plain_registry.push(ImageFile(layers=layers), "lib/bomb", "1")
    with pytest.raises(ImageTooLarge, match="more than 16 MiB unpacked"):
        await bring(library, "img-1", ref)
    assert len(library.store.diff_ids()) < 8


async def test_one_digest_cannot_have_two_contents_of_which_one_is_another_owners(
    library: HostLibrary, plain_registry: Registry
) -> None:
    private = layer_of({"secret": b"of another owner"})
    await bring(library, "img-1", plain_registry.push(ImageFile(layers=(private,)), "lib/private", "1"))
    for diff_ids in ([private.diff_id, BASE.diff_id], [BASE.diff_id, private.diff_id]):
        lie = ImageFile(layers=(BASE, BASE), config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
        with pytest.raises(ImageInvalid):
            await bring(library, "img-2", plain_registry.push(lie, "lib/twice", "1"))
    assert not (library.root_dir / "tops/img-2").exists()


async def test_what_a_pull_needs_is_not_collected_and_the_rest_is(
    library: HostLibrary, plain_registry: Registry
) -> None:
    ref = plain_registry.push(ImageFile(layers=(BASE,)), "lib/pins", "1")
    async with library.bring("img-1", ImageSource(ref=ref), nothing, unseen) as brought:
        await library.collect(no_rows)
        assert await library.is_whole("img-1", brought.diff_ids)
    await library.collect(no_rows)
    assert not await library.is_whole("img-1", brought.diff_ids)
    assert library.store.diff_ids() == set()
    assert list((library.root_dir / "tops").iterdir()) == []


async def test_a_pull_that_ends_while_rows_are_read_is_not_collected(
    library: HostLibrary, plain_registry: Registry
) -> None:
    ref = plain_registry.push(ImageFile(layers=(BASE,)), "lib/race", "1")
    pull = library.bring("img-1", ImageSource(ref=ref), nothing, unseen)
    brought = await pull.__aenter__()

    async def rows_of_before() -> tuple[set[str], set[str]]:
        await pull.__aexit__(None, None, None)
        return await no_rows()

    await library.collect(rows_of_before)
    assert await library.is_whole("img-1", brought.diff_ids)


async def test_two_pulls_of_one_layer_at_once_share_it(
    library: HostLibrary, plain_registry: Registry
) -> None:
    refs = [plain_registry.push(ImageFile(layers=(BASE, APP)), f"lib/{n}", "1") for n in ("a", "b")]
    both = await asyncio.gather(*(bring(library, f"img-{n}", ref) for n, ref in enumerate(refs)))
    assert both[0].diff_ids == both[1].diff_ids
    assert library.store.diff_ids() == {BASE.diff_id, APP.diff_id}


async def test_a_cancelled_pull_leaves_nothing_and_can_be_repeated(
    library: HostLibrary, plain_registry: Registry
) -> None:
    ref = plain_registry.push(ImageFile(layers=(BASE,)), "lib/cut", "1")
    begun = asyncio.Event()

    async def cut() -> None:
        async with library.bring("img-1", ImageSource(ref=ref), nothing, lambda _: begun.set()):
            raise AssertionError("it was to be cancelled before")

    pull = asyncio.create_task(cut())
    await asyncio.wait_for(begun.wait(), 30)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert list((library.root_dir / "spools").iterdir()) == []
    assert (await bring(library, "img-1", ref)).diff_ids == (BASE.diff_id,)


async def test_a_pull_that_is_cancelled_while_it_clears_up_pins_nothing_and_leaves_nothing(
    library: HostLibrary, plain_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = plain_registry.push(ImageFile(layers=(BASE,)), "lib/cut", "2")
    brought, clearing, go_on, remove = (*(asyncio.Event() for _ in range(3)), remove_tree.remove)

    async def removed(*trees: Path) -> None:
        if trees[0].parent.name == "spools":
            clearing.set()
            await go_on.wait()
        await remove(*trees)

    async def no_rows() -> tuple[set[str], set[str]]:
        return set(), set()

    async def cut() -> None:
        async with library.bring("img-1", ImageSource(ref=ref), nothing, unseen):
            brought.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(remove_tree, "remove", removed)
    pull = asyncio.create_task(cut())
    await asyncio.wait_for(brought.wait(), 30)
    pull.cancel()
    await asyncio.wait_for(clearing.wait(), 30)
    pull.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert list((library.root_dir / "spools").iterdir()) == []
    await library.collect(no_rows)
    assert library.store.diff_ids() == set()


async def test_an_archive_is_kept_until_it_is_an_image(library: HostLibrary) -> None:
    source = ImageSource(ref="docker.io/library/mine:1", is_upload=True)
    with pytest.raises(ImageNotFound):
        async with library.bring("img-1", source, nothing, unseen):
            pass
    async with library.keep_upload("img-1", pieces(docker_archive(BASE))):
        await library.collect(no_rows)
    async with library.bring("img-1", source, nothing, unseen) as brought:
        assert brought.diff_ids == (BASE.diff_id,)
    assert list((library.root_dir / "uploads").iterdir()) == []
    with pytest.raises(ImageTooLarge):
        async with library.keep_upload("img-2", pieces(b"x" * (5 * MIB))):
            pass
    assert list((library.root_dir / "uploads").iterdir()) == []


async def test_what_a_killed_bay_left_half_done_is_removed(
    library: HostLibrary, plain_registry: Registry
) -> None:
    brought = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "lib/kill", "1"))
    for left in ("spools/img-2/blobs", "tmp/half/fs", "trash/gone", "tops/.building-x"):
        (library.root_dir / left).mkdir(parents=True)
    await library.open()
    assert await library.is_whole("img-1", brought.diff_ids)
    for emptied in ("spools", "tmp", "trash"):
        assert list((library.root_dir / emptied).iterdir()) == []
    assert [path.name for path in (library.root_dir / "tops").iterdir()] == ["img-1"]


def docker_archive(layer: Layer) -> bytes:
    """What `docker save` makes of an image with that layer."""
    plain = gzip.decompress(layer.blob) if layer.blob[:2] == b"\x1f\x8b" else layer.blob
    config = ImageFile(layers=(layer,)).config_bytes
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest: list[dict[str, Any]] = [{"Config": name, "RepoTags": ["mine:1"], "Layers": ["1/layer.tar"]}]
    files = {name: config, "1/layer.tar": plain, "manifest.json": json.dumps(manifest).encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def changed(short: Path, name: str, files: dict[str, bytes], deleted: Sequence[str] = ()) -> Path:
    """A copy of a sandbox's files, as its overlay and its workspace would leave them."""
    upper = short / name / "machine/root/upper"
    upper.mkdir(parents=True)
    (short / name / "workspace").mkdir()
    for path, content in files.items():
        (upper / path).parent.mkdir(parents=True, exist_ok=True)
        (upper / path).write_bytes(content)
    for path in deleted:
        (upper / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(upper / path, stat.S_IFCHR, os.makedev(0, 0))
    return short / name


async def test_a_frozen_root_is_its_image_with_one_layer_more(
    library: HostLibrary, plain_registry: Registry, short: Path
) -> None:
    base = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE, APP)), "lib/froze", "1"))
    passwd = b"root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
    copy = changed(short, "copy", {"etc/passwd": passwd, "opt/new": b"new"}, ["app"])
    root = FrozenRoot(base=base.layers, layer_id="template:ckpt-1", directory=copy)
    async with library.freeze("img-2", root, {**base.config, "env": {"PATH": "/bin", "A": "b"}}) as frozen:
        pass
    assert frozen.diff_ids == (BASE.diff_id, APP.diff_id, "template:ckpt-1")
    assert await library.is_whole("img-2", frozen.diff_ids)
    start = library.root("img-2", frozen.diff_ids, frozen.config, frozen.facts, as_user=False)
    assert (start.user.name, start.env["A"]) == ("ann", "b")
    top, newest, *_ = start.layers
    assert "ann:x:1000" in (top / "etc/passwd").read_text()
    assert (newest / "opt/new").read_bytes() == b"new"
    assert stat.S_ISCHR((newest / "app").lstat().st_mode)
    again = changed(short, "again", {"opt/newer": b""})
    root = FrozenRoot(base=frozen.layers, layer_id="template:ckpt-2", directory=again)
    async with library.freeze("img-3", root, frozen.config) as second:
        assert second.diff_ids == (*frozen.diff_ids, "template:ckpt-2")


async def test_a_root_that_nothing_changed_has_the_layers_of_its_image(
    library: HostLibrary, plain_registry: Registry, short: Path
) -> None:
    base = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "lib/same", "1"))
    (short / "copy/machine").mkdir(parents=True)
    root = FrozenRoot(base=base.layers, layer_id="template:ckpt-1", directory=short / "copy")
    async with library.freeze("img-2", root, base.config) as frozen:
        assert frozen.layers == base.layers
    assert await library.is_whole("img-2", frozen.diff_ids)


@pytest.mark.parametrize("trap", ["machine", "machine/root", "machine/root/upper"])
async def test_a_link_on_the_way_to_the_changes_leads_to_no_file_of_the_host(
    library: HostLibrary, plain_registry: Registry, short: Path, trap: str
) -> None:
    base = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "lib/trap", "1"))
    host = short / "host"
    (host / "root/upper/upper").mkdir(parents=True)
    link = short / "copy" / trap
    link.parent.mkdir(parents=True)
    link.symlink_to(host / "root" if trap.endswith("root") else host)
    root = FrozenRoot(base=base.layers, layer_id="template:ckpt-1", directory=short / "copy")
    with pytest.raises(ImageInvalid, match="link"):
        async with library.freeze("img-2", root, base.config):
            pass
    assert (host / "root/upper/upper").is_dir()
    assert library.store.diff_ids() == {BASE.diff_id}


async def test_a_freeze_above_the_most_layers_is_refused(library: HostLibrary, short: Path) -> None:
    copy = changed(short, "copy", {"file": b""})
    base = (HeldLayer(digest="sha256:0", diff_id="sha256:0", size_bytes=1),) * MAX_LAYERS
    with pytest.raises(ImageInvalid, match="128 layers"):
        async with library.freeze("img-2", FrozenRoot(base=base, layer_id="template:x", directory=copy), {}):
            pass
