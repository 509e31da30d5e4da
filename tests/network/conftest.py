"""A world and a Bay in it for each file of tests, and nothing of them left on the host afterwards."""

from collections.abc import Generator
from pathlib import Path

import pytest
import shared_cache
from crash_case import can_run
from criu_program import criu_program
from examples import host_view
from lab import Lab, lab, short_directory
from world import LAN, LAN6, World, world

from bay.linux import nftables

# A fixture is found by its name here.
__all__ = ["criu_program"]


@pytest.fixture(scope="session")
def cache() -> Generator[Path]:
    """Ship's closure and the image, made once for all tests."""
    if not can_run() or not nftables.is_installed():
        pytest.skip("sandboxes with a network need root, runc and libnftables")
    # Made here and not by a Bay, which is expected to be up within seconds.
    path = shared_cache.filled()
    yield path
    assert host_view.mounts_below(path) == []


@pytest.fixture(scope="module")
def earth(cache: Path) -> Generator[World]:
    """The networks around the host; what Bays made of the host's own is gone at the end."""
    del cache
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def root() -> Generator[Path]:
    """Where a Bay lives."""
    with short_directory() as path:
        yield path


@pytest.fixture
def other_root() -> Generator[Path]:
    """Where another one does, for a test."""
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path) -> Generator[Lab]:
    """A Bay whose sandboxes reach IPv4 and IPv6."""
    with lab(earth, root, cache, BAY_NETWORK_PRIVATE=f'["{LAN}","{LAN6}"]') as made:
        yield made
        assert made.server.end() == 0
