"""The store of layers: what is whole appears at once and stays, and nothing else is ever seen."""

import asyncio
import gzip
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import zstandard
from image_files import GZIP, TAR, ZSTD, Layer, digest_of
from layer_files import (
    TIME,
    below,
    directory,
    entry,
    gzipped,
    names_in,
    plain,
    processes,
    store,
    symlink,
    tar,
    windowed,
    zstandarded,
)

from bay.errors import DriverUnavailable, ImageInvalid, ImageTooLarge, StorageFull
from bay.images import layer_cage, layer_store
from bay.images.layer_cage import UnpackerBroken, UnpackerReport, UnpackOrder
from bay.images.layer_store import LayerLimits, LayerStore, StoredLayer, hides_all
from bay.linux import btrfs
from pools import needs_btrfs, pool_in, unmounted_after

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts"),
]

SMALL = tar(directory("etc"), entry("etc/name", b"small\n", uid=7, gid=8), symlink("link", "etc/name"))
LIMITS = LayerLimits()
EMPTY = {"layers": "directory", "tmp": "directory", "trash": "directory"}


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
    assert names_in(tmp_path / "images") == EMPTY


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


async def test_gzip_may_have_several_members_and_zeros_behind(tmp_path: Path) -> None:
    layers = store(tmp_path / "images")
    halves = gzip.compress(SMALL[:700]) + gzip.compress(b"") + gzip.compress(SMALL[700:]) + bytes(99_999)
    assert (await added(layers, Layer(halves, digest_of(SMALL), GZIP), tmp_path)).bytes == len(SMALL)


async def test_zstd_may_have_several_frames_and_ones_to_skip(tmp_path: Path) -> None:
    layers, content = store(tmp_path / "images"), tar(entry("big", os.urandom(5 << 20)))
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    compressor = zstandard.ZstdCompressor(level=3)
    frames = [skipped, compressor.compress(content[:1_000_000]), skipped, compressor.compress(content[1_000_000:]), skipped]  # fmt: skip
    assert (await added(layers, Layer(b"".join(frames), digest_of(content), ZSTD), tmp_path)).entries == 1


async def test_zstd_with_a_long_window_is_taken(tmp_path: Path) -> None:
    layers, content = store(tmp_path / "images"), tar(entry("big", os.urandom(1 << 20) * 3))
    assert (await added(layers, windowed(content, 27), tmp_path)).entries == 1


async def test_what_lies_behind_the_end_of_the_tar_counts_for_its_digest(tmp_path: Path) -> None:
    layers, content = store(tmp_path / "images"), SMALL + b"whatever" * 999
    await added(layers, gzipped(content), tmp_path)
    with pytest.raises(ImageInvalid, match="not what the image says"):
        await added(layers, Layer(gzipped(content).blob, digest_of(SMALL), GZIP), tmp_path)


