"""Places on the host for Bays with the real `oci` driver, and nothing left of them afterwards."""

import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
import shared_cache
from crash_case import WAIT_S, Place, can_run, until
from crash_checks import clean
from crash_host import strays
from criu_program import CriuMissing, working_criu

from bay.server import logs


@pytest.fixture(scope="session")
def cache() -> Path:
    """Ship's closure and the image, made once for all tests."""
    logs.configure("error", "json")
    if not can_run():
        pytest.skip("the oci driver needs root and runc")
    return shared_cache.filled()


@pytest.fixture(scope="session")
def criu() -> Generator[str | None]:
    """A CRIU that works here; None without one."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(working_criu())
        except CriuMissing:
            found = None
        yield found


@pytest.fixture
async def place(cache: Path) -> AsyncGenerator[Place]:
    """Where one Bay lives; short, because a socket's path may be 107 bytes at most."""
    root = Path(tempfile.mkdtemp(prefix="bay-f-", dir="/tmp"))
    root.chmod(0o711)
    place = Place(root, cache)
    try:
        yield place
    finally:
        await clean(place)
        assert await until(lambda: not strays(place, set()), WAIT_S), strays(place, set())
        shutil.rmtree(root)
