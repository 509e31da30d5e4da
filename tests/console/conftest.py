"""A Bay with runc for the browser: its address has the console, and its sandboxes run."""

import json
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import shared_cache
from crash_case import can_run
from restarts import Restarting, control_of, restarting
from serving import KEY, Server, serving

from bay import Client
from bay.cargo import backend_detection
from bay.drivers.oci import closure, host_image
from bay.server import logs

PROFILES = {"python-default": {"memory_mb": 512}}


@pytest.fixture(scope="session")
def cache() -> Path:
    """Ship's closure and the image, made once for all tests."""
    logs.configure("error", "json")
    if not can_run() or backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("the oci driver on a pool needs root, runc, loop devices and btrfs")
    return shared_cache.filled()


@pytest.fixture(scope="module")
def running(cache: Path) -> Generator[Restarting]:
    """A `bay serve` with runc, networks and a pool of storage; its sandboxes are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="bay-c-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = {
            "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "2",
            "BAY_CACHE_DIR": str(cache), "BAY_PROFILES": json.dumps(PROFILES), "BAY_MEMORY_RESERVE_MB": "0",
        }  # fmt: skip
        closure.build(cache / "closures")  # before the clock of the server's start runs
        host_image.build(cache / "images")
        try:
            with restarting(lambda port: serving(Path(name), **settings, BAY_PORT=str(port))) as bay:
                yield bay
                remove_all(bay.server)
                bay.stop()
        finally:
            if os.path.ismount(f"{name}/data/cargo"):  # it was killed
                subprocess.run(["umount", f"{name}/data/cargo"], check=True)


@pytest.fixture(scope="module")
def server(running: Restarting) -> Server:
    return running.server


@pytest.fixture(scope="module")
def control(running: Restarting) -> Generator[str]:
    """Where the steps in a browser have it stopped and started again."""
    with control_of(running) as url:
        yield url


def remove_all(server: Server) -> None:
    with Client(server.url, KEY) as client:
        for box in client.sandboxes.list():
            box.delete()
