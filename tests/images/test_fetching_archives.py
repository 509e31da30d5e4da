"""Archives and layouts: those that Docker and OCI tools write, and those that a stranger does."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fetchers import MakeFetcher
from image_files import (
    ARCHITECTURE,
    INDEX,
    MANIFEST,
    OTHER,
    TAR,
    ImageFile,
    as_json,
    descriptor,
    digest_of,
    index_of,
    layer_of,
    tar_of,
    write_layout,
)

from bay.errors import BayError, ImageInvalid, ImagePlatform, ImageTooLarge
from bay.images.config import ImageConfig
from bay.images.fetching import ArchiveFile, FetchLimits, FetchProgress, LayoutDirectory
from bay.images.oci_layout import blob_path

pytestmark = [pytest.mark.host, pytest.mark.anyio]

LAYERS = (layer_of({"a": b"1" * 5000}), layer_of({"b": b"2" * 3000}))
IMAGE = ImageFile(LAYERS)
SECRET = b"a secret of the host, which no image has"


@pytest.fixture
def spool(short: Path) -> Path:
    directory = short / "spool"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def beside(short: Path) -> Path:
    """A file of the host near the spool, which must stay as it is."""
    path = short / "beside"
    path.write_bytes(SECRET)
    path.chmod(0o644)
    return path


def docker_archive(image: ImageFile, **files: bytes) -> bytes:
    """As `docker save` writes it: the tars of the layers, the config, and a manifest of names."""
    tars = {f"{one.diff_id[7:]}/layer.tar": gzip.decompress(one.blob) for one in image.layers}
    config = f"{digest_of(image.config_bytes)[7:]}.json"
    names = [{"Config": config, "RepoTags": ["some/image:v1"], "Layers": list(tars)}]
    return tar_of({**tars, config: image.config_bytes, "manifest.json": as_json(names), **files})


def packed(directory: Path) -> bytes:
    """A directory as a tar, links as links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(directory.rglob("*")):
            tar.add(path, str(path.relative_to(directory)), recursive=False)
    return out.getvalue()


def oci_archive(image: ImageFile, directory: Path) -> bytes:
    return packed(image.write(directory / "layout"))


def uploaded(directory: Path, content: bytes) -> ArchiveFile:
    """An archive as Bay keeps it: root's, and closed."""
    path = directory / "archive"
    path.write_bytes(content)
    path.chmod(0o600)
    return ArchiveFile(path)


async def refusal(
    make_fetcher: MakeFetcher,
    archive: ArchiveFile | LayoutDirectory,
    spool: Path,
    error: type[BayError] = ImageInvalid,
    limits: FetchLimits | None = None,
) -> str:
    with pytest.raises(error) as found:
        await make_fetcher(limits=limits or FetchLimits(stall_s=30)).fetch(archive, spool)
    assert type(found.value) is error
    assert found.value.message.isprintable()
    for word in ("level=", "/spool", "/source", "skopeo"):
        assert word not in found.value.message
    return found.value.message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_an_archive_of_docker_is_read_and_nothing_of_it_is_compressed_anew(
    make_fetcher: MakeFetcher, short: Path, spool: Path, pack: Callable[[bytes], bytes]
) -> None:
    archive = uploaded(short, pack(docker_archive(IMAGE)))
    told: list[FetchProgress] = []
    found = await make_fetcher().fetch(archive, spool, on_progress=told.append)
    assert found.config.cmd == ("/bin/true",)
    assert [(one.digest, one.diff_id, one.media_type) for one in found.layers] == [
        (one.diff_id, one.diff_id, TAR) for one in LAYERS
    ]
    assert told[-1].bytes_done > sum(one.size for one in found.layers)
    assert archive.path.stat().st_uid == 0
    assert archive.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_an_archive_of_a_layout_is_read_with_its_digests(
    make_fetcher: MakeFetcher, short: Path, spool: Path, pack: Callable[[bytes], bytes]
) -> None:
    archive = uploaded(short, pack(oci_archive(IMAGE, short)))
    found = await make_fetcher().fetch(archive, spool)
    assert found.digest == IMAGE.digest
    assert [blob_path(spool, one.digest).read_bytes() for one in LAYERS] == [one.blob for one in LAYERS]
    assert list((spool / "scratch").iterdir()) == []


