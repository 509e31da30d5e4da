"""A Bay with real runc on a real pool for each file of tests, and nothing of it left on the
host afterwards.
"""

import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import shared_cache
from crash_case import WAIT_S, Place, can_run, until
from crash_checks import clean
from crash_host import remains
from pool_server import client, server, shell
from storage_bay import Pooled, pooled

from bay.cargo import backend_detection
from bay.server import logs

__all__ = ["client", "server", "shell"]  # fixtures are found by their names here


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Of the whole session, because a Bay is used by all tests of a file."""
    return "asyncio"


@pytest.fixture(scope="session")
def cache() -> Path:
    """Ship's closure and the image, made once for all tests."""
    logs.configure("error", "json")
    if not can_run() or backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("the oci driver on a pool needs root, runc, loop devices and btrfs")
    return shared_cache.filled()


@pytest.fixture(scope="module")
async def place(cache: Path) -> AsyncGenerator[Place]:
    """Where one Bay lives; short, because a socket's path may be 107 bytes at most."""
    root = Path(tempfile.mkdtemp(prefix="bay-s-", dir="/tmp"))
    root.chmod(0o711)
    place = Place(root, cache)
    try:
        yield place
        left = remains(place)
    finally:
        await clean(place)
        shutil.rmtree(root)
    assert left == []


@pytest.fixture(scope="module")
async def bay(place: Place) -> AsyncGenerator[Pooled]:
    """A Bay whose sandboxes are all gone again at the end, with everything that they kept."""
    async with pooled(place) as made:
        yield made
        await made.delete_all()
        assert await until(lambda: not made.leftovers(), WAIT_S), made.leftovers()
