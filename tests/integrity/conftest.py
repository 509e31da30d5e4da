"""A real Bay with real containers, and one sandbox of it for each file of tests."""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from examples.own_server import OwnServer, own_server

import bay


@pytest.fixture(scope="module")
def server() -> Generator[OwnServer]:
    if os.geteuid() != 0 or shutil.which("runc") is None:
        pytest.skip("real containers need root and runc")
    with own_server("bay-integrity-") as running:
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
