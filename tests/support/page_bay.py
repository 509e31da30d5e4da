"""The Bay that the pages of the documentation share: on runc, with a registry, each page with a key of an
owner of its own.
"""

import json
import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import client_programs
import registry
import scripted_model
from image_bay import KEY
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root
from registry import Registry

import bay

_OWN_PROGRAMS = {"PATH": "/workspace/.local/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
_BROWSER = {
    "capabilities": ["python", "exec", "shell", "filesystem", "browser"], "cpus": 2, "memory_mb": 2048,
    "env": _OWN_PROGRAMS,
}  # fmt: skip
PROFILES = {
    "python-default": {"env": _OWN_PROGRAMS},  # and no pool: what waits in one would outlive this Bay
    "build": {"persist": "machine", "memory_mb": 256},
    "browser": _BROWSER,
    "sprite": {"user": "sprite", "home": "/home/sprite", "persist": "machine"},
    "e2b": {"user": "user", "home": "/home/user", "persist": "machine"},
}


@dataclass(frozen=True, slots=True)
class PageBay:
    """A Bay at `url`, and a registry that it knows."""

    url: str
    hub: Registry
    image: Path
    """A small image as an archive."""
    model: str
    """The base URL of a model that asks for one command, whose output has 42."""

    def environment(self, key: str) -> dict[str, str]:
        """That of a program that uses this Bay, and the model."""
        return {
            "BAY_URL": self.url, "BAY_API_KEY": key,
            "OPENAI_BASE_URL": self.model, "OPENAI_API_KEY": "none", "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "ANTHROPIC_BASE_URL": self.model.removesuffix("/v1"), "ANTHROPIC_API_KEY": "none",
        }  # fmt: skip

    @contextmanager
    def owner(self, page: str, images: tuple[str, ...]) -> Generator[str]:
        """The key of an owner of that page, with those images; its sandboxes are removed at the end."""
        name = page.removesuffix(".md").replace("/", "-")
        with bay.Client(self.url, KEY) as admin:
            key = admin.keys.create("page", owner=name, scope="admin").secret
        assert key is not None
        with bay.Client(self.url, key) as client:
            for ref in images:
                client.images.import_archive(self.image, ref)
            try:
                yield key
            finally:
                for template in list(client.templates.list()):
                    client.templates.update(template.id, pool_size=0)
                for box in list(client.sandboxes.list()):
                    box.delete()


@contextmanager
def serving() -> Generator[PageBay]:
    """Serve until the block is left."""
    with tempfile.TemporaryDirectory(prefix="bay-pages-", dir="/tmp") as root:
        image = _image(Path(root))
        (Path(root) / "hub").mkdir()
        with registry.registry(Path(root) / "hub") as hub:
            settings = {
                "BAY_PROFILES": json.dumps(PROFILES),
                "BAY_REGISTRIES": json.dumps({hub.host: {"insecure": True}}),
            }
            with (
                client_programs.client_host(**settings) as host,
                scripted_model.serving("echo $((6 * 7))") as (model, _),
            ):
                hub.push(image, "shop", "3")
                yield PageBay(host.url, hub, _archive(Path(root), image), model)


def _image(root: Path) -> ImageFile:
    busybox_root(root / "tree")
    config = {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Entrypoint": ["/bin/sleep", "1000"]}
    return ImageFile(layers=(layer_of_tree(root / "tree"),), config={"config": config})


def _archive(root: Path, image: ImageFile) -> Path:
    layout = image.write(root / "layout")
    with tarfile.open(root / "image.tar", "w") as tar:
        tar.add(layout, ".")
    return root / "image.tar"
