"""`bay serve` with runc on a pool, and the command line that talks to it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from serving import KEY, Server, serving

import bay
from bay.drivers.oci import closure, host_image

BIN = Path(sys.executable).with_name("bay")
PROFILES = {
    "python-default": {
        "cpus": 0.5,
        "memory_mb": 256,
        "pids": 128,
        "disk_mb": 64,
        "idle_timeout": None,
        "max_cpus": 2,
        "max_memory_mb": 1024,
        "max_pids": 512,
        "max_disk_mb": 256,
    }
}


class Shell:
    """Runs `bay` against a server."""

    def __init__(self, url: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
        self._environment = clean | {"BAY_URL": url, "BAY_API_KEY": KEY}

    def __call__(self, *arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(BIN), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self._environment,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def server(cache: Path) -> Generator[Server]:
    """A `bay serve` with runc and a pool, whose sandboxes are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="bay-z-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = {
            "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "1", "BAY_NETWORK": "off",
            "BAY_CACHE_DIR": str(cache), "BAY_PROFILES": json.dumps(PROFILES),
        }  # fmt: skip
        closure.build(cache / "closures")  # before the clock of the server's start runs
        host_image.build(cache / "images")
        try:
            with serving(Path(name), **settings) as served:
                yield served
                Shell(served.url)("rm", "--all", code=None)
                served.end()
        finally:
            if os.path.ismount(f"{name}/data/cargo"):  # it was killed
                subprocess.run(["umount", f"{name}/data/cargo"], check=True)


@pytest.fixture(scope="module")
def shell(server: Server) -> Shell:
    return Shell(server.url)


@pytest.fixture(scope="module")
def client(server: Server) -> Generator[bay.Client]:
    with bay.Client(server.url, KEY) as made:
        yield made
