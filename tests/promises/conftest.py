"""One Bay with runc, a pool of btrfs, CRIU and networks for each file, in a world of its own."""

import json
import tarfile
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import shared_cache
from crash_case import can_run
from criu_program import CriuMissing, working_criu
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root
from lab import Lab, lab, short_directory
from serving import KEY
from world import World, world

from bay import Client
from bay.linux import nftables

PROFILES = {
    "python-default": {"memory_mb": 512},
    "build": {"persist": "machine", "cpus": 1, "memory_mb": 512, "pids": 64},
    "sleeps": {"memory_mb": 256, "hibernate": True},
}


@pytest.fixture(scope="session")
def cache() -> Path:
    """Ship's closure and the `host` image."""
    if not can_run() or not nftables.is_installed():
        pytest.skip("sandboxes need root, runc and libnftables")
    return shared_cache.filled()


@pytest.fixture(scope="module")
def earth(cache: Path) -> Generator[World]:
    """The networks around the host."""
    del cache
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def bay(earth: World, cache: Path) -> Generator[Lab]:
    """The server, a process of its own. Where there is no CRIU its sandboxes have no memory on disk."""
    settings = {
        "BAY_CARGO_BACKEND": "btrfs",
        "BAY_POOL_MAX_GB": "2",
        "BAY_PROFILES": json.dumps(PROFILES),
    }
    with ExitStack() as stack:
        with suppress(CriuMissing):
            settings["BAY_CRIU"] = stack.enter_context(working_criu())
        root = stack.enter_context(short_directory())
        yield stack.enter_context(lab(earth, root, cache, **settings))


@pytest.fixture
def client(bay: Lab) -> Generator[Client]:
    """Its user."""
    with Client(bay.server.url, KEY) as found:
        yield found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of an image of busybox, as `skopeo copy docker://… oci-archive:` writes it."""
    root = tmp_path / "root"
    root.mkdir()
    busybox_root(root)
    config = {"config": {"Env": ["PATH=/bin", "COLOR=blue"], "Cmd": ["/bin/sh"]}}
    layout = ImageFile(layers=(layer_of_tree(root),), config=config).write(tmp_path / "layout")
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(layout, arcname=".")
    return tmp_path / "image.tar"
