"""Reads the OCI layout that a fetch left: which image it is, and of which layers.

A stranger's image is in it, and a program that parsed that image wrote it: each file is bounded, opened
beneath the layout without following links, and compared with its digest where Bay reads it. The unpacker
compares the layers. Manifests are OCI's or Docker's (schema 2), kept byte by byte, as their digest says.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import stat
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bay.errors import ImageInvalid, ImagePlatform, ImageTooLarge
from bay.images.config import LONGEST, MAX_LAYERS, ImageConfig, json_object
from bay.images.references import is_digest
from bay.linux.processes import closing_fd
from bay.units import MIB
from tree_tar.openat2 import openat2

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_TAR = "application/vnd.oci.image.layer.v1.tar"
_LAYERS = {
    _TAR: _TAR,
    f"{_TAR}+gzip": f"{_TAR}+gzip",
    f"{_TAR}+zstd": f"{_TAR}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": _TAR,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{_TAR}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{_TAR}+zstd",
}
_FOREIGN = re.compile(r".*(nondistributable|foreign).*")
_MAGIC = {b"\x1f\x8b": f"{_TAR}+gzip", b"\x28\xb5\x2f\xfd": f"{_TAR}+zstd"}

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
_MAX_PLATFORMS = 256
_SHOWN_PLATFORMS = 20
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class LayoutLimits:
    """Bounds on an image before its layers are unpacked."""

    max_image_bytes: int = 20_480 * MIB
    """Of all its layers, as they are transferred."""
    held: Collection[str] = frozenset()
    """Digests of layers that were not fetched, since they are unpacked already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlob:
    """A layer as it was transferred. `diff_id` is the digest of its tar, which only unpacking can confirm.
    `media_type` is OCI's for a tar that is plain, gzip or zstd, as the file begins and not as it is labelled.
    """

    digest: str
    diff_id: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """An image of one platform. `layers` begin with the lowest; one may be there twice."""

    digest: str
    config: ImageConfig
    layers: tuple[LayerBlob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobDescriptor:
    """A blob, as a manifest describes it."""

    digest: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSummary:
    """The content of a manifest, before anything else of the image is here."""

    digest: str
    config: BlobDescriptor
    layers: tuple[BlobDescriptor, ...]

    @property
    def bytes(self) -> int:
        """The layers as they are transferred, each once."""
        return sum({one.digest: one.size for one in self.layers}.values())


def architecture() -> str:
    """This host's processor, in the words of OCI."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def blob_path(spool: Path, digest: str) -> Path:
    """The file of a blob in the layout."""
    return spool / "blobs" / "sha256" / digest.removeprefix("sha256:")


def read_image(spool: Path, limits: LayoutLimits) -> ImageManifest:
    """The one image in the layout `spool`, for this host's platform. Blocks for some small files.

    Every layer is there whole, or in `limits.held`. Raises ImageInvalid, ImagePlatform or ImageTooLarge.
    """
    with _layout(spool) as top:
        manifest = _manifest_of(top)
        check_size(manifest, limits.max_image_bytes)
        config = ImageConfig.from_json(_checked_blob(top, manifest.config.digest, "config"))
        check_platform(config)
        if len(config.diff_ids) != len(manifest.layers):
            raise ImageInvalid(
                f"the image's manifest has {len(manifest.layers)} layers and its config {len(config.diff_ids)}"
            )
        layers = tuple(
            _layer(top, blob, diff_id, limits.held)
            for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
    return ImageManifest(digest=manifest.digest, config=config, layers=layers)


def summary(data: bytes) -> ManifestSummary:
    """The content of a manifest, checked and bounded. Raises ImageInvalid."""
    found = json_object(data, "manifest", LONGEST)
    _check_kind(found, _MANIFESTS)
    layers = tuple(_layer_descriptor(one) for one in _entries(found, "layers", MAX_LAYERS))
    config = _descriptor(found.get("config"), "config")
    if config.media_type not in _CONFIGS:
        raise ImageInvalid("the manifest is of something that is no image of a root file system")
    if config.size > LONGEST:
        raise ImageInvalid(f"the image's config has more than {LONGEST} bytes, the limit")
    return ManifestSummary(digest=digest_of(data), config=config, layers=layers)


def is_index(data: bytes) -> bool:
    """Whether a manifest is a list of manifests for several platforms. Raises ImageInvalid."""
    found = json_object(data, "manifest", LONGEST)
    return found.get("mediaType") in _INDEXES or ("mediaType" not in found and "manifests" in found)


def choose(data: bytes) -> str:
    """The digest of the manifest for this host's platform in a list. Raises ImagePlatform, ImageInvalid."""
    found = json_object(data, "index", LONGEST)
    _check_kind(found, _INDEXES)
    offered: list[tuple[str, str]] = []
    for entry in _entries(found, "manifests", _MAX_PLATFORMS):
        manifest = _descriptor(entry, "manifests")
        offered.append((_platform_in(cast("Mapping[str, Any]", entry)), manifest.digest))
    wanted = f"linux/{architecture()}"
    fit = [
        (name != wanted, at) for at, (name, _) in enumerate(offered) if f"{name}/".startswith(f"{wanted}/")
    ]
    if fit:  # one without a variant first: a variant may want a newer processor
        return offered[min(fit)[1]][1]
    raise _other_platform([name for name, _ in offered if not name.startswith("unknown")])


def check_platform(config: ImageConfig) -> None:
    """Raise ImagePlatform unless the image is for this host."""
    if (config.os, config.architecture) != ("linux", architecture()):
        raise _other_platform([config.platform])


def check_size(manifest: ManifestSummary, max_bytes: int) -> None:
    """Raise ImageTooLarge where the layers have more bytes than allowed, by their manifest's own words."""
    if manifest.bytes > max_bytes:
        raise ImageTooLarge(
            f"the image's layers have {manifest.bytes / MIB:.0f} MiB; the limit is {max_bytes / MIB:.0f} MiB"
        )


def digest_of(data: bytes) -> str:
    """The digest by which a blob of these bytes is known."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _other_platform(offered: Sequence[str]) -> ImagePlatform:
    wanted = f"linux/{architecture()}"
    names = list(dict.fromkeys(offered))
    more = f" and {len(names) - _SHOWN_PLATFORMS} more" if len(names) > _SHOWN_PLATFORMS else ""
    listed = ", ".join(names[:_SHOWN_PLATFORMS]) or "none that is named"
    return ImagePlatform(
        f"the image is for {listed}{more}, and this host is {wanted}; build it for that platform",
        details={"platforms": names[:_SHOWN_PLATFORMS], "wanted": wanted},
    )


def _platform_in(entry: Mapping[str, Any]) -> str:
    found = entry.get("platform")
    if not isinstance(found, dict):
        return "unknown"
    parts = [cast("dict[str, Any]", found).get(key) for key in ("os", "architecture", "variant")]
    named = [part for part in parts if isinstance(part, str) and part]
    return "/".join(named) if named and all(_WORD.fullmatch(part) for part in named) else "unknown"


def _check_kind(found: Mapping[str, Any], kinds: Sequence[str]) -> None:
    if found.get("schemaVersion") != 2:
        raise ImageInvalid("the image's manifest is not of schema version 2; push it again with a newer tool")
    if found.get("mediaType", kinds[0]) not in kinds:
        raise ImageInvalid("the image's manifest is of a kind that Bay does not know")


def _entries(found: Mapping[str, Any], key: str, most: int) -> list[Any]:
    entries = found.get(key)
    if not isinstance(entries, list):
        raise ImageInvalid(f"the image's manifest has no list `{key}`")
    if len(cast("list[Any]", entries)) > most:
        raise ImageInvalid(f"the image has {len(cast('list[Any]', entries))} {key}; the limit is {most}")
    return cast("list[Any]", entries)


def _descriptor(entry: object, key: str) -> BlobDescriptor:
    found = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    digest, size, kind = found.get("digest"), found.get("size"), found.get("mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ImageInvalid(f"the image's manifest has no SHA-256 digest in `{key}`")
    if not isinstance(size, int) or not 0 <= size < 1 << 63 or not isinstance(kind, str):
        raise ImageInvalid(f"the image's manifest has an entry without size or media type in `{key}`")
    return BlobDescriptor(digest=digest, media_type=kind, size=size)


def _layer_descriptor(entry: object) -> BlobDescriptor:
    layer = _descriptor(entry, "layers")
    if _FOREIGN.fullmatch(layer.media_type) or cast("dict[str, Any]", entry).get("urls"):
        raise ImageInvalid(
            f"the image's layer {layer.digest} is a foreign one, to be had from another place than the "
            "registry; push the image with all its layers"
        )
    if layer.media_type not in _LAYERS:
        raise ImageInvalid(
            f"the image's layer {layer.digest} is no tar that is plain, gzip or zstd; build the image again"
        )
    return layer


@contextlib.contextmanager
def _layout(spool: Path) -> Generator[int]:
    try:
        with closing_fd(os.open(spool, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as top:
            yield top
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageInvalid("the image was not fetched whole") from error


def _manifest_of(top: int) -> ManifestSummary:
    """The manifest that `index.json` names, or the one for this platform in the list that it names."""
    index = json_object(_content(top, "index.json", "index"), "index", LONGEST)
    entries = _entries(index, "manifests", _MAX_PLATFORMS)
    if len(entries) != 1:
        raise ImageInvalid(f"the layout holds {len(entries)} images; give one with a single image")
    data = _checked_blob(top, _descriptor(entries[0], "manifests").digest, "manifest")
    if is_index(data):
        data = _checked_blob(top, choose(data), "manifest")
    return summary(data)


def _checked_blob(top: int, digest: str, what: str) -> bytes:
    data = _content(top, f"blobs/sha256/{digest.removeprefix('sha256:')}", what)
    if digest_of(data) != digest:
        raise ImageInvalid(f"the image's {what} is not what its digest says")
    return data


def _layer(top: int, blob: BlobDescriptor, diff_id: str, held: Collection[str]) -> LayerBlob:
    kind = _LAYERS[blob.media_type]
    if blob.digest not in held:
        with _opened(
            top, f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", f"layer {blob.digest}"
        ) as fd:
            if os.fstat(fd).st_size != blob.size:
                raise ImageInvalid(f"the image's layer {blob.digest} has another size than its manifest says")
            kind = _kind_of(os.pread(fd, 4, 0))
    return LayerBlob(digest=blob.digest, diff_id=diff_id, media_type=kind, size=blob.size)


def _kind_of(first: bytes) -> str:
    """By the first bytes: of archives, Docker labels every layer as gzip, also one that is a plain tar."""
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), _TAR)


def _content(top: int, path: str, what: str) -> bytes:
    with _opened(top, path, what) as fd:
        data = os.pread(fd, LONGEST + 1, 0)
    if len(data) > LONGEST:
        raise ImageInvalid(f"the image's {what} has more than {LONGEST} bytes, the limit")
    return data


@contextlib.contextmanager
def _opened(top: int, path: str, what: str) -> Generator[int]:
    """A descriptor of the regular file `path` below `top`; nothing waits for a fifo, no link is followed."""
    try:
        fd = openat2(top, path.encode(), os.O_RDONLY | os.O_NONBLOCK, links=False)
    except OSError as error:
        if error.errno not in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.ELOOP,
            errno.EXDEV,
            errno.ENXIO,
            errno.EACCES,
        ):
            raise
        raise ImageInvalid(f"the image's {what} is missing, or not a file") from error
    with closing_fd(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ImageInvalid(f"the image's {what} is missing, or not a file")
        yield fd
