"""A Bay with runc for the browser: its address has the console, and its sandboxes run."""

from collections.abc import Generator
from pathlib import Path

import pytest
import shared_cache
from console_bay import host_with_runc, remove_all
from crash_case import can_run
from restarts import Restarting, control_of, restarting
from serving import Server

from bay.cargo import backend_detection
from bay.server import logs


@pytest.fixture(scope="session")
def cache() -> Path:
    """Ship's closure and the image, made once for all tests."""
    logs.configure("error", "json")
    if not can_run() or backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("the oci driver on a pool needs root, runc, loop devices and btrfs")
    return shared_cache.filled()


@pytest.fixture(scope="module")
def running(cache: Path) -> Generator[Restarting]:
    """A Bay that can be started again; its sandboxes are gone at the end."""
    with host_with_runc(cache) as serve, restarting(serve) as bay:
        yield bay
        remove_all(bay.server)
        bay.stop()


@pytest.fixture(scope="module")
def server(running: Restarting) -> Server:
    return running.server


@pytest.fixture(scope="module")
def control(running: Restarting) -> Generator[str]:
    """Where the steps in a browser have it stopped and started again."""
    with control_of(running) as url:
        yield url
