"""OCI layouts: the image in one, and the layouts that are refused with the host's files untouched."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_files import (
    ARCHITECTURE,
    CONFIG,
    DOCKER_LIST,
    INDEX,
    MANIFEST,
    OTHER,
    TAR,
    ZSTD,
    ImageFile,
    Layer,
    as_json,
    descriptor,
    digest_of,
    index_of,
    layer_of,
    tar_of,
    write_layout,
)

from bay.errors import BayError, ImageInvalid, ImagePlatform, ImageTooLarge
from bay.images.oci_layout import LayoutLimits, blob_path, choose, is_index, read_image, summary

ANY = LayoutLimits()
LAYERS = (layer_of({"a": b"1"}), layer_of({"b": b"2"}))
ON_HOST = b"a secret of the host"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def refused(layout: Path, error: type[BayError] = ImageInvalid, limits: LayoutLimits = ANY) -> str:
    with pytest.raises(error) as found:
        read_image(layout, limits)
    assert found.value.message.isprintable()
    assert len(found.value.message) < 600
    return found.value.message


@pytest.mark.parametrize("docker", [False, True])
def test_an_image_is_read_with_its_layers_in_order(layout: Path, docker: bool) -> None:
    image = ImageFile(LAYERS, docker=docker)
    found = read_image(image.write(layout), ANY)
    assert found.digest == image.digest
    assert found.config.cmd == ("/bin/true",)
    assert [(one.digest, one.diff_id) for one in found.layers] == [
        (one.digest, one.diff_id) for one in LAYERS
    ]
    assert [one.size for one in found.layers] == [len(one.blob) for one in LAYERS]
    assert blob_path(layout, found.layers[0].digest).read_bytes() == LAYERS[0].blob


def test_an_image_without_layers_is_one(layout: Path) -> None:
    assert read_image(ImageFile().write(layout), ANY).layers == ()


def test_one_layer_may_be_there_twice(layout: Path) -> None:
    assert len(read_image(ImageFile([LAYERS[0]] * 3).write(layout), ANY).layers) == 3


def test_a_layer_is_of_the_kind_that_its_bytes_say(layout: Path) -> None:
    """Of an archive Docker labels a plain tar as gzip, and nothing is compressed for the transfer."""
    plain = tar_of({"a": b"1"})
    zstd = Layer(b"\x28\xb5\x2f\xfd rest", digest_of(b"x"))
    image = ImageFile([Layer(plain, digest_of(plain)), zstd, LAYERS[0]], docker=True)
    kinds = [one.media_type for one in read_image(image.write(layout), ANY).layers]
    assert kinds == [TAR, ZSTD, f"{TAR}+gzip"]


def test_a_held_layer_may_be_an_empty_file_and_any_other_may_not(layout: Path) -> None:
    ImageFile(LAYERS).write(layout)
    blob_path(layout, LAYERS[0].digest).write_bytes(b"")
    assert "another size" in refused(layout)
    assert len(read_image(layout, LayoutLimits(held={LAYERS[0].digest})).layers) == 2
    blob_path(layout, LAYERS[0].digest).unlink()
    assert "missing" in refused(layout)
    assert len(read_image(layout, LayoutLimits(held={LAYERS[0].digest})).layers) == 2


def in_index(layout: Path, *images: tuple[ImageFile, str], kind: str = INDEX) -> bytes:
    index = index_of([(image.manifest_bytes, name) for image, name in images], kind)
    blobs = {digest: data for image, _ in images for digest, data in image.blobs().items()}
    blobs |= {image.digest: image.manifest_bytes for image, _ in images}
    write_layout(layout, [descriptor(index, kind)], {**blobs, digest_of(index): index})
    return index


@pytest.mark.parametrize("kind", [INDEX, DOCKER_LIST])
def test_of_a_list_the_manifest_of_this_platform_counts(layout: Path, kind: str) -> None:
    ours, other = ImageFile(LAYERS), ImageFile(LAYERS, {"architecture": OTHER})
    index = in_index(layout, (other, f"linux/{OTHER}"), (ours, f"linux/{ARCHITECTURE}"), kind=kind)
    assert read_image(layout, ANY).digest == choose(index) == ours.digest


def test_of_two_variants_the_one_without_a_name_counts_wherever_it_stands() -> None:
    plain, newer = ImageFile(LAYERS), ImageFile(LAYERS[:1])
    entries = [
        (newer.manifest_bytes, f"linux/{ARCHITECTURE}/v9"),
        (plain.manifest_bytes, f"linux/{ARCHITECTURE}"),
    ]
    assert choose(index_of(entries)) == plain.digest
    assert choose(index_of(entries[:1])) == newer.digest


def test_a_list_without_this_platform_names_those_it_has(layout: Path) -> None:
    other = ImageFile(LAYERS, {"architecture": OTHER})
    names = [f"linux/{OTHER}", "windows/amd64", f"{ARCHITECTURE}/linux", "unknown/unknown"]
    in_index(layout, *((other, name) for name in names))
    with pytest.raises(ImagePlatform) as found:
        read_image(layout, ANY)
    assert found.value.details == {"platforms": names[:3], "wanted": f"linux/{ARCHITECTURE}"}
    assert f"for linux/{OTHER}, windows/amd64" in found.value.message


def test_a_list_of_nothing_or_of_strange_names_is_refused_in_words_of_ours() -> None:
    with pytest.raises(ImagePlatform, match="none that is named"):
        choose(index_of([]))
    with pytest.raises(ImagePlatform) as found:
        choose(index_of([(b"{}", "\x1b[31mlinux/amd64"), *((b"{}", f"os{n}/x") for n in range(200))]))
    assert "and 180 more" in found.value.message
    assert "\x1b" not in found.value.message
    with pytest.raises(ImageInvalid, match="limit is 256"):
        choose(index_of([(b"{}", "linux/x")] * 257))


@pytest.mark.parametrize("config", [{"architecture": OTHER}, {"os": "windows"}])
def test_a_single_manifest_of_another_platform_is_refused(layout: Path, config: dict[str, Any]) -> None:
    words = refused(ImageFile(LAYERS, config).write(layout), ImagePlatform)
    assert f"this host is linux/{ARCHITECTURE}" in words


def test_the_sizes_are_summed_before_anything_is_fetched() -> None:
    manifest = json.loads(ImageFile(LAYERS).manifest_bytes)
    manifest["layers"][0]["size"] = 10**12
    told = summary(as_json(manifest))
    assert told.bytes == 10**12 + len(LAYERS[1].blob)


def test_an_image_above_the_limit_is_refused(layout: Path) -> None:
    ImageFile(LAYERS).write(layout)
    whole = sum(len(one.blob) for one in LAYERS)
    read_image(layout, LayoutLimits(max_image_bytes=whole))
    assert "the limit is" in refused(layout, ImageTooLarge, LayoutLimits(max_image_bytes=whole - 1))


def test_a_size_that_is_a_lie_is_refused(layout: Path) -> None:
    manifest = json.loads(ImageFile(LAYERS).manifest_bytes)
    manifest["layers"][0]["size"] += 1
    assert "another size" in refused(ImageFile(LAYERS, manifest=manifest).write(layout))


@pytest.mark.parametrize(
    "layer",
    [
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
        {"urls": ["http://169.254.169.254/"]},
    ],
)
def test_a_foreign_layer_is_refused_by_name(layout: Path, layer: dict[str, Any]) -> None:
    manifest = json.loads(ImageFile(LAYERS).manifest_bytes)
    manifest["layers"][1] |= layer
    words = refused(ImageFile(LAYERS, manifest=manifest).write(layout))
    assert LAYERS[1].digest in words
    assert "foreign" in words


def test_the_layers_of_manifest_and_config_are_as_many(layout: Path) -> None:
    other = {"rootfs": {"diff_ids": [LAYERS[0].diff_id]}}
    assert "2 layers and its config 1" in refused(ImageFile(LAYERS, other).write(layout))


def test_128_layers_are_read_and_129_are_not(tmp_path: Path) -> None:
    many = [layer_of({f"{n}": b""}) for n in range(129)]
    assert len(read_image(ImageFile(many[:128]).write(tmp_path / "a"), ANY).layers) == 128
    assert "129 layers; the limit is 128" in refused(ImageFile(many).write(tmp_path / "b"))


def manifest_with(**changes: Any) -> bytes:
    return as_json({**json.loads(ImageFile(LAYERS).manifest_bytes), **changes})


BLOB = {"mediaType": CONFIG, "digest": digest_of(b""), "size": 0}


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b" " * (1 << 20) + b"{}",
        manifest_with(schemaVersion=1),
        manifest_with(schemaVersion=None),
        manifest_with(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"),
        manifest_with(mediaType=["x"]),
        manifest_with(layers=None),
        manifest_with(layers={}),
        manifest_with(layers=[None]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+gzip", "digest": "sha256:../../../etc/shadow"}]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+gzip", "digest": "sha512:" + "0" * 128}]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+gzip", "size": -1}]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+gzip", "size": 1 << 63}]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+gzip", "size": "1"}]),
        manifest_with(layers=[{**BLOB, "mediaType": "application/octet-stream"}]),
        manifest_with(layers=[{**BLOB, "mediaType": f"{TAR}+zstd+encrypted"}]),
        manifest_with(config=None),
        manifest_with(config={**BLOB, "mediaType": "application/vnd.cncf.helm.config.v1+json"}),
        manifest_with(config={**BLOB, "size": (1 << 20) + 1}),
    ],
)
def test_a_manifest_against_a_rule_is_refused(manifest: bytes, layout: Path) -> None:
    with pytest.raises(ImageInvalid):
        summary(manifest)
    write_layout(layout, [descriptor(manifest, MANIFEST)], {digest_of(manifest): manifest})
    refused(layout)


def test_a_list_is_told_from_a_manifest() -> None:
    assert is_index(index_of([]))
    assert is_index(b'{"schemaVersion": 2, "manifests": []}')
    assert not is_index(ImageFile(LAYERS).manifest_bytes)
    with pytest.raises(ImageInvalid):
        is_index(b"[]")


def digest_path(layout: Path, data: bytes) -> Path:
    return blob_path(layout, digest_of(data))


IMAGE = ImageFile(LAYERS)
PARTS: dict[str, Callable[[Path], Path]] = {
    "index": lambda layout: layout / "index.json",
    "manifest": lambda layout: digest_path(layout, IMAGE.manifest_bytes),
    "config": lambda layout: digest_path(layout, IMAGE.config_bytes),
    "layer": lambda layout: blob_path(layout, LAYERS[0].digest),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_a_link_is_not_followed(layout: Path, tmp_path: Path, part: str) -> None:
    """The link leads to the very bytes that belong there: only that it is one counts."""
    path = PARTS[part](IMAGE.write(layout))
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    assert "missing, or not a file" in refused(layout)
    assert outside.read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_none_is_refused_without_waiting(layout: Path, part: str) -> None:
    path = PARTS[part](IMAGE.write(layout))
    path.unlink()
    os.mkfifo(path)
    assert "missing, or not a file" in refused(layout)
    path.unlink()
    path.mkdir()
    assert "missing, or not a file" in refused(layout)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256"])
def test_a_directory_that_is_a_link_is_not_followed(layout: Path, tmp_path: Path, name: str) -> None:
    directory = IMAGE.write(layout) / name
    outside = tmp_path / "outside"
    directory.rename(outside)
    directory.symlink_to(outside)
    assert "missing, or not a file" in refused(layout)


def test_a_layout_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    IMAGE.write(tmp_path / "real")
    (tmp_path / "spool").symlink_to(tmp_path / "real")
    assert "not fetched whole" in refused(tmp_path / "spool")


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_content_that_is_not_its_digest_is_refused(layout: Path, part: str) -> None:
    path = PARTS[part](IMAGE.write(layout))
    path.write_bytes(path.read_bytes() + b" ")
    assert "not what its digest says" in refused(layout)


@pytest.mark.parametrize("part", ["index", "manifest", "config"])
def test_a_document_of_more_than_a_mebibyte_is_refused(layout: Path, part: str) -> None:
    path = PARTS[part](IMAGE.write(layout))
    with path.open("ab") as file:
        file.truncate(1 << 40)
    assert "limit" in refused(layout)


def test_a_layout_of_two_images_or_of_none_is_refused(tmp_path: Path) -> None:
    entry = descriptor(IMAGE.manifest_bytes, MANIFEST)
    write_layout(tmp_path / "two", [entry, entry], {})
    assert "holds 2 images" in refused(tmp_path / "two")
    write_layout(tmp_path / "none", [], {})
    assert "holds 0 images" in refused(tmp_path / "none")


def test_a_spool_in_which_nothing_came_to_be_is_an_image_that_was_not_fetched(tmp_path: Path) -> None:
    refused(tmp_path)
    refused(tmp_path / "missing")
    (tmp_path / "file").write_bytes(gzip.compress(ON_HOST))
    refused(tmp_path / "file")
