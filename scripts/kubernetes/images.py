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
from collections.abc import Sequence
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
        _fill_box(box)
        ship = closure.build(Path(made) / "closures")
        _write(folder, "pause", [(box, "")], command=["/bin/sleep", "2147483647"])
        _write(folder, "box", [(box, "")], command=["/bin/sh"])
        _write(folder, "ship", [(box, ""), (ship, "closure")], command=["/bin/sh"])


def _fill_box(root: Path) -> None:
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


def _write(folder: Path, name: str, trees: Sequence[tuple[Path, str]], command: Sequence[str]) -> None:
    """One layer for each tree, which stands below its path in the image."""
    with (
        tarfile.open(folder / f"{name}.tar", "w") as archive,
        tempfile.TemporaryFile(dir=folder) as layer,
    ):
        layers = [_add_layer(archive, layer, tree, below) for tree, below in trees]
        config = {
            "os": "linux",
            "architecture": _ARCHITECTURE,
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _add_blob(archive, "config.v1+json", config),
            "layers": layers,
        }
        described = _add_blob(archive, "manifest.v1+json", manifest)
        described["annotations"] = {"io.containerd.image.name": f"bay.test/{name}:1"}
        _add_file(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        _add_file(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _add_layer(archive: tarfile.TarFile, layer: Any, tree: Path, below: str) -> dict[str, Any]:
    layer.seek(0)
    layer.truncate()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(tree, arcname=below or ".", filter=_as_root)
    size = layer.tell()
    layer.seek(0)
    digest = hashlib.file_digest(layer, "sha256").hexdigest()
    layer.seek(0)
    member = tarfile.TarInfo(f"blobs/sha256/{digest}")
    member.size = size
    archive.addfile(member, layer)
    return {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


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
