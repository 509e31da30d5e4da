"""Makes images for tests: layers, configs, manifests and OCI layouts, right or wrong in one place."""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
MANIFEST, INDEX = f"{OCI}.manifest.v1+json", f"{OCI}.index.v1+json"
DOCKER_MANIFEST = f"{DOCKER}.distribution.manifest.v2+json"
DOCKER_LIST = f"{DOCKER}.distribution.manifest.list.v2+json"
CONFIG, DOCKER_CONFIG = f"{OCI}.config.v1+json", f"{DOCKER}.container.image.v1+json"
GZIP, TAR, ZSTD = (f"{OCI}.layer.v1.tar{end}" for end in ("+gzip", "", "+zstd"))
DOCKER_GZIP = f"{DOCKER}.image.rootfs.diff.tar.gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OTHER = "arm64" if ARCHITECTURE == "amd64" else "amd64"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A plain tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@dataclass(frozen=True)
class Layer:
    """A layer as it is pushed, and the digest of its tar."""

    blob: bytes
    diff_id: str
    media_type: str = GZIP

    @property
    def digest(self) -> str:
        return digest_of(self.blob)


def layer_of(files: Mapping[str, bytes]) -> Layer:
    tar = tar_of(files)
    return Layer(gzip.compress(tar, mtime=0), digest_of(tar))


def layer_of_tree(root: Path) -> Layer:
    """The files below a directory as a layer, with the ids that they have."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(root, arcname=".")
    return Layer(gzip.compress(out.getvalue(), mtime=0), digest_of(out.getvalue()))


@dataclass
class ImageFile:
    """An image of `layers`; `config` and `manifest` replace what they name, at the top of each document."""

    layers: Sequence[Layer] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    manifest: Mapping[str, Any] = field(default_factory=dict[str, Any])
    docker: bool = False

    @property
    def config_bytes(self) -> bytes:
        layers = [layer.diff_id for layer in self.layers]
        whole = {
            "os": "linux",
            "architecture": ARCHITECTURE,
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": layers},
        }
        return as_json({**whole, **self.config})

    @property
    def manifest_bytes(self) -> bytes:
        return as_json({**self._manifest(), **self.manifest})

    def _manifest(self) -> dict[str, Any]:
        config = descriptor(self.config_bytes, DOCKER_CONFIG if self.docker else CONFIG)
        layers = [descriptor(one.blob, DOCKER_GZIP if self.docker else one.media_type) for one in self.layers]
        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": config,
            "layers": layers,
        }

    @property
    def media_type(self) -> str:
        return DOCKER_MANIFEST if self.docker else MANIFEST

    @property
    def digest(self) -> str:
        return digest_of(self.manifest_bytes)

    def blobs(self) -> dict[str, bytes]:
        """The blobs that a registry or a layout must have beside the manifest, by digest."""
        return {digest_of(data): data for data in (self.config_bytes, *(one.blob for one in self.layers))}

    def write(self, layout: Path) -> Path:
        """Write it as an OCI layout, its manifest the only one."""
        entry = descriptor(self.manifest_bytes, self.media_type)
        write_layout(layout, [entry], {**self.blobs(), self.digest: self.manifest_bytes})
        return layout


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def index_of(entries: Sequence[tuple[bytes, str]], media_type: str = INDEX) -> bytes:
    """A list of manifests for platforms such as linux/amd64."""
    kind = DOCKER_MANIFEST if media_type == DOCKER_LIST else MANIFEST
    manifests = [descriptor(data, kind, platform=_platform(name)) for data, name in entries]
    return as_json({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})


def _platform(name: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), name.split("/"), strict=False))


def write_layout(layout: Path, manifests: Sequence[Mapping[str, Any]], blobs: Mapping[str, bytes]) -> None:
    directory = layout / "blobs" / "sha256"
    directory.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": manifests}))
    for digest, data in blobs.items():
        (directory / digest.removeprefix("sha256:")).write_bytes(data)