async def test_progress_is_told_in_bytes_of_the_blob(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(tar(entry("f", os.urandom(8 << 20))))
    blob, seen = tmp_path / "blob", list[int]()
    blob.write_bytes(layer.blob)
    async with asyncio.timeout(60):
        await layers.add(blob, layer.media_type, layer.diff_id, LIMITS, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(layer.blob)


@pytest.mark.parametrize("stores", [1, 2])
async def test_two_that_want_one_layer_at_once_both_get_it(stores: int, tmp_path: Path) -> None:
    """Of one store, or of two Bays by mistake on one directory."""
    made = [store(tmp_path / "images") for _ in range(stores)] * (2 // stores)
    layer = gzipped(SMALL)
    found = await asyncio.gather(*(added(layers, layer, tmp_path) for layers in made))
    assert found[0] == found[1]
    assert names_in(tmp_path / "images/tmp") == {}
    assert made[0].diff_ids() == {layer.diff_id}


class _Slow:
    """Cages that say so when they run, and end when they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: set[str]) -> None:
        self.running: list[str] = []
        self.changed = asyncio.Condition()
        self._go = threading.Event()
        loop, them = asyncio.get_running_loop(), self

        class Cage:
            def __init__(self, _parts: object, order: UnpackOrder, _tell: object) -> None:
                self._name = order.blob.name

            def run(self) -> UnpackerReport:
                them.running.append(self._name)
                asyncio.run_coroutine_threadsafe(them._tell(), loop).result(30)
                assert self._name not in slow or them._go.wait(30)
                return UnpackerReport(f"sha256:{self._name.partition('.')[0]}", 1, 1, 0, [])

            def kill(self) -> None:
                them._go.set()

            def release(self) -> None:
                pass

        monkeypatch.setattr(layer_store, "Cage", Cage)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def ran(self, count: int) -> None:
        """Wait until so many have begun."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.running) >= count)

    def end(self) -> None:
        """Let the slow ones go on."""
        self._go.set()


def _id(number: int) -> str:
    return f"sha256:{number:064}"


async def test_slow_layers_of_one_owner_hold_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cages = _Slow(monkeypatch, {f"{number:064}" for number in range(1, 9)})
    layers = store(tmp_path / "images", concurrency=3)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(1, 9):
            group.create_task(
                layers.add(tmp_path / f"{number:064}", GZIP, _id(number), LIMITS, owner="mallory")
            )
        await cages.ran(2)
        for number in range(11, 14):
            await layers.add(tmp_path / f"{number:064}", GZIP, _id(number), LIMITS, owner="alice")
        assert len([name for name in cages.running if int(name) < 9]) == 2
        cages.end()


async def test_a_slow_layer_that_claims_the_name_of_another_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cages = _Slow(monkeypatch, {f"{1:064}.claimed"})
    layers = store(tmp_path / "images", concurrency=3)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        claimed = tmp_path / f"{1:064}.claimed"
        slow = group.create_task(layers.add(claimed, GZIP, _id(1), LIMITS, owner="mallory"))
        await cages.ran(1)
        found = await layers.add(tmp_path / f"{1:064}", GZIP, _id(1), LIMITS, owner="alice")
        assert layers.path(_id(1)) is not None
        cages.end()
    assert slow.result() == found
    assert names_in(tmp_path / "images/tmp") == {}


async def test_only_so_many_layers_are_unpacked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = asyncio.Event(), threading.Event()
    running: list[int] = []
    loop = asyncio.get_running_loop()

    class Waiting:
        def __init__(self, _parts: object, order: UnpackOrder, _tell: object) -> None:
            self._order = order

        def run(self) -> UnpackerReport:
            running.append(1)
            loop.call_soon_threadsafe(begun.set)
            assert go.wait(30)
            return UnpackerReport(f"sha256:{self._order.blob.name}", 1, 1, 0, [])

        def kill(self) -> None:
            go.set()

        def release(self) -> None:
            running.append(-1)

    monkeypatch.setattr(layer_store, "Cage", Waiting)
    layers = store(tmp_path / "images", concurrency=1)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(3):
            diff_id = f"sha256:{number:064}"
            group.create_task(layers.add(tmp_path / f"{number:064}", GZIP, diff_id, LIMITS))
        await begun.wait()
        assert running == [1]
        go.set()
    assert running == [1, -1] * 3


async def test_an_unpacker_that_does_not_start_is_told_in_its_own_words_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "raise ImportError('libpthread.so.0: cannot open shared object file')"
    monkeypatch.setattr(layer_cage, "_PROGRAM", program)
    layers = store(tmp_path / "images")
    with pytest.raises(UnpackerBroken, match=r"cannot be unpacked on this host: .*libpthread") as caught:
        await added(layers, gzipped(SMALL), tmp_path)
    assert not caught.value.retryable
    assert names_in(tmp_path / "images") == EMPTY


async def test_cancelling_ends_the_unpacker_and_leaves_nothing(tmp_path: Path) -> None:
    layers, layer = (
        store(tmp_path / "images"),
        gzipped(tar(*(entry(f"f{n}", bytes(1 << 20)) for n in range(700)))),
    )
    (tmp_path / "blob").write_bytes(layer.blob)
    runs = asyncio.Event()
    adding = asyncio.create_task(
        layers.add(tmp_path / "blob", layer.media_type, layer.diff_id, LIMITS, lambda _at: runs.set())
    )
    async with asyncio.timeout(60):
        await runs.wait()
        assert processes() != []
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    assert processes() == []
    assert names_in(tmp_path / "images") == EMPTY


async def test_cancelling_at_once_leaves_nothing(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(SMALL)
    (tmp_path / "blob").write_bytes(layer.blob)
    for turns in range(1, 12):
        adding = asyncio.create_task(layers.add(tmp_path / "blob", layer.media_type, layer.diff_id, LIMITS))
        for _ in range(turns):
            await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    assert processes() == []
    assert names_in(tmp_path / "images") == EMPTY


async def test_opening_removes_what_a_killed_bay_left(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("tmp/half/fs/dir", "trash/going/fs", f"layers/sha256-{'a' * 64}"):
        (images / name).mkdir(parents=True)
    (images / "tmp/spool").write_text("x")
    images.chmod(0o755)
    layers = store(images)
    assert names_in(images) == EMPTY
    assert layers.diff_ids() == set()
    assert stat.S_IMODE(images.stat().st_mode) == 0o700


async def test_a_blob_that_is_no_file_is_refused(tmp_path: Path) -> None:
    layers, blob = store(tmp_path / "images"), tmp_path / "blob"
    for make in (lambda: blob.symlink_to("/etc/passwd"), lambda: os.mkfifo(blob), lambda: blob.mkdir()):
        make()
        with pytest.raises((ImageInvalid, DriverUnavailable)):
            await layers.add(blob, GZIP, f"sha256:{'0' * 64}", LIMITS)
        assert names_in(tmp_path / "images") == EMPTY
        blob.rmdir() if blob.is_dir() and not blob.is_symlink() else blob.unlink()


@pytest.mark.parametrize(
    "diff_id", ["", "sha256", "sha256:../../x", "sha256:a/b", "../x:y", "sha256:" + "a" * 200]
)
async def test_an_id_that_is_no_name_is_refused(diff_id: str, tmp_path: Path) -> None:
    layers = store(tmp_path / "images")
    with pytest.raises(ImageInvalid):
        layers.path(diff_id)
    with pytest.raises(ImageInvalid):
        await layers.remove(diff_id)


@pytest.mark.parametrize("media_type", ["", "text/html", "application/vnd.oci.image.layer.v1.tar+lz4"])
async def test_another_media_type_is_refused(media_type: str, tmp_path: Path) -> None:
    layers = store(tmp_path / "images")
    with pytest.raises(ImageInvalid, match="tar, gzip and zstd"):
        await layers.add(tmp_path / "blob", media_type, f"sha256:{'0' * 64}", LIMITS)


async def test_a_layer_that_hides_all_below_says_so(tmp_path: Path) -> None:
    layers, layer = store(tmp_path / "images"), gzipped(tar(entry(".wh..wh..opq"), entry("f")))
    plainly = gzipped(SMALL)
    for one in (layer, plainly):
        await added(layers, one, tmp_path)
    trees = [layers.path(one.diff_id) for one in (layer, plainly)]
    assert [hides_all(tree) for tree in trees if tree is not None] == [True, False]


def pooled(tmp_path: Path) -> Generator[Path]:
    data = tmp_path / "data"
    data.mkdir()
    with unmounted_after(data):
        pool = pool_in(data)
        pool.open()
        yield data / "cargo"
        pool.close()


pool = pytest.fixture(pooled)


@needs_btrfs
async def test_on_btrfs_a_layer_stops_at_its_limit(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_store, "_SPARE_BYTES", -(32 << 20))
    layers, layer = store(pool / "images"), gzipped(tar(entry("f", os.urandom(24 << 20))))
    with pytest.raises(ImageTooLarge, match="more space than allowed"):
        await added(layers, layer, pool, LayerLimits(max_bytes=32 << 20))
    assert names_in(pool / "images") == EMPTY


@needs_btrfs
async def test_a_full_disk_is_told_and_leaves_nothing(pool: Path, tmp_path: Path) -> None:
    layers = store(pool / "images")
    content = tar(*(entry(f"f{number}", os.urandom(1 << 20)) for number in range(300)))
    with pytest.raises(StorageFull, match="no space is left"):
        await added(layers, plain(content), tmp_path)
    assert names_in(pool / "images") == EMPTY
    async with asyncio.timeout(60):
        while btrfs_free(pool) < 128 << 20:
            await asyncio.to_thread(btrfs.commit, pool)
    await added(layers, gzipped(SMALL), tmp_path)


def btrfs_free(pool: Path) -> int:
    facts = os.statvfs(pool)
    return facts.f_bavail * facts.f_frsize


@needs_btrfs
async def test_a_subvolume_becomes_a_layer_and_stays(pool: Path) -> None:
    layers, box = store(pool / "images"), pool / "box"
    btrfs.create(box)
    (box / "upper/etc").mkdir(parents=True)
    (box / "upper/etc/new").write_text("x")
    (box / "work/work").mkdir(parents=True)
    os.mknod(box / "upper/gone", stat.S_IFCHR, 0)
    await layers.adopt(box, "upper", "template:tpl-1")
    found = layers.path("template:tpl-1")
    assert found is not None
    assert names_in(found) == {"etc": "directory", "etc/new": "file", "gone": "whiteout"}
    assert sorted(os.listdir(found.parent)) == ["fs", "layer.json"]
    (box / "upper/etc/new").write_text("changed")
    assert (found / "etc/new").read_text() == "x"
    assert await layers.adopt(box, "upper", "template:tpl-1") == layers.facts("template:tpl-1")


DEBIAN = Path(__file__).parent / "debian.tar"


@pytest.mark.skipif(not DEBIAN.is_file(), reason="wants the Debian that `make .stamp-images` makes")
@pytest.mark.timeout(400)
async def test_a_debian_is_the_same_as_gnu_tar_makes_it(tmp_path: Path) -> None:
    layers, by_tar = store(tmp_path / "images"), tmp_path / "by-tar"
    by_tar.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-permissions"]
    command = ["tar", *options, "-xf", str(DEBIAN), "-C", str(by_tar)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=300)
    diff_id = digest_of(DEBIAN.read_bytes())
    found = await layers.add(DEBIAN, TAR, diff_id, LIMITS)
    tree = layers.path(diff_id)
    assert tree is not None
    expected, made = facts_below(by_tar), facts_below(tree)
    assert len(made) > 5000
    assert {name for name in {*expected, *made} if expected.get(name) != made.get(name)} == set()
    assert found.skipped == sum(stat.S_ISCHR(path.lstat().st_mode) for path in by_tar.rglob("*"))


def facts_below(top: Path) -> dict[str, object]:
    """All that can be seen of each file but its place on the disk; devices are left out."""
    return {
        str(path.relative_to(top)): facts_of(path)
        for path in (top, *below(top))
        if not stat.S_ISCHR(path.lstat().st_mode)
    }


def facts_of(path: Path) -> object:
    facts = path.lstat()
    content: bytes | str = b""
    if stat.S_ISLNK(facts.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(facts.st_mode):
        content = path.read_bytes()
    named = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    links = None if path.is_dir() else facts.st_nlink
    return facts.st_mode, facts.st_uid, facts.st_gid, links, facts.st_mtime_ns, content, named