async def test_a_layout_on_the_host_is_read_with_the_rights_of_root(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    layout = IMAGE.write(short / "layout")
    for path in layout.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert (await make_fetcher().fetch(LayoutDirectory(layout), spool)).digest == IMAGE.digest


def write_list(layout: Path, *images: tuple[ImageFile, str]) -> bytes:
    index = index_of([(image.manifest_bytes, name) for image, name in images])
    blobs = {digest: data for image, _ in images for digest, data in image.blobs().items()}
    blobs |= {image.digest: image.manifest_bytes for image, _ in images}
    write_layout(layout, [descriptor(index, INDEX)], {**blobs, digest_of(index): index})
    return packed(layout)


async def test_of_an_archive_for_many_platforms_this_one_is_read(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    other = ImageFile(LAYERS, {"architecture": OTHER})
    content = write_list(short / "layout", (other, f"linux/{OTHER}"), (IMAGE, f"linux/{ARCHITECTURE}"))
    assert (await make_fetcher().fetch(uploaded(short, content), spool)).digest == IMAGE.digest


async def test_an_archive_for_other_platforms_names_them(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    other = ImageFile(LAYERS, {"architecture": OTHER})
    content = write_list(short / "layout", (other, f"linux/{OTHER}"), (other, "windows/amd64"))
    said = await refusal(make_fetcher, uploaded(short, content), spool, ImagePlatform)
    assert f"for linux/{OTHER}, windows/amd64" in said


@pytest.mark.parametrize("write", [docker_archive, None])
async def test_a_single_image_for_another_platform_is_refused(
    make_fetcher: MakeFetcher, short: Path, spool: Path, write: Callable[[ImageFile], bytes] | None
) -> None:
    other = ImageFile(LAYERS, {"architecture": OTHER})
    content = write(other) if write else oci_archive(other, short)
    assert f"for linux/{OTHER}" in await refusal(make_fetcher, uploaded(short, content), spool, ImagePlatform)


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive at all", bytes(10240), gzip.compress(b"x", mtime=0), b"\x28\xb5\x2f\xfd", tar_of({"a": b"1"}),
     tar_of({"manifest.json": b"[]"}), tar_of({"manifest.json": b"{"}), tar_of({"index.json": b"{}"})],
)  # fmt: skip
async def test_a_file_that_is_no_archive_of_an_image_is_refused(
    make_fetcher: MakeFetcher, short: Path, spool: Path, content: bytes
) -> None:
    assert "not an archive of exactly one image" in await refusal(
        make_fetcher, uploaded(short, content), spool
    )


async def test_an_archive_of_two_images_is_refused(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    names = as_json([{"Config": "c.json", "RepoTags": [f"some/image:{tag}"], "Layers": []} for tag in "ab"])
    content = tar_of({"c.json": IMAGE.config_bytes, "manifest.json": names})
    await refusal(make_fetcher, uploaded(short, content), spool)


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, target, 0o777
    return found


def with_members(archive: bytes, *members: tarfile.TarInfo, first: bool = True) -> bytes:
    """An archive with more members, before the others or after them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if first:
            for one in members:
                tar.addfile(one)
        with tarfile.open(fileobj=io.BytesIO(archive)) as old:
            for one in old:
                tar.addfile(one, old.extractfile(one) if one.isfile() else None)
        if not first:
            for one in members:
                tar.addfile(one)
    return out.getvalue()


HOSTILE: dict[str, Callable[[Path], tarfile.TarInfo]] = {
    "above": lambda beside: member(f"../../../../..{beside}", tarfile.REGTYPE),
    "absolute": lambda beside: member(str(beside), tarfile.REGTYPE),
    "link-out": lambda beside: member("blobs", tarfile.SYMTYPE, str(beside.parent)),
    "hard-link": lambda beside: member("x", tarfile.LNKTYPE, f"../../../../..{beside}"),
    "hard-link-absolute": lambda beside: member("x", tarfile.LNKTYPE, str(beside)),
    "device": lambda _: member("x", tarfile.BLKTYPE),
    "fifo": lambda _: member("index.json", tarfile.FIFOTYPE),
    "whiteout": lambda _: member(".wh...", tarfile.REGTYPE),
}


@pytest.mark.parametrize("trick", HOSTILE)
@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("first", [True, False])
async def test_an_archive_with_a_trick_touches_nothing_of_the_host(
    make_fetcher: MakeFetcher, short: Path, spool: Path, beside: Path, trick: str, kind: str, first: bool
) -> None:
    """Whether it is read or refused is skopeo's affair; the host's file is not."""
    archive = oci_archive(IMAGE, short) if kind == "oci" else docker_archive(IMAGE)
    content = with_members(archive, HOSTILE[trick](beside), first=first)
    before = beside.stat()
    with suppress(ImageInvalid):
        await make_fetcher(limits=FetchLimits(stall_s=3)).fetch(uploaded(short, content), spool)
    assert beside.read_bytes() == SECRET
    after = beside.stat()
    assert (after.st_mode, after.st_uid, after.st_nlink) == (before.st_mode, before.st_uid, before.st_nlink)
    assert {path.name for path in short.iterdir()} == {
        *("archive", "beside", "ids", "run", "spool"),
        *(["layout"] if kind == "oci" else []),
    }
    assert not [path for path in spool.rglob("*") if path.is_file() and SECRET in path.read_bytes()]


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "index.json"])
@pytest.mark.parametrize("as_archive", [True, False])
async def test_a_layout_whose_file_leads_out_of_it_gives_nothing_of_the_host(
    make_fetcher: MakeFetcher, short: Path, spool: Path, beside: Path, what: str, as_archive: bool
) -> None:
    """The host's file is one that everybody may read, and its name is right wherever one looks."""
    layout = IMAGE.write(short / "layout")
    digests = {
        "manifest": IMAGE.digest,
        "config": digest_of(IMAGE.config_bytes),
        "layer": LAYERS[0].digest,
    }
    path = blob_path(layout, digests[what]) if what in digests else layout / what
    path.unlink()
    path.symlink_to(beside)
    archive = uploaded(short, packed(layout)) if as_archive else LayoutDirectory(layout)
    said = await refusal(make_fetcher, archive, spool)
    assert digest_of(SECRET)[7:] not in said
    assert not [path for path in spool.rglob("*") if path.is_file() and SECRET in path.read_bytes()]


async def test_a_layer_with_the_digest_of_a_file_of_the_host_is_not_that_file(
    make_fetcher: MakeFetcher, short: Path, spool: Path, beside: Path
) -> None:
    """The digest fits the file to which the link leads: in the cage there is no such file."""
    digest = digest_of(SECRET)
    manifest = json.loads(IMAGE.manifest_bytes)
    manifest["layers"][0] |= {"digest": digest, "size": len(SECRET)}
    data = as_json(manifest)
    layout = short / "layout"
    write_layout(layout, [descriptor(data, MANIFEST)], {**IMAGE.blobs(), digest_of(data): data})
    blob_path(layout, digest).symlink_to(beside)
    await refusal(make_fetcher, LayoutDirectory(layout), spool)
    assert not [path for path in spool.rglob("*") if path.is_file() and SECRET in path.read_bytes()]


async def test_an_archive_that_grows_beyond_the_limit_is_ended(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    """Half a gigabyte of zeros in half a megabyte: Docker's archives are unpacked while they are read."""
    zeros = ImageFile([layer_of({"zeros": bytes(256 << 20)})])
    content = gzip.compress(docker_archive(zeros), 1)
    assert len(content) < 4 << 20
    limits = FetchLimits(stall_s=30, max_bytes=16 << 20)
    said = await refusal(make_fetcher, uploaded(short, content), spool, ImageTooLarge, limits)
    assert "limit" in said
    assert sum(path.stat().st_blocks * 512 for path in spool.rglob("*")) < 64 << 20


async def test_an_archive_of_very_many_files_is_ended(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    many = (member(f"d{n % 100}/{n}", tarfile.REGTYPE) for n in range(40_000))
    content = with_members(oci_archive(IMAGE, short), *many)
    said = await refusal(make_fetcher, uploaded(short, content), spool)
    assert "more than 10000 files" in said or "not an archive" in said


async def test_an_archive_of_deep_directories_is_ended(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    deep = member("/".join(["d"] * 500), tarfile.DIRTYPE)
    content = with_members(oci_archive(IMAGE, short), deep)
    await refusal(make_fetcher, uploaded(short, content), spool)


async def test_an_image_of_ours_is_the_same_by_every_way(make_fetcher: MakeFetcher, short: Path) -> None:
    configs: list[ImageConfig] = []
    for number, content in enumerate((docker_archive(IMAGE), oci_archive(IMAGE, short))):
        spool = short / f"spool-{number}"
        spool.mkdir()
        found = await make_fetcher().fetch(uploaded(short, content), spool)
        configs.append(found.config)
        os.unlink(short / "archive")
    assert configs[0] == configs[1]
