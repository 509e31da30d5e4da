"""An image leaves as an OCI layout, and what is imported from it is the same tree, whiteouts and all."""

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fetchers import MakeFetcher
from image_files import ImageFile
from layer_files import below, directory, entry, gzipped, hard_link, symlink, tar
from libraries import bring, library_in, no_rows, nothing, pieces, unseen
from registry import Registry

from bay.errors import BadRequest
from bay.images.base import BroughtImage, ImageSource
from bay.images.exporting import export_stream
from bay.images.library import HostLibrary

pytestmark = pytest.mark.anyio

CAPABILITY = bytes.fromhex("0000000200200000000000000000000000000000")
SPARSE = 5 << 20
BASE = gzipped(
    tar(
        directory("d", 0o1777, uid=1000, gid=1001),
        entry("d/gone", b"x"),
        entry("d/kept", b"below"),
        directory("hidden"),
        entry("hidden/old", b"x"),
        entry("plain", b"a" * 70_000, mode=0o640, uid=65_533, gid=7, mtime=1.25),
        entry("setuid", b"#!", mode=0o6755),
    )
)
UPPER = gzipped(
    tar(
        entry("d/.wh.gone"),
        entry("hidden/.wh..wh..opq"),
        entry("hidden/new", b"y"),
        entry("name \udcff\u00e4\n", b"odd"),
        entry("l" * 120 + "/" + "m" * 200, b"long"),
        entry("first", b"linked", mode=0o600, uid=3),
        hard_link("second", "first"),
        symlink("link", "../../" + "t" * 150),
        entry("fifo", kind=tarfile.FIFOTYPE, mode=0o622),
        entry(
            "attributes",
            b"z",
            pax_headers={
                "SCHILY.xattr.user.note": "\u00fcber",
                "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"),
            },
        ),
    )
)
CONFIG: dict[str, Any] = {
    "Env": ["PATH=/bin", "A=b=c"], "User": "7:8", "WorkingDir": "/d", "Entrypoint": ["/e", "x"], "Cmd": ["c"],
    "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Labels": {"k": "v"},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_500_000_000, "Retries": 3},
}  # fmt: skip


async def archive_of(library: HostLibrary, brought: BroughtImage) -> bytes:
    chunks = library.export("example.com/app:1", brought.diff_ids, brought.config)
    return b"".join([chunk async for chunk in chunks])


async def imported(library: HostLibrary, image_id: str, archive: bytes) -> BroughtImage:
    async with library.keep_upload(image_id, pieces(archive)):
        pass
    source = ImageSource(ref="example.com/app:1", is_upload=True)
    async with library.bring(image_id, source, nothing, unseen) as brought:
        return brought


def facts_of(tree: Path) -> dict[str, Any]:
    """All that can be seen of a tree, but for the times of its whiteouts, which are nobody's."""
    return {str(path.relative_to(tree)): _facts(path) for path in (tree, *below(tree))}


