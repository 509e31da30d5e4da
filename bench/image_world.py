"""Images to measure with, the registry that has them, a Bay that pulls from it, and the store of other tools.

The registry is Debian's docker-registry on the loopback, and images reach it by skopeo.
"""

import gzip
import hashlib
import io
import json
import platform
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.own_server import OwnServer, own_server

from bay.client import Client
from bench.base import delete_all, wait_until
from bench.layers import make_layer

SCRATCH = "bay-bench-images-"
_MEDIA = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PROFILES = """
[profiles.python-default]
[profiles.machine]
persist = "machine"
"""
_TOOLS = "skopeo", "docker-registry", "busybox"
_PARALLEL = 2


class Missing(Exception):
    """A program that a benchmark needs is not on this machine; the message names it."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as a registry has it, in a file."""

    path: Path
    diff_id: str
    files: int

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": f"{_MEDIA}.layer.v1.tar+gzip", **_named(self.path)}


@dataclass(frozen=True, slots=True)
class ImageWorld:
    """A Bay, its client, and the registry at `hub`."""

    folder: Path
    hub: str
    server: OwnServer
    client: Client

    def push(self, name: str, layers: Sequence[LayerBlob]) -> str:
        """Put an image into the registry; gives its reference. The layers' files are gone afterwards."""
        reference = f"{self.hub}/{name}:1"
        layout = self.folder / f"layout-{name}"
        _write_layout(layout, layers)
        run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
            f"oci:{layout}", f"docker://{reference}")  # fmt: skip
        shutil.rmtree(layout)
        return reference

    def forget(self, reference: str) -> None:
        """Remove an image from Bay; its files are gone when this returns."""
        self.client.images.delete(reference)


@contextmanager
def image_world() -> Generator[ImageWorld]:
    """Everything is new, and gone afterwards. Raises Missing."""
    need(*_TOOLS)
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as folder, _registry(Path(folder)) as hub:
        config = f'{_PROFILES}[registries."{hub}"]\ninsecure = true\n'
        with own_server("bay-bench-", config) as server, server.client() as client:
            try:
                yield ImageWorld(Path(folder), hub, server, client)
            finally:
                delete_all(client)


def need(*programs: str) -> None:
    """Raises Missing."""
    if lacking := [name for name in programs if shutil.which(name) is None]:
        raise Missing(f"not installed: {', '.join(lacking)}")


def run(*command: str | Path, timeout_s: float = 3600) -> str:
    """What a program that ends well says. Raises CalledProcessError."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=True
    ).stdout


def box_layer(folder: Path) -> LayerBlob:
    """A root of busybox, with its shell and tools, as the lowest layer."""
    busybox = shutil.which("busybox") or ""
    applets = run(busybox, "--list").split()
    files = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "etc/group": b"root:x:0:\nnobody:x:65534:\n",
        "opt/about": b"busybox, to measure with\n",
        "bin/busybox": Path(busybox).read_bytes(),
    }
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    return _small(folder, "box", files, links)


def thin_layers(folder: Path, count: int) -> list[LayerBlob]:
    """Layers with one small file each."""
    return [_small(folder, f"thin-{n}", {f"opt/file-{n}": b"x" * 1000}, {}) for n in range(count)]


def large_layers(folder: Path, size: int, count: int) -> list[LayerBlob]:
    """Layers with `size` bytes of files together; making them takes longer than any pull."""

    def make(number: int) -> LayerBlob:
        path = folder / f"large-{number}"
        return LayerBlob(path, *make_layer(path, "gzip", size // count, f"opt/part-{number}"))

    with ThreadPoolExecutor(_PARALLEL) as threads:
        return list(threads.map(make, range(count)))


@dataclass(frozen=True, slots=True)
class ContainersStorage:
    """A store of containers/storage of its own, as skopeo, buildah and podman share one."""

    root: Path

    @property
    def options(self) -> list[str]:
        """Of buildah and podman."""
        return [
            "--root",
            str(self.root / "root"),
            "--runroot",
            str(self.root / "run"),
            "--storage-driver",
            "overlay",
        ]

    def target(self, name: str) -> str:
        """For skopeo: an image in it."""
        return f"containers-storage:[overlay@{self.root}/root+{self.root}/run]localhost/{name}"


@contextmanager
def containers_storage(folder: Path) -> Generator[ContainersStorage]:
    """It mounts a directory of itself on itself; both are gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="storage-", dir=folder))
    try:
        yield ContainersStorage(root)
    finally:
        subprocess.run(["umount", "--quiet", root / "root/overlay"], check=False, timeout=60)
        run("rm", "-rf", "--one-file-system", root)


def _small(folder: Path, name: str, files: dict[str, bytes], links: dict[str, str]) -> LayerBlob:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    blob = folder / name
    blob.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return LayerBlob(blob, f"sha256:{hashlib.sha256(plain.getvalue()).hexdigest()}", len(files) + len(links))


def _write_layout(layout: Path, layers: Sequence[LayerBlob]) -> None:
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    config = {
        "os": "linux", "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        # Without a history, as all real images have one, buildah finds nothing in its cache.
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
    }  # fmt: skip
    named = [layer.descriptor() for layer in layers]
    manifest = {
        "schemaVersion": 2, "mediaType": f"{_MEDIA}.manifest.v1+json", "layers": named,
        "config": {"mediaType": f"{_MEDIA}.config.v1+json", **_written(blobs, config)},
    }  # fmt: skip
    entry = {"mediaType": f"{_MEDIA}.manifest.v1+json", **_written(blobs, manifest)}
    for layer, known in zip(layers, named, strict=True):
        layer.path.rename(blobs / str(known["digest"]).partition(":")[2])
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _written(blobs: Path, document: object) -> dict[str, object]:
    path = blobs / "new"
    path.write_text(json.dumps(document))
    named = _named(path)
    path.rename(blobs / str(named["digest"]).partition(":")[2])
    return named


def _named(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"digest": f"sha256:{digest}", "size": path.stat().st_size}


@contextmanager
def _registry(folder: Path) -> Generator[str]:
    port = _free_port()
    config = folder / "registry.yml"
    config.write_text(json.dumps({  # JSON is YAML
        "version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "x"},
    }))  # fmt: skip
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port), "the registry is up", 30)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
