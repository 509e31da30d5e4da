"""A real Bay with the `fake` driver, and the command line that talks to it."""

import os
from collections.abc import Iterator

import fault_proxy
import pytest
import real_bay
from cli_runner import Cli

from bay import Client


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with real_bay.running() as running:
        yield running


@pytest.fixture(scope="module")
def served(real: real_bay.RealBay) -> tuple[str, str]:
    """The URL and a key of an admin."""
    return real.where


@pytest.fixture
def proxy(real: real_bay.RealBay) -> Iterator[fault_proxy.Proxy]:
    with fault_proxy.before(real.url) as made:
        yield made


@pytest.fixture
def bay(real: real_bay.RealBay) -> Cli:
    return Cli(real.url)


@pytest.fixture
def name(bay: Cli) -> str:
    """A sandbox that exists."""
    with Client(bay.url, real_bay.KEY) as client:
        return client.sandboxes.create(name=f"box-{os.urandom(6).hex()}", wait=20).info.name or ""
