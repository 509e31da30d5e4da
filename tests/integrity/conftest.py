"""A real Bay with real containers, and one sandbox of it for each file of tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from counting import ROOMY
from examples.own_server import OwnServer, own_server

import bay

CONFIG = f"[profiles.python-default]\n[profiles.{ROOMY}]\noutput_buffer_mb = 16\n"


@pytest.fixture(scope="session", autouse=True)
def load() -> Generator[None]:
    """A processor's worth of other work, with `BAY_INTEGRITY_LOAD` for each one it counts."""
    burners = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"])
        for _ in range(int(os.environ.get("BAY_INTEGRITY_LOAD", "0")))
    ]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()


@pytest.fixture(scope="module")
def server() -> Generator[OwnServer]:
    if os.geteuid() != 0 or shutil.which("runc") is None:
        pytest.skip("real containers need root and runc")
    with own_server("bay-integrity-", CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: OwnServer) -> Generator[bay.Client]:
    with server.client() as made:
        yield made


@pytest.fixture(scope="module")
def box(client: bay.Client) -> Generator[bay.Box]:
    with client.sandbox() as made:
        yield made


@pytest.fixture
def place() -> Generator[Path]:
    """A directory on this side that may hold a gigabyte."""
    with tempfile.TemporaryDirectory(prefix="bay-integrity-", dir="/var/tmp") as path:
        yield Path(path)
