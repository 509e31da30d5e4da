"""Roots of images to test with, as directories of layers with inside ids: a real Debian, one of busybox with
musl, one that has a single static program, and one that has nothing.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bay.drivers.base import ImageRoot, ImageUser
from bay.images.config import ImageConfig
from bay.images.tops import ImageFacts, make_top

DEBIAN = Path(__file__).parents[1] / "images" / "debian.tar"
MUSL = Path(f"/lib/ld-musl-{os.uname().machine}.so.1")
_APPLETS = (
    *("[", "ash", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "dirname"),
    *("du", "echo", "env", "expr", "false", "find", "grep", "groups", "head", "hostname", "id", "kill", "ln"),
    *("ls", "mkdir", "mkfifo", "mknod", "mv", "ps", "pwd", "readlink", "realpath", "rm", "rmdir"),
    *("sed", "seq", "sh", "sleep", "sort", "stat", "su", "tail", "tar", "tee", "test", "timeout", "touch"),
    *("tr", "true", "uname", "wc", "which", "whoami", "xargs", "yes"),
)


@dataclass(frozen=True, slots=True)
class TestImage:
    """An image that lies on this host: its layers, topmost first and with the top layer, and its facts."""

    __test__ = False

    layers: tuple[Path, ...]
    facts: ImageFacts

    def root(self, user: ImageUser | None = None) -> ImageRoot:
        """The root of a session of `user`; of uid 1000 unless given."""
        return self.facts.root(self.layers, user or self.facts.ship)


@pytest.fixture(scope="session")
def image_store() -> Generator[Path]:
    """Where images lie, closed to this host's users as files in them have inside ids."""
    directory = Path(tempfile.mkdtemp(prefix="bay-images-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def debian_image(image_store: Path) -> TestImage:
    """Debian with apt and Python, as mmdebstrap makes it."""
    if os.getuid() != 0 or not DEBIAN.is_file():
        pytest.skip("needs root, and the Debian that `make .stamp-images` puts in tests/images")
    layer = image_store / "debian"
    layer.mkdir()
    command = [
        "tar",
        "-xf",
        DEBIAN,
        "-C",
        layer,
        "--numeric-owner",
        "--same-permissions",
        "--exclude=./dev/*",
    ]
    subprocess.run(command, check=True)
    return image(image_store, "debian", layer)


@pytest.fixture(scope="session")
def musl_image(image_store: Path) -> TestImage:
    """As small as Alpine: busybox, and musl's loader."""
    layer = image_store / "musl"
    busybox_root(layer)
    if not MUSL.exists():
        pytest.skip("needs musl")
    (layer / "lib").mkdir()
    shutil.copy(MUSL, layer / "lib" / MUSL.name)
    (layer / "lib" / MUSL.name).chmod(0o755)
    return image(image_store, "musl", layer)


@pytest.fixture(scope="session")
def static_image(image_store: Path) -> TestImage:
    """One static program, as in a distroless image."""
    layer = image_store / "static"
    layer.mkdir()
    shutil.copy(_busybox(), layer / "echo")
    return image(image_store, "static", layer)


@pytest.fixture(scope="session")
def empty_image(image_store: Path) -> TestImage:
    """No layer at all."""
    return image(image_store, "empty")


def image(
    store: Path, name: str, *layers: Path, user: str = "", working_dir: str = "", **env: str
) -> TestImage:
    """The image of `layers`, topmost first, whose config says the rest."""
    config = ImageConfig(os="linux", architecture="amd64", user=user, working_dir=working_dir, env=env)
    facts = make_top(store / "tops", name, layers, config)
    return TestImage((store / "tops" / name, *layers), facts)


def busybox_root(layer: Path) -> None:
    """Make `layer` a root with busybox and a few accounts."""
    for name in ("bin", "etc", "home", "root", "usr/bin", "var/lib", "var/tmp"):
        (layer / name).mkdir(parents=True)
    for name in ("", "bin", "etc", "home", "usr", "usr/bin", "var", "var/lib"):
        (layer / name).chmod(0o755)
    shutil.copy(_busybox(), layer / "bin/busybox")
    (layer / "bin/busybox").chmod(0o755)
    for applet in _APPLETS:
        (layer / "bin" / applet).symlink_to("busybox")
    (layer / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    (layer / "etc/group").write_text("root:x:0:root\nnobody:x:65534:\n")
    (layer / "etc/os-release").write_text('PRETTY_NAME="Small"\n')


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None or os.getuid() != 0:
        pytest.skip("needs root, and busybox-static")
    return Path(found)
