"""Make the images of the tests' Kubernetes as archives that containerd imports: no registry is needed.

    python -m scripts.kubernetes.images FOLDER

An archive is the tar of an OCI image layout with one image. A pod names the image and has
`imagePullPolicy: Never`:

bay.test/pause:1   what holds a pod's namespaces
bay.test/box:1     busybox with all its applets, and an account for uid 1000
bay.test/ship:1    the same, and Ship's closure in /closure, from which an init container copies it
"""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bay.drivers.oci import closure

_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_OCI = "application/vnd.oci.image"
_ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/workspace:/bin/sh\n"
_GROUPS = "root:x:0:\nuser:x:1000:\n"


def main(folder: Path) -> None:
    """Write the archive of each image into `folder`. Needs busybox-static; raises OSError without it."""
    with tempfile.TemporaryDirectory() as made:
        box = Path(made) / "box"
        fill_box(box)
        ship = closure.build(Path(made) / "closures")
        shell = {"Cmd": ["/bin/sh"]}
        write(folder, "pause", [[(box, "")]], {"Cmd": ["/bin/sleep", "2147483647"]})
        write(folder, "box", [[(box, "")]], shell)
        write(folder, "ship", [[(box, "")], [(ship, "closure")]], shell)


def fill_box(root: Path) -> None:
    """Fill the new directory `root` with busybox and what programs expect of a system."""
    for name in ("bin", "etc", "home", "root", "tmp", "var/tmp", "workspace"):
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("the images of the tests need busybox; the package busybox-static has it")
    shutil.copy(busybox, root / "bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=30, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(_ACCOUNTS)
    (root / "etc/group").write_text(_GROUPS)


def write(
    folder: Path,
    name: str,
    layers: Sequence[Sequence[tuple[Path, str]]],
    config: dict[str, Any],
    is_needed: Callable[[str], bool] = lambda _: True,
) -> None:
    """Write `NAME.tar` with the image `bay.test/NAME:1`. A layer has trees and files, each with its path in
    the image, and of them what `is_needed`.
    """
    with (
        tarfile.open(folder / f"{name}.tar", "w") as archive,
        tempfile.TemporaryFile(dir=folder) as layer,
    ):
        added = [_add_layer(archive, layer, trees, is_needed) for trees in layers]
        whole = {
            "os": "linux",
            "architecture": _ARCHITECTURE,
            "config": {"Env": ["PATH=/bin"], **config},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in added]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _add_blob(archive, "config.v1+json", whole),
            "layers": added,
        }
        described = _add_blob(archive, "manifest.v1+json", manifest)
        described["annotations"] = {"io.containerd.image.name": f"bay.test/{name}:1"}
        _add_file(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        _add_file(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _add_layer(
    archive: tarfile.TarFile, layer: Any, trees: Sequence[tuple[Path, str]], is_needed: Callable[[str], bool]
) -> dict[str, Any]:
    def as_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0  # its time stays: compiled Python files have that of their sources
        member.uname = member.gname = ""
        return member if is_needed(member.name) else None

    layer.seek(0)
    layer.truncate()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for tree, below in trees:
            tar.add(tree, arcname=below or ".", filter=as_root)
    size = layer.tell()
    layer.seek(0)
    digest = hashlib.file_digest(layer, "sha256").hexdigest()
    layer.seek(0)
    member = tarfile.TarInfo(f"blobs/sha256/{digest}")
    member.size = size
    archive.addfile(member, layer)
    return {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}


def _add_blob(archive: tarfile.TarFile, kind: str, document: Any) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    _add_file(archive, f"blobs/sha256/{digest}", data)
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}


def _add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
