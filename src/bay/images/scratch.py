"""The image without a file that `FROM scratch` names, which no registry has."""

import hashlib
import json

from bay.images.oci_layout import architecture
from tree_tar.headers import END, FILE, header, padding

REF = "scratch"
"""Its reference. One that a caller gives always has a registry in its full form."""


def archive() -> bytes:
    """It in the form of `docker save`: one layer, which is empty."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(END).hexdigest()}"]}
    config = {"os": "linux", "architecture": architecture(), "config": {}, "rootfs": rootfs}
    files = {
        "layer.tar": END,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
        ).encode(),
    }
    members = [
        header(name, FILE, mode=0o644, size=len(data)) + data + padding(len(data))
        for name, data in files.items()
    ]
    return b"".join(members) + END