def _facts(path: Path) -> Any:
    seen = path.lstat()
    if stat.S_ISCHR(seen.st_mode):
        return ("character device", seen.st_rdev)
    content: object = None
    if stat.S_ISREG(seen.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(seen.st_mode):
        content = os.readlink(path)
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    links = 1 if stat.S_ISDIR(seen.st_mode) else seen.st_nlink
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, links, content, attributes


@pytest.mark.host
async def test_an_image_that_left_comes_back_as_it_was(
    library: HostLibrary, plain_registry: Registry, short: Path, closures: Path, make_fetcher: MakeFetcher
) -> None:
    image = ImageFile(
        layers=(BASE, UPPER, BASE), config={"config": CONFIG, "created": "2026-01-02T03:04:05Z"}
    )
    brought = await bring(library, "img-1", plain_registry.push(image, "leaves/app", "1"))
    sparse = library.store.path(UPPER.diff_id)
    assert sparse is not None
    os.truncate(sparse / "attributes", SPARSE)  # as a template's layer may have it
    archive = await archive_of(library, brought)
    assert archive == await archive_of(library, brought)
    assert len(archive) < SPARSE
    (short / "image.tar").write_bytes(archive)
    shown = skopeo("inspect", f"oci-archive:{short}/image.tar")
    assert len(shown["Layers"]) == 3
    assert shown["Layers"][0] == shown["Layers"][2]
    other = await library_in(short / "other", short, closures, make_fetcher)
    again = await imported(other, "img-2", archive)
    assert again.config == {**brought.config, "diff_ids": again.diff_ids}
    assert again.facts == brought.facts
    for before, after in zip(brought.diff_ids, again.diff_ids, strict=True):
        assert facts_of(tree(library, before)) == facts_of(tree(other, after))
    assert again.digest == shown["Digest"]
    assert await archive_of(other, again) == archive


async def test_skopeo_reads_every_layer_that_left(
    library: HostLibrary, plain_registry: Registry, short: Path
) -> None:
    brought = await bring(
        library, "img-1", plain_registry.push(ImageFile(layers=(BASE, UPPER)), "leaves/b", "1")
    )
    (short / "image.tar").write_bytes(await archive_of(library, brought))
    command = ("skopeo", "--insecure-policy", "copy", "--quiet", f"oci-archive:{short}/image.tar")
    run(*command, f"docker-archive:{short}/docker.tar:a/b:1")
    config = skopeo("inspect", "--config", f"docker-archive:{short}/docker.tar")
    blobs = blobs_of(short / "image.tar")
    upper = next(names for names in blobs.values() if "./first" in names)
    assert {"./d/.wh.gone", "./hidden/.wh..wh..opq"} <= upper.keys()
    assert upper["./second"].islnk()
    assert upper["./d/.wh.gone"].isreg()
    assert [one.removeprefix("sha256:") for one in config["rootfs"]["diff_ids"]] == [
        name for name, names in blobs.items() if names
    ]


async def test_a_name_that_would_remove_a_file_elsewhere_is_refused(
    library: HostLibrary, plain_registry: Registry, tmp_path: Path
) -> None:
    brought = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "leaves/c", "1"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.wh...").touch()
    with pytest.raises(BadRequest, match="removes a file"):
        await all_of(export_stream("a:1", brought.config, [tree(library, BASE.diff_id), tmp_path]))


async def test_the_layers_of_an_export_stay_until_it_ends(
    library: HostLibrary, plain_registry: Registry
) -> None:
    brought = await bring(library, "img-1", plain_registry.push(ImageFile(layers=(BASE,)), "leaves/d", "1"))
    chunks = library.export("a:1", brought.diff_ids, brought.config)
    first = await anext(chunks)
    await library.collect(no_rows)
    with tarfile.open(fileobj=io.BytesIO(first + await all_of(chunks))) as archive:
        assert archive.getnames()[:3] == ["blobs", "blobs/sha256", "oci-layout"]
    await library.collect(no_rows)
    assert library.store.diff_ids() == set()


async def all_of(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def tree(library: HostLibrary, diff_id: str) -> Path:
    found = library.store.path(diff_id)
    assert found is not None
    return found


def skopeo(*arguments: str) -> dict[str, Any]:
    return json.loads(run("skopeo", *arguments))


def run(*command: str) -> bytes:
    return subprocess.run(command, check=True, timeout=60, capture_output=True).stdout


def blobs_of(archive: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of each blob by name, in order; none where it is no tar."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(archive) as outer:
        for member in outer.getmembers():
            if member.name.startswith("blobs/sha256/"):
                data = outer.extractfile(member)
                assert data is not None
                content = data.read()
                names: dict[str, tarfile.TarInfo] = {}
                if content[:1] != b"{":
                    with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                        names = {one.name: one for one in layer.getmembers()}
                found[member.name.rpartition("/")[2]] = names
    return found
